"""What got slower: the figures of a run as ratios to the bare ASGI hello of the same run, held against stored ones.

    .venv/bin/python -m bench.compare [RESULTS] [--baseline FILE] [--tolerance 0.15] [--accept]

Ratios, for absolute figures change with the machine and with its mood. Exit code 1 where something got slower by more than the
tolerance; `--accept` stores the run as the new baseline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.model import Results, read_results
from bench.plan import OURS

BASELINE = Path(__file__).parent / "baseline.json"
DEFAULT_TOLERANCE = 0.15


class Ratio(msgspec.Struct, frozen=True):
    """Of the hello's requests/s (more is better) and of its CPU per request (less is better)."""

    rate: float
    cpu: float | None = None


class Change(msgspec.Struct, frozen=True):
    """A figure that moved: `factor` is now over then, `worse` whether that is for the worse, beyond the tolerance or not."""

    what: str
    figure: str
    before: float
    now: float
    worse: bool
    beyond: bool

    @property
    def factor(self) -> float:
        """Now over then."""
        return self.now / self.before if self.before else 1.0

    @property
    def line(self) -> str:
        """The change for a person."""
        word = ("slower" if self.worse else "faster") if self.beyond else "as before"
        return f"{word}: {self.what}, {self.figure} {self.before:.3g} → {self.now:.3g} of the hello's ({self.factor - 1:+.0%})"


def ratios_of(results: Results) -> dict[str, Ratio]:
    """The gateway's closed-loop figures without errors, by `contender/scenario/rows/connections`; empty without a hello."""
    hello = results.find("hello", "point")
    if hello is None or not hello.rate:
        return {}
    found = {}
    for measure in results.measures:
        if measure.contender in OURS and measure.offered is None and not measure.errors:
            cpu = measure.cpu.contender / hello.cpu.contender if measure.cpu and hello.cpu and hello.cpu.contender else None
            key = f"{measure.contender}/{measure.scenario}/{measure.rows}/{measure.connections}"
            found[key] = Ratio(round(measure.rate / hello.rate, 4), round(cpu, 3) if cpu is not None else None)
    return found


def compare(now: Mapping[str, Ratio], before: Mapping[str, Ratio], tolerance: float = DEFAULT_TOLERANCE) -> list[Change]:
    """Every figure that both have, the worst first."""
    changes = []
    for what in sorted(now.keys() & before.keys()):
        one, other = now[what], before[what]
        changes.append(_change(what, "requests/s", other.rate, one.rate, tolerance, less_is_better=False))
        if one.cpu is not None and other.cpu is not None:
            changes.append(_change(what, "CPU per request", other.cpu, one.cpu, tolerance, less_is_better=True))
    return sorted(changes, key=lambda change: (not (change.worse and change.beyond), -abs(change.factor - 1)))


def _change(what: str, figure: str, before: float, now: float, tolerance: float, less_is_better: bool) -> Change:
    worse = now > before if less_is_better else now < before
    beyond = abs(now - before) > tolerance * before
    return Change(what, figure, before, now, worse, beyond)


def read_baseline(path: Path) -> dict[str, Ratio] | None:
    """The stored ratios, None where there are none. Raises msgspec.MsgspecError."""
    if not path.exists():
        return None
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Ratio])


def write_baseline(path: Path, ratios: Mapping[str, Ratio]) -> None:
    """Stores ratios; what the run did not measure stays as it was."""
    merged = {**(read_baseline(path) or {}), **ratios}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(merged.items()))), indent=1) + b"\n")


def main() -> int:
    """Compares by the command line."""
    parser = argparse.ArgumentParser(prog="bench.compare", description="What got slower since the baseline was stored.")
    parser.add_argument("results", type=Path, nargs="?", default=Path(".bench/results.json"))
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--tolerance", type=float, default=DEFAULT_TOLERANCE, help="as a share; default 0.15")
    parser.add_argument("--accept", action="store_true", help="store this run as the baseline")
    given = parser.parse_args()
    try:
        ratios = ratios_of(read_results(given.results))
        baseline = read_baseline(given.baseline)
    except (OSError, msgspec.MsgspecError) as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 2
    if not ratios:
        print("bench: the run has no bare hello to compare with", file=sys.stderr)
        return 2
    if given.accept:
        write_baseline(given.baseline, ratios)
        print(f"Stored {len(ratios)} figures in {given.baseline.name}.")
        return 0
    if baseline is None:
        print("bench: there is no baseline yet; --accept stores one", file=sys.stderr)
        return 2
    changes = compare(ratios, baseline, given.tolerance)
    for change in changes:
        if change.beyond:
            print(change.line)
    slower = [change for change in changes if change.beyond and change.worse]
    print(f"{len(changes)} figures compared, {len(slower)} slower by more than {given.tolerance:.0%}.")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
