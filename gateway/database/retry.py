"""Which faults are worth another try, and how many of those there may be.

A fault is of one kind; `KINDS` says of each whether trying again is safe and what it tells of the server. What a server answered
to a statement is final, but for the few answers that mean "again". Pure, but for the clock of the budget.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

import asyncpg
import msgspec

from gateway.database.sqlstate import ends_the_session
from gateway.errors import GatewayError

MAX_RETRIES = 2
FIRST_PAUSE_SECONDS = 0.05
"""The longest pause before the first retry; it doubles with each. Full jitter: any pause up to that is as likely."""


class Kind(msgspec.Struct, frozen=True):
    """`again`: never, for what changes nothing (a read, or a write that was surely not made), or always. `fails`: the server
    could not be reached or did not answer in time, which is what a breaker counts."""

    reason: str
    again: Literal["never", "unwritten", "always"]
    fails: bool = False


ANSWERED = Kind("answered", "never")
REFUSED = Kind("connect", "unwritten", fails=True)
UNREACHABLE = Kind("unreachable", "never", fails=True)  # it took the whole time that one may wait for a connection
LOST = Kind("lost", "unwritten")  # which tells of one connection; whether the server is gone the next attempt will show
TIMEOUT = Kind("timeout", "unwritten", fails=True)
SERIALIZATION = Kind("serialization", "always")
STALE = Kind("stale_plan", "always")
DEMOTED = Kind("demoted", "always")

KINDS = (ANSWERED, REFUSED, UNREACHABLE, LOST, TIMEOUT, SERIALIZATION, STALE, DEMOTED)

BY_SQLSTATE = {"40001": SERIALIZATION, "40P01": SERIALIZATION, "25006": DEMOTED}
"""Answers that mean that nothing was done, and that another try may well do it. None of 22, 23, 42, 53 or 57014 does."""


class NoConnection(Exception):
    """A connection could not be opened in the time that one may wait for it."""


def kind_of(fault: BaseException, sent: bool) -> Kind:
    """What a fault is. `sent` says that a connection was there and the statement was begun."""
    match fault:
        case NoConnection():
            return UNREACHABLE
        case GatewayError():
            return ANSWERED  # our own shedding
        case asyncpg.InvalidCachedStatementError():
            return STALE
        case asyncpg.PostgresError() if fault.sqlstate and not isinstance(fault, asyncpg.PostgresConnectionError):
            return _of_answer(fault, str(fault.sqlstate), sent)
        case TimeoutError():
            return TIMEOUT if sent else UNREACHABLE
        case OSError() | asyncpg.PostgresConnectionError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return LOST if sent else REFUSED
        case _:
            return ANSWERED


def _of_answer(fault: asyncpg.PostgresError, state: str, sent: bool) -> Kind:
    if not sent:
        return REFUSED if state == "57P03" else ANSWERED  # it starts or stops; else it is up, and has its reasons
    if state in BY_SQLSTATE:
        return BY_SQLSTATE[state]
    return LOST if ends_the_session(fault) else ANSWERED


def pause_seconds(retries: int, random: Callable[[], float] = random.random) -> float:
    """How long to wait before the next try, after so many retries."""
    return random() * FIRST_PAUSE_SECONDS * 2.0**retries


class Budget:
    """How many retries there may be: a part of all statements, and a few a second for a service that is not busy.

    Without it, a database in trouble would get three times the load. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        part: float = 0.1,
        per_second: float = 10.0,
        most: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._part = part
        self._per_second = per_second
        self._most = most
        self._clock = clock
        self._left = most
        self._counted_at = clock()
        self.statements = 0
        """Statements since a retry was last asked for; whoever runs one counts it."""

    def take(self) -> bool:
        """Whether another retry may be made; counts it where it may."""
        now = self._clock()
        earned = self.statements * self._part + (now - self._counted_at) * self._per_second
        self._left = min(self._most, self._left + earned)
        self.statements, self._counted_at = 0, now
        if self._left < 1:
            return False
        self._left -= 1
        return True
