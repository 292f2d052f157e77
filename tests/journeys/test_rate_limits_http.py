"""Rate limits over HTTP: by address before the token, by subject after it, by resource, shared through Redis, and without it.

The limits are by the day, so that no window ends during a test.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from gateway import embedded
from gateway.guards import ratelimit
from gateway.guards.windows import RedisStorage
from tests.conftest import throwaway_database
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, IssuerServer, issuer, public, token
from tests.journeys.answers import check_answer, gateway_over
from tests.journeys.test_attacks import execute
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("rate limits over http")

RESOURCES = {
    "things": "access: {anonymous: {read: {}}, customer: {read: {}, create: {}}}",
    "few": "table: things\nrate_limit: 3/day\naccess: {anonymous: {read: {}}}",
}
THINGS, FEW = "/api/v1/things", "/api/v1/few"
DAY_SECONDS = 86400


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        execute(url, "CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)", "SELECT 1")
        yield url


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(tmp_path_factory.mktemp("limits") / "resources", RESOURCES)


@pytest.fixture(scope="module")
def keys() -> Iterator[IssuerServer]:
    with issuer(public(EC)) as server:
        yield server


@pytest.fixture
def served(database: str, resources: Path, keys: IssuerServer) -> Served:
    return Served(database, resources, keys)


class Served:
    """Gateways that ask for tokens, each with limits of its own unless they share a Redis."""

    def __init__(self, database: str, resources: Path, keys: IssuerServer) -> None:
        self._database, self._resources = database, resources
        self._auth = {
            "AUTH": "on",
            "AUTH_JWKS_URL": keys.url,
            "AUTH_ISSUER": ISSUER,
            "AUTH_AUDIENCE": AUDIENCE,
            "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
        }

    @contextmanager
    def __call__(self, rate: str = "5/day", **variables: str) -> Iterator[httpx.Client]:
        with gateway_over(self._database, self._resources, **{**self._auth, "RATE_LIMIT": rate, **variables}) as client:
            yield client


BEHIND_A_PROXY = {"TRUSTED_PROXIES": "127.0.0.1"}


def address() -> str:
    """One that no other test has."""
    return str(ipaddress.ip_address(random.getrandbits(24) + int(ipaddress.ip_address("10.0.0.0"))))


def by(caller: str, subject: str = "") -> dict[str, str]:
    """Headers of a caller at that address, with a token of that subject."""
    headers = {"x-forwarded-for": caller}
    if subject:
        headers["authorization"] = f"Bearer {token(sub=subject).decode()}"
    return headers


def statuses(client: httpx.Client, count: int, path: str = THINGS, headers: dict[str, str] | None = None) -> list[int]:
    return [client.get(path, headers=headers).status_code for _ in range(count)]


def check_refusal(response: httpx.Response, name: str, amount: int) -> None:
    check_answer(response)
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "RATE_LIMITED"
    wait = int(response.headers["retry-after"])
    assert 1 <= wait <= 2 * DAY_SECONDS
    assert response.headers["ratelimit"] == f'"{name}";r=0;t={wait}'
    assert response.headers["ratelimit-policy"] == f'"{name}";q={amount};w={DAY_SECONDS}'


# --- one gateway ---------------------------------------------------------------------------------------------------------


def test_answers_tell_how_much_is_left_and_then_when_there_is_more(served: Served) -> None:
    with served() as client:
        for left in (4, 3, 2, 1, 0):
            response = client.get(THINGS)
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == f'"default";q=5;w={DAY_SECONDS}'
            assert response.headers["ratelimit"].startswith(f'"default";r={left};t=')
        check_refusal(client.get(THINGS), "default", 5)
        for method, path in (("HEAD", THINGS), ("POST", THINGS), ("GET", f"{THINGS}/1"), ("GET", "/api/v1/nothing"),
                             ("GET", "/api/v1/openapi.json"), ("OPTIONS", THINGS), ("GET", "/api/nonsense")):  # fmt: skip
            assert client.request(method, path).status_code == 429, (method, path)
        assert client.get("/health/live").status_code == 200


def test_refusals_and_errors_count_as_requests_do(served: Served) -> None:
    with served() as client:
        answers = [
            client.get(f"{THINGS}?nothing=1"),
            client.get("/api/v1/nothing"),
            client.post(THINGS),
            client.get(f"{THINGS}/7"),
        ]
        assert [response.status_code for response in answers] == [400, 404, 401, 404]
        assert [response.headers["ratelimit"].split(";")[1] for response in answers] == ["r=4", "r=3", "r=2", "r=1"]


def test_address_is_limited_before_its_token_is_looked_at(served: Served) -> None:
    with served() as client:
        forged = {"authorization": "Bearer x.y.z"}
        assert statuses(client, 5, headers=forged) == [401] * 5
        check_refusal(client.get(THINGS, headers=forged), "default", 5)
        assert client.get(THINGS, headers=by("", "good")).status_code == 429


def test_subject_is_limited_wherever_it_comes_from(served: Served) -> None:
    with served(**BEHIND_A_PROXY) as client:
        assert [client.get(THINGS, headers=by(address(), "ann")).status_code for _ in range(6)] == [200] * 5 + [429]
        check_refusal(client.get(THINGS, headers=by(address(), "ann")), "default", 5)
        assert client.get(THINGS, headers=by(address(), "bob")).status_code == 200
        assert client.get(THINGS, headers=by(address())).status_code == 200


def test_tightest_of_address_and_subject_is_told(served: Served) -> None:
    with served(**BEHIND_A_PROXY) as client:
        for _ in range(3):
            client.get(THINGS, headers=by(address(), "ann"))
        assert ";r=1;" in client.get(THINGS, headers=by(address(), "ann")).headers["ratelimit"]
        crowded = address()
        assert statuses(client, 4, headers=by(crowded)) == [200] * 4
        assert ";r=0;" in client.get(THINGS, headers=by(crowded, "bob")).headers["ratelimit"]


def test_forwarded_address_of_a_peer_that_is_no_trusted_proxy_is_not_believed(served: Served) -> None:
    with served() as client:
        assert [client.get(THINGS, headers=by(address())).status_code for _ in range(6)] == [200] * 5 + [429]
    with served(**BEHIND_A_PROXY) as client:
        caller = address()
        spoofed = [by(f"{address()}, {caller}") for _ in range(6)]
        assert [client.get(THINGS, headers=headers).status_code for headers in spoofed] == [200] * 5 + [429]


def test_resource_with_a_limit_of_its_own_counts_by_itself(served: Served) -> None:
    with served() as client:
        assert statuses(client, 3, FEW) == [200] * 3
        check_refusal(client.get(FEW), "few", 3)
        check_refusal(client.get(f"{FEW}/1"), "few", 3)
        assert statuses(client, 6) == [200] * 5 + [429]


def test_limits_that_are_off_are_off_for_every_resource(served: Served) -> None:
    with served("off") as client:
        answers = [client.get(path) for path in (THINGS, FEW) for _ in range(10)]
        assert {response.status_code for response in answers} == {200}
        assert not any(name.startswith("ratelimit") for response in answers for name in response.headers)


def test_limits_hold_without_tokens_too(served: Served) -> None:
    with served(AUTH="off") as client:
        assert statuses(client, 6) == [200] * 5 + [429]


# --- through Redis -------------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may take its time, on a machine that is busy with other tests."""
    monkeypatch.setattr(ratelimit, "RedisStorage", partial(RedisStorage, timeout_seconds=20))


