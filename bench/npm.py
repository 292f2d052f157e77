"""The peers from npm: what to install where, and how each is started. They live in a cache folder, outside git.

A peer whose packages are those of its lock file is not installed again. What cannot be installed is left out, with the reason.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

SOURCE = Path(__file__).parent / "peers"
INSTALL_TIMEOUT_SECONDS = 600
STAMP = ".installed"


class Peer(msgspec.Struct, frozen=True):
    """A peer as it lies under bench/peers: what it needs, and the command that starts it in its folder."""

    name: str
    title: str
    least_node: int
    command: tuple[str, ...]


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("fastify", "Fastify + Knex, by hand", 20, ("node", "src/server.js")),
        Peer("platformatic", "Platformatic DB", 20, ("node", "node_modules/@platformatic/db/db.mjs", "start")),
    )
}


class NotInstallable(Exception):
    """Why a peer cannot take part, in one line."""


def install(peer: Peer, cache: Path) -> Path:
    """The folder in which the peer is ready to start. Raises NotInstallable."""
    folder = cache / peer.name
    _require_node(peer.least_node)
    source = SOURCE / peer.name
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    wanted = _digest(source / "package.json", source / "package-lock.json")
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstallable("npm is not on the PATH")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--loglevel=error"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstallable(f"npm: {error}") from error
    if result.returncode != 0:
        raise NotInstallable(f"npm: {_reason(result.stderr)}")
    stamp.write_text(wanted)
    return folder


def is_installed(peer: Peer, cache: Path) -> bool:
    """Whether `install` would have nothing to fetch."""
    stamp, source = cache / peer.name / STAMP, SOURCE / peer.name
    return stamp.exists() and stamp.read_text() == _digest(source / "package.json", source / "package-lock.json")


def unix_socket_url(database_url: str) -> str:
    """A `DATABASE_URL` with its socket directory percent-encoded, as some drivers need it."""
    head, mark, directory = database_url.partition("?host=")
    return f"{head}{mark}{quote(directory, safe='')}"


def _require_node(least: int) -> None:
    node = shutil.which("node")
    if node is None:
        raise NotInstallable("node is not on the PATH")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    major = re.match(r"v(\d+)", said)
    if major is None or int(major[1]) < least:
        raise NotInstallable(f"it needs Node.js {least} or newer, here is {said.strip() or 'an unknown one'}")


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "npm warn" not in line.lower()]
    return lines[0] if lines else "it failed without a word"
