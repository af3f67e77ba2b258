"""Pooling over time: one vector for a whole clip.

With a weight ``m[t]`` of each row (0 leaves it out), the share ``a[t]`` of each row in the result, by ``kind``, is::

    average, statistics    a[t] = m[t] / sum of m
    attentive              a[t] = m[t] exp(e[t]) / sum of m exp(e),     e[t] = v . tanh(x[t] w + b)

and the result is the mean, or the mean and the standard deviation side by side::

    mean = sum_t a[t] x[t]                                              average
    std  = sqrt(sum_t a[t] (x[t] - mean)^2 + 1e-5)                      statistics, attentive: [mean | std]

Attentive statistics pooling is that of Okabe et al. [1]_, section 3, whose scores have one more term, the same for all
rows: the softmax does not see it, so there is none here. The small constant under the root keeps the gradient finite
where a channel does not move. `forward`, `backward`, `init_state` and `step` are the whole family; `step` gives the
result for all rows of a stream so far.

.. [1] Okabe, Koshinaka and Shinoda, "Attentive Statistics Pooling for Deep Speaker Embedding", arXiv:1803.10963.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError
from wavedil.ops import contract

KINDS = ("average", "statistics", "attentive")
EPSILON = 1e-5  # under the root of the standard deviation


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, C)
    w: np.ndarray | None  # (C, H)
    b: np.ndarray | None  # (H,)
    v: np.ndarray | None  # (H,)
    kind: str
    shares: np.ndarray  # (B, T), a sum of 1 in each item
    mean: np.ndarray | None  # (B, C); None for an average
    variance: np.ndarray | None  # (B, C)


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    w: np.ndarray | None
    b: np.ndarray | None
    v: np.ndarray | None


class State(NamedTuple):
    """The moments of all rows of a stream so far, in float64; owned by the caller and changed in place by `step`.

    Device arrays if the streams' rows are.
    """

    total: np.ndarray  # (B,), the sum of m exp(e - top); of m without attention
    top: np.ndarray  # (B,), the largest score
    mean: np.ndarray  # (B, C)
    variance: np.ndarray  # (B, C)


def width(channels, kind):
    """Numbers that a pooled clip has: the channels, or twice as many where there is a deviation."""
    return channels if _kind("pooling.width", kind) == "average" else 2 * channels


def forward(x, w=None, b=None, v=None, *, kind="average", sample_weight=None, out=None, workspace=None, backend=None,
            threads=None):  # fmt: skip
    """Pool the rows of each item into one vector.

    ``y = sum_t a[t] x[t]``, with ``sqrt(sum_t a[t] (x[t] - mean)^2 + 1e-5)`` beside it; see the family's page.

    Parameters
    ----------
    x : (B, T, C) array of floats
    w : (C, H) array, b : (H,) array, v : (H,) array
        The hidden layer of the attention, its bias, and the scores' weights; for ``kind="attentive"``.
    kind : {"average", "statistics", "attentive"}
    sample_weight : (B, T) array of numbers or booleans, optional
        How much each row counts: at least 0, with a positive sum in each item. Rows of weight 0 are not looked at, so
        a padded clip gives what it gives alone. The default weighs all rows the same.
    out : (B, C) or (B, 2 C) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : (B, C) array for an average, else (B, 2 C): means, then deviations
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit, or sample_weight is negative, not finite or all zero in an item.
    DTypeError
        If dtypes are mixed or of the wrong kind.
    ConfigError
        If the kind is unknown, or the attention's arrays are missing, or given to another kind.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import pooling
    >>> x = np.array([1.0, 3.0, 100.0]).reshape(1, 3, 1)
    >>> y, saved = pooling.forward(x, kind="statistics", sample_weight=np.array([[1, 1, 0]]))
    >>> y.round(4)
    array([[2., 1.]])
    """
    where = "pooling.forward"
    threads = contract.threads(where, threads)
    x, w, b, v = _check(where, x, w, b, v, kind)
    kernels = contract.backend(where, backend, x, w=w, b=b, v=v)
    moments = kind != "average"
    batch, channels = x.shape[0], x.shape[2]
    rows = _weights(where, sample_weight, x, workspace)
    given = [("x", x), ("w", w), ("b", b), ("v", v)]
    y = contract.output(where, "out", out, (batch, width(channels, kind)), x.dtype, workspace, given)
    shares = contract.empty(workspace, f"{where}.shares", x.shape[:2], x.dtype, x)
    mean, variance = (
        contract.empty(workspace, f"{where}.{name}", (batch, channels), x.dtype, x) if moments else None
        for name in ("mean", "variance")
    )
    kernels.forward(y, shares, mean, variance, x, rows, w, b, v, kind, workspace=workspace, threads=threads)
    return y, Saved(x, w, b, v, kind, shares, mean, variance)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, w, b and v, given ``dy = [dmean | dstd]``, the one with respect to y.

    With ``d[t] = x[t] - mean``, ``p = dstd / std`` and, for the attention, ``h[t] = tanh(x[t] w + b)``:
    ``de[t] = a[t] sum over channels of (dmean d[t] + p (d[t]^2 - variance) / 2)``,
    ``dh[t] = de[t] v (1 - h[t]^2)``, ``dx[t] = a[t] (dmean + p d[t]) + dh[t] w^T``,
    ``dw = sum_t x[t]^T dh[t]``, ``db = sum_t dh[t]``, ``dv = sum_t de[t] h[t]``.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of {"x", "w", "b", "v"}, optional
        What to compute; the default is all there is (of ``into``, if given).
    workspace, backend, threads
        As in `forward`.

    Returns
    -------
    Grads
        ``into`` itself, if given.

    Raises
    ------
    ShapeError, DTypeError
        If ``dy`` or ``into`` does not fit.
    ConfigError
        If ``needs`` names what there is not.
    """
    where = "pooling.backward"
    threads = contract.threads(where, threads)
    x = saved.x
    dy = contract.floats(where, "dy", dy, (x.shape[0], width(x.shape[2], saved.kind)), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": saved.x})
    shapes = {name: None if (a := getattr(saved, name)) is None else a.shape for name in Grads._fields}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, channels, like=None):
    """The state of so many streams that have had no row yet.

    Parameters
    ----------
    batch, channels : int
    like : array, optional
        The state lies where this one does: for streams on a device, any array there.

    Returns
    -------
    State
    """
    where = "pooling.init_state"
    batch, channels = contract.whole(where, "batch", batch), contract.whole(where, "channels", channels)
    shapes = (batch,), (batch,), (batch, channels), (batch, channels)
    state = State(*(contract.zeros(shape, np.float64, like) for shape in shapes))
    state.top.fill(-np.inf)
    return state


