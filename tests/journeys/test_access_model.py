"""Random access rules and random requests, against a model in plain Python that never saw the gateway's code.

Each run has an `access` part of its own: roles in any order, row rules with logic, nulls, JSON paths and claims, field lists
and `set`. Callers of every kind, tokens and all, then read and write as they please. Rows, fields, refusals and what the
database holds must be those of the model.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.app import Gateway, assemble
from tests.conftest import throwaway_database
from tests.examples import examples
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, issuer, public, token
from tests.journeys.answers import JSON, MERGE, check_answer, log_without_faults
from tests.serving import settings_for, write_resources

pytestmark = pytest.mark.xdist_group("access model")

STEPS = 50

SQL = """
    CREATE TABLE notes (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        owner text NOT NULL,
        n integer NOT NULL,
        org integer,
        shared boolean NOT NULL DEFAULT false,
        code text COLLATE "C" UNIQUE,
        status text NOT NULL DEFAULT 'draft',
        doc jsonb,
        secret text,
        UNIQUE (owner, n)
    )
"""
DEFAULTS: dict[str, Any] = {
    "owner": None, "n": None, "org": None, "shared": False, "code": None, "status": "draft", "doc": None, "secret": None,
}  # fmt: skip
REQUIRED = ("owner", "n")
NOT_NULL = ("owner", "n", "shared", "status")
VISIBLE = ("id", "owner", "n", "org", "shared", "code", "status", "doc")
SENDABLE = VISIBLE[1:]
SORTABLE = VISIBLE[:-1]

Row = dict[str, Any]
Rules = dict[str, Any]
Truth = bool | None


# --- the model: three-valued logic ---------------------------------------------------------------------------------------


def all_of(truths: list[Truth]) -> Truth:
    return False if False in truths else None if None in truths else True


def any_of(truths: list[Truth]) -> Truth:
    return True if True in truths else None if None in truths else False


def negation(truth: Truth) -> Truth:
    return None if truth is None else not truth


def holds(conditions: Rules, row: Row) -> Truth:
    """What a filter without claims says of a row: None is SQL's unknown, which shows and admits nothing."""
    found: list[Truth] = []
    for name, member in conditions.items():
        if name in ("and", "or"):
            found.append((all_of if name == "and" else any_of)([holds(each, row) for each in member]))
        elif name == "not":
            found.append(negation(holds(member, row)))
        else:
            operators = member if isinstance(member, dict) else {"eq": member}
            found += [compared(row, name, operator, operand) for operator, operand in operators.items()]
    return all_of(found)


def compared(row: Row, name: str, operator: str, operand: Any) -> Truth:
    column, _, path = name.partition(".")
    value = row[column]
    if path:
        value = on_path(value, path, operand)
    if operator == "null":
        return bool((value is None) == operand)
    if operand == []:  # a claim's: of nothing at all, nulls are not either
        return operator == "nin"
    return None if value is None else OPERATIONS[operator](value, operand)


def on_path(doc: Any, path: str, operand: Any) -> Any:
    """What `#>>` reads; for a comparison with numbers the number that is there, or null."""
    value = doc.get(path) if isinstance(doc, dict) else None
    operands = operand if isinstance(operand, list) else [operand]
    if all(isinstance(each, int) and not isinstance(each, bool) for each in operands):
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def like(value: str, pattern: str, flags: int = 0) -> bool:
    parts = {"%": ".*", "_": "."}
    return re.fullmatch("".join(parts.get(each, re.escape(each)) for each in pattern), value, re.DOTALL | flags) is not None


OPERATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, operand: value == operand,
    "ne": lambda value, operand: value != operand,
    "gt": lambda value, operand: value > operand,
    "gte": lambda value, operand: value >= operand,
    "lt": lambda value, operand: value < operand,
    "lte": lambda value, operand: value <= operand,
    "in": lambda value, operand: value in operand,
    "nin": lambda value, operand: value not in operand,
    "between": lambda value, operand: operand[0] <= value <= operand[1],
    "like": like,
    "ilike": lambda value, operand: like(value, operand, re.IGNORECASE),
    "same": lambda value, operand: value.lower() == operand.lower(),
    "contains": lambda value, operand: operand in value,
    "starts": lambda value, operand: value.startswith(operand),
    "ends": lambda value, operand: value.endswith(operand),
    "has": lambda value, operand: operand in value,
}


# --- the model: callers and their grants ---------------------------------------------------------------------------------


