"""In place and element by element: sums, multiples, and steps towards another array.

What `Array` itself is made of, so it takes anything that has ``dtype``, ``size``, ``flat`` and ``engine``.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals


@functools.cache
def _add(dtype, threads):
    _, array = reals(dtype)

    def kernel(a, b, count):
        """a += b; a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] += b[uint64(i)]

    return Kernel(f"add.{dtype}", kernel, (array, array, int64), threads)


@functools.cache
def _scale(dtype, threads):
    real, array = reals(dtype)

    def kernel(a, factor, count):
        """a *= a number; a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] *= factor

    return Kernel(f"scale.{dtype}", kernel, (array, real, int64), threads)


@functools.cache
def _pull(dtype, threads):
    real, array = reals(dtype)

    def kernel(a, b, rate, count):
        """a -= rate (a - b); a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            a[uint64(i)] -= rate * (a[uint64(i)] - b[uint64(i)])

    return Kernel(f"pull.{dtype}", kernel, (array, array, real, int64), threads)


def add(a, b):
    """a += b"""
    kernel = _add(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, b, a.size)


def scale(a, factor):
    """a *= a number"""
    kernel = _scale(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, float(factor), a.size)


def pull(a, b, rate):
    """a -= rate (a - b)"""
    kernel = _pull(a.dtype, threads_or(256))
    kernel(blocks_for(kernel, a.size), a, b, float(rate), a.size)


def kernels(dtype):
    """All kernels of this module."""
    dtype = np.dtype(dtype)
    return tuple(make(dtype, threads_or(256)) for make in (_add, _scale, _pull))
