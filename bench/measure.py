"""One step of the plan carried out: load on a contender, and what everybody used meanwhile, as a `Measure`."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec

from bench import k6_runs, limits
from bench.bare import Bare
from bench.contenders import Running
from bench.generator import Load, Outcome
from bench.model import Latency, Measure
from bench.plan import WARMUP_SECONDS, Step
from bench.processes import PoolWatch, Used, Watched, cpu_per_request, watching_pool
from bench.scenarios import Rows

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60
COMPLAINT = re.compile(r'\b(WARNING|ERROR|CRITICAL)\b|"level": ?(?:"(?:warning|error|critical)"|[45]0\b)')
"""In a line of text, in JSON with a word, and in Pino's with a number."""
MESSAGE = re.compile(r'"(?:message|msg)": ?"([^"]*)"')
REAPING_SECONDS = 0.3
"""Until PostgreSQL has taken note of the end of its backends, and of what they used."""


class MeasureFailed(Exception):
    """A step could not be carried out; the message says why."""


class Stage:
    """What the steps on one table share: its contenders, its rows, and a connection that watches."""

    def __init__(
        self,
        rows: Rows,
        running: dict[str, Running],
        statements: limits.Statements,
        database_url: str,
        watch: asyncpg.Connection,
        work: Path,
        k6: str | None,
    ) -> None:
        self.rows, self.running, self.statements = rows, running, statements
        self.database_url, self.watch, self.work, self.k6 = database_url, watch, work, k6
        self.complaints: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seed = 0

    async def carry_out(self, step: Step, p99_ms: float | None = None) -> tuple[Measure, bool]:
        """The measure of a step, and whether the thresholds held, if `p99_ms` sets them. Raises MeasureFailed."""
        try:
            if step.generator == "k6":
                return await self._by_k6(step, p99_ms)
            by = {"raw": self._by_generator, "pgbench": self._by_pgbench, "asyncpg": self._by_asyncpg}[step.generator]
            return await by(step), True
        except (k6_runs.K6Failed, limits.PgbenchFailed, OSError) as fault:
            raise MeasureFailed(str(fault)) from fault
        finally:
            found = self.running.get(step.contender)
            if found is not None:
                self.complaints[found.name].update(complaints_in(found.log))
                os.truncate(found.log, 0)

    async def _by_generator(self, step: Step) -> Measure:
        found = self.running[step.contender]
        self._seed += 1
        load = Load(
            port=found.port,
            scenario=step.scenario,
            dialect=found.dialect,
            rows=self.rows,
            connections=step.connections,
            seconds=step.seconds,
            warmup_seconds=WARMUP_SECONDS,
            token=found.token,
            seed=self._seed,
        )
        watched = Watched(found.process)
        async with watching_pool(self.watch, step.contender) as pool:
            outcome, before, after = await _spoken_with("bench.generator", msgspec.json.encode(load), watched, step.seconds)
        return self._measure(step, outcome, watched, before, after, pool)

    async def _by_asyncpg(self, step: Step) -> Measure:
        sql, as_text = self.statements.point, self.statements.key_is_text
        bare = Bare(self.database_url, sql, self.rows.products, as_text, step.seconds, WARMUP_SECONDS)
        watched = Watched(None)
        outcome, before, after = await _spoken_with("bench.bare", msgspec.json.encode(bare), watched, step.seconds)
        return self._measure(step, outcome, watched, before, after, None)

    async def _by_pgbench(self, step: Step) -> Measure:
        script = limits.pgbench_script(self.statements, step.scenario, self.rows)
        watched = Watched(None)
        async with _children_cpu() as generator_cpu:
            before = watched.used()
            started = time.perf_counter()
            requests, rate = await limits.run_pgbench(step, script, self.database_url, self.work)
            seconds = time.perf_counter() - started
            await asyncio.sleep(REAPING_SECONDS)
            after = watched.used()
        return Measure(
            contender=step.contender,
            scenario=step.scenario,
            rows=step.rows,
            connections=step.connections,
            generator=step.generator,
            seconds=seconds,
            requests=requests,
            errors=0,
            rate=rate,
            cpu=cpu_per_request(before, after, generator_cpu(), requests),
        )

    async def _by_k6(self, step: Step, p99_ms: float | None) -> tuple[Measure, bool]:
        if self.k6 is None:
            raise MeasureFailed("k6 is not installed")
        found = self.running[step.contender]
        watched = Watched(found.process)
        async with _children_cpu() as generator_cpu, watching_pool(self.watch, step.contender) as pool:
            before = watched.used()
            summary = await k6_runs.run(self.k6, step, found, self.rows, self.work, p99_ms)
            after = watched.used()
        # The CPU readings span the warm-up second too, so they are spread over its requests as well.
        asked = summary.requests + round(step.offered or 0)
        measure = Measure(
            contender=step.contender,
            scenario=step.scenario,
            rows=step.rows,
            connections=0,
            generator="k6",
            seconds=step.seconds,
            requests=summary.requests,
            errors=summary.errors,
            dropped=summary.dropped,
            rate=summary.requests / step.seconds,
            offered=step.offered,
            latency=summary.latency,
            cpu=cpu_per_request(before, after, generator_cpu(), asked),
            memory=watched.memory(),
            pool=pool.seen,
            cache_hits=_share(summary.hits, summary.marked),
        )
        return measure, summary.held

    def _measure(
        self, step: Step, outcome: Outcome, watched: Watched, before: Used, after: Used, pool: PoolWatch | None
    ) -> Measure:
        latency: Latency | None = outcome.latency
        return Measure(
            contender=step.contender,
            scenario=step.scenario,
            rows=step.rows,
            connections=step.connections,
            generator=step.generator,
            seconds=outcome.seconds,
            requests=outcome.requests,
            errors=outcome.errors,
            rate=outcome.requests / outcome.seconds,
            latency=latency,
            cpu=cpu_per_request(before, after, outcome.cpu_seconds, outcome.requests),
            memory=watched.memory(),
            pool=pool.seen if pool is not None else None,
            cache_hits=_share(outcome.hits, outcome.marked),
            first_error=outcome.first_error,
        )


