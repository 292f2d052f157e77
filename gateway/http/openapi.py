"""The OpenAPI 3.1 document of one API version, made from the catalog and the tables of operators, types and errors. Pure.

A table of 300 columns has thousands of query parameters, so what a parameter takes is a shared schema of its type, and only
its name and its sentence are its own. What OpenAPI cannot say (a JSON path as a parameter's name, limits across parameters)
is said in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.catalog.model import Catalog, Field, Resource
from gateway.catalog.types import ColumnType, Family
from gateway.definitions.model import Operation
from gateway.errors import (
    ERRORS,
    Conflict,
    DatabaseTimeout,
    Forbidden,
    GatewayError,
    IdempotencyMismatch,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    PreconditionRequired,
    RateLimited,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    ValidationFailed,
)
from gateway.http.deprecation import successor_of
from gateway.http.edge import MAX_HEAD_BYTES
from gateway.http.etags import TAGS
from gateway.http.requests import PLAN_TYPE
from gateway.http.value_schemas import (
    FLAG,
    NULL,
    PATH_VALUE,
    TEXT,
    Schema,
    answered_schema,
    filter_operand,
    filter_value,
    is_comma_list,
    path_operand,
    sent_schema,
    url_operand,
    url_value,
)
from gateway.idempotency import IDEMPOTENCY_KEY
from gateway.query.ast import Grant
from gateway.query.operators import Operator, operators_for, path_operators
from gateway.query.payload import writable_fields
from gateway.query.plan import COUNTS, MAX_COMPARISONS, MAX_LIST_ITEMS, MAX_OFFSET, readable_fields
from gateway.query.syntax.brackets import MAX_PARAMETERS, RESERVED, join_list
from gateway.query.syntax.json import MAX_DEPTH

OPENAPI_VERSION = "3.1.0"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

_EVERYWHERE = (ValidationFailed, DatabaseTimeout, RateLimited, InternalError, Unavailable)
_WITH_A_BODY = (PayloadTooLarge, UnsupportedMediaType)

OPERATION_ERRORS: Mapping[str, tuple[type[GatewayError], ...]] = {
    "list": _EVERYWHERE,
    "get": (*_EVERYWHERE, NotFound, PreconditionFailed),
    "create": (*_EVERYWHERE, Conflict, IdempotencyMismatch, *_WITH_A_BODY),
    "patch": (*_EVERYWHERE, NotFound, Conflict, IdempotencyMismatch, PreconditionFailed, *_WITH_A_BODY),
    "delete": (*_EVERYWHERE, NotFound, Conflict, IdempotencyMismatch, PreconditionFailed),
    "openapi": (RateLimited, InternalError),
}
"""What each operation may answer beside success; 428 comes on top where `require_if_match` is set.

405 is no operation's answer: it is for the methods that a path lacks.
"""

SECURED_ERRORS: Mapping[str, tuple[type[GatewayError], ...]] = {
    **dict.fromkeys(("list", "get", "create", "patch", "delete"), (Unauthorized, Forbidden)),
    "openapi": (Unauthorized,),
}
"""What comes on top where tokens are looked at."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


Access = Callable[[Resource], Mapping[Operation, Grant]]
"""What one caller may do with a resource: the grant of each operation that they may do at all."""


