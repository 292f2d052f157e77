"""The page under `/docs`: it needs nothing from another host, and works under the policy that it is served with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from gateway.http.docs import docs_asset
from tests.serving import running, settings_for

NAMES = ("", "docs.css", "docs.js")
PATHS = {"/docs": "text/html", "/docs/docs.css": "text/css", "/docs/docs.js": "text/javascript"}
LABELLED = {"input", "select", "textarea"}


class _Page(HTMLParser):
    """What of a page a policy or a screen reader looks at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.controls: list[str] = []
        self.labels: list[str] = []
        self._in_label = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.links += [attributes[name] for name in ("href", "src", "action") if name in attributes]
        self.inline += [name for name in attributes if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in attributes):
            self.inline.append(tag)
        if tag == "label":
            self._in_label = True
            self.labels.append(attributes.get("for", ""))
        if tag in LABELLED:
            self.controls.append(attributes.get("id", ""))
            if self._in_label:
                self.labels.append(attributes.get("id", ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_label = self._in_label and tag != "label"


def text_of(name: str) -> str:
    found = docs_asset(name)
    assert found is not None
    return found[0].decode()


PAGE = _Page(text_of(""))


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[httpx.Client]:
    """A gateway that can serve none of its resources, for their tables are missing: the page does not depend on them."""
    with running(settings_for(postgres_url)) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_no_file_speaks_of_another_host(name: str) -> None:
    assert re.findall(r"(?i)(?:https?:)?//[a-z0-9-]+\.[a-z]|@import|url\(", text_of(name)) == []


def test_the_page_links_to_its_own_files_and_the_document_alone() -> None:
    assert {link for link in PAGE.links if not link.startswith("#")} == {
        "/docs/docs.css",
        "/docs/docs.js",
        "/api/v1/openapi.json",
    }


def test_the_page_has_no_inline_script_and_no_inline_style() -> None:
    assert PAGE.inline == []


def test_every_control_of_the_page_has_a_label() -> None:
    assert set(PAGE.controls) == {"version", "token", "find"}
    assert set(PAGE.controls) <= set(PAGE.labels)


def test_the_page_says_its_language_and_fits_a_narrow_screen() -> None:
    assert '<html lang="en">' in text_of("")
    assert "width=device-width" in text_of("")
    assert "@media (max-width" in text_of("docs.css")
    assert "prefers-color-scheme: dark" in text_of("docs.css")


@pytest.mark.parametrize("way", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"])
def test_text_never_becomes_markup_or_code(way: str) -> None:
    assert way not in text_of("docs.js")


@pytest.mark.parametrize("store", ["localStorage", "sessionStorage", "indexedDB", "document.cookie"])
def test_the_token_is_kept_nowhere(store: str) -> None:
    assert store not in text_of("docs.js")


def test_styles_are_set_by_classes_as_the_policy_demands() -> None:
    assert ".style" not in text_of("docs.js")
    assert "style:" not in text_of("docs.js")


def test_another_name_is_no_file() -> None:
    assert docs_asset("../openapi.py") is None
    assert docs_asset("docs.html") is None


@pytest.mark.parametrize(("path", "kind"), PATHS.items())
def test_each_file_is_served_with_its_type_and_a_strict_policy(client: httpx.Client, path: str, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-request-id"]
    assert answer.text == text_of(path.removeprefix("/docs").removeprefix("/"))


def test_what_the_page_reads_is_there_though_no_resource_is_served(client: httpx.Client) -> None:
    found = client.get("/api/v1/openapi.json").json()
    assert found["info"]["x-versions"] == ["v1"]
    assert [tag["name"] for tag in found["tags"]] == ["operations"]


def test_no_other_file_is_served(client: httpx.Client) -> None:
    assert client.get("/docs/openapi.py").status_code == 404
    assert client.get("/docs/..%2fopenapi.py").status_code == 404
