"""`deploy/staging.sh`: real gateways behind a real nginx; in place of an engine the stand-in of `engine.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.conftest import throwaway_database, throwaway_directory
from tests.deploy import engine
from tests.deploy.dockerfile import ROOT
from tests.deploy.proxy import Proxy, proxying
from tests.journeys.processes import PATIENCE_SECONDS, free_port
from tests.tools import tool

pytestmark = pytest.mark.xdist_group("staging")

SCRIPT = ROOT / "deploy" / "staging.sh"


class Host(msgspec.Struct, frozen=True):
    """A machine to roll gateways on: its directory, the ports of its instances and its nginx."""

    directory: Path
    ports: tuple[int, int]
    proxy: Proxy

    def roll(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return roll(self.directory, self.ports, *arguments, **variables)

    def images(self) -> list[str]:
        """What each instance that runs was made of."""
        found = [json.loads(path.read_text()) for path in sorted(self.directory.glob("gateway-*.json"))]
        return [each["image"] for each in found if engine.is_alive(each["pid"])]

    def upstreams(self) -> str:
        return (self.proxy.directory / "upstream" / "instances.conf").read_text()


def roll(directory: Path, ports: tuple[int, ...], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, with the stand-in as its `docker`."""
    command, environ = ["bash", str(SCRIPT), *arguments], environment(directory, ports, **variables)
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)


def environment(directory: Path, ports: tuple[int, ...], **variables: str) -> dict[str, str]:
    return {
        "PATH": f"{directory}/bin{os.pathsep}{os.environ['PATH']}",
        "ENGINE_STATE": str(directory),
        "ENGINE_WORKDIR": str(ROOT),
        "INSTANCES": " ".join(map(str, ports)),
        "ENV_FILE": str(directory / "gateway.env"),
        "UPSTREAM_FILE": str(directory / "nginx" / "upstream" / "instances.conf"),
        **variables,
    }


