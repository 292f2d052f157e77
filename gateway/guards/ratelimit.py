"""Rate limits: who asks and a `Limit` in, a `Decision` out, and the headers that tell a caller of it.

A limit is counted for each address before the token is looked at, and for each subject after. A resource with a `rate_limit`
of its own has buckets of its own, which its requests count in instead of the default's. Counts are shared through Redis where
there is one; where it does not answer, each process counts for itself, and nobody is refused for Redis's sake. See `windows`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import quote

import limits
import msgspec

from gateway.coalesce import Waiter
from gateway.errors import ConfigurationError, RateLimited
from gateway.events import Observer, nobody, timeline
from gateway.guards.windows import Charge, MemoryStorage, RedisStorage, StorageDown, Taken
from gateway.redis_wire import Guard

Header = tuple[bytes, bytes]

RATE = re.compile(r"[1-9][0-9]{0,8}/(second|minute|hour|day)")
DEFAULT = "default"
AT_EASE = 10
"""Who has a tenth of the limit left, or more, is served while being counted."""
MAX_AT_EASE = 20_000
"""Callers of whom that is remembered; who is forgotten waits for the count once."""
MAX_KEY_LENGTH = 100
"""Of what stands in a key as it is; anything longer, or beyond ASCII, stands there as its hash."""


class Limit(msgspec.Struct, frozen=True):
    """How much one bucket admits in a sliding window of `period_seconds`, with what is the same in every answer made ready.

    `name` is the policy's, as headers tell it: "default" or a resource's. `prefix` begins its keys, `lines` what an answer tells.
    """

    name: str
    amount: int
    period_seconds: int
    prefix: str
    label: str
    policy: Header
    lines: bytes


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may go on, by the tightest of its limits: how much is left of that, and when there is more.

    `reset_seconds` is from now, rounded up. Where nothing is left it is when the next request is admitted.
    """

    allowed: bool
    limit: Limit
    remaining: int
    reset_seconds: int


class Charges(msgspec.Struct, frozen=True):
    """What a request counts as: whom, and by which limits; `asked` says it as the storages take it. It may be kept for the next
    request of the same caller."""

    by: tuple[tuple[str, Limit], ...]
    asked: tuple[Charge, ...]


class Checking(msgspec.Struct, frozen=True):
    """A check under way; see `RateLimiter.begin`."""

    charges: Charges
    taken: asyncio.Future[Taken]
    began: float


def default_limit(rate: str) -> Limit:
    """The limit of the RATE_LIMIT setting. Raises ConfigurationError for what is not N/second, N/minute, N/hour or N/day."""
    return _limit(rate, DEFAULT, DEFAULT)


def resource_limit(rate: str, version: str, name: str) -> Limit:
    """The limit of a resource's `rate_limit`, in buckets of its own. Raises as `default_limit` does."""
    return _limit(rate, name, f"{version}/{name}")


def _limit(rate: str, name: str, bucket: str) -> Limit:
    if RATE.fullmatch(rate) is None:
        raise ConfigurationError(f'"{rate}" is no rate; a rate is N/second, N/minute, N/hour or N/day')
    item = limits.parse(rate)
    period = item.get_expiry()
    label = _quoted(name)
    policy = f"{label};q={item.amount};w={period}"
    lines = f"ratelimit-policy: {policy}\r\nratelimit: {label};r=".encode()
    return Limit(name, item.amount, period, f"{_safe(bucket)}:{period}:", label, (b"ratelimit-policy", policy.encode()), lines)


def address_key(address: str) -> str:
    """Whom an address is counted as: itself for IPv4, its /64 for IPv6, for whoever has one address there has them all.

    What is no address (there is none behind a Unix socket) is counted as one caller.
    """
    if ":" not in address:
        return f"address={address}"
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return f"address={address}"
    if packed[:12] == _MAPPED:
        return f"address={socket.inet_ntop(socket.AF_INET, packed[12:])}"
    return f"address={socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64"


def subject_key(subject: str) -> str:
    """Whom a token's `sub` is counted as."""
    return f"subject={subject}"


_MAPPED = bytes(10) + b"\xff\xff"
"""RFC 4291, 2.5.5.2: the first 12 bytes of an IPv4 address that is written as IPv6."""


