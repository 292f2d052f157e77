"""Tokens: who is let in, and every way of forging one that is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from gateway.errors import GatewayError, Unauthorized, Unavailable
from gateway.guards import tokens
from gateway.guards.jwks import Jwks, JwksOptions
from gateway.guards.tokens import Caller, TokenVerifier, bearer_token, refuse_query_token, roles_of, token_needed
from tests.examples import examples
from tests.issuing import (
    DAY_SECONDS,
    EC,
    ED,
    RSA,
    Clock,
    IssuerServer,
    base64url,
    claims,
    fetched,
    issuer,
    key_set,
    public,
    shared_secret,
    signed,
    token,
    verifier,
)

STRANGER = ECKey.generate_key("P-256", {"kid": "ec"})
P384 = ECKey.generate_key("P-384", {"kid": "p384"})
UNKNOWN = ECKey.generate_key("P-256", {"kid": "unknown"})
ES256_HEADER = {"alg": "ES256", "kid": "ec"}


@pytest.fixture(scope="module")
def server() -> Iterator[IssuerServer]:
    """An issuer with a key of each kind, and among them what odd issuers put into their sets."""
    odd = [None, 7, "key", {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "ec", "alg": "HS256"}, {"kty": "AKP", "kid": "pq"}]
    with issuer(*odd, public(RSA), public(EC, x5u="no URL", key_ops=["verify"]), public(ED), public(P384)) as server:
        yield server


class Court:
    """Judges tokens by the keys of one issuer, in a loop of its own."""

    def __init__(self, runner: asyncio.Runner, jwks: Jwks) -> None:
        self._runner, self._jwks = runner, jwks

    def judge(self, *given: bytes) -> list[Caller | Unauthorized]:
        """What becomes of each token, in order, with one verifier; any exception but Unauthorized goes through."""

        async def run() -> list[Caller | Unauthorized]:
            checked = verifier(self._jwks)
            return [await outcome(checked, one) for one in given]

        return self._runner.run(run())

    def refusal(self, given: bytes) -> str:
        """The message that a token is refused with."""
        [found] = self.judge(given)
        assert isinstance(found, Unauthorized), "it was accepted"
        [(name, challenge)] = found.headers
        description = found.message.removesuffix(".")
        assert (name, challenge) == ("WWW-Authenticate", f'Bearer error="invalid_token", error_description="{description}"')
        assert found.message.isascii()
        assert not set(found.message) & {'"', "\\"}
        return found.message


@contextmanager
def sitting(server: IssuerServer) -> Iterator[Court]:
    with asyncio.Runner() as runner:
        keys = fetched(server.url)
        jwks = runner.run(keys.__aenter__())
        yield Court(runner, jwks)
        runner.run(keys.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def court(server: IssuerServer) -> Iterator[Court]:
    with sitting(server) as court:
        yield court


async def outcome(checked: TokenVerifier, given: bytes | str) -> Caller | Unauthorized:
    try:
        return await checked.verify(given)
    except Unauthorized as refusal:
        return refusal


# --- good tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_good_token_gives_its_caller(court: Court, key: Any, algorithm: str) -> None:
    expires_at = int(time.time()) + 60
    [caller] = court.judge(token(key, algorithm, exp=expires_at, org_id=7, balance=1.25))
    assert isinstance(caller, Caller)
    assert (caller.subject, caller.roles, caller.expires_at) == ("42", ("customer",), expires_at)
    assert caller.claims["org_id"] == 7
    assert str(caller.claims["balance"]) == "1.25"


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        ({}, {"aud": ["other", "gateway"]}),
        ({}, {"exp": time.time() + DAY_SECONDS + 0.5}),
        ({}, {"exp": 10**400}),
        ({}, {"roles": None}),
        ({"typ": None}, {}),
        ({"typ": "at+jwt"}, {}),
        ({"typ": "application/AT+JWT"}, {}),
        ({"jku": "https://evil.example", "x5u": "file:///etc/passwd", "jwk": {"kty": "oct"}, "x5c": [7], "new": {}}, {}),
    ],
)
def test_unusual_token_is_accepted(court: Court, header: dict[str, Any], changes: dict[str, Any]) -> None:
    [caller] = court.judge(token(header=header, **changes))
    assert isinstance(caller, Caller)
    assert caller.expires_at <= tokens.MAX_NUMERIC_DATE


def test_a_clock_that_is_off_by_less_than_the_leeway_is_forgiven(court: Court) -> None:
    for early_or_late in (token(nbf=int(time.time()) + 20), token(exp=int(time.time()) - 20)):
        [caller] = court.judge(early_or_late)
        assert isinstance(caller, Caller)


def test_token_may_be_text_as_well_as_bytes(server: IssuerServer) -> None:
    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked, good = verifier(jwks), token()
            assert await checked.verify(good.decode()) is await checked.verify(good)
            assert isinstance(await outcome(checked, "\ud800.ä.é"), Unauthorized)

    asyncio.run(run())


def test_token_without_kid_is_accepted_where_one_key_alone_fits_its_algorithm() -> None:
    with issuer(public(EC), public(RSA), public(ED, use="enc")) as server, sitting(server) as court:
        [caller] = court.judge(token(header={"kid": None}))
        assert isinstance(caller, Caller)
    with issuer(public(EC), public(UNKNOWN)) as server, sitting(server) as court:
        assert court.refusal(token(header={"kid": None})) == "The token does not say which key signed it (kid)."
        assert court.refusal(token(RSA, "RS256", {"kid": None})) == "The token is signed by an unknown key."


def test_keys_that_share_a_kid_are_all_tried() -> None:
    with issuer(public(STRANGER), public(RSA, kid="ec"), public(EC)) as server, sitting(server) as court:
        assert [type(found) for found in court.judge(token(EC), token(STRANGER))] == [Caller, Caller]


def test_caller_is_equal_to_itself_alone_and_its_claims_cannot_be_changed(court: Court) -> None:
    first, second = court.judge(token(jti="1"), token(jti="2"))
    assert isinstance(first, Caller)
    assert isinstance(second, Caller)
    assert len({first, second, first}) == 2
    with pytest.raises(TypeError):
        first.claims["sub"] = "1"  # type: ignore[index]  # as is to be shown


def test_caller_that_is_shown_shows_no_claims(court: Court) -> None:
    [caller] = court.judge(token(email="someone@shop.example"))
    assert repr(caller) == "Caller(subject='42', roles=('customer',))"


# --- forged tokens ------------------------------------------------------------------------------------------------------

PEM = RSA.as_pem()
DER = RSA.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
GOOD = token()


def reheaded(**members: Any) -> bytes:
    """A good token under another header: the signature does not cover it."""
    return base64url(json.dumps({**ES256_HEADER, **members}).encode()) + GOOD[GOOD.index(b".") :]


LONG = [token(padding="x" * count) for count in range(5880, 5920)]

FORGED: dict[str, bytes] = {
    "none": signed({"alg": "none", "kid": "ec"}, claims(), shared_secret(b"x"), "HS256").rpartition(b".")[0] + b".",
    "none without kid": base64url(b'{"alg":"none"}') + b"." + base64url(json.dumps(claims()).encode()) + b".",
    "None": signed({"alg": "None", "kid": "ec"}, claims(), EC, "ES256"),
    "no alg": signed({"kid": "ec"}, claims(), EC, "ES256"),
    "alg a list": signed({"alg": ["ES256"], "kid": "ec"}, claims(), EC, "ES256"),
    "alg null": signed({"alg": None, "kid": "ec"}, claims(), EC, "ES256"),
    "HS256 with the PEM": token(shared_secret(PEM), "HS256", {"kid": "rsa"}),
    "HS256 with the DER": token(shared_secret(DER), "HS256", {"kid": "rsa"}),
    "HS256 with the JWK": token(shared_secret(json.dumps(public(RSA)).encode()), "HS256", {"kid": "rsa"}),
    "HS256 with the odd key of the set": token(shared_secret(b"secret"), "HS256", {"kid": "ec"}),
    "HS256 named RS256": signed({"alg": "RS256", "kid": "rsa"}, claims(), shared_secret(PEM), "HS256"),
    "another key": token(STRANGER),
    "another key of the set": token(RSA, "RS256", {"kid": "ec"}),
    "algorithm of another key": signed({"alg": "RS256", "kid": "ec"}, claims(), EC, "ES256"),
    "algorithm not accepted": token(RSA, "PS256"),
    "curve not accepted": token(P384, "ES384"),
    "curve of another algorithm": signed({"alg": "ES256", "kid": "p384"}, claims(), P384, "ES384"),
    "unknown kid": token(UNKNOWN),
    "kid with a path": token(header={"kid": "../../../../etc/passwd"}),
    "kid with SQL": token(header={"kid": "ec' OR '1'='1' --"}),
    "kid with a URL": token(header={"kid": "https://evil.example/jwks.json"}),
    "kid empty": token(header={"kid": ""}),
    "kid a number": token(header={"kid": 1}),
    "kid an object": token(header={"kid": {"ec": 1}}),
    "own key in jwk": token(STRANGER, header={"jwk": public(STRANGER)}),
    "own set in jku": token(UNKNOWN, header={"jku": "https://evil.example/jwks.json"}),
    "crit": token(header={"crit": ["exp"], "exp": 1}),
    "crit empty": token(header={"crit": []}),
    "b64 by crit": token(header={"crit": ["b64"], "b64": False}),
    "logout token": token(header={"typ": "logout+jwt"}),
    "typ no text": token(header={"typ": 1}),
    "signature stripped": GOOD.rpartition(b".")[0] + b".",
    "signature and its dot stripped": GOOD.rpartition(b".")[0],
    "signature of zeros": GOOD.rpartition(b".")[0] + b"." + base64url(bytes(64)),
    "signature as DER": GOOD.rpartition(b".")[0] + b"." + base64url(b"\x30\x06\x02\x01\x01\x02\x01\x01"),
    "signature too long": GOOD + b"AAAA",
    "signature padded": GOOD + b"==",
    "signature with loose bits": GOOD[:-1] + bytes([GOOD[-1] + 1]),
    "header changed": reheaded(x=1),
    "payload changed": GOOD.split(b".")[0] + b"." + base64url(json.dumps(claims(sub="1")).encode()) + b"." + GOOD.split(b".")[2],
    "expired": token(exp=int(time.time()) - 31),
    "exp zero": token(exp=0),
    "exp a text": token(exp="9999999999"),
    "exp true": token(exp=True),
    "exp infinite": signed(ES256_HEADER, json.dumps(claims(exp=7)).encode().replace(b": 7", b": 1e999"), EC, "ES256"),
    "exp NaN": signed(ES256_HEADER, json.dumps(claims(exp=7)).encode().replace(b": 7", b": NaN"), EC, "ES256"),
    "not yet valid": token(nbf=int(time.time()) + DAY_SECONDS),
    "nbf a text": token(nbf="0"),
    "issued in the future": token(iat=int(time.time()) + DAY_SECONDS),
    "wrong iss": token(iss="https://issuer.example"),
    "iss a list": token(iss=["https://issuer.example/"]),
    "wrong aud": token(aud="other"),
    "aud a list of others": token(aud=["other", "gateway2"]),
    "aud empty": token(aud=[]),
    "aud nested": token(aud=[["gateway"]]),
    "aud an object": token(aud={"gateway": 1}),
    "no exp": token(exp=None),
    "no iss": token(iss=None),
    "no aud": token(aud=None),
    "no sub": token(sub=None),
    "sub null": signed(ES256_HEADER, {**claims(), "sub": None}, EC, "ES256"),
    "sub empty": token(sub=""),
    "sub a number": token(sub=42),
    "sub a list": token(sub=["42"]),
    "sub with U+0000": token(sub="4\x002"),
    "sub with half a surrogate pair": token(sub="\ud800"),
    "no claims": signed(ES256_HEADER, {}, EC, "ES256"),
    "payload a list": signed(ES256_HEADER, b"[]", EC, "ES256"),
    "payload no JSON": signed(ES256_HEADER, b"sub=42", EC, "ES256"),
    "payload not UTF-8": signed(ES256_HEADER, b'{"sub":"\xff"}', EC, "ES256"),
    "payload nested deeply": signed(ES256_HEADER, b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", EC, "ES256")[:8000],
    "payload a huge number": signed(ES256_HEADER, b'{"exp":' + b"9" * 5000 + b"}", EC, "ES256"),
    "duplicate claim": signed(ES256_HEADER, json.dumps(claims()).encode()[:-1] + b', "sub": "1"}', EC, "ES256"),
    "duplicate claim within": signed(ES256_HEADER, json.dumps(claims()).encode()[:-1] + b',"a":{"b":1,"b":2}}', EC, "ES256"),
    "duplicate header": signed(b'{"alg":"ES256","kid":"ec","alg":"none"}', claims(), EC, "ES256"),
    "duplicate kid": signed(b'{"alg":"ES256","kid":"x","kid":"ec"}', claims(), EC, "ES256"),
    "header a list": signed(b"[]", claims(), EC, "ES256"),
    "header nested deeply": signed(b"[" * 3000, claims(), EC, "ES256"),
    "1 MB": token(padding="x" * 1_000_000),
    "a little too long": next(long for long in LONG if len(long) > tokens.MAX_TOKEN_BYTES),
    "five segments": GOOD + b".a.b",
    "a space before": b" " + GOOD,
    "a newline behind": GOOD + b"\n",
    "nothing": b"",
    "dots": b"..",
    "no bytes of base64": "ä.ö.ü".encode(),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_token_is_refused(court: Court, name: str) -> None:
    message = court.refusal(FORGED[name])
    assert message.startswith("The token")
    # Nothing of the token comes back, and a second look does not find it kept.
    assert not any(part and part in message.encode() for part in FORGED[name].split(b".") if len(part) > 8)
    assert all(isinstance(found, Unauthorized) for found in court.judge(GOOD, FORGED[name], FORGED[name])[1:])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("expired", "The token has expired."),
        ("not yet valid", "The token is not valid yet."),
        ("issued in the future", "The token was issued in the future."),
        ("wrong iss", "The token is from another issuer."),
        ("wrong aud", "The token is for another audience."),
        ("aud nested", "The token's aud is malformed."),
        ("no claims", "The token lacks aud, exp, iss, sub."),
        ("unknown kid", "The token is signed by an unknown key."),
        ("another key", "The token's signature is wrong."),
        ("algorithm of another key", "The token's algorithm is not its key's."),
        ("none", "The token is signed by an algorithm that is not accepted."),
        ("duplicate claim", "The token is malformed: it is not JSON, or has a member twice."),
        ("1 MB", "The token is longer than 8192 bytes."),
        ("nothing", "The token is malformed: it is no signed JWT."),
    ],
)
def test_refusal_tells_what_is_wrong(court: Court, name: str, message: str) -> None:
    assert court.refusal(FORGED[name]) == message


def test_longest_token_is_accepted(court: Court) -> None:
    longest = [long for long in LONG if len(long) <= tokens.MAX_TOKEN_BYTES][-1]
    assert len(longest) > tokens.MAX_TOKEN_BYTES - 4
    assert isinstance(court.judge(longest)[0], Caller)


def test_only_listed_algorithms_are_accepted_even_where_a_key_would_fit(server: IssuerServer) -> None:
    async def run() -> None:
        async with fetched(server.url) as jwks:
            assert isinstance(await outcome(verifier(jwks, algorithms=("RS256",)), GOOD), Unauthorized)
            assert isinstance(await outcome(verifier(jwks), GOOD), Caller)

    asyncio.run(run())


GOODS = (GOOD, token(RSA, "RS256"))
SEGMENTS = [segment for good in GOODS for segment in good.split(b".")]
PIECES = st.sampled_from([b".", b"=", b"-", b"\x00", b"\xff", b"e30", b"W10", *SEGMENTS])
HEADERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["ES256", "RS256", "EdDSA", "none", "HS256", "", 1, None, [], {}]),
        "kid": st.sampled_from(["ec", "rsa", "ed", "p384", "", 1, None, [], {}]),
        "typ": st.sampled_from(["JWT", "", 1, None]),
    },
)


def assembled(parts: tuple[str, bytes, bytes]) -> bytes:
    header, payload, signature = parts
    return b".".join(base64url(part) for part in (header.encode(), payload, signature))


PATCHWORK = st.lists(PIECES | st.binary(max_size=3), max_size=8).map(b"".join).filter(lambda made: made not in GOODS)
ASSEMBLED = st.tuples(HEADERS.map(json.dumps), st.binary(max_size=70), st.binary(max_size=70)).map(assembled)


@pytest.mark.hypothesis
def test_any_bytes_are_refused_and_nothing_else_happens(server: IssuerServer) -> None:
    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks)

            def is_refused(given: bytes) -> None:
                coroutine = checked.verify(given)
                with pytest.raises(Unauthorized):
                    coroutine.send(None)  # nothing is waited for: the cooldown has begun below

            await outcome(checked, token(UNKNOWN))
            for anything in (st.binary(max_size=100), PATCHWORK, ASSEMBLED):
                settings(max_examples=examples(150), deadline=None, derandomize=True)(given(anything)(is_refused))()

    asyncio.run(run())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CLAIM_NAMES = st.sampled_from(["iss", "aud", "exp", "sub", "nbf", "iat", "jti", "roles", "__init__", "value", ""])


@pytest.mark.hypothesis
def test_any_signed_claims_give_a_caller_or_a_refusal(server: IssuerServer) -> None:
    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks)

            @settings(max_examples=examples(150), deadline=None, derandomize=True)
            @given(st.dictionaries(CLAIM_NAMES, JSON_VALUES, max_size=4))
            @example({"sub": "\ud800"})
            def holds(changes: dict[str, Any]) -> None:
                said = {**claims(), **changes}
                coroutine = outcome(checked, signed(ES256_HEADER, said, EC, "ES256"))
                with pytest.raises(StopIteration) as end:
                    coroutine.send(None)  # it does not wait
                found = end.value.value
                assert found.message.isascii() if isinstance(found, Unauthorized) else found.subject == said["sub"]

            holds()

    asyncio.run(run())


# --- what is kept -------------------------------------------------------------------------------------------------------


def test_verified_token_is_known_and_gives_the_same_caller(server: IssuerServer) -> None:
    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks)
            assert checked.known(GOOD) is None
            caller = await checked.verify(GOOD)
            assert checked.known(bytes(bytearray(GOOD))) is caller
            assert await checked.verify(GOOD) is caller
            assert checked.tokens_kept == 1

    asyncio.run(run())


def test_token_is_not_kept_past_its_expiry_and_the_leeway_is_granted_by_verifying_anew(server: IssuerServer) -> None:
    start = int(time.time())
    now = Clock(start)

    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks, now)
            lasting = token(iat=start, exp=start + 60)
            caller = await checked.verify(lasting)
            now.seconds = start + 59.9
            assert checked.known(lasting) is caller
            now.seconds = start + 60
            assert checked.known(lasting) is None
            assert checked.tokens_kept == 0
            assert await checked.verify(lasting) is not caller
            assert checked.tokens_kept == 0
            now.seconds = start + 89
            assert isinstance(await outcome(checked, lasting), Caller)
            now.seconds = start + 90
            assert isinstance(await outcome(checked, lasting), Unauthorized)

    asyncio.run(run())


def test_kept_tokens_are_bounded_in_number_and_the_least_used_go(server: IssuerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_KEPT_TOKENS", 3)

    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks)
            first, *others = [token(jti=str(number)) for number in range(4)]
            for one in (first, *others[:2]):
                await checked.verify(one)
            checked.known(first)
            await checked.verify(others[2])
            assert [checked.known(one) is not None for one in (first, *others)] == [True, False, True, True]

    asyncio.run(run())


def test_kept_tokens_are_bounded_in_bytes(server: IssuerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_KEPT_BYTES", 10_000)

    async def run() -> None:
        async with fetched(server.url) as jwks:
            checked = verifier(jwks)
            for number in range(5):
                await checked.verify(token(jti=str(number), padding="x" * 3000))
            assert checked.tokens_kept == 2

    asyncio.run(run())


def test_requests_that_wait_for_the_same_key_keep_their_token_once(server: IssuerServer) -> None:
    async def run() -> None:
        jwks = Jwks(JwksOptions(url=server.url, algorithms=("ES256",), wait_seconds=20), Clock())
        checked = verifier(jwks)
        callers = await asyncio.gather(*(checked.verify(GOOD) for _ in range(20)))
        assert {caller.subject for caller in callers} == {"42"}
        assert checked.tokens_kept == 1
        assert jwks.fetches == 1
        assert checked._kept_bytes == len(GOOD)
        await jwks.stop()

    asyncio.run(run())


# --- keys that come and go ----------------------------------------------------------------------------------------------


def test_token_of_a_new_key_is_accepted_at_once_and_of_a_removed_one_refused() -> None:
    new = ECKey.generate_key("P-256", {"kid": "new"})
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                checked = verifier(jwks)
                old = await checked.verify(GOOD)
                server.answer.body = key_set(public(EC), public(new))
                assert isinstance(await checked.verify(token(new)), Caller)
                assert checked.known(GOOD) is old
                assert jwks.fetches == 2
                server.answer.body = key_set(public(new))
                await jwks.refresh()
                assert checked.known(GOOD) is None
                assert checked.tokens_kept == 1
                assert isinstance(await outcome(checked, GOOD), Unauthorized)

        asyncio.run(run())


def test_another_key_under_the_same_kid_ends_the_tokens_of_the_first() -> None:
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                checked = verifier(jwks)
                await checked.verify(GOOD)
                server.answer.body = key_set(public(STRANGER))
                await jwks.refresh()
                assert isinstance(await outcome(checked, GOOD), Unauthorized)

        asyncio.run(run())


def test_kept_tokens_end_with_the_maximum_age_of_the_keys() -> None:
    clock = Clock()
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url, clock, max_age_seconds=3600) as jwks:
                checked = verifier(jwks)
                await checked.verify(GOOD)
                server.answer.status = 500
                clock.seconds += 3600
                assert checked.known(GOOD) is not None
                clock.seconds += 1
                assert checked.known(GOOD) is None
                with pytest.raises(Unavailable) as caught:
                    await checked.verify(GOOD)
                assert dict(caught.value.headers)["Retry-After"].isdecimal()
                server.answer.status = 200
                await jwks.refresh()
                assert isinstance(await checked.verify(GOOD), Caller)

        asyncio.run(run())


def test_without_keys_a_token_cannot_be_judged_but_a_malformed_one_can() -> None:
    with issuer(status=500) as server:

        async def run() -> None:
            async with fetched(server.url) as jwks:
                checked = verifier(jwks)
                for good in (GOOD, token(header={"kid": None})):
                    with pytest.raises(Unavailable):
                        await checked.verify(good)
                assert isinstance(await outcome(checked, b"x"), Unauthorized)

        asyncio.run(run())


def test_ten_thousand_unknown_kids_in_a_minute_cause_three_fetches_at_most() -> None:
    clock = Clock()
    payload = base64url(json.dumps(claims()).encode())
    with issuer(public(EC)) as server:

        async def run() -> None:
            async with fetched(server.url, clock) as jwks:
                checked = verifier(jwks)
                before = len(server.requests)
                for number in range(10_000):
                    clock.seconds += 60 / 10_000
                    header = base64url(f'{{"alg":"ES256","kid":"{number}"}}'.encode())
                    assert isinstance(await outcome(checked, header + b"." + payload + b".AAAA"), Unauthorized)
                assert len(server.requests) - before <= 3
                assert isinstance(await checked.verify(GOOD), Caller)

        asyncio.run(run())


# --- roles --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "roles"),
    [
        ({"roles": "admin"}, "roles", ("admin",)),
        ({"scope": "read  write read"}, "scope", ("read", "write")),
        ({"roles": ["b", "a", "b"]}, "roles", ("b", "a")),
        ({"roles": ["read only"]}, "roles", ("read only",)),
        ({"roles": ["a", 1, None, {}, "", ["admin"]]}, "roles", ("a",)),
        ({"roles": ""}, "roles", ()),
        ({"roles": {"admin": True}}, "roles", ()),
        ({"roles": True}, "roles", ()),
        ({}, "roles", ()),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ("a",)),
        ({"realm_access": {"roles": ["a"]}, "realm_access.roles": ["b"]}, "realm_access.roles", ("b",)),
        ({"realm_access.roles": None, "realm_access": {"roles": ["a"]}}, "realm_access.roles", ()),
        ({"realm_access": ["roles"]}, "realm_access.roles", ()),
        ({"https://shop.example/roles": ["a"]}, "https://shop.example/roles", ("a",)),
    ],
)
def test_roles_are_read(content: dict[str, Any], name: str, roles: tuple[str, ...]) -> None:
    assert roles_of(content, name) == roles


# --- tokens in HTTP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"Bearer abc.def.ghi", b"bearer abc.def.ghi", b"BEARER   abc.def.ghi "])
def test_bearer_token_is_found(value: bytes) -> None:
    assert bearer_token([(b"host", b"x"), (b"authorization", value), (b"accept", b"*/*")]) == b"abc.def.ghi"


def test_request_without_authorization_has_no_token() -> None:
    assert bearer_token([(b"host", b"x")]) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"abc.def.ghi",
        b"Basic dXNlcjpwYXNz",
        b"Token abc",
        b"Bearer a b",
        b"Bearer a,Bearer b",
        b"Bearer\ta",
    ],
)
def test_malformed_authorization_is_refused(value: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        bearer_token([(b"authorization", value)])
    assert_misplaced(caught.value)


@pytest.mark.parametrize("values", [(b"Bearer a", b"Bearer a"), (b"", b"Bearer a"), (b"Bearer a", b"Basic b")])
def test_two_authorization_headers_are_refused(values: tuple[bytes, bytes]) -> None:
    with pytest.raises(Unauthorized) as caught:
        bearer_token([(b"authorization", value) for value in values])
    assert_misplaced(caught.value)


@pytest.mark.parametrize("query", [b"access_token=abc", b"page=2&access_token=abc", b"access_token", b"access_token="])
def test_token_in_the_query_is_refused(query: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        refuse_query_token(query)
    assert_misplaced(caught.value)


@pytest.mark.parametrize("query", [b"", b"page=2", b"access_token[eq]=1", b"my_access_token=1", b"q=access_token"])
def test_other_query_is_left_alone(query: bytes) -> None:
    refuse_query_token(query)


def assert_misplaced(error: GatewayError) -> None:
    [(name, challenge)] = error.headers
    assert name == "WWW-Authenticate"
    assert challenge.startswith('Bearer error="invalid_request", error_description="')
    assert "abc" not in error.message


def test_missing_token_is_answered_with_a_plain_challenge() -> None:
    assert token_needed().headers == (("WWW-Authenticate", 'Bearer realm="api"'),)
