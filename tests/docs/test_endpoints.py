"""The committed page of endpoints is the one that the resource files and migrations of this commit make."""

from __future__ import annotations

import re

from gateway import migrate
from tests.docs.endpoints import EXAMPLES, PAGE, page, read_catalog


def test_committed_page_is_what_make_docs_writes(database_url: str) -> None:
    migrate.upgrade(database_url)
    catalog = read_catalog(database_url)
    assert PAGE.read_text() == page(catalog), "run `make docs` and commit what it writes"
    assert {name for _, name in catalog.resources} == set(EXAMPLES)


def test_every_operation_of_every_resource_has_a_line() -> None:
    text = PAGE.read_text()
    for name in EXAMPLES:
        section = re.split(r"^## ", text.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        lines = [line for line in section.splitlines() if line.startswith("$ ")]
        assert len(lines) == 5
        assert [part for part in ("-g", "-X POST", "$ROW", "-X PATCH", "-X DELETE") if part not in section] == []
