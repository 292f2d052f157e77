"""Every `console` block of every page, run as a reader runs it: in a checkout, beside what `make dev` runs.

A page's commands run in one shell, in order. What cannot run here (minutes of load, another host) stands in a block of another
language. docs/migrations.md deploys as it goes on, and has a test of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.conftest import throwaway_directory
from tests.docs.pages import ROOT, Block, blocks, commands, pages
from tests.docs.shell import shell
from tests.journeys.test_dev import free_port, gateway_dev, tokens, welcome

pytestmark = pytest.mark.xdist_group("docs")

RUN_ELSEWHERE = ("migrations.md",)
RUNNABLE = [page for page in pages() if page.name not in RUN_ELSEWHERE and "```console" in page.read_text()]


class Reader(msgspec.Struct, frozen=True):
    """Where a reader sits: a checkout, the address of a gateway, and what `make dev` told to export."""

    checkout: Path
    address: str
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with throwaway_directory() as directory, throwaway_directory(for_data=True) as data, _reading(directory, data) as made:
        yield made


@contextmanager
def _reading(directory: Path, data: Path) -> Iterator[Reader]:
    checkout, port = directory / "checkout", free_port()
    for name in ("migrations", "resources", "bench/k6"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("EXPLAIN_ROLES", "admin")  # as the page on plans says
        process = stack.enter_context(gateway_dev(data, "--port", str(port), directory=checkout))
        lines = welcome(process)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")}
        given = dict(line.split() for line in lines if line.startswith(("DATABASE_URL", "REDIS_URL")))
        yield Reader(checkout, f"http://127.0.0.1:{port}", {**kept, **given, **tokens(lines)})
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_every_command_of_the_page_does_what_the_page_says(reader: Reader, page: Path) -> None:
    with shell(reader.checkout, reader.address, reader.environment) as ready:
        for block in blocks(page.read_text()):
            if block.language == "python" and block.text.startswith("def upgrade"):
                _write_into_the_last_revision(reader.checkout, block)
            elif block.language == "console":
                for command in commands(block):
                    ready.hold(command, page.name)


def _write_into_the_last_revision(checkout: Path, block: Block) -> None:
    """What a page means by filling in the functions of the revision that `gateway migrate new` wrote."""
    file = max((checkout / "migrations" / "versions").glob("*.py"))
    file.write_text(re.sub(r"^def upgrade.*", lambda _: block.text, file.read_text(), flags=re.MULTILINE | re.DOTALL))


def test_there_is_something_to_run() -> None:
    assert {"README.md", "clients.md", "schema-authors.md"} <= {page.name for page in RUNNABLE}
