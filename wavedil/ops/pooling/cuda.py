"""CUDA: scores by a row of 32 threads; then an item's rows slab by slab, and the slabs one after the other.

A slab's rows get their shares within it and its moments their sums in the arrays' type, about its first row; those
join the moments of the rows before it in float64, as on the CPU, so forward is a stream whose state begins empty. A
stream's state lies on the device. Slabs are cut by shape, and nothing waits for the device.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import scratch, stage
from wavedil.kernels.cuda.launch import Kernel, blocks_for, lanes, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_slabs
from wavedil.ops.pooling import EPSILON, State

SLAB, SLABS = 64, 256  # an item's rows of a slab at least, and its slabs at most
DOUBLE = types.Array(float64, 1, "C")


def forward(y, shares, mean, variance, x, weights, w, b, v, kind, *, workspace, threads):
    """y =, shares =, mean =, variance ="""
    make, (batch, time, channels) = scratch(workspace, x.engine), x.shape
    empty = make("pooled so far", (2 * batch * (1 + channels),), np.float64)
    empty.fill(0)
    ends = (batch, 2 * batch, (2 + channels) * batch, empty.size)
    state = State(*(empty.part(begin, end) for begin, end in zip((0, *ends), ends, strict=False)))
    if mean is None:
        mean, variance = (make(name, (batch, channels), x.dtype) for name in ("mean", "variance"))
    slab_rows, tops = _take_in(make, y, state, mean, variance, shares, x, weights, w, b, v, kind)
    kernel = _shares(x.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, shares.size), shares, tops, state.total, state.top, shares.size, time, slab_rows,
        tops.shape[1],
    )  # fmt: skip


def step(y, state, x, weights, w, b, v, kind, *, workspace):
    """y =, and the state takes the rows in."""
    make, (batch, time, channels) = scratch(workspace, x.engine), x.shape
    weights = stage(workspace, x.engine, "pooling.step.weights", weights)
    mean, variance = (make(name, (batch, channels), x.dtype) for name in ("mean", "variance"))
    shares = make("shares", (batch, time), x.dtype)
    _take_in(make, y, state, mean, variance, shares, x, weights, w, b, v, kind)


def _take_in(make, y, state, mean, variance, shares, x, weights, w, b, v, kind):
    """y =, mean =, variance =, those of the state, which takes the rows in; shares = those within each slab."""
    (batch, time, channels), dtype = x.shape, x.dtype
    slab_rows = max(SLAB, -(-time // SLABS))
    slabs = -(-time // slab_rows)
    attentive = kind == "attentive"
    if attentive:
        hidden = make("hidden", (batch, time, w.shape[1]), dtype)
        products.rows(hidden, x, w, bias=b)
        kernel = _scores(dtype, threads_or(128))
        work = -(-batch * time // (kernel.threads // lanes(kernel.threads)))
        kernel(work, shares, hidden, v, batch * time, w.shape[1])
    tops, amounts = (make(name, (batch, slabs), np.float64) for name in ("tops", "amounts"))
    kernel = _amounts(dtype, threads_or(128))
    work = -(-batch * slabs // (kernel.threads // lanes(kernel.threads)))
    kernel(work, shares, tops, amounts, weights, batch, time, slab_rows, slabs, attentive)
    centers, spreads = (make(name, (batch, slabs, channels), np.float64) for name in ("centers", "spreads"))
    kernel = _moments(dtype, threads_or(128))
    kernel(
        blocks_for(kernel, centers.size), centers, spreads, x, shares, amounts, centers.size, time, channels, slab_rows,
        slabs, kind != "average",
    )  # fmt: skip
    _merge(dtype, threads_or(128))(
        batch, y, mean, variance, *state, tops, amounts, centers, spreads, batch, channels, slabs, kind != "average"
    )
    return slab_rows, tops


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=, grads.v +="""
    x, w, b, v, kind, shares, mean, variance = saved
    make, (batch, time, channels) = scratch(workspace, dy.engine), x.shape
    moments = kind != "average"
    if grads.x is not None:
        kernel = _input_back(x.dtype, threads_or(256))
        given = (mean, variance) if moments else (dy, dy)
        kernel(blocks_for(kernel, x.size), grads.x, dy, x, shares, *given, x.size, time, channels, moments)
    if kind != "attentive":
        return
    seen = make("seen", x.shape, x.dtype)
    kernel = _seen(x.dtype, threads_or(256))
    kernel(blocks_for(kernel, x.size), seen, x, shares, x.size, channels)
    hidden = make("hidden", (batch, time, w.shape[1]), x.dtype)
    products.rows(hidden, seen, w, bias=b)
    dscores = make("dscores", (batch, time, 1), x.dtype)
    kernel = _scores_back(x.dtype, threads_or(128))
    work = -(-batch * time // (kernel.threads // lanes(kernel.threads)))
    kernel(work, dscores, dy, seen, shares, mean, variance, batch * time, time, channels)
    dhidden = make("dhidden", hidden.shape, x.dtype)
    kernel = _hidden_back(x.dtype, threads_or(256))
    kernel(blocks_for(kernel, hidden.size), hidden, dhidden, dscores, v, hidden.size, w.shape[1])
    if grads.x is not None:
        products.rows(grads.x, dhidden, w, other=grads.x, end="add", transposed=True)
    products.columns(make, grads.w, grads.b, seen, dhidden)
    products.columns(make, grads.v, None, dscores, hidden)


@functools.cache
def _scores(dtype, threads):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, zero = threads // width, real(0)

    def kernel(scores, hidden, v, rows, count):
        """scores =: v . tanh(hidden), a row by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            total = zero
            if row < rows:
                for h in range(lane, count, width):
                    total += v[uint64(h)] * math.tanh(hidden[uint64(row * count + h)])
            held[begin + lane] = total
            cuda.syncthreads()
            if lane == 0 and row < rows:
                total = zero
                for i in range(width):
                    total += held[begin + i]
                scores[uint64(row)] = total
            cuda.syncthreads()

    return Kernel(f"pooling_scores.{dtype}", kernel, (array,) * 3 + (int64,) * 2, threads)


@functools.cache
def _amounts(dtype, threads):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, zero, lowest = threads // width, real(0), real(-math.inf)

    def kernel(shares, tops, amounts, weights, batch, time, slab_rows, slabs, attentive):
        """shares (scores before) = weights e^(scores - top), tops =, amounts = their sums: a slab by 32 threads."""
        held = cuda.shared.array(threads, real)
        sums = cuda.shared.array(threads, float64)  # on a line of its own: by which the simulator tells them apart
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, batch * slabs, cuda.gridDim.x * per_block):
            slab = base + slot
            first = last = 0
            if slab < batch * slabs:
                row = slab // slabs * time
                first = row + slab % slabs * slab_rows
                last = min(first + slab_rows, row + time)
            top = lowest
            for t in range(first + lane, last, width):
                if weights[uint64(t)] > zero:
                    top = max(top, shares[uint64(t)]) if attentive else zero
            held[begin + lane] = top
            cuda.syncthreads()
            for i in range(width):
                top = max(top, held[begin + i])
            total = float64(0)
            for t in range(first + lane, last, width):
                share = weights[uint64(t)]
                if attentive and share > zero:
                    share *= math.exp(shares[uint64(t)] - top)
                shares[uint64(t)] = share
                total += float64(share)
            sums[begin + lane] = total
            cuda.syncthreads()
            if lane == 0 and slab < batch * slabs:
                total = float64(0)
                for i in range(width):
                    total += sums[begin + i]
                tops[uint64(slab)], amounts[uint64(slab)] = float64(top), total

    return Kernel(f"pooling_amounts.{dtype}", kernel, (array, DOUBLE, DOUBLE, array) + (int64,) * 5, threads)


@functools.cache
def _moments(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(centers, spreads, x, shares, amounts, count, time, channels, slab_rows, slabs, moments):
        """centers =, spreads =: a thread has one channel of a slab; rows of share 0 are not looked at.

        Moments are those of distances from the first row: numbers far from zero lose no digits.
        """
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c, slab = i % channels, i // channels
            row = slab // slabs * time
            first = row + slab % slabs * slab_rows
            last = min(first + slab_rows, row + time)
            amount, center, spread, origin = real(amounts[uint64(slab)]), zero, zero, zero
            if amount != zero:
                if moments:
                    t = first
                    while shares[uint64(t)] == zero:
                        t += 1
                    origin = x[uint64(t * channels + c)]
                for t in range(first, last):
                    share = shares[uint64(t)]
                    if share != zero:
                        center += share * (x[uint64(t * channels + c)] - origin)
                center /= amount
                for t in range(first, last):
                    share = shares[uint64(t)]
                    if share != zero:
                        apart = x[uint64(t * channels + c)] - origin - center
                        spread += share * apart * apart
                spread /= amount
            centers[uint64(i)], spreads[uint64(i)] = float64(origin) + float64(center), float64(spread)

    return Kernel(f"pooling_moments.{dtype}", kernel, (DOUBLE, DOUBLE, array, array, DOUBLE) + (int64,) * 6, threads)


@functools.cache
def _merge(dtype, threads):
    real, array = reals(dtype)
    zero, one, epsilon = float64(0), float64(1), float64(EPSILON)

    def kernel(
        y, center, spread, total, top, mean, variance, tops, amounts, centers, spreads, batch, channels, slabs, moments
    ):
        """total, top, mean and variance take the slabs in; y =, center =, spread =: an item by one block."""
        for b in range(cuda.blockIdx.x, batch, cuda.gridDim.x):
            amount, level = zero, zero
            for c in range(cuda.threadIdx.x, channels, threads):
                at = b * channels + c
                amount, level, m, v = total[uint64(b)], top[uint64(b)], mean[uint64(at)], variance[uint64(at)]
                for slab in range(b * slabs, (b + 1) * slabs):
                    more, highest = amounts[uint64(slab)], tops[uint64(slab)]
                    if more != zero:  # else no row counts
                        if amount == zero:
                            level = highest
                        elif highest > level:
                            amount *= math.exp(level - highest)
                            level = highest
                        more *= math.exp(highest - level)
                        amount += more
                        share = more / amount
                        apart = centers[uint64(slab * channels + c)] - m
                        m += share * apart
                        v += share * (spreads[uint64(slab * channels + c)] - v + (one - share) * apart * apart)
                mean[uint64(at)], variance[uint64(at)] = m, v
                center[uint64(at)], spread[uint64(at)] = real(m), real(v)
                if moments:
                    y[uint64(2 * b * channels + c)] = real(m)
                    y[uint64((2 * b + 1) * channels + c)] = real(math.sqrt(v + epsilon))
                else:
                    y[uint64(at)] = real(m)
            cuda.syncthreads()  # all have read what came before
            if cuda.threadIdx.x == 0:
                total[uint64(b)], top[uint64(b)] = amount, level

    signature = (array,) * 3 + (DOUBLE,) * 8 + (int64,) * 4
    return Kernel(f"pooling_merge.{dtype}", kernel, signature, threads)


@functools.cache
def _shares(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(shares, tops, total, top, count, time, slab_rows, slabs):
        """shares = those within an item, of those within its slabs; one thread a row."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            share = shares[uint64(i)]
            if share != zero:
                b = i // time
                level = tops[uint64(b * slabs + i % time // slab_rows)] - top[uint64(b)]
                shares[uint64(i)] = real(float64(share) * math.exp(level) / total[uint64(b)])

    return Kernel(f"pooling_shares.{dtype}", kernel, (array,) + (DOUBLE,) * 3 + (int64,) * 4, threads)


@functools.cache
def _input_back(dtype, threads):
    real, array = reals(dtype)
    zero, epsilon = real(0), real(EPSILON)

    def kernel(dx, dy, x, shares, mean, variance, count, time, channels, moments):
        """dx =: through the moments; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c, row = i % channels, i // channels
            b, share = row // time, shares[uint64(row)]
            g = dy[uint64(b * channels + c)]
            if moments:
                g = dy[uint64(2 * b * channels + c)]
                if share != zero:
                    at = uint64(b * channels + c)
                    push = dy[uint64((2 * b + 1) * channels + c)] / math.sqrt(variance[at] + epsilon)
                    g += push * (x[uint64(i)] - mean[at])
            dx[uint64(i)] = share * g

    return Kernel(f"pooling_back.{dtype}", kernel, (array,) * 6 + (int64,) * 4, threads)


@functools.cache
def _seen(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(seen, x, shares, count, channels):
        """seen = x, but zeros in rows of share 0, which may hold NaN; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            seen[uint64(i)] = x[uint64(i)] if shares[uint64(i // channels)] != zero else zero

    return Kernel(f"pooling_seen.{dtype}", kernel, (array,) * 3 + (int64,) * 2, threads)


@functools.cache
def _scores_back(dtype, threads):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, zero, half, epsilon = threads // width, real(0), real(0.5), real(EPSILON)

    def kernel(dscores, dy, x, shares, mean, variance, rows, time, channels):
        """dscores =: a row by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            total = zero
            if row < rows:
                b = row // time
                for c in range(lane, channels, width):
                    at = uint64(b * channels + c)
                    apart = x[uint64(row * channels + c)] - mean[at]
                    push = dy[uint64((2 * b + 1) * channels + c)] / math.sqrt(variance[at] + epsilon)
                    total += dy[uint64(2 * b * channels + c)] * apart + push * (apart * apart - variance[at]) * half
            held[begin + lane] = total
            cuda.syncthreads()
            if lane == 0 and row < rows:
                total = zero
                for i in range(width):
                    total += held[begin + i]
                dscores[uint64(row)] = shares[uint64(row)] * total
            cuda.syncthreads()

    return Kernel(f"pooling_scores_back.{dtype}", kernel, (array,) * 6 + (int64,) * 3, threads)


@functools.cache
def _hidden_back(dtype, threads):
    real, array = reals(dtype)
    one = real(1)

    def kernel(hidden, dhidden, dscores, v, count, width):
        """hidden = its tanh, dhidden =; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            t = math.tanh(hidden[uint64(i)])
            hidden[uint64(i)] = t
            dhidden[uint64(i)] = dscores[uint64(i // width)] * v[uint64(i % width)] * (one - t * t)

    return Kernel(f"pooling_hidden_back.{dtype}", kernel, (array,) * 4 + (int64,) * 2, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, few, many = np.dtype(dtype), threads_or(128), threads_or(256)
    return (
        *(make(dtype, few) for make in (_scores, _amounts, _moments, _merge, _scores_back)),
        *(make(dtype, many) for make in (_shares, _input_back, _seen, _hidden_back)),
        products.row_product(dtype), products.row_product(dtype, end="add", transposed=True),
        products.column_product(dtype), sum_slabs(dtype),
    )  # fmt: skip
