"""Loading resource files: what is taken, and every fault with its file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.definitions import nodes
from gateway.definitions.load import MAX_FILE_BYTES, load_directory, load_text
from gateway.definitions.model import (
    OPERATIONS,
    CacheDefinition,
    Fault,
    FieldDefinition,
    LimitDefinition,
    ListDefinition,
    RelationDefinition,
    ResourceDefinition,
    RoleDefinition,
    RuleDefinition,
    Source,
)
from gateway.errors import ConfigurationError
from gateway.settings import load_settings

ORDERS = """\
# resources/orders.yaml
table: orders
description: What a user bought.
key: id
version: v1
fields:
  total:      {description: "Sum of the items", minimum: 0}
  status:     {enum: [pending, paid, shipped, cancelled]}
  note:       {column: internal_note, hidden: true}
  created_at: {readonly: true}
  updated_at: {readonly: true}
relations:
  user:  {to: users}
  items: {to: order_items, many: true}
list:
  sort: [-created_at]
  limit: {default: 20, max: 100}
  filter: [status, user_id, created_at]
cache: {ttl: 30}
rate_limit: 300/minute
timeout: 5
access:
  admin:     {read: {}, create: {}, patch: {}, delete: {}}
  customer:
    read:    {rows: {user_id: $sub}}
    create:  {fields: [status, items], set: {user_id: $sub}}
    patch:   {rows: {user_id: $sub, status: pending}, fields: [status]}
  anonymous: {}
