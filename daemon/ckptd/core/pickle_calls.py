"""What the allowed callables of a checkpoint would return, worked out without calling them.

Each takes exactly the arguments that Paddle and numpy write; with others, the call is `unsafe_opcode`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ckptd.core.flex_records import RECORD_CLASSES, build_record
from ckptd.core.payloads import ValueCheck, plain_value
from ckptd.core.pickle_values import (
    KEPT_BYTES,
    ArrayNode,
    DtypeNode,
    Inert,
    Known,
    Mapping,
    Members,
    Payload,
    Record,
    is_hashable,
)
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.payloads import ElementType
    from ckptd.core.pickle_values import Checked

MAX_DIMENSIONS = 64  # numpy's own limit

_TYPE_CODE = re.compile(r"[A-Za-z][0-9]{0,10}")


def call(function: object, arguments: object) -> object:
    """The outcome of REDUCE.

    Raises:
        ScanStopped: `unsafe_opcode` for a call that no checkpoint needs, `malformed` or `size_mismatch` for
            data that contradicts itself.
    """
    emulate = _CALLS.get(function) if isinstance(function, Known) else None
    if emulate is None or not isinstance(arguments, tuple):
        raise ScanStopped("unsafe_opcode", f"REDUCE calls {_name(function)}")
    outcome = emulate(arguments)
    if outcome is None:
        raise ScanStopped(
            "unsafe_opcode", f"REDUCE calls {_name(function)} with arguments that Paddle never writes"
        )
    return outcome


def create(cls: object, arguments: object) -> object:
    """The outcome of NEWOBJ: only a few of Paddle's classes are made this way, without arguments."""
    if isinstance(cls, Known) and cls in RECORD_CLASSES and arguments == ():
        return Record(cls)
    if cls is not Known.GENERATOR_STATE or arguments != ():
        raise ScanStopped("unsafe_opcode", f"NEWOBJ creates an object of {_name(cls)}")
    return Inert()


def build(target: object, state: object) -> None:
    """The effect of BUILD: gives an array, a dtype, a generator or a record its state, once."""
    if isinstance(target, ArrayNode) and not target.is_built:
        _build_array(target, state)
    elif isinstance(target, DtypeNode) and not target.is_sealed:
        _build_dtype(target, state)
    elif isinstance(target, Inert) and not target.is_built:
        _build_generator(target, state)
    elif isinstance(target, Record) and not target.is_built:
        build_record(target, state)
    else:
        raise ScanStopped("unsafe_opcode", f"BUILD changes {_name(target)}")


def checked_shape(shape: object) -> tuple[int, ...]:
    """The sizes of a tensor's dimensions.

    Raises:
        ScanStopped: They are none.
    """
    if isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS:
        for size in shape:
            # bool is an int, and numpy takes it for one; no writer puts it into a shape.
            if type(size) is not int or not 0 <= size < 1 << 63:
                break
        else:
            return shape
    raise ScanStopped("malformed", "a tensor's shape is no tuple of sizes")


def checked_members(items: list[object]) -> list[object]:
    """The values that a set is made of.

    Raises:
        ScanStopped: One of them can be in no set.
    """
    if not all(map(is_hashable, items)):
        raise ScanStopped("malformed", "a set has a member that can be in no set")
    return items


def check_size(element: ElementType, shape: tuple[int, ...], fewest: int, most: int) -> None:
    """Stop unless a tensor of this shape has between `fewest` and `most` bytes."""
    expected = math.prod(shape) * element.itemsize
    if not expected and math.prod(filter(None, shape)) * element.itemsize >= 1 << 63:
        raise ScanStopped("malformed", f"a tensor of shape {shape} is too large, though it is empty")
    if not fewest <= expected <= most:
        present = str(most) if fewest == most else f"{fewest} to {most}"
        raise ScanStopped(
            "size_mismatch",
            f"a {element.name} tensor of shape {shape} has {expected} bytes, the file holds {present}",
        )