def document(
    catalog: Catalog,
    version: str,
    *,
    max_body_bytes: int,
    service_name: str,
    secured: bool = False,
    access: Access | None = None,
    explains: bool = False,
) -> dict[str, Any]:
    """The OpenAPI document of `version`. Resources that are broken are not in it. `secured`: tokens are looked at. `explains`:
    reads tell how PostgreSQL runs them.

    With `access` it has what that caller may use, and nothing else: resources, operations, fields.
    """
    resources = [resource for (of_version, _), resource in catalog.resources.items() if of_version == version]
    views = [_view(resource, None if access is None else access(resource)) for resource in resources]
    views = [view for view in views if view.operations]
    shared = _Shared()
    paths: dict[str, Any] = {}
    for view in views:
        of_resource = _paths(view, shared)
        if view.resource.definition.deprecated is not None:
            _deprecate(of_resource, view.resource, successor_of(catalog, view.resource))
        if explains:
            _explain(of_resource)
        paths |= of_resource
    paths |= _operations_paths(version)
    if secured:
        _secure(paths)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": service_name,
            "version": version,
            "description": _overview(max_body_bytes),
            "x-versions": list(catalog.versions),
        },
        "servers": [{"url": "/", "description": "This host"}],
        "tags": [*(_tag(view.resource) for view in views), {"name": "operations", "description": "Health, and this document."}],
        **({"security": [{"bearer": []}, {}]} if secured else {}),
        "paths": paths,
        "components": {
            "schemas": {**_COMMON_SCHEMAS, **shared.schemas},
            "parameters": _COMMON_PARAMETERS,
            "headers": _HEADERS,
            "responses": {error.__name__: _error_response(error) for error in ERRORS},
            **({"securitySchemes": {"bearer": _BEARER}} if secured else {}),
        },
    }


def _secure(paths: Mapping[str, Any]) -> None:
    """Adds to each operation what tokens bring with them; health asks for none."""
    for item in paths.values():
        for operation in item.values():
            kind = operation["operationId"].rpartition("_")[2] if isinstance(operation, dict) else ""
            if operation_errors := SECURED_ERRORS.get(kind):
                operation["responses"] |= _error_responses(operation_errors)


def _error_responses(errors: Iterable[type[GatewayError]]) -> dict[str, Any]:
    return {str(error.status): _ref("responses", error.__name__) for error in sorted(errors, key=lambda error: error.status)}


class _Shared:
    """Schemas that many places refer to. One that is shared under a name that another has already gets a number behind it."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def share(self, name: str, schema: Schema) -> Schema:
        """A reference to `schema` as a component."""
        plain = unique = _component_name(name)
        number = 2
        while self.schemas.setdefault(unique, schema) != schema:
            unique = f"{plain}.{number}"
            number += 1
        return _ref("schemas", unique)


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _component_name(name: str) -> str:
    """`name`, perhaps an enum type's, with what a component cannot be called as its code point: `my mood` is `my.20.mood`."""
    return _NOT_IN_A_NAME.sub(lambda found: f".{ord(found[0]):x}.", name)


# --- paths -------------------------------------------------------------------------------------------------------------


class _View(msgspec.Struct, frozen=True, eq=False):
    """A resource as one caller may use it: `resource` shows what they may read, `create` and `patch` what they may send.

    `whole` tells that what they wrote is shown to them for sure, with all its fields.
    """

    resource: Resource
    operations: tuple[str, ...]
    create: Mapping[str, Field]
    patch: Mapping[str, Field]
    whole: bool


def _view(resource: Resource, grants: Mapping[Operation, Grant] | None) -> _View:
    if grants is None:
        sent = writable_fields(resource)
        return _View(resource, resource.operations, sent, sent, whole=True)
    readable = readable_fields(resource, grants["read"]) if "read" in grants else {}
    return _View(
        msgspec.structs.replace(resource, visible=readable),
        tuple(grants),
        writable_fields(resource, grants["create"]) if "create" in grants else {},
        writable_fields(resource, grants["patch"]) if "patch" in grants else {},
        whole="read" in grants and grants["read"].rows is None,
    )


def _paths(view: _View, shared: _Shared) -> dict[str, Any]:
    resource = view.resource
    row = shared.share(resource.name, _row_schema(resource))
    written = {**row, "required": list(resource.visible)} if view.whole else row
    base = f"/api/{resource.version}/{resource.name}"
    of_all: dict[str, Any] = {}
    of_one: dict[str, Any] = {}
    if "read" in view.operations:
        of_all["get"] = _list(resource, row, shared)
        of_one["get"] = _get(resource, row)
    if "create" in view.operations:
        of_all["post"] = _create(view, written, shared)
    if "patch" in view.operations:
        of_one["patch"] = _patch(view, written, shared)
    if "delete" in view.operations:
        of_one["delete"] = _delete(resource)
    paths = {base: of_all} if of_all else {}
    return paths | ({f"{base}/{{key}}": {"parameters": [_key_parameter(resource)], **of_one}} if of_one else {})