"""


def loaded(text: str) -> Source:
    result = load_text("orders", "resources/orders.yaml", text)
    assert isinstance(result, Source), [str(fault) for fault in result]
    return result


def faults(text: str) -> list[str]:
    result = load_text("orders", "r.yaml", dedent(text))
    assert not isinstance(result, Source)
    return [str(fault) for fault in result]


def test_the_contracts_example_is_read_whole() -> None:
    everything = RuleDefinition()
    assert loaded(ORDERS).definition == ResourceDefinition(
        table="orders",
        description="What a user bought.",
        key="id",
        version="v1",
        fields={
            "total": FieldDefinition(description="Sum of the items", minimum=0),
            "status": FieldDefinition(enum=["pending", "paid", "shipped", "cancelled"]),
            "note": FieldDefinition(column="internal_note", hidden=True),
            "created_at": FieldDefinition(readonly=True),
            "updated_at": FieldDefinition(readonly=True),
        },
        relations={"user": RelationDefinition("users"), "items": RelationDefinition("order_items", many=True)},
        list=ListDefinition(["-created_at"], LimitDefinition(20, 100), ["status", "user_id", "created_at"]),
        cache=CacheDefinition(30.0),
        rate_limit="300/minute",
        timeout=5.0,
        access={
            "admin": RoleDefinition(everything, everything, everything, everything),
            "customer": RoleDefinition(
                read=RuleDefinition(rows={"user_id": "$sub"}),
                create=RuleDefinition(fields=["status", "items"], set={"user_id": "$sub"}),
                patch=RuleDefinition(rows={"user_id": "$sub", "status": "pending"}, fields=["status"]),
            ),
            "anonymous": RoleDefinition(),
        },
    )


def test_authors_order_is_kept() -> None:
    assert list(loaded(ORDERS).definition.fields) == ["total", "status", "note", "created_at", "updated_at"]
    assert list(loaded(ORDERS).definition.access or {}) == ["admin", "customer", "anonymous"]


def test_every_path_has_its_line() -> None:
    lines = loaded(ORDERS).lines
    assert lines[()] == 2
    assert lines["fields", "total", "minimum"] == 7
    assert lines["list", "sort", 0] == 16
    assert lines["access", "customer", "patch", "rows", "status"] == 27


def test_rows_and_set_stay_plain_values_with_lines_all_the_way_down() -> None:
    source = loaded(
        dedent("""\
        access:
          member:
            read:
              rows:
                or:
                  - {a: on, b: [1, 2.5, true, null]}
                  -
                    c:
                      gte: 2024-01-01
            create:
              set: {when: 1:30, tags: [], meta: {x: "1"}}
        """)
    )
    role = (source.definition.access or {})["member"]
    assert role.read == RuleDefinition(rows={"or": [{"a": "on", "b": [1, 2.5, True, None]}, {"c": {"gte": "2024-01-01"}}]})
    assert role.create == RuleDefinition(set={"when": "1:30", "tags": [], "meta": {"x": "1"}})
    path = ("access", "member", "read", "rows", "or")
    assert source.lines[(*path, 0, "b", 3)] == 6
    assert source.lines[(*path, 1, "c", "gte")] == 9
    assert source.lines["access", "member", "create", "set", "meta", "x"] == 11


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n", "---\n", "null\n", "{}\n", "--- # nothing\n...\n"])
def test_file_that_says_nothing_is_a_resource_with_defaults(text: str) -> None:
    assert loaded(text).definition == ResourceDefinition()


def test_nothing_is_an_empty_mapping_where_one_belongs() -> None:
    source = loaded("fields:\n  total:\nlist:\n  limit:\ncache:\nrelations:\naccess:\n  anonymous:\n  admin:\n    read:\n")
    assert source.definition == ResourceDefinition(
        fields={"total": FieldDefinition()},
        access={"anonymous": RoleDefinition(), "admin": RoleDefinition(read=RuleDefinition())},
    )


def test_access_left_empty_lets_nobody_in_and_is_not_access_left_out() -> None:
    assert loaded("access:\n").definition.access == {}
    assert loaded("").definition.access is None


def test_null_leaves_a_single_value_to_its_default() -> None:
    assert loaded("table:\nkey: ~\ntimeout: null\nfields: {a: {maximum: }}\n").definition == ResourceDefinition(
        fields={"a": FieldDefinition()}
    )


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "y", "N", "1_000", "0b11", "1:30", "12:30:45", "2024-01-01", "08:00", "=", "<"]
)
def test_word_that_older_yaml_turns_into_something_else_is_text(word: str) -> None:
    assert loaded(f"fields: {{a: {{enum: [{word}]}}}}").definition.fields["a"].enum == [word]


@pytest.mark.parametrize(
    ("text", "value"), [("0o17", 15), ("0x1F", 31), ("017", 17), ("-5", -5), ("+5", 5), ("1.5", 1.5), ("1e3", 1000.0)]
)
def test_number_is_read_by_the_core_schema(text: str, value: float) -> None:
    minimum = loaded(f"fields: {{a: {{minimum: {text}}}}}").definition.fields["a"].minimum
    assert (minimum, type(minimum)) == (value, type(value))


def test_keys_are_text_as_written() -> None:
    assert list(loaded("fields: {on: {}, 1: {}, null: {}, true: {}, 'a b': {}}").definition.fields) == [
        "on",
        "1",
        "null",
        "true",
        "a b",
    ]


ROOT_KEYS = (
    "table, description, key, version, fields, relations, list, cache, rate_limit, timeout, "
    "version_column, require_if_match, access, deprecated"
)
FIELD_KEYS = "description, column, hidden, readonly, minimum, maximum, min_length, max_length, pattern, enum, json"

FAULTS = {
    "unknown key": (
        "descripton: x",
        ['r.yaml:1: unknown key "descripton". Did you mean "description"? It takes ' + f"{ROOT_KEYS}."],
    ),
    "unknown key, far down": ("cache:\n  ttl: 1\n  max: 3\n", ['r.yaml:3: cache: unknown key "max". It takes ttl.']),
    "duplicate key": ("fields:\n  a: {}\n  b: {}\n  a: {}\n", ['r.yaml:4: duplicate key "a", first written on line 2']),
    "duplicate key in a row rule": (
        "access:\n  x:\n    read:\n      rows:\n        a: 1\n        a: 2\n",
        ['r.yaml:6: duplicate key "a", first written on line 5'],
    ),
    "number for text": ("table: 5", ["r.yaml:1: table: takes text, not 5. Put it in quotes"]),
    "number for a version": ("version: 1", ["r.yaml:1: version: takes text, not 1. Put it in quotes"]),
    "bad version": ("version: v0", ['r.yaml:1: version: takes v1, v2 and so on, not "v0"']),
    "text for a number": ("timeout: '5'", ['r.yaml:1: timeout: takes a number, not the text "5"']),
    "text for a boolean": ("fields: {a: {hidden: yes}}", ['r.yaml:1: fields.a.hidden: takes true or false, not the text "yes"']),
    "boolean for a number": ("cache: {ttl: true}", ["r.yaml:1: cache.ttl: takes a number, not true"]),
    "list for a mapping": ("fields: [a]", ["r.yaml:1: fields: takes a mapping, not a list"]),
    "mapping for a list": ("list:\n  sort: {a: 1}", ["r.yaml:2: list.sort: takes a list, not a mapping"]),
    "text for a list": ("list: {filter: a}", ['r.yaml:1: list.filter: takes a list, not the text "a"']),
    "nothing for a list": (
        "list:\n  filter:\n  sort:\n",
        [
            "r.yaml:2: list.filter: takes a list, not nothing. Leave the key out for its default",
            "r.yaml:3: list.sort: takes a list, not nothing",
        ],
    ),
    "nothing for rows": (
        "access: {a: {read: {rows: , fields: }}}",
        [
            "r.yaml:1: access.a.read.fields: takes a list, not nothing. Leave the key out for its default",
            "r.yaml:1: access.a.read.rows: takes a mapping, not nothing. Leave the key out for its default",
        ],
    ),
    "nothing for text": ("description:", ["r.yaml:1: description: takes text, not nothing"]),
    "null for a name": ("list: {filter: [null]}", ["r.yaml:1: list.filter[0]: takes text, not nothing. Put it in quotes"]),
    "mapping for a key": ("key: {a: b}", ["r.yaml:1: key: takes text or a list, not a mapping"]),
    "empty key": ("key: []", ["r.yaml:1: key: needs at least one entry"]),
    "key twice": ("key: [a, b, a]", ['r.yaml:1: key[2]: "a" stands here twice']),
    "empty name": ("fields:\n  '': {}\n", ["r.yaml:2: fields: a name is empty"]),
    "empty table": ("table: ''", ['r.yaml:1: table: takes a name, not ""']),
    "limit of zero": ("list: {limit: {default: 0}}", ["r.yaml:1: list.limit.default: takes a number from 1 to 100000, not 0"]),
    "limit of a fraction": ("list: {limit: {max: 10.5}}", ["r.yaml:1: list.limit.max: takes a whole number, not 10.5"]),
    "default over max": (
        "list:\n  limit:\n    max: 50\n    default: 60\n",
        ["r.yaml:4: list.limit.default: 60 rows a page is over the max of 50; write both"],
    ),
    "default that was not written over max": (
        "list:\n  limit:\n    max: 10\n",
        ["r.yaml:2: list.limit.default: 20 rows a page is over the max of 10; write both"],
    ),
    "negative ttl": ("cache: {ttl: -1}", ["r.yaml:1: cache.ttl: takes a number from 0 to 31622400, not -1"]),
    "timeout of zero": ("timeout: 0", ["r.yaml:1: timeout: takes a number over 0 to 3600, not 0"]),
    "endless timeout": ("timeout: .inf", ['r.yaml:1: ".inf" is not a finite number']),
    "number past a double": ("timeout: 1e999", ['r.yaml:1: "1e999" is not a finite number']),
    "number of many digits": ("timeout: " + "9" * 5000, ["r.yaml:1: a number of more than 1000 digits"]),
    "lengths the wrong way round": (
        "fields:\n  a:\n    min_length: 5\n    max_length: 2\n",
        ["r.yaml:3: fields.a.min_length: 5 is over max_length 2"],
    ),
    "negative length": (
        "fields: {a: {max_length: -1}}",
        ["r.yaml:1: fields.a.max_length: takes a number from 0 to 2147483647, not -1"],
    ),
    "bounds the wrong way round": (
        "fields: {a: {minimum: '3.5', maximum: 2}}",
        ["r.yaml:1: fields.a.minimum: 3.5 is over maximum 2"],
    ),
    "bad rate limit": ("rate_limit: 5/week", ['r.yaml:1: rate_limit: takes N/second, N/minute, N/hour or N/day, not "5/week"']),
    "rate limit of none": ("rate_limit: 0/day", ['r.yaml:1: rate_limit: takes N/second, N/minute, N/hour or N/day, not "0/day"']),
    "bad sort": (
        "list:\n  sort:\n    - a:nullast\n    - '-'\n    - --b\n",
        [
            'r.yaml:3: list.sort[0]: takes [-]field[:nullsfirst|:nullslast], not "a:nullast"',
            'r.yaml:4: list.sort[1]: takes [-]field[:nullsfirst|:nullslast], not "-"',
            'r.yaml:5: list.sort[2]: takes [-]field[:nullsfirst|:nullslast], not "--b"',
        ],
    ),
    "sorted twice": ("list: {sort: [a, '-a:nullslast']}", ['r.yaml:1: list.sort[1]: "a" is sorted by twice']),
    "no regular expression": (
        "fields: {a: {pattern: '('}}",
        ["r.yaml:1: fields.a.pattern: no regular expression: missing ), unterminated subpattern at position 0"],
    ),
    "ambiguous regular expression": (
        "fields: {a: {pattern: '[[a]'}}",
        ["r.yaml:1: fields.a.pattern: no regular expression: Possible nested set at position 1"],
    ),
    "endless repeat": (
        "fields: {a: {pattern: 'a{99999999999999999999}'}}",
        ["r.yaml:1: fields.a.pattern: no regular expression: the repetition number is too large"],
    ),
    "empty enum": ("fields: {a: {enum: []}}", ["r.yaml:1: fields.a.enum: needs at least one entry"]),
    "enum of a fraction": (
        "fields: {a: {enum: [x, 1.5, x]}}",
        [
            "r.yaml:1: fields.a.enum[1]: takes text or a whole number, not 1.5. Put it in quotes",
            'r.yaml:1: fields.a.enum[2]: "x" stands here twice',
        ],
    ),
    "bad choice": (
        "fields: {a: {json: strin}}",
        ['r.yaml:1: fields.a.json: takes "number" or "string", not the text "strin". Did you mean "string"?'],
    ),
    "relation to nowhere": (
        "relations:\n  user:\n  items: {many: true}\n",
        [
            'r.yaml:2: relations.user: the key "to" is missing',
            'r.yaml:3: relations.items: the key "to" is missing',
        ],
    ),
    "join over nothing": ("relations: {u: {to: users, on: {}}}", ["r.yaml:1: relations.u.on: needs at least one entry"]),
    "rules without effect": (
        "access:\n  a:\n    read: {set: {x: 1}}\n    delete:\n      set: {x: 1}\n      fields: [x]\n",
        [
            "r.yaml:3: access.a.read.set: a read sets nothing; it belongs to create and patch",
            "r.yaml:5: access.a.delete.set: a delete sets nothing; it belongs to create and patch",
            "r.yaml:6: access.a.delete.fields: a delete takes the whole row; it belongs to read, create and patch",
        ],
    ),
    "unknown operation": (
        "access: {a: {update: {}}}",
        ['r.yaml:1: access.a: unknown key "update". It takes read, create, patch, delete.'],
    ),
    "list for a file": ("- a\n", ["r.yaml:1: takes a mapping, not a list"]),
    "text for a file": ("\nhello\n", ['r.yaml:2: takes a mapping, not the text "hello"']),
    "two documents": ("table: a\n---\ntable: b\n", ["r.yaml:2: a second document starts here; a resource file holds one"]),
    "bad indentation": (
        "fields:\n  a: {}\n   b: {}\n",
        ["r.yaml:3: not YAML: no key where one belongs; check the indentation"],
    ),
    "colon in text": (
        "description: a: b\n",
        ["r.yaml:1: not YAML: a colon where none may stand; check the indentation, or quote the text"],
    ),
    "tab": ("fields:\n\ta: {}\n", ["r.yaml:2: not YAML: a tab where only spaces may stand"]),
    "open quote": ('table: x\ndescription: "never\n\nended\n', ["r.yaml:2: not YAML: a quote that opens here is never closed"]),
    "open bracket": ("key: [a,\n  b\n", ["r.yaml:1: not YAML: a [ that opens here is never closed"]),
    "open brace": ("table: a\nfields: {a: {}\n", ["r.yaml:2: not YAML: a { that opens here is never closed"]),
    "bad first character": ("table: @x\n", ["r.yaml:1: not YAML: text that begins with such a character needs quotes"]),
    "tag": (
        "table: !!python/object/apply:os.system [x]\n",
        [
            'r.yaml:1: tags are not taken: "tag:yaml.org,2002:python/object/apply:os.system"',
        ],
    ),
    "harmless tag": ("table: !!str 5\n", ['r.yaml:1: tags are not taken: "tag:yaml.org,2002:str"']),
    "anchor and alias": (
        "table: &t x\ndescription: *t\n",
        ["r.yaml:1: anchors are not taken: &t", "r.yaml:2: aliases are not taken; write the value of *t out"],
    ),
    "recursive alias": (
        "access: &a\n  x: *a\n",
        ["r.yaml:1: anchors are not taken: &a", "r.yaml:2: aliases are not taken; write the value of *a out"],
    ),
    "merge key": ("fields:\n  a: {}\n  <<: {b: {}}\n", ["r.yaml:3: merge keys are not taken: <<"]),
    "mapping as a key": ("fields:\n  ? {a: b}\n  : {}\n", ["r.yaml:2: a mapping or a list stands as a key; a key is text"]),
    "character of no use": ("table: a\x07\n", ["r.yaml:1: a character that YAML does not take, U+0007"]),
    "U+0000": ('table: "a\\0"\n', ["r.yaml:1: a character that PostgreSQL cannot store: U+0000 or half of a surrogate pair"]),
    "nested without end": ("\nkey: " + "[" * 5000, ["r.yaml:2: values nested more than 40 deep"]),
    "values without end": ("key: [" + "a," * 60_000 + "]", ["r.yaml:1: more than 50000 values in one file"]),
    "several at once": (
        "tabel: x\nfields:\n  a: {minimum: x, hiden: 1}\n  a: {}\ntimeout: -1\naccess: [x]\n",
        [
            'r.yaml:1: unknown key "tabel". Did you mean "table"? It takes ' + f"{ROOT_KEYS}.",
            'r.yaml:3: fields.a: unknown key "hiden". Did you mean "hidden"? It takes ' + f"{FIELD_KEYS}.",
            'r.yaml:4: duplicate key "a", first written on line 3',
            "r.yaml:5: timeout: takes a number over 0 to 3600, not -1",
            "r.yaml:6: access: takes a mapping, not a list",
        ],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_is_told_with_file_line_and_what_to_write(case: str) -> None:
    text, expected = FAULTS[case]
    assert faults(text) == expected


@pytest.mark.parametrize(
    "text", ["1/second", "300/minute", "999999999/day", "0/day", "5/week", "1000000000/day", "5", "-1/hour", "5/Hour"]
)
def test_rate_limit_of_a_file_has_the_grammar_of_the_setting(text: str) -> None:
    try:
        by_the_setting = load_settings({"RATE_LIMIT": text}, None).rate_limit == text
    except ConfigurationError:
        by_the_setting = False
    assert isinstance(load_text("a", "a.yaml", f"rate_limit: '{text}'"), Source) == by_the_setting


def test_names_that_are_no_simple_words_are_quoted_in_a_path() -> None:
    assert faults('fields: {"unit price.x": {hidden: 1}}') == [
        'r.yaml:1: fields."unit price.x".hidden: takes true or false, not 1'
    ]


def test_lines_are_counted_as_editors_do() -> None:
    assert faults("description: 'a\u2028b\u0085c'\r\nversion: x\rkey: []\n") == [
        'r.yaml:2: version: takes v1, v2 and so on, not "x"',
        "r.yaml:3: key: needs at least one entry",
    ]


def test_expanding_aliases_are_refused_at_once() -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    assert "r.yaml:2: aliases are not taken; write the value of *a0 out" in faults(laughs)


# Reading directories


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


def test_directory_is_read_by_name(tmp_path: Path) -> None:
    write(tmp_path, b__yml="", a__yaml="table: x\n", README__md="no YAML: [", C__YAML="")
    (tmp_path / ".#a.yaml").symlink_to("nowhere")
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", d__yaml="")
    result = load_directory(tmp_path)
    assert [source.name for source in result.sources] == ["C", "a", "b"]
    assert (result.faults, result.broken) == ((), ())


def test_broken_file_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    result = load_directory(write(tmp_path, bad__yaml="tabel: x\nversion: 1\n", good__yaml=""))
    assert [source.name for source in result.sources] == ["good"]
    assert result.broken == (("v1", "bad"),)
    assert [fault.line for fault in result.faults] == [1, 2]


def test_files_are_shown_as_the_directory_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resources").mkdir()
    write(tmp_path / "resources", orders__yaml="version: 1\n", users__yaml="")
    monkeypatch.chdir(tmp_path)
    result = load_directory(Path("resources"))
    assert str(result.faults[0]) == "resources/orders.yaml:1: version: takes text, not 1. Put it in quotes"
    assert result.sources[0].file == "resources/users.yaml"


def test_two_files_of_one_name_are_both_left_out(tmp_path: Path) -> None:
    result = load_directory(write(tmp_path, a__yaml="", a__yml="", b__yaml=""))
    assert [source.name for source in result.sources] == ["b"]
    assert result.broken == (("v1", "a"),)
    message = f'the resource "a" is in {tmp_path / "a.yaml"} too; keep one of the files'
    assert result.faults == (Fault(str(tmp_path / "a.yml"), 1, message),)


@pytest.mark.parametrize("name", ["1a", "a b", "a.b", "a.v0", "é", "a" * 64, "-a"])
def test_file_whose_name_cannot_be_a_resources_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.yaml").write_text("")
    result = load_directory(tmp_path)
    assert result.broken == (("v1", name),)
    assert "cannot be one: a letter, then up to 62 letters, digits, _ or -" in result.faults[0].message


@pytest.mark.parametrize("name", ["a", "Orders", "order-items", "film_actor", "a" * 63])
def test_file_name_is_the_resources_name(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.yaml").write_text("")
    assert load_directory(tmp_path).sources[0].name == name


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"table: a\nkey: b\ndescription: \xff\n", 3, "not UTF-8: the byte 0xff"),
        ("table: a\n".encode("utf-16"), 1, "not UTF-8: the byte 0xff"),
        (b"#" * (MAX_FILE_BYTES + 1), 1, "over 1000000 bytes"),
    ],
)
def test_file_that_is_no_text_is_a_fault(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    result = load_directory(tmp_path)
    assert (result.faults, result.broken) == ((Fault(str(path), line, message),), (("v1", "a"),))


def test_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbftable: x\n")
    assert load_directory(tmp_path).sources[0].definition.table == "x"


def test_what_is_no_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    os.mkfifo(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").symlink_to("nowhere")
    result = load_directory(tmp_path)
    assert [fault.message for fault in result.faults] == ["not a file", "not a file", "cannot be read: No such file or directory"]


def test_missing_directory_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'RESOURCES_DIR: there is no directory ".*/none"; make it, with a NAME.yaml'):
        load_directory(tmp_path / "none")


def test_empty_directory_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no resource file; write a NAME\.yaml"):
        load_directory(tmp_path)


def test_file_for_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Not a directory"):
        load_directory(write(tmp_path, a="") / "a")


# Properties

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs", "Cc", "Cn"]), max_size=12)
NAME = TEXT.filter(bool)
NAMES = st.lists(NAME, max_size=3, unique=True)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=5,
)
RULES = {
    operation: st.builds(
        RuleDefinition,
        rows=st.none() | st.dictionaries(NAME, PLAIN, max_size=2),
        fields=st.none() | NAMES if operation != "delete" else st.none(),
        set=st.none() | st.dictionaries(NAME, PLAIN, max_size=2) if operation in ("create", "patch") else st.none(),
    )
    for operation in OPERATIONS
}
DEFINITIONS = st.builds(
    ResourceDefinition,
    table=st.none() | NAME,
    description=TEXT,
    key=st.none() | NAME | NAMES.filter(bool),
    version=st.integers(1, 99).map(lambda number: f"v{number}"),
    fields=st.dictionaries(
        NAME,
        st.builds(
            FieldDefinition,
            description=TEXT,
            column=st.none() | NAME,
            hidden=st.booleans(),
            readonly=st.booleans(),
            minimum=st.none() | st.integers() | st.floats(-1e9, 1e9) | st.just("2024-01-01"),
            max_length=st.none() | st.integers(0, 1000),
            pattern=st.sampled_from([None, "^[a-z]+$", "\\d{3}"]),
            enum=st.none() | st.lists(TEXT | st.integers(), min_size=1, max_size=3, unique_by=lambda value: (type(value), value)),
            json=st.sampled_from([None, "number", "string"]),
        ),
        max_size=3,
    ),
    relations=st.dictionaries(
        NAME,
        st.builds(
            RelationDefinition, to=NAME, many=st.booleans(), on=st.none() | st.dictionaries(NAME, NAME, min_size=1, max_size=2)
        ),
        max_size=2,
    ),
    list=st.builds(
        ListDefinition,
        sort=st.lists(st.sampled_from(["a", "-b", "c:nullsfirst", "-d:nullslast"]), unique=True),
        limit=st.builds(LimitDefinition, default=st.integers(1, 50), max=st.integers(50, 100_000)),
        filter=st.none() | NAMES,
    ),
    cache=st.builds(CacheDefinition, ttl=st.none() | st.floats(0, 1e6)),
    rate_limit=st.sampled_from([None, "1/second", "300/minute"]),
    timeout=st.none() | st.floats(0.001, 3600),
    access=st.none()
    | st.dictionaries(NAME, st.builds(RoleDefinition, **{name: st.none() | rule for name, rule in RULES.items()}), max_size=2),
)


def without_defaults(value: Any) -> Any:
    """A definition as an author would write it: what is left to its default is not written."""
    if isinstance(value, msgspec.Struct):
        defaults = dict(zip(value.__struct_fields__[::-1], value.__struct_defaults__[::-1], strict=False))
        written = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: without_defaults(item) for name, item in written.items() if name not in defaults or item != defaults[name]}
    if isinstance(value, dict):
        return {name: without_defaults(item) for name, item in value.items()}
    return [without_defaults(item) for item in value] if isinstance(value, list) else value


@given(DEFINITIONS)
def test_definition_written_as_json_loads_back_equal(definition: ResourceDefinition) -> None:
    assert loaded(json.dumps(without_defaults(definition), ensure_ascii=False)).definition == definition


def line_count(text: str) -> int:
    return max(1, len(text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")))


def check_any(text: str) -> None:
    result = load_text("a", "a.yaml", text)
    if isinstance(result, Source):
        assert all(1 <= line <= line_count(text) for line in result.lines.values())
    else:
        assert result
        assert all(1 <= fault.line <= line_count(text) for fault in result)
        assert all(len(str(fault).splitlines()) == 1 for fault in result)


LOADERS = [yaml.SafeLoader, nodes._LOADER]
FRAGMENTS = [
    *("fields", "list", "sort", "limit", "access", "rows", "set", "read", "admin", "a", "1", "null", "true"),
    *(":", ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ", "'", '"', "\\"),
    *("&a", "*a", "!!int", "|", ">", "?", "---", "...", "#", "%", "\t", "\r", "<<", "\x00"),
]


@pytest.mark.parametrize("loader", LOADERS)
@given(text=st.text(max_size=200) | st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
@example(text="a: *b")
@example(text="a: \ud800")
@example(text="version: 'a\x85\u2028b'")
@example(text='"\\ud800": "\\UFFFFFFFF"')
@example(text="%YAML 1." + "9" * 5000 + "\n---\n")
@example(text="a: [\r\n\r\n")
@example(text="\x85\u2028a: [")
@example(text="table: 'a\x85\u2028b': c")
def test_any_text_gives_a_source_or_faults_within_the_file(loader: type[yaml.SafeLoader], text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "_LOADER", loader)
        check_any(text)


@given(DEFINITIONS, st.data())
def test_broken_definition_gives_faults_within_the_file(definition: ResourceDefinition, data: st.DataObject) -> None:
    text = yaml.safe_dump(without_defaults(definition), allow_unicode=True, sort_keys=False)
    at = data.draw(st.integers(0, len(text)))
    check_any(text[:at] + data.draw(st.sampled_from(FRAGMENTS)) + text[at:])


# --- versions ----------------------------------------------------------------------------------------------------------


def test_files_name_may_say_the_version(tmp_path: Path) -> None:
    result = load_directory(
        write(tmp_path, **{"products.v2__yaml": "", "products__yaml": "", "products.v10__yaml": "version: v10"})
    )
    assert result.faults == ()
    assert [source.place for source in result.sources] == [("v10", "products"), ("v2", "products"), ("v1", "products")]


def test_version_that_is_not_the_file_names_is_a_fault(tmp_path: Path) -> None:
    result = load_directory(write(tmp_path, **{"products.v2__yaml": "table: products\nversion: v3\n"}))
    assert result.broken == (("v2", "products"),)
    message = 'version: "v3" is not the v2 that the file\'s name says; leave one of them out'
    assert result.faults == (Fault(str(tmp_path / "products.v2.yaml"), 2, message),)


def test_two_files_of_one_name_and_version_are_both_left_out(tmp_path: Path) -> None:
    result = load_directory(write(tmp_path, **{"a.v2__yaml": "", "a__yaml": "version: v2", "b__yaml": ""}))
    assert [source.name for source in result.sources] == ["b"]
    assert result.broken == (("v2", "a"),)
    message = f'the resource "a" of v2 is in {tmp_path / "a.v2.yaml"} too; keep one of the files'
    assert result.faults == (Fault(str(tmp_path / "a.yaml"), 1, message),)


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("deprecated:", 'r.yaml:1: deprecated: the key "since" is missing'),
        ("deprecated: true", "r.yaml:1: deprecated: takes a mapping, not true"),
        ("deprecated: {since: soon}", 'r.yaml:1: deprecated.since: takes a day, such as 2026-11-30, not "soon"'),
        ("deprecated:\n  since: 2026-02-30", 'r.yaml:2: deprecated.since: "2026-02-30" is no day of the calendar'),
        (
            "deprecated:\n  since: 2026-11-01\n  sunset: 2026-10-31",
            "r.yaml:3: deprecated.sunset: 2026-10-31 is before since, 2026-11-01",
        ),
        (
            "deprecated:\n  since: 2026-11-01\n  link: 'https://x/>; rel=evil'",
            'r.yaml:3: deprecated.link: takes a URL, https://…, not "https://x/>; rel=evil"',
        ),
    ],
)
def test_deprecation_that_cannot_be_is_a_fault(yaml: str, told: str) -> None:
    faults = load_text("r", "r.yaml", yaml)
    assert not isinstance(faults, Source)
    assert [str(fault) for fault in faults] == [told]
