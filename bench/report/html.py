"""The report as one HTML file: tables, and plots as SVG inside it; nothing comes from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from bench.bars import Bar
from bench.compare import Change
from bench.model import Measure, Results
from bench.report import svg, tables
from bench.report.tables import Table

STYLE = (Path(__file__).parent / "report.css").read_text()
COLOURS = {
    "hello": "#8b8b8b",
    "gateway": "#2563eb",
    "gateway-redis": "#0891b2",
    "gateway-memory": "#7c3aed",
    "fastify": "#ea580c",
    "fastify-redis": "#b45309",
    "platformatic": "#65a30d",
    "pgbench": "#6b7280",
    "asyncpg": "#6b7280",
}
FALLBACK_COLOUR = "#6b7280"


def html(results: Results, bars: Sequence[Bar], changes: Sequence[Change] | None) -> str:
    """The whole page."""
    smallest = min(results.sizes, default=0)
    sections = [
        ("Bars", _table(tables.bars_table(bars)) + _table(tables.thresholds_table(results))),
        ("Since the baseline", _lines(tables.changes_lines(changes))),
        (f"Throughput by scenario: 32 connections, {smallest:,} rows", throughput_plot(results, smallest)),
        ("CPU per request: the process itself, PostgreSQL (paler), Redis (palest)", cpu_plot(results, smallest)),
        ("Latency against load: mixed 80/15/5, open loop", load_plot(results)),
        ("Throughput against connections", connections_plot(results, "point") + connections_plot(results, "list")),
        ("Cost against table size", "".join(size_plot(results, scenario) for scenario in ("point", "list", "sorted"))),
        *((f"All at 32 connections, {rows:,} rows", _table(tables.throughput_table(results, rows))) for rows in results.sizes),
        *(
            (
                f"All at {connections} connections, {smallest:,} rows",
                _table(tables.throughput_table(results, smallest, connections)),
            )
            for connections in (1, 8, 128)
        ),
        ("Open loop", _table(tables.open_loop_table(results))),
        ("Memory and pools", _table(tables.resources_table(results))),
        ("Who took part", _table(tables.contenders_table(results))),
        ("Notes", _lines(results.notes)),
    ]
    body = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections if content)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bench {escape(results.commit)}</title>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    top = f"<h1>The gateway beside its peers</h1>{_table(tables.surroundings_table(results))}"
    return f"{head}<style>{STYLE}</style></head><body>{top}{body}</body></html>\n"


def throughput_plot(results: Results, rows: int) -> str:
    """Requests/s by scenario, a bar for each contender."""
    return svg.bar_plot(_groups(results, rows, lambda m: ((m.rate, 0.9),), lambda m: f"{m.rate:,.0f}"), "requests/s")


def cpu_plot(results: Results, rows: int) -> str:
    """CPU per request by scenario, a bar for each contender."""

    def segments(measure: Measure) -> tuple[tuple[float, float], ...]:
        cpu = measure.cpu
        return ((cpu.contender, 0.9), (cpu.postgres, 0.5), (cpu.valkey, 0.25)) if cpu else ()

    def note(measure: Measure) -> str:
        cpu = measure.cpu
        return f"{cpu.contender:,.0f} + {cpu.postgres:,.0f} + {cpu.valkey:,.0f}" if cpu else ""

    return svg.bar_plot(_groups(results, rows, segments, note), "µs")


def _groups(
    results: Results,
    rows: int,
    segments: Callable[[Measure], tuple[tuple[float, float], ...]],
    note: Callable[[Measure], str],
) -> list[svg.Group]:
    found = [m for m in results.measures if m.offered is None and (m.rows, m.connections) == (rows, 32)]
    scenarios = dict.fromkeys(measure.scenario for measure in found)
    return [
        svg.Group(
            tables.scenario_title(scenario),
            tuple(svg.Bar(m.contender, _colour(m.contender), segments(m), note(m)) for m in found if m.scenario == scenario),
        )
        for scenario in scenarios
    ]


def load_plot(results: Results) -> str:
    """p50 and p99 against the load that was offered."""
    lines = []
    for contender in ("gateway-redis", "fastify-redis"):
        found = [m for m in results.open_loop(contender, "mixed") if m.latency is not None and m.offered is not None]
        for name in ("p99", "p50"):
            points = tuple((m.offered or 0, getattr(m.latency, name)) for m in found)
            lines.append(svg.Line(f"{contender} {name}", _colour(contender), points, dashed=name == "p50"))
    return svg.line_plot([line for line in lines if line.points], "requests/s offered", "ms", log_y=True)


def connections_plot(results: Results, scenario: str) -> str:
    """Requests/s against connections."""
    smallest = min(results.sizes, default=0)
    lines = []
    for contender in ("gateway", "fastify"):
        found = [
            m for m in results.measures if (m.contender, m.scenario, m.rows) == (contender, scenario, smallest) and m.connections
        ]
        points = tuple(sorted((float(m.connections), m.rate) for m in found))
        lines.append(svg.Line(contender, _colour(contender), points))
    drawn = [line for line in lines if len(line.points) > 1]
    plot = svg.line_plot(drawn, "connections", "requests/s")
    return f"<h3>{escape(tables.scenario_title(scenario))}</h3>{plot}" if plot else ""


def size_plot(results: Results, scenario: str) -> str:
    """CPU per request of process and database together, against the table's rows."""
    lines = []
    for contender in ("gateway", "fastify", "pgbench"):
        found = [
            m
            for m in results.measures
            if (m.contender, m.scenario, m.connections) == (contender, scenario, 32) and m.cpu is not None
        ]
        points = tuple(sorted((float(m.rows), m.cpu.contender + m.cpu.postgres) for m in found if m.cpu is not None))
        lines.append(svg.Line(contender, _colour(contender), points))
    drawn = [line for line in lines if len(line.points) > 1]
    plot = svg.line_plot(drawn, "rows", "µs of CPU", height=220)
    return f"<h3>{escape(tables.scenario_title(scenario))}</h3>{plot}" if plot else ""


def _colour(contender: str) -> str:
    return COLOURS.get(contender, FALLBACK_COLOUR)


def _table(table: Table) -> str:
    if not table.rows:
        return ""

    def line(cells: Sequence[str], tag: str) -> str:
        marks = ("" if column < table.numbers_from else ' class="n"' for column in range(len(cells)))
        return f"<tr>{''.join(f'<{tag}{mark}>{escape(cell)}</{tag}>' for cell, mark in zip(cells, marks, strict=True))}</tr>"

    head = f"<thead>{line(table.head, 'th')}</thead>" if any(table.head) else ""
    return f'<div class="table"><table>{head}<tbody>{"".join(line(row, "td") for row in table.rows)}</tbody></table></div>'


def _lines(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""
