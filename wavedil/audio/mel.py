"""Log-mel spectra made by a recipe, of whole clips and of streams: the same numbers for both.

librosa, which knows the filters, is imported when the first spectrum is computed (it takes seconds).
"""

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Self

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DataError

_ROWS = 1024  # frames computed at a time: bounds the memory, whatever the length of the clip


@dataclass(frozen=True)
class MelConfig:
    """The recipe of a log-mel spectrum: all that must be equal for two spectra to mean the same.

    ``S[f, m] = (ln max(floor, A[f, m]) + shift) / scale`` with ``A[f, m]^2 = sum_k M[m, k] |X[f, k]|^2``: X is the
    Fourier transform of `window` samples under a (periodic) Hann window, over half the window's sum, so that a sine of
    full scale has amplitude 1; M are triangles on Slaney's mel scale, each of which sums to 1. Samples before and after
    the clip are zeros. A clip of T samples has ``F = ceil(T / hop) + 1`` frames, and frame f belongs to sample
    ``f * hop``: linear interpolation between frames gives every sample a value.

    Attributes
    ----------
    sample_rate : int
        Hz.
    n_fft : int
        Length of the Fourier transform in samples, at least `window`.
    window : int
        Samples that a frame looks at.
    hop : int
        Samples from frame to frame, at most `window`.
    mels : int
        Filters.
    low, high : float
        Range of the filters in Hz.
    floor : float
        The least amplitude. About that of the noise in recordings, so that digital silence is no outlier.
    shift, scale : float
        They bring speech to about [-1, 1]; fixed, so that no statistics of a training set are needed.
    centred : bool
        Whether frame f looks at ``window // 2`` samples before sample ``f * hop`` and the others from it on. If not, it
        is causal: it looks at the `window` samples before ``f * hop``.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.

    Examples
    --------
    >>> config = MelConfig()
    >>> config.frames(8000), config.look_ahead
    (101, 128)
    """

    sample_rate: int = 8000
    n_fft: int = 256
    window: int = 256
    hop: int = 80
    mels: int = 40
    low: float = 60.0
    high: float = 3800.0
    floor: float = 1e-5
    shift: float = 7.0
    scale: float = 4.0
    centred: bool = True

    def __post_init__(self):
        where = "MelConfig"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                value = checks.whole(where, field.name, value)
            elif field.type is float:
                value = checks.number(where, field.name, value)
            elif not isinstance(value, bool | np.bool_):
                raise ConfigError(f"{where}: {field.name} must be True or False, got {value!r}")
            object.__setattr__(self, field.name, field.type(value))
        checks.whole(where, "window", self.window, 2, self.n_fft)
        checks.whole(where, "hop", self.hop, 1, self.window)
        for name in ("floor", "scale"):
            checks.number(where, name, getattr(self, name), "above 0", lambda value: value > 0)
        if not 0 <= self.low < self.high <= self.sample_rate / 2:
            raise ConfigError(f"{where}: low and high must be 0 <= low < high <= {self.sample_rate / 2:g} Hz, got "
                              f"{self.low:g} and {self.high:g}")

    @classmethod
    def preset(cls, sample_rate: int, **changes) -> Self:
        """A recipe for speech at this rate: frames of 32 ms every 10 ms, 40 filters up to 8 kHz and 80 above it."""
        rate = checks.whole("MelConfig.preset", "sample_rate", sample_rate, 1000)
        window = round(0.032 * rate)
        sizes = dict(sample_rate=rate, n_fft=1 << (window - 1).bit_length(), window=window, hop=rate // 100,
                     mels=40 if rate <= 8000 else 80, low=60.0, high=0.475 * rate)  # fmt: skip
        return cls.from_dict(sizes | changes)

    @property
    def look_ahead(self) -> int:
        """Samples from ``f * hop`` on that must have come before frame f can be computed.

        Values between two frames need the later frame, which comes up to ``hop`` samples later still.
        """
        return self.window - self._past

    @property
    def _past(self):
        """Samples before f * hop that frame f looks at."""
        return self.window // 2 if self.centred else self.window

    def frames(self, samples: int) -> int:
        """How many frames so many samples have: ``ceil(samples / hop) + 1``."""
        return -(-checks.whole("MelConfig.frames", "samples", samples) // self.hop) + 1

    def to_dict(self) -> dict:
        """The values as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values) -> Self:
        """The opposite of `to_dict`; what is left out has its default.

        Raises
        ------
        ConfigError
            If a key is unknown, or a value is not right.
        """
        if not hasattr(values, "keys"):
            raise ConfigError(f"MelConfig: a recipe must be a table of keys, got {values!r}")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise checks.unknown_key("MelConfig", key, known)
        return cls(**values)

    def check_same(self, other: "MelConfig", where: str) -> None:
        """Refuse features of another recipe.

        Raises
        ------
        ConfigError
            If `other` differs; it names what differs.
        """
        if not isinstance(other, MelConfig):
            raise ConfigError(f"{where}: the recipe of the features must be a MelConfig, got {type(other).__name__}")
        mine, others = self.to_dict(), other.to_dict()
        differ = [f"{name} must be {mine[name]!r}, got {others[name]!r}" for name in mine if mine[name] != others[name]]
        if differ:
            raise ConfigError(f"{where}: the features have another recipe: {'; '.join(differ)}")

    def amplitudes(self, mel) -> np.ndarray:
        """Return the amplitudes A (float64) of spectra S: the opposite of the logarithm, `shift` and `scale`.

        Raises
        ------
        DataError
            If `mel` is not (frames, mels), is empty, or holds NaN or infinite values.
        """
        mel = np.asarray(mel, dtype=np.float64)
        if mel.ndim != 2 or mel.shape[1] != self.mels or not len(mel):
            raise DataError(f"MelConfig: mel must be (frames, {self.mels}) with at least one frame, got {mel.shape}")
        if not np.isfinite(mel).all():
            raise DataError("MelConfig: mel must be finite, got NaN or infinite values")
        return np.exp(mel * self.scale - self.shift)


def log_mel(x, config: MelConfig) -> np.ndarray:
    """Compute the log-mel spectrum of a clip, as `MelConfig` defines it.

    Parameters
    ----------
    x : array_like of float, shape (samples,)
        Full scale is [-1, 1].
    config : MelConfig

    Returns
    -------
    numpy.ndarray of float32, shape (ceil(samples / hop) + 1, mels)

    Raises
    ------
    DataError
        If `x` is not 1-D, is empty, or holds NaN or infinite values.
    ConfigError
        If there are more filters than the Fourier transform can tell apart.

    References
    ----------
    M. Slaney, Auditory Toolbox, Interval Research Technical Report 1998-010; `librosa.filters.mel`.
    """
    x, config = samples("log_mel", x), _recipe("log_mel", config)
    if not len(x):
        raise DataError("log_mel: x must hold samples, got none")
    frames = config.frames(len(x))
    after = (frames - 1) * config.hop + config.look_ahead - len(x)
    return _spectra(np.pad(x, (config._past, after)), frames, config)


def mfcc(x, config: MelConfig, coefficients: int = 13) -> np.ndarray:
    """Compute mel-frequency cepstral coefficients.

    ``C[f, k] = s_k sum_m S[f, m] cos(pi k (m + 1/2) / mels)``, the orthonormal DCT-II over the filters of `log_mel`:
    s_0 = sqrt(1 / mels), else sqrt(2 / mels).

    Parameters
    ----------
    x, config
        As in `log_mel`. With ``shift=0, scale=1`` the unit is that of the natural logarithm of amplitude.
    coefficients : int, default 13
        How many to keep, from k = 0 (loudness).

    Returns
    -------
    numpy.ndarray of float32, shape (ceil(samples / hop) + 1, coefficients)

    Raises
    ------
    DataError, ConfigError
        As in `log_mel`; if there are more coefficients than filters.

    References
    ----------
    S. Davis and P. Mermelstein, Comparison of parametric representations for monosyllabic word recognition, IEEE
    Transactions on Acoustics, Speech and Signal Processing 28(4), 1980.
    """
    checks.whole("mfcc", "coefficients", coefficients, 1, _recipe("mfcc", config).mels)
    from scipy.fft import dct

    return np.ascontiguousarray(dct(log_mel(x, config), type=2, norm="ortho", axis=1)[:, :coefficients])


class MelStream:
    """The log-mel spectrum of a stream: the frames are those of `log_mel` of the whole, bit for bit.

    Frame f comes with the push that brings sample ``f * hop + config.look_ahead - 1``.

    Parameters
    ----------
    config : MelConfig

    Examples
    --------
    >>> stream = MelStream(MelConfig())
    >>> stream.push(np.zeros(1000, np.float32)).shape, stream.finish().shape
    ((11, 40), (3, 40))
    """

    def __init__(self, config: MelConfig):
        self.config = _recipe("MelStream", config)
        self._begin()

    def _begin(self):
        self._waiting = np.zeros(self.config._past)  # samples from the start of the next frame on
        self._samples = self._frames = 0

    def push(self, block) -> np.ndarray:
        """Take the next samples (any number of them) and return the frames (n, mels) that they complete.

        Raises
        ------
        DataError
            If `block` is not 1-D, or holds NaN or infinite values; the stream stays as it was.
        """
        block = samples("MelStream.push", block)
        self._samples += len(block)
        return self._append(block)

    def finish(self) -> np.ndarray:
        """Return the last frames, those that reach beyond the end; the stream then begins anew."""
        frames = np.empty((0, self.config.mels), np.float32)
        if self._samples:
            last = (self.config.frames(self._samples) - 1) * self.config.hop + self.config.look_ahead
            frames = self._append(np.zeros(last - self._samples))
        self._begin()
        return frames

    def _append(self, block):
        self._waiting = np.concatenate((self._waiting, block))
        frames = max(0, (len(self._waiting) - self.config.window) // self.config.hop + 1)
        found = _spectra(self._waiting, frames, self.config)
        self._waiting = self._waiting[frames * self.config.hop :].copy()
        return found


def _spectra(x, frames, config):
    """The spectra (frames, mels) of samples whose frame f begins at f * hop."""
    window, weights = window_and_filters(config)
    out = np.empty((frames, config.mels), np.float32)
    for start in range(0, frames, _ROWS):
        rows = min(_ROWS, frames - start)
        part = x[start * config.hop :][: (rows - 1) * config.hop + config.window]
        looks = np.lib.stride_tricks.sliding_window_view(part, config.window)[:: config.hop]
        spectrum = np.fft.rfft(looks * window, config.n_fft)
        power = spectrum.real**2 + spectrum.imag**2
        # A product a frame: the bits of one large product would depend on how many frames come at once.
        bands = np.matmul(power[:, None, :], weights.T)[:, 0]
        out[start : start + rows] = (0.5 * np.log(np.maximum(bands, config.floor**2)) + config.shift) / config.scale
    return out


@lru_cache(maxsize=16)
def window_and_filters(config):
    """The window, over half its sum, and the filters (mels, n_fft // 2 + 1)."""
    import warnings

    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty filters are an error here
        filters = librosa.filters.mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.mels, fmin=config.low,
                                      fmax=config.high, norm=None, dtype=np.float64)  # fmt: skip
    sums = filters.sum(axis=1, keepdims=True)
    if not sums.all():
        raise ConfigError(f"MelConfig: n_fft must be large enough for {config.mels} mels, got {config.n_fft}: filter "
                          f"{int(np.flatnonzero(sums == 0)[0])} would see nothing")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    return window / (window.sum() / 2), filters / sums


def samples(where, x):
    """Samples as a float64 vector, all finite."""
    if isinstance(x, np.ndarray) and x.dtype.kind != "f":
        raise DataError(f"{where}: x must be floating point in [-1, 1], got {x.dtype} (scale PCM samples first)")
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1:
        raise DataError(f"{where}: x must be (samples,), got {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"{where}: x must be finite, got NaN or infinite samples")
    return x


def _recipe(where, config):
    if not isinstance(config, MelConfig):
        raise ConfigError(f"{where}: config must be a MelConfig, got {type(config).__name__}")
    return config
