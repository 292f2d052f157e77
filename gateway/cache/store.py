"""What a store of answers is, in words that the memory of a process and Redis share.

An answer is kept under a *stamp*: what the tokens of the tables that it was made from were before the database was read. A
write gives its tables new tokens, so that the stamp is never seen again, and with it everything that was kept under it.
A store gives the stamp of this moment with every look, and an entry only where it carries that stamp and the whole key.
"""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec

from gateway.coalesce import Waiter

TOKEN_BYTES = 12


class StoreDown(Exception):
    """The store did not do what it was asked; nothing is known of whether it will have, later."""


class Key(msgspec.Struct, frozen=True):
    """What an answer is kept as. `name` is for people and may be shortened; `whole` is everything that the answer depends on."""

    name: str
    whole: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer as kept. `loaded_at` is in seconds since the epoch, by the clock of the process that read it."""

    whole: bytes
    stamp: bytes
    loaded_at: float
    body: bytes


class Found(msgspec.Struct, frozen=True):
    """What a look gave: the stamp of now, to keep an answer under, and the entry that carries it, if there is one."""

    stamp: bytes
    entry: Entry | None


class Store(Protocol):
    """Where answers are kept. Belongs to one event loop."""

    @property
    def is_up(self) -> bool:
        """Whether it is worth asking."""

    @property
    def errors(self) -> int:
        """How many calls failed."""

    async def look(self, key: Key, tables: tuple[str, ...]) -> Found:
        """The stamp of `tables`, and the entry of `key` under it, both as of one moment. Raises StoreDown."""

    def ask(self, key: Key, tables: tuple[str, ...], waiter: Waiter[Found]) -> Found | None:
        """As `look`, for who is no task: what is found, or None where `waiter` will be told. Raises StoreDown, or tells it."""

    def keep(self, key: Key, entry: Entry, ttl_seconds: float) -> None:
        """Keeps an entry, soon and if it can."""

    async def renew(self, tables: tuple[str, ...]) -> None:
        """Gives the tables new tokens, so that what was made from them is gone. Raises StoreDown."""

    async def clear(self) -> None:
        """Makes everything gone. Works on a store that is down, and brings it up. Raises StoreDown."""

    async def probe(self) -> None:
        """Looks whether a store that is down is well again. Raises StoreDown."""

    async def close(self) -> None:
        """Ends what is under way."""


def new_token() -> bytes:
    """A token that never was and never will be again: chance, not a count, for a count that is lost begins anew."""
    return secrets.token_hex(TOKEN_BYTES).encode()
