"""Between the row-major arrays of an op and the panels of its kernels.

An op cuts its work into *blocks* of time rows, one task each, and a task into chunks of ``CHUNK`` rows that stay in
the cache. The cut depends on the shape alone. Activations are copied into panels chunk by chunk, with zeros for
what lies outside; weights are packed once a call, with the help of index maps: ``map[i]`` is the row or column
of the weight that stands at place ``i`` in the panels, or -1 for a place that only fills a panel up.
"""

import functools

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import beyond, move_memory, panels_of, right, width_of, zero_memory

CHUNK = 96  # time rows that a kernel handles at once; a multiple of every tile's rows
RATE = 3e10  # multiplications a second of one thread, about
BLOCK = 10 * CHUNK  # time rows of a task


def blocks(batch, rows):
    """(item, first row, last row + 1) of each task."""
    size = even(rows, BLOCK, CHUNK)
    return [(b, t, min(t + size, rows)) for b in range(batch) for t in range(0, rows, size)]


def even(count, most, multiple=1):
    """The size of pieces of at most ``most``, all about the same: threads then have the same to do."""
    pieces = -(-count // most)
    return -(-count // (pieces * multiple)) * multiple


def shares(tasks, threads, products):
    """(tasks as an array, first, step) of each thread, one if there are few multiplications to do.

    A kernel that runs through its tasks is called once: a call takes some 10 us with the interpreter's lock held.
    """
    threads = min(pool.worth(threads, products / RATE), len(tasks))
    return [(np.array(tasks, np.int64), first, threads) for first in range(threads)]


class _Writeable:
    """The memory of a read-only array."""

    def __init__(self, array):
        self.array = array
        self.__array_interface__ = dict(array.__array_interface__, data=(array.ctypes.data, False))


def writeable_view(array):
    """The array as kernels take their inputs: Numba would compile them anew for read-only ones."""
    return array if array.flags.writeable else np.asarray(_Writeable(array))


def flat(array):
    """All elements of an input in one dimension."""
    return writeable_view(array).reshape(-1)


# index maps -----------------------------------------------------------------------------------------------
@functools.cache
def plain_map(columns, dtype):
    """Places of columns that lie in panels in their own order."""
    places = np.full(panels_of(columns, dtype) * width(dtype), -1, np.int64)
    places[:columns] = np.arange(columns)
    return places


@functools.cache
def gate_map(half, dtype):
    """Places of the columns [tanh | sigmoid]: each panel has one vector of tanh, then that of sigmoid."""
    channels = plain_map(half, dtype).reshape(-1, 1, width(dtype) // 2)
    return np.where(channels < 0, -1, channels + np.array([[0], [half]])).reshape(-1)


def _elements(base, view):
    """A view of an array as (the flat array, offset, strides), all in elements."""
    size = base.itemsize
    return flat(base), (view.ctypes.data - base.ctypes.data) // size, tuple(s // size for s in view.strides)


def pack_weight(base, view, rows, columns, target):
    """target = a weight ``view (taps, n, N)`` of the array ``base``, in panels ``(N' / W, taps * n', W)``."""
    _pack_weight(*_elements(base, view), view.shape[0], rows, columns, target)


def add_weight(slabs, rows, columns, base, view):
    """``view (taps, n, N)`` of the array ``base`` += the sum of ``slabs (S, N' / W, taps * n', W)``, in their order."""
    _add_weight(slabs, rows, columns, *_elements(base, view), view.shape[0])


@jit
def _pack_weight(source, at, steps, taps, rows, columns, target):
    panels, _, w = target.shape
    for p in range(panels):
        for k in range(taps):
            for r in range(len(rows)):
                for j in range(w):
                    row, column = rows[r], columns[p * w + j]
                    value = source.dtype.type(0)
                    if row >= 0 and column >= 0:
                        value = source[at + k * steps[0] + row * steps[1] + column * steps[2]]
                    target[p, k * len(rows) + r, j] = value


@jit
def _add_weight(slabs, rows, columns, target, at, steps, taps):
    count, panels, _, w = slabs.shape
    for p in range(panels):
        for k in range(taps):
            for r in range(len(rows)):
                for j in range(w):
                    row, column = rows[r], columns[p * w + j]
                    if row >= 0 and column >= 0:
                        total = slabs[0, p, k * len(rows) + r, j]
                        for s in range(1, count):
                            total += slabs[s, p, k * len(rows) + r, j]
                        target[at + k * steps[0] + row * steps[1] + column * steps[2]] += total


# rows -----------------------------------------------------------------------------------------------------
@jit
def read_rows(source, row, first, count, channels, target, rows):
    """target[:rows] = the rows from ``first`` on of a row-major matrix of ``count`` rows; zeros outside of it.

    ``source`` points to the matrix, ``row`` is its stride.
    """
    w = width_of(source)
    begin, end = min(rows, max(0, -first)), max(0, min(rows, count - first))
    for p in range((channels + w - 1) // w):
        panel = beyond(target.data, p * target.panel)
        filled = min(w, channels - p * w)
        for r in range(begin):
            zero_memory(beyond(panel, r * target.row), w)
        for r in range(begin, end):
            to, of = beyond(panel, r * target.row), beyond(source, (first + r) * row + p * w)
            if filled == w:  # of a constant size: registers, and no call
                move_memory(to, of, w)
            else:
                zero_memory(to, w)
                move_memory(to, of, filled)
        for r in range(max(begin, end), rows):
            zero_memory(beyond(panel, r * target.row), w)


@jit
def write_rows(source, rows, channels, target, row):
    """The first rows of a row-major matrix = those of a view."""
    w = width_of(target)
    for p in range((channels + w - 1) // w):
        panel = beyond(source.data, p * source.panel)
        filled = min(w, channels - p * w)
        for r in range(rows):
            of, to = beyond(panel, r * source.row), beyond(target, r * row + p * w)
            if filled == w:  # of a constant size: registers, and no call
                move_memory(to, of, w)
            else:
                move_memory(to, of, filled)


@jit
def read_taps(source, row, first, dilation, taps, count, channels, target, rows):
    """The rows that each tap sees, ``first + k dilation`` and on, as panels side by side: (taps * panels, rows, W)."""
    w = width_of(source)
    panels = (channels + w - 1) // w
    for k in range(taps):
        read_rows(source, row, first + k * dilation, count, channels, right(target, k * panels), rows)


# streams --------------------------------------------------------------------------------------------------
@jit
def tap_rows(history, position, x, dilation, target):
    """target[b, k, r] = the row that tap k sees for row r of x (B, n, C); the past is a ring (B, span, C)."""
    batch, taps, n, channels = target.shape
    span = history.shape[1]
    for b in range(batch):
        for k in range(taps):
            for r in range(n):
                t = r - (taps - 1 - k) * dilation
                if t >= 0:
                    for c in range(channels):
                        target[b, k, r, c] = x[b, t, c]
                else:
                    h = (position[0] + t) % span
                    for c in range(channels):
                        target[b, k, r, c] = history[b, h, c]


@jit
def remember(history, position, x):
    """Put the rows of x into the ring; the position moves on."""
    span, n = history.shape[1], x.shape[1]
    if span > 0:
        for b in range(x.shape[0]):
            for t in range(max(0, n - span), n):
                h = (position[0] + t) % span
                for c in range(x.shape[2]):
                    history[b, h, c] = x[b, t, c]
        position[0] = (position[0] + n) % span
