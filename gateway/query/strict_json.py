"""JSON text in, Python values out, with nothing lost and nothing let through: the one decoder of bodies and of `filter=`.

Decimals keep their digits (`Decimal`). Refused, each with its own message: duplicate keys and keys with a lone surrogate,
NaN and Infinity, bad UTF-8, nesting past what the parser bears, and integers of thousands of digits. A lone surrogate in a
value is left to the value's type, which can name the field. Source: RFC 8259; I-JSON (RFC 7493) for the keys.

Two decoders give the same. The fast one does not see that a key is there twice, so its word counts where the text has no more
colons than it found keys, which is so for most bodies; whatever else it cannot answer for is left to the thorough one, which
refuses.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import msgspec

MAX_NUMBER_CHARACTERS = 1000


class BadJson(ValueError):
    """Text that is no JSON, or JSON that we refuse. The message is a sentence without its subject: "is not JSON: …"."""


def decode_json(text: bytes | str) -> Any:
    """The value of `text`. Raises BadJson."""
    if not isinstance(text, bytes) or not is_plain(text):
        return _decode_thoroughly(text)
    try:
        value = _decode_fast(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _decode_thoroughly(text)
    return value if text.count(b":") == keys_within(value) else _decode_thoroughly(text)


def _decode_thoroughly(text: bytes | str) -> Any:
    try:
        return _decode(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError:
        raise BadJson("is not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise BadJson(f"is not JSON: {fault.msg} at line {fault.lineno}, column {fault.colno}") from None
    except RecursionError:
        raise BadJson("is nested too deeply") from None


def is_plain(text: bytes) -> bool:
    """Whether a fast decoder may be asked, which knows no end of a number's digits, and of escapes what it likes."""
    return len(text) <= MAX_NUMBER_CHARACTERS and b"\\u" not in text


def keys_within(value: Any) -> int:
    """The keys of all objects in a value. A text without more colons has no key twice."""
    count = 0
    if type(value) is dict:
        count = len(value)
        value = value.values()
    elif type(value) is not list:
        return 0
    for element in value:
        kind = type(element)
        if kind is dict or kind is list:
            count += keys_within(element)
    return count


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    for key in members:
        if not key.isascii():
            _refuse_surrogates(key)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJson(f'has the key "{key[:100]}" twice')
            seen.add(key)
    return members


def _refuse_surrogates(key: str) -> None:
    """A key becomes a name in errors and paths, and a lone surrogate could not be written there."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise BadJson("has a key with a lone surrogate, which is no character") from None


def exact_number(digits: str) -> Decimal:
    """A number that is no integer, with all its digits. Raises BadJson."""
    if len(digits) > MAX_NUMBER_CHARACTERS:
        raise BadJson(f"has a number of more than {MAX_NUMBER_CHARACTERS} characters")
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise BadJson("has a number whose exponent is out of range") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARACTERS:
        raise BadJson(f"has a number of more than {MAX_NUMBER_CHARACTERS} characters")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise BadJson(f"has {name}, which is not JSON")


_decode_fast = msgspec.json.Decoder(float_hook=exact_number).decode
_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=exact_number, parse_int=_integer, parse_constant=_constant
).decode  # `json.loads` would make a decoder for each body
