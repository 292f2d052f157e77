"""What faults are done to: a PostgreSQL and a Valkey of the test's own, and the `gateway serve` that stands before them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from gateway import embedded
from tests.client import client_of
from tests.conftest import put_new_data
from tests.journeys.processes import COMMAND, environment, free_port

PATIENCE_SECONDS = 60.0


class Server:
    """An embedded server that can be started, frozen and killed. `kind` makes its context, as `embedded.postgres` does."""

    def __init__(self, kind: Callable[[Path], Any], name: str, directory: Path) -> None:
        self._kind = kind
        self._name = name
        self._directory = directory
        self._stack = ExitStack()
        self.url = ""

    def start(self) -> None:
        """Until it answers."""
        self.url = self._stack.enter_context(self._kind(self._directory))

    def stop(self) -> None:
        """In order; what was killed already is cleared away."""
        self._stack.close()

    def restart(self, number: signal.Signals) -> None:
        """Ends it by a signal, and starts it again."""
        self.kill(number)
        self.stop()
        self.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """The signal to its first process, and until that has ended: SIGQUIT is PostgreSQL's immediate shutdown."""
        first = self._first()
        first.send_signal(number)
        with suppress(psutil.NoSuchProcess):
            while first.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.005)

    @contextmanager
    def frozen(self) -> Iterator[int]:
        """All its processes stand still; gives how many."""
        first = self._first()
        first.suspend()  # so that no new ones come
        frozen = [first, *first.children(recursive=True)]
        for process in frozen[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield len(frozen)
        finally:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def _first(self) -> psutil.Process:
        home = str(Path(self.socket).parent)
        for process in psutil.process_iter(["name", "ppid"]):
            with suppress(psutil.Error):
                if process.info["name"] == self._name and process.ppid() == os.getpid() and self._is_ours(process, home):
                    return process
        raise AssertionError(f"no {self._name} runs")

    def _is_ours(self, process: psutil.Process, home: str) -> bool:
        return any(home in part for part in process.cmdline()) or process.cwd() == home

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        if self.url.startswith("unix://"):
            return self.url.removeprefix("unix://")
        return f"{self.url.partition('host=')[2]}/.s.PGSQL.5432"


def postgres(directory: Path, durable: bool = False) -> Server:
    """A PostgreSQL that was not started yet. One that is not `durable` forgets its last COMMITs when it is killed."""
    put_new_data(directory / "postgres")
    return Server(lambda path: embedded.postgres(path, durable=durable), "postgres", directory)


def valkey(directory: Path) -> Server:
    """A Valkey that was not started yet; it forgets everything when it ends."""
    return Server(embedded.valkey, "valkey-server", directory)


class Gateway:
    """A `gateway serve` of the test's own."""

    def __init__(self, process: psutil.Popen, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.client = client_of(f"http://127.0.0.1:{port}")

    def ready(self) -> httpx.Response:
        """What `/health/ready` answers."""
        return self.client.get("/health/ready")

    def metrics(self) -> Mapping[str, float]:
        """Each series of `/metrics` by its name with its labels, as written there."""
        lines = self.client.get("/metrics").text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        return sum(value for series, value in self.metrics().items() if series.partition("{")[0] == name)

    def wait_until_ready(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Until `/health/ready` is 200. Raises AssertionError with the log."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if self.ready().status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"gateway serve is not ready:\n{self.log.read_text()[-5000:]}")


@contextmanager
def gateway(
    directory: Path, resources: Path, database_url: str, settings: Mapping[str, str], wait: bool = True
) -> Iterator[Gateway]:
    """A gateway over a database, ready to serve unless not waited for."""
    port = free_port()
    log = directory / f"gateway-{port}.log"
    with log.open("wb") as output:
        process = psutil.Popen(
            [COMMAND, "serve", "--port", str(port)],
            cwd=directory,
            env=environment(database_url, RESOURCES_DIR=str(resources), **settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    served = Gateway(process, port, log)
    try:
        if wait:
            served.wait_until_ready()
        yield served
    finally:
        served.client.close()
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
            raise
