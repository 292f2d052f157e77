"""Query tests as rows: a URL's query string -> the SQL of its WHERE, and the values; then whole statements."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from gateway.catalog.model import Column, Resource
from gateway.catalog.types import Family
from gateway.query.ast import EVERYTHING as EVERY_RIGHT
from gateway.query.ast import Bound, Comparison, Grant, ListPlan
from gateway.query.compile import compile_estimate, compile_list, compile_together, quote
from gateway.query.cursor import Cursor, encode_cursor
from gateway.query.operators import OPERATORS, operators_for, path_operators
from gateway.query.payload import plan_create, plan_delete, plan_patch
from gateway.query.plan import filter_values, plan_get, plan_list
from gateway.query.syntax.brackets import parse_list
from tests.query.sample import BIGINT, EVERYTHING, INTEGER, JSONB, TEXT, resource, row_sql, table

FILTERS: list[tuple[str, str, tuple[object, ...]]] = [
    ("active=true", '(t."active" = $1::boolean)', (True,)),
    ("price=10.50", '(t."price" = $1::text::numeric)', ("10.50",)),
    ("name=a%20lamp", '(t."name" = $1::text)', ("a lamp",)),
    ("day=2024-05-01", '(t."day" = $1::text::date)', ("2024-05-01",)),
    ("token=6f9619ff-8b86-d011-b42d-00c04fc964ff", '(t."token" = $1::text::uuid)', ("6f9619ff-8b86-d011-b42d-00c04fc964ff",)),
    ("status=ok", '(t."status" = $1::text::mood)', ("ok",)),
    ("picture=aGk%3D", '(t."picture" = $1::bytea)', (b"hi",)),
    ("address=10.0.0.1", '(t."address" = $1::text::inet)', ("10.0.0.1",)),
    ("period=%5B2024-01-01\\,2024-02-01)", '(t."period" = $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits=0101", '(t."bits" = $1::text::bit varying)', ("0101",)),
    ("tags=red,blue", '(t."tags"::text[] = $1::text[]::text[])', (["red", "blue"],)),
    ("active[ne]=true", '(t."active" <> $1::boolean)', (True,)),
    ("price[ne]=10.50", '(t."price" <> $1::text::numeric)', ("10.50",)),
    ("name[ne]=a%20lamp", '(t."name" <> $1::text)', ("a lamp",)),
    ("day[ne]=2024-05-01", '(t."day" <> $1::text::date)', ("2024-05-01",)),
    (
        "token[ne]=6f9619ff-8b86-d011-b42d-00c04fc964ff",
        '(t."token" <> $1::text::uuid)',
        ("6f9619ff-8b86-d011-b42d-00c04fc964ff",),
    ),
    ("status[ne]=ok", '(t."status" <> $1::text::mood)', ("ok",)),
    ("picture[ne]=aGk%3D", '(t."picture" <> $1::bytea)', (b"hi",)),
    ("address[ne]=10.0.0.1", '(t."address" <> $1::text::inet)', ("10.0.0.1",)),
    ("period[ne]=%5B2024-01-01\\,2024-02-01)", '(t."period" <> $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits[ne]=0101", '(t."bits" <> $1::text::bit varying)', ("0101",)),
    ("tags[ne]=red,blue", '(t."tags"::text[] <> $1::text[]::text[])', (["red", "blue"],)),
    ("price[gt]=10.50", '(t."price" > $1::text::numeric)', ("10.50",)),
    ("name[gt]=a%20lamp", '(t."name" > $1::text)', ("a lamp",)),
    ("day[gt]=2024-05-01", '(t."day" > $1::text::date)', ("2024-05-01",)),
    ("token[gt]=6f9619ff-8b86-d011-b42d-00c04fc964ff", '(t."token" > $1::text::uuid)', ("6f9619ff-8b86-d011-b42d-00c04fc964ff",)),
    ("status[gt]=ok", '(t."status" > $1::text::mood)', ("ok",)),
    ("picture[gt]=aGk%3D", '(t."picture" > $1::bytea)', (b"hi",)),
    ("address[gt]=10.0.0.1", '(t."address" > $1::text::inet)', ("10.0.0.1",)),
    ("period[gt]=%5B2024-01-01\\,2024-02-01)", '(t."period" > $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits[gt]=0101", '(t."bits" > $1::text::bit varying)', ("0101",)),
    ("price[gte]=10.50", '(t."price" >= $1::text::numeric)', ("10.50",)),
    ("name[gte]=a%20lamp", '(t."name" >= $1::text)', ("a lamp",)),
    ("day[gte]=2024-05-01", '(t."day" >= $1::text::date)', ("2024-05-01",)),
    (
        "token[gte]=6f9619ff-8b86-d011-b42d-00c04fc964ff",
        '(t."token" >= $1::text::uuid)',
        ("6f9619ff-8b86-d011-b42d-00c04fc964ff",),
    ),
    ("status[gte]=ok", '(t."status" >= $1::text::mood)', ("ok",)),
    ("picture[gte]=aGk%3D", '(t."picture" >= $1::bytea)', (b"hi",)),
    ("address[gte]=10.0.0.1", '(t."address" >= $1::text::inet)', ("10.0.0.1",)),
    ("period[gte]=%5B2024-01-01\\,2024-02-01)", '(t."period" >= $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits[gte]=0101", '(t."bits" >= $1::text::bit varying)', ("0101",)),
    ("price[lt]=10.50", '(t."price" < $1::text::numeric)', ("10.50",)),
    ("name[lt]=a%20lamp", '(t."name" < $1::text)', ("a lamp",)),
    ("day[lt]=2024-05-01", '(t."day" < $1::text::date)', ("2024-05-01",)),
    ("token[lt]=6f9619ff-8b86-d011-b42d-00c04fc964ff", '(t."token" < $1::text::uuid)', ("6f9619ff-8b86-d011-b42d-00c04fc964ff",)),
    ("status[lt]=ok", '(t."status" < $1::text::mood)', ("ok",)),
    ("picture[lt]=aGk%3D", '(t."picture" < $1::bytea)', (b"hi",)),
    ("address[lt]=10.0.0.1", '(t."address" < $1::text::inet)', ("10.0.0.1",)),
    ("period[lt]=%5B2024-01-01\\,2024-02-01)", '(t."period" < $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits[lt]=0101", '(t."bits" < $1::text::bit varying)', ("0101",)),
    ("price[lte]=10.50", '(t."price" <= $1::text::numeric)', ("10.50",)),
    ("name[lte]=a%20lamp", '(t."name" <= $1::text)', ("a lamp",)),
    ("day[lte]=2024-05-01", '(t."day" <= $1::text::date)', ("2024-05-01",)),
    (
        "token[lte]=6f9619ff-8b86-d011-b42d-00c04fc964ff",
        '(t."token" <= $1::text::uuid)',
        ("6f9619ff-8b86-d011-b42d-00c04fc964ff",),
    ),
    ("status[lte]=ok", '(t."status" <= $1::text::mood)', ("ok",)),
    ("picture[lte]=aGk%3D", '(t."picture" <= $1::bytea)', (b"hi",)),
    ("address[lte]=10.0.0.1", '(t."address" <= $1::text::inet)', ("10.0.0.1",)),
    ("period[lte]=%5B2024-01-01\\,2024-02-01)", '(t."period" <= $1::text::daterange)', ("[2024-01-01\\,2024-02-01)",)),
    ("bits[lte]=0101", '(t."bits" <= $1::text::bit varying)', ("0101",)),
    ("active[in]=true", '(t."active" = ANY ($1::boolean[]))', ([True],)),
    ("price[in]=10.50,20", '(t."price" = ANY ($1::text[]::numeric[]))', (["10.50", "20"],)),
    ("name[in]=a%20lamp,b", '(t."name" = ANY ($1::text[]::text[]))', (["a lamp", "b"],)),
    ("day[in]=2024-05-01,2024-06-01", '(t."day" = ANY ($1::text[]::date[]))', (["2024-05-01", "2024-06-01"],)),
    (
        "token[in]=6f9619ff-8b86-d011-b42d-00c04fc964ff,00000000-0000-0000-0000-000000000000",
        '(t."token" = ANY ($1::text[]::uuid[]))',
        (["6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000000"],),
    ),
    ("status[in]=ok,happy", '(t."status" = ANY ($1::text[]::mood[]))', (["ok", "happy"],)),
    ("picture[in]=aGk%3D,aG8%3D", '(t."picture" = ANY ($1::bytea[]))', ([b"hi", b"ho"],)),
    ("address[in]=10.0.0.1,::1", '(t."address" = ANY ($1::text[]::inet[]))', (["10.0.0.1", "::1"],)),
    (
        "period[in]=%5B2024-01-01\\,2024-02-01),empty",
        '(t."period" = ANY ($1::text[]::daterange[]))',
        (["[2024-01-01,2024-02-01)", "empty"],),
    ),
    ("bits[in]=0101,1", '(t."bits" = ANY ($1::text[]::bit varying[]))', (["0101", "1"],)),
    ("active[nin]=true", '(t."active" <> ALL ($1::boolean[]))', ([True],)),
    ("price[nin]=10.50,20", '(t."price" <> ALL ($1::text[]::numeric[]))', (["10.50", "20"],)),
    ("name[nin]=a%20lamp,b", '(t."name" <> ALL ($1::text[]::text[]))', (["a lamp", "b"],)),
    ("day[nin]=2024-05-01,2024-06-01", '(t."day" <> ALL ($1::text[]::date[]))', (["2024-05-01", "2024-06-01"],)),
    (
        "token[nin]=6f9619ff-8b86-d011-b42d-00c04fc964ff,00000000-0000-0000-0000-000000000000",
        '(t."token" <> ALL ($1::text[]::uuid[]))',
        (["6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000000"],),
    ),
    ("status[nin]=ok,happy", '(t."status" <> ALL ($1::text[]::mood[]))', (["ok", "happy"],)),
    ("picture[nin]=aGk%3D,aG8%3D", '(t."picture" <> ALL ($1::bytea[]))', ([b"hi", b"ho"],)),
    ("address[nin]=10.0.0.1,::1", '(t."address" <> ALL ($1::text[]::inet[]))', (["10.0.0.1", "::1"],)),
    (
        "period[nin]=%5B2024-01-01\\,2024-02-01),empty",
        '(t."period" <> ALL ($1::text[]::daterange[]))',
        (["[2024-01-01,2024-02-01)", "empty"],),
    ),
    ("bits[nin]=0101,1", '(t."bits" <> ALL ($1::text[]::bit varying[]))', (["0101", "1"],)),
    ("name[like]=a%20lamp", '(t."name" LIKE $1::text)', ("a lamp",)),
    ("name[ilike]=a%20lamp", '(t."name" ILIKE $1::text)', ("a lamp",)),
    ("name[contains]=a%20lamp", '(t."name" LIKE $1::text)', ("%a lamp%",)),
    ("name[starts]=a%20lamp", '(t."name" LIKE $1::text)', ("a lamp%",)),
    ("name[ends]=a%20lamp", '(t."name" LIKE $1::text)', ("%a lamp",)),
    ("active[null]=true", '(t."active" IS NULL)', ()),
    ("price[null]=true", '(t."price" IS NULL)', ()),
    ("name[null]=true", '(t."name" IS NULL)', ()),
    ("day[null]=true", '(t."day" IS NULL)', ()),
    ("token[null]=true", '(t."token" IS NULL)', ()),
    ("status[null]=true", '(t."status" IS NULL)', ()),
    ("picture[null]=true", '(t."picture" IS NULL)', ()),
    ("address[null]=true", '(t."address" IS NULL)', ()),
    ("period[null]=true", '(t."period" IS NULL)', ()),
    ("bits[null]=true", '(t."bits" IS NULL)', ()),
    ("place[null]=true", '(t."place"::text IS NULL)', ()),
    ("doc[null]=true", """((t."doc" #>> '{}') IS NULL)""", ()),
    ("tags[null]=true", '(t."tags" IS NULL)', ()),
    ("price[between]=10.50,20", '(t."price" BETWEEN $1::text::numeric AND $2::text::numeric)', ("10.50", "20")),
    ("name[between]=a%20lamp,b", '(t."name" BETWEEN $1::text AND $2::text)', ("a lamp", "b")),
    ("day[between]=2024-05-01,2024-06-01", '(t."day" BETWEEN $1::text::date AND $2::text::date)', ("2024-05-01", "2024-06-01")),
    (
        "token[between]=6f9619ff-8b86-d011-b42d-00c04fc964ff,00000000-0000-0000-0000-000000000000",
        '(t."token" BETWEEN $1::text::uuid AND $2::text::uuid)',
        ("6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000000"),
    ),
    ("status[between]=ok,happy", '(t."status" BETWEEN $1::text::mood AND $2::text::mood)', ("ok", "happy")),
    ("picture[between]=aGk%3D,aG8%3D", '(t."picture" BETWEEN $1::bytea AND $2::bytea)', (b"hi", b"ho")),
    ("address[between]=10.0.0.1,::1", '(t."address" BETWEEN $1::text::inet AND $2::text::inet)', ("10.0.0.1", "::1")),
    (
        "period[between]=%5B2024-01-01\\,2024-02-01),empty",
        '(t."period" BETWEEN $1::text::daterange AND $2::text::daterange)',
        ("[2024-01-01,2024-02-01)", "empty"),
    ),
    ("bits[between]=0101,1", '(t."bits" BETWEEN $1::text::bit varying AND $2::text::bit varying)', ("0101", "1")),
    ("doc[has]=color", '(t."doc"::jsonb ? $1::text)', ("color",)),
    ("tags[has]=red", '(t."tags"::text[] @> ARRAY[$1::text])', ("red",)),
    ("doc[any]=color,size", '(t."doc"::jsonb ?| $1::text[])', (["color", "size"],)),
    ("tags[any]=red,blue", '(t."tags"::text[] && $1::text[]::text[])', (["red", "blue"],)),
    ("doc[all]=color,size", '(t."doc"::jsonb ?& $1::text[])', (["color", "size"],)),
    ("tags[all]=red,blue", '(t."tags"::text[] @> $1::text[]::text[])', (["red", "blue"],)),
    ("small=-32768", '(t."small" = $1::smallint)', (-32768,)),
    ("whole=7", '(t."whole" = $1::integer)', (7,)),
    ("ratio[gt]=1e-3", '(t."ratio" > $1::double precision)', (0.001,)),
    ("weight=0.5", '(t."weight" = $1::float8::real)', (0.5,)),
    ("code=abc", '(t."code" = $1::text::character varying)', ("abc",)),
    ("fixed[in]=abc,x", '(t."fixed" = ANY ($1::text[]::bpchar[]))', (["abc", "x"],)),
    (
        "made_at[gte]=2024-05-01T12:00:00+02:00",
        '(t."made_at" >= $1::text::timestamp with time zone)',
        ("2024-05-01T10:00:00+00:00",),
    ),
    (
        "made_at[gte]=2024-05-01T12:00:00%2B02:00",
        '(t."made_at" >= $1::text::timestamp with time zone)',
        ("2024-05-01T10:00:00+00:00",),
    ),
    (
        "made_at[lt]=2024-05-01t12:00:00.5z",
        '(t."made_at" < $1::text::timestamp with time zone)',
        ("2024-05-01T12:00:00.500000+00:00",),
    ),
    ("local_at=2024-05-01T12:00:00", '(t."local_at" = $1::text::timestamp without time zone)', ("2024-05-01T12:00:00",)),
    ("clock=12:30", '(t."clock" = $1::text::time without time zone)', ("12:30:00",)),
    ("clock_tz=12:30:00+02:00", '(t."clock_tz" = $1::text::time with time zone)', ("12:30:00+02:00",)),
    ("span[gt]=P1DT2H", '(t."span" > $1::text::interval)', ("P1DT2H",)),
    ("net=10.0.0.0/8", '(t."net" = $1::text::cidr)', ("10.0.0.0/8",)),
    ("mac=08:00:2b:01:02:03", '(t."mac" = $1::text::macaddr)', ("08:00:2b:01:02:03",)),
    ("words=a%20b", '(t."words" = $1::text::tsvector)', ("a b",)),
    ("scores=1,2,3", '(t."scores"::integer[] = $1::text[]::integer[])', (["1", "2", "3"],)),
    ("scores[has]=3", '(t."scores"::integer[] @> ARRAY[$1::integer])', (3,)),
    ("scores[any]=1,2", '(t."scores"::integer[] && $1::integer[])', ([1, 2],)),
    ("tags=a\\,b,c\\\\d", '(t."tags"::text[] = $1::text[]::text[])', (["a,b", "c\\d"],)),
    ("tags[has]=a,b", '(t."tags"::text[] @> ARRAY[$1::text])', ("a,b",)),
    ("name[contains]=50%25_off", '(t."name" LIKE $1::text)', ("%50\\%\\_off%",)),
    ("name[starts]=a\\b", '(t."name" LIKE $1::text)', ("a\\\\b%",)),
    ("name[like]=a%25b_c\\_", '(t."name" LIKE $1::text)', ("a%b_c\\_",)),
    ("name[in]=a\\,b,c\\\\,", '(t."name" = ANY ($1::text[]::text[]))', (["a,b", "c\\", ""],)),
    ("name=a+b%2Bc", '(t."name" = $1::text)', ("a b+c",)),
    ("name=", '(t."name" = $1::text)', ("",)),
    ("name[null]=false", '(t."name" IS NOT NULL)', ()),
    ("doc[null]=false", """((t."doc" #>> '{}') IS NOT NULL)""", ()),
    ("doc.color=red", '((t."doc" #>> $1::text[]) = $2::text)', (["color"], "red")),
    ("doc.size[ne]=10", '((t."doc" #>> $1::text[]) <> $2::text)', (["size"], "10")),
    (
        "doc.size[gt]=10",
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END > $2::text::numeric)",
        (["size"], "10"),
    ),
    ("doc.size[gte]=big", '((t."doc" #>> $1::text[]) >= $2::text)', (["size"], "big")),
    (
        "doc.size[lt]=1e3",
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END < $2::text::numeric)",
        (["size"], "1e3"),
    ),
    (
        "doc.size[lte]=-1.5",
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END <= $2::text::numeric)",
        (["size"], "-1.5"),
    ),
    ("doc.a.b[in]=1,2", '((t."doc" #>> $1::text[]) = ANY ($2::text[]::text[]))', (["a", "b"], ["1", "2"])),
    ("doc.a.0[nin]=x", '((t."doc" #>> $1::text[]) <> ALL ($2::text[]::text[]))', (["a", "0"], ["x"])),
    ("doc.color[like]=r%25", '((t."doc" #>> $1::text[]) LIKE $2::text)', (["color"], "r%")),
    ("doc.color[ilike]=R%25", '((t."doc" #>> $1::text[]) ILIKE $2::text)', (["color"], "R%")),
    ("doc.color[contains]=5", '((t."doc" #>> $1::text[]) LIKE $2::text)', (["color"], "%5%")),
    ("doc.color[starts]=r", '((t."doc" #>> $1::text[]) LIKE $2::text)', (["color"], "r%")),
    ("doc.color[ends]=d", '((t."doc" #>> $1::text[]) LIKE $2::text)', (["color"], "%d")),
    (
        "doc.size[between]=1,10",
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END BETWEEN $2::text::numeric AND $3::text::numeric)",
        (["size"], "1", "10"),
    ),
    ("doc.size[between]=a,10", '((t."doc" #>> $1::text[]) BETWEEN $2::text AND $3::text)', (["size"], "a", "10")),
    ("doc.color[null]=true", '((t."doc" #>> $1::text[]) IS NULL)', (["color"],)),
    ("doc.color[null]=false", '((t."doc" #>> $1::text[]) IS NOT NULL)', (["color"],)),
    (
        "raw.size[gt]=5",
        '(CASE WHEN json_typeof(t."raw" #> $1::text[]) = \'number\' THEN (t."raw" #>> $1::text[])::numeric '
        "END > $2::text::numeric)",
        (["size"], "5"),
    ),
    ("raw[has]=color", '(t."raw"::jsonb ? $1::text)', ("color",)),
    ("limit[eq]=3", '(t."limit" = $1::integer)', (3,)),
    ("page[eq]=x", '(t."page" = $1::text)', ("x",)),
    ("Select=x", '(t."Select" = $1::text)', ("x",)),
    ("a.b=x", '(t."a.b" = $1::text)', ("x",)),
    (
        "status=ok&price[gte]=10&price[lt]=20",
        '((t."status" = $1::text::mood) AND (t."price" >= $2::text::numeric) AND (t."price" < $3::text::numeric))',
        ("ok", "10", "20"),
    ),
    ('filter={"status":"ok"}', '(t."status" = $1::text::mood)', ("ok",)),
    (
        'filter={"or":[{"status":"ok"},{"price":{"gte":10}}]}',
        '((t."status" = $1::text::mood) OR (t."price" >= $2::text::numeric))',
        ("ok", "10"),
    ),
    (
        'filter={"and":[{"name":"a"},{"not":{"name":{"contains":"b"}}}]}',
        '((t."name" = $1::text) AND (NOT (t."name" LIKE $2::text)))',
        ("a", "%b%"),
    ),
    (
        'filter={"not":{"or":[{"active":true},{"whole":{"in":[1,2]}}]}}',
        '(NOT ((t."active" = $1::boolean) OR (t."whole" = ANY ($2::integer[]))))',
        (True, [1, 2]),
    ),
    (
        'filter={"price":{"gte":10,"lt":20}}',
        '((t."price" >= $1::text::numeric) AND (t."price" < $2::text::numeric))',
        ("10", "20"),
    ),
    (
        'filter={"doc.size":10}',
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END = $2::text::numeric)",
        (["size"], "10"),
    ),
    (
        'filter={"doc.size":{"in":[1,2.5]}}',
        '(CASE WHEN jsonb_typeof(t."doc" #> $1::text[]) = \'number\' THEN (t."doc" #>> $1::text[])::numeric '
        "END = ANY ($2::text[]::numeric[]))",
        (["size"], ["1", "2.5"]),
    ),
    ('filter={"doc.size":{"in":[1,"x"]}}', '((t."doc" #>> $1::text[]) = ANY ($2::text[]::text[]))', (["size"], ["1", "x"])),
    ('filter={"doc.on":true}', '((t."doc" #>> $1::text[]) = $2::text)', (["on"], "true")),
    ('filter={"doc.color":{"contains":5}}', '((t."doc" #>> $1::text[]) LIKE $2::text)', (["color"], "%5%")),
    ('filter={"tags":["a",null]}', '(t."tags"::text[] = $1::text[]::text[])', (["a", None],)),
    ('filter={"tags":{"any":["a"]}}', '(t."tags"::text[] && $1::text[]::text[])', (["a"],)),
    ('filter={"doc":{"has":"color"}}', '(t."doc"::jsonb ? $1::text)', ("color",)),
    ('filter={"id":"9007199254740993"}', '(t."id" = $1::bigint)', (9007199254740993,)),
    ('filter={"price":"0.10"}', '(t."price" = $1::text::numeric)', ("0.10",)),
]


