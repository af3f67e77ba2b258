"""Separable dilated convolution in one and two dimensions: depthwise, then pointwise, in one pass.

With ``X`` the zero-padded ``x``, each channel is convolved by itself and the channels are then mixed::

    h[t, c] = sum over k < K of X[t + k dilation, c] depth[k, 0, c]
    y[t, n] = b[n] + sum over c of h[t, c] point[c, n]

in one dimension, and with taps and dilations along two axes in two. It stands in for a full convolution [1]_, at
``K C + C N`` weights and multiplications a position instead of ``K C N``: see `saving`. ``h`` never reaches memory.

.. [1] Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357, section 2.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ShapeError
from wavedil.ops import contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, C) or (B, H, W, C)
    depth: np.ndarray  # (K, 1, C) or (kh, kw, 1, C)
    point: np.ndarray  # (C, N)
    bias: bool  # whether forward had one
    dilation: tuple[int, ...]  # of each axis
    padding: tuple[tuple[int, int], ...]  # zeros before and after each axis


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    depth: np.ndarray | None
    point: np.ndarray | None
    b: np.ndarray | None


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, (K - 1) dilation, C), a ring of the latest input rows, zeros at the start
    position: np.ndarray  # (1,) int64: the ring's oldest row, where the next one goes


class Saving(NamedTuple):
    """What a separable convolution costs beside a full one of the same kernel and channels."""

    parameters: int  # of the separable one, without bias
    full_parameters: int
    flops: int  # of a position of the output: a multiplication and an addition count as two
    full_flops: int
    ratio: float  # full_parameters / parameters, which is that of the FLOPs as well


def saving(depth, point):
    """Parameters and FLOPs of a separable convolution and of a full one: ``K C + C N`` against ``K C N``.

    Parameters
    ----------
    depth : (K, 1, C) or (kh, kw, 1, C) array
    point : (C, N) array

    Returns
    -------
    Saving

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import separable
    >>> separable.saving(np.ones((3, 3, 1, 64)), np.ones((64, 64)))
    Saving(parameters=4672, full_parameters=36864, flops=9344, full_flops=73728, ratio=7.890410958904109)
    """
    depth = contract.floats("separable.saving", "depth", depth, None)
    if depth.ndim not in (3, 4) or depth.shape[-2] != 1:
        raise ShapeError(f"separable.saving: depth must be (K, 1, C) or (kh, kw, 1, C), got {depth.shape}")
    point = contract.floats("separable.saving", "point", point, (depth.shape[-1], "N"))
    own, full = depth.size + point.size, depth.size * point.shape[1]
    return Saving(own, full, 2 * own, 2 * full, full / own)


def forward(
    x, depth, point, b=None, *, dilation=1, padding="causal", out=None, workspace=None, backend=None, threads=None
):
    """Convolve each channel by itself, then mix the channels.

    ``y[t] = b + (sum_k X[t + k dilation] * depth[k]) point`` with ``X`` the zero-padded ``x``; see the family's page.

    Parameters
    ----------
    x : (B, T, C) or (B, H, W, C) array of floats
    depth : (K, 1, C) or (kh, kw, 1, C) array
        As the weights of a depthwise `conv1d` or `conv2d`.
    point : (C, N) array
    b : (N,) array, optional
    dilation : int, or (int, int) in two dimensions
    padding : {"causal", "same", "valid"} or (before, after), in two dimensions ((above, below), (left, right))
        As in `conv1d` and `conv2d`: causal in the first axis, which is time.
    out : (B, T', N) or (B, H', W', N) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes the time taken and no bit of the result.

    Returns
    -------
    y : (B, T', N) or (B, H', W', N) array
        Of the dtype of ``x``.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit each other, or no output is left.
    DTypeError
        If dtypes are mixed or not floats.
    ConfigError
        If a setting is out of range or the backend is absent.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import separable
    >>> x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    >>> y, saved = separable.forward(x, np.array([10.0, 1.0]).reshape(2, 1, 1), np.array([[1.0, -1.0]]), dilation=2)
    >>> y[0]
    array([[  1.,  -1.],
           [  2.,  -2.],
           [ 13., -13.],
           [ 24., -24.]])
    """
    where = "separable.forward"
    threads = contract.threads(where, threads)
    x, depth, point, b, dilation = _check(where, x, depth, point, b, dilation)
    pads = contract.padding(where, padding, _spans(depth, dilation))
    size = _size(x, depth, dilation, pads)
    if min(size) < 1:
        least = tuple(max(1, n + 1 - out) for n, out in zip(x.shape[1:-1], size, strict=True))
        raise ShapeError(
            f"{where}: x must have at least {contract.spell(least)} positions for padding {padding!r}, kernel "
            f"{contract.spell(depth.shape[:-2])} and dilation {contract.spell(dilation)}, got {x.shape[1:-1]}"
        )
    kernels = contract.backend(where, backend, x, depth=depth, point=point, b=b)
    inputs = [("x", x), ("depth", depth), ("point", point), ("b", b)]
    y = contract.output(where, "out", out, (x.shape[0], *size, point.shape[1]), x.dtype, workspace, inputs)
    kernels.forward(y, x, depth, point, b, dilation, pads, workspace=workspace, threads=threads)
    return y, Saved(x, depth, point, b is not None, dilation, pads)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, depth, point and b, given ``dy``, the one with respect to y.

    ``dh = dy point^T``, ``dpoint = sum_t h[t]^T dy[t]``, ``ddepth[k] = sum_t X[t + k dilation] * dh[t]``,
    ``dX[t + k dilation] += dh[t] * depth[k]``, ``db = sum_t dy[t]``.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
        Of any backend's forward. It has no ``h``, which is computed again.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of {"x", "depth", "point", "b"}, optional
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
    where = "separable.backward"
    threads = contract.threads(where, threads)
    x, depth, point = saved.x, saved.depth, saved.point
    size = _size(x, depth, saved.dilation, saved.padding)
    dy = contract.floats(where, "dy", dy, (x.shape[0], *size, point.shape[1]), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": saved.x})
    bias = point.shape[1:] if saved.bias else None
    shapes = {"x": x.shape, "depth": depth.shape, "point": point.shape, "b": bias}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, depth, *, dilation=1):
    """The state of a stream in one dimension that starts with silence.

    Parameters
    ----------
    batch : int
    depth : (K, 1, C) array
    dilation : int
        As in `step`.

    Returns
    -------
    State
    """
    where = "separable.init_state"
    batch, (dilation,) = contract.whole(where, "batch", batch), contract.per_axis(where, "dilation", dilation, 1)
    depth = contract.floats(where, "depth", depth, ("K", 1, "C"))
    history = (batch, (depth.shape[0] - 1) * dilation, depth.shape[2])
    return State(contract.zeros(history, depth.dtype, depth), np.zeros(1, np.int64))


def step(x, state, depth, point, b=None, *, dilation=1, out=None, workspace=None, backend=None):
    """Convolve the next rows of a stream: what causal `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    depth, point, b, dilation, workspace, backend
        As in `forward`, in one dimension.
    out : (B, n, N) array, optional

    Returns
    -------
    y : (B, n, N) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "separable.step"
    x, depth, point, b = contract.alike(x, depth, point, b)
    depth = contract.floats(where, "depth", depth, ("K", 1, "C"))
    x, depth, point, b, dilation = _check(where, x, depth, point, b, dilation)
    history = (x.shape[0], *_spans(depth, dilation), x.shape[2])
    contract.same_batch(where, x, state.history)
    contract.target(where, "state.history", state.history, history, x.dtype, x)
    contract.target(where, "state.position", state.position, (1,), np.int64)
    kernels = contract.backend(where, backend, x, depth=depth, point=point, b=b)
    inputs = [("x", x), ("depth", depth), ("point", point), ("b", b)]
    y = contract.output(where, "out", out, (*x.shape[:2], point.shape[1]), x.dtype, workspace, inputs)
    kernels.step(y, state, x, depth, point, b, dilation, workspace=workspace)
    return y


def _check(where, x, depth, point, b, dilation):
    x, depth, point, b = contract.alike(x, depth, point, b)
    axes = getattr(depth, "ndim", 0) - 2
    if axes not in (1, 2):
        raise ShapeError(
            f"{where}: depth must be (K, 1, C) or (kh, kw, 1, C), got {getattr(depth, 'shape', type(depth).__name__)}"
        )
    depth = contract.floats(where, "depth", depth, (*("K" if axes == 1 else ("kh", "kw")), 1, "C"))
    dilation = contract.per_axis(where, "dilation", dilation, axes)
    channels = depth.shape[-1]
    x = contract.floats(where, "x", x, ("B", *("T" if axes == 1 else "HW"), channels))
    depth = contract.floats(where, "depth", depth, depth.shape, x.dtype)
    point = contract.floats(where, "point", point, (channels, "N"), x.dtype)
    if b is not None:
        b = contract.floats(where, "b", b, point.shape[1:], x.dtype)
    return x, depth, point, b, dilation


def _spans(depth, dilation):
    """How far the taps reach along each axis."""
    return tuple((k - 1) * d for k, d in zip(depth.shape, dilation, strict=False))


def _size(x, depth, dilation, padding):
    """Positions of the output along each axis."""
    spans = _spans(depth, dilation)
    return tuple(n + sum(pads) - span for n, pads, span in zip(x.shape[1:-1], padding, spans, strict=True))
