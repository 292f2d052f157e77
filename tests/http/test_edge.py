"""The edge: whose request it is, how large a head may be, how late a body, and what browsers and caches are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import PayloadTooLarge, ValidationFailed
from gateway.http.edge import (
    MAX_FORWARDED_BYTES,
    MAX_FORWARDED_HOPS,
    PRIVATE,
    SECURITY,
    UNKNOWN_ADDRESS,
    client_address,
    cors,
    cors_headers,
    preflight_response,
    read_body_within,
    trusted_networks,
)
from gateway.http.requests import read_headers
from tests.examples import examples

TRUSTED = trusted_networks(["10.0.0.0/8", "192.0.2.7", "2001:db8:f::/48"])


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"host", b"here"), *((b"x-forwarded-for", value.encode("latin-1")) for value in forwarded)]
    return {"client": None if peer is None else (peer, 1234), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.1", [], "203.0.113.1"),
        ("203.0.113.1", ["198.51.100.1"], "203.0.113.1"),  # not from a proxy that is trusted
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.1.1.1"], "198.51.100.1"),  # what the caller wrote stands on the left
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1", "10.1.1.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense, 10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1]x"], "10.0.0.1"),
        ("10.0.0.1", ["2001:DB8:0:0::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:f::1%eth0", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1\x00"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3"], "10.0.0.1"),
        ("10.0.0.1", ["café"], "10.0.0.1"),
        (None, ["198.51.100.1"], UNKNOWN_ADDRESS),
        ("", ["198.51.100.1"], UNKNOWN_ADDRESS),
    ],
)
def test_the_caller_is_the_last_address_that_is_no_trusted_proxys(peer: str | None, forwarded: list[str], address: str) -> None:
    assert client_address(scope(peer, *forwarded), TRUSTED) == address


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", None])
def test_with_nobody_trusted_the_peer_is_the_caller(peer: str | None) -> None:
    assert client_address(scope(peer, "198.51.100.1"), ()) == (peer or UNKNOWN_ADDRESS)


def test_a_forwarded_header_is_read_no_further_than_its_bound() -> None:
    hops = ", ".join(["10.2.2.2"] * (MAX_FORWARDED_HOPS + 1))
    assert client_address(scope("10.0.0.1", f"198.51.100.1, {hops}"), TRUSTED) == "10.2.2.2"
    cut = "1198.51.100.1" + " " * (MAX_FORWARDED_BYTES + 1 - len("198.51.100.1"))  # its last bytes alone are an address
    assert client_address(scope("10.0.0.1", cut), TRUSTED) == "10.0.0.1"


def test_every_address_is_trusted_by_a_network_of_all() -> None:
    everywhere = trusted_networks(["0.0.0.0/0", "::/0"])
    assert client_address(scope("203.0.113.1", "2001:db8::1, 198.51.100.1"), everywhere) == "2001:db8::1"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        trusted_networks(["10.0.0.1/8"])


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=30), max_size=5))
def test_whatever_is_forwarded_the_caller_is_an_address(forwarded: list[str]) -> None:
    found = client_address(scope("10.0.0.1", *forwarded), TRUSTED)
    socket.inet_pton(socket.AF_INET6 if ":" in found else socket.AF_INET, found)


# --- sizes and times ---------------------------------------------------------------------------------------------------


class Body:
    """A body that comes in pieces; after them it ends, or does not."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self.pieces = list(pieces)
        self.ends = ends

    async def receive(self) -> MutableMapping[str, Any]:
        if self.pieces:
            piece = self.pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or not self.ends}
        await asyncio.Event().wait()
        raise AssertionError


def test_a_body_that_is_there_in_time_is_read() -> None:
    headers = read_headers({"headers": []})
    assert asyncio.run(read_body_within(headers, Body(b"a", b"bc").receive, 10)) == b"abc"


