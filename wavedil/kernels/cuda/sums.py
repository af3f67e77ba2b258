"""Sums over rows in an order that depends on the shape alone: slab by slab, then the slabs in their order."""

import functools

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals

SLABS = 64  # of a sum over rows, about: enough blocks for a GPU, few enough to add up quickly


def cut_rows(batch, rows, depth):
    """Rows of a slab, and slabs of an item."""
    slab_rows = max(4 * depth, -(-rows // max(1, SLABS // batch)))
    return slab_rows, -(-rows // slab_rows)


def add_slabs(dw, db, sums, size, count, slabs, groups=1):
    """dw +=, db +=: slabs of ``size`` elements, the last ``count`` of which are those of db (for each group)."""
    kernel, weights = sum_slabs(sums.dtype), size - count
    begin = weights if dw is None else 0
    end = weights if db is None else weights + groups * count
    if begin == end:
        return
    dw, db = sums if dw is None else dw, sums if db is None else db
    kernel(-(-(end - begin) // kernel.threads), dw, db, sums, begin, end, weights, count, slabs, groups)


def sum_slabs(dtype):
    """The kernel that adds up slabs."""
    return _sum_slabs(np.dtype(dtype), threads_or(128))


@functools.cache
def _sum_slabs(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(dw, db, sums, begin, end, weights, count, slabs, groups):
        """dw +=, then db (groups, count) +=: elements begin to end, slabs in their order; one a thread."""
        step = weights + count  # of a slab
        for i in range(begin + cuda.grid(1), end, cuda.gridsize(1)):
            if i < weights:
                total = zero
                for s in range(slabs):
                    total += sums[uint64(s * step + i)]
                dw[uint64(i)] += total
            else:
                group, n = (i - weights) // count, (i - weights) % count
                total = zero
                for s in range(group * (slabs // groups), (group + 1) * (slabs // groups)):
                    total += sums[uint64(s * step + weights + n)]
                db[uint64(i - weights)] += total

    return Kernel(f"sum_slabs.{dtype}", kernel, (array,) * 3 + (int64,) * 6, threads)


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


def sum_values_kernel():
    """The kernel of `sum_values`."""
    return _total(threads_or(256))


def sum_values(out, values):
    """out (1,) = the sum of float64 values, by one block, in a fixed order."""
    sum_values_kernel()(1, out, values, values.size)
