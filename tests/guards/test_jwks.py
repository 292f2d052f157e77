"""The issuer's keys: which are taken, when they are fetched, and what a failing issuer does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey
from joserfc.util import int_to_base64

from gateway.errors import ConfigurationError
from gateway.guards.jwks import Jwks, JwksOptions, check_jwks_url
from gateway.guards.keys import MAX_KEYS, BadKeys, KeySet, read_keys
from tests.examples import examples
from tests.issuing import ALGORITHMS, EC, ED, RSA, Answer, Clock, IssuerServer, fetched, issuer, key_set, public

ALL = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def read(*keys: Any, algorithms: tuple[str, ...] = ALL) -> KeySet:
    """A set of these keys and of one good one, which must always be there."""
    found = read_keys(key_set(*keys, public(EC, kid="good")), algorithms)
    assert found.keys[-1].kid == "good"
    return found


# --- which keys are taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (public(RSA), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (public(RSA, alg="PS256"), {"PS256"}),
        (public(RSA, use="sig", key_ops=["verify", "new"]), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (public(EC), {"ES256"}),
        (public(ECKey.generate_key("P-384")), {"ES384"}),
        (public(ECKey.generate_key("P-521")), {"ES512"}),
        (public(ED), {"EdDSA"}),
        (public(OKPKey.generate_key("Ed448")), {"EdDSA"}),
        (public(EC, x5c=7, x5u="no URL", x5t=[], iat=1, kid=None), {"ES256"}),
    ],
)
def test_key_serves_what_it_fits(jwk: dict[str, Any], algorithms: set[str]) -> None:
    found = read(jwk)
    assert found.keys[0].algorithms == algorithms
    assert found.keys[0].kid == jwk.get("kid")
    assert not found.skipped


@pytest.mark.parametrize(
    ("jwk", "reason"),
    [
        (None, "is not an object, or has a member twice"),
        ([], "is not an object, or has a member twice"),
        ({}, "is of another type than RSA, EC and OKP"),
        ({"kty": ["RSA"]}, "is of another type than RSA, EC and OKP"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "is of another type than RSA, EC and OKP"),
        ({"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"}, "is of another type than RSA, EC and OKP"),
        (public(RSA, use="enc"), "is not for signatures"),
        (public(RSA, use=["sig"]), "is not for signatures"),
        (public(RSA, key_ops=["sign"]), "is not to verify with"),
        (public(RSA, key_ops="verify"), "is not to verify with"),
        (public(RSA, alg="ES256"), "fits no accepted algorithm"),
        (public(RSA, alg="HS256"), "fits no accepted algorithm"),
        (public(RSA, alg="RSA-OAEP"), "fits no accepted algorithm"),
        (public(RSA, alg=1), "has a kid or an alg that is no text"),
        (public(RSA, kid=1), "has a kid or an alg that is no text"),
        (public(RSA, n=int_to_base64((1 << 1023) | 1)), "has 1024 bits; RSA keys of 2048 to 8192 are taken"),
        (public(RSA, n=int_to_base64((1 << 9000) | 1)), "has 9001 bits; RSA keys of 2048 to 8192 are taken"),
        (public(RSA, n=None), "cannot be read"),
        (public(RSA, n=""), "cannot be read"),
        (public(RSA, n=7), "cannot be read"),
        (public(RSA, e="AA"), "cannot be read"),
        (public(RSA, e=None), "cannot be read"),
        (RSA.as_dict(private=True), "shows its private part"),
        (public(EC, crv="P-384"), "cannot be read"),
        (public(EC, crv="P-7"), "cannot be read"),
        (public(EC, crv=["P-256"]), "cannot be read"),
        (public(EC, x=public(ECKey.generate_key("P-256"))["x"]), "cannot be read"),
        (public(EC, y="!"), "cannot be read"),
        (public(ECKey.generate_key("secp256k1")), "fits no accepted algorithm"),
        (public(OKPKey.generate_key("X25519")), "fits no accepted algorithm"),
        (public(ED, x="AA"), "cannot be read"),
        (public(ED, x=None), "cannot be read"),
    ],
)
def test_odd_key_is_left_out_with_its_reason_and_spoils_no_other(jwk: Any, reason: str) -> None:
    found = read(jwk)
    assert [key.kid for key in found.keys] == ["good"]
    assert found.skipped == (f"key 1 {reason}",)


def test_key_with_a_member_twice_is_left_out_and_spoils_no_other() -> None:
    twice = json.dumps(public(RSA))[:-1] + ', "kty": "EC"}'
    found = read_keys(f'{{"keys": [{twice}, {json.dumps(public(EC))}]}}'.encode(), ALL)
    assert [key.kid for key in found.keys] == ["ec"]


def test_key_of_an_algorithm_that_is_not_accepted_is_left_out() -> None:
    assert [key.kid for key in read(public(RSA), public(ED), algorithms=("ES256",)).keys] == ["good"]


def test_keys_beyond_the_bound_are_left_out() -> None:
    found = read_keys(key_set(*[public(EC, kid=str(number)) for number in range(MAX_KEYS + 5)]), ALL)
    assert [key.kid for key in found.keys] == [str(number) for number in range(MAX_KEYS)]
    assert found.skipped == (f"key {MAX_KEYS + 1} and those after it are too many",)


NO_SETS = [
    (b"", "the answer is not JSON"),
    (b"<html>", "the answer is not JSON"),
    (b"\xff\xfe", "the answer is not JSON"),
    (b"[" * 100_000, "the answer is not JSON"),
    (b"null", "the answer is not a JWK Set"),
    (b"[]", "the answer is not a JWK Set"),
    (b"{}", "the answer is not a JWK Set"),
    (b'{"keys": {}}', "the answer is not a JWK Set"),
    (b'{"keys": [], "keys": []}', "the answer is not a JWK Set"),
    (b'{"keys": []}', "the set holds no key that can be used"),
    (b'{"keys": [{"kty": "oct"}]}', "the set holds no key that can be used"),
]


@pytest.mark.parametrize(("document", "reason"), NO_SETS)
def test_document_without_a_usable_key_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(BadKeys) as caught:
        read_keys(document, ALL)
    assert str(caught.value) == reason


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=2)
PARTS: list[tuple[Any, str]] = [(RSA, "n"), (EC, "x"), (EC, "y"), (ED, "x")]
JWKS = st.dictionaries(
    st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "alg", "key_ops", "oth", "x5c"]),
    VALUES
    | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", public(EC)["x"], public(ED)["x"], public(RSA)["n"]]),
)


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(st.lists(JWKS | VALUES, max_size=3))
def test_no_key_can_spoil_a_set(keys: list[Any]) -> None:
    read(*keys)


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(st.binary(max_size=50))
def test_any_document_gives_keys_or_a_reason(document: bytes) -> None:
    with pytest.raises(BadKeys):
        read_keys(document, ALL)


def test_identity_tells_keys_apart_by_name_material_and_algorithms() -> None:
    stranger = ECKey.generate_key("P-256", {"kid": "ec"})
    keys = [public(EC), public(EC, alg="ES256"), public(EC, kid="other"), public(EC, kid=None), public(stranger), public(RSA)]
    assert len(read_keys(key_set(*keys), ALL).identities) == 5
    assert read_keys(key_set(*keys), ALL).identities == read_keys(key_set(*reversed(keys)), ALL).identities
    assert read_keys(key_set(public(RSA, alg="RS256")), ALL).identities != read_keys(key_set(public(RSA)), ALL).identities


# --- fetching -----------------------------------------------------------------------------------------------------------


def test_keys_are_fetched_and_the_service_is_ready() -> None:
    with issuer(public(EC), public(RSA)) as server:

        async def run() -> None:
            jwks = Jwks(JwksOptions(url=server.url, algorithms=ALGORITHMS), Clock())
            assert await jwks.is_well() == (False, "no keys yet")
            assert jwks.age_seconds is None
            await jwks.refresh()
            assert [key.kid for key in jwks.keys.keys] == ["ec", "rsa"]
            assert await jwks.is_well() == (True, "2 keys, 0 s old")
            assert [jwks.fetches, jwks.failures, jwks.age_seconds] == [1, 0, 0]
            await jwks.stop()

        asyncio.run(run())
    assert server.requests[0]["accept-encoding"] == "identity"
    assert server.requests[0]["path"] == "/jwks.json"


def dead_url() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/jwks.json"


FAILURES: dict[str, tuple[Answer, str]] = {
    "an error": (Answer(b"secret", 500), "the answer is 500, not 200"),
    "not found": (Answer(b"secret", 404), "the answer is 404, not 200"),
    "no content": (Answer(b"", 204), "the answer is 204, not 200"),
    "a redirect": (Answer(b"", 302, {"Location": "file:///etc/passwd"}), "a redirect (302), which is not followed"),
    "a redirect to itself": (Answer(b"", 301, {"Location": "/jwks.json"}), "a redirect (301), which is not followed"),
    "packed": (Answer(b"secret", 200, {"Content-Encoding": "gzip"}), "packed"),
    "huge": (Answer(b'{"keys": ["' + b"x" * 10_000_000 + b'"]}'), "larger than 262144 bytes"),
    "cut off": (Answer(b'{"keys"', 200, {"Content-Length": "100"}), "no proper answer (RemoteProtocolError)"),
    "no HTTP": (Answer(b"", 200, {"Content-Length": "x\x00secret"}), "no proper answer (RemoteProtocolError)"),
    **{f"document {place}": (Answer(body), reason) for place, (body, reason) in enumerate(NO_SETS)},
}


@pytest.mark.parametrize("name", FAILURES)
def test_failing_issuer_leaves_the_old_keys_and_its_answer_is_never_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, reason = FAILURES[name]
    with issuer(public(EC)) as server, caplog.at_level(logging.DEBUG, "gateway"):

        async def run() -> None:
            async with fetched(server.url) as jwks:
                keys = jwks.keys
                server.answer = answer
                await jwks.refresh()
                assert jwks.keys is keys
                assert (jwks.fetches, jwks.failures) == (2, 1)
                well, told = await jwks.is_well()
                assert well
                assert reason in told
                server.answer = Answer(key_set(public(EC)))
                await jwks.refresh()
                assert jwks.state() == (True, "1 key, 0 s old")

        asyncio.run(run())
    assert len(server.requests) == 3
    assert "the old keys go on" in caplog.text
    assert "secret" not in caplog.text
    assert "passwd" not in caplog.text


@pytest.mark.parametrize("name", FAILURES)
def test_issuer_that_fails_at_the_start_leaves_the_service_not_ready(name: str) -> None:
    answer, reason = FAILURES[name]
    with IssuerServer(answer).running() as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                well, told = jwks.state()
                assert not well
                assert reason in told
                assert server.url not in told
                assert not jwks.keys

        asyncio.run(run())


def test_issuer_that_is_down_at_the_start_leaves_the_service_not_ready() -> None:
    async def run() -> None:
        async with fetched(dead_url()) as jwks:
            assert jwks.state() == (False, "no keys yet; the last fetch failed: no connection")

    asyncio.run(run())


@pytest.mark.parametrize("drip", [False, True])
def test_slow_issuer_is_given_up_on(drip: bool) -> None:
    """Whether it says nothing, or a byte now and then, which a timeout of each read would not end."""
    done = threading.Event()

    def stay() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            while drip and not done.wait(0.05):
                connection.send(b"H")
            done.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=stay, daemon=True)
        thread.start()

        async def run() -> None:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            async with fetched(url, timeout_seconds=0.3) as jwks:
                assert jwks.state() == (False, "no keys yet; the last fetch failed: no answer within 0.3 s")

        asyncio.run(run())
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("cache_control", "low", "high"),
    [
        (None, 270, 300),
        ("max-age=120", 108, 120),
        ("public, MAX-AGE=120, must-revalidate", 108, 120),
        ("max-age=1", 54, 60),
        ("no-store", 54, 60),
        ("no-cache, max-age=1000", 54, 60),
        ("max-age=9999999999", 3240, 3600),
        ("s-maxage=120", 270, 300),
        ("max-age=-1", 270, 300),
        ("max-age=soon", 270, 300),
        ("", 270, 300),
    ],
)
def test_answer_says_when_to_fetch_again_within_bounds(cache_control: str | None, low: float, high: float) -> None:
    headers = {} if cache_control is None else {"Cache-Control": cache_control}
    clock = Clock()
    with issuer(public(EC), headers=headers) as server:

        async def run() -> None:
            async with fetched(server.url, clock) as jwks:
                assert low <= jwks._next_fetch_at - clock.seconds <= high

        asyncio.run(run())


def test_failures_are_tried_again_soon_and_then_ever_later() -> None:
    clock = Clock()

    async def run() -> None:
        async with fetched(dead_url(), clock) as jwks:
            waits = [jwks._next_fetch_at - clock.seconds]
            for _ in range(8):
                await jwks.refresh()
                waits.append(jwks._next_fetch_at - clock.seconds)
            for wait, most in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
                assert most * 0.9 <= wait <= most
            assert 54 <= jwks.retry_after_seconds <= 60

    asyncio.run(run())


def test_old_keys_go_on_for_their_maximum_age_and_no_longer() -> None:
    clock = Clock()
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url, clock, max_age_seconds=86400) as jwks:
                keys = jwks.keys
                server.answer = Answer(b"", 500)
                clock.seconds += 86400
                await jwks.refresh()
                assert jwks.keys is keys
                clock.seconds += 1
                assert not jwks.keys
                assert jwks.state() == (
                    False,
                    "no keys: the old ones are 86401 s old; the last fetch failed: the answer is 500, not 200",
                )
                server.answer = Answer(key_set(public(EC)))
                await jwks.refresh()
                assert jwks.keys is keys

        asyncio.run(run())


def test_set_that_did_not_change_is_the_same_object() -> None:
    with issuer(public(EC), public(RSA)) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                keys = jwks.keys
                server.answer.body = key_set(public(RSA), public(EC))
                await jwks.refresh()
                assert jwks.keys is keys
                server.answer.body = key_set(public(RSA))
                await jwks.refresh()
                assert [key.kid for key in jwks.keys.keys] == ["rsa"]

        asyncio.run(run())


# --- one fetch for all --------------------------------------------------------------------------------------------------


def test_all_who_ask_at_once_share_one_fetch() -> None:
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                await asyncio.gather(*(jwks.ask_again() for _ in range(100)), *(jwks.refresh() for _ in range(100)))
                assert jwks.fetches == 2

        asyncio.run(run())
    assert len(server.requests) == 2


def test_asking_causes_one_fetch_each_cooldown() -> None:
    clock = Clock()
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url, clock) as jwks:
                for seconds, fetches in [(0, 2), (0.1, 2), (29.8, 2), (0.2, 3), (29.9, 3), (0.2, 4)]:
                    clock.seconds += seconds
                    await jwks.ask_again()
                    assert jwks.fetches == fetches

        asyncio.run(run())


def test_failed_fetch_begins_the_cooldown_too() -> None:
    with issuer(status=500) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                for _ in range(10):
                    await jwks.ask_again()
                assert jwks.fetches == 2

        asyncio.run(run())


def test_one_who_leaves_does_not_take_the_fetch_along() -> None:
    going_on = threading.Event()
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                server.answer = Answer(key_set(public(RSA)), before=lambda: going_on.wait(10))
                leaving, staying = asyncio.create_task(jwks.ask_again()), asyncio.create_task(jwks.ask_again())
                await until(lambda: len(server.requests) == 2)
                leaving.cancel()
                going_on.set()
                await staying
                assert leaving.cancelled()
                assert [key.kid for key in jwks.keys.keys] == ["rsa"]

        asyncio.run(run())


def test_one_who_asks_waits_for_a_bounded_time() -> None:
    going_on = threading.Event()
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url, wait_seconds=0.05) as jwks:
                server.answer = Answer(key_set(public(RSA)), before=lambda: going_on.wait(10))
                await jwks.ask_again()
                assert [key.kid for key in jwks.keys.keys] == ["ec"]
                going_on.set()
                await jwks.refresh()
                assert [key.kid for key in jwks.keys.keys] == ["rsa"]
                assert jwks.fetches == 2

        asyncio.run(run())


# --- the background task ------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def options(url: str) -> JwksOptions:
    return JwksOptions(url, ALGORITHMS, refresh_seconds=0.02, min_refresh_seconds=0.01, max_retry_seconds=0.02)


def test_background_fetches_at_the_start_and_again_and_survives_failures() -> None:
    with issuer(public(EC), before=lambda: None) as server:

        async def run() -> None:
            jwks = Jwks(options(server.url))
            await jwks.start()
            await until(lambda: bool(jwks.keys) and jwks.fetches > 2)
            for answer, _ in FAILURES.values():
                failures, server.answer = jwks.failures, answer
                await until(lambda: jwks.failures > failures)  # noqa: B023 - awaited within the turn
            server.answer = Answer(key_set(public(RSA)))
            await until(lambda: jwks.keys.keys[0].kid == "rsa")
            await jwks.stop()
            fetches = jwks.fetches
            await jwks.ask_again()
            await asyncio.sleep(0.05)
            assert jwks.fetches == fetches

        asyncio.run(run())


def test_service_that_starts_before_its_issuer_becomes_ready_by_itself() -> None:
    with issuer(status=503) as server:

        async def run() -> None:
            jwks = Jwks(options(server.url))
            await jwks.start()
            await until(lambda: jwks.failures > 1)
            assert not jwks.state()[0]
            server.answer = Answer(key_set(public(EC)))
            await until(lambda: jwks.state()[0])
            await jwks.stop()

        asyncio.run(run())


def test_unforeseen_fault_is_logged_and_the_background_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def faulty(*arguments: Any) -> KeySet:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError("a bug")
        return read_keys(*arguments)

    monkeypatch.setattr("gateway.guards.jwks.read_keys", faulty)
    with issuer(public(EC)) as server:

        async def run() -> None:
            jwks = Jwks(options(server.url))
            await jwks.start()
            await until(lambda: bool(jwks.keys))
            await jwks.stop()
            assert jwks.failures == 1

        asyncio.run(run())
    assert "not foreseen" in caplog.text


def test_stopping_while_a_fetch_hangs_does_not_wait_for_it() -> None:
    going_on = threading.Event()
    with issuer(before=lambda: going_on.wait(10)) as server:

        async def run() -> None:
            jwks = Jwks(JwksOptions(server.url, ALGORITHMS))
            await jwks.start()
            waiting = asyncio.create_task(jwks.ask_again())
            await until(lambda: len(server.requests) == 1)
            async with asyncio.timeout(5):
                await jwks.stop()
                await waiting

        asyncio.run(run())
        going_on.set()


def test_stopping_what_never_started_is_fine() -> None:
    asyncio.run(Jwks(JwksOptions("https://issuer.example/jwks", ALGORITHMS)).stop())


# --- the URL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example/jwks",
        "http://127.0.0.1:8000/jwks",
        "http://localhost/jwks",
        "http://[::1]:1/jwks",
        "http://keycloak:8080/realms/shop/protocol/openid-connect/certs",
        "http://10.1.2.3/jwks",
        "http://issuer.shop.svc.cluster.local/jwks",
        "http://issuer.shop.svc/jwks",
        "http://issuer.internal./jwks",
    ],
)
def test_url_is_taken(url: str) -> None:
    check_jwks_url(url)


@pytest.mark.parametrize(
    "url",
    ["http://issuer.example/jwks", "http://93.184.216.34/jwks", "http://localhost.example.com/", "http://internal.example/"],
)
def test_plain_http_to_the_world_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="AUTH_JWKS_URL: takes https"):
        Jwks(JwksOptions(url, ALGORITHMS))


@pytest.mark.parametrize(("url", "warned"), [("http://keycloak.internal/", True), ("http://127.0.0.1:1/", False)])
def test_plain_http_in_a_private_network_is_warned_of(url: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        jwks = Jwks(JwksOptions(url, ALGORITHMS))
        await jwks.start()
        await jwks.stop()

    asyncio.run(run())
    assert ("can sign tokens" in caplog.text) is warned
