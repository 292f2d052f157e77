"""Pages by cursor, joined, are the whole list: ties, nulls, every type, mixed directions, forwards and backwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.pipeline import Page
from gateway.query.ast import ListRequest
from gateway.query.syntax.brackets import parse_list
from tests.conftest import throwaway_database
from tests.examples import examples
from tests.journeys.value_models import DEFINITIONS, LABELS, MODELS, Bench, bench, things
from tests.serving import settings_for, write_resources

pytestmark = pytest.mark.xdist_group("cursor pages")

THINGS = things(count=23, seed=9, null_share=0.3)
PAIRS = [
    {"a": a, "b": b, "words": words, "exact": exact, "mood": mood, "instant": None, "bytes": None}
    for place, (a, b) in enumerate((a, b) for a in ("", "a", "b", "a,b") for b in ("-1", "0", "1.50", "NaN"))
    for words, exact, mood in [(("x", None, "y")[place % 3], ("1.0", "2", None, "NaN")[place % 4], (None, *LABELS)[place % 2])]
]
SORTABLE = [name for name, model in MODELS.items() if name not in ("doc", "docb", "place", "pair", "places")]
SORTABLE_PAIRS = ["words", "exact", "mood", "a", "b", "instant"]
PROFILE = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def rows_of(page: Page) -> list[Any]:
    rows: list[Any] = json.loads(b"[%b]" % page.data)
    assert len(rows) == page.length
    return rows


CONDITIONS: list[dict[str, str]] = [
    {},
    {"words[null]": "false"},
    {"id[gt]": "15"},
    {"id[lt]": "1"},
    {"whole[gte]": "0", "mood[null]": "true"},
]
IN_SQL = {
    "words[null]": "words IS NOT NULL",
    "id[gt]": "id > 15",
    "id[lt]": "id < 1",
    "whole[gte]": "whole >= 0",
    "mood[null]": "mood IS NULL",
}


class Term(NamedTuple):
    """One term of a sort; `nulls` is "" for PostgreSQL's own rule."""

    field: str
    descending: bool = False
    nulls: str = ""

    @property
    def parameter(self) -> str:
        return ("-" if self.descending else "") + self.field + (f":{self.nulls}" if self.nulls else "")

    @property
    def sql(self) -> str:
        nulls = {"": "", "nullsfirst": " NULLS FIRST", "nullslast": " NULLS LAST"}[self.nulls]
        return f"t.{self.field}{' DESC' if self.descending else ''}{nulls}"


def terms(names: list[str], key: list[str]) -> st.SearchStrategy[list[Term]]:
    one = st.builds(Term, st.sampled_from(names + key), st.booleans(), st.sampled_from(["", "", "nullsfirst", "nullslast"]))
    return st.lists(one, max_size=3, unique_by=lambda term: term.field)


