"""Streams of audio: equal to the model in one piece, honest about time, and refusing what does not fit."""

import sys
import threading
import time
import types

import numpy as np
import pytest

import wavedil as wd
from wavedil import streaming
from wavedil.audio import mulaw_decode, mulaw_encode
from wavedil.errors import ConfigError, DataError, DivergedError, ShapeError, WavedilError

RATE = 8000


def network(dtype="float32", **changes):
    """A small network with a dilation above a chunk of 96, whose predictions are far from uniform."""
    config = {"dilations": [1, 2, 130, 1], "kernel_size": 3, "residual_channels": 12, "dilation_channels": 8,
              "skip_channels": 8, "end_channels": 8, **changes}  # fmt: skip
    model = wd.WaveNet(wd.WaveNetConfig(**config), dtype=dtype)
    model.params["head.1.weight"][...] *= 60
    return model


def sound(n, seed=0):
    rng = np.random.default_rng(seed)
    return (0.5 * np.sin(np.arange(n) / 9) + 0.05 * rng.standard_normal(n)).astype(np.float32)


def expected(model, x, **given):
    """(mean, bits of each sample) of a clip, from `model.logits` in one piece."""
    codes = mulaw_encode(x)
    logits = model.logits(np.concatenate([[128], codes[:-1]])[None], **given)[0].astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p @ mulaw_decode(np.arange(256)).astype(np.float64), -np.log2(p[np.arange(len(codes)), codes])


def together(blocks):
    """(audio, bits of each block, sizes)"""
    blocks = list(blocks)
    return np.concatenate([b.audio for b in blocks]), np.array([b.bits for b in blocks]), [len(b.audio) for b in blocks]


