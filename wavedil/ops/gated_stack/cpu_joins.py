"""Layers that are no blocks, on the CPU: 1x1 convolutions of h, and convolutions of the skip sum.

A network of one stack that is fed codes has none of them; then ``Net.joins`` is `NoJoins`, and nothing of this is
compiled.
"""

from collections import namedtuple

from numba.extending import overload

from wavedil.kernels.cpu.jit import INNER, inner
from wavedil.kernels.cpu.panels import address, down, repeated, right, width_of
from wavedil.kernels.cpu.products import (
    column_product,
    few_row_product,
    left_taps,
    left_view,
    matrix,
    row_product,
    row_product_sum,
)
from wavedil.kernels.cpu.rows import copy_rows
from wavedil.ops.gated_stack.cpu_places import gates_of, inputs_of, inputs_of_streams, nothing
from wavedil.ops.gated_stack.cpu_tables import GATES, INPUT, PROJECT, WEIGHT

NoJoins = namedtuple("NoJoins", "")
Joins = namedtuple("Joins", "")


# ---- forward ---------------------------------------------------------------------------------------------------------
def _forward(rows, product, x_of):
    """``join(joins, net, item, i, t, skip, n)`` by this product, which is for so many ``rows``; X lies at ``x_of``."""

    def stub(joins, net, item, i, t, skip, n):
        """One layer forward for n rows: the next X, or the skip sum, is replaced."""
        raise NotImplementedError

    def none(joins, net, item, i, t, skip, n):
        pass

    def join(joins, net, item, i, t, skip, n):
        layer, w = net.layers[i], width_of(address(net.vectors, 0))
        weights = matrix(net.matrices, layer.weight, 0, layer.outputs, layer.taps * layer.inputs)
        bias, x = repeated(address(net.vectors, layer.bias)), x_of(item, i, t, 0)
        if layer.kind == PROJECT:
            following = x_of(item, layer.following, t, 0)
            product(left_view(x, layer.inputs), weights, n, layer.outputs, following, bias)
        else:
            copy_rows(skip, x, n, layer.inputs)
            past = x_of(item, i, t, (layer.taps - 1) * layer.dilation)
            left = left_taps(past, layer.inputs, layer.dilation * w, layer.taps)
            product(left, weights, n, layer.outputs, skip, bias)

    for function in (none, join):
        function.__qualname__ = f"{function.__name__}_of_{rows}"

    @overload(stub, jit_options=INNER)
    def picked(joins, net, item, i, t, skip, n):
        return none if joins.instance_class is NoJoins else join

    return stub


@inner
def _rows_before(item, i, t, past):
    """X of a layer from so many rows before time t on."""
    return down(inputs_of(item, i, t), -past)


@inner
def _streams_before(item, i, t, past):
    """The same, with a row for each stream."""
    return inputs_of_streams(item, i, t - past)


whole_join = _forward("whole_tiles", row_product, _rows_before)
few_join = _forward("few_rows", few_row_product, _rows_before)
stream_join = _forward("streams", few_row_product, _streams_before)


# ---- backward --------------------------------------------------------------------------------------------------------
@inner
def project_backward(net, item, grads, i, t, n, mix, z):
    """n rows back through a 1x1 convolution of h."""
    slab, layer, needs = grads.slab, net.layers[i], grads.needs[i]
    copy_rows(right(mix, net.carried - layer.outputs), z, n, layer.outputs)  # a product cannot replace its own input
    if needs & WEIGHT:
        x = left_view(inputs_of(item, i, t), layer.inputs)
        column_product(x, z, n, layer.outputs, address(slab, layer.d_weight))
    if needs & INPUT:
        weights = matrix(net.matrices, layer.weight_t, 0, layer.inputs, layer.outputs)
        dh = right(mix, net.carried - layer.inputs)
        sums = address(slab, layer.d_sums)
        row_product_sum(left_view(z, layer.outputs), weights, n, layer.inputs, dh, nothing(net), sums)


@inner
def filter_backward(net, item, grads, i, t, n, mix, recompute):
    """n rows back through a convolution of the skip sum, whose gradient is kept for the rows before."""
    slab, w, layer, needs = grads.slab, width_of(address(net.vectors, 0)), net.layers[i], grads.needs[i]
    if recompute:
        item.position[GATES, i] -= n
    dskip, kept = right(mix, net.carried), gates_of(item, i, t)
    copy_rows(dskip, kept, n, layer.outputs)
    if needs & WEIGHT:
        past = down(inputs_of(item, i, t), -(layer.taps - 1) * layer.dilation)
        x = left_taps(past, layer.inputs, layer.dilation * w, layer.taps)
        column_product(x, kept, n, layer.outputs, address(slab, layer.d_weight))
    if needs & INPUT:
        span = (layer.taps - 1) * layer.dilation
        later = left_taps(down(kept, span), layer.outputs, -layer.dilation * w, layer.taps)
        weights = matrix(net.matrices, layer.weight_t, 0, layer.inputs, layer.taps * layer.outputs)
        row_product_sum(later, weights, n, layer.inputs, dskip, nothing(net), address(slab, layer.d_level))


def join_backward(joins, net, item, grads, i, t, n, mix, z, recompute):
    """n rows back through one layer."""
    raise NotImplementedError


def _none_backward(joins, net, item, grads, i, t, n, mix, z, recompute):
    pass


def _join_backward(joins, net, item, grads, i, t, n, mix, z, recompute):
    if net.layers[i].kind == PROJECT:
        project_backward(net, item, grads, i, t, n, mix, z)
    else:
        filter_backward(net, item, grads, i, t, n, mix, recompute)


@overload(join_backward, jit_options=INNER)
def _picked_backward(joins, net, item, grads, i, t, n, mix, z, recompute):
    return _none_backward if joins.instance_class is NoJoins else _join_backward
