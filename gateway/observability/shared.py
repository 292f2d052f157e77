"""Numbers of several workers: each leaves its own in a directory, and whoever is scraped adds up what lies there.

A file holds one process's snapshot, in MessagePack, named by its pid, written aside and moved into place. What a process has
counted stays true when it is gone: its counters and histograms are kept, added to those of others that are gone, and its
gauges are dropped. A worker that is killed takes with it what it counted since its last second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.observability.metrics import ROWS, Labels, Numbers, Snapshot

DIRECTORY_VARIABLE = "GATEWAY_METRICS_DIR"
"""How `serve` tells its workers where the directory is."""

GONE = "gone.numbers"

Stored = dict[str, list[tuple[Labels, Numbers]]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stored).decode


class SharedDirectory:
    """The directory, for the process `pid`."""

    def __init__(self, directory: Path, pid: int | None = None) -> None:
        self._directory = directory
        self._pid = os.getpid() if pid is None else pid

    def leave(self, snapshot: Snapshot) -> None:
        """Puts this process's numbers in place of what it left before."""
        self._put(f"{self._pid}.numbers", snapshot)

    def gather(self, own: Snapshot) -> Snapshot:
        """`own` and what all other processes left, added up."""
        with self._locked():
            self._fold_gone()
            others = [self._read(path) for path in self._files() if path.name != f"{self._pid}.numbers"]
        return add_up([own, *others])

    def _fold_gone(self) -> None:
        """Adds what processes left that are gone to one file, without their gauges."""
        gone = [path for path in self._files() if path.name != GONE and not _is_alive(int(path.stem))]
        if gone:
            kept = [self._read(path) for path in (self._directory / GONE, *gone) if path.exists()]
            self._put(GONE, {name: found for name, found in add_up(kept).items() if ROWS[name].kind != "gauge"})
            for path in gone:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.numbers"))

    def _read(self, path: Path) -> Snapshot:
        return {name: dict(found) for name, found in _decode(path.read_bytes()).items() if name in ROWS}

    def _put(self, name: str, snapshot: Snapshot) -> None:
        aside = self._directory / f"{name}.{self._pid}.new"
        aside.write_bytes(_encode({name: list(found.items()) for name, found in snapshot.items()}))
        aside.replace(self._directory / name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among those that gather; who leaves numbers waits for nobody."""
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Several processes' numbers as one's: sums, and for gauges what their row says."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, found in snapshot.items():
            metric = total.setdefault(name, {})
            join = JOINS[ROWS[name].across]
            for labels, numbers in found.items():
                known = metric.get(labels)
                metric[labels] = numbers if known is None else [join(pair) for pair in zip(known, numbers, strict=True)]
    return total


JOINS: Mapping[str, Callable[[tuple[float, float]], float]] = {"sum": sum, "max": max, "min": min}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