class Refused(Exception):
    """The status of a refusal."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Denied(Exception):
    """A claim is missing, or does not fit."""


class Person(msgspec.Struct, frozen=True):
    """Who calls; `sub` None is nobody."""

    sub: str | None
    roles: tuple[str, ...] = ()
    claims: tuple[tuple[str, Any], ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        if self.sub is None:
            return {}
        made = token(EC, sub=self.sub, roles=list(self.roles), **{name: decoded(value) for name, value in self.claims})
        return {"authorization": f"Bearer {made.decode()}"}

    def claim(self, name: str) -> Any:
        if self.sub is None:
            raise Denied
        value = self.sub if name == "$sub" else decoded(dict(self.claims).get(name.removeprefix("$claims."), "null"))
        if value is None:
            raise Denied
        return value


def decoded(text: str) -> Any:
    return json.loads(text)


def as_text(claim: Any) -> str:
    if not isinstance(claim, str):
        raise Denied
    return claim


def as_integer(claim: Any) -> int:
    if isinstance(claim, str) and re.fullmatch("-?[0-9]+", claim):
        return int(claim)
    if isinstance(claim, int) and not isinstance(claim, bool):
        return claim
    raise Denied


def as_boolean(claim: Any) -> bool:
    found = {"true": True, "false": False}.get(claim) if isinstance(claim, str) else claim
    if not isinstance(found, bool):
        raise Denied
    return found


KINDS: dict[str, Callable[[Any], Any]] = {"n": as_integer, "org": as_integer, "shared": as_boolean}


def typed(name: str, claim: Any) -> Any:
    """A claim as the field takes it. Raises Denied."""
    return KINDS[name](claim) if name in KINDS else as_text(claim)


def is_claim(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def with_claims(conditions: Rules, person: Person) -> Rules:
    """The rule with the person's claims in it. Raises Denied."""
    found: Rules = {}
    for name, member in conditions.items():
        if name in ("and", "or"):
            found[name] = [with_claims(each, person) for each in member]
        elif name == "not":
            found[name] = with_claims(member, person)
        else:
            operators = member if isinstance(member, dict) else {"eq": member}
            found[name] = dict(claimed(name, operator, operand, person) for operator, operand in operators.items())
    return found


def claimed(name: str, operator: str, operand: Any, person: Person) -> tuple[str, Any]:
    if isinstance(operand, list):
        return operator, [typed(name, person.claim(each)) if is_claim(each) else each for each in operand]
    if not is_claim(operand):
        return operator, operand
    if operator in ("in", "nin"):
        listed = person.claim(operand)
        if not isinstance(listed, list):
            raise Denied
        return operator, [typed(name, each) for each in listed]
    plain = {"like": "eq", "ilike": "same"}.get(operator, operator)  # a claim is no pattern
    return plain, typed(name, person.claim(operand))


class Allowed(msgspec.Struct):
    """What a person may do in one operation."""

    rows: Rules | None
    fields: tuple[str, ...]
    set: Row

    def admits(self, row: Row) -> Truth:
        return True if self.rows is None else holds(self.rows, row)


