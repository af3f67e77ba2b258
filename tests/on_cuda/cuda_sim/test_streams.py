"""Streams of audio through models in the simulator, and their command line: as on the CPU."""

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli, runs, streaming
from wavedil.errors import ConfigError

SMALL = dict(dilations=(2,), residual_channels=2, dilation_channels=2, skip_channels=2, end_channels=1)
SOUND = np.array([0.3, -0.2, 0.7])
OF_BOTH = ("cuda", "cpu")


def wavenet(device, **sizes):
    model = wd.WaveNet(wd.WaveNetConfig(**SMALL | sizes), seed=3, device=device)
    model.params["head.1.weight"][...] = np.random.default_rng(0).standard_normal((1, 256))
    return model


def test_a_predictor_with_speakers_and_a_condition():
    heard = []
    for device in OF_BOTH:
        model = wavenet(device, speakers=2, condition_channels=2)
        heard.append(list(streaming.Predictor(model, speaker=1, condition=[0.5, -1]).blocks(SOUND, 2)))
    for on_cuda, on_cpu in zip(*heard, strict=True):
        np.testing.assert_allclose(on_cuda.audio, on_cpu.audio, atol=1e-5)
        assert on_cuda.bits == pytest.approx(on_cpu.bits, abs=1e-5)


def test_a_generator_speaks_what_the_model_generates():
    cuda, cpu = map(wavenet, OF_BOTH)
    spoken = np.concatenate([block.audio for block in streaming.Generator(cuda, seed=5).blocks(3, 2)])
    assert np.array_equal(spoken, wd.audio.mulaw_decode(cpu.generate(3, seed=5)[0]))


def test_an_effect():
    config = wd.TCNConfig(dilations=(1, 2), channels=2, kernel_size=2, sample_rate=8000)
    made = [
        np.concatenate([b.audio for b in streaming.Effect(wd.TCN(config, seed=1, device=device)).blocks(SOUND, 2)])
        for device in OF_BOTH
    ]
    np.testing.assert_allclose(*made, atol=1e-6)


def test_weights_in_fewer_bytes_are_for_the_cpu():
    for stream in (streaming.Predictor, streaming.Generator):
        with pytest.raises(ConfigError, match="storage must be None on a device, got 'int8'"):
            stream(wavenet("cuda"), storage="int8")


def wavedil(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_line(tmp_path, monkeypatch):
    run = tmp_path / "run"
    wanted = runs.settings.from_tables(("here", {"model": {**SMALL, "dilations": [2]}, "data": {"sample_rate": 8000}}))
    runs.Run.create(run, wanted)
    wavenet("cpu").save(run / "model.safetensors")
    soundfile.write(tmp_path / "in.wav", SOUND, 8000)
    heard = {}
    for device in OF_BOTH:
        out = tmp_path / f"{device}.wav"
        result = wavedil("stream", run, "-i", tmp_path / "in.wav", "-o", out, "--block", 3, "--device", device)
        assert result.exit_code == 0, result.output
        heard[device] = soundfile.read(out)[0]
    np.testing.assert_allclose(*heard.values(), atol=1 / 16384)
    bad = wavedil("stream", run, "-i", tmp_path / "in.wav", "--device", "cuda", "--storage", "int8")
    assert bad.exit_code == 1 and "storage must be None on a device, got 'int8'" in bad.stderr

    measured = []  # the simulator's speed is nobody's business
    speeds = streaming.Budget(8000, 100.0, {1: 200.0}, 64)
    monkeypatch.setattr(streaming, "budget", lambda model: measured.append(model.device) or speeds)
    result = wavedil("info", run, "--device", "cuda")
    assert result.exit_code == 0 and "Speed on cuda:0, one stream" in result.stdout and measured == ["cuda:0"]


def test_a_training_makes_its_sample_where_it_trained(tmp_path, monkeypatch):
    sizes = "".join(f"{name} = {value}\n" for name, value in SMALL.items() if name != "dilations")
    (tmp_path / "my.toml").write_text(f"[model]\ndilations = [2]\n{sizes}[train]\nbatch = 1\nwindow = 3\nsteps = 1\n")
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", SOUND, 8000)
    loaded, load = [], wd.models.load
    monkeypatch.setattr(wd.models, "load", lambda path, device: loaded.append(device) or load(path, device=device))
    monkeypatch.setattr(runs.sample, "SAMPLE_SECONDS", 2 / 8000)
    words = ["train", tmp_path / "clips", "--config", tmp_path / "my.toml", "--out", tmp_path / "run"]
    result = wavedil(*words, "--device", "cuda")
    assert result.exit_code == 0, result.output
    assert "the sample is generated on cuda:0, as the model was trained" in result.stdout and loaded == ["cuda:0"]
