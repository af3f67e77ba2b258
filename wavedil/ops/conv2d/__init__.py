"""Dilated convolution over two axes (an image, or time by frequency), of any padding and number of groups.

For row ``i``, column ``j``, output channel ``n`` of group ``g`` and ``X``, which is ``x`` with padding around it::

    y[i, j, n] = b[n] + sum over p < kh, q < kw, c < C / G of X[i + p r, j + q s, g C / G + c] w[p, q, c, n]

with the dilation ``(r, s)``. It is the dilated convolution of Yu and Koltun [1]_, section 2, with one for each axis.

Dilation is **not** stride. The output keeps every position, and the kernel's taps are spread: neighbouring outputs read
interleaved grids of ``r s`` kinds that never meet, which is what shows as gridding in a stack whose dilations have a
common factor. A stride would drop positions.

.. [1] Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", arXiv:1511.07122.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ShapeError
from wavedil.ops import borders, contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray  # (B, H, W, C)
    w: np.ndarray  # (kh, kw, C // groups, N)
    bias: bool  # whether forward had one
    dilation: tuple[int, int]  # of rows and of columns
    padding: tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (on the left, on the right)
    groups: int
    mode: str = "zeros"  # what the padding is
    stride: tuple[int, int] = (1, 1)


class Grads(NamedTuple):
    """Gradients, each None where it was not needed or forward had no such input."""

    x: np.ndarray | None
    w: np.ndarray | None
    b: np.ndarray | None


class State(NamedTuple):
    """The past of a stream of rows, owned by the caller and changed in place by `step`."""

    history: np.ndarray  # (B, (kh - 1) dilation, W, C), a ring of the latest input rows, zeros at the start
    position: np.ndarray  # (1,) int64: the ring's oldest row, where the next one goes


def forward(
    x, w, b=None, *, dilation=1, padding="same", groups=1, padding_mode="zeros", stride=1, out=None, workspace=None,
    backend=None, threads=None,
):  # fmt: skip
    """Convolve over two axes.

    ``y[i, j] = b + sum_pq X[i + p r, j + q s] w[p, q]`` with ``X`` the zero-padded ``x``; see the family's page.

    Parameters
    ----------
    x : (B, H, W, C) array of floats
    w : (kh, kw, C // groups, N) array
    b : (N,) array, optional
    dilation : int or (int, int)
        Rows and columns between two taps; one number is for both. It is not a stride: no position is left out.
    padding : {"same", "causal", "valid"} or ((above, below), (left, right))
        Pixels around ``x``. "same": half of ``(k - 1) dilation`` on each side of each axis, the odd one below and on
        the right. "causal": the rows are time, and all ``(kh - 1) r`` rows of zeros come before the first; the columns
        (frequencies, say) are padded as for "same". "valid": none.
    groups : int
        Groups of channels that do not see each other; ``groups = C`` is a depthwise convolution.
    padding_mode : {"zeros", "reflect", "replicate"}
        What the padding is: zeros, pixels mirrored at the edge (which is not repeated), or copies of the edge. The
        latter two cost a copy of ``x`` in each direction.
    stride : int or (int, int)
        Every stride-th row and column is given. All are computed: the work is that of a stride of 1.
    out : (B, H', W', N) array, optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns all arrays that are needed, ``y`` included, until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``x``.
    threads : int, optional
        Changes the time taken and no bit of the result.

    Returns
    -------
    y : (B, H', W', N) array
        Of the dtype of ``x``, with ``H' = (H + above + below - (kh - 1) r - 1) // stride + 1`` and ``W'`` alike.
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
    A kernel in the shape of a plus adds up a pixel and its four neighbours, at a distance of the dilation:

    >>> import numpy as np
    >>> from wavedil.ops import conv2d
    >>> x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    >>> x[0, :, :, 0]
    array([[1., 2., 3.],
           [4., 5., 6.],
           [7., 8., 9.]])
    >>> plus = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]).reshape(3, 3, 1, 1)
    >>> y, saved = conv2d.forward(x, plus, dilation=1)
    >>> y[0, :, :, 0]
    array([[ 7., 11., 11.],
           [17., 25., 23.],
           [19., 29., 23.]])

    With dilation 2 the neighbours are two steps away. The centre has none within the image, and the output is as large
    as before:

    >>> y, saved = conv2d.forward(x, plus, dilation=2)
    >>> y[0, :, :, 0]
    array([[11., 10., 13.],
           [10.,  5., 10.],
           [17., 10., 19.]])
    """
    where = "conv2d.forward"
    threads = contract.threads(where, threads)
    x, w, b, dilation, groups = _check(where, x, w, b, dilation, groups)
    pads = contract.padding(where, padding, _spans(w, dilation))
    mode, stride = borders.check(where, padding_mode, stride, 2)
    borders.check_reflection(where, x.shape[1:3], pads, mode)
    size = _size(x, w, dilation, pads)
    if min(size) < 1:
        least = tuple(max(1, n + 1 - out) for n, out in zip(x.shape[1:3], size, strict=True))
        raise ShapeError(
            f"{where}: x must have at least {least[0]} rows and {least[1]} columns for padding {padding!r}, kernel "
            f"{w.shape[:2]} and dilation {dilation}, got {x.shape[1:3]}"
        )
    kernels = contract.backend(where, backend, x, w=w, b=b)
    shape = (x.shape[0], *borders.kept(size, stride), w.shape[3])
    y = contract.output(where, "out", out, shape, x.dtype, workspace, [("x", x), ("w", w), ("b", b)])
    saved = Saved(x, w, b is not None, dilation, pads, groups, mode, stride)
    if mode == "zeros" and stride == (1, 1):
        kernels.forward(y, x, w, b, dilation, pads, groups, workspace=workspace, threads=threads)
    else:
        borders.forward(kernels, y, b, saved, pads, size, stride, workspace=workspace, threads=threads)
    return y, saved


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """Gradients of a loss with respect to x, w and b, given ``dy``, the one with respect to y.

    ``dX[i + p r, j + q s] += dy[i, j] w[p, q]^T``, ``dw[p, q] = sum_ij X[i + p r, j + q s]^T dy[i, j]``,
    ``db = sum_ij dy[i, j]``.

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
    where = "conv2d.backward"
    threads = contract.threads(where, threads)
    x, w = saved.x, saved.w
    size = _size(x, w, saved.dilation, saved.padding)
    kept = borders.kept(size, saved.stride)
    dy = contract.floats(where, "dy", dy, (x.shape[0], *kept, w.shape[3]), x.dtype)
    kernels = contract.backend(where, backend, dy, **{"saved.x": x, "saved.w": w})
    shapes = {"x": x.shape, "w": w.shape, "b": w.shape[3:] if saved.bias else None}
    grads = contract.Gradients(where, Grads, shapes, ("x",), x.dtype, into, needs, workspace, dy)
    if saved.mode == "zeros" and saved.stride == (1, 1):
        kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    else:
        more = saved.padding, size, saved.stride
        borders.backward(kernels, grads.targets, dy, saved, *more, workspace=workspace, threads=threads)
    return grads.finish()


