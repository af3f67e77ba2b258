"""CUDA: tiled products whose rows are those that each tap sees; groups have plain kernels, one thread an element.

======  ==============================================================================
y       rows t - left + k dilation of x, times w[k]               `rows`
dx      rows t + left - k dilation of dy, times w[k]^T            `rows`, transposed
dw, db  rows t - left + k dilation of x, transposed, times dy     `columns`: slabs of rows
======  ==============================================================================
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.gather import sum_kernel
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.rows import remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import add_slabs, cut_rows, sum_slabs


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y ="""
    if groups == 1:
        products.rows(y, x, w, bias=b, taps=w.shape[0], shift=-padding[0], dilation=dilation)
        return
    kernel = _grouped_forward(y.dtype, threads_or(128))
    kernel(
        blocks_for(kernel, y.size), y, x, w, y if b is None else b,
        *_sizes(x, y, w, groups), -padding[0], dilation, b is not None,
    )  # fmt: skip


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, _, dilation, padding, groups, *_ = saved
    left, taps = padding[0], w.shape[0]
    make = scratch(workspace, dy.engine)
    if grads.x is not None:
        if groups == 1:
            products.rows(grads.x, dy, w, taps=taps, shift=left, dilation=-dilation, transposed=True)
        else:
            kernel = _grouped_input_gradient(dy.dtype, threads_or(128))
            kernel(blocks_for(kernel, x.size), grads.x, dy, w, *_sizes(x, dy, w, groups), -left, dilation)
    if grads.w is None and grads.b is None:
        return
    if groups == 1:
        products.columns(make, grads.w, grads.b, x, dy, taps=taps, shift=-left, dilation=dilation)
    else:
        kernel = _grouped_weight_gradient(dy.dtype, threads_or(128))
        slab_rows, item_slabs = cut_rows(x.shape[0], dy.shape[1], 16)
        count, slabs = dy.shape[2], x.shape[0] * item_slabs
        size = (taps * w.shape[1] + 1) * count
        sums = make(("sums", slabs * size), (slabs * size,), dy.dtype)
        work = blocks_for(kernel, slabs * size)
        kernel(work, sums, x, dy, *_sizes(x, dy, w, groups), -left, dilation, slab_rows, item_slabs)
        add_slabs(grads.w, grads.b, sums, size, count, slabs)


def step(y, state, x, w, b, dilation, groups, *, workspace):
    """y =, and the state moves on."""
    history, position = state
    (batch, span, channels), n = history.shape, x.shape[1]
    rows = scratch(workspace, x.engine)("conv1d.rows", (batch, span + n, channels), x.dtype)
    unroll(rows, history, x, int(position[0]))
    forward(y, rows, w, b, dilation, (0, 0), groups, workspace=workspace, threads=None)
    remember(history, x, int(position[0]))
    if span:
        position[0] = (position[0] + n) % span


def _sizes(x, y, w, groups):
    """batch, rows_in, rows, inputs and outputs of a group, groups, taps"""
    return x.shape[0], x.shape[1], y.shape[1], w.shape[1], w.shape[2] // groups, groups, w.shape[0]


# ---- kernels of groups: one thread an element, neighbours in channels ------------------------------------------------
@functools.cache
def _grouped_forward(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(y, x, w, bias, batch, rows_in, rows, inputs, outputs, groups, taps, shift, dilation, biased):
        """y =: groups of channels, one thread an element."""
        columns = groups * outputs
        for i in range(cuda.grid(1), batch * rows * columns, cuda.gridsize(1)):
            n, t, b = i % columns, i // columns % rows, i // (columns * rows)
            first = n // outputs * inputs
            total = zero
            if biased:
                total = bias[uint64(n)]
            for k in range(taps):
                row = t + shift + k * dilation
                if row >= 0 and row < rows_in:
                    at = (b * rows_in + row) * groups * inputs + first
                    for c in range(inputs):
                        total += x[uint64(at + c)] * w[uint64((k * inputs + c) * columns + n)]
            y[uint64(i)] = total

    return Kernel(f"grouped_forward.{dtype}", kernel, (array,) * 4 + (int64,) * 10, threads)


@functools.cache
def _grouped_input_gradient(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(dx, dy, w, batch, rows_in, rows, inputs, outputs, groups, taps, shift, dilation):
        """dx =: groups of channels, one thread an element."""
        channels, columns = groups * inputs, groups * outputs
        for i in range(cuda.grid(1), batch * rows_in * channels, cuda.gridsize(1)):
            channel, row, b = i % channels, i // channels % rows_in, i // (channels * rows_in)
            first, c = channel // inputs * outputs, channel % inputs
            total = zero
            for k in range(taps):
                t = row - shift - k * dilation
                if t >= 0 and t < rows:
                    at = (b * rows + t) * columns + first
                    for n in range(outputs):
                        total += dy[uint64(at + n)] * w[uint64((k * inputs + c) * columns + first + n)]
            dx[uint64(i)] = total

    return Kernel(f"grouped_input_gradient.{dtype}", kernel, (array,) * 3 + (int64,) * 9, threads)


@functools.cache
def _grouped_weight_gradient(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(
        sums, x, dy, batch, rows_in, rows, inputs, outputs, groups, taps, shift, dilation, slab_rows, item_slabs
    ):  # fmt: skip
        """sums =: of each slab dw and, in a last row, db; one thread an element."""
        columns = groups * outputs
        size = (taps * inputs + 1) * columns
        for i in range(cuda.grid(1), batch * item_slabs * size, cuda.gridsize(1)):
            n, line, slab = i % columns, i % size // columns, i // size
            k, c = line // inputs, n // outputs * inputs + line % inputs
            b, begin = slab // item_slabs, slab % item_slabs * slab_rows
            total = zero
            for t in range(begin, min(begin + slab_rows, rows)):
                right = dy[uint64((b * rows + t) * columns + n)]
                if k == taps:
                    total += right
                else:
                    row = t + shift + k * dilation
                    if row >= 0 and row < rows_in:
                        total += x[uint64((b * rows_in + row) * groups * inputs + c)] * right
            sums[uint64(i)] = total

    return Kernel(f"grouped_weight_gradient.{dtype}", kernel, (array,) * 3 + (int64,) * 11, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    grouped = (_grouped_forward, _grouped_input_gradient, _grouped_weight_gradient)
    return (
        products.row_product(dtype),
        products.row_product(dtype, transposed=True),
        products.column_product(dtype),
        sum_slabs(dtype),
        *(make(dtype, threads_or(128)) for make in grouped),
        *row_kernels(dtype), sum_kernel(dtype),
    )