@pytest.fixture(scope="module")
def served(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = write_resources(tmp_path_factory.mktemp("resources"), DEFINITIONS)
    with throwaway_database(postgres_url) as url, bench(settings_for(url, directory), url) as made:
        made.insert("things", THINGS)
        made.insert("pairs", PAIRS)
        yield made


def in_order(served: Bench, table: str, key: list[str], sort: list[Term], where: str) -> list[tuple[Any, ...]]:
    """The keys in the order in which PostgreSQL itself puts the rows; the key follows in the last term's direction."""
    descending = bool(sort) and sort[-1].descending
    named = {term.field for term in sort}
    order = [term.sql for term in sort] + [Term(name, descending).sql for name in key if name not in named]
    shown = ", ".join(f"t.{name}::text" for name in key)
    rows = served.execute(f"SELECT {shown} FROM {table} AS t WHERE {where} ORDER BY {', '.join(order)}")
    return [tuple(row) for row in rows]


def listed(served: Bench, table: str, **parameters: Any) -> Page:
    return served.page(table, parse_list(urlencode({name: value for name, value in parameters.items() if value}).encode()))


def keys(page: Page, key: list[str]) -> list[tuple[Any, ...]]:
    rows = rows_of(page)
    return [tuple(str(row[name]) for name in key) for row in rows]


def check_walk(served: Bench, table: str, key: list[str], whole: list[tuple[Any, ...]], parameters: dict[str, Any]) -> None:
    """There by `next_cursor`, back by `prev_cursor`, and there again from the middle."""
    pages = [listed(served, table, **parameters)]
    while pages[-1].next_cursor is not None:
        assert pages[-1].has_more
        assert len(pages) <= len(whole)
        pages.append(listed(served, table, **parameters, cursor=pages[-1].next_cursor))
    assert not pages[-1].has_more
    assert [row for page in pages for row in keys(page, key)] == whole
    assert {page.total for page in pages} == {len(whole) if parameters.get("count") else None}
    assert pages[0].prev_cursor is None
    back = pages[-1]
    for earlier in reversed(pages[:-1]):
        assert back.prev_cursor is not None
        back = listed(served, table, **parameters, cursor=back.prev_cursor)
        assert back.data == earlier.data
        assert back.has_more
        assert back.total == earlier.total
        there = listed(served, table, **parameters, cursor=back.next_cursor)
        assert (
            keys(there, key)
            == whole[len(whole) - sum(page.length for page in pages[pages.index(earlier) + 1 :]) :][: there.limit]
        )
    assert back.prev_cursor is None


@example(sort=[Term("words", True, "nullslast")], limit=1, shown="", condition={}, count="exact")
@example(sort=[Term("exact"), Term("fine", True)], limit=2, shown="id,words", condition={}, count="")
@settings(PROFILE, max_examples=examples(50))
@given(
    sort=terms(SORTABLE, ["id"]),
    limit=st.integers(1, 7),
    shown=st.sampled_from(["", "id", "id,words,docb"]),
    condition=st.sampled_from(CONDITIONS),
    count=st.sampled_from(["", "", "exact"]),
)
def test_pages_joined_are_the_whole_list(
    served: Bench, sort: list[Term], limit: int, shown: str, condition: dict[str, str], count: str
) -> None:
    where = " AND ".join(["true", *(IN_SQL[name] for name in condition)])
    whole = in_order(served, "things", ["id"], sort, where)
    parameters = {"sort": ",".join(term.parameter for term in sort), "limit": limit, "fields": shown, "count": count, **condition}
    check_walk(served, "things", ["id"], whole, parameters)


@pytest.mark.parametrize("field", SORTABLE)
def test_every_type_pages_in_both_directions(served: Bench, field: str) -> None:
    for term in (Term(field), Term(field, True, "nullslast")):
        whole = in_order(served, "things", ["id"], [term], "true")
        check_walk(served, "things", ["id"], whole, {"sort": term.parameter, "limit": 7, "fields": "id" if term.nulls else ""})


@pytest.mark.parametrize("field", [name for name, model in MODELS.items() if name in SORTABLE and model.element is None])
def test_the_order_is_that_of_the_model_in_python(served: Bench, field: str) -> None:
    key = MODELS[field].key
    rows = rows_of(served.page("things", ListRequest(sort=field)))
    present = [key(row[field]) for row in rows if row[field] is not None]
    assert [row[field] for row in rows[len(present) :]] == [None] * (len(rows) - len(present))
    assert not any(two < one for one, two in pairwise(present))


@settings(PROFILE, max_examples=examples(30))
@given(sort=terms(SORTABLE_PAIRS, []), limit=st.integers(1, 7), shown=st.sampled_from(["", "a,b"]))
def test_pages_of_a_composite_key_joined_are_the_whole_list(served: Bench, sort: list[Term], limit: int, shown: str) -> None:
    whole = in_order(served, "pairs", ["b", "a"], sort, "true")
    parameters = {"sort": ",".join(term.parameter for term in sort), "limit": limit, "fields": shown}
    check_walk(served, "pairs", ["b", "a"], whole, parameters)


# --- while rows come and go --------------------------------------------------------------------------------------------

KEYS = [{"a": a, "b": b} for a in ("", "a", "b", "😀") for b in ("-1", "0", "1")]
CHANGE = st.tuples(st.sampled_from(["insert", "delete"]), st.sampled_from(range(len(KEYS))), st.sampled_from([None, "x", "y"]))


@settings(PROFILE, max_examples=examples(40))
@given(
    sort=terms(["words", "a", "b"], []),
    limit=st.integers(1, 4),
    present=st.sets(st.sampled_from(range(len(KEYS)))),
    changes=st.lists(st.lists(CHANGE, max_size=3), max_size=8),
    backwards=st.booleans(),
)
def test_no_surviving_row_is_lost_or_doubled_while_others_come_and_go(
    served: Bench,
    sort: list[Term],
    limit: int,
    present: set[int],
    changes: list[list[tuple[str, int, str | None]]],
    backwards: bool,
) -> None:
    served.execute("TRUNCATE moving")
    rows = {number: ("x", "y", None)[number % 3] for number in present}
    for number, words in rows.items():
        served.execute("INSERT INTO moving (a, b, words) VALUES ($1, $2::text::numeric, $3)", *KEYS[number].values(), words)
    surviving = set(rows)
    seen: list[tuple[str, str]] = []
    parameters: dict[str, Any] = {"sort": ",".join(term.parameter for term in sort), "limit": limit}
    page = listed(served, "moving", **parameters)
    if backwards:
        while page.next_cursor:
            page = listed(served, "moving", **parameters, cursor=page.next_cursor)
    planned = iter(changes)
    while True:
        found = [(row["a"], row["b"]) for row in rows_of(page)]
        seen = [*found, *seen] if backwards else [*seen, *found]
        for change, number, words in next(planned, []):
            if change == "delete":
                served.execute("DELETE FROM moving WHERE a = $1 AND b = $2::text::numeric", *KEYS[number].values())
                surviving.discard(number)
            elif number not in rows:
                served.execute(
                    "INSERT INTO moving (a, b, words) VALUES ($1, $2::text::numeric, $3) ON CONFLICT DO NOTHING",
                    *KEYS[number].values(),
                    words,
                )
        cursor = page.prev_cursor if backwards else page.next_cursor
        if cursor is None:
            break
        page = listed(served, "moving", **parameters, cursor=cursor)
    lasting = [(key["a"], key["b"]) for number, key in enumerate(KEYS) if number in surviving]
    assert all(seen.count(key) == 1 for key in lasting)
    final = in_order(served, "moving", ["b", "a"], sort, "true")
    assert [key for key in seen if key in lasting] == [(a, b) for b, a in final if (a, b) in lasting]
