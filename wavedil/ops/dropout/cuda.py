"""CUDA: one thread an element; the mask is the same hash as on the CPU, computed where it is needed."""

import functools

import numpy as np
from numba import cuda, int64, types, uint64

from wavedil.kernels.cpu.random import mask_key
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals

# Products of 32 bits are taken in 64, and cut off.
LOW, STEP, FIRST, SECOND = (np.uint64(n) for n in (0xFFFFFFFF, 0x9E3779B1, 0x7FEB352D, 0x846CA68B))
S15, S16 = np.uint64(15), np.uint64(16)


def forward(y, x, saved, *, workspace, threads):
    """y ="""
    threshold = int(saved.rate * 2**32)
    scale = 1 / (1 - threshold / 2**32)
    keys = [mask_key(saved.seed, saved.step, saved.layer, item) for item in range(saved.shape[0])]
    keys = x.engine.array(np.array(keys, np.int64))
    kernel = _drop(y.dtype, threads_or(256))
    places = y.shape[-1] if saved.channels else y.size // len(y)
    kernel(blocks_for(kernel, y.size), y, x, keys, y.size, y.size // len(y), places, threshold, scale)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    if grads.x is not None:
        forward(grads.x, dy, saved, workspace=workspace, threads=threads)


@functools.cache
def _drop(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(y, x, keys, count, item_size, places, threshold, scale):
        """y = x times 0 or the scale, a product, so that NaN shows; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            item, place = i // item_size, i % item_size % places
            h = ((uint64(place) * STEP) & LOW) ^ uint64(keys[uint64(2 * item)])
            h = ((h ^ (h >> S16)) * FIRST) & LOW
            h ^= uint64(keys[uint64(2 * item + 1)])
            h = ((h ^ (h >> S15)) * SECOND) & LOW
            kept = (h ^ (h >> S16)) >= uint64(threshold)
            y[uint64(i)] = x[uint64(i)] * (scale if kept else zero)

    signature = (array, array, types.Array(int64, 1, "C"), *(int64,) * 4, real)
    return Kernel(f"drop.{dtype}", kernel, signature, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    return (_drop(np.dtype(dtype), threads_or(256)),)
