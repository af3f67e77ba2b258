"""A vocoder: its recipe in the model's file, streams equal to whole clips, errors; it learns to follow the frames."""

import numpy as np
import pytest

import wavedil as wd
from wavedil.audio.mel import MelConfig
from wavedil.audio.mel_clips import MelClips
from wavedil.errors import ConfigError, ShapeError

MEL = MelConfig()
SIZES = dict(dilations=[1, 2, 4, 8], residual_channels=8, dilation_channels=8, skip_channels=8, end_channels=8)


def model(**more):
    return wd.WaveNet(wd.WaveNetConfig(**SIZES, mel=MEL, **more), seed=0)


def sound(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    return (0.3 * np.sin(0.2 * np.arange(n)) + 0.02 * rng.standard_normal(n)).astype(np.float32)


def test_the_recipe_is_in_the_file_and_says_the_condition(tmp_path):
    config = model().config
    assert (config.condition_channels, config.condition_hop) == (MEL.mels + 1, MEL.hop)
    model().save(tmp_path / "m.safetensors")
    again = wd.Vocoder(tmp_path / "m.safetensors")
    assert again.mel == MEL and again.model.config == config
    assert wd.WaveNetConfig(**SIZES, mel=MEL.to_dict()) == config


def test_a_sound_is_said_in_its_length_and_by_the_seed():
    vocoder = wd.Vocoder(model())
    x = sound()
    frames = vocoder.analyse(x)
    assert frames.shape == (MEL.frames(len(x)), MEL.mels)
    said = vocoder.synthesise(frames, samples=len(x), seed=3)
    assert said.shape == x.shape and said.dtype == np.float32 and np.abs(said).max() <= 1
    assert np.array_equal(said, vocoder.synthesise(frames, samples=len(x), seed=3))
    assert not np.array_equal(said, vocoder.synthesise(frames, samples=len(x), seed=4))
    both = vocoder.synthesise(np.stack([frames, frames]), samples=len(x), seed=3)
    assert np.array_equal(both[0], said) and not np.array_equal(both[1], said)


@pytest.mark.parametrize("sizes", [[3000], [1, 79, 80, 81, 500, 2259], [250] * 12])
def test_a_stream_says_what_the_whole_clip_says(sizes):
    vocoder, x = wd.Vocoder(model()), sound()
    stream, said = vocoder.stream(seed=5, temperature=0.9), []
    begin, heard, latest = 0, 0, 0
    for n in sizes:
        said.append(stream.push(x[begin : begin + n]))
        begin, heard = begin + n, heard + len(said[-1])
        latest = max(latest, begin - heard)
    said = np.concatenate([*said, stream.finish()])
    whole = vocoder.synthesise(vocoder.analyse(x), seed=5, temperature=0.9)
    assert np.array_equal(said, whole[: len(said)]) and len(said) == len(whole)
    assert latest <= stream.latency + MEL.hop


def test_frames_of_another_recipe_are_refused_by_name():
    vocoder = wd.Vocoder(model())
    frames = vocoder.analyse(sound())
    with pytest.raises(ConfigError, match="Vocoder.synthesise: .* high must be 3800.0, got 3000.0"):
        vocoder.synthesise(frames, mel=MelConfig(high=3000.0))
    with pytest.raises(ShapeError, match=r"frames must be \(F, 40\) with F of at least 2, got \(39, 20\)"):
        vocoder.synthesise(frames[:, :20])
    with pytest.raises(ConfigError, match="samples must be at most 3040"):
        vocoder.synthesise(frames, samples=4000)


def test_what_is_no_vocoder_is_refused():
    with pytest.raises(ConfigError, match="must be a WaveNet with a mel configuration, got one without"):
        wd.Vocoder(wd.WaveNet(wd.WaveNetConfig(**SIZES)))
    with pytest.raises(ConfigError, match="speaker must be given, got None"):
        wd.Vocoder(model(speakers=2))
    with pytest.raises(ConfigError, match="mel must be of 16000 Hz, as the model is, got 8000"):
        wd.WaveNetConfig(**SIZES, mel=MEL, sample_rate=16000)
    with pytest.raises(ConfigError, match="condition_channels must be 41, as mel says, got 7"):
        wd.WaveNetConfig(**SIZES, mel=MEL, condition_channels=7)


def test_it_learns_to_follow_the_frames():
    """Tones of two loudnesses: after some steps loud frames make louder sound than soft ones, from noise on neither."""
    t = np.arange(6000)
    tones = [level * np.sin(0.3 * t) * (1 + 0.01 * np.sin(t)) for level in (0.02, 0.6)]
    clips = wd.audio.Clips([wd.audio.mulaw_encode(x) for x in tones])
    net = model()
    trainer = wd.Trainer(net, MelClips(clips, MEL, noise=1.0), optimizer=wd.AdamW(0.02), batch=4, window=400, seed=0)
    trainer.fit(steps=150)
    vocoder = wd.Vocoder(net)
    soft, loud = (vocoder.synthesise(vocoder.analyse(x.astype(np.float32)))[800:].std() for x in tones)
    assert loud > 3 * soft


def test_codes_that_are_fed_may_differ_from_those_before_the_targets():
    net, rng = wd.WaveNet(wd.WaveNetConfig(**SIZES), seed=0), np.random.default_rng(0)
    codes, fed = rng.integers(0, 256, (2, 51)), rng.integers(0, 256, (2, 50))
    plain, same = net.loss_and_grads(codes), net.loss_and_grads(codes, fed=codes[:, :-1])
    assert plain[0] == same[0] and plain[1].flat.tobytes() == same[1].flat.tobytes()
    assert net.loss_and_grads(codes, fed=fed)[0] != plain[0]


def test_draws_go_on_where_a_stream_is():
    net = wd.WaveNet(wd.WaveNetConfig(**SIZES), seed=0)
    whole, state = net.generate(60, seed=2), net.init_stream()
    first = net.draw([128], 25, state, seed=2)
    rest = net.draw(first[:, -1], 35, state, seed=2)
    assert np.array_equal(np.concatenate([first, rest], axis=1), whole)
