"""The three classes of a flex checkpoint's `.metadata`, as the symbolic pickle walk makes them.

Format: `metadata.py` of `paddle/distributed/flex_checkpoint/dcp` (3.3) and of `paddle/distributed/checkpoint`
(2.6 to 3.2), dataclasses pickled by NEWOBJ and BUILD. Later versions have more fields than 2.6.
"""

from __future__ import annotations

from typing import Final

from ckptd.core.pickle_values import Known, Mapping, Record
from ckptd.core.stream import ScanStopped

_MUST: Final = {
    Known.FLEX_METADATA: frozenset({"state_dict_metadata", "storage_metadata", "flat_mapping"}),
    Known.FLEX_TENSOR: frozenset({"global_offset", "local_shape"}),
    Known.FLEX_INDEX: frozenset({"tensor_key", "global_offset"}),
}
_MAY: Final = {
    Known.FLEX_METADATA: frozenset[str](),
    Known.FLEX_TENSOR: frozenset({"dtype", "global_shape", "is_flattened", "flattened_range"}),
    Known.FLEX_INDEX: frozenset({"is_flattened", "flattened_range", "replica_id", "local_shape"}),
}

RECORD_CLASSES: Final = frozenset(_MUST)


def build_record(record: Record, state: object) -> None:
    """The effect of BUILD: the fields of the dataclass, no others, each once.

    Raises:
        ScanStopped: The state is not what the dataclass has, or no key of a dict may be made of it.
    """
    items = state.items if isinstance(state, Mapping) else []
    fields = {name: value for name, value in items if isinstance(name, str)}
    must, may = _MUST[record.cls], _MAY[record.cls]
    if len(fields) != len(items) or not must <= fields.keys() <= must | may:
        raise ScanStopped(
            "malformed", f"the state of {record.cls.value} has not the fields that it has in Paddle"
        )
    # An index is the key of a dict, so what it holds has to have a hash.
    if record.cls is Known.FLEX_INDEX and not all(map(_is_simple, fields.values())):
        raise ScanStopped("malformed", f"{record.cls.value} holds more than names and numbers")
    record.fields = fields
    record.is_built = True


def _is_simple(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, int) for item in value)
    return value is None or isinstance(value, str | int)
