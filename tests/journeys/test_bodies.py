"""Bodies: what is no JSON, what is JSON that we refuse, how a patch replaces, and how a merge patch merges (RFC 7396)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import execute, throwaway_database
from tests.journeys.answers import JSON, MERGE, gateway_over, made, problems
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("bodies")

SQL = """
    CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL DEFAULT '',
                        doc jsonb, text_doc json, sure jsonb NOT NULL DEFAULT '{}');
"""


@pytest.fixture(scope="module")
def client(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    resources = write_resources(Path(tmp_path_factory.mktemp("bodies")) / "resources", {"notes": ""})
    with throwaway_database(postgres_url) as url:
        execute(url, SQL)
        with gateway_over(url, resources) as found:
            yield found


def stored(client: httpx.Client, path: str, field: str) -> Any:
    """The field as it is read again, with its numbers exact."""
    return json.loads(client.get(path).text, parse_float=Decimal)["data"][field]


# --- what is refused ---------------------------------------------------------------------------------------------------

BAD_BODIES = {
    "nothing": b"",
    "blank": b" \n",
    "cut": b'{"title": "a',
    "two values": b"{} {}",
    "a trailing comma": b'{"title": "a",}',
    "single quotes": b"{'title': 'a'}",
    "a comment": b'{/* */"title": "a"}',
    "a bare word": b"title",
    "a list": b"[]",
    "a list of rows": b'[{"title": "a"}]',
    "a string": b'"title"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "NaN": b'{"doc": NaN}',
    "Infinity": b'{"doc": -Infinity}',
    "bad UTF-8": b'{"title": "\xff"}',
    "cut UTF-8": b'{"title": "\xc3',
    "UTF-8 of a surrogate": b'{"title": "\xed\xa0\x80"}',
    "UTF-16": '{"title": "a"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"title": "a"}',
    "U+0000": b'{"title": "\x00"}',
    "a line break in a string": b'{"title": "\n"}',
    "a duplicate key": b'{"title": "a", "title": "b"}',
    "a duplicate key below": b'{"doc": {"a": [{"b": 1, "b": 2}]}}',
    "a duplicate key, escaped": b'{"title": "a", "t\\u0069tle": "b"}',
    "deep lists": b'{"doc": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep and cut": b"[" * 500_000,
    "an endless number": b'{"doc": ' + b"1" * 100_000 + b"}",
    "an endless fraction": b'{"doc": 0.' + b"1" * 100_000 + b"}",
    "an exponent out of range": b'{"doc": 1e999999999}',
    "an exponent of many digits": b'{"doc": 1e' + b"9" * 1000 + b"}",
    "a huge exponent of a title": b'{"title": 1e-999999999}',
    "a leading zero": b'{"doc": 01}',
    "a plus": b'{"doc": +1}',
    "hexadecimal": b'{"doc": 0x10}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_is_a_400_that_says_why(client: httpx.Client, body: bytes) -> None:
    row = made(client, "notes")
    for response in (
        client.post("/api/v1/notes", content=body, headers=JSON),
        client.patch(f"/api/v1/notes/{row['id']}", content=body, headers=JSON),
        client.patch(f"/api/v1/notes/{row['id']}", content=body, headers=MERGE),
    ):
        assert all(problems(response).values())


def test_an_empty_patch_is_refused(client: httpx.Client) -> None:
    row = made(client, "notes")
    for headers in (JSON, MERGE):
        response = client.patch(f"/api/v1/notes/{row['id']}", content=b"{}", headers=headers)
        assert "at least one field" in problems(response)[""]


def test_nesting_that_is_deep_but_bearable_is_kept(client: httpx.Client) -> None:
    document = json.loads("[" * 150 + "]" * 150)
    row = made(client, "notes", doc=document, text_doc=document)
    assert (row["doc"], row["text_doc"]) == (document, document)


@pytest.mark.parametrize("depth", [200, 300, 400, 500, 700, 800, 900, 950, 990, 2000])
@pytest.mark.parametrize("headers", [JSON, MERGE], ids=["json", "merge"])
def test_nesting_of_any_depth_is_taken_or_refused(client: httpx.Client, depth: int, headers: dict[str, str]) -> None:
    row = made(client, "notes")
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"doc": ' + opening * depth + b"1" + closing * depth + b"}"
        response = client.patch(f"/api/v1/notes/{row['id']}", content=body, headers=headers)
        assert response.status_code in (200, 400)


def test_an_unknown_field_of_many_is_named_with_a_suggestion(client: httpx.Client) -> None:
    found = problems(client.post("/api/v1/notes", json={"titel": "a", "text-doc": 1, "x" * 5000: 1, "": 1, "a\nb": 1}))
    assert 'Did you mean "title"?' in found["titel"]
    assert len(found) == 5


# --- replacing and merging ---------------------------------------------------------------------------------------------


def test_a_json_patch_replaces_the_whole_value(client: httpx.Client) -> None:
    row = made(client, "notes", doc={"a": 1, "b": {"c": 2}})
    path = f"/api/v1/notes/{row['id']}"
    assert client.patch(path, json={"doc": {"b": {"d": None}}}).json()["data"]["doc"] == {"b": {"d": None}}
    assert stored(client, path, "doc") == {"b": {"d": None}}


RFC_7396_APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


@pytest.mark.parametrize(("original", "patch", "result"), RFC_7396_APPENDIX_A)
@pytest.mark.parametrize("field", ["doc", "text_doc"])
def test_a_merge_patch_merges_as_the_rfc_shows(client: httpx.Client, field: str, original: str, patch: str, result: str) -> None:
    path = client.post("/api/v1/notes", content=f'{{"{field}": {original}}}', headers=JSON).headers["location"]
    response = client.patch(path, content=f'{{"{field}": {patch}}}', headers=MERGE)
    assert response.status_code == 200
    assert response.json()["data"][field] == json.loads(result)
    assert stored(client, path, field) == json.loads(result)


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


MERGES: list[tuple[Any, Any]] = [
    ({"a": {"b": {"c": 1, "d": 2}}, "x": [1]}, {"a": {"b": {"c": None, "e": {"f": 1, "g": None}}}, "x": None}),
    ({"a": 1}, {"a": {"b": {"c": None}}}),
    ({"a": {"b": 1}}, {"a": {}}),
    ({"a": [1, {"b": 2}]}, {"a": [{"b": None}, None]}),
    ({"'; DROP TABLE notes; --": 1}, {"'; DROP TABLE notes; --": None, '"': {"\\": {"{}": None, "$1": "%s"}}}),
    ({"": {"": 1}}, {"": {"": None, " ": 0}}),
    (None, {"a": {"b": None, "c": 1}}),
    ("text", {"a": None}),
    ({"1": {"0": "x"}}, {"1": {"0": None}}),
]


@pytest.mark.parametrize(("target", "patch"), MERGES)
def test_a_merge_patch_merges_as_the_rfc_says(client: httpx.Client, target: Any, patch: Any) -> None:
    row = made(client, "notes", doc=target)
    path = f"/api/v1/notes/{row['id']}"
    response = client.patch(path, content=json.dumps({"doc": patch}), headers=MERGE)
    assert response.status_code == 200
    assert stored(client, path, "doc") == _merged(target, patch)


def test_a_merge_keeps_numbers_exact(client: httpx.Client) -> None:
    original = b'{"doc": {"kept": 1.10, "big": 12345678901234567890.123456789012345678901234567890}}'
    path = client.post("/api/v1/notes", content=original, headers=JSON).headers["location"]
    patch = b'{"doc": {"new": {"price": 0.30}, "huge": 98765432109876543210987654321}}'
    response = client.patch(path, content=patch, headers=MERGE)
    assert response.status_code == 200
    assert stored(client, path, "doc") == {
        "kept": Decimal("1.10"),
        "big": Decimal("12345678901234567890.123456789012345678901234567890"),
        "new": {"price": Decimal("0.30")},
        "huge": 98765432109876543210987654321,
    }
    assert '"kept": 1.10' in response.text


def test_null_in_a_merge_patch_sets_a_field_to_null_where_it_may_be(client: httpx.Client) -> None:
    row = made(client, "notes", doc={"a": 1}, title="t")
    path = f"/api/v1/notes/{row['id']}"
    assert client.patch(path, content=b'{"doc": null}', headers=MERGE).json()["data"]["doc"] is None
    assert problems(client.patch(path, content=b'{"sure": null, "title": null}', headers=MERGE)) == {
        "sure": "takes no null",
        "title": "takes no null",
    }


def test_a_merge_of_too_many_objects_is_refused(client: httpx.Client) -> None:
    row = made(client, "notes")
    path = f"/api/v1/notes/{row['id']}"
    body = json.dumps({"doc": {f"k{n}": {} for n in range(5000)}})
    assert "application/json" in problems(client.patch(path, content=body, headers=MERGE))["doc"]
    assert client.patch(path, content=body, headers=JSON).status_code == 200


def test_a_patch_of_two_fields_is_one_change(client: httpx.Client) -> None:
    row = made(client, "notes", title="t", doc={"a": 1})
    path = f"/api/v1/notes/{row['id']}"
    assert problems(client.patch(path, json={"title": "u", "doc": {"a": 2}, "nothing": 1})).keys() == {"nothing"}
    assert client.get(path).json()["data"] == row
