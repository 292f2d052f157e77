"""One shop for all tests of a worker: each fault finds what those before it left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import shop
from tests.faults.machines import Gateway
from tests.faults.proxy import Counts
from tests.faults.shop import SCHEMA, Machines


@pytest.fixture(scope="session")
def all_machines() -> Iterator[Machines]:
    """The shop's. A test that ends one of them starts it again."""
    with shop.all_machines() as made:
        yield made


@pytest.fixture
def machines(all_machines: Machines) -> Iterator[Machines]:
    """All machines, well, with `SCHEMA` made anew and the proxies' counts at nothing."""
    all_machines.execute(SCHEMA)
    for proxy in (all_machines.database, all_machines.redis):
        proxy.counts = Counts()
    yield all_machines
    for proxy in (all_machines.database, all_machines.redis):
        proxy.turn("pass")


@pytest.fixture(scope="session")
def one_gateway(all_machines: Machines) -> Iterator[Gateway]:
    """One for all tests that need no settings of their own: each fault finds what those before it left behind."""
    all_machines.execute(SCHEMA)
    with all_machines.gateway(DATABASE_STATEMENT_TIMEOUT_SECONDS="1", RATE_LIMIT="1000000/second") as served:
        yield served


@pytest.fixture
def served(machines: Machines, one_gateway: Gateway) -> Gateway:
    """The gateway over `machines`, ready; its statements may take a second."""
    one_gateway.wait_until_ready()
    return one_gateway