class Model:
    """The table and its rules."""

    def __init__(self, access: Mapping[str, Any] | None, key: tuple[str, ...], sort: list[str]) -> None:
        self.access = {"admin": {name: {} for name in ("read", "create", "patch", "delete")}} if access is None else access
        self.key = key
        self.sort = sort
        self.rows: dict[int, Row] = {}

    def allowed(self, operation: str, person: Person) -> Allowed:
        """Raises Refused."""
        for role, operations in self.access.items():
            if operation in operations and (role == "anonymous" or role in person.roles):
                return self._allowed(operations[operation], operation, person)
        raise Refused(401 if person.sub is None else 403)

    def _allowed(self, given: Rules, operation: str, person: Person) -> Allowed:
        try:
            rows = with_claims(given["rows"], person) if "rows" in given else None
            fixed = {
                name: typed(name, person.claim(value)) if is_claim(value) else value
                for name, value in given.get("set", {}).items()
            }
        except Denied:
            raise Refused(401 if person.sub is None else 403) from None
        fields = given.get("fields", VISIBLE if operation == "read" else SENDABLE)
        return Allowed(rows, tuple(name for name in VISIBLE if name in fields and name not in fixed), fixed)

    def reading(self, person: Person) -> Allowed | None:
        try:
            return self.allowed("read", person)
        except Refused:
            return None

    def shown(self, row: Row, person: Person) -> Row:
        """What the answer to a write shows of its row."""
        reading = self.reading(person)
        return {name: row[name] for name in reading.fields} if reading is not None and reading.admits(row) else {}

    def find(self, key: tuple[Any, ...]) -> Row | None:
        return next((row for row in self.rows.values() if tuple(row[name] for name in self.key) == key), None)

    def listed(self, person: Person, conditions: Rules | None, sort: list[str] | None, fields: list[str] | None) -> list[Row]:
        """Raises Refused."""
        reading = self.allowed("read", person)
        asked = [column_of(each) for each in sort or []]
        unknown = [*names_in(conditions or {}), *asked, *(fields or [])]
        if any(name not in reading.fields for name in unknown) or any(name not in SORTABLE for name in asked):
            raise Refused(400)
        if len(set(asked)) < len(asked) or len(set(fields or [])) < len(fields or []):
            raise Refused(400)
        found = [row for row in self.rows.values() if reading.admits(row) and (conditions is None or holds(conditions, row))]
        ordered(
            found, [term for term in with_key(self.sort if sort is None else sort, self.key) if column_of(term) in reading.fields]
        )
        chosen = reading.fields if fields is None else fields
        return [{name: row[name] for name in chosen} for row in found]

    def got(self, person: Person, key: tuple[Any, ...], fields: list[str] | None) -> Row:
        """Raises Refused."""
        reading = self.allowed("read", person)
        if any(name not in reading.fields for name in fields or []) or len(set(fields or [])) < len(fields or []):
            raise Refused(400)
        row = self.find(key)
        if row is None or not reading.admits(row):
            raise Refused(404)
        return {name: row[name] for name in (reading.fields if fields is None else fields)}

    def created(self, person: Person, body: Row) -> Row:
        """The new row, without its id. Raises Refused."""
        allowed = self.allowed("create", person)
        self._check_body(person, allowed, body)
        if any(name in allowed.fields and name not in body for name in REQUIRED):
            raise Refused(400)
        sent = body | allowed.set
        row = {**DEFAULTS, **sent}
        if any(row[name] is None for name in NOT_NULL):
            raise Refused(400)
        unsent = {"id": None, **dict.fromkeys(DEFAULTS), **sent}
        if self._is_taken(row, None):
            raise Refused(403 if allowed.admits(unsent) is False else 409)
        return row

    def patched(self, person: Person, key: tuple[Any, ...], body: Row, merge: bool) -> tuple[Row, Row]:
        """The row as it is and as it would be. Raises Refused."""
        allowed = self.allowed("patch", person)
        if not body:
            raise Refused(400)
        self._check_body(person, allowed, body)
        row = self.find(key)
        if row is None or not allowed.admits(row):
            raise Refused(404)
        changes = body | allowed.set
        if merge and isinstance(body.get("doc"), dict) and "doc" not in allowed.set:
            changes["doc"] = merged(row["doc"], body["doc"])
        after = row | changes
        outside = not allowed.admits(after)
        if self._is_taken(after, row["id"]):
            raise Refused(403 if outside else 409)
        if outside:
            raise Refused(403)
        return row, after

    def deleted(self, person: Person, key: tuple[Any, ...]) -> Row:
        """Raises Refused."""
        allowed = self.allowed("delete", person)
        row = self.find(key)
        if row is None or not allowed.admits(row):
            raise Refused(404)
        return row

    def _check_body(self, person: Person, allowed: Allowed, body: Row) -> None:
        reading = self.reading(person)
        readable = () if reading is None else reading.fields
        others = [name for name in body if name not in allowed.fields]
        if others:
            raise Refused(403 if all(name in readable and name in SENDABLE for name in others) else 400)
        if any(value is None and name in NOT_NULL for name, value in body.items()):
            raise Refused(400)

    def _is_taken(self, row: Row, own: int | None) -> bool:
        return any(
            (row["code"] is not None and other["code"] == row["code"]) or (other["owner"], other["n"]) == (row["owner"], row["n"])
            for number, other in self.rows.items()
            if number != own
        )


def names_in(conditions: Rules) -> Iterator[str]:
    for name, member in conditions.items():
        if name in ("and", "or"):
            for each in member:
                yield from names_in(each)
        elif name == "not":
            yield from names_in(member)
        else:
            yield name.partition(".")[0]


def column_of(term: str) -> str:
    """Of a term of a sort."""
    return term.lstrip("-").partition(":")[0]


