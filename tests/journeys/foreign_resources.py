"""The resources over `foreign_schema.sql`: each a nearly empty YAML, and rows to post.

Every row is written in the forms that answers have, so that what is posted is what must be shown.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple

Row = dict[str, Any]


class Foreign(NamedTuple):
    """A resource's YAML, the rows that are posted to it, in order, and one more that comes and goes."""

    yaml: str = ""
    rows: list[Row] = []  # noqa: RUF012 - never changed
    spare: Row | None = None


def table(name: str, rest: str = "") -> str:
    """YAML that names a table, whatever its characters."""
    return f"table: {json.dumps(name, ensure_ascii=False)}\n{rest}"


TEXT_KEYS = [
    "plain", "", " ", "a b", "/", "a/b", "//", ",", "a,b", "%", "%2F", "100%", "😀", "Zürich", ".", "..", "...", "a.b", "+",
    "a+b", "?", "#", "a?b=c#d", "&", "=", ";", ":", "@", "'", '"', "\\", "[x]", "{y}", "|", "~", "^", "`", "<>", "line\nbreak",
    "\t", "\x7f", "null", "true", "0", "-1", "openapi.json", "x" * 500, "é", "e\u0301", "\u202e", "ﬁ",
]  # fmt: skip

EVERYTHING: Row = {
    "id": 1,
    "a_bool": True,
    "a_int2": -32768,
    "a_int4": 2147483647,
    "a_int8": 9007199254740993,
    "a_numeric": "123456789012345678901234567890.000100",
    "a_money": "-0.10",
    "a_thousands": "12000",
    "a_real": Decimal("0.1"),
    "a_double": Decimal("0.30000000000000004"),
    "a_text": "100% of_it, \\ \"said\" 'he'\n😀",
    "a_varchar": "a,b\\c%_",
    "a_char": "ab    ",
    "a_name": "Name 😀",
    "a_collated": "Straße",
    "a_uuid": "6f1b0c1e-3a1c-4b1e-9a5e-0f6d7c8b9a01",
    "a_mood": 'it\'s "fine"',
    "a_date": "2024-02-29",
    "a_timestamp": "2024-05-01T12:00:00.123456",
    "a_timestamptz": "2024-05-01T12:00:00.5+00:00",
    "a_seconds": "2024-05-01T12:00:00+00:00",
    "a_time": "23:59:59.999999",
    "a_timetz": "12:00:00+02",
    "a_interval": "P1Y2M-3DT-4H-0.5S",
    "a_bytea": "AAEC/f7/",
    "a_inet": "10.0.0.1",
    "a_cidr": "10.0.0.0/8",
    "a_macaddr": "08:00:2b:01:02:03",
    "a_macaddr8": "08:00:2b:01:02:03:04:05",
    "a_int4range": "[1,5)",
    "a_numrange": "(1.50,)",
    "a_tstzrange": '["2024-01-01 00:00:00+00","2024-02-01 00:00:00+00")',
    "a_daterange": "[2024-01-01,2024-02-01)",
    "a_floatrange": "[0.5,1.25]",
    "a_int4multirange": "{[1,3),[5,7)}",
    "a_json": {"b": 1, "a": [Decimal("1.50"), None, "x"], "": {"n": 123456789012345678901234567890}},
    "a_jsonb": {"a": {"b": "deep"}, "colour": "red", "size": Decimal("2.50"), "a.b": True},
    "a_xml": None,
    "a_point": "(1.5,-2)",
    "a_cash": "$1,234.50",
    "a_bit": "0101",
    "a_one_bit": "1",
    "a_varbit": "010",
    "a_tsvector": "'cat':1 'rat':2A",
    "a_composite": '(1.50,"a, ""b""")',
    "a_regclass": "people",
    "a_byte": "x",
    "a_lsn": "16/B374D848",
    "a_positive": 5,
    "a_short": "abcd",
    "a_tags": ["a", "b,c", None],
    "a_settings": {"on": True},
    "texts": ["", "a,b", "back\\slash", '"quoted"', "{}", "NULL", None, "😀"],
    "numbers": ["1.50", None, "-0.01"],
    "integers": [1, None, -2147483648],
    "moods": ["sad", "Very Happy, really", None, "😀"],
    "blobs": ["", "AAEC", None],
    "flags": [True, None, False],
    "moments": ["2024-05-01T12:00:00+00:00", None],
    "chars": ["ab ", None],
    "bits": ["010", None],
    "names": ["a name", None],
    "doubles": [Decimal("0.1"), None, Decimal("-1e+300")],
    "intervals": ["P1M", None, "PT0S"],
    "addresses": ["10.0.0.1", "10.0.0.0/8", None, "::1"],
    "ranges": ["[1,5)", None, "empty"],
    "jsons": [{"a": 1}, None, [1]],
    "jsonbs": [{"a": 1}, None, "text", 1],
    "points": ["(1,2)", None],
    "composites": ['(1,"a b")', None],
    "positives": [1, None],
}
LEAST: Row = {
    "id": -2147483648,
    "a_bool": False,
    "a_int2": 0,
    "a_int4": -2147483648,
    "a_int8": -9223372036854775808,
    "a_numeric": "0",
    "a_money": "9999999999.99",
    "a_thousands": "0",
    "a_real": Decimal("3.4028235e+38"),
    "a_double": Decimal("1.7976931348623157e+308"),
    "a_text": "",
    "a_varchar": "",
    "a_char": "      ",
    "a_name": "",
    "a_collated": "",
    "a_uuid": "00000000-0000-0000-0000-000000000000",
    "a_mood": "sad",
    "a_date": "0001-01-01",
    "a_timestamp": "0001-01-01T00:00:00",
    "a_timestamptz": "9999-12-31T23:59:59.999999+00:00",
    "a_seconds": "0001-01-01T00:00:00+00:00",
    "a_time": "00:00:00",
    "a_timetz": "00:00:00-12:30",
    "a_interval": "PT0S",
    "a_bytea": "",
    "a_inet": "2001:db8::/32",
    "a_cidr": "::/0",
    "a_macaddr": "00:00:00:00:00:00",
    "a_macaddr8": "00:00:00:00:00:00:00:00",
    "a_int4range": "empty",
    "a_numrange": "(,)",
    "a_tstzrange": "empty",
    "a_daterange": "(,2024-02-01)",
    "a_floatrange": "(,)",
    "a_int4multirange": "{}",
    "a_json": "text",
    "a_jsonb": [],
    "a_xml": None,
    "a_point": "(0,0)",
    "a_cash": "-$0.01",
    "a_bit": "0000",
    "a_one_bit": "0",
    "a_varbit": "",
    "a_tsvector": "",
    "a_composite": "(,)",
    "a_regclass": "pg_class",
    "a_byte": "",
    "a_lsn": "0/0",
    "a_positive": 2147483647,
    "a_short": "",
    "a_tags": ["only"],
    "a_settings": {},
    **{
        key: []
        for key in [
            "texts",
            "numbers",
            "integers",
            "moods",
            "blobs",
            "flags",
            "moments",
            "chars",
            "bits",
            "names",
            "doubles",
            "intervals",
            "addresses",
            "ranges",
            "jsons",
            "jsonbs",
            "points",
            "composites",
            "positives",
        ]
    },
}
NOTHING: Row = {"id": 3, **dict.fromkeys(list(EVERYTHING)[1:])}
LIKE_THE_FIRST: Row = {**EVERYTHING, "id": 4, "a_jsonb": 5, "a_json": False, "a_double": -1, "a_text": "zz", "a_interval": "P30D"}

