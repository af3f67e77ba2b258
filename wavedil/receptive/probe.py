"""The receptive field of anything that can be called, found from outside."""

from typing import NamedTuple

import numpy as np

from wavedil.checks import one_of, whole
from wavedil.errors import ConfigError, DataError, ShapeError


class Measured(NamedTuple):
    """What `measure` found. Lag l: the output at time t depends on the input at time t - l; negative: on the future."""

    lags: np.ndarray  # ascending, int64

    @property
    def receptive_field(self) -> int:
        """Samples from the earliest that is seen to the latest, both counted."""
        return int(self.lags[-1] - self.lags[0]) + 1

    @property
    def holes(self) -> np.ndarray:
        """Lags between the first and the last that are not seen."""
        return np.setdiff1d(np.arange(self.lags[0], self.lags[-1] + 1), self.lags)

    @property
    def causal(self) -> bool:
        """Whether no future is seen."""
        return bool(self.lags[0] >= 0)


def measure(fn, x, *, by="perturbation", at: int | None = None) -> Measured:
    """Find which lags a function of a sequence depends on, by calling it.

    By perturbation: ``fn`` maps inputs to outputs. Row ``at`` of ``x`` is changed; each output row ``t`` that is no
    longer the same, to the bit, sees lag ``t - at``. By gradient: ``fn`` maps a gradient of the outputs to one of the
    inputs, as the backward pass does. It is called with ``x``, all rows zero but ``at``; each row ``s`` of the result
    that is not zero is seen at lag ``at - s``. What is found holds for this ``x``: a ReLU that is off, or a weight of
    zero, hides a lag, so use random values, several channels, and float64.

    Parameters
    ----------
    fn : callable
        Takes an array like ``x`` and returns one with as many rows; it must give the same for the same.
    x : (T,), (B, T) or (B, T, C) array of floats, or of integer codes
        Long enough: the response must end before the sequence does. Time is the first axis of (T,), else the second. Of
        floats, one is added to the row; codes become the largest of all codes in ``x``, or the smallest if they are
        that.
    by : {"perturbation", "gradient"}
    at : int, optional
        The row. The default, the middle, finds past and future. Row 0 leaves most room for the past alone, in
        perturbation; the last row does in a gradient.

    Returns
    -------
    Measured

    Raises
    ------
    ShapeError
        If ``x`` has no time axis, or ``fn`` returns another number of rows.
    ConfigError
        If ``by`` is unknown or ``at`` is no row.
    DataError
        If ``fn`` returns what is not finite or depends on nothing, if the response reaches an end of the sequence, or
        if ``x`` holds only one code.

    Examples
    --------
    >>> def echo(x):  # y[t] = x[t] + x[t - 3]
    ...     return x + np.pad(x, (3, 0))[: len(x)]
    >>> found = measure(echo, np.zeros(20))
    >>> found.lags, found.receptive_field, found.holes
    (array([0, 3]), 4, array([1, 2]))
    """
    where = "measure"
    x = np.asarray(x)
    if not 1 <= x.ndim <= 3 or not x.size:
        raise ShapeError(f"{where}: x must be (T,), (B, T) or (B, T, C), none of them 0, got {x.shape}")
    one_of(where, "by", by, ("perturbation", "gradient"))
    axis = min(x.ndim - 1, 1)
    rows = x.shape[axis]
    at = rows // 2 if at is None else whole(where, "at", at, 0)
    if at >= rows:
        raise ConfigError(f"{where}: at must be one of the {rows} rows of x, got {at}")
    row = (slice(None),) * axis + (at,)
    if by == "gradient":
        single = np.zeros_like(x)
        single[row] = x[row]
        moved = _rows(where, fn(single), rows) != 0
    else:
        before, after = (_rows(where, fn(one), rows) for one in (x.copy(), _changed(where, x, row)))
        moved = before != after
    moved = np.flatnonzero(moved.any(axis=tuple(i for i in range(moved.ndim) if i != min(moved.ndim - 1, 1))))
    if not len(moved):
        raise DataError(f"{where}: fn must depend on row {at} of x, but nothing of what it returned did")
    for end, touched in ((0, moved[0] == 0 < at), (rows - 1, moved[-1] == rows - 1 > at)):
        if touched and by == "perturbation" and (_rows(where, fn(x.copy()), rows) != before).any():
            raise DataError(f"{where}: fn must give the same for the same x, got another result in another call")
        if touched:
            raise DataError(f"{where}: x must be long enough for the response to row {at} to end inside it, got {rows} "
                            f"rows and a response in row {end}")
    return Measured(moved - at if by == "perturbation" else (at - moved)[::-1])


def _rows(where, y, rows):
    """What the callable returned, checked; a copy, as it may be an array that the next call fills anew."""
    y = np.array(y)
    if not 1 <= y.ndim or y.shape[min(y.ndim - 1, 1)] != rows:
        raise ShapeError(f"{where}: fn must return as many rows as x has, {rows}, got shape {y.shape}")
    if not np.isfinite(y).all():
        raise DataError(f"{where}: fn must return finite numbers, got NaN or infinity")
    return y


def _changed(where, x, row):
    x = x.copy()
    if x.dtype.kind in "iu":
        low, high = x.min(), x.max()
        if low == high:
            raise DataError(f"{where}: x must hold two different codes or more, got only {low}")
        x[row] = np.where(x[row] == high, low, high)
    else:
        x[row] += 1
    return x
