"""Clips with their mel frames: alignment, dropped frames, noise, validation."""

import numpy as np
import pytest

from wavedil.audio import Clips, mulaw_encode
from wavedil.audio.mel import MelConfig
from wavedil.audio.mel_clips import MelClips, as_condition
from wavedil.errors import ConfigError

MEL = MelConfig()


def clicks(seconds=1.0, every=800):
    """Silence with a click every so many samples."""
    x = np.zeros(round(8000 * seconds), np.float32)
    x[::every] = 0.9
    return x


def made(*sounds, validation=(), **options):
    return MelClips(Clips([mulaw_encode(x) for x in sounds], [mulaw_encode(x) for x in validation]), MEL, **options)


def test_frames_lie_where_the_samples_are_that_rows_predict():
    """A click at sample 800 k of the clip is loudest in the frame of the row that predicts it."""
    data, rng = made(clicks()), np.random.default_rng(0)
    for _ in range(20):
        codes, weights, more = data.batch(rng, 1, 2400)
        assert codes.shape == (1, 2401) and weights.all() and more["condition"].shape == (1, 31, 41)
        loud = np.flatnonzero(codes[0, 1:] > 200)
        assert len(loud) == 3
        energy = more["condition"][0, :, :40].mean(axis=1)
        for row in loud:
            frame = row / MEL.hop
            assert frame == int(frame) and energy[int(frame)] == energy[max(0, int(frame) - 2) : int(frame) + 3].max()


def test_shifting_the_sound_by_a_hop_shifts_the_frames_by_one():
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 4000).astype(np.float32)
    one, other = (as_condition(made(y).frames("0", mulaw_encode(y))[:, :40]) for y in (x, np.pad(x, (MEL.hop, 0))))
    np.testing.assert_array_equal(other[4:-4], one[3:-4])


def test_a_share_of_the_windows_comes_without_frames():
    data, rng = made(clicks(), drop=0.25), np.random.default_rng(0)
    given = np.concatenate([data.batch(rng, 50, 400)[2]["condition"][:, :, -1] for _ in range(8)])
    assert set(np.unique(given)) == {0, 1} and (given == given[:, :1]).all()
    assert 0.15 < 1 - given[:, 0].mean() < 0.35
    codes, _, more = data.batch(rng, 50, 400)
    assert not more["condition"][more["condition"][:, 0, -1] == 0].any()


def test_noise_is_on_what_is_fed_and_not_on_the_targets():
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    noisy, clean = (made(sound, noise=n).batch(np.random.default_rng(3), 2, 400) for n in (2.0, 0.0))
    assert np.array_equal(noisy[0], clean[0]) and "fed" not in clean[2]
    moved = noisy[2]["fed"].astype(int) - noisy[0][:, :-1]
    assert noisy[2]["fed"].dtype == np.uint8 and 1.5 < moved.std() < 2.5 and abs(moved.mean()) < 0.5


def test_validation_batches_are_those_of_the_clips_with_frames():
    sounds = [clicks(0.5), clicks(0.31), clicks(0.2)]
    data = made(clicks(), validation=sounds)
    found = list(data.validation_batches(2, 400))
    plain = list(data.clips.validation_batches(2, 400))
    assert [amount for _, amount in found] == [amount for _, amount in plain]
    for ((codes, weights, more), _), ((same, alike), _) in zip(found, plain, strict=True):
        assert np.array_equal(codes, same) and np.array_equal(weights, alike)
        assert more["condition"].shape == (len(codes), -(-weights.shape[1] // MEL.hop) + 1, 41)


def test_it_is_the_clips_in_all_else():
    data = made(clicks())
    assert data.sample_rate == 8000 and data.codec.name == "mulaw" and len(data.train_clips()) == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"drop": 1}, r"drop must be a number in \[0, 1\), got 1"), ({"noise": -1}, "noise must be a number of at least 0"),
])  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        made(clicks(), **options)


def test_another_rate_is_refused():
    with pytest.raises(ConfigError, match="mel must be at the clips' 16000 Hz, got 8000"):
        MelClips(Clips([np.full(10, 128)], sample_rate=16000), MEL)
