"""Where rate limits are counted: two storages for `limits`, in the memory of the process and in Redis, by one arithmetic.

A sliding-window counter keeps two counts for each key: of the window that runs and of the one before it. Windows are aligned to
the clock. What counts against a limit is the running window's count, and of the last one's the part that the sliding window still
covers: `floor(previous * (period - elapsed) / period) + current`. What is refused is not counted.

`take` decides several charges at once: all are counted, or, where one is refused, none. It tells the tightest standing in the
same step, where the strategy of `limits` needs two: `hit` says yes or no, and `get_window_stats` asks again. The rest is what
`limits` asks of a storage, so its `SlidingWindowCounterRateLimiter` runs on both and decides alike.

Times are whole milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NoReturn

import msgspec
from limits.aio.storage import SlidingWindowCounterSupport, Storage

from gateway.coalesce import Coalescer, Waiter
from gateway.events import BatchAnswered, Observer, nobody, timeline
from gateway.redis_wire import Command, Guard, RedisDown, RedisWire, Refused

logger = logging.getLogger("gateway.ratelimit")

Charge = tuple[str, int, int]
"""A key, how much its limit admits, and the limit's period."""

Taken = tuple[int, bool, int, int]
"""Which charge is the tightest, whether all were taken, how much is left of the tightest, and when it has more.

When: the end of the running window while something is left, and otherwise the first moment that one more is admitted.
"""

MAX_KEYS = 50_000
"""Keys of one period and window in memory, some 10 MB of addresses. There are four periods, and two windows of each."""

REDIS_TIMEOUT_SECONDS = 0.1
REDIS_PROBE_SECONDS = 1.0
KEY_PREFIX = "ratelimit:"
"""Of every key in Redis, which then tells the limit, its period and whom it counts: `ratelimit:default:60:address=192.0.2.7`."""


def standing(previous: int, current: int, amount: int, period: int, elapsed: int) -> tuple[int, int]:
    """How much is left of a limit, and in how many milliseconds there is more; see `Taken`."""
    left = amount - current - previous * (period - elapsed) // period
    if left > 0:
        return left, period - elapsed
    if current < amount:  # as the last window's part shrinks
        return 0, period + 1 - _ceiling((amount - current) * period, previous) - elapsed
    return 0, 2 * period + 1 - _ceiling(amount * period, current) - elapsed


def _ceiling(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


# The same arithmetic in Lua, whose numbers are doubles: exact while amount * period is below 2^53 (100,000,000 a day).
# Requests with equal charges are one group: as many of them are taken as all its charges have left, the first ones.
# KEYS: of all groups' charges, in order. ARGV[1]: MessagePack of [requests, charges, amount, period, amount, period, …] for one
# group after the other. ARGV[2]: now, or nothing for the server's clock, which is the one that all processes share. Gives
# MessagePack of seven numbers a group: how many were taken; which charge is the tightest, how much it has left and when it has
# more, before any is taken; and the same afterwards. A key holds "window previous current". One that holds anything else is
# overwritten.
SCRIPT = """
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local asked, told = cmsgpack.unpack(ARGV[1]), {}
local at, key = 1, 0

local function read(name, period)
  local window, elapsed = math.floor(now / period), now % period
  local value = redis.pcall('GET', name)
  local stored, previous, current
  if type(value) == 'string' then stored, previous, current = string.match(value, '^(%d+) (%d+) (%d+)$') end
  stored, previous, current = tonumber(stored), tonumber(previous), tonumber(current)
  if not stored or stored < window - 1 then return window, elapsed, 0, 0 end
  if stored == window - 1 then return window, elapsed, current, 0 end
  if stored > window then return stored, 0, previous, current end -- the clock went back: as if it had stood still
  return window, elapsed, previous, current
end

local function standing(previous, current, amount, period, elapsed)
  local left = amount - current - math.floor(previous * (period - elapsed) / period)
  if left > 0 then return left, period - elapsed end
  if current < amount then return 0, period + 1 - math.ceil((amount - current) * period / previous) - elapsed end
  return 0, 2 * period + 1 - math.ceil(amount * period / current) - elapsed
end

local function tightest(seen)
  local place, least, longest = 0, nil, nil
  for i = 1, #seen do
    local window, elapsed, previous, current, amount, period = unpack(seen[i])
    local left, more = standing(previous, current, amount, period, elapsed)
    if not least or left < least or (left == least and more > longest) then place, least, longest = i - 1, left, more end
  end
  return place, least, longest
end

while at <= #asked do
  local requests, charges, seen = asked[at], asked[at + 1], {}
  for i = 1, charges do
    local amount, period = asked[at + 2 * i], asked[at + 2 * i + 1]
    local window, elapsed, previous, current = read(KEYS[key + i], period)
    seen[i] = {window, elapsed, previous, current, amount, period}
  end
  local n, place, left, more = #told, tightest(seen)
  local taken = math.min(requests, left)
  told[n + 1], told[n + 2], told[n + 3], told[n + 4] = taken, place, left, more
  if taken > 0 then
    for i = 1, charges do
      local one = seen[i]
      one[4] = one[4] + taken
      local stored = string.format('%d %d %d', one[1], one[3], one[4])
      redis.call('SET', KEYS[key + i], stored, 'PX', 2 * one[6] - one[2])
    end
    place, left, more = tightest(seen)
  end
  told[n + 5], told[n + 6], told[n + 7] = place, left, more
  at, key = at + 2 * charges + 2, key + charges
end
return cmsgpack.pack(told)
"""
_SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

TOLD = 7
"""Numbers that the script gives for a group."""
NOTHING_TAKEN: Taken = (0, False, 0, 0)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[int]).decode


