"""Ways to make release jobs, and models that were proven without Paddle."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import xxhash

from ckptd.core.model import Metric, MetricRule, Order
from ckptd.core.releases import Proof, Source
from ckptd.core.settings import InputSpec, ReleaseSettings
from ckptd.shell.deploy_directory import STAGING, digested
from ckptd.shell.durable import held
from ckptd.shell.exporting import ReleaseJob
from ckptd.shell.publishing import MODEL, Exported, make_ready
from ckptd.shell.releaser import Finished, Releaser

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
SPECS = (
    InputSpec(shape=(-1, 4), dtype="float32", name="features"),
    InputSpec(shape=(-1,), dtype="int64", name="kinds"),
)


def job(deploy_dir, root, value, *, name="plain.pdparams", digest=None, **settings):
    """A job for the weights of this name in the root, with the accuracy `value`."""
    if digest is None:
        digest = xxhash.xxh3_128((Path(root) / name).read_bytes()).hexdigest()
    facts = {
        "deploy_dir": str(deploy_dir),
        "exporter": "factory",
        "entrypoint": "network_for_release:build",
        "input_spec": SPECS,
        "python": "",
        "pythonpath": (str(Path(__file__).parent),),
        "params_key": "",
        "timeout": timedelta(seconds=50),
        "rtol": 1e-4,
        "atol": 1e-5,
        "keep": 3,
    }
    return ReleaseJob(
        source=Source(
            "runs", ".", name.partition(".")[0], 10, 1, Metric("acc", value, Order.MAX), ((name, digest),)
        ),
        root_path=str(root),
        params_path=name,
        rule=MetricRule("acc", Order.MAX),
        settings=ReleaseSettings(**facts | settings),
    )


def staged(job, version, content=b"weights"):
    """Leave in `.staging` what a worker would have left there, and describe it."""
    with held(make_ready(job.deploy_dir)):
        model = Path(job.deploy_dir, STAGING, version, MODEL)
        model.mkdir(parents=True)
        (model / "inference.json").write_bytes(b"{}")
        (model / "inference.pdiparams").write_bytes(content)
    return proven(job, version)


def proven(job, version):
    """The model that is in `.staging`, as if it had just been proven."""
    with held(os.open(Path(job.deploy_dir, STAGING, version, MODEL), os.O_RDONLY)) as model_fd:
        files = tuple(digested(model_fd, name) for name in sorted(os.listdir(model_fd)))
    return Exported(version, job.source, job.export_key, files, Proof("3.3.1", 0.0, ()))


def publish(job, version, exported=None, *, content=b"weights"):
    """Publish a proven model for the job through a releaser that was just started."""
    exported = exported or staged(job, version, content)
    return Releaser(lambda: None).publish(Finished(job, exported), NOW)


def better_job(deploy_dir):
    """The job whose publication is interrupted: better than what is live, and one release too many."""
    return job(deploy_dir, ".", 0.9, digest="f" * 32, keep=2)
