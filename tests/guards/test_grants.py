"""Access decided: which role's rule counts, what its claims become, and that whatever is missing or does not fit denies."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.catalog.model import Catalog, Column, Resource
from gateway.catalog.types import ColumnType
from gateway.errors import Forbidden, Unauthorized, ValidationFailed
from gateway.guards.grants import Policy, Unrestricted, rules_of
from gateway.guards.policy import check_access
from gateway.guards.tokens import Caller
from gateway.query.ast import EVERYTHING, Bound, Comparison, Grant, ListRequest
from gateway.query.payload import plan_create, plan_patch
from gateway.query.plan import plan_get, plan_list
from tests.query.sample import BIGINT, BOOLEAN, INTEGER, JSONB, NUMERIC, TEXT, UUID, catalog_of, resource, source, table

NOTES = table(
    "notes",
    [
        Column("id", BIGINT, nullable=False, filled=True, generated=True),
        Column("owner", TEXT, nullable=False),
        Column("org", INTEGER, nullable=True),
        Column("token", UUID, nullable=True),
        Column("price", NUMERIC, nullable=True),
        Column("shared", BOOLEAN, nullable=True),
        Column("secret", TEXT, nullable=True),
        Column("code", ColumnType("varchar", "character varying", length=3), nullable=True),
        Column("doc", JSONB, nullable=True),
        Column("tags", ColumnType("text", "text", array=True), nullable=True),
        Column("numbers", ColumnType("int4", "integer", array=True), nullable=True),
        Column("double", INTEGER, nullable=True, generated=True),
    ],
)
VIEW = table("notes", NOTES.columns, primary_key=(), is_view=True)
UUID_TEXT = "7b0c6a52-9a39-4b5f-8f5e-0d6a6a3a8b11"


def of(access: str, head: str = "") -> Resource:
    """The resource of an `access` part that has no fault."""
    read = source(f"{head}\naccess:\n{access}", "notes")
    catalog, faults = catalog_of((read, NOTES))
    found = catalog.resources["v1", "notes"]
    assert not faults
    assert [str(fault) for fault in check_access(read, found)] == []
    return found


def caller(*roles: str, sub: str = "7", **claims: Any) -> Caller:
    return Caller(sub, roles, {"sub": sub, **claims}, 2e9)


def granted(found: Resource, operation: Any, by: Caller | None) -> Grant:
    return Policy(Catalog({("v1", "notes"): found}, {})).grant(found, operation, by)


def refused(found: Resource, operation: Any, by: Caller | None) -> type[Exception]:
    with pytest.raises((Unauthorized, Forbidden)) as caught:
        granted(found, operation, by)
    assert str(caught.value) in ("A token is needed.", "Your roles do not allow this here.")
    return caught.type


# --- which role decides ------------------------------------------------------------------------------------------------

ROLES = of(
    """
  admin: {read: {}, delete: {}}
  editor:
    read: {rows: {shared: true}}
    patch: {fields: [owner]}
  customer:
    read: {rows: {owner: $sub}, fields: [id, owner]}
    patch: {rows: {owner: $sub}, fields: [org]}
    create: {}
  anonymous: {read: {rows: {org: 1}}}
