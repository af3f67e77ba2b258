"""CUDA: the loss in two stages, parts and then their sum, in float64; its gradient one thread an element."""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_values, sum_values_kernel
from wavedil.ops.loss import KINDS

PART = 4096  # elements whose losses a block adds up


def forward(loss, x, targets, weights, kind, delta, *, workspace, threads):
    """loss ="""
    parts = -(-x.size // PART)
    sums = scratch(workspace, x.engine)("loss parts", (parts,), np.float64)
    kernel = _forward(x.dtype, threads_or(256), kind)
    kernel(parts, sums, x, targets, weights, delta, x.size, x.shape[-1], parts)
    sum_values(loss, sums)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    x, targets, weights, kind, delta = saved
    if grads.x is not None:
        kernel = _backward(x.dtype, threads_or(256), kind)
        kernel(blocks_for(kernel, x.size), grads.x, x, targets, weights, delta, dy, x.size, x.shape[-1])


@functools.cache
def _forward(dtype, threads, kind):
    real, array = reals(dtype)
    zero, half = real(0), real(0.5)

    def kernel(sums, x, targets, weights, delta, count, channels, parts):
        """sums =: of each part the sum of weighted losses in float64, by one block."""
        held = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        for part in range(cuda.blockIdx.x, parts, cuda.gridDim.x):
            own = float64(0)
            for i in range(part * PART + thread, min((part + 1) * PART, count), threads):
                weight, value, target = weights[uint64(i // channels)], zero, zero
                if weight != zero:  # else the row may hold NaN
                    value, target = x[uint64(i)], targets[uint64(i)]
                d = abs(value - target)
                if kind == "binary":
                    found = value
                    if value == value:  # not NaN
                        found = max(value, zero) + math.log1p(math.exp(-abs(value))) - target * value
                elif kind == "mse":
                    found = d * d
                elif kind == "mae":
                    found = d
                else:
                    found = half * d * d if d <= delta else delta * (d - half * delta)
                own += float64(weight) * float64(found)
            held[thread] = own
            cuda.syncthreads()
            if thread == 0:
                own = float64(0)
                for i in range(threads):
                    own += held[i]
                sums[uint64(part)] = own
            cuda.syncthreads()

    signature = (types.Array(float64, 1, "C"), array, array, array, real) + (int64,) * 3
    return Kernel(f"loss.{kind}.{dtype}", kernel, signature, threads)


@functools.cache
def _backward(dtype, threads, kind):
    real, array = reals(dtype)
    zero, one, half, two = real(0), real(1), real(0.5), real(2)

    def kernel(dx, x, targets, weights, delta, scale, count, channels):
        """dx =: one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            weight, value, target = weights[uint64(i // channels)], zero, zero
            if weight != zero:  # else the row may hold NaN
                value, target = x[uint64(i)], targets[uint64(i)]
            d = value - target
            if kind == "binary":
                slope = half + half * math.tanh(half * value) - target
            elif kind == "mse":
                slope = two * d
            elif kind == "mae":
                slope = d
                if d > zero:
                    slope = one
                elif d < zero:
                    slope = -one
            else:
                slope = d
                if d > delta:
                    slope = delta
                elif d < -delta:
                    slope = -delta
            dx[uint64(i)] = scale * weight * slope

    signature = (array,) * 4 + (real, real, int64, int64)
    return Kernel(f"loss_back.{kind}.{dtype}", kernel, signature, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    return (*(make(dtype, threads, kind) for kind in KINDS for make in (_forward, _backward)), sum_values_kernel())
