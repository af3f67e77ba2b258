"""Plain NumPy: a product element by element for each tap, then a matrix product."""

import numpy as np


def _seen(padded, depth, dilation, size):
    """(tap, what it sees of the padded input) of each tap."""
    for tap in np.ndindex(depth.shape[:-2]):
        places = (slice(k * d, k * d + n) for k, d, n in zip(tap, dilation, size, strict=True))
        yield tap, (slice(None), *places)


def _hidden(padded, depth, dilation, size):
    """The depthwise convolution."""
    h = np.zeros((padded.shape[0], *size, padded.shape[-1]), padded.dtype)
    for tap, places in _seen(padded, depth, dilation, size):
        h += padded[places] * depth[tap]
    return h


def forward(y, x, depth, point, b, dilation, padding, *, workspace, threads):
    """y =."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    y[...] = _hidden(padded, depth, dilation, y.shape[1:-1]) @ point
    if b is not None:
        y[...] += b


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.depth +=, grads.point +=, grads.b +=."""
    x, depth, point, _, dilation, padding = saved
    size = dy.shape[1:-1]
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    d_padded, d_hidden = np.zeros_like(padded), dy @ point.T
    for tap, places in _seen(padded, depth, dilation, size):
        d_padded[places] += d_hidden * depth[tap]
        if grads.depth is not None:
            grads.depth[tap] += (padded[places] * d_hidden).sum(tuple(range(x.ndim - 1)))
    if grads.x is not None:
        inside = (slice(before, before + n) for (before, _), n in zip(padding, x.shape[1:-1], strict=True))
        grads.x[...] = d_padded[(slice(None), *inside)]
    if grads.point is not None:
        hidden = _hidden(padded, depth, dilation, size)
        grads.point[...] += np.einsum("rc,rn->cn", *(a.reshape(-1, a.shape[-1]) for a in (hidden, dy)))
    if grads.b is not None:
        grads.b[...] += dy.sum(tuple(range(dy.ndim - 1)))


def step(y, state, x, depth, point, b, dilation, *, workspace):
    """y =, and the state moves on."""
    history, position = state
    span = history.shape[1]
    rows = np.concatenate([np.roll(history, -position[0], axis=1), x], axis=1)
    forward(y, rows, depth, point, b, dilation, ((0, 0),), workspace=workspace, threads=None)
    if span:
        position[0] = (position[0] + x.shape[1]) % span
        history[...] = np.roll(rows[:, -span:], position[0], axis=1)
