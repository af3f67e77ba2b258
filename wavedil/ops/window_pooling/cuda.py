"""CUDA: one thread an element, of y forward and of dx backward, so that sums need no atomics.

Backward asks for each pixel which windows hold it. Neighbouring threads have neighbouring channels, so that loads are
coalesced.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.ops.window_pooling import images, reference


def forward(y, places, x, windows, *, workspace, threads):
    """y =, places ="""
    x, y = images(windows, x, y)
    largest = windows.kind == "max"
    kernel = _forward(y.dtype, threads_or(256), largest)
    kernel(blocks_for(kernel, y.size), y, *([places] if largest else []), x, y.size, *_sizes(x, windows))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    _, places, windows = saved
    if grads.x is None:
        return
    dx, dy = images(windows, grads.x, dy)
    largest = windows.kind == "max"
    kernel = _backward(dx.dtype, threads_or(256), largest)
    places = places if largest else products.no_codes(dx.engine)
    kernel(blocks_for(kernel, dx.size), dx, dy, places, dx.size, *_sizes(dx, windows))


def step(y, state, x, kind, window, stride, *, workspace):
    """y =, and the state, which lies on the host, moves on."""
    out = np.empty(y.shape, y.dtype)
    reference.step(out, state, x.to_host(), kind, window, stride, workspace=None)
    y.set(out)


def _sizes(x, windows):
    return (*x.shape[1:], *windows.window, *windows.stride, *windows.before, *windows.count)


@cuda.jit(device=True)
def _span(i, window, stride, before, size):
    """(first, last + 1) of window i within the image."""
    begin = i * stride - before
    return max(begin, 0), min(begin + window, size)


@cuda.jit(device=True)
def _holding(r, window, stride, before, count):
    """(first, last + 1) of the windows that hold row r."""
    return max(0, (r + before - window + stride) // stride), min(count, (r + before) // stride + 1)


@functools.cache
def _forward(dtype, threads, largest):
    real, array = reals(dtype)
    zero = real(0)

    def average(y, x, count, height, width, channels, window_height, window_width, stride_height, stride_width, above,
                before, rows, columns):  # fmt: skip
        """y =: the average of a window; one thread an element."""
        for e in range(cuda.grid(1), count, cuda.gridsize(1)):
            k, j = e % channels, e // channels % columns
            i, b = e // (channels * columns) % rows, e // (channels * columns * rows)
            top, bottom = _span(i, window_height, stride_height, above, height)
            left, right = _span(j, window_width, stride_width, before, width)
            total = zero
            for r in range(top, bottom):
                for c in range(left, right):
                    total += x[uint64(((b * height + r) * width + c) * channels + k)]
            y[uint64(e)] = total / real((bottom - top) * (right - left))

    def maximum(y, places, x, count, height, width, channels, window_height, window_width, stride_height, stride_width,
                above, before, rows, columns):  # fmt: skip
        """y =, places =: the largest of a window, the first NaN if there is one; one thread an element."""
        for e in range(cuda.grid(1), count, cuda.gridsize(1)):
            k, j = e % channels, e // channels % columns
            i, b = e // (channels * columns) % rows, e // (channels * columns * rows)
            top, bottom = _span(i, window_height, stride_height, above, height)
            left, right = _span(j, window_width, stride_width, before, width)
            place = top * width + left
            best = x[uint64((b * height * width + place) * channels + k)]
            for r in range(top, bottom):
                for c in range(left, right):
                    value = x[uint64(((b * height + r) * width + c) * channels + k)]
                    if value > best or (value != value and best == best):
                        best, place = value, r * width + c
            y[uint64(e)], places[uint64(e)] = best, place

    if largest:
        return Kernel(f"pool_max.{dtype}", maximum, (array, int64[::1], array) + (int64,) * 12, threads)
    return Kernel(f"pool_average.{dtype}", average, (array, array) + (int64,) * 12, threads)


@functools.cache
def _backward(dtype, threads, largest):
    real, array = reals(dtype)
    zero = real(0)

    @cuda.jit(device=True)
    def share_of_average(dy, at, i, j, height, width, window_height, window_width, stride_height, stride_width, above,
                         before):  # fmt: skip
        top, bottom = _span(i, window_height, stride_height, above, height)
        left, right = _span(j, window_width, stride_width, before, width)
        return dy[at] / real((bottom - top) * (right - left))

    def kernel(dx, dy, places, count, height, width, channels, window_height, window_width, stride_height, stride_width,
               above, before, rows, columns):  # fmt: skip
        """dx =: from all windows that hold a pixel, or in which it is the largest; one thread an element."""
        for e in range(cuda.grid(1), count, cuda.gridsize(1)):
            k, c = e % channels, e // channels % width
            r, b = e // (channels * width) % height, e // (channels * width * height)
            first_i, last_i = _holding(r, window_height, stride_height, above, rows)
            first_j, last_j = _holding(c, window_width, stride_width, before, columns)
            total = zero
            for i in range(first_i, last_i):
                for j in range(first_j, last_j):
                    at = uint64(((b * rows + i) * columns + j) * channels + k)
                    if not largest:
                        total += share_of_average(dy, at, i, j, height, width, window_height, window_width,
                                                  stride_height, stride_width, above, before)  # fmt: skip
                    elif places[at] == r * width + c:
                        total += dy[at]
            dx[uint64(e)] = total

    name = "pool_max_back" if largest else "pool_average_back"
    return Kernel(f"{name}.{dtype}", kernel, (array, array, int64[::1]) + (int64,) * 12, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    return tuple(make(dtype, threads, largest) for make in (_forward, _backward) for largest in (False, True))
