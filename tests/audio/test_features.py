"""Log-mel and MFCC against their equations, written out in NumPy."""

import numpy as np
import pytest

from wavedil import audio
from wavedil.errors import ConfigError, DataError

features = audio.features


def slaney(hertz):
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def expected_log_mel(x, rate, n_fft, hop, mels):
    padded = np.pad(x.astype(np.float64), n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.stack([padded[t * hop : t * hop + n_fft] * window for t in range(1 + len(x) // hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    grid = np.linspace(0, rate / 2, 200_001)
    corners = np.interp(np.linspace(0, slaney(np.array(rate / 2)), mels + 2), slaney(grid), grid)
    f = np.arange(n_fft // 2 + 1) * rate / n_fft
    filters = []
    for low, mid, high in zip(corners, corners[1:], corners[2:], strict=False):
        triangle = np.maximum(0, np.minimum((f - low) / (mid - low), (high - f) / (high - mid)))
        filters.append(triangle * 2 / (high - low))
    return np.log(np.maximum(1e-10, power @ np.array(filters).T))


@pytest.fixture(scope="module")
def x():
    return (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)


@pytest.mark.parametrize("rate,n_fft,hop,mels", [(8000, 256, 80, 20), (16000, 512, 200, 40)])
def test_log_mel(x, rate, n_fft, hop, mels):
    found = features.log_mel(x, rate, n_fft=n_fft, hop=hop, mels=mels)
    assert found.dtype == np.float32 and found.flags.c_contiguous and found.shape == (1 + 4000 // hop, mels)
    np.testing.assert_allclose(found, expected_log_mel(x, rate, n_fft, hop, mels), atol=1e-3)


def test_mfcc(x):
    spectrum = features.log_mel(x, mels=30).astype(np.float64)
    k, m = np.arange(7)[:, None], np.arange(30)
    basis = np.cos(np.pi * k * (m + 0.5) / 30) * np.where(k == 0, np.sqrt(1 / 30), np.sqrt(2 / 30))
    found = features.mfcc(x, mels=30, coefficients=7)
    assert found.dtype == np.float32 and found.shape == (51, 7)
    np.testing.assert_allclose(found, spectrum @ basis.T, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 79, 80, 255])
def test_clips_shorter_than_a_frame(x, samples):
    found = features.log_mel(x[:samples], mels=20)
    np.testing.assert_allclose(found, expected_log_mel(x[:samples], 8000, 256, 80, 20), atol=1e-3)


def test_silence_is_finite():
    np.testing.assert_allclose(features.log_mel(np.zeros(800), mels=20), np.log(1e-10), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: features.log_mel([]), DataError, r"\(0,\)"),
        (lambda: features.log_mel(np.zeros((2, 9))), DataError, r"\(2, 9\)"),
        (lambda: features.log_mel([0.0, np.nan]), DataError, "NaN"),
        (lambda: features.log_mel([0.0], 0), ConfigError, "sample_rate"),
        (lambda: features.log_mel([0.0], hop=0), ConfigError, "hop"),
        (lambda: features.log_mel([0.0], high=5000.0), ConfigError, "4000"),
        (lambda: features.mfcc(np.zeros(99), mels=20, coefficients=21), ConfigError, r"\[1, 20\], got 21"),
    ],
)
def test_refuses(call, error, says):
    with pytest.raises(error, match=says):
        call()
