"""Hooks for `test_schemathesis`: what OpenAPI cannot say, said to schemathesis. Loaded by its command line, not by pytest.

Each hook has its reason. None touches a check, and none touches a request that is meant to be refused.
"""

from __future__ import annotations

import json
import os
import uuid
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
    a type is one schema and one path of the code, so it stays on one field only. The fuzzing phase has the document whole.
    """
    if os.environ.get("SCHEMATHESIS_PHASE") != "coverage":
        return
    for name, schema in raw_schema["components"]["schemas"].items():
        if name.endswith(".filter"):
            for word in LOGIC:
                schema["properties"].pop(word, None)
    seen: set[str] = set()
    for item in raw_schema["paths"].values():
        operation = item.get("get", {})
        operation["parameters"] = [each for each in operation.get("parameters", ()) if _is_new(each, seen)]


def _is_new(parameter: dict[str, Any], seen: set[str]) -> bool:
    if parameter.get("in") != "query" or parameter["name"] in ("limit", "fields", "sort"):
        return True
    if parameter["name"] == "filter":
        mark = "filter"
    else:
        _, bracket, operator = parameter["name"].partition("[")
        mark = f"{bracket}{operator} {json.dumps(parameter['schema'], sort_keys=True)}"
    new = mark not in seen
    seen.add(mark)
    return new


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
