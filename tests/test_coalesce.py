"""Many callers, one call. Each test counts the calls that its batches made."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.coalesce import Coalescer
from tests.examples import examples


class Doubler:
    """A call that doubles numbers, fails for negative ones, and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        return [ValueError(number) if number < 0 else number * 2 for number in numbers]


async def _turns(count: int = 5) -> None:
    """Lets every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_lone_question_is_answered_by_a_call_of_its_own_at_once() -> None:
    async def run() -> None:
        doubler = Doubler()
        assert await Coalescer(doubler).ask(4) == 8
        assert doubler.batches == [[4]]

    asyncio.run(run())


def test_a_question_asked_in_the_turn_in_which_the_last_call_ended_is_answered() -> None:
    async def run() -> None:
        doubler = Doubler()
        ask = Coalescer(doubler, max_batches=1).ask
        async with asyncio.timeout(5):
            assert [await ask(number) for number in range(3)] == [0, 2, 4]
        assert doubler.batches == [[0], [1], [2]]

    asyncio.run(run())


def test_questions_of_one_turn_share_one_call() -> None:
    async def run() -> None:
        doubler = Doubler()
        ask = Coalescer(doubler).ask
        assert await asyncio.gather(*(ask(number) for number in range(32))) == [number * 2 for number in range(32)]
        assert doubler.batches == [list(range(32))]

    asyncio.run(run())


def test_questions_gather_while_all_calls_are_under_way_and_then_share_the_next() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batches=2)
        asked = []
        for number in range(6):
            asked.append(asyncio.create_task(coalescer.ask(number)))
            await _turns()
        assert doubler.batches == [[0], [1]]
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]
        assert doubler.batches == [[0], [1], [2, 3, 4, 5]]
        assert doubler.most_under_way == 2

    asyncio.run(run())


def test_a_call_under_way_takes_nobody_in() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batches=1)
        early = asyncio.create_task(coalescer.ask(1))
        await _turns()
        late = asyncio.create_task(coalescer.ask(1))
        await _turns()
        doubler.gate.set()
        assert (await early, await late) == (2, 2)
        assert doubler.batches == [[1], [1]]

    asyncio.run(run())


def test_a_batch_is_no_larger_than_its_bound() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        ask = Coalescer(doubler, max_batch=10, max_batches=2).ask
        asked = asyncio.gather(*(ask(number) for number in range(35)))
        await _turns()
        assert [len(batch) for batch in doubler.batches] == [10, 10]
        doubler.gate.set()
        await asked
        assert [len(batch) for batch in doubler.batches] == [10, 10, 10, 5]
        assert doubler.most_under_way == 2

    asyncio.run(run())


def test_a_cancelled_caller_leaves_alone() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler)
        first, second = asyncio.create_task(coalescer.ask(1)), asyncio.create_task(coalescer.ask(2))
        await _turns()
        first.cancel()
        await _turns()
        doubler.gate.set()
        assert await second == 4
        assert first.cancelled()

    asyncio.run(run())


def test_a_caller_that_runs_out_of_time_leaves_alone() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler)
        patient = asyncio.create_task(coalescer.ask(2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await coalescer.ask(1)
        doubler.gate.set()
        assert await patient == 4

    asyncio.run(run())


def test_who_left_before_the_call_is_not_asked_for() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batches=1)
        under_way = asyncio.create_task(coalescer.ask(0))
        await _turns()
        gone, stays = asyncio.create_task(coalescer.ask(1)), asyncio.create_task(coalescer.ask(2))
        await _turns()
        gone.cancel()
        await _turns()
        doubler.gate.set()
        assert (await under_way, await stays) == (0, 4)
        assert doubler.batches == [[0], [2]]

    asyncio.run(run())


def test_an_exception_among_the_answers_is_its_askers_alone() -> None:
    async def run() -> None:
        ask = Coalescer(Doubler()).ask
        one, bad, two = await asyncio.gather(ask(1), ask(-1), ask(2), return_exceptions=True)
        assert (one, two) == (2, 4)
        assert isinstance(bad, ValueError)

    asyncio.run(run())


def test_a_call_that_raises_raises_to_all_its_callers_and_the_next_one_works() -> None:
    down = True

    async def call(numbers: Sequence[int]) -> list[int]:
        if down:
            raise ConnectionError("gone")
        return list(numbers)

    async def run() -> None:
        nonlocal down
        ask = Coalescer(call).ask
        results = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionError, ConnectionError]
        down = False
        assert await ask(3) == 3

    asyncio.run(run())


def test_one_bad_question_that_spoils_the_call_is_found_and_the_others_are_answered() -> None:
    calls = 0

    async def call(numbers: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if any(number < 0 for number in numbers):
            raise ValueError("a number is negative")
        return [number * 2 for number in numbers]

    async def run() -> None:
        ask = Coalescer(call, isolate=(ValueError,)).ask
        numbers = [*range(63), -1]
        results = await asyncio.gather(*map(ask, numbers), return_exceptions=True)
        assert results[:-1] == [number * 2 for number in range(63)]
        assert isinstance(results[-1], ValueError)
        assert calls == 13

    asyncio.run(run())


def test_a_call_that_answers_too_few_fails_for_all_rather_than_cross_answers() -> None:
    async def call(numbers: Sequence[int]) -> list[int]:
        return list(numbers)[1:]

    async def run() -> None:
        ask = Coalescer(call).ask
        results = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
        assert [type(result) for result in results] == [RuntimeError, RuntimeError]

    asyncio.run(run())


def test_a_call_that_cancels_itself_cancels_no_caller_and_strands_nobody() -> None:
    async def call(numbers: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        if 0 in numbers:
            raise asyncio.CancelledError
        return list(numbers)

    async def run() -> None:
        coalescer = Coalescer(call, max_batch=1, max_batches=1)
        results = await asyncio.gather(coalescer.ask(0), coalescer.ask(1), return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        assert results[1] == 1

    asyncio.run(run())


def test_closing_ends_the_calls_and_lets_every_caller_go() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batch=1, max_batches=1)
        asked = [asyncio.create_task(coalescer.ask(number)) for number in range(3)]
        await _turns()
        await coalescer.close()
        await asyncio.gather(*asked, return_exceptions=True)
        assert all(task.cancelled() for task in asked)
        assert doubler.under_way == 0

    asyncio.run(run())


def test_a_call_that_takes_long_holds_up_nobody_else() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batches=2, patience_seconds=0.01)
        asked = []
        for number in range(2):
            asked.append(asyncio.create_task(coalescer.ask(number)))
            await _turns()
        asked += [asyncio.create_task(coalescer.ask(number)) for number in range(2, 5)]
        async with asyncio.timeout(5):
            while len(doubler.batches) < 3:
                await asyncio.sleep(0.001)
        assert doubler.batches == [[0], [1], [2, 3, 4]]
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8]
        assert await coalescer.ask(7) == 14

    asyncio.run(run())


def test_closing_ends_the_calls_that_take_long_too() -> None:
    async def run() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        coalescer = Coalescer(doubler, max_batches=1, patience_seconds=0.01)
        asked = [asyncio.create_task(coalescer.ask(0))]
        await _turns()
        asked.append(asyncio.create_task(coalescer.ask(1)))
        async with asyncio.timeout(5):
            while len(doubler.batches) < 2:
                await asyncio.sleep(0.001)
        await coalescer.close()
        assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*asked, return_exceptions=True))
        assert doubler.under_way == 0

    asyncio.run(run())


def test_a_call_does_not_run_in_its_first_callers_context() -> None:
    caller = contextvars.ContextVar("caller", default="nobody")

    async def call(numbers: Sequence[int]) -> list[str]:
        return [caller.get() for _ in numbers]

    async def run() -> None:
        coalescer = Coalescer(call)
        caller.set("somebody")
        assert await coalescer.ask(1) == "nobody"

    asyncio.run(run())


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-3, 50), st.integers(0, 3), st.booleans()), max_size=40),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_everybody_gets_their_own_answer_whoever_comes_goes_or_fails(
    callers: list[tuple[int, int, bool]], max_batch: int, max_batches: int
) -> None:
    """A caller is a number, the turns to wait before it asks, and whether it is cancelled a turn later."""

    async def run() -> None:
        doubler = Doubler()
        coalescer = Coalescer(doubler, max_batch=max_batch, max_batches=max_batches)
        asked: list[tuple[int, bool, asyncio.Task[int]]] = []
        for number, turns, leaves in callers:
            await _turns(turns)
            task = asyncio.create_task(coalescer.ask(number))
            if leaves:
                await asyncio.sleep(0)
                task.cancel()
            asked.append((number, leaves, task))
        results = await asyncio.gather(*(task for _, _, task in asked), return_exceptions=True)
        for (number, leaves, _), result in zip(asked, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                assert leaves
            elif number < 0:
                assert isinstance(result, ValueError)
                assert result.args == (number,)
            else:
                assert result == number * 2
        assert doubler.most_under_way <= max_batches
        assert all(len(batch) <= max_batch for batch in doubler.batches)

    asyncio.run(run())


def test_a_fault_that_is_common_to_all_is_told_to_who_waits_at_once() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        batches: list[list[int]] = []

        async def call(numbers: Sequence[int]) -> list[int]:
            batches.append(list(numbers))
            await gate.wait()
            raise ConnectionRefusedError if numbers[0] < 3 else KeyError

        coalescer: Coalescer[int, int] = Coalescer(call, max_batch=1, max_batches=1, common=(ConnectionRefusedError,))
        asked = [asyncio.create_task(coalescer.ask(number)) for number in range(3)]
        await _turns()
        gate.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionRefusedError] * 3
        assert batches == [[0]]
        with pytest.raises(KeyError):  # and it goes on
            await coalescer.ask(3)

    asyncio.run(run())


@pytest.mark.parametrize("common", [(), (ConnectionRefusedError,)])
def test_who_is_told_may_ask_anew_at_once_and_hurts_nobody(common: tuple[type[Exception], ...]) -> None:
    """As a connection does whose next request has come already: it is answered by a call of its own."""

    async def run() -> None:
        batches: list[list[int]] = []
        told: list[tuple[int, object]] = []

        async def call(numbers: Sequence[int]) -> list[int]:
            batches.append(list(numbers))
            await asyncio.sleep(0)
            if numbers[0] < 100:
                raise ConnectionRefusedError
            return list(numbers)

        coalescer: Coalescer[int, int] = Coalescer(call, max_batch=2, max_batches=1, common=common)

        class Asker:
            def __init__(self, number: int) -> None:
                self.number = number
                self.is_told = False
                coalescer.enqueue(number, self)

            def done(self) -> bool:
                return self.is_told

            def set_result(self, result: int, /) -> None:
                self.is_told = True
                told.append((self.number, result))

            def set_exception(self, exception: Exception, /) -> None:
                self.is_told = True
                told.append((self.number, type(exception)))
                Asker(self.number + 100)

            def cancel(self) -> None:
                assert self.is_told

        for number in range(6):
            Asker(number)
        async with asyncio.timeout(10):
            while len(told) < 12:
                await asyncio.sleep(0)
        assert told[:6] == [(number, ConnectionRefusedError) for number in range(6)]
        assert told[6:] == [(number, number) for number in range(100, 106)]
        assert len(batches) == (4 if common else 6)

    asyncio.run(run())
