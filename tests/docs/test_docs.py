"""docs/dilated-convolution.md keeps its word: snippets give what they show, figures are drawn, links lead somewhere."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wavedil import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dilated-convolution.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_snippets_give_what_they_show():
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert found.attempted > 30 and found.failed == 0


def test_every_snippet_is_tested():
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        assert block.startswith(">>> ") and block.endswith("\n\n"), block  # a blank line ends what is expected


def test_all_figures_are_drawn_by_the_documented_command(tmp_path):
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    figures.draw(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    assert drawn == set(re.findall(r"\]\(figures/([^)]+)\)", TEXT))


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
                for line in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    for link in (link for link in links if "://" not in link):
        assert link[1:] in headings if link.startswith("#") else (PAGE.parent / link).exists(), link


@pytest.mark.parametrize("line", [line.split("#")[0] for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)
                                  for line in block.splitlines()])
def test_commands_run(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *words = line.split()
    assert program == "wavedil"
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
