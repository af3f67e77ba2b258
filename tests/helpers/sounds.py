"""Sounds, and files that are none."""

import io

import numpy as np
import soundfile


def tone(seconds=0.5, rate=8000, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(format, subtype=None):
    buffer = io.BytesIO()
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(buffer, x, 8000, format=format, subtype=subtype)
    return buffer.getvalue()


def bad_files(folder):
    """Return path -> what the error must say."""
    bad = {}

    def put(name, says, data=b""):
        (folder / name).write_bytes(data)
        bad[folder / name] = says

    put("empty.wav", "0 bytes")
    put("text.wav", "mislabelled", b"dear diary, " * 100)
    put("header.flac", "mislabelled", encoded("FLAC")[:30])
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        x = tone()
        x[1234] = value
        soundfile.write(folder / name, x, 8000, subtype="FLOAT")
        bad[folder / name] = "NaN or infinite"
    slow = bytearray(encoded("WAV", "PCM_16"))
    slow[24:28] = (1).to_bytes(4, "little")
    put("slow.wav", "says 1 Hz", bytes(slow))
    return bad
