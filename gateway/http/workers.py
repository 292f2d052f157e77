"""Several processes that serve from one socket, and the one that keeps them: `Supervisor`.

A worker that ends, by a crash or a kill, is started anew; so is one that does not answer, be it stopped or stuck in a loop, once
it is killed. One that ends again and again is waited for longer each time, and the others go on. Signals go to the workers:

    SIGTERM           each drains, and the supervisor ends when all have; with 0
    SIGINT, SIGQUIT   each stops now
    either again      sooner; a third time kills
    SIGHUP            each reloads

Workers are started by uvicorn's own `Process`, as processes of their own, not by fork: a copy of an event loop's threads and
connections is no start.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pickle import UnpicklingError
from socket import socket
from typing import Literal, NoReturn

import msgspec
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from gateway.http.server import Server

logger = logging.getLogger("gateway")

TURN_SECONDS = 0.1
ANSWER_SECONDS = 5.0
"""A worker that has not answered for so long is killed."""
SOUND_SECONDS = 10.0
"""A worker that lived longer than this is started anew at once; another waits."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
STOP_GRACE_SECONDS = 5.0
"""Beyond what the settings give a worker to stop; then it is killed."""


class Worker(Process):
    """One worker, seen from the supervisor; `target` is what runs in the worker itself."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket], drain_seconds: float) -> None:
        super().__init__(config, sockets)
        self.drain_seconds = drain_seconds
        self.supervisor = os.getpid()
        self.started_at = time.monotonic()

    @property
    def server(self) -> Server:
        """The server of this process."""
        if self._server is None:
            self._server = Server(self.config, self.drain_seconds, self.supervisor)
        return self._server  # type: ignore[return-value]  # nobody else sets it

    def pong(self) -> None:
        """Answers the supervisor, unless the loop hangs: then silence says so."""
        self.child_conn.recv()
        if not self.server.is_stuck:
            self.child_conn.send(self.server.started)

    def always_pong(self) -> None:
        """In a thread of the worker's, as long as there is somebody to answer."""
        try:
            super().always_pong()
        except (OSError, EOFError):
            return

    def state(self) -> Literal["serving", "starting", "gone"]:
        """How it is: `gone` is also one that does not answer."""
        if not self.process.is_alive():
            return "gone"
        try:
            started = self._healthcheck(ANSWER_SECONDS)
        except (ValueError, UnpicklingError):
            started = None
        return "gone" if started is None else "serving" if started else "starting"

    def end(self) -> None:
        """Kills it, if it is still there, and lets go of it."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.parent_conn.close()
        self.child_conn.close()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


def wait_seconds(failures: int) -> float:
    """How long a place stays empty after so many early ends in a row: not at all after none, then twice as long each time."""
    doublings = min(failures - 1, 10)
    return min(FIRST_WAIT_SECONDS * 2.0**doublings, LONGEST_WAIT_SECONDS) if failures else 0.0


class _Place(msgspec.Struct):
    """One worker's place. `restart_at` is None while one is in it; `failures` are early ends in a row."""

    worker: Worker
    failures: int = 0
    restart_at: float | None = None
    reload: bool = False


class Supervisor(Multiprocess):
    """Keeps `config.workers` workers serving from `sockets` until a signal ends it, or none of the first can start.

    `failed` says that it was the latter.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket], drain_seconds: float, stop_seconds: float) -> None:
        super().__init__(config, sockets)
        self._drain_seconds = drain_seconds
        self._stop_seconds = stop_seconds
        self._places: list[_Place] = []
        self._served = False
        self.failed = False
        self.stopped_by: signal.Signals | None = None
        self._stops = 0

    def run(self) -> None:
        """Until told to stop."""
        self._places = [_Place(self._start()) for _ in range(self.processes_num)]
        while not self.should_exit.wait(TURN_SECONDS):
            self.handle_signals()
            self.keep_subprocess_alive()
        self._join()

    def _start(self) -> Worker:
        """A worker; one that is gone already where the machine has no room for it, or killed it at once."""
        worker = Worker(self.config, self.sockets, self._drain_seconds)
        try:
            worker.start()
        except OSError as fault:
            logger.warning("a worker could not be started: %s", fault)
        return worker

    def keep_subprocess_alive(self) -> None:
        """Looks after each place once."""
        for place in self._places:
            if self.should_exit.is_set() or self.signal_queue:
                return
            if place.restart_at is None:
                self._look_after(place)
            elif place.restart_at <= time.monotonic():
                place.worker, place.restart_at = self._start(), None

    def _look_after(self, place: _Place) -> None:
        worker = place.worker
        state = worker.state()
        if state == "serving":
            self._served = True
            if place.reload:
                place.reload = False
                worker.send(signal.SIGHUP)
        elif state == "gone":
            hung = worker.process.is_alive()
            worker.end()
            self._bury(place, "did not answer and was killed" if hung else f"ended, with {worker.exitcode}")

    def _bury(self, place: _Place, how: str) -> None:
        """Nothing that stops one worker after others have served stops the rest: a fault of the moment, most likely."""
        worker = place.worker
        if worker.exitcode == STARTUP_FAILURE and not self._served:
            self.failed = True
            self.should_exit.set()
            return
        lived_seconds = time.monotonic() - worker.started_at
        place.failures = 0 if lived_seconds > SOUND_SECONDS else place.failures + 1
        wait = wait_seconds(place.failures)
        place.restart_at = time.monotonic() + wait
        logger.error("worker %s %s; another starts %s", worker.pid, how, f"in {wait:g} s" if wait else "now")

    # --- signals -------------------------------------------------------------------------------------------------------

    def handle_term(self) -> None:
        """SIGTERM."""
        self._stop(signal.SIGTERM)

    def handle_int(self) -> None:
        """SIGINT."""
        self._stop(signal.SIGINT)

    def handle_quit(self) -> None:
        """SIGQUIT."""
        self._stop(signal.SIGQUIT)

    def handle_hup(self) -> None:
        """SIGHUP. A worker that has not begun to serve gets it then: it may have read the files already."""
        for place in self._places:
            place.reload = True

    def handle_ttin(self) -> None:
        """Nothing: how many workers there are is a setting."""

    def handle_ttou(self) -> None:
        """Nothing."""

    def _stop(self, number: signal.Signals) -> None:
        self._stops += 1
        self.stopped_by = self.stopped_by or number
        for shared in self.sockets:  # so that nobody can connect once the workers have closed theirs
            shared.close()
        told = signal.SIGTERM if number == signal.SIGTERM and self._stops == 1 else signal.SIGQUIT
        for place in self._places:
            place.worker.send(told if self._stops < 3 else signal.SIGKILL)
        self.should_exit.set()

    def _join(self) -> None:
        """Waits for all, within what they are given; kills what is left."""
        if self.failed:
            self._stops = 1
            for place in self._places:
                place.worker.send(signal.SIGQUIT)
        deadline = time.monotonic() + self._drain_seconds + self._stop_seconds + STOP_GRACE_SECONDS
        while any(place.worker.process.is_alive() for place in self._places):
            self.handle_signals()
            if time.monotonic() > deadline:
                for place in self._places:
                    place.worker.send(signal.SIGKILL)
            for place in self._places:
                place.worker.process.join(TURN_SECONDS / len(self._places))

    def restart_all(self) -> NoReturn:
        """Not offered: SIGHUP reloads."""
        raise NotImplementedError
