"""Cross-entropy of a linear head: matrix product, softmax and loss in one.

With ``logits = x w + b`` of each row over ``Q`` classes, its target class ``q``, its weight ``m``, and a smoothing
``a`` (0 by default)::

    p = (1 - a) onehot(q) + a / Q                                                       what is aimed at
    loss = sum of m (log sum exp(logits) - p . logits) over all rows / sum of m         mean nats
    dlogits = dloss m / sum of m (softmax(logits) - p)

The logits of all rows are never in memory at once: backward computes them again, chunk by chunk. The softmax over
mu-law codes is WaveNet's output (arXiv:1609.03499, section 2.2); smoothing is from arXiv:1512.00567, section 7.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import DTypeError
from wavedil.ops import contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, E)
    w: np.ndarray  # (E, Q)
    b: np.ndarray | None  # (Q,)
    targets: np.ndarray  # (B, T) integers
    sample_weight: np.ndarray  # (B, T), divided by its sum
    smoothing: float


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    w: np.ndarray | None
    b: np.ndarray | None


def forward(x, w, b, targets, sample_weight=None, *, ignore_index=None, label_smoothing=0.0, workspace=None,
            backend=None, threads=None):  # fmt: skip
    """Mean cross-entropy, in nats, of a linear head's softmax.

    ``loss = sum(sample_weight (lse(x w + b) - (x w + b)[targets])) / sum(sample_weight)``; see the family's page for
    smoothing.

    Parameters
    ----------
    x : (B, T, E) array of floats
    w : (E, Q) array
    b : (Q,) array or None
    targets : (B, T) array of integers in [0, Q)
        NumPy's are best for a device, too: they are checked on the host, for which those on a device are waited for.
    sample_weight : (B, T) array of numbers or booleans, optional
        At least 0, with a sum above 0; 0 masks a row out, whatever it holds. The default weighs all rows the same. As
        for targets.
    ignore_index : int, optional
        Rows with this target count nothing, as with a weight of 0; it need be no class. None: there are no such rows.
    label_smoothing : float in [0, 1)
        The part of the aim that is spread over all classes evenly.
    workspace : Workspace, optional
        Owns the saved arrays until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    loss : float
        Mean nats per weighted row, summed in float64; NaN or inf if the logits are.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit, a target is out of range, or sample_weight is negative, not finite or all zero.
    DTypeError
        If dtypes are mixed or of the wrong kind.
    ConfigError
        If a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import cross_entropy
    >>> x, w, targets = np.zeros((1, 3, 2)), np.ones((2, 256)), np.array([[0, 7, 255]])
    >>> loss, saved = cross_entropy.forward(x, w, None, targets)
    >>> print(f"{loss / np.log(2):.3f} bits")
    8.000 bits

    A row whose target is -100 counts nothing:

    >>> same, _ = cross_entropy.forward(x, w, None, np.array([[0, 7, -100]]), ignore_index=-100)
    >>> print(f"{same / np.log(2):.3f} bits")
    8.000 bits
    """
    where = "cross_entropy.forward"
    threads = contract.threads(where, threads)
    x, w, b = contract.alike(x, w, b)
    x = contract.floats(where, "x", x, ("B", "T", "E"))
    w = contract.floats(where, "w", w, (x.shape[2], "Q"), x.dtype)
    if b is not None:
        b = contract.floats(where, "b", b, (w.shape[1],), x.dtype)
    targets = contract.integers(where, "targets", targets, x.shape[:2])
    kernels = contract.backend(where, backend, x, w=w, b=b)
    contract.not_beyond(where, "targets", targets, x)
    wanted = "a number in [0, 1)"
    smoothing = checks.number(where, "label_smoothing", label_smoothing, wanted, lambda a: 0 <= a < 1)
    if ignore_index is not None:
        targets, sample_weight = _without(where, targets, sample_weight, ignore_index)
    contract.in_range(where, "targets", targets, w.shape[1])
    if not contract.is_device_array(targets):
        codes = targets.astype(np.int64) if contract.is_device_array(x) else targets
        targets = contract.placed(workspace, f"{where}.targets", codes, x)
    shares = contract.empty(workspace, f"{where}.sample_weight", x.shape[:2], x.dtype, x)
    contract.shares(where, sample_weight, shares)
    loss = contract.empty(workspace, f"{where}.loss", (1,), np.float64, x)
    kernels.forward(loss, x, w, b, targets, shares, smoothing, workspace=workspace, threads=threads)
    return contract.number(loss), Saved(x, w, b, targets, shares, smoothing)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients with respect to x, w and b, scaled by the upstream scalar ``dy``.

    ``dlogits = dy sample_weight / sum(sample_weight) (softmax - p)``, ``dx = dlogits w^T``,
    ``dw = sum_t x[t]^T dlogits[t]``, ``db = sum_t dlogits[t]``.

    Parameters
    ----------
    dy : float
        The gradient with respect to the loss, 1 when the loss itself is meant.
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
    where = "cross_entropy.backward"
    threads = contract.threads(where, threads)
    try:
        dy = float(dy)
    except (TypeError, ValueError):
        raise DTypeError(f"{where}: dy must be a number, got {type(dy).__name__}") from None
    kernels = contract.backend(where, backend, saved.x)
    shapes = {"x": saved.x.shape, "w": saved.w.shape, "b": None if saved.b is None else saved.b.shape}
    grads = contract.Gradients(where, Grads, shapes, ("x",), saved.x.dtype, into, needs, workspace, saved.x)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def _without(where, targets, sample_weight, ignored):
    """The targets with class 0, and weights of 0, in the rows whose target is ignored."""
    ignored = contract.whole(where, "ignore_index", ignored, -(2**63), 2**63 - 1)
    targets = contract.on_host(targets)
    counted = targets != ignored
    targets = np.where(counted, targets, 0).astype(targets.dtype)
    if sample_weight is None:
        return targets, counted
    sample_weight, _ = contract.row_weights(where, sample_weight, targets.shape)
    return targets, counted * sample_weight
