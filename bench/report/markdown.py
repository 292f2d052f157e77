"""The Markdown summary of a run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.bars import Bar
from bench.compare import Change
from bench.model import Results
from bench.report import tables
from bench.report.tables import Table


def markdown(results: Results, bars: Sequence[Bar], changes: Sequence[Change] | None) -> str:
    """The whole summary."""
    smallest = min(results.sizes, default=0)
    parts = ["# The gateway beside its peers", render(tables.surroundings_table(results))]
    parts += ["## Bars", render(tables.bars_table(bars)), render(tables.thresholds_table(results))]
    parts += [_list(tables.changes_lines(changes))]
    parts += [f"## Throughput at 32 connections, {smallest:,} rows", render(tables.throughput_table(results, smallest))]
    parts += ["## Latency at a given load", render(tables.open_loop_table(results))]
    parts += ["## Who took part", render(tables.contenders_table(results))]
    if results.notes:
        parts += ["## Notes", _list(results.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def render(table: Table) -> str:
    """A table in Markdown; "" for one without rows."""
    if not table.rows:
        return ""
    rule = ["---" if column < table.numbers_from else "---:" for column in range(len(table.head))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (table.head, rule, *table.rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_cell(line)}" for line in lines)
