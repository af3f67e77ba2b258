"""Log-mel spectra and MFCCs through librosa, which is imported when a function is called (it takes seconds)."""

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DataError

_FLOOR = 1e-10  # power; keeps the logarithm of digital silence finite, at -23.03


def log_mel(x, sample_rate=8000, *, n_fft=256, hop=80, mels=40, low=0.0, high=None):
    """Compute the logarithm of the mel power spectrum.

    ``S[t, m] = ln(max(1e-10, sum_f M[m, f] |X[t, f]|^2))`` with X the Fourier transform of `n_fft` samples, Hann
    window, centred on sample ``t * hop`` (zeros beyond the ends), and M triangular filters on the Slaney mel scale,
    each of unit area.

    Parameters
    ----------
    x : array_like of float, shape (samples,)
        Full scale is [-1, 1].
    sample_rate : int, default 8000
        Hz.
    n_fft : int, default 256
        Samples in a frame: 32 ms at 8 kHz.
    hop : int, default 80
        Samples from frame to frame: 10 ms at 8 kHz.
    mels : int, default 40
        Filters.
    low, high : float
        Range of the filters in Hz; `high` defaults to half the rate.

    Returns
    -------
    numpy.ndarray of float32, shape (1 + samples // hop, mels)
        Natural logarithm of power, time first.

    Raises
    ------
    DataError
        If `x` is not 1-D, is empty, or holds NaN or infinite values.
    ConfigError
        If a setting is out of range.

    References
    ----------
    M. Slaney, Auditory Toolbox, Interval Research Technical Report 1998-010; `librosa.feature.melspectrogram`.
    """
    x, rate = _checked(x, sample_rate, n_fft, hop, mels, low, high)
    import librosa

    # Padded here: librosa warns where a clip is shorter than a frame.
    power = librosa.feature.melspectrogram(
        y=np.pad(x, (n_fft // 2, n_fft - n_fft // 2)),
        sr=rate,
        n_fft=n_fft,
        hop_length=hop,
        n_mels=mels,
        fmin=low,
        fmax=rate / 2 if high is None else high,
        power=2.0,
        center=False,
    )
    return np.ascontiguousarray(np.log(np.maximum(power, _FLOOR)).T, dtype=np.float32)


def mfcc(x, sample_rate=8000, *, coefficients=13, **settings):
    """Compute mel-frequency cepstral coefficients.

    ``C[t, k] = s_k sum_m S[t, m] cos(pi k (m + 1/2) / mels)``, the orthonormal DCT-II over the filters of `log_mel`:
    s_0 = sqrt(1 / mels), else sqrt(2 / mels).

    Parameters
    ----------
    x : array_like of float, shape (samples,)
        Full scale is [-1, 1].
    sample_rate : int, default 8000
        Hz.
    coefficients : int, default 13
        How many to keep, from k = 0 (loudness).
    **settings
        As in `log_mel`.

    Returns
    -------
    numpy.ndarray of float32, shape (1 + samples // hop, coefficients)
        Time first; unit of the natural logarithm of power (librosa's own MFCCs are in dB, 4.34 times as large).

    Raises
    ------
    DataError, ConfigError
        As in `log_mel`; if there are more coefficients than filters.

    References
    ----------
    S. Davis and P. Mermelstein, Comparison of parametric representations for monosyllabic word recognition, IEEE
    Transactions on Acoustics, Speech and Signal Processing 28(4), 1980; `librosa.feature.mfcc`.
    """
    spectrum = log_mel(x, sample_rate, **settings)
    if not 1 <= coefficients <= spectrum.shape[1]:
        raise ConfigError(f"mfcc: coefficients must lie in [1, {spectrum.shape[1]}], got {coefficients}")
    import librosa

    return np.ascontiguousarray(librosa.feature.mfcc(S=spectrum.T, n_mfcc=coefficients, dct_type=2, norm="ortho").T)


def _checked(x, sample_rate, n_fft, hop, mels, low, high):
    rate = checks.whole("log_mel", "sample_rate", sample_rate)
    for name, value in (("n_fft", n_fft), ("hop", hop), ("mels", mels)):
        checks.whole("log_mel", name, value)
    if not 0 <= low < (rate / 2 if high is None else high) <= rate / 2:
        raise ConfigError(f"log_mel: low and high must be 0 <= low < high <= {rate / 2} Hz, got {low} and {high}")
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 1 or x.size == 0:
        raise DataError(f"log_mel: x must be (samples,) with at least one, got {x.shape}")
    if not np.isfinite(x).all():
        raise DataError("log_mel: x must be finite, got NaN or infinite samples")
    return x, rate
