"""Which table is filled before which, and how far each is from the rows that refer to nothing more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.catalog.model import Table


class Ranked(msgspec.Struct, frozen=True):
    """A resource to fill. `height` counts the longest chain of tables filled later that refer to it."""

    name: str
    table: Table
    height: int = 0


def filling_order(resources: Sequence[Ranked]) -> list[Ranked]:
    """Parents before children. In a cycle, what may be NULL gives way; a cycle of NOT NULL keys comes in the names' order."""
    waiting = sorted(resources, key=lambda ranked: ranked.name)
    ordered: list[Ranked] = []
    while waiting:
        chosen = _first_free(waiting, required_only=False) or _first_free(waiting, required_only=True) or waiting[0]
        waiting.remove(chosen)
        ordered.append(chosen)
    heights = _heights(ordered)
    return [msgspec.structs.replace(ranked, height=heights[_id(ranked.table)]) for ranked in ordered]


def _first_free(waiting: Sequence[Ranked], required_only: bool) -> Ranked | None:
    still_empty = {_id(ranked.table) for ranked in waiting}
    return next((one for one in waiting if not _parents(one.table, required_only) & still_empty), None)


def _parents(table: Table, required_only: bool) -> set[tuple[str, str]]:
    optional = {column.name for column in table.columns if column.nullable}
    keys = (key for key in table.foreign_keys if not (required_only and optional & set(key.columns)))
    return {(key.schema, key.table) for key in keys} - {_id(table)}


def _heights(ordered: Sequence[Ranked]) -> dict[tuple[str, str], int]:
    """Only a parent that comes before its child counts, so that a cycle has an end."""
    heights: dict[tuple[str, str], int] = {}
    before = {_id(ranked.table): place for place, ranked in enumerate(ordered)}
    for place in reversed(range(len(ordered))):
        child = _id(ordered[place].table)
        height = heights.setdefault(child, 0)
        for parent in _parents(ordered[place].table, required_only=False):
            if before.get(parent, place) < place:
                heights[parent] = max(heights.get(parent, 0), height + 1)
    return heights


def _id(table: Table) -> tuple[str, str]:
    return table.schema, table.name
