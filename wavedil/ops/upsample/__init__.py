"""Upsampling over time: more rows out than in, by a whole factor.

==========  =========================================================================================
nearest     ``y[t factor + p] = x[t]`` for 0 <= p < factor
transposed  ``y[u, n] = b[n] + sum over t, c of x[t, c] w[u - t factor, c, n]``, where ``w`` of ``K``
            taps is zero outside of [0, K)
==========  =========================================================================================

Both give ``T factor`` rows, of which row u knows the rows of x up to u / factor: what a transposed convolution has
beyond the end is left out, so that it is causal. WaveNet brings local conditions to the rate of the samples this way
(arXiv:1609.03499, section 2.5).

The rows of a transposed convolution that are ``factor`` apart form an ordinary causal convolution of
``ceil(K / factor)`` taps; with all phases side by side as ``factor N`` channels it is one, and `conv1d` does the work.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError
from wavedil.ops import contract

KINDS = ("nearest", "transposed")


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, C)
    w: np.ndarray | None  # (K, C, N)
    bias: bool  # whether forward had one
    factor: int
    kind: str


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    w: np.ndarray | None
    b: np.ndarray | None


def forward(x, w=None, b=None, *, kind, factor, out=None, workspace=None, backend=None, threads=None):
    """Give each row ``factor`` rows.

    ``y[u] = x[u // factor]`` or ``y[u] = b + sum_t x[t] w[u - t factor]``

    Parameters
    ----------
    x : (B, T, C) array of floats
    w : (K, C, N) array
        Of ``transposed``; None for ``nearest``.
    b : (N,) array, optional
        Of ``transposed``.
    kind : {"nearest", "transposed"}
    factor : int
        Rows out for each row in.
    out : (B, T factor, N) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns ``y`` until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : (B, T factor, N) array
        With ``N = C`` for ``nearest``.
    saved : Saved

    Raises
    ------
    ShapeError, DTypeError
        If shapes do not fit each other, or dtypes are mixed or not floats.
    ConfigError
        If a setting is out of range, or the kind has no use for a weight or lacks it.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import upsample
    >>> x = np.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> upsample.forward(x, kind="nearest", factor=3)[0].ravel()
    array([1., 1., 1., 2., 2., 2.])
    >>> upsample.forward(x, np.array([1.0, 0.5, 0.25]).reshape(3, 1, 1), kind="transposed", factor=2)[0].ravel()
    array([1.  , 0.5 , 2.25, 1.  ])
    """
    where = "upsample.forward"
    threads = contract.threads(where, threads)
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    factor = contract.whole(where, "factor", factor)
    x, w, b = contract.alike(x, w, b)
    if kind == "nearest":
        for name, value in (("w", w), ("b", b)):
            if value is not None:
                raise ConfigError(f"{where}: {name} must be None for nearest, got an array")
        x = contract.floats(where, "x", x, ("B", "T", "C"))
        outputs = x.shape[2]
    else:
        if w is None:
            raise ConfigError(f"{where}: w must be given for transposed, got None")
        w = contract.floats(where, "w", w, ("K", "C", "N"))
        x = contract.floats(where, "x", x, ("B", "T", w.shape[1]))
        w = contract.floats(where, "w", w, w.shape, x.dtype)
        outputs = w.shape[2]
        if b is not None:
            b = contract.floats(where, "b", b, (outputs,), x.dtype)
    kernels = contract.backend(where, backend, x, w=w, b=b)
    shape = (x.shape[0], x.shape[1] * factor, outputs)
    y = contract.output(where, "out", out, shape, x.dtype, workspace, [("x", x), ("w", w), ("b", b)])
    kernels.forward(y, x, w, b, factor, workspace=workspace, threads=threads)
    return y, Saved(x, w, b is not None, factor, kind)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, w and b, given ``dy``, the one with respect to y.

    ``dx[t] = sum over p of dy[t factor + p]``, or ``dx[t] = sum_k dy[t factor + k] w[k]^T``,
    ``dw[k] = sum_t x[t]^T dy[t factor + k]``, ``db = sum_u dy[u]``, with dy zero beyond its end.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of {"x", "w", "b"}, optional
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
    where = "upsample.backward"
    threads = contract.threads(where, threads)
    x, w = saved.x, saved.w
    outputs = x.shape[2] if w is None else w.shape[2]
    dy = contract.floats(where, "dy", dy, (x.shape[0], x.shape[1] * saved.factor, outputs), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": saved.x})
    shapes = {"x": x.shape, "w": None if w is None else w.shape, "b": (outputs,) if saved.bias else None}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()
