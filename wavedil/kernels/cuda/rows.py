"""Rows that are copied: columns of them, and the past of a stream in a ring."""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import elementwise
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals


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


def row_kernels(dtype):
    """All kernels of this module and of `elementwise`."""
    own = (make(np.dtype(dtype), threads_or(256)) for make in (_move, _unroll, _remember))
    return (*elementwise.kernels(dtype), *own)
