"""Plain NumPy: one window after the other."""

import itertools

import numpy as np

from wavedil.ops.window_pooling import images, joined, span


def _each(windows):
    """((i, j), rows, columns) of each window."""
    for i, j in itertools.product(*map(range, windows.count)):
        yield (i, j), slice(*span(windows, 0, i)), slice(*span(windows, 1, j))


def forward(y, places, x, windows, *, workspace, threads):
    """y =, places ="""
    x, y = images(windows, x, y)
    for (i, j), rows, columns in _each(windows):
        part = x[:, rows, columns]
        flat = part.reshape(len(x), -1, x.shape[3])
        if windows.kind == "average":
            y[:, i, j] = flat.mean(axis=1)
        else:
            best = flat.argmax(axis=1)  # the first of equal ones, and NaN before all
            y[:, i, j] = np.take_along_axis(flat, best[:, None], axis=1)[:, 0]
            row, column = np.divmod(best, part.shape[2])
            places[:, i, j] = (rows.start + row) * windows.size[1] + columns.start + column


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    _, places, windows = saved
    if grads.x is None:
        return
    dx, dy = images(windows, grads.x, dy)
    dx[...] = 0
    items, channels = np.ogrid[: len(dx), : dx.shape[3]]
    for (i, j), rows, columns in _each(windows):
        if windows.kind == "average":
            part = dx[:, rows, columns]
            part += dy[:, i, j, None, None] / (part.shape[1] * part.shape[2])
        else:
            row, column = np.divmod(places[:, i, j], windows.size[1])
            dx[items, row, column, channels] += dy[:, i, j]


def step(y, state, x, kind, window, stride, *, workspace):
    """y =, and the state moves on."""
    rows, windows = joined(state, x, kind, window, stride)
    forward(y, np.empty(y.shape[:2] + (1,) + y.shape[2:], np.int64), rows, windows, workspace=None, threads=1)
