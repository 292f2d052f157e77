"""What a resource file may hold, read off the structs of `model`: shapes for the loader, a JSON Schema for editors.

A key exists by being a field of a struct. What a Python type cannot say (a bound, a grammar) is a row of `CONSTRAINTS`.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, Literal

import msgspec

from gateway.definitions.model import (
    CacheDefinition,
    DeprecatedDefinition,
    FieldDefinition,
    LimitDefinition,
    ListDefinition,
    RelationDefinition,
    ResourceDefinition,
    RuleDefinition,
)


class Shape(msgspec.Struct, frozen=True):
    """The values that one key takes: any of `scalars`, a list of `item`, a mapping to `value`, or a `struct`'s mapping.

    `choices` are the texts that a Literal allows; `anything` is any YAML value.
    """

    scalars: tuple[type, ...] = ()
    choices: tuple[str, ...] = ()
    nullable: bool = False
    anything: bool = False
    item: Shape | None = None
    value: Shape | None = None
    struct: type[msgspec.Struct] | None = None

    @property
    def takes_empty(self) -> bool:
        """Whether a key without a value, `total:`, is an empty mapping. Not so for `rows`, `set` and lists: there nothing
        would mean everything, which an author who only took the lines out did not say.
        """
        return self.struct is not None or (self.value is not None and self.value.struct is not None)

    @property
    def takes_null(self) -> bool:
        """Whether null leaves a single value to its default."""
        return self.nullable and (self.anything or bool(self.scalars or self.choices))


class Member(msgspec.Struct, frozen=True):
    """One key of a struct."""

    name: str
    shape: Shape
    required: bool


class Constraint(msgspec.Struct, frozen=True):
    """What a key's value must satisfy beyond its type. `above` is exclusive; `form` is the pattern in words,
    and `expression` means that the text is itself a regular expression.

    Bounds and pattern hold for the value itself, or for each value of a list or mapping; `not_empty` and `unique` for the whole.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    pattern: str | None = None
    form: str = ""
    expression: bool = False
    not_empty: bool = False
    unique: bool = False


RESOURCE_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,62}"
VERSION = r"v[1-9][0-9]{0,8}"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
RATE_LIMIT = r"[1-9][0-9]{0,8}/(second|minute|hour|day)"
MAX_TIMEOUT_SECONDS = 3600
MAX_TTL_SECONDS = 366 * 24 * 3600
MAX_PAGE_ROWS = 100_000
_MAX_LENGTH = 2**31 - 1

_NAME = Constraint(pattern=r"[\s\S]+", form="a name")
_NAMES = Constraint(pattern=r"[\s\S]+", form="a name", unique=True)

CONSTRAINTS: dict[tuple[type[msgspec.Struct], str], Constraint] = {
    (ResourceDefinition, "table"): _NAME,
    (ResourceDefinition, "key"): Constraint(pattern=r"[\s\S]+", form="a name", unique=True, not_empty=True),
    (ResourceDefinition, "version"): Constraint(pattern=VERSION, form="v1, v2 and so on"),
    (ResourceDefinition, "rate_limit"): Constraint(pattern=RATE_LIMIT, form="N/second, N/minute, N/hour or N/day"),
    (ResourceDefinition, "timeout"): Constraint(above=0, maximum=MAX_TIMEOUT_SECONDS),
    (ResourceDefinition, "version_column"): _NAME,
    (FieldDefinition, "column"): _NAME,
    (FieldDefinition, "min_length"): Constraint(minimum=0, maximum=_MAX_LENGTH),
    (FieldDefinition, "max_length"): Constraint(minimum=0, maximum=_MAX_LENGTH),
    (FieldDefinition, "pattern"): Constraint(expression=True),
    (FieldDefinition, "enum"): Constraint(not_empty=True, unique=True),
    (RelationDefinition, "to"): _NAME,
    (RelationDefinition, "on"): Constraint(not_empty=True, pattern=r"[\s\S]+", form="a name"),
    (LimitDefinition, "default"): Constraint(minimum=1, maximum=MAX_PAGE_ROWS),
    (LimitDefinition, "max"): Constraint(minimum=1, maximum=MAX_PAGE_ROWS),
    (ListDefinition, "sort"): Constraint(
        pattern=r"-?(?!-)[^:]+(:(nullsfirst|nullslast))?", form="[-]field[:nullsfirst|:nullslast]", unique=True
    ),
    (ListDefinition, "filter"): _NAMES,
    (CacheDefinition, "ttl"): Constraint(minimum=0, maximum=MAX_TTL_SECONDS),
    (RuleDefinition, "fields"): _NAMES,
    (DeprecatedDefinition, "since"): Constraint(pattern=_DAY, form="a day, such as 2026-11-30"),
    (DeprecatedDefinition, "sunset"): Constraint(pattern=_DAY, form="a day, such as 2026-11-30"),
    (DeprecatedDefinition, "link"): Constraint(pattern=r"https?://[!#-;=?-\[\]_a-z~%]+", form="a URL, https://…"),
}
"""Rows: (struct, key) -> what its value must satisfy. The loader checks them, the JSON Schema tells of them."""


