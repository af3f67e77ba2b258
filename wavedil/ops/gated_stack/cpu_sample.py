"""Generation on the CPU: one row after the other, and a group of streams as the rows of every product."""

from collections import namedtuple

import numpy as np
from numba.extending import overload

from wavedil.kernels.cpu.jit import INNER, inner, jit
from wavedil.kernels.cpu.panels import address, down, panel_view, repeated, strided_view, type_of, width_of
from wavedil.kernels.cpu.products import (
    few_row_product,
    few_row_product_biased,
    few_row_product_relu,
    left_taps,
    left_view,
    matrix,
)
from wavedil.kernels.cpu.random import uniform
from wavedil.kernels.cpu.rows import add_rows, copy_rows, look_up, relu_rows
from wavedil.ops.gated_stack.cpu_frames import frames_at
from wavedil.ops.gated_stack.cpu_gates import few_gates
from wavedil.ops.gated_stack.cpu_heads import draw
from wavedil.ops.gated_stack.cpu_joins import stream_join
from wavedil.ops.gated_stack.cpu_kernels import slide_down
from wavedil.ops.gated_stack.cpu_places import inputs_of_streams, nothing
from wavedil.ops.gated_stack.cpu_tables import BLOCK, NoFrames, X

Options = namedtuple("Options", "seed temperature top_k top_p")
# What is fed step by step, of each stream of a group: the latest codes or values, newest first, and the shifts of the
# means. With values come other channels (rows, count, channels), coefficients of the linear prediction (rows, count,
# order), and whether the prediction is a channel as well.
FedCodes = namedtuple("FedCodes", "latest shift")
FedValues = namedtuple("FedValues", "latest shift extra lpc predicted")


# ---- what is fed -----------------------------------------------------------------------------------------------------
def feed(fed, net, x, t, b):
    """The first X of stream b = its latest value, and what comes with it at step t; its shift =."""
    raise NotImplementedError


def _feed_code(fed, net, x, t, b):
    look_up(address(net.vectors, net.embedding), fed.latest[b, 0], down(x, b), net.layers[0].inputs, net.table_rows)


def _feed_values(fed, net, x, t, b):
    row, w, prediction = down(x, b), width_of(x.data), 0.0
    for j in range(fed.lpc.shape[2]):
        prediction += np.float64(fed.lpc[b, t, j]) * np.float64(fed.latest[b, j])
    fed.shift[b] = prediction
    others = 1 + fed.predicted
    for c in range(net.layers[0].inputs * w):
        value = type_of(x.data, 0.0)
        if c == 0:
            value = fed.latest[b, 0]
        elif c < others:
            value = type_of(x.data, prediction)
        elif c < others + fed.extra.shape[2]:
            value = fed.extra[b, t, c - others]
        row.data[(c // w) * row.panel + c % w] = value


@overload(feed, jit_options=INNER)
def _feed(fed, net, x, t, b):
    return _feed_code if fed.instance_class is FedCodes else _feed_values


@inner
def keep(fed, b, value):
    """A stream's latest value = one more."""
    for j in range(fed.latest.shape[1] - 1, 0, -1):
        fed.latest[b, j] = fed.latest[b, j - 1]
    fed.latest[b, 0] = value


# ---- one step --------------------------------------------------------------------------------------------------------


def block_start(frames, item, layer, t, n, gates):
    """What a block's convolution starts from at row t: biases, and what each stream is told."""
    raise NotImplementedError


def _bias(frames, item, layer, t, n, gates):
    return strided_view(address(item.bias, layer.block_bias), item.bias_step, width_of(address(item.bias, 0)))


def _told(frames, item, layer, t, n, gates):
    for b in range(n):
        frames_at(frames, layer, b, t, 1, down(gates, b))
    return gates


@overload(block_start, jit_options=INNER)
def _block_start(frames, item, layer, t, n, gates):
    return _bias if frames.instance_class is NoFrames else _told


@inner
def sample_step(net, item, fed, t, n):
    """The skip sum after one more row of each of n streams, which are the rows of all matrices here."""
    vectors, w = net.vectors, width_of(address(net.vectors, 0))
    z, skip = panel_view(item.scratch, item.z, n), panel_view(item.scratch, item.skip, n)
    gates = panel_view(item.gates, 0, n)
    x = inputs_of_streams(item, 0, 0)
    for b in range(n):
        feed(fed, net, x, t, b)
    for i in range(len(net.layers)):
        layer = net.layers[i]
        x = inputs_of_streams(item, i, 0)
        if layer.kind != BLOCK:
            stream_join(net.joins, net, item, i, 0, skip, n)
            item.position[X, i] += 1
            continue
        past = inputs_of_streams(item, i, -(layer.taps - 1) * layer.dilation)
        left = left_taps(past, layer.inputs, layer.dilation * w, layer.taps)
        weights = matrix(net.matrices, layer.weight, 0, layer.wide, layer.taps * layer.inputs)
        start = block_start(item.frames, item, layer, t, n, gates)
        few_gates(net.activation, layer.activation, left, weights, n, layer.gate, gates, start, z)
        left = left_view(z, layer.gate)
        if layer.following >= 0:
            weights = matrix(net.matrices, layer.residual, 0, layer.inputs, layer.gate)
            bias = repeated(address(vectors, layer.residual_bias))
            following = inputs_of_streams(item, layer.following, 0)
            few_row_product_biased(left, weights, n, layer.inputs, following, x, bias)
        if layer.adds_z:
            if layer.first:
                copy_rows(z, skip, n, layer.skip)
            else:
                add_rows(z, skip, n, layer.skip)
        else:
            weights = matrix(net.matrices, layer.skip_weight, 0, layer.skip, layer.gate)
            bias = repeated(address(vectors, layer.skip_bias))
            before = nothing(net) if layer.first else skip
            few_row_product_biased(left, weights, n, layer.skip, skip, before, bias)
        item.position[X, i] += 1
    return skip


@inner
def _outputs(net, item, skip, n):
    """What the head says of each stream."""
    head = net.head
    end, outputs = panel_view(item.scratch, item.end, n), panel_view(item.scratch, item.outputs, n)
    relu_rows(skip, skip, n, head.skips)
    bias0, bias1 = repeated(address(net.vectors, head.bias0)), repeated(address(net.vectors, head.bias1))
    weights0 = matrix(net.matrices, head.weight0, 0, head.end, head.skips)
    weights1 = matrix(net.matrices, head.weight1, 0, head.output_panels, head.end)
    few_row_product_relu(left_view(skip, head.skips), weights0, n, head.end, end, bias0)
    few_row_product(left_view(end, head.end), weights1, n, head.output_panels, outputs, bias1)
    return outputs


@jit
def stream_samples(net, item, fed, out, options, first_stream, time, probabilities, ordered, failed):
    """Draw for a group of streams, each from the outputs after the draw before; ``fed`` starts them."""
    n, count = out.shape
    for i in range(count):
        slide_down(net, item, 0, len(net.layers), 1)
        outputs = _outputs(net, item, sample_step(net, item, fed, i, n), n)
        for b in range(n):
            number = uniform(options.seed, first_stream + b, time + i)
            fine, value = draw(net.head, down(outputs, b), options, number, fed.shift[b], probabilities, ordered)
            if not fine:
                failed[0], failed[1] = first_stream + b, time + i
                return
            out[b, i] = value
            keep(fed, b, value)
