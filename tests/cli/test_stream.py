"""The command line around streams: stream, generate from a primer, and the speed that info predicts."""

import csv
import re
import sys
import time
import types

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli, runs, streaming
from wavedil.kernels.cuda.engine import unavailable

RATE = 8000
SETTINGS = """
[model]
dilations = [1, 2, 4, 128]
residual_channels = 8
dilation_channels = 8
skip_channels = 8
end_channels = 8
"""


def wavedil(*words):
    """Run a command in this process."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def works(*words):
    """The command's output as one line of words; it must succeed."""
    result = wavedil(*words)
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert "\x1b" not in result.stdout
    return " ".join(result.stdout.split())


def fails(*words, says, code=1):
    """The command fails; with code 1 in one line on stderr, without a traceback."""
    result = wavedil(*words)
    assert result.exit_code == code, result.output
    if code == 1:
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert re.search(says, " ".join(result.stderr.replace("│", " ").split())), result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with settings.toml, in.wav, and run/ and speakers/ (of anna and bruno) with untrained models."""
    place = tmp_path_factory.mktemp("streams")
    (place / "settings.toml").write_text(SETTINGS)
    t = np.arange(900)
    clip = 0.4 * np.sin(t / 5) + 0.02 * np.random.default_rng(0).standard_normal(900)
    soundfile.write(place / "in.wav", clip, RATE)
    wanted = runs.settings.collect(config=place / "settings.toml")
    for name, speakers in (("run", []), ("speakers", ["anna", "bruno"])):
        model = wd.WaveNet(runs.train.model_config(wanted, len(speakers)), seed=1)
        model.params["head.1.weight"][...] *= 60
        runs.Run.create(place / name, wanted, speakers)
        model.save(place / name / "model.safetensors")
    return place


def model_of(run):
    return wd.load(run / "model.safetensors")


class Device:
    """What stands for sounddevice.OutputStream; it may be interrupted at one of its writes."""

    played, interrupt_at = 0, None

    def __init__(self, **options):
        Device.played = 0

    def write(self, data):
        Device.played += 1
        if Device.played == self.interrupt_at:
            raise KeyboardInterrupt
        return Device.played % 2 == 0

    def start(self):
        pass

    stop = abort = close = start


@pytest.fixture
def device(monkeypatch):
    module = types.SimpleNamespace(OutputStream=Device, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return Device


# ---- listening -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", [1, 64, 250, 5000])
def test_stream_listens(place, tmp_path, block):
    out, bits = tmp_path / "out.wav", tmp_path / "bits.csv"
    text = works("stream", place / "run", "--in", place / "in.wav", "--out", out, "--block", block, "--bits", bits)
    x = wd.audio.read_audio(place / "in.wav", RATE)
    expected = np.concatenate([b.audio for b in streaming.Predictor(model_of(place / "run")).blocks(x, 97)])
    sound, rate = soundfile.read(out)
    assert rate == RATE
    np.testing.assert_allclose(sound, expected, atol=1 / 32768)
    loss = model_of(place / "run").loss(np.concatenate([[128], wd.audio.mulaw_encode(x)])[None]) / np.log(2)
    assert f"bits/sample: {loss:.3f}" in text
    for words in ("900 samples", "latency of a block: p50", "p99", "max", "x real time", "underruns: ", "KiB",
                  f"Wrote {out}", f"Wrote {bits}"):  # fmt: skip
        assert words in text
    rows = list(csv.DictReader(bits.read_text().splitlines()))
    sizes, each = (np.array([float(row[key]) for row in rows]) for key in ("samples", "bits_per_sample"))
    assert len(rows) == -(-900 // block) and sizes.sum() == 900
    assert each @ sizes / 900 == pytest.approx(loss, abs=1e-4)
    assert float(rows[-1]["seconds"]) == pytest.approx((900 - sizes[-1]) / RATE, abs=1e-6)
    assert all(float(row["latency_ms"]) > 0 for row in rows)


def test_stream_through_a_speaker(place, tmp_path):
    sounds = []
    for i, speaker in enumerate(([], ["--speaker", "anna"], ["--speaker", "bruno"])):
        works("stream", place / "speakers", "-i", place / "in.wav", "-o", tmp_path / f"{i}.flac", *speaker)
        sounds.append(soundfile.read(tmp_path / f"{i}.flac")[0])
    assert np.array_equal(sounds[0], sounds[1]) and not np.array_equal(sounds[0], sounds[2])
    fails("stream", place / "speakers", "-i", place / "in.wav", "--speaker", "carl", says="'anna', 'bruno', got 'carl'")
    fails("stream", place / "run", "-i", place / "in.wav", "--speaker", "anna", says="only one speaker")


def test_stream_resamples_with_a_note(place, tmp_path):
    soundfile.write(tmp_path / "high.wav", np.zeros((1600, 2)), 16000)
    text = works("stream", place / "run", "-i", tmp_path / "high.wav", "-o", tmp_path / "out.wav")
    assert "high.wav: resampled from 16,000 Hz to the model's 8,000 Hz" in text
    assert soundfile.info(tmp_path / "out.wav").frames == 800
    assert "resampled" not in works("stream", place / "run", "-i", place / "in.wav")


@pytest.mark.parametrize("n", [1, 3, 400])
def test_stream_of_silence_and_tiny_files(place, tmp_path, n):
    soundfile.write(tmp_path / "in.wav", np.zeros(n), RATE)
    assert f"{n} samples" in works("stream", place / "run", "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == n


def test_stream_that_cannot_keep_up_says_so(place, monkeypatch):
    process = streaming.Predictor.process

    def slow(self, x):
        time.sleep(0.02)  # a block lasts 8 ms
        return process(self, x)

    monkeypatch.setattr(streaming.Predictor, "process", slow)
    text = works("stream", place / "run", "-i", place / "in.wav")
    assert "TOO SLOW for a live stream" in text
    assert int(re.search(r"underruns: (\d+) of 15 blocks", text)[1]) > 0
    assert int(re.search(r"overruns: (\d+),", text)[1]) > 0


def test_stream_of_bad_files(place, tmp_path):
    run = place / "run"
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    fails("stream", run, "-i", tmp_path / "none.wav", says="none.wav: holds no samples")
    (tmp_path / "empty.wav").touch()
    fails("stream", run, "-i", tmp_path / "empty.wav", says="empty.wav: empty file")
    fails("stream", run, "-i", tmp_path / "nowhere.wav", says="nowhere.wav: cannot be opened")
    fails("stream", run, "-i", run / "config.json", says="not readable as audio")
    fails("stream", tmp_path, "-i", place / "in.wav", says="not a run folder")


def test_stream_to_impossible_places(place, monkeypatch):
    monkeypatch.setattr(wd.models, "load", lambda *_, **__: pytest.fail("the long work began"))
    for name, words in (("out.mp3", "must end in .wav or .flac"), ("nowhere/out.wav", "not a folder"),
                        ("in.wav/out.wav", "not a folder")):  # fmt: skip
        fails("stream", place / "run", "-i", place / "in.wav", "-o", place / name, says=words)


def test_stream_with_a_broken_model(place, tmp_path):
    broken = model_of(place / "run")
    broken.params["head.0.bias"][0] = np.nan
    broken.save(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((place / "run" / "config.json").read_bytes())
    fails("stream", tmp_path, "-i", place / "in.wav", "-o", tmp_path / "o.wav", says="logits are not finite at step 0$")
    fails("generate", tmp_path, "-o", tmp_path / "o.wav", says="not finite at step 0$")
    assert not (tmp_path / "o.wav").exists()


def test_stream_used_wrongly(place):
    run, source = place / "run", ["--in", place / "in.wav"]
    fails("stream", run, says="--in FILE, or --live", code=2)
    fails("stream", run, *source, "--block", 0, says="block", code=2)
    fails("stream", run, *source, "--seed", 0, says="leave them out with --in", code=2)
    fails("stream", run, *source, "--seconds", 1, says="leave them out with --in", code=2)
    fails("stream", run, "--live", "--bits", "b.csv", says="file of --in", code=2)


@pytest.mark.skipif(unavailable() is None, reason="there is a GPU")
def test_a_device_that_is_not_there(place):
    stream = ["stream", place / "run", "-i", place / "in.wav"]
    for command in (stream, ["info", place / "run"]):
        fails(*command, "--device", "cuda", says="error: device 'cuda:0': .*install")
        fails(*command, "--device", "gpu", says="device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got 'gpu'")
    assert "device='auto': going on with the CPU, because" in works(*stream, "--device", "auto")


# ---- speaking --------------------------------------------------------------------------------------------------------
def test_stream_speaks_what_generate_writes(place, tmp_path, device):
    options = ["--seconds", 0.1, "--seed", 3, "--temperature", 0.7]
    text = works("stream", place / "run", "--live", *options, "--block", 64, "-o", tmp_path / "live.wav")
    works("generate", place / "run", *options, "-o", tmp_path / "file.wav")
    live, written = (soundfile.read(tmp_path / name)[0] for name in ("live.wav", "file.wav"))
    assert len(live) == 800 and np.array_equal(live, written)
    assert device.played == 13 and "underruns: 6 of 13 blocks, for which the sound device had to wait" in text


def test_stream_plays_what_it_expects(place, tmp_path, device):
    text = works("stream", place / "run", "--in", place / "in.wav", "--live", "--block", 100)
    assert device.played == 9 and "bits/sample" in text and "underruns: 4 of 9" in text and "overruns" not in text


@pytest.mark.parametrize(("at", "seconds", "code"), [(4, [], 0), (4, ["--seconds", 1], 130), (1, [], 0)])
def test_stream_stopped_by_ctrl_c(place, tmp_path, device, monkeypatch, at, seconds, code):
    monkeypatch.setattr(device, "interrupt_at", at)
    out = tmp_path / "live.wav"
    result = wavedil("stream", place / "run", "--live", *seconds, "-o", out)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    if at > 1:
        assert soundfile.info(out).frames == (at - 1) * 64 and f"of {at - 1} blocks" in result.stdout
    else:
        assert not out.exists()


def test_stream_without_sounddevice(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    fails("stream", place / "run", "--live", says="pip install sounddevice.*libportaudio2")
    assert wavedil("stream", place / "run", "--live").stdout == ""  # it does not say that it speaks


# ---- generate --------------------------------------------------------------------------------------------------------
def test_generate_goes_on_from_a_primer(place, tmp_path):
    out = tmp_path / "on.flac"
    options = ["--seconds", 0.05, "--seed", 2, "--temperature", 0.8]
    works("generate", place / "run", *options, "--primer", place / "in.wav", "--top-k", 12, "--top-p", 0.5, "-o", out)
    primer = wd.audio.mulaw_encode(wd.audio.read_audio(place / "in.wav", RATE))
    model = model_of(place / "run")
    common = {"seed": 2, "temperature": 0.8, "primer": primer}
    expected = wd.audio.mulaw_decode(model.generate(400, top_k=12, top_p=0.5, **common)[0])
    assert soundfile.info(out).format == "FLAC"
    np.testing.assert_allclose(soundfile.read(out)[0], expected, atol=1 / 32768)
    for more in ({"top_k": 12}, {"top_p": 0.5}):  # each of the two options matters
        assert not np.array_equal(expected, wd.audio.mulaw_decode(model.generate(400, **more, **common)[0]))


def test_generate_with_bad_options(place, tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    common = ["generate", place / "run", "--seconds", 0.01, "-o", tmp_path / "o.wav"]
    fails(*common, "--primer", tmp_path / "none.wav", says="none.wav: holds no samples")
    fails(*common, "--top-p", 0, says="top_p must be a number above 0, up to 1")
    fails(*common, "--top-p", 1.5, says="top_p must be a number above 0, up to 1")
    fails(*common, "--top-k", 0, says="top-k", code=2)


# ---- info ------------------------------------------------------------------------------------------------------------
def test_info_predicts_the_speed(place, monkeypatch):
    budget = streaming.Budget(RATE, 24000.0, {1: 4000.0, 64: 80000.0, 512: 8001.0}, 3 * 1024)
    monkeypatch.setattr(streaming, "budget", lambda model: budget)
    for what in (["--config", place / "settings.toml"], ["--preset", "tiny"], [place / "run"]):
        text = works("info", *what)
        for line in ("a stream: 3.0 KiB of state", "generating 24,000 3.00 faster than real time",
                     "streaming, block 1 4,000 0.50 too slow for real time",
                     "streaming, block 64 80,000 10.00 faster than real time",
                     "streaming, block 512 8,001 1.00 faster than real time"):  # fmt: skip
            assert line in text


def test_info_measures_before_training_if_it_may(place):
    text = works("info", "--config", place / "settings.toml")
    speeds = re.findall(r"(?:generating|block \d+) ([\d,]+) [\d.]+ (?:faster|too slow)", text)
    assert len(speeds) == 4 and "0" not in speeds
    quiet = works("info", "--config", place / "settings.toml", "--no-measure")
    assert "parameters:" in quiet and "Speed" not in quiet and "generating" not in quiet


# ---- folders of the trainer, without config.json ---------------------------------------------------------------------
def test_a_wavenet_of_the_trainer_opens_in_every_command(tmp_path):
    (tmp_path / "clips").mkdir()
    for i in range(4):
        soundfile.write(tmp_path / "clips" / f"{i}.wav", 0.3 * np.sin(0.1 * (i + 1) * np.arange(900)), RATE)
    sizes = {"residual_channels": 4, "dilation_channels": 4, "skip_channels": 4, "end_channels": 4}
    model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2], **sizes), seed=0)
    run = tmp_path / "run"
    wd.Trainer(model, wd.audio.ClipFolder(tmp_path / "clips"), batch=2, window=64, folder=run).fit(1)
    works("generate", run, "--seconds", 0.01)
    assert soundfile.info(run / "generated.wav").frames == 80
    assert "bits/sample" in works("stream", run, "-i", tmp_path / "clips" / "0.wav", "--block", 300)
    assert "4 samples = 0.5 ms" in works("info", run, "--no-measure")
    works("finetune", run, tmp_path / "clips", "--steps", 1, "--out", tmp_path / "adapted")
    works("generate", tmp_path / "adapted", "--seconds", 0.01)
    fails("train", "--resume", "--out", run, says="no config.json to tell what data it was trained on")


def test_info_of_an_effect(tmp_path):
    config = wd.TCNConfig(dilations=[1, 2], channels=3, kernel_size=3, sample_rate=RATE)
    model = wd.TCN(config, seed=0)
    model.save(tmp_path / "effect" / "model.safetensors")
    text = works("info", tmp_path / "effect")
    assert "blocks.1 dilation 2 13 1.6" in text and "13 samples = 1.6 ms at 8000 Hz" in text
    assert f"parameters: {model.params.count}" in text and "FLOPs" in text and "a training step" not in text
    wd.TCN(wd.TCNConfig(dilations=[1], channels=3), seed=0).save(tmp_path / "numbers" / "model.safetensors")
    assert "receptive field: 5 samples" in works("info", tmp_path / "numbers")
    fails("generate", tmp_path / "effect", says="must hold a WaveNet to make sound, got a TCN")
