"""Pages of docs/extending that quote code: files and tests that they name are there, and the quotes are the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"op": ("embedding", 4), "head": ("gated_stack", 12)}  # the family that it quotes, and how often
by_page = pytest.mark.parametrize("name", PAGES)


def page(name):
    return (ROOT / "docs" / "extending" / f"{name}.md").read_text(encoding="utf-8")


@by_page
def test_named_files_are_there(name):
    named = re.findall(r"(?:wavedil|tests|docs|benchmarks|examples)/[\w./]*\w", page(name))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


@by_page
def test_the_quoted_code_is_the_code(name):
    family, count = PAGES[name]
    source = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "wavedil/ops" / family).glob("*.py")))
    quotes = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    assert len(quotes) == count
    for quote in quotes:
        assert quote in source, quote
