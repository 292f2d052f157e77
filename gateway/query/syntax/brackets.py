"""The query-string dialect: `status=active&price[gte]=10&sort=-created_at&page=2`. Bytes in, a `ListRequest` out.

Parameters are split and decoded here, and their names taken apart; whether a field or operator exists is the planner's to
say. A name's last `[word]` is its operator; a bare reserved word is an option, and `page[eq]=3` is the column of that name.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from gateway.errors import Problem, ValidationFailed
from gateway.query.ast import Condition, ListRequest

OPTIONS = ("page", "limit", "sort", "cursor", "fields", "filter", "count")
"""What a list takes beside conditions."""
RESERVED = (*OPTIONS, "expand", "q")
"""Words that never mean a column when they stand bare."""

MAX_PARAMETERS = 200
_NAME = re.compile(r"(.+)\[([a-z]*)\]", re.DOTALL)


def parse_parameters(query_string: bytes) -> dict[str, str]:
    """The parameters by their decoded names. Raises ValidationFailed for bad UTF-8, a repeated or an unnamed parameter."""
    parameters: dict[str, str] = {}
    problems: list[Problem] = []
    if not query_string:
        return parameters
    pieces = query_string.split(b"&")
    if len(pieces) > MAX_PARAMETERS:
        raise ValidationFailed(f"A request takes at most {MAX_PARAMETERS} parameters.")
    for piece in pieces:
        if not piece:
            continue
        raw_name, _, raw_value = piece.partition(b"=")
        try:
            name, value = decode_part(raw_name), decode_part(raw_value)
        except UnicodeDecodeError:
            problems.append(Problem(raw_name.decode("ascii", "backslashreplace"), "is not UTF-8"))
            continue
        if not name:
            problems.append(Problem("", "a parameter has no name"))
        elif name in parameters:
            problems.append(Problem(name, "is there twice; a parameter can be sent once"))
        else:
            parameters[name] = value
    if problems:
        raise ValidationFailed("The query string is not valid.", problems)
    return parameters


def decode_part(raw: bytes) -> str:
    """A parameter's name or value. Raises UnicodeDecodeError."""
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()


def parse_list(query_string: bytes) -> ListRequest:
    """A list request as written. Raises ValidationFailed."""
    options: dict[str, str] = {}
    conditions: dict[tuple[str, str], Condition] = {}
    problems: list[Problem] = []
    for parameter, value in parse_parameters(query_string).items():
        if parameter in OPTIONS:
            options[parameter] = value
            continue
        if parameter in RESERVED:
            problems.append(Problem(parameter, f"is not a parameter here. Parameters: {', '.join(OPTIONS)}"))
            continue
        match = _NAME.fullmatch(parameter) if parameter[-1] == "]" else None
        name, operator = (match[1], match[2]) if match else (parameter, "eq")
        if (name, operator) in conditions:
            problems.append(Problem(parameter, f"says the same as {conditions[name, operator].parameter}; send one of the two"))
        conditions[name, operator] = Condition(parameter, name, operator, value)
    if problems:
        raise ValidationFailed("The query string is not valid.", problems)
    return ListRequest(tuple(conditions.values()), **options)


def split_list(text: str) -> list[str]:
    r"""The elements of `a,b\,c`: commas part them, `\,` is a comma and `\\` a backslash; any other backslash is itself."""
    if "\\" not in text:
        return text.split(",")
    elements: list[str] = []
    current: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        following = text[position + 1 : position + 2]
        if character == "\\" and following in (",", "\\") and following:
            current.append(following)
            position += 2
            continue
        if character == ",":
            elements.append("".join(current))
            current = []
        else:
            current.append(character)
        position += 1
    elements.append("".join(current))
    return elements


def join_list(elements: list[str]) -> str:
    """The text that `split_list` takes apart into `elements`, of which there is at least one."""
    return ",".join(element.replace("\\", "\\\\").replace(",", "\\,") for element in elements)
