"""Numba: vector instructions over flat memory, in parallel over pieces of whole rows.

By channel (batch, weight): what belongs to the channels is repeated to a tile of some rows, so that it is one more
stream of numbers, and sums over the rows add up in such a tile for each task; the tiles are added in order, in float64.
By row (layer, rms): two sums and a pass a row, all in the first cache. By group: the same, on a copy in which a row
holds all of a group. Variances take the mean first: no digits are
lost.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.elementwise import loops, sums
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address, zero_memory
from wavedil.kernels.workspace import Workspace
from wavedil.ops.norm import BY_CHANNEL

PIECE = 2**13  # least elements of a task
TILE = 1024  # least elements of a tile of what belongs to the channels

Sum = namedtuple("Sum", "unused")
Squares = namedtuple("Squares", "unused")
Apply = namedtuple("Apply", "unused")
Gradients = namedtuple("Gradients", "unused")
Back = namedtuple("Back", "unused")
RowSum = namedtuple("RowSum", "unused")
RowSquares = namedtuple("RowSquares", "mean")
RowGradients = namedtuple("RowGradients", "mean inverse")
RowApply = namedtuple("RowApply", "mean inverse")
RowBack = namedtuple("RowBack", "mean inverse first second")


def _squares(e, at, options, x, mean, total):
    d = e.sub(x, mean)
    return (e.fma(d, d, total),)


def _gradients(e, at, options, dy, x, mean, inverse, first, second):
    """Sums of dy and of dy n."""
    return e.add(first, dy), e.fma(dy, e.mul(e.sub(x, mean), inverse), second)


def _back(e, at, options, dy, x, mean, inverse, factor, first, second):
    """(dy - first - n second) factor"""
    n = e.mul(e.sub(x, mean), inverse)
    return (e.mul(factor, e.sub(e.sub(dy, first), e.mul(n, second))),)


def _row_apply(e, at, options, x, scale, shift):
    mean, inverse = options
    return (e.fma(e.mul(e.sub(x, mean), inverse), scale, shift),)


def _row_squares(e, at, options, x):
    d = e.sub(x, options[0])
    return (e.mul(d, d),)


def _row_gradients(e, at, options, dy, x, scale):
    g = e.mul(dy, scale)
    return g, e.mul(g, e.mul(e.sub(x, options[0]), options[1]))


def _row_back(e, at, options, dy, x, scale, dscale, dshift):
    mean, inverse, first, second = options
    n = e.mul(e.sub(x, mean), inverse)
    dx = e.mul(inverse, e.sub(e.sub(e.mul(dy, scale), first), e.mul(n, second)))
    return dx, e.fma(dy, n, dscale), e.add(dy, dshift)


_passes = loops(
    {
        Sum: lambda e, at, options, x, total: (e.add(x, total),),
        Squares: _squares,
        Apply: lambda e, at, options, x, mean, factor, shift: (e.fma(e.sub(x, mean), factor, shift),),
        Gradients: _gradients,
        Back: _back,
        RowApply: _row_apply,
        RowBack: _row_back,
    }
)
_total = sums({RowSum: lambda e, at, options, x: (x,), RowSquares: _row_squares}, 1)
_totals = sums({RowGradients: _row_gradients}, 2)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def forward(y, mean, inverse, var, x, scale, shift, kind, eps, fixed, *, workspace, threads):
    """y =, and unless they are fixed, mean =, inverse = and (of a batch) var ="""
    if kind == "group":
        _group_forward(y, mean, inverse, x, scale, shift, eps, workspace or Workspace(), threads)
        return
    work = _Work(workspace, x, threads)
    if kind not in BY_CHANNEL:
        centre = work.zeros("mean", inverse.size) if mean is None else mean.reshape(-1)
        parameters = work.vector("scale", scale, 1), work.vector("shift", shift, 0)
        work.run(_forward_rows, y.reshape(-1), centre, inverse.reshape(-1), work.x, *parameters,
                 x.dtype.type(eps), mean is not None)  # fmt: skip
        return
    rows = x.size // x.shape[-1]
    if not fixed:
        if mean is not None:
            mean[...] = work.channel_sums(_sums, Sum(0), 1)[0] / rows
        squares = work.channel_sums(_centred_sums, Squares(0), 1, work.tile("mean", mean, 0))[0]
        if var is not None:
            squares /= rows
            var[...] = squares
        with np.errstate(divide="ignore"):
            inverse[...] = 1 / np.sqrt(squares + eps)
    factor = inverse if scale is None else inverse * scale
    tiles = work.tile("mean", mean, 0), work.tile("factor", factor), work.tile("shift", shift, 0)
    work.run(_forward_channels, Apply(0), y.reshape(-1), work.x, *tiles)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.scale +=, grads.shift +="""
    x, scale, mean, inverse, _, kind, fixed = saved
    if kind == "group":
        _group_backward(grads, dy, saved, workspace or Workspace(), threads)
        return
    work = _Work(workspace, x, threads)
    dy, channels = layout.flat(dy), x.shape[-1]
    if grads.x is None and grads.scale is None and grads.shift is None:
        return
    dx = work.zeros("dx", x.size) if grads.x is None else grads.x.reshape(-1)
    if kind not in BY_CHANNEL:
        centre = work.zeros("mean", inverse.size) if mean is None else layout.flat(mean)
        slabs = work.zeros("slabs", len(work.pieces), 2, channels)
        work.run(_backward_rows, dx, dy, centre, layout.flat(inverse), work.x, work.vector("scale", scale, 1),
                 mean is not None, each=slabs.reshape(len(slabs), -1))  # fmt: skip
        dshift, dscale = slabs.sum(0, dtype=np.float64)
    else:
        tiles = work.tile("mean", mean, 0), work.tile("inverse", inverse)
        dshift, dscale = work.channel_sums(_gradient_sums, Gradients(0), 2, dy, *tiles)
        if grads.x is not None:
            count = 1 if kind == "weight" else x.size // channels
            first = 0 * dshift if fixed or mean is None else dshift / count
            second = 0 * dscale if fixed else dscale / count
            factor = inverse if scale is None else inverse * scale
            tiles += work.tile("factor", factor), work.tile("first", first), work.tile("second", second)
            work.run(_backward_channels, Back(0), dx, dy, work.x, *tiles)
    if grads.scale is not None:
        grads.scale[...] += dscale.astype(x.dtype)
    if grads.shift is not None:
        grads.shift[...] += dshift.astype(x.dtype)


