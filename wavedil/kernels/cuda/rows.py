"""Small CUDA kernels that several families share: sums of two arrays, and the past of a stream."""

import functools

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.device import Kernel, threads_or
from wavedil.kernels.cuda.products import add_slabs, cut_rows, sum_slabs
from wavedil.kernels.cuda.storage import reals


@functools.cache
def _add(dtype, threads):
    _, array = reals(dtype)

    def kernel(a, b, count):
        """a += b; a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] += b[uint64(i)]

    return Kernel(f"add.{dtype}", kernel, (array, array, int64), threads)


@functools.cache
def _scale(dtype, threads):
    real, array = reals(dtype)

    def kernel(a, factor, count):
        """a *= a number; a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] *= factor

    return Kernel(f"scale.{dtype}", kernel, (array, real, int64), threads)


@functools.cache
def _pull(dtype, threads):
    real, array = reals(dtype)

    def kernel(a, b, rate, count):
        """a -= rate (a - b); a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] -= rate * (a[uint64(i)] - b[uint64(i)])

    return Kernel(f"pull.{dtype}", kernel, (array, array, real, int64), threads)


@functools.cache
def _slab_sums(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(sums, values, rows, channels, slab_rows, slabs):
        """sums (slabs, C) =: the sum of each slab of rows; a thread has one channel of a slab."""
        for i in range(cuda.grid(1), slabs * channels, cuda.gridsize(1)):
            c, begin = i % channels, i // channels * slab_rows
            total = zero
            for row in range(begin, min(begin + slab_rows, rows)):
                total += values[uint64(row * channels + c)]
            sums[uint64(i)] = total

    return Kernel(f"slab_sums.{dtype}", kernel, (array, array) + (int64,) * 4, threads)


@functools.cache
def _move(dtype, threads):
    _, array = reals(dtype)

    def kernel(target, source, count, columns, target_step, to_column, source_step, from_column):
        """target = columns of the source; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            row, n = i // columns, i % columns
            target[uint64(row * target_step + to_column + n)] = source[uint64(row * source_step + from_column + n)]

    return Kernel(f"move_columns.{dtype}", kernel, (array, array) + (int64,) * 6, threads)


@functools.cache
def _unroll(dtype, threads):
    _, array = reals(dtype)

    def kernel(out, history, x, batch, span, rows, channels, position):
        """out (B, span + T, C) =: the past in its order, then x; a thread has one element at a time."""
        for i in range(cuda.grid(1), batch * (span + rows) * channels, cuda.gridsize(1)):
            c, t, b = i % channels, i // channels % (span + rows), i // (channels * (span + rows))
            if t < span:
                slot = (position + t) % span
                out[uint64(i)] = history[uint64((b * span + slot) * channels + c)]
            else:
                out[uint64(i)] = x[uint64((b * rows + t - span) * channels + c)]

    return Kernel(f"unroll.{dtype}", kernel, (array,) * 3 + (int64,) * 5, threads)


@functools.cache
def _remember(dtype, threads):
    _, array = reals(dtype)

    def kernel(history, x, batch, span, rows, channels, position):
        """history (a ring) =: the latest rows of x; a thread has one element at a time."""
        kept = min(span, rows)
        for i in range(cuda.grid(1), batch * kept * channels, cuda.gridsize(1)):
            c, b = i % channels, i // (channels * kept)
            t = rows - kept + i // channels % kept
            slot = (position + t) % span
            history[uint64((b * span + slot) * channels + c)] = x[uint64((b * rows + t) * channels + c)]

    return Kernel(f"remember.{dtype}", kernel, (array,) * 2 + (int64,) * 5, threads)


@functools.cache
def _total(threads):
    def kernel(out, values, count):
        """out (1,) =: a sum in float64, by one block."""
        held = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        if cuda.blockIdx.x == 0:
            part = float64(0)
            for i in range(thread, count, threads):
                part += values[uint64(i)]
            held[thread] = part
            cuda.syncthreads()
            if thread == 0:
                part = float64(0)
                for i in range(threads):
                    part += held[i]
                out[0] = part

    double = types.Array(float64, 1, "C")
    return Kernel("total.float64", kernel, (double, double, int64), threads)


def blocks_for(kernel, count):
    """Blocks for so many elements, one a thread."""
    return -(-count // kernel.threads)


def add(a, b):
    """a += b"""
    kernel = _add(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, b, a.size)


def scale(a, factor):
    """a *= a number"""
    kernel = _scale(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, float(factor), a.size)


def pull(a, b, rate):
    """a -= rate (a - b)"""
    kernel = _pull(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, b, float(rate), a.size)


def add_rows_to(make, out, values):
    """out (C,) += the sum of the rows of values (..., C), slab by slab."""
    channels = values.shape[-1]
    rows = values.size // channels
    slab_rows, slabs = cut_rows(1, rows, 16)
    sums = make(("row sums", slabs, channels), (slabs, channels), values.dtype)
    kernel = _slab_sums(values.dtype, threads_or(128))
    kernel(blocks_for(kernel, sums.size), sums, values, rows, channels, slab_rows, slabs)
    add_slabs(None, out, sums, channels, channels, slabs)


def sum_kernels(dtype):
    """The kernels of `add_rows_to`."""
    return _slab_sums(np.dtype(dtype), threads_or(128)), sum_slabs(dtype)


def move_columns(target, source, from_column, to_column):
    """The target's columns from ``to_column`` on = the source's from ``from_column`` on, (1, rows, columns) both.

    As many as the narrower one has. Returns the target.
    """
    rows, columns = source.shape[1], min(target.shape[2], source.shape[2])
    kernel = _move(source.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, rows * columns), target, source, rows * columns, columns, target.shape[2], to_column,
        source.shape[2], from_column,
    )  # fmt: skip
    return target


def unroll(out, history, x, position):
    """out (B, span + T, C) = the rows of the ring ``history (B, span, C)``, oldest first, and those of x."""
    kernel = _unroll(x.dtype, threads_or(256))
    (batch, span, channels), rows = history.shape, x.shape[1]
    kernel(blocks_for(kernel, out.size), out, history, x, batch, span, rows, channels, position)


def remember(history, x, position):
    """Put the latest rows of x into the ring, whose oldest row is at ``position``."""
    batch, span, channels = history.shape
    if span:
        kernel = _remember(x.dtype, threads_or(256))
        kernel(blocks_for(kernel, x.size), history, x, batch, span, x.shape[1], channels, position)


def sum_of_all():
    """The kernel of `total`."""
    return _total(threads_or(256))


def total(out, values):
    """out (1,) = the sum of float64 values, by one block, in a fixed order."""
    sum_of_all()(1, out, values, values.size)


def kernels(dtype):
    """All kernels of this module."""
    dtype = np.dtype(dtype)
    return tuple(make(dtype, threads_or(256)) for make in (_add, _scale, _pull, _move, _unroll, _remember))
