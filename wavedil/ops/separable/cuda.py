"""CUDA: the depthwise part one thread an element, neighbours in channels; the pointwise part by tiles.

One dimension is taken as two with a single column. The gradient of the depthwise weights is added up slab by slab of
positions, in their order.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.rows import remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import add_slabs, cut_rows, sum_slabs


def forward(y, x, depth, point, b, dilation, padding, *, workspace, threads):
    """y ="""
    make = scratch(workspace, x.engine)
    h = make("hidden", (*y.shape[:-1], x.shape[-1]), x.dtype)
    _depthwise(h, x, depth, dilation, padding, 1)
    products.rows(_flat(y), _flat(h), point, bias=b)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.depth +=, grads.point +=, grads.b +="""
    x, depth, point, _, dilation, padding = saved
    make, shape = scratch(workspace, dy.engine), (*dy.shape[:-1], x.shape[-1])
    if grads.point is not None or grads.b is not None:
        h = make("hidden", shape, x.dtype)
        _depthwise(h, x, depth, dilation, padding, 1)
        products.columns(make, grads.point, grads.b, _flat(h), _flat(dy))
    if grads.x is None and grads.depth is None:
        return
    dh = make("dhidden", shape, x.dtype)
    products.rows(_flat(dh), _flat(dy), point, transposed=True)
    if grads.x is not None:
        _depthwise(grads.x, dh, depth, dilation, padding, -1)
    if grads.depth is not None:
        places = _places(depth, dilation, padding)
        (rows, columns), (height, width) = _plane(dy), _plane(x)
        pixels, channels = len(x) * rows * columns, x.shape[-1]
        slab_rows, slabs = cut_rows(1, pixels, 16)
        sums = make("depth sums", (slabs, depth.size), x.dtype)
        kernel = _weights(x.dtype, threads_or(128))
        kernel(
            blocks_for(kernel, sums.size), sums, x, dh, slabs, slab_rows, pixels, height, width, rows, columns,
            channels, depth.size // channels, *places,
        )  # fmt: skip
        add_slabs(None, grads.depth, sums, depth.size, depth.size, slabs)


def step(y, state, x, depth, point, b, dilation, *, workspace):
    """y =, and the state moves on."""
    history, position = state
    (batch, span, channels), n = history.shape, x.shape[1]
    rows = scratch(workspace, x.engine)("rows", (batch, span + n, channels), x.dtype)
    unroll(rows, history, x, int(position[0]))
    forward(y, rows, depth, point, b, dilation, ((0, 0),), workspace=workspace, threads=None)
    remember(history, x, int(position[0]))
    if span:
        position[0] = (position[0] + n) % span


def _flat(array):
    return array.reshape(1, -1, array.shape[-1])


def _plane(array):
    """Rows and columns."""
    return (array.shape[1], 1) if array.ndim == 3 else array.shape[1:3]


def _places(depth, dilation, padding):
    """Taps of a row of the kernel; rows and columns between taps; zeros above and on the left."""
    if depth.ndim == 3:
        return 1, dilation[0], 1, padding[0][0], 0
    return depth.shape[1], *dilation, padding[0][0], padding[1][0]


def _depthwise(y, x, depth, dilation, padding, sign):
    """y = the depthwise convolution of x, or with sign -1 the gradient of its input, given that of its output."""
    channels = x.shape[-1]
    kernel = _depth(x.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, y.size), y, x, depth, y.size, *_plane(x), *_plane(y), channels, depth.size // channels,
        *_places(depth, dilation, padding), sign,
    )  # fmt: skip


@functools.cache
def _depth(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(
        y, x, depth, count, height, width, rows, columns, channels, taps, kw, r, s, above, left, sign
    ):  # fmt: skip
        """y =: each channel by itself; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c, pixel = i % channels, i // channels
            total = zero
            for tap in range(taps):
                row = pixel // columns % rows + sign * (tap // kw * r - above)
                column = pixel % columns + sign * (tap % kw * s - left)
                if row >= 0 and row < height and column >= 0 and column < width:
                    at = (pixel // (rows * columns) * height + row) * width + column
                    total += x[uint64(at * channels + c)] * depth[uint64(tap * channels + c)]
            y[uint64(i)] = total

    return Kernel(f"depthwise.{dtype}", kernel, (array,) * 3 + (int64,) * 13, threads)


@functools.cache
def _weights(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(
        sums, x, dh, slabs, slab_rows, pixels, height, width, rows, columns, channels, taps, kw, r, s, above, left
    ):  # fmt: skip
        """sums (slabs, taps, C) =: the gradient of the depthwise weights; one thread a weight of a slab."""
        for i in range(cuda.grid(1), slabs * taps * channels, cuda.gridsize(1)):
            c, tap, slab = i % channels, i // channels % taps, i // (channels * taps)
            total = zero
            for pixel in range(slab * slab_rows, min((slab + 1) * slab_rows, pixels)):
                row = pixel // columns % rows + tap // kw * r - above
                column = pixel % columns + tap % kw * s - left
                if row >= 0 and row < height and column >= 0 and column < width:
                    at = (pixel // (rows * columns) * height + row) * width + column
                    total += x[uint64(at * channels + c)] * dh[uint64(pixel * channels + c)]
            sums[uint64(i)] = total

    return Kernel(f"depthwise_weights.{dtype}", kernel, (array,) * 3 + (int64,) * 14, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    return (
        _depth(dtype, threads_or(256)), _weights(dtype, threads_or(128)), products.row_product(dtype),
        products.row_product(dtype, transposed=True), products.column_product(dtype), sum_slabs(dtype),
        *row_kernels(dtype),
    )  # fmt: skip
