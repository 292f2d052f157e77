"""Tokens over HTTP: where they may stand, the forged ones, keys that change, an issuer that is down, and silence in the log."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from tests.conftest import throwaway_database
from tests.guards.test_tokens import FORGED, P384
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ED, ISSUER, RSA, IssuerServer, issuer, key_set, public, token
from tests.journeys.answers import JSON, check_answer, gateway_over
from tests.journeys.test_attacks import execute
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("tokens over http")

SQL = (
    "CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL, body text NOT NULL)",
    "CREATE TABLE pages (id bigint PRIMARY KEY, title text NOT NULL)",
    "INSERT INTO notes (owner, body) VALUES ('42', 'a secret of 42'), ('43', 'a secret of 43')",
    "INSERT INTO pages VALUES (1, 'welcome')",
    "SELECT 1",
)
RESOURCES = {
    "notes": """
access:
  customer:
    read:   {rows: {owner: $sub}}
    create: {fields: [body], set: {owner: $sub}}
    delete: {rows: {owner: $sub}}
""",
    "pages": "access: {anonymous: {read: {}}, admin: {create: {}}}",
}
ODD_KEYS = [None, 7, "key", {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "ec", "alg": "HS256"}, {"kty": "AKP", "kid": "pq"}]
KEYS = [*ODD_KEYS, public(RSA), public(EC), public(ED), public(P384)]
NOTES, PAGES = "/api/v1/notes", "/api/v1/pages"


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        execute(url, *SQL)
        yield url


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(tmp_path_factory.mktemp("tokens") / "resources", RESOURCES)


@contextmanager
def guarded(database: str, resources: Path, keys: IssuerServer, **variables: str) -> Iterator[httpx.Client]:
    """A gateway that asks for this issuer's tokens."""
    variables |= {
        "AUTH": "on",
        "AUTH_JWKS_URL": keys.url,
        "AUTH_ISSUER": ISSUER,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
    }
    with gateway_over(database, resources, **variables) as client:
        yield client


@pytest.fixture(scope="module")
def client(database: str, resources: Path) -> Iterator[httpx.Client]:
    with issuer(*KEYS) as keys, guarded(database, resources, keys) as client:
        assert client.get(NOTES, headers=bearer(token())).status_code == 200
        yield client


def bearer(given: bytes | str) -> dict[str, str]:
    return {"authorization": f"Bearer {given if isinstance(given, str) else given.decode()}"}


def check_unauthorized(response: httpx.Response, error: str) -> None:
    check_answer(response)
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"].startswith(f'Bearer error="{error}", error_description="')
    if response.request.method != "HEAD":
        assert response.json()["error"]["code"] == "UNAUTHORIZED"


# --- who is let in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_good_token_opens_what_its_subject_and_roles_may_see(client: httpx.Client, key: Any, algorithm: str) -> None:
    response = client.get(NOTES, headers=bearer(token(key, algorithm)))
    assert [row["body"] for row in response.json()["data"]] == ["a secret of 42"]
    assert client.get(NOTES, headers=bearer(token(key, algorithm, roles=["stranger"]))).status_code == 403


def test_without_a_token_what_anybody_may_see_is_served_and_the_rest_asks_for_one(client: httpx.Client) -> None:
    assert client.get(PAGES).json()["data"] == [{"id": 1, "title": "welcome"}]
    for response in (client.get(NOTES), client.post(NOTES, json={"body": "x"}), client.delete(f"{NOTES}/1")):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="api"'
    assert client.post(PAGES, json={"id": 2, "title": "x"}, headers=bearer(token())).status_code == 403


# --- where a token may stand ----------------------------------------------------------------------------------------------

