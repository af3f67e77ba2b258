"""CUDA: batch and weight norms add up columns, slab by slab of rows, in float64; layer and RMS norms are a row's work.

A row belongs to 32 threads, which add up in shared memory, in a fixed order.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, lanes, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.rows import move_columns, row_kernels
from wavedil.kernels.cuda.sums import add_slabs, cut_rows, sum_slabs
from wavedil.ops.norm import BY_CHANNEL

DOUBLES = types.Array(float64, 1, "C")


def forward(y, mean, inverse, var, x, scale, shift, kind, eps, fixed, *, workspace, threads):
    """y =, and unless they are fixed, mean =, inverse = and (of a batch) var ="""
    make, channels = scratch(workspace, x.engine), x.shape[-1]
    rows = x.size // channels
    if kind == "group":
        _group_forward(make, y, mean, inverse, x, scale, shift, eps)
        return
    if kind not in BY_CHANNEL:
        kernel = _row_forward(x.dtype, threads_or(128), kind == "layer")
        work = -(-rows // (kernel.threads // lanes(kernel.threads)))
        kernel(
            work, y, inverse if mean is None else mean, inverse, x, *_given(x, scale, shift), eps, rows, channels,
            scale is not None, shift is not None,
        )  # fmt: skip
        return
    if not fixed:
        for what in ("mean", "squares") if kind == "batch" else ("squares",):
            totals = _totals(make, what, x, x, x if mean is None else mean, x, kind == "batch", True)
            kernel = _finish(x.dtype, threads_or(128), what)
            count = rows if kind == "batch" else 1
            kernel(
                blocks_for(kernel, channels), inverse if mean is None else mean, inverse,
                totals if var is None else var, totals, eps, channels, count,
            )  # fmt: skip
    kernel = _apply(x.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, x.size), y, x, x if mean is None else mean, inverse, *_given(x, scale, shift), x.size,
        channels, mean is not None, scale is not None, shift is not None,
    )  # fmt: skip


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.scale +=, grads.shift +="""
    x, scale, mean, inverse, _, kind, fixed = saved
    make, channels = scratch(workspace, dy.engine), x.shape[-1]
    if kind == "group":
        _group_backward(make, grads, dy, saved)
        return
    rows, by_channel = x.size // channels, kind in BY_CHANNEL
    centre = x if mean is None else mean
    totals = None
    if grads.scale is not None or grads.shift is not None or by_channel:
        totals = _totals(make, "back", dy, x, centre, inverse, mean is not None, by_channel)
        for target, part in ((grads.shift, totals[0]), (grads.scale, totals[1])):
            if target is not None:
                kernel = _add_doubles(x.dtype, threads_or(128))
                kernel(blocks_for(kernel, channels), target, part, channels)
    if grads.x is None:
        return
    scaled = scale is not None
    if by_channel:
        kernel = _channel_back(x.dtype, threads_or(256))
        kernel(
            blocks_for(kernel, x.size), grads.x, dy, x, centre, inverse, scale if scaled else x, totals, x.size,
            channels, rows if kind == "batch" else 1, mean is not None, scaled, fixed,
        )  # fmt: skip
    else:
        kernel = _row_back(x.dtype, threads_or(128), kind == "layer")
        work = -(-rows // (kernel.threads // lanes(kernel.threads)))
        kernel(work, grads.x, dy, x, centre, inverse, scale if scaled else x, rows, channels, scaled)


def _move_groups(rows, x, back=False):
    """rows (groups, B, numbers of a group and item) = those of x (B, ..., C), or back."""
    groups, width = len(rows), x.shape[-1] // len(rows)
    flat = x.reshape(1, -1, x.shape[-1])
    for g in range(groups):
        part = rows[g : g + 1].reshape(1, -1, width)
        if back:
            move_columns(flat, part, 0, g * width)
        else:
            move_columns(part, flat, g * width, 0)


def _group_forward(make, y, mean, inverse, x, scale, shift, eps):
    """A layer norm of rows that hold all of a group's numbers of an item, and then scale and shift."""
    rows, normal = (make(f"group {name}", (*mean.shape, x.size // mean.size), x.dtype) for name in ("rows", "normal"))
    _move_groups(rows, x)
    kernel = _row_forward(x.dtype, threads_or(128), True)
    work = -(-mean.size // (kernel.threads // lanes(kernel.threads)))
    kernel(work, normal, mean, inverse, rows, rows, rows, eps, mean.size, rows.shape[2], False, False)
    _move_groups(normal, y, back=True)
    if scale is not None or shift is not None:
        _scaled(make, y, y, scale, shift)


def _scaled(make, y, x, scale, shift=None):
    """y = x scale + shift"""
    one = make("ones", x.shape[-1:], x.dtype)
    one.fill(1)
    kernel = _apply(x.dtype, threads_or(256))
    kernel(
        blocks_for(kernel, x.size), y, x, one, one, one if scale is None else scale, one if shift is None else shift,
        x.size, x.shape[-1], False, scale is not None, shift is not None,
    )  # fmt: skip


def _group_backward(make, grads, dy, saved):
    x, scale, mean, inverse, *_ = saved
    shape = (*mean.shape, x.size // mean.size)
    rows, g, other = (make(f"group {name}", shape, x.dtype) for name in ("rows", "g", "other"))
    _move_groups(rows, x)
    if grads.x is not None:
        whole = make("group dy", x.shape, x.dtype)
        _scaled(make, whole, dy, scale)
        _move_groups(g, whole)
        kernel = _row_back(x.dtype, threads_or(128), True)
        work = -(-mean.size // (kernel.threads // lanes(kernel.threads)))
        kernel(work, other, g, rows, mean, inverse, rows, mean.size, shape[2], False)
        _move_groups(other, grads.x, back=True)
    if grads.scale is None and grads.shift is None:
        return
    kernel, normal = _row_normal(x.dtype, threads_or(256)), make("group normal", x.shape, x.dtype)
    kernel(blocks_for(kernel, x.size), other, rows, mean, inverse, x.size, shape[2])
    _move_groups(other, normal, back=True)
    one = make("ones", x.shape[-1:], x.dtype)
    one.fill(1)
    totals = _totals(make, "back", dy, normal, one, one, False, True)
    for target, part in ((grads.shift, totals[0]), (grads.scale, totals[1])):
        if target is not None:
            kernel = _add_doubles(x.dtype, threads_or(128))
            kernel(blocks_for(kernel, target.size), target, part, target.size)


def _given(x, scale, shift):
    return (x if scale is None else scale), (x if shift is None else shift)


def _totals(make, what, dy, x, mean, inverse, centred, by_channel):
    """(2, C) float64: the sums of `_sums` over all rows."""
    channels = x.shape[-1]
    rows = x.size // channels
    slab_rows, slabs = cut_rows(1, rows, 16)
    sums = make(("norm sums", slabs, channels), (slabs, 2 * channels), np.float64)
    totals = make("norm totals", (2, channels), np.float64)
    kernel = _sums(x.dtype, threads_or(128), what)
    kernel(
        blocks_for(kernel, slabs * channels), sums, dy, x, mean, inverse, rows, channels, slab_rows, slabs, centred,
        by_channel,
    )  # fmt: skip
    totals.fill(0)
    add_slabs(None, totals, sums, 2 * channels, 2 * channels, slabs)
    return totals


@functools.cache
def _sums(dtype, threads, what):
    _, array = reals(dtype)

    def kernel(sums, dy, x, mean, inverse, rows, channels, slab_rows, slabs, centred, by_channel):
        """sums (slabs, 2, C) =: of x, of its squares, or of dy and dy times x normalized; one channel a thread."""
        for i in range(cuda.grid(1), slabs * channels, cuda.gridsize(1)):
            c, slab = i % channels, i // channels
            first, second = float64(0), float64(0)
            for row in range(slab * slab_rows, min((slab + 1) * slab_rows, rows)):
                value = float64(x[uint64(row * channels + c)])
                place = uint64(c if by_channel else row)
                if what == "mean":
                    first += value
                else:
                    if centred:
                        value -= float64(mean[place])
                    if what == "squares":
                        first += value * value
                    else:
                        g = float64(dy[uint64(row * channels + c)])
                        first += g
                        second += g * value * float64(inverse[place])
            sums[uint64(slab * 2 * channels + c)] = first
            sums[uint64((slab * 2 + 1) * channels + c)] = second

    return Kernel(f"norm_sums.{what}.{dtype}", kernel, (DOUBLES,) + (array,) * 4 + (int64,) * 6, threads)


@functools.cache
def _finish(dtype, threads, what):
    _, array = reals(dtype)

    def kernel(mean, inverse, var, totals, eps, channels, count):
        """mean =, or inverse = and var =, from the totals; one channel a thread."""
        for c in range(cuda.grid(1), channels, cuda.gridsize(1)):
            value = totals[uint64(c)] / count
            if what == "mean":
                mean[uint64(c)] = value
            else:
                inverse[uint64(c)] = 1 / math.sqrt(value + eps)
                var[uint64(c)] = value

    signature = (array, array, DOUBLES, DOUBLES, float64, int64, int64)
    return Kernel(f"norm_finish.{what}.{dtype}", kernel, signature, threads)


@functools.cache
def _add_doubles(dtype, threads):
    _, array = reals(dtype)

    def kernel(out, values, count):
        """out += float64 values; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            out[uint64(i)] += values[uint64(i)]

    return Kernel(f"add_doubles.{dtype}", kernel, (array, DOUBLES, int64), threads)


@functools.cache
def _apply(dtype, threads):
    _, array = reals(dtype)

    def kernel(y, x, mean, inverse, scale, shift, count, channels, centred, scaled, shifted):
        """y =: with the statistics of the channels; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c = uint64(i % channels)
            value = x[uint64(i)]
            if centred:
                value -= mean[c]
            value *= inverse[c]
            if scaled:
                value *= scale[c]
            if shifted:
                value += shift[c]
            y[uint64(i)] = value

    return Kernel(f"norm_apply.{dtype}", kernel, (array,) * 6 + (int64,) * 5, threads)


@functools.cache
def _channel_back(dtype, threads):
    real, array = reals(dtype)

    def kernel(dx, dy, x, mean, inverse, scale, totals, count, channels, rows, centred, scaled, fixed):
        """dx =: through the statistics of the channels; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            c = uint64(i % channels)
            value, g = x[uint64(i)], dy[uint64(i)]
            if centred:
                value -= mean[c]
            if not fixed:
                g -= value * inverse[c] * real(totals[uint64(channels + i % channels)] / rows)
                if centred:
                    g -= real(totals[c] / rows)
            if scaled:
                g *= scale[c]
            dx[uint64(i)] = g * inverse[c]

    signature = (array,) * 6 + (DOUBLES,) + (int64,) * 6
    return Kernel(f"norm_channel_back.{dtype}", kernel, signature, threads)


@functools.cache
def _row_forward(dtype, threads, centred):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, zero = threads // width, real(0)

    def kernel(y, means, inverses, x, scale, shift, eps, rows, channels, scaled, shifted):
        """y =, mean =, inverse =: a row by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            at = row * channels
            mean = zero
            if centred:
                total = zero
                if row < rows:
                    for c in range(lane, channels, width):
                        total += x[uint64(at + c)]
                held[begin + lane] = total
                cuda.syncthreads()
                total = zero
                for i in range(width):
                    total += held[begin + i]
                mean = real(total / channels)
                cuda.syncthreads()
            total = zero
            if row < rows:
                for c in range(lane, channels, width):
                    value = x[uint64(at + c)] - mean
                    total += value * value
            held[begin + lane] = total
            cuda.syncthreads()
            total = zero
            for i in range(width):
                total += held[begin + i]
            cuda.syncthreads()
            inverse = real(1 / math.sqrt(total / channels + eps))
            if row < rows:
                if lane == 0:
                    inverses[uint64(row)] = inverse
                    if centred:
                        means[uint64(row)] = mean
                for c in range(lane, channels, width):
                    value = (x[uint64(at + c)] - mean) * inverse
                    if scaled:
                        value *= scale[uint64(c)]
                    if shifted:
                        value += shift[uint64(c)]
                    y[uint64(at + c)] = value

    kind = "layer" if centred else "rms"
    return Kernel(f"norm_{kind}.{dtype}", kernel, (array,) * 6 + (float64,) + (int64,) * 4, threads)


@functools.cache
def _row_normal(dtype, threads):
    _, array = reals(dtype)

    def kernel(normal, x, means, inverses, count, channels):
        """normal = (x - mean) inverse, those of rows; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            row = uint64(i // channels)
            normal[uint64(i)] = (x[uint64(i)] - means[row]) * inverses[row]

    return Kernel(f"norm_row_normal.{dtype}", kernel, (array,) * 4 + (int64,) * 2, threads)


@functools.cache
def _row_back(dtype, threads, centred):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, zero = threads // width, real(0)

    def kernel(dx, dy, x, means, inverses, scale, rows, channels, scaled):
        """dx =: through the statistics of a row, by 32 threads."""
        first = cuda.shared.array(threads, real)
        second = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            at = row * channels
            mean, inverse, plain, product = zero, zero, zero, zero
            if row < rows:
                inverse = inverses[uint64(row)]
                if centred:
                    mean = means[uint64(row)]
                for c in range(lane, channels, width):
                    g = dy[uint64(at + c)]
                    if scaled:
                        g *= scale[uint64(c)]
                    plain += g
                    product += g * (x[uint64(at + c)] - mean) * inverse
            first[begin + lane], second[begin + lane] = plain, product
            cuda.syncthreads()
            plain, product = zero, zero
            for i in range(width):
                plain += first[begin + i]
                product += second[begin + i]
            cuda.syncthreads()
            plain, product = real(plain / channels), real(product / channels)
            if row < rows:
                for c in range(lane, channels, width):
                    g = dy[uint64(at + c)]
                    if scaled:
                        g *= scale[uint64(c)]
                    if centred:
                        g -= plain
                    dx[uint64(at + c)] = (g - (x[uint64(at + c)] - mean) * inverse * product) * inverse

    kind = "layer" if centred else "rms"
    return Kernel(f"norm_{kind}_back.{dtype}", kernel, (array,) * 6 + (int64,) * 3, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, few, many = np.dtype(dtype), threads_or(128), threads_or(256)
    return (
        *(_sums(dtype, few, what) for what in ("mean", "squares", "back")),
        *(_finish(dtype, few, what) for what in ("mean", "squares")), _add_doubles(dtype, few),
        _apply(dtype, many), _channel_back(dtype, many), _row_normal(dtype, many),
        *row_kernels(dtype), sum_slabs("float64"),
        *(make(dtype, few, centred) for make in (_row_forward, _row_back) for centred in (True, False)),
    )  # fmt: skip
