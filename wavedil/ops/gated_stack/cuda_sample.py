"""CUDA: one persistent kernel that draws many codes, a block of threads for each stream.

A stream's activations live in the block's shared memory, its past in rings in global memory, and the weights too where
the whole network fits. A product is cut between the threads by columns and, where there are more threads than columns,
by inner indices as well; the parts are added in order. What a draw takes at random comes from the host: the same hash
of (seed, stream, time) as on the CPU.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda_device import Kernel, threads_or
from wavedil.kernels.cuda_tiles import reals
from wavedil.kernels.random import mix

THREADS = 256  # a product of 128 columns in halves; more would only wait at the barriers of narrow networks


def sampler(dtype):
    """The kernel."""
    return _sampler(np.dtype(dtype), threads_or(THREADS))


def shared_bytes(dtype, threads, kernel, channels, half, skips, end, classes, weights):
    """Bytes of dynamic shared memory, with so many weights in it."""
    reals_held = kernel * channels + 2 * half + half + 2 * channels + 2 * skips + end + classes + threads + weights
    return 16 * classes + reals_held * np.dtype(dtype).itemsize


def draws(seed, batch, time, count):
    """`wavedil.kernels.random.uniform` of (seed, stream, time), (batch, count) float64."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    streams, times = np.arange(batch, dtype=np.uint64)[:, None], np.arange(time, time + count, dtype=np.uint64)
    x = mix.py_func(np.full((1, 1), seed, np.uint64) + golden)
    x = mix.py_func(x + streams * golden + golden)
    x = mix.py_func(x + times * golden + golden)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


