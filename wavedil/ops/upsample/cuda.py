"""CUDA: rows are repeated one thread an element; a transposed convolution is a causal one with all phases side by side.

Its weight, seen that way, is ``(ceil(K / factor), C, factor N)``: tap j from the end has taps j factor + p of phase p.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import add_slabs, sum_slabs


def forward(y, x, w, b, factor, *, workspace, threads):
    """y ="""
    if w is None:
        kernel = _repeat(y.dtype, threads_or(256))
        kernel(blocks_for(kernel, y.size), y, x, y.size, factor, x.shape[2])
        return
    make = scratch(workspace, x.engine)
    phases, taps = _phases(make, w, factor), _taps(w, factor)
    bias = None
    if b is not None:
        bias = make("bias", (factor, b.size), b.dtype)
        kernel = _repeat(b.dtype, threads_or(256))
        kernel(blocks_for(kernel, bias.size), bias, b, bias.size, factor, b.size)
    y = y.reshape(*x.shape[:2], phases.shape[2])
    products.rows(y, x, phases, bias=bias, taps=taps, shift=1 - taps)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, _, factor, _ = saved
    make = scratch(workspace, dy.engine)
    if w is None:
        if grads.x is not None:
            kernel = _add_repeats(dy.dtype, threads_or(256))
            kernel(blocks_for(kernel, x.size), grads.x, dy, x.size, factor, x.shape[2])
        return
    taps, outputs = _taps(w, factor), w.shape[2]
    dy = dy.reshape(*x.shape[:2], factor * outputs)
    if grads.x is not None:
        phases = _phases(make, w, factor)
        products.rows(grads.x, dy, phases, taps=taps, shift=taps - 1, dilation=-1, transposed=True)
    dw = db = None
    if grads.w is not None:
        dw = make("dphases", (taps, w.shape[1], factor * outputs), dy.dtype)
        dw.fill(0)
    if grads.b is not None:
        db = make("dbias", (factor, outputs), dy.dtype)
        db.fill(0)
    products.columns(make, dw, db, x, dy, taps=taps, shift=1 - taps)
    if dw is not None:
        kernel = _unpack(w.dtype, threads_or(256))
        kernel(blocks_for(kernel, w.size), grads.w, dw, w.size, taps, factor, w.shape[1], outputs)
    if db is not None:
        add_slabs(None, grads.b, db, outputs, outputs, factor)


def _taps(w, factor):
    """Taps of the causal convolution."""
    return -(-w.shape[0] // factor)


def _phases(make, w, factor):
    """The weight with all phases side by side."""
    kernel_size, inputs, outputs = w.shape
    phases = make("phases", (_taps(w, factor), inputs, factor * outputs), w.dtype)
    kernel = _pack(w.dtype, threads_or(256))
    kernel(blocks_for(kernel, phases.size), phases, w, phases.size, kernel_size, factor, inputs, outputs)
    return phases


@functools.cache
def _repeat(dtype, threads):
    _, array = reals(dtype)

    def kernel(y, x, count, factor, channels):
        """y =: each row of x so many times; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            y[uint64(i)] = x[uint64(i // channels // factor * channels + i % channels)]

    return Kernel(f"repeat.{dtype}", kernel, (array, array) + (int64,) * 3, threads)


@functools.cache
def _add_repeats(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(dx, dy, count, factor, channels):
        """dx =: the sum of so many rows of dy; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            total = zero
            for p in range(factor):
                total += dy[uint64((i // channels * factor + p) * channels + i % channels)]
            dx[uint64(i)] = total

    return Kernel(f"add_repeats.{dtype}", kernel, (array, array) + (int64,) * 3, threads)


@functools.cache
def _pack(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(phases, w, count, kernel_size, factor, inputs, outputs):
        """phases =: w with all phases side by side, zeros beyond its taps; one thread an element."""
        taps = (kernel_size + factor - 1) // factor
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            n, p = i % outputs, i // outputs % factor
            c, j = i // (outputs * factor) % inputs, i // (outputs * factor * inputs)
            k = (taps - 1 - j) * factor + p
            value = zero
            if k < kernel_size:
                value = w[uint64((k * inputs + c) * outputs + n)]
            phases[uint64(i)] = value

    return Kernel(f"pack_phases.{dtype}", kernel, (array, array) + (int64,) * 5, threads)


@functools.cache
def _unpack(dtype, threads):
    _, array = reals(dtype)

    def kernel(dw, dphases, count, taps, factor, inputs, outputs):
        """dw +=: its elements of dphases; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            n, c, k = i % outputs, i // outputs % inputs, i // (outputs * inputs)
            row = (taps - 1 - k // factor) * inputs + c
            dw[uint64(i)] += dphases[uint64((row * factor + k % factor) * outputs + n)]

    return Kernel(f"unpack_phases.{dtype}", kernel, (array, array) + (int64,) * 5, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    return (
        *(make(dtype, threads) for make in (_repeat, _add_repeats, _pack, _unpack)), products.row_product(dtype),
        products.row_product(dtype, transposed=True), products.column_product(dtype), sum_slabs(dtype),
    )  # fmt: skip