def step(x, state, w=None, b=None, v=None, *, kind="average", sample_weight=None, out=None, workspace=None,
         backend=None):  # fmt: skip
    """Take the next rows of streams in; the pooled vectors of all their rows so far, as `forward` would give them.

    A stream of which no row has counted yet has means and variances of 0.

    Parameters
    ----------
    x : (B, n, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    sample_weight : (B, n) array of numbers or booleans, optional
        How much each row counts, beside all others of the stream; all zero is allowed here.
    w, b, v, kind, workspace, backend
        As in `forward`.
    out : array of the shape of y, optional

    Returns
    -------
    y : (B, C) or (B, 2 C) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "pooling.step"
    x, w, b, v = _check(where, x, w, b, v, kind)
    batch, channels = x.shape[0], x.shape[2]
    contract.same_batch(where, x, state.total)
    shapes = {name: (batch,) if name in ("total", "top") else (batch, channels) for name in State._fields}
    state = State(
        *(contract.target(where, f"state.{n}", getattr(state, n), shape, np.float64, x) for n, shape in shapes.items())
    )
    kernels = contract.backend(where, backend, x, w=w, b=b, v=v)
    rows = contract.empty(workspace, f"{where}.sample_weight", x.shape[:2], x.dtype)  # on the host
    rows.fill(1)
    if sample_weight is not None:
        rows[...], _ = contract.row_weights(where, sample_weight, rows.shape, zero=True)
    given = [("x", x), ("w", w), ("b", b), ("v", v)]
    y = contract.output(where, "out", out, (batch, width(channels, kind)), x.dtype, workspace, given)
    kernels.step(y, state, x, rows, w, b, v, kind, workspace=workspace)
    return y


def _kind(where, kind):
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    return kind


def _check(where, x, w, b, v, kind):
    attentive = _kind(where, kind) == "attentive"
    x, w, b, v = contract.alike(x, w, b, v)
    x = contract.floats(where, "x", x, ("B", "T", "C"))
    for name, array in (("w", w), ("b", b), ("v", v)):
        if (array is not None) != attentive:
            wanted, got = ("be given", "None") if attentive else ("be None", "an array")
            raise ConfigError(f"{where}: {name} must {wanted} for kind {kind!r}, got {got}")
    if attentive:
        w = contract.floats(where, "w", w, (x.shape[2], "H"), x.dtype)
        b = contract.floats(where, "b", b, (w.shape[1],), x.dtype)
        v = contract.floats(where, "v", v, (w.shape[1],), x.dtype)
    return x, w, b, v


def _weights(where, sample_weight, x, workspace):
    """The rows' weights, divided by each item's sum, where x is. A device is waited for, as they are checked."""
    shape = x.shape[:2]
    shares = contract.empty(workspace, f"{where}.sample_weight", shape, x.dtype)
    if sample_weight is None:
        shares.fill(1 / shape[1])
    else:
        sample_weight, totals = contract.row_weights(where, sample_weight, shape, axis=1)
        np.divide(sample_weight, totals[:, None], out=shares, casting="same_kind")
    return contract.placed(workspace, f"{where}.sample_weight", shares, x)
