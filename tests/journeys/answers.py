"""A gateway whose every answer is held against the contract as it comes in, and whose log must stay free of faults."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import httpx

from gateway import migrate
from gateway.errors import ERRORS
from tests.conftest import throwaway_database
from tests.serving import running, settings_for

STATUS_OF = {error.code: error.status for error in ERRORS}
INTERNAL = re.compile(
    r"asyncpg|sqlalchemy|msgspec|Traceback|violates|syntax error|relation \"|pg_|sqlstate|row_to_json|RETURNING|internal_|Error\("
)
"""What no caller may be told. Tests call tables, columns and constraints `internal_…` to see whether their names come out."""

JSON = {"content-type": "application/json"}
MERGE = {"content-type": "application/merge-patch+json"}


def check_answer(response: httpx.Response) -> None:
    """What holds for every answer: a request id; for an error the envelope, its code's status, and nothing internal."""
    response.read()
    assert response.headers.get("x-request-id"), response
    if response.status_code == 204:
        assert "content-length" not in response.headers
    if response.status_code < 400 or response.request.method == "HEAD" or response.request.url.path.startswith("/health/"):
        return
    assert response.headers["content-type"] == "application/json", response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"code", "message", "details"}
    assert STATUS_OF[error["code"]] == response.status_code
    assert error["message"]
    sent = unquote_plus(str(response.request.url)) + _sent_body(response.request)
    assert [found for found in INTERNAL.findall(response.text) if found not in sent] == [], response.text
    if error["details"]:
        assert error["details"].keys() == {"field", "problems"}
        assert error["details"]["field"] == error["details"]["problems"][0]["field"]
        assert all(problem["message"] and problem.keys() == {"field", "message"} for problem in error["details"]["problems"])
    if response.status_code == 503:
        assert int(response.headers["retry-after"]) >= 1
    if response.status_code == 405:
        assert response.headers["allow"]


def _sent_body(request: httpx.Request) -> str:
    """The body as text, or "" where it was streamed."""
    try:
        return request.content.decode("utf-8", "replace")
    except httpx.RequestNotRead:
        return ""


class _Faults(logging.Handler):
    """Keeps what a log must not have: errors, and anything with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.found.append(self.format(record))


@contextmanager
def log_without_faults() -> Iterator[list[str]]:
    """Fails at its end where an error or a traceback was logged; gives what was found so far, for a test that means it."""
    faults = _Faults()
    logging.getLogger().addHandler(faults)
    try:
        yield faults.found
    finally:
        logging.getLogger().removeHandler(faults)
    assert not faults.found, "\n".join(faults.found)


@contextmanager
def gateway_over(database_url: str, resources: Path | str = "resources", **variables: str) -> Iterator[httpx.Client]:
    """A client of a running gateway which checks every answer, and at the end the log."""
    with log_without_faults(), running(settings_for(database_url, resources, **variables)) as client:
        client.event_hooks = {"response": [check_answer]}
        yield client


@contextmanager
def domain(server_url: str) -> Iterator[httpx.Client]:
    """The seven resources, without rows."""
    with throwaway_database(server_url) as url:
        migrate.upgrade(url)
        with gateway_over(url) as client:
            yield client


def problems(response: httpx.Response, status: int = 400) -> dict[str, str]:
    """The messages of an error by their fields."""
    assert response.status_code == status, response.text
    return {problem["field"]: problem["message"] for problem in response.json()["error"]["details"].get("problems", [])}


def made(client: httpx.Client, resource: str, **body: Any) -> dict[str, Any]:
    """A new row of `resource`."""
    response = client.post(f"/api/v1/{resource}", json=body)
    assert response.status_code == 201, response.text
    row: dict[str, Any] = response.json()["data"]
    return row


def links(response: httpx.Response) -> Mapping[str, str]:
    """The targets of `Link` by their relations."""
    found = re.findall(r'<([^<>"\s]*)>; rel="([a-z]+)"(?:, |$)', response.headers.get("link", ""))
    return {relation: target for target, relation in found}
