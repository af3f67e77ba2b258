"""Audio effects: a TCN as a stream of blocks, `wavedil stream`, and the examples that train TCNs."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli, errors, streaming

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = wd.TCNConfig(dilations=[1, 2, 4], channels=4, kernel_size=3, sample_rate=8000)


def sound(n):
    return np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32)


def test_blocks_equal_one_pass():
    model, x = wd.TCN(CONFIG, seed=1), sound(500)
    whole = model.predict(x[None, :, None])[0, :, 0]
    for block in (1, 64, 1000):
        assert np.array_equal(np.concatenate([b.audio for b in streaming.Effect(model).blocks(x, block)]), whole)
    effect = streaming.Effect(model)
    effect.process(x[:123])
    again = streaming.Effect(model, state=effect.state.copy())
    assert np.array_equal(again.process(x[123:]).audio, whole[123:])
    assert again.process(x).bits is None


@pytest.mark.parametrize("change", [dict(inputs=2), dict(outputs=2), dict(sample_rate=None), dict(loss="binary")])
def test_other_models_are_no_effects(change):
    config = wd.TCNConfig(**({"dilations": [1], "channels": 3, "sample_rate": 8000} | change))
    with pytest.raises(errors.ConfigError, match="an effect must have 1 input, 1 output"):
        streaming.Effect(wd.TCN(config))


def test_bad_audio():
    effect = streaming.Effect(wd.TCN(CONFIG))
    with pytest.raises(errors.DataError, match="x must hold samples"):
        effect.process(np.zeros(0))
    with pytest.raises(errors.DataError, match="Effect.process: x must be finite, got nan"):
        effect.process(np.array([0.0, np.nan]))


def wavedil(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_line_runs_an_effect(tmp_path):
    model, x = wd.TCN(CONFIG, seed=1), sound(700)
    model.save(tmp_path / "run" / "model.safetensors")
    soundfile.write(tmp_path / "in.wav", x, 8000, subtype="FLOAT")
    result = wavedil("stream", tmp_path / "run", "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--block", 50)
    assert result.exit_code == 0, result.output
    assert "latency of a block" in result.output and "bits" not in result.output
    heard, rate = soundfile.read(tmp_path / "out.wav")
    expected = np.clip(model.predict(x[None, :, None])[0, :, 0], -1, 1)
    assert rate == 8000 and np.abs(heard - expected).max() < 1e-4
    for words in ([], ["--bits", "x.csv"], ["--speaker", "anna"]):
        file = ["-i", tmp_path / "in.wav"] if words else ["--live"]
        result = wavedil("stream", tmp_path / "run", *file, *words)
        assert result.exit_code == 2 and "an effect needs a file" in re.sub(r"[│\s]+", " ", result.stderr)


def run_example(monkeypatch, name, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_effect_example_runs(tmp_path, monkeypatch, capsys):
    words = ("--out", tmp_path / "effect", "--steps", 3, "--seconds", 2)
    run_example(monkeypatch, "audio_effect.py", *words)
    out = capsys.readouterr().out
    assert re.search(r"held out: error-to-signal ratio [\d.]+%", out)
    dry = soundfile.read(tmp_path / "effect" / "dry.wav")[0]
    assert len(dry) == 16000 == len(soundfile.read(tmp_path / "effect" / "wet.wav")[0])
    result = wavedil("stream", tmp_path / "effect", "-i", tmp_path / "effect" / "dry.wav", "-o", tmp_path / "out.wav")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("task", ["adding-200", "digits", "permuted-digits", "text"])
def test_the_sequence_tasks_run(task, monkeypatch, capsys):
    if "digits" in task:
        pytest.importorskip("sklearn")
    run_example(monkeypatch, "sequence_tasks.py", task, "--steps", 2)
    assert re.search(r"test (MSE|accuracy|bits per character) [\d.]+", capsys.readouterr().out)


def test_the_adding_problem_is_what_it_says():
    adding = runpy.run_path(str(EXAMPLES / "sequence_tasks.py"))["Adding"](20)
    x, y = adding.batch(np.random.default_rng(0), 50)
    assert (x[..., 1].sum(1) == 2).all() and (x[:, :10, 1].sum(1) == 1).all()
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(1)[:, None], y, rtol=1e-6)
