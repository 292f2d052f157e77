"""A gateway behind nginx, as it is deployed: over TLS, with the limits and the rules of `deploy/nginx.conf`."""

from __future__ import annotations

import inspect
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn

from gateway import migrate
from gateway.http.edge import BODY_DEADLINE_SECONDS, MAX_HEAD_BYTES
from gateway.http.protocol import HEAD_DEADLINE_SECONDS
from gateway.settings import load_settings
from tests.conftest import throwaway_database, throwaway_directory
from tests.deploy.proxy import CONFIGURATION, Proxy, install, proxying
from tests.journeys.answers import JSON, check_answer
from tests.journeys.processes import PATIENCE_SECONDS, free_port, serving
from tests.tools import tool

pytestmark = pytest.mark.xdist_group("nginx")

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
REQUESTS_A_MINUTE = 1000
TRUSTING = {"TRUSTED_PROXIES": "127.0.0.1", "RATE_LIMIT": f"{REQUESTS_A_MINUTE}/minute", "RESOURCES_DIR": str(RESOURCES)}


@pytest.fixture(scope="module")
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """nginx before one gateway that runs and one that does not."""
    with ExitStack() as stack:
        database_url = stack.enter_context(throwaway_database(postgres_url))
        migrate.upgrade(database_url)
        directory = stack.enter_context(throwaway_directory())
        gateway = stack.enter_context(serving(directory, database_url, directory / "gateway.log", **TRUSTING))
        dead = f"127.0.0.1:{free_port()} max_fails=0"  # so it is tried again and again
        upstreams = [f"127.0.0.1:{gateway.base_url.port}", dead]
        yield stack.enter_context(proxying(directory, upstreams))


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx.Client]:
    with proxy.client() as client:
        client.event_hooks = {"response": [check_answer]}
        yield client


