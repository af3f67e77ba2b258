"""All examples say what they do; those of clip classification run as they are, on the bundled speech, in tiny sizes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_help_is_given_and_nothing_else_is_done(path, tmp_path):
    words = [sys.executable, str(path), "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_language_id(tmp_path, capsys):
    out = tmp_path / "languages"
    accuracy = example("language_id").main(["--shots", "1", "--seeds", "2", "--steps", "2", "--pretrain-steps", "2",
                                            "--blocks", "2", "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().out
    assert list(accuracy) == ["from scratch", "pretrained, frozen", "pretrained, fine-tuned"]
    assert all(len(runs) == 2 for runs in accuracy.values())
    assert "2 languages: it, ru; 1 clips of each" in said and "chance" in said and "quarter of a second" in said
    for path in (f"{out}.png", f"{out}_confusion.png"):
        assert Path(path).read_bytes()[:4] == b"\x89PNG"


def test_spoken_digits(tmp_path, capsys):
    out = tmp_path / "digits"
    accuracy = example("spoken_digits").main(["--steps", "2", "--pretrain-steps", "2", "--blocks", "2", "--out",
                                              str(out)])  # fmt: skip
    said = capsys.readouterr().out
    assert 0 <= accuracy <= 1 and "2 speakers: it, ru; 20 clips of digits" in said
    assert Path(f"{out}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("path", "label"),
    [("it/digits/3.flac", "3"), ("it/digits/10.wav", None), ("it/digits/23.wav", None), ("it/letters/a.flac", None),
     ("3.wav", None), ("digits/3.wav", None), ("it/digits/day-3.wav", None)],
)  # fmt: skip
def test_labels_of_digits(path, label):
    assert example("spoken_digits").digit(path) == label


def test_languages_leave_silence_out():
    language = example("language_id").language
    assert language("it/digits/3.wav") == "it" and language("it/silence/3.wav") is None
