"""A constraint's tree in, what it asks of each column out. Pure.

A constraint becomes *cases*: each is one way to satisfy it (one branch of its ORs), as a `Restriction` for each column that it
names. What is not understood asks nothing here: `write` lets PostgreSQL evaluate every constraint over every candidate row,
so that a case is only ever a good guess, never the judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Literal as OneOf

import msgspec

from gateway.fill.expressions import (
    And,
    Array,
    Call,
    Literal,
    Name,
    Node,
    Not,
    Operation,
    Or,
    Quantified,
    Test,
    parse_expression,
)
from gateway.fill.patterns import pattern_of_like

MAX_CASES = 32
NOW = "now"
"""The text of a bound that is the time of the statement."""

Null = OneOf["", "never", "always"]
Fold = OneOf["", "lower", "upper"]


class Bound(msgspec.Struct, frozen=True):
    """An end of an interval, as the literal's text; `strict` leaves the end itself out."""

    text: str
    strict: bool = False


class PatternRule(msgspec.Struct, frozen=True):
    pattern: str
    ignore_case: bool = False


class Restriction(msgspec.Struct, frozen=True):
    """What one column's values must satisfy, all at once. `choices` None means any; lengths are characters or array elements.

    `elements` are what an array may hold, `json_type` is what `jsonb_typeof` must say.
    """

    lower: tuple[Bound, ...] = ()
    upper: tuple[Bound, ...] = ()
    choices: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[PatternRule, ...] = ()
    fold: Fold = ""
    null: Null = ""
    json_type: str = ""
    elements: tuple[str, ...] | None = None


class Ordering(msgspec.Struct, frozen=True):
    """`smaller` < `greater`, columns of one row; equal values will do unless `strict`."""

    smaller: str
    greater: str
    strict: bool


class Case(msgspec.Struct, frozen=True):
    """One way to satisfy constraints: restrictions by column, and orders between columns."""

    restrictions: Mapping[str, Restriction] = {}
    orderings: tuple[Ordering, ...] = ()


class Derivation(msgspec.Struct, frozen=True):
    """`column` must equal an expression over the row: PostgreSQL computes it."""

    column: str
    sql: str


ANYTHING = Restriction()

_NEGATED = {
    "=": "<>",
    "<>": "=",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
    "~": "!~",
    "!~": "~",
    "~*": "!~*",
    "!~*": "~*",
    "~~": "!~~",
    "!~~": "~~",
    "~~*": "!~~*",
    "!~~*": "~~*",
}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_LENGTHS = frozenset({"length", "char_length", "character_length", "octet_length", "array_length", "cardinality"})
_TRIMS = frozenset({"btrim", "ltrim", "rtrim", "trim"})
_FOLDS: dict[str, Fold] = {"lower": "lower", "upper": "upper"}
_CLOCKS = frozenset({"now", "current_date", "current_timestamp", "localtimestamp", "statement_timestamp", "clock_timestamp"})
_ANY_CASE = (Case(),)


def cases_of(expression: str) -> tuple[Case, ...]:
    """The ways to satisfy a CHECK's SQL, at most `MAX_CASES`; never empty unless it contradicts itself."""
    return _cases(parse_expression(expression), negated=False)


def derivations_of(expression: str) -> tuple[Derivation, ...]:
    """The columns that a CHECK fixes by an expression over the row, such as `total = quantity * price`."""
    node = parse_expression(expression)
    terms = node.terms if isinstance(node, And) else (node,)
    found = (_derivation(term) for term in terms if isinstance(term, Operation) and term.operator == "=")
    return tuple(derivation for derivation in found if derivation is not None)


def combine(options: Iterable[tuple[Case, ...]]) -> tuple[Case, ...]:
    """The cases that satisfy one of each option at once; contradictions are dropped, at most `MAX_CASES` are kept."""
    combined: tuple[Case, ...] = _ANY_CASE
    for option in options:
        pairs = (both_cases(first, second) for first, second in product(combined, option))
        combined = tuple(case for case in pairs if case is not None)[:MAX_CASES]
    return combined


def both_cases(first: Case, second: Case) -> Case | None:
    """Both at once, or None where they contradict each other."""
    restrictions = dict(first.restrictions)
    for column, restriction in second.restrictions.items():
        joined = both(restrictions.get(column, ANYTHING), restriction)
        if joined is None:
            return None
        restrictions[column] = joined
    return Case(restrictions, tuple(dict.fromkeys(first.orderings + second.orderings)))


