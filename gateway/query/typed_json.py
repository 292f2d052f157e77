"""Bodies read in one go: a decoder made for the fields of a form finds most values right while it decodes them.

It refuses nothing. What it does not take as it stands (a number in a string, a name that it does not know, a key that may be
there twice, anything out of bounds) gives None, and `payload` reads the body field by field, and says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import astuple

from gateway.catalog.model import Bounds, Field
from gateway.catalog.types import INTEGER_BITS, ColumnType, Wire, as_text, integer_range
from gateway.query.strict_json import exact_number, is_plain, keys_within

Taker = Callable[[Any], Wire]
Read = tuple[tuple[str, ...], list[Any]]
"""The names of the fields that were sent, in the fields' order, and their wire values."""

TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})


class BodyReader:
    """Reads bodies whose members are some of `fields`, each of which has what takes its values that are not null."""

    def __init__(self, fields: Iterable[tuple[Field, Taker]]) -> None:
        members: list[Any] = []
        names: dict[str, str] = {}
        self._fields: list[tuple[str, bool, Taker | None]] = []
        for position, (field, take) in enumerate(fields):
            kind, after = _decoded(field, take)
            if kind is not Any:
                kind = kind | None | msgspec.UnsetType if field.nullable else kind | msgspec.UnsetType
            members.append((f"f{position}", kind, msgspec.UNSET))
            names[f"f{position}"] = field.name
            self._fields.append((field.name, field.nullable, after))
        body = msgspec.defstruct("Body", members, rename=names, forbid_unknown_fields=True)
        self._decode = msgspec.json.Decoder(body, float_hook=exact_number).decode

    def read(self, body: bytes) -> Read | None:
        """What the body holds; None where it is to be read field by field."""
        if not is_plain(body):
            return None
        try:
            found = astuple(self._decode(body))
            return self._taken(body, found)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def _taken(self, body: bytes, found: tuple[Any, ...]) -> Read | None:
        names: list[str] = []
        values: list[Any] = []
        keys = 0
        for (name, is_nullable, take), value in zip(self._fields, found, strict=True):
            if value is msgspec.UNSET:
                continue
            names.append(name)
            if take is not None and value is not None:
                kind = type(value)
                if kind is dict or kind is list:
                    keys += keys_within(value)
                value = take(value)
            elif value is None and not is_nullable:
                return None
            values.append(value)
        return (tuple(names), values) if body.count(b":") == len(names) + keys else None


def _decoded(field: Field, take: Taker) -> tuple[Any, Taker | None]:
    """What a field's value is decoded as, and what takes it then; None where it is the wire form already."""
    column, bounds = field.type, field.bounds
    if column.array:
        is_plain_text = column.name in TEXTS and column.length is None
        return (list[str | None], as_text) if is_plain_text else (Any, take)
    if column.name == "bool":
        return bool, None
    kind: Any = None
    if column.name in INTEGER_BITS:
        kind = _integer(column, bounds)
    elif column.name == "enum" and bounds == Bounds():
        kind = _one_of(column.labels)
    elif column.name in TEXTS:
        kind = _text(column, bounds)
    return (Any, take) if kind is None else (kind, None)


def _integer(column: ColumnType, bounds: Bounds) -> Any:
    least, greatest = integer_range(column.name)
    ends = [end for end in (bounds.minimum, bounds.maximum) if end is not None]
    if bounds.enum or not all(type(end) is int for end in ends):
        return None
    if bounds.minimum is not None:
        least = max(least, int(bounds.minimum))
    if bounds.maximum is not None:
        greatest = min(greatest, int(bounds.maximum))
    return Annotated[int, msgspec.Meta(ge=least, le=greatest)]


def _text(column: ColumnType, bounds: Bounds) -> Any:
    longest = [length for length in (column.length, bounds.max_length) if length is not None]
    if bounds.enum:
        is_alone = bounds.pattern is None and bounds.min_length is None and not longest
        return _one_of(bounds.enum) if is_alone else None
    pattern = None if bounds.pattern is None else whole_pattern(bounds.pattern)
    return Annotated[str, msgspec.Meta(min_length=bounds.min_length, max_length=min(longest, default=None), pattern=pattern)]


def _one_of(choices: tuple[str | int, ...]) -> Any:
    return Literal.__getitem__(choices) if choices and all(type(choice) is str for choice in choices) else None


def whole_pattern(pattern: str) -> str:
    """`$` ends the text, as in JSON Schema and PostgreSQL; Python's own would let a line break follow."""
    return pattern.removesuffix("$") + r"\Z" if re.search(r"(?<!\\)(\\\\)*\$$", pattern) else pattern
