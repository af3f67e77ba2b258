"""Entropies and FLAC's size against what they must be by definition."""

import importlib

import numpy as np
import pytest

from wavedil import audio
from wavedil.errors import DataError


def named(*clips):
    return [(f"{i}.wav", np.asarray(codes, np.uint8), None) for i, codes in enumerate(clips)]


def test_against_the_definition():
    rng = np.random.default_rng(0)
    train = named(rng.integers(100, 110, 300), rng.integers(100, 140, 17))
    held = named(rng.integers(100, 112, 50), rng.integers(0, 256, 20))
    ones, pairs = np.full(256, 0.01), np.full((256, 256), 0.01)
    for _, codes, _ in train:
        previous = 128
        for code in codes:
            ones[code] += 1
            pairs[previous, code] += 1
            previous = code
    bits0, bits1 = [], []
    for _, codes, _ in held:
        previous = 128
        for code in codes:
            bits0.append(-np.log2(ones[code] / ones.sum()))
            bits1.append(-np.log2(pairs[previous, code] / pairs[previous].sum()))
            previous = code
    found = audio.baselines(train, held, 8000)
    assert found.order0 == pytest.approx(np.mean(bits0), rel=1e-12)
    assert found.order1 == pytest.approx(np.mean(bits1), rel=1e-12)


def test_plain_arrays_and_long_clips(monkeypatch):
    rng = np.random.default_rng(1)
    clips = [rng.integers(0, 256, 5000).astype(np.uint8), rng.integers(90, 100, 1234).astype(np.uint8)]
    whole = audio.baselines(clips, clips, 8000)
    assert whole == audio.baselines(named(*clips), named(*clips), 8000)
    monkeypatch.setattr(importlib.import_module("wavedil.audio.baselines"), "_CHUNK", 100)
    pieces = audio.baselines(clips, clips, 8000)
    assert (pieces.order0, pieces.order1) == (whole.order0, whole.order1)
    assert pieces.flac == pytest.approx(whole.flac, rel=0.01)


def test_flac_of_known_signals():
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, 100_000)
    tone = np.round(128 + 100 * np.sin(np.arange(100_000) / 20))
    flat = np.full(100_000, 77)
    size = {
        name: audio.baselines(named(x), named(x), 8000).flac for name, x in [("n", noise), ("t", tone), ("f", flat)]
    }
    assert size["n"] == pytest.approx(8.0, abs=0.1)  # noise cannot be packed
    assert 0.5 < size["t"] < 4.0
    assert size["f"] < 0.2


def test_no_samples():
    clip = named([1, 2, 3])
    with pytest.raises(DataError, match="train_clips must hold samples"):
        audio.baselines([], clip, 8000)
    with pytest.raises(DataError, match="validation_clips must hold samples"):
        audio.baselines(clip, named([]), 8000)


@pytest.mark.parametrize("name", ["mulaw", "mulaw10", "linear16"])
def test_baselines_of_other_codecs(name):
    codec = audio.codec(name)
    rng = np.random.default_rng(4)
    tone = codec.encode(0.5 * np.sin(np.arange(20_000) / 20))
    noise = rng.integers(0, codec.classes, 20_000).astype(codec.dtype)
    bits = np.log2(codec.classes)
    found = audio.baselines([tone], [tone], 8000, codec)
    assert found.uniform == bits and 0 < found.order1 < found.order0 <= bits and found.flac < bits
    found = audio.baselines([noise], [noise], 8000, name)
    assert found.flac == pytest.approx(8 if name == "mulaw" else bits, rel=0.02)


def test_an_unseen_pair_costs_what_the_prior_says():
    found = audio.baselines([[130, 130]], [[7]], 8000)
    assert found.order0 == pytest.approx(-np.log2(0.01 / (2 + 2.56))) and found.order1 == pytest.approx(
        -np.log2(0.01 / (1 + 2.56))
    )
