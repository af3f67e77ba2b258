"""Arrays that are allocated once and used again in every step of the same shape."""

import numpy as np


def aligned_zeros(shape, dtype) -> np.ndarray:
    """Zeros that begin on a cache line."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = np.zeros(count + 64 // dtype.itemsize, dtype)
    begin = -raw.ctypes.data % 64 // dtype.itemsize
    return raw[begin : begin + count].reshape(shape)


class Workspace:
    """Named arrays. They begin as zeros, on a cache line, and keep what was last written to them.

    One workspace serves one caller at a time: what an op returned from it is valid until its next call.
    """

    def __init__(self):
        self._arrays = {}
        self._values = {}

    def array(self, name, shape, dtype, make=aligned_zeros):
        """The array of that name; a new one, by ``make``, only if the shape or dtype changed."""
        shape = tuple(int(n) for n in shape)
        held = self._arrays.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            self._arrays[name] = None  # let go of the old one first
            held = self._arrays[name] = make(shape, dtype)
        return held

    def drop(self, name):
        """Let go of an array."""
        self._arrays.pop(name, None)

    def hold(self, name, value):
        """Keep a value that was costly to make; returns it."""
        self._values[name] = value
        return value

    def held(self, name):
        """The value kept under a name, or None."""
        return self._values.get(name)

    @property
    def nbytes(self):
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self._arrays.values() if array is not None)
