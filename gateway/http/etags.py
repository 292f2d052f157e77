"""Entity tags: which state of a row an answer shows and how it shows it, and the header fields that hold on to that. Pure.

    ETag: "9c2f6a01d4e8b375-5be01c7a"
           state of the row  digest of the bytes

The tag is strong (RFC 9110, 8.8.1): equal tags of one URL are equal bytes, whatever `fields`, role or definition made them.
`If-None-Match` compares whole tags. `If-Match` is about the row, not about which of its fields the caller saw: it compares
states, and the database does it, in the statement that writes. What cannot be told apart by state, a view, has a longer
digest alone.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from zlib import crc32

from gateway.errors import PreconditionFailed, Problem, ValidationFailed
from gateway.http.requests import Headers
from gateway.query.ast import States

_TAG = re.compile(rb'(W/)?"([!#-~]*)"')
"""RFC 9110, 8.8.3, but for characters beyond ASCII, which no tag of ours has."""
TAGS = r"""[ \t,]*(W/)?"[!#-~]*"([ \t]*,[ \t,]*(W/)?"[!#-~]*")*[ \t,]*"""
"""A list of tags, in which empty elements count for nothing (RFC 9110, 5.6.1)."""
_LIST = re.compile(TAGS.encode())
_OURS = re.compile(rb"([0-9a-f]{16})-[0-9a-f]{8}")
_SIGN, _WORD = 1 << 63, 1 << 64
DIGEST_BYTES = 12


def entity_tag(state: int, body: bytes) -> bytes:
    """The tag of a row's representation. Of one state and URL there are few representations, so 32 bits tell them apart."""
    if state:
        return b'"%016x-%08x"' % (state % _WORD, crc32(body))
    return b'"%b"' % blake2b(body, digest_size=DIGEST_BYTES).hexdigest().encode()


def is_held(if_none_match: bytes, tag: bytes) -> bool:
    """Whether the caller has what `tag` names already. Weak tags count (RFC 9110, 13.1.2). Raises ValidationFailed."""
    tags = _tags("If-None-Match", if_none_match)
    return tags is None or any(b'"%b"' % opaque == tag for _, opaque in tags)


def wanted_states(headers: Headers) -> States | None:
    """The states that `If-Match` names; None where it is not there, or is `*`, which any row satisfies.

    A weak tag, or one that is not ours, names none (RFC 9110, 13.1.1 asks for the strong comparison). Raises ValidationFailed.
    """
    if not headers.if_match:
        return None
    tags = _tags("If-Match", headers.if_match)
    return None if tags is None else tuple(_state(ours[1]) for weak, tag in tags if not weak and (ours := _OURS.fullmatch(tag)))


def check_match(headers: Headers, state: int, tag: bytes) -> None:
    """Raises PreconditionFailed for a read whose `If-Match` names neither the row's state nor these very bytes."""
    tags = _tags("If-Match", headers.if_match)
    if tags is not None and state not in (wanted_states(headers) or ()) and (False, tag[1:-1]) not in tags:
        raise PreconditionFailed


def _state(digits: bytes) -> int:
    number = int(digits, 16)
    return number - _WORD if number >= _SIGN else number


def _tags(name: str, value: bytes) -> list[tuple[bool, bytes]] | None:
    """(whether it is weak, what stands between its quotes) of each tag; None for `*`."""
    if value.strip() == b"*":
        return None
    if _LIST.fullmatch(value) is None:
        takes = 'takes * or ETags as they were given, quotes and all: "9c2f6a01d4e8b375-5be01c7a"'
        raise ValidationFailed("A header is not valid.", [Problem(name, takes)])
    return [(bool(found[1]), found[2]) for found in _TAG.finditer(value)]
