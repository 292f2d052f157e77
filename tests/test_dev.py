"""What `gateway dev` makes of settings and of resource files other than ours: `journeys/test_dev.py` has those."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import httpx
import msgspec
import pytest
from joserfc import jwt

from gateway.dev import child_variables, issuing
from gateway.dev_issuer import DevIssuer
from gateway.dev_welcome import welcome
from gateway.settings import Settings, load_settings
from tests.conftest import execute
from tests.serving import running, settings_for, write_resources

SCHEMA = """
CREATE TABLE members (id integer PRIMARY KEY, club uuid NOT NULL, name text NOT NULL);
CREATE TABLE letters (place text, number integer, writer integer REFERENCES members, body text NOT NULL CHECK (body <> ''),
                      PRIMARY KEY (place, number));
CREATE INDEX ON letters (writer);
"""
ROWS = """
INSERT INTO members VALUES (6, '0190b3b1-0000-7000-8000-000000000006', 'Six');
INSERT INTO members VALUES (7, '0190b3b1-0000-7000-8000-000000000007', 'Seven');
INSERT INTO letters VALUES ('a,b', 1, NULL, 'Dear all'), ('a,b', 2, 7, 'Dear me');
"""
LETTERS = """
access:
  admin: {read: {}, create: {}, patch: {}}
  user:
    read: {rows: {writer: $sub}}
"""
MEMBERS = """
access:
  admin: {read: {}}
  club-clerk: {read: {rows: {club: $claims.club, id: {gt: 0}}}}
  user: {read: {rows: {id: $sub}}}
"""


@contextmanager
def site(database_url: str, directory: Path, statements: str) -> Iterator[tuple[Settings, DevIssuer, httpx.Client]]:
    """A gateway over `statements` that believes the issuer in `directory`, as `gateway dev` sets it up."""

    execute(database_url, statements)
    resources = write_resources(directory / "resources", {"letters": LETTERS, "members": MEMBERS})
    with issuing(settings_for(database_url, resources, AUTH="on"), directory) as (settings, issuer), running(settings) as client:
        assert issuer is not None
        yield msgspec.structs.replace(settings, port=client.base_url.port or 0), issuer, client


def statuses(lines: list[str], tokens: dict[str, str]) -> list[tuple[str, int]]:
    """(path, status) of each line of curl, sent as a shell would."""
    found = []
    for line in lines:
        words = [Template(word).substitute(tokens) for word in shlex.split(line)]
        headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1] if "-d" in words else ""
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        url = next(word for word in words if word.startswith("http"))
        found.append((url.partition("/api/v1")[2], httpx.request(method, url, headers=headers, content=body).status_code))
    return found


def read(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """The tokens and the lines of curl among what is printed."""
    bare = [line.strip() for line in lines]
    exported = dict(line.removeprefix("export ").split("=", 1) for line in bare if line.startswith("export "))
    return exported, [line for line in bare if line.startswith("curl ")]


def test_any_resources_get_tokens_that_see_something_and_lines_that_answer(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "me")
    for name in ("ADMIN", "CLUB_CLERK"):
        monkeypatch.delenv(name, raising=False)
    with site(database_url, tmp_path, SCHEMA + ROWS) as (settings, issuer, _client):
        tokens, lines = read(list(welcome(settings, issuer)))
        claims = {name: jwt.decode(token, issuer.key, algorithms=["ES256"]).claims for name, token in tokens.items()}
        assert {name: (found["sub"], found["roles"]) for name, found in claims.items()} == {
            "ADMIN": ("dev", ["admin"]),
            "USER_TOKEN": ("7", ["user"]),  # not 6, who wrote nothing
            "CLUB_CLERK": ("dev", ["club-clerk"]),
        }
        assert claims["CLUB_CLERK"]["club"].startswith("0190b3b1-")
        assert statuses(lines, tokens) == [
            ("/letters?limit=2", 200),
            ("/letters/a%2Cb,1", 200),
            ("/letters?limit=2", 200),
            ("/members?limit=2", 200),
            ("/letters?limit=2", 401),
            ("/letters", 201),
            ("/letters/a%2Cb,1", 200),
        ]


def test_without_rows_there_are_tokens_all_the_same_and_nothing_to_read(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USER", raising=False)
    with site(database_url, tmp_path, SCHEMA) as (settings, issuer, client):
        tokens, lines = read(list(welcome(settings, issuer)))
        assert {name: jwt.decode(token, issuer.key, algorithms=["ES256"]).claims["sub"] for name, token in tokens.items()} == {
            "ADMIN": "dev",
            "USER": "1",
            "CLUB_CLERK": "dev",
        }
        assert statuses(lines, tokens) == [("/letters?limit=2", 401)]
        for token in tokens.values():
            answer = client.get("/api/v1/members", headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["data"]) == (200, [])


def test_with_auth_off_there_are_neither_tokens_nor_headers(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path, SCHEMA + ROWS) as (settings, _issuer, _client):
        off = msgspec.structs.replace(settings, auth="off")
    with running(off) as client:
        port = client.base_url.port or 0
        tokens, lines = read(list(welcome(msgspec.structs.replace(off, port=port), None)))
        assert tokens == {}
        assert [line for line in lines if "Authorization" in line] == []
        assert [status for _, status in statuses(lines, tokens)] == [200, 200, 201, 200]


def test_serving_process_hears_of_the_dev_issuer_whatever_the_environment_says(tmp_path: Path) -> None:
    given = {
        "AUTH_ALGORITHMS": "RS256",
        "AUTH_ISSUER": "https://id.example.com",
        "RATE_LIMIT": "off",
        "AUTH_ROLES_CLAIM": "groups",
    }
    with issuing(load_settings(given, None), tmp_path) as (settings, issuer):
        variables = child_variables(settings)
        heard = load_settings({**given, **variables}, None)
    assert issuer is not None
    assert heard == settings
    assert (heard.auth, heard.auth_issuer, heard.auth_algorithms) == ("on", issuer.issuer, ("ES256",))
    assert heard.auth_jwks_url == variables["AUTH_JWKS_URL"]
    assert (heard.rate_limit, heard.auth_roles_claim) == (None, "groups")


def test_auth_off_is_honoured_and_makes_no_key(tmp_path: Path) -> None:
    with issuing(load_settings({"AUTH": "off"}, None), tmp_path) as (settings, issuer):
        assert (issuer, child_variables(settings)["AUTH"]) == (None, "off")
    assert list(tmp_path.iterdir()) == []
