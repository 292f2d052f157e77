"""What commands print: the output asked for on stdout, progress and mistakes on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def tell(line: str) -> None:
    """A line of progress, or of a mistake."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the terminal is these commands' output


def say(line: str) -> None:
    """A line of what the command is asked for."""
    print(line, flush=True)  # noqa: T201 - as above


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, if that is a terminal; gives what takes a resource's name, its rows done, and its rows in all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield advance
