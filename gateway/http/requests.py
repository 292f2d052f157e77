"""ASGI scopes and messages in, the parts of a request out: headers of interest, path segments, the body within its limit."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import Message, Receive, Scope

from gateway.errors import NotFound, PayloadTooLarge, UnsupportedMediaType

JSON_TYPES = (b"application/json",)
PLAN_TYPE = b"application/vnd.gateway.plan+json"
PATCH_TYPES = (b"application/json", b"application/merge-patch+json")

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_INSTANCE = os.urandom(8).hex().encode()
_serial = count()


class Replayed:
    """A request's `receive` that can be read once more from its beginning, after `rewind`."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []
        self._place = 0

    async def __call__(self) -> Message:
        """ASGI's `receive`."""
        if self._place == len(self._kept):
            self._kept.append(await self._receive())
        self._place += 1
        return self._kept[self._place - 1]

    def take_body(self) -> bytes | None:
        """The whole body, where it is there already; None where it must be read."""
        if self._kept:
            message = self._kept[0]
            if self._place or message["type"] != "http.request" or message.get("more_body"):
                return None
            self._place = 1
            whole: bytes = message.get("body", b"")
            return whole
        body = body_at_hand(self._receive)
        if body is not None:
            self._kept.append({"type": "http.request", "body": body, "more_body": False})
            self._place = 1
        return body

    def rewind(self) -> None:
        """Begins again."""
        self._place = 0


def body_at_hand(receive: Receive) -> bytes | None:
    """The whole body, where `receive` is one of our own server's and it came with the head: then nobody waits, and no deadline
    is needed. It is taken: `receive` has nothing more of it."""
    take_body = getattr(getattr(receive, "__self__", receive), "take_body", None)
    return None if take_body is None else take_body()


class ClientLeft(Exception):
    """The caller closed the connection before the body was there; there is nobody to answer."""


class Headers(msgspec.Struct, frozen=True):
    """What the data path reads of the headers, found in one pass."""

    request_id: bytes
    origin: bytes
    cache_control: bytes
    content_type: bytes
    content_length: int | None
    if_match: bytes = b""
    if_none_match: bytes = b""
    traceparent: bytes = b""
    tracestate: bytes = b""
    server_timing: bytes = b""
    accept: bytes = b""
    consistency: bytes = b""
    idempotency_key: bytes = b""


_READ = frozenset(
    {
        b"x-request-id",
        b"origin",
        b"cache-control",
        b"content-type",
        b"content-length",
        b"if-match",
        b"if-none-match",
        b"traceparent",
        b"tracestate",
        b"server-timing",
        b"accept",
        b"x-consistency-token",
        b"idempotency-key",
    }
)
_LISTS = frozenset({b"if-match", b"if-none-match", b"tracestate", b"x-consistency-token", b"idempotency-key"})
"""Headers that may stand several times and are one list then; a list of keys is no key, and refused as that."""


def read_headers(scope: Scope) -> Headers:
    """The request id is the caller's where it is sane, else a new one, unique to this process and request.

    Of a header that may stand once and does twice the last one counts.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            found[name] = _joined(found.get(name, b""), value) if name in _LISTS else value
    told = found.get
    length = told(b"content-length", b"")
    return Headers(
        request_id(told(b"x-request-id", b"")),
        told(b"origin", b""),
        told(b"cache-control", b""),
        told(b"content-type", b""),
        int(length) if length.isdigit() else None,
        told(b"if-match", b""),
        told(b"if-none-match", b""),
        told(b"traceparent", b""),
        told(b"tracestate", b""),
        told(b"server-timing", b""),
        told(b"accept", b""),
        told(b"x-consistency-token", b""),
        told(b"idempotency-key", b""),
    )


def request_id(sent: bytes) -> bytes:
    """The request's id: what was sent, where it is sane."""
    if sent and _SANE_ID.fullmatch(sent) is not None:
        return sent
    return new_request_id()


def new_request_id() -> bytes:
    """One that no other request has."""
    return b"%b-%x" % (_INSTANCE, next(_serial))


def _joined(before: bytes, value: bytes) -> bytes:
    """One list of the lines of a header that may stand several times (RFC 9110, 5.3). One that is empty is no list: `,`."""
    return b"%b, %b" % (before, value) if before else value or b","


def split_path(raw_path: bytes) -> tuple[str, str, tuple[str, ...] | None]:
    """`/api/v1/film_actor/1,23` as ("v1", "film_actor", ("1", "23")); the key is None for the collection.

    Takes the path before percent-decoding, for an encoded slash or comma parts nothing. Raises NotFound.
    """
    pieces = raw_path.split(b"/")
    if len(pieces) not in (4, 5):
        raise NotFound
    try:
        version, name = pieces[2].decode("ascii"), _decode(pieces[3])
        key = None if len(pieces) == 4 else _parts(pieces[4])
    except UnicodeDecodeError:
        raise NotFound from None
    return version, name, key


def split_key(raw_key: bytes) -> tuple[str, ...]:
    """The last segment of a row's path as the parts of its key. Raises NotFound."""
    try:
        return _parts(raw_key)
    except UnicodeDecodeError:
        raise NotFound from None


def _parts(raw_key: bytes) -> tuple[str, ...]:
    return tuple([_decode(part) for part in raw_key.split(b",")])


def _decode(raw: bytes) -> str:
    return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()


def media_type(headers: Headers, accepted: tuple[bytes, ...]) -> bytes:
    """The body's media type without its parameters. Raises UnsupportedMediaType, naming those accepted."""
    found, _, parameters = headers.content_type.partition(b";")
    found = found.strip().lower()
    charset = parameters.lower().replace(b" ", b"").replace(b'"', b"")
    if found in accepted and (b"charset=" not in charset or b"charset=utf-8" in charset):
        return found
    names = " or ".join(kind.decode() for kind in accepted)
    raise UnsupportedMediaType(f"The body's content type is not supported; send {names}, in UTF-8.")


async def read_body(headers: Headers, receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be, ClientLeft."""
    refuse_large_body(headers.content_length or 0, max_bytes)
    parts: list[bytes] = []
    length = 0
    while True:
        message: Any = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        part: bytes = message.get("body", b"")
        parts.append(part)
        length += len(part)
        refuse_large_body(length, max_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


def refuse_large_body(length: int, max_bytes: int) -> None:
    """Raises PayloadTooLarge for more bytes than are taken."""
    if length > max_bytes:
        raise PayloadTooLarge(f"The body is too large: at most {max_bytes} bytes are taken.")
