"""What the answers of a deprecated resource carry: since when (RFC 9745), until when (RFC 8594), and where to go instead.

Made of the catalog once; a request only takes what is ready, but for the successor's path, which has the request's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote

import msgspec

from gateway.catalog.model import Catalog, Resource
from gateway.definitions.model import Fault, Source
from gateway.http.responses import Header


class Deprecation(msgspec.Struct, frozen=True):
    """`always` is on each answer. `successor` is the path of the same resource in the next version, or None where there is
    none; `rows` tells that a row has the same key there."""

    always: tuple[Header, ...]
    successor: str | None
    rows: bool

    def headers(self, raw_path: bytes) -> tuple[Header, ...]:
        """What the answer to a request of this path carries."""
        _, _, _, _, *key = raw_path.decode("latin-1").split("/", 4)
        if self.successor is None or (key and not self.rows):
            return self.always
        path = "/".join((self.successor, *(quote(part, safe="%,") for part in key)))
        return (*self.always, (b"link", f'<{path}>; rel="successor-version"'.encode()))


def deprecations(catalog: Catalog) -> Mapping[str, Deprecation]:
    """The deprecated resources by their id."""
    deprecated = [resource for resource in catalog.resources.values() if resource.definition.deprecated is not None]
    return {resource.id: _deprecation(catalog, resource) for resource in deprecated}


def successor_of(catalog: Catalog, resource: Resource) -> Resource | None:
    """The same resource in the first version after its own that has it and is not deprecated itself."""
    later = [
        other
        for other in catalog.resources.values()
        if other.name == resource.name
        and int(other.version[1:]) > int(resource.version[1:])
        and other.definition.deprecated is None
    ]
    return min(later, key=lambda other: int(other.version[1:]), default=None)


def sunset_warnings(source: Source, resource: Resource, now: datetime) -> Iterator[Fault]:
    """A sunset that has passed: callers are told of a day that was, and what they were told would go is there still."""
    deprecated = resource.definition.deprecated
    if deprecated is not None and deprecated.sunset is not None and moment(deprecated.sunset) <= now:
        told = f"the sunset, {deprecated.sunset}, has passed: remove the resource, or give it a later day"
        yield source.fault(("deprecated", "sunset"), told)


def moment(day: str) -> datetime:
    """The first moment of a day of the resource file, such as `2026-11-30`."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _deprecation(catalog: Catalog, resource: Resource) -> Deprecation:
    definition = resource.definition.deprecated
    if definition is None:
        raise ValueError(f"{resource.id} is not deprecated")
    always: list[Header] = [(b"deprecation", f"@{moment(definition.since).timestamp():.0f}".encode())]
    if definition.sunset is not None:
        always.append((b"sunset", format_datetime(moment(definition.sunset), usegmt=True).encode()))
    if definition.link is not None:
        rels = ["deprecation", *(["sunset"] if definition.sunset else [])]
        always.append((b"link", f'<{definition.link}>; rel="{" ".join(rels)}"; type="text/html"'.encode()))
    successor = successor_of(catalog, resource)
    return Deprecation(
        always=tuple(always),
        successor=None if successor is None else f"/api/{successor.id}",
        rows=successor is not None and _key_columns(successor) == _key_columns(resource),
    )


def _key_columns(resource: Resource) -> tuple[str, str, tuple[str, ...]]:
    columns = tuple(resource.fields[name].column for name in resource.key)
    return resource.table.schema, resource.table.name, columns
