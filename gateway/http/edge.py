"""The edge: what is settled of a request by its head alone, and what every answer says to browsers and caches. Pure.

Whose request it is (`client_address`), whether its head is of a sane size, which origins may read the answer (CORS), and the
headers that are the same for every answer, made once. What uvicorn must be kept to (slow heads, endless ones) is in `protocol`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_network

import msgspec
from starlette.types import Receive, Scope

from gateway.errors import Problem, ValidationFailed
from gateway.http.requests import Headers, body_at_hand, read_body, refuse_large_body
from gateway.http.responses import Header, Response

# --- who asks ----------------------------------------------------------------------------------------------------------

UNKNOWN_ADDRESS = "unknown"
"""Of a caller on a Unix socket, which has none."""

MAX_FORWARDED_BYTES = 2048
MAX_FORWARDED_HOPS = 32
_MAPPED = bytes(10) + b"\xff\xff"


class Network(msgspec.Struct, frozen=True):
    """An IP network as numbers: addresses of `width` bytes that equal `prefix` without their `host_bits` lowest bits."""

    width: int
    host_bits: int
    prefix: int


def trusted_networks(written: Iterable[str]) -> tuple[Network, ...]:
    """The TRUSTED_PROXIES setting, ready to compare with. Raises ValueError for what is no address or network."""
    found = []
    for each in map(ip_network, written):
        host_bits = each.max_prefixlen - each.prefixlen
        found.append(Network(each.max_prefixlen // 8, host_bits, int(each.network_address) >> host_bits))
    return tuple(found)


def client_address(scope: Scope, trusted: tuple[Network, ...]) -> str:
    """The caller's address: the peer's, or, where that is a trusted proxy, the last one of X-Forwarded-For that is none.

    Read from the right, for what stands on the left is what the caller wrote. An entry that is no address ends it: the
    proxy that passed it on is then the caller. Of a chain of trusted proxies alone the first is. Ports are dropped, and
    addresses written in their shortest form, IPv4 in IPv6 as IPv4.
    """
    client = scope.get("client")
    peer: str = client[0] if client else ""
    if not trusted:
        return peer or UNKNOWN_ADDRESS
    # RFC 9110, 5.3 makes one list of all headers of a name.
    forwarded = b",".join([value for name, value in scope["headers"] if name == b"x-forwarded-for"])
    return _caller(peer, forwarded[-MAX_FORWARDED_BYTES - 1 :], trusted)


@lru_cache(maxsize=4096)
def _caller(peer: str, forwarded: bytes, trusted: tuple[Network, ...]) -> str:
    packed = _packed(peer)
    if packed is None:
        return peer or UNKNOWN_ADDRESS
    if _is_trusted(packed, trusted):
        for entry in reversed(_hops(forwarded)):
            hop = _packed(_without_port(entry.strip()))
            if hop is None:
                break
            packed = hop
            if not _is_trusted(packed, trusted):
                break
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _hops(forwarded: bytes) -> list[str]:
    """The last entries of a list that may have been cut on its left."""
    if not forwarded:
        return []
    entries = forwarded.decode("latin-1").split(",")
    if len(forwarded) > MAX_FORWARDED_BYTES:
        entries[0] = ""  # what is left of it may look like an address
    return entries[-MAX_FORWARDED_HOPS:]


def _without_port(entry: str) -> str:
    """`192.0.2.1:443` and `[2001:db8::1]:443` as the addresses that they hold."""
    if entry.startswith("["):
        address, bracket, port = entry[1:].partition("]")
        return address if bracket and (not port or port.startswith(":")) else ""
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _packed(address: str) -> bytes | None:
    """An address as 4 or 16 bytes, None for what is none. An interface (`%eth0`) is dropped."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _is_trusted(packed: bytes, trusted: tuple[Network, ...]) -> bool:
    number, width = int.from_bytes(packed, "big"), len(packed)
    return any(network.width == width and number >> network.host_bits == network.prefix for network in trusted)


# --- how much a caller may send, and how long it may take ----------------------------------------------------------------

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
BODY_DEADLINE_SECONDS = 30.0

CLOSE = ("Connection", "close")
"""The rest of what such a caller sends is not waited for."""


