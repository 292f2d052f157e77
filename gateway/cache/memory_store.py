"""Answers in the memory of one process: bounded by number and by size, the longest unused going first.

For a process that is alone: what another process writes, this one does not see.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.cache.store import Entry, Found, Key, new_token
from gateway.coalesce import Waiter

MAX_ENTRIES = 20_000
MAX_BYTES = 64 * 1024 * 1024
OVERHEAD_BYTES = 600
"""What an entry costs beside its key and its body."""


class MemoryStore:
    """A store whose every call succeeds at once. `clock` gives seconds and never goes back."""

    is_up = True
    errors = 0

    def __init__(
        self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Entry, float, int]] = OrderedDict()  # entry, when it ends, its size
        self._tokens: dict[str, bytes] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def look(self, key: Key, tables: tuple[str, ...]) -> Found:
        """The stamp of now, and the entry under it."""
        return self._look(key, tables)

    def ask(self, key: Key, tables: tuple[str, ...], _waiter: Waiter[Found]) -> Found:
        """The same, at once."""
        return self._look(key, tables)

    def _look(self, key: Key, tables: tuple[str, ...]) -> Found:
        stamp = self._stamp(tables)
        kept = self._kept.get(key.name)
        if kept is None:
            return Found(stamp, None)
        entry, ends, _ = kept
        if entry.stamp != stamp or entry.whole != key.whole or ends <= self._clock():
            self._drop(key.name)
            return Found(stamp, None)
        self._kept.move_to_end(key.name)
        return Found(stamp, entry)

    def keep(self, key: Key, entry: Entry, ttl_seconds: float) -> None:
        """Keeps an entry at once, and drops the longest unused ones for it. One that is too large by itself is not kept."""
        size = OVERHEAD_BYTES + 2 * len(key.name) + len(entry.whole) + len(entry.body)
        if key.name in self._kept:
            self._drop(key.name)
        if size > self._max_bytes:
            return
        self._kept[key.name] = (entry, self._clock() + ttl_seconds, size)
        self.bytes += size
        while self.bytes > self._max_bytes or len(self._kept) > self._max_entries:
            self._drop(next(iter(self._kept)))

    async def renew(self, tables: tuple[str, ...]) -> None:
        """New tokens. What was made from the tables is dropped when it is looked for, or as the longest unused."""
        for table in tables:
            self._tokens[table] = new_token()

    async def clear(self) -> None:
        """Drops everything."""
        self._tokens.clear()
        self._kept.clear()
        self.bytes = 0

    async def probe(self) -> None:
        """Is always well."""

    async def close(self) -> None:
        """Drops everything."""
        await self.clear()

    def _stamp(self, tables: tuple[str, ...]) -> bytes:
        tokens = self._tokens
        try:
            if len(tables) == 1:
                return tokens[tables[0]]
            return b" ".join([tokens[table] for table in tables])
        except KeyError:
            for table in tables:
                tokens.setdefault(table, new_token())
            return self._stamp(tables)

    def _drop(self, name: str) -> None:
        self.bytes -= self._kept.pop(name)[2]
