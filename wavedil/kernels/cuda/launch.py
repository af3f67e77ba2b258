"""Kernels and their launch: tiles, the types of a kernel's arguments, sizes of blocks.

Nothing here knows what an array on a device is: an argument that the signature calls an array must have ``flat`` and
``engine``.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np
from numba.core import config

from wavedil.errors import OutOfMemoryError

SIMULATED = bool(config.ENABLE_CUDASIM)


class Tile(NamedTuple):
    """The piece of a matrix product that a block of threads computes at once.

    A block takes ``rows x columns`` of the result and reads ``depth`` of the inner dimension at a time into shared
    memory; each of its threads keeps ``down x across`` results in registers.
    """

    rows: int
    columns: int
    depth: int
    down: int
    across: int

    @property
    def threads(self):
        """Threads of a block."""
        return (self.rows // self.down) * (self.columns // self.across)

    def shared_bytes(self, itemsize):
        """Bytes of shared memory of a block: both factors, and 16 bytes a line against bank conflicts."""
        return self.depth * ((self.rows + self.columns) * itemsize + 32)

    def fitting(self, itemsize, limit):
        """The tile, with so much less depth that it fits into shared memory of ``limit`` bytes."""
        tile = self
        while tile.shared_bytes(itemsize) > limit:
            if tile.depth == 1:
                raise OutOfMemoryError(
                    f"a tile of {self.rows} x {self.columns} needs {tile.shared_bytes(itemsize):,} bytes of shared "
                    f"memory even with a depth of 1, the device has {limit:,} for a block"
                )
            tile = tile._replace(depth=tile.depth // 2)
        return tile

    def intensity(self, itemsize):
        """FLOPs per byte that a thread reads from shared memory."""
        return 2 * self.down * self.across / ((self.down + self.across) * itemsize)


class Kernel:
    """A CUDA kernel: a Python function, the types of its arguments, and how it is launched.

    All arrays are one-dimensional and contiguous; blocks and grids too. Every kernel strides over its work by the whole
    grid, so any grid and (but for tiles) any block are right.

    Attributes
    ----------
    name : str
    function : callable
    signature : tuple of Numba types
    threads : int
        Of a block.
    tile : Tile or None
    dynamic_shared : int
        Bytes of dynamic shared memory in a typical case.
    about : str
    """

    def __init__(self, name, function, signature, threads, tile=None, dynamic_shared=0):
        self.name, self.function, self.signature = name, function, tuple(signature)
        self.threads, self.tile, self.dynamic_shared = threads, tile, dynamic_shared
        self.about = (function.__doc__ or "").strip().split("\n")[0]
        self.compiled = {}
        casts = {"int64": int, "float32": np.float32, "float64": float}
        self._casts = [casts.get(str(kind)) for kind in self.signature]  # None: an array

    def __repr__(self):
        return f"Kernel({self.name})"

    def __call__(self, work, *args, shared=0):
        """Launch it.

        Parameters
        ----------
        work : int
            How many blocks it takes if each does one piece of work.
        args
            `Array` and numbers, in the order of the signature.
        shared : int
            Bytes of dynamic shared memory.
        """
        engine = next(a.engine for a, cast in zip(args, self._casts, strict=True) if cast is None)
        native = [a.flat if cast is None else cast(a) for a, cast in zip(args, self._casts, strict=True)]
        engine.launch(self, max(1, min(int(work), engine.most_blocks)), self.threads, native, shared)


class _Blocks(NamedTuple):
    """Sizes of blocks; None: those that were chosen for a device."""

    tile: Tile | None
    threads: int | None


# A simulated thread is a Python thread of 175 us, so blocks are tiny there: small cases already need many of them.
_blocks = _Blocks(Tile(8, 8, 4, 4, 4), 4) if SIMULATED else _Blocks(None, None)


@contextlib.contextmanager
def blocks(tile=None, threads=None):
    """Other sizes of blocks for a while, for tests."""
    global _blocks
    before, _blocks = _blocks, _Blocks(tile or _blocks.tile, threads or _blocks.threads)
    try:
        yield
    finally:
        _blocks = before


def tile_or(chosen):
    """The tile to use: the chosen one, unless a test wants another."""
    return _blocks.tile or chosen


def threads_or(chosen):
    """The threads of a block of a kernel without tiles."""
    return _blocks.threads or chosen


def lanes(threads):
    """Threads of a block that share a row, where a row has several: 32, or what a smaller block has."""
    return math.gcd(threads, 32)


def blocks_for(kernel, count):
    """Blocks for so many elements, one a thread."""
    return -(-count // kernel.threads)