def _reconstruct(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (Known.NDARRAY, (int(0),), Payload(head=b"b", is_mutable=False)):
            return ArrayNode()
    return None


def _scalar(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (DtypeNode() as dtype, Payload(is_text=False, is_mutable=False) as payload):
            dtype.is_sealed = True
            element = dtype.element()
            if element is None:
                return ArrayNode(is_built=True, dtype=dtype.code, bytes=payload.length, is_verified=False)
            check_size(element, (), payload.length, payload.length)
            value = _value(element, payload)
            if value is None:  # complex, or too long a text
                return payload if element.numpy.kind == "S" else Inert(is_built=True)
            return value
    return None


def _from_buffer(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (Payload(is_text=False) as payload, DtypeNode() as dtype, tuple() as shape, "C" | "F"):
            array = ArrayNode()
            _fill_array(array, shape, dtype, payload)
            return array
    return None


def _dtype(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (str() as code, int(0), int(1)) if _TYPE_CODE.fullmatch(code):
            return DtypeNode(code)  # a copy, so that its state is its own
    return None


def _encode(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (Payload(is_text=True) as text, "latin1" | "latin-1"):
            return Payload(text.length, text.head, text.checked_as, text.check)
        case (str() as text, "latin1" | "latin-1") if len(text) <= KEPT_BYTES:
            try:
                data = text.encode("latin-1")
            except UnicodeEncodeError:
                raise ScanStopped("malformed", "a byte string holds characters that are no bytes") from None
            return Payload(len(data), data)
    return None


def _tuple(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (tuple() as items,):
            return items
    return None


def _bytes(arguments: tuple[object, ...]) -> object:
    return None if arguments else Payload(0, b"")


def _set(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (list() as items,):
            return Members(checked_members(list(items)))
    return None


def _frozenset(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (list() as items,):
            return Members(checked_members(list(items)), is_frozen=True)
    return None


def _eval(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ("data", Mapping(items=[("data", ArrayNode() as array)])):
            return array
    return None


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return Mapping()
        case (list() as pairs,):  # as Python 2 writes it
            items = [
                (pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2
            ]
            if len(items) == len(pairs) and all(is_hashable(key) for key, _ in items):
                return Mapping(items)
    return None


_CALLS: dict[Known, Callable[[tuple[object, ...]], object]] = {
    Known.RECONSTRUCT: _reconstruct,
    Known.SCALAR: _scalar,
    Known.FROM_BUFFER: _from_buffer,
    Known.DTYPE: _dtype,
    Known.ENCODE: _encode,
    Known.TUPLE: _tuple,
    Known.BYTES: _bytes,
    Known.SET: _set,
    Known.FROZENSET: _frozenset,
    Known.EVAL: _eval,
    Known.ORDERED_DICT: _ordered_dict,
}


def _build_array(array: ArrayNode, state: object) -> None:
    match state:
        case (
            int(1),
            shape,
            DtypeNode() as dtype,
            int(0 | 1),
            Payload(is_text=False, is_mutable=False) as payload,
        ):
            _fill_array(array, shape, dtype, payload)
        case (int(1), tuple() as shape, DtypeNode() as dtype, int(0 | 1), list()):
            # An array of objects. They were walked like everything else, but they are no numbers.
            dtype.is_sealed = True
            array.is_built, array.is_verified = True, False
            array.shape, array.dtype = checked_shape(shape), dtype.code
        case _:
            raise ScanStopped("malformed", "a tensor's state is not numpy's")


def _fill_array(array: ArrayNode, shape: object, dtype: DtypeNode, payload: Payload) -> None:
    dtype.is_sealed = True
    array.is_built = True
    array.bytes = payload.length
    array.shape = checked_shape(shape)
    element = dtype.element()
    if element is None:
        array.dtype = dtype.code
        array.is_verified = False
        return
    array.dtype = element.name
    check_size(element, array.shape, payload.length, payload.length)
    if payload.length <= KEPT_BYTES:
        check = ValueCheck(element)
        check.feed(payload.head)
        _note(array, check)
    elif payload.check is not None and payload.checked_as == element:
        _note(array, payload.check)
    elif payload.guesses and element in payload.guesses:
        _note(array, payload.guesses[element])
    else:
        array.is_verified = not element.may_be_nonfinite
    if payload.length == element.itemsize:
        value = _value(element, payload)
        array.value = value if isinstance(value, str | int | float) else None


def _note(array: ArrayNode, check: Checked) -> None:
    array.nonfinite, array.is_constant = check.nonfinite, check.is_constant


def _build_generator(generator: Inert, state: object) -> None:
    """Set what Paddle's random generator has: device, seed, offset, and the engine's text as a list."""
    match state:
        case (int() as device, int() as seed, int() as offset, list() as engine) if (
            -1 <= device < 1 << 15
            and 0 <= seed < 1 << 64
            and 0 <= offset < 1 << 64
            and all(type(character) is int and 0 <= character < 128 for character in engine)
        ):
            generator.is_built = True
        case _:
            raise ScanStopped("malformed", "the state of a random generator is not Paddle's")


def _build_dtype(dtype: DtypeNode, state: object) -> None:
    match state:
        case (
            int(3),
            str() as byte_order,
            None,
            None,
            None,
            int() as size,
            int() as alignment,
            int() as flags,
        ):
            dtype.byte_order = byte_order
            element = dtype.element()
            dtype.is_plain = element is not None and (size, alignment, flags) == element.pickled_state
            dtype.is_sealed = True
        case (int(3 | 4), str(), _, _, _, int(), int(), int(), *_):
            # Fields, sub-arrays, metadata: nothing that a tensor of Paddle has.
            dtype.is_plain = False
            dtype.is_sealed = True
        case _:
            raise ScanStopped("malformed", "a dtype's state is not numpy's")


def _value(element: ElementType, payload: Payload) -> object:
    if payload.length > KEPT_BYTES:
        return None
    try:
        return plain_value(element, payload.head)
    except ValueError:
        raise ScanStopped("malformed", f"a {element.name} value is no text") from None


def _name(value: object) -> str:
    return value.value if isinstance(value, Known) else f"a {type(value).__name__}"