def head_too_large(reason: str) -> ValidationFailed:
    """The refusal of a head for its size.

    RFC 6585 has 431 for it; the contract's table of codes has not, and a client of it knows what a 400 with a reason is.
    """
    return ValidationFailed("The request's headers are too large.", [Problem("headers", reason)], [CLOSE])


async def read_body_within(headers: Headers, receive: Receive, max_bytes: int, seconds: float = BODY_DEADLINE_SECONDS) -> bytes:
    """The whole body, which must be there within `seconds`. Raises as `read_body` does, and ValidationFailed for a late one.

    The contract's 408 tells of the database; that a body never came is the caller's fault, so it is a 400.
    """
    body = body_at_hand(receive)
    if body is not None:
        refuse_large_body(len(body), max_bytes)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await read_body(headers, receive, max_bytes)
    except TimeoutError:
        reason = f"it did not arrive whole within {seconds:g} seconds"
        raise ValidationFailed("The body did not arrive in time.", [Problem("body", reason)], [CLOSE]) from None


# --- what answers say to caches and browsers -----------------------------------------------------------------------------

PRIVATE: tuple[Header, ...] = ((b"vary", b"authorization"), (b"cache-control", b"private"))
"""On every answer that depends on the caller: no shared cache may keep it, and a private one only for the same token."""

SECURITY: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""On every answer of data: never run, framed, guessed at, or embedded by another site.

`frame-ancestors` says what X-Frame-Options did. CORS requests are not what Cross-Origin-Resource-Policy forbids. There is no
Strict-Transport-Security: TLS ends before us, and whoever ends it knows whether the whole host is ready for that promise.
"""

METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
REQUEST_HEADERS = (
    b"Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, X-Request-Id, Cache-Control, Server-Timing, "
    b"X-Consistency-Token"
)
EXPOSED_HEADERS = (
    b"Link, Location, ETag, Allow, WWW-Authenticate, X-Request-Id, RateLimit, RateLimit-Policy, Retry-After, Age, X-Cache, "
    b"Server-Timing, Deprecation, Sunset, X-Consistency-Token, Idempotency-Replayed"
)
PREFLIGHT_SECONDS = b"600"
VARY_ORIGIN: Header = (b"vary", b"origin")


class Cors(msgspec.Struct, frozen=True):
    """Which origins may read answers, with the headers for each ready. `others` is what an answer to any other carries.

    `*` lets every origin, and so does without `Vary: Origin`. Credentials are never allowed: a token is sent as a header by
    who has it, and no cookie counts here.
    """

    by_origin: Mapping[bytes, tuple[Header, ...]]
    others: tuple[Header, ...]
    preflight: tuple[Header, ...] = (
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", REQUEST_HEADERS),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
    )


def cors(origins: Iterable[str]) -> Cors | None:
    """The CORS_ORIGINS setting, ready to answer by; None where it is empty."""
    allowed = tuple(origins)
    if not allowed:
        return None
    expose = (b"access-control-expose-headers", EXPOSED_HEADERS)
    if "*" in allowed:
        return Cors({}, ((b"access-control-allow-origin", b"*"), expose))
    sent = (origin.lower().encode() for origin in allowed)
    return Cors({origin: ((b"access-control-allow-origin", origin), expose, VARY_ORIGIN) for origin in sent}, (VARY_ORIGIN,))


def cors_headers(policy: Cors, origin: bytes) -> tuple[Header, ...]:
    """What an answer carries for a caller from `origin`, which is empty for one that is no browser's."""
    return policy.by_origin.get(origin, policy.others)


def preflight_response(policy: Cors, method: str, headers: Iterable[Header]) -> Response | None:
    """The answer to a browser that asks what it may send (Fetch, 4.8), None for any other request.

    It needs no token, for a browser sends none with it. It has the CORS headers on it already.
    """
    if method != "OPTIONS":
        return None
    found = dict(headers)
    origin = found.get(b"origin", b"")
    if not origin or b"access-control-request-method" not in found:
        return None
    told = cors_headers(policy, origin)
    if any(name == b"access-control-allow-origin" for name, _ in told):
        told = (*(header for header in told if header[0] != b"access-control-expose-headers"), *policy.preflight)
    return Response(204, told, b"")