# ---- listening -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", [1, 7, 64, 96, 97, 131, 600, 1000, 5000])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_blocks_of_any_length_equal_one_piece(block, dtype, tolerance):
    model, x = network(dtype), sound(700)
    mean, bits = expected(model, x)
    assert bits.std() > 0.5  # else the comparison would say little
    audio, found, sizes = together(streaming.Predictor(model).blocks(x, block))
    assert audio.dtype == np.float32 and sizes == [block] * (700 // block) + [700 % block] * (700 % block > 0)
    np.testing.assert_allclose(audio, mean, atol=1e-6)
    np.testing.assert_allclose(found, [b.mean() for b in np.split(bits, range(block, 700, block))], rtol=tolerance)


def test_bits_are_the_models_loss():
    model, x = network(), sound(900)
    meter = streaming.Meter(RATE)
    for _ in meter.run(streaming.Predictor(model).blocks(x, 64)):
        pass
    report = meter.report()
    loss = model.loss(np.concatenate([[128], mulaw_encode(x)])[None]) / np.log(2)
    assert report.mean_bits == pytest.approx(loss, rel=1e-6)
    assert (report.blocks, report.samples) == (15, 900) and report.latency.min() > 0


def test_blocks_of_changing_lengths():
    model, x = network(), sound(700)
    predictor, rng, begin, audio = streaming.Predictor(model), np.random.default_rng(1), 0, []
    while begin < len(x):
        n = int(rng.choice([1, 2, 30, 95, 200]))
        audio.append(predictor.process(x[begin : begin + n]).audio)
        begin += n
    np.testing.assert_allclose(np.concatenate(audio), expected(model, x)[0], atol=1e-6)


def test_the_output_knows_the_input_before_it_and_no_more():
    model, x = network(), sound(200)
    before, _, _ = together(streaming.Predictor(model).blocks(x, 33))
    x[120] = -0.9
    after, _, _ = together(streaming.Predictor(model).blocks(x, 33))
    assert np.array_equal(before[:121], after[:121]) and before[121] != after[121]


@pytest.mark.parametrize("x", [np.zeros(500), sound(1), sound(2)], ids=["silence", "1 sample", "2 samples"])
def test_silence_and_tiny_clips(x):
    model = network()
    audio, bits, _ = together(streaming.Predictor(model).blocks(x, 64))
    np.testing.assert_allclose(audio, expected(model, x)[0], atol=1e-6)
    assert len(audio) == len(x) and np.isfinite(bits).all()


def test_speakers_and_conditions():
    x = sound(150)
    model = network(speakers=3, condition_channels=5)
    (a, _, _), (b, _, _) = (together(streaming.Predictor(model, speaker=s).blocks(x, 40)) for s in (0, 2))
    np.testing.assert_allclose(b, expected(model, x, speaker=np.array([2]))[0], atol=1e-6)
    assert np.abs(a - b).max() > 1e-3
    condition = np.linspace(-1, 1, 5).astype(np.float32)
    c, _, _ = together(streaming.Predictor(model, speaker=2, condition=condition).blocks(x, 40))
    given = {"speaker": np.array([2]), "condition": condition[None]}
    np.testing.assert_allclose(c, expected(model, x, **given)[0], atol=1e-6)
    with pytest.raises(ConfigError, match="speaker must be given"):
        streaming.Predictor(model)
    with pytest.raises(ShapeError, match=r"speaker must lie in \[0, 3\)"):
        streaming.Generator(model, speaker=3)
    with pytest.raises(ConfigError, match="speaker must be None"):
        streaming.Predictor(network(), speaker=0)


def test_a_state_goes_on_in_another_predictor(tmp_path):
    model, x = network(), sound(500)
    whole, _, _ = together(streaming.Predictor(model).blocks(x, 50))
    first = streaming.Predictor(model)
    first.process(x[:333])
    model.save_stream(first.state, tmp_path / "s.safetensors")
    second = streaming.Predictor(model, state=model.load_stream(tmp_path / "s.safetensors"), last=first.last)
    third = streaming.Predictor(model, state=first.state.copy(), last=first.last)
    for predictor in (second, third):
        np.testing.assert_allclose(predictor.process(x[333:]).audio, whole[333:], atol=1e-6)


def test_what_does_not_fit_is_refused():
    model = network()
    with pytest.raises(ConfigError, match="state must come from init_stream of this model"):
        streaming.Predictor(model, state=network(dilations=[1, 2, 131, 1]).init_stream())
    with pytest.raises(ConfigError, match="state must come from init_stream of this model"):
        streaming.Predictor(model, state=network("float64").init_stream())
    with pytest.raises(ShapeError, match=r"codes must be \(2, n\)"):
        streaming.Predictor(model, state=model.init_stream(2))
    with pytest.raises(WavedilError, match="codes"):
        streaming.Predictor(model, last=256)
    for config in ({"codec": "none"}, {"classes": 128}):
        for kind in (streaming.Predictor, streaming.Generator):
            with pytest.raises(ConfigError, match="256 mu-law codes"):
                kind(network(**config))
    predictor = streaming.Predictor(model)
    for x in (np.zeros(0), np.zeros((3, 1))):
        with pytest.raises(DataError, match=r"x must hold samples, \(n,\)"):
            predictor.process(x)
        with pytest.raises(DataError, match="x must hold samples"):
            list(predictor.blocks(x, 8))
    with pytest.raises(DataError, match="NaN"):
        predictor.process(np.array([0.0, np.nan]))
    assert predictor.state.time == 0  # what was refused was not heard


@pytest.mark.parametrize("block", [1, 64, 1000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_names_its_step(block, bad):
    model, x = network(), np.zeros(400)
    x[205] = 1.0  # code 255, heard at step 205, so the prediction of step 206 is the first bad one
    model.params["input.embedding"][255] = bad
    with pytest.raises(DivergedError, match="stream: the logits are not finite at step 206$"):
        list(streaming.Predictor(model).blocks(x, block))
    model.params.flat[:] = bad
    with pytest.raises(DivergedError, match="not finite at step 0$"):
        streaming.Predictor(model).process(x)


# ---- speaking --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", [1, 64, 299, 1500])
def test_speaking_equals_generate(block):
    model = network(speakers=2)
    options = {"seed": 5, "temperature": 0.9, "top_k": 40, "top_p": 0.95}
    codes = model.generate(1100, speaker=1, **options)[0]
    blocks = list(streaming.Generator(model, speaker=1, **options).blocks(1100, block))
    assert np.array_equal(np.concatenate([b.audio for b in blocks]), mulaw_decode(codes))
    assert {b.bits for b in blocks} == {None} and max(len(b.audio) for b in blocks) == min(block, 1100)


def test_speaking_without_end():
    blocks = streaming.Generator(network()).blocks(None, 16)
    assert [len(next(blocks).audio) for _ in range(5)] == [16] * 5


def test_speaking_stops_where_it_diverges():
    model = network()
    model.params["head.1.bias"][3] = np.nan
    with pytest.raises(DivergedError, match="step 0"):
        streaming.Generator(model).process(10)


def test_streams_in_threads_at_once_give_what_they_give_alone():
    model = network()
    clips = [sound(3000, seed) for seed in range(2)]
    alone = [together(streaming.Predictor(model).blocks(x, 5))[0] for x in clips]
    alone.append(np.concatenate([b.audio for b in streaming.Generator(model, seed=1).blocks(3000, 5)]))
    found = [None] * 3

    def listen(i):
        found[i] = together(streaming.Predictor(model).blocks(clips[i], 5))[0]

    def speak():
        found[2] = np.concatenate([b.audio for b in streaming.Generator(model, seed=1).blocks(3000, 5)])

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(2)] + [threading.Thread(target=speak)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, found, strict=True):
        assert np.array_equal(a, b)


# ---- time ------------------------------------------------------------------------------------------------------------
def clock(seconds, samples=100, **options):
    """(underruns, overruns) of blocks of 100 samples at 100 Hz, one second each, that take so long."""
    found = streaming.Clock(100, **options)
    for s in seconds:
        found.add(samples, s)
    return found.underruns, found.overruns


def test_the_clock_of_a_live_stream():
    assert clock([0.9] * 50) == (0, 0)
    assert clock([1.0] * 50) == (0, 0)
    # The first result comes after 2.5 s, beyond the 2 s of the buffer; the player waits once, and then has slack.
    assert clock([2.5] + [0.1] * 20) == (1, 0)
    # A hiccup that the buffer hides; one that it does not hide.
    assert clock([0.1] * 5 + [1.8] + [0.1] * 20) == (0, 0)
    assert clock([0.1] * 5 + [2.2] + [0.1] * 20) == (1, 0)
    assert clock([0.1] * 5 + [2.2] + [0.1] * 20, buffer=3) == (0, 0)
    # Blocks come at 1, 2, ..., 5.1 s pass with the first: at 2 it runs, 2 and 3 wait, those of 4, 5 and 6 are lost.
    assert clock([5.1] + [0.1] * 20) == (1, 3)


def test_the_clock_of_a_stream_that_is_always_too_slow():
    underruns, overruns = clock([2.0] * 100)
    assert 45 <= overruns <= 50 and underruns >= 45  # half of the blocks cannot be computed at all
    assert clock([2.0] * 100, live_input=False) == (99, 0)  # speaking: the player waits for all but the first


def test_the_clock_of_a_speaker_who_runs_ahead():
    # The player has two blocks when it starts; a speaker who is three times too fast cannot save up more than those.
    assert clock([0.3] * 20 + [1.9] + [0.3] * 20, live_input=False) == (0, 0)
    assert clock([0.3] * 20 + [2.1] + [0.3] * 20, live_input=False) == (1, 0)


def test_the_clock_of_short_last_blocks_and_of_bad_buffers():
    found = streaming.Clock(100)
    for samples, seconds in ((100, 0.5), (100, 0.5), (10, 0.5)):
        found.add(samples, seconds)
    assert (found.underruns, found.overruns) == (0, 0)
    for buffer in (0, 1.5, True):
        with pytest.raises(ConfigError, match="Clock: buffer must be (an integer|at least 1), got"):
            streaming.Clock(100, buffer)


def test_a_slow_consumer_is_reported_and_changes_nothing():
    model, x = network(), sound(400)
    alone, _, _ = together(streaming.Predictor(model).blocks(x, 8))
    heard = []

    def slow(audio):
        heard.append(audio)
        time.sleep(0.003)  # a block of 8 lasts 1 ms

    meter = streaming.Meter(RATE, consumer=slow)
    begin = time.perf_counter()
    audio, _, _ = together(meter.run(streaming.Predictor(model).blocks(x, 8)))
    seconds, report = time.perf_counter() - begin, meter.report()
    assert report.underruns >= 1 and report.overruns >= 20
    assert seconds - report.latency.sum() >= 50 * 0.003  # latency is the model's time, not the consumer's
    assert np.array_equal(audio, alone) and np.array_equal(np.concatenate(heard), alone)


def test_a_device_counts_its_own_underruns():
    answers = iter([True, False, False, True, True])
    meter = streaming.Meter(RATE, consumer=lambda audio: next(answers))
    assert len(list(meter.run(streaming.Predictor(network()).blocks(sound(40), 8)))) == 5
    assert (meter.report().underruns, meter.report().overruns) == (3, 0)


def test_the_report_of_a_stream():
    report = streaming.Report(1000, np.array([100, 100, 50]), np.array([2.0, 4.0, 8.0]), np.array([0.01, 0.02, 0.02]),
                              underruns=0, overruns=0)  # fmt: skip
    assert (report.blocks, report.samples) == (3, 250)
    assert report.mean_bits == pytest.approx((200 + 400 + 400) / 250)
    assert report.real_time_factor == pytest.approx(0.25 / 0.05)
    assert report.percentile(50) == 0.02 and report.percentile(0) == 0.01


def test_the_meter_stands_where_the_stream_was_stopped():
    def interrupted(audio):
        raise KeyboardInterrupt

    meter = streaming.Meter(RATE)
    blocks = meter.run(streaming.Generator(network()).blocks(None, 10))
    for _ in range(3):
        next(blocks)
    assert meter.report().samples == 30 and meter.report().bits is None
    meter = streaming.Meter(RATE, consumer=interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(meter.run(streaming.Generator(network()).blocks(None, 10)))
    assert meter.report().blocks == 0


# ---- devices ---------------------------------------------------------------------------------------------------------
class Device:
    """What stands for sounddevice.OutputStream; `answers` are what its writes return."""

    log, answers, broken = [], [], None

    def __init__(self, samplerate, channels, dtype):
        if self.broken == "open":
            raise OSError("no such device")
        self.log.append(("open", samplerate, channels, dtype))

    def write(self, data):
        if self.broken == "write":
            raise OSError("unplugged")
        self.log.append(data.copy())
        return self.answers.pop(0)

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")

    def abort(self):
        self.log.append("abort")

    def close(self):
        self.log.append("close")


@pytest.fixture
def device(monkeypatch):
    module = types.SimpleNamespace(OutputStream=Device, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(Device, "log", [])
    return Device


def test_a_loudspeaker_plays_and_tells_when_it_ran_dry(device, monkeypatch):
    monkeypatch.setattr(device, "answers", [True, False, True])
    x = [sound(n) for n in (5, 1, 3)]
    with streaming.Loudspeaker(16000) as play:
        assert [play(part) for part in x] == [False, False, True]  # before the first block there was nothing to play
    opened, start, *data, stop, close = device.log
    assert (opened, start, stop, close) == (("open", 16000, 1, "float32"), "start", "stop", "close")
    assert all(np.array_equal(a, b[:, None]) for a, b in zip(data, x, strict=True))


def test_a_loudspeaker_falls_silent_after_an_error(device):
    with pytest.raises(DataError), streaming.Loudspeaker(RATE):
        raise DataError("no more")
    assert device.log[-2:] == ["abort", "close"]


def test_a_loudspeaker_that_is_not_there(device, monkeypatch):
    monkeypatch.setattr(device, "broken", "write")
    with pytest.raises(WavedilError, match="the sound device failed: unplugged"), streaming.Loudspeaker(RATE) as play:
        play(sound(3))
    monkeypatch.setattr(device, "broken", "open")
    with pytest.raises(WavedilError, match="no sound device can play 8000 Hz: no such device"):
        streaming.Loudspeaker(RATE)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(WavedilError, match="pip install sounddevice.*libportaudio2"):
        streaming.Loudspeaker(RATE)


# ---- the budget ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [{}, {"speakers": 2}, {"condition_channels": 3}],
                         ids=["plain", "speakers", "condition"])  # fmt: skip
def test_the_budget_is_measured(more):
    model = network(sample_rate=16000, **more)
    found = streaming.budget(model, seconds=0.05)
    assert found.rate == 16000 and found.state_bytes == model.init_stream().nbytes
    assert list(found.streaming) == [1, 64, 512]
    assert min(found.generation, *found.streaming.values()) > 0
    assert found.streaming[512] > found.streaming[1]  # not a figure of speed: a call has its price
