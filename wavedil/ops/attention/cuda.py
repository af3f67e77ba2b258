"""CUDA: a row of a head belongs to 32 threads, which take 32 rows of the window at a time.

Each of the threads has the score of one of them, by way of shared memory; then each takes its own channels of the sum.
The gradient of keys and values goes over the rows that saw them in the same way, so that no sum needs atomics.
A stream's state lies on the host, and its steps are small: `step` goes by way of the reference.
"""

import functools
import math

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, lanes, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.ops.attention import reference


def forward(y, total, x, heads, window, *, workspace, threads):
    """y =, total ="""
    _run(_forward, y.dtype, y, total, x, x=x, heads=heads, window=window)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    x, y, total, heads, window = saved
    delta = scratch(workspace, dy.engine)("delta", total.shape, x.dtype)
    settings = {"x": x, "heads": heads, "window": window}
    _run(_queries_back, x.dtype, grads.x, delta, dy, y, total, x, **settings)
    _run(_keys_back, x.dtype, grads.x, delta, dy, total, x, **settings)


def step(y, state, x, heads, window, *, workspace):
    """y =, and the state moves on."""
    out = np.empty(y.shape, y.dtype)
    reference.step(out, state, x.to_host(), heads, window, workspace=None)
    y.set(out)


def _run(make, dtype, *arrays, x, heads, window):
    """A kernel over all rows of all heads."""
    batch, time, wide = x.shape
    kernel = make(dtype, threads_or(128))
    rows = batch * heads * time
    work = -(-rows // (kernel.threads // lanes(kernel.threads)))
    kernel(work, *arrays, rows, time, heads, wide // 3 // heads, min(window, time))


def _dot(real):
    """The product of two rows of numbers, as a device function."""
    zero = real(0)

    @cuda.jit(device=True)
    def dot(a, at, b, b_at, count):
        found = zero
        for i in range(count):
            found += a[uint64(at + i)] * b[uint64(b_at + i)]
        return found

    return dot


@functools.cache
def _forward(dtype, threads):
    real, array = reals(dtype)
    dot, width = _dot(real), lanes(threads)
    per_block, zero, lowest = threads // width, real(0), real(-math.inf)

    def kernel(y, total, x, rows, time, heads, channels, window):
        """y =, total =: a row of a head by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin, wide = slot * width, heads * channels
        scale = real(1 / math.sqrt(channels))
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            t, h, b = row % time, row // time % heads, row // (time * heads)
            q, to = (b * time + t) * 3 * wide + h * channels, (b * time + t) * wide + h * channels
            top = lowest
            if row < rows:
                for j in range(lane, min(window, t + 1), width):
                    top = max(top, dot(x, q, x, q + wide - j * 3 * wide, channels) * scale)
                for d in range(lane, channels, width):
                    y[uint64(to + d)] = zero
            held[begin + lane] = top
            cuda.syncthreads()
            for i in range(width):
                top = max(top, held[begin + i])
            cuda.syncthreads()
            sums = zero
            if row < rows:
                for j in range(lane, min(window, t + 1), width):
                    sums += math.exp(dot(x, q, x, q + wide - j * 3 * wide, channels) * scale - top)
            held[begin + lane] = sums
            cuda.syncthreads()
            sums = zero
            for i in range(width):
                sums += held[begin + i]
            cuda.syncthreads()
            log_sum = real(math.log(sums)) + top if row < rows else zero
            if row < rows and lane == 0:
                total[uint64(row)] = log_sum
            for first in range(0, window, width):
                p, j = zero, first + lane
                if row < rows and j < window and j <= t:
                    p = math.exp(dot(x, q, x, q + wide - j * 3 * wide, channels) * scale - log_sum)
                held[begin + lane] = p
                cuda.syncthreads()
                if row < rows:
                    for d in range(lane, channels, width):
                        found = y[uint64(to + d)]
                        for i in range(width):
                            p = held[begin + i]
                            if p != zero:
                                found += p * x[uint64(q + 2 * wide - (first + i) * 3 * wide + d)]
                        y[uint64(to + d)] = found
                cuda.syncthreads()

    return Kernel(f"attention.{dtype}", kernel, (array,) * 3 + (int64,) * 5, threads)


@functools.cache
def _queries_back(dtype, threads):
    real, array = reals(dtype)
    dot, width = _dot(real), lanes(threads)
    per_block, zero = threads // width, real(0)

    def kernel(dx, delta, dy, y, total, x, rows, time, heads, channels, window):
        """dx = of the queries, delta =: a row of a head by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin, wide = slot * width, heads * channels
        scale = real(1 / math.sqrt(channels))
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            t, h, b = row % time, row // time % heads, row // (time * heads)
            q, to = (b * time + t) * 3 * wide + h * channels, (b * time + t) * wide + h * channels
            own = zero
            if row < rows:
                own = dot(dy, to, y, to, channels)
                if lane == 0:
                    delta[uint64(row)] = own
                for d in range(lane, channels, width):
                    dx[uint64(q + d)] = zero
            for first in range(0, window, width):
                ds, j = zero, first + lane
                if row < rows and j < window and j <= t:
                    k = q + wide - j * 3 * wide
                    p = math.exp(dot(x, q, x, k, channels) * scale - total[uint64(row)])
                    ds = p * (dot(dy, to, x, k + wide, channels) - own) * scale
                held[begin + lane] = ds
                cuda.syncthreads()
                if row < rows:
                    for d in range(lane, channels, width):
                        found = dx[uint64(q + d)]
                        for i in range(width):
                            if first + i < window and first + i <= t:
                                found += held[begin + i] * x[uint64(q + wide - (first + i) * 3 * wide + d)]
                        dx[uint64(q + d)] = found
                cuda.syncthreads()

    return Kernel(f"attention_queries_back.{dtype}", kernel, (array,) * 6 + (int64,) * 5, threads)


@functools.cache
def _keys_back(dtype, threads):
    real, array = reals(dtype)
    dot, width = _dot(real), lanes(threads)
    per_block, zero = threads // width, real(0)

    def kernel(dx, delta, dy, total, x, rows, time, heads, channels, window):
        """dx = of the keys and values: over the rows that saw a row of a head, by 32 threads."""
        shares = cuda.shared.array(threads, real)
        slopes = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin, wide = slot * width, heads * channels
        scale = real(1 / math.sqrt(channels))
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            u, h, b = row % time, row // time % heads, row // (time * heads)
            q, to = (b * time + u) * 3 * wide + h * channels, (b * time + u) * wide + h * channels
            k, v = q + wide, q + 2 * wide
            if row < rows:
                for d in range(lane, channels, width):
                    dx[uint64(k + d)], dx[uint64(v + d)] = zero, zero
            for first in range(0, window, width):
                p, ds, j = zero, zero, first + lane
                if row < rows and j < window and u + j < time:
                    p = math.exp(dot(x, q + j * 3 * wide, x, k, channels) * scale - total[uint64(row + j)])
                    ds = p * (dot(dy, to + j * wide, x, v, channels) - delta[uint64(row + j)]) * scale
                shares[begin + lane], slopes[begin + lane] = p, ds
                cuda.syncthreads()
                if row < rows:
                    for d in range(lane, channels, width):
                        dk, dv = dx[uint64(k + d)], dx[uint64(v + d)]
                        for i in range(width):
                            j = first + i
                            if j < window and u + j < time:
                                dk += slopes[begin + i] * x[uint64(q + j * 3 * wide + d)]
                                dv += shares[begin + i] * dy[uint64(to + j * wide + d)]
                        dx[uint64(k + d)], dx[uint64(v + d)] = dk, dv
                cuda.syncthreads()

    return Kernel(f"attention_keys_back.{dtype}", kernel, (array,) * 5 + (int64,) * 5, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    return tuple(make(np.dtype(dtype), threads_or(128)) for make in (_forward, _queries_back, _keys_back))
