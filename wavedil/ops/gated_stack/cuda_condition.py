"""What the blocks are told on CUDA: a condition as their convolutions take it, and the way back.

A global condition becomes biases of each item, one with a row for each row is an operand of the same product. Frames
are projected first, once a frame, and then spread over the rows between them; backward gathers them again.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import elementwise, products
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.ops import gated_block
from wavedil.ops.gated_block.cuda import condition_gradients, conv_gradients, convolve
from wavedil.ops.gated_stack.network import GATED


class Told:
    """A condition (or None) of so many rows (batch, time), of which the first is row number ``first``."""

    def __init__(self, make, params, network, condition, rows, first=0):
        self.make, self.params, self.condition, self.rows = make, params, condition, rows
        self.frames = network.condition if network.hop and condition is not None else None
        self.first = first % network.hop if network.hop else 0

    def bias(self, layer):
        """Of the convolution, with that of the condition."""
        bias, more = (self.params.get(f"{layer.name}.{name}.bias") for name in ("conv", "condition"))
        if self.condition is None or more is None:
            return bias
        both = self.make(("both biases", layer.wide), bias.shape, bias.dtype)
        both.set(bias)
        elementwise.add(both, more)
        return both

    def convolve(self, layer, outs, x, shift):
        """outs = tanh and sigmoid of a block, or its pre-activation; the first tap is ``shift`` rows away."""
        weight, by_condition = (self.params.get(f"{layer.name}.{name}.weight") for name in ("conv", "condition"))
        gated, condition = layer.stack.activation == GATED, self.condition
        ending = {"end": "gate", "y2": outs[1]} if gated else {}
        if self.frames is not None:
            condition, spread = None, self._spread(layer, by_condition)
            ending |= {"end": "gate_add" if gated else "add", "other": spread}
        convolve(
            self.make, outs[0], x, weight, self.bias(layer), condition, by_condition, shift, layer.dilation, **ending
        )  # fmt: skip

    def _spread(self, layer, weight):
        """The projected frames of a block at every row, (B, T, W)."""
        condition, wide = self.condition, layer.wide
        batch, count = condition.shape[:2]
        projected = self.make(("projected", wide), (batch, count, wide), condition.dtype)
        products.rows(projected, condition, weight)
        spread = self.make(("spread", wide), (*self.rows, wide), condition.dtype)
        self._move(_spread, spread, projected, spread.size)
        return spread

    def _move(self, make_kernel, target, source, count):
        kernel, frames = make_kernel(target.dtype, threads_or(256)), self.condition.shape[1]
        linear = self.frames.interpolation == "linear"
        kernel(
            blocks_for(kernel, count), target, source, count, self.rows[1], frames, target.shape[2], self.first,
            self.frames.hop, linear,
        )  # fmt: skip

    def gradients(self, layer, into, x, dpre, dcondition):
        """Of a block's convolution but for x: ``dcondition`` (or None) +=, those of the parameters in ``into`` +=."""
        name, condition = layer.name, None if self.frames is not None else self.condition
        weight, by_condition = (self.params.get(f"{name}.{part}.weight") for part in ("conv", "condition"))
        own = None if dcondition is None else self.make("dcondition", dcondition.shape, dcondition.dtype)
        grads = gated_block.Grads(
            None, into.get(f"{name}.conv.weight"), into.get(f"{name}.conv.bias"), None, None, None, None, own,
            into.get(f"{name}.condition.weight"),
        )  # fmt: skip
        d_bias = into.get(f"{name}.condition.bias")
        saved = gated_block.Saved(x, None, None, weight, None, None, condition, by_condition, None, layer.dilation)
        conv_gradients(self.make, grads, x, dpre, -layer.past, layer.dilation, saved, d_bias)
        if self.frames is not None and any(a is not None for a in (own, grads.condition_weight, d_bias)):
            condition_gradients(self.make, grads, self.condition, self._gather(layer, dpre), by_condition, d_bias)
        if own is not None:
            elementwise.add(dcondition, own)

    def _gather(self, layer, dpre):
        """The gradient of a block's projected frames, (B, F, W)."""
        shape = (*self.condition.shape[:2], layer.wide)
        gathered = self.make(("projected", layer.wide), shape, dpre.dtype)
        self._move(_gather, gathered, dpre, gathered.size)
        return gathered


@functools.cache
def _spread(dtype, threads):
    real, array = reals(dtype)
    one = real(1)

    def kernel(out, values, count, rows, frames, columns, first, hop, linear):
        """out (B, T, W) =: what the rows see of frames, ``first`` rows behind one; one element a thread."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            n, t, b = i % columns, i // columns % rows, i // (columns * rows)
            at = (b * frames + (first + t) // hop) * columns + n
            found = values[uint64(at)]
            if linear:
                part = real((first + t) % hop) / real(hop)
                found = (one - part) * found + part * values[uint64(at + columns)]
            out[uint64(i)] = found

    return Kernel(f"spread_frames.{dtype}", kernel, (array, array) + (int64,) * 7, threads)


@functools.cache
def _gather(dtype, threads):
    real, array = reals(dtype)
    zero, one = real(0), real(1)

    def kernel(out, gradient, count, rows, frames, columns, first, hop, linear):
        """out (B, F, W) =: the sum over the rows that see a frame, in order; one element a thread."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            n, f, b = i % columns, i // columns % frames, i // (columns * frames)
            here = f * hop - first
            begin, end = here - hop + 1 if linear else here, min(here + hop, rows)
            total = zero
            for t in range(max(begin, 0), end):
                share = one
                if linear:
                    part = real((first + t) % hop) / real(hop)
                    share = one - part if t >= here else part
                total += share * gradient[uint64((b * rows + t) * columns + n)]
            out[uint64(i)] = total

    return Kernel(f"gather_frames.{dtype}", kernel, (array, array) + (int64,) * 7, threads)


def kernels(dtype):
    """All kernels of this module."""
    return tuple(make(np.dtype(dtype), threads_or(256)) for make in (_spread, _gather))