"""
)


@pytest.mark.parametrize(
    ("operation", "roles", "decides"),
    [
        ("read", ("admin",), "admin"),
        ("read", ("customer", "admin"), "admin"),
        ("read", ("customer", "editor"), "editor"),
        ("read", ("customer",), "customer"),
        ("read", ("stranger",), "anonymous"),
        ("read", (), "anonymous"),
        ("read", None, "anonymous"),
        ("patch", ("admin", "editor", "customer"), "editor"),
        ("patch", ("admin", "customer"), "customer"),
        ("create", ("admin", "editor", "customer"), "customer"),
        ("delete", ("admin", "customer"), "admin"),
    ],
)
def test_first_listed_role_that_is_held_and_names_the_operation_decides(operation: Any, roles: Any, decides: str) -> None:
    assert granted(ROLES, operation, None if roles is None else caller(*roles)).name == decides


def test_rules_of_several_roles_are_never_added_up() -> None:
    grant = granted(ROLES, "read", caller("editor", "customer"))
    assert grant == Grant("editor", rows=Bound(Comparison("shared", "eq"), (True,)))


@pytest.mark.parametrize("role", ["Admin", "ADMIN", "admin ", "", "adm", "administrator"])
def test_role_is_the_very_word(role: str) -> None:
    assert granted(ROLES, "read", caller(role)).name == "anonymous"
    assert refused(ROLES, "delete", caller(role)) is Forbidden


def test_operation_that_no_role_of_the_caller_names_is_refused() -> None:
    assert refused(ROLES, "delete", caller("editor", "customer")) is Forbidden
    assert refused(ROLES, "create", caller()) is Forbidden
    assert refused(ROLES, "create", None) is Unauthorized


def test_role_that_names_nothing_decides_nothing() -> None:
    found = of("  banned: {}\n  customer: {read: {}}")
    assert granted(found, "read", caller("banned", "customer")).name == "customer"
    assert refused(found, "read", caller("banned")) is Forbidden


def test_without_access_admin_alone_may_do_everything() -> None:
    found = resource(NOTES)
    for operation in ("read", "create", "patch", "delete"):
        assert granted(found, operation, caller("admin")) == Grant("admin")
        assert refused(found, operation, caller("customer")) is Forbidden
        assert refused(found, operation, None) is Unauthorized


def test_empty_access_lets_nobody_in() -> None:
    found = of("  {}")
    assert refused(found, "read", caller("admin")) is Forbidden
    assert refused(found, "read", None) is Unauthorized


def test_admin_of_a_view_may_read_it_and_no_more() -> None:
    found = resource(VIEW, "key: id")
    policy = Policy(Catalog({("v1", "notes"): found}, {}))
    assert policy.allowed(found, caller("admin")).keys() == {"read"}


def test_allowed_lists_the_operations_of_a_caller() -> None:
    policy = Policy(Catalog({("v1", "notes"): ROLES}, {}))
    assert policy.allowed(ROLES, None).keys() == {"read"}
    assert policy.allowed(ROLES, caller("customer")).keys() == {"read", "create", "patch"}
    assert policy.allowed(ROLES, caller("admin")).keys() == {"read", "delete"}


def test_unrestricted_knows_no_limit_but_a_views() -> None:
    assert Unrestricted().grant(ROLES, "delete", None) is EVERYTHING
    assert Unrestricted().allowed(ROLES, None).keys() == {"read", "create", "patch", "delete"}
    assert Unrestricted().allowed(resource(VIEW, "key: id"), None).keys() == {"read"}


# --- claims ------------------------------------------------------------------------------------------------------------


def values_of(rows: str, by: Caller | None) -> Any:
    """What the rule's values become, or None where it denies."""
    found = of(f"  customer: {{read: {{rows: {rows}}}}}\n  anonymous: {{read: {{rows: {rows}}}}}")
    try:
        grant = granted(found, "read", by)
    except (Unauthorized, Forbidden):
        return None
    assert grant.rows is not None
    return grant.rows.values


DENIED = None


