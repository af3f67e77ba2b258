"""Receptive field, multiplicity of lags, holes: exact, in integers."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError

FIELD = 1 << 31  # rows that a model may reach back over
LAGS = 1 << 22  # what is counted lag by lag ends here: 4 minutes at 16 kHz


# ---- checks ----------------------------------------------------------------------------------------------------------
def check_dilations(dilations, kernel_size) -> tuple[int, ...]:
    """The dilations as a tuple of ints.

    Raises
    ------
    ConfigError
        If there is none, one of them or the kernel size is not a whole number of at least 1, or a model of them would
        reach back over more than 2^31 rows.
    """
    result = _checked(dilations, kernel_size)
    field = 1 + (int(kernel_size) - 1) * sum(result)
    if max(field, *result) > FIELD:
        raise ConfigError(
            f"dilations must reach back over at most {FIELD} rows, got {max(field, *result)} with a kernel size of "
            f"{kernel_size}"
        )
    return result


def _checked(dilations, kernel_size):
    result = _listed(dilations)
    for name, value in [("kernel_size", kernel_size), *(("dilations", d) for d in result)]:
        _whole(name, value)
    return tuple(int(d) for d in result)


def layers(where, dilations, kernel_size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Dilations and kernel sizes, one of each a layer; ``kernel_size`` is one for all or a sequence."""
    try:
        if isinstance(kernel_size, str) or not np.iterable(kernel_size):
            dilations = _checked(dilations, kernel_size)
            return dilations, (int(kernel_size),) * len(dilations)
        dilations, sizes = _checked(dilations, 1), tuple(kernel_size)
        for size in sizes:
            _whole("kernel_size", size)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if len(sizes) != len(dilations):
        raise ConfigError(f"{where}: kernel_size must be one number or one for each of the {len(dilations)} dilations, "
                          f"got {len(sizes)}")
    return dilations, tuple(int(size) for size in sizes)


def whole(where, name, value, least=1) -> int:
    """The value as an int."""
    try:
        return _whole(name, value, least)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}".replace("whole numbers", "a whole number")) from None


def _listed(dilations):
    try:
        result = tuple(dilations)
    except TypeError:
        raise ConfigError(f"dilations must be a list of whole numbers, got {dilations!r}") from None
    if not result:
        raise ConfigError("dilations must name at least one block, got an empty list")
    return result


