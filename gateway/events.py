"""What happened, as frozen structs: metrics, logs and whoever else wants to know are made of these and nothing else.

An observer is anything that takes an event. It must not raise and must not wait: it is called where the event happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

Event: TypeAlias = msgspec.Struct
"""One of the structs of this module."""

BreakerState = Literal["closed", "half_open", "open"]


class BreakerMoved(msgspec.Struct, frozen=True):
    """A circuit breaker has another state. `reason` is the last fault, for operators; empty for "closed"."""

    name: str
    state: BreakerState
    reason: str


class Retried(msgspec.Struct, frozen=True):
    """A statement is run once more. `reason` is a row of `database.retry.KINDS`."""

    reason: str


class PoolLeft(msgspec.Struct, frozen=True):
    """All connections of a pool are given up, for its server takes no writes any more."""

    pool: str


class MigrationsCompared(msgspec.Struct, frozen=True):
    """The database was held against the revision files: how many of them are not applied."""

    behind: int


Observer = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """An observer that takes no note."""
