"""What pages say beside their commands: JSON and YAML that can be read, commands and targets that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.cli import _parser
from gateway.definitions.load import load_text
from gateway.definitions.model import Source
from tests.docs.pages import FENCE, ROOT, Block, blocks, pages

IN_CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[\s`/$(])gateway ([a-z]+)\b")
TARGET = re.compile(r"(?:^|\$ |`)make ([a-z][a-z-]*)", re.MULTILINE)


def code_of(page: Path) -> str:
    """All that a page shows as code, a piece a line."""
    text = page.read_text()
    return "\n".join([*(block.text for block in blocks(text)), *IN_CODE.findall(FENCE.sub("", text))])


def named(block: Block) -> str | None:
    """The stem of the resource file that a block is."""
    found = re.match(r"# resources/([\w.-]+)\.yaml\n", block.text)
    return found[1] if found and block.language == "yaml" else None


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_json_and_resource_files_on_the_page_can_be_read(page: Path) -> None:
    for block in blocks(page.read_text()):
        place = f"{page.name}:{block.line}"
        if block.language == "json":
            json.loads(block.text)
        if stem := named(block):
            read = load_text(stem, place, block.text)
            assert isinstance(read, Source), [str(fault) for fault in read]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_and_targets_on_the_page_exist(page: Path) -> None:
    code = code_of(page)
    (commands,) = (action.choices for action in _parser()._actions if action.dest == "command")
    assert set(COMMAND.findall(code)) - set(commands or ()) == set()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall(code)) - targets == set()


def test_every_command_is_on_the_operators_page() -> None:
    (commands,) = (action.choices for action in _parser()._actions if action.dest == "command")
    page = (ROOT / "docs" / "operators.md").read_text()
    assert [command for command in commands or () if f"`gateway {command}" not in page] == []