def merged(doc: Any, patch: Row) -> Row:
    """RFC 7396, for objects without objects in them."""
    kept = doc if isinstance(doc, dict) else {}
    return {name: value for name, value in {**kept, **patch}.items() if name not in patch or value is not None}


def with_key(terms: list[str], key: tuple[str, ...]) -> list[str]:
    """The terms, then what they lack of the key, in the last one's direction."""
    sign = "-" if terms and terms[-1].startswith("-") else ""
    return [*terms, *(sign + name for name in key if name not in map(column_of, terms))]


def ordered(rows: list[Row], terms: list[str]) -> None:
    """Sorts in place; PostgreSQL's nulls are greater than everything."""
    for term in reversed(terms):
        name, descending, nulls = column_of(term), term.startswith("-"), term.partition(":")[2]
        first = nulls == "nullsfirst" if nulls else descending
        nothing = [row for row in rows if row[name] is None]
        something = sorted((row for row in rows if row[name] is not None), key=itemgetter(name), reverse=descending)
        rows[:] = [*nothing, *something] if first else [*something, *nothing]


# --- what is drawn -------------------------------------------------------------------------------------------------------

OWNERS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 3)
CODES = st.sampled_from(["a", "ab", "A", "b%", "b_c"])
STATUSES = st.sampled_from(["draft", "live"])
DOCS = st.fixed_dictionaries(
    {}, optional={"by": st.sampled_from(["a", "b", None, 5]), "rank": st.sampled_from([1, 2, "1", None, True])}
)
BODY_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "owner": OWNERS,
    "n": st.integers(1, 6),
    "org": st.one_of(st.none(), NUMBERS),
    "shared": st.booleans(),
    "code": st.one_of(st.none(), CODES),
    "status": STATUSES,
    "doc": st.one_of(st.none(), DOCS),
    "secret": st.sampled_from([None, "s", "t"]),
}
FEW_OWNERS, FEW_NUMBERS = st.lists(OWNERS, min_size=1, max_size=2), st.lists(NUMBERS, min_size=1, max_size=2)
ORDERING = ("gt", "gte", "lt", "lte")


def condition(name: str, operators: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Rules]:
    return st.one_of(*(st.fixed_dictionaries({name: st.fixed_dictionaries({each: operators[each]})}) for each in operators))


def with_any(operators: tuple[str, ...], operand: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return dict.fromkeys(operators, operand)


PLAIN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "owner": {**with_any(("eq", "ne", *ORDERING, "contains"), OWNERS), **with_any(("in", "nin"), FEW_OWNERS)},
    "n": {**with_any(("eq", "ne", *ORDERING), NUMBERS), **with_any(("in", "nin"), FEW_NUMBERS)},
    "org": {
        **with_any(("eq", "ne", *ORDERING), NUMBERS),
        **with_any(("in", "nin"), FEW_NUMBERS),
        "between": st.tuples(NUMBERS, NUMBERS).map(list),
        "null": st.booleans(),
    },
    "shared": {**with_any(("eq", "ne"), st.booleans()), "null": st.booleans()},
    "code": {**with_any(("eq", "contains", "starts", "ends"), CODES),
             **with_any(("like", "ilike"), st.sampled_from(["a%", "_", "%b", "B%"])), "null": st.booleans()},
    "status": {**with_any(("eq", "ne"), STATUSES), "in": st.lists(STATUSES, min_size=1, max_size=2)},
    "doc": {"has": st.sampled_from(["by", "rank"]), "null": st.booleans()},
    "doc.by": {**with_any(("eq", "ne"), OWNERS), **with_any(("in", "nin"), FEW_OWNERS), "null": st.booleans()},
    "doc.rank": {**with_any(("eq", "ne", *ORDERING), NUMBERS), "between": st.tuples(NUMBERS, NUMBERS).map(list)},
    "secret": {"eq": st.sampled_from(["s", "t"]), "null": st.booleans()},
}  # fmt: skip
SUB, NAME, ORG, ORGS = st.just("$sub"), st.just("$claims.name"), st.just("$claims.org"), st.just("$claims.orgs")
CLAIMED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "owner": {**with_any(("eq", "eq", "ne"), SUB), "in": st.tuples(SUB, OWNERS).map(list)},
    "org": {**with_any(("eq", "ne", "gte"), ORG), **with_any(("in", "nin"), st.one_of(ORGS, st.tuples(ORG, NUMBERS).map(list))),
            "between": st.tuples(NUMBERS, ORG).map(list)},
    "shared": {"eq": st.just("$claims.staff")},
    "code": with_any(("like", "ilike", "contains", "starts"), NAME),
    "doc.by": {"eq": SUB, "ne": SUB, "in": st.tuples(SUB, NAME).map(list)},
    "secret": {"eq": NAME},
}  # fmt: skip


