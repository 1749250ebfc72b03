"""docs/protocol: a reader who follows its README comes past every page, and every link leads on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "protocol"
PAGES = sorted(FOLDER.glob("*.md"))
LINK = re.compile(r"\]\(([\w./-]+\.md)\)(?: §(\d+))?")


def test_every_page_is_linked_from_the_first():
    linked = {name for name, _ in LINK.findall((FOLDER / "README.md").read_text())}
    assert {page.name for page in PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_pages_and_sections_that_exist(page):
    for target, section in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve()
        assert path.is_file(), target
        if section:
            assert re.search(rf"^## {section}\. ", path.read_text(), re.M), f"{target} §{section}"