@functools.cache
def _sampler(dtype, threads):
    real, array = reals(dtype)
    zero, half_one = real(0), real(0.5)

    def product(y, x, inputs, w, at, columns, parts_held, thread):
        """y = x w, with the barrier after it."""
        parts = threads // columns
        if parts <= 1:
            for n in range(thread, columns, threads):
                total = zero
                for c in range(inputs):
                    total += x[c] * w[uint64(at + c * columns + n)]
                y[n] = total
        else:
            part, n = thread // columns, thread % columns
            if part < parts:
                total = zero
                for c in range(part, inputs, parts):
                    total += x[c] * w[uint64(at + c * columns + n)]
                parts_held[thread] = total
            cuda.syncthreads()
            if thread < columns:
                total = zero
                for i in range(parts):
                    total += parts_held[i * columns + thread]
                y[thread] = total
        cuda.syncthreads()

    product = cuda.jit(device=True)(product)

    @cuda.jit(device=True)
    def draw(p, ordered, classes, top_k, top_p, number):
        """The code that a number in [0, 1) draws from the probabilities p; one thread does it, in the CPU's order."""
        total = float64(0)
        for k in range(classes):
            total += p[k]
        if top_k > 0 or top_p < 1:
            kept = classes
            if top_p < 1:
                kept, mass = 1, ordered[0]
                while kept < classes and mass < top_p * total:
                    mass += ordered[kept]
                    kept += 1
            if top_k > 0:
                kept = min(kept, top_k)
            least = ordered[kept - 1]
            total = float64(0)
            for k in range(classes):
                if p[k] < least:
                    p[k] = float64(0)
                total += p[k]
        rest, last = number * total, 0
        for k in range(classes):
            if p[k] > 0:
                last = k
                rest -= p[k]
                if rest < 0:
                    break
        return last

    def kernel(
        out, codes, weights, extra, rings, dilations, numbers, failed,
        batch, count, time, blocks, taps, channels, half, skips, end, classes, block_step, conditioned, held_weights,
        top_k, temperature, top_p,
    ):  # fmt: skip
        """out =, codes =, rings =: draws for streams, a block of threads each, sample after sample."""
        code_held = cuda.shared.array(1, int64)
        doubles = cuda.shared.array(0, float64)
        memory = cuda.shared.array(0, real)
        thread = cuda.threadIdx.x
        p, ordered = doubles[:classes], doubles[classes : 2 * classes]
        at = 2 * classes * (8 // real_bytes)
        x = memory[at : at + taps * channels]
        at += taps * channels
        pre = memory[at : at + 2 * half]
        at += 2 * half
        z = memory[at : at + half]
        at += half
        h = memory[at : at + channels]
        at += channels
        h_new = memory[at : at + channels]
        at += channels
        skip = memory[at : at + skips]
        at += skips
        skip_new = memory[at : at + skips]
        at += skips
        ends = memory[at : at + end]
        at += end
        logits = memory[at : at + classes]
        at += classes
        parts = memory[at : at + threads]
        at += threads
        w = weights
        if held_weights > 0:
            w = memory[at : at + held_weights]
            for i in range(thread, held_weights, threads):
                w[i] = weights[uint64(i)]
        wide, past_taps = 2 * half, (taps - 1) * channels
        head = classes * channels + blocks * block_step
        for b in range(cuda.blockIdx.x, batch, cuda.gridDim.x):
            if thread == 0:
                code_held[0] = codes[uint64(b)]
            cuda.syncthreads()
            for step in range(count):
                code = code_held[0]
                for c in range(thread, channels, threads):
                    h[c] = w[uint64(code * channels + c)]
                for c in range(thread, skips, threads):
                    skip[c] = zero
                ring, base = 0, classes * channels
                cuda.syncthreads()
                for block in range(blocks):
                    past = (taps - 1) * dilations[uint64(block)]
                    mine = ring + b * past * channels
                    for e in range(thread, past_taps, threads):
                        slot = (time + step + e // channels * dilations[uint64(block)]) % past
                        x[e] = rings[uint64(mine + slot * channels + e % channels)]
                    for c in range(thread, channels, threads):
                        x[past_taps + c] = h[c]
                    cuda.syncthreads()
                    if past > 0:
                        for c in range(thread, channels, threads):
                            rings[uint64(mine + (time + step) % past * channels + c)] = h[c]
                    ring += batch * past * channels
                    at = base
                    product(pre, x, taps * channels, w, at, wide, parts, thread)
                    at += taps * channels * wide
                    for c in range(thread, half, threads):
                        a, g = pre[c] + w[uint64(at + c)], pre[half + c] + w[uint64(at + half + c)]
                        if conditioned:
                            more = (block * batch + b) * wide + c
                            a += extra[uint64(more)]
                            g += extra[uint64(more + half)]
                        z[c] = math.tanh(a) * (half_one + half_one * math.tanh(half_one * g))
                    cuda.syncthreads()
                    at += wide
                    product(h_new, z, half, w, at, channels, parts, thread)
                    at += half * channels
                    for c in range(thread, channels, threads):
                        h[c] += h_new[c] + w[uint64(at + c)]
                    at += channels
                    product(skip_new, z, half, w, at, skips, parts, thread)
                    at += half * skips
                    for c in range(thread, skips, threads):
                        skip[c] += skip_new[c] + w[uint64(at + c)]
                    base += block_step
                    cuda.syncthreads()
                for c in range(thread, skips, threads):
                    skip[c] = max(skip[c], skip[c] - skip[c])
                cuda.syncthreads()
                at = head
                product(ends, skip, skips, w, at, end, parts, thread)
                at += skips * end
                for c in range(thread, end, threads):
                    value = ends[c] + w[uint64(at + c)]
                    ends[c] = max(value, value - value)
                cuda.syncthreads()
                at += end
                product(logits, ends, end, w, at, classes, parts, thread)
                at += end * classes
                for k in range(thread, classes, threads):
                    p[k] = float64(logits[k] + w[uint64(at + k)])
                cuda.syncthreads()
                top, first, finite = p[0], 0, True
                for k in range(classes):
                    finite = finite and p[k] - p[k] == 0
                    if p[k] > top:
                        top, first = p[k], k
                cuda.syncthreads()
                if temperature >= 1e-20:  # 1 / temperature might overflow
                    for k in range(thread, classes, threads):
                        p[k] = math.exp((p[k] - top) / temperature)
                    cuda.syncthreads()
                    if top_k > 0 or top_p < 1:
                        for k in range(thread, classes, threads):
                            rank = 0
                            for i in range(classes):
                                if p[i] > p[k] or (p[i] == p[k] and i < k):
                                    rank += 1
                            ordered[rank] = p[k]
                        cuda.syncthreads()
                if thread == 0:
                    if not finite:
                        first = -1
                        failed[uint64(2 * b)] = b
                        failed[uint64(2 * b + 1)] = time + step
                    elif temperature >= 1e-20:
                        first = draw(p, ordered, classes, top_k, top_p, numbers[uint64(b * count + step)])
                    code_held[0] = first
                    if finite:
                        out[uint64(b * count + step)] = first
                        codes[uint64(b)] = first
                cuda.syncthreads()
                if not finite:
                    break

    real_bytes = np.dtype(dtype).itemsize
    codes, doubles = types.Array(int64, 1, "C"), types.Array(float64, 1, "C")
    signature = (
        codes, codes, array, array, array, codes, doubles, codes, *(int64,) * 14, float64, float64
    )  # fmt: skip
    typical = shared_bytes(dtype, threads, 2, 32, 32, 32, 32, 256, 0)
    return Kernel(f"sampler.{dtype}", kernel, signature, threads, dynamic_shared=typical)


