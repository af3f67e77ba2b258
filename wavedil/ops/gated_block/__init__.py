"""Gated block: one residual block of a WaveNet, fused.

With a causal convolution of kernel ``K``, a condition ``c`` (none, one row per item, or one per time step), and ``D``
channels in each half of the gate::

    pre = conv(x; conv_weight, conv_bias, dilation) + c condition_weight        (B, T, 2D)
    z = tanh(pre[..., :D]) sigmoid(pre[..., D:])                                (B, T, D)
    h = x + z residual_weight + residual_bias                                   (B, T, R)
    skip = z skip_weight + skip_bias                                            (B, T, S)

``h`` goes to the next block; the ``skip`` of all blocks are summed by the caller. It is the gated activation unit with
residual and skip connections of WaveNet (arXiv:1609.03499, sections 2.3 to 2.5).
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract


class Outputs(NamedTuple):
    """The next block's input and this block's part of the skip sum."""

    h: np.ndarray  # (B, T, R)
    skip: np.ndarray  # (B, T, S)


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, T, R)
    tanh: np.ndarray  # (B, T, D)
    sigmoid: np.ndarray  # (B, T, D)
    conv_weight: np.ndarray  # (K, R, 2D)
    residual_weight: np.ndarray  # (D, R)
    skip_weight: np.ndarray  # (D, S)
    condition: np.ndarray | None  # (B, Cc) or (B, T, Cc)
    condition_weight: np.ndarray | None  # (Cc, 2D)
    biases: tuple[bool, bool, bool]  # whether forward had those of conv, residual, skip
    dilation: int


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    conv_weight: np.ndarray | None
    conv_bias: np.ndarray | None
    residual_weight: np.ndarray | None
    residual_bias: np.ndarray | None
    skip_weight: np.ndarray | None
    skip_bias: np.ndarray | None
    condition: np.ndarray | None
    condition_weight: np.ndarray | None


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, (K - 1) dilation, R), a ring of the latest input rows, zeros at the start
    position: np.ndarray  # (1,) int64: the ring's oldest row, where the next one goes


def forward(
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition=None,
    condition_weight=None,
    *,
    dilation=1,
    out=None,
    workspace=None,
    backend=None,
    threads=None,
):
    """Run one block over a window that starts with silence.

    ``z = tanh(a) sigmoid(g)`` with ``(a, g)`` the halves of ``conv(x) + c condition_weight``; ``h = x + residual(z)``,
    ``skip = skip(z)``.

    Parameters
    ----------
    x : (B, T, R) array of floats
    conv_weight : (K, R, 2D) array
        The first D columns go to tanh, the last D to the sigmoid; tap ``K - 1`` meets the present row.
    conv_bias : (2D,) array or None
    residual_weight : (D, R) array
    residual_bias : (R,) array or None
    skip_weight : (D, S) array
    skip_bias : (S,) array or None
    condition : (B, Cc) or (B, T, Cc) array, optional
        Global or local.
    condition_weight : (Cc, 2D) array, optional
        Together with ``condition``.
    dilation : int
        Rows between two taps.
    out : Outputs, optional
        Where to write ``h`` and ``skip``.
    workspace : Workspace, optional
        Owns all arrays that are needed, the outputs included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : Outputs
        ``h`` (B, T, R) and ``skip`` (B, T, S), of the dtype of ``x``.
    saved : Saved

    Raises
    ------
    ShapeError
        If shapes do not fit each other.
    DTypeError
        If dtypes are mixed or not floats.
    ConfigError
        If the dilation is out of range, only one of condition and condition_weight is given, or the backend is absent.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import gated_block
    >>> x, conv, one = np.zeros((1, 3, 1)), np.ones((2, 1, 2)), np.ones((1, 1))
    >>> x[0, 0] = 1.0
    >>> y, saved = gated_block.forward(x, conv, None, one, None, one, None)
    >>> y.skip.ravel().round(4)
    array([0.5568, 0.5568, 0.    ])
    >>> y.h.ravel().round(4)
    array([1.5568, 0.5568, 0.    ])
    """
    where = "gated_block.forward"
    threads = contract.threads(where, threads)
    arrays, dilation = _check(
        where,
        x,
        conv_weight,
        conv_bias,
        residual_weight,
        residual_bias,
        skip_weight,
        skip_bias,
        condition,
        condition_weight,
        dilation,
    )
    x, conv_weight, _, residual_weight, _, skip_weight, _, condition, condition_weight = arrays
    kernels = contract.backend(where, backend, x, **dict(zip(Grads._fields, arrays, strict=True)))
    y = _outputs(where, out, arrays, workspace)
    gate = (*x.shape[:2], residual_weight.shape[0])
    tanh = contract.empty(workspace, f"{where}.tanh", gate, x.dtype, x)
    sigmoid = contract.empty(workspace, f"{where}.sigmoid", gate, x.dtype, x)
    kernels.forward(y, tanh, sigmoid, *arrays, dilation, workspace=workspace, threads=threads)
    biases = tuple(a is not None for a in arrays[2:7:2])
    return y, Saved(
        x, tanh, sigmoid, conv_weight, residual_weight, skip_weight, condition, condition_weight, biases, dilation
    )


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to all inputs, given ``dy``, those with respect to h and skip.

    ``dz = dskip skip_weight^T + dh residual_weight^T``; ``dpre = (dz s (1 - t^2), dz t s (1 - s))``;
    ``dx = dh + conv^T(dpre)``; the weights' gradients are sums over all rows.

    Parameters
    ----------
    dy : Outputs or (dh, dskip)
        Either may be None, which means zeros.
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradients are ``=`` in arrays to fill.
    needs : sequence of str, optional
        Names of Grads to compute; the default is all there are (of ``into``, if given).
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
    where = "gated_block.backward"
    threads = contract.threads(where, threads)
    x, dtype = saved.x, saved.x.dtype
    if not isinstance(dy, tuple) or len(dy) != 2 or (dy[0] is None and dy[1] is None):
        raise ShapeError(f"{where}: dy must be (dh, dskip), not both None, got {type(dy).__name__}")
    dh, dskip = dy
    if dh is not None:
        dh = contract.floats(where, "dh", dh, x.shape, dtype)
    if dskip is not None:
        dskip = contract.floats(where, "dskip", dskip, (*x.shape[:2], saved.skip_weight.shape[1]), dtype)
    kernels = contract.backend(where, backend, x, dh=dh, dskip=dskip)
    conv_bias, residual_bias, skip_bias = saved.biases
    shapes = {
        "x": x.shape,
        "conv_weight": saved.conv_weight.shape,
        "conv_bias": saved.conv_weight.shape[2:] if conv_bias else None,
        "residual_weight": saved.residual_weight.shape,
        "residual_bias": saved.residual_weight.shape[1:] if residual_bias else None,
        "skip_weight": saved.skip_weight.shape,
        "skip_bias": saved.skip_weight.shape[1:] if skip_bias else None,
        "condition": None if saved.condition is None else saved.condition.shape,
        "condition_weight": None if saved.condition is None else saved.condition_weight.shape,
    }
    grads = contract.Gradients(where, Grads, shapes, ("x", "condition"), dtype, into, needs, workspace, x)
    kernels.backward(grads.targets, Outputs(dh, dskip), saved, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, conv_weight, *, dilation=1):
    """The state of a stream that starts with silence.

    Parameters
    ----------
    batch : int
    conv_weight : (K, R, 2D) array
    dilation : int
        As in `step`.

    Returns
    -------
    State
    """
    where = "gated_block.init_state"
    batch, dilation = contract.whole(where, "batch", batch), contract.whole(where, "dilation", dilation)
    w = contract.floats(where, "conv_weight", conv_weight, ("K", "R", "2D"))
    history = (batch, (w.shape[0] - 1) * dilation, w.shape[1])
    return State(contract.zeros(history, w.dtype, w), np.zeros(1, np.int64))


def step(
    x,
    state,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition=None,
    condition_weight=None,
    *,
    dilation=1,
    out=None,
    workspace=None,
    backend=None,
):
    """Run one block over the next rows of a stream: what `forward` gives for them after all earlier ones.

    Parameters
    ----------
    x : (B, n, R) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    conv_weight, conv_bias, residual_weight, residual_bias, skip_weight, skip_bias, condition_weight, dilation
        As in `forward`.
    condition : (B, Cc) or (B, n, Cc) array, optional
        A local condition's rows are those of ``x``.
    out, workspace, backend
        As in `forward`.

    Returns
    -------
    y : Outputs
        ``h`` (B, n, R) and ``skip`` (B, n, S).

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "gated_block.step"
    arrays, dilation = _check(
        where,
        x,
        conv_weight,
        conv_bias,
        residual_weight,
        residual_bias,
        skip_weight,
        skip_bias,
        condition,
        condition_weight,
        dilation,
    )
    x = arrays[0]
    history = (x.shape[0], (arrays[1].shape[0] - 1) * dilation, x.shape[2])
    contract.target(where, "state.history", state.history, history, x.dtype, x)
    contract.target(where, "state.position", state.position, (1,), np.int64)
    kernels = contract.backend(where, backend, x, **dict(zip(Grads._fields, arrays, strict=True)))
    y = _outputs(where, out, arrays, workspace)
    kernels.step(y, state, *arrays, dilation, workspace=workspace)
    return y