def init_state(batch, width, w, *, dilation=1, groups=1):
    """The state of a stream of rows that starts with silence.

    Parameters
    ----------
    batch : int
    width : int
        Columns of the rows.
    w : (kh, kw, C // groups, N) array
    dilation, groups
        As in `step`.

    Returns
    -------
    State
    """
    where = "conv2d.init_state"
    batch, width, groups = (
        contract.whole(where, name, value) for name, value in (("batch", batch), ("width", width), ("groups", groups))
    )
    w = contract.floats(where, "w", w, ("kh", "kw", "C // groups", "N"))
    span = _spans(w, contract.per_axis(where, "dilation", dilation, 2))[0]
    history = (batch, span, width, w.shape[2] * groups)
    return State(contract.zeros(history, w.dtype, w), np.zeros(1, np.int64))


def step(x, state, w, b=None, *, dilation=1, groups=1, out=None, workspace=None, backend=None):
    """Convolve the next rows of a stream: what causal `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, W, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    w, b, dilation, groups, workspace, backend
        As in `forward`.
    out : (B, n, W, N) array, optional

    Returns
    -------
    y : (B, n, W, N) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "conv2d.step"
    x, w, b, dilation, groups = _check(where, x, w, b, dilation, groups)
    spans = _spans(w, dilation)
    contract.same_batch(where, x, state.history)
    contract.target(where, "state.history", state.history, (x.shape[0], spans[0], *x.shape[2:]), x.dtype, x)
    contract.target(where, "state.position", state.position, (1,), np.int64)
    kernels = contract.backend(where, backend, x, w=w, b=b)
    y = contract.output(
        where, "out", out, (*x.shape[:3], w.shape[3]), x.dtype, workspace, [("x", x), ("w", w), ("b", b)]
    )
    columns = contract.padding(where, "causal", spans)[1]
    kernels.step(y, state, x, w, b, dilation, columns, groups, workspace=workspace)
    return y


def _check(where, x, w, b, dilation, groups):
    dilation, groups = contract.per_axis(where, "dilation", dilation, 2), contract.whole(where, "groups", groups)
    x, w, b = contract.alike(x, w, b)
    w = contract.floats(where, "w", w, ("kh", "kw", "C // groups", "N"))
    if w.shape[3] % groups:
        raise ShapeError(f"{where}: w must have output channels divisible by groups = {groups}, got {w.shape}")
    x = contract.floats(where, "x", x, ("B", "H", "W", w.shape[2] * groups))
    w = contract.floats(where, "w", w, w.shape, x.dtype)
    if b is not None:
        b = contract.floats(where, "b", b, (w.shape[3],), x.dtype)
    return x, w, b, dilation, groups


def _spans(w, dilation):
    """How far the taps reach along each axis."""
    return (w.shape[0] - 1) * dilation[0], (w.shape[1] - 1) * dilation[1]


def _size(x, w, dilation, padding):
    """Rows and columns of the output."""
    spans = _spans(w, dilation)
    return tuple(n + sum(pads) - span for n, pads, span in zip(x.shape[1:3], padding, spans, strict=True))
