"""The revision files under `migrations/`, read and not run: which there are, and which comes after which.

For the process that serves. Alembic would load itself (11 MB, a tenth of a second for each worker) and run every file to say so.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from gateway.errors import ConfigurationError

VERSIONS = Path("migrations") / "versions"


class Revisions:
    """Revisions by their ids, each with those that it comes after."""

    def __init__(self, after: Mapping[str, tuple[str, ...]]) -> None:
        self._after = after
        self._order = tuple(TopologicalSorter(after).static_order())

    def pending(self, applied: Collection[str]) -> tuple[str, ...] | None:
        """What is still to run in a database that is at `applied`, in that order; None where it is at one without a file."""
        if not self._after.keys() >= set(applied):
            return None
        done, found = set[str](), list(applied)
        while found:
            done.add(id_ := found.pop())
            found += self._after[id_]
        return tuple(id_ for id_ in self._order if id_ not in done)


def read_revisions(start: Path) -> Revisions | None:
    """The revisions of the checkout that `start` is in; None outside of one, or where it has none.

    Raises ConfigurationError for files that do not make one history.
    """
    root = next((each for each in (start, *start.parents) if _configures_alembic(each / "pyproject.toml")), None)
    files = [] if root is None else sorted((root / VERSIONS).glob("*.py"))
    after = dict(map(_read, files))
    missing = {id_ for before in after.values() for id_ in before if id_ not in after}
    if missing:
        raise ConfigurationError(f"{VERSIONS}: a revision comes after {', '.join(sorted(missing))}, for which there is no file")
    try:
        return Revisions(after) if after else None
    except CycleError:
        raise ConfigurationError(f"{VERSIONS}: revisions come after each other in a circle") from None


def _configures_alembic(file: Path) -> bool:
    try:
        return "alembic" in tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return False


def _read(file: Path) -> tuple[str, tuple[str, ...]]:
    """A file's `revision`, and its `down_revision` as a tuple."""
    try:
        said = dict(filter(None, map(_assigned, ast.parse(file.read_bytes()).body)))
        before = said["down_revision"]
        return str(said["revision"]), (before,) if isinstance(before, str) else tuple(before or ())
    except (OSError, SyntaxError, ValueError, KeyError) as fault:
        raise ConfigurationError(f"{VERSIONS / file.name}: its revision and down_revision cannot be read") from fault


def _assigned(statement: ast.stmt) -> tuple[str, Any] | None:
    """The name and value of `revision = …` and `down_revision = …`, with a type or without."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    value = getattr(statement, "value", None)
    if isinstance(target, ast.Name) and target.id in ("revision", "down_revision") and isinstance(value, ast.expr):
        return target.id, ast.literal_eval(value)
    return None
