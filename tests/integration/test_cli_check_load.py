from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from checkpoints import dump, dump_safetensors, optimizer, save, weights
from ckptd.cli.main import main
from ckptd.core.model import Fingerprint
from ckptd.shell.load_process import LoadProcess


@pytest.fixture(scope="module")
def process():
    """One worker that has imported Paddle."""
    running = LoadProcess(sys.executable)
    yield running
    running.stop()


@pytest.fixture
def load(process):
    """Load a file that is as it was scanned, or said to be otherwise."""

    def run(path, *, safetensors=False, **otherwise):
        facts = path.stat()
        seen = Fingerprint(path.name, facts.st_size, facts.st_mtime_ns, facts.st_ino)._replace(**otherwise)
        return process.load(str(path.parent), seen, safetensors=safetensors)

    return run


def test_load_gives_names_shapes_and_types(tmp_path, load):
    """What Paddle read of a pickle and of safetensors is told, nested keys too."""
    dump(tmp_path / "a.pdz", {"net": weights(), "list": [np.zeros((0, 2), "int64")]})
    dump_safetensors(tmp_path / "b", {"w": np.ones((2, 3), "float32")})
    found = load(tmp_path / "a.pdz")
    assert "loaded" == found.outcome
    assert {(("net", "head.bias"), (2,), "float32"), (("list", 0), (0, 2), "int64")} < set(found.tensors)
    assert ((("w",), (2, 3), "float32"),) == load(tmp_path / "b", safetensors=True).tensors


def test_load_of_what_paddle_refuses_gives_its_message(tmp_path, load):
    """A file that is no checkpoint is refused in Paddle's own words, without the worker's path."""
    (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04" + bytes(600))
    found = load(tmp_path / "a.ckpt")
    assert "refused" == found.outcome
    assert "can not parse the file" in found.detail
    assert "/proc/" not in found.detail


@pytest.mark.parametrize("otherwise", [{"bytes": 1}, {"mtime_ns": 1}, {"inode": 1}])
def test_load_of_another_file_than_was_scanned_is_not_done(otherwise, tmp_path, load):
    """Only the very file that the scan has passed is loaded."""
    dump(tmp_path / "a.pdz", weights())
    assert "changed" == load(tmp_path / "a.pdz", **otherwise).outcome


def test_load_of_a_link_is_not_done(tmp_path, load):
    """A link that took a file's place is not followed."""
    dump(tmp_path / "a.pdz", weights())
    (tmp_path / "b.pdz").symlink_to("a.pdz")
    assert "changed" == load(tmp_path / "b.pdz").outcome


def test_load_is_confined(tmp_path, load):
    """Even if a hostile file were loaded, it could start no program."""
    canary = tmp_path / "canary"
    command = f"touch {canary}".encode()
    (tmp_path / "a.pdz").write_bytes(
        b"\x80\x04cos\nsystem\n\x8c" + bytes([len(command)]) + command + b"\x85R."
    )
    load(tmp_path / "a.pdz")
    assert not canary.exists()


def test_load_that_wants_too_much_memory_is_unfinished(tmp_path, load):
    """What ends a load is not taken for Paddle's answer, and the worker goes on with the next file."""
    (tmp_path / "a.pdz").write_bytes(
        b"\x80\x04cnumpy\nzeros\n\x8a\x05" + (1 << 33).to_bytes(5, "little") + b"\x85R."
    )
    dump(tmp_path / "b.pdz", weights())
    assert load(tmp_path / "a.pdz").outcome in {"unfinished", "refused"}
    assert "loaded" == load(tmp_path / "b.pdz").outcome


def test_check_with_load_says_what_paddle_refuses(tmp_path, capsys):
    """Sound files keep their verdict, broken ones are not loaded at all."""
    save(tmp_path, "step_1", step=1)
    save(tmp_path, "step_2", step=2)
    dump_safetensors(tmp_path / "x.safetensors.pdz", {"w": np.arange(6, dtype="float32")})
    opt = tmp_path / "step_2.pdopt"
    opt.write_bytes(opt.read_bytes()[:-9])
    assert 1 == main(["check", "--load", "--json", str(tmp_path)])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {one["set"]: (one["verdict"], [each["code"] for each in one["findings"]]) for one in told}
    assert ("valid", "corrupt", "valid") == tuple(found[name][0] for name in sorted(found))
    assert not any(code.startswith("load_") for _, codes in found.values() for code in codes)


def pretender(path, *lines):
    """An interpreter that answers as the worker might, whatever it is asked."""
    said = "".join(f"echo '{line}'\nread request\n" for line in ('{"paddle": "0"}', *lines))
    path.write_text(f"#!/bin/sh\n{said}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "verdict", "code"),
    [
        ('{"refused": "ValueError: no"}', "corrupt", "load_failed"),
        ('{"unfinished": "it did not finish"}', "unreadable", "load_unfinished"),
        ('{"changed": "written to"}', "unreadable", "changed_while_reading"),
        ('{"tensors": [[["w"], [3], "float32"]]}', "unreadable", "load_differs"),
        ('{"tensors": [[["w"], [2], "float32"]]}', "valid", None),
        ('{"tensors": null}', "valid", None),
    ],
)
def test_check_with_load_judges_by_the_answer(answer, verdict, code, tmp_path, capsys):
    """Each way in which a load can end has its finding, with the worker's words, and its verdict."""
    dump(tmp_path / "tree.pdz", {"w": np.arange(2, dtype="float32")})
    python = pretender(tmp_path / "python", answer)
    assert (verdict != "valid") == main(
        ["check", "--load", "--python", python, "--json", str(tmp_path / "tree.pdz")]
    )
    told = json.loads(capsys.readouterr().out)
    assert (verdict, [code] if code else []) == (told["verdict"], [one["code"] for one in told["findings"]])


def test_check_with_load_ends_when_the_worker_dies(tmp_path, capsys):
    """A worker that is gone gives no answers; that is told, and nothing is called valid for it."""
    dump(tmp_path / "tree.pdz", weights())
    python = pretender(tmp_path / "python")
    assert 3 == main(["check", "--load", "--python", python, str(tmp_path / "tree.pdz")])
    out, err = capsys.readouterr()
    assert ("", True) == (out, "the process that loads with Paddle is gone, at tree.pdz" in err)


def test_check_with_load_without_paddle_is_refused(tmp_path, capsys):
    """A Python that has no Paddle, or is none, is told before anything is read."""
    dump(tmp_path / "a.pdopt", optimizer())
    assert 2 == main(["check", "--load", "--python", "/bin/false", str(tmp_path)])
    assert "refusing to load anything: /bin/false" in capsys.readouterr().err
    assert 2 == main(["check", "--load", "--python", str(tmp_path / "none"), str(tmp_path)])
    assert "none: No such file or directory; name the Python that has Paddle" in capsys.readouterr().err
