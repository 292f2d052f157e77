"""The issuer's keys, kept fresh: fetched from `AUTH_JWKS_URL` in the background, and once more when a token names an unknown one.

Takes a URL and bounds; gives the `KeySet` of now. What holds:
- The answer's `Cache-Control: max-age` says when to fetch again, within bounds and with jitter; a failure is tried again soon,
  then ever later.
- Any number of tokens with an unknown `kid` cause one fetch, which they all wait for, and then none for `cooldown_seconds`.
- While the issuer cannot be reached the old keys go on, for `max_age_seconds` and no longer. A set without one usable key
  counts as a failure: it is far more often an accident than a wish to lock everybody out.
- The service starts without keys. It is not ready then, and no token can be judged.
- Redirects are not followed, and what the issuer answers is never logged.

Sources: RFC 7517 (JWK Set), RFC 9111, 5.2.2.1 (max-age).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigurationError
from gateway.guards.keys import NO_KEYS, BadKeys, KeySet, read_keys

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("gateway.guards.jwks")

MAX_DOCUMENT_BYTES = 256 * 1024
REQUEST_HEADERS = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
"""Nothing packed: a small answer could unpack to a huge one."""
MAX_AGE = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?([0-9]{1,10})\"?\s*(?:,|$)", re.IGNORECASE)
NOT_CACHED = re.compile(r"(?:^|,)\s*no-(?:store|cache)\b", re.IGNORECASE)
INSIDE_NAMES = (".internal", ".local", ".svc", ".test", ".localhost")
"""Names that the public DNS does not resolve: RFC 6761, RFC 6762, `.internal` by ICANN, `.svc` in Kubernetes."""
RETRY_WITHOUT_KEYS_SECONDS = 1.0
"""Told to a client whose token cannot be judged, at least: the next attempt may be sooner than the schedule says."""


class JwksOptions(msgspec.Struct, frozen=True):
    """Where the keys are, which algorithms they may serve, and the bounds, all in seconds.

    `max_age_seconds`: how long keys are used after the last good fetch. `refresh_seconds` stands where the answer says nothing of
    its age. `timeout_seconds` is for one fetch as a whole, `wait_seconds` for a request that waits for one.
    """

    url: str
    algorithms: tuple[str, ...]
    max_age_seconds: float = 86400
    refresh_seconds: float = 300
    min_refresh_seconds: float = 60
    max_refresh_seconds: float = 3600
    max_retry_seconds: float = 60
    cooldown_seconds: float = 30
    timeout_seconds: float = 5
    wait_seconds: float = 2


class FetchFailed(Exception):
    """A fetch that gave no keys. The message is for operators and for /health: it shows no URL and nothing of the answer.

    `detail` is for the log alone.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(reason)


