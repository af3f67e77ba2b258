"""CUDA: a thread copies an element; backward is a tiled product with one-hot codes.

Adding rows at the places of codes would need atomics, whose order changes from run to run. The product sums them in
an order that depends on the shape alone, and is small next to the other products of a network: Q R multiplications a
sample.
"""

import functools

import numpy as np
from numba import cuda, int64, types, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.array import int64_codes
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import add_slabs, sum_slabs


def forward(y, codes, table, *, workspace, threads):
    """y ="""
    kernel = _gather(table.dtype, y.dtype, threads_or(256))
    kernel(blocks_for(kernel, y.size), y, int64_codes(codes), table, codes.size, table.shape[1])


def backward(grads, dy, saved, *, workspace, threads):
    """grads.table +="""
    if grads.table is not None:
        make, rows = scratch(workspace, dy.engine), dy.reshape(1, -1, saved.channels)
        codes = int64_codes(saved.codes)
        products.columns(make, grads.table, None, None, rows, codes=codes, inputs=saved.classes, left="one_hot")


def add_rows(table, codes, rows, workspace):
    """table (Q, R) += the rows (B, R), or the sums over time of (B, T, R), at the places of host codes (B,)."""
    make, (classes, channels) = scratch(workspace, table.engine), table.shape
    if rows.ndim == 3:
        batch, time = rows.shape[:2]
        sums = make("sums of rows", (batch, channels), rows.dtype)
        sums.fill(0)
        add_slabs(None, sums, rows, channels, channels, batch * time, batch)
        rows = sums
    codes = table.engine.array(codes.astype(np.int64))
    rows = rows.reshape(1, -1, channels)
    products.columns(make, table, None, None, rows, codes=codes, inputs=classes, left="one_hot")


@functools.cache
def _gather(dtype, out, threads):
    (_, array), (stored, out_array) = reals(dtype), reals(out)

    def kernel(y, codes, table, count, channels):
        """y =: the rows of the codes; one thread an element, neighbours in channels."""
        for i in range(cuda.grid(1), count * channels, cuda.gridsize(1)):
            y[uint64(i)] = stored(table[uint64(codes[uint64(i // channels)] * channels + i % channels)])

    signature = (out_array, types.Array(int64, 1, "C"), array, int64, int64)
    return Kernel(f"gather{'' if out == dtype else '.y16'}.{dtype}", kernel, signature, threads)


def half_kernel():
    """The forward kernel of a float32 table whose rows are written as float16."""
    return _gather(np.dtype("float32"), np.dtype("float16"), threads_or(256))


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    return (
        _gather(dtype, dtype, threads_or(256)), products.column_product(dtype, "one_hot"), sum_slabs(dtype)
    )  # fmt: skip