def furnish(directory: Path, database_url: str, redis_url: str = "redis://nowhere/0") -> None:
    """A machine's files: a `docker`, the gateway's settings, and where nginx finds its upstreams."""
    (directory / "bin").mkdir()
    docker = directory / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.deploy.engine "$@"\n')
    docker.chmod(0o755)
    given = {"AUTH": "off", "RATE_LIMIT": "off", "DATABASE_POOL_MIN": "1", "SHUTDOWN_DRAIN_SECONDS": "1"}
    given |= {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    settings = "".join(f"{name}={value}\n" for name, value in given.items())
    (directory / "gateway.env").write_text(settings)
    (directory / "nginx" / "upstream").mkdir(parents=True)


@pytest.fixture(scope="module")
def host(postgres_url: str, redis_url: str) -> Iterator[Host]:
    """nginx runs, and both instances of version 1, put there by the script itself."""
    tool("nginx")
    with ExitStack() as stack:
        directory = stack.enter_context(throwaway_directory())
        furnish(directory, stack.enter_context(throwaway_database(postgres_url)), redis_url)
        ports = (free_port(), free_port())
        stack.callback(_end_all, directory)
        proxy = stack.enter_context(proxying(directory / "nginx", [f"127.0.0.1:{port} down" for port in ports]))
        (directory / "nginx.pid").write_text((directory / "nginx" / "nginx.pid").read_text())
        host = Host(directory, ports, proxy)
        told = host.roll("gateway:1")
        assert told.returncode == 0, told.stderr
        yield host


def _end_all(directory: Path) -> None:
    for path in directory.glob("gateway-*.json"):
        pid = json.loads(path.read_text())["pid"]
        if engine.is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def asked(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer, by another connection where nginx ended the kept one at the moment that it was asked, as it does when it reads
    its configuration anew. Had it taken the request all the same, a second creation would be refused with 409."""
    try:
        return ask()
    except httpx.RemoteProtocolError:
        return ask()


@contextmanager
def used(proxy: Proxy) -> Iterator[list[int]]:
    """Somebody reads and writes all the while; gives the statuses that they got."""
    statuses: list[int] = []
    over = threading.Event()

    def use() -> None:
        with proxy.client() as client:
            while not over.wait(0.05):
                new = {"slug": uuid.uuid4().hex, "name": "Used"}
                written = asked(partial(client.post, "/api/v1/categories", json=new))
                read = asked(partial(client.get, "/api/v1/categories?limit=1"))
                statuses.extend([written.status_code, read.status_code])

    user = threading.Thread(target=use)
    user.start()
    try:
        yield statuses
    finally:
        over.set()
        user.join()


def test_the_first_run_migrates_and_starts_every_instance(host: Host) -> None:
    assert host.images() == ["gateway:1", "gateway:1"]
    assert "down" not in host.upstreams()
    with host.proxy.client() as client:
        assert client.get("/api/v1/categories").status_code == 200


def test_a_new_version_comes_in_while_nobody_notices(host: Host) -> None:
    (host.directory / "calls").unlink()
    with used(host.proxy) as statuses:
        told = host.roll("gateway:2")
    assert told.returncode == 0, told.stderr
    assert host.images() == ["gateway:2", "gateway:2"]
    assert "down" not in host.upstreams()
    assert len(statuses) > 4
    assert set(statuses) == {200, 201}
    changes = [call.split()[0] for call in (host.directory / "calls").read_text().splitlines() if not call.startswith("inspect")]
    one = ["exec", "stop", "rm", "run", "update", "exec"]
    assert changes == ["run", *one, *one]


NEVER_READY = pytest.param("gateway:never-ready", "was not ready after 1 s", marks=pytest.mark.long)


@pytest.mark.parametrize(("image", "said"), [("gateway:dies", "has ended"), NEVER_READY])
def test_a_version_that_does_not_work_is_rolled_back(host: Host, image: str, said: str) -> None:
    before = host.images()
    with used(host.proxy) as statuses:
        told = host.roll(image, READY_SECONDS="1")
    assert told.returncode == 1, told.stderr
    assert said in told.stderr
    assert f"gateway-{host.ports[0]} runs {before[0]} again" in told.stderr
    assert host.images() == before
    assert "down" not in host.upstreams()
    assert set(statuses) == {200, 201}


@pytest.mark.long
def test_a_roll_that_is_stopped_goes_back(host: Host) -> None:
    """As a terminal does it: Ctrl-C reaches the script and what it runs."""
    before = host.images()
    environ = environment(host.directory, host.ports)
    command = ["bash", str(SCRIPT), "gateway:never-ready"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        end = time.monotonic() + PATIENCE_SECONDS
        while "gateway:never-ready" not in host.images() and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert (process.returncode, "stopped: going back" in said) == (1, True), said
    assert host.images() == before
    assert "down" not in host.upstreams()


def test_a_migration_that_fails_stops_it_before_anything_is_changed(host: Host) -> None:
    before = host.upstreams(), host.images()
    told = host.roll("gateway:cannot-migrate")
    assert told.returncode == 1
    assert "the migration failed: nothing was changed" in told.stderr
    assert (host.upstreams(), host.images()) == before


def test_a_second_run_at_once_is_refused(host: Host) -> None:
    lock = host.proxy.directory / "upstream" / "instances.conf.lock"
    with subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"held\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"held\n"
        told = host.roll("gateway:2")
        holder.stdin.close()
    assert (told.returncode, told.stderr) == (1, "staging: another run is under way\n")


def test_instances_that_would_cache_each_for_itself_are_refused(tmp_path: Path) -> None:
    furnish(tmp_path, "postgresql://somebody@127.0.0.1/nothing", redis_url="")
    told = roll(tmp_path, (8001, 8002), "gateway:2")
    assert (told.returncode, "has no REDIS_URL" in told.stderr) == (1, True)
    assert not (tmp_path / "calls").exists()


def test_a_dry_run_changes_nothing_and_says_all(tmp_path: Path) -> None:
    furnish(tmp_path, "postgresql://somebody:secret@127.0.0.1/nothing")
    told = roll(tmp_path, (8001, 8002), "--dry-run", "gateway:2", INSTANCES="8001 8002")
    assert told.returncode == 0, told.stderr
    lines = [line for line in told.stdout.splitlines() if not line.startswith("+ write")]
    assert lines[0].startswith("+ docker run --rm ")
    assert lines[0].endswith(" gateway:2 migrate up")
    starts = [line for line in lines if line.startswith("+ docker run --detach")]
    assert [f"--name gateway-{port} " in line for port, line in zip((8001, 8002), starts, strict=True)] == [True, True]
    assert all("--read-only --tmpfs /tmp --cap-drop ALL" in line for line in starts)
    assert sum("/health/ready" in line for line in lines) == 2
    assert "secret" not in told.stdout + told.stderr
    assert not list((tmp_path / "nginx" / "upstream").iterdir())
    assert {call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()} == {"inspect"}


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((), {}, "usage: staging.sh [--dry-run] IMAGE"),
        (("a", "b"), {}, "usage"),
        (("--help",), {}, "usage"),
        (("",), {}, "usage"),
        (("gateway:2",), {"INSTANCES": "8001"}, 'INSTANCES: held "8001"; takes two ports or more'),
        (("gateway:2",), {"INSTANCES": "8001 ; rm"}, "takes ports, such as"),
        (("gateway:2",), {"READY_SECONDS": "soon"}, 'READY_SECONDS: held "soon"; takes whole seconds'),
        (("gateway:2",), {"ENV_FILE": "/nowhere"}, "ENV_FILE: /nowhere cannot be read"),
        (("gateway:2",), {"UPSTREAM_FILE": "/nowhere/x.conf"}, "UPSTREAM_FILE: /nowhere is no directory"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_done(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    furnish(tmp_path, "postgresql://somebody@127.0.0.1/nothing")
    told = roll(tmp_path, (8001, 8002), *arguments, **variables)
    assert told.returncode == 1
    assert said in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("script", sorted([*ROOT.glob("deploy/**/*.sh"), ROOT / ".ci" / "run", ROOT / ".ci" / "tools"]), ids=str)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    told = subprocess.run([tool("shellcheck"), str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stdout) == (0, "")
