"""Before anyone is measured: do all contenders give the same answers, and which features are seen at work.

Answers are compared as values: names in snake case, numbers exact, times to the millisecond (a JavaScript date has no more).
Pure but for `answer_of` and `features_of`, which ask over HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import httpx
import msgspec

from bench.contenders import Running
from bench.scenarios import DIALECTS, METHODS, SCENARIOS, Ask, Request, Rows

ASKS_PER_SCENARIO = 5
TIMES = ("created_at", "updated_at")
EXACT = ("price",)
WHOLE = ("id", "category_id")
"""Some write what may exceed 2^53 as text."""
MADE_BY_THE_WRITE = ("id", "sku", "created_at", "updated_at")
"""Different for each contender that writes, so only asked to be there."""


class Unequal(Exception):
    """How an answer differs from the reference's, in one line."""


def sample_asks(rows: Rows, scenarios: Sequence[str]) -> list[Ask]:
    """The questions that all contenders must answer alike. Each scenario's are the same in every run."""
    return [
        SCENARIOS[name].ask(Random(f"{name} {number}"), rows, number) for name in scenarios for number in range(ASKS_PER_SCENARIO)
    ]


def same_answers(reference: Running, other: Running, asks: list[Ask]) -> None:
    """Asks both everything. Raises Unequal for the first difference."""
    for ask in asks:
        ours, theirs = answer_of(reference, _another(ask)), answer_of(other, _another(ask))
        if not ours:
            raise Unequal(f"the reference has no rows for {ask.operation} {ask.filters}")
        difference = find_difference(ours, theirs, written=ask.body is not None)
        if difference:
            raise Unequal(f"{ask.operation} {ask.key or ''}: {difference}")


def _another(ask: Ask) -> Ask:
    """The same question; a row to be created needs a unique key of its own each time."""
    if ask.operation != "create" or ask.body is None:
        return ask
    return msgspec.structs.replace(ask, body={**ask.body, "sku": f"{ask.body['sku']}-X{Random().getrandbits(32):X}"})


def answer_of(running: Running, ask: Ask) -> list[dict[str, Any]]:
    """The rows that a contender answers with. Raises Unequal for anything but 200 and 201."""
    response = _send(running, DIALECTS[running.dialect](ask))
    if response.status_code not in (200, 201):
        raise Unequal(f"{METHODS[ask.operation]} was answered {response.status_code}: {response.text[:200]}")
    content = response.json()
    rows = content["data"] if running.dialect == "gateway" else content
    return [normal(row) for row in (rows if isinstance(rows, list) else [rows])]


def find_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], written: bool) -> str:
    """What differs between two answers in normal form, "" for nothing."""
    if len(ours) != len(theirs):
        return f"{len(ours)} rows, there {len(theirs)}"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True), 1):
        if one.keys() != other.keys():
            return f"row {number} has other fields: {', '.join(sorted(one.keys() ^ other.keys()))}"
        for name in one:
            if not (written and name in MADE_BY_THE_WRITE) and one[name] != other[name]:
                return f"row {number}, {name}: {one[name]!r}, there {other[name]!r}"
    return ""


def normal(row: dict[str, Any]) -> dict[str, Any]:
    """A row of any contender's in the form that all can be compared in."""
    found = {_snake_case(name): value for name, value in row.items()}
    for name in EXACT:
        found[name] = Decimal(str(found[name]))
    for name in WHOLE:
        found[name] = int(found[name])
    for name in TIMES:
        moment = datetime.fromisoformat(found[name])
        found[name] = moment - timedelta(microseconds=moment.microsecond % 1000)
    return found


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def features_of(running: Running) -> tuple[str, ...]:
    """Which features a contender shows: each is seen, none is believed."""
    if running.dialect == "hello":
        return ()
    ask = Ask("get", key=1)
    request = DIALECTS[running.dialect](ask)
    logged = running.log.stat().st_size
    answers = [_send(running, request) for _ in range(100)]
    found = {name.lower() for name in answers[-1].headers}
    seen = {
        "token": _send(msgspec.structs.replace(running, token="no.such.token"), request).status_code == 401,
        "rate limit": not found.isdisjoint({"ratelimit", "x-ratelimit-remaining", "ratelimit-remaining"}),
        "log line": running.log.stat().st_size > logged,
        "metrics": _send(running, Request("GET", "/metrics"), with_token=False).status_code == 200,
        "cache": answers[-1].headers.get("x-cache") == "hit",
    }
    return tuple(name for name, there in seen.items() if there)


def _send(running: Running, request: Request, with_token: bool = True) -> httpx.Response:
    headers = {"authorization": f"Bearer {running.token}"} if running.token and with_token else {}
    if request.body:
        headers["content-type"] = "application/json"
    url = f"http://127.0.0.1:{running.port}{request.path}"
    return httpx.request(request.method, url, headers=headers, content=request.body or None, timeout=20)
