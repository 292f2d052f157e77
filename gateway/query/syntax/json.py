"""The JSON dialect: `{"or": [{"status": "active"}, {"price": {"gte": 10}}]}`, as `filter=` has it and YAML's `rows`.

The members of an object all hold (`and`). A member is `and`/`or` with a list, `not` with an object, or a field with a value
(`eq`) or with an object of operators.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import Problem, ValidationFailed
from gateway.query.ast import Condition, Group, Written

MAX_DEPTH = 5
LOGIC = ("and", "or", "not")


def parse_filter(value: Any, parameter: str) -> Written:
    """`value` (decoded JSON or YAML) as conditions. Raises ValidationFailed, which names `parameter`."""
    problems: list[Problem] = []
    written = _object(value, parameter, 1, problems)
    if problems or written is None:
        raise ValidationFailed("The filter is not valid.", problems)
    return written


def _object(value: Any, parameter: str, depth: int, problems: list[Problem]) -> Written | None:
    if not isinstance(value, dict):
        problems.append(Problem(parameter, 'takes an object, such as {"status": "active"}'))
        return None
    if not value:
        problems.append(Problem(parameter, "is empty; leave it out to mean every row"))
        return None
    if depth > MAX_DEPTH:
        problems.append(Problem(parameter, f"is nested more than {MAX_DEPTH} deep"))
        return None
    items: list[Written] = []
    for name, member in value.items():
        items += _member(name, member, parameter, depth, problems)
    return items[0] if len(items) == 1 else Group("and", tuple(items))


def _member(name: str, member: Any, parameter: str, depth: int, problems: list[Problem]) -> list[Written]:
    if name in ("and", "or") and isinstance(member, list):
        if not member:
            problems.append(Problem(parameter, f'"{name}" takes at least one condition'))
        found = [_object(item, parameter, depth + 1, problems) for item in member]
        items = tuple(item for item in found if item is not None)
        return [Group("or" if name == "or" else "and", items)] if items else []
    if name == "not" and isinstance(member, dict):
        item = _object(member, parameter, depth + 1, problems)
        return [Group("not", (item,))] if item is not None else []
    if name in LOGIC and not isinstance(member, dict):
        problems.append(Problem(parameter, f'"{name}" takes {"an object" if name == "not" else "a list of objects"}'))
        return []
    if isinstance(member, dict):
        if not member:
            problems.append(Problem(parameter, f'"{name}" has no operator; write {{"{name}": {{"eq": …}}}}'))
        return [Condition(parameter, name, operator, operand, typed=True) for operator, operand in member.items()]
    if member is None:
        problems.append(Problem(parameter, f'"{name}" is null; write {{"{name}": {{"null": true}}}}'))
        return []
    return [Condition(parameter, name, "eq", member, typed=True)]
