"""What each suite names its checkpoint files: one row per naming, and nothing but rows.

A template is a file stem or a directory name: `{epoch}` and `{step}` stand for digits, `{any}` for any text,
which then names a family of sets of its own.
Sources: PaddleOCR `ppocr/utils/save_load.py`, PaddleClas `ppcls/utils/save_load.py`, PaddleDetection
`ppdet/utils/checkpoint.py`, PaddleSeg `paddleseg/core/train.py`, PaddleNLP `paddlenlp/trainer/trainer.py`,
Paddle `python/paddle/hapi/{model,callbacks}.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.core.model import Role, SetShape


@dataclass(frozen=True, slots=True)
class LayoutRow:
    """How one kind of set of one suite is named.

    `evidence` are globs of members that speak for this suite; without one of them the row is never chosen by
    itself. `also_required` and `never_written` change the roles that the configuration requires.
    """

    layout: str
    shape: SetShape
    names: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    also_required: frozenset[Role] = frozenset()
    never_written: frozenset[Role] = frozenset()
    is_alias: bool = False
    trainer_prunes: bool = False


_STEM = SetShape.STEM
_DIRECTORY = SetShape.DIRECTORY
_META = frozenset({Role.META})
_OPT = frozenset({Role.OPT})

LAYOUT_ROWS: tuple[LayoutRow, ...] = (
    # PaddleOCR writes `.states` last, in every set.
    LayoutRow("paddleocr", _STEM, ("iter_epoch_{epoch}",), ("*.states",), _META),
    LayoutRow("paddleocr", _STEM, ("latest", "best_accuracy"), ("*.states",), _META, is_alias=True),
    LayoutRow("paddleocr", _DIRECTORY, ("best_model",), (), frozenset(), _META, is_alias=True),
    # PaddleClas counts epochs from 1; `.pdstates` is written last, in every set.
    LayoutRow("paddleclas", _STEM, ("epoch_{epoch}",), ("*.pdstates",), _META),
    LayoutRow("paddleclas", _STEM, ("latest", "best_model"), (), _META, is_alias=True),
    LayoutRow("paddleclas", _DIRECTORY, ("best_model",), (), frozenset(), _META | _OPT, is_alias=True),
    # PaddleDetection counts from 0; `.pdstates` follows after the evaluation, if there is one.
    LayoutRow("paddledetection", _STEM, ("{epoch}",), ("*.pdstates", "*.pdema")),
    LayoutRow("paddledetection", _STEM, ("best_model", "model_final"), (), is_alias=True),
    LayoutRow("paddledetection", _DIRECTORY, ("best_model",), (), frozenset(), _META | _OPT, is_alias=True),
    # PaddleSeg prunes between `.pdopt` and `.pdstates` and dies when a directory it tracks is gone.
    LayoutRow(
        "paddleseg", _DIRECTORY, ("iter_{step}",), ("model.pdparams", "model.pdstates"), trainer_prunes=True
    ),
    LayoutRow(
        "paddleseg", _DIRECTORY, ("best_model", "ema_best_model"), (), never_written=_OPT, is_alias=True
    ),
    # PaddleNLP rotates `checkpoint-*` by mtime and fails when the best one is gone.
    LayoutRow(
        "paddlenlp", _DIRECTORY, ("checkpoint-{step}",), ("trainer_state.json",), _META, trainer_prunes=True
    ),
    # paddle.Model.fit: no progress file at all, `final` repeats the last epoch.
    LayoutRow("hapi", _STEM, ("{epoch}",), ("*.pdparams",), never_written=_META),
    LayoutRow("hapi", _STEM, ("final", "best_model"), (), never_written=_META, is_alias=True),
    # Loops that people write themselves. A number counts only behind a word that says what it counts:
    # `fold_3` and `seed_7` are no steps, and what is not numbered is taken for a set rewritten in place.
    LayoutRow("plain", _STEM, ("{any}epoch_{epoch}", "{any}epoch-{epoch}", "{any}epoch{epoch}")),
    LayoutRow("plain", _STEM, ("{any}iter_{step}", "{any}iter-{step}", "{any}iter{step}")),
    LayoutRow("plain", _STEM, ("{any}step_{step}", "{any}step-{step}", "{any}step{step}")),
    LayoutRow("plain", _STEM, ("{any}checkpoint_{step}", "{any}checkpoint-{step}", "{any}checkpoint{step}")),
    LayoutRow("plain", _STEM, ("{any}ckpt_{step}", "{any}ckpt-{step}", "{any}ckpt{step}")),
    LayoutRow("plain", _STEM, ("{any}model_{step}", "{any}model-{step}", "{step}")),
    LayoutRow("plain", _STEM, ("{any}",), is_alias=True),
    LayoutRow("plain", _DIRECTORY, ("{any}epoch_{epoch}", "{any}epoch-{epoch}", "{any}epoch{epoch}")),
    LayoutRow("plain", _DIRECTORY, ("{any}iter_{step}", "{any}iter-{step}", "{any}iter{step}")),
    LayoutRow("plain", _DIRECTORY, ("{any}step_{step}", "{any}step-{step}", "{any}step{step}")),
    LayoutRow(
        "plain", _DIRECTORY, ("{any}checkpoint_{step}", "{any}checkpoint-{step}", "{any}checkpoint{step}")
    ),
    LayoutRow("plain", _DIRECTORY, ("{any}ckpt_{step}", "{any}ckpt-{step}", "{any}ckpt{step}")),
    LayoutRow(
        "plain",
        _DIRECTORY,
        ("best_model", "best_accuracy", "best", "latest", "last", "final", "model_final", "ema_best_model"),
        is_alias=True,
    ),
)

MEMBER_ROLES: tuple[tuple[str, Role], ...] = (
    # The first glob that fits a file's name says its role. Special names come before general suffixes,
    # because some suites write schedulers and scalers under the suffix of weights.
    ("scheduler.pdparams", Role.SCHEDULER),
    ("scaler.pdparams", Role.SCALER),
    ("scaler.pd", Role.SCALER),
    ("optimizer.pdparams", Role.OPT),
    ("ema_model.pdparams", Role.EMA),
    ("random_states_*.pkl", Role.RNG),
    ("training_args.bin", Role.OPAQUE),
    ("*.pdparams", Role.PARAMS),
    ("*.pdopt", Role.OPT),
    ("*.pdscaler", Role.SCALER),
    ("*.scaler", Role.SCALER),
    ("*.pdema", Role.EMA),
    ("*.pdstates", Role.META),
    ("*.states", Role.META),
    ("*.pdmeta", Role.META),
    ("*.pkl", Role.META),
    ("rng_state*.pth", Role.RNG),
    ("*.safetensors", Role.SHARD),
    ("*.distcp", Role.SHARD),
    ("*.index.json", Role.INDEX),
    ("[0-9]*.metadata", Role.INDEX),
    ("*.pdmodel", Role.PROGRAM),
    ("__model__*", Role.PROGRAM),
    ("saved_signal_*", Role.MARKER),
    (".checkpoint_done", Role.MARKER),
)

JSON_PROGRESS: tuple[str, ...] = (
    # In a directory, only these are progress: suites put configurations and vocabularies there as JSON too.
    "trainer_state.json",
    "metrics.json",
    "metric.json",
    "meta.json",
    "progress.json",
    "state.json",
    "*.metrics.json",
    "*.info.json",
)
