"""What a resource file says, as frozen structs. One struct a mapping; a default is what the contract promises.

These structs hold what was written, not whether it fits the database: `catalog.build` holds them against the tables.
Every mapping keeps its author's order. `rows` and `set` stay as plain YAML values, for the filter grammar to parse.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Names = list[str]  # an alias, for a member of ResourceDefinition is called `list` itself
Operation = Literal["read", "create", "patch", "delete"]
OPERATIONS: tuple[Operation, ...] = ("read", "create", "patch", "delete")


class FieldDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`fields: {NAME: …}`. `column` is the database's name; bounds are inclusive and narrow what the database takes."""

    description: str = ""
    column: str | None = None
    hidden: bool = False
    readonly: bool = False
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    enum: list[str | int] | None = None
    json: Literal["number", "string"] | None = None


class RelationDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`relations: {NAME: …}`. `on` maps this resource's columns to the other's, where several foreign keys fit."""

    to: str
    many: bool = False
    on: dict[str, str] | None = None


class LimitDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: int = 20
    max: int = 100


class ListDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`list:`. `filter` None means every visible field; `sort` entries are `[-]field[:nullsfirst|:nullslast]`."""

    sort: list[str] = []
    limit: LimitDefinition = LimitDefinition()
    filter: list[str] | None = None


class CacheDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ttl` in seconds; 0 turns the cache off; None leaves it to the setting."""

    ttl: float | None = None


class RuleDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one role may do with one operation. `fields` None means all."""

    rows: dict[str, Any] | None = None
    fields: list[str] | None = None
    set: dict[str, Any] | None = None


class RoleDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One role's operations; an operation left out is not this role's to decide."""

    read: RuleDefinition | None = None
    create: RuleDefinition | None = None
    patch: RuleDefinition | None = None
    delete: RuleDefinition | None = None


class DeprecatedDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`deprecated:`: the resource still answers, and each answer says that it will not for ever.

    `since` and `sunset` are days, `2026-11-30`, from their first moment in UTC: from `since` on it should not be used anew, from
    `sunset` on it may be gone. `link` is a page for people, on what to do.
    """

    since: str
    sunset: str | None = None
    link: str | None = None


class ResourceDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file under `resources/`, whole. `table` None means the resource's name; `key` None the primary key.

    `version` is the file's name's where that has one: `products.v2.yaml`.

    `access` None means `admin` alone. `timeout` in seconds; None leaves it to the setting. `version_column` None leaves it to the
    database to tell whether a row has changed.
    """

    table: str | None = None
    description: str = ""
    key: str | Names | None = None
    version: str = "v1"
    fields: dict[str, FieldDefinition] = {}
    relations: dict[str, RelationDefinition] = {}
    list: ListDefinition = ListDefinition()
    cache: CacheDefinition = CacheDefinition()
    rate_limit: str | None = None
    timeout: float | None = None
    version_column: str | None = None
    require_if_match: bool = False
    access: dict[str, RoleDefinition] | None = None
    deprecated: DeprecatedDefinition | None = None


Place = tuple[str, str]
"""A resource's version and name, under which no other can be: `("v1", "products")`."""

Path = tuple[str | int, ...]
"""Where a value stands in a file: mapping keys and sequence indexes from the root, `()` for the root."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """One mistake of a schema author: `str()` is `file:line: message`. `line` counts from 1."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Source(msgspec.Struct, frozen=True):
    """One definition that parsed, with what is needed to point into its file.

    `name` is the resource's (the file's stem, without a version), `file` the path as shown to people, `lines` the line
    of every path.
    """

    name: str
    file: str
    definition: ResourceDefinition
    lines: dict[Path, int]

    @property
    def place(self) -> Place:
        """Where the resource is served."""
        return self.definition.version, self.name

    def fault(self, path: Path, message: str) -> Fault:
        """A fault at `path`, or at its nearest written ancestor where the path itself was left to its default."""
        while path and path not in self.lines:
            path = path[:-1]
        return Fault(self.file, self.lines.get(path, 1), message)


class Loaded(msgspec.Struct, frozen=True):
    """All files of a directory: those that parsed, the faults of those that did not, and where those would have been served."""

    sources: tuple[Source, ...]
    faults: tuple[Fault, ...]
    broken: tuple[Place, ...]
