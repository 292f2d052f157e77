"""The pages of this repository as tests read them: fenced blocks, commands with what they should print, links, anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)$", re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s)# (?P<status>[1-5]\d\d)\b.*$")


class Block(msgspec.Struct, frozen=True):
    """A fenced block; `line` is that of its first line of text."""

    line: int
    language: str
    text: str


class Command(msgspec.Struct, frozen=True):
    """One `$ ` line of a console block and the lines that it should print, if the page shows any.

    `status` is what curl should be answered: a 2xx, unless the line ends with a comment such as `# 404`.
    """

    line: int
    text: str
    printed: tuple[str, ...]
    status: str | None


def pages() -> list[Path]:
    """Every page for readers."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text."""
    return [
        Block(page.count("\n", 0, found.start("text")) + 1, found["language"], found["text"]) for found in FENCE.finditer(page)
    ]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block, in order. A line that ends with a backslash goes on in the next."""
    command: tuple[int, str] | None = None
    printed: list[str] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if command is not None and command[1].endswith("\\"):
            command = (command[0], f"{command[1]}\n{line.removeprefix('> ')}")
        elif line.startswith("$ "):
            if command is not None:
                yield _command(*command, printed)
            command, printed = (number, line.removeprefix("$ ")), []
        elif line:
            assert command is not None, f"line {number}: a console block begins with a command, `$ …`"
            printed.append(line)
    assert command is not None, f"line {block.line}: a console block has a command, `$ …`"
    yield _command(*command, printed)


def _command(line: int, text: str, printed: list[str]) -> Command:
    status = COMMENT.search(text)
    return Command(line, text, tuple(printed), status["status"] if status else None)


def links(page: str) -> list[str]:
    """Where the links of a page lead, but for those in code."""
    plain = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page))
    return LINK.findall(plain)


def anchors(page: str) -> set[str]:
    """The names of a page's headings, as the common renderers make them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name if not number else f"{name}-{number}") in found:
            number += 1
        found.add(name if not number else f"{name}-{number}")
    return found