def _grouped(x, groups):
    """x (B, ..., C) seen as (groups, B, rows, C / groups)"""
    return np.moveaxis(x.reshape(len(x), -1, groups, x.shape[-1] // groups), 2, 0)


def _group_forward(y, mean, inverse, x, scale, shift, eps, workspace, threads):
    """A layer norm of rows that hold all of a group's numbers of an item, without scale and shift, and then those."""
    seen = _grouped(x, len(mean))
    rows, normal = (workspace.array(f"norm.group.{name}", seen.shape, x.dtype) for name in ("rows", "normal"))
    rows[...] = seen
    flat = rows.reshape(*mean.shape, -1), normal.reshape(*mean.shape, -1)
    forward(flat[1], mean, inverse, None, flat[0], None, None, "layer", eps, False, workspace=workspace,
            threads=threads)  # fmt: skip
    _grouped(y, len(mean))[...] = normal
    if scale is not None:
        y *= scale
    if shift is not None:
        y += shift


def _group_backward(grads, dy, saved, workspace, threads):
    x, scale, mean, inverse, *_ = saved
    groups, seen = len(mean), _grouped(x, len(mean))
    rows, g, dx = (workspace.array(f"norm.group.{name}", seen.shape, x.dtype) for name in ("rows", "g", "dx"))
    rows[...] = seen
    if grads.x is not None:
        g[...] = _grouped(dy, groups)
        if scale is not None:
            g *= scale.reshape(groups, 1, 1, -1)
        flat = [a.reshape(*mean.shape, -1) for a in (rows, g, dx)]
        inner = saved._replace(x=flat[0], scale=None, shift=False, kind="layer")
        backward(grads._replace(x=flat[2], scale=None, shift=None), flat[1], inner, workspace=workspace,
                 threads=threads)  # fmt: skip
        _grouped(grads.x, groups)[...] = dx
    if grads.shift is not None:
        grads.shift[...] += dy.sum(tuple(range(dy.ndim - 1)), dtype=np.float64).astype(x.dtype)
    if grads.scale is not None:
        rows -= mean[..., None, None]
        rows *= inverse[..., None, None]
        rows *= _grouped(dy, groups)
        grads.scale[...] += rows.sum((1, 2), dtype=np.float64).reshape(-1).astype(x.dtype)


class _Work:
    """The tasks of a call, and its arrays."""

    def __init__(self, workspace, x, threads):
        self.workspace, self.threads, self.dtype = workspace or Workspace(), pool.check_threads(threads), x.dtype
        self.x, self.channels = layout.flat(x), x.shape[-1]
        self.size = -(-TILE // self.channels) * self.channels
        piece = -(-PIECE // self.size) * self.size
        self.pieces = [(begin, min(begin + piece, x.size)) for begin in range(0, x.size, piece)]

    def zeros(self, name, *shape):
        array = self.workspace.array(f"norm.{name}", shape, self.dtype)
        array[...] = 0
        return array

    def vector(self, name, values, default):
        array = self.workspace.array(f"norm.{name}", (self.channels,), self.dtype)
        array[...] = default if values is None else values
        return array

    def tile(self, name, values, default=None):
        """What belongs to the channels, repeated."""
        array = self.workspace.array(f"norm.tile.{name}", (self.size,), self.dtype)
        array.reshape(-1, self.channels)[...] = default if values is None else values
        return array

    def run(self, kernel, *arrays, each=None):
        """A task for each piece."""
        extra = [()] * len(self.pieces) if each is None else [(part,) for part in each]
        calls = [(kernel, *arrays, *more, *piece) for piece, more in zip(self.pieces, extra, strict=True)]
        pool.run(calls, self.threads)

    def channel_sums(self, kernel, kind, count, *arrays):
        """So many sums over all rows, (count, C) in float64."""
        slabs = self.workspace.array(f"norm.sums.{count}", (len(self.pieces), count * self.size), self.dtype)
        self.run(kernel, kind, self.x, *arrays, each=slabs)
        return slabs.reshape(len(slabs), count, -1, self.channels).sum((0, 2), dtype=np.float64)


# ---- kernels: a piece each -------------------------------------------------------------------------------------------
@jit
def _sums(kind, x, totals, begin, end):
    """totals ="""
    zero_memory(address(totals, 0), len(totals))
    for i in range(begin, end, len(totals)):
        total = address(totals, 0)
        _passes(kind, (address(x, i), total), (total,), min(len(totals), end - i))


@jit
def _centred_sums(kind, x, mean, totals, begin, end):
    """totals ="""
    zero_memory(address(totals, 0), len(totals))
    for i in range(begin, end, len(totals)):
        total = address(totals, 0)
        _passes(kind, (address(x, i), address(mean, 0), total), (total,), min(len(totals), end - i))


@jit
def _forward_channels(kind, y, x, mean, factor, shift, begin, end):
    """y ="""
    for i in range(begin, end, len(mean)):
        sources = address(x, i), address(mean, 0), address(factor, 0), address(shift, 0)
        _passes(kind, sources, (address(y, i),), min(len(mean), end - i))


@jit
def _gradient_sums(kind, x, dy, mean, inverse, totals, begin, end):
    """totals ="""
    zero_memory(address(totals, 0), len(totals))
    for i in range(begin, end, len(mean)):
        first, second = address(totals, 0), address(totals, len(mean))
        sources = address(dy, i), address(x, i), address(mean, 0), address(inverse, 0), first, second
        _passes(kind, sources, (first, second), min(len(mean), end - i))


@jit
def _backward_channels(kind, dx, dy, x, mean, inverse, factor, first, second, begin, end):
    """dx ="""
    for i in range(begin, end, len(mean)):
        sources = (address(dy, i), address(x, i), address(mean, 0), address(inverse, 0), address(factor, 0),
                   address(first, 0), address(second, 0))  # fmt: skip
        _passes(kind, sources, (address(dx, i),), min(len(mean), end - i))


@jit
def _forward_rows(y, mean, inverse, x, scale, shift, eps, centred, begin, end):
    """y =, mean = (if centred), inverse ="""
    n = len(scale)
    one = inverse.dtype.type(1)
    for i in range(begin, end, n):
        row = i // n
        if centred:
            mean[row] = _total(RowSum(0), (address(x, i),), n)[0] / n
        square = _total(RowSquares(mean[row]), (address(x, i),), n)[0] / n
        inverse[row] = one / np.sqrt(square + eps)
        sources = address(x, i), address(scale, 0), address(shift, 0)
        _passes(RowApply(mean[row], inverse[row]), sources, (address(y, i),), n)


@jit
def _backward_rows(dx, dy, mean, inverse, x, scale, centred, sums, begin, end):
    """dx =, sums =: this piece's dshift and dscale"""
    n = len(scale)
    zero_memory(address(sums, 0), len(sums))
    dshift, dscale = address(sums, 0), address(sums, n)
    for i in range(begin, end, n):
        row = i // n
        three = address(dy, i), address(x, i), address(scale, 0)
        first, second = _totals(RowGradients(mean[row], inverse[row]), three, n)
        if not centred:
            first = inverse.dtype.type(0)
        kind = RowBack(mean[row], inverse[row], first / n, second / n)
        sources = address(dy, i), address(x, i), address(scale, 0), dscale, dshift
        _passes(kind, sources, (address(dx, i), dscale, dshift), n)