def plan_of(query: str, found: Resource = EVERYTHING, grant: Grant = EVERY_RIGHT) -> ListPlan:
    return plan_list(found, parse_list(query.encode()), grant)


def where_of(sql: str) -> str:
    return sql.partition(" WHERE ")[2].partition(" ORDER BY ")[0]


@pytest.mark.parametrize(("query", "where", "values"), FILTERS, ids=[row[0] for row in FILTERS])
def test_a_query_string_becomes_sql_and_values(query: str, where: str, values: tuple[object, ...]) -> None:
    plan = plan_of(query)
    assert where_of(compile_list(plan.shape, EVERYTHING)) == where
    assert plan.values == values
    assert [type(value) for value in plan.values] == [type(value) for value in values]


def test_every_operator_is_in_a_row_for_each_of_its_families() -> None:
    exercised = set()
    for query, _, _ in FILTERS:
        for condition in parse_list(query.encode()).conditions:
            field = EVERYTHING.fields.get(condition.name)
            if field is not None:
                exercised.add((condition.operator, field.type.family))
    assert exercised >= {(operator.name, family) for family in Family for operator in operators_for(family)}


def test_every_path_operator_is_in_a_row() -> None:
    conditions = [condition for query, _, _ in FILTERS for condition in parse_list(query.encode()).conditions]
    exercised = {condition.operator for condition in conditions if condition.name.startswith("doc.")}
    assert exercised >= {operator.name for operator in path_operators()}


