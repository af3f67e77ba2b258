"""Pooling over windows of time, or of an image: the average or the largest of what lies in each.

For output row ``i`` (and column ``j`` of an image), a window of ``n`` rows and a stride ``s``, with ``p`` rows of
padding before the first::

    R[i] = the rows r of x with  i s - p <= r < i s - p + n,  and none outside of x
    average    y[i] = sum over R[i] of x[r] / |R[i]|
    max        y[i] = max over R[i] of x[r]

Padding makes windows that reach beyond the edge, and never counts. Without a window the whole extent is pooled, which
is global pooling, ``(B, C)``; `pooling` does that with a weight for each row. `forward`, `backward`, `init_state` and
`step` (for causal windows of time) are the whole family. Unlike dilation, a stride leaves out positions.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract

KINDS = ("average", "max")


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed. A sequence is an image of one column."""

    x: np.ndarray  # (B, H, W, C) or (B, T, C)
    places: np.ndarray | None  # (B, H', W', C) int64: which pixel, row W + column, is the largest; None for an average
    windows: "Windows"


class Grads(NamedTuple):
    """The gradient, None where it was not needed."""

    x: np.ndarray | None


class Windows(NamedTuple):
    """The windows of an image; pairs are of rows and columns."""

    kind: str
    size: tuple[int, int]  # of the image
    window: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]  # padding above and on the left
    count: tuple[int, int]  # windows
    whole: bool  # global pooling


