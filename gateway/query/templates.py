"""Plans of lists made after a template, found by the names of the parameters: clients ask the same with other values each time.

What a template plans is what `plan_list` plans. Where there is none yet, or a value is not taken, `plan_list` has the word: it
alone refuses.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from gateway.catalog.model import Resource
from gateway.errors import Problem, ValidationFailed
from gateway.query.ast import Grant, ListPlan, ListRequest
from gateway.query.operators import OPERATORS
from gateway.query.plan import Outline, ValueReader, list_limit, list_page, outline_list, plan_list, readable_fields, value_reader
from gateway.query.syntax.brackets import MAX_PARAMETERS, OPTIONS, decode_part, parse_list

MAX_TEMPLATES = 1000
"""And sets of names. Those of the oldest names go first."""


class _Names(msgspec.Struct, frozen=True):
    """What the names of a query's parameters tell. Numbers are the parameters', in the order in which they were sent.

    `fixed` are those on whose values more hangs than a value of the plan: an order, a choice of fields. By these values the
    outlines are found. With a parameter that holds a filter of its own, or a path, everything hangs on it: `is_fit` is False.
    """

    is_fit: bool
    fixed: tuple[int, ...]
    readers: tuple[tuple[int, ValueReader], ...]
    limit: int | None
    page: int | None
    cursor: int | None
    outlines: dict[tuple[bytes, ...], Outline]

    def chosen(self, texts: list[bytes]) -> tuple[bytes, ...]:
        """The values by which an outline is found."""
        return tuple([texts[number] for number in self.fixed])

    def plan(self, outline: Outline, texts: list[bytes], grant: Grant) -> ListPlan:
        """The plan for these values. Raises ValueError or ValidationFailed for those that are not taken."""
        values: list[Any] = []
        for number, read in self.readers:
            values += read(decode_part(texts[number]))
        if grant.rows is not None:
            values += grant.rows.values
        problems: list[Problem] = []
        limit = list_limit(outline.resource, _text(texts, self.limit), problems)
        cursor = _text(texts, self.cursor)
        page = list_page(_text(texts, self.page), cursor, limit, problems)
        return outline.plan(tuple(values), limit, page, cursor, problems)


def _text(texts: list[bytes], number: int | None) -> str | None:
    return None if number is None else decode_part(texts[number])


class Templates:
    """The templates of one catalog."""

    def __init__(self) -> None:
        self._known: dict[Any, _Names] = {}
        self._size = 0

    def plan(self, resource: Resource, query: bytes, grant: Grant) -> ListPlan:
        """The plan of a list by its raw query string. Raises ValidationFailed."""
        pieces = query.split(b"&")
        if len(pieces) > MAX_PARAMETERS:
            return plan_list(resource, parse_list(query), grant)
        parts = [piece.partition(b"=") for piece in pieces if piece]
        texts = [text for _, _, text in parts]
        rule = None if grant.rows is None else grant.rows.filter
        place = (resource, grant.read_fields, rule, tuple([name for name, _, _ in parts]))
        names = self._known.get(place)
        outline = None if names is None else names.outlines.get(names.chosen(texts))
        if names is not None and outline is not None:
            with suppress(ValueError, ValidationFailed):
                return names.plan(outline, texts, grant)
        request = parse_list(query)
        plan = plan_list(resource, request, grant)
        if names is None:
            names = self._known[place] = _read_names(resource, [name for name, _, _ in parts], request, grant)
            self._size += 1
        if names.is_fit and outline is None:
            names.outlines[names.chosen(texts)], *_ = outline_list(resource, request, grant, [])
            self._size += 1
        while self._size > MAX_TEMPLATES:
            self._size -= 1 + len(self._known.pop(next(iter(self._known))).outlines)
        return plan


def _read_names(resource: Resource, names: list[bytes], request: ListRequest, grant: Grant) -> _Names:
    """What these names tell, by a request of theirs that can be planned: its conditions are in the order of its parameters."""
    options = {name: number for number, name in enumerate(map(decode_part, names)) if name in OPTIONS}
    numbers = [number for number in range(len(names)) if number not in options.values()]
    fixed = [number for name, number in options.items() if name not in ("limit", "page", "cursor")]
    readers: list[tuple[int, ValueReader]] = []
    is_fit = request.filter is None
    readable = readable_fields(resource, grant)
    for number, condition in zip(numbers, request.conditions, strict=True):
        reader = value_reader(readable, condition)
        if OPERATORS[condition.operator].arity == "flag":
            fixed.append(number)
        elif reader is not None:
            readers.append((number, reader))
        is_fit = is_fit and reader is not None
    limit, page, cursor = (options.get(name) for name in ("limit", "page", "cursor"))
    return _Names(is_fit, tuple(fixed), tuple(readers), limit, page, cursor, {})
