"""Hooks for `test_schemathesis`: what OpenAPI cannot say, said to schemathesis. Loaded by its command line, not by pytest.

Each hook has its reason. None touches a check, and none touches a request that is meant to be refused.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import defaultdict
from typing import Any
from urllib.parse import urlencode

import schemathesis

from gateway.http.edge import MAX_HEAD_BYTES
from gateway.query.plan import MAX_COMPARISONS, MAX_OFFSET
from gateway.query.syntax.brackets import OPTIONS
from gateway.query.syntax.json import LOGIC, MAX_DEPTH

DEFAULT_LIMIT = 100
MADE_BY_THE_GATEWAY = ("If-Match", "If-None-Match")
"""Headers that hold what an answer had: one that was made up is well formed, and 412, or names nothing."""
CHOSEN_ONCE = "Idempotency-Key"
"""Made up from the same few letters again and again it would name another request, which is 422."""
MAX_QUERY_BYTES = MAX_HEAD_BYTES - 4096


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Only what is meant to be answered is kept within the limits: what is meant to be refused may be past them.

    A header is text: schemathesis takes `X-Request-Id` for a row's id, and a number there breaks the client that it sends with.
    """
    for name, value in (case.headers or {}).items():
        case.headers[name] = str(value)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        keep_within_limits(case.query)
    for name in MADE_BY_THE_GATEWAY:
        if case.headers and name in case.headers:
            del case.headers[name]
    if case.headers and CHOSEN_ONCE in case.headers:
        case.headers[CHOSEN_ONCE] = f'"{uuid.uuid4()}"'


def keep_within_limits(query: dict[str, Any]) -> None:
    """Takes out of `query` what no schema of a parameter could forbid.

    - A cursor is made by the gateway and bound to one sort and filter: one that was made up can only be refused.
    - A request takes 50 comparisons, over all its parameters together; `filter=` goes five levels deep.
    - `page` times `limit` is bounded, not each of them.
    - `price=3` and `price[eq]=3` are one condition in two spellings, of which a request takes one.
    - URL and headers have one limit of bytes together.
    """
    query.pop("cursor", None)
    if "filter" in query and _filter_is_too_large(query["filter"]):
        del query["filter"]
    for name in [name for name in query if f"{name}[eq]" in query]:
        del query[name]
    for name in [name for name in query if name not in OPTIONS][MAX_COMPARISONS - _comparisons(query.get("filter")) :]:
        del query[name]
    if "page" in query and (int(query["page"]) - 1) * int(query.get("limit", DEFAULT_LIMIT)) > MAX_OFFSET:
        del query["page"]
    while len(urlencode(query)) > MAX_QUERY_BYTES:
        del query[max(query, key=lambda name: len(urlencode({name: query[name]})))]


def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Thins the document for the coverage phase, which is exhaustive: the product of all it finds, not a sample.

    A recursive `filter` would make it hundreds of thousands of requests for each list, so there it is flat; and an operator on
    a type is one schema and one path of the code, so it stays on one field of one list as a parameter, and in a `filter` on one
    field for all types that take the same operators. What all resources share, headers for one, stays on one operation of those
    that are alike. The fuzzing phase has the document whole.
    """
    if os.environ.get("SCHEMATHESIS_PHASE") != "coverage":
        return
    lists = [item["get"] for path, item in raw_schema["paths"].items() if "{" not in path and "parameters" in item.get("get", {})]
    conditions = [_conditions(raw_schema, operation) for operation in lists]
    for found, kept in zip(conditions, _spread([[mark for _, _, mark in each] for each in conditions]), strict=True):
        for position, (schemas, name, _) in enumerate(found):
            if position not in kept:
                del schemas[name]
    for operation, found in zip(lists, conditions, strict=True):
        if not any(name in schemas for schemas, name, _ in found):
            operation["parameters"] = [each for each in operation["parameters"] if each.get("name") != "filter"]
    for alike in _operations(raw_schema):
        marks = [[_mark(parameter) for parameter in operation["parameters"]] for operation in alike]
        for operation, positions in zip(alike, _spread(marks), strict=True):
            operation["parameters"] = [operation["parameters"][position] for position in sorted(positions)]


def _operations(document: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The operations that have parameters, those of all resources that are alike together."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters" and "parameters" in operation:
                found[method, "{" in path].append(operation)
    return list(found.values())


def _conditions(document: dict[str, Any], operation: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """What a list's `filter` can be made of, its logic taken away: a dictionary of schemas, a name in it, and what that tries."""
    (parameter,) = [each for each in operation["parameters"] if each.get("name") == "filter"]
    (media,) = parameter["content"].values()
    schema = document["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
    for word in LOGIC:
        schema["properties"].pop(word, None)
    groups = {"field": schema["properties"], "path": schema.get("patternProperties", {})}
    return [
        (group, name, f"{kind} {_operators(document, found)}") for kind, group in groups.items() for name, found in group.items()
    ]


def _operators(document: dict[str, Any], condition: dict[str, Any]) -> str:
    """What a condition in a `filter` tries: its type's operators. Their values are those of bodies, and tried there."""
    schema = document["components"]["schemas"][condition["$ref"].rpartition("/")[2]]
    found = [
        name for branch in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())) for name in branch.get("properties", ())
    ]
    assert found, schema
    return " ".join(sorted(found))


def _mark(parameter: dict[str, Any]) -> str:
    """What a parameter tries: all of one mark try the same. "" is what every operation keeps."""
    if "$ref" in parameter or parameter["in"] == "header":
        return str(parameter.get("$ref") or parameter["name"])
    if parameter["in"] != "query" or parameter["name"] in ("limit", "fields", "sort", "filter"):
        return ""
    _, bracket, operator = parameter["name"].partition("[")
    return f"{bracket}{operator} {json.dumps(parameter['schema'], sort_keys=True)}"


def _spread(marks: list[list[str]]) -> list[set[int]]:
    """The positions that each operation keeps: a mark in one of those that have it, the rarest first, where there is the least.

    In one operation alone they would be more than a request may have, and each request would be as long.
    """
    kept = [{position for position, mark in enumerate(found) if not mark} for found in marks]
    places = {mark: [number for number, found in enumerate(marks) if mark in found] for found in marks for mark in found if mark}
    for mark, numbers in sorted(places.items(), key=lambda item: (len(item[1]), item[0])):
        number = min(numbers, key=lambda each: len(kept[each]))
        kept[number].add(marks[number].index(mark))
    return kept


def _filter_is_too_large(text: Any) -> bool:
    return _depth(_read(text)) > MAX_DEPTH or _comparisons(text) > MAX_COMPARISONS


def _read(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def _comparisons(text: Any) -> int:
    return 0 if text is None else _count(_read(text))


def _count(condition: Any) -> int:
    total = 0
    for name, member in condition.items():
        if name in LOGIC:
            total += sum(map(_count, member)) if isinstance(member, list) else _count(member)
        else:
            total += len(member) if isinstance(member, dict) else 1
    return total


def _depth(condition: Any) -> int:
    below = [0]
    for name, member in condition.items():
        if name in LOGIC:
            below += map(_depth, member) if isinstance(member, list) else [_depth(member)]
    return 1 + max(below)


if "SCHEMATHESIS_PHASE" in os.environ:  # a test that borrows a function leaves its own process without hooks
    schemathesis.hook(before_call)
    schemathesis.hook(before_load_schema)
