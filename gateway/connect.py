"""A PostgreSQL URL in, a connection out: to the first of its servers that answers and is what the URL wants.

asyncpg tries several hosts one after another within one timeout, so that one that swallows packets, as a machine without power
does, keeps the others from being tried at all; and a host that refuses the login ends the search. Here a host that has
not answered in a moment gets company by the next one, and any fault of one host leads to the next.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import asyncpg

from gateway.dsn import Host, hosts, session_attributes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Attempt: TypeAlias = "asyncio.Task[Connection]"

COMPANY_SECONDS = 0.3
"""How long a host may take before the next one is tried beside it."""

FAULTS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What an attempt can end with."""


class NoSuchServer(ConnectionError):
    """None of the servers that answer is what the URL wants: there is no primary now, as a rule."""


async def connect(url: str, *, timeout_seconds: float, **options: Any) -> Connection:
    """One connection; see `Connector.connect`."""
    return await Connector(url).connect(timeout_seconds=timeout_seconds, **options)


class Connector:
    """Connects again and again to what one URL names, beginning with the server that was right the last time."""

    def __init__(self, url: str, company_seconds: float = COMPANY_SECONDS) -> None:
        self._url = url
        self._company_seconds = company_seconds
        self._hosts = list(hosts(url))
        self._attributes = session_attributes(url)
        self._late: set[Attempt] = set()

    @property
    def is_particular(self) -> bool:
        """Whether the URL wants a server that takes writes, and would not have another."""
        return self._attributes in ("read-write", "primary")

    async def connect(self, *, timeout_seconds: float, **options: Any) -> Connection:
        """A connection, with the driver's `options`. Raises NoSuchServer, or one of `FAULTS`: the first host's.

        `timeout_seconds` is for each host.
        """
        options = {"target_session_attrs": self._attributes, **options}
        if len(self._hosts) < 2:
            return await _attempt(self._url, {}, timeout_seconds, options)
        waiting = list(self._hosts)
        attempts: dict[Attempt, Host] = {}
        faults: list[BaseException] = []
        try:
            while waiting or attempts:
                if waiting:
                    host = waiting.pop(0)
                    named = {"host": host.name, "port": host.port}
                    attempts[asyncio.ensure_future(_attempt(self._url, named, timeout_seconds, options))] = host
                done, _ = await asyncio.wait(
                    attempts, timeout=self._company_seconds if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    fault = attempt.exception()
                    if fault is None:
                        self._prefer(attempts.pop(attempt))
                        return attempt.result()
                    faults.append(fault)
                    del attempts[attempt]
        finally:
            self._let_go(attempts)
        raise next((fault for fault in faults if isinstance(fault, NoSuchServer)), faults[0])

    def _prefer(self, host: Host) -> None:
        self._hosts.remove(host)
        self._hosts.insert(0, host)

    def _let_go(self, attempts: dict[Attempt, Host]) -> None:
        """What comes too late is closed. It is not cancelled: asyncpg can leave a connection behind whose opening is."""
        for attempt in attempts:
            self._late.add(attempt)
            attempt.add_done_callback(self._came_late)

    def _came_late(self, attempt: Attempt) -> None:
        self._late.discard(attempt)
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().terminate()


async def _attempt(url: str, host: dict[str, Any], timeout_seconds: float, options: dict[str, Any]) -> Connection:
    try:
        connection: Connection = await asyncpg.connect(url, timeout=timeout_seconds, **host, **options)
    except asyncpg.TargetServerAttributeNotMatched as fault:
        raise NoSuchServer(f"no server that is {options['target_session_attrs']} answers") from fault
    return connection
