"""The issuer of `gateway dev`: its key is kept and kept secret, and its tokens go the way of all tokens."""

from __future__ import annotations

import asyncio
import json
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.dev_issuer import ALGORITHM, KEY_FILE, DevIssuer, serving
from gateway.errors import ConfigurationError, Unauthorized
from gateway.guards.jwks import Jwks, JwksOptions
from gateway.guards.tokens import Caller, TokenRules, TokenVerifier


def caller_of(issuer: DevIssuer, token: str, roles_claim: str = "roles") -> Caller:
    """Who the token speaks for, by the real path: its key over HTTP."""

    async def run() -> Caller:
        jwks = Jwks(JwksOptions(url, (ALGORITHM,), wait_seconds=20))
        await jwks.start()
        try:
            rules = TokenRules(issuer.issuer, issuer.audience, (ALGORITHM,), roles_claim)
            return await TokenVerifier(jwks, rules).verify(token)
        finally:
            await jwks.stop()

    with serving(issuer) as url:
        return asyncio.run(run())


def test_token_is_accepted_by_the_real_path(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path / "data")
    caller = caller_of(issuer, issuer.sign("42", ["customer", "support"], 60, {"org_id": 7}))
    assert (caller.subject, caller.roles, caller.claims["org_id"]) == ("42", ("customer", "support"), 7)


def test_token_is_signed_for_the_running_gateway_by_its_directory(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path)
    assert caller_of(issuer, DevIssuer.load(tmp_path).sign("1", ["admin"])).roles == ("admin",)
    other = DevIssuer.load(tmp_path).sign("1", ["admin"], roles_claim="realm_access.roles")
    assert caller_of(issuer, other, "realm_access.roles").roles == ("admin",)


def test_token_of_another_directory_or_past_its_time_is_refused(tmp_path: Path) -> None:
    issuer, stranger = DevIssuer.open(tmp_path / "a"), DevIssuer.open(tmp_path / "b")
    for token in (stranger.sign("1", ["admin"]), issuer.sign("1", ["admin"], -60)):
        with pytest.raises(Unauthorized):
            caller_of(issuer, token)


def test_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = DevIssuer.open(tmp_path), DevIssuer.open(tmp_path)
    assert first.jwks() == second.jwks() == DevIssuer.load(tmp_path).jwks()
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE]


def test_set_shows_no_private_part(tmp_path: Path) -> None:
    [key] = json.loads(DevIssuer.open(tmp_path).jwks())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}


def test_without_a_key_no_token_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no dev key in .*; run gateway dev first"):
        DevIssuer.load(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'"x"', b"{}", b'{"kty":"oct","k":"AA"}', b"\xff"])
def test_spoilt_key_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    for use in (DevIssuer.open, DevIssuer.load):
        with pytest.raises(ConfigurationError, match="holds no dev key; remove it"):
            use(tmp_path)


def test_key_without_its_private_part_or_its_name_is_told(tmp_path: Path) -> None:
    DevIssuer.open(tmp_path)
    file = tmp_path / KEY_FILE
    whole = json.loads(file.read_text())
    for missing in ("d", "kid"):
        file.write_text(json.dumps({name: value for name, value in whole.items() if name != missing}))
        with pytest.raises(ConfigurationError, match="holds no dev key"):
            DevIssuer.load(tmp_path)


def test_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        DevIssuer.open(tmp_path / "file")
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        DevIssuer.load(tmp_path)


def test_claims_of_the_issuers_own_cannot_be_given(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path)
    with pytest.raises(ConfigurationError, match="the dev issuer sets exp, roles itself"):
        issuer.sign("1", ["admin"], claims={"roles": [], "exp": 0})
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        issuer.sign("1", ["admin"], claims={"x": object()})


def test_server_answers_with_the_set_alone_and_is_gone_after_the_block(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path)
    with serving(issuer) as url:
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1"
        for path, status, body in ((parts.path, 200, issuer.jwks()), ("/", 404, b"{}"), (f"/..{parts.path}", 404, b"{}")):
            connection = HTTPConnection("127.0.0.1", parts.port or 0, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.read(), response.headers["Cache-Control"]) == (status, body, "max-age=300")
            connection.close()
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection("127.0.0.1", parts.port or 0, timeout=5).connect()