def test_every_family_has_a_field_in_the_sample() -> None:
    assert {field.type.family for field in EVERYTHING.fields.values()} == set(Family)


def test_no_row_lists_an_operator_twice_in_the_table() -> None:
    assert list(OPERATORS) == [operator.name for operator in OPERATORS.values()]


# --- whole statements --------------------------------------------------------------------------------------------------

BOOKS = resource(
    table(
        "books",
        [
            Column("id", BIGINT, nullable=False, filled=True),
            Column("title", TEXT, nullable=False),
            Column("pages", INTEGER, nullable=True),
            Column("facts", JSONB, nullable=True),
        ],
        schema="shop",
    ),
    "table: shop.books\nfields: {name: {column: title}, secret: {column: facts, hidden: true}}"
    "\nlist: {limit: {default: 5, max: 50}}",
)
STATE = "hash_record_extended(ROW(t.xmin, t.ctid), 0)"
COLUMNS = 't."id" AS "id", t."title" AS "name", t."pages" AS "pages"'
FROM = 'FROM "shop"."books" AS t'

LISTS: list[tuple[str, str, tuple[object, ...]]] = [
    ("", f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT 6) AS r', ()),
    ("limit=20", f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT $1::bigint) AS r', (21,)),
    ("limit=5", f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT 6) AS r', ()),
    (
        "page=3",
        f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT 6 OFFSET $1::bigint) AS r',
        (10,),
    ),
    ("page=1", f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT 6) AS r', ()),
    (
        "page=2&limit=10&name=x",
        f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} WHERE (t."title" = $1::text) ORDER BY t."id" '
        "LIMIT $2::bigint OFFSET $3::bigint) AS r",
        ("x", 11, 10),
    ),
    (
        "fields=name,id",
        f'SELECT row_to_json(r.*) FROM (SELECT t."title" AS "name", t."id" AS "id" {FROM} ORDER BY t."id" LIMIT 6) AS r',
        (),
    ),
    (
        "fields=name",
        'SELECT row_to_json(r.*), i.k FROM (SELECT t."title" AS c0, ARRAY[t."id"::text] AS k '
        f'{FROM} ORDER BY t."id" LIMIT 6) AS i CROSS JOIN LATERAL (SELECT i.c0 AS "name") AS r',
        (),
    ),
    (
        "count=exact&name=x",
        f'SELECT c.total, p.* FROM (SELECT count(*) AS total {FROM} WHERE (t."title" = $1::text)) AS c LEFT JOIN '
        f'(SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} WHERE (t."title" = $1::text) ORDER BY t."id" LIMIT 6) AS r) '
        "AS p ON true",
        ("x",),
    ),
    ("count=estimated", f'SELECT row_to_json(r.*) FROM (SELECT {COLUMNS} {FROM} ORDER BY t."id" LIMIT 6) AS r', ()),
]


