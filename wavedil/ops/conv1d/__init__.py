"""Dilated convolution over time, of any padding and number of groups.

For output row ``t``, output channel ``n`` of group ``g`` and the rows ``X`` of ``x`` with padding around them::

    y[t, n] = b[n] + sum over k < K, c < C / G of X[t + k dilation, g C / G + c] w[k, c, n]

so tap ``K - 1`` sees the present and tap 0 the most distant past when the padding is causal. It is the dilated causal
convolution of WaveNet [1]_, section 2.1; `forward`, `backward`, `init_state` and `step` are the whole family.

.. [1] van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ShapeError
from wavedil.ops import borders, contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, C)
    w: np.ndarray  # (K, C // groups, N)
    bias: bool  # whether forward had one
    dilation: int
    padding: tuple[int, int]  # rows before and after
    groups: int
    mode: str = "zeros"  # what the padding is
    stride: int = 1


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    w: np.ndarray | None
    b: np.ndarray | None


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, (K - 1) dilation, C), a ring of the latest input rows, zeros at the start
    position: np.ndarray  # (1,) int64: the ring's oldest row, where the next one goes


def forward(
    x, w, b=None, *, dilation=1, padding="causal", groups=1, padding_mode="zeros", stride=1, out=None, workspace=None,
    backend=None, threads=None,
):  # fmt: skip
    """Convolve over time.

    ``y[t] = b + sum_k X[t + k dilation] w[k]`` with ``X`` the zero-padded ``x``; see the family's page.

    Parameters
    ----------
    x : (B, T, C) array of floats
    w : (K, C // groups, N) array
        Tap ``K - 1`` meets the present row of a causal convolution.
    b : (N,) array, optional
    dilation : int
        Rows between two taps.
    padding : {"causal", "same", "valid"} or (before, after)
        Rows around ``x``: all ``(K - 1) dilation`` on the left; half of them on each side, the odd one on the
        right; none; or as given.
    groups : int
        Groups of channels that do not see each other; ``groups = C`` is a depthwise convolution.
    padding_mode : {"zeros", "reflect", "replicate"}
        What the padding is: zeros, rows mirrored at the edge (which is not repeated), or copies of the edge. The latter
        two cost a copy of ``x`` in each direction.
    stride : int
        Every stride-th row is given. All are computed: the work is that of a stride of 1.
    out : (B, T', N) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes the time taken and no bit of the result.

    Returns
    -------
    y : (B, T', N) array
        Of the dtype of ``x``, with ``T' = (T + before + after - (K - 1) dilation - 1) // stride + 1``.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit each other, or no output row is left.
    DTypeError
        If dtypes are mixed or not floats.
    ConfigError
        If a setting is out of range or the backend is absent.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import conv1d
    >>> x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    >>> w = np.array([10.0, 1.0]).reshape(2, 1, 1)
    >>> y, saved = conv1d.forward(x, w, dilation=2)
    >>> y.ravel()
    array([ 1.,  2., 13., 24.])
    """
    where = "conv1d.forward"
    threads = contract.threads(where, threads)
    x, w, b, dilation, groups = _check(where, x, w, b, dilation, groups)
    mode, strides = borders.check(where, padding_mode, stride, 1)
    span = (w.shape[0] - 1) * dilation
    pads = contract.padding(where, padding, (span,))
    borders.check_reflection(where, x.shape[1:2], pads, mode)
    rows = x.shape[1] + sum(pads[0]) - span
    if rows < 1:
        raise ShapeError(
            f"{where}: x must have at least {x.shape[1] + 1 - rows} rows for padding {padding!r}, kernel "
            f"{w.shape[0]} and dilation {dilation}, got {x.shape[1]}"
        )
    kernels = contract.backend(where, backend, x, w=w, b=b)
    shape = (x.shape[0], *borders.kept((rows,), strides), w.shape[2])
    y = contract.output(where, "out", out, shape, x.dtype, workspace, [("x", x), ("w", w), ("b", b)])
    saved = Saved(x, w, b is not None, dilation, pads[0], groups, mode, *strides)
    if mode == "zeros" and strides == (1,):
        kernels.forward(y, x, w, b, dilation, pads[0], groups, workspace=workspace, threads=threads)
    else:
        borders.forward(kernels, y, b, saved, pads, (rows,), strides, workspace=workspace, threads=threads)
    return y, saved


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, w and b, given ``dy``, the one with respect to y.

    ``dX[t + k dilation] += dy[t] w[k]^T``, ``dw[k] = sum_t X[t + k dilation]^T dy[t]``, ``db = sum_t dy[t]``.

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
    ShapeError, DTypeError
        If ``dy`` or ``into`` does not fit.
    ConfigError
        If ``needs`` names what there is not.
    """
    where = "conv1d.backward"
    threads = contract.threads(where, threads)
    x, w = saved.x, saved.w
    rows = x.shape[1] + sum(saved.padding) - (w.shape[0] - 1) * saved.dilation
    kept = borders.kept((rows,), (saved.stride,))
    dy = contract.floats(where, "dy", dy, (x.shape[0], *kept, w.shape[2]), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": x, "saved.w": w})
    shapes = {"x": x.shape, "w": w.shape, "b": w.shape[2:] if saved.bias else None}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    if saved.mode == "zeros" and saved.stride == 1:
        kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    else:
        more = (saved.padding,), (rows,), (saved.stride,)
        borders.backward(kernels, grads.targets, dy, saved, *more, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, w, *, dilation=1, groups=1):
    """The state of a stream that starts with silence.

    Parameters
    ----------
    batch : int
    w : (K, C // groups, N) array
    dilation, groups : int
        As in `step`.

    Returns
    -------
    State
    """
    where = "conv1d.init_state"
    batch, groups = contract.whole(where, "batch", batch), contract.whole(where, "groups", groups)
    (dilation,) = contract.per_axis(where, "dilation", dilation, 1)
    w = contract.floats(where, "w", w, ("K", "C // groups", "N"))
    history = (batch, (w.shape[0] - 1) * dilation, w.shape[1] * groups)
    return State(contract.zeros(history, w.dtype, w), np.zeros(1, np.int64))


def step(x, state, w, b=None, *, dilation=1, groups=1, out=None, workspace=None, backend=None):
    """Convolve the next rows of a stream: what causal `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    w, b, dilation, groups, workspace, backend
        As in `forward`.
    out : (B, n, N) array, optional

    Returns
    -------
    y : (B, n, N) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "conv1d.step"
    x, w, b, dilation, groups = _check(where, x, w, b, dilation, groups)
    history = (x.shape[0], (w.shape[0] - 1) * dilation, x.shape[2])
    contract.same_batch(where, x, state.history)
    contract.target(where, "state.history", state.history, history, x.dtype, x)
    contract.target(where, "state.position", state.position, (1,), np.int64)
    kernels = contract.backend(where, backend, x, w=w, b=b)
    y = contract.output(
        where, "out", out, (*x.shape[:2], w.shape[2]), x.dtype, workspace, [("x", x), ("w", w), ("b", b)]
    )
    kernels.step(y, state, x, w, b, dilation, groups, workspace=workspace)
    return y


def _check(where, x, w, b, dilation, groups):
    (dilation,), groups = contract.per_axis(where, "dilation", dilation, 1), contract.whole(where, "groups", groups)
    x, w, b = contract.alike(x, w, b)
    w = contract.floats(where, "w", w, ("K", "C // groups", "N"))
    if w.shape[2] % groups:
        raise ShapeError(f"{where}: w must have output channels divisible by groups = {groups}, got {w.shape}")
    x = contract.floats(where, "x", x, ("B", "T", w.shape[1] * groups))
    w = contract.floats(where, "w", w, w.shape, x.dtype)
    if b is not None:
        b = contract.floats(where, "b", b, (w.shape[2],), x.dtype)
    return x, w, b, dilation, groups
