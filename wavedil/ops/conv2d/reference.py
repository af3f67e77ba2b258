"""Plain NumPy: one matrix product per tap and group."""

import numpy as np


def _taps(w, groups):
    """Each tap and group: (p, q, slice of input channels, slice of output channels)."""
    c, n = w.shape[2], w.shape[3] // groups
    for p, q in np.ndindex(w.shape[:2]):
        for g in range(groups):
            yield p, q, slice(g * c, (g + 1) * c), slice(g * n, (g + 1) * n)


def _seen(p, q, dilation, size):
    """The rows and columns of the padded image that a tap sees."""
    return tuple(slice(k * d, k * d + n) for k, d, n in zip((p, q), dilation, size, strict=True))


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y =."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    y[...] = 0 if b is None else b
    for p, q, channels, outputs in _taps(w, groups):
        rows, columns = _seen(p, q, dilation, y.shape[1:3])
        y[..., outputs] += padded[:, rows, columns, channels] @ w[p, q, :, outputs]


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=."""
    x, w, _, dilation, padding, groups, *_ = saved
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    d_padded = np.zeros_like(padded)
    for p, q, channels, outputs in _taps(w, groups):
        rows, columns = _seen(p, q, dilation, dy.shape[1:3])
        d_padded[:, rows, columns, channels] += dy[..., outputs] @ w[p, q, :, outputs].T
        if grads.w is not None:
            seen = padded[:, rows, columns, channels]
            grads.w[p, q, :, outputs] += np.einsum("bijc,bijn->cn", seen, dy[..., outputs])
    if grads.x is not None:
        (above, _), (left, _) = padding
        grads.x[...] = d_padded[:, above : above + x.shape[1], left : left + x.shape[2]]
    if grads.b is not None:
        grads.b[...] += dy.sum((0, 1, 2))


def step(y, state, x, w, b, dilation, columns, groups, *, workspace):
    """y =, and the state moves on; ``columns`` is the padding of the columns."""
    history, position = state
    span = history.shape[1]
    rows = np.concatenate([np.roll(history, -position[0], axis=1), x], axis=1)
    forward(y, rows, w, b, dilation, ((0, 0), columns), groups, workspace=workspace, threads=None)
    if span:
        position[0] = (position[0] + x.shape[1]) % span
        history[...] = np.roll(rows[:, -span:], position[0], axis=1)
