"""Plain NumPy: one matrix product per tap and group."""

import numpy as np


def _taps(w, groups):
    """Each tap and group: (k, slice of input channels, slice of output channels)."""
    kernel, c, n = w.shape[0], w.shape[1], w.shape[2] // groups
    for k in range(kernel):
        for g in range(groups):
            yield k, slice(g * c, (g + 1) * c), slice(g * n, (g + 1) * n)


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y =."""
    padded = np.pad(x, ((0, 0), padding, (0, 0)))
    rows = y.shape[1]
    y[...] = 0 if b is None else b
    for k, channels, outputs in _taps(w, groups):
        y[:, :, outputs] += padded[:, k * dilation : k * dilation + rows, channels] @ w[k, :, outputs]


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=."""
    x, w, _, dilation, padding, groups, *_ = saved
    padded = np.pad(x, ((0, 0), padding, (0, 0)))
    d_padded = np.zeros_like(padded)
    rows = dy.shape[1]
    for k, channels, outputs in _taps(w, groups):
        seen = slice(k * dilation, k * dilation + rows)
        d_padded[:, seen, channels] += dy[:, :, outputs] @ w[k, :, outputs].T
        if grads.w is not None:
            grads.w[k, :, outputs] += np.einsum("btc,btn->cn", padded[:, seen, channels], dy[:, :, outputs])
    if grads.x is not None:
        grads.x[...] = d_padded[:, padding[0] : padding[0] + x.shape[1]]
    if grads.b is not None:
        grads.b[...] += dy.sum((0, 1))


def step(y, state, x, w, b, dilation, groups, *, workspace):
    """y =, and the state moves on."""
    history, position = state
    span = history.shape[1]
    rows = np.concatenate([np.roll(history, -position[0], axis=1), x], axis=1)
    forward(y, rows, w, b, dilation, (0, 0), groups, workspace=workspace, threads=None)
    if span:
        position[0] = (position[0] + x.shape[1]) % span
        history[...] = np.roll(rows[:, -span:], position[0], axis=1)