@pytest.mark.parametrize(("query", "sql", "values"), LISTS, ids=[row[0] or "nothing" for row in LISTS])
def test_a_list_request_becomes_a_statement(query: str, sql: str, values: tuple[object, ...]) -> None:
    plan = plan_of(query, BOOKS)
    assert compile_list(plan.shape, BOOKS) == sql
    assert plan.values == values


ORDERS: list[tuple[str, str]] = [
    ("name", 't."title", t."id"'),
    ("-name", 't."title" DESC, t."id" DESC'),
    ("pages", 't."pages", t."id"'),
    ("-pages", 't."pages" DESC, t."id" DESC'),
    ("pages:nullslast", 't."pages", t."id"'),
    ("pages:nullsfirst", 't."pages" NULLS FIRST, t."id"'),
    ("-pages:nullslast", 't."pages" DESC NULLS LAST, t."id" DESC'),
    ("-pages:nullsfirst", 't."pages" DESC, t."id" DESC'),
    ("name:nullsfirst", 't."title", t."id"'),
    ("-id", 't."id" DESC'),
    ("name,-id", 't."title", t."id" DESC'),
    ("-pages,name", 't."pages" DESC, t."title", t."id"'),
]


@pytest.mark.parametrize(("sort", "order"), ORDERS)
def test_a_sort_becomes_an_order_with_the_key_last(sort: str, order: str) -> None:
    sql = compile_list(plan_of(f"sort={sort}", BOOKS).shape, BOOKS)
    assert sql.partition(" ORDER BY ")[2].partition(" LIMIT ")[0] == order


