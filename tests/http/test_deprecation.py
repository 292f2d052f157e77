"""What a deprecated resource's answers carry, and its part of the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.catalog.model import Catalog, Column
from gateway.http.deprecation import deprecations, sunset_warnings
from gateway.http.openapi import document
from tests.query.sample import BIGINT, TEXT, catalog_of, source, table

PRODUCTS = table("products", [Column("id", BIGINT, nullable=False), Column("name", TEXT, nullable=True)])
OTHERS = table("others", [Column("id", BIGINT, nullable=False), Column("name", TEXT, nullable=True)])
WHOLE = "deprecated: {since: 2023-06-30, sunset: 2027-06-01, link: 'https://example.com/upgrade'}"


def made(first: str, *others: tuple[str, str]) -> Catalog:
    """`products` of v1, and other files of (stem, YAML) beside it."""
    pairs: list[Any] = [(source(first, "products"), PRODUCTS)]
    pairs += [(source(yaml, stem), OTHERS if "others" in yaml else PRODUCTS) for stem, yaml in others]
    catalog, faults = catalog_of(*pairs)
    assert not faults
    return catalog


def headers(catalog: Catalog, path: bytes) -> list[tuple[bytes, bytes]]:
    return list(deprecations(catalog)["v1/products"].headers(path))


def test_nothing_is_deprecated_unless_its_file_says_so() -> None:
    assert deprecations(made("", ("products.v2", ""))) == {}


def test_moments_and_link_are_as_their_rfcs_write_them() -> None:
    assert headers(made(WHOLE), b"/api/v1/products/1") == [
        (b"deprecation", b"@1688083200"),
        (b"sunset", b"Tue, 01 Jun 2027 00:00:00 GMT"),
        (b"link", b'<https://example.com/upgrade>; rel="deprecation sunset"; type="text/html"'),
    ]


@pytest.mark.parametrize(
    ("now", "warned"), [(datetime(2027, 5, 31, 23, 59, 59, tzinfo=UTC), False), (datetime(2027, 6, 1, tzinfo=UTC), True)]
)
def test_a_sunset_is_warned_of_from_its_first_moment_on(now: datetime, warned: bool) -> None:
    told = [str(fault) for fault in sunset_warnings(source(WHOLE, "products"), made(WHOLE).resources["v1", "products"], now)]
    expected = "resources/products.yaml:1: the sunset, 2027-06-01, has passed: remove the resource, or give it a later day"
    assert told == ([expected] if warned else [])


def test_what_has_no_sunset_is_not_warned_of() -> None:
    for yaml in ("", "deprecated: {since: 2023-06-30}"):
        resource = made(yaml).resources["v1", "products"]
        assert list(sunset_warnings(source(yaml, "products"), resource, datetime.max.replace(tzinfo=UTC))) == []


def test_the_day_alone_will_do() -> None:
    assert headers(made("deprecated: {since: 2023-06-30}"), b"/api/v1/products") == [(b"deprecation", b"@1688083200")]


def test_successor_is_the_next_version_that_is_not_deprecated_itself() -> None:
    yaml = "deprecated: {since: 2023-06-30}"
    catalog = made(yaml, ("products.v2", yaml), ("products.v10", ""), ("products.v3", ""))
    assert headers(catalog, b"/api/v1/products")[1:] == [(b"link", b'</api/v3/products>; rel="successor-version"')]


def test_successor_of_a_row_is_the_same_row() -> None:
    catalog = made("deprecated: {since: 2023-06-30}", ("products.v2", ""))
    assert headers(catalog, b"/api/v1/products/a,b%2Cc")[-1] == (b"link", b'</api/v2/products/a,b%2Cc>; rel="successor-version"')


def test_no_byte_of_the_path_ends_the_link() -> None:
    catalog = made("deprecated: {since: 2023-06-30}", ("products.v2", ""))
    for path in (b'/api/v1/products/1>; rel="evil', b"/api/v1/products/a/b", b"/api/v1/products/\xff", b"/api/v1/products/"):
        _, link = headers(catalog, path)[-1]
        assert link.count(b">") == 1
        assert link.count(b'"') == 2
        assert link.isascii()


def test_a_row_has_no_successor_where_the_key_is_another() -> None:
    catalog = made("deprecated: {since: 2023-06-30}", ("products.v2", "table: others"))
    assert headers(catalog, b"/api/v1/products/1") == [(b"deprecation", b"@1688083200")]
    assert headers(catalog, b"/api/v1/products")[-1][0] == b"link"


def test_openapi_marks_every_operation_and_says_what_to_use() -> None:
    catalog = made(WHOLE, ("products.v2", ""))
    first = document(catalog, "v1", max_body_bytes=1, service_name="test")
    operations = [
        operation
        for path, item in first["paths"].items()
        if "products" in path
        for operation in item.values()
        if isinstance(operation, dict)
    ]
    assert len(operations) == 5
    for operation in operations:
        assert operation["deprecated"] is True
        assert "Gone from 2027-06-01 on." in operation["description"]
        assert "Use `/api/v2/products`." in operation["description"]
        success = next(response for status, response in operation["responses"].items() if status.startswith("2"))
        assert {"Deprecation", "Sunset", "X-Request-Id"} <= success["headers"].keys()
    second = document(catalog, "v2", max_body_bytes=1, service_name="test")
    assert not [path for path, item in second["paths"].items() for part in item.values() if "deprecated" in part]
