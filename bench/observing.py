"""What it costs to watch a point read: its timeline, metrics, its log line and its trace, in CPU time of this process.

    .venv/bin/python -m bench.observing [--requests 100000] [--rounds 5]

Each request notes what a point read notes: four stages, one statement, one batch, its end. Each row is measured in every round,
and medians are quoted. Log lines are encoded and written, by their thread, to /dev/null; spans go to a collector in a process
of its own. All threads of this process count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.events import (
    BatchAnswered,
    Observer,
    Purpose,
    RequestEnded,
    StatementRan,
    Timeline,
    Trace,
    keep_timeline,
    nobody,
    timeline,
    together,
)
from gateway.observability.logs import Log
from gateway.observability.metrics import Metrics
from gateway.observability.traces import Traces

COLLECTOR = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
STAGES = ("parse", "token", "plan", "render")
GET = Purpose("get", "public.products")
SQL = "SELECT row_to_json(r.*) FROM (SELECT t.* FROM public.products AS t WHERE t.id = $1::bigint) AS r"

Begin = Callable[[bytes, bytes], Trace | None]


class Row(msgspec.Struct, frozen=True):
    title: str
    begin: Begin
    observe: Observer
    share: int = 1
    """It is measured with this part of the requests."""


def untraced(_traceparent: bytes, _tracestate: bytes) -> None:
    """No trace."""


def loop(requests: int) -> float:
    """CPU seconds of as many turns that do nothing."""
    before = time.process_time()
    for _ in range(requests):
        pass
    return time.process_time() - before


def watch(row: Row, requests: int) -> float:
    """CPU seconds of as many requests, watched as `row` says, with what other threads do for them."""
    observe, begin = row.observe, row.begin
    before = time.process_time()
    for number in range(requests):
        began = time.perf_counter()
        noted = Timeline("5f0e6ac1b2d3e4f5-1a2b", "/api/v1/products/{key}", begin(b"", b""))
        keep_timeline(noted)
        for stage in STAGES:
            noted.note(stage, began)
        observe(BatchAnswered("read", 1))
        ran = StatementRan(GET, SQL, began, time.perf_counter(), time.perf_counter(), 1, 1)
        timeline().ran(ran)
        observe(ran)
        observe(RequestEnded("GET", 200, began, time.perf_counter(), "42", "", noted))
        if number % 1000 == 0:
            time.sleep(0.002)  # the other threads' turn, as a loop that waits for sockets gives it
    time.sleep(2)  # what was gathered is written and sent, and counts
    return time.process_time() - before


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a collector that takes everything."""
    process = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise SystemExit("the collector did not start")
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait(10)


def run(url: str, requests: int, rounds: int) -> None:
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = "1000000"  # so that each span is sent, and counts
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"

    def traces(part: str) -> Traces:
        made = Traces({**os.environ, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": part}, "bench")
        made.start()
        return made

    metrics = Metrics().handlers
    with Path(os.devnull).open("wb") as sink:
        log = Log("bench", "info", stream=sink, readable=False)
        never, always = traces("0"), traces("1")
        observe = together(metrics, log.handlers, never.handlers)
        rows = [
            Row("a timeline, for nobody", untraced, nobody),
            Row("metrics", untraced, together(metrics)),
            Row("metrics and the log line", untraced, together(metrics, log.handlers)),
            Row("metrics, the log line, tracing that does not sample it", never.begin, observe),
            Row("the same, sampled", always.begin, together(metrics, log.handlers, always.handlers), share=20),
        ]
        costs: list[list[float]] = [[] for _ in rows]
        for _ in range(rounds):
            nothing = loop(requests) / requests
            for row, seen in zip(rows, costs, strict=True):
                count = requests // row.share
                seen.append((watch(row, count) / count - nothing) * 1e6)
        log.close()
        print(f"dropped lines: {log.dropped}")
        for made in (never, always):
            asyncio.run(made.stop())
    print("| watched by | CPU µs for a request |\n| --- | --- |")
    medians = [statistics.median(seen) for seen in costs]
    for row, median in zip(rows, medians, strict=True):
        print(f"| {row.title} | {median:.1f} |")
    print(f"| 1 % sampled: on average, beyond tracing that samples none | {(medians[-1] - medians[-2]) / 100:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="of each row in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with collector() as url:
        run(url, options.requests, options.rounds)


if __name__ == "__main__":
    main()
