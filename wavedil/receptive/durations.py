"""Durations as samples, and samples as durations."""

import math
import re
from fractions import Fraction

from wavedil.checks import whole
from wavedil.errors import ConfigError


def samples(duration: int | str, rate: int | None = None) -> int:
    """A duration in samples: a number of samples as it is, "300ms" or "0.3s" at a sample rate, rounded up.

    Raises
    ------
    ConfigError
        If it is not such a duration, is not above zero, or is in seconds while there is no rate.

    Examples
    --------
    >>> samples("300ms", 8000), samples("1.5 s", 44100), samples(512)
    (2400, 66150, 512)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) ?(ms|s|samples|)", str(duration).strip())
    number, unit = (Fraction(found[1]), found[2]) if found and not isinstance(duration, bool) else (0, "")
    if number <= 0 or (unit in ("", "samples") and number.denominator != 1):
        raise ConfigError(f"samples: duration must be such as 2400 (samples), '300ms' or '0.3s', got {duration!r}")
    if unit in ("", "samples"):
        return int(number)
    if rate is None:
        raise ConfigError(f"samples: rate must be given for a duration in {unit}, got {duration!r} and no rate")
    return math.ceil(number * whole("samples", "rate", rate) / (1000 if unit == "ms" else 1))


def milliseconds(samples: int, rate: int) -> float:
    """How long this many samples last.

    Raises
    ------
    ConfigError
        If the samples are no integer of at least 0, or the rate, in Hz, of at least 1.

    Examples
    --------
    >>> milliseconds(1024, 8000)
    128.0
    """
    samples = whole("milliseconds", "samples", samples, 0)
    return 1000 * samples / whole("milliseconds", "rate", rate)
