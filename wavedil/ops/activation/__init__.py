"""Activations: element by element, some with a learned number a channel, some that gate one half with the other.

With ``x`` an element, ``a`` the learned number of its channel, ``alpha`` a setting, ``s`` the logistic function, and
for the gated ones ``u`` and ``v`` the first and the last half of the channels:

==============  ==================================  =========================================================
relu            max(0, x)
leaky_relu      x > 0: x, else alpha x              alpha = 0.01; Maas et al. 2013
prelu           x > 0: x, else a x                  arXiv:1502.01852
elu             x > 0: x, else alpha (e^x - 1)      alpha = 1; arXiv:1511.07289
gelu            x Phi(x), Phi of the normal law     arXiv:1606.08415, exact: no tanh approximation
silu            x s(x)                              arXiv:1702.03118
softplus        ln(1 + e^x)
tanh            (e^x - e^-x) / (e^x + e^-x)
sigmoid         s(x)
gated_tanh      tanh(u) s(v)                        the gate of WaveNet, arXiv:1609.03499, section 2.3
glu             u s(v)                              arXiv:1612.08083
snake           x + sin(a x)^2 / a                  arXiv:2006.08195; a is not 0
==============  ==================================  =========================================================

NaN comes out as NaN. The slope of relu, leaky_relu and prelu at 0 counts as that of the left side.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract

KINDS = ("relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid", "gated_tanh", "glu",
         "snake")  # fmt: skip
LEARNED = ("prelu", "snake")  # with a number a channel
GATED = ("gated_tanh", "glu")  # half as many channels come out
ALPHA = {"leaky_relu": 0.01, "elu": 1.0}  # the default setting of the kinds that have one


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (..., C)
    a: np.ndarray | None  # (C,)
    kind: str
    alpha: float


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    a: np.ndarray | None


def forward(x, a=None, *, kind, alpha=None, out=None, workspace=None, backend=None, threads=None):
    """Apply an activation to every element.

    ``y = f(x)``, with the kinds of the family's page.

    Parameters
    ----------
    x : (..., C) array of floats
        Of any rank from 2 up.
    a : (C,) array
        The slopes of ``prelu`` or the frequencies of ``snake``; None for all others.
    kind : str
        One of `KINDS`.
    alpha : float, optional
        The setting of ``leaky_relu`` and ``elu``.
    out : (..., C) array, or (..., C / 2) of a gated kind, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns ``y`` until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : array
        Of the shape of ``x``, but for half of the channels if the kind is gated.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit, or a gated kind gets an odd number of channels.
    DTypeError
        If dtypes are mixed or not floats.
    ConfigError
        If the kind is unknown, or given an ``a`` or ``alpha`` that it has not, or lacks one.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import activation
    >>> y, saved = activation.forward(np.array([[-2.0, 3.0]]), kind="leaky_relu", alpha=0.5)
    >>> y
    array([[-1.,  3.]])
    >>> activation.backward(np.ones((1, 2)), saved).x
    array([[0.5, 1. ]])
    """
    where = "activation.forward"
    threads = contract.threads(where, threads)
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    x, a = contract.alike(x, a)
    x = contract.floats(where, "x", x, None)
    if len(x.shape) < 2 or 0 in x.shape:
        raise ShapeError(f"{where}: x must be (..., C) with at least one row and channel, got {x.shape}")
    channels = x.shape[-1]
    if kind in GATED and channels % 2:
        raise ShapeError(f"{where}: x must have an even number of channels for {kind}, got {x.shape}")
    if (a is None) == (kind in LEARNED):
        wanted = f"({channels},) array for {kind}" if kind in LEARNED else f"None for {kind}"
        raise ConfigError(f"{where}: a must be {wanted}, got {'None' if a is None else 'an array'}")
    if a is not None:
        a = contract.floats(where, "a", a, (channels,), x.dtype)
    if alpha is not None and kind not in ALPHA:
        raise ConfigError(f"{where}: alpha must be None for {kind}, got {alpha!r}")
    alpha = checks.number(where, "alpha", ALPHA.get(kind, 0.0) if alpha is None else alpha)
    kernels = contract.backend(where, backend, x, a=a)
    shape = (*x.shape[:-1], channels // 2 if kind in GATED else channels)
    y = contract.output(where, "out", out, shape, x.dtype, workspace, [("x", x), ("a", a)])
    kernels.forward(y, x, a, kind, alpha, workspace=workspace, threads=threads)
    return y, Saved(x, a, kind, alpha)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x and a, given ``dy``, the one with respect to y.

    ``dx = dy f'(x)``, ``da[c] = sum over all rows of dy df/da``.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of {"x", "a"}, optional
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
    where = "activation.backward"
    threads = contract.threads(where, threads)
    x, a = saved.x, saved.a
    channels = x.shape[-1] // (2 if saved.kind in GATED else 1)
    dy = contract.floats(where, "dy", dy, (*x.shape[:-1], channels), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": saved.x})
    shapes = {"x": x.shape, "a": None if a is None else a.shape}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()
