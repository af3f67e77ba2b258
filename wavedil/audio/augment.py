"""Augmentation on the fly: random changes to a clip that leave what it says alone.

Each one is a frozen dataclass, called with samples (float32, full scale [-1, 1]), their rate in Hz and the generator to
draw from; it returns new float32 samples. All its randomness comes from that generator, so whoever saves the
generator's state (the trainer does) gets the same clips again.

>>> import numpy as np
>>> changes = [Gain(-6, 6), Noise(20, 40), TimeMask(2, 0.1)]
>>> x, rng = np.ones(8000, np.float32), np.random.default_rng(0)
>>> for change in changes:
...     x = change(x, 8000, rng)
>>> x.shape, x.dtype
((8000,), dtype('float32'))
"""

from dataclasses import dataclass, fields

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError


class Augmentation:
    """Base of the augmentations: ``change(x, sample_rate, rng)`` returns other samples."""

    def __post_init__(self):
        kind, values = type(self).__name__, {}
        for field in fields(self):
            value = values[field.name] = getattr(self, field.name)
            if field.type is int:
                checks.whole(kind, field.name, value)
            elif field.name in ("low", "high"):
                checks.number(kind, field.name, value)
            else:
                checks.number(kind, field.name, value, "a finite number above 0", lambda value: value > 0)
        if "low" in values and values["low"] > values["high"]:
            raise ConfigError(f"{kind}: low must not be above high, got {values['low']} and {values['high']}")

    def __call__(self, x, sample_rate, rng):
        raise NotImplementedError


@dataclass(frozen=True)
class TimeShift(Augmentation):
    """Move a clip by up to so many seconds either way; silence moves in, what moves out is cut, the length stays."""

    seconds: float = 0.05

    def __call__(self, x, sample_rate, rng):
        most = min(round(self.seconds * sample_rate), len(x) - 1)
        shift = int(rng.integers(-most, most + 1))
        y = np.zeros_like(x)
        y[max(shift, 0) : len(x) + min(shift, 0)] = x[max(-shift, 0) : len(x) - max(shift, 0)]
        return y


@dataclass(frozen=True)
class Gain(Augmentation):
    """Make a clip louder or softer by ``low`` to ``high`` dB."""

    low: float = -6.0
    high: float = 6.0

    def __call__(self, x, sample_rate, rng):
        return x * np.float32(10 ** (rng.uniform(self.low, self.high) / 20))


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add white noise, at a ratio of the clip's power to the noise's of ``low`` to ``high`` dB."""

    low: float = 15.0
    high: float = 40.0

    def __call__(self, x, sample_rate, rng):
        level = np.sqrt(np.mean(np.square(x, dtype=np.float64)) / 10 ** (rng.uniform(self.low, self.high) / 10))
        return x + np.float32(level) * rng.standard_normal(len(x), dtype=np.float32)


@dataclass(frozen=True)
class Speed(Augmentation):
    """Play a clip ``low`` to ``high`` times as fast, which also raises its pitch: resampling, by soxr."""

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self):
        super().__post_init__()
        if self.low <= 0:
            raise ConfigError(f"Speed: low must be above 0, got {self.low}")

    def __call__(self, x, sample_rate, rng):
        import soxr

        factor = rng.uniform(self.low, self.high)
        y = soxr.resample(x, sample_rate * factor, sample_rate)
        return y if len(y) else x


@dataclass(frozen=True)
class TimeMask(Augmentation):
    """Silence ``count`` spans of up to so many seconds (Park et al., SpecAugment, arXiv:1904.08779, section 2)."""

    count: int = 1
    seconds: float = 0.1

    def __call__(self, x, sample_rate, rng):
        y = x.copy()
        for _ in range(self.count):
            size = int(rng.integers(min(round(self.seconds * sample_rate), len(x)) + 1))
            start = int(rng.integers(len(x) - size + 1))
            y[start : start + size] = 0
        return y


@dataclass(frozen=True)
class FrequencyMask(Augmentation):
    """Remove ``count`` bands of up to so many Hz over the whole clip (SpecAugment, arXiv:1904.08779, section 2)."""

    count: int = 1
    hertz: float = 500.0

    def __call__(self, x, sample_rate, rng):
        spectrum = np.fft.rfft(x)
        per_bin = sample_rate / len(x)
        for _ in range(self.count):
            size = int(rng.uniform(0, min(self.hertz, sample_rate / 2)) / per_bin)
            start = int(rng.integers(len(spectrum) - size + 1))
            spectrum[start : start + size] = 0
        return np.fft.irfft(spectrum, len(x)).astype(np.float32)
