"""Codecs: each one's round trip, silence, clipping and errors, and folders that serve its codes."""

import doctest
import importlib
import pickle

import numpy as np
import pytest
import soundfile

from wavedil import audio
from wavedil.audio import decoding
from wavedil.errors import ConfigError, DataError, DTypeError, ShapeError

AUDIO = [name for name in audio.CODECS if name != "none"]
BITS = {"mulaw": 8, "mulaw9": 9, "mulaw10": 10, "linear16": 16}


def test_codec_docstrings():
    for name in ("codecs", "clips"):
        result = doctest.testmod(importlib.import_module(f"wavedil.audio.{name}"), extraglobs={"np": np})
        assert result.attempted >= 3 and result.failed == 0


@pytest.mark.parametrize("name", AUDIO)
def test_each_code_decodes_to_a_sample_that_encodes_to_it(name):
    codec = audio.codec(name)
    codes = np.arange(codec.classes)
    samples = codec.decode(codes)
    assert codec.classes == 2 ** BITS[name] and samples.dtype == np.float32
    assert (np.diff(samples) > 0).all() and samples[0] == -1 and samples[-1] == (1 - 2**-15 if "16" in name else 1)
    found = codec.encode(samples)
    assert found.dtype == codec.dtype == (np.uint8 if BITS[name] == 8 else np.uint16)
    np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("name", AUDIO)
def test_silence_decodes_to_nearly_nothing_and_loud_samples_clip(name):
    codec = audio.codec(name)
    assert codec.silence == codec.classes // 2 == codec.encode(0.0) == codec.encode(-0.0)
    limit = {"mulaw": 9e-5, "mulaw9": 2.5e-5, "mulaw10": 7e-6, "linear16": 0}[name]
    assert 0 <= codec.decode(codec.silence) <= limit
    assert codec.encode([-np.inf, -3, -1, 1, 1.5, np.inf]).tolist() == [0] * 3 + [codec.classes - 1] * 3


@pytest.mark.parametrize("name", ["mulaw", "mulaw9", "mulaw10"])
def test_mulaw_of_more_bits_matches_its_equation(name):
    mu = 2 ** BITS[name] - 1
    x = np.random.default_rng(0).uniform(-1, 1, 4000)
    f = np.sign(x) * np.log(1 + mu * np.abs(x)) / np.log(1 + mu)
    codec = audio.codec(name)
    np.testing.assert_array_equal(codec.encode(x), np.floor((f + 1) / 2 * mu + 0.5))
    # Half a step of the curve, whose slope is largest at full scale.
    assert np.abs(codec.decode(codec.encode(x)) - x).max() <= np.log(1 + mu) / mu * 1.01


def test_linear_codes_are_the_samples_of_a_16_bit_file(tmp_path):
    x = np.random.default_rng(1).uniform(-1.1, 1.1, 5000)
    audio.write_audio(tmp_path / "a.wav", x, 8000)
    pcm, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    codec = audio.codec("linear16")
    np.testing.assert_array_equal(codec.encode(x), pcm.astype(int) + 32768)
    read = audio.read_audio(tmp_path / "a.wav", 8000)
    np.testing.assert_array_equal(codec.decode(codec.encode(read)), read)
    assert np.abs(codec.decode(codec.encode(0.9 * x)) - 0.9 * x).max() <= 2**-16


@pytest.mark.parametrize("name", AUDIO)
def test_codecs_refuse_what_is_no_sound_and_no_code(name):
    codec = audio.codec(name)
    for bad, error, says in (([0.0, np.nan], DataError, "1 NaN of 2"), (np.zeros(2, np.int16), DTypeError, "int16")):
        with pytest.raises(error, match=says):
            codec.encode(bad)
    for bad, error, says in (([codec.classes], ShapeError, f"in .0, {codec.classes - 1}."), ([0.5], DTypeError, "flo")):
        with pytest.raises(error, match=says):
            codec.decode(bad)


def test_codecs_are_found_by_name_and_a_codec_is_itself():
    mine = audio.Codec("mine", 30, 15)
    assert audio.codec(mine) is mine and audio.codec("mulaw") is audio.CODECS["mulaw"]
    assert pickle.loads(pickle.dumps(audio.codec("mulaw9"))).encode([0.0]).tolist() == [256]
    for call, says in (
        (lambda: audio.codec("mulaw11"), "codec must be one of 'mulaw', .* got 'mulaw11'"),
        (lambda: audio.Codec("mine", 1, 0), "classes must be at least 2, got 1"),
        (lambda: audio.Codec("mine", 30, 30), "silence must be at most 29, got 30"),
        (lambda: audio.codec("none").encode([0.0]), "not audio"),
        (lambda: audio.Clips([[1]], codec="none"), 'Clips: codec must say its classes .* Codec."none", classes'),
        (lambda: audio.mulaw_encode([0.0], bits=17), "mulaw_encode: bits must be at most 16, got 17"),
    ):
        with pytest.raises(ConfigError, match=says):
            call()