def _check(
    where,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
):
    """All arrays in the order of forward, C-contiguous, and the dilation."""
    dilation = contract.whole(where, "dilation", dilation)
    conv_weight = contract.floats(where, "conv_weight", conv_weight, ("K", "R", "2D"))
    _, channels, both = conv_weight.shape
    if both % 2:
        raise ShapeError(f"{where}: conv_weight must have an even number of columns, got {conv_weight.shape}")
    x = contract.floats(where, "x", x, ("B", "T", channels))
    skip_weight = contract.floats(where, "skip_weight", skip_weight, (both // 2, "S"), x.dtype)
    given = (
        ("conv_weight", conv_weight, conv_weight.shape),
        ("conv_bias", conv_bias, (both,)),
        ("residual_weight", residual_weight, (both // 2, channels)),
        ("residual_bias", residual_bias, (channels,)),
        ("skip_weight", skip_weight, skip_weight.shape),
        ("skip_bias", skip_bias, (skip_weight.shape[1],)),
    )
    checked = [
        None if array is None and name.endswith("bias") else contract.floats(where, name, array, shape, x.dtype)
        for name, array, shape in given
    ]
    if (condition is None) != (condition_weight is None):
        missing, there = ("condition", "condition_weight")[:: 1 if condition is None else -1]
        raise ConfigError(f"{where}: {missing} must be given where {there} is, got None")
    if condition is not None:
        condition_weight = contract.floats(where, "condition_weight", condition_weight, ("Cc", both), x.dtype)
        rows = x.shape[:1] if getattr(condition, "ndim", 0) == 2 else x.shape[:2]
        condition = contract.floats(where, "condition", condition, (*rows, condition_weight.shape[0]), x.dtype)
    return (x, *checked, condition, condition_weight), dilation


def _outputs(where, out, arrays, workspace):
    x, skip_weight = arrays[0], arrays[5]
    if out is not None and (not isinstance(out, tuple) or len(out) != 2):
        raise ConfigError(f"{where}: out must be Outputs(h, skip), got {type(out).__name__}")
    h, skip = (None, None) if out is None else out
    inputs = [(name, array) for name, array in zip(Grads._fields, arrays, strict=True)]
    h = contract.output(where, "out.h", h, x.shape, x.dtype, workspace, inputs)
    skip = contract.output(where, "out.skip", skip, (*x.shape[:2], skip_weight.shape[1]), x.dtype, workspace, inputs)
    return Outputs(h, skip)
