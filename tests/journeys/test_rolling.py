"""Two gateways behind nginx, each stopped and started in turn under load: nobody hears of it."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.deploy.proxy import Proxy, proxying
from tests.journeys.gated import site
from tests.journeys.processes import COMMAND, PATIENCE_SECONDS, environment, free_port
from tests.journeys.test_stopping import eventually

THREADS = 4
PAUSE_SECONDS = THREADS / 300
"""Between two requests of a thread: 300 a second in all, on a machine that keeps up."""
LEAST_ANSWERS = 100
"""Between two steps, so that each meets requests."""


class Load:
    """Reads and writes, one after the other on each of some connections, until `over`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.over = threading.Event()
        self.statuses: Counter[str] = Counter()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def _run(self, number: int) -> None:
        with self._proxy.client() as client:
            while not self.over.wait(PAUSE_SECONDS):
                for ask in self._requests(client, number):
                    try:
                        told = str(ask().status_code)
                    except httpx.TransportError as fault:
                        told = repr(fault)
                    self.statuses[told] += 1

    def _requests(self, client: httpx.Client, number: int) -> list[Callable[[], httpx.Response]]:
        path = f"/api/v1/notes/{number + 1}"
        return [lambda: client.get(path), lambda: client.get("/api/v1/notes?limit=5")]

    def goes_on(self) -> bool:
        """Whether some more answers come."""
        enough = self.statuses.total() + LEAST_ANSWERS
        return eventually(lambda: self.statuses.total() >= enough)


def start(directory: Path, url: str, port: int) -> subprocess.Popen[bytes]:
    """A gateway, once it is ready."""
    variables = environment(url, SHUTDOWN_DRAIN_SECONDS="1", LOG_LEVEL="warning")
    with (directory / f"log-{port}").open("ab") as log:
        process = subprocess.Popen([COMMAND, "serve", "--port", str(port)], cwd=directory, env=variables, stdout=log, stderr=log)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=20).status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.02)
    process.kill()
    raise AssertionError((directory / f"log-{port}").read_text())


def is_sent_to(port: int) -> bool:
    """Whether nginx sends requests to this gateway."""
    return 'route="/api/v1/notes' in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text


@pytest.mark.long
def test_gateways_that_are_restarted_in_turn_behind_nginx_fail_no_request(database_url: str, tmp_path: Path) -> None:
    site(database_url, tmp_path)
    ports = [free_port(), free_port()]
    (tmp_path / "nginx").mkdir()
    processes = {port: start(tmp_path, database_url, port) for port in ports}
    try:
        with proxying(tmp_path / "nginx", [f"127.0.0.1:{port}" for port in ports]) as proxy:
            load = Load(proxy)
            for thread in load.threads:
                thread.start()
            try:
                for port in ports:
                    assert load.goes_on()
                    processes[port].send_signal(signal.SIGTERM)
                    assert processes[port].wait(PATIENCE_SECONDS) == 0
                    assert load.goes_on()
                    processes[port] = start(tmp_path, database_url, port)
                    assert eventually(lambda port=port: is_sent_to(port)), "nginx tries it again within its fail_timeout"  # type: ignore[misc]
            finally:
                load.over.set()
                for thread in load.threads:
                    thread.join()
        assert load.statuses.keys() == {"200"}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
