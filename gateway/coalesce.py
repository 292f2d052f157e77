"""Many callers, one call: questions in, an answer for each, and one round trip for all that are in flight together.

A caller asks and waits. The question joins those of other callers, and one call answers them all: `= ANY($1)` for point reads,
MGET for a cache, one script for rate limits. Nothing waits for company: a call starts in the loop's next turn with whatever
is there, and only while `max_batches` calls are under way do questions gather. So an idle gateway adds no delay, and a busy one
makes few calls.

What holds:
- Every answer was read after its question came: a call that is under way takes nobody in.
- A caller that is cancelled or runs out of time leaves alone. The call goes on for the others.
- An answer that is an exception is raised to its own caller only.
- Equal questions are not merged. What may be shared (a read) the call merges by itself; what may not (a counter) it does not.

Belongs to one event loop; not safe among threads.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar, cast

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Told = TypeVar("Told", contravariant=True)


class Waiter(Protocol[Told]):
    """Who waits for an answer: a future, or anything that is told as one is. It must not raise when it is told."""

    def done(self) -> bool:
        """Whether nothing needs to be told any more."""

    def set_result(self, result: Told, /) -> None:
        """The answer."""

    def set_exception(self, exception: Exception, /) -> None:
        """What came in place of it."""

    def cancel(self) -> object:
        """There will be none."""


BatchCall = Callable[[Sequence[Question]], Awaitable[Sequence[Answer | Exception]]]
"""Answers, or exceptions to raise to their askers, as many as the questions and in their order."""

Asked = list[tuple[Question, Waiter[Answer]]]


def _untold(_size: int) -> None:
    """Nobody wants to know how large batches are."""


class Coalescer(Generic[Question, Answer]):
    """Asks `call` with up to `max_batch` questions at once, and has at most `max_batches` such calls under way.

    Where `call` raises, all its callers get that exception. One of the classes in `isolate` is taken for the fault of a single
    question instead: the batch is asked again in halves until that one stands alone. That is for calls that change nothing.
    One of the classes in `common` is the fault of no batch in particular: all that wait get it too, and need not wait for as long
    again to be told the same.
    A call that takes longer than `patience_seconds` is not counted among the `max_batches` any more: what holds it up holds up
    nobody else.
    `sized` hears how many questions each call takes. `max_batch` may be changed from one call to the next.
    """

    def __init__(
        self,
        call: BatchCall[Question, Answer],
        *,
        max_batch: int = 128,
        max_batches: int = 2,
        isolate: tuple[type[Exception], ...] = (),
        sized: Callable[[int], None] = _untold,
        common: tuple[type[Exception], ...] = (),
        patience_seconds: float | None = None,
    ) -> None:
        self._call = call
        self._sized = sized
        self.max_batch = max_batch
        self.max_batches = max_batches
        self._isolate = isolate
        self._common = common
        self._patience_seconds = patience_seconds
        self._waiting: deque[tuple[Question, Waiter[Answer]]] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._passed_over: set[asyncio.Task[None]] = set()
        self._starting = False

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Raises what `call` has for it, or raised."""
        return await self.submit(question)

    def submit(self, question: Question) -> asyncio.Future[Answer]:
        """The answer to come, for who has something else to do meanwhile. Cancelled, it leaves the others alone."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.enqueue(question, future)
        return future

    def enqueue(self, question: Question, waiter: Waiter[Answer]) -> None:
        """As `submit`, for who is no task: `waiter` is told within the call's own task, in a context that is nobody's."""
        self._waiting.append((question, waiter))
        if not self._starting and len(self._runners) < self.max_batches:
            self._start()

    async def close(self) -> None:
        """Ends the calls under way; who still waits is cancelled."""
        runners = [*self._runners, *self._passed_over]
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        self._starting = False
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def _start(self) -> None:
        """One more runner, which takes what waits when its turn comes: until then nobody needs another."""
        self._starting = True
        # A batch belongs to nobody: without a context of its own it would run in its first caller's, trace and all. Each runner
        # has another, for what a call sets there must not reach the call beside it.
        runner = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    async def _run(self) -> None:
        """Takes batch after batch until nobody waits, or until others do so in its place."""
        self._starting = False
        runner = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while runner in self._runners and (batch := self._take()):
                self._start_another()
                patience = None
                if self._patience_seconds is not None:
                    patience = asyncio.get_running_loop().call_later(self._patience_seconds, self._pass_over, runner)
                try:
                    await self._settle(batch)
                except BaseException:  # this task itself was cancelled: otherwise all are told
                    for _, waiter in batch:
                        waiter.cancel()
                    raise
                finally:
                    if patience is not None:
                        patience.cancel()
        finally:
            # Now, not by the callback, which runs a turn later: who asks in between would wait for a runner that has ended.
            self._runners.discard(runner)
            self._passed_over.discard(runner)

    def _start_another(self) -> None:
        if self._waiting and not self._starting and len(self._runners) < self.max_batches:
            self._start()

    def _pass_over(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._passed_over.add(runner)
        self._start_another()

    def _take(self) -> Asked[Question, Answer]:
        """The next ones, without those whose callers have left; empty where nobody waits any more."""
        waiting = self._waiting
        batch: Asked[Question, Answer] = []
        while waiting and not batch:
            if len(waiting) <= self.max_batch:
                taken: Iterable[tuple[Question, Waiter[Answer]]] = tuple(waiting)
                waiting.clear()
            else:
                taken = [waiting.popleft() for _ in range(self.max_batch)]
            batch = [asked for asked in taken if not asked[1].done()]
        return batch

    async def _settle(self, batch: Asked[Question, Answer]) -> None:
        self._sized(len(batch))
        try:
            answers = await self._call([question for question, _ in batch])
        except asyncio.CancelledError:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise  # this task's own, by `close` or the end of the loop
            _fail(batch, RuntimeError("the call for a batch cancelled itself"))
        except self._isolate as fault:
            if len(batch) == 1:
                _fail(batch, fault)
                return
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
        except Exception as fault:  # noqa: BLE001 - it is the callers', and each gets it
            waiting = tuple(self._waiting) if isinstance(fault, self._common) else ()  # who is told may ask anew at once
            _fail(batch, fault)
            _fail(waiting, fault)
        else:
            _tell(batch, answers)


def _tell(batch: Asked[Question, Answer], answers: Sequence[Answer | Exception]) -> None:
    if len(answers) != len(batch):
        _fail(batch, RuntimeError(f"{len(batch)} questions got {len(answers)} answers"))
        return
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():  # its caller has left
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _fail(batch: Iterable[tuple[Question, Waiter[Answer]]], fault: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(fault)
