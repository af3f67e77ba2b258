"""Dropout: elements (or whole channels of an item) are set to zero at random, and the others scaled up.

``y = x keep / (1 - rate)`` with ``keep`` 0 or 1 (Srivastava et al., JMLR 15, 2014). The mask is a hash of the seed, the
step, the layer, the item and the place within the item: there is nothing to store, and recomputation, threads, other
backends and a resumed training see the same one. The rate is rounded to a multiple of 2^-32.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract


class Saved(NamedTuple):
    """What backward needs: what the mask is made of."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rate: float  # 0 if forward was not training
    seed: int
    step: int
    layer: int
    channels: bool


class Grads(NamedTuple):
    """The gradient of x."""

    x: np.ndarray | None


def forward(
    x, *, rate, seed=0, step=0, layer=0, channels=False, training=True, out=None, workspace=None, backend=None,
    threads=None,
):  # fmt: skip
    """Drop some elements.

    ``y = x keep / (1 - rate)``

    Parameters
    ----------
    x : (B, ..., C) array of floats
        Of any rank from 2 up.
    rate : float in [0, 1)
        Probability of being dropped.
    seed, step, layer : int
        What the mask depends on; each at least 0.
    channels : bool
        Drop whole channels of an item, all of its rows alike.
    training : bool
        False leaves x as it is.
    out : array of the shape of x, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns ``y`` until its next forward.
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
    ShapeError, DTypeError
        If ``x`` or ``out`` does not fit.
    ConfigError
        If a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import dropout
    >>> y, saved = dropout.forward(np.ones((1, 2, 4)), rate=0.5, seed=3)
    >>> y
    array([[[2., 2., 0., 0.],
            [0., 0., 2., 0.]]])
    """
    where = "dropout.forward"
    threads = contract.threads(where, threads)
    x = contract.floats(where, "x", x, None)
    if len(x.shape) < 2 or 0 in x.shape:
        raise ShapeError(f"{where}: x must be (B, ..., C) with at least one row and channel, got {x.shape}")
    rate = checks.number(where, "rate", rate, "a number in [0, 1)", lambda r: 0 <= r < 1)
    numbers = [contract.whole(where, n, v, 0) for n, v in (("seed", seed), ("step", step), ("layer", layer))]
    for name, value in zip(("seed", "step", "layer"), numbers, strict=True):
        if value >= 2**63:
            raise ConfigError(f"{where}: {name} must be below 2**63, got {value}")
    kernels = contract.backend(where, backend, x)
    y = contract.output(where, "out", out, x.shape, x.dtype, workspace, [("x", x)])
    saved = Saved(x.shape, x.dtype, rate if training else 0.0, *numbers, bool(channels))
    kernels.forward(y, x, saved, workspace=workspace, threads=threads)
    return y, saved


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """The gradient with respect to x, given ``dy``, the one with respect to y.

    ``dx = dy keep / (1 - rate)``

    Parameters
    ----------
    dy : array of the shape of x
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
    where = "dropout.backward"
    threads = contract.threads(where, threads)
    dy = contract.floats(where, "dy", dy, saved.shape, saved.dtype)
    kernels = contract.backend(where, backend, dy)
    grads = contract.Gradients(where, Grads, {"x": saved.shape}, ("x",), saved.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()
