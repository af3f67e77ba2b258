"""CUDA: one persistent kernel that draws many codes, a block of threads for each stream.

A stream's activations live in the block's shared memory, and the weights too where the whole network fits; its past is
in rings in global memory. The kernel is compiled for the widths of a network, which are constants in it. A product is
cut between the threads by columns and, where there are more threads than columns, by inner indices as well; the parts
are added in order. What a draw takes at random comes from the host: the same hash of (seed, stream, time) as on the
CPU.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import cuda, float64, int64, types, uint32, uint64

from wavedil.kernels.cpu.random import scramble
from wavedil.kernels.cuda.launch import Kernel, threads_or
from wavedil.kernels.cuda.numbers import reals

THREADS = 256  # a product of 128 columns in halves; more would only wait at the barriers of narrow networks


class Widths(NamedTuple):
    """What a sampler is compiled for."""

    taps: int
    channels: int
    half: int
    skips: int
    end: int
    classes: int


def sampler(dtype, widths, held):
    """The kernel for a network; ``held`` says whether its weights go to (dynamic) shared memory."""
    return _sampler(np.dtype(dtype), threads_or(THREADS), widths, bool(held))


def shared_bytes(dtype, widths, threads):
    """Bytes of static shared memory of a sampler."""
    taps, channels, half, skips, end, classes = widths
    reals_held = taps * channels + 3 * half + 2 * channels + 2 * skips + end + classes + threads
    return 8 + 16 * classes + reals_held * np.dtype(dtype).itemsize


def draws(seed, batch, time, count):
    """`wavedil.kernels.cpu.random.uniform` of (seed, stream, time), (batch, count) float64."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    streams, times = np.arange(batch, dtype=np.uint64)[:, None], np.arange(time, time + count, dtype=np.uint64)
    x = scramble.py_func(np.full((1, 1), seed, np.uint64) + golden)
    x = scramble.py_func(x + streams * golden + golden)
    x = scramble.py_func(x + times * golden + golden)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