@pytest.mark.parametrize(
    ("rows", "claims", "values"),
    [
        ("{owner: $sub}", {}, ("7",)),
        ("{org: $sub}", {}, (7,)),
        ("{org: $sub}", {"sub": "007"}, (7,)),
        ("{org: $sub}", {"sub": "seven"}, DENIED),
        ("{org: $sub}", {"sub": "7 OR true"}, DENIED),
        ("{org: $sub}", {"sub": "99999999999"}, DENIED),
        ("{token: $sub}", {"sub": UUID_TEXT}, (UUID_TEXT,)),
        ("{token: $sub}", {"sub": "7"}, DENIED),
        ("{price: $sub}", {"sub": "1.50"}, ("1.50",)),
        ("{shared: $sub}", {"sub": "true"}, (True,)),
        ("{shared: $sub}", {"sub": "1"}, DENIED),
        ("{owner: $claims.sub}", {}, ("7",)),
        ("{org: $claims.org}", {}, DENIED),
        ("{org: $claims.org}", {"org": None}, DENIED),
        ("{org: $claims.org}", {"org": 7}, (7,)),
        ("{org: $claims.org}", {"org": "7"}, (7,)),
        ("{org: $claims.org}", {"org": Decimal("7.0")}, (7,)),
        ("{org: $claims.org}", {"org": Decimal("7.5")}, DENIED),
        ("{org: $claims.org}", {"org": True}, DENIED),
        ("{org: $claims.org}", {"org": [7]}, DENIED),
        ("{org: $claims.org}", {"org": {"id": 7}}, DENIED),
        ("{org: $claims.org}", {"org": 2**31}, DENIED),
        ("{owner: $claims.org}", {"org": 7}, DENIED),
        ("{owner: $claims.org}", {"org": "a\x00"}, DENIED),
        ("{owner: $claims.org}", {"org": "\ud800"}, DENIED),
        ("{owner: $claims.org}", {"org": ""}, ("",)),
        ("{shared: $claims.staff}", {"staff": True}, (True,)),
        ("{shared: $claims.staff}", {"staff": 1}, DENIED),
        ("{org: $claims.realm.org}", {"realm": {"org": 7}}, (7,)),
        ("{org: $claims.realm.org}", {"realm.org": 8, "realm": {"org": 7}}, (8,)),
        ("{org: $claims.realm.org}", {"realm.org": None, "realm": {"org": 7}}, DENIED),
        ("{org: $claims.realm.org}", {"realm": [7]}, DENIED),
        ("{org: $claims.realm.org}", {"realm": {}}, DENIED),
        ('{org: "$claims.https://shop.example/org"}', {"https://shop.example/org": 7}, (7,)),
        ("{org: {in: $claims.orgs}}", {"orgs": [1, "2"]}, ([1, 2],)),
        ("{org: {in: $claims.orgs}}", {"orgs": []}, ([],)),
        ("{org: {in: $claims.orgs}}", {"orgs": 1}, DENIED),
        ("{org: {in: $claims.orgs}}", {"orgs": "1"}, DENIED),
        ("{org: {in: $claims.orgs}}", {"orgs": [1, None]}, DENIED),
        ("{org: {in: $claims.orgs}}", {"orgs": [1, "x"]}, DENIED),
        ("{org: {in: $claims.orgs}}", {"orgs": {"1": 2}}, DENIED),
        ("{org: {in: [$claims.org, 4]}}", {"org": 3}, ([3, 4],)),
        ("{org: {in: [$claims.org, 4]}}", {}, DENIED),
        ("{org: {between: [$claims.low, $claims.high]}}", {"low": 1, "high": "9"}, (1, 9)),
        ("{org: {between: [$claims.low, 9]}}", {}, DENIED),
        ("{tags: {has: $sub}}", {}, ("7",)),
        ("{numbers: {has: $sub}}", {}, (7,)),
        ("{numbers: {has: $sub}}", {"sub": "x"}, DENIED),
        ("{tags: {any: $claims.groups}}", {"groups": ["a", "b"]}, (["a", "b"],)),
        ("{tags: {any: $claims.groups}}", {"groups": "a"}, DENIED),
        ("{tags: $claims.groups}", {"groups": ["a"]}, (["a"],)),
        ("{tags: $claims.groups}", {"groups": "a"}, DENIED),
        ("{doc.owner: $sub}", {}, (["owner"], "7")),
        ("{doc.owner: $claims.org}", {"org": 7}, DENIED),
        ("{doc.owner: {in: [$sub, x]}}", {}, (["owner"], ["7", "x"])),
        ("{doc.owner: {in: $claims.orgs}}", {"orgs": ["a"]}, (["owner"], ["a"])),
        ("{doc.rank: {between: [$claims.low, $claims.high]}}", {"low": "a", "high": "b"}, (["rank"], "a", "b")),
        ("{doc.rank: {between: [$claims.low, $claims.high]}}", {"low": "a"}, DENIED),
        ("{doc: {has: $sub}}", {}, ("7",)),
        ("{not: {org: $claims.org}}", {}, DENIED),
        ("{or: [{shared: true}, {org: $claims.org}]}", {}, DENIED),
        ("{or: [{shared: true}, {org: $claims.org}]}", {"org": "x"}, DENIED),
    ],
)
def test_claims_become_values_of_their_columns_or_deny(rows: str, claims: dict[str, Any], values: Any) -> None:
    given = {"sub": "7", **claims}
    assert values_of(rows, caller("customer", **given)) == values
    assert values_of(rows, None) is DENIED


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("like", "50\\%\\_\\\\"),
        ("ilike", "50\\%\\_\\\\"),
        ("contains", "%50\\%\\_\\\\%"),
        ("starts", "50\\%\\_\\\\%"),
        ("eq", "50%_\\"),
    ],
)
@pytest.mark.parametrize(("field", "path"), [("owner", ()), ("doc.owner", (["owner"],))])
def test_claim_is_a_value_and_never_a_pattern(field: str, path: tuple[Any, ...], operator: str, value: str) -> None:
    assert values_of(f"{{{field}: {{{operator}: $claims.name}}}}", caller("customer", name="50%_\\")) == (*path, value)


