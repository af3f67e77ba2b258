"""CUDA: logits by tiles, then softmax, loss and gradient in one pass over each row; ``CHUNK`` rows at a time.

A row belongs to 32 threads, which add up in shared memory, in a fixed order. Backward computes the logits again and
turns them into their gradient in place.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.array import int64_codes
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, lanes, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_slabs, sum_values, sum_values_kernel

CHUNK = 32768  # rows whose logits are in memory at once: 32 MiB of float32 at 256 classes, and enough for any GPU


def forward(loss, x, w, b, targets, weights, smoothing, *, workspace, threads):
    """loss ="""
    make, count = scratch(workspace, x.engine), targets.size
    nats = make("nats", (count,), np.float64)
    for first, end, logits, _ in _chunks(make, x, w, b, weights):
        rows_loss(
            nats.part(first, end), logits, int64_codes(targets).reshape(-1), weights, first, 0.0, smoothing=smoothing
        )
    sum_values(loss, nats)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, b, targets, weights, smoothing = saved
    make, targets = scratch(workspace, x.engine), int64_codes(targets).reshape(-1)
    nats = make("nats", (targets.size,), np.float64)
    for first, end, logits, rows in _chunks(make, x, w, b, weights):
        rows_loss(
            nats.part(first, end), logits, targets, weights, first, dy, gradient=True, smoothing=smoothing
        )
        if grads.x is not None:
            dx = grads.x.reshape(-1, x.shape[-1])[first:end]
            products.rows(dx.reshape(1, *dx.shape), logits, w, transposed=True)
        products.columns(make, grads.w, grads.b, rows, logits)


def _chunks(make, x, w, b, weights):
    """Some rows at a time: (first, last + 1, their logits, the rows themselves, zeros where the weight is 0)."""
    flat, classes = counted_rows(make, x, weights), w.shape[1]
    held = make("logits", (min(CHUNK, len(flat)), classes), x.dtype)
    for first in range(0, len(flat), CHUNK):
        end = min(first + CHUNK, len(flat))
        rows = flat[first:end].reshape(1, end - first, -1)
        logits = held[: end - first].reshape(1, end - first, classes)
        products.rows(logits, rows, w, bias=b)
        yield first, end, logits, rows


def counted_rows(make, x, weights):
    """The rows of x (..., C) as (rows, C), zeros where their weight is 0: those may hold NaN."""
    kept = make("counted rows", (x.size // x.shape[-1], x.shape[-1]), x.dtype)
    kernel = _counted(x.dtype, threads_or(256))
    kernel(blocks_for(kernel, x.size), kept, x, weights, x.size, x.shape[-1])
    return kept


@functools.cache
def _counted(dtype, threads):
    real, array = reals(dtype)
    zero = real(0)

    def kernel(kept, x, weights, count, channels):
        """kept = x, zeros in rows of weight 0; one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            kept[uint64(i)] = x[uint64(i)] if weights[uint64(i // channels)] != zero else zero

    return Kernel(f"counted_rows.{dtype}", kernel, (array,) * 3 + (int64,) * 2, threads)


# ---- softmax and loss of rows, which gated_stack uses too ------------------------------------------------------------
def rows_loss(nats, logits, targets, weights, first, scale, gradient=False, smoothing=0.0):
    """nats (n,) = each row's weighted loss; with gradient, logits (n, Q) = their gradient, times ``scale``.

    ``targets`` and ``weights`` are those of all rows, of which ``first`` is this chunk's first one. Rows of weight 0
    count nothing, even if they hold NaN.
    """
    rows, classes = nats.size, logits.shape[-1]
    kernel = _rows_loss(logits.dtype, threads_or(128), smoothing > 0)
    work = -(-rows // (kernel.threads // lanes(kernel.threads)))
    kernel(work, nats, logits, targets, weights, rows, classes, first, scale, smoothing, gradient)


@functools.cache
def _rows_loss(dtype, threads, smooth=False):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, lowest, zero, one = threads // width, real(-math.inf), real(0), real(1)

    def kernel(nats, logits, targets, weights, rows, classes, first, scale, smoothing, gradient):
        """nats =, and logits = their gradient if wanted: softmax and cross-entropy of a row by 32 threads."""
        held = cuda.shared.array(threads, real)
        lane, slot = cuda.threadIdx.x % width, cuda.threadIdx.x // width
        begin = slot * width
        for base in range(cuda.blockIdx.x * per_block, rows, cuda.gridDim.x * per_block):
            row = base + slot
            at = row * classes
            top, total = lowest, zero
            if row < rows:
                for c in range(lane, classes, width):
                    top = max(top, logits[uint64(at + c)])
            held[begin + lane] = top
            cuda.syncthreads()
            for i in range(width):
                top = max(top, held[begin + i])
            cuda.syncthreads()
            if row < rows:
                for c in range(lane, classes, width):
                    total += math.exp(logits[uint64(at + c)] - top)
            held[begin + lane] = total
            cuda.syncthreads()
            total = zero
            for i in range(width):
                total += held[begin + i]
            aim = zero
            if row < rows:
                target, weight = targets[uint64(first + row)], weights[uint64(first + row)]
                if lane == 0:
                    aim = logits[uint64(at + target)]
                    if smooth:
                        mean = zero
                        for c in range(classes):
                            mean += logits[uint64(at + c)]
                        aim += smoothing * (mean / classes - aim)
                    nats[uint64(row)] = float64(0)
                    if weight != zero:
                        nats[uint64(row)] = float64(weight) * float64(top + math.log(total) - aim)
            cuda.syncthreads()  # the target's logit is read before it is overwritten, and what is held too
            if gradient and row < rows:
                for c in range(lane, classes, width):
                    p = math.exp(logits[uint64(at + c)] - top) / total
                    q = one if c == target else zero
                    if smooth:
                        q += smoothing * (one / classes - q)
                    logits[uint64(at + c)] = (p - q) * (weight * scale) if weight != zero else zero

    double, codes = types.Array(float64, 1, "C"), types.Array(int64, 1, "C")
    signature = (double, array, codes, array, int64, int64, int64, real, real, int64)
    return Kernel(f"rows_loss{'.smooth' if smooth else ''}.{dtype}", kernel, signature, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    return (
        products.row_product(dtype), products.row_product(dtype, transposed=True), products.column_product(dtype),
        sum_slabs(dtype), _rows_loss(dtype, threads_or(128)), sum_values_kernel(),
        _rows_loss(dtype, threads_or(128), True), _counted(dtype, threads_or(256)),
    )  # fmt: skip
