"""The kinds of values in `config.toml`, each with the words for what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from ckptd.config.paths import is_path
from ckptd.config.problems import got, nearest, quoted
from ckptd.core.layouts import LAYOUT_NAMES
from ckptd.core.model import Order
from ckptd.core.settings import LogFormat, LogLevel, ObserverChoice
from ckptd.core.units import (
    DURATION_PATTERN,
    LONGEST,
    SIZE_PATTERN,
    duration_text,
    parse_duration,
    parse_size,
    size_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from pydantic import GetCoreSchemaHandler

TOLD = "told"
"""The type of an error whose message reaches the user as it is."""

_LARGEST = (1 << 63) - 1  # TOML promises no larger integer


def told(message: str) -> PydanticCustomError:
    """An error whose message reaches the user as it is."""
    return PydanticCustomError(TOLD, "{message}", {"message": message})


@dataclass(frozen=True, slots=True)
class Told:
    """Says in our words what a value should be, whatever is wrong with it."""

    expected: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise told(f"expected {self.expected}, got {got(value)}") from None


class OneOf:
    """One of some words; offers the nearest."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.expected = "one of " + ", ".join(quoted(word) for word in words)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        words = core_schema.literal_schema(list(self._words))
        return core_schema.no_info_wrap_validator_function(self._validate, words)

    def _validate(self, value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise told(f"expected {self.expected}, got {got(value)}{nearest(value, self._words)}") from None


class Lasting:
    """A duration within bounds, each written as in the file."""

    pattern = DURATION_PATTERN
    alternative = ""

    def __init__(self, least: str, most: str | None = None) -> None:
        self._least = parse_duration(least)
        self._most = parse_duration(most) if most else LONGEST

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        text = core_schema.str_schema(pattern=self.pattern)
        return core_schema.no_info_plain_validator_function(self._validate, json_schema_input_schema=text)

    def _validate(self, value: Any) -> timedelta | None:
        try:
            duration = parse_duration(value if isinstance(value, str) else "")
        except ValueError as error:
            raise told(f"expected {error}{self.alternative}, got {got(value)}") from None
        if duration < self._least:
            raise told(f"expected at least {duration_text(self._least)}, got {got(value)}")
        if duration > self._most:
            raise told(f"expected at most {duration_text(self._most)}, got {got(value)}")
        return duration


class LastingOrOff(Lasting):
    """A duration within bounds, or `off` for None."""

    pattern = f"{DURATION_PATTERN}|^off$"
    alternative = ', or "off"'

    def _validate(self, value: Any) -> timedelta | None:
        return None if value == "off" else super()._validate(value)


class SizeWithin:
    """A number of bytes within bounds, each written as in the file."""

    def __init__(self, least: str, most: str) -> None:
        self._least, self._most = parse_size(least), parse_size(most)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        text = core_schema.str_schema(pattern=SIZE_PATTERN)
        return core_schema.no_info_plain_validator_function(self._validate, json_schema_input_schema=text)

    def _validate(self, value: Any) -> int:
        try:
            size = parse_size(value if isinstance(value, str) else "")
        except ValueError as error:
            raise told(f"expected {error}, got {got(value)}") from None
        if not self._least <= size <= self._most:
            least, most = size_text(self._least), size_text(self._most)
            raise told(f"expected {least} to {most}, got {got(value)}")
        return size


def _if(test: Callable[[Any], bool]) -> AfterValidator:
    """Let only values pass that the test likes; a `Told` after it has the words."""

    def validate(value: Any) -> Any:
        if not test(value):
            raise ValueError
        return value

    return AfterValidator(validate)


def _is_name(text: str) -> bool:
    return text.isprintable() and "/" not in text and text.strip(" .") != ""


def _is_interpreter(text: str) -> bool:
    return text == "" or (is_path(text) and "/" in text)


def _is_input_name(text: str) -> bool:
    return text == "" or text.isidentifier()


def _is_key_path(text: str) -> bool:
    return all(text.split("."))


def _is_entrypoint(text: str) -> bool:
    module, _, function = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def _with_params(roles: list[str]) -> list[str]:
    if "params" not in roles:
        raise told('expected "params" among the roles: a set without weights resumes nothing')
    return roles


def _is_dimension(size: int) -> bool:
    return size == -1 or size >= 1


Directory = Annotated[
    str, _if(is_path), Told('the path of a directory, such as "/data/output" ("~" is not expanded)')
]
Interpreter = Annotated[
    str,
    _if(_is_interpreter),
    Told('the path of a Python interpreter, such as "/opt/train/bin/python", or ""'),
]
Name = Annotated[str, _if(_is_name), Told('a printable name without "/"')]
InputName = Annotated[str, _if(_is_input_name), Told('an identifier, such as "x", or ""')]
KeyPathText = Annotated[str, _if(_is_key_path), Told('a key path, such as "metric" or "eval.accuracy"')]
Entrypoint = Annotated[
    str, _if(_is_entrypoint), Told('"package.module:function", a function that builds the network')
]
Dimension = Annotated[
    int, Field(ge=-1, le=_LARGEST), _if(_is_dimension), Told("a whole number ≥ 1, or -1 for any size")
]
Positive = Annotated[int, Field(ge=1, le=_LARGEST), Told("a whole number ≥ 1")]
AtLeastTwo = Annotated[int, Field(ge=2, le=_LARGEST), Told("a whole number ≥ 2")]
WorkerCount = Annotated[int, Field(ge=1, le=16), Told("a whole number from 1 to 16")]
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False), Told("a finite number ≥ 0")]

Format = Annotated[LogFormat, OneOf(*get_args(LogFormat))]
Level = Annotated[LogLevel, OneOf(*get_args(LogLevel))]
Layout = Annotated[str, OneOf("auto", *sorted(LAYOUT_NAMES))]
ObserverName = Annotated[ObserverChoice, OneOf(*get_args(ObserverChoice))]
RequiredRole = Annotated[str, OneOf("params", "opt", "scaler", "meta", "ema", "scheduler", "rng")]
RequiredRoles = Annotated[list[RequiredRole], AfterValidator(_with_params)]
OrderName = Annotated[Order, OneOf(*Order)]
Mode = Annotated[str, OneOf("plan", "enforce")]
# What paddle.inference takes as an input on a CPU; with any other, a model could not be proved.
DataType = Annotated[str, OneOf("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")]