@functools.cache
def _sampler(dtype, threads, widths, held):
    real, array = reals(dtype)
    zero, half_one = real(0), real(0.5)
    taps, channels, half, skips, end, classes = widths
    wide, inputs, past_taps = 2 * half, taps * channels, (taps - 1) * channels
    block_step = inputs * wide + wide + half * channels + channels + half * skips + skips

    def make_product(inputs, columns):
        """The device function y = x w of these sizes, with the barrier after it."""
        parts = threads // columns

        @cuda.jit(device=True)
        def product(y, x, w, at, parts_held, thread):
            if parts <= 1:
                for n in range(thread, columns, threads):
                    total = zero
                    for c in range(inputs):
                        total += x[c] * w[uint32(at + c * columns + n)]
                    y[n] = total
            else:
                part, n = thread // columns, thread % columns
                if part < parts:
                    total = zero
                    for c in range(part, inputs, parts):
                        total += x[c] * w[uint32(at + c * columns + n)]
                    parts_held[thread] = total
                cuda.syncthreads()
                if thread < columns:
                    total = zero
                    for i in range(parts):
                        total += parts_held[i * columns + thread]
                    y[thread] = total
            cuda.syncthreads()

        return product

    conv, residual, skip_out = make_product(inputs, wide), make_product(half, channels), make_product(half, skips)
    head0, head1 = make_product(skips, end), make_product(end, classes)

    @cuda.jit(device=True)
    def draw(p, ordered, symbols, top_k, top_p, number):
        """The code that a number in [0, 1) draws from the probabilities p; one thread does it, in the CPU's order."""
        total = float64(0)
        for k in range(symbols):
            total += p[k]
        if top_k > 0 or top_p < 1:
            kept = symbols
            if top_p < 1:
                kept, mass = 1, ordered[0]
                while kept < symbols and mass < top_p * total:
                    mass += ordered[kept]
                    kept += 1
            if top_k > 0:
                kept = min(kept, top_k)
            least = ordered[kept - 1]
            total = float64(0)
            for k in range(symbols):
                if p[k] < least:
                    p[k] = float64(0)
                total += p[k]
        rest, last = number * total, 0
        for k in range(symbols):
            if p[k] > 0:
                last = k
                rest -= p[k]
                if rest < 0:
                    break
        return last

    def kernel(
        out, codes, weights, extra, rings, dilations, numbers, failed,
        batch, count, time, blocks, symbols, conditioned, held_weights, top_k, temperature, top_p,
    ):  # fmt: skip
        """out =, codes =, rings =: draws for streams, a block of threads each, sample after sample."""
        code_held = cuda.shared.array(1, int64)
        p = cuda.shared.array(classes, float64)
        ordered = cuda.shared.array(classes, float64)
        x = cuda.shared.array(inputs, real)
        pre = cuda.shared.array(wide, real)
        z = cuda.shared.array(half, real)
        h = cuda.shared.array(channels, real)
        h_new = cuda.shared.array(channels, real)
        skip = cuda.shared.array(skips, real)
        skip_new = cuda.shared.array(skips, real)
        ends = cuda.shared.array(end, real)
        logits = cuda.shared.array(classes, real)
        parts = cuda.shared.array(threads, real)
        thread = cuda.threadIdx.x
        if held:
            w = cuda.shared.array(0, real)
            for i in range(thread, held_weights, threads):
                w[i] = weights[uint64(i)]
        else:
            w = weights
        for b in range(cuda.blockIdx.x, batch, cuda.gridDim.x):
            if thread == 0:
                code_held[0] = codes[uint64(b)]
            cuda.syncthreads()
            for step in range(count):
                code, now = code_held[0], time + step
                for c in range(thread, channels, threads):
                    h[c] = w[uint32(code * channels + c)]
                for c in range(thread, skips, threads):
                    skip[c] = zero
                ring, at = 0, classes * channels
                cuda.syncthreads()
                for block in range(blocks):
                    dilation = dilations[uint64(block)]
                    past = (taps - 1) * dilation
                    mine = ring + b * past * channels
                    for e in range(thread, past_taps, threads):
                        slot = (now + e // channels * dilation) % past
                        x[e] = rings[uint64(mine + slot * channels + e % channels)]
                    for c in range(thread, channels, threads):
                        x[past_taps + c] = h[c]
                    cuda.syncthreads()
                    if taps > 1:
                        for c in range(thread, channels, threads):
                            rings[uint64(mine + now % past * channels + c)] = h[c]
                    ring += batch * past * channels
                    conv(pre, x, w, at, parts, thread)
                    at += inputs * wide
                    for c in range(thread, half, threads):
                        a, g = pre[c] + w[uint32(at + c)], pre[half + c] + w[uint32(at + half + c)]
                        if conditioned:
                            more = (block * batch + b) * wide + c
                            a += extra[uint64(more)]
                            g += extra[uint64(more + half)]
                        z[c] = math.tanh(a) * (half_one + half_one * math.tanh(half_one * g))
                    at += wide
                    cuda.syncthreads()
                    residual(h_new, z, w, at, parts, thread)
                    at += half * channels
                    for c in range(thread, channels, threads):
                        h[c] += h_new[c] + w[uint32(at + c)]
                    at += channels
                    skip_out(skip_new, z, w, at, parts, thread)
                    at += half * skips
                    for c in range(thread, skips, threads):
                        skip[c] += skip_new[c] + w[uint32(at + c)]
                    at += skips
                    cuda.syncthreads()
                for c in range(thread, skips, threads):
                    if skip[c] < zero:  # NaN stays NaN
                        skip[c] = zero
                cuda.syncthreads()
                head0(ends, skip, w, at, parts, thread)
                at += skips * end
                for c in range(thread, end, threads):
                    value = ends[c] + w[uint32(at + c)]
                    ends[c] = zero if value < zero else value
                at += end
                cuda.syncthreads()
                head1(logits, ends, w, at, parts, thread)
                at += end * classes
                for k in range(thread, classes, threads):
                    p[k] = float64(logits[k] + w[uint32(at + k)])
                cuda.syncthreads()
                top, first, finite = p[0], 0, True
                for k in range(symbols):  # classes, but no constant: the compiler would write out the whole loop
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
                            for i in range(symbols):
                                if p[i] > p[k] or (p[i] == p[k] and i < k):
                                    rank += 1
                            ordered[rank] = p[k]
                        cuda.syncthreads()
                if thread == 0:
                    if not finite:
                        failed[uint64(2 * b)] = b
                        failed[uint64(2 * b + 1)] = now
                    else:
                        if temperature >= 1e-20:
                            first = draw(p, ordered, symbols, top_k, top_p, numbers[uint64(b * count + step)])
                        out[uint64(b * count + step)] = first
                        codes[uint64(b)] = first
                        code_held[0] = first
                cuda.syncthreads()
                if not finite:
                    break

    codes, doubles = types.Array(int64, 1, "C"), types.Array(float64, 1, "C")
    signature = (codes, codes, array, array, array, codes, doubles, codes, *(int64,) * 8, float64, float64)
    name = f"sampler.{'.'.join(map(str, widths))}{'.held' * held}.{dtype}"
    # The weights of a network of few blocks, as an example.
    weights = classes * channels + 8 * block_step + (skips + 1) * end + (end + 1) * classes
    dynamic = weights * np.dtype(dtype).itemsize if held else 0
    return Kernel(name, kernel, signature, threads, dynamic_shared=dynamic)


def kernels(dtype):
    """The samplers of two networks, as examples: one of 32 channels, and one that fits into shared memory."""
    return (
        sampler(dtype, Widths(2, 32, 32, 32, 32, 256), False),
        sampler(dtype, Widths(2, 4, 4, 4, 8, 16), True),
    )
