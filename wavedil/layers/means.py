"""Means over time (or over images) that layers share: of the whole, or of all rows so far."""

import numpy as np


def mean_of_all(x):
    """(B, 1, C)"""
    return x.mean(tuple(range(1, x.ndim - 1)), dtype=np.float64).astype(x.dtype)[:, None]


def running_mean(x, total, count):
    """(B, T, C), the mean of all rows so far; the total moves on. Sums are in float64, one row after the other."""
    rows = x.astype(np.float64) if x.ndim == 3 else x.mean(2, dtype=np.float64)
    sums = np.cumsum(np.concatenate([total[:, None], rows], axis=1), axis=1)[:, 1:]
    total[...] = sums[:, -1]
    return (sums / np.arange(count + 1, count + 1 + rows.shape[1])[:, None]).astype(x.dtype)


def mean_gradient(d_mean, x, causal):
    """The gradient of x, given that of its mean or running mean."""
    time = x.shape[1]
    if causal:  # row s is part of the means of all rows from s on
        shares = d_mean.astype(np.float64) / np.arange(1, time + 1)[:, None]
        d_rows = np.cumsum(shares[:, ::-1], axis=1)[:, ::-1]
    else:
        d_rows = d_mean.astype(np.float64) / time
    if x.ndim == 4:
        d_rows = d_rows[:, :, None] / x.shape[2]
    return d_rows.astype(x.dtype)
