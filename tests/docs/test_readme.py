"""The README keeps its word: its Python runs, its commands exist, its settings are valid, its links lead somewhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from wavedil import cli
from wavedil.runs import settings, train

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(words, folder):
    """A process of a reader who stands in a folder."""
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_python_snippet_is_run_here():
    assert len(blocks("python")) == 2 and not blocks("py")


def test_the_first_snippet_is_the_example_and_runs(tmp_path):
    code, path = blocks("python")[0], ROOT / "examples" / "train_speech.py"
    assert code == path.read_text(encoding="utf-8")
    assert "step 2: validation" in run([path, "--steps", 2], tmp_path)
    assert len(soundfile.read(tmp_path / "speech.wav")[0]) == 32000
    assert (tmp_path / "speech.safetensors").exists()


def test_the_snippet_of_clip_classification_runs_after_its_commands(tmp_path):
    """As a reader meets it, but with tones for speech, and few steps."""
    section = README[README.index("## Clip classification") :]
    fetch, learn = re.search(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1].splitlines()
    program, *words = learn.split("#")[0].split()
    for number, speaker in enumerate(fetch.split("#")[0].split()[2:]):
        (tmp_path / "speech" / speaker).mkdir(parents=True)
        for i in range(10):
            tone = 0.3 * np.sin((0.1 + 0.3 * number) * (1 + 0.1 * i) * np.arange(1200))
            soundfile.write(tmp_path / "speech" / speaker / f"{i}.wav", tone, 8000)
    assert program == "wavedil"
    run(["-m", "wavedil", *words, "--preset", "tiny", "--steps", 1], tmp_path)
    (tmp_path / "snippet.py").write_text(blocks("python")[1], encoding="utf-8")
    run(["snippet.py"], tmp_path)
    assert (tmp_path / "confusion.png").exists()


def test_toml_example_is_valid():
    (text,) = blocks("toml")
    wanted = settings.from_tables(settings.preset("small"), ("README", tomllib.loads(text)))
    assert wanted.data.folder == "recordings"
    assert train.model_config(wanted, 0).residual_channels == 48


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
    tests = "-P -m pytest -n auto --dist loadfile tests"
    for words in ("-m venv", "install --quiet --editable \".[test]\"", "pip wheel", tests):
        assert words in makefile
        assert words.replace(" --quiet", "") in README
