"""Numba: the hash and the product in vector instructions, in parallel over pieces of items.

The mask of whole channels is made once an item, and each row is multiplied by it.
"""

from collections import namedtuple

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.elementwise import emit_kept, loops
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address
from wavedil.kernels.cpu.random import mask_key
from wavedil.kernels.workspace import Workspace

PIECE = 2**14  # elements of a task

Drop = namedtuple("Drop", "first low high threshold scale")
Multiply = namedtuple("Multiply", "unused")


def _drop(e, at, options, x):
    """A product, so that what is not finite shows even where it is dropped."""
    first, low, high, threshold, scale = options
    kept = emit_kept(e, at, first, low, high, threshold)
    return (e.mul(x, e.select(kept, scale, e.const(0.0))),)


_apply = loops({Drop: _drop, Multiply: lambda e, at, options, x, y: (e.mul(x, y),)})


def forward(y, x, saved, *, workspace, threads):
    """y ="""
    threshold = int(saved.rate * 2**32)
    scale = 1 / (1 - threshold / 2**32)
    size, channels = y.size // len(y), y.shape[-1]
    y, x = y.reshape(-1), layout.flat(x)
    calls = []
    keys = [mask_key(saved.seed, saved.step, saved.layer, item) for item in range(saved.shape[0])]
    if saved.channels:
        masks = (workspace or Workspace()).array("dropout.masks", (len(keys), channels), y.dtype)
        for item, key in enumerate(keys):
            begin = item * size
            drop = Drop(0, *key, threshold, scale)
            calls.append((_forward_channels, drop, Multiply(0), y, x, masks[item], begin, begin + size))
    else:
        for item, key in enumerate(keys):
            for first in range(0, size, PIECE):
                begin = item * size + first
                calls.append((_forward, Drop(first, *key, threshold, scale), y, x, begin, min(PIECE, size - first)))
    pool.run(calls, pool.check_threads(threads))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    if grads.x is not None:
        forward(grads.x, dy, saved, workspace=workspace, threads=threads)


@jit
def _forward(drop, y, x, begin, count):
    """y ="""
    _apply(drop, (address(x, begin),), (address(y, begin),), count)


@jit
def _forward_channels(drop, multiply, y, x, mask, begin, end):
    """y =, mask ="""
    n = len(mask)
    mask[:] = 1
    _apply(drop, (address(mask, 0),), (address(mask, 0),), n)
    for i in range(begin, end, n):
        _apply(multiply, (address(x, i), address(mask, 0)), (address(y, i),), n)
