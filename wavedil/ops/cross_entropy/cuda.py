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
from wavedil.kernels.cuda.launch import Kernel, lanes, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_slabs, sum_values, sum_values_kernel

CHUNK = 32768  # rows whose logits are in memory at once: 32 MiB of float32 at 256 classes, and enough for any GPU


def forward(loss, x, w, b, targets, weights, *, workspace, threads):
    """loss ="""
    make, count = scratch(workspace, x.engine), targets.size
    nats = make("nats", (count,), np.float64)
    for first, end, logits, _ in _chunks(make, x, w, b):
        rows_loss(nats.part(first, end), logits, int64_codes(targets).reshape(-1), weights, first, 0.0)
    sum_values(loss, nats)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, b, targets, weights = saved
    make, targets = scratch(workspace, x.engine), int64_codes(targets).reshape(-1)
    nats = make("nats", (targets.size,), np.float64)
    for first, end, logits, rows in _chunks(make, x, w, b):
        rows_loss(nats.part(first, end), logits, targets, weights, first, dy, gradient=True)
        if grads.x is not None:
            dx = grads.x.reshape(-1, x.shape[-1])[first:end]
            products.rows(dx.reshape(1, *dx.shape), logits, w, transposed=True)
        products.columns(make, grads.w, grads.b, rows, logits)


def _chunks(make, x, w, b):
    """Some rows at a time: (first, last + 1, their logits, the rows themselves)."""
    flat, classes = x.reshape(-1, x.shape[-1]), w.shape[1]
    held = make("logits", (min(CHUNK, len(flat)), classes), x.dtype)
    for first in range(0, len(flat), CHUNK):
        end = min(first + CHUNK, len(flat))
        rows = flat[first:end].reshape(1, end - first, -1)
        logits = held[: end - first].reshape(1, end - first, classes)
        products.rows(logits, rows, w, bias=b)
        yield first, end, logits, rows


# ---- softmax and loss of rows, which gated_stack uses too ------------------------------------------------------------
def rows_loss(nats, logits, targets, weights, first, scale, gradient=False):
    """nats (n,) = each row's weighted loss; with gradient, logits (n, Q) = their gradient, times ``scale``.

    Rows of weight 0 count for nothing, whatever their logits are.

    ``targets`` and ``weights`` are those of all rows, of which ``first`` is this chunk's first one.
    """
    rows, classes = nats.size, logits.shape[-1]
    kernel = _rows_loss(logits.dtype, threads_or(128))
    work = -(-rows // (kernel.threads // lanes(kernel.threads)))
    kernel(work, nats, logits, targets, weights, rows, classes, first, scale, gradient)


@functools.cache
def _rows_loss(dtype, threads):
    real, array = reals(dtype)
    width = lanes(threads)
    per_block, lowest, zero, one = threads // width, real(-math.inf), real(0), real(1)

    def kernel(nats, logits, targets, weights, rows, classes, first, scale, gradient):
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
            if row < rows:
                target, weight = targets[uint64(first + row)], weights[uint64(first + row)]
                if lane == 0:
                    score = top + math.log(total) - logits[uint64(at + target)]
                    nats[uint64(row)] = float64(weight) * float64(score) if weight != zero else float64(0)
            cuda.syncthreads()  # the target's logit is read before it is overwritten, and what is held too
            if gradient and row < rows:
                for c in range(lane, classes, width):
                    p = math.exp(logits[uint64(at + c)] - top) / total
                    slope = (p - (one if c == target else zero)) * (weight * scale)
                    logits[uint64(at + c)] = slope if weight != zero else zero

    double, codes = types.Array(float64, 1, "C"), types.Array(int64, 1, "C")
    signature = (double, array, codes, array, int64, int64, int64, real, int64)
    return Kernel(f"rows_loss.{dtype}", kernel, signature, threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    return (
        products.row_product(dtype), products.row_product(dtype, transposed=True), products.column_product(dtype),
        sum_slabs(dtype), _rows_loss(dtype, threads_or(128)), sum_values_kernel(),
    )  # fmt: skip