class Jwks:
    """The issuer's keys. `start` once the loop runs, `stop` at the end; in between they are fresh by themselves.

    To be measured: `fetches` (begun), `failures`, `age_seconds`. `clock` gives seconds, monotonic.
    Raises ConfigurationError for a URL that cannot be trusted: see `check_jwks_url`.
    """

    def __init__(self, options: JwksOptions, clock: Callable[[], float] = time.monotonic) -> None:
        check_jwks_url(options.url)
        self.options = options
        self.fetches = 0
        self.failures = 0
        self._clock = clock
        self._keys = NO_KEYS
        self._fetched_at = -math.inf
        self._asked_at = -math.inf
        self._next_fetch_at = -math.inf
        self._failures_in_a_row = 0
        self._last_failure = ""
        self._client: httpx.AsyncClient | None = None
        self._background: asyncio.Task[None] | None = None
        self._fetch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to fetch, in the background, and does not wait for it."""
        if urlsplit(self.options.url).scheme == "http" and not _is_loopback(_host(self.options.url)):
            logger.warning("AUTH_JWKS_URL: http, not https: whoever can change what passes on that network can sign tokens")
        self._background = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends the background task and closes the connection. What waits for a fetch goes on without it."""
        tasks = [task for task in (self._background, self._fetch) if task is not None]
        self._background = None
        self._asked_at = math.inf  # no token asks for a fetch from here on
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def keys(self) -> KeySet:
        """The keys that tokens are held against now; `NO_KEYS` before the first, and once they are past their maximum age.

        The same object until the set changes.
        """
        if self._clock() - self._fetched_at > self.options.max_age_seconds:
            return NO_KEYS
        return self._keys

    @property
    def age_seconds(self) -> float | None:
        """Since the last good fetch; None where there was none."""
        return None if self._fetched_at == -math.inf else self._clock() - self._fetched_at

    @property
    def retry_after_seconds(self) -> int:
        """When a client without luck may come again: at the next fetch."""
        return math.ceil(max(RETRY_WITHOUT_KEYS_SECONDS, self._next_fetch_at - self._clock()))

    def state(self) -> tuple[bool, str]:
        """Whether tokens can be judged, and a reason in words that shows no URL."""
        age, count = self.age_seconds, len(self._keys.keys)
        failing = f"; the last fetch failed: {self._last_failure}" if self._last_failure else ""
        if age is None:
            return False, f"no keys yet{failing}"
        if not self.keys:
            return False, f"no keys: the old ones are {age:.0f} s old{failing}"
        return True, f"{count} {'key' if count == 1 else 'keys'}, {age:.0f} s old{failing}"

    async def is_well(self) -> tuple[bool, str]:
        """`state`, as a check of /health/ready."""
        return self.state()

    async def refresh(self) -> None:
        """Fetches now, or joins the fetch in flight, and waits for its end. Never raises: see `state`."""
        await asyncio.wait([self._fetching()])

    async def ask_again(self) -> None:
        """For a token whose key is not here: joins the fetch in flight, or begins one unless one was asked for just now.

        Waits for it, up to `wait_seconds`; the caller then looks into `keys` again.
        """
        if self._fetch is None:
            now = self._clock()
            if now - self._asked_at < self.options.cooldown_seconds:
                return
            self._asked_at = now
        await asyncio.wait([self._fetching()], timeout=self.options.wait_seconds)

    def _fetching(self) -> asyncio.Task[None]:
        """The one fetch in flight, begun if there is none. A task of its own: no waiter that leaves takes it along."""
        if self._fetch is None:
            self._fetch = asyncio.create_task(self._renew())
            self._fetch.add_done_callback(self._forget_fetch)
        return self._fetch

    def _forget_fetch(self, _task: asyncio.Task[None]) -> None:
        self._fetch = None

    async def _run(self) -> None:
        while True:
            remaining = self._next_fetch_at - self._clock()
            if remaining > 0:
                await asyncio.sleep(remaining)
            else:
                await self.refresh()

    async def _renew(self) -> None:
        """One fetch, and what follows from it: new keys, or a failure that is counted; and the time of the next one."""
        self.fetches += 1
        try:
            keys, max_age_seconds = await self._read()
        except FetchFailed as failure:
            self._note_failure(str(failure), failure.detail)
        except Exception:
            # The last handler of a task that nobody awaits: without it a bug here would end the keys a day later.
            logger.exception("AUTH_JWKS_URL: a fetch failed in a way that is not foreseen")
            self._note_failure("a fault of the gateway's own; see the log")
        else:
            self._adopt(keys)
            self._schedule(self._bounded(max_age_seconds))

    async def _read(self) -> tuple[KeySet, float | None]:
        """The keys of the issuer's answer, and its `max-age` in seconds. Raises FetchFailed."""
        if self._client is None:
            self._client = await asyncio.to_thread(self._make_client)
        import httpx  # by now at hand

        try:
            async with asyncio.timeout(self.options.timeout_seconds):
                document, headers = await _get(self._client, self.options.url)
            return read_keys(document, self.options.algorithms), _max_age_seconds(headers)
        except (TimeoutError, httpx.TimeoutException):
            raise FetchFailed(f"no answer within {self.options.timeout_seconds:g} s") from None
        except httpx.ConnectError as error:
            raise FetchFailed("no connection", f" ({error})") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # Not the text, which may quote what was answered.
            raise FetchFailed(f"no proper answer ({type(error).__name__})") from None
        except BadKeys as fault:
            raise FetchFailed(str(fault)) from None

    def _make_client(self) -> httpx.AsyncClient:
        """In a thread, for importing httpx and reading the machine's certificates take tens of milliseconds each.

        Proxies are for other machines only.
        """
        import httpx

        return httpx.AsyncClient(
            headers=REQUEST_HEADERS,
            timeout=self.options.timeout_seconds,
            follow_redirects=False,
            trust_env=not _is_loopback(_host(self.options.url)),
        )

    def _adopt(self, keys: KeySet) -> None:
        if self._last_failure or self.age_seconds is None:
            logger.info("AUTH_JWKS_URL: %d keys fetched", len(keys.keys))
        if keys.skipped != self._keys.skipped:
            for reason in keys.skipped:
                logger.warning("AUTH_JWKS_URL: a key is left out: %s", reason)
        if keys.identities != self._keys.identities or keys.skipped != self._keys.skipped:
            self._keys = keys
        self._fetched_at = self._clock()
        self._failures_in_a_row = 0
        self._last_failure = ""

    def _note_failure(self, reason: str, detail: str = "") -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        self._last_failure = reason
        outcome = "the old keys go on" if self.keys else "there are no keys: not ready"
        logger.warning("AUTH_JWKS_URL: %s%s; %s", reason, detail, outcome)
        self._schedule(min(self.options.max_retry_seconds, 2.0 ** min(self._failures_in_a_row, 30) / 2))

    def _bounded(self, max_age_seconds: float | None) -> float:
        wanted = self.options.refresh_seconds if max_age_seconds is None else max_age_seconds
        return min(max(wanted, self.options.min_refresh_seconds), self.options.max_refresh_seconds)

    def _schedule(self, seconds: float) -> None:
        """The next fetch, up to a tenth earlier than asked, so that many processes do not come at once."""
        self._next_fetch_at = self._clock() + seconds * random.uniform(0.9, 1.0)  # noqa: S311 - jitter, no secret


