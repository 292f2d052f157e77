"""Bounds: what takes too long ends, what does not is left alone, and a cancellation by somebody else stays one."""

from __future__ import annotations

import asyncio

import pytest

from gateway.deadlines import Deadlines, Endable


def test_what_takes_too_long_ends_and_not_before_its_time() -> None:
    async def run() -> None:
        deadlines = Deadlines(tick_seconds=0.005)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError), deadlines.within(0.02):
            await asyncio.sleep(30)
        assert loop.time() - began >= 0.02
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(run())


def test_what_is_in_time_is_left_alone_and_the_timer_ends() -> None:
    async def run() -> None:
        deadlines = Deadlines(tick_seconds=0.001)
        for _ in range(100):
            with deadlines.within(0.01):
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while deadlines._timer is not None:
                await asyncio.sleep(0.001)
        assert deadlines._ticks == {}
        with pytest.raises(TimeoutError), deadlines.within(0.01):  # and begins again
            await asyncio.sleep(30)

    asyncio.run(run())


def test_many_waits_end_each_at_its_own_time() -> None:
    async def run() -> None:
        deadlines = Deadlines(tick_seconds=0.005)
        ended: list[int] = []

        async def wait(number: int) -> None:
            try:
                with deadlines.within(0.02 * number):
                    await asyncio.sleep(30)
            except TimeoutError:
                ended.append(number)

        async with asyncio.timeout(10):
            await asyncio.gather(*(wait(number) for number in (3, 1, 2, 1)))
        assert ended == [1, 1, 2, 3]

    asyncio.run(run())


def test_what_is_late_may_be_told_in_other_words() -> None:
    async def run() -> None:
        with pytest.raises(ConnectionError), Deadlines(tick_seconds=0.005).within(0.01, ConnectionError):
            await asyncio.sleep(30)

    asyncio.run(run())


def test_a_fault_within_passes_as_it_is() -> None:
    async def run() -> None:
        with pytest.raises(KeyError), Deadlines().within(5):
            raise KeyError

    asyncio.run(run())


def test_a_cancellation_by_somebody_else_stays_one() -> None:
    async def run() -> None:
        deadlines = Deadlines(tick_seconds=0.005)

        async def wait() -> None:
            with deadlines.within(0.01):
                try:
                    await asyncio.sleep(30)
                finally:
                    await asyncio.sleep(0)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_what_is_watched_ends_once_and_may_take_itself_and_others_out_and_watch_anew() -> None:
    async def run() -> None:
        deadlines = Deadlines(tick_seconds=0.005)
        ended: list[str] = []
        ticks: dict[str, set[Endable]] = {}

        class Watched:
            def __init__(self, name: str, *others: Watched) -> None:
                self.name = name
                self.others = others
                ticks[name] = deadlines.watch(60 if name == "late" else 0.01, self)

            def end(self) -> None:
                ended.append(self.name)
                for each in (self, *self.others):
                    ticks[each.name].discard(each)
                if self.name.startswith("first"):
                    Watched("second")

        Watched("late")
        friends = Watched("first a"), Watched("first b")
        friends[0].others, friends[1].others = friends[1:], friends[:1]
        Watched("first c")
        async with asyncio.timeout(10):
            while ended.count("second") < 2:
                await asyncio.sleep(0.001)
        assert sorted(name[:7] for name in ended if name != "second") in (["first a", "first c"], ["first b", "first c"])
        with pytest.raises(TimeoutError), deadlines.within(0.01):  # and the timer goes on
            await asyncio.sleep(30)
        assert len(ended) == 4

    asyncio.run(run())
