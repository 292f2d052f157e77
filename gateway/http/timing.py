"""`Server-Timing`: where a request's time went, for the caller that asks for it. A timeline in, a header out."""

from __future__ import annotations

from typing import Literal

from gateway.events import Timeline
from gateway.http.responses import Header

Mode = Literal["asked", "on", "off"]
"""SERVER_TIMING: for callers that ask, for all, for nobody."""

ASKED = b"?1"
"""The true of structured fields (RFC 9651, 3.3.6), as a request's own `Server-Timing`."""

STAGES = ("token", "parse", "plan", "cache", "redis", "pool", "db", "render")
"""In the order in which a request passes them. `redis` is part of `token` and `cache`, `total` is all of it."""


def is_wanted(mode: Mode, asked: bytes) -> bool:
    """Whether an answer tells of its time."""
    return mode == "on" or (asked == ASKED and mode == "asked")


def server_timing(noted: Timeline, began: float, now: float) -> Header:
    """The header, in milliseconds (W3C Server Timing). Stages that a request did not pass are left out."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for stage, stage_began, stage_ended in noted.stages:
        seconds[stage] = seconds.get(stage, 0.0) + stage_ended - stage_began
    for ran in noted.statements:
        acquired = ran.ended if ran.acquired is None else ran.acquired
        seconds["pool"] += acquired - ran.asked
        seconds["db"] += ran.ended - acquired
    told = [f"{stage};dur={spent * 1000:.3f}" for stage, spent in seconds.items() if spent]
    return b"server-timing", ", ".join([*told, f"total;dur={(now - began) * 1000:.3f}"]).encode()