def conditions_over(table: Mapping[str, Mapping[str, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Rules]:
    return st.one_of(*(condition(name, operators) for name, operators in table.items()))


LOGIC = ("leaf", "leaf", "leaf", "and", "or", "not")


@st.composite
def logic(draw: st.DrawFn, tables: tuple[str, ...], depth: int = 3) -> Rules:
    """A filter: one or two conditions, or `and`, `or` and `not` of filters. `tables` are names of `LEAVES`."""
    kind = draw(st.sampled_from(LOGIC)) if depth > 1 else "leaf"
    if kind == "leaf":
        found: Rules = draw(LEAVES[draw(st.sampled_from(tables))])
        return found
    if kind == "not":
        return {"not": draw(logic(tables, depth - 1))}
    items: list[Rules] = [draw(logic(tables, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
    return {kind: items} | (draw(LEAVES[tables[0]]) if draw(st.booleans()) else {})


LEAVES = {
    "plain": conditions_over({name: operators for name, operators in PLAIN.items() if name != "secret"}),
    "hidden": conditions_over(PLAIN),
    "claimed": conditions_over(CLAIMED),
    "own": st.just({"owner": "$sub"}),
}
FILTERS = logic(("plain", "plain", "plain", "hidden"))
ROW_RULES = logic(("own", "claimed", "hidden"))
SETS = st.fixed_dictionaries(
    {},
    optional={
        "owner": st.one_of(SUB, OWNERS),
        "org": st.one_of(ORG, NUMBERS, st.none()),
        "shared": st.one_of(st.booleans(), st.just("$claims.staff")),
        "status": STATUSES,
        "secret": st.one_of(SUB, NAME, st.sampled_from(["s", None])),
    },
)
NAMES_LISTED = st.lists(st.sampled_from(SENDABLE), unique=True, max_size=7)


@st.composite
def operation_rules(draw: st.DrawFn, operation: str, key: tuple[str, ...]) -> Rules:
    """One role's rule for one operation."""
    found: Rules = {}
    if draw(st.integers(0, 2)):
        found["rows"] = draw(ROW_RULES)
    if operation == "read" and draw(st.booleans()):
        found["fields"] = [*key, *(name for name in draw(NAMES_LISTED) if name not in key)]
    if operation in ("create", "patch"):
        if draw(st.booleans()):
            found["fields"] = draw(NAMES_LISTED)
        if draw(st.booleans()):
            found["set"] = draw(SETS)
    return found


@st.composite
def definitions(draw: st.DrawFn) -> Rules:
    """A resource file: `key`, `sort` and `access`, which may be left out."""
    key = draw(st.sampled_from([("id",), ("id",), ("owner", "n")]))
    sort = draw(st.lists(st.sampled_from(["-org", "code", "-status", "owner", "code:nullsfirst"]), max_size=2))
    sort = [term for position, term in enumerate(sort) if column_of(term) not in map(column_of, sort[:position])]
    roles = draw(st.permutations(["admin", "staff", "customer", "anonymous"]))
    access: Rules | None = {
        role: {
            operation: draw(operation_rules(operation, key))
            for operation in ("read", "create", "patch", "delete")
            if draw(st.integers(0, 7))
        }
        for role in roles[: draw(st.integers(1, 4))]
    }
    if not draw(st.integers(0, 30)):
        access = None
    return {"key": key, "sort": sort, "access": access}


GOOD_CLAIMS = {
    "org": ["1", '"2"'],
    "orgs": ["[1, 2]", '["3"]', "[]"],
    "name": ['"a"', '"b%"', '"b_c"', '"%"', '"B%"', '"s"'],
    "staff": ["true", "false", '"true"'],
}
BAD_CLAIMS = {
    "org": ['"x"', "true", "null", "[1]"],
    "orgs": ["[null]", '"1"', '{"1": 1}'],
    "name": ["5"],
    "staff": ["1", '"yes"'],
}
CLAIM_VALUES = {name: st.sampled_from([*GOOD_CLAIMS[name], *BAD_CLAIMS[name]]) for name in GOOD_CLAIMS}
ROLE_SETS = [(), ("admin",), ("staff",), ("customer",), ("staff", "customer"), ("customer", "admin"), ("stranger", "customer")]


@st.composite
def people(draw: st.DrawFn) -> Person:
    """Anybody: seldom nobody, mostly with a role and claims that fit."""
    if not draw(st.integers(0, 6)):
        return Person(None)
    fit = draw(st.integers(0, 3))
    claims = draw(GOOD if fit else ANY_CLAIMS)
    return Person(draw(OWNERS), draw(st.sampled_from(ROLE_SETS)), tuple(claims.items()))


GOOD = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in GOOD_CLAIMS.items()})
ANY_CLAIMS = st.fixed_dictionaries({}, optional=CLAIM_VALUES)
PEOPLE = people()
BODIES = st.fixed_dictionaries(
    {}, optional={name: BODY_VALUES[name] for name in SENDABLE[2:]}
).flatmap(
    lambda rest: st.fixed_dictionaries({"owner": OWNERS, "n": BODY_VALUES["n"]}).map(lambda required: {**required, **rest})
)  # fmt: skip
ODD_BODIES = st.fixed_dictionaries(
    {},
    optional={
        **BODY_VALUES,
        "owner": st.one_of(st.none(), OWNERS),
        "status": st.one_of(st.none(), STATUSES),
        "id": st.just(1),
        "nothing": st.just(1),
    },
)
KEY_PARTS = {"id": st.integers(1, 12), "owner": OWNERS, "n": st.integers(1, 6)}
SORTS = st.one_of(
    st.none(),
    st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["", "-"]),
            st.sampled_from([*SORTABLE, "owner", "n", "doc", "secret"]),
            st.sampled_from(["", "", ":nullsfirst", ":nullslast"]),
        ),
        min_size=1,
        max_size=3,
    ),
)
CHOICES = st.one_of(st.none(), st.none(), st.lists(st.sampled_from([*VISIBLE, *VISIBLE, "secret"]), min_size=1, max_size=4))
MOSTLY = st.sampled_from([True, True, True, False])
"""Whether a request keeps to the fields that its caller may use; else nearly all would be refused for one that is not."""


