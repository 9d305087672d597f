"""Damages a checkpoint in one of many ways; the same random generator gives the same damage."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    Damage = Callable[[random.Random, "Base", "Base"], tuple[str, bytes]]

LONG_ARGUMENT = 16  # what is longer is a payload; damage within it is mostly legal, and so of little interest
PAYLOAD_SHARE = 0.1  # of the damage that goes anywhere, also into payloads
MOST_BYTES = 64  # of a range that is inserted, deleted, duplicated or filled
MOST_OPCODES = 12

_LENGTH_WIDTHS = {
    "SHORT_BINUNICODE": 1,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
    "SHORT_BINBYTES": 1,
    "BINBYTES": 4,
    "BINBYTES8": 8,
    "BYTEARRAY8": 8,
    "LONG1": 1,
    "LONG4": 4,
    "FRAME": 8,
}
_OPCODES = b"".join(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)


@dataclass(frozen=True)
class Base:
    """A whole file that real Paddle wrote, and where in it what begins."""

    name: str
    role: str
    way: str  # how Paddle loads it
    data: bytes
    bounds: tuple[int, ...] = ()  # where each opcode begins, and the end; empty for what is no pickle
    kinds: tuple[str, ...] = ()  # the opcode at each bound but the last
    lengths: tuple[tuple[int, int], ...] = ()  # offset and width of each length field
    structure: tuple[int, ...] = ()  # the offsets that are not within a payload
    by_kind: dict[str, list[int]] = field(default_factory=dict)  # indices into `bounds` by opcode


@dataclass(frozen=True)
class Mutation:
    """A damaged file, and how to get it again."""

    kind: str
    recipe: str
    data: bytes


def base_of(name: str, role: str, way: str, data: bytes) -> Base:
    """Find the opcodes of a file; a file that is no pickle has none."""
    if data[:1] != b"\x80":
        return Base(name, role, way, data, structure=tuple(range(len(data))))
    bounds, kinds, lengths, structure = [], [], [], []
    by_kind: dict[str, list[int]] = {}
    for opcode, _, position in pickletools.genops(data):
        if opcode.name in _LENGTH_WIDTHS:
            lengths.append((position + 1, _LENGTH_WIDTHS[opcode.name]))
        by_kind.setdefault(opcode.name, []).append(len(bounds))
        bounds.append(position)
        kinds.append(opcode.name)
    bounds.append(len(data))
    for start, end in pairwise(bounds):
        structure.extend(range(start, min(end, start + 9 + LONG_ARGUMENT)))
    return Base(name, role, way, data, tuple(bounds), tuple(kinds), tuple(lengths), tuple(structure), by_kind)


def mutate(random: random.Random, bases: list[Base]) -> tuple[Base, Mutation]:
    """Choose a base and damage it."""
    base = random.choice(bases)
    kinds = _OF_PICKLES if base.bounds else _OF_ANYTHING
    kind = random.choices(list(kinds), list(kinds.values()))[0]
    what, data = kind(random, base, random.choice(bases))
    return base, Mutation(_name(kind), what, data)


def cuts(base: Base) -> list[Mutation]:
    """The file, cut off at the beginning of each of its opcodes."""
    return [Mutation("cut_at_opcode", f"at {bound}", base.data[:bound]) for bound in base.bounds[:-1]]


def _somewhere(random: random.Random, base: Base) -> int:
    if not base.data:
        return 0
    if random.random() < PAYLOAD_SHARE:
        return random.randrange(len(base.data))
    return min(random.choice(base.structure), len(base.data) - 1)


def _range(random: random.Random, base: Base) -> tuple[int, int]:
    start = _somewhere(random, base)
    return start, min(
        len(base.data), start + min(random.randint(1, MOST_BYTES), random.randint(1, MOST_BYTES))
    )


def _opcodes(random: random.Random, base: Base) -> tuple[int, int]:
    """The range of a few neighbouring opcodes."""
    first = random.randrange(len(base.bounds) - 1)
    last = min(first + random.randint(1, MOST_OPCODES), len(base.bounds) - 1)
    return base.bounds[first], base.bounds[last]


def _cut_at_opcode(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at = random.choice(base.bounds[:-1])
    return f"at {at}", base.data[:at]


def _cut(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at = random.randrange(len(base.data))
    return f"at {at}", base.data[:at]


def _flip_bit(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at, bit = _somewhere(random, base), random.randrange(8)
    changed = bytes(byte ^ 1 << bit for byte in base.data[at : at + 1])
    return f"{bit} of byte {at}", _replaced(base.data, at, at + 1, changed)


def _set_byte(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at = _somewhere(random, base)
    value = random.choice((random.randrange(256), 0, 1, 0x7F, 0xFF, random.choice(_OPCODES)))
    return f"{at} to {value:#04x}", _replaced(base.data, at, at + 1, bytes([value]))


def _insert(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at = _somewhere(random, base)
    added = random.randbytes(random.choice((1, 1, 2, random.randint(1, MOST_BYTES))))
    return f"{added.hex()} at {at}", _replaced(base.data, at, at, added)


def _delete(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _range(random, base)
    return f"{start} to {end}", _replaced(base.data, start, end, b"")


def _duplicate(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _range(random, base)
    return f"{start} to {end}", _replaced(base.data, end, end, base.data[start:end])


def _zero_fill(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _range(random, base)
    if random.random() < 0.2:
        end = len(base.data)
    return f"{start} to {end}", _replaced(base.data, start, end, bytes(end - start))


def _splice(random: random.Random, base: Base, other: Base) -> tuple[str, bytes]:
    head, tail = random.randrange(len(base.data)), random.randrange(len(other.data))
    return f"0 to {head}, then {other.name} from {tail}", base.data[:head] + other.data[tail:]


def _append(random: random.Random, base: Base, other: Base) -> tuple[str, bytes]:
    start, end = _range(random, other)
    return f"{other.name} {start} to {end}", base.data + other.data[start:end]


def _delete_opcodes(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _opcodes(random, base)
    return f"{start} to {end}", _replaced(base.data, start, end, b"")


def _duplicate_opcodes(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _opcodes(random, base)
    return f"{start} to {end}", _replaced(base.data, end, end, base.data[start:end])


def _move_opcodes(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    start, end = _opcodes(random, base)
    rest, at = base.data[:start] + base.data[end:], random.choice(base.bounds[:-1])
    at = at if at <= start else max(start, at - (end - start))
    return f"{start} to {end} to {at}", _replaced(rest, at, at, base.data[start:end])


def _splice_opcodes(random: random.Random, base: Base, other: Base) -> tuple[str, bytes]:
    if not other.bounds:
        return _splice(random, base, other)
    at = random.choice(base.bounds)
    if random.random() < 0.5:
        tail = random.choice(other.bounds)
        return f"0 to {at}, then {other.name} from {tail}", base.data[:at] + other.data[tail:]
    start, end = _opcodes(random, other)
    return f"{other.name} {start} to {end} at {at}", _replaced(base.data, at, at, other.data[start:end])


def _exchange(random: random.Random, base: Base, other: Base) -> tuple[str, bytes]:
    """Put another operand into an opcode: one that stands elsewhere with the same opcode."""
    index = random.randrange(len(base.kinds))
    kind = base.kinds[index]
    source = other if random.random() < 0.3 and kind in other.by_kind else base
    chosen = random.choice(source.by_kind[kind])
    operand = source.data[source.bounds[chosen] : source.bounds[chosen + 1]]
    start, end = base.bounds[index], base.bounds[index + 1]
    what = f"{kind} at {start} for the one of {source.name} at {source.bounds[chosen]}"
    return what, _replaced(base.data, start, end, operand)


def _replace_opcode(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    at, value = random.choice(base.bounds[:-1]), random.choice(_OPCODES)
    return f"at {at} by {value:#04x}", _replaced(base.data, at, at + 1, bytes([value]))


def _overwrite_length(random: random.Random, base: Base, _: Base) -> tuple[str, bytes]:
    if not base.lengths:
        return _set_byte(random, base, base)
    at, width = random.choice(base.lengths)
    length = int.from_bytes(base.data[at : at + width], "little")
    value = random.choice(
        (0, length - 1, length + 1, length * 2, random.getrandbits(8 * width), (1 << 8 * width - 1), -1)
    ) % (1 << 8 * width)
    return f"at {at} to {value}", _replaced(base.data, at, at + width, value.to_bytes(width, "little"))


def _several(random: random.Random, base: Base, other: Base) -> tuple[str, bytes]:
    """Two to four simple damages in one file."""
    recipe, data = [], base.data
    for _ in range(random.randint(2, 4)):
        kind = random.choice(_SIMPLE)
        what, data = kind(random, Base(base.name, base.role, base.way, data, structure=base.structure), other)
        recipe.append(f"{_name(kind)} {what}")
    return ", ".join(recipe), data


def _replaced(data: bytes, start: int, end: int, by: bytes) -> bytes:
    return data[:start] + by + data[end:]


def _name(kind: Damage) -> str:
    return kind.__name__.removeprefix("_")


_SIMPLE: tuple[Damage, ...] = (_flip_bit, _set_byte, _insert, _delete, _duplicate, _zero_fill)
_OF_ANYTHING: dict[Damage, int] = {
    _cut: 4,
    _flip_bit: 14,
    _set_byte: 14,
    _insert: 8,
    _delete: 8,
    _duplicate: 6,
    _zero_fill: 5,
    _splice: 5,
    _append: 2,
    _several: 6,
}
_OF_PICKLES: dict[Damage, int] = _OF_ANYTHING | {
    _cut_at_opcode: 5,
    _delete_opcodes: 7,
    _duplicate_opcodes: 7,
    _move_opcodes: 6,
    _splice_opcodes: 8,
    _exchange: 18,
    _replace_opcode: 6,
    _overwrite_length: 10,
}
