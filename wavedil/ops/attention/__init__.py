"""Causal self-attention of several heads over a bounded window, to combine with dilated convolutions.

``x`` holds queries, keys and values side by side, ``C = H D`` channels each, as one 1x1 convolution makes them. With
``q, k, v`` the ``D`` channels of head ``h``, and ``M`` the window::

    p[t, u] = exp(q[t] . k[u] / sqrt(D)) / sum over the same u of it      for t - M < u <= t (and u >= 0)
    y[t] = sum over u of p[t, u] v[u]

which is the scaled dot-product attention of [1]_, section 3.2, seen through a causal window: a row depends on itself
and the ``M - 1`` rows before it, so that a stream needs no more memory than that, and ``M >= T`` is attention to the
whole past. Where a row lies does not matter to it; the convolutions around it know. `forward`, `backward`,
`init_state` and `step` are the whole family.

.. [1] Vaswani et al., "Attention Is All You Need", arXiv:1706.03762.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ShapeError
from wavedil.ops import contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, 3 C)
    y: np.ndarray  # (B, T, C)
    total: np.ndarray  # (B, H, T): the logarithm of each row's sum of exponentials
    heads: int
    window: int


class Grads(NamedTuple):
    """The gradient."""

    x: np.ndarray | None


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, M - 1, 2 C): keys and values of the latest rows, the newest last
    seen: np.ndarray  # (1,) int64: rows seen so far


def forward(x, *, heads, window, out=None, workspace=None, backend=None, threads=None):
    """Attend to the latest rows.

    ``y[t] = sum over t - M < u <= t of p[t, u] v[u]``; see the family's page.

    Parameters
    ----------
    x : (B, T, 3 C) array of floats
        Queries, keys, values; each of ``C = heads * D`` channels, head after head.
    heads : int
    window : int
        Rows that a row sees, itself among them.
    out : (B, T, C) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes the time taken and no bit of the result.

    Returns
    -------
    y : (B, T, C) array
        Of the dtype of ``x``.
    saved : Saved

    Raises
    ------
    ShapeError
        If the channels of ``x`` are not three times a multiple of ``heads``.
    DTypeError, ConfigError
        If ``x`` holds no floats, a setting is out of range, or the backend is absent.

    Notes
    -----
    Work and time grow with ``T`` times the window; scores are never held for more than some rows.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import attention
    >>> x = np.zeros((1, 4, 3))  # equal scores: the mean of the values in the window
    >>> x[0, :, 2] = [1, 2, 3, 4]
    >>> attention.forward(x, heads=1, window=2)[0].ravel()
    array([1. , 1.5, 2.5, 3.5])
    """
    where = "attention.forward"
    threads = contract.threads(where, threads)
    x, heads, window = _check(where, x, heads, window)
    kernels = contract.backend(where, backend, x)
    (batch, time, wide), dtype = x.shape, x.dtype
    y = contract.output(where, "out", out, (batch, time, wide // 3), dtype, workspace, [("x", x)])
    total = contract.empty(workspace, f"{where}.total", (batch, heads, time), dtype, x)
    kernels.forward(y, total, x, heads, window, workspace=workspace, threads=threads)
    return y, Saved(x, y, total, heads, window)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradient of a loss with respect to x, given ``dy``, the one with respect to y.

    With ``ds[t, u] = p[t, u] (dy[t] . v[u] - dy[t] . y[t]) / sqrt(D)``: ``dq[t] = sum_u ds[t, u] k[u]``,
    ``dk[u] = sum_t ds[t, u] q[t]`` and ``dv[u] = sum_t p[t, u] dy[t]``. The scores are computed a second time.

    Parameters
    ----------
    dy : (B, T, C) array
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradient is ``=`` in an array to fill.
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
        If ``dy`` or ``into`` does not fit, or ``needs`` names what there is not.
    """
    where = "attention.backward"
    threads = contract.threads(where, threads)
    x = saved.x
    dy = contract.floats(where, "dy", dy, saved.y.shape, x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": x})
    grads = contract.Gradients(where, Grads, {"x": x.shape}, ("x",), x.dtype, into, needs, workspace, dy)
    if grads.targets.x is not None:
        kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, channels, *, window, dtype="float32"):
    """The state of a stream that has seen nothing.

    Parameters
    ----------
    batch : int
    channels : int
        ``3 C``, the channels of ``x``.
    window : int
        As in `step`.
    dtype : {"float32", "float64"}

    Returns
    -------
    State
    """
    where = "attention.init_state"
    batch, channels, window = (
        contract.whole(where, name, value)
        for name, value in (("batch", batch), ("channels", channels), ("window", window))
    )
    if channels % 3:
        raise ShapeError(f"{where}: channels must be a multiple of 3 (queries, keys, values), got {channels}")
    shape = (batch, window - 1, channels // 3 * 2)
    return State(contract.zeros(shape, contract.float_type(where, dtype)), np.zeros(1, np.int64))


def step(x, state, *, heads, window, out=None, workspace=None, backend=None):
    """Attend from the next rows of a stream: what `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, 3 C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    heads, window, workspace, backend
        As in `forward`.
    out : (B, n, C) array, optional

    Returns
    -------
    y : (B, n, C) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "attention.step"
    x, heads, window = _check(where, x, heads, window)
    batch, rows, wide = x.shape
    contract.same_batch(where, x, state.history)
    contract.target(where, "state.history", state.history, (batch, window - 1, wide // 3 * 2), x.dtype)
    contract.target(where, "state.seen", state.seen, (1,), np.int64)
    kernels = contract.backend(where, backend, x)
    y = contract.output(where, "out", out, (batch, rows, wide // 3), x.dtype, workspace, [("x", x)])
    kernels.step(y, state, x, heads, window, workspace=workspace)
    return y


def _check(where, x, heads, window):
    heads, window = contract.whole(where, "heads", heads), contract.whole(where, "window", window)
    x = contract.floats(where, "x", x, ("B", "T", "3 C"))
    if x.shape[2] % (3 * heads):
        raise ShapeError(f"{where}: x must be (B, T, 3 C) with C a multiple of heads = {heads}, got {x.shape}")
    return x, heads, window