def test_claim_that_is_missing_denies_and_no_weaker_role_takes_its_place() -> None:
    found = of("  staff: {read: {rows: {org: $claims.org}}}\n  anonymous: {read: {}}")
    assert granted(found, "read", caller("staff", org=1)).name == "staff"
    assert refused(found, "read", caller("staff")) is Forbidden
    assert granted(found, "read", caller("customer")).name == "anonymous"


# --- set ---------------------------------------------------------------------------------------------------------------

SET = of(
    """
  customer:
    read: {fields: [id, owner, org]}
    create: {fields: [owner, org, price], set: {org: $claims.org, shared: false, code: $claims.code, secret: null}}
  clerk:
    create: {set: {owner: $sub}}
"""
)


def test_set_values_are_made_of_the_claims_and_cannot_be_sent() -> None:
    grant = granted(SET, "create", caller("customer", org="3", code="abc"))
    assert grant.set == (("org", 3), ("shared", False), ("code", "abc"), ("secret", None))
    assert grant.write_fields == frozenset({"owner", "price"})
    assert plan_create(SET, b'{"owner": "x"}', grant).values == ("x", 3, False, "abc", None)
    with pytest.raises(Forbidden) as caught:
        plan_create(SET, b'{"owner": "x", "org": 4}', grant)
    assert [(problem.field, problem.message) for problem in caught.value.problems] == [("org", "may not be sent")]


def test_set_without_fields_leaves_every_other_field_to_be_sent() -> None:
    grant = granted(SET, "create", caller("clerk"))
    assert grant.write_fields == frozenset({"org", "token", "price", "shared", "secret", "code", "doc", "tags", "numbers"})


@pytest.mark.parametrize("claims", [{"org": 3}, {"code": "abc"}, {"org": 3, "code": "abcd"}, {"org": "x", "code": "abc"}])
def test_set_claim_that_is_missing_or_does_not_fit_denies(claims: dict[str, Any]) -> None:
    assert refused(SET, "create", caller("customer", **claims)) is Forbidden


# --- what is not granted does not exist ---------------------------------------------------------------------------------

HIDING = of(
    """
  customer:
    read: {rows: {owner: $sub}, fields: [id, owner, org]}
    create: {fields: [owner, org, code]}
    patch: {rows: {owner: $sub}, fields: [org]}
  dropper:
    create: {fields: [owner]}
""",
    "fields: {doc: {hidden: true}}\nlist: {sort: [secret, -price, owner]}",
)


def messages(caught: pytest.ExceptionInfo[Any]) -> str:
    return " ".join([str(caught.value), *(f"{problem.field}: {problem.message}" for problem in caught.value.problems)])


@pytest.mark.parametrize(
    "request_",
    [
        ListRequest(sort="secrets"),
        ListRequest(sort="-secret"),
        ListRequest(fields="id,secret"),
        ListRequest(filter='{"secret": {"null": true}}'),
        ListRequest(filter='{"not": {"secret": "x"}}'),
        ListRequest(filter='{"doc.a": "x"}'),
    ],
)
def test_field_that_cannot_be_read_is_unknown_in_a_list_and_in_every_hint(request_: ListRequest) -> None:
    grant = granted(HIDING, "read", caller("customer"))
    with pytest.raises(ValidationFailed) as caught:
        plan_list(HIDING, request_, grant)
    told = messages(caught).replace('"secret', "").replace('"doc.a"', "").replace("secrets", "")
    assert "Fields: id, owner, org" in told
    for name in ("secret", "price", "code", "doc", "token", "tags"):
        assert name not in told


def test_default_sort_leaves_out_what_cannot_be_read_and_ends_with_the_key() -> None:
    plan = plan_list(HIDING, ListRequest(), granted(HIDING, "read", caller("customer")))
    assert [key.field for key in plan.shape.sort] == ["owner", "id"]
    assert plan.shape.fields == ("id", "owner", "org")


def test_get_carries_the_rule() -> None:
    plan = plan_get(HIDING, ("5",), {}, granted(HIDING, "read", caller("customer")))
    assert plan.values == (5, "7")
    assert plan.shape.where == Comparison("owner", "eq")


