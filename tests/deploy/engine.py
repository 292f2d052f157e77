"""A stand-in for the `docker` command, for there is no engine here: what `deploy/staging.sh` asks of it, with real processes.

A container is a `gateway serve` of the tests' own; an image is a name, and those in `IMAGES` say how theirs differ. It is run as
a program, with its state in the directory `ENGINE_STATE`: a file for each container, and `calls` with every call.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNREACHABLE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
IMAGES: dict[str, dict[str, dict[str, str]]] = {
    "gateway:1": {},
    "gateway:2": {},
    "gateway:never-ready": {"serve": UNREACHABLE},
    "gateway:dies": {"serve": {"DATABASE_URL": "no URL"}},
    "gateway:cannot-migrate": {"migrate": UNREACHABLE},
}
"""What is different in an image, by the command that it is run with."""

VALUED = {"--name", "--env-file", "--env", "--network", "--tmpfs", "--cap-drop", "--security-opt", "--time", "--format"} | {
    "--restart",
    "--tail",
}
STATE = Path(os.environ.get("ENGINE_STATE", "."))


def parse(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options by name, and what follows them."""
    options: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        name = rest.pop(0)
        options.setdefault(name, []).append(rest.pop(0) if name in VALUED else "")
    return options, rest


def container(name: str) -> Path:
    return STATE / f"{name}.json"


def read(name: str) -> dict[str, Any]:
    if not container(name).exists():
        sys.exit(f"Error: No such container: {name}")
    content: dict[str, Any] = json.loads(container(name).read_text())
    return content


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run(options: dict[str, list[str]], rest: list[str]) -> int:
    image, *command = rest
    lines = Path(options["--env-file"][0]).read_text().splitlines() + options.get("--env", [])
    environ = {"PATH": os.environ["PATH"], **dict(line.split("=", 1) for line in lines), **IMAGES[image].get(command[0], {})}
    gateway = [str(Path(sys.executable).parent / "gateway"), *command]
    if "--detach" not in options:
        return subprocess.run(gateway, env=environ, cwd=os.environ["ENGINE_WORKDIR"], timeout=120, check=False).returncode
    name = options["--name"][0]
    if container(name).exists():
        sys.exit(f"Error: the name {name} is in use")
    with (STATE / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            gateway, env=environ, cwd=os.environ["ENGINE_WORKDIR"], stdout=log, stderr=log, start_new_session=True
        )
    container(name).write_text(json.dumps({"pid": process.pid, "image": image}))
    return 0


def inspect(options: dict[str, list[str]], rest: list[str]) -> int:
    found = read(rest[0])
    fields = {"{{.Image}}": found["image"], "{{.State.Running}}": str(is_alive(found["pid"])).lower()}
    sys.stdout.write(fields[options["--format"][0]] + "\n")
    return 0


def stop(options: dict[str, list[str]], rest: list[str]) -> int:
    pid = read(rest[0])["pid"]
    end = time.monotonic() + float(options["--time"][0])
    if is_alive(pid):
        os.kill(pid, signal.SIGTERM)
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return remove({}, rest, keep=True)


def remove(_options: dict[str, list[str]], rest: list[str], *, keep: bool = False) -> int:
    pid = read(rest[0])["pid"]
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
    if not keep:
        container(rest[0]).unlink()
    return 0


def logs(_options: dict[str, list[str]], rest: list[str]) -> int:
    sys.stdout.write((STATE / f"{rest[0]}.log").read_text())
    return 0


def execute(_options: dict[str, list[str]], rest: list[str]) -> int:
    """In the one container that is not ours: nginx, which the test runs."""
    assert rest[1:] == ["nginx", "-s", "reload"], rest
    os.kill(int((STATE / "nginx.pid").read_text()), signal.SIGHUP)
    return 0


def update(_options: dict[str, list[str]], rest: list[str]) -> int:
    read(rest[0])
    return 0


COMMANDS: dict[str, Callable[[dict[str, list[str]], list[str]], int]] = {
    "run": run,
    "inspect": inspect,
    "stop": stop,
    "rm": remove,
    "logs": logs,
    "exec": execute,
    "update": update,
}


if __name__ == "__main__":
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    sys.exit(COMMANDS[sys.argv[1]](*parse(sys.argv[2:])))
