"""Mu-law codes, audio files in and out, and what importing wavedil.audio loads."""

import contextlib
import doctest
import errno
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers.sounds import bad_files, encoded, tone

from wavedil import audio
from wavedil.audio import files, mulaw
from wavedil.errors import ConfigError, DataError, DTypeError, ShapeError

# ---- mu-law


def test_mulaw_docstrings():
    result = doctest.testmod(mulaw)
    assert result.attempted >= 3 and result.failed == 0


def test_mulaw_fixed_points():
    x = [0.0, -0.0, -1.0, 1.0, -2.0, 7.5, np.inf, -np.inf]
    assert audio.mulaw_encode(x).tolist() == [128, 128, 0, 255, 0, 255, 255, 0]
    assert audio.mulaw_encode(0).tolist() == 128
    assert audio.mulaw_encode(np.zeros((2, 3))).shape == (2, 3)
    assert audio.mulaw_encode(x).dtype == np.uint8


def test_mulaw_matches_its_equation():
    x = np.random.default_rng(0).uniform(-1.2, 1.2, 4000)
    expected = []
    for value in x:
        value = min(1.0, max(-1.0, value))
        f = np.sign(value) * np.log(1 + 255 * abs(value)) / np.log(256)
        expected.append(int(np.floor((f + 1) / 2 * 255 + 0.5)))
    assert audio.mulaw_encode(x).tolist() == expected


def test_mulaw_is_as_fine_as_float64():
    """A hair below and above each threshold between two codes, nearer than float32 resolves."""
    codes = np.arange(1, 256)
    f = (codes - 0.5) / 127.5 - 1
    threshold = np.sign(f) * (256 ** np.abs(f) - 1) / 255
    np.testing.assert_array_equal(audio.mulaw_encode(threshold - 1e-10), codes - 1)
    np.testing.assert_array_equal(audio.mulaw_encode(threshold + 1e-10), codes)


def test_mulaw_float32_and_float64_agree():
    x = np.random.default_rng(1).uniform(-1, 1, 20000).astype(np.float32)
    np.testing.assert_array_equal(audio.mulaw_encode(x), audio.mulaw_encode(x.astype(np.float64)))


def test_mulaw_decode_inverts():
    q = np.arange(256, dtype=np.uint8)
    x = audio.mulaw_decode(q)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(audio.mulaw_encode(x), q)
    f = 2 * q.astype(np.float64) / 255 - 1
    np.testing.assert_allclose(x, np.sign(f) * (256 ** np.abs(f) - 1) / 255, rtol=1e-6)
    assert np.all(np.diff(x) > 0) and x[0] == -1 and x[255] == 1
    np.testing.assert_array_equal(audio.mulaw_decode(q.reshape(2, 128).astype(np.int64)), x.reshape(2, 128))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: audio.mulaw_encode([0.0, np.nan]), DataError, "1 NaN of 2"),
        (lambda: audio.mulaw_encode(np.zeros(3, np.int16)), DTypeError, "int16"),
        (lambda: audio.mulaw_encode(np.zeros(3, complex)), DTypeError, "complex"),
        (lambda: audio.mulaw_encode("loud"), DTypeError, "str"),
        (lambda: audio.mulaw_decode([0.0]), DTypeError, "float64"),
        (lambda: audio.mulaw_decode([0, 256]), ShapeError, "256"),
        (lambda: audio.mulaw_decode([-1]), ShapeError, "-1"),
    ],
)
def test_mulaw_refuses(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---- files


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_write_and_read_back(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    x = tone()
    audio.write_audio(path, x, 8000)
    y = audio.read_audio(path, 8000)
    assert y.dtype == np.float32 and np.abs(y - x).max() <= 0.5 / 32768
    audio.write_audio(path, y, 8000)
    np.testing.assert_array_equal(audio.read_audio(path, 8000), y)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")


def test_write_clips_and_keeps_channels(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, [[2.0, 0.5], [-2.0, 0.5]], 16000)
    y, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000 and y.tolist() == [[32767, 16384], [-32768, 16384]]


@pytest.mark.parametrize(
    "subtype,error", [("PCM_U8", 1 / 128), ("PCM_16", 1 / 32768), ("PCM_24", 1e-6), ("FLOAT", 0), ("DOUBLE", 0)]
)
def test_sample_formats(tmp_path, subtype, error):
    soundfile.write(tmp_path / "a.wav", tone(), 8000, subtype=subtype)
    assert np.abs(audio.read_audio(tmp_path / "a.wav", 8000) - tone()).max() <= error


def test_stereo_is_averaged(tmp_path):
    left, right = tone(hertz=300), tone(hertz=500)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read_audio(tmp_path / "a.wav", 8000), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [192000, 44100, 22050, 6000])
def test_resampling_keeps_a_tone(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT")
    y = audio.read_audio(tmp_path / "a.wav", 8000)
    assert len(y) == 8000
    assert np.abs(y[500:-500] - tone(1.0)[500:-500]).max() < 1e-3


def test_resampling_removes_what_would_alias(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 48000, hertz=5000), 48000, subtype="FLOAT")
    assert np.abs(audio.read_audio(tmp_path / "a.wav", 8000)[500:-500]).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 44100])
