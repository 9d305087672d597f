"""Index JSON beside numbered shards: which tensor is in which file.

Format: `{"metadata": {"total_size": ...}, "weight_map": {name: file}}`, as `save_pretrained` of PaddleNLP
(`model_state.pdparams.index.json`) and its unified checkpoints (`model.safetensors.index.json`) write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptd.core.json_text import JsonText
from ckptd.core.model import ExpectedTensor
from ckptd.core.names import shown
from ckptd.core.state_dicts import Contents
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.stream import ByteStream

SUFFIX: Final = ".index.json"
MAX_BYTES: Final = 3 << 24  # the optimizer's index of the largest open models has 40 MB
MAX_EXPECTED: Final = 500_000
_MAX_MEMBERS: Final = 1_000  # of the index itself


def read(stream: ByteStream) -> Contents:
    """Read an index to the end of the file.

    Raises:
        ScanStopped: `invalid_index` for what is none, `limit_exceeded` for one that is too large.
    """
    if stream.size > MAX_BYTES:
        raise ScanStopped("limit_exceeded", f"an index of {stream.size} bytes, at most {MAX_BYTES} are read")
    text = JsonText(stream.take(stream.remaining).removeprefix(b"\xef\xbb\xbf"), code="invalid_index")
    expected: list[ExpectedTensor] | None = None
    for key in text.members(_MAX_MEMBERS):
        if key == "weight_map":
            expected = _weight_map(text)
        else:
            text.pass_over()
    text.end()
    if expected is None:
        raise ScanStopped("invalid_index", "there is no weight_map")
    return Contents(expected=tuple(expected))


def checked_file(name: str) -> str:
    """A name of a file beside the index.

    Raises:
        ScanStopped: It is somewhere else, or no name.
    """
    if "/" in name or "\\" in name or "\0" in name or name in {"", ".", ".."} or len(name) > 255:
        raise ScanStopped("invalid_index", f"{shown(name[:100])!r} is no name of a file beside the index")
    return name


def _weight_map(text: JsonText) -> list[ExpectedTensor]:
    files: dict[str, str] = {}  # one object for all equal names
    expected = []
    for name in text.members(MAX_EXPECTED):
        file = text.string()
        if file not in files:
            files[file] = checked_file(file)
        expected.append(ExpectedTensor(name, files[file]))
    return expected