MALFORMED = ["", "Bearer", "abc.def.ghi", "Basic dXNlcjpwYXNz", "Token abc", "Bearer a b", "Bearer a,Bearer b", "Bearer\ta", "é"]
PLACES = [
    ("GET", NOTES),
    ("HEAD", NOTES),
    ("GET", PAGES),
    ("GET", f"{PAGES}/1"),
    ("POST", NOTES),
    ("PATCH", f"{NOTES}/1"),
    ("DELETE", f"{NOTES}/1"),
    ("OPTIONS", PAGES),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/api/v1/nothing"),
]


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_authorization_is_refused_everywhere(client: httpx.Client, value: str) -> None:
    for method, path in PLACES:
        response = client.request(method, path, headers=[(b"authorization", value.encode("latin-1"))])
        check_unauthorized(response, "invalid_request")


def test_two_authorization_headers_are_refused_even_where_both_are_good(client: httpx.Client) -> None:
    good = bearer(token())["authorization"]
    for method, path in PLACES:
        response = client.request(method, path, headers=[("authorization", good), ("authorization", good)])
        check_unauthorized(response, "invalid_request")


@pytest.mark.parametrize("also_as_header", [True, False])
def test_token_in_the_query_string_is_refused(client: httpx.Client, also_as_header: bool) -> None:
    good = token().decode()
    for method, path in PLACES:
        headers = bearer(good) if also_as_header else {}
        response = client.request(method, path, params={"access_token": good}, headers=headers)
        check_unauthorized(response, "invalid_request")
        assert good not in response.text


def test_faulty_token_is_refused_where_none_is_needed_too(client: httpx.Client) -> None:
    assert client.get(PAGES, headers=bearer(token())).status_code == 200
    check_unauthorized(client.get(PAGES, headers=bearer(token(exp=1))), "invalid_token")


# --- forged tokens --------------------------------------------------------------------------------------------------------

NOT_A_HEADER = {"1 MB", "a newline behind"}
"""What the server refuses before anybody looks for a token."""


