"""One dimension: receptive field, multiplicity of lags, holes of a stack. Exact, in integers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wavedil.checks import whole
from wavedil.errors import ConfigError

FIELD = 1 << 31  # rows that a model may reach back over
LAGS = 1 << 22  # what is counted lag by lag ends here: 4 minutes at 16 kHz


# ---- checks ----------------------------------------------------------------------------------------------------------
def check_dilations(dilations, kernel_size, where: str = "check_dilations") -> tuple[int, ...]:
    """The dilations as a tuple of ints; ``where`` names in errors whose dilations they are.

    Raises
    ------
    ConfigError
        If there is none, one of them or the kernel size is not an integer of at least 1, or a model of them would reach
        back over more than 2^31 rows.
    """
    result = _checked(where, dilations, kernel_size)
    reach = max(1 + (int(kernel_size) - 1) * sum(result), *result)
    if reach > FIELD:
        raise ConfigError(
            f"{where}: dilations must reach back over at most {FIELD} rows, got {reach} with a kernel size of "
            f"{kernel_size}"
        )
    return result


def _checked(where, dilations, kernel_size):
    whole(where, "kernel_size", kernel_size)
    return tuple(whole(where, "each of dilations", d) for d in as_list(where, dilations))


def layers(where, dilations, kernel_size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Dilations and kernel sizes, one of each a layer; ``kernel_size`` is one for all or a sequence."""
    if isinstance(kernel_size, str) or not np.iterable(kernel_size):
        dilations = _checked(where, dilations, kernel_size)
        return dilations, (int(kernel_size),) * len(dilations)
    dilations = _checked(where, dilations, 1)
    sizes = tuple(whole(where, "kernel_size", size) for size in kernel_size)
    if len(sizes) != len(dilations):
        raise ConfigError(f"{where}: kernel_size must be one number or one for each of the {len(dilations)} dilations, "
                          f"got {len(sizes)}")
    return dilations, sizes


def as_list(where, dilations) -> tuple:
    """The dilations as a tuple of at least one entry, whatever the entries are."""
    try:
        result = tuple(dilations)
    except TypeError:
        raise ConfigError(f"{where}: dilations must be a list of integers, got {dilations!r}") from None
    if not result:
        raise ConfigError(f"{where}: dilations must name at least one block, got an empty list")
    return result


# ---- one property at a time ------------------------------------------------------------------------------------------
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
        If a dilation or a kernel size is not an integer of at least 1, or their counts differ.

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
    return field_of(dilations, sizes)


def field_of(dilations, sizes):
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
    return multiplicity_of("multiplicity", *layers("multiplicity", dilations, kernel_size))


def multiplicity_of(where, dilations, sizes):
    field = field_of(dilations, sizes)
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
    return np.flatnonzero(multiplicity_of("holes", *layers("holes", dilations, kernel_size)) == 0)


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
    return _gridding(multiplicity_of("gridding", *layers("gridding", dilations, kernel_size)))


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
    return _evenness(multiplicity_of("evenness", *layers("evenness", dilations, kernel_size)))


def _evenness(counts):
    counts = (counts / counts.max()).astype(np.float64)  # first, as huge counts are beyond a float
    return float(counts.sum() ** 2 / (len(counts) * (counts**2).sum()))


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
    counts = multiplicity_of("analyse", dilations, sizes)
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
        As `receptive_field`, or if clip or window is not an integer of at least 1.

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
    field = field_of(dilations, sizes)
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