# ---- folders of any codec


@pytest.fixture
def folder(tmp_path):
    """A tone at full scale, then silence and a hiss just below -50 dB; for half a second each."""
    rng = np.random.default_rng(0)
    hiss = 0.9 * 10 ** (-50 / 20) * rng.choice([-1, 1], 4000)
    x = np.concatenate([1.1 * np.sin(np.arange(4000) / 10), np.zeros(4000), hiss])
    (tmp_path / "ann").mkdir()
    (tmp_path / "bob").mkdir()
    for name in ("ann/1.wav", "bob/1.wav"):
        soundfile.write(tmp_path / name, x, 8000, subtype="FLOAT")
    return tmp_path


@pytest.mark.parametrize("name", AUDIO)
def test_folders_serve_the_codes_of_their_codec(folder, name):
    codec = audio.codec(name)
    data = audio.ClipFolder(folder, validation=0, codec=name)
    x = audio.read_audio(folder / "ann/1.wav", 8000)
    assert data.codec is codec
    np.testing.assert_array_equal(data.train_clips()[0][1], codec.encode(x))
    codes, weights = data.batch(np.random.default_rng(0), 3, 13000)
    assert codes.dtype == codec.dtype and (codes[:, 0] == codec.silence).all()
    assert (codes[:, 12001:] == codec.silence).all() and weights.sum() == 3 * 12000
    labelled = audio.LabelledClips(folder, validation=0, codec=name, augment=[audio.augment.Gain(0, 0)])
    codes, _, lengths = labelled.batch(np.random.default_rng(0), 1, 20000)
    np.testing.assert_array_equal(codes[0], codec.encode(x))
    assert codes.dtype == codec.dtype and lengths.tolist() == [12000]


@pytest.mark.parametrize("name", AUDIO)
def test_the_audit_measures_in_every_codec(folder, name):
    audit = audio.ClipFolder(folder, validation=0, codec=name).audit
    assert audit.silent == pytest.approx(2 / 3, abs=0.01)
    clipped = np.mean(np.abs(1.1 * np.sin(np.arange(4000) / 10)) > 0.985) / 3
    assert audit.clipped == pytest.approx(clipped, abs=0.015)
    assert audit.memory_bytes == 24000 * audio.codec(name).dtype.itemsize


def test_a_cache_holds_the_codes_of_one_codec(folder, tmp_path):
    cache = tmp_path / "cache"
    for name in AUDIO * 2:
        data = audio.ClipFolder(folder, validation=0, codec=name, cache_limit=0, cache_dir=cache)
        codes = data.train_clips()[0][1]
        assert isinstance(codes, np.memmap) and codes.dtype == audio.codec(name).dtype
        np.testing.assert_array_equal(codes, audio.codec(name).encode(audio.read_audio(folder / "ann/1.wav", 8000)))
        assert data.audit.disk_bytes == 24000 * codes.itemsize
    assert len(list(cache.glob("*.npy"))) == 2 * len(AUDIO)


def test_a_limit_is_in_bytes_not_in_samples(folder, tmp_path):
    for limit, expected in ((24000, (24000, 24000)), (23999, (0, 48000))):
        audit = audio.ClipFolder(folder, codec="mulaw10", cache_limit=limit, cache_dir=tmp_path / "cache").audit
        assert (audit.memory_bytes, audit.disk_bytes) == expected


@pytest.mark.parametrize("name", AUDIO)
def test_silent_is_a_code_that_stands_for_no_sample_of_50_db_or_more(name):
    codec = audio.codec(name)
    near = np.arange(max(0, codec.silence - 300), min(codec.classes, codec.silence + 300))
    codes = near.astype(codec.dtype)
    silent = {int(i) for i, code in zip(near, codes, strict=True)
              if decoding.measure(code[None], 8000, 1, 8000, codec).silent}  # fmt: skip
    loud = codec.encode(np.concatenate([s * np.geomspace(10 ** (-50 / 20), 1, 5000) for s in (-1, 1)]))
    first, last = loud[loud < codec.silence].max() + 1, loud[loud >= codec.silence].min() - 1
    assert silent == set(range(first, last + 1)) and codec.silence in silent
    if name == "mulaw":
        assert (first, last) == (115, 140)