def _whole(name, value, least=1):
    if isinstance(value, bool | np.bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ConfigError(f"{name} must be whole numbers of at least {least}, got {value!r}")
    return int(value)


# ---- one dimension ---------------------------------------------------------------------------------------------------
def receptive_field(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> int:
    """Number of input samples that one output of a stack of dilated convolutions reaches back over.

    ``1 + sum_i (k_i - 1) d_i``: the present sample, and as many past ones as the taps reach.

    Parameters
    ----------
    dilations : sequence of int
        Distance between the taps of each layer, in samples. Several cycles: ``[1, 2, 4, 8] * 3``.
    kernel_size : int or sequence of int
        Taps of each layer.

    Returns
    -------
    int
        Samples.

    Raises
    ------
    ConfigError
        If a dilation or a kernel size is not a whole number of at least 1, or their counts differ.

    References
    ----------
    van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499, section 2.1.

    Examples
    --------
    >>> receptive_field([1, 2, 4, 8], 2)
    16
    >>> receptive_field([1, 2, 4, 8] * 3, 2)
    46
    >>> receptive_field([1, 2], [5, 3])
    9
    """
    dilations, sizes = layers("receptive_field", dilations, kernel_size)
    return _field(dilations, sizes)


def _field(dilations, sizes):
    return 1 + sum((k - 1) * d for d, k in zip(dilations, sizes, strict=True))


def multiplicity(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> np.ndarray:
    """In how many ways a stack sees each lag: the number of paths through one tap of each layer.

    ``m(l)`` is the coefficient of ``z**l`` in ``prod_i (1 + z**d_i + ... + z**((k_i - 1) d_i))``: what the stack
    answers to a single one if all its weights are one. The sum over all lags is ``prod_i k_i``.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.

    Returns
    -------
    (receptive_field,) array
        Entry ``l`` is the count of the sample ``l`` steps ago. int64; Python ints (dtype object) where all paths
        together are ``2**63`` or more.

    Raises
    ------
    ConfigError
        As `receptive_field`, or if the field is longer than 4,194,304 samples.

    Examples
    --------
    >>> multiplicity([1, 2, 4, 8], 2)
    array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    >>> multiplicity([1, 2], 3)
    array([1, 1, 2, 1, 2, 1, 1])
    >>> multiplicity([2, 4], 2)
    array([1, 0, 1, 0, 1, 0, 1])
    """
    return _multiplicity("multiplicity", *layers("multiplicity", dilations, kernel_size))


def _multiplicity(where, dilations, sizes):
    field = _field(dilations, sizes)
    if field > LAGS:
        raise ConfigError(f"{where}: the receptive field must be at most {LAGS:,} samples to be counted lag by lag, "
                          f"got {field:,}")
    dtype = np.int64 if math.prod(sizes) < 2**63 else object
    counts = np.ones(1, dtype)
    for d, k in sorted(zip(dilations, sizes, strict=True)):
        longer = np.zeros(len(counts) + (k - 1) * d, dtype)
        for tap in range(k):
            longer[tap * d : tap * d + len(counts)] += counts
        counts = longer
    return counts


def holes(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> np.ndarray:
    """The blind spots of a stack: lags inside its receptive field that no path reaches.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.

    Returns
    -------
    (n,) int64 array
        Lags, ascending.

    Raises
    ------
    ConfigError
        As `multiplicity`.

    Examples
    --------
    >>> holes([2, 4, 8], 2)
    array([ 1,  3,  5,  7,  9, 11, 13])
    """
    return np.flatnonzero(_multiplicity("holes", *layers("holes", dilations, kernel_size)) == 0)


def first_hole(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> int | None:
    """The smallest lag that a stack never sees, or None if it sees all of its field: the exact rule, without counting.

    With the layers of two and more taps sorted by dilation, there is no hole if and only if for every i::

        d_i <= 1 + sum over j < i of (k_j - 1) d_j

    so the smallest dilation is 1, and no dilation is larger than the field of all smaller ones together. If it holds,
    each layer appends copies of a range without a hole, with no gap between them. If ``d_i`` is larger, then the right
    side is a lag that the smaller layers do not reach and the others jump over. The order of the layers does not
    matter.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`, of any length.

    Returns
    -------
    int or None

    Raises
    ------
    ConfigError
        As `receptive_field`.

    Examples
    --------
    >>> first_hole([1, 2, 4, 8], 2) is None
    True
    >>> first_hole([2, 4, 8], 2)
    1
    >>> first_hole([1, 3, 9], 2), first_hole([1, 3, 9], 3)
    (2, None)
    """
    return _first_hole(*layers("first_hole", dilations, kernel_size))


def _first_hole(dilations, sizes):
    covered = 1
    for d, k in sorted(zip(dilations, sizes, strict=True)):
        if k > 1:
            if d > covered:
                return covered
            covered += (k - 1) * d
    return None


def gridding(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> float:
    """The share of the receptive field that a stack never sees, 0 (none) to 1.

    ``#{l : m(l) = 0} / receptive_field`` with ``m`` of `multiplicity`.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.

    Returns
    -------
    float

    Raises
    ------
    ConfigError
        As `multiplicity`.

    Examples
    --------
    >>> gridding([1, 2, 4, 8], 2)
    0.0
    >>> round(gridding([2, 4, 8], 2), 3)  # 7 of 15
    0.467
    """
    return _gridding(_multiplicity("gridding", *layers("gridding", dilations, kernel_size)))


def _gridding(counts):
    return int((counts == 0).sum()) / len(counts)


def evenness(dilations: Sequence[int], kernel_size: int | Sequence[int]) -> float:
    """How evenly the paths of a stack are spread over its receptive field, up to 1 (all lags alike).

    ``(sum_l m(l))**2 / (receptive_field * sum_l m(l)**2)`` with ``m`` of `multiplicity`: the share of the field that
    would carry all paths if it carried them evenly. Cycles pull it down: their sums gather in the middle of the field.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.

    Returns
    -------
    float

    Raises
    ------
    ConfigError
        As `multiplicity`.

    Examples
    --------
    >>> evenness([1, 2, 4, 8], 2)
    1.0
    >>> round(evenness([1, 2, 4, 8] * 3, 2), 2)
    0.63
    """
    return _evenness(_multiplicity("evenness", *layers("evenness", dilations, kernel_size)))


def _evenness(counts):
    counts = (counts / counts.max()).astype(np.float64)  # first, as huge counts are beyond a float
    return float(counts.sum() ** 2 / (len(counts) * (counts**2).sum()))


# ---- two dimensions --------------------------------------------------------------------------------------------------
def multiplicity_2d(dilations, kernel_size) -> np.ndarray:
    """In how many ways a stack of 2D convolutions sees each offset: exact, for full rectangular kernels.

    Such a kernel takes any row tap with any column tap, so the count is the product of the counts of the two axes:
    ``m(i, j) = m_rows(i) m_columns(j)``. There is a hole if and only if one axis has one.

    Parameters
    ----------
    dilations : sequence of int or of (int, int)
        Of each layer, for both axes or for rows and columns.
    kernel_size : int or (int, int)
        Taps, for both axes or for rows and columns.

    Returns
    -------
    (rows, columns) array
        Sizes are the receptive fields of the axes; entry (0, 0) is one corner. Types as in `multiplicity`.

    Raises
    ------
    ConfigError
        As `multiplicity`; the limit is on rows times columns.

    Examples
    --------
    >>> multiplicity_2d([1, 2], 2)
    array([[1, 1, 1, 1],
           [1, 1, 1, 1],
           [1, 1, 1, 1],
           [1, 1, 1, 1]])
    >>> multiplicity_2d([(1, 2)], 2)
    array([[1, 0, 1],
           [1, 0, 1]])
    """
    where = "multiplicity_2d"
    try:
        pairs, taps = [_pair("dilations", d) for d in _listed(dilations)], _pair("kernel_size", kernel_size)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    axes = [layers(where, [pair[axis] for pair in pairs], taps[axis]) for axis in (0, 1)]
    fields = [_field(*axis) for axis in axes]
    if math.prod(fields) > LAGS:
        raise ConfigError(f"{where}: rows times columns must be at most {LAGS:,} to be counted one by one, got "
                          f"{fields[0]:,} x {fields[1]:,}")
    rows, columns = (_multiplicity(where, *axis) for axis in axes)
    if int(rows.max()) * int(columns.max()) >= 2**63:
        rows, columns = rows.astype(object), columns.astype(object)
    return np.multiply.outer(rows, columns)


def _pair(name, value):
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ConfigError(f"{name} must be one number or (rows, columns), got {value!r}")
        return tuple(value)
    return value, value


class Hybrid(NamedTuple):
    """What the hybrid rule says; a heuristic."""

    distance: int  # M_2 of the paper
    common_factor: int  # of all dilations
    passes: bool  # distance <= kernel size, and no common factor


def hybrid_2d(dilations: Sequence[int], kernel_size: int) -> Hybrid:
    """The hybrid rule for stacks of 2D convolutions: a **heuristic**; `multiplicity_2d` counts what is really seen.

    With ``M_n = r_n`` and ``M_i = max(M_{i+1} - 2 r_i, 2 r_i - M_{i+1}, r_i)``, a group of dilations ``r_1, ..., r_n``
    passes if ``M_2 <= kernel_size`` and the dilations have no common factor. For kernel 3 and ascending groups that
    begin with 1 it agrees with the count (seen for all of up to four dilations up to 12). Elsewhere it errs both ways:
    with kernel 3 it passes [2, 3, 5], which never sees lag 1; with kernel 5 it refuses [1, 1, 8], which has no hole.

    Parameters
    ----------
    dilations : sequence of int
        At least two, in the order of the layers.
    kernel_size : int
        Of all layers, on both axes.

    Returns
    -------
    Hybrid

    Raises
    ------
    ConfigError
        If there are fewer than two dilations, or they or the kernel size are not whole numbers of at least 1.

    References
    ----------
    Wang et al., "Understanding Convolution for Semantic Segmentation", arXiv:1702.08502, section 3.2.

    Examples
    --------
    >>> hybrid_2d([1, 2, 5], 3)
    Hybrid(distance=2, common_factor=1, passes=True)
    >>> hybrid_2d([1, 2, 9], 3)
    Hybrid(distance=5, common_factor=1, passes=False)
    """
    dilations, _ = layers("hybrid_2d", dilations, kernel_size)
    kernel_size = whole("hybrid_2d", "kernel_size", kernel_size)
    if len(dilations) < 2:
        raise ConfigError(f"hybrid_2d: dilations must name at least two layers, got {list(dilations)}")
    distance = dilations[-1]
    for r in dilations[-2:0:-1]:
        distance = max(distance - 2 * r, 2 * r - distance, r)
    factor = math.gcd(*dilations)
    return Hybrid(distance, factor, distance <= kernel_size and factor == 1)


# ---- durations -------------------------------------------------------------------------------------------------------
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
        If the samples are no whole number of at least 0, or the rate, in Hz, of at least 1.

    Examples
    --------
    >>> milliseconds(1024, 8000)
    128.0
    """
    samples = whole("milliseconds", "samples", samples, 0)
    return 1000 * samples / whole("milliseconds", "rate", rate)


# ---- all at once -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyse` found about a stack."""

    dilations: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    multiplicity: np.ndarray
    cautions: tuple[str, ...]

    @property
    def receptive_field(self) -> int:
        """Samples."""
        return len(self.multiplicity)

    @cached_property
    def holes(self) -> np.ndarray:
        """Lags that are never seen, ascending."""
        return np.flatnonzero(self.multiplicity == 0)

    @property
    def paths(self) -> int:
        """Of all lags together."""
        return math.prod(self.kernel_sizes)

    @property
    def gridding(self) -> float:
        """Holes over the field; see `wavedil.receptive.gridding`."""
        return _gridding(self.multiplicity)

    @property
    def evenness(self) -> float:
        """See `wavedil.receptive.evenness`."""
        return _evenness(self.multiplicity)


def analyse(dilations: Sequence[int], kernel_size: int | Sequence[int], *, clip: int | None = None,
            window: int | None = None) -> Analysis:
    """Field, multiplicity, holes and cautions of a stack.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.
    clip, window : int, optional
        As in `cautions`.

    Returns
    -------
    Analysis

    Raises
    ------
    ConfigError
        As `multiplicity`.

    Examples
    --------
    >>> found = analyse([1, 2, 4, 8], 3)
    >>> found.receptive_field, found.paths, int(found.multiplicity.max()), len(found.holes)
    (31, 81, 5, 0)
    """
    dilations, sizes = layers("analyse", dilations, kernel_size)
    counts = _multiplicity("analyse", dilations, sizes)
    return Analysis(dilations, sizes, counts, _cautions("analyse", dilations, sizes, clip, window))


def cautions(dilations: Sequence[int], kernel_size: int | Sequence[int], *, clip: int | None = None,
             window: int | None = None) -> tuple[str, ...]:
    """What is doubtful about a stack, in sentences.

    Holes, and whether a common factor of the dilations makes them; dilations that reach beyond a clip; a field that the
    training window does not fill.

    Parameters
    ----------
    dilations, kernel_size
        As in `receptive_field`.
    clip : int, optional
        Samples of a typical clip.
    window : int, optional
        Samples of a training window.

    Returns
    -------
    tuple of str
        Empty if there is nothing to say.

    Raises
    ------
    ConfigError
        As `receptive_field`, or if clip or window is not a whole number of at least 1.

    Examples
    --------
    >>> cautions([2, 4, 8], 2)
    ('all dilations are multiples of 2: the stack sees only every 2nd sample, none at lag 1',)
    >>> cautions([1, 2, 4], 2, window=4)
    ('the field of 8 samples exceeds the training window of 4: the longest lags are never trained',)
    """
    return _cautions("cautions", *layers("cautions", dilations, kernel_size), clip, window)


def _cautions(where, dilations, sizes, clip, window):
    said = []
    field = _field(dilations, sizes)
    taken = [d for d, k in zip(dilations, sizes, strict=True) if k > 1]
    hole = _first_hole(dilations, sizes)
    if hole is not None:
        factor = math.gcd(*taken)
        if factor > 1:
            nth = {2: "2nd", 3: "3rd"}.get(factor, f"{factor}th")
            said.append(f"all dilations are multiples of {factor}: the stack sees only every {nth} sample, none at "
                        "lag 1")
        else:
            jump = min(d for d in taken if d > hole)
            said.append(f"dilation {jump:,} exceeds {hole:,}, the field of all smaller ones together: lag {hole:,} is "
                        f"never seen")
    if clip is not None:
        clip = whole(where, "clip", clip)
        beyond = sorted({d for d in taken if d >= clip})
        if beyond:
            said.append(f"dilation {', '.join(f'{d:,}' for d in beyond)} exceeds what a clip of {clip:,} samples "
                        "holds: all its past taps read padding")
        elif field > clip:
            said.append(f"the field of {field:,} samples exceeds the clip of {clip:,}: the longest lags read padding")
    if window is not None:
        window = whole(where, "window", window)
        if field > window:
            said.append(f"the field of {field:,} samples exceeds the training window of {window:,}: the longest lags "
                        "are never trained")
    return tuple(said)
