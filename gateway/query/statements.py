"""Statements found again by their shape: SQL is made once for each, and a list's reader of sort keys with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import astuple

from gateway.catalog.model import Field, Resource
from gateway.catalog.types import INTEGER_BITS, Family
from gateway.events import OTHER, Purpose
from gateway.query.ast import Filter, GetShape, ListShape, WriteShape
from gateway.query.compile import (
    compile_batch,
    compile_estimate,
    compile_get,
    compile_list,
    compile_outside,
    compile_together,
    compile_write,
)

T = TypeVar("T")

MAX_STATEMENTS = 5000
"""Shapes that one process keeps; callers choose filters freely, so there must be an end. The oldest goes first."""


class KeyReader:
    """Reads the sort keys' text forms out of a row's JSON without decoding the rest of it."""

    def __init__(self, fields: Sequence[Field]) -> None:
        names = {f"k{position}": field.name for position, field in enumerate(fields)}
        members = [(name, _json_type(field)) for name, field in zip(names, fields, strict=True)]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Keys", members, rename=names)).decode

    def read(self, row: str) -> tuple[str | None, ...]:
        """The keys of one row, in order; None for null."""
        keys: tuple[Any, ...] = astuple(self._decode(row))
        return tuple([key if key is None or type(key) is str else _text(key) for key in keys])


def _json_type(field: Field) -> Any:
    """What a key's JSON is decoded as: of what is neither a string nor an integer the digits must stay."""
    scalar = field.type.scalar
    if field.type.json_form == "text" or scalar.family in STRINGS:
        return str | None
    return int | None if scalar.wire in INTEGER_BITS else msgspec.Raw


STRINGS = frozenset({Family.TEXT, Family.TIME, Family.UUID, Family.ENUM, Family.NETWORK})
"""Whose JSON is a string in any form."""


def _text(key: int | msgspec.Raw) -> str | None:
    """The text form of a JSON scalar: a number's digits as they stand, a string's characters."""
    if isinstance(key, int):
        return str(key)
    raw = bytes(key)
    if raw == b"null":
        return None
    if raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    return raw.decode()


class ReadStatement(msgspec.Struct, frozen=True):
    """A read's SQL for one request, and for many at once ("" where all requests of the shape are the same).

    `reader` is None for a single row, and for a list whose keys come in a column of their own.
    """

    sql: str
    batch_sql: str
    reader: KeyReader | None = None
    purpose: Purpose = OTHER


class WriteStatement(msgspec.Struct, frozen=True):
    """A write's SQL for one request, and for many at once ("" where each has to go by itself)."""

    sql: str
    together_sql: str
    purpose: Purpose


def table_of(resource: Resource) -> str:
    """The table of a resource, as caches and traces name it."""
    return f"{resource.table.schema}.{resource.table.name}"


class Statements:
    """The statements of one catalog. A reload makes a new one with the new catalog."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def list(self, shape: ListShape, resource: Resource) -> ReadStatement:
        """A list's statement, with the reader of its sort keys."""
        found: ReadStatement | None = self._known.get(shape)
        if found is None:
            reader = None if shape.keys_beside else KeyReader([resource.fields[key.field] for key in shape.sort])
            purpose = Purpose("list", table_of(resource))
            statement = ReadStatement(compile_list(shape, resource), compile_batch(shape, resource), reader, purpose)
            found = self._keep(shape, statement)
        return found

    def get(self, shape: GetShape, resource: Resource) -> ReadStatement:
        """The statement of one row by its key."""
        found: ReadStatement | None = self._known.get(shape)
        if found is None:
            purpose = Purpose("get", table_of(resource))
            found = self._keep(shape, ReadStatement(compile_get(shape, resource), compile_batch(shape, resource), None, purpose))
        return found

    def write(self, shape: WriteShape, resource: Resource) -> WriteStatement:
        """The statement of a create, patch or delete."""
        found: WriteStatement | None = self._known.get(shape)
        if found is None:
            purpose = Purpose(shape.operation, table_of(resource))
            statement = WriteStatement(compile_write(shape, resource), compile_together(shape, resource), purpose)
            found = self._keep(shape, statement)
        return found

    def outside(self, shape: WriteShape, resource: Resource) -> str:
        """The SQL that asks whether what a write would leave behind fails its check."""
        place = ("outside", shape)
        found: str | None = self._known.get(place)
        return found if found is not None else self._keep(place, compile_outside(shape, resource))

    def estimate(self, where: Filter | None, resource: Resource) -> str:
        """The SQL that asks the planner how many rows match."""
        shape = ("estimate", resource.id, where)
        found: str | None = self._known.get(shape)
        return found if found is not None else self._keep(shape, compile_estimate(where, resource))

    def _keep(self, shape: Any, statement: T) -> T:
        if len(self._known) >= MAX_STATEMENTS:
            del self._known[next(iter(self._known))]
        self._known[shape] = statement
        return statement