FOREIGN: dict[str, Foreign] = {
    "Select": Foreign(
        rows=[
            {
                **dict.fromkeys(["Order", "limit", "page", "count", "and", "t", "c0", "total"], n),
                **{
                    name: f"{name} {n % 2}"
                    for name in [
                        "sort",
                        "filter",
                        "q",
                        "cursor",
                        "fields",
                        "expand",
                        "or",
                        "not",
                        "null",
                        "in",
                        "eq",
                        "r",
                        "i",
                        "k",
                        "w",
                        "c",
                        "p",
                    ]
                },
                **{name: f"{name} {n}" for name in ["table", "user", "mixedCase", "mixedcase", "UPPER"]},
            }
            for n in range(3)
        ],
        spare={"Order": 99},
    ),
    "t": Foreign(rows=[{"t": 1, "r": 2}, {"t": 2, "r": None}, {"t": 3, "r": 2}], spare={"t": 9}),
    "w": Foreign(rows=[{"w": 1, "k": "a", "t": None}, {"w": 2, "k": None, "t": "b"}], spare={"w": 9}),
    "weird": Foreign(
        table('"we ird ""quoted"" 100% [$] 😀.table"'),
        rows=[
            {
                'id "quoted" \\ key': n,
                "a space": f"s{n % 2}",
                "per%cent %s %(x)s": n,
                "dotted.name": None if n else "d",
                "dotted.json": {"a": {"b": n}},
                "bracket[gte]": n,
                "[eq]": n % 2,
                "open[": n,
                "dollar$1 $2": "$1",
                "comma,name": n,
                "colon:nullsfirst": None if n else 1,
                "semi;colon": ";",
                "-minus": -n,
                "emoji 😀": "😀" * n,
                "back\\slash": "\\" * n,
                "single'quote": "'",
                "am&per=sand+plus#hash?": "&=+#?",
                "{brace}": "{}",
                "new\nline": "\n",
            }
            for n in range(4)
        ],
        spare={'id "quoted" \\ key': 99},
    ),
    "dotted": Foreign(table('"dotted.schema"."dotted.table"'), [{"id": 1, "name": "a"}], {"id": 2, "name": None}),
    "orders": Foreign(
        table("Back Office.Orders"),
        [{"Colour": "green", "Colours": ["red", None]}, {"Colours": None}, {"Colour": "red", "Colours": []}],
        {},
    ),
    "text_keys": Foreign(rows=[{"k": key, "n": n} for n, key in enumerate(TEXT_KEYS)], spare={"k": "spare/one,%"}),
    "two_part_keys": Foreign(
        rows=[
            {"a": a, "b": b, "c": c, "v": f"{a}{b}"}
            for a, b, c in [
                ("", 0, "2024-01-01"),
                ("a,b", 0, "2024-01-01"),
                ("a", 1, "2024-01-02"),
                ("a/b%2C", 1, "2024-01-02"),
                ("😀", -1, "2024-01-02"),
                ("..", -1, "2024-01-01"),
            ]
        ],
        spare={"a": ",", "b": 7, "c": "2024-01-03"},
    ),
    "uuid_keys": Foreign(rows=[{"v": "made"}, {"k": "6f1b0c1e-3a1c-4b1e-9a5e-0f6d7c8b9a01", "v": None}], spare={}),
    "timestamptz_keys": Foreign(
        rows=[{"k": "2024-05-01T12:00:00+00:00"}, {"k": "2024-05-01T12:00:00.000001+00:00"}],
        spare={"k": "2020-01-01T00:00:00+00:00"},
    ),
    "numeric_keys": Foreign(rows=[{"k": k} for k in ("1.50", "-0.001", "0", "1" * 60, "0." + "1" * 60)], spare={"k": "7"}),
    "bytea_keys": Foreign(rows=[{"k": k} for k in ("", "AA==", "+/+/", "/w==", "AAEC/f7/")], spare={"k": "Bw=="}),
    "double_keys": Foreign(
        rows=[{"k": Decimal(k)} for k in ("0.1", "-1e+300", "5e-324", "0.30000000000000004")], spare={"k": Decimal("2.5")}
    ),
    "bigint_keys": Foreign(rows=[{"k": k} for k in (9223372036854775807, -9223372036854775808, 2**53 + 1)], spare={"k": 7}),
    "boolean_keys": Foreign(rows=[{"k": True}], spare={"k": False}),
    "enum_keys": Foreign(rows=[{"k": k} for k in ("😀", "Very Happy, really", 'it\'s "fine"')], spare={"k": "sad"}),
    "inet_keys": Foreign(rows=[{"k": k} for k in ("10.0.0.1", "10.0.0.0/8", "2001:db8::1")], spare={"k": "::"}),
    "interval_keys": Foreign(
        rows=[{"k": k} for k in ("PT0S", "P-1M", "P1DT-2H", "PT0.000001S", "PT-2562047788H-54S", "P178956970Y-3D")],
        spare={"k": "P7D"},
    ),
    "range_keys": Foreign(rows=[{"k": k} for k in ("empty", "[1,5)", "(,)", "(,3)")], spare={"k": "[7,8)"}),
    "char_keys": Foreign(rows=[{"k": k} for k in ("abcde", "     ", "a    ", "😀😀   ")], spare={"k": "s    "}),
    "unique_not_null": Foreign("key: code\n", [{"code": "a/b", "v": "x"}, {"code": "", "v": None}], {"code": "spare"}),
    "identities": Foreign(
        rows=[{"id": 1000, "price": "3.00", "made_at": "2024-05-01T12:00:00+00:00"}, {"counter": 77}, {"price": "0.50"}], spare={}
    ),
    "every_type": Foreign(rows=[EVERYTHING, LEAST, NOTHING, LIKE_THE_FIRST], spare={"id": 99}),
    "beyond_sending": Foreign(),
    "staff": Foreign(
        rows=[
            {
                "id": 501,
                "manager_id": None,
                "email": "Ann@Example.com",
                "handle": "ann",
                "age": 40,
                "motto": "x",
                "low": 1,
                "high": 2,
            },
            {"id": 502, "manager_id": 501, "email": None, "handle": "ann", "active": False},
        ],
        spare={"handle": "spare"},
    ),
    "bookings": Foreign(
        rows=[{"id": 1, "during": "[1,5)"}, {"id": 2, "during": "[5,7)"}], spare={"id": 3, "during": "[100,101)"}
    ),
    "measurements": Foreign(
        rows=[
            {"city": "Ulm", "taken": "2023-05-01", "celsius": 20, "station": "u1"},
            {"city": "Ulm", "taken": "2024-05-01", "celsius": None, "station": None},
            {"city": "São Paulo/SP, BR", "taken": "2024-05-01", "celsius": 30, "station": "u1"},
        ],
        spare={"city": "Spare", "taken": "2023-12-31"},
    ),
    "grandchildren": Foreign(rows=[{"id": 1, "k": "a", "b": 1, "c": "2024-01-02"}, {"id": 2}], spare={"id": 3}),
    "guarded": Foreign(rows=[{"id": 1, "v": "keep"}, {"id": 2, "v": None}], spare={"id": 3, "v": "let go"}),
    "people_view": Foreign(table("People View", "key: Id\n")),
    "born_counts": Foreign("key: born\n"),
    "wide": Foreign(
        rows=[{"c1": 1, **{f"c{n}": (n, f"t{n}", f"{n}.5")[n % 3] for n in range(2, 301)}}, {"c1": 2}, {"c1": 3, "c300": 0}],
        spare={"c1": 9},
    ),
}
"""By the resource's name. `grandchildren` refer to `two_part_keys`, which come before."""
