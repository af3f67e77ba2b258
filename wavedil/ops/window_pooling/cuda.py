"""CUDA: one thread an element, of y forward and of dx backward, so that sums need no atomics.

Backward asks for each pixel which windows hold it. Neighbouring threads have neighbouring channels, so that loads are
coalesced.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda_device import Kernel, threads_or
from wavedil.kernels.cuda_rows import blocks_for
from wavedil.kernels.cuda_tiles import reals
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
    kernel(blocks_for(kernel, dx.size), dx, dy, *([places] if largest else []), dx.size, *_sizes(dx, windows))


def step(y, state, x, kind, window, stride, *, workspace):
    """y =, and the state, which lies on the host, moves on."""
    out = np.empty(y.shape, y.dtype)
    reference.step(out, state, x.to_host(), kind, window, stride, workspace=None)
    y.set(out)


def _sizes(x, windows):
    return (*x.shape[1:], *windows.window, *windows.stride, *windows.before, *windows.count)


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
            top, left = i * stride_height - above, j * stride_width - before
            bottom, right = min(top + window_height, height), min(left + window_width, width)
            top, left = max(top, 0), max(left, 0)
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
            top, left = i * stride_height - above, j * stride_width - before
            bottom, right = min(top + window_height, height), min(left + window_width, width)
            top, left = max(top, 0), max(left, 0)
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

    def average(dx, dy, count, height, width, channels, window_height, window_width, stride_height, stride_width, above,
                before, rows, columns):  # fmt: skip
        """dx =: from all windows that hold a pixel; one thread an element."""
        for e in range(cuda.grid(1), count, cuda.gridsize(1)):
            k, c = e % channels, e // channels % width
            r, b = e // (channels * width) % height, e // (channels * width * height)
            first_i = max(0, (r + above - window_height + stride_height) // stride_height)
            first_j = max(0, (c + before - window_width + stride_width) // stride_width)
            total = zero
            for i in range(first_i, min(rows, (r + above) // stride_height + 1)):
                top = i * stride_height - above
                high = min(top + window_height, height) - max(top, 0)
                for j in range(first_j, min(columns, (c + before) // stride_width + 1)):
                    left = j * stride_width - before
                    wide = min(left + window_width, width) - max(left, 0)
                    total += dy[uint64(((b * rows + i) * columns + j) * channels + k)] / real(high * wide)
            dx[uint64(e)] = total

    def maximum(dx, dy, places, count, height, width, channels, window_height, window_width, stride_height,
                stride_width, above, before, rows, columns):  # fmt: skip
        """dx =: from the windows in which a pixel is the largest; one thread an element."""
        for e in range(cuda.grid(1), count, cuda.gridsize(1)):
            k, c = e % channels, e // channels % width
            r, b = e // (channels * width) % height, e // (channels * width * height)
            first_i = max(0, (r + above - window_height + stride_height) // stride_height)
            first_j = max(0, (c + before - window_width + stride_width) // stride_width)
            total = zero
            for i in range(first_i, min(rows, (r + above) // stride_height + 1)):
                for j in range(first_j, min(columns, (c + before) // stride_width + 1)):
                    at = uint64(((b * rows + i) * columns + j) * channels + k)
                    if places[at] == r * width + c:
                        total += dy[at]
            dx[uint64(e)] = total

    if largest:
        return Kernel(f"pool_max_back.{dtype}", maximum, (array, array, int64[::1]) + (int64,) * 12, threads)
    return Kernel(f"pool_average_back.{dtype}", average, (array, array) + (int64,) * 12, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    return tuple(make(dtype, threads, largest) for make in (_forward, _backward) for largest in (False, True))