@pytest.mark.usefixtures("patient")
def test_two_gateways_on_one_redis_admit_together_what_one_would(served: Served, redis_url: str) -> None:
    shared = {"REDIS_URL": redis_url, **BEHIND_A_PROXY}
    with ExitStack() as stack:
        gateways = [stack.enter_context(served("50/day", **shared)) for _ in range(2)]
        caller = by(address())
        with ThreadPoolExecutor(8) as threads:
            found = Counter(threads.map(lambda number: gateways[number % 2].get(THINGS, headers=caller).status_code, range(150)))
        assert found == {200: 50, 429: 100}
        subject = f"subject-{address()}"
        answers = [gateways[number % 2].get(THINGS, headers=by(address(), subject)).status_code for number in range(52)]
        assert answers == [200] * 50 + [429] * 2


@pytest.mark.usefixtures("patient")
def test_what_is_served_while_it_is_counted_counts_and_is_refused_all_the_same(served: Served, redis_url: str) -> None:
    paths = (THINGS, f"{THINGS}/7", f"{THINGS}?nothing=1", "/api/v1/nothing")
    with served("20/day", REDIS_URL=redis_url, **BEHIND_A_PROXY) as client:
        caller = by(address())
        answers = [client.get(paths[number % 4], headers=caller) for number in range(24)]
        assert [answer.status_code for answer in answers] == [200, 404, 400, 404] * 5 + [429] * 4
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == [
            f"r={left}" for left in range(19, -1, -1)
        ] + ["r=0"] * 4


@pytest.mark.usefixtures("patient")
def test_redis_that_dies_leaves_the_limits_of_memory_and_fails_no_request(
    served: Served, server_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        valkey = stack.enter_context(ExitStack())
        url = valkey.enter_context(embedded.valkey(server_directory))
        client = stack.enter_context(served(REDIS_URL=url))
        assert statuses(client, 4) == [200] * 4
        valkey.close()
        assert statuses(client, 8) == [200] * 5 + [429] * 3  # memory begins anew
        check_refusal(client.get(THINGS), "default", 5)
        assert any(record.name == "gateway.ratelimit" and record.levelname == "WARNING" for record in caplog.records)


def test_redis_that_is_not_there_at_the_start_stops_nothing(served: Served) -> None:
    with served(REDIS_URL="redis://127.0.0.1:1/0") as client:
        assert statuses(client, 6) == [200] * 5 + [429]
