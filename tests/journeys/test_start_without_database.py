"""A gateway that starts before its database: it lives, says what it waits for, and comes up by itself."""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path

import httpx
import pytest

from gateway import embedded, migrate
from tests.conftest import execute
from tests.journeys.answers import check_answer
from tests.journeys.processes import PATIENCE_SECONDS, serving
from tests.serving import running, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("starts")

GOOD = "list: {sort: [name]}\n"


def until_ready(client: httpx.Client) -> None:
    """Waits for several answers of 200 in a row, for there may be several processes."""
    end, in_a_row = time.monotonic() + PATIENCE_SECONDS, 0
    while in_a_row < 10:
        with httpx.Client(base_url=client.base_url, timeout=20) as newcomer:  # whose connection may reach another process
            in_a_row = in_a_row + 1 if newcomer.get("/health/ready").status_code == 200 else 0
        assert time.monotonic() < end, client.get("/health/ready").text
        time.sleep(0.02)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_a_gateway_whose_database_comes_later_comes_up_by_itself(workers: str, database_directory: Path, tmp_path: Path) -> None:
    write_resources(tmp_path / "resources", {"categories": GOOD, "orders": "fields:\n  totl: {readonly: true}\n"})
    with embedded.postgres(database_directory, durable=False) as url:
        migrate.upgrade(url)
    log = tmp_path / "log"
    with serving(tmp_path, url, log, WORKERS=workers) as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == {"status": "unavailable", "reason": "The database cannot be reached."}
        for path in ("/api/v1/categories", "/api/v1/categories/1", "/api/v1/nothing", "/api/v1/openapi.json"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
            check_answer(answer)
        assert client.get("/docs").status_code == 200
        with embedded.postgres(database_directory, durable=False):
            until_ready(client)
            assert client.get("/api/v1/categories").status_code == 200
            assert client.get("/api/v1/nothing").status_code == 404
            assert client.get("/api/v1/orders").status_code == 503
            assert "v1/orders" in client.get("/health/ready").json()["checks"]
    told = log.read_text()
    assert "it is looked for until it does" in told
    assert "ready: the database has been reached" in told
    assert "orders.yaml:2:" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("room", ["-1", "1"])
def test_a_database_that_is_full_at_the_start_is_waited_for(database_url: str, tmp_path: Path, room: str) -> None:
    """It is there, and has no room for a connection of ours. One alone will do to begin with, although several parts want it."""
    migrate.upgrade(database_url)
    role = f"few_{uuid.uuid4().hex}"
    execute(
        database_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    )
    resources = write_resources(tmp_path / "resources", {"categories": GOOD})
    url = re.sub(r"^postgresql://[^@]*@", f"postgresql://{role}@", database_url)
    try:
        with running(settings_for(url, resources, WORKERS="1", DATABASE_POOL_MIN="2")) as client:
            ready = client.get("/health/ready")
            told = ready.json()["checks"]["database"]
            assert (ready.status_code, told["status"]) == (503, "unavailable")
            assert f'too many connections for role "{role}"; each process of a gateway needs DATABASE_POOL_MAX' in told["reason"]
            assert client.get("/api/v1/categories").status_code == 503
            execute(database_url, f"ALTER ROLE {role} CONNECTION LIMIT {room}")
            until_ready(client)
            assert client.get("/api/v1/categories").status_code == 200
    finally:
        execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