def _explain(paths: Mapping[str, Any]) -> None:
    """Each read has another answer, for who accepts nothing else: its plan."""
    for operations in paths.values():
        if "get" in operations:
            operations["get"]["responses"]["200"]["content"][PLAN_TYPE.decode()] = {"schema": _PLAN}


_PLAN: Schema = {
    "type": "object",
    "description": "How PostgreSQL would run this: the SQL, whose values stand apart, and the plan of EXPLAIN. Nothing is run.",
    "properties": {
        "data": {
            "type": "object",
            "properties": {"sql": {"type": "string"}, "plan": {"type": "array", "items": {"type": "object"}}},
            "required": ["sql", "plan"],
        }
    },
    "required": ["data"],
}


def _deprecate(paths: Mapping[str, Any], resource: Resource, successor: Resource | None) -> None:
    """Marks each operation of a deprecated resource, and says until when it answers and what to use instead."""
    definition = resource.definition.deprecated
    if definition is None:
        return
    said = [f"Deprecated since {definition.since}"]
    said += [f"Gone from {definition.sunset} on"] if definition.sunset else []
    said += [f"Use `/api/{successor.id}`"] if successor else []
    said += [f"See {definition.link}"] if definition.link else []
    headers = _headers("Deprecation", *(["Sunset"] if definition.sunset else []))
    for operation in (each for item in paths.values() for each in item.values() if isinstance(each, dict)):
        operation["deprecated"] = True
        operation["description"] = "\n\n".join([*map(_sentence, said), *filter(None, [operation.get("description")])])
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                response["headers"] |= headers


def _tag(resource: Resource) -> dict[str, str]:
    return {"name": resource.name, "description": resource.description} if resource.description else {"name": resource.name}


def _operation(resource: Resource, name: str, summary: str, success: dict[str, Any], **more: Any) -> dict[str, Any]:
    responses = success | _error_responses(_errors(resource, name))
    more["parameters"] = [*more.get("parameters", ()), _ref("parameters", "ConsistencyToken")]
    if name not in ("list", "get"):
        for response in success.values():
            response["headers"]["X-Consistency-Token"] = _ref("headers", "X-Consistency-Token")
    return {
        "operationId": f"{resource.name}_{name}",
        "tags": [resource.name],
        "summary": summary,
        **more,
        "responses": responses,
    }


def _list(resource: Resource, row: Schema, shared: _Shared) -> dict[str, Any]:
    envelope = {
        "type": "object",
        "properties": {"data": {"type": "array", "items": row}, "meta": _ref("schemas", "Meta")},
        "required": ["data", "meta"],
        "additionalProperties": False,
    }
    success = _success("The rows of this page.", envelope, Link=_ref("headers", "Link"))
    return _operation(
        resource,
        "list",
        f"List {resource.name}",
        {"200": success},
        description=_list_description(resource),
        parameters=_list_parameters(resource, shared),
    )


def _get(resource: Resource, row: Schema) -> dict[str, Any]:
    return _operation(
        resource,
        "get",
        f"Get one row of {resource.name}",
        {
            "200": _success("The row.", _one(row), ETag=_ref("headers", "ETag")),
            "304": {
                "description": "The caller has it: `If-None-Match` names what it is now.",
                "headers": _headers(*ALWAYS, "ETag"),
            },
        },
        parameters=[_fields_parameter(resource), *_parameters("IfNoneMatch", "RequestId")],
    )


def _create(view: _View, row: Schema, shared: _Shared) -> dict[str, Any]:
    resource = view.resource
    success = _success("The row as it was stored.", _one(row), **_headers("Location", "ETag", "Idempotency-Replayed"))
    if set(resource.key) <= resource.visible.keys():
        success["links"] = {
            name: {"operationId": f"{resource.name}_{name}", "parameters": {"key": _key_expression(resource)}}
            for name, operation in (("get", "read"), ("patch", "patch"), ("delete", "delete"))
            if operation in view.operations
        }
    return _operation(
        resource,
        "create",
        f"Create a row of {resource.name}",
        {"201": success},
        parameters=_parameters("IdempotencyKey", "RequestId"),
        requestBody=_body(shared.share(f"{resource.name}.create", _create_schema(view.create)), JSON),
    )


