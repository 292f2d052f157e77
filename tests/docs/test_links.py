"""Every link of every page leads somewhere: to a file of this repository, and there to a heading that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors, links, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in links(page.read_text()) if not _exists(page, link)]
    assert broken == []


def _exists(page: Path, link: str) -> bool:
    """Whether a link within the repository leads somewhere. What is on other hosts is not asked for."""
    if link.startswith(("https://", "http://")):
        return True
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target.read_text()))


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "README.md"], ids=lambda page: page.name)
def test_every_page_is_linked_from_the_first(page: Path) -> None:
    assert f"docs/{page.name}" in {link.partition("#")[0] for link in links((ROOT / "README.md").read_text())}