class RateLimiter:
    """Decides by `limits` how much each caller may ask. `default` is the RATE_LIMIT setting; None is off.

    Counted for metrics: `checks`, `refusals` (`refused` has them by what was counted), `fallbacks` (decided in memory because
    Redis did not answer), and Redis's `failures`. `clock` gives seconds and never goes back; in Redis it takes the place of the
    server's, so it is for tests.
    """

    def __init__(
        self,
        default: str | None = None,
        redis_url: str | None = None,
        *,
        clock: Callable[[], float] | None = None,
        redis: RedisStorage | None = None,
        observe: Observer = nobody,
        breaker: Guard | None = None,
    ) -> None:
        self.default = None if default is None else default_limit(default)
        self.memory = MemoryStorage(clock or time.monotonic)
        self.redis = (
            RedisStorage(redis_url, clock=clock, observe=observe, breaker=breaker) if redis is None and redis_url else redis
        )
        self._at_ease: dict[str, None] = {}
        self.checks = 0
        self.refusals = 0
        self.refused = {"address": 0, "subject": 0}
        self.fallbacks = 0

    @property
    def failures(self) -> int:
        """How many calls to Redis failed."""
        return 0 if self.redis is None else self.redis.failures

    async def start(self) -> None:
        """Connects to Redis, where there is one. One that does not answer stops nothing."""
        if self.redis is not None:
            await self.redis.check()

    async def stop(self) -> None:
        """Closes what `start` opened."""
        if self.redis is not None:
            await self.redis.close()

    async def check(self, *by: tuple[str, Limit]) -> Decision:
        """Counts a request against every (who, limit) of it, or against none where one refuses. At least one is needed.

        Never raises for Redis's sake.
        """
        charges = charges_of(*by)
        self.checks += 1
        if self.redis is None:
            return self.decide(charges, self.memory.take(charges.asked))
        try:
            taken = await self.redis.take(charges.asked)
        except StorageDown:
            return self.fall_back(charges)
        return self.decide(charges, taken)

    def count(self, charges: Charges, waiter: Waiter[Taken]) -> Decision | None:
        """As `check`, for who is no task: the decision, or None where `waiter` will be told what Redis took, for `decide`, or of
        a StorageDown, for `fall_back`."""
        self.checks += 1
        if self.redis is None:
            return self.decide(charges, self.memory.take(charges.asked))
        if not self.redis.is_up:
            return self.fall_back(charges)
        self.redis.enqueue(charges.asked, waiter)
        return None

    def begin(self, *by: tuple[str, Limit]) -> Checking | None:
        """A check that goes on while the caller is served already, for `settle`; None where the caller is to wait for it.

        That is for callers who had much left at their last request. So one request of a caller in good standing takes one trip's
        time and not two, and who is at the limit costs the database nothing: what they can have it do for nothing is what
        they had under way when the last tenth of their limit began.
        """
        if self.redis is None or not self.redis.is_up:
            return None
        charges = charges_of(*by)
        if not self.is_at_ease(charges):
            return None
        self.checks += 1
        return Checking(charges, self.redis.begin(charges.asked), time.perf_counter())

    def is_at_ease(self, charges: Charges) -> bool:
        """Whether a tenth of the limit was left at the caller's last request."""
        return charges.asked[-1][0] in self._at_ease

    async def settle(self, checking: Checking) -> Decision:
        """What a check came to. Never raises for Redis's sake."""
        try:
            taken = await checking.taken
        except StorageDown:
            return self.fall_back(checking.charges)
        finally:
            timeline().note("redis", checking.began)
        return self.decide(checking.charges, taken)

    def fall_back(self, charges: Charges) -> Decision:
        """The decision of this process alone, for Redis did not answer."""
        self.fallbacks += 1
        return self.decide(charges, self.memory.take(charges.asked))

    def decide(self, charges: Charges, taken: Taken) -> Decision:
        """What a storage took, as a decision."""
        position, allowed, remaining, reset = taken
        who, limit = charges.by[position]
        caller = charges.asked[-1][0]
        if allowed and remaining * AT_EASE >= limit.amount:
            if caller not in self._at_ease:
                if len(self._at_ease) >= MAX_AT_EASE:
                    del self._at_ease[next(iter(self._at_ease))]
                self._at_ease[caller] = None
        else:
            self._at_ease.pop(caller, None)
        if not allowed:
            self.refusals += 1
            kind = who.partition("=")[0]
            if kind in self.refused:
                self.refused[kind] += 1
        return Decision(allowed, limit, remaining, -(-reset // 1000))

    async def admit(self, *by: tuple[str, Limit]) -> Decision:
        """As `check`. Raises RateLimited, with the headers that tell of it, for what is refused."""
        decision = await self.check(*by)
        if not decision.allowed:
            raise refusal(decision)
        return decision


def charges_of(*by: tuple[str, Limit]) -> Charges:
    """What counts against every (who, limit), the caller itself last."""
    return Charges(by, tuple([(limit.prefix + _safe(who), limit.amount, limit.period_seconds * 1000) for who, limit in by]))


def tighter(one: Decision | None, other: Decision | None) -> Decision | None:
    """The decision that headers tell of, where a request was checked twice."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda decision: (decision.remaining, -decision.reset_seconds))


def headers(decision: Decision) -> tuple[Header, ...]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): the limit, what is left, and until when."""
    told = f"{decision.limit.label};r={decision.remaining};t={decision.reset_seconds}"
    return decision.limit.policy, (b"ratelimit", told.encode())


def limit_lines(decision: Decision) -> bytes:
    """The same, as they stand in an answer."""
    limit = decision.limit
    return b"%b%d;t=%d\r\n" % (limit.lines, decision.remaining, decision.reset_seconds)


def refusal(decision: Decision) -> RateLimited:
    """The 429, with `Retry-After`."""
    limit, wait = decision.limit, max(1, decision.reset_seconds)
    return RateLimited(
        f"Too many requests: at most {limit.amount} in {limit.period_seconds} seconds. Try again in {wait} seconds.",
        headers=[
            ("Retry-After", str(wait)),
            ("RateLimit-Policy", limit.policy[1].decode()),
            ("RateLimit", f"{limit.label};r=0;t={wait}"),
        ],
    )


def _safe(who: str) -> str:
    """A part of a key: short, and of characters that every store takes."""
    if len(who) <= MAX_KEY_LENGTH and who.isascii():
        return who
    return f"sha256={hashlib.sha256(who.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _quoted(name: str) -> str:
    """A name as a string of structured fields (RFC 9651, 3.3.3), which is ASCII: what is beyond it is percent-encoded."""
    return '"' + quote(name, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~").replace("%22", '\\"') + '"'
