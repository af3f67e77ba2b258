"""Plain NumPy: repeated rows, or one product a tap."""

import numpy as np


def _taps(w, rows, factor):
    """Each tap with a place in y: (k, rows of x that reach y by it, rows of y)."""
    for k in range(w.shape[0]):
        count = len(range(k, rows * factor, factor))
        if count:
            yield k, slice(0, count), slice(k, None, factor)


def forward(y, x, w, b, factor, *, workspace, threads):
    """y =."""
    if w is None:
        y[...] = np.repeat(x, factor, axis=1)
        return
    y[...] = 0 if b is None else b
    for k, rows, places in _taps(w, x.shape[1], factor):
        y[:, places] += x[:, rows] @ w[k]


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=."""
    x, w, _, factor, _ = saved
    if w is None:
        if grads.x is not None:
            grads.x[...] = dy.reshape(*x.shape[:2], factor, -1).sum(2)
        return
    dx = np.zeros_like(x)
    for k, rows, places in _taps(w, x.shape[1], factor):
        dx[:, rows] += dy[:, places] @ w[k].T
        if grads.w is not None:
            grads.w[k] += np.einsum("btc,btn->cn", x[:, rows], dy[:, places])
    if grads.x is not None:
        grads.x[...] = dx
    if grads.b is not None:
        grads.b[...] += dy.sum((0, 1))
