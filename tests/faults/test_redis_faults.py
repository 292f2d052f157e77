"""Redis is killed, frozen, cut off and flushed under load: no request fails for it, and no answer is stale."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from tests.faults.load import Answer, Answers, Ask, Load, loading, stale
from tests.faults.machines import Gateway
from tests.faults.shop import Machines, cached_reads, growing_writes

pytestmark = pytest.mark.xdist_group("faults")

FAULT_SECONDS = 1.5


@contextmanager
def killed(machines: Machines) -> Iterator[None]:
    machines.valkey.kill()
    machines.valkey.stop()
    try:
        yield
    finally:
        machines.valkey.start()


@contextmanager
def frozen(machines: Machines) -> Iterator[None]:
    with machines.valkey.frozen() as processes:
        assert processes >= 1
        yield


@contextmanager
def black_hole(machines: Machines) -> Iterator[None]:
    machines.redis.turn("swallow")
    yield
    assert machines.redis.counts.swallowed_bytes > 0
    machines.redis.reset()  # what was half open stays so for ever otherwise
    machines.redis.turn("pass")


@contextmanager
def refused(machines: Machines) -> Iterator[None]:
    machines.redis.turn("refuse")
    yield
    assert machines.redis.counts.refused + machines.redis.counts.resets > 0
    machines.redis.turn("pass")


@contextmanager
def flushed(machines: Machines) -> Iterator[None]:
    client = redis.Redis.from_url(machines.valkey.url)
    yield
    for _ in range(5):
        assert client.flushall() is True
    client.close()


FAULTS = (killed, frozen, black_hole, refused, flushed)


def hits(load: Load) -> int:
    return sum(answer.headers.get("x-cache") == "hit" for answer in load.answers.all)


def until_hits(load: Load, more: int = 50) -> None:
    """Until the cache is used: so many more answers came from it."""
    wanted, end = hits(load) + more, time.monotonic() + 60
    while hits(load) < wanted:
        assert time.monotonic() < end, "nothing comes from the cache"
        time.sleep(0.02)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_redis_in_trouble_makes_no_request_fail_and_no_answer_stale(
    fault: Callable[[Machines], AbstractContextManager[None]], machines: Machines, served: Gateway
) -> None:
    with (
        loading(served.port, cached_reads(), callers=4) as reading,
        loading(served.port, growing_writes(), callers=1, pause_seconds=0.01) as writing,
    ):
        until_hits(reading)
        with fault(machines):
            end = time.monotonic() + FAULT_SECONDS
            while time.monotonic() < end:
                time.sleep(0.05)
        until_hits(reading)
        writing.wait_for(20)
    assert reading.answers.statuses().keys() == {200}
    assert writing.answers.statuses().keys() == {200}
    assert stale(writing.answers, reading.answers) == []


def test_the_witness_of_stale_answers_finds_one() -> None:
    """What the tests above stand on: an old value after the acknowledgement of a newer one is told of, and only that."""

    def answers(*each: tuple[str, float, int]) -> Answers:
        found = Answers()
        for method, at, value in each:
            body = b'{"value": %d}' % value
            ask = Ask(method, "/api/v1/counters/1", body if method == "PATCH" else b"")
            found.all.append(Answer(ask, at, 0.5, 200, {"x-cache": "hit"}, b'{"data": %b}' % body))
        return found

    writes = answers(("PATCH", 1.0, 7), ("PATCH", 3.0, 8))
    assert stale(writes, answers(("GET", 1.2, 0), ("GET", 1.6, 7), ("GET", 3.4, 7), ("GET", 3.6, 8))) == []
    assert stale(writes, answers(("GET", 3.6, 7))) == ["/api/v1/counters/1: 7 after 8 was acknowledged, x-cache hit"]


def test_a_killed_redis_is_told_of_in_the_log(machines: Machines, served: Gateway) -> None:
    before, end = served.log.stat().st_size, time.monotonic() + 60
    with killed(machines), loading(served.port, cached_reads(), callers=2) as load:
        while b"Redis" not in served.log.read_bytes()[before:]:
            assert time.monotonic() < end, "the log says nothing of it"
            time.sleep(0.05)
    assert load.answers.statuses().keys() == {200}
