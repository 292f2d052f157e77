"""Keyset cursors: where a page ended, as text that the next request brings back.

A cursor holds the sort keys of one row as PostgreSQL printed them, the direction, and a fingerprint of the resource, sort
and filter that it was made for. It needs no secret: its values are ones that the caller may see, and they return as typed
parameters. The checksum finds a cursor that was cut or edited by mistake.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from typing import Any

import msgspec

FINGERPRINT_BYTES = 6
MAX_CURSOR_CHARACTERS = 16_384
"""A sort by longer texts gives no cursor; a URL that could carry one would be refused on its way."""


class BadCursor(ValueError):
    """A cursor that cannot be used. The message completes "cursor …"."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """`values` are the sort keys' text forms, None for null; `backward` asks for the rows before them."""

    fingerprint: bytes
    backward: bool
    values: tuple[str | None, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Cursor).decode


class Fingerprints:
    """Digests of msgspec-encodable parts that differ in the last one alone: equal parts, and in practice only those, give equal
    bytes."""

    def __init__(self, *parts: Any) -> None:
        start = _encode((*parts, None))[:-1]  # None is one byte, in whose place the last part comes
        self._begun = hashlib.blake2b(start, digest_size=FINGERPRINT_BYTES)

    def of(self, last: Any) -> bytes:
        """The digest of the parts and this one."""
        digest = self._begun.copy()
        digest.update(_encode(last))
        return digest.digest()


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as URL-safe text without padding. Longer than MAX_CURSOR_CHARACTERS it would not be taken back."""
    body = _encode(cursor)
    return _as_text(body + zlib.crc32(body).to_bytes(4))


def _as_text(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode_cursor(text: str, expected: bytes, keys: int) -> Cursor:
    """The cursor that `text` is, made for the fingerprint `expected` and `keys` sort keys. Raises BadCursor."""
    if len(text) > MAX_CURSOR_CHARACTERS:
        raise BadCursor("is too long to be one of ours")
    try:
        packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        body, checksum = packed[:-4], packed[-4:]
        if len(packed) <= 4 or zlib.crc32(body).to_bytes(4) != checksum:
            raise BadCursor("is damaged; start again without it")
        if _as_text(packed) != text:  # base64 has several spellings of the same bytes; ours is the one
            raise BadCursor("is damaged; start again without it")
        cursor = _decode(body)
    except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        raise BadCursor("is damaged; start again without it") from None
    if cursor.fingerprint != expected:
        raise BadCursor("was made for another resource, sort or filter; start again without it")
    if len(cursor.values) != keys or any(value is not None and "\0" in value for value in cursor.values):
        raise BadCursor("is damaged; start again without it")
    return cursor