def constraint_of(struct: type[msgspec.Struct], name: str) -> Constraint:
    """The row of `CONSTRAINTS` for a key, or one that everything satisfies."""
    return CONSTRAINTS.get((struct, name), Constraint())


@cache
def members_of(struct: type[msgspec.Struct]) -> dict[str, Member]:
    """The keys of a struct's mapping, in the struct's order."""
    # An empty `localns`: a struct's own members must not hide a type of the same name, as `ResourceDefinition.list` would.
    hints = typing.get_type_hints(struct, localns={})
    names = struct.__struct_fields__
    required = set(names[: len(names) - len(struct.__struct_defaults__)])
    return {name: Member(name, shape_of(hints[name]), name in required) for name in names}


def shape_of(hint: Any) -> Shape:
    """The shape of a type hint. Raises TypeError for a type that no resource file can hold."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _merged([shape_of(argument) for argument in arguments])
    if origin is Literal:
        return Shape(choices=arguments)
    if origin is list:
        return Shape(item=shape_of(arguments[0]))
    if origin is dict:
        return Shape(value=shape_of(arguments[1]))
    if hint is Any:
        return Shape(anything=True, nullable=True)
    if hint is type(None):
        return Shape(nullable=True)
    if hint in (str, int, float, bool):
        return Shape(scalars=(hint,))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Shape(struct=hint)
    raise TypeError(f"a resource file cannot hold {hint!r}")


def _merged(shapes: list[Shape]) -> Shape:
    return Shape(
        scalars=tuple(scalar for shape in shapes for scalar in shape.scalars),
        choices=tuple(choice for shape in shapes for choice in shape.choices),
        nullable=any(shape.nullable for shape in shapes),
        item=next((shape.item for shape in shapes if shape.item), None),
        value=next((shape.value for shape in shapes if shape.value), None),
        struct=next((shape.struct for shape in shapes if shape.struct), None),
    )


def json_schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of a resource file, for editors to complete and check against.

    It says less than the loader: nothing of duplicate keys, or of two values that must fit each other.
    """
    structs: dict[str, type[msgspec.Struct]] = {}
    _collect(ResourceDefinition, structs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A resource file of the gateway",
        "$ref": f"#/$defs/{ResourceDefinition.__name__}",
        "$defs": {name: _struct_schema(struct) for name, struct in structs.items()},
    }


def _collect(struct: type[msgspec.Struct], into: dict[str, type[msgspec.Struct]]) -> None:
    into[struct.__name__] = struct
    for member in members_of(struct).values():
        for shape in (member.shape, member.shape.item, member.shape.value):
            if shape and shape.struct and shape.struct.__name__ not in into:
                _collect(shape.struct, into)


def _struct_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    members = members_of(struct)
    required = [name for name, member in members.items() if member.required]
    return {
        # Where no key is required a mapping may be left empty, as in `total:`, which YAML reads as null.
        "type": "object" if required else ["object", "null"],
        "properties": {name: _schema(member.shape, constraint_of(struct, name)) for name, member in members.items()},
        "required": required,
        "additionalProperties": False,
    }


_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _schema(shape: Shape, constraint: Constraint) -> dict[str, Any]:
    if shape.anything:
        return {}
    options = [
        *(_scalar_schema(scalar, constraint) for scalar in shape.scalars),
        *([{"enum": list(shape.choices)}] if shape.choices else []),
        *([_list_schema(shape.item, constraint)] if shape.item else []),
        *([_map_schema(shape.value, constraint)] if shape.value else []),
        *([{"$ref": f"#/$defs/{shape.struct.__name__}"}] if shape.struct else []),
        *([{"type": "null"}] if shape.takes_null else []),
    ]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _scalar_schema(scalar: type, constraint: Constraint) -> dict[str, Any]:
    if scalar is str:
        pattern = f"^(?:{constraint.pattern})$" if constraint.pattern else None
        return _given(type="string", pattern=pattern, format="regex" if constraint.expression else None)
    if scalar is bool:
        return {"type": "boolean"}
    return _given(
        type=_JSON_TYPES[scalar], minimum=constraint.minimum, maximum=constraint.maximum, exclusiveMinimum=constraint.above
    )


def _list_schema(item: Shape, constraint: Constraint) -> dict[str, Any]:
    fewest = 1 if constraint.not_empty else None
    return _given(type="array", items=_schema(item, constraint), minItems=fewest, uniqueItems=constraint.unique or None)


def _map_schema(value: Shape, constraint: Constraint) -> dict[str, Any]:
    return _given(
        type=["object", "null"] if value.struct else "object",
        propertyNames={"minLength": 1},
        additionalProperties=_schema(value, constraint),
        minProperties=1 if constraint.not_empty else None,
    )


def _given(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}