def configured(directive: str) -> list[str]:
    """Every value that the configuration gives a directive."""
    return re.findall(rf"^\s*{directive}\s+([^;]+);", CONFIGURATION.read_text(), re.MULTILINE)


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    install(tmp_path, ["127.0.0.1:8000"])
    told = subprocess.run(
        [tool("nginx"), "-t", "-e", str(tmp_path / "error.log"), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (told.returncode, "warn" in told.stderr) == (0, False), told.stderr


def test_its_limits_are_the_gateways() -> None:
    settings = load_settings({}, None)
    assert configured("client_max_body_size") == [str(settings.max_body_bytes)]
    assert CONFIGURATION.read_text().count(f"at most {settings.max_body_bytes} bytes are taken") == 1
    count, size = configured("large_client_header_buffers")[0].split()
    assert (int(count), size) == (2, f"{MAX_HEAD_BYTES // 1024}k")
    assert configured("client_header_timeout") == [f"{HEAD_DEADLINE_SECONDS:g}s"]
    assert configured("client_body_timeout") == [f"{BODY_DEADLINE_SECONDS:g}s"]


def test_an_etag_stays_a_strong_one() -> None:
    """gzip makes it weak, and If-Match of a weak one is a 412."""
    assert configured("gzip") == []


def test_it_lets_go_of_a_connection_before_the_gateway_does() -> None:
    of_callers, of_gateways = configured("keepalive_timeout")
    gateway_keeps = inspect.signature(uvicorn.Config).parameters["timeout_keep_alive"].default
    assert int(of_gateways.removesuffix("s")) < gateway_keeps
    assert int(of_callers.removesuffix("s")) > 0


def test_it_waits_for_a_second_try_to_connect() -> None:
    """A gateway that stops leaves the first unanswered and refuses the next, which Linux sends after a second."""
    (connect,) = configured("proxy_connect_timeout")
    assert int(connect.removesuffix("s")) > 1


def test_rows_are_listed_created_read_changed_and_deleted(client: httpx.Client) -> None:
    created = client.post("/api/v1/categories", json={"slug": "lamps", "name": "Lamps"})
    assert created.status_code == 201
    place = created.headers["location"]
    tag = client.get(place).headers["etag"]
    assert not tag.startswith("W/")
    assert client.get(place, headers={"if-none-match": tag}).status_code == 304
    assert client.patch(place, json={"name": "Lights"}, headers={"if-match": tag}).json()["data"]["name"] == "Lights"
    assert client.patch(place, json={"name": "Late"}, headers={"if-match": tag}).status_code == 412
    assert [row["name"] for row in client.get("/api/v1/categories?slug=lamps").json()["data"]] == ["Lights"]
    assert client.delete(place).status_code == 204
    assert client.get(place).json()["error"]["code"] == "NOT_FOUND"


def test_a_dead_gateway_is_passed_over_and_nothing_of_the_request_is_logged(proxy: Proxy, client: httpx.Client) -> None:
    """Whatever the method, for nothing was sent to it yet."""
    for number in range(10):
        for _ in range(2):  # nginx takes turns, so that each method meets the dead one
            assert client.get("/api/v1/categories?slug=told-to-nobody").status_code == 200
        assert client.post("/api/v1/categories", json={"slug": f"over-{number}", "name": "Over"}).status_code == 201
    assert "told-to-nobody" not in "".join(path.read_text() for path in proxy.directory.glob("*.log"))


def test_what_is_retried_is_safe_to_send_twice() -> None:
    """`non_idempotent` would send a POST again that may have been carried out; `http_503` would double an overload."""
    assert configured("proxy_next_upstream") == ["error timeout"]


def test_an_unknown_path_is_not_found(client: httpx.Client) -> None:
    for path in ("/", "/nothing", "/admin", "/api", "/api/v1/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


def test_the_world_may_ask_whether_it_lives_and_not_what_ails_it(client: httpx.Client) -> None:
    assert client.get("/health/live").status_code == 200
    for path in ("/health/ready", "/health/ready?x", "/health/", "/health", "/health/live/", "/health/live/../ready"):
        assert (client.get(path).status_code, path) == (404, path)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/metrics?x=1", "/api/../metrics"])
def test_metrics_are_not_for_the_world(proxy: Proxy, path: str) -> None:
    raw = _raw(proxy, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 404 "), raw
    assert b"http_requests_total" not in raw


def test_a_body_of_the_largest_size_reaches_the_gateway_and_one_byte_more_does_not(client: httpx.Client) -> None:
    largest = load_settings({}, None).max_body_bytes
    rest = len(json.dumps({"slug": "", "name": "Large"}, separators=(",", ":")))
    whole = client.post("/api/v1/categories", json={"slug": "s" * (largest - rest), "name": "Large"})
    assert whole.status_code not in (413, 502, 503)
    over = client.post("/api/v1/categories", json={"slug": "s" * (largest - rest + 1), "name": "Large"})
    assert (over.status_code, over.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    endless = client.post("/api/v1/categories", content=iter([b"x" * largest, b"x"]), headers=JSON)
    assert endless.status_code == 413


def test_a_head_that_the_gateway_takes_passes_and_a_larger_one_is_refused(client: httpx.Client) -> None:
    """The Link header of a page repeats the query, which nginx must find room for in its turn."""
    for number in range(3):
        client.post("/api/v1/categories", json={"slug": f"head-{number}", "name": "Head"})
    long = "head" * 7_500
    listed = client.get(f"/api/v1/categories?name[ne]={long}&limit=1&page=2")
    assert listed.status_code == 200
    assert listed.headers["link"].count(long) == 3
    refused = client.get("/api/v1/categories", headers={"x-large": "x" * 200_000})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert refused.json()["error"]["details"]["field"] == "headers"


def test_what_is_no_http_is_told_so(proxy: Proxy) -> None:
    for request in (b"NONSENSE\r\n\r\n", b"GET /api/v1/categories HTTP/1.1\r\nContent-Length: x\r\nHost: x\r\n\r\n"):
        answer = _raw(proxy, request)
        assert b'"code":"VALIDATION_ERROR"' in answer, answer
        assert b"nginx/" not in answer


def test_a_method_that_nobody_serves_is_refused(client: httpx.Client) -> None:
    assert client.request("TRACE", "/api/v1/categories").status_code == 405


def test_each_caller_is_counted_by_its_own_address_and_cannot_say_another(proxy: Proxy) -> None:
    with proxy.client("127.0.0.2") as one, proxy.client("127.0.0.3") as other:
        for number in range(3):
            claimed = {"x-forwarded-for": f"203.0.113.{number}", "forwarded": "for=192.0.2.1"}
            answer = one.get("/api/v1/categories", headers=claimed)
        assert _remaining(answer) == REQUESTS_A_MINUTE - 3
        assert _remaining(other.get("/api/v1/categories")) == REQUESTS_A_MINUTE - 1


def _remaining(answer: httpx.Response) -> int:
    """`r` of the RateLimit header: what is left of the caller's own count."""
    found = re.search(r"\br=(\d+)", answer.headers["ratelimit"])
    assert found is not None
    return int(found[1])


def test_a_callers_request_id_comes_back_and_is_in_nginxs_log(proxy: Proxy, client: httpx.Client) -> None:
    sane = client.get("/api/v1/categories", headers={"x-request-id": "seen-from-outside"})
    assert sane.headers["x-request-id"] == "seen-from-outside"
    made = client.get("/api/v1/categories", headers={"x-request-id": "not sane"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    client.get("/nothing?token=secret", headers={"x-request-id": "refused-by-nginx"})
    wanted = {"seen-from-outside", made, "refused-by-nginx"}
    end = time.monotonic() + PATIENCE_SECONDS  # nginx writes a line once the answer is out
    while not wanted <= (logged := _logged_request_ids(proxy)) and time.monotonic() < end:
        time.sleep(0.01)
    assert wanted <= logged
    assert "secret" not in (proxy.directory / "access.log").read_text()


def _logged_request_ids(proxy: Proxy) -> set[str]:
    return {json.loads(line)["requestId"] for line in (proxy.directory / "access.log").read_text().splitlines()}


def test_plain_http_is_refused(proxy: Proxy) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxy.http_port}/api/v1/categories", headers={"X-Request-Id": "of-mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert answer.headers["x-request-id"] == "of-mine"


def test_http_2_is_offered_and_nothing_older_than_tls_1_2(proxy: Proxy) -> None:
    context = proxy.trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with _tls(proxy, context) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() == "TLSv1.3"
    assert configured("ssl_protocols") == ["TLSv1.2 TLSv1.3"]


def _tls(proxy: Proxy, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", proxy.https_port), timeout=20)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def _raw(proxy: Proxy, request: bytes) -> bytes:
    """What comes back until nginx closes the connection."""
    with _tls(proxy, proxy.trust()) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received
