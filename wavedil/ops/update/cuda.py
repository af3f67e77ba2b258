"""CUDA: one fused pass, a thread an element; the norm in two stages, each in a fixed order, in float64.

The equations are written as in the CPU kernels, moving averages as ``a = (a - new * a) + new * x``.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_values, sum_values_kernel

PART = 4096  # elements whose squares a block adds up


def global_norm(x, threads):
    kernel = _squares(x.dtype, threads_or(256))
    parts = -(-x.size // PART)
    sums, norm = x.engine.empty(parts, np.float64), x.engine.empty(1, np.float64)
    kernel(parts, sums, x, x.size, parts)
    sum_values(norm, sums)
    return math.sqrt(norm.to_host()[0])


def sgd(weights, grads, velocity, average, lr, momentum, nesterov, scale, decay, threads):
    kernel = _sgd(weights.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, weights.size), weights, _or(velocity, weights), _or(average, weights), grads, weights.size,
        velocity is not None, average is not None, nesterov, scale, lr, momentum, 1 - decay,
    )  # fmt: skip


def adam(
    weights, grads, first, second, largest, average, step, lr, beta1, beta2, eps, weight_decay, scale, decay, threads
):  # fmt: skip
    # The corrections of the bias, in Python's float64: lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
    rate = lr / (1 - beta1**step)
    root = (1 - beta2**step) ** -0.5
    kernel = _adam(weights.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, weights.size), weights, first, second, _or(largest, weights), _or(average, weights), grads,
        weights.size, largest is not None, average is not None, scale, rate, 1 - beta1, 1 - beta2, root, eps,
        lr * weight_decay, 1 - decay,
    )  # fmt: skip


def _or(array, other):
    return other if array is None else array


@functools.cache
def _squares(dtype, threads):
    _, array = reals(dtype)

    def kernel(sums, x, count, parts):
        """sums =: of each part the sum of squares in float64, by one block."""
        held = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        for part in range(cuda.blockIdx.x, parts, cuda.gridDim.x):
            own = float64(0)
            for i in range(part * PART + thread, min((part + 1) * PART, count), threads):
                value = float64(x[uint64(i)])
                own += value * value
            held[thread] = own
            cuda.syncthreads()
            if thread == 0:
                own = float64(0)
                for i in range(threads):
                    own += held[i]
                sums[uint64(part)] = own
            cuda.syncthreads()

    signature = (types.Array(float64, 1, "C"), array, int64, int64)
    return Kernel(f"squares.{dtype}", kernel, signature, threads)


@functools.cache
def _sgd(dtype, threads):
    real, array = reals(dtype)

    def kernel(weights, velocity, average, grads, count, moving, averaged, nesterov, scale, lr, momentum, newest):
        """weights, velocity, average = in place; one thread an element."""
        for index in range(cuda.grid(1), count, cuda.gridsize(1)):
            i = uint64(index)
            g = scale * grads[i]
            if moving:
                g += momentum * velocity[i]
                velocity[i] = g
                if nesterov:
                    g = scale * grads[i] + momentum * g
            w = weights[i] - lr * g
            weights[i] = w
            if averaged:
                average[i] = (average[i] - newest * average[i]) + newest * w

    signature = (array,) * 4 + (int64,) * 4 + (real,) * 4
    return Kernel(f"sgd.{dtype}", kernel, signature, threads)


@functools.cache
def _adam(dtype, threads):
    real, array = reals(dtype)

    def kernel(
        weights, first, second, largest, average, grads, count, never_falls, averaged, scale, rate, new1, new2, root,
        eps, shrink, newest,
    ):  # fmt: skip
        """weights, first, second, largest, average = in place; one thread an element."""
        for index in range(cuda.grid(1), count, cuda.gridsize(1)):
            i = uint64(index)
            g = scale * grads[i]
            m = (first[i] - new1 * first[i]) + new1 * g
            v = (second[i] - new2 * second[i]) + new2 * (g * g)
            first[i] = m
            second[i] = v
            if never_falls:
                v = largest[i] if largest[i] > v else v  # a NaN in v stays one
                largest[i] = v
            w = weights[i]
            w = w - shrink * w - rate * (m / (root * math.sqrt(v) + eps))
            weights[i] = w
            if averaged:
                average[i] = (average[i] - newest * average[i]) + newest * w

    signature = (array,) * 6 + (int64,) * 3 + (real,) * 8
    return Kernel(f"adam.{dtype}", kernel, signature, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    return (*(make(dtype, threads_or(256)) for make in (_squares, _sgd, _adam)), sum_values_kernel())