class State(NamedTuple):
    """The past of streams, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, window - 1, C), the latest rows, the newest last
    time: np.ndarray  # (1,) int64: rows seen


def forward(x, *, kind, window=None, stride=None, padding="valid", out=None, workspace=None, backend=None,
            threads=None):  # fmt: skip
    """Pool each window.

    ``y[i] = average or max of x[i stride - before : i stride - before + window]``; see the family's page.

    Parameters
    ----------
    x : (B, T, C) or (B, H, W, C) array of floats
    kind : {"average", "max"}
        The largest of windows with a NaN is NaN. Of equal ones the first is the largest: it gets the gradient.
    window : int, (int, int) or None
        Rows, or rows and columns (one number is for both). None: all.
    stride : int or (int, int), optional
        From one window to the next; by default the window, so that windows lie side by side.
    padding : {"valid", "same", "causal"}, (before, after) or ((above, below), (left, right))
        How far windows reach beyond the edges. "valid": not at all. "same": by half of window - 1 on each side, the
        odd one at the end. "causal": by window - 1 before the first row of time; columns as for "same".
    out : array of the shape of y, optional
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : (B, T', C) or (B, H', W', C) array; (B, C) without a window
        With ``T' = (T + before + after - window) // stride + 1``.
    saved : Saved

    Raises
    ------
    ShapeError
        If x is of another rank, or smaller than one window.
    DTypeError
        If x is not of floats.
    ConfigError
        If a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import window_pooling
    >>> x = np.array([1.0, 3.0, 2.0, 8.0, 5.0]).reshape(1, 5, 1)
    >>> window_pooling.forward(x, kind="max", window=2)[0].ravel()
    array([3., 8.])
    >>> window_pooling.forward(x, kind="average", window=2, stride=1, padding="causal")[0].ravel()
    array([1. , 2. , 2.5, 5. , 6.5])
    >>> window_pooling.forward(x, kind="max")[0]
    array([[8.]])
    """
    where = "window_pooling.forward"
    threads = contract.threads(where, threads)
    x = _floats(where, x)
    windows = _windows(where, x.shape, kind, window, stride, padding)
    kernels = contract.backend(where, backend, x)
    y = contract.output(where, "out", out, _shape(x, windows), x.dtype, workspace, [("x", x)])
    places = None
    if kind == "max":
        shape = (x.shape[0], *windows.count, x.shape[-1])
        places = contract.empty(workspace, f"{where}.places", shape, np.int64, x)
    kernels.forward(y, places, x, windows, workspace=workspace, threads=threads)
    return y, Saved(x, places, windows)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """The gradient of a loss with respect to x, given ``dy``, the one with respect to y.

    ``dx[r] = sum over the windows i that hold r of dy[i] / |R[i]|``, or of ``dy[i]`` where x[r] is the largest.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        An array to add to (``+=``); without it the gradient is ``=`` in an array to fill.
    needs : sequence of {"x"}, optional
    workspace, backend, threads
        As in `forward`.

    Returns
    -------
    Grads
        ``into`` itself, if given.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If ``dy``, ``into`` or ``needs`` does not fit.
    """
    where = "window_pooling.backward"
    threads = contract.threads(where, threads)
    x = saved.x
    dy = contract.floats(where, "dy", dy, _shape(x, saved.windows), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": x})
    grads = contract.Gradients(where, Grads, {"x": x.shape}, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, channels, window, dtype="float32"):
    """The state of so many streams that have had no row yet.

    Parameters
    ----------
    batch, channels, window : int
    dtype : {"float32", "float64"}

    Returns
    -------
    State
    """
    where = "window_pooling.init_state"
    batch, channels, window = (
        contract.whole(where, name, value)
        for name, value in (("batch", batch), ("channels", channels), ("window", window))
    )
    shape = (batch, window - 1, channels)
    return State(contract.zeros(shape, contract.float_type(where, dtype)), np.zeros(1, np.int64))


def step(x, state, *, kind, window, stride=None, out=None, workspace=None, backend=None):
    """Take the next rows of streams in; the windows that end in them, as `forward` with causal padding gives them.

    Windows end at the times ``0, stride, 2 stride ...``: few rows may end none.

    Parameters
    ----------
    x : (B, n, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    kind, window, stride, workspace, backend
        As in `forward`.
    out : array of the shape of y, optional

    Returns
    -------
    y : (B, windows that end, C) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "window_pooling.step"
    x = contract.floats(where, "x", x, ("B", "n", "C"))
    batch, n, channels = x.shape
    window = contract.whole(where, "window", window)
    stride = window if stride is None else contract.whole(where, "stride", stride)
    _kind(where, kind)
    contract.same_batch(where, x, state.history)
    contract.target(where, "state.history", state.history, (batch, window - 1, channels), x.dtype)
    contract.target(where, "state.time", state.time, (1,), np.int64)
    kernels = contract.backend(where, backend, x)
    time = int(state.time[0])
    ends = len(range(-time % stride, n, stride))
    y = contract.output(where, "out", out, (batch, ends, channels), x.dtype, workspace, [("x", x)])
    kernels.step(y, state, x, kind, window, stride, workspace=workspace)
    return y


def joined(state, x, kind, window, stride):
    """The rows that windows ending in x see, and these windows; the state takes x in."""
    time, n = int(state.time[0]), x.shape[1]
    known = min(time, window - 1)
    rows = np.concatenate([state.history[:, window - 1 - known :], x], axis=1)  # of the times from time - known on
    first = -time % stride  # row of x where the first window ends
    windows = Windows(
        kind, (rows.shape[1], 1), (window, 1), (stride, 1), (window - 1 - known - first, 0),
        (len(range(first, n, stride)), 1), False,
    )  # fmt: skip
    kept = rows[:, rows.shape[1] - min(window - 1, rows.shape[1]) :]
    state.history[:, window - 1 - kept.shape[1] :] = kept
    state.time[0] = time + n
    return rows, windows


def images(windows, x, y):
    """x as (B, H, W, C) and y as (B, H', W', C)."""
    batch, channels = x.shape[0], x.shape[-1]
    return x.reshape(batch, *windows.size, channels), y.reshape(batch, *windows.count, channels)


def span(windows, axis, i):
    """(first row, last row + 1) of window i, within the image; rows are columns for axis 1."""
    begin = i * windows.stride[axis] - windows.before[axis]
    return max(begin, 0), min(begin + windows.window[axis], windows.size[axis])


def _shape(x, windows):
    if windows.whole:
        return x.shape[0], x.shape[-1]
    return x.shape[0], *windows.count[: x.ndim - 2], x.shape[-1]


def _floats(where, x):
    rank = getattr(x, "ndim", None) or np.ndim(x)
    return contract.floats(where, "x", x, ("B", "H", "W", "C") if rank == 4 else ("B", "T", "C"))


def _kind(where, kind):
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")


def _windows(where, shape, kind, window, stride, padding):
    _kind(where, kind)
    axes = len(shape) - 2
    size = tuple(shape[1:-1]) + (1,) * (2 - axes)
    if window is None:
        if stride is not None or padding != "valid":
            raise ConfigError(
                f"{where}: stride and padding must be left out without a window, got {stride} and {padding!r}"
            )
        return Windows(kind, size, size, size, (0, 0), (1, 1), True)
    one = (1,) * (2 - axes)  # a sequence has one column
    window = contract.per_axis(where, "window", window, axes) + one
    stride = window if stride is None else contract.per_axis(where, "stride", stride, axes) + one
    pads = contract.padding(where, padding, [w - 1 for w in window[:axes]]) + ((0, 0),) * (2 - axes)
    for pair, w in zip(pads, window, strict=True):
        if max(pair) >= w:  # a window of nothing but padding
            raise ConfigError(f"{where}: padding must be below the window of {w}, got {pair}")
    count = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in zip(size, pads, window, stride, strict=True))
    if min(count) < 1:
        least = tuple(w - sum(p) for w, p in zip(window, pads, strict=True))[:axes]
        raise ShapeError(f"{where}: x must have at least {least} rows and columns for these windows, got {size[:axes]}")
    return Windows(kind, size, window, stride, tuple(p[0] for p in pads), count, False)
