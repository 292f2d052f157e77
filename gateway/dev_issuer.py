"""The issuer of `gateway dev`: a key, tokens signed with it, and its JWKS over HTTP, so that the real path is what runs.

Takes the data directory of `gateway dev`, where the key is made once and kept, readable by its owner alone. Whoever has that
file can sign any token for that gateway; it is for trying out, on one machine.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from gateway.errors import ConfigurationError

KEY_FILE = "dev-issuer-key.json"
ISSUER = "gateway-dev"
AUDIENCE = "gateway"
ALGORITHM = "ES256"
"""Its keys are made in no time and its tokens are short, to be pasted."""
JWKS_PATH = "/.well-known/jwks.json"
MAX_AGE_SECONDS = 300
LIFETIME_SECONDS = 12 * 3600
READ_TIMEOUT_SECONDS = 5
OWN_CLAIMS = frozenset({"iss", "aud", "sub", "iat", "exp"})


class DevIssuer(msgspec.Struct, frozen=True):
    """A signing key (ES256), and the `issuer` and `audience` that its tokens name."""

    key: ECKey
    issuer: str = ISSUER
    audience: str = AUDIENCE

    @classmethod
    def open(cls, directory: Path) -> DevIssuer:
        """The issuer whose key lies in `directory`; both are made if there are none. Raises ConfigurationError."""
        path = directory / KEY_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(path, _new_key())
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> DevIssuer:
        """The issuer whose key lies in `directory`. Raises ConfigurationError where none does, or it cannot be read."""
        path = directory / KEY_FILE
        try:
            return cls(_read_key(path.read_bytes()))
        except FileNotFoundError:
            raise ConfigurationError(f"there is no dev key in {directory}; run gateway dev first") from None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, JoseError):
            raise ConfigurationError(f"{path} holds no dev key; remove it, and gateway dev makes a new one") from None

    def jwks(self) -> bytes:
        """The JWKS document: the public key alone."""
        return msgspec.json.encode({"keys": [self.key.as_dict(private=False, use="sig", alg=ALGORITHM)]})

    def sign(
        self,
        subject: str,
        roles: Sequence[str],
        lifetime_seconds: float = LIFETIME_SECONDS,
        claims: Mapping[str, Any] | None = None,
        roles_claim: str = "roles",
    ) -> str:
        """A token for `subject` with `roles` under `roles_claim`, and further `claims`.

        Raises ConfigurationError for a claim that the issuer itself sets, and for one that JSON cannot hold.
        """
        further = dict(claims or {})
        taken = sorted((OWN_CLAIMS | {roles_claim}) & further.keys())
        if taken:
            raise ConfigurationError(f"the dev issuer sets {', '.join(taken)} itself")
        now = int(time.time())
        own = {"iss": self.issuer, "aud": self.audience, "sub": subject, "iat": now, "exp": now + int(lifetime_seconds)}
        try:
            return jwt.encode({"alg": ALGORITHM, "kid": self.key.kid}, {**further, **own, roles_claim: list(roles)}, self.key)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the claims cannot be written as JSON: {error}") from error


@contextmanager
def serving(issuer: DevIssuer) -> Iterator[str]:
    """The issuer's JWKS over HTTP on a free loopback port, from a thread, for as long as the block runs; gives its URL."""
    document = issuer.jwks()

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            found = self.path == JWKS_PATH
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/jwk-set+json")
            self.send_header("Cache-Control", f"max-age={MAX_AGE_SECONDS}")
            body = document if found else b"{}"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is the base class's
            """Says nothing: the terminal is `gateway dev`'s."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{JWKS_PATH}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _new_key() -> bytes:
    key = ECKey.generate_key("P-256", auto_kid=True)
    return msgspec.json.encode(key.as_dict(private=True))


def _read_key(text: bytes) -> ECKey:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("no JWK")
    key = ECKey.import_key(content)
    if not key.is_private or not key.kid or key.curve_name != "P-256":
        raise ValueError("no private P-256 key with a name")
    return key


def _write(path: Path, content: bytes) -> None:
    """Writes `content` for its owner's eyes alone; the file is whole or not there."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
