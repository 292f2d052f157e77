"""Who calls: a bearer token in, a `Caller` out, or a refusal that says what is wrong with the token and shows none of it.

A token is a signed JWT in its compact form. It is held against the issuer's keys (`jwks`) in this order: size and form, the
header, the key, the signature, the claims; so what a refusal tells of the claims, it tells of a token that the issuer signed.
Verified tokens are kept, for a signature costs 40 to 90 µs and a look-up less than one: see `TokenVerifier`.

The header is the sender's word. Its `alg` must be one of ours and fit the key; its `kid` is compared with the names in the set
and goes nowhere else; `jku`, `x5u`, `x5c` and `jwk` are not read; `crit` is refused, for we know no extension; a `typ` that is
not an access token's is refused, for other signed things (logout tokens, proofs) come from the same keys.
Sources: RFC 7519 (JWT), RFC 7515 (JWS), RFC 8725 (what to beware of), RFC 9068 (`at+jwt`), RFC 6750 (bearer tokens in HTTP).
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
from joserfc.errors import ExpiredTokenError, InvalidClaimError, MissingClaimError
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from gateway.errors import Refused, Unauthorized
from gateway.guards.jwks import Jwks
from gateway.guards.keys import NO_KEYS, KeySet, VerificationKey
from gateway.query.strict_json import BadJson, decode_json

MAX_TOKEN_BYTES = 8192
MAX_KEPT_TOKENS = 10_000
MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Of the tokens' text; the claims made of it take a small multiple."""
LEEWAY_SECONDS = 30
"""RFC 7519, 4.1.4: for clocks that differ."""
MAX_NUMERIC_DATE = 2**53
"""A token that is valid for longer is as good as valid for this long, and a float holds it."""
TOKEN_TYPES = frozenset({"jwt", "at+jwt"})
"""RFC 7519, 5.1 and RFC 9068, 2.1; in any case, with or without "application/"."""
CHALLENGE = 'Bearer realm="api"'
"""RFC 6750, 3 wants a parameter after the scheme."""
QUERY_TOKEN = re.compile(rb"(?:^|&)access_token(?:=|&|$)")
"""RFC 6750, 2.3, which RFC 9700, 4.3.2 forbids: URLs end up in logs and histories."""

FAULTY_CLAIMS: Mapping[str, str] = {
    "iss": "The token is from another issuer.",
    "aud": "The token is for another audience.",
    "nbf": "The token is not valid yet.",
    "iat": "The token was issued in the future.",
}
"""What a claim that is not as it must be means, where the claim itself is well formed."""
NUMERIC_DATES = ("exp", "nbf", "iat")


class Caller(msgspec.Struct, frozen=True, eq=False):
    """Who a verified token speaks for: its `sub`, the roles it gives, and all its claims, not to be changed.

    `expires_at` is the token's `exp`, in seconds since 1970. Numbers with a fraction are `Decimal`s in `claims`.
    Callers are equal only where they are the same object. While a token is kept each of its requests gets the same one, so
    a caller can be the key of what is made once for each (its grants, say), and comparing and hashing never touch the claims.
    """

    subject: str
    roles: tuple[str, ...]
    claims: Mapping[str, Any]
    expires_at: float

    def __repr__(self) -> str:
        """Without the claims: a log line or a traceback may show it."""
        return f"Caller(subject={self.subject!r}, roles={self.roles!r})"


