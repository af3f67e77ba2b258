"""docs/extending: the files and tests that a page names are there, and the code that it quotes is the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "extending").glob("*.md"))
OP = ROOT / "docs" / "extending" / "op.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_are_there(page):
    named = re.findall(r"(?:wavedil|tests|docs|benchmarks|examples)/[\w./]*\w", page.read_text(encoding="utf-8"))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_quoted_family_is_the_family():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "wavedil/ops/embedding").glob("*.py"))
    quotes = re.findall(r"```python\n(.*?)```", OP.read_text(encoding="utf-8"), re.DOTALL)
    assert len(quotes) == 4
    for quote in quotes:
        assert quote in source, quote
