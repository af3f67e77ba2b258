"""Measures of how near an output comes to its reference, and of what either sounds like."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wavedil.audio.mel import MelConfig, log_mel, mfcc
from wavedil.errors import ConfigError, DataError
from wavedil.evaluation.packages import extra

_QUIET = 10 ** (-50 / 20)  # a frame is silent if none of its samples reaches -50 dB, as in the audit of a folder
_LEAST = 1e-5  # -100 dB: below it all is digital silence


# ---- of a pair -------------------------------------------------------------------------------------------------------
def stoi(reference, output, rate):
    """Short-time objective intelligibility: 1 for identical clips, about 0 for unrelated ones.

    Computed by pystoi at 10 kHz, on frames that are at most 40 dB below the loudest.

    Parameters
    ----------
    reference, output : array_like of float, shape (samples,)
        Aligned to a few milliseconds, full scale [-1, 1].
    rate : int
        Hz.

    Raises
    ------
    DataError
        If the clips differ in length, hold NaN, or hold less than 0.4 s of sound; if the reference is silent.
    ConfigError
        If pystoi is not installed.

    References
    ----------
    C. Taal et al., An algorithm for intelligibility prediction of time-frequency weighted noisy speech, IEEE
    Transactions on Audio, Speech, and Language Processing 19(7), 2011.
    """
    return _stoi("stoi", reference, output, rate, False)


def estoi(reference, output, rate):
    """Extended STOI, which also sees modulated noise; else as `stoi`.

    References
    ----------
    J. Jensen and C. Taal, An algorithm for predicting the intelligibility of speech masked by modulated noise maskers,
    IEEE/ACM Transactions on Audio, Speech, and Language Processing 24(11), 2016.
    """
    return _stoi("estoi", reference, output, rate, True)


def _stoi(where, reference, output, rate, extended):
    x, y = _pair(where, reference, output)
    compute = extra(where, "pystoi").stoi
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(compute(x, y, rate, extended=extended))
        except RuntimeWarning:
            raise DataError(f"{where}: the clip must hold at least 0.4 s of sound, that of {len(x) / rate:.2f} s holds "
                            "less") from None


def pesq(reference, output, rate):
    """Perceptual evaluation of speech quality: -0.5 to 4.6 MOS; narrowband at 8 kHz, wideband at 16 kHz.

    Raises
    ------
    DataError
        As `stoi`; if no speech is found.
    ConfigError
        At other rates; if pesq is not installed.

    References
    ----------
    ITU-T P.862, P.862.2.
    """
    if rate not in (8000, 16000):
        raise ConfigError(f"pesq: the rate must be 8000 or 16000 Hz, got {rate}: leave pesq out, or resample")
    x, y = _pair("pesq", reference, output)
    package = extra("pesq", "pesq")
    try:
        return float(package.pesq(rate, x, y, "nb" if rate == 8000 else "wb"))
    except package.PesqError as error:
        told = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        told = told or type(error).__name__
        raise DataError(f"pesq: the clip of {len(x) / rate:.2f} s cannot be scored ({told})") from None


def mel_lsd(reference, output, rate):
    """Log-spectral distance in dB: the mean over frames of the root mean square over mel bands of the difference.

    Spectra are those of ``MelConfig.preset(rate)`` in dB of amplitude, not below -100 dB.
    """
    x, y = _pair("mel_lsd", reference, output)
    config = _plain(rate)
    difference = 20 / np.log(10) * (log_mel(x, config).astype(np.float64) - log_mel(y, config))
    return float(np.sqrt((difference**2).mean(axis=1)).mean())


def mcd(reference, output, rate):
    """Mel-cepstral distortion in dB, without time warping.

    ``10 / ln 10 sqrt(2 sum_k (c_k - c'_k)^2)``, k from 1 to 13, mean over frames, with
    ``c_k = 2 / K sum_m ln A_m cos(pi k (m + 1/2) / K)`` and A the K mel amplitudes of ``MelConfig.preset(rate)``.

    References
    ----------
    R. Kubichek, Mel-cepstral distance measure for objective speech quality assessment, IEEE Pacific Rim Conference on
    Communications, Computers and Signal Processing, 1993.
    """
    x, y = _pair("mcd", reference, output)
    config = _plain(rate)
    # The orthonormal transform is sqrt(2 / K) sum: sqrt(2 / K) of it is c_k.
    difference = (mfcc(x, config, 14)[:, 1:].astype(np.float64) - mfcc(y, config, 14)[:, 1:]) * np.sqrt(2 / config.mels)
    return float(10 / np.log(10) * np.sqrt(2 * (difference**2).sum(axis=1)).mean())


def f0_error(reference, output, rate):
    """Root mean square error of the pitch in cents, over the frames in which both are voiced (WORLD's dio, stonemask).

    NaN if there is no such frame. A single octave error is 1200 cents: see `f0_median` beside it.
    """
    return float(np.sqrt(np.mean(np.square(_cents("f0_error", reference, output, rate)))))


def f0_median(reference, output, rate):
    """Median of the absolute error of the pitch in cents; else as `f0_error`."""
    return float(np.median(np.abs(_cents("f0_median", reference, output, rate))))


def voicing_error(reference, output, rate):
    """Share of the frames of 5 ms that are voiced in one of both and not in the other, as WORLD's dio has it."""
    x, y = _pair("voicing_error", reference, output)
    return float(np.mean((_pitch("voicing_error", x, rate) > 0) != (_pitch("voicing_error", y, rate) > 0)))


def _cents(where, reference, output, rate):
    x, y = (_pitch(where, x, rate) for x in _pair(where, reference, output))
    both = (x > 0) & (y > 0)
    return 1200 * np.log2(y[both] / x[both]) if both.any() else np.array([np.nan])


def silence_level(reference, output, rate):
    """Level of the output, in dB of full scale, where the reference is silent; NaN if it never is.

    Frames of 20 ms are silent whose every sample is below -50 dB. Digital silence counts as -100 dB.
    """
    x, y = _pair("silence_level", reference, output)
    quiet = _silent(x, rate)
    return level(_frames(y, rate)[quiet].ravel()) if quiet.any() else float("nan")


def silence_spectrum(reference, output, rate):
    """Mean spectra of both where the reference is silent: what a hiss or a buzz in pauses is made of.

    Returns
    -------
    frequencies : numpy.ndarray, shape (bins,)
        Hz.
    reference, output : numpy.ndarray, shape (bins,)
        dB of full scale: a sine of that frequency with amplitude 1 has 0 dB; not below -140 dB.

    Raises
    ------
    DataError
        If the reference is never silent; as `stoi`.
    """
    x, y = _pair("silence_spectrum", reference, output)
    quiet = _silent(x, rate)
    if not quiet.any():
        raise DataError("silence_spectrum: reference must have silent frames of 20 ms, got none")
    spectra = []
    for clip in (x, y):
        power = _power(_frames(clip, rate)[quiet]).mean(axis=0)
        spectra.append(10 * np.log10(np.maximum(power, 1e-14)))
    size = _frames(x, rate).shape[1]
    return np.arange(size // 2 + 1) * rate / size, *spectra


# ---- of one clip -----------------------------------------------------------------------------------------------------
def level(x):
    """Root mean square in dB of full scale, -100 dB at least."""
    x = _clip("level", "x", x)
    return float(20 * np.log10(max(np.sqrt(np.mean(x**2)), _LEAST)))


def silent_share(x, rate):
    """Share of the frames of 20 ms whose every sample is below -50 dB of full scale."""
    return float(_silent(_clip("silent_share", "x", x), rate).mean())


def voiced_share(x, rate):
    """Share of the frames that have a pitch (WORLD's dio), of those that are not silent; NaN if all are silent."""
    x = _clip("voiced_share", "x", x)
    loud = ~_silent(x, rate)
    pitch = _pitch("voiced_share", x, rate)
    # A pitch every 5 ms, a frame every 20 ms: the one in its middle.
    voiced = pitch[np.minimum(4 * np.arange(len(loud)) + 2, len(pitch) - 1)] > 0
    return float(voiced[loud].mean()) if loud.any() else float("nan")


def flatness(x, rate):
    """Spectral flatness, the geometric over the arithmetic mean of power: 0 for a tone, about 0.56 for white noise.

    The mean over the frames of 20 ms that are not silent; NaN if all are.
    """
    x = _clip("flatness", "x", x)
    loud = ~_silent(x, rate)
    if not loud.any():
        return float("nan")
    power = _power(_frames(x, rate)[loud]) + 1e-14
    return float((np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)).mean())


# ---- what they share -------------------------------------------------------------------------------------------------
def _plain(rate):
    """The recipe of the measures: the logarithm of amplitudes itself."""
    return MelConfig.preset(rate, shift=0.0, scale=1.0)


def pair(where, reference, output):
    """Both clips as float64, of equal length."""
    x, y = _clip(where, "reference", reference), _clip(where, "output", output)
    if len(x) != len(y):
        raise DataError(f"{where}: output must have the {len(x)} samples of the reference, got {len(y)}")
    return x, y


def _pair(where, reference, output):
    """A pair whose reference is not silent."""
    x, y = pair(where, reference, output)
    if np.abs(x).max() < _LEAST:
        raise DataError(f"{where}: reference must hold sound, got silence")
    return x, y


def _clip(where, name, x):
    if isinstance(x, np.ndarray) and x.dtype.kind != "f":
        raise DataError(f"{where}: {name} must be floating point in [-1, 1], got {x.dtype}")
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"{where}: {name} must be (samples,) with at least one, got {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"{where}: {name} must be finite, got NaN or infinite samples")
    return x


def _frames(x, rate):
    """Frames of 20 ms (frames, samples), one after the other; what is left of the clip at its end is left out."""
    size = min(max(2, round(0.02 * rate)), len(x))
    return x[: len(x) // size * size].reshape(-1, size)


def _silent(x, rate):
    return np.abs(_frames(x, rate)).max(axis=1) < _QUIET


def _power(frames):
    """Power spectra under a Hann window; a sine of amplitude 1 has power 1."""
    window = np.hanning(frames.shape[1] + 2)[1:-1]
    return np.abs(np.fft.rfft(frames * window / (window.sum() / 2))) ** 2


def _pitch(where, x, rate):
    """Pitch in Hz every 5 ms; 0 where there is none."""
    extra(where, "pyworld")
    return _pitch_of(x.tobytes(), rate)


@lru_cache(maxsize=8)  # several measures ask for the same clip
def _pitch_of(data, rate):
    import pyworld

    x = np.frombuffer(data).copy()
    coarse, times = pyworld.dio(x, rate)
    return pyworld.stonemask(x, coarse, times, rate)


class Measure(NamedTuple):
    """A measure of a pair, as a table has it."""

    compute: Callable  # (reference, output, rate) -> float
    unit: str
    package: str | None = None  # module that it needs


#: The measures of tables by their names. Those of one clip are the output's.
MEASURES = {
    "stoi": Measure(stoi, "", "pystoi"),
    "estoi": Measure(estoi, "", "pystoi"),
    "pesq": Measure(pesq, "MOS", "pesq"),
    "mel_lsd": Measure(mel_lsd, "dB"),
    "mcd": Measure(mcd, "dB"),
    "f0_error": Measure(f0_error, "cents", "pyworld"),
    "f0_median": Measure(f0_median, "cents", "pyworld"),
    "voicing_error": Measure(voicing_error, "share", "pyworld"),
    "wer": Measure(None, "share", "pocketsphinx"),  # needs texts: see `evaluate_pairs`
    "level": Measure(lambda x, y, rate: level(y), "dB"),
    "silence_level": Measure(silence_level, "dB"),
    "silent": Measure(lambda x, y, rate: silent_share(y, rate), "share"),
    "voiced": Measure(lambda x, y, rate: voiced_share(y, rate), "share", "pyworld"),
    "flatness": Measure(lambda x, y, rate: flatness(y, rate), ""),
}
