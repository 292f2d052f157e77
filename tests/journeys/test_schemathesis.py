"""schemathesis against the real service: the document says what happens, and what happens is never a 5xx.

Every check is on. `U+0000` is not generated, for the contract refuses it in every text and JSON Schema cannot say so without a
pattern on each string; `test_bodies` and `tests/query` send it. What else OpenAPI cannot say is in `schemathesis_hooks`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway import migrate
from tests.conftest import throwaway_database
from tests.examples import TIMES, examples
from tests.journeys.answers import gateway_over, made
from tests.serving import write_resources

TIME_LIMIT_SECONDS = 280 * TIMES
SEED = "20261122"
METHODS = {"get", "post", "patch", "delete"}
ROOT = Path(__file__).parents[2]


@contextmanager
def unlimited(server_url: str, directory: Path) -> Iterator[httpx.Client]:
    """The seven resources without rate limits, which would answer for the operations that are to be tried."""
    files = {path.stem: re.sub(r"(?m)^rate_limit:.*\n", "", path.read_text()) for path in (ROOT / "resources").glob("*.yaml")}
    resources = write_resources(directory / "resources", files)
    with throwaway_database(server_url) as url:
        migrate.upgrade(url)
        with gateway_over(url, resources, RATE_LIMIT="off") as client:
            yield client


def fill(client: httpx.Client) -> None:
    """A few rows of each resource, so that what schemathesis makes up has something to refer to."""
    for number in range(3):
        user = made(client, "users", email=f"user{number}@example.org", name="Ada")["id"]
        category = made(client, "categories", slug=f"lamps-{number}", name="Lamps")["id"]
        product = made(client, "products", category_id=category, sku=f"LAMP-{number}", name="Lamp", price="12.3", currency="EUR")
        order = made(client, "orders", user_id=user, currency="EUR")["id"]
        made(client, "order_items", order_id=order, product_id=product["id"], quantity=3, unit_price="1.5")
        made(client, "transactions", user_id=user, kind="expense", amount="4.5", currency="EUR")
        made(client, "budgets", user_id=user, category_id=category, starts_on="2026-01-01", amount=100, currency="EUR")


def run(client: httpx.Client, directory: Path, phases: str, max_examples: int) -> str:
    """What schemathesis prints when it finds nothing; fails with it where it finds something."""
    command = Path(sys.executable).with_name("schemathesis")
    options = [
        f"--phases={phases}",
        f"--max-examples={max_examples}",
        f"--seed={SEED}",
        "--checks=all",
        "--generation-deterministic",
        "--generation-allow-x00=false",
        "--request-timeout=20",
        "--continue-on-failure",
        "--no-color",
    ]
    finished = subprocess.run(
        [command, "run", f"{client.base_url}/api/v1/openapi.json", *options],
        cwd=directory,
        # Few variables, for requests looks through all of them at each request; and one place to keep tables of Unicode in,
        # which hypothesis makes where there are none.
        env={
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")},
            "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis"),
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.journeys.schemathesis_hooks",
            "SCHEMATHESIS_PHASE": phases,
        },
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def counted(pattern: str, output: str) -> tuple[int, ...]:
    found = re.search(pattern, output)
    assert found, output
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize(
    ("phases", "max_examples", "least_requests"),
    [
        pytest.param("coverage", 1, 3000, id="coverage"),
        pytest.param("examples,fuzzing,stateful", examples(12), 300, id="fuzzing", marks=pytest.mark.hypothesis),
    ],
)
def test_schemathesis_finds_nothing(
    postgres_url: str, tmp_path: Path, phases: str, max_examples: int, least_requests: int
) -> None:
    with unlimited(postgres_url, tmp_path) as client:
        fill(client)
        operations = sum(len(item.keys() & METHODS) for item in paths(client)) - 1  # the document's own is not tried
        output = run(client, tmp_path, phases, max_examples)
    assert counted(r"Operations: +(\d+) selected / (\d+) total", output) == (operations, operations)
    generated, passed = counted(r"(\d+) generated, (\d+) passed\n", output)
    assert generated == passed >= least_requests


def paths(client: httpx.Client) -> list[dict[str, object]]:
    return list(client.get("/api/v1/openapi.json").json()["paths"].values())