@pytest.mark.parametrize("name", ["secret", "doc", "double", "price", "nothing"])
def test_field_that_can_be_neither_read_nor_sent_is_unknown_in_a_body(name: str) -> None:
    body = f'{{"owner": "x", "{name}": 1}}'.encode()
    for by, known in (("customer", "owner, org, code"), ("dropper", "owner")):
        with pytest.raises(ValidationFailed) as caught:
            plan_create(HIDING, body, granted(HIDING, "create", caller(by)))
        assert messages(caught) == f"The body is not valid. {name}: is not a field. Fields: {known}"


def test_field_that_can_be_read_but_not_sent_is_refused_by_name() -> None:
    grant = granted(HIDING, "patch", caller("customer"))
    with pytest.raises(Forbidden) as caught:
        plan_patch(HIDING, ("5",), b'{"org": 1, "owner": "8"}', False, grant)
    assert messages(caught) == "Not with these fields. owner: may not be sent"
    with pytest.raises(ValidationFailed) as invalid:
        plan_patch(HIDING, ("5",), b'{"id": 1}', False, grant)
    assert messages(invalid) == "The body is not valid. id: is read-only; leave it out"


def test_write_answers_what_the_read_rule_shows() -> None:
    grant = granted(HIDING, "create", caller("customer"))
    assert grant.seen_rows == Bound(Comparison("owner", "eq"), ("7",))
    plan = plan_create(HIDING, b'{"owner": "8"}', grant)
    assert getattr(plan.shape, "fields", None) == ("id", "owner", "org")
    assert getattr(plan.shape, "seen", None) == Comparison("owner", "eq")


def test_write_of_who_cannot_read_answers_nothing_of_the_row() -> None:
    grant = granted(HIDING, "create", caller("dropper"))
    assert (grant.readable, grant.read_fields) == (False, frozenset())
    assert getattr(plan_create(HIDING, b'{"owner": "8"}', grant).shape, "fields", None) == ()


def test_write_of_whose_read_rule_lacks_a_claim_answers_nothing_of_the_row() -> None:
    found = of("  customer: {read: {rows: {org: $claims.org}}, create: {}}")
    assert granted(found, "create", caller("customer", org=1)).readable
    assert not granted(found, "create", caller("customer")).readable


# --- definitions that are refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "line", "message"),
    [
        ("read:\n      fields: [owner]", 6, 'the key "id" must be among them: lists, cursors and Location show it'),
        ("read: {fields: []}", 5, 'the key "id" must be among them: lists, cursors and Location show it'),
        ("create: {set: {id: 1}}", 5, '"id" is generated by the database: nobody can set it'),
        ("create: {set: {double: $claims.x}}", 5, '"double" is generated by the database: nobody can set it'),
        ("create: {set: {tags: [$sub]}}", 5, '"tags": a claim stands for a whole value, not within one'),
        ("create: {set: {doc: {by: $sub}}}", 5, '"doc": a claim stands for a whole value, not within one'),
        ("read: {rows: {tags: [$sub, x]}}", 5, "rows: a claim stands for a whole value, or for one of a list's"),
    ],
)
def test_rule_that_would_not_mean_what_it_says_is_told_with_its_line(rule: str, line: int, message: str) -> None:
    read = source(f"\n\naccess:\n  customer:\n    {rule}", "notes")
    catalog, _ = catalog_of((read, NOTES))
    (fault,) = check_access(read, catalog.resources["v1", "notes"])
    assert (fault.file, fault.line) == ("resources/notes.yaml", line)
    assert fault.message.startswith(message)


def test_every_part_of_a_composite_key_must_be_readable() -> None:
    read = source("key: [owner, id]\naccess: {customer: {read: {fields: [id]}}}", "notes")
    catalog, _ = catalog_of((read, table("notes", NOTES.columns, ("owner", "id"))))
    found = [str(fault) for fault in check_access(read, catalog.resources["v1", "notes"])]
    assert found == ['resources/notes.yaml:2: the key "owner" must be among them: lists, cursors and Location show it']


@pytest.mark.parametrize("rows", ["{nothing: 1}", "{org: x}", "{and: [{org: x}, {owner: y}]}"])
def test_rule_that_was_not_checked_never_becomes_a_wider_one(rows: str) -> None:
    found = resource(NOTES, f"access: {{customer: {{read: {{rows: {rows}}}}}}}")
    with pytest.raises(ValueError, match="were not checked"):
        rules_of(found)