def test_block_size_changes_nothing(tmp_path, monkeypatch, rate):
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate)
    whole = audio.read_audio(tmp_path / "a.wav", 8000)
    monkeypatch.setattr(files, "_BLOCK", 777)
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav", 8000), whole)


# An MP3 may lack its last frames: they can be the coder's padding.
@pytest.mark.parametrize(
    ("format", "share"),
    [(format, share) for format in ("WAV", "FLAC", "AIFF", "W64", "CAF", "AU") for share in (0.5, 0.98)]
    + [("MP3", 0.5)],
)
def test_truncated_file(tmp_path, format, share):
    whole = encoded(format)
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(whole)
    assert len(audio.read_audio(path, 8000)) >= 16000
    path.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(DataError, match="truncated|damaged") as caught:
        audio.read_audio(path, 8000)
    assert str(path) in str(caught.value)


def test_wav_from_a_pipe_is_whole(tmp_path):
    """A writer to a pipe cannot go back and fill in the sizes: such files are common, and not truncated."""
    whole = bytearray(encoded("WAV", "PCM_16"))
    at = whole.index(b"data") + 4
    whole[4:8] = whole[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(whole)
    assert len(audio.read_audio(tmp_path / "a.wav", 8000)) == 16000


def test_mislabelled_but_readable(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("FLAC"))
    assert len(audio.read_audio(tmp_path / "a.wav", 8000)) == 16000


def test_bad_files(tmp_path):
    bad = bad_files(tmp_path)
    bad[tmp_path / "missing.wav"] = "No such file"
    bad[tmp_path] = "got a folder"
    for path, says in bad.items():
        with pytest.raises(DataError, match=says) as caught:
            audio.read_audio(path, 8000)
        assert str(path) in str(caught.value)


def test_file_without_samples_reads_as_such(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    assert audio.read_audio(tmp_path / "a.wav", 8000).shape == (0,)


@pytest.mark.parametrize("rate", [0, -8000, 8000.0, "8000", True])
def test_impossible_rates(tmp_path, rate):
    with pytest.raises(ConfigError, match="sample_rate"):
        audio.read_audio(tmp_path / "a.wav", rate)
    with pytest.raises(ConfigError, match="sample_rate"):
        audio.write_audio(tmp_path / "a.wav", tone(), rate)


def test_write_refuses(tmp_path):
    with pytest.raises(ConfigError, match=r"\.wav or \.flac"):
        audio.write_audio(tmp_path / "a.mp3", tone(), 8000)
    with pytest.raises(DataError, match="NaN"):
        audio.write_audio(tmp_path / "a.wav", [np.nan], 8000)
    with pytest.raises(DataError, match=r"\(2, 2, 2\)"):
        audio.write_audio(tmp_path / "a.wav", np.zeros((2, 2, 2)), 8000)
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "missing" / "a.wav", tmp_path / "file" / "a.wav"):
        with pytest.raises(DataError, match="cannot be written"):
            audio.write_audio(path, tone(), 8000)


@contextlib.contextmanager
def small_files_only():
    """Let no file grow beyond 4 KiB: the system's own refusal, in the midst of a write.

    It holds for the whole process, so for the one call under test only: pytest's own output may be a larger file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, tone(0.1), 8000)
    before = path.read_bytes()
    with small_files_only(), pytest.raises(DataError, match="cannot be written"):
        audio.write_audio(path, tone(1.0), 8000)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_disk_full_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    with pytest.raises(DataError, match="No space left on device"):
        audio.write_audio(tmp_path / "a.wav", tone(), 8000)


# ---- imports


def test_import_loads_nothing_heavy():
    heavy = "soundfile soxr librosa numba matplotlib typer".split()
    code = f"import sys, wavedil.audio as a; a.mulaw_encode(0.5); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
