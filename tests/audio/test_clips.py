"""Clips in memory: the same windows as of a folder, batches to validate with, excerpts, one speaker of a model."""

import numpy as np
import pytest

from wavedil import audio
from wavedil.errors import ConfigError, DataError


def random_clips(lengths, speakers=None, classes=256):
    rng = np.random.default_rng(0)
    return [(f"{i}", rng.integers(0, classes, n).astype(np.uint8), None if speakers is None else i % speakers)
            for i, n in enumerate(lengths)]  # fmt: skip


def equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if isinstance(x, dict):
            assert list(x) == list(y) == ["speaker"]
            x, y = x["speaker"], y["speaker"]
        assert x.dtype == y.dtype and x.flags.c_contiguous
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("speakers", [None, "folders"])
def test_a_folder_and_its_clips_in_memory_serve_the_same(speakers):
    folder = audio.bundled_clips(speakers=speakers)
    clips = audio.Clips(folder.train_clips(), folder.validation_clips(), 8000, speakers=folder.speakers)
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    for window in (100, 5000, 100):
        equal(folder.batch(a, 6, window), clips.batch(b, 6, window))
    for (x, n), (y, m) in zip(folder.validation_batches(3, 500), clips.validation_batches(3, 500), strict=True):
        equal(x, y)
        assert n == m
    assert [clip[0] for clip in clips.train_clips()] == [clip[0] for clip in folder.train_clips()]


def as_the_trainer_did(clips, silence, batch, window):
    """What `Trainer` made of clips before they made their batches: figures of validation must keep their bits."""
    clips = sorted(clips, key=lambda clip: len(clip[1]))
    while clips:
        longest = len(clips[-1][1])
        size = min(len(clips), max(1, 8 * batch * window // longest), batch)
        group, clips = clips[-size:], clips[:-size]
        codes = np.full((size, longest + 1), silence, dtype=group[-1][1].dtype)
        weights = np.zeros((size, longest), dtype=np.float32)
        for row, (_, clip, _) in enumerate(group):
            codes[row, 1 : len(clip) + 1] = clip
            weights[row, : len(clip)] = 1
        speaker = () if group[0][2] is None else ({"speaker": np.array([s for _, _, s in group], dtype=np.int64)},)
        yield (codes, weights, *speaker), np.count_nonzero(weights)


@pytest.mark.parametrize("speakers", [None, 2])
@pytest.mark.parametrize(("batch", "window"), [(1, 10), (3, 7), (4, 100), (99, 1)])
def test_validation_batches_hold_each_clip_once_as_ever(speakers, batch, window):
    clips = random_clips([5, 100, 3, 3, 57, 1, 100, 64, 8, 300], speakers)
    data = audio.Clips((), clips, speakers=("a", "b")[: speakers or 0])
    found = list(data.validation_batches(batch, window))
    expected = list(as_the_trainer_did(clips, 128, batch, window))
    assert len(found) == len(expected) and sum(amount for _, amount in found) == 641
    for (arguments, amount), (wanted, count) in zip(found, expected, strict=True):
        equal(arguments, wanted)
        assert amount == count


def test_validation_pads_with_the_silence_of_the_codec():
    data = audio.Clips((), [np.arange(7), np.arange(3)], codec="mulaw10")
    ((codes, weights), amount), = data.validation_batches(2, 10)
    assert codes.dtype == np.uint16 and codes.tolist() == [[512, 0, 1, 2, 512, 512, 512, 512], [512, *range(7)]]
    assert amount == weights.sum() == 10


def test_take_gives_so_many_seconds_and_keeps_what_is_held_out():
    data = audio.Clips(random_clips([3000] * 9), random_clips([2000] * 4), 8000)
    some = data.take(1.1)
    lengths = [len(codes) for _, codes, _ in some.train_clips()]
    assert lengths == [3000, 3000, 2800] and some.sample_rate == 8000
    whole = {name: codes for name, codes, _ in data.train_clips()}
    assert all(np.array_equal(codes, whole[name][: len(codes)]) for name, codes, _ in some.train_clips())
    assert [c[0] for c in some.validation_clips()] == [c[0] for c in data.validation_clips()]
    assert sum(len(codes) for _, codes, _ in data.take(validation=0.4).validation_clips()) == 3200
    assert len(data.take(validation=0.4).train_clips()) == 9
    names = [tuple(c[0] for c in data.take(1.1, seed).train_clips()) for seed in (0, 0, 1, 2)]
    assert names[0] == names[1] and len(set(names)) == 3
    assert len(data.take(1000).train_clips()) == 9  # no more than there is
    codes, weights = some.batch(np.random.default_rng(0), 4, 64)
    assert codes.shape == (4, 65) and weights.all()


def test_take_of_a_folder_lies_in_memory(tmp_path):
    audio.write_audio(tmp_path / "a.wav", np.zeros(8000), 8000)
    folder = audio.ClipFolder(tmp_path, cache_limit=0, cache_dir=tmp_path / "cache", codec="mulaw9")
    (_, codes, _), = folder.take(0.5).train_clips()
    assert len(codes) == 4000 and not isinstance(codes, np.memmap) and codes.dtype == np.uint16
    assert folder.take(0.5).codec is folder.codec


def test_as_speaker_gives_the_same_clips_to_one_speaker_of_a_model(tmp_path):
    audio.write_audio(tmp_path / "a.wav", np.zeros(800), 8000)
    folder = audio.ClipFolder(tmp_path, cache_limit=0, cache_dir=tmp_path / "cache")
    other = folder.as_speaker("ru", ["it", "ru", "fr"])
    assert other.speakers == ("it", "ru", "fr") and folder.speakers == () and other.audit is folder.audit
    codes, weights, extra = other.batch(np.random.default_rng(4), 3, 100)
    equal((codes, weights), folder.batch(np.random.default_rng(4), 3, 100))
    assert extra["speaker"].tolist() == [1, 1, 1] and extra["speaker"].dtype == np.int64
    assert isinstance(other.train_clips()[0][1], np.memmap) and other.train_clips()[0][2] == 1
    assert folder.train_clips()[0][2] is None
    two = audio.Clips(random_clips([9, 8], 2), random_clips([7, 6], 2), speakers=("a", "b"))
    assert [clip[2] for clip in two.as_speaker("b", ("a", "b")).validation_clips()] == [1, 1]
    with pytest.raises(ConfigError, match="ClipFolder.as_speaker: speaker must be one of 'it', 'ru', got 'xx'"):
        folder.as_speaker("xx", ["it", "ru"])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (DataError, r"clip 1 must be \(samples,\) integer codes, got float64 \(2,\)", lambda: [[1], [0.5, 1]]),
        (DataError, r"clip 0 must be \(samples,\) integer codes, got .* \(0,\)", lambda: [np.zeros(0, int)]),
        (DataError, r"clip x must be .* \(1, 2\)", lambda: [("x", [[1, 2]], None)]),
        (DataError, r"codes of clip 0 must lie in \[0, 255\] \(mulaw\), got \[3, 256\]", lambda: [[3, 256]]),
        (DataError, r"codes of clip 0 must lie in .* got \[-1, 3\]", lambda: [[-1, 3]]),
    ],
)
def test_codes_that_no_clip_can_have(error, message, call):
    for where in (dict(train=call()), dict(train=(), validation=call())):
        with pytest.raises(error, match=message):
            audio.Clips(**where)