def test_an_estimate_explains_the_filter_alone() -> None:
    plan = plan_of("count=estimated&name=x&page=2&limit=7", BOOKS)
    assert compile_estimate(plan.shape.where, BOOKS) == f'EXPLAIN (FORMAT JSON) SELECT {FROM} WHERE (t."title" = $1::text)'
    assert filter_values(plan) == ("x",)
    assert compile_estimate(None, BOOKS) == f"EXPLAIN (FORMAT JSON) SELECT {FROM}"


def test_a_grants_rule_is_joined_to_what_the_caller_asks() -> None:
    from_rule = plan_of("pages=7", BOOKS)
    assert from_rule.shape.where is not None
    grant = Grant("own", rows=Bound(from_rule.shape.where, from_rule.values))
    plan = plan_of("name=x", BOOKS, grant)
    assert where_of(compile_list(plan.shape, BOOKS)) == '((t."title" = $1::text) AND (t."pages" = $2::integer))'
    assert plan.values == ("x", 7)
    assert where_of(compile_list(plan_of("", BOOKS, grant).shape, BOOKS)) == '(t."pages" = $1::integer)'


def test_one_row_is_read_by_its_key() -> None:
    plan = plan_get(BOOKS, ("42",), {})
    assert row_sql(plan, BOOKS) == (
        f'SELECT row_to_json(r.*), {STATE} {FROM} CROSS JOIN LATERAL (SELECT {COLUMNS}) AS r WHERE t."id" = $1::bigint'
    )
    assert plan.values == (42,)