def _patch(view: _View, row: Schema, shared: _Shared) -> dict[str, Any]:
    resource = view.resource
    return _operation(
        resource,
        "patch",
        f"Change fields of one row of {resource.name}",
        {"200": _success("The row as it is now.", _one(row), **_headers("ETag", "Idempotency-Replayed"))},
        description=(
            "Fields that are not sent keep their values. As `application/merge-patch+json` (RFC 7396) an object sent for a "
            "JSON field is merged into what is stored; as `application/json` it takes its place."
        ),
        parameters=[_if_match(resource), *_parameters("IdempotencyKey", "RequestId")],
        requestBody=_body(shared.share(f"{resource.name}.patch", _patch_schema(view.patch)), JSON, MERGE_PATCH),
    )


def _delete(resource: Resource) -> dict[str, Any]:
    return _operation(
        resource,
        "delete",
        f"Delete one row of {resource.name}",
        {"204": {"description": "It is gone.", "headers": _headers(*ALWAYS, "Idempotency-Replayed")}},
        parameters=[_if_match(resource), *_parameters("IdempotencyKey", "RequestId")],
    )


def _if_match(resource: Resource) -> dict[str, Any]:
    """Of a table whose rows' states nothing tells apart it can only ask that the row is there."""
    pattern = rf"^(\*|{TAGS})$" if resource.is_versioned else r"^\*$"
    return {
        "name": "If-Match",
        "in": "header",
        "required": resource.require_if_match,
        "description": "The row's ETag as it was read: the write takes place only if nobody changed the row since, else 412. "
        "`*` is satisfied by any row.",
        "schema": {"type": "string", "pattern": pattern},
    }


def _errors(resource: Resource, name: str) -> tuple[type[GatewayError], ...]:
    required = (PreconditionRequired,) if resource.require_if_match and name in ("patch", "delete") else ()
    return (*OPERATION_ERRORS[name], *required)


def _parameters(*names: str) -> list[dict[str, Any]]:
    return [_ref("parameters", name) for name in names]


def _success(description: str, schema: Schema, **headers: Schema) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {**_headers(*ALWAYS), **headers},
        "content": {JSON: {"schema": schema}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: _ref("headers", name) for name in names}


def _body(schema: Schema, *media_types: str) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema} for media_type in media_types}}


# --- rows and bodies ---------------------------------------------------------------------------------------------------


