"""The servers that a PostgreSQL URL names: one, or several to choose among, as libpq writes them.

postgresql://user@one:5432,two:5433/database?target_session_attrs=read-write
postgresql://user@/database?host=/run/one,/run/two
"""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
"""What `target_session_attrs` takes (libpq's manual, 32.1.2)."""


class Host(msgspec.Struct, frozen=True):
    """One server: a name, an address or a socket's directory. `port` None is the driver's default."""

    name: str
    port: int | None


def hosts(url: str) -> tuple[Host, ...]:
    """The servers in the order that the URL names them; none where it leaves that to the driver. Raises ValueError."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    named = parts.netloc.rpartition("@")[2] or query.get("host", [""])[-1]
    listed = query.get("port", [""])[-1]
    ports = [_port(port) for port in listed.split(",")] if listed else [None]
    found = [_host(written) for written in named.split(",")] if named else []
    if len(ports) not in (1, len(found)) and found:
        raise ValueError("as many ports as hosts, or one for all")
    every = ports * len(found) if len(ports) == 1 else ports
    return tuple(Host(host.name, host.port or port) for host, port in zip(found, every, strict=False))


def session_attributes(url: str) -> str:
    """Which of its servers the URL wants. Of several, that is the one that takes writes, unless it says otherwise.

    Raises ValueError.
    """
    query = urlsplit(url).query
    written = parse_qs(query, strict_parsing=True).get("target_session_attrs", [""])[-1] if query else ""
    if written and written not in SESSION_ATTRIBUTES:
        raise ValueError(f"target_session_attrs: takes {', '.join(SESSION_ATTRIBUTES)}")
    return written or ("read-write" if len(hosts(url)) > 1 else "any")


def _host(written: str) -> Host:
    """`name`, `name:port` or `[address]:port`; a directory as it is."""
    if written.startswith("/"):
        return Host(written, None)
    name, colon, port = written.rpartition(":")
    if not colon or written.endswith("]"):
        name, port = written, ""
    name = unquote(name)
    if name.startswith("["):
        name = name.removeprefix("[").removesuffix("]")
    if not name or (any(mark in name for mark in "[]@/") and not name.startswith("/")):
        raise ValueError("a host without a name")
    return Host(name, _port(port) if colon and port else None)


def _port(written: str) -> int:
    if not (written.isascii() and written.isdigit() and 0 < int(written) < 65536):
        raise ValueError("a port that is none")
    return int(written)
