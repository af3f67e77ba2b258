"""Rows that are sums of listed rows: padding by copies, strides, and the way back of both."""

import functools

import numpy as np
from numba import cuda, int64, types, uint64

from wavedil.kernels.cuda.engine import stage
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals


def sum_of_rows(out, x, starts, places, workspace):
    """out (B, n, C) =: row i of an item is the sum of its rows ``places[starts[i]:starts[i + 1]]`` of x (B, m, C)."""
    lists = [
        stage(workspace, x.engine, f"rows' {name}", np.ascontiguousarray(values, np.int64))
        for name, values in (("starts", starts), ("places", places))
    ]
    kernel = sum_kernel(x.dtype)
    kernel(blocks_for(kernel, out.size), out, x, *lists, out.size, out.shape[1], x.shape[1], out.shape[2])


def sum_kernel(dtype):
    """The kernel of `sum_of_rows`."""
    return _sum(np.dtype(dtype), threads_or(256))


@functools.cache
def _sum(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(out, x, starts, places, count, rows, rows_in, channels):
        """out =: sums of listed rows, in their order; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c, row, b = i % channels, i // channels % rows, i // (channels * rows)
            total = zero
            for k in range(starts[uint64(row)], starts[uint64(row + 1)]):
                total += x[uint64((b * rows_in + places[uint64(k)]) * channels + c)]
            out[uint64(i)] = total

    lists = types.Array(int64, 1, "C")
    return Kernel(f"sum_of_rows.{dtype}", kernel, (array, array, lists, lists) + (int64,) * 4, threads)
