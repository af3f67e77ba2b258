"""Numba: forward a window at a time, backward a pixel at a time, all channels together; parallel over rows.

Backward asks for each pixel which windows hold it, so that no two tasks write to the same place.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.panels import address, zero_memory
from wavedil.ops.window_pooling import images, joined

PIECE = 2**14  # elements that a task reads, about
SLOW = 6  # multiplications that take as long as an element, about
_NONE = np.zeros(0, np.int64)  # places of an average

Shape = namedtuple(
    "Shape", "height width channels window_height window_width stride_height stride_width top left rows columns largest"
)


def _shape(x, windows):
    pairs = (*windows.window, *windows.stride, *windows.before, *windows.count)
    return Shape(*x.shape[1:], *pairs, windows.kind == "max")


def _run(kernel, arrays, batch, rows, elements, shape, threads):
    """Some rows of each item at a time, which read so many elements each."""
    piece = layout.even(rows, max(1, PIECE // max(1, elements)))
    tasks = [(b, t, min(t + piece, rows)) for b in range(batch) for t in range(0, rows, piece)]
    shares = layout.shares(tasks, threads, SLOW * batch * rows * elements)
    pool.run([(kernel, *arrays, *share, shape) for share in shares], len(shares))


def forward(y, places, x, windows, *, workspace, threads):
    """y =, places ="""
    x, y = images(windows, x, y)
    s = _shape(x, windows)
    held = places.reshape(-1) if s.largest else _NONE
    arrays = y.reshape(-1), held, layout.flat(x)
    elements = min(s.window_height * s.window_width, s.height * s.width) * s.columns * s.channels
    _run(_forward, arrays, len(x), s.rows, elements, s, threads)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    _, places, windows = saved
    if grads.x is None:
        return
    dx, dy = images(windows, grads.x, dy)
    s = _shape(dx, windows)
    held = layout.flat(places) if s.largest else _NONE
    covers = -(-s.window_height // s.stride_height) * -(-s.window_width // s.stride_width)
    arrays = dx.reshape(-1), layout.flat(dy), held
    _run(_backward, arrays, len(dx), s.height, covers * s.width * s.channels, s, threads)


def step(y, state, x, kind, window, stride, *, workspace):
    """y =, and the state moves on."""
    rows, windows = joined(state, x, kind, window, stride)
    if y.size:
        places = np.empty(y.shape, np.int64)
        forward(y, places, rows, windows, workspace=workspace, threads=1)


@inner
def _span(i, window, stride, before, size):
    """(first, last + 1) of window i within the image."""
    begin = i * stride - before
    return max(begin, 0), min(begin + window, size)


@inner
def _holding(r, window, stride, before, count):
    """(first, last + 1) of the windows that hold row r."""
    first = r + before - window + 1
    return max(0, (first + stride - 1) // stride), min(count, (r + before) // stride + 1)


@jit
def _forward(y, places, x, tasks, first, step, s):
    """y =, places ="""
    for task in range(first, len(tasks), step):
        for i in range(tasks[task, 1], tasks[task, 2]):
            _window_row(y, places, x, tasks[task, 0], i, s)


@inner
def _window_row(y, places, x, b, i, s):
    """y =, places = for a row of windows of item b"""
    top, bottom = _span(i, s.window_height, s.stride_height, s.top, s.height)
    for j in range(s.columns):
        left, right = _span(j, s.window_width, s.stride_width, s.left, s.width)
        at = ((b * s.rows + i) * s.columns + j) * s.channels
        to = address(y, at)
        if s.largest:
            _largest(to, address(places, at), x, b, top, bottom, left, right, s)
            continue
        zero_memory(to, s.channels)
        for r in range(top, bottom):
            for c in range(left, right):
                of = address(x, ((b * s.height + r) * s.width + c) * s.channels)
                for k in range(s.channels):
                    to[k] += of[k]
        share = x.dtype.type(1) / x.dtype.type((bottom - top) * (right - left))
        for k in range(s.channels):
            to[k] *= share


@inner
def _largest(best, place, x, b, top, bottom, left, right, s):
    of = address(x, ((b * s.height + top) * s.width + left) * s.channels)
    for k in range(s.channels):
        best[k], place[k] = of[k], top * s.width + left
    for r in range(top, bottom):
        for c in range(left, right):
            of, here = address(x, ((b * s.height + r) * s.width + c) * s.channels), r * s.width + c
            for k in range(s.channels):
                value, so_far = of[k], best[k]
                larger = (value > so_far) | ((value != value) & (so_far == so_far))  # the first NaN is the largest
                best[k] = value if larger else so_far
                place[k] = here if larger else place[k]


@jit
def _backward(dx, dy, places, tasks, first, step, s):
    """dx ="""
    for task in range(first, len(tasks), step):
        for r in range(tasks[task, 1], tasks[task, 2]):
            _row_back(dx, dy, places, tasks[task, 0], r, s)


@inner
def _row_back(dx, dy, places, b, r, s):
    """dx = for a row of item b"""
    first_i, last_i = _holding(r, s.window_height, s.stride_height, s.top, s.rows)
    for c in range(s.width):
        first_j, last_j = _holding(c, s.window_width, s.stride_width, s.left, s.columns)
        to, here = address(dx, ((b * s.height + r) * s.width + c) * s.channels), r * s.width + c
        zero_memory(to, s.channels)
        for i in range(first_i, last_i):
            top, bottom = _span(i, s.window_height, s.stride_height, s.top, s.height)
            for j in range(first_j, last_j):
                left, right = _span(j, s.window_width, s.stride_width, s.left, s.width)
                at = ((b * s.rows + i) * s.columns + j) * s.channels
                of = address(dy, at)
                if s.largest:
                    place = address(places, at)
                    for k in range(s.channels):
                        to[k] += of[k] if place[k] == here else dx.dtype.type(0)
                else:
                    share = dx.dtype.type(1) / dx.dtype.type((bottom - top) * (right - left))
                    for k in range(s.channels):
                        to[k] += share * of[k]