def test_a_create_inserts_the_fields_that_were_sent() -> None:
    plan = plan_create(BOOKS, b'{"pages": 3, "name": "x"}')
    assert row_sql(plan, BOOKS) == (
        'WITH w AS (INSERT INTO "shop"."books" AS t ("title", "pages") VALUES ($1::text, $2::integer) '
        f"RETURNING t.*, {STATE} AS xmin) "
        'SELECT row_to_json(r.*), i.v, i.k FROM (SELECT t."id" AS c0, t."title" AS c1, t."pages" AS c2, t.xmin AS v, '
        'json_build_array(t."id") AS k FROM w AS t) AS i '
        'CROSS JOIN LATERAL (SELECT i.c0 AS "id", i.c1 AS "name", i.c2 AS "pages") AS r'
    )
    assert plan.values == ("x", 3)


def test_a_patch_updates_the_row_of_its_key() -> None:
    plan = plan_patch(BOOKS, ("42",), b'{"pages": null}', merge=False)
    assert row_sql(plan, BOOKS) == (
        'WITH w AS (UPDATE "shop"."books" AS t SET "pages" = $1::integer WHERE t."id" = $2::bigint '
        f"RETURNING t.*, {STATE} AS xmin) "
        'SELECT row_to_json(r.*), i.v FROM (SELECT t."id" AS c0, t."title" AS c1, t."pages" AS c2, t.xmin AS v '
        'FROM w AS t) AS i CROSS JOIN LATERAL (SELECT i.c0 AS "id", i.c1 AS "name", i.c2 AS "pages") AS r'
    )
    assert plan.values == (None, 42)


def test_a_condition_on_the_rows_state_is_part_of_the_statement() -> None:
    patch = plan_patch(BOOKS, ("42",), b'{"pages": 1}', merge=False, states=(7, -8))
    condition = f'WHERE t."id" = ${{key}}::bigint AND {STATE} = ANY (${{states}}::bigint[]) RETURNING'
    assert condition.format(key=2, states=3) in row_sql(patch, BOOKS)
    assert patch.values == (1, 42, [7, -8])
    delete = plan_delete(BOOKS, ("42",), states=())
    assert condition.format(key=1, states=2) in row_sql(delete, BOOKS)
    assert delete.values == (42, [])


def test_a_version_column_tells_the_state_in_place_of_the_database() -> None:
    versioned = msgspec.structs.replace(BOOKS, version_field="pages")
    assert 'hash_record_extended(ROW(t."pages"), 0)' in row_sql(plan_get(versioned, ("42",), {}), versioned)


def test_of_a_view_nothing_tells_the_state() -> None:
    view = msgspec.structs.replace(BOOKS, table=msgspec.structs.replace(BOOKS.table, is_view=True, versioning="none"))
    assert "SELECT row_to_json(r.*), 0::bigint FROM" in row_sql(plan_get(view, ("42",), {}), view)


def test_a_delete_tells_that_there_was_a_row() -> None:
    plan = plan_delete(BOOKS, ("42",))
    assert row_sql(plan, BOOKS) == 'DELETE FROM "shop"."books" AS t WHERE t."id" = $1::bigint RETURNING 1'
    assert plan.values == (42,)


BARE = resource(table("bare", [Column("id", BIGINT, nullable=False, filled=True)]))
SHARING_BARE = msgspec.structs.replace(BARE, table=msgspec.structs.replace(BARE.table, inserts_together=True))
SHARING = msgspec.structs.replace(BOOKS, table=msgspec.structs.replace(BOOKS.table, inserts_together=True))


def test_creates_that_share_a_statement_are_told_apart_by_the_statement_itself() -> None:
    plan = plan_create(SHARING, b'{"pages": 3, "name": "x"}')
    assert compile_together(plan.shape, SHARING) == (
        'WITH w AS (MERGE INTO "shop"."books" AS t '
        "USING (SELECT q.* FROM unnest($1::text::text[], $2::text::text[]) WITH ORDINALITY AS q(v1, v2, n) "
        "WHERE (SELECT set_config('lock_timeout', '50', true)) IS NOT NULL) AS q ON false "
        'WHEN NOT MATCHED THEN INSERT ("title", "pages") VALUES (q.v1::text, q.v2::integer) '
        f"RETURNING t.*, {STATE} AS xmin, q.n AS cmin) "
        'SELECT row_to_json(r.*), i.v, i.k, i.n FROM (SELECT t."id" AS c0, t."title" AS c1, t."pages" AS c2, t.xmin AS v, '
        'json_build_array(t."id") AS k, t.cmin AS n FROM w AS t) AS i '
        'CROSS JOIN LATERAL (SELECT i.c0 AS "id", i.c1 AS "name", i.c2 AS "pages") AS r'
    )


