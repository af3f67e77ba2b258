"""Padding by copies and strides, which a convolution's door adds to the kernels of any backend.

The kernels convolve an input that is padded already, at every position, and some of the output's positions are picked.
So a mode other than zeros costs a copy of the input in each direction, and a stride s costs the work and the memory of
the output at stride 1, which is s times as much along each axis as what is kept.
"""

import numpy as np

from wavedil import checks
from wavedil.errors import ShapeError
from wavedil.ops import contract

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}  # and what numpy.pad calls them


def check(where, mode, stride, axes):
    """The mode, and a stride for each axis."""
    return checks.one_of(where, "padding_mode", mode, MODES), contract.per_axis(where, "stride", stride, axes)


def kept(size, stride):
    """How many of so many positions are left along each axis."""
    return tuple((n - 1) // s + 1 for n, s in zip(size, stride, strict=True))


def check_reflection(where, size, pads, mode):
    """Check that a reflection has rows enough: it does not repeat the edge, nor come back."""
    for n, pair in zip(size, pads, strict=True):
        if mode == "reflect" and max(pair) >= n:
            raise ShapeError(f"{where}: x must have more rows than are reflected, got {n} rows and padding {pair}")


def forward(kernels, y, b, saved, pads, size, stride, *, workspace, threads):
    """y = the convolution of the padded input, at every stride-th of ``size`` positions."""
    x, pads = _padded(saved, pads, workspace)
    whole = y
    if max(stride) > 1:
        whole = contract.empty(workspace, "borders.y", (len(x), *size, y.shape[-1]), y.dtype, y)
    kernels.forward(
        whole, x, saved.w, b, saved.dilation, pads, saved.groups, workspace=workspace, threads=threads
    )  # fmt: skip
    if whole is not y:
        _combine(y, whole, *_listed(_picked(size, stride)), workspace)


def backward(kernels, targets, dy, saved, pads, size, stride, *, workspace, threads):
    """The gradients of `forward`: targets.x =, the others +="""
    x, inner = _padded(saved, pads, workspace)
    whole, dx = dy, targets.x
    if max(stride) > 1:
        whole = contract.empty(workspace, "borders.dy", (len(x), *size, dy.shape[-1]), dy.dtype, dy)
        _combine(whole, dy, *_turned(_picked(size, stride), int(np.prod(size))), workspace)
    if x is not saved.x and dx is not None:
        dx = contract.empty(workspace, "borders.dx", x.shape, x.dtype, x)
    saved_inside = saved._replace(x=x, padding=inner)
    kernels.backward(targets._replace(x=dx), whole, saved_inside, workspace=workspace, threads=threads)
    if dx is not targets.x:
        sizes = saved.x.shape[1:-1]
        _combine(targets.x, dx, *_turned(_sources(sizes, pads, saved.mode), int(np.prod(sizes))), workspace)


def _padded(saved, pads, workspace):
    """The input with its padding, and what padding is left to the kernels."""
    x = saved.x
    if saved.mode == "zeros":
        return x, saved.padding
    shape = (len(x), *(n + sum(pair) for n, pair in zip(x.shape[1:-1], pads, strict=True)), x.shape[-1])
    out = contract.empty(workspace, "borders.x", shape, x.dtype, x)
    _combine(out, x, *_listed(_sources(x.shape[1:-1], pads, saved.mode)), workspace)
    none = ((0, 0),) * len(pads)
    return out, none[0] if len(pads) == 1 else none


# ---- lists of places: row i is the sum of the rows places[starts[i]:starts[i + 1]] -----------------------------------
def _sources(size, pads, mode):
    """Which position of the input each position of the padded one is a copy of."""
    along = (np.pad(np.arange(n), pair, mode=MODES[mode]) for n, pair in zip(size, pads, strict=True))
    return _flat(along, size)


def _picked(size, stride):
    """Which positions of the output are kept."""
    return _flat((np.arange(0, n, s) for n, s in zip(size, stride, strict=True)), size)


def _flat(along, size):
    """Numbers of positions, row by row, from those along each axis."""
    places, *more = along
    for axis, n in zip(more, size[1:], strict=True):
        places = (places[:, None] * n + axis).reshape(-1)
    return places


def _listed(places):
    return np.arange(len(places) + 1), places


def _turned(places, count):
    """The lists of the way back, for so many positions."""
    order = np.argsort(places, kind="stable")
    return np.searchsorted(places[order], np.arange(count + 1)), order


def _combine(out, x, starts, places, workspace):
    """out =: of each item, row by row, the sums of the listed rows of x."""
    out, x = (a.reshape(len(a), -1, a.shape[-1]) for a in (out, x))
    if contract.is_device_array(out):
        from wavedil.kernels.cuda.gather import sum_of_rows

        sum_of_rows(out, x, starts, places, workspace)
        return
    some = starts[1:] > starts[:-1]
    out[:, ~some] = 0
    out[:, some] = np.add.reduceat(x[:, places], starts[:-1][some], axis=1)
