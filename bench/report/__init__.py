"""The report of a run: one self-contained HTML file with plots, and a Markdown summary. Pure but for `write_report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.bars import Bar
from bench.compare import Change
from bench.model import Results
from bench.report.html import html
from bench.report.markdown import markdown


def write_report(output: Path, results: Results, bars: Sequence[Bar], changes: Sequence[Change] | None) -> str:
    """Writes `report.html` and `report.md` to `output` and gives the Markdown; `changes` None is "no baseline"."""
    summary = markdown(results, bars, changes)
    (output / "report.md").write_text(summary)
    (output / "report.html").write_text(html(results, bars, changes))
    return summary
