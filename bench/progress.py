"""What a run tells while it goes on: what is measured now, and how long is left. On stderr; a bar where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bench.plan import Step


class Telling:
    """`expected` are the seconds of what is still to do, as they were guessed."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self._console, self._bars = console, bars
        self._task = bars.add_task("", total=1.0, left="")
        self._started = time.monotonic()
        self.expected = 0.0
        self.done = 0.0

    def expect(self, seconds: float) -> None:
        """There is more to do than was known."""
        self.expected += seconds

    def now(self, what: str) -> None:
        """What is done now."""
        left = f"{_minutes(self.left)} left"
        self._bars.update(self._task, description=what, completed=self.done, total=max(self.expected, self.done, 0.1), left=left)
        if not self._console.is_terminal:
            self._console.print(f"[{_minutes(time.monotonic() - self._started)}, {left}] {what}", markup=False, highlight=False)

    def step(self, step: Step) -> None:
        """What is measured now."""
        load = f"{step.offered:g} requests/s" if step.offered is not None else f"{step.connections} connections"
        self.now(f"{step.scenario}: {step.contender}, {load}, {step.rows:,} rows")

    def finish(self, seconds: float) -> None:
        """So many of the expected seconds are behind us."""
        self.done += seconds

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False)

    @property
    def left(self) -> float:
        """Seconds still to go, as they were guessed."""
        return max(self.expected - self.done, 0)


@contextmanager
def telling() -> Iterator[Telling]:
    """A bar for as long as the block runs, drawn twice a second: more would be measured."""
    console = Console(stderr=True)
    columns = (BarColumn(24), TextColumn("{task.fields[left]}"), TextColumn("{task.description}"))
    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as bars:
        yield Telling(console, bars)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
