"""`gateway check --access`: what every role may do, as a table for a person to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.definitions.model import OPERATIONS
from gateway.guards.policy import AccessRow

WIDTH = 100
"""In characters, where the output is no terminal."""
HEAD = ("resource", "role", "may", "rows", "fields", "set")


def access_lines(rows: Iterable[AccessRow]) -> Iterator[str]:
    """The table's lines, as wide as the terminal if stdout is one; cells that do not fit go on below."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(*HEAD, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for cells in access_cells(rows):
        table.add_row(*map(Text, cells))
    with console.capture() as captured:
        console.print(table)
    yield from (line.rstrip() for line in captured.get().splitlines())


def access_cells(rows: Iterable[AccessRow]) -> Iterator[tuple[str, ...]]:
    """A line for each role of each resource and each rule of it; operations that one rule holds for share a line."""
    for (version, resource, role), found in groupby(rows, lambda row: (row.version, row.resource, row.role)):
        name = resource if version == "v1" else f"{version}/{resource}"
        yield from ((name, role, *cells) for cells in _by_rule(list(found)))


def _by_rule(rows: Sequence[AccessRow]) -> Iterator[tuple[str, str, str, str]]:
    rules: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        rule = (
            "all" if row.rows is None else short(row.rows),
            "all" if row.fields is None else ", ".join(row.fields) or "none",
            "" if row.set is None else short(row.set),
        )
        rules.setdefault(rule, []).append(row.operation)
    for (reached, fields, written), operations in rules.items():
        may = "everything" if len(operations) == len(OPERATIONS) else ", ".join(operations)
        yield may, reached, "" if operations == ["delete"] else fields, written


def short(value: Mapping[str, Any]) -> str:
    """A part of a rule as YAML would have it on one line: `user_id: $sub, or: [{status: open}, {total: {lt: 5}}]`."""
    return ", ".join(f"{name}: {_inner(member)}" for name, member in value.items())


def _inner(value: Any) -> str:
    match value:
        case Mapping():
            return f"{{{short(value)}}}"
        case list():
            return f"[{', '.join(map(_inner, value))}]"
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case _:
            return str(value)
