"""Heads on CUDA: what comes out of the skip sum, its loss, and the way back.

A new head is its loss of rows, and a line in `LOSSES`.
"""

import functools

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import sum_values
from wavedil.ops.cross_entropy.cuda import CHUNK, rows_loss
from wavedil.ops.gated_stack import cuda_mixtures
from wavedil.ops.gated_stack.heads import Gaussian, Logistics, Regression, Softmax


# ---- losses ----------------------------------------------------------------------------------------------------------
def cross_entropy(head, *arguments, **options):
    """`rows_loss`, whatever the head's settings."""
    rows_loss(*arguments, **options)


def square_loss(head, losses, outputs, targets, weights, first, scale, gradient=False):
    """losses (n,) = each row's weighted mean square; with gradient, outputs (n, Q) = their gradient, times ``scale``.

    As `rows_loss`: rows of weight 0 count for nothing, and ``targets`` and ``weights`` are those of all rows, of which
    ``first`` is this chunk's first one.
    """
    kernel = _square_loss(outputs.dtype, threads_or(128))
    rows = losses.size
    kernel(
        blocks_for(kernel, rows), losses, outputs, targets, weights, rows, outputs.shape[-1], first, scale, gradient
    )  # fmt: skip


LOSSES = {
    Softmax: cross_entropy,
    Regression: square_loss,
    Logistics: cuda_mixtures.logistics_loss,
    Gaussian: cuda_mixtures.gaussian_loss,
}


def loss_of(head):
    """The loss of a head's rows."""
    return functools.partial(LOSSES[type(head)], head)


@functools.cache
def _square_loss(dtype, threads):
    real, array = reals(dtype)
    zero, two = real(0), real(2)

    def kernel(losses, outputs, targets, weights, rows, columns, first, scale, gradient):
        """losses =, and outputs = their gradient if wanted: the mean square of a row; a thread has one at a time."""
        for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
            weight, total = weights[uint64(first + row)], float64(0)
            share = two * weight * scale / real(columns)
            for q in range(columns):
                at = uint64(row * columns + q)
                error = outputs[at] - targets[uint64((first + row) * columns + q)]
                if weight == zero:  # whatever the row holds
                    error = zero
                total += float64(error) * float64(error)
                if gradient:
                    outputs[at] = share * error
            losses[uint64(row)] = float64(weight) * total / float64(columns)

    double = types.Array(float64, 1, "C")
    signature = (double, array, array, array, int64, int64, int64, real, int64)
    return Kernel(f"square_loss.{dtype}", kernel, signature, threads)


# ---- two layers, or none ---------------------------------------------------------------------------------------------
def put_out(make, params, network, out, skip):
    """out (B, T, Q) = what the head makes of what the last layer left"""
    if network.filters:
        out.set(skip)
        return
    skip = skip.reshape(1, -1, skip.shape[-1])
    end = make("end", (1, skip.shape[1], network.head.end_channels), skip.dtype)
    products.rows(end, skip, params["head.0.weight"], bias=params["head.0.bias"], left="relu")
    products.rows(
        out.reshape(1, -1, network.head.outputs), end, params["head.1.weight"], bias=params["head.1.bias"], left="relu"
    )  # fmt: skip


def train(make, params, into, network, skip, targets, weights, scale):
    """The loss times the sum of the weights, (1,), and the gradient of the skip sum; those of the head +=.

    Outputs exist for a chunk of rows at a time, and turn into their gradient in place.
    """
    rows, rows_losses = weights.size, loss_of(network.head)
    losses, loss = make("nats", (rows,), np.float64), make("loss", (1,), np.float64)
    if network.filters:
        rows_losses(losses, skip, targets, weights, 0, scale, gradient=True)
        sum_values(loss, losses)
        return loss, skip
    dskip = make("dskip", skip.shape, skip.dtype)
    _two_layers(make, params, into, network, skip, dskip, targets, weights, scale, losses, loss)
    return loss, dskip


def _two_layers(make, params, into, network, skip, dskip, targets, weights, scale, losses, loss):
    """loss =, dskip =, and the gradients of both layers +=."""
    rows, dtype, rows_losses = weights.size, skip.dtype, loss_of(network.head)
    weight0, bias0, weight1, bias1 = (params[f"head.{i}.{n}"] for i in range(2) for n in ("weight", "bias"))
    d_weight0, d_bias0, d_weight1, d_bias1 = (into.get(f"head.{i}.{n}") for i in range(2) for n in ("weight", "bias"))
    skip, dskip = skip.reshape(1, rows, -1), dskip.reshape(1, rows, -1)
    end, dend = (make(name, (1, rows, network.head.end_channels), dtype) for name in ("end", "dend"))
    held = make("outputs", (min(CHUNK, rows), network.head.outputs), dtype)
    products.rows(end, skip, weight0, bias=bias0, left="relu")
    for first in range(0, rows, CHUNK):
        last = min(first + CHUNK, rows)
        outputs = held[: last - first].reshape(1, last - first, -1)
        some, dsome = (array[0][first:last].reshape(1, last - first, -1) for array in (end, dend))
        products.rows(outputs, some, weight1, bias=bias1, left="relu")
        rows_losses(losses.part(first, last), outputs, targets, weights, first, scale, gradient=True)
        products.columns(make, d_weight1, d_bias1, some, outputs, left="relu")
        products.rows(dsome, outputs, weight1, other=some, end="relu_back", transposed=True)
    sum_values(loss, losses)
    products.columns(make, d_weight0, d_bias0, skip, dend, left="relu")
    products.rows(dskip, dend, weight0, other=skip, end="relu_back", transposed=True)


def kernels(dtype):
    """All kernels of this module itself."""
    return (_square_loss(np.dtype(dtype), threads_or(128)), *cuda_mixtures.kernels(dtype))
