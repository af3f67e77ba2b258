"""Losses of numbers against targets: a weighted mean over rows, and over the channels of a row.

With ``d = x - t`` of an element and its target, ``m`` the weight of its row, and ``C`` channels::

    loss = sum over rows of m sum over c of l(x, t) / (C sum of m)

========  ====================================================  ===================================
binary    ln(1 + e^x) - t x                                     nats; x a logit, t in [0, 1]
mse       d^2
mae       |d|                                                   its slope counts as 0 where d is 0
huber     |d| <= delta: d^2 / 2, else delta (|d| - delta / 2)   Huber 1964
========  ====================================================  ===================================

The loss of classes is the family `cross_entropy`, which has the head's product in it.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import contract

KINDS = ("binary", "mse", "mae", "huber")


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (..., C)
    targets: np.ndarray  # (..., C)
    sample_weight: np.ndarray  # (...), divided by its sum and by C
    kind: str
    delta: float


class Grads(NamedTuple):
    """The gradient of x; targets have none."""

    x: np.ndarray | None


def forward(x, targets, sample_weight=None, *, kind, delta=None, workspace=None, backend=None, threads=None):
    """Mean loss of predictions against targets.

    ``loss = sum(sample_weight l(x, targets)) / (C sum(sample_weight))``, with the kinds of the family's page.

    Parameters
    ----------
    x : (..., C) array of floats
        Predictions, or logits of ``binary``.
    targets : array of the shape and dtype of x
    sample_weight : (...) array of numbers or booleans, optional
        One for each row: at least 0, with a sum above 0; 0 masks a row out, whatever it and its targets hold. The
        default weighs all rows the same.
    kind : {"binary", "mse", "mae", "huber"}
    delta : float, optional
        Where ``huber`` turns from a square to a straight line; 1 by default.
    workspace : Workspace, optional
        Owns the saved arrays until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    loss : float
        Summed in float64.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit, sample_weight is negative, not finite or all zero, or targets of ``binary`` are not in
        [0, 1].
    DTypeError
        If dtypes are mixed or of the wrong kind.
    ConfigError
        If the kind is unknown, or ``delta`` is given to another than ``huber`` or not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import loss
    >>> value, saved = loss.forward(np.array([[1.0], [4.0]]), np.array([[1.0], [2.0]]), kind="mse")
    >>> value
    2.0
    >>> loss.backward(1.0, saved).x.ravel()
    array([0., 2.])
    """
    where = "loss.forward"
    threads = contract.threads(where, threads)
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    x, targets = contract.alike(x, targets)
    x = contract.floats(where, "x", x, None)
    if len(x.shape) < 2 or 0 in x.shape:
        raise ShapeError(f"{where}: x must be (..., C) with at least one row and channel, got {x.shape}")
    targets = contract.floats(where, "targets", targets, x.shape, x.dtype)
    if delta is not None and kind != "huber":
        raise ConfigError(f"{where}: delta must be None for {kind}, got {delta!r}")
    delta = checks.number(where, "delta", 1.0 if delta is None else delta, "a number above 0", lambda d: d > 0)
    kernels = contract.backend(where, backend, x, targets=targets)
    shares = contract.empty(workspace, f"{where}.sample_weight", x.shape[:-1], x.dtype, x)
    contract.shares(where, sample_weight, shares, x.shape[-1])
    if kind == "binary":
        contract.between(where, "targets", targets, 0, 1, shares)
    loss = contract.empty(workspace, f"{where}.loss", (1,), np.float64, x)
    kernels.forward(loss, x, targets, shares, kind, delta, workspace=workspace, threads=threads)
    return contract.number(loss), Saved(x, targets, shares, kind, delta)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """The gradient with respect to x, scaled by the upstream scalar ``dy``.

    ``dx = dy sample_weight / (C sum(sample_weight)) dl/dx``

    Parameters
    ----------
    dy : float
        The gradient with respect to the loss, 1 when the loss itself is meant.
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
    where = "loss.backward"
    threads = contract.threads(where, threads)
    try:
        dy = float(dy)
    except (TypeError, ValueError):
        raise DTypeError(f"{where}: dy must be a number, got {type(dy).__name__}") from None
    kernels = contract.backend(where, backend, saved.x)
    shapes = {"x": saved.x.shape}
    grads = contract.Gradients(where, Grads, shapes, ("x",), saved.x.dtype, into, needs, workspace, saved.x)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()
