"""The load of the closed loops, against small servers that answer well, late, or not at all."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

import pytest

from bench import generator
from bench.generator import Load, Outcome, drive
from bench.scenarios import Rows

HIT = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-cache: hit\r\n\r\nhello"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
CLOSING = b"close"
SILENCE = b""


class Server(asyncio.Protocol):
    """Answers each request with the next of some answers, head and body in packets of their own."""

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.answers = itertools.cycle(answers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        answer = next(self.answers)
        if answer == CLOSING:
            self.transport.close()
            return
        head, blank, body = answer.partition(b"\r\n\r\n")
        self.transport.write(head)
        asyncio.get_running_loop().call_soon(self.transport.write, blank + body)


def driven(*answers: bytes) -> tuple[Outcome, list[str]]:
    """What a load makes of a server that gives these answers in turn, and what it said meanwhile."""
    said: list[str] = []

    async def run() -> Outcome:
        server = await asyncio.get_running_loop().create_server(lambda: Server(answers), "127.0.0.1", 0)
        async with server:
            load = Load(
                port=server.sockets[0].getsockname()[1],
                scenario="point",
                dialect="gateway",
                rows=Rows(10, 2),
                connections=3,
                seconds=0.15,
                warmup_seconds=0.05,
            )
            outcome = await drive(load, said.append)
            await asyncio.sleep(0.02)  # in which the server notices that its callers left
            return outcome

    return asyncio.run(run()), said


def test_answers_are_counted_and_timed_between_begin_and_end() -> None:
    outcome, said = driven(HIT)
    assert said == ["begin", "end"]
    assert outcome.requests > 3
    assert (outcome.errors, outcome.hits, outcome.marked) == (0, outcome.requests, outcome.requests)
    assert outcome.latency is not None
    assert 0 < outcome.latency.p50 <= outcome.latency.maximum


def test_what_is_no_success_is_an_error_that_is_quoted() -> None:
    outcome, _ = driven(HIT, MISSING)
    assert 0 < outcome.errors < outcome.requests
    assert outcome.first_error.startswith("HTTP/1.1 404 Not Found")
    assert outcome.marked < outcome.requests


def test_a_connection_that_the_server_closes_is_an_error() -> None:
    outcome, _ = driven(CLOSING)
    assert (outcome.requests, outcome.errors, outcome.latency) == (0, 3, None)
    assert "closed a connection" in outcome.first_error


def test_an_answer_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "STALL_SECONDS", 0.05)

    outcome, _ = driven(SILENCE)
    assert (outcome.requests, outcome.errors) == (0, 3)
    assert outcome.first_error.startswith("no answer")