def raw(client: httpx.Client, request: bytes) -> bytes:
    """The server's answer to bytes that no client library would send, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
        connection.settimeout(20)
        answer = b""
        try:
            connection.sendall(request)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            return answer  # it closed while we were still sending
        return answer


@pytest.mark.parametrize("name", [name for name in FORGED if name != "a space before"])  # HTTP lets any number stand there
def test_forged_token_is_refused_by_the_server(client: httpx.Client, name: str) -> None:
    forged = FORGED[name]
    head = b"GET %s HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\nauthorization: Bearer %s\r\n\r\n"
    for path in (NOTES, PAGES):
        answer = raw(client, head % (path.encode(), forged))
        status, _, rest = answer.partition(b"\r\n")
        assert b"secret of" not in answer
        assert not any(part and part in answer for part in forged.split(b".") if len(part) > 8)
        if name in NOT_A_HEADER:
            assert not answer or status.split()[1] in (b"400", b"401"), status
            continue
        assert status == b"HTTP/1.1 401 Unauthorized"
        assert b"\r\nwww-authenticate: Bearer error=" in rest
        assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "UNAUTHORIZED"


def test_server_is_well_after_all_the_forged_tokens(client: httpx.Client) -> None:
    assert client.get(NOTES, headers=bearer(token())).status_code == 200
    assert client.get("/health/ready").status_code == 200


# --- keys that come and go ------------------------------------------------------------------------------------------------


def test_first_token_of_a_new_key_is_accepted_and_those_of_the_removed_one_are_not(database: str, resources: Path) -> None:
    old, new = ECKey.generate_key("P-256", {"kid": "old"}), ECKey.generate_key("P-256", {"kid": "new"})
    with issuer(public(old)) as keys, guarded(database, resources, keys) as client:
        assert client.get(NOTES, headers=bearer(token(old))).status_code == 200
        fetches = len(keys.requests)
        keys.answer.body = key_set(public(new))
        assert client.get(NOTES, headers=bearer(token(new))).status_code == 200
        assert len(keys.requests) == fetches + 1
        check_unauthorized(client.get(NOTES, headers=bearer(token(old))), "invalid_token")
        check_unauthorized(client.get(NOTES, headers=bearer(token(ECKey.generate_key("P-256", {"kid": "x"})))), "invalid_token")
        assert len(keys.requests) == fetches + 1  # the next look is 30 seconds away


def test_issuer_that_goes_down_later_stops_nobody(database: str, resources: Path) -> None:
    with issuer(public(EC)) as keys, guarded(database, resources, keys) as client:
        assert client.get(NOTES, headers=bearer(token())).status_code == 200
        keys.answer.status = 500
        check_unauthorized(client.get(NOTES, headers=bearer(token(P384, "ES256", {"kid": "else"}))), "invalid_token")
        assert client.get(NOTES, headers=bearer(token(jti="another"))).status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_issuer_that_is_down_at_the_start_leaves_the_gateway_unready_and_anonymous_reads_served(
    database: str, resources: Path
) -> None:
    with issuer(public(EC), status=500) as keys, guarded(database, resources, keys) as client:
        ready = client.get("/health/ready", headers={})
        assert ready.status_code == 503
        assert ready.json()["checks"]["tokens"]["status"] == "unavailable"
        assert ready.json()["checks"]["database"]["status"] == "ok"
        assert keys.url not in ready.text
        judged = client.get(NOTES, headers=bearer(token()))
        assert judged.status_code == 503
        assert judged.json()["error"]["code"] == "UNAVAILABLE"
        assert client.get(PAGES).status_code == 200
        assert client.get(NOTES).status_code == 401
        check_unauthorized(client.get(NOTES, headers=bearer("x")), "invalid_token")
        keys.answer.status = 200
        deadline = time.monotonic() + 20
        while client.get(NOTES, headers=bearer(token())).status_code != 200:
            assert time.monotonic() < deadline, "the keys never came"
            time.sleep(0.1)
        assert client.get("/health/ready").status_code == 200


# --- what caches and logs may keep ----------------------------------------------------------------------------------------


def test_every_answer_of_data_is_private_to_its_token(client: httpx.Client) -> None:
    good = bearer(token())
    answers = [
        client.get(NOTES, headers=good),
        client.head(NOTES, headers=good),
        client.get(NOTES),
        client.get(PAGES),
        client.get(f"{NOTES}/2", headers=good),
        client.get(f"{NOTES}?nothing=1", headers=good),
        client.post(NOTES, content=b'{"owner": "43"}', headers={**good, **JSON}),
        client.get("/api/v1/openapi.json", headers=good),
        client.get("/api/v1/nothing"),
        client.get(NOTES, headers={"authorization": "nonsense"}),
    ]
    assert [response.status_code for response in answers] == [200, 200, 401, 200, 404, 400, 403, 200, 404, 401]
    for response in answers:
        assert "authorization" in response.headers["vary"].lower(), response.request.url
        assert response.headers["cache-control"] == "private", response.request.url


def test_nothing_of_a_token_or_a_body_is_logged(
    database: str, resources: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    good = token(email="ann@shop.example", jti="not to be logged")
    with issuer(*KEYS) as keys, guarded(database, resources, keys, LOG_LEVEL="debug") as client:
        for name in ("expired", "unknown kid", "HS256 with the PEM", "payload changed"):
            client.get(NOTES, headers=bearer(FORGED[name]))
        client.get(f"{NOTES}?access_token={good.decode()}")
        client.get(f"{NOTES}?body=not+to+be+logged", headers=bearer(good))
        client.get(NOTES, headers={"authorization": f"Basic {good.decode()}"})
        for body in (b'{"body": "not to be logged"}', b'{"body": "not to be logged"', b'{"owner": "not to be logged"}'):
            client.post(NOTES, content=body, headers={**bearer(good), **JSON})
            client.patch(f"{NOTES}/1", content=body, headers={**bearer(good), **JSON})
    written = capfd.readouterr()
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]  # the test's own client
    logged = "\n".join([*(f"{record.getMessage()} {record.exc_text or ''}" for record in ours), written.out, written.err])
    assert logged.count('"status":401') >= 5, "requests are logged: what is this test about?"
    parts = {part.decode("latin-1") for given in (good, *FORGED.values()) for part in given.split(b".") if len(part) > 20}
    for secret in (*parts, "not to be logged", "not+to+be+logged", "ann@shop.example"):
        assert secret not in logged
