"""CUDA: scores by tiles and a row of 32 threads, an item's softmax by one block, moments one thread a channel.

A stream's moments are float64 and lie on the host, and its steps are small: `step` goes by way of the reference.
"""

import functools
import math

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels import cuda_tiles
from wavedil.kernels.cuda_device import Kernel, lanes, scratch, threads_or
from wavedil.kernels.cuda_rows import blocks_for
from wavedil.kernels.cuda_tiles import reals
from wavedil.ops.pooling import EPSILON, reference


def forward(y, shares, mean, variance, x, weights, w, b, v, kind, *, workspace, threads):
    """y =, shares =, mean =, variance ="""
    make, (batch, time, channels) = scratch(workspace, x.engine), x.shape
    if kind == "attentive":
        hidden = make("hidden", (batch, time, w.shape[1]), x.dtype)
        cuda_tiles.rows(hidden, x, w, bias=b)
        kernel = _scores(x.dtype, threads_or(128))
        work = -(-batch * time // (kernel.threads // lanes(kernel.threads)))
        kernel(work, shares, hidden, v, batch * time, w.shape[1])
        _softmax(x.dtype, threads_or(256))(batch, shares, weights, batch, time)
    else:
        shares.set(weights)
    kernel = _moments(x.dtype, threads_or(128))
    moments = mean is not None
    kernel(
        blocks_for(kernel, batch * channels), y, mean if moments else y, variance if moments else y, x, shares,
        batch, time, channels, moments,
    )  # fmt: skip


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
    cuda_tiles.rows(hidden, seen, w, bias=b)
    dscores = make("dscores", (batch, time, 1), x.dtype)
    kernel = _scores_back(x.dtype, threads_or(128))
    work = -(-batch * time // (kernel.threads // lanes(kernel.threads)))
    kernel(work, dscores, dy, seen, shares, mean, variance, batch * time, time, channels)
    dhidden = make("dhidden", hidden.shape, x.dtype)
    kernel = _hidden_back(x.dtype, threads_or(256))
    kernel(blocks_for(kernel, hidden.size), hidden, dhidden, dscores, v, hidden.size, w.shape[1])
    if grads.x is not None:
        cuda_tiles.rows(grads.x, dhidden, w, other=grads.x, end="add", transposed=True)
    cuda_tiles.columns(make, grads.w, grads.b, seen, dhidden)
    cuda_tiles.columns(make, grads.v, None, dscores, hidden)


def step(y, state, x, weights, w, b, v, kind, *, workspace):
    """y =, and the state takes the rows in."""
    x, w, b, v = (None if array is None else array.to_host() for array in (x, w, b, v))
    out = np.empty(y.shape, y.dtype)
    reference.step(out, state, x, weights, w, b, v, kind, workspace=None)
    y.set(out)


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
def _softmax(dtype, threads):
    real, array = reals(dtype)
    zero, lowest = real(0), real(-math.inf)

    def kernel(scores, weights, batch, time):
        """scores = weights times e^scores, divided by their sum: an item by one block."""
        held = cuda.shared.array(threads, real)
        thread = cuda.threadIdx.x
        for b in range(cuda.blockIdx.x, batch, cuda.gridDim.x):
            top = lowest
            for t in range(thread, time, threads):
                if weights[uint64(b * time + t)] > zero:
                    top = max(top, scores[uint64(b * time + t)])
            held[thread] = top
            cuda.syncthreads()
            for i in range(threads):
                top = max(top, held[i])
            cuda.syncthreads()
            total = zero
            for t in range(thread, time, threads):
                at = uint64(b * time + t)
                share = zero
                if weights[at] > zero:
                    share = weights[at] * math.exp(scores[at] - top)
                scores[at] = share
                total += share
            held[thread] = total
            cuda.syncthreads()
            total = zero
            for i in range(threads):
                total += held[i]
            cuda.syncthreads()
            for t in range(thread, time, threads):
                scores[uint64(b * time + t)] /= total

    return Kernel(f"pooling_softmax.{dtype}", kernel, (array, array, int64, int64), threads)


@functools.cache
def _moments(dtype, threads):
    real, array = reals(dtype)
    zero, epsilon = real(0), real(EPSILON)

    def kernel(y, mean, variance, x, shares, batch, time, channels, moments):
        """y =, mean =, variance =: a thread has one channel of an item; rows of share 0 are not looked at."""
        for i in range(cuda.grid(1), batch * channels, cuda.gridsize(1)):
            c, b = i % channels, i // channels
            center = zero
            for t in range(time):
                share = shares[uint64(b * time + t)]
                if share != zero:
                    center += share * x[uint64((b * time + t) * channels + c)]
            if moments:
                spread = zero
                for t in range(time):
                    share = shares[uint64(b * time + t)]
                    if share != zero:
                        apart = x[uint64((b * time + t) * channels + c)] - center
                        spread += share * apart * apart
                mean[uint64(i)], variance[uint64(i)] = center, spread
                y[uint64(2 * b * channels + c)] = center
                y[uint64((2 * b + 1) * channels + c)] = math.sqrt(spread + epsilon)
            else:
                y[uint64(i)] = center

    return Kernel(f"pooling_moments.{dtype}", kernel, (array,) * 5 + (int64,) * 4, threads)


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
        *(make(dtype, few) for make in (_scores, _moments, _scores_back)),
        *(make(dtype, many) for make in (_softmax, _input_back, _seen, _hidden_back)),
        cuda_tiles.row_product(dtype), cuda_tiles.row_product(dtype, end="add", transposed=True),
        cuda_tiles.column_product(dtype), cuda_tiles.sum_slabs(dtype),
    )  # fmt: skip