# --- the gateway ---------------------------------------------------------------------------------------------------------


class World:
    """The whole application in this thread, over a real database and a real issuer of tokens; definitions as they come."""

    def __init__(self, database_url: str, directory: Path, jwks_url: str) -> None:
        self.runner = asyncio.Runner()
        self.directory = directory
        self.settings = settings_for(
            database_url,
            directory,
            AUTH="on",
            AUTH_JWKS_URL=jwks_url,
            AUTH_ISSUER=ISSUER,
            AUTH_AUDIENCE=AUDIENCE,
            AUTH_ALGORITHMS=",".join(ALGORITHMS),
        )
        self.database_url = database_url
        self._open = AsyncExitStack()
        self.headers: dict[Person, dict[str, str]] = {}

    def __enter__(self) -> World:
        self.runner.run(self._enter())
        return self

    async def _enter(self) -> None:
        self.connection = await asyncpg.connect(self.database_url)
        self._open.push_async_callback(self.connection.close)
        await self.connection.execute(SQL)
        self.gateway = Gateway(self.settings)
        write_resources(self.directory, {"notes": ""})
        await self.gateway.start()
        self._open.push_async_callback(self.gateway.stop)
        self.client = await self._open.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway), base_url="http://gateway")
        )

    def __exit__(self, *_: object) -> None:
        self.runner.run(self._open.aclose())
        self.runner.close()

    def define(self, definition: Rules) -> None:
        """Serves this definition from now on."""
        key = list(definition["key"])
        written = {"key": key, "fields": {"secret": {"hidden": True}}, "list": {"sort": definition["sort"], "limit": {"max": 50}}}
        if definition["access"] is not None:
            written["access"] = definition["access"]
        write_resources(self.directory, {"notes": json.dumps(written)})
        catalog, faults = self.runner.run(assemble(self.settings))
        assert not faults, "\n".join(map(str, faults))
        self.gateway._serving = self.gateway._serve_from(catalog)

    def ask(self, person: Person, method: str, path: str, **options: Any) -> httpx.Response:
        if person not in self.headers:
            self.headers[person] = person.headers
        headers = {**self.headers[person], **options.pop("headers", {})}
        response = self.runner.run(self.client.request(method, path, headers=headers, **options))
        check_answer(response)
        return response

    def store(self, rows: list[Row]) -> None:
        async def run() -> None:
            await self.connection.execute("TRUNCATE notes RESTART IDENTITY")
            columns = list(DEFAULTS)
            for row in rows:
                values = [json.dumps(row[name]) if name == "doc" and row[name] is not None else row[name] for name in columns]
                marks = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
                await self.connection.execute(f"INSERT INTO notes ({', '.join(columns)}) VALUES ({marks})", *values)

        self.runner.run(run())

    def stored(self) -> dict[int, Row]:
        records = self.runner.run(self.connection.fetch("SELECT row_to_json(notes.*) FROM notes"))
        rows = [json.loads(record[0]) for record in records]
        return {row["id"]: row for row in rows}


