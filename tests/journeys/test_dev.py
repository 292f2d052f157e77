"""`gateway dev` from end to end: the console script, over its own servers, as a person uses it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from string import Template

import httpx
import msgspec
import psutil
import pytest

from tests.conftest import throwaway_directory

pytestmark = pytest.mark.xdist_group("dev")

ROOT = Path(__file__).parents[2]
GATEWAY = Path(sys.executable).parent / "gateway"
PATIENCE_SECONDS = 90


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def gateway_dev(data: Path, *arguments: str, directory: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """`gateway dev` over `data`; what has not stopped by itself at the end is killed."""
    ours = ("DATABASE_", "REDIS_", "AUTH", "PORT", "RATE_", "ADMIN", "CUSTOMER")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [str(GATEWAY), "dev", "--data", str(data), "--rows", "20", *arguments]
    with (
        (data / "stderr").open("w") as told,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, cwd=directory, env=environment) as process,
    ):
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                for left in offspring(process):
                    left.kill()
            process.kill()


def welcome(process: subprocess.Popen[str]) -> list[str]:
    """What it prints once it serves."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if "Ctrl-C" in line:
            return lines
    raise AssertionError("gateway dev ended before it served")


def tokens(lines: list[str]) -> dict[str, str]:
    """What the printed `export` lines set."""
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def offspring(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def answers(url: str, token: str = "") -> bool:
    try:
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}).status_code == 200
    except httpx.TransportError:
        return False


def sent(line: str, variables: Mapping[str, str]) -> httpx.Response:
    """The answer to a line of curl, read as a shell would."""
    words = [Template(word).safe_substitute(variables) for word in shlex.split(line)]
    pairs = list(pairwise(words))
    options = dict(pairs)
    url = next(word for word in words if word.startswith("http"))
    headers = dict(header.split(": ", 1) for option, header in pairs if option == "-H")
    return httpx.request(options.get("-X", "GET"), url, headers=headers, content=options.get("-d", "").encode())


class Running(msgspec.Struct, frozen=True):
    """`gateway dev --reload` in a checkout of its own: the process, its data, where it listens, and what it printed."""

    process: subprocess.Popen[str]
    data: Path
    checkout: Path
    port: int
    lines: list[str]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One for all tests that leave it running; the last one ends it."""
    with throwaway_directory(for_data=True) as data:
        checkout, port = data / "checkout", free_port()
        checkout.mkdir()
        shutil.copy(ROOT / "pyproject.toml", checkout)
        for name in ("migrations", "resources"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        with gateway_dev(data, "--port", str(port), "--reload", directory=checkout) as process:
            yield Running(process, data, checkout, port, welcome(process))


def test_it_serves_what_it_prints(running: Running) -> None:
    lines, variables = running.lines, tokens(running.lines)
    printed = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) == 2}
    assert printed["API"] == f"http://127.0.0.1:{running.port}/api/v1"
    assert printed["DATABASE_URL"].startswith("postgresql://")
    assert printed["REDIS_URL"].startswith("unix://")
    assert httpx.get(printed["Docs"]).status_code == 200
    assert httpx.get(printed["Health"]).status_code == 200
    examples = [line for line in lines if line.startswith("curl")]
    assert list(variables) == ["ADMIN", "CUSTOMER"]
    answered = [sent(line, variables) for line in examples]
    assert [answer.status_code for answer in answered] == [200, 200, 200, 200, 401, 201, 200]
    assert [words for words in ("$ADMIN", "$CUSTOMER") if not any(words in line for line in examples)] == []
    assert len({row["user_id"] for row in answered[3].json()["data"]}) == 1
    assert "q=6000;" in httpx.get(f"{printed['API']}/categories").headers["RateLimit-Policy"]
    token = ["token", "--role", "customer", "--sub", "nobody", "--data", str(running.data)]
    made = subprocess.run([str(GATEWAY), *token], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert httpx.get(f"{printed['API']}/users", headers={"Authorization": f"Bearer {made}"}).status_code == 403
    assert answers(f"{printed['API']}/products", made)


def test_a_second_start_while_one_runs_is_refused_in_one_line(running: Running) -> None:
    command = [str(GATEWAY), "dev", "--data", str(running.data), "--port", str(free_port())]
    second = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE_SECONDS)
    assert second.returncode == 1
    assert f"is in use by a running gateway (process {running.process.pid})" in second.stderr.splitlines()[-1]
    assert answers(f"http://127.0.0.1:{running.port}/health/ready")


def test_reload_serves_a_changed_resource_file_over_the_same_servers(running: Running) -> None:
    admin = tokens(running.lines)["ADMIN"]
    servers = [p for p in psutil.Process(running.process.pid).children() if p.name() in ("postgres", "valkey-server")]
    assert len(servers) == 2
    (running.checkout / "resources" / "goods.yaml").write_text("table: products\ndescription: The same once more\n")
    assert eventually(lambda: answers(f"http://127.0.0.1:{running.port}/api/v1/goods", admin))
    assert not answers(f"http://127.0.0.1:{running.port}/api/v1/goods")
    assert all(p.is_running() for p in servers)


def test_it_survives_kill_9_with_its_rows_on_the_same_port_and_ends_by_sigterm(server_directory: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/v1/products?count=exact"
    with gateway_dev(server_directory, "--port", str(port)) as process:
        welcome(process)
        rows = httpx.get(url).json()
        left = offspring(process)
        process.kill()
    with gateway_dev(server_directory, "--port", str(port)) as process:
        welcome(process)
        assert httpx.get(url).json() == rows
        assert all_gone(left)
        left = offspring(process)
        assert len(left) > 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert all_gone(left)


def test_ctrl_c_in_a_terminal_reaches_it_alone_and_stops_all_in_order(server_directory: Path) -> None:
    with gateway_dev(server_directory, "--port", str(free_port())) as process:
        welcome(process)
        left = offspring(process)
        group = os.getpgid(process.pid)
        assert [p for p in left if os.getpgid(p.pid) == group] == []
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
    assert eventually(lambda: all_gone(left))
    assert "Traceback" not in (server_directory / "stderr").read_text()


def test_sigint_ends_it_and_leaves_no_process_behind(running: Running) -> None:
    left = offspring(running.process)
    assert len(left) > 3
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
    assert all_gone(left)
