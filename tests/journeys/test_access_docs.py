"""`docs/access.md`, run: its tables are made, its resource files served, and each request answered as the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import check
from tests.conftest import throwaway_database
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, IssuerServer, issuer, public, token
from tests.journeys.answers import JSON, gateway_over
from tests.journeys.test_attacks import execute
from tests.serving import settings_for, write_resources

pytestmark = pytest.mark.xdist_group("access docs")

PAGE = (Path(__file__).parent.parent.parent / "docs" / "access.md").read_text()
REQUEST = re.compile(r"([A-Z]+) (\S+)(?: ({.*}))?")
ANSWER = re.compile(r"([0-9]{3})(?: `(.*)`)?")


class Example(msgspec.Struct, frozen=True):
    """One section's resource files, and who asks what and is answered how."""

    title: str
    files: dict[str, str]
    asked: list[list[str]]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def table(text: str, *head: str) -> list[list[str]]:
    """The rows of the table with that head; none where there is no such table."""
    found = re.search(rf"^\| {re.escape(' | '.join(head))} \|\n\|[- |]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    lines = found[1].splitlines() if found else []
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def examples() -> Iterator[Example]:
    marks = [(found.start(), found[1]) for found in re.finditer(r"^## (.*)$", PAGE, re.MULTILINE)]
    for (start, title), (end, _) in pairwise([*marks, (len(PAGE), "")]):
        section = PAGE[start:end]
        files = {}
        for block in blocks(section, "yaml"):
            name = re.match(r"# resources/(\w+)\.yaml\n", block)
            assert name is not None, block
            files[name[1]] = block
        if files:
            yield Example(title, files, table(section, "who", "asks", "is answered"))


EXAMPLES = list(examples())
CALLERS = {who: json.loads(claims.strip("`") or "null") for who, claims in table(PAGE, "who", "token")}
REFUSED = table(PAGE, "access", "`gateway check` says")


@pytest.fixture(scope="module")
def keys() -> Iterator[IssuerServer]:
    with issuer(public(EC)) as server:
        yield server


@pytest.fixture(scope="module")
def template(postgres_url: str) -> Iterator[str]:
    """A database with the page's tables and rows; gives its name."""
    with throwaway_database(postgres_url) as url:
        (sql,) = blocks(PAGE, "sql")
        execute(url, sql, "SELECT 1")
        yield url


def headers(who: str) -> dict[str, str]:
    claims: Mapping[str, Any] | None = CALLERS[who]
    return {} if claims is None else {"authorization": f"Bearer {token(EC, **claims).decode()}"}


def test_the_page_has_examples_of_everything_it_promises() -> None:
    text = " ".join(file for example in EXAMPLES for file in example.files.values())
    assert len(EXAMPLES) >= 8
    assert all(len(example.asked) >= 1 for example in EXAMPLES)
    for word in (
        "rows:",
        "fields:",
        "set:",
        "$sub",
        "$claims.",
        "anonymous",
        "staff",
        "status: draft",
        "or:",
        '"null"',
        "in:",
        "has:",
    ):
        assert word in text, word
    answers = [ANSWER.fullmatch(row[2]) for example in EXAMPLES for row in example.asked]
    statuses = {answer[1] for answer in answers if answer}
    assert None not in answers
    assert statuses >= {"200", "201", "204", "400", "401", "403", "404", "409"}
    assert {row[0] for example in EXAMPLES for row in example.asked} == set(CALLERS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_example_is_answered_as_the_page_says(
    example: Example, template: str, postgres_url: str, keys: IssuerServer, tmp_path: Path
) -> None:
    variables = {
        "AUTH": "on",
        "AUTH_JWKS_URL": keys.url,
        "AUTH_ISSUER": ISSUER,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
    }
    resources = write_resources(tmp_path / "resources", example.files)
    name = re.search(r"@/(\w+)\?", template)
    assert name is not None
    with throwaway_database(postgres_url, name[1]) as url, gateway_over(url, resources, **variables) as client:
        for who, asks, answer in example.asked:
            ask(client, who, asks, answer)


def ask(client: httpx.Client, who: str, asks: str, answer: str) -> None:
    """Sends the page's request, and fails where the answer is another than the page's."""
    request, expected = REQUEST.fullmatch(asks.strip("`")), ANSWER.fullmatch(answer)
    assert request is not None, asks
    assert expected is not None, answer
    method, path, body = request.groups()
    extra = JSON if body else {}
    response = client.request(method, path, content=body, headers={**headers(who), **extra})
    told = f"{who}: {asks}: {response.status_code} {response.text}"
    assert response.status_code == int(expected[1]), told
    if expected[2] is None:
        return
    if expected[2][0] not in "[{":
        assert response.json()["error"]["details"]["field"] == expected[2], told
        return
    wanted, data = json.loads(expected[2]), response.json()["data"]
    if isinstance(wanted, dict) and wanted:
        data = {name: value for name, value in data.items() if name in wanted}
    assert data == wanted, told
    if "count=" in path:
        assert response.json()["meta"]["total"] == len(wanted), told


@pytest.mark.parametrize(("access", "message"), REFUSED)
def test_mistake_is_refused_in_the_words_of_the_page(access: str, message: str, template: str, tmp_path: Path) -> None:
    resources = write_resources(tmp_path / "resources", {"orders": f"description: Wrong.\naccess: {access.strip('`')}\n"})
    (fault,) = check(settings_for(template, resources)).faults
    assert (fault.line, fault.message) == (2, message.strip("`"))
