"""Numba: vector instructions over flat memory, in parallel over pieces of whole rows.

The losses of a chunk go to memory that stays in the cache; their weighted sum is in float64, in the order of the rows.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.elementwise import emit_logistic, emit_softplus, loops, magnitude
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address
from wavedil.kernels.workspace import Workspace

PIECE = 2**13  # least elements of a task

Binary = namedtuple("Binary", "delta")
Mse = namedtuple("Mse", "delta")
Mae = namedtuple("Mae", "delta")
Huber = namedtuple("Huber", "delta")
KINDS = {"binary": Binary, "mse": Mse, "mae": Mae, "huber": Huber}


def _squared(e, at, options, x, t):
    d = e.sub(x, t)
    return (e.mul(d, d),)


def _huber(e, at, options, x, t):
    d, half, delta = magnitude(e, e.sub(x, t)), e.const(0.5), options[0]
    line = e.mul(delta, e.sub(d, e.mul(half, delta)))
    return (e.select(e.builder.fcmp_unordered("<=", d, delta), e.mul(half, e.mul(d, d)), line),)


def _sign(e, at, options, x, t):
    d = e.sub(x, t)
    minus = e.select(e.builder.fcmp_ordered("<", d, e.const(0.0)), e.const(-1.0), d)  # 0 and NaN stay what they are
    return (e.select(e.builder.fcmp_ordered(">", d, e.const(0.0)), e.const(1.0), minus),)


def _huber_slope(e, at, options, x, t):
    d, delta = e.sub(x, t), options[0]
    low = e.sub(e.const(0.0), delta)
    d = e.select(e.builder.fcmp_ordered(">", d, delta), delta, d)
    return (e.select(e.builder.fcmp_ordered("<", d, low), low, d),)


_losses = loops(
    {
        Binary: lambda e, at, options, x, t: (e.sub(emit_softplus(e, x), e.mul(t, x)),),
        Mse: _squared,
        Mae: lambda e, at, options, x, t: (magnitude(e, e.sub(x, t)),),
        Huber: _huber,
    }
)
_slopes = loops(
    {
        Binary: lambda e, at, options, x, t: (e.sub(emit_logistic(e, x), t),),
        Mse: lambda e, at, options, x, t: (e.mul(e.const(2.0), e.sub(x, t)),),
        Mae: _sign,
        Huber: _huber_slope,
    }
)


def forward(loss, x, targets, weights, kind, delta, *, workspace, threads):
    """loss ="""
    workspace = workspace or Workspace()
    pieces, rows = _pieces(x)
    scratch = workspace.array("loss.scratch", (len(pieces), rows * x.shape[-1]), x.dtype)
    parts = workspace.array("loss.parts", (len(pieces), 1), np.float64)
    arrays = layout.flat(x), layout.flat(targets), layout.flat(weights)
    calls = [
        (_forward, KINDS[kind](delta), parts[i], *arrays, scratch[i], *piece, x.shape[-1])
        for i, piece in enumerate(pieces)
    ]
    pool.run(calls, pool.check_threads(threads))
    loss[0] = 0
    for part in parts:
        loss += part


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    if grads.x is not None:
        x, targets, weights, kind, delta = saved
        arrays = layout.flat(x), layout.flat(targets), layout.flat(weights)
        calls = [
            (_backward, KINDS[kind](delta), grads.x.reshape(-1), x.dtype.type(dy), *arrays, *piece, x.shape[-1])
            for piece in _pieces(x)[0]
        ]
        pool.run(calls, pool.check_threads(threads))


def _pieces(x):
    """(first row, last row + 1) of each task, and the rows of a whole one."""
    channels = x.shape[-1]
    count, rows = x.size // channels, -(-PIECE // channels)
    return [(begin, min(begin + rows, count)) for begin in range(0, count, rows)], rows


@jit
def _forward(kind, loss, x, targets, weights, scratch, begin, end, channels):
    """loss[0] = this piece's part"""
    at = begin * channels
    _losses(kind, (address(x, at), address(targets, at)), (address(scratch, 0),), (end - begin) * channels)
    loss[0] = 0
    for row in range(begin, end):
        if weights[row] == 0:  # the row may hold NaN
            continue
        total = 0.0
        for c in range(channels):
            total += np.float64(scratch[(row - begin) * channels + c])
        loss[0] += np.float64(weights[row]) * total


@jit
def _backward(kind, dx, dy, x, targets, weights, begin, end, channels):
    """dx ="""
    at = begin * channels
    _slopes(kind, (address(x, at), address(targets, at)), (address(dx, at),), (end - begin) * channels)
    for row in range(begin, end):
        share, to = weights[row] * dy, address(dx, row * channels)
        for c in range(channels):
            to[c] = to[c] * share if weights[row] != 0 else share
