"""Norms: numbers are moved to a mean of 0 and scaled to a deviation of 1, over rows or over channels.

======  =============================================================  =====================================
batch   y = (x - mean[c]) / sqrt(var[c] + eps) scale[c] + shift[c]     over all rows; arXiv:1502.03167
layer   y = (x - mean[r]) / sqrt(var[r] + eps) scale[c] + shift[c]     over a row's channels; arXiv:1607.06450
group   the same with mean[i, g] and var[i, g]                         over a group of an item; arXiv:1803.08494
rms     y = x / sqrt(mean[r] of x^2 + eps) scale[c]                    over a row's channels; arXiv:1910.07467
weight  y = x / sqrt(sum over all rows of x^2) scale[c]                of a weight; arXiv:1602.07868
======  =============================================================  =====================================

A row is everything but the last axis, ``c`` a channel; ``g`` is one of ``groups`` groups of neighbouring channels, and
``i`` an item, the first axis. Variances are those of the whole (divided by n). Batch norm
learns with the statistics of its batch and keeps a running mean of them in a `Statistics`, which it uses when it does
not learn (``training=False``). The weight norm takes a weight's direction ``x``, such as ``(K, C, N)``, and the lengths
``scale (N,)`` of its output channels.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract

KINDS = ("batch", "layer", "group", "rms", "weight")
CENTRED = ("batch", "layer", "group")  # with a mean, and so with a shift
BY_CHANNEL = ("batch", "weight")  # layer and rms norms go row by row


class Statistics(NamedTuple):
    """Running statistics of a batch norm, owned by the caller and changed in place by a forward that trains."""

    mean: np.ndarray  # (C,) float64
    var: np.ndarray  # (C,) float64, of a sample: divided by n - 1
    count: np.ndarray  # (1,) int64: batches seen


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (..., C)
    scale: np.ndarray | None  # (C,)
    mean: np.ndarray | None  # (C,), or one for each row, or (groups, B); None for rms and weight
    inverse: np.ndarray  # 1 / deviation, or 1 / length: of the shape of mean
    shift: bool  # whether forward had one
    kind: str
    fixed: bool  # whether mean and inverse came from running statistics


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    scale: np.ndarray | None
    shift: np.ndarray | None


def init_statistics(channels):
    """Statistics that no batch has entered yet: mean 0 and variance 1.

    Parameters
    ----------
    channels : int

    Returns
    -------
    Statistics
    """
    channels = contract.whole("norm.init_statistics", "channels", channels)
    return Statistics(np.zeros(channels), np.ones(channels), np.zeros(1, np.int64))


def forward(
    x, scale=None, shift=None, *, kind, groups=1, eps=None, statistics=None, momentum=0.1, training=True,
    out=None, workspace=None, backend=None, threads=None,
):  # fmt: skip
    """Normalize.

    ``y = (x - mean) / deviation scale + shift``, with the kinds of the family's page.

    Parameters
    ----------
    x : (..., C) array of floats
        Of any rank from 2 up.
    scale : (C,) array, optional
        1 if not given.
    shift : (C,) array, optional
        Only of batch, layer and group norms; 0 if not given.
    kind : {"batch", "layer", "group", "rms", "weight"}
        A group norm looks at all rows of an item, later ones too. It costs two more copies of ``x`` in each direction.
        Of a weight norm, a channel of zeros has no direction and comes out as NaN.
    groups : int
        Of a group norm; they divide the channels.
    eps : float, optional
        Added to the variance: 1e-5 by default. A weight norm has none.
    statistics : Statistics, optional
        Of a batch norm. If it is training they are updated: ``mean += momentum (mean of the batch - mean)``, and
        the variance likewise. If it is not they are used.
    momentum : float in (0, 1]
    training : bool
        Whether a batch norm uses its batch's statistics, and not the running ones.
    out : array of the shape of x, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns ``y`` and the saved arrays until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : array of the shape of x
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit, or a batch norm is to learn from a single row.
    DTypeError
        If dtypes are mixed or not floats.
    ConfigError
        If the kind is unknown or has no such setting, or a batch norm that does not train has no statistics yet.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import norm
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, saved = norm.forward(x, kind="batch", statistics=(s := norm.init_statistics(2)), eps=0.0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> s.mean, s.var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    """
    where = "norm.forward"
    threads = contract.threads(where, threads)
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    x, scale, shift = contract.alike(x, scale, shift)
    x = contract.floats(where, "x", x, None)
    if len(x.shape) < 2 or 0 in x.shape:
        raise ShapeError(f"{where}: x must be (..., C) with at least one row and channel, got {x.shape}")
    channels = x.shape[-1]
    if scale is not None:
        scale = contract.floats(where, "scale", scale, (channels,), x.dtype)
    if shift is not None:
        if kind not in CENTRED:
            raise ConfigError(f"{where}: shift must be None for {kind}, got an array")
        shift = contract.floats(where, "shift", shift, (channels,), x.dtype)
    groups = contract.whole(where, "groups", groups)
    if groups > 1 and kind != "group":
        raise ConfigError(f"{where}: groups must be 1 for {kind}, got {groups}")
    if channels % groups:
        raise ShapeError(f"{where}: x must have channels divisible by groups = {groups}, got {x.shape}")
    if eps is not None and kind == "weight":
        raise ConfigError(f"{where}: eps must be None for weight, got {eps!r}")
    default = 0.0 if kind == "weight" else 1e-5
    eps = checks.number(where, "eps", default if eps is None else eps, "a number of at least 0", lambda e: e >= 0)
    momentum = checks.number(where, "momentum", momentum, "a number in (0, 1]", lambda m: 0 < m <= 1)
    fixed = _check_statistics(where, kind, statistics, training, x)
    kernels = contract.backend(where, backend, x, scale=scale, shift=shift)
    y = contract.output(where, "out", out, x.shape, x.dtype, workspace, [("x", x), ("scale", scale), ("shift", shift)])
    places = (groups, len(x)) if kind == "group" else (channels,) if kind in BY_CHANNEL else x.shape[:-1]
    mean = contract.empty(workspace, f"{where}.mean", places, x.dtype, x) if kind in CENTRED else None
    inverse = contract.empty(workspace, f"{where}.inverse", places, x.dtype, x)
    if fixed:
        mean[...] = statistics.mean
        inverse[...] = 1 / np.sqrt(statistics.var + eps)
    var = contract.empty(workspace, f"{where}.var", (channels,), np.float64, x) if kind == "batch" else None
    kernels.forward(y, mean, inverse, var, x, scale, shift, kind, eps, fixed, workspace=workspace, threads=threads)
    if kind == "batch" and statistics is not None and not fixed:
        rows = x.size // channels
        mean_of_batch, var_of_batch = contract.on_host(mean), contract.on_host(var)
        for running, new in ((statistics.mean, mean_of_batch), (statistics.var, var_of_batch * (rows / (rows - 1)))):
            running += momentum * (new - running)
        statistics.count[0] += 1
    return y, Saved(x, scale, mean, inverse, shift is not None, kind, fixed)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, scale and shift, given ``dy``, the one with respect to y.

    With ``n = (x - mean) / deviation``, ``g = dy scale`` and means over what the norm goes over:
    ``dx = (g - mean(g) - n mean(g n)) / deviation``, where rms and weight norms lack ``mean(g)``, a weight norm has a
    sum in place of the other mean, and with running statistics ``dx = g / deviation``;
    ``dscale = sum of dy n``, ``dshift = sum of dy``.

    Parameters
    ----------
    dy : array of the shape of x
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of {"x", "scale", "shift"}, optional
        What to compute; the default is all there is (of ``into``, if given).
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
    where = "norm.backward"
    threads = contract.threads(where, threads)
    x, scale = saved.x, saved.scale
    dy = contract.floats(where, "dy", dy, x.shape, x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": saved.x})
    channels = x.shape[-1:]
    shapes = {"x": x.shape, "scale": None if scale is None else channels, "shift": channels if saved.shift else None}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def _check_statistics(where, kind, statistics, training, x):
    """Whether the running statistics are to be used."""
    if kind != "batch":
        if statistics is not None:
            raise ConfigError(f"{where}: statistics must be None for {kind}, got a {type(statistics).__name__}")
        return False
    if statistics is not None:
        if not isinstance(statistics, Statistics):
            raise ConfigError(f"{where}: statistics must be a norm.Statistics, got {type(statistics).__name__}")
        for name, array in (("mean", statistics.mean), ("var", statistics.var)):
            contract.target(where, f"statistics.{name}", array, x.shape[-1:], np.float64)
        contract.target(where, "statistics.count", statistics.count, (1,), np.int64)
    if training:
        if x.size == x.shape[-1]:
            raise ShapeError(f"{where}: x must have at least 2 rows for a batch norm to learn from, got {x.shape}")
        return False
    if statistics is None or statistics.count[0] < 1:
        got = "None" if statistics is None else "those of no batch"
        raise ConfigError(f"{where}: statistics must have seen a batch before training=False, got {got}")
    return True
