"""Numba: forward in parallel over codes; backward over columns, so that each sum has one owner and one order."""

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address
from wavedil.kernels.workspace import Workspace

RATE = 1e10  # bytes/s of one thread, about
CODES = 4096  # codes of a forward task
COLUMNS = 16  # columns of a backward task: a cache line of float32, so that threads do not fight over one


def forward(y, codes, table, *, workspace, threads):
    """y ="""
    codes, count = _flat(workspace, codes), codes.size
    arrays = y.reshape(-1), codes, layout.flat(table)
    tasks = [(_forward, *arrays, t, min(t + CODES, count), table.shape[1]) for t in range(0, count, CODES)]
    pool.run(tasks, pool.worth(threads, y.nbytes / RATE))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.table +="""
    if grads.table is not None:
        channels = saved.channels
        arrays = grads.table.reshape(-1), layout.flat(dy), _flat(workspace, saved.codes)
        tasks = [(_backward, *arrays, c, min(c + COLUMNS, channels), channels) for c in range(0, channels, COLUMNS)]
        pool.run(tasks, pool.worth(threads, dy.nbytes / RATE))


def _flat(workspace, codes):
    """The codes as int64: the kernels are compiled once."""
    flat = (workspace or Workspace()).array("embedding.codes", (codes.size,), "int64")
    flat[:] = codes.reshape(-1)
    return flat


@jit
def _forward(y, codes, table, begin, end, channels):
    for i in range(begin, end):
        to, of = address(y, i * channels), address(table, codes[i] * channels)
        for c in range(channels):
            to[c] = of[c]


@jit
def _backward(table, dy, codes, first, last, channels):
    """table[:, first:last] +="""
    for i in range(len(codes)):
        to, of = address(table, codes[i] * channels), address(dy, i * channels)
        for c in range(first, last):
            to[c] += of[c]
