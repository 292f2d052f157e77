"""The next catalog beside the live one: whether it may take its place, and how often it is tried. Files, tables and time in,
a swap or a refusal out.

A reload that was asked for reads files and tables anew. One that a statement asked for, which met tables that have changed
under it, reads the tables alone: what somebody is just writing into the files is none of its business. Either is refused whole
where a resource that is served now would not be any more, but for one whose file is gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from gateway.cache.dependencies import Dependencies
from gateway.catalog.model import Catalog
from gateway.definitions.model import Fault, Loaded
from gateway.errors import ConfigurationError
from gateway.events import Observer, Reloaded, nobody

logger = logging.getLogger("gateway")

PATIENCE_SECONDS = 3.0
"""What a request waits for the tables to be read anew."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0
"""Between two times that statements have the tables read: longer where that changed nothing."""


class Draft(msgspec.Struct, frozen=True, eq=False):
    """A catalog that may be served, and for the cache which tables hang on which. `content` is all that both were made of: equal
    ones serve the same."""

    loaded: Loaded
    catalog: Catalog
    faults: tuple[Fault, ...]
    dependencies: Dependencies
    content: bytes


class Refused(ConfigurationError):
    """A draft that would serve less than what is served now."""


def content_of(catalog: Catalog, dependencies: Dependencies) -> bytes:
    """What is served by: every definition, every table, and which hang on which."""
    made = [(place, resource.definition, resource.table) for place, resource in sorted(catalog.resources.items())]
    edges = [
        sorted((source, sorted(targets)) for source, targets in found.items())
        for found in (dependencies.views, dependencies.carried)
    ]
    return msgspec.msgpack.encode((made, sorted(catalog.broken.items()), edges))


def refuse_worse(live: Catalog, draft: Draft) -> None:
    """Raises Refused, with every fault, where a resource of the draft is broken that is not broken in what is served."""
    worse = sorted(place for place in draft.catalog.broken if place not in live.broken)
    if worse:
        names = ", ".join(f"{version}/{name}" for version, name in worse)
        raise Refused("\n".join([f"would not be served any more: {names}", *map(str, draft.faults)]))


class Reloader:
    """Reloads one after the other. `draft` makes the next catalog, of files and tables or of tables alone; `swap` serves it.
    `live` is what is served now, and `content` what that was made of.

    `notice` is why the last one was refused, for `/health/ready`; empty where it was not. It tells of resources alone: what a
    file or the database says of itself is the log's. `version` counts the swaps.
    """

    def __init__(
        self,
        live: Callable[[], Catalog],
        content: Callable[[], bytes],
        draft: Callable[[bool], Awaitable[Draft]],
        swap: Callable[[Draft], Awaitable[None]],
        observe: Observer = nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._content = content
        self._draft = draft
        self._swap = swap
        self._observe = observe
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._catching_up: asyncio.Task[None] | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._next_at = 0.0
        self.notice = ""
        self.version = 1

    async def reload(self) -> None:
        """Serves by files and tables as they are now, or goes on as before and says why. Raises nothing."""
        async with self._one_at_a_time:
            await self._try(with_files=True)

    async def catch_up(self, served: Catalog) -> bool:
        """A statement of `served` met tables that it does not fit. Whether another catalog is served now: then try again."""
        if self._live() is served:
            if self._catching_up is None or self._catching_up.done():
                wait = self._next_at - self._clock()
                if wait > PATIENCE_SECONDS:
                    return False
                self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(served, max(wait, 0)))
            await asyncio.wait([self._catching_up], timeout=PATIENCE_SECONDS)
        return self._live() is not served

    async def stop(self) -> None:
        """Ends what is under way."""
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])

    async def _catch_up(self, served: Catalog, wait_seconds: float) -> None:
        await asyncio.sleep(wait_seconds)
        async with self._one_at_a_time:
            if self._live() is served:
                changed = await self._try(with_files=False)
                longer = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
                self._pause_seconds = FIRST_PAUSE_SECONDS if changed else longer
                self._next_at = self._clock() + self._pause_seconds

    async def _try(self, with_files: bool) -> bool:
        """Whether something else is served now."""
        live = self._live()
        try:
            draft = await self._draft(with_files)
            refuse_worse(live, draft)
            if draft.content == self._content():
                logger.info("reload: nothing has changed")
                return self._tell("unchanged")
            await self._swap(draft)
        except ConfigurationError as fault:
            told = str(fault).partition("\n")[0] if isinstance(fault, Refused) else "the files or the database could not be read"
            return self._refuse(str(fault), told, logging.ERROR if with_files else logging.WARNING)
        except Exception:
            logger.exception("reload: failed")
            return self._refuse("a fault of the gateway", "a fault of the gateway", logging.ERROR)
        self.version += 1
        logger.warning("reload: %d resources are served anew", len(draft.catalog.resources))
        return self._tell("swapped")

    def _tell(self, outcome: Literal["swapped", "unchanged"]) -> bool:
        self.notice = ""
        self._observe(Reloaded(outcome))
        return outcome == "swapped"

    def _refuse(self, reason: str, told: str, level: int) -> bool:
        """Nobody asked for one that a statement brought about: a table that is gone is no error of the gateway's."""
        logger.log(level, "reload: refused, what was served before goes on: %s", reason)
        self.notice = f"the last reload was refused, what was served before goes on: {told}; the log says more"
        self._observe(Reloaded("refused", told))
        return False