def complaints_in(log: Path) -> Counter[str]:
    """The warnings and errors that a contender logged, without what differs from one to the next, and how often each came."""
    found: Counter[str] = Counter()
    with log.open(errors="replace") as lines:
        for line in lines:
            match = COMPLAINT.search(line)
            if match is not None:
                said = MESSAGE.search(line)
                found[re.sub(r"\d+", "…", said[1] if said else line[match.start() :].strip())[:200]] += 1
    return found


async def _spoken_with(module: str, load: bytes, watched: Watched, seconds: float) -> tuple[Outcome, Used, Used]:
    """Runs a load process and reads the CPU times when it says that measuring begins and ends. Raises MeasureFailed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise MeasureFailed("no pipes to the load process")
    try:
        async with asyncio.timeout(seconds + PATIENCE_SECONDS):
            process.stdin.write(load)
            process.stdin.write_eof()
            readings = []
            for word in (b"begin\n", b"end\n"):
                if await process.stdout.readline() != word:
                    said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
                    raise MeasureFailed(said[-1] if said else "the load process said nothing")
                readings.append(watched.used())
            outcome = msgspec.json.decode(await process.stdout.read(), type=Outcome)
    except TimeoutError:
        raise MeasureFailed(f"no end within {seconds + PATIENCE_SECONDS:g} seconds") from None
    finally:
        if process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), 2)
            except TimeoutError:
                process.kill()
                await process.wait()
    return outcome, readings[0], readings[1]


@asynccontextmanager
async def _children_cpu() -> AsyncIterator[Callable[[], float]]:
    """Gives a function that tells the CPU seconds of the children that ended since the block began."""
    before = os.times()

    def since() -> float:
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    yield since


def _share(hits: int, marked: int) -> float | None:
    return hits / marked if marked else None
