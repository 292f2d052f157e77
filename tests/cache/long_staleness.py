"""Stale reads after an acknowledged write, counted over as many reads as asked for. See `staleness`.

    .venv/bin/python -m tests.cache.long_staleness [--reads 200000] [--seed 1]

Exits with 1 where a read was stale or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.cache.staleness import trial
from tests.conftest import throwaway_directory, throwaway_postgres


def main() -> int:
    parser = argparse.ArgumentParser(description="Stale reads after an acknowledged write, counted.")
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    with throwaway_postgres() as database_url, throwaway_directory() as directory:
        report, faults = asyncio.run(trial(database_url, directory, arguments.reads, 0.002, 2.0, arguments.seed))
    for line in (*report.stale[:20], *report.failed[:20]):
        print(line)
    print(f"{time.monotonic() - started:.0f} s; faults: {faults}")
    print(f"reads {report.reads}: hits {report.hits}, misses {report.misses}, bypasses {report.bypasses}")
    print(f"writes {report.writes}, of which Valkey took no note of {report.settled}")
    print(f"longest read {report.longest_read_seconds:.3f} s, longest write {report.longest_write_seconds:.3f} s")
    print(f"stale {len(report.stale)}, failed {len(report.failed)}")
    return 1 if report.stale or report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
