"""An issuer for tests: keys of every kind, tokens as a test writes them, forged ones too, and a real HTTP server for the set."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.guards.jwks import Jwks, JwksOptions
from gateway.guards.tokens import TokenRules, TokenVerifier

ISSUER = "https://issuer.example/"
AUDIENCE = "gateway"
ALGORITHMS = ("RS256", "ES256", "EdDSA")

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def public(key: Key, **members: Any) -> dict[str, Any]:
    """The key as it stands in a set; a member of None is left out."""
    jwk = {**key.as_dict(private=False), **members}
    return {name: value for name, value in jwk.items() if value is not None}


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


DAY_SECONDS = 86_400


def base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, changed; a claim of None is left out.

    They hold for a day, for a run of all tests may be long after its modules were imported.
    """
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "42", "iat": now, "exp": now + DAY_SECONDS, "roles": ["customer"]}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, key: Key, algorithm: str) -> bytes:
    """A token of any header and payload, signed by `key` with `algorithm`, whatever the header says."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    text = b".".join(base64url(part) for part in parts)
    return text + b"." + base64url(JWSRegistry.algorithms[algorithm].sign(text, key))


def token(key: Key = EC, algorithm: str = "ES256", header: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
    """A token that is good but for what is changed: members of its `header`, where None leaves one out, and claims."""
    members = {"alg": algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
    return signed({name: value for name, value in members.items() if value is not None}, claims(**changes), key, algorithm)


def shared_secret(content: bytes) -> OctKey:
    """A key for HS256, made of what the attacker has; joserfc would refuse to import a public key as one."""
    return OctKey(content, content)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Answer(msgspec.Struct):
    """What the issuer answers: a set, or something worse. `before` runs ahead of each answer, in the server's thread."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    before: Callable[[], object] = lambda: None


class IssuerServer:
    """An HTTP server whose `answer` a test may change as it goes; `requests` are the headers of those that came."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
                answer = outer.answer
                answer.before()
                with contextlib.suppress(OSError):  # a client that has seen enough
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    @contextmanager
    def running(self) -> Iterator[IssuerServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@contextmanager
def issuer(*keys: Any, **answer: Any) -> Iterator[IssuerServer]:
    """A running issuer with these keys in its set."""
    with IssuerServer(Answer(body=key_set(*keys), **answer)).running() as server:
        yield server


@asynccontextmanager
async def fetched(url: str, clock: Clock | None = None, **options: Any) -> AsyncIterator[Jwks]:
    """Keys that were fetched once, without the background task: what happens next is the test's doing.

    It waits longer than the product does, for a machine that is busy with other tests.
    """
    patient = {"timeout_seconds": 20, "wait_seconds": 20, **options}
    jwks = Jwks(JwksOptions(url=url, algorithms=ALGORITHMS, **patient), clock or Clock())
    try:
        await jwks.refresh()
        yield jwks
    finally:
        await jwks.stop()


def verifier(
    jwks: Jwks, now: Callable[[], float] = time.time, roles_claim: str = "roles", algorithms: Sequence[str] = ALGORITHMS
) -> TokenVerifier:
    return TokenVerifier(jwks, TokenRules(ISSUER, AUDIENCE, tuple(algorithms), roles_claim), now)
