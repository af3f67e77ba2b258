"""CUDA: what each tap sees is laid side by side, some items at a time, and tiled products do the rest.

======  ====================================================================================
y       pixels as the taps see them, (rows, kh kw C)              @ w
dx      pixels of dy that saw them, taps in reverse, the same way @ w with C and N exchanged
dw, db  pixels as the taps see them, transposed                   @ dy: slabs of rows
======  ====================================================================================

Groups are products of their own: their channels are picked out when the taps are laid side by side, and put back.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import elementwise, products
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.gather import sum_kernel
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.rows import move_columns, remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import sum_slabs

ELEMENTS = 2**24  # of what the taps see, at once


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y ="""
    make = scratch(workspace, x.engine)
    (above, _), (left, _) = padding
    inputs, outputs = w.shape[2], w.shape[3] // groups
    for g in range(groups):
        weight = _group(make, w, g, groups)
        bias = None if b is None else b.part(g * outputs, (g + 1) * outputs)
        for item, count, seen in _taps(make, x, y.shape[1:3], w.shape[:2], dilation, (above, left), inputs, g, 1):
            _product(make, y, seen, weight, bias, item, count, g, groups)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, _, dilation, padding, groups, *_ = saved
    make, (kh, kw, inputs, _) = scratch(workspace, dy.engine), w.shape
    (above, _), (left, _) = padding
    outputs = w.shape[3] // groups
    for g in range(groups):
        if grads.x is not None:
            weight = _group(make, w, g, groups, exchanged=True)
            places = (above, left)
            for item, count, seen in _taps(make, dy, x.shape[1:3], (kh, kw), dilation, places, outputs, g, -1):
                _product(make, grads.x, seen, weight, None, item, count, g, groups)
        if grads.w is None and grads.b is None:
            continue
        dw = None
        if grads.w is not None:
            dw = make("dw of group", (kh * kw * inputs, outputs), w.dtype)
            dw.fill(0)
        db = None if grads.b is None else grads.b.part(g * outputs, (g + 1) * outputs)
        for item, count, seen in _taps(make, x, dy.shape[1:3], (kh, kw), dilation, (above, left), inputs, g, 1):
            part = dy[item : item + count].reshape(1, -1, w.shape[3])
            if groups > 1:
                own = make("dy of group", (1, part.shape[1], outputs), w.dtype)
                part = move_columns(own, part, g * outputs, 0)
            products.columns(make, dw, db, seen, part)
        if dw is not None:
            if groups == 1:
                elementwise.add(grads.w, dw)
            else:
                kernel = _add_columns(w.dtype, threads_or(256))
                kernel(blocks_for(kernel, dw.size), grads.w, dw, dw.size, w.shape[3], outputs, g * outputs)


def step(y, state, x, w, b, dilation, columns, groups, *, workspace):
    """y =, and the state moves on; ``columns`` is the padding of the columns."""
    history, position = state
    batch, span, width, channels = history.shape
    flat = history.reshape(batch, span, width * channels), x.reshape(batch, -1, width * channels)
    rows = scratch(workspace, x.engine)("rows", (batch, span + x.shape[1], width, channels), x.dtype)
    unroll(rows.reshape(batch, -1, width * channels), *flat, int(position[0]))
    forward(y, rows, w, b, dilation, ((0, 0), columns), groups, workspace=workspace, threads=None)
    remember(*flat, int(position[0]))
    if span:
        position[0] = (position[0] + x.shape[1]) % span


def _taps(make, x, size, kernel_size, dilation, places, channels, group, sign):
    """Some items at a time: the first, how many, and what each tap of a group's channels sees (1, pixels, taps C).

    Tap (p, q) of pixel (i, j) sees row ``i + sign (p r - above)`` and column ``j + sign (q s - left)``.
    """
    (kh, kw), pixels = kernel_size, size[0] * size[1]
    width = kh * kw * channels
    some = min(len(x), max(1, ELEMENTS // (pixels * width)))
    kernel = _see(x.dtype, threads_or(256))
    for item in range(0, len(x), some):
        count = min(some, len(x) - item)
        seen = make(("seen", count, pixels, width), (1, count * pixels, width), x.dtype)
        kernel(
            blocks_for(kernel, seen.size), seen, x[item : item + count], seen.size, *x.shape[1:], *size, kw, channels,
            group * channels, *dilation, *places, sign, width,
        )  # fmt: skip
        yield item, count, seen


def _group(make, w, group, groups, exchanged=False):
    """A group's weight as a matrix (taps C, N), or exchanged (taps N, C)."""
    kh, kw, inputs, columns = w.shape
    outputs = columns // groups
    if groups == 1 and not exchanged:
        return w.reshape(kh * kw * inputs, outputs)
    shape = (kh * kw * outputs, inputs) if exchanged else (kh * kw * inputs, outputs)
    weight = make(("weight", exchanged), shape, w.dtype)
    kernel = _pick(w.dtype, threads_or(256))
    first = group * outputs
    kernel(blocks_for(kernel, weight.size), weight, w, weight.size, inputs, columns, outputs, first, exchanged)
    return weight


def _product(make, y, seen, weight, bias, item, count, group, groups):
    """Some items of y, in a group's channels = seen weight + bias"""
    part, columns = y[item : item + count].reshape(1, -1, y.shape[3]), weight.shape[1]
    if groups == 1:
        products.rows(part, seen, weight, bias=bias)
        return
    product = make("product of group", (1, part.shape[1], columns), y.dtype)
    products.rows(product, seen, weight, bias=bias)
    move_columns(part, product, 0, group * columns)


@functools.cache
def _see(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(
        seen, x, count, height, width, all_channels, rows, columns, kw, channels, first, r, s, above, left, sign, wide
    ):  # fmt: skip
        """seen =: for each pixel what each tap sees, zeros outside of the image; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c, tap, pixel = i % channels, i % wide // channels, i // wide
            row = pixel // columns % rows + sign * (tap // kw * r - above)
            column = pixel % columns + sign * (tap % kw * s - left)
            value = zero
            if row >= 0 and row < height and column >= 0 and column < width:
                at = (pixel // (rows * columns) * height + row) * width + column
                value = x[uint64(at * all_channels + first + c)]
            seen[uint64(i)] = value

    return Kernel(f"see_taps.{dtype}", kernel, (array, array) + (int64,) * 15, threads)


@functools.cache
def _pick(dtype, threads):
    _, array = reals(dtype)

    def kernel(weight, w, count, inputs, columns, outputs, first, exchanged):
        """weight =: a group's columns, as (taps, C, N) or exchanged (taps, N, C); one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            if exchanged:
                c, n, tap = i % inputs, i // inputs % outputs, i // (inputs * outputs)
            else:
                n, c, tap = i % outputs, i // outputs % inputs, i // (inputs * outputs)
            weight[uint64(i)] = w[uint64((tap * inputs + c) * columns + first + n)]

    return Kernel(f"pick_group.{dtype}", kernel, (array, array) + (int64,) * 6, threads)


@functools.cache
def _add_columns(dtype, threads):
    _, array = reals(dtype)

    def kernel(dw, part, count, columns, outputs, first):
        """dw += in a group's columns; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            dw[uint64(i // outputs * columns + first + i % outputs)] += part[uint64(i)]

    return Kernel(f"add_columns.{dtype}", kernel, (array, array) + (int64,) * 4, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    return (
        *(make(dtype, threads) for make in (_see, _pick, _add_columns)), products.row_product(dtype),
        products.column_product(dtype), sum_slabs(dtype), *row_kernels(dtype), sum_kernel(dtype),
    )  # fmt: skip
