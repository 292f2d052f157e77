"""docs/migrations.md from top to bottom: its files are written, its commands run, its requests sent to a served gateway."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway import migrate
from gateway.fill import fill_resource
from tests.docs.pages import ROOT, blocks, commands
from tests.docs.shell import Shell, shell
from tests.journeys.processes import environment
from tests.serving import running, settings_for

PAGE = ROOT / "docs" / "migrations.md"


class Deployment:
    """A checkout and what serves it: anew, before the next request, whenever its resource files changed."""

    def __init__(self, checkout: Path, database_url: str, stack: ExitStack) -> None:
        self.checkout = checkout
        self._database_url = database_url
        self._stack = stack
        self._served: dict[str, str] = {}

    def write(self, text: str) -> None:
        """Writes a block whose first line names its file."""
        first = text.partition("\n")[0]
        (self.checkout / first.removeprefix("# ")).write_text(text)

    def serve(self, ready: Shell) -> None:
        """Makes sure that the resource files are served as they are now."""
        files = {path.name: path.read_text() for path in (self.checkout / "resources").iterdir()}
        if files != self._served:
            self._stack.close()
            settings = settings_for(self._database_url, self.checkout / "resources", WORKERS="1")  # one, so answers are kept
            client = self._stack.enter_context(running(settings))
            ready.address = str(client.base_url).rstrip("/")
            self._served = files


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("migrations", "resources"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_the_page_runs_from_start_to_end(checkout: Path, database_url: str, stack: ExitStack) -> None:
    migrate.upgrade(database_url)
    for resource in ("categories", "products"):
        fill_resource(database_url, ROOT / "resources", resource, 20, 1, lambda _done, _rows: None)
    deployment = Deployment(checkout, database_url, stack)
    done = 0
    with shell(checkout, "", {**environment(database_url), "ADMIN": "none"}) as ready:
        for block in blocks(PAGE.read_text()):
            if block.text.startswith(("# migrations/", "# resources/")):
                deployment.write(block.text)
            elif block.language == "console":
                for command in commands(block):
                    if command.text.startswith("curl"):
                        deployment.serve(ready)
                    ready.hold(command, PAGE.name)
                    done += 1
    assert done > 20
