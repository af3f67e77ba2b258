"""Two dimensions: how often a stack of 2D convolutions sees each offset, and the hybrid rule, a heuristic."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wavedil.checks import whole
from wavedil.errors import ConfigError
from wavedil.receptive.stacks import LAGS, as_list, field_of, layers, multiplicity_of


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
    pairs = [_pair(where, "dilations", d) for d in as_list(where, dilations)]
    taps = _pair(where, "kernel_size", kernel_size)
    axes = [layers(where, [pair[axis] for pair in pairs], taps[axis]) for axis in (0, 1)]
    fields = [field_of(*axis) for axis in axes]
    if math.prod(fields) > LAGS:
        raise ConfigError(f"{where}: rows times columns must be at most {LAGS:,} to be counted one by one, got "
                          f"{fields[0]:,} x {fields[1]:,}")
    rows, columns = (multiplicity_of(where, *axis) for axis in axes)
    if int(rows.max()) * int(columns.max()) >= 2**63:
        rows, columns = rows.astype(object), columns.astype(object)
    return np.multiply.outer(rows, columns)


def _pair(where, name, value):
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ConfigError(f"{where}: {name} must be one number or (rows, columns), got {value!r}")
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
        If there are fewer than two dilations, or they or the kernel size are not integers of at least 1.

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
