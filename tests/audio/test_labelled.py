"""Labelled clips: classes, splits, batches, bad input; augmentation."""

import numpy as np
import pytest

from wavedil import audio
from wavedil.audio import augment
from wavedil.errors import ConfigError, DataError

RATE = 8000


def tone(hertz, samples=400, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hertz / rate * np.arange(samples))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two speakers; digits 0 and 1, and a word; of different lengths."""
    path = tmp_path_factory.mktemp("clips")
    for s, speaker in enumerate(("ann", "bob")):
        for kind, names in (("digits", "01"), ("words", ("yes",))):
            (path / speaker / kind).mkdir(parents=True)
            for i, name in enumerate(names):
                x = tone(200 * (i + 1) + 40 * s, 300 + 50 * s + 30 * i)
                audio.write_audio(path / speaker / kind / f"{name}.wav", x, RATE)
    return path


def digit(name):
    folder, file = name.split("/")[-2:]
    return file.removesuffix(".wav") if folder == "digits" else None


def test_labels_from_folders_names_and_functions(folder):
    speakers = audio.LabelledClips(folder, validation=0)
    assert speakers.labels == ("ann", "bob") and speakers.counts == {"ann": (3, 0), "bob": (3, 0)}
    assert audio.LabelledClips(folder, label="name", validation=0).labels == ("0", "1", "yes")
    digits = audio.LabelledClips(folder, label=digit, labels=["1", "0"], validation=lambda path: path[:3] == "bob")
    assert digits.labels == ("1", "0") and digits.counts == {"1": (1, 1), "0": (1, 1)}
    assert [(name, label) for name, _, label in digits.validation_clips()] == [
        ("bob/digits/1.wav", "1"), ("bob/digits/0.wav", "0")]  # fmt: skip
    assert [label for _, _, label in digits.train_clips()] == ["1", "0"]


def test_a_share_of_each_class_is_held_out(folder):
    data = audio.LabelledClips(folder, validation=0.01)
    assert data.counts == {"ann": (2, 1), "bob": (2, 1)}
    assert data.validation_clips()[0][0] == audio.LabelledClips(folder, validation=0.01).validation_clips()[0][0]
    names = {audio.LabelledClips(folder, validation=0.01, seed=s).validation_clips()[0][0] for s in range(9)}
    assert len(names) > 1, "the seed changes the split"
    assert audio.LabelledClips(folder, validation=0.9).counts["ann"] == (1, 2)
    some = audio.LabelledClips(folder, validation=["ann/words/yes.wav"])
    assert some.counts == {"ann": (2, 1), "bob": (3, 0)}


def test_batches_are_padded_with_silence_and_repeat_with_the_generator(folder):
    data = audio.LabelledClips(folder, label=digit, validation=0)
    codes, labels, lengths = data.batch(np.random.default_rng(0), 8, 10_000)
    clips = {(label, len(codes)): codes for _, codes, label in data.train_clips()}
    assert codes.dtype == np.uint8 and codes.shape == (8, lengths.max()) and set(labels) == {"0", "1"}
    for row, label, length in zip(codes, labels, lengths, strict=True):
        assert np.array_equal(row[:length], clips[label, length]) and (row[length:] == audio.SILENCE).all()
    again = data.batch(np.random.default_rng(0), 8, 10_000)
    assert all(np.array_equal(a, b) for a, b in zip((codes, labels, lengths), again, strict=True))


def test_long_clips_are_cut_at_random(folder):
    data = audio.LabelledClips(folder, validation=0)
    codes, _, lengths = data.batch(np.random.default_rng(0), 16, 100)
    assert codes.shape == (16, 100) and set(lengths) == {100}
    whole = [c.tobytes() for _, c, _ in data.train_clips()]
    assert all(any(row.tobytes() in clip for clip in whole) for row in codes)


def test_classes_come_equally_often(folder):
    paths = [f"bob/{p}.wav" for p in ("digits/0", "words/yes")]
    data = audio.LabelledClips(folder, validation=paths)  # three of ann, one of bob
    labels = data.batch(np.random.default_rng(0), 2000, 1)[1]
    assert 0.45 < np.mean(labels == "bob") < 0.55


def test_few_clips_of_each_class(folder):
    data = audio.LabelledClips(folder, validation=0.01)
    few = data.few(1, seed=3)
    assert few.counts == {"ann": (1, 1), "bob": (1, 1)} and data.counts == {"ann": (2, 1), "bob": (2, 1)}
    assert [c[0] for c in few.validation_clips()] == [c[0] for c in data.validation_clips()]
    assert len({data.few(1, seed).train_clips()[0][0] for seed in range(9)}) == 2
    for clips in (0, 3):
        with pytest.raises(DataError, match=f"class 'ann' has 2 training clips, got {clips} to draw"):
            data.few(clips)


def test_validation_batches_hold_each_clip_once(folder):
    data = audio.LabelledClips(folder, label=digit, validation=lambda name: name.startswith("bob"))
    ((codes, labels, lengths), count), = data.validation_batches(8, 100)
    assert count == 2 and lengths.tolist() == [350, 380] and labels.tolist() == ["0", "1"] and codes.shape == (2, 380)


def test_bad_input(folder, tmp_path):
    def make(**options):
        return audio.LabelledClips(folder, **options)

    for error, message, options in [
        (DataError, "class '7' must have a clip, got none", dict(label=digit, labels=["0", "1", "7"])),
        (DataError, "digits/1.wav has the unknown label .1., expected one of 0, yes; a label function may return None",
         dict(label="name", labels=["0", "yes"])),
        (DataError, "at least 2 classes, got digit", dict(label=lambda name: "digit")),
        (DataError, "at least 2 classes, got none", dict(label=lambda name: None)),
        (DataError, "class 'ann' must have a clip to train on, all its 3 are held out",
         dict(validation=lambda name: name[0] == "a")),
        (DataError, "1 clips to hold out are not among its usable clips: .'no.wav'.", dict(validation=["no.wav"])),
        (ConfigError, "validation must be a share in .0, 1., paths or a function, got 1.5", dict(validation=1.5)),
        (ConfigError, "must return a text or None, got 3", dict(label=lambda name: 3)),
        (ConfigError, 'label must be "folder", "name" or callable, got 7', dict(label=7)),
        (ConfigError, "labels must be a sequence of different texts", dict(labels=["ann", "ann"])),
        (ConfigError, "augment must hold augmentations, got 1", dict(augment=[1])),
        (ConfigError, "LabelledClips.batch: batch must be at least 1, got 0", None),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            make(**options) if options is not None else make().batch(np.random.default_rng(0), 0, 1)


def test_a_class_with_one_clip_an_empty_class_and_unequal_rates(folder, tmp_path):
    for name, count in (("a", 2), ("b", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            audio.write_audio(tmp_path / name / f"{i}.wav", tone(300), RATE)
    with pytest.raises(DataError, match="class 'b' must have 2 clips, one to train on and one to hold out, got 1"):
        audio.LabelledClips(tmp_path)
    assert audio.LabelledClips(tmp_path, validation=0).counts == {"a": (2, 0), "b": (1, 0)}
    audio.write_audio(tmp_path / "b" / "1.wav", tone(300, rate=16_000), 16_000)
    with pytest.raises(DataError, match="expected clips at 8000 Hz, got 3 at 8000 Hz, 1 at 16000 Hz; pass sample_rate"):
        audio.LabelledClips(tmp_path)
    assert len(audio.LabelledClips(tmp_path, resample=True).labels) == 2
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="class 'c' must have a clip, its folder has no usable one"):
        audio.LabelledClips(tmp_path, resample=True)
    (tmp_path / "c" / "broken.wav").write_bytes(b"")
    with pytest.raises(DataError, match="class 'c' must have a clip"):
        audio.LabelledClips(tmp_path, resample=True)
    assert audio.LabelledClips(tmp_path, labels=["a", "b"], resample=True).skipped[0][0] == "c/broken.wav"
    audio.write_audio(tmp_path / "loose.wav", tone(300), RATE)
    with pytest.raises(DataError, match="expected each clip in a folder of its class, got loose.wav"):
        audio.LabelledClips(tmp_path, labels=["a", "b"], resample=True)


# ---- augmentation ----------------------------------------------------------------------------------------------------
CHANGES = (augment.TimeShift(0.01), augment.Gain(), augment.Noise(), augment.Speed(), augment.TimeMask(2, 0.01),
           augment.FrequencyMask(2, 300.0))  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_augmentations_repeat_with_the_generator_and_leave_the_input(change):
    for x in (tone(440, 1000), tone(440, 1), np.zeros(50, np.float32)):
        kept = x.copy()
        y, again, other = (change(x, RATE, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert y.dtype == np.float32 and y.ndim == 1 and len(y) and np.isfinite(y).all()
        assert np.array_equal(y, again) and np.array_equal(x, kept) and not np.shares_memory(x, y)
        if len(x) == 1000:
            assert not np.array_equal(y, other) and not np.array_equal(y, x)
            assert len(y) == 1000 or isinstance(change, augment.Speed)


def test_augmentations_do_what_they_say():
    x, draws = tone(440, 4000), [np.random.default_rng(seed) for seed in range(20)]
    gains = [np.abs(augment.Gain(-6, 6)(x, RATE, rng)).max() / np.abs(x).max() for rng in draws]
    assert 0.5 < min(gains) < 0.7 < 1.4 < max(gains) < 2
    for rng in draws:
        noise = augment.Noise(10, 10)(x, RATE, rng) - x
        assert 10 * np.log10(np.mean(x**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.3)
        assert 4000 / 1.25 - 2 <= len(augment.Speed(0.8, 1.25)(x, RATE, rng)) <= 4000 / 0.8 + 2
        silent = augment.TimeMask(1, 0.1)(np.ones_like(x), RATE, rng) == 0
        assert silent.sum() <= 800 and np.abs(np.diff(silent.astype(int))).sum() <= 2  # one span
        ramp = np.arange(1, 4001, dtype=np.float32)
        shifted = augment.TimeShift(0.05)(ramp, RATE, rng)
        moved = shifted[2000] - ramp[2000]
        assert abs(moved) <= 400 and np.array_equal(shifted[shifted > 0], np.clip(ramp + moved, 1, 4000)[shifted > 0])
    fast = augment.Speed(2, 2)(tone(440, 8000), RATE, draws[0])
    assert np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast) == pytest.approx(880, abs=3)
    flat = np.abs(np.fft.rfft(augment.FrequencyMask(1, 4000)(np.eye(1, 4000, dtype=np.float32)[0], RATE, draws[3])))
    removed = flat < 1e-3
    assert removed.any() and np.abs(np.diff(removed.astype(int))).sum() <= 2  # one band


def test_a_source_augments_its_training_clips_alone(folder):
    data = audio.LabelledClips(folder, validation=0.01, augment=CHANGES)
    plain = {codes.tobytes() for _, codes, _ in data.train_clips()}
    a, b = (data.batch(np.random.default_rng(5), 6, 10_000) for _ in range(2))
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert not any(row[:n].tobytes() in plain for row, n in zip(a[0], a[2], strict=True))
    held = audio.LabelledClips(folder, validation=0.01).validation_clips()
    assert all(np.array_equal(p[1], q[1]) for p, q in zip(data.validation_clips(), held, strict=True))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("Gain: low must not be above high, got 3 and 1", lambda: augment.Gain(3, 1)),
        ("Speed: low must be above 0, got -1", lambda: augment.Speed(-1, 1)),
        ("TimeMask: count must be at least 1, got 0", lambda: augment.TimeMask(0)),
        ("TimeShift: seconds must be a finite number above 0, got nan", lambda: augment.TimeShift(float("nan"))),
        ("FrequencyMask: hertz must be a finite number above 0, got -5", lambda: augment.FrequencyMask(1, -5)),
        ("Noise: low must be a finite number, got '10'", lambda: augment.Noise("10")),
    ],
)
def test_bad_settings_of_augmentations(message, make):
    with pytest.raises(ConfigError, match=message):
        make()