@pytest.mark.parametrize(
    ("resource", "grant", "body"),
    [
        (BOOKS, EVERY_RIGHT, b'{"name": "x"}'),
        (SHARING_BARE, EVERY_RIGHT, b"{}"),
        (SHARING, Grant(rows=Bound(Comparison("pages", "eq"), (1,))), b'{"name": "x"}'),
        (SHARING, Grant(seen_rows=Bound(Comparison("pages", "eq"), (1,))), b'{"name": "x"}'),
    ],
    ids=["a table that does not take several", "nothing sent", "to be checked", "shown to some"],
)
def test_some_creates_go_by_themselves(resource: Resource, grant: Grant, body: bytes) -> None:
    assert compile_together(plan_create(resource, body, grant).shape, resource) == ""


def test_an_empty_create_leaves_every_column_to_its_default() -> None:
    plan = plan_create(BARE, b"{}")
    assert 'INSERT INTO "public"."bare" AS t DEFAULT VALUES RETURNING t.*, ' in row_sql(plan, BARE)
    assert plan.values == ()


def test_values_leave_in_their_json_forms() -> None:
    sql = compile_list(plan_of("fields=price,picture,tags,span,made_at,id").shape, EVERYTHING)
    assert 't."price"::text AS "price"' in sql
    assert """translate(encode(t."picture", 'base64'), E'\\n', '') AS "picture\"""" in sql
    assert 't."tags" AS "tags", t."span"::text AS "span"' in sql
    assert 't."made_at" AS "made_at", t."id" AS "id"' in sql


def test_a_merge_patch_sets_drops_and_goes_into_objects() -> None:
    docs = resource(table("docs", [Column("id", BIGINT, nullable=False), Column("doc", JSONB, nullable=True)]))
    plan = plan_patch(docs, ("1",), b'{"doc": {"a": 1, "b": null, "c": {"d": 2}}}', merge=True)
    whole = "CASE WHEN jsonb_typeof({x}) = 'object' THEN {x} ELSE '{{}}'::jsonb END"
    outer, inner = whole.format(x='t."doc"::jsonb'), whole.format(x='(t."doc"::jsonb -> $3::text)')
    assert row_sql(plan, docs).partition(" SET ")[2].partition(" WHERE ")[0] == (
        f'"doc" = ((({outer}) - $1::text[]) || $2::text::jsonb || jsonb_build_object($3::text, '
        f"(({inner}) - $4::text[]) || $5::text::jsonb))::jsonb"
    )
    assert plan.values == (["b"], '{"a":1}', "c", [], '{"d":2}', 1)


# --- keyset ------------------------------------------------------------------------------------------------------------


def after(
    sort: str, values: tuple[str | None, ...], backward: bool = False, found: Resource = BOOKS
) -> tuple[str, tuple[object, ...]]:
    """The keyset condition of a request that brings a cursor with `values` back, and the statement's values."""
    first = plan_of(f"sort={sort}", found)
    cursor = encode_cursor(Cursor(first.fingerprint, backward, values))
    plan = plan_of(f"sort={sort}&cursor={cursor}", found)
    assert plan.page is None
    return where_of(compile_list(plan.shape, found)), plan.values


