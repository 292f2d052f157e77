"""Health, and a resource file that is broken: the others serve, and everybody who asks is told."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway import embedded, migrate
from tests.conftest import throwaway_database
from tests.journeys.answers import check_answer, gateway_over
from tests.journeys.processes import PATIENCE_SECONDS, run
from tests.serving import running, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("health")

GOOD = "list: {sort: [name]}\n"
BROKEN = {
    "users": "description: Misspelt.\nfeilds:\n  email: {}\n",
    "orders": "fields:\n  totl: {readonly: true}\n",
    "products": "list:\n  sort: [-created_at\n",
    "budgets": "table: budget\n",
    "transactions": "access:\n  admin: {read: {rows: {usr_id: $sub}}}\n",
}


@pytest.fixture(scope="module")
def migrated(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        migrate.upgrade(url)
        yield url


def test_a_sound_gateway_is_live_and_ready(migrated: str) -> None:
    with gateway_over(migrated) as client:
        live, ready = client.get("/health/live"), client.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "ok", "checks": {}})
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "checks": {"database": {"status": "ok", "reason": "answers"}}}
    assert ready.headers["cache-control"] == "no-store"


def test_broken_files_are_left_out_and_the_others_serve(migrated: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resources = write_resources(tmp_path / "resources", {**BROKEN, "categories": GOOD})
    with running(settings_for(migrated, resources)) as client:
        client.event_hooks = {"response": [check_answer]}
        assert client.get("/api/v1/categories").status_code == 200
        for name in BROKEN:
            for response in (
                client.get(f"/api/v1/{name}"),
                client.get(f"/api/v1/{name}/1"),
                client.post(f"/api/v1/{name}", json={}),
                client.delete(f"/api/v1/{name}/1"),
            ):
                assert response.status_code == 503
                assert response.json()["error"]["message"] == f'The resource "{name}" is not served: its definition has faults.'
        assert client.get("/api/v1/nothing").status_code == 404
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        broken = {name: check["reason"] for name, check in ready.json()["checks"].items() if check["status"] == "broken"}
        assert broken.keys() == {f"v1/{name}" for name in BROKEN}
        assert all("gateway check" in reason for reason in broken.values())
        paths = client.get("/api/v1/openapi.json").json()["paths"]
        assert "/api/v1/categories" in paths
        assert "/api/v1/users" not in paths
    errors = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    for name in BROKEN:
        assert f"{name}.yaml:" in errors
        assert f"v1/{name}" in errors


def test_check_tells_every_fault_with_its_file_and_line(migrated: str, tmp_path: Path) -> None:
    write_resources(tmp_path / "resources", {**BROKEN, "categories": GOOD})
    plain = run(tmp_path, migrated, "check")
    assert plain.returncode == 1
    lines = plain.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "resources/budgets.yaml:1:",
        "resources/orders.yaml:2:",
        "resources/products.yaml:2:",
        "resources/transactions.yaml:2:",
        "resources/users.yaml:2:",
    ]
    assert 'Did you mean "fields"?' in plain.stdout
    assert 'Did you mean "total"?' in plain.stdout
    assert "Traceback" not in plain.stderr
    told = run(tmp_path, migrated, "check", "--json")
    assert told.returncode == 1
    assert [f"{fault['file']}:{fault['line']}: {fault['message']}" for fault in json.loads(told.stdout)] == lines


def test_check_of_sound_files_says_nothing_and_succeeds(migrated: str, tmp_path: Path) -> None:
    write_resources(tmp_path / "resources", {"categories": GOOD})
    plain, told = run(tmp_path, migrated, "check"), run(tmp_path, migrated, "check", "--json")
    assert (plain.returncode, plain.stdout) == (0, "")
    assert (told.returncode, json.loads(told.stdout)) == (0, [])


def test_without_its_database_a_gateway_is_live_and_not_ready(database_directory: Path, tmp_path: Path) -> None:
    resources = write_resources(tmp_path / "resources", {"categories": GOOD})
    with ExitStack() as serving:
        with embedded.postgres(database_directory, durable=False) as url:
            migrate.upgrade(url)
            client = serving.enter_context(running(settings_for(url, resources)))
            assert client.get("/health/ready").status_code == 200
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "unavailable"
        assert ready.json()["checks"]["database"]["status"] == "unavailable"
        assert ready.json()["checks"]["database"]["reason"]
        response = client.get("/api/v1/categories")
        assert response.status_code == 503
        check_answer(response)
        with embedded.postgres(database_directory, durable=False):
            assert client.get("/health/ready").status_code == 200
            assert client.get("/api/v1/categories").status_code == 200


def test_a_redis_that_is_away_is_told_of_and_keeps_nobody_from_being_served(
    migrated: str, server_directory: Path, tmp_path: Path
) -> None:
    resources = write_resources(tmp_path / "resources", {"categories": GOOD})
    with ExitStack() as serving:
        with embedded.valkey(server_directory) as redis:
            settings = settings_for(migrated, resources, REDIS_URL=redis, RATE_LIMIT="100000/minute")
            client = serving.enter_context(running(settings))
            assert "redis" not in client.get("/health/ready").json()["checks"]
        await_check(lambda: "redis" in told(client))
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["checks"]["redis"]["status"] == "degraded"
        assert re.search(r'^circuit_breaker_state\{name="redis"\} [12]', client.get("/metrics").text, re.MULTILINE)
        with embedded.valkey(server_directory):
            await_check(lambda: "redis" not in told(client))


def told(client: httpx.Client) -> dict[str, object]:
    """The checks of a gateway that serves well, as each of its answers shows."""
    assert client.get("/api/v1/categories").status_code == 200
    checks: dict[str, object] = client.get("/health/ready").json()["checks"]
    return checks


def await_check(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
