"""Heads on the CPU: what comes out of the skip sum, its loss, and the way back. The type of ``Net.head`` picks them.

A head's value says where its parts lie: panels of the skip sum, of the hidden layer (0: there is none, and the skip sum
itself comes out) and of the outputs; where weights, biases and gradients begin; and settings that it has in `heads`
under the same name. A new head is a class like those below, its loss, and a line in `LOSSES`, and in `DRAWS` if it can
be drawn from.
"""

from collections import namedtuple

import numpy as np
from numba.extending import overload

from wavedil.kernels.cpu.jit import INNER, inner
from wavedil.kernels.cpu.panels import address, panel_view, repeated, width_of
from wavedil.kernels.cpu.products import (
    column_product,
    few_row_product,
    few_row_product_relu,
    left_view,
    matrix,
    row_product,
    row_product_mask,
    row_product_relu,
)
from wavedil.kernels.cpu.rows import add_column_sums, copy_rows, cross_entropy_rows, relu_rows, sample_row
from wavedil.ops.gated_stack.cpu_mixtures import (
    logistic,
    logistic_noise,
    mixture_draw,
    mixture_loss,
    normal,
    normal_noise,
)
from wavedil.ops.gated_stack.cpu_tables import CHUNK, HEAD0, HEAD1, SKIP_SUM

FIELDS = (
    "skips end output_panels outputs weight0 weight1 weight0_t weight1_t bias0 bias1 "
    "d_weight0 d_bias0 d_weight1 d_bias1 d_skip_sum"
)
NoHead = namedtuple("NoHead", FIELDS)
Softmax = namedtuple("Softmax", FIELDS)
Regression = namedtuple("Regression", FIELDS)
Logistics = namedtuple("Logistics", FIELDS + " mixtures levels log_scale_min")
Gaussian = namedtuple("Gaussian", FIELDS + " mixtures log_scale_min")


# ---- losses ----------------------------------------------------------------------------------------------------------
def _nothing(head, outputs, rows, targets, weights, scale, gradient):
    return 0.0


def _cross_entropy(head, outputs, rows, targets, weights, scale, gradient):
    return cross_entropy_rows(outputs, rows, head.output_panels, targets, weights, scale, gradient)


def _square(head, outputs, rows, targets, weights, scale, gradient):
    w, total = width_of(outputs.data), 0.0
    for r in range(rows):
        for q in range(head.output_panels * w):
            at = (q // w) * outputs.panel + r * outputs.row + q % w
            if q < head.outputs and weights[r] != 0:
                error = outputs.data[at] - targets[r, q]
                total += np.float64(weights[r]) * np.float64(error) * np.float64(error) / head.outputs
                outputs.data[at] = error * (2 * weights[r] * scale / head.outputs) if gradient else error
            else:
                outputs.data[at] = 0
    return total


LOSSES = {
    NoHead: _nothing,
    Softmax: _cross_entropy,
    Regression: _square,
    Logistics: mixture_loss(logistic),
    Gaussian: mixture_loss(normal),
}


def loss_rows(head, outputs, rows, targets, weights, scale, gradient):
    """The sum of weight * loss of the rows; the outputs are replaced by their gradient times scale, or are used up."""
    raise NotImplementedError


@overload(loss_rows, jit_options=INNER)
def _loss_rows(head, outputs, rows, targets, weights, scale, gradient):
    return LOSSES[head.instance_class]


# ---- draws -----------------------------------------------------------------------------------------------------------
def _code(head, outputs, options, number, shift, probabilities, ordered):
    code = sample_row(outputs, head.output_panels, options, number, probabilities, ordered)
    return code >= 0, code


DRAWS = {Softmax: _code, Logistics: mixture_draw(logistic_noise), Gaussian: mixture_draw(normal_noise)}


def draw(head, outputs, options, number, shift, probabilities, ordered):
    """Whether a row of outputs is finite, and what a number in [0, 1) draws from it; they are used up.

    ``probabilities`` and ``ordered`` are scratch for a number for each output.
    """
    raise NotImplementedError


@overload(draw, jit_options=INNER)
def _draw(head, outputs, options, number, shift, probabilities, ordered):
    return DRAWS[head.instance_class]


# ---- two layers, or none ---------------------------------------------------------------------------------------------
def _outputs(rows, product, relu):
    """``outputs(head, net, item, skip, n)`` by these kinds of products, which are for so many ``rows``."""

    def outputs(head, net, item, skip, n):
        """ReLUs and outputs of n rows, into the item's scratch."""
        target = panel_view(item.scratch, item.outputs, CHUNK)
        if head.end == 0:
            copy_rows(skip, target, n, head.skips)
            return target
        skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
        relu_rows(skip, skip_on, n, head.skips)
        bias0, bias1 = repeated(address(net.vectors, head.bias0)), repeated(address(net.vectors, head.bias1))
        weights0 = matrix(net.matrices, head.weight0, 0, head.end, head.skips)
        weights1 = matrix(net.matrices, head.weight1, 0, head.output_panels, head.end)
        relu(left_view(skip_on, head.skips), weights0, n, head.end, end, bias0)
        product(left_view(end, head.end), weights1, n, head.output_panels, target, bias1)
        return target

    outputs.__qualname__ = f"outputs_of_{rows}"
    return inner(outputs)


whole_outputs = _outputs("whole_tiles", row_product, row_product_relu)
few_outputs = _outputs("few_rows", few_row_product, few_row_product_relu)


@inner
def head_backward(head, net, item, grads, dskip, n):
    """From the outputs' gradient to dskip, which replaces the skip sum; parameter gradients +=."""
    slab, needs = grads.slab, grads.needs[len(net.layers)]
    doutputs = panel_view(item.scratch, item.outputs, CHUNK)
    sums = address(slab, head.d_skip_sum)
    if head.end == 0:
        copy_rows(doutputs, dskip, n, head.skips)
        add_column_sums(dskip, n, head.skips, sums)
        return
    skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
    dend = panel_view(item.scratch, item.dend, CHUNK)
    if needs & HEAD1:
        add_column_sums(doutputs, n, head.output_panels, address(slab, head.d_bias1))
        column_product(left_view(end, head.end), doutputs, n, head.output_panels, address(slab, head.d_weight1))
    if needs & (HEAD0 | SKIP_SUM):
        weights = matrix(net.matrices, head.weight1_t, 0, head.end, head.output_panels)
        end_sums = address(slab, head.d_bias0)
        row_product_mask(left_view(doutputs, head.output_panels), weights, n, head.end, dend, end, end_sums)
    if needs & HEAD0:
        column_product(left_view(skip_on, head.skips), dend, n, head.end, address(slab, head.d_weight0))
    if needs & SKIP_SUM:
        weights = matrix(net.matrices, head.weight0_t, 0, head.skips, head.end)
        row_product_mask(left_view(dend, head.end), weights, n, head.skips, dskip, skip_on, sums)
