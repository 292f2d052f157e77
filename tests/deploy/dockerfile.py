"""A Dockerfile's instructions, and the image that they would make, laid out in a directory without an engine.

Its own `RUN` lines are run, in a directory that stands for the image's root. What differs: Python is the tests' own, and the
packages that the gateway needs are taken from the tests' environment, those alone and at the same pins, rather than fetched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import msgspec
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


class Instruction(msgspec.Struct, frozen=True):
    """One instruction: `RUN` and what follows it, continued lines made one."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The value of one in exec form."""
        listed = self.value[self.value.index("[") :]
        words: list[str] = json.loads(listed)
        return words


def stages(dockerfile: Path) -> list[list[Instruction]]:
    """The instructions of each stage; those before the first FROM belong to none and are dropped."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, value.strip()))
    return found


def values(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.value for instruction in stage if instruction.name == name]


class Image(msgspec.Struct, frozen=True):
    """What a container would have: its programs, its working directory, its environment and the checkout that it came from."""

    venv: Path
    workdir: Path
    variables: dict[str, str]
    healthcheck: list[str]
    command: list[str]

    @property
    def path(self) -> str:
        return f"{self.venv}/bin{os.pathsep}{os.environ['PATH']}"


def lay_out(directory: Path, dockerfile: Path = ROOT / "Dockerfile") -> Image:
    """The image of our Dockerfile in `directory`."""
    build, final = stages(dockerfile)
    source, wheels, venv, workdir = (directory / name for name in ("src", "wheels", "venv", "srv"))
    source.mkdir(parents=True)
    workdir.mkdir()
    for instruction in build:
        if instruction.name == "COPY":
            _copy(instruction.value, ROOT, source)
        elif instruction.name == "RUN" and "requirements.txt" in instruction.value:
            _link_requirements(venv)
        elif instruction.name == "RUN":
            steps = instruction.value.replace("/wheels", str(wheels)).replace("/opt/gateway", str(venv))
            _run(steps, source)
    for value in values(final, "COPY"):
        if not value.startswith("--from"):
            _copy(value, ROOT, workdir)
    (health,) = values(final, "HEALTHCHECK")
    (entrypoint,), (arguments,) = (
        [instruction for instruction in final if instruction.name == name] for name in ("ENTRYPOINT", "CMD")
    )
    return Image(
        venv,
        workdir,
        dict(pair.split("=", 1) for value in values(final, "ENV") for pair in value.split() if not pair.startswith("PATH=")),
        Instruction("HEALTHCHECK", health).words,
        entrypoint.words + arguments.words,
    )


def _copy(value: str, source: Path, target: Path) -> None:
    """What `COPY a b dir/` and `COPY dir dir` do, of what `.dockerignore` lets through."""
    *names, place = value.split()
    for name in names:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source / name, target / place, ignore=ignored)
        else:
            shutil.copy(source / name, target / place)


def _run(steps: str, directory: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    told = subprocess.run(
        ["/bin/sh", "-ec", steps], cwd=directory, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert told.returncode == 0, f"{steps}\n{told.stdout}{told.stderr}"


def _link_requirements(venv: Path) -> None:
    """What the gateway requires, and what that requires, from the tests' own environment; no package beyond."""
    (packages,) = (venv / "lib").glob("python*/site-packages")
    for found in required("gateway"):
        for name in {Path(file).parts[0] for file in found.files or () if Path(file).parts[0] not in ("..", "__pycache__")}:
            link = packages / name
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(name))))


def required(name: str) -> list[Distribution]:
    """The distributions that one needs without extras, itself not among them, each once."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(name)]
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        key = f"{requirement.name.lower()}[{','.join(sorted(requirement.extras))}]"
        if key in seen:
            continue
        seen.add(key)
        one = found[requirement.name.lower()] = distribution(requirement.name)
        for text in one.requires or ():
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    del found[name]
    return list(found.values())
