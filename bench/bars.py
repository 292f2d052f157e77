"""The bars that a run is held against: what must hold beside the peers, in the same run. Pure.

They do not decide the exit code, for they depend on the machine and on what is installed; the thresholds of k6 do.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench.model import Measure, Results

LONE_EXTRA_MS = 0.3


class Bar(msgspec.Struct, frozen=True):
    """`figure` is what was measured, in words; `holds` None where it could not be."""

    title: str
    figure: str
    wanted: str
    holds: bool | None


class _Ratio(msgspec.Struct, frozen=True):
    """A bar on the ratio of one figure of two measures, ours over theirs; at most or at least `bound`."""

    title: str
    ours: tuple[str, str]
    theirs: tuple[str, str]
    figure: Callable[[Measure], float | None]
    bound: float
    at_most: bool = False


def _rate(measure: Measure) -> float | None:
    return measure.rate


def _cpu(measure: Measure) -> float | None:
    return measure.cpu.contender if measure.cpu else None


RATIOS = (
    _Ratio("point read: requests/s against Fastify + Knex", ("gateway", "point"), ("fastify", "point"), _rate, 3),
    _Ratio("point read: CPU per request against Fastify + Knex", ("gateway", "point"), ("fastify", "point"), _cpu, 0.3, True),
    _Ratio("list of 20: requests/s against Fastify + Knex", ("gateway", "list"), ("fastify", "list"), _rate, 1.5),
    _Ratio("list of 20: CPU per request against Fastify + Knex", ("gateway", "list"), ("fastify", "list"), _cpu, 0.4, True),
    _Ratio("list, cache hit in Redis: requests/s", ("gateway-redis", "cached"), ("fastify-redis", "cached"), _rate, 2),
    _Ratio("list, cache hit in memory: requests/s", ("gateway-memory", "cached"), ("fastify-redis", "cached"), _rate, 3),
    _Ratio("create: requests/s against Fastify + Knex", ("gateway", "create"), ("fastify", "create"), _rate, 1.2),
    _Ratio("point read: requests/s against pgbench, the same SQL", ("gateway", "point"), ("pgbench", "point"), _rate, 0.3),
)


def bars(results: Results) -> list[Bar]:
    """Every bar with what this run has to say on it."""
    return [*(_ratio_bar(results, ratio) for ratio in RATIOS), _lone_bar(results)]


def _ratio_bar(results: Results, ratio: _Ratio) -> Bar:
    wanted = f"{'≤' if ratio.at_most else '≥'} {ratio.bound:g} ×"
    ours, theirs = results.find(*ratio.ours), results.find(*ratio.theirs)
    if ours is None or theirs is None:
        return Bar(ratio.title, "not measured", wanted, None)
    if "cached" in ratio.ours and ours.cache_hits is None:
        return Bar(ratio.title, "the cache is not there", wanted, None)
    failed = next((measure for measure in (ours, theirs) if measure.errors), None)
    if failed is not None:
        return Bar(ratio.title, f"{failed.errors} errors of {failed.contender}", wanted, None)
    one, other = ratio.figure(ours), ratio.figure(theirs)
    if one is None or not other:
        return Bar(ratio.title, "not known", wanted, None)
    found = one / other
    return Bar(ratio.title, f"{found:.2f} ×", wanted, found <= ratio.bound if ratio.at_most else found >= ratio.bound)


def _lone_bar(results: Results) -> Bar:
    title, wanted = "a lone client's point read: p99 over bare asyncpg", f"≤ + {LONE_EXTRA_MS:g} ms"
    ours, bare = results.find("gateway", "point", connections=1), results.find("asyncpg", "point", connections=1)
    if ours is None or bare is None or ours.latency is None or bare.latency is None:
        return Bar(title, "not measured", wanted, None)
    extra = ours.latency.p99 - bare.latency.p99
    return Bar(title, f"{extra:+.2f} ms ({ours.latency.p99:.2f} against {bare.latency.p99:.2f})", wanted, extra <= LONE_EXTRA_MS)
