"""How `gateway serve` ends, and what becomes of its workers: what is in flight is answered, and what crashes is started anew."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.http.workers import wait_seconds
from tests.journeys.gated import Gate, site
from tests.journeys.processes import PATIENCE_SECONDS, Server, server

pytestmark = pytest.mark.xdist_group("stopping")


def eventually(holds: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def gate(database_url: str, tmp_path: Path) -> Iterator[Gate]:
    site(database_url, tmp_path)
    with Gate(database_url).running() as gate:
        yield gate


def workers(process: psutil.Process) -> list[psutil.Process]:
    """The processes that serve, not multiprocessing's tracker of resources."""
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


def serving_workers(found: Server) -> list[psutil.Process]:
    """Both workers of a gateway that has just been started, once they serve."""
    assert eventually(lambda: found.log.read_text().count("Application startup complete.") == 2)
    return workers(psutil.Process(found.process.pid))


def status(client: httpx.Client, path: str = "/health/ready") -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.parametrize("count", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_sigterm_drains_not_ready_at_once_serving_on_and_what_is_in_flight_is_answered(
    database_url: str, tmp_path: Path, gate: Gate, count: str
) -> None:
    gate.close()
    patient = {"SHUTDOWN_DRAIN_SECONDS": "600", "SHUTDOWN_TIMEOUT_SECONDS": "600", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "600"}
    served = server(tmp_path, database_url, tmp_path / "log", "--workers", count, **patient)
    with served as found, ThreadPoolExecutor(1) as other, httpx.Client(base_url=found.client.base_url, timeout=60) as second:
        assert second.get("/api/v1/notes/1").headers.get("connection") is None
        in_flight = other.submit(second.get, "/api/v1/gated/1")
        assert eventually(lambda: gate.waiting() == 1)
        found.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: status(found.client) == 503)
        ready = found.client.get("/health/ready")
        assert ready.json()["checks"] == {"process": {"status": "unavailable", "reason": "is stopping"}}
        assert found.client.get("/health/live").status_code == 200
        answer = found.client.get("/api/v1/notes/1")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        found.process.send_signal(signal.SIGTERM)  # which cuts the ten minutes short, and nothing else
        assert eventually(lambda: status(found.client) == 0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{found.client.base_url}/health/live", timeout=60)
        assert found.process.poll() is None
        assert not in_flight.done()
        gate.open()
        assert in_flight.result(60).status_code == 200
        assert found.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("used", [True, False])
def test_a_connection_that_is_idle_when_the_drain_ends_takes_one_more_request(
    database_url: str, tmp_path: Path, gate: Gate, used: bool
) -> None:
    """A proxy that keeps it may just be sending a POST on it, which it may not send again."""
    gate.open()
    with server(tmp_path, database_url, tmp_path / "log", SHUTDOWN_DRAIN_SECONDS="0.1") as found:
        host, port = found.client.base_url.host, found.client.base_url.port
        assert port is not None
        found.client.close()  # or its own connection, idle too, would be waited for
        with socket.create_connection((host, port), timeout=60) as idle:
            if used:
                assert exchange(idle, b"GET /api/v1/notes/1 HTTP/1.1\r\nHost: here\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            found.process.send_signal(signal.SIGTERM)
            assert eventually(lambda: "Shutting down" in found.log.read_text())
            body = b'{"id": 1000, "body": "the last"}'
            head = b"POST /api/v1/notes HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            answer = exchange(idle, head % len(body) + body)
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert found.process.wait(PATIENCE_SECONDS) == 0


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """The first packet of the answer."""
    connection.sendall(request)
    return connection.recv(65536)


@pytest.mark.parametrize(("count", "number", "code"), [("1", signal.SIGQUIT, 0), ("2", signal.SIGINT, 130)])
def test_a_signal_other_than_sigterm_stops_without_a_drain(
    database_url: str, tmp_path: Path, gate: Gate, count: str, number: signal.Signals, code: int
) -> None:
    gate.open()
    with server(tmp_path, database_url, tmp_path / "log", "--workers", count, SHUTDOWN_DRAIN_SECONDS="600") as found:
        found.process.send_signal(number)
        assert found.process.wait(PATIENCE_SECONDS) == code
    assert "Traceback" not in found.log.read_text()


@pytest.mark.long
def test_what_never_ends_does_not_keep_a_process_beyond_its_bound(database_url: str, tmp_path: Path, gate: Gate) -> None:
    gate.close()
    bounds = {"SHUTDOWN_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "600"}
    with server(tmp_path, database_url, tmp_path / "log", **bounds) as found, ThreadPoolExecutor(1) as other:
        in_flight = other.submit(status, found.client, "/api/v1/gated/1")
        assert eventually(lambda: gate.waiting() == 1)
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(PATIENCE_SECONDS) == 0
        assert in_flight.result(60) == 503


def test_a_worker_that_ends_early_is_waited_for_longer_each_time() -> None:
    assert [wait_seconds(failures) for failures in (0, 1, 2, 3, 7, 8, 10_000)] == [0, 0.5, 1, 2, 30, 30, 30]


def test_a_worker_that_ends_is_started_anew_and_the_other_serves_on(database_url: str, tmp_path: Path, gate: Gate) -> None:
    gate.open()
    with server(tmp_path, database_url, tmp_path / "log", "--workers", "2") as found:
        supervisor = psutil.Process(found.process.pid)
        kept, victim = serving_workers(found)
        victim.kill()
        assert eventually(lambda: f"worker {victim.pid} ended, with -9; another starts" in found.log.read_text())
        assert eventually(lambda: len(set(workers(supervisor)) - {victim}) == 2)
        assert kept in workers(supervisor)
        assert httpx.get(f"{found.client.base_url}/api/v1/notes/1", timeout=60).status_code == 200
        left = workers(supervisor)
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(PATIENCE_SECONDS) == 0
        assert not any(worker.is_running() for worker in left)


@pytest.mark.long
def test_a_worker_that_hangs_is_replaced_and_workers_whose_supervisor_is_gone_stop(
    database_url: str, tmp_path: Path, gate: Gate
) -> None:
    gate.open()
    with server(tmp_path, database_url, tmp_path / "log", "--workers", "2") as found:
        supervisor = psutil.Process(found.process.pid)
        hung, kept = serving_workers(found)
        hung.suspend()
        assert eventually(lambda: f"worker {hung.pid} did not answer and was killed" in found.log.read_text())
        assert eventually(lambda: len(set(workers(supervisor)) - {hung}) == 2)
        assert kept in workers(supervisor)
        left = workers(supervisor)
        found.process.kill()
        found.process.wait()
        assert eventually(lambda: not any(worker.is_running() for worker in left))