def test_a_late_body_is_a_fault_of_the_caller_and_ends_the_connection() -> None:
    headers = read_headers({"headers": []})
    with pytest.raises(ValidationFailed, match="did not arrive in time") as refused:
        asyncio.run(read_body_within(headers, Body(b"a", ends=False).receive, 10, seconds=0.01))
    assert refused.value.problems[0].field == "body"
    assert refused.value.headers == (("Connection", "close"),)


def test_a_large_body_is_still_refused_for_its_size() -> None:
    headers = read_headers({"headers": []})
    with pytest.raises(PayloadTooLarge):
        asyncio.run(read_body_within(headers, Body(b"a" * 11).receive, 10))


# --- what answers say --------------------------------------------------------------------------------------------------

ORIGIN = b"https://app.example.com"
PREFLIGHT = [(b"origin", ORIGIN), (b"access-control-request-method", b"PATCH")]


def test_without_origins_there_is_no_cors() -> None:
    assert cors([]) is None


def test_an_origin_of_the_list_may_read_and_caches_keep_origins_apart() -> None:
    policy = cors(["https://app.example.com", "http://localhost:3000"])
    assert policy is not None
    told = dict(cors_headers(policy, ORIGIN))
    assert told[b"access-control-allow-origin"] == ORIGIN
    assert told[b"vary"] == b"origin"
    exposed = told[b"access-control-expose-headers"].decode().split(", ")
    assert {"Link", "Location", "ETag", "X-Request-Id", "RateLimit", "RateLimit-Policy", "Retry-After"} <= set(exposed)
    assert b"access-control-allow-credentials" not in told


@pytest.mark.parametrize(
    "origin",
    [b"", b"null", b"https://evil.example", b"https://app.example.com.evil.example", b"http://app.example.com", ORIGIN + b"/"],
)
def test_any_other_origin_may_not(origin: bytes) -> None:
    policy = cors(["https://app.example.com"])
    assert policy is not None
    assert cors_headers(policy, origin) == ((b"vary", b"origin"),)


def test_a_star_lets_every_origin_read_and_varies_by_none() -> None:
    policy = cors(["*"])
    assert policy is not None
    told = dict(cors_headers(policy, b"https://anything.example"))
    assert told[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in told
    assert b"access-control-allow-credentials" not in told


@pytest.mark.parametrize("origins", [["https://APP.example.com"], ["*"]])
def test_a_preflight_tells_what_may_be_sent(origins: list[str]) -> None:
    policy = cors(origins)
    assert policy is not None
    response = preflight_response(policy, "OPTIONS", PREFLIGHT)
    assert response is not None
    told = dict(response.headers)
    assert (response.status, response.body) == (204, b"")
    assert told[b"access-control-allow-origin"] in (ORIGIN, b"*")
    assert set(told[b"access-control-allow-methods"].split(b", ")) == {b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE", b"OPTIONS"}
    sent = {b"Authorization", b"Content-Type", b"If-Match", b"If-None-Match", b"Idempotency-Key", b"X-Request-Id"}
    assert sent <= set(told[b"access-control-allow-headers"].split(b", "))
    assert b"access-control-expose-headers" not in told


def test_a_preflight_from_elsewhere_is_told_nothing() -> None:
    policy = cors(["https://app.example.com"])
    assert policy is not None
    response = preflight_response(policy, "OPTIONS", [(b"origin", b"https://evil.example"), PREFLIGHT[1]])
    assert response is not None
    assert response.headers == ((b"vary", b"origin"),)


@pytest.mark.parametrize(("method", "headers"), [("GET", PREFLIGHT), ("OPTIONS", PREFLIGHT[:1]), ("OPTIONS", PREFLIGHT[1:])])
def test_what_is_no_preflight_is_answered_elsewhere(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    policy = cors(["*"])
    assert policy is not None
    assert preflight_response(policy, method, headers) is None


@pytest.mark.parametrize("group", [SECURITY, PRIVATE])
def test_header_names_are_in_lower_case_and_once_each(group: tuple[tuple[bytes, bytes], ...]) -> None:
    names = [name for name, _ in group]
    assert names == [name.lower() for name in names]
    assert len(set(names)) == len(names)