class TokenRules(msgspec.Struct, frozen=True):
    """What a token must say: `AUTH_ISSUER`, `AUTH_AUDIENCE`, `AUTH_ALGORITHMS`, and where it names roles (`AUTH_ROLES_CLAIM`)."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    roles_claim: str = "roles"


class _Token(msgspec.Struct, frozen=True, eq=False):
    """A token that is well formed, and not yet believed."""

    algorithm: str
    kid: str | None
    signed: bytes
    signature: bytes
    payload: bytes


class _Kept(msgspec.Struct, frozen=True, eq=False, gc=False):
    caller: Caller
    key: Any


class TokenVerifier:
    """Callers by their tokens, against the keys of `jwks` and `rules`. `now` gives seconds since 1970.

    Verified tokens are kept, by their whole text: the dictionary hashes it with a secret of the process and compares bytes only
    where the hashes agree, so how long a look-up takes tells nothing of another token; a digest would cost more than the
    look-up. At most `MAX_KEPT_TOKENS` and `MAX_KEPT_BYTES` are kept, the least recently used go first; none beyond its `exp` (the
    leeway after it is granted by verifying anew) and none whose key has left the set.
    """

    def __init__(self, jwks: Jwks, rules: TokenRules, now: Callable[[], float] = time.time) -> None:
        self._jwks = jwks
        self._rules = rules
        self._now = now
        self._keys: KeySet = NO_KEYS
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._claims = JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "value": rules.audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    @property
    def tokens_kept(self) -> int:
        """How many verified tokens are held now."""
        return len(self._kept)

    def known(self, token: bytes) -> Caller | None:
        """The caller of a token that was verified before and still holds; None for any other. Takes less than 1 µs."""
        if self._jwks.keys is not self._keys:
            self._adopt_keys()
        kept = self._kept.get(token)
        if kept is None:
            return None
        if kept.caller.expires_at <= self._now():
            self._drop(token)
            return None
        self._kept.move_to_end(token)
        return kept.caller

    async def verify(self, token: bytes | str) -> Caller:
        """The caller of `token`. It waits only where the token's key is unknown: for the issuer, a bounded time.

        Raises Unauthorized for a token that does not hold, and Refused where there are no keys at all to judge it by: a 401
        would make a client throw away a token that may be good.
        """
        text = token if isinstance(token, bytes) else token.encode("utf-8", "replace")
        caller = self.known(text)
        return caller if caller is not None else await self._verify(text)

    async def _verify(self, text: bytes) -> Caller:
        token = _parse(text, self._rules.algorithms)
        candidates = _candidates(self._keys, token)
        if not candidates:
            await self._jwks.ask_again()
            self._adopt_keys()
            candidates = _candidates(self._keys, token)
        if not self._keys:
            raise Refused("Tokens cannot be verified now; try again.", self._jwks.retry_after_seconds)
        key = _signer(token, candidates)
        caller = self._caller(token)
        self._keep(text, caller, key)
        return caller

    def _caller(self, token: _Token) -> Caller:
        """The caller that the claims speak of. Raises Unauthorized."""
        claims = _object(token.payload)
        for name in NUMERIC_DATES:
            if isinstance(claims.get(name), Decimal):
                claims[name] = float(claims[name])
        self._check(claims)
        return Caller(
            subject=claims["sub"],
            roles=roles_of(claims, self._rules.roles_claim),
            claims=MappingProxyType(claims),
            expires_at=float(min(claims["exp"], MAX_NUMERIC_DATE)),
        )

    def _check(self, claims: dict[str, Any]) -> None:
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise _invalid("The token has expired.") from None
        except MissingClaimError as fault:
            raise _invalid(f"The token lacks {fault.claim.replace(',', ', ')}.") from None
        except InvalidClaimError as fault:
            raise _invalid(_told_of_claim(fault.claim, claims.get(fault.claim))) from None
        subject = claims["sub"]
        if "\0" in subject or not _is_text(subject):
            raise _invalid("The token's sub is malformed.")

    def _keep(self, text: bytes, caller: Caller, key: VerificationKey) -> None:
        if caller.expires_at <= self._now():
            return
        if text not in self._kept:  # two requests may have waited for its key together
            self._kept_bytes += len(text)
        self._kept[text] = _Kept(caller, key.identity)
        while len(self._kept) > MAX_KEPT_TOKENS or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[0])

    def _drop(self, text: bytes) -> None:
        del self._kept[text]
        self._kept_bytes -= len(text)

    def _adopt_keys(self) -> None:
        """Takes over the keys of now, and drops the tokens whose key is not among them."""
        self._keys = self._jwks.keys
        identities = self._keys.identities
        for text in [text for text, kept in self._kept.items() if kept.key not in identities]:
            self._drop(text)


# --- the parts of a token -----------------------------------------------------------------------------------------------


def _parse(text: bytes, algorithms: Iterable[str]) -> _Token:
    """A token's parts. Raises Unauthorized for what is no signed JWT, or one whose header cannot be accepted."""
    if len(text) > MAX_TOKEN_BYTES:
        raise _invalid(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
    segments = text.split(b".")
    if len(segments) != 3 or not all(segments[:2]):
        raise _invalid("The token is malformed: it is no signed JWT.")
    header = _object(_decode(segments[0]))
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise _invalid("The token is signed by an algorithm that is not accepted.")
    if "crit" in header:
        raise _invalid("The token needs an extension (crit) that is not known here.")
    if kid is not None and not isinstance(kid, str):
        raise _invalid("The token is malformed: its kid is no text.")
    if not _is_token_type(header.get("typ", "JWT")):
        raise _invalid("The token is of a type (typ) that gives no access.")
    return _Token(algorithm, kid, text.rpartition(b".")[0], _decode(segments[2]), _decode(segments[1]))


def _decode(segment: bytes) -> bytes:
    """What a base64url segment holds; one value has one spelling (RFC 7515, 2: no padding, and no loose bits)."""
    try:
        return urlsafe_b64decode(segment)
    except ValueError:
        raise _invalid("The token is malformed: it is not base64url.") from None


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object without a name that stands twice (RFC 7519, 4). A new one, which nobody else holds."""
    try:
        content = decode_json(text)
    except BadJson:
        raise _invalid("The token is malformed: it is not JSON, or has a member twice.") from None
    if not isinstance(content, dict):
        raise _invalid("The token is malformed: it is no JSON object.")
    return content


def _is_token_type(typ: Any) -> bool:
    return isinstance(typ, str) and typ.lower().removeprefix("application/") in TOKEN_TYPES


def _candidates(keys: KeySet, token: _Token) -> tuple[VerificationKey, ...]:
    """The keys that the token may mean: those of its `kid`, or without one, those that fit its algorithm."""
    if token.kid is not None:
        return keys.named(token.kid)
    return tuple(key for key in keys.keys if token.algorithm in key.algorithms)


def _signer(token: _Token, candidates: tuple[VerificationKey, ...]) -> VerificationKey:
    """The key that signed the token. Raises Unauthorized where none did."""
    if not candidates:
        raise _invalid("The token is signed by an unknown key.")
    if token.kid is None and len(candidates) > 1:
        raise _invalid("The token does not say which key signed it (kid).")
    fitting = [key for key in candidates if token.algorithm in key.algorithms]
    if not fitting:
        raise _invalid("The token's algorithm is not its key's.")
    for key in fitting:
        if key.verify(token.algorithm, token.signed, token.signature):
            return key
    raise _invalid("The token's signature is wrong.")


def _told_of_claim(name: str, value: Any) -> str:
    well_formed = {
        "iss": isinstance(value, str),
        "aud": isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)),
        "nbf": isinstance(value, int | float) and not isinstance(value, bool),
        "iat": isinstance(value, int | float) and not isinstance(value, bool),
    }
    return FAULTY_CLAIMS[name] if well_formed.get(name) else f"The token's {name} is malformed."


def _is_text(value: str) -> bool:
    """Whether it can be written at all: JSON's escapes can spell half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def roles_of(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The roles under the claim `name`, each once, in their order; none where it is missing or something else than texts.

    A claim of just that name comes first; then `name` is a path by its dots, as Keycloak needs it: `realm_access.roles`.
    A text is one role, or several with spaces between, as in OAuth's `scope`; of a list, what is no text does not count.
    """
    value = claims[name] if name in claims else _at_path(claims, name.split("."))
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        return ()
    return tuple(dict.fromkeys(role for role in value if isinstance(role, str) and role))


def _at_path(claims: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(claims, Mapping):
            return None
        claims = claims.get(part)
    return claims


# --- tokens in HTTP -----------------------------------------------------------------------------------------------------


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The token of a request's headers (names in lower case, as ASGI has them); None for a request without `Authorization`.

    Raises Unauthorized for two such headers, another scheme than Bearer, or nothing that could be a token.
    """
    given: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if given is not None:
                raise _misplaced("There is more than one Authorization header.")
            given = value
    if given is None:
        return None
    scheme, _, token = given.strip().partition(b" ")
    token = token.lstrip(b" ")
    if scheme.lower() != b"bearer" or not token or b" " in token or b"\t" in token or b"," in token:
        raise _misplaced("The Authorization header is malformed. Write: Bearer TOKEN")
    return token


def refuse_query_token(query: bytes) -> None:
    """Raises Unauthorized where the raw query string has `access_token=`: URLs end up in logs and histories."""
    if b"access_token" in query and QUERY_TOKEN.search(query):
        raise _misplaced("A token in the URL is not accepted. Send it as: Authorization: Bearer TOKEN")


def token_needed() -> Unauthorized:
    """The refusal of a request that needs a token and has none (RFC 6750, 3.1: it names no error)."""
    return Unauthorized("A token is needed.", headers=[("WWW-Authenticate", CHALLENGE)])


def _invalid(message: str) -> Unauthorized:
    """A refusal of the token. `message` is for the caller; it is made of our own words alone, so that the header can hold it."""
    return _unauthorized("invalid_token", message)


def _misplaced(message: str) -> Unauthorized:
    """A refusal of how the request carries a token; RFC 6750, 3.1 has a name of its own for that."""
    return _unauthorized("invalid_request", message)


def _unauthorized(error: str, message: str) -> Unauthorized:
    challenge = f'Bearer error="{error}", error_description="{message.rstrip(".")}"'
    return Unauthorized(message, headers=[("WWW-Authenticate", challenge)])
