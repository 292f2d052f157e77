"""The keys that a foreign key may point to: sampled from the parent table, a bounded number at a time."""

# ruff: noqa: S608 - every name is quoted, and every expression is PostgreSQL's own

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.catalog.model import ForeignKey
from gateway.fill.facts import quote
from gateway.fill.spaces import escape

SAMPLE_SIZE = 100_000
"""How many keys of one parent are in memory at most."""


class KeyPool:
    """Keys of one foreign key's parent, as fields of COPY. A parent with more than `SAMPLE_SIZE` is read in `chunks`.

    Chunk c holds every `chunks`-th key in the keys' order from the c-th on, so that each chunk is a fair sample.
    """

    def __init__(self, foreign_key: ForeignKey, is_self: bool) -> None:
        self.foreign_key = foreign_key
        self.is_self = is_self
        self.count = 0
        self.chunk = 0
        self.columns: list[list[str]] = [[] for _ in foreign_key.columns]

    @property
    def size(self) -> int:
        """How many keys are in memory."""
        return len(self.columns[0])

    @property
    def chunks(self) -> int:
        """How many parts of at most `SAMPLE_SIZE` keys the parent has."""
        return max(1, -(-self.count // SAMPLE_SIZE))

    def at(self, numbers: Sequence[int]) -> list[list[str]]:
        """The keys of those numbers, by column; a number beyond the last key starts over."""
        size = self.size
        return [[column[number % size] for number in numbers] for column in self.columns]

    async def load(self, connection: Any, chunk: int = 0) -> None:
        """Reads a chunk of the parent's keys as they are now."""
        key = self.foreign_key
        parent = f"{quote(key.schema)}.{quote(key.table)}"
        present = " AND ".join(f"{quote(column)} IS NOT NULL" for column in key.referred)
        self.count = await connection.fetchval(f"SELECT count(*) FROM {parent} WHERE {present}")
        self.chunk = chunk % self.chunks
        names = [f"k{place}" for place in range(len(key.referred))]
        selected = ", ".join(f"{quote(column)} AS {name}" for column, name in zip(key.referred, names, strict=True))
        order = ", ".join(quote(column) for column in key.referred)
        rows = await connection.fetch(
            f"SELECT {', '.join(f'{name}::text' for name in names)} FROM "
            f"(SELECT {selected}, row_number() OVER (ORDER BY {order}) - 1 AS place FROM {parent} WHERE {present}) AS numbered "
            "WHERE place % $1::bigint = $2 ORDER BY place",
            self.chunks,
            self.chunk,
        )
        self.columns = [[escape(row[place]) for row in rows] for place in range(len(names))]