def both(first: Restriction, second: Restriction) -> Restriction | None:
    """Both restrictions at once, or None where no value can satisfy them."""
    if {first.null, second.null} == {"never", "always"} or {first.fold, second.fold} == {"lower", "upper"}:
        return None
    choices = first.choices if second.choices is None else second.choices
    if first.choices is not None and second.choices is not None:
        choices = tuple(choice for choice in first.choices if choice in second.choices)
    excluded = first.excluded + second.excluded
    if choices is not None:
        choices = tuple(choice for choice in choices if choice not in excluded)
        if not choices:
            return None
    lengths = [length for length in (first.max_length, second.max_length) if length is not None]
    return Restriction(
        lower=first.lower + second.lower,
        upper=first.upper + second.upper,
        choices=choices,
        excluded=excluded,
        min_length=max(first.min_length, second.min_length),
        max_length=min(lengths) if lengths else None,
        patterns=tuple(dict.fromkeys(first.patterns + second.patterns)),
        fold=first.fold or second.fold,
        null=first.null or second.null,
        json_type=first.json_type or second.json_type,
        elements=first.elements if second.elements is None else second.elements,
    )


def renamed(case: Case, old: str, new: str) -> Case:
    """The case with one column called otherwise: a domain's VALUE becomes the column that has the domain."""
    return Case(
        {new if column == old else column: restriction for column, restriction in case.restrictions.items()}, case.orderings
    )


def _cases(node: Node, negated: bool) -> tuple[Case, ...]:
    match node:
        case Not(operand):
            return _cases(operand, not negated)
        case And(terms) | Or(terms):
            options = [_cases(term, negated) for term in terms]
            if isinstance(node, And) != negated:
                return combine(options)
            return tuple(case for option in options for case in option)[:MAX_CASES]
        case Name(column):
            return _one(column, choices=("false" if negated else "true",))
        case Test():
            return _test_cases(node, negated)
        case Quantified():
            return _quantified_cases(node, negated)
        case Operation():
            return _operation_cases(node, _NEGATED.get(node.operator, "") if negated else node.operator)
        case Call("starts_with", (Name(column), Literal(str() as prefix))) if not negated:
            return _one(column, patterns=(PatternRule(pattern_of_like(f"{prefix}%")),))
        case Literal(text) if text == ("true" if negated else "false"):
            return ()
        case _:
            return _ANY_CASE


def _one(column: str, **restriction: object) -> tuple[Case, ...]:
    return (Case({column: msgspec.structs.replace(ANYTHING, **restriction)}),)


def _test_cases(node: Test, negated: bool) -> tuple[Case, ...]:
    wanted = node.negated == negated
    match node:
        case Test(Name(column), "null", _):
            return _one(column, null="always" if wanted else "never")
        case Test(operand, "true", _):
            return _cases(operand, not wanted)
        case Test(operand, "false", _):
            return _cases(operand, wanted)
        case _:
            return _ANY_CASE


def _quantified_cases(node: Quantified, negated: bool) -> tuple[Case, ...]:
    operator = _NEGATED.get(node.operator, "") if negated else node.operator
    every = node.every != negated
    items = [item.text for item in node.items if isinstance(item, Literal) and item.text is not None]
    if len(items) != len(node.items):
        return _ANY_CASE
    if isinstance(node.left, Name) and operator == "=" and not every:
        return _one(node.left.column, choices=tuple(dict.fromkeys(items)))
    if isinstance(node.left, Name) and operator == "<>" and every:
        return _one(node.left.column, excluded=tuple(items))
    options = [_operation_cases(Operation(operator, node.left, Literal(item), "", ""), operator) for item in items]
    return combine(options) if every else tuple(case for option in options for case in option)[:MAX_CASES]


