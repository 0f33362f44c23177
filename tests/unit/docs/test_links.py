"""The links between the pages of this repository."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)  # what is shown there is no link
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def pages() -> Iterator[Path]:
    """Every *.md of the repository, and not of an environment or a tool's folder in it."""
    for folder, below, files in os.walk(ROOT):
        below[:] = [name for name in below if not name.startswith(".") and name not in ("build", "node_modules")]
        yield from (Path(folder) / name for name in files if name.endswith(".md"))


PAGES = sorted(pages())


def links(text: str) -> list[str]:
    """The targets of a page that are not somewhere on the web."""
    found = [first or second for first, second in LINK.findall(CODE.sub("", text))]
    return [each for each in found if not re.match(r"[a-z][a-z0-9+.-]*:", each)]


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked by, as GitHub makes it from them."""
    headings = HEADING.findall(CODE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path):
    """A relative link names a file or folder that is there, and a heading that the page has."""
    dead = []
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = unquote(link).partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (
            anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8"))
        ):
            dead.append(link)

    assert dead == []


def test_links_are_found():
    """Links in the text and below it are seen; those in code, and those to the web, are not."""
    text = "[a](b.md) ![c](d/e.svg 'title') [f](https://g)\n[h]: i.md#j\n```\n[k](l.md)\n```\n# One `two`, three\n"

    assert links(text) == ["b.md", "d/e.svg", "i.md#j"]
    assert anchors(text) == {"one-two-three"}
    assert len(PAGES) > 10