def test_impossible_clips_and_batches():
    good = [("a", [1, 2], 0)]
    for error, message, call in (
        (ConfigError, "Clips: sample_rate must be at least 1, got 0", lambda: audio.Clips(good, sample_rate=0)),
        (DataError, "speaker of clip a must be at most 1, got 2; speakers are x, y",
         lambda: audio.Clips([("a", [1], 2)], speakers=("x", "y"))),
        (DataError, "speaker of clip 0 must be an integer, got None", lambda: audio.Clips([[1]], speakers=("x", "y"))),
        (DataError, "Clips.batch: needs training clips, got none",
         lambda: audio.Clips((), good).batch(np.random.default_rng(0), 1, 1)),
        (ConfigError, "Clips.batch: window must be an integer, got 1.5",
         lambda: audio.Clips(good).batch(np.random.default_rng(0), 1, 1.5)),
        (ConfigError, "Clips.take: seconds must be a finite number above 0, got 0", lambda: audio.Clips(good).take(0)),
        (ConfigError, "Clips.take: validation must be .* got 'x'", lambda: audio.Clips(good).take(validation="x")),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    assert audio.Clips(good).train_clips()[0][2] is None  # without speakers nobody asks for ids
    audio.Clips(good).batch(np.random.default_rng(0), np.int64(2), np.int32(3))


def test_one_speaker_of_the_bundle():
    italian = audio.bundled_clips(speaker="it")
    both = audio.bundled_clips()
    held = [name for name, _, _ in both.validation_clips() if name.startswith("it/")]
    assert [f"it/{name}" for name, _, _ in italian.validation_clips()] == held
    assert italian.speakers == () and italian.audit.clips == sum(
        clip["speaker"] == "it" for clip in audio.bundled_manifest()["clips"]
    )
    with pytest.raises(ConfigError, match="bundled_clips: speaker must be one of 'it', 'ru', got 'xx'"):
        audio.bundled_clips(speaker="xx")
    with pytest.raises(ConfigError, match="speakers must be None with one speaker, got 'folders'"):
        audio.bundled_clips(speaker="it", speakers="folders")