async def _get(client: httpx.AsyncClient, url: str) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers of a 200 of at most `MAX_DOCUMENT_BYTES`. Raises FetchFailed for another answer."""
    async with client.stream("GET", url) as response:
        if response.is_redirect:
            raise FetchFailed(f"the answer is a redirect ({response.status_code}), which is not followed; set where it leads to")
        if response.status_code != 200:
            raise FetchFailed(f"the answer is {response.status_code}, not 200")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailed("the answer is packed, though nothing packed was asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise FetchFailed(f"the answer is larger than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(body), response.headers


def _max_age_seconds(headers: Mapping[str, str]) -> float | None:
    """How long an answer says that it stays fresh; None where it does not say."""
    directives = headers.get("cache-control", "")
    if NOT_CACHED.search(directives):
        return 0.0
    found = MAX_AGE.search(directives)
    return float(found[1]) if found else None


def check_jwks_url(url: str) -> None:
    """Raises ConfigurationError for plain http to a host out in the world: who changes that answer can sign any token.

    To this machine http is fine. To private addresses and to names that only a private network resolves (one without a dot, as
    in compose; `.internal`, `.local`, `.svc`) it is let through, and `Jwks.start` warns.
    """
    if urlsplit(url).scheme == "https":
        return
    host = _host(url)
    if not (_is_loopback(host) or _is_inside(host)):
        raise ConfigurationError("AUTH_JWKS_URL: takes https://…; http is for this machine and for private networks only")


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".").lower()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_inside(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_private
    return "." not in host or host.endswith(INSIDE_NAMES) or host.endswith(".svc.cluster.local")
