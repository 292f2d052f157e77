"""The promise on real parts, in short; `long_staleness.py` is the same for longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.cache.staleness import trial


def test_three_processes_read_nothing_stale_while_valkey_is_flushed_frozen_restarted_and_out_of_reach(
    database_url: str, server_directory: Path
) -> None:
    report, faults = asyncio.run(trial(database_url, server_directory, reads=1000, pause_seconds=0.01, rest_seconds=0.4))
    assert report.stale == []
    assert report.failed == []
    assert report.reads >= 1000
    assert report.hits > 50
    assert report.writes > 20
    assert set(faults) == {"flush", "freeze", "partition", "restart"}