def _row_schema(resource: Resource) -> Schema:
    """A row as answered. Nothing is required, for `fields=` may leave out any of it."""
    properties = {name: _described(answered_schema(field), _field_description(field)) for name, field in resource.visible.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _one(row: Schema) -> Schema:
    return {"type": "object", "properties": {"data": row}, "required": ["data"], "additionalProperties": False}


def _sent_object(fields: Mapping[str, Field]) -> Schema:
    properties = {name: _described(sent_schema(field), _field_description(field)) for name, field in fields.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _create_schema(writable: Mapping[str, Field]) -> Schema:
    required = [name for name, field in writable.items() if field.required]
    return _sent_object(writable) | ({"required": required} if required else {})


def _patch_schema(writable: Mapping[str, Field]) -> Schema:
    return _sent_object(writable) | {"minProperties": 1}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description} if description else schema


def _field_description(field: Field) -> str:
    """The author's sentence, and what the schema's keywords do not tell of the type."""
    precise = field.type.family is Family.NUMBER and field.type.name == "numeric" and field.type.json is None
    notes = [field.description, "An exact decimal number." if precise else ""]
    return " ".join(_sentence(note) for note in notes if note)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


# --- keys --------------------------------------------------------------------------------------------------------------


def _key_parameter(resource: Resource) -> dict[str, Any]:
    fields = [resource.fields[name] for name in resource.key]
    if len(fields) == 1:
        return {
            "name": "key",
            "in": "path",
            "required": True,
            "description": f"The row's `{fields[0].name}`, percent-encoded.",
            "schema": _single_key_schema(fields[0].type),
        }
    names = "`, `".join(resource.key)
    return {
        "name": "key",
        "in": "path",
        "required": True,
        "description": f"The row's `{names}`, in this order: each percent-encoded, then joined by commas.",
        "schema": {"type": "string", "pattern": f"^{','.join(_key_part(field.type) for field in fields)}$"},
    }


def _single_key_schema(column: ColumnType) -> Schema:
    value = url_value(column)
    return {"type": "string", "minLength": 1} if value == TEXT else value


def _key_part(column: ColumnType) -> str:
    """One part of a composite key, as a regular expression."""
    if column.name in ("int2", "int4", "int8"):
        return "-?[0-9]{1,19}"
    if column.name == "uuid":
        return "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    return "[^,]+"


def _key_expression(resource: Resource) -> str:
    """The key of a row that was just created, as a runtime expression (OpenAPI 3.1, 4.8.20.4)."""
    parts = [f"$response.body#/data/{_pointer(name)}" for name in resource.key]
    return parts[0] if len(parts) == 1 else ",".join(f"{{{part}}}" for part in parts)


def _pointer(name: str) -> str:
    """A member's name in a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


# --- the list grammar --------------------------------------------------------------------------------------------------


def _list_description(resource: Resource) -> str:
    lines = [resource.description] if resource.description else []
    lines.append(f"In the order {', '.join(f'`{term}`' for term in resource.sort)} where `sort` does not say otherwise.")
    paths = [name for name, field in resource.visible.items() if field.filterable and field.type.family is Family.JSON]
    if paths:
        operators = ", ".join(f"`{operator.name}`" for operator in path_operators())
        lines.append(
            f"Below a JSON field, a path is a parameter too: `{paths[0]}.color=red`, `{paths[0]}.size.width[gte]=10`. "
            f"The fields: {', '.join(f'`{name}`' for name in paths)}. The operators: {operators}."
        )
    return "\n\n".join(map(_sentence, lines))


def _list_parameters(resource: Resource, shared: _Shared) -> list[dict[str, Any]]:
    filterable = {name: field for name, field in resource.visible.items() if field.filterable}
    parameters = [_limit_parameter(resource)]
    parameters += [_ref("parameters", name) for name in ("Page", "Cursor", "Count")]
    parameters += [_fields_parameter(resource), *_sort_parameters(resource)]
    if filterable:
        parameters.append(_filter_parameter(resource, filterable, shared))
    parameters.append(_ref("parameters", "RequestId"))
    for name, field in filterable.items():
        parameters += _condition_parameters(name, field, shared)
    return parameters


def _query(name: str, description: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _comma_list(name: str, description: str, schema: Schema) -> dict[str, Any]:
    return {**_query(name, description, schema), "style": "form", "explode": False}


def _limit_parameter(resource: Resource) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": resource.limit_max, "default": resource.limit_default}
    return _query("limit", "How many rows at most.", schema)


def _fields_parameter(resource: Resource) -> dict[str, Any]:
    names = [join_list([name]) for name in resource.visible]
    schema = {"type": "array", "items": {"enum": names}, "minItems": 1, "uniqueItems": True}
    return _comma_list("fields", "The fields to answer with; all of them where left out.", schema)


def _sort_parameters(resource: Resource) -> list[dict[str, Any]]:
    terms = {name: _sort_terms(field) for name, field in resource.visible.items() if field.type.sortable}
    if not terms:
        return []
    schema = {
        "type": "array",
        "items": {"enum": [term for of_field in terms.values() for term in of_field]},
        "minItems": 1,
        "maxItems": len(terms),
        "allOf": [{"contains": {"enum": of_field}, "minContains": 0, "maxContains": 1} for of_field in terms.values()],
    }
    description = (
        "The order: `field` rises, `-field` falls; `:nullsfirst` and `:nullslast` say where nulls go. A field can be named "
        "once. The key comes last of itself, so the order is total."
    )
    return [_comma_list("sort", description, schema)]


def _sort_terms(field: Field) -> list[str]:
    ends = ("", ":nullsfirst", ":nullslast") if field.nullable else ("",)
    return [join_list([f"{sign}{field.name}{end}"]) for sign in ("", "-") for end in ends]


def _condition_parameters(name: str, field: Field, shared: _Shared) -> Iterable[dict[str, Any]]:
    """`field=` and `field[op]=` for each operator. A name that would read as an option or an operator has no short form."""
    for operator in operators_for(field.type.family):
        described = f"`{name}`: {operator.help}."
        schema, is_list = _operand_parameter(operator, field.type, shared)
        build = _comma_list if is_list else _query
        if operator.name == "eq" and name not in RESERVED and not name.endswith("]"):
            yield build(name, described, schema)
            described = f"Says the same as `{name}`; send one of the two."
        yield build(f"{name}[{operator.name}]", described, schema)


def _operand_parameter(operator: Operator, column: ColumnType, shared: _Shared) -> tuple[Schema, bool]:
    schema = url_operand(operator, column)
    if schema in (TEXT, FLAG):
        return schema, False
    kind = {"pair": "pair", "list": "list"}.get(operator.arity, "value")
    if operator.name in ("like", "ilike"):
        kind = "pattern"
    return shared.share(f"query.{kind}.{_type_name(column)}", schema), is_comma_list(schema)


def _type_name(column: ColumnType) -> str:
    name = column.sql if column.family is Family.ENUM else (column.name or "other")
    return f"{name}.array" if column.array else name


# --- filter= -----------------------------------------------------------------------------------------------------------


def _filter_parameter(resource: Resource, filterable: Mapping[str, Field], shared: _Shared) -> dict[str, Any]:
    name = f"{resource.name}.filter"
    schema = shared.share(name, _filter_schema(_ref("schemas", _component_name(name)), filterable, shared))
    return {
        "name": "filter",
        "in": "query",
        "description": (
            'Conditions as JSON, with `and`, `or` and `not`: `{"or": [{"status": "active"}, {"price": {"gte": 10}}]}`. '
            f"At most {MAX_DEPTH} deep."
        ),
        "content": {JSON: {"schema": schema}},
    }


def _filter_schema(itself: Schema, filterable: Mapping[str, Field], shared: _Shared) -> Schema:
    several = {"type": "array", "items": itself, "minItems": 1}
    properties: dict[str, Schema] = {"and": several, "or": several, "not": itself}
    patterns: dict[str, Schema] = {}
    for name, field in filterable.items():
        condition = _condition_schema(field.type, shared)
        properties[name] = {"anyOf": [properties[name], condition]} if name in properties else condition
        if field.type.family is Family.JSON:
            patterns[f"^{re.escape(name)}(?:\\.[^.]+)+$"] = shared.share("condition.path", _path_condition())
    return {
        "type": "object",
        "properties": properties,
        **({"patternProperties": patterns} if patterns else {}),
        "minProperties": 1,
        "additionalProperties": False,
    }


def _condition_schema(column: ColumnType, shared: _Shared) -> Schema:
    operators = operators_for(column.family)
    operands = {operator.name: filter_operand(operator, column) for operator in operators}
    short = [filter_value(column)] if "eq" in operands else []
    return shared.share(f"condition.{_type_name(column)}", _condition(short, operands))


def _path_condition() -> Schema:
    return _condition([PATH_VALUE], {operator.name: path_operand(operator) for operator in path_operators()})


def _condition(short: list[Schema], operands: Mapping[str, Schema]) -> Schema:
    written_out = {"type": "object", "properties": dict(operands), "minProperties": 1, "additionalProperties": False}
    return {"anyOf": [*short, written_out]} if short else written_out


# --- what all resources share ------------------------------------------------------------------------------------------

_COMMON_SCHEMAS: dict[str, Schema] = {
    "Meta": {
        "type": "object",
        "description": "Where this page stands in the list.",
        "properties": {
            "limit": {"type": "integer", "minimum": 1},
            "page": {"type": "integer", "minimum": 1, "description": "Absent where a cursor led here."},
            "has_more": {"type": "boolean"},
            "next_cursor": {"anyOf": [TEXT, NULL], "description": "For `cursor=`: the page after this one."},
            "prev_cursor": {"anyOf": [TEXT, NULL], "description": "For `cursor=`: the page before this one."},
            "total": {"type": "integer", "minimum": 0, "description": "Rows that match; where `count` asked for it."},
            "count": {"enum": [count for count in COUNTS if count != "none"], "description": "What `total` is."},
        },
        "required": ["limit", "has_more", "next_cursor", "prev_cursor"],
        "additionalProperties": False,
    },
    "Problem": {
        "type": "object",
        "properties": {
            "field": {"type": "string", "description": "The field or parameter; empty where it is the whole."},
            "message": {"type": "string"},
        },
        "required": ["field", "message"],
        "additionalProperties": False,
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "code": {"enum": [error.code for error in ERRORS]},
                    "message": {"type": "string"},
                    "details": {
                        "type": "object",
                        "properties": {
                            "field": {"type": "string", "description": "The first problem's."},
                            "problems": {"type": "array", "items": _ref("schemas", "Problem")},
                        },
                        "additionalProperties": False,
                    },
                },
                "required": ["code", "message", "details"],
                "additionalProperties": False,
            }
        },
        "required": ["error"],
        "additionalProperties": False,
    },
    "Health": {
        "type": "object",
        "properties": {
            "status": {"enum": ["ok", "unavailable"]},
            "checks": {
                "type": "object",
                "description": "By dependency; a resource that is not served and a database that is behind stand here too.",
                "additionalProperties": {
                    "type": "object",
                    "properties": {"status": {"enum": ["ok", "unavailable", "broken", "behind", "ahead"]}, "reason": TEXT},
                    "required": ["status", "reason"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["status", "checks"],
        "additionalProperties": False,
    },
}

_COMMON_PARAMETERS: dict[str, Any] = {
    "Page": _query(
        "page",
        f"Which page, from 1. Not with `cursor`. Pages reach {MAX_OFFSET:,} rows into a list; cursors go on from there.",
        {"type": "integer", "minimum": 1, "maximum": MAX_OFFSET + 1, "default": 1},
    ),
    "Cursor": _query(
        "cursor",
        "A `next_cursor` or `prev_cursor` of the same resource, sort and filter. Not with `page`.",
        {"type": "string"},
    ),
    "Count": _query(
        "count",
        "Whether `meta.total` is told: `exact` counts, `estimated` asks the planner.",
        {"enum": list(COUNTS), "default": "none"},
    ),
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The caller's name for this request, which the answer and the logs carry; a new one where it is not sane.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A text of the caller's choice, in quotes, such as a new UUID for each thing to be done. The same request "
        "under the same key is done once, however often it is sent: see `Idempotency-Replayed`; meanwhile it is a 409.",
        "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY}$"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "ETags that the caller has: 304 and no body where the row is still as one of them says.",
        "schema": {"type": "string", "pattern": rf"^(\*|{TAGS})$"},
    },
    "ConsistencyToken": {
        "name": "X-Consistency-Token",
        "in": "header",
        "description": "What the answer to the caller's last write brought, or several of these parted by commas: then this"
        " answer has those writes in it, even where replicas answer reads.",
        "schema": {"type": "string", "pattern": "^[0-9A-F]{24}(, *[0-9A-F]{24}){0,15}$"},
    },
}

_HEADERS: dict[str, Any] = {
    "X-Consistency-Token": {
        "description": "For the caller's next requests, which will find this write; there only where replicas answer reads.",
        "schema": {"type": "string", "pattern": "^[0-9A-F]{24}$"},
    },
    "X-Request-Id": {
        "description": "Names this request in the logs.",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    },
    "Link": {"description": "The pages around this one (RFC 8288), where there are any.", "schema": {"type": "string"}},
    "Deprecation": {
        "description": "Since when the resource is deprecated (RFC 9745): `@` and seconds of the Unix epoch.",
        "required": True,
        "schema": {"type": "string", "pattern": "^@-?[0-9]+$"},
    },
    "Sunset": {
        "description": "From when on it may be gone (RFC 8594), as an HTTP date.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "The path of the new row.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotency-Replayed": {
        "description": "On what was written earlier, under the same `Idempotency-Key`: this is what was answered then.",
        "schema": {"const": "true"},
    },
    "ETag": {
        "description": "What the row is now and how it is shown: a strong entity tag, for `If-None-Match` and `If-Match`.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Allow": {"description": "The methods that this path takes.", "required": True, "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "Why no token was accepted (RFC 6750).", "required": True, "schema": {"type": "string"}},
    "RateLimit": {
        "description": "What is left of the tightest limit, and for how long (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "The limit that `RateLimit` speaks of.", "schema": {"type": "string"}},
    "Retry-After": {"description": "In seconds.", "required": True, "schema": {"type": "integer", "minimum": 0}},
}

ALWAYS = ("X-Request-Id", "RateLimit", "RateLimit-Policy")
"""On every answer of the data path; the last two where a limit is set."""

_ERROR_HEADERS: Mapping[type[GatewayError], tuple[str, ...]] = {
    Unauthorized: ("WWW-Authenticate",),
    MethodNotAllowed: ("Allow",),
    RateLimited: ("Retry-After",),
    Unavailable: ("Retry-After",),
}

_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Without one, what anybody may do is left."}


def _error_response(error: type[GatewayError]) -> dict[str, Any]:
    names = (*ALWAYS, *_ERROR_HEADERS.get(error, ()))
    code = {"properties": {"error": {"properties": {"code": {"const": error.code}}}}}
    return {
        "description": f"`{error.code}`: {error.default_message}",
        "headers": _headers(*names),
        "content": {JSON: {"schema": {"allOf": [_ref("schemas", "Error"), code]}}},
    }


def _overview(max_body_bytes: int) -> str:
    errors = "\n".join(f"| {error.status} | `{error.code}` | {error.default_message} |" for error in ERRORS)
    return (
        "Rows over HTTP. Nothing is ignored: an unknown parameter or field, a wrong type or a parameter sent twice is a 400 "
        "that names every problem at once.\n\n"
        f"Limits of one request: {MAX_PARAMETERS} parameters, {MAX_COMPARISONS} comparisons, {MAX_LIST_ITEMS:,} items in a "
        f"list of values, {MAX_HEAD_BYTES:,} bytes of URL and headers, {max_body_bytes:,} of body. No text holds U+0000.\n\n"
        "In a comma-separated list of texts, a comma inside a value is written `\\,` and a backslash `\\\\`.\n\n"
        f"| status | code | meaning |\n| --- | --- | --- |\n{errors}"
    )


def _operations_paths(version: str) -> dict[str, Any]:
    """The routes that are no resource's."""

    def health(name: str, summary: str, *, may_fail: bool) -> dict[str, Any]:
        answer = {"headers": _headers("X-Request-Id"), "content": {JSON: {"schema": _ref("schemas", "Health")}}}
        responses = {"200": {"description": "It is.", **answer}}
        if may_fail:
            responses["503"] = {"description": "It is not; each dependency says why.", **answer}
        return {"get": {"operationId": f"health_{name}", "tags": ["operations"], "summary": summary, "responses": responses}}

    itself = {
        "operationId": "openapi",
        "tags": ["operations"],
        "summary": "This document",
        "responses": {"200": _success("This document.", {"type": "object"}), **_error_responses(OPERATION_ERRORS["openapi"])},
    }
    return {
        f"/api/{version}/openapi.json": {"get": itself},
        "/health/live": health("live", "Whether the process runs", may_fail=False),
        "/health/ready": health("ready", "Whether it can serve, with a reason for each dependency", may_fail=True),
    }
