"""docs/extending/op.md: the files and tests that it names are there, and the code that it quotes is the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending" / "op.md").read_text(encoding="utf-8")


def test_named_files_are_there():
    named = re.findall(r"(?:wavedil|tests|docs|benchmarks|examples)/[\w./]*\w", PAGE)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_quoted_family_is_the_family():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "wavedil/ops/embedding").glob("*.py"))
    quotes = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(quotes) == 4
    for quote in quotes:
        assert quote in source, quote