class StorageDown(Exception):
    """Redis did not answer, answered an error, or has just done so and is left alone until it is well again."""


class _SlidingWindows(Storage, SlidingWindowCounterSupport):
    """What both storages say to `limits` of its other strategies, which need other counts."""

    STORAGE_SCHEME = None

    @property
    def base_exceptions(self) -> type[Exception]:
        return StorageDown

    async def incr(self, key: str, expiry: int, amount: int = 1) -> NoReturn:
        raise NotImplementedError("this storage counts sliding windows alone")

    async def get(self, key: str) -> NoReturn:
        raise NotImplementedError("this storage counts sliding windows alone")

    async def get_expiry(self, key: str) -> NoReturn:
        raise NotImplementedError("this storage counts sliding windows alone")

    async def reset(self) -> NoReturn:
        raise NotImplementedError("this storage forgets by itself")


class _Windows:
    """The running window of one period and the one before it, a count a key. The older is forgotten whole, so nothing sweeps."""

    __slots__ = ("current", "number", "previous")

    def __init__(self) -> None:
        self.number = 0
        self.previous: dict[str, int] = {}
        self.current: dict[str, int] = {}

    def turn(self, number: int) -> None:
        """Makes `number` the running window."""
        self.previous = self.current if number == self.number + 1 else {}
        self.current = {}
        self.number = number

    def forget_oldest(self, max_keys: int) -> None:
        """Drops the half of the running window's keys that came first."""
        self.current = dict(islice(self.current.items(), max_keys // 2, None))


class MemoryStorage(_SlidingWindows):
    """Counts in the memory of this process, at most `max_keys` of a window: a flood of new keys pushes the oldest out.

    A caller gains nothing by that: who has so many addresses has as many limits. `clock` gives seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_keys: int = MAX_KEYS) -> None:
        super().__init__()
        self._clock = clock
        self._max_keys = max_keys
        self._periods: dict[int, _Windows] = {}

    def take(self, charges: Sequence[Charge]) -> Taken:
        """Counts all the charges, or none where one is refused."""
        now = int(self._clock() * 1000)
        taken = True
        seen = []
        for key, amount, period in charges:
            windows = self._periods.get(period) or self._begin(period)
            number, elapsed = divmod(now, period)
            if number != windows.number:
                windows.turn(number)
            previous, current = windows.previous.get(key, 0), windows.current.get(key, 0)
            left = amount - current - previous * (period - elapsed) // period
            taken = taken and left > 0
            seen.append((windows, key, amount, period, elapsed, previous, current, left))
        tightest, least, longest = 0, -1, 0
        for position, (windows, key, amount, period, elapsed, previous, current, left) in enumerate(seen):
            if taken:
                if not current and len(windows.current) >= self._max_keys:
                    windows.forget_oldest(self._max_keys)
                current += 1
                left -= 1
                windows.current[key] = current
            more = period - elapsed
            if left <= 0:
                left, more = standing(previous, current, amount, period, elapsed)
            if least < 0 or left < least or (left == least and more > longest):
                tightest, least, longest = position, left, more
        return tightest, taken, least, longest

    def keys(self) -> int:
        """How many counts are held."""
        return sum(len(windows.previous) + len(windows.current) for windows in self._periods.values())

    def _begin(self, period: int) -> _Windows:
        self._periods[period] = windows = _Windows()
        return windows

    def _at(self, period: int) -> tuple[_Windows, int]:
        windows = self._periods.get(period) or self._begin(period)
        number, elapsed = divmod(int(self._clock() * 1000), period)
        if number != windows.number:
            windows.turn(number)
        return windows, elapsed

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether one more is admitted. Raises ValueError for an `amount` other than 1."""
        return self.take([_charge(key, limit, expiry, amount)])[1]

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The last window's count and how long it still weighs, the running one's and how long it will; in seconds."""
        windows, elapsed = self._at(expiry * 1000)
        return _described(windows.previous.get(key, 0), windows.current.get(key, 0), expiry, elapsed)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        windows, _ = self._at(expiry * 1000)
        windows.previous.pop(key, None)
        windows.current.pop(key, None)

    async def clear(self, key: str) -> None:
        for period in self._periods:
            await self.clear_sliding_window(key, period // 1000)

    async def check(self) -> bool:
        return True


class RedisStorage(_SlidingWindows):
    """Counts in Redis, by its clock, for every process that uses it. One script call answers all that is in flight together.

    No call lasts longer than `timeout_seconds`, and none is tried again. After a failure Redis is left alone (`is_up` is False,
    and `take` raises at once) until a task in the background has run the script there, which tries every `probe_seconds`: so no
    request pays for finding out. `failures` counts the calls that failed. Changes of state are logged, once each.

    `clock`, in seconds, takes the place of the server's in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = REDIS_TIMEOUT_SECONDS,
        probe_seconds: float = REDIS_PROBE_SECONDS,
        clock: Callable[[], float] | None = None,
        observe: Observer = nobody,
        breaker: Guard | None = None,
    ) -> None:
        super().__init__()
        self._wire = RedisWire(url, timeout_seconds, breaker=breaker)
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._batches: Coalescer[Sequence[Charge], Taken] = Coalescer(
            self._take_all, sized=lambda size: observe(BatchAnswered("limit", size))
        )
        self._probing: asyncio.Task[None] | None = None
        self.is_up = True
        self.failures = 0

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """Counts all the charges, or none where one is refused. Raises StorageDown."""
        if not self.is_up:
            raise StorageDown
        began = time.perf_counter()
        try:
            return await self._batches.ask(charges)
        finally:
            timeline().note("redis", began)

    def begin(self, charges: Sequence[Charge]) -> asyncio.Future[Taken]:
        """What `take` gives, to be waited for later. It raises StorageDown."""
        return self._batches.submit(charges)

    def enqueue(self, charges: Sequence[Charge], waiter: Waiter[Taken]) -> None:
        """As `begin`, for who is no task."""
        self._batches.enqueue(charges, waiter)

    async def check(self) -> bool:
        """Whether Redis runs the script. Where it does not, the background looks after it from now on."""
        try:
            await self._take_all([[("probe", 1, 1000)]])
        except StorageDown:
            return False
        return True

    async def close(self) -> None:
        """Ends what is under way and the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self._batches.close()
        await self._wire.close()

    async def _take_all(self, batch: Sequence[Sequence[Charge]]) -> list[Taken]:
        if not self.is_up:
            raise StorageDown
        try:
            return await self._run(batch)
        except StorageDown as down:
            self._went_down(down)
            raise

    async def _run(self, batch: Sequence[Sequence[Charge]]) -> list[Taken]:
        groups: dict[tuple[Charge, ...], list[int]] = {}
        before: Sequence[Charge] | None = None
        places: list[int] = []
        for place, charges in enumerate(batch):
            if charges is not before:  # to look it up costs more than all else here
                before, places = charges, groups.setdefault(tuple(charges), [])
            places.append(place)
        keys: list[str] = []
        asked: list[int] = []
        for group, places in groups.items():
            asked += (len(places), len(group))
            for key, amount, period in group:
                keys.append(KEY_PREFIX + key)
                asked += (amount, period)
        now = "" if self._clock is None else int(self._clock() * 1000)
        told = await self._evaluate(keys, _encode(asked), now)
        if len(told) != TOLD * len(groups):
            raise StorageDown(f"{len(groups)} groups got {len(told)} numbers")
        answers: list[Taken] = [NOTHING_TAKEN] * len(batch)
        for number, places in enumerate(groups.values()):
            for place, taken in zip(places, _of_group(len(places), *told[TOLD * number : TOLD * number + TOLD]), strict=True):
                answers[place] = taken
        return answers

    async def _evaluate(self, keys: list[str], asked: bytes, now: int | str) -> list[int]:
        """The script's numbers. Raises StorageDown."""
        answer = await self._ask(("EVALSHA", _SCRIPT_SHA, len(keys), *keys, asked, now))
        if isinstance(answer, Refused) and str(answer).startswith("NOSCRIPT"):
            answer = await self._ask(("EVAL", SCRIPT, len(keys), *keys, asked, now))
        if isinstance(answer, Refused):
            raise StorageDown(f"refused: {answer}") from answer
        try:
            return _decode(answer)
        except (msgspec.DecodeError, TypeError) as fault:
            raise StorageDown("the script's answer is not its own") from fault

    async def _ask(self, command: Command) -> Any:
        """One command's answer. Raises StorageDown."""
        try:
            answers, _ = await self._wire.trip((command,))
        except RedisDown as fault:
            raise StorageDown(str(fault)) from fault
        return answers[0]

    def _went_down(self, reason: StorageDown) -> None:
        self.failures += 1
        if self.is_up:
            self.is_up = False
            self._probing = asyncio.get_running_loop().create_task(self._probe())
            logger.warning("rate limits: Redis is not well; each process limits by itself until it is: %s", reason)

    async def _probe(self) -> None:
        while not self.is_up:
            await asyncio.sleep(self._probe_seconds)
            try:
                await self._run([[("probe", 1, 1000)]])
            except StorageDown:
                self.failures += 1
            else:
                self.is_up = True
                logger.info("rate limits: Redis is well again; all processes limit together")

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether one more is admitted. Raises ValueError for an `amount` other than 1, StorageDown."""
        return (await self.take([_charge(key, limit, expiry, amount)]))[1]

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The last window's count and how long it still weighs, the running one's and how long it will; in seconds."""
        seconds, microseconds = map(int, await self._ask(("TIME",)))
        now = seconds * 1000 + microseconds // 1000 if self._clock is None else int(self._clock() * 1000)
        number, elapsed = divmod(now, expiry * 1000)
        stored, previous, current = map(int, (await self._ask(("GET", KEY_PREFIX + key)) or b"0 0 0").split())
        counts = {number: (previous, current), number - 1: (current, 0)}.get(stored, (0, 0))
        return _described(*counts, expiry, elapsed)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        await self.clear(key)

    async def clear(self, key: str) -> None:
        await self._ask(("DEL", KEY_PREFIX + key))


def _of_group(requests: int, taken: int, place: int, left: int, more: int, *after: int) -> list[Taken]:
    """What each of a group's requests came to, one after the other: each is told what is left when it is counted."""
    place_after, left_after, more_after = after
    first = max(1, min(taken, requests + 1))
    told = [(place, True, left - number, more) for number in range(1, first)]
    return told + [(place_after, number <= taken, left_after, more_after) for number in range(first, requests + 1)]


def _charge(key: str, limit: int, expiry: int, amount: int) -> Charge:
    if amount != 1:
        raise ValueError("this storage takes one at a time")
    return key, limit, expiry * 1000


def _described(previous: int, current: int, expiry: int, elapsed: int) -> tuple[int, float, int, float]:
    left = expiry - elapsed / 1000
    return previous, left, current, left + expiry