KEYSETS: list[tuple[str, bool, tuple[str | None, ...], str]] = [
    ("id", False, ("7",), '((t."id") > ($1::text::bigint))'),
    ("id", True, ("7",), '((t."id") < ($1::text::bigint))'),
    ("-id", False, ("7",), '((t."id") < ($1::text::bigint))'),
    ("-id", True, ("7",), '((t."id") > ($1::text::bigint))'),
    ("name", False, ("x", "7"), '((t."title", t."id") > ($1::text::text, $2::text::bigint))'),
    ("name", True, ("x", "7"), '((t."title", t."id") < ($1::text::text, $2::text::bigint))'),
    ("-name", False, ("x", "7"), '((t."title", t."id") < ($1::text::text, $2::text::bigint))'),
    ("-name", True, ("x", "7"), '((t."title", t."id") > ($1::text::text, $2::text::bigint))'),
    (
        "name,-id",
        False,
        ("x", "7"),
        '(t."title" >= $1::text::text AND ((t."title" > $1::text::text) '
        'OR (t."title" = $1::text::text AND t."id" < $2::text::bigint)))',
    ),
    (
        "name,-id",
        True,
        ("x", "7"),
        '(t."title" <= $1::text::text AND ((t."title" < $1::text::text) '
        'OR (t."title" = $1::text::text AND t."id" > $2::text::bigint)))',
    ),
    (
        "-name,id",
        False,
        ("x", "7"),
        '(t."title" <= $1::text::text AND ((t."title" < $1::text::text) '
        'OR (t."title" = $1::text::text AND t."id" > $2::text::bigint)))',
    ),
    (
        "-name,id",
        True,
        ("x", "7"),
        '(t."title" >= $1::text::text AND ((t."title" > $1::text::text) '
        'OR (t."title" = $1::text::text AND t."id" < $2::text::bigint)))',
    ),
    (
        "pages:nullsfirst",
        False,
        ("3", "7"),
        '(t."pages" >= $1::text::integer AND ((t."pages" > $1::text::integer) '
        'OR (t."pages" = $1::text::integer AND t."id" > $2::text::bigint)))',
    ),
    (
        "pages:nullsfirst",
        True,
        ("3", "7"),
        '((((t."pages" < $1::text::integer OR t."pages" IS NULL)) '
        'OR (t."pages" = $1::text::integer AND t."id" < $2::text::bigint)))',
    ),
    ("pages:nullsfirst", False, (None, "7"), '(((t."pages" IS NOT NULL) OR (t."pages" IS NULL AND t."id" > $1::text::bigint)))'),
    ("pages:nullsfirst", True, (None, "7"), '(((t."pages" IS NULL AND t."id" < $1::text::bigint)))'),
    (
        "pages:nullslast",
        False,
        ("3", "7"),
        '((((t."pages" > $1::text::integer OR t."pages" IS NULL)) '
        'OR (t."pages" = $1::text::integer AND t."id" > $2::text::bigint)))',
    ),
    (
        "pages:nullslast",
        True,
        ("3", "7"),
        '(t."pages" <= $1::text::integer AND ((t."pages" < $1::text::integer) '
        'OR (t."pages" = $1::text::integer AND t."id" < $2::text::bigint)))',
    ),
    ("pages:nullslast", False, (None, "7"), '(((t."pages" IS NULL AND t."id" > $1::text::bigint)))'),
    ("pages:nullslast", True, (None, "7"), '(((t."pages" IS NOT NULL) OR (t."pages" IS NULL AND t."id" < $1::text::bigint)))'),
    (
        "-pages:nullsfirst",
        False,
        ("3", "7"),
        '(t."pages" <= $1::text::integer AND ((t."pages" < $1::text::integer) '
        'OR (t."pages" = $1::text::integer AND t."id" < $2::text::bigint)))',
    ),
    (
        "-pages:nullsfirst",
        True,
        ("3", "7"),
        '((((t."pages" > $1::text::integer OR t."pages" IS NULL)) '
        'OR (t."pages" = $1::text::integer AND t."id" > $2::text::bigint)))',
    ),
    ("-pages:nullsfirst", False, (None, "7"), '(((t."pages" IS NOT NULL) OR (t."pages" IS NULL AND t."id" < $1::text::bigint)))'),
    ("-pages:nullsfirst", True, (None, "7"), '(((t."pages" IS NULL AND t."id" > $1::text::bigint)))'),
    (
        "-pages:nullslast",
        False,
        ("3", "7"),
        '((((t."pages" < $1::text::integer OR t."pages" IS NULL)) '
        'OR (t."pages" = $1::text::integer AND t."id" < $2::text::bigint)))',
    ),
    (
        "-pages:nullslast",
        True,
        ("3", "7"),
        '(t."pages" >= $1::text::integer AND ((t."pages" > $1::text::integer) '
        'OR (t."pages" = $1::text::integer AND t."id" > $2::text::bigint)))',
    ),
    ("-pages:nullslast", False, (None, "7"), '(((t."pages" IS NULL AND t."id" < $1::text::bigint)))'),
    ("-pages:nullslast", True, (None, "7"), '(((t."pages" IS NOT NULL) OR (t."pages" IS NULL AND t."id" > $1::text::bigint)))'),
]


@pytest.mark.parametrize(("sort", "backward", "values", "where"), KEYSETS)
def test_a_cursor_becomes_a_keyset_condition(sort: str, backward: bool, values: tuple[str | None, ...], where: str) -> None:
    assert after(sort, values, backward) == (where, tuple(value for value in values if value is not None))


def test_every_direction_and_nulls_order_is_in_a_keyset_row() -> None:
    rows = {(sort, backward, values[0] is None) for sort, backward, values, _ in KEYSETS if "pages" in sort}
    sorts = [f"{direction}pages:{nulls}" for direction, nulls in product(("", "-"), ("nullsfirst", "nullslast"))]
    assert rows == set(product(sorts, (False, True), (False, True)))


def test_reading_backwards_turns_the_order_round() -> None:
    first = plan_of("sort=-pages:nullslast", BOOKS)
    cursor = encode_cursor(Cursor(first.fingerprint, True, ("3", "7")))
    plan = plan_of(f"sort=-pages:nullslast&cursor={cursor}", BOOKS)
    order = compile_list(plan.shape, BOOKS).partition(" ORDER BY ")[2].partition(" LIMIT ")[0]
    assert order == 't."pages" NULLS FIRST, t."id"'


def test_nothing_is_behind_the_last_null_of_the_only_key() -> None:
    view = resource(
        table("shelves", [Column("id", BIGINT, nullable=True)], primary_key=(), is_view=True), "key: id\nlist: {sort: [id]}"
    )
    assert after("id", (None,), found=view) == ("(false)", ())


def test_the_sort_keys_come_beside_where_the_rows_json_cannot_give_them_back() -> None:
    assert not plan_of("sort=price,made_at,token,status,active,address").shape.keys_beside
    for sort in ("picture", "period", "bits", "tags", "words"):
        assert plan_of(f"sort={sort}").shape.keys_beside, sort
    assert plan_of("sort=price&fields=id").shape.keys_beside


# --- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a"b', "select", "a b", "Ünï", "x;--", "$1", "%s", "a'b", "{x}", "\\"])
def test_an_identifier_is_always_quoted(name: str) -> None:
    assert quote(name) == '"' + name.replace('"', '""') + '"'


def test_odd_names_stand_quoted_in_every_statement() -> None:
    odd = resource(
        table(
            'we"ird',
            [Column("the id", BIGINT, nullable=False), Column("{x} %s $1", TEXT, nullable=True)],
            ("the id",),
            schema="S",
        ),
        "table: 'S.we\"ird'",
        name="odd",
    )
    listed = compile_list(plan_of("{x}%20%25s%20$1[contains]=y&sort=-{x}%20%25s%20$1", odd).shape, odd)
    assert listed == (
        'SELECT row_to_json(r.*) FROM (SELECT t."the id" AS "the id", t."{x} %s $1" AS "{x} %s $1" FROM "S"."we""ird" AS t '
        'WHERE (t."{x} %s $1" LIKE $1::text) ORDER BY t."{x} %s $1" DESC, t."the id" DESC LIMIT 21) AS r'
    )
