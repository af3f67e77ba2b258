"""What tiled products are made of: the register tile, and what moves rows into shared memory."""

import numpy as np
from numba import cuda, uint32, uint64

from wavedil.kernels.cuda.launch import Tile
from wavedil.kernels.cuda.numbers import load4, reals

# Chosen by what ptxas reports for compute capability 8.0 and 9.0: 8 x 4 results a thread take some 128 registers with
# all addresses and what is fetched ahead, and spill none; 64 columns are the gates of 32 channels. Of blocks of 128
# threads four fit on a multiprocessor at once and hide each other's loads.
ROW_TILES = {"float32": Tile(64, 64, 16, 8, 4), "float64": Tile(64, 32, 16, 4, 4)}
# 32 rows: a tap of 32 channels fills the tile, and one of 64 two of them.
COLUMN_TILES = {"float32": Tile(32, 64, 16, 4, 4), "float64": Tile(32, 64, 16, 4, 4)}
SHARED = 48 * 1024  # bytes of shared memory that every GPU has for a block


def parts(dtype, tile):
    """The product of two shared tiles into a thread's registers, and the steps between their inner indices."""
    real, _ = reals(dtype)
    pad = 16 // np.dtype(dtype).itemsize  # so that the threads that write a column do not all meet in one bank
    left_step, right_step = tile.rows + pad, tile.columns + pad
    depth, rows, columns = tile.depth, tile.down, tile.across

    @cuda.jit(device=True)
    def step(results, lefts, rights, i, first_row, first_column):
        # Unsigned, and in this order: only so neighbours are seen to be neighbours, and become one load of 16 bytes.
        left, right = uint32(i * left_step + first_row), uint32(i * right_step + first_column)
        for r in range(rows):
            for c in range(columns):
                results[r * columns + c] += lefts[left + uint32(r)] * rights[right + uint32(c)]

    @cuda.jit(device=True)
    def multiply(results, lefts, rights, first_row, first_column):
        """results +="""
        if depth % 4 == 0:  # four steps written out
            for i in range(0, depth, 4):
                step(results, lefts, rights, i, first_row, first_column)
                step(results, lefts, rights, i + 1, first_row, first_column)
                step(results, lefts, rights, i + 2, first_row, first_column)
                step(results, lefts, rights, i + 3, first_row, first_column)
        else:
            for i in range(depth):
                step(results, lefts, rights, i, first_row, first_column)

    return multiply, left_step, right_step


def global_reader(left, real, span):
    """What a product reads of its left factor: ``left(a)`` of the module's equations, as a ``real``."""
    product, relu, zero = left == "product", left == "relu", real(0)

    @cuda.jit(device=True)
    def value(found, factor):
        found = real(found)
        if product:
            found = found * real(factor)
        if relu and found < zero:  # NaN stays NaN
            found = zero
        return found

    @cuda.jit(device=True)
    def read(held, place, a, a2, at, count, vectors):
        """held[place :] = ``span`` neighbours from ``at`` on, of which ``count`` exist; the others are zeros."""
        for i in range(span):
            held[place + i] = zero
        if span == 4 and vectors:
            if count > 0:  # then all four exist
                found = load4(a, uint64(at))
                factors = load4(a2, uint64(at)) if product else found
                held[place] = value(found[0], factors[0])
                held[place + 1] = value(found[1], factors[1])
                held[place + 2] = value(found[2], factors[2])
                held[place + 3] = value(found[3], factors[3])
        else:
            for i in range(span):
                if i < count:
                    found = a[uint64(at + i)]
                    held[place + i] = value(found, a2[uint64(at + i)] if product else found)

    return read


def shared_writer(span, lines, count, threads, step, transposed):
    """What copies a thread's spans, ``lines`` side by side and ``count`` in all, into a factor in shared memory.

    The inner index comes first there; ``transposed``: spans run along it.
    """
    rounds, along = -(-count // threads), step if transposed else 1

    @cuda.jit(device=True)
    def put(factor, held, thread):
        for j in range(rounds):
            e = thread + j * threads
            at = e % lines * span * step + e // lines if transposed else e // lines * step + e % lines * span
            if e < count:
                for i in range(span):
                    factor[uint32(at) + uint32(i * along)] = held[j * span + i]

    return put