class AccessMachine(RuleBasedStateMachine):
    """One definition, and what everybody tries."""

    world: World

    @initialize(definition=definitions(), rows=st.lists(st.fixed_dictionaries(BODY_VALUES), min_size=3, max_size=9))
    def begin(self, definition: Rules, rows: list[Row]) -> None:
        note(json.dumps(definition))
        self.world.define(definition)
        self.model = Model(definition["access"], definition["key"], definition["sort"])
        self.world.store([row for number, row in enumerate(rows) if self._is_first(rows, number)])
        self.model.rows = self.world.stored()

    @staticmethod
    def _is_first(rows: list[Row], number: int) -> bool:
        row = rows[number]
        return not any(
            (row["code"] is not None and other["code"] == row["code"]) or (other["owner"], other["n"]) == (row["owner"], row["n"])
            for other in rows[:number]
        )

    def _expected(self, work: Callable[[], Any]) -> tuple[int, Any]:
        try:
            return 200, work()
        except Refused as refusal:
            return refusal.status, None

    def _modest(self, person: Person, names: list[str] | None, choice: bool = True) -> list[str] | None:
        """Of the names those that the person may read."""
        reading = self.model.reading(person)
        known = [name for name in names or [] if reading is None or column_of(name) in reading.fields]
        return list({column_of(name): name for name in known if choice or column_of(name) in SORTABLE}.values()) or None

    def _modest_body(self, operation: str, person: Person, body: Row) -> Row:
        """Of a body what the person may send; all of it where that would be nothing."""
        try:
            fields = self.model.allowed(operation, person).fields
        except Refused:
            return body
        return {name: value for name, value in body.items() if name in fields} or body

    @rule(person=PEOPLE, conditions=st.one_of(st.none(), FILTERS, FILTERS), sort=SORTS, fields=CHOICES, modest=MOSTLY,
          count=st.sampled_from(["none", "exact", "estimated"]), method=st.sampled_from(["GET", "GET", "HEAD"]))  # fmt: skip
    def list_rows(
        self,
        person: Person,
        conditions: Rules | None,
        sort: list[str] | None,
        fields: list[str] | None,
        modest: bool,
        count: str,
        method: str,
    ) -> None:
        if modest:
            sort, fields = self._modest(person, sort, choice=False), self._modest(person, fields)
        parameters = {"count": count, "limit": "50"}
        parameters |= {"filter": json.dumps(conditions)} if conditions else {}
        parameters |= {"sort": ",".join(sort)} if sort else {}
        parameters |= {"fields": ",".join(fields)} if fields else {}
        status, rows = self._expected(lambda: self.model.listed(person, conditions, sort, fields))
        response = self.world.ask(person, method, "/api/v1/notes", params=parameters)
        assert response.status_code == status, response.text
        if status != 200 or method == "HEAD":
            return
        assert response.json()["data"] == rows
        reading = self.model.reading(person)
        assert reading is not None
        if count == "exact" or (count == "estimated" and reading.rows is not None):
            assert response.json()["meta"]["total"] == len(rows)

    @rule(person=PEOPLE, other=PEOPLE, conditions=st.one_of(st.none(), FILTERS), sort=SORTS)
    def follow_cursors(self, person: Person, other: Person, conditions: Rules | None, sort: list[str] | None) -> None:
        """A cursor goes on where its maker was; for anybody else it opens nothing."""
        sort = self._modest(person, sort, choice=False)
        status, rows = self._expected(lambda: self.model.listed(person, conditions, sort, None))
        parameters = {"limit": "2"}
        parameters |= {"filter": json.dumps(conditions)} if conditions else {}
        parameters |= {"sort": ",".join(sort)} if sort else {}
        response = self.world.ask(person, "GET", "/api/v1/notes", params=parameters)
        assert response.status_code == status
        if status != 200:
            return
        found = response.json()["data"]
        while cursor := response.json()["meta"]["next_cursor"]:
            borrowed = self.world.ask(other, "GET", "/api/v1/notes", params={**parameters, "cursor": cursor})
            their_status, theirs = self._expected(lambda: self.model.listed(other, conditions, sort, None))
            assert borrowed.status_code == their_status or borrowed.status_code == 400
            if borrowed.status_code == 200:
                assert all(row in theirs for row in borrowed.json()["data"])
            response = self.world.ask(person, "GET", "/api/v1/notes", params={**parameters, "cursor": cursor})
            assert response.status_code == 200
            found += response.json()["data"]
        assert found == rows

    @rule(person=PEOPLE, data=st.data(), fields=CHOICES, modest=MOSTLY)
    def get_row(self, person: Person, data: st.DataObject, fields: list[str] | None, modest: bool) -> None:
        key = self._key(data)
        fields = self._modest(person, fields) if modest else fields
        status, row = self._expected(lambda: self.model.got(person, key, fields))
        response = self.world.ask(person, "GET", self._path(key), params={"fields": ",".join(fields)} if fields else {})
        assert response.status_code == status, response.text
        if status == 200:
            assert response.json()["data"] == row

    @rule(person=PEOPLE, body=st.one_of(BODIES, BODIES, ODD_BODIES), modest=MOSTLY)
    def create_row(self, person: Person, body: Row, modest: bool) -> None:
        body = self._modest_body("create", person, body) if modest else body
        status, row = self._expected(lambda: self.model.created(person, body))
        response = self.world.ask(person, "POST", "/api/v1/notes", content=json.dumps(body), headers=JSON)
        stored = self.world.stored()
        new = stored.keys() - self.model.rows.keys()
        if status == 200:
            allowed = self.model.allowed("create", person)
            number = next(iter(new), 0)  # a rule may name the id, which the database gives
            row["id"] = number
            status = 201 if allowed.admits(row if number else {**row, "id": -1}) else 403
        assert response.status_code == status, response.text
        if status != 201:
            assert stored == self.model.rows
            return
        assert stored == {**self.model.rows, row["id"]: row}
        assert response.json()["data"] == self.model.shown(row, person)
        assert response.headers["location"] == self._path(tuple(row[name] for name in self.model.key))
        self.model.rows = stored

    @rule(person=PEOPLE, body=st.one_of(BODIES, ODD_BODIES, ODD_BODIES), merge=st.booleans(), data=st.data(), modest=MOSTLY)
    def patch_row(self, person: Person, body: Row, merge: bool, data: st.DataObject, modest: bool) -> None:
        body = self._modest_body("patch", person, body) if modest else body
        key = self._key(data)
        status, change = self._expected(lambda: self.model.patched(person, key, body, merge))
        headers = MERGE if merge else JSON
        response = self.world.ask(person, "PATCH", self._path(key), content=json.dumps(body), headers=headers)
        assert response.status_code == status, response.text
        if status == 200:
            before, after = change
            self.model.rows[before["id"]] = after
            assert response.json()["data"] == self.model.shown(after, person)
        assert self.world.stored() == self.model.rows

    @rule(person=PEOPLE, data=st.data())
    def delete_row(self, person: Person, data: st.DataObject) -> None:
        key = self._key(data)
        status, row = self._expected(lambda: self.model.deleted(person, key))
        response = self.world.ask(person, "DELETE", self._path(key))
        assert response.status_code == (204 if status == 200 else status), response.text
        if status == 200:
            del self.model.rows[row["id"]]
        assert self.world.stored() == self.model.rows

    def _key(self, data: st.DataObject) -> tuple[Any, ...]:
        """Of a row that is there, mostly."""
        anything = st.tuples(*(KEY_PARTS[name] for name in self.model.key))
        there = [tuple(row[name] for name in self.model.key) for row in self.model.rows.values()]
        return data.draw(st.one_of(st.sampled_from(there), st.sampled_from(there), anything) if there else anything)

    def _path(self, key: tuple[Any, ...]) -> str:
        return f"/api/v1/notes/{','.join(quote(str(part), safe='') for part in key)}"


@pytest.mark.hypothesis
def test_what_random_callers_see_and_change_is_what_the_model_says(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("access") / "resources"
    with (
        issuer(public(EC)) as keys,
        throwaway_database(postgres_url) as url,
        log_without_faults(),
        World(url, directory, keys.url) as world,
    ):
        machine = type("Machine", (AccessMachine,), {"world": world})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples(10),
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.generate],  # the steps tell enough, and making them fewer takes minutes
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