def _operation_cases(node: Operation, operator: str) -> tuple[Case, ...]:
    left, right = node.left, node.right
    if isinstance(left, Literal) and not isinstance(right, Literal) and operator in _MIRRORED:
        left, right, operator = right, left, _MIRRORED[operator]
    if operator in ("=", "<>") and _is_predicate(left) and _is_predicate(right):
        same = operator == "="
        return combine([_cases(left, False), _cases(right, not same)]) + combine([_cases(left, True), _cases(right, same)])
    match left, right:
        case Name(column), Literal(str() as text):
            return _value_cases(column, operator, text)
        case Name(column), Call(function, ()) if function in _CLOCKS:
            return _value_cases(column, operator, NOW) if operator not in ("=", "<>") else _ANY_CASE
        case Name(smaller), Name(greater) if operator in ("<", "<="):
            return (Case({}, (Ordering(smaller, greater, operator == "<"),)),)
        case Name(greater), Name(smaller) if operator in (">", ">="):
            return (Case({}, (Ordering(smaller, greater, operator == ">"),)),)
        case (Call(function, (Name(inner),)), Name(column)) | (Name(column), Call(function, (Name(inner),))) if (
            function in _FOLDS and inner == column and operator == "="
        ):
            return _one(column, fold=_FOLDS[function])
        case Name(column), Array(items) if operator == "<@":
            texts = tuple(item.text for item in items if isinstance(item, Literal) and item.text is not None)
            return _one(column, elements=texts) if len(texts) == len(items) else _ANY_CASE
        case Call(), Literal(str() as text):
            return _call_cases(left, operator, text)
        case _:
            return _ANY_CASE


def _is_predicate(node: Node) -> bool:
    return isinstance(node, Test | Not | And | Or | Quantified) or (isinstance(node, Operation) and node.operator in _NEGATED)


def _value_cases(column: str, operator: str, text: str) -> tuple[Case, ...]:
    match operator:
        case "=":
            return _one(column, choices=(text,))
        case "<>":
            return _one(column, excluded=(text,), min_length=0 if text else 1)
        case ">" | ">=":
            return _one(column, lower=(Bound(text, operator == ">"),))
        case "<" | "<=":
            return _one(column, upper=(Bound(text, operator == "<"),))
        case "~" | "~*":
            return _one(column, patterns=(PatternRule(text, operator == "~*"),))
        case "~~" | "~~*":
            return _one(column, patterns=(PatternRule(pattern_of_like(text), operator == "~~*"),))
        case _:
            return _ANY_CASE


def _call_cases(call: Call, operator: str, text: str) -> tuple[Case, ...]:
    function, arguments = call.function, call.arguments
    if function in ("num_nonnulls", "num_nulls") and text.isdigit():
        return _null_count_cases(call, operator, int(text))
    subject = arguments[0] if arguments else None
    if isinstance(subject, Call) and subject.function in _TRIMS and subject.arguments:
        subject = subject.arguments[0]
    if not isinstance(subject, Name):
        return _ANY_CASE
    if function in _LENGTHS:
        return _length_cases(subject.column, operator, text)
    if function in _TRIMS and operator == "<>" and not text:
        return _one(subject.column, min_length=1)
    if function in _FOLDS and operator in ("=", "~", "~~"):
        return _value_cases(subject.column, operator, text)
    if function in ("jsonb_typeof", "json_typeof") and operator == "=":
        return _one(subject.column, json_type=text)
    return _ANY_CASE


def _length_cases(column: str, operator: str, text: str) -> tuple[Case, ...]:
    if not text.removeprefix("-").isdigit():
        return _ANY_CASE
    length = int(text)
    least = {">": length + 1, ">=": length, "=": length, "<>": 1 if length == 0 else 0}.get(operator, 0)
    most = {"<": length - 1, "<=": length, "=": length}.get(operator)
    if most is not None and most < 0:
        return _one(column, null="always")
    return _one(column, min_length=max(least, 0), max_length=most)


def _null_count_cases(call: Call, operator: str, count: int) -> tuple[Case, ...]:
    columns = [argument.column for argument in call.arguments if isinstance(argument, Name)]
    if len(columns) != len(call.arguments):
        return _ANY_CASE
    wanted = {"=": range(count, count + 1), ">=": range(count, len(columns) + 1), ">": range(count + 1, len(columns) + 1)}
    wanted |= {"<=": range(count + 1), "<": range(count)}
    chosen: Null = "never" if call.function == "num_nonnulls" else "always"
    other: Null = "always" if chosen == "never" else "never"
    found = [
        Case({column: Restriction(null=chosen if column in picked else other) for column in columns})
        for size in wanted.get(operator, range(0))
        for picked in combinations(columns, min(size, len(columns)))
    ]
    return tuple(found[:MAX_CASES]) or _ANY_CASE


def _derivation(node: Operation) -> Derivation | None:
    match node.left, node.right:
        case Name(), Literal() | Quantified() | Test() | Array():
            return None
        case Name(column), Call(function, (Name(inner),)) if function in _FOLDS and inner == column:
            return None
        case Name(column), _:
            return Derivation(column, node.right_sql)
        case ((Operation() | Call()), Name(column)):
            return Derivation(column, node.left_sql)
        case _:
            return None
