"""The README keeps its word: its Python runs, its commands exist, its settings are valid, its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli, settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_example_is_the_file():
    (code,) = blocks("python")
    assert code == (ROOT / "examples" / "train_speech.py").read_text(encoding="utf-8")


def test_python_example_runs(tmp_path, monkeypatch, capsys):
    code = (ROOT / "examples" / "train_speech.py").read_text(encoding="utf-8")
    for there, small in (("steps = 2500", "steps = 2"), ("range(10)] * 2", "range(3)]"), ("window=4096", "window=256"),
                         ("4 * data.sample_rate", "data.sample_rate // 10")):
        assert there in code
        code = code.replace(there, small)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(code, "train_speech.py", "exec"), names)
    assert "step 2: validation" in capsys.readouterr().out
    assert len(soundfile.read("speech.wav")[0]) == 800
    saved = wd.load("speech.safetensors")  # what was validated and heard: the averaged weights
    assert all(np.array_equal(saved.params[name], value) for name, value in names["trainer"].average.items())
    assert np.array_equal(saved.generate(800, seed=0, speaker=0), names["codes"])


def test_toml_example_is_valid():
    (text,) = blocks("toml")
    wanted = settings.from_tables(settings.preset("small"), ("README", tomllib.loads(text)))
    assert wanted.data.folder == "recordings"
    cli._model_config(__import__("wavedil"), wanted, 0)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line.strip()])
def test_commands_exist(line):
    words = line.split("#")[0].split()
    program = Path(words[0]).name
    if program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "wavedil":
        usage = CliRunner().invoke(cli.app, [words[1], "--help"])
        assert usage.exit_code == 0
        for option in [word for word in words[2:] if word.startswith("-")]:
            assert re.search(rf"{option}\b", usage.output), option
    else:
        assert program in ("python", "python3", "pip")


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_pip_lines_are_what_make_does():
    makefile = (ROOT / "Makefile").read_text()
    for words in ("-m venv", "install --quiet --editable \".[test]\"", "pip wheel", "-P -m pytest tests"):
        assert words in makefile
        assert words.replace(" --quiet", "") in README
