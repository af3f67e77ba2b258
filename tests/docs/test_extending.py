"""The pages in docs/extending keep their word: snippets give what they show, links and named files are there."""

import doctest
import re
from pathlib import Path

import pytest

from wavedil.training import optimizers, schedules

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "extending").glob("*.md"))
SNIPPETS = [page for page in PAGES if page.stem not in ("op", "head")]  # which quote code: see test_extending_op


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a page registers is forgotten after it."""
    for module in (optimizers, schedules):
        monkeypatch.setattr(module.registry, "_kinds", dict(module.registry._kinds))


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.stem)
def test_snippets_give_what_they_show(page):
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted > 3 and found.failed == 0


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.stem)
def test_every_snippet_is_tested(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert block.startswith(">>> ") and block.endswith("\n\n"), block  # a blank line ends what is expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    for link in (link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link):
        assert (page.parent / link).exists(), link
    for named in re.findall(r"`(wavedil/[^`]+)`", text):
        assert (ROOT / named).exists(), named
