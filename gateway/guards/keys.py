"""A JWKS document in, the keys that may verify a token out. Pure: no I/O, no clock.

Keys are imported one by one, and of each key only its material: what is odd about a key (a type, a curve or a purpose that we
do not know, a broken number, a certificate that is none) loses that key and never the rest of the set. A key without its own
`alg` fits every accepted algorithm of its type and curve, and none other, so a public key can never serve as a shared secret.
Sources: RFC 7517 (JWK), RFC 7518, 6 (their material), RFC 8037 (Ed25519), RFC 8725, 3.1 to 3.5 (what to refuse).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int

MAX_KEYS = 100
"""Of one set; those beyond are left out. Importing them takes time from requests, some 50 µs each."""
MIN_RSA_BITS = 2048
"""RFC 7518, 3.3."""
MAX_RSA_BITS = 8192
"""A larger one makes each verification slow."""


class BadKeys(ValueError):
    """A document that gives no key to verify with. The message is a phrase that shows nothing of the document."""


class VerificationKey(msgspec.Struct, frozen=True, eq=False):
    """A public key, and the names of the `algorithms` (JWS `alg`) that it may verify, never none.

    `identity` tells keys apart: two with the same one accept the same tokens. `kid` is the issuer's name for it.
    """

    kid: str | None
    algorithms: frozenset[str]
    identity: tuple[str | None, str, tuple[str, ...]]
    key: Key

    def verify(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`. `algorithm` must be one of `algorithms`."""
        try:
            return JWSRegistry.algorithms[algorithm].verify(signed, signature, self.key)
        except (ValueError, JoseError):
            return False


class KeySet(msgspec.Struct, frozen=True, eq=False):
    """The keys of one document, in its order; false where there is none. `skipped` says of others why they are not here."""

    keys: tuple[VerificationKey, ...] = ()
    skipped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def identities(self) -> frozenset[Any]:
        """What tells these keys from another set's."""
        return frozenset(key.identity for key in self.keys)

    def named(self, kid: str) -> tuple[VerificationKey, ...]:
        """The keys of that name: rarely more than one (RFC 7517, 4.5), often none."""
        return tuple(key for key in self.keys if key.kid == kid)


NO_KEYS = KeySet()


def read_keys(document: bytes, algorithms: Iterable[str]) -> KeySet:
    """The keys of a JWKS document that verify one of `algorithms`. Raises BadKeys where there is no such key."""
    try:
        content = json.loads(document, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise BadKeys("the answer is not JSON") from None
    members = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(members, list):
        raise BadKeys("the answer is not a JWK Set")
    accepted = tuple(algorithms)
    keys: list[VerificationKey] = []
    skipped: list[str] = []
    for position, member in enumerate(members[:MAX_KEYS], 1):
        try:
            keys.append(_read_key(member, accepted))
        except BadKeys as fault:
            skipped.append(f"key {position} {fault}")
    if len(members) > MAX_KEYS:
        skipped.append(f"key {MAX_KEYS + 1} and those after it are too many")
    if not keys:
        raise BadKeys("the set holds no key that can be used")
    return KeySet(tuple(keys), tuple(skipped))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """A JSON object, or None for one that names a member twice: nobody can tell which of them was meant."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else None


def _read_key(jwk: Any, accepted: tuple[str, ...]) -> VerificationKey:
    """One key. Raises BadKeys with a predicate, such as "is for encryption"."""
    if not isinstance(jwk, dict):
        raise BadKeys("is not an object, or has a member twice")
    _check_purpose(jwk)
    try:
        key = _import(jwk)
        thumbprint = key.thumbprint()
    except BadKeys:
        raise
    except (JoseError, ValueError, TypeError, KeyError, ArithmeticError, UnsupportedAlgorithm):
        raise BadKeys("cannot be read") from None
    fitting = tuple(name for name in accepted if _fits(name, jwk.get("alg"), key))
    if not fitting:
        raise BadKeys("fits no accepted algorithm")
    kid: str | None = jwk.get("kid")
    return VerificationKey(kid, frozenset(fitting), (kid, thumbprint, tuple(sorted(fitting))), key)


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    if jwk.get("use", "sig") != "sig":
        raise BadKeys("is not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise BadKeys("is not to verify with")
    if not isinstance(jwk.get("kid", ""), str) or not isinstance(jwk.get("alg", ""), str):
        raise BadKeys("has a kid or an alg that is no text")
    if "d" in jwk:
        # Whoever reads the set could sign with it.
        raise BadKeys("shows its private part")


def _import(jwk: Mapping[str, Any]) -> Key:
    """The key of a JWK's material alone: its other members are judged here, and not by the library."""

    def material(*names: str) -> dict[str, Any]:
        return {"kty": jwk["kty"], **{name: jwk[name] for name in names}}

    match jwk.get("kty"):
        case "RSA":
            bits = base64_to_int(jwk["n"]).bit_length()
            if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
                raise BadKeys(f"has {bits} bits; RSA keys of {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")
            return RSAKey.import_key(material("n", "e"))
        case "EC":
            return ECKey.import_key(material("crv", "x", "y"))
        case "OKP":
            return OKPKey.import_key(material("crv", "x"))
        case _:
            raise BadKeys("is of another type than RSA, EC and OKP")


def _fits(algorithm: str, designed: str | None, key: Key) -> bool:
    """Whether `key` may verify `algorithm`: by its type, its curve, and the `alg` it is `designed` for, if it says."""
    if designed is not None and designed != algorithm:
        return False
    if isinstance(key, OKPKey) and key.curve_name not in ("Ed25519", "Ed448"):
        return False  # X25519 and X448 agree on secrets and sign nothing
    try:
        JWSRegistry.algorithms[algorithm].check_key(key)
    except JoseError:
        return False
    return True
