"""Which element of the parameters lies where in their panels on the CPU: index maps, made once for a `Plan`."""

from typing import NamedTuple

import numpy as np

from wavedil.kernels.cpu.panels import panel_index
from wavedil.ops.gated_stack import network as net


class Part(NamedTuple):
    """One packed array of the network's parameters."""

    name: str  # the parameter
    layer: int  # whose field says where it lies; -1: the head's or the network's
    field: str
    index: np.ndarray  # of each packed element, the parameter's element, or -1
    matrix: tuple | None  # (panels, rows) of a matrix; None for a vector
    training: bool  # only the backward pass reads it


def columns(layer, width):
    """Where each column of a block's convolution lies in its panels: half vectors of tanh and sigmoid in turn."""
    if layer.wide == layer.gate:
        return np.arange(layer.wide)
    lanes, half = width // 2, layer.gate
    channel = np.arange(layer.wide) % half
    return channel // lanes * width + np.arange(layer.wide) // half * lanes + channel % lanes


def _matrix(plan, places, rows, panels):
    """The map of a matrix, and its size in panels."""
    return panel_index(places, rows * plan.width, panels, plan.dtype), (panels, rows)


def _vector(plan, places, panels):
    """The map of a vector."""
    return panel_index(places[None], 1, panels, plan.dtype), None


def _conv(plan, layer, outputs, places, wide):
    """Maps of a convolution's weight and of its transpose: (taps, inputs, outputs), with columns moved."""
    w, taps, inputs = plan.width, layer.taps, layer.inputs
    R = plan.of(inputs)
    conv = _spread(_places(taps, inputs, outputs), wide * w, places, 2)
    at = np.concatenate([np.arange(inputs) + k * R * w for k in range(taps)])
    forward = _spread(conv.reshape(taps * inputs, -1), taps * R * w, at, 0)
    backward = conv.transpose(0, 2, 1).reshape(taps * wide * w, inputs)
    return _matrix(plan, forward, taps * R, wide), _matrix(plan, backward, taps * wide, R)


def _block_maps(plan, layer):
    """(parameter, field, (index, matrix), only for training) of one block."""
    w, both, row = plan.width, layer.wide, plan.table[plan.layers.index(layer)]
    R, D, S, wide = (int(row[name]) for name in ("inputs", "gate", "skip", "wide"))
    places = columns(layer, w)
    forward, backward = _conv(plan, layer, both, places, wide)
    residual = _places(layer.gate, layer.inputs)
    maps = [
        ("conv.weight", "weight", forward, False), ("conv.weight", "weight_t", backward, True),
        ("residual.weight", "residual", _matrix(plan, residual, D, R), False),
        ("residual.bias", "residual_bias", _vector(plan, _places(layer.inputs), R), False),
    ]  # fmt: skip
    back = D, R + S
    if layer.projects_skip:
        skip, at = _places(layer.gate, layer.skip), np.arange(R * w, R * w + layer.skip)
        maps += [
            ("skip.weight", "skip_weight", _matrix(plan, skip, D, S), False),
            ("skip.weight", "back", _matrix(plan, _spread(skip.T, (R + S) * w, at, 0), R + S, D), True),
            ("skip.bias", "skip_bias", _vector(plan, _places(layer.skip), S), False),
        ]  # fmt: skip
    elif layer.stack.activation != net.GATED:
        back = D, R
    maps.append(("residual.weight", "back", _matrix(plan, residual.T, back[1], D), True))
    if plan.local:
        C = plan.condition_panels
        weight = _spread(_places(layer.condition.channels, both), wide * w, places, 1)
        maps += [("condition.weight", "condition_weight", _matrix(plan, weight, C, wide), False),
                 ("condition.weight", "condition_t", _matrix(plan, weight.T, wide, C), True)]  # fmt: skip
    return maps


def all_parts(plan):
    """All packed arrays; layers of the same shape share their maps."""
    parts, known = [], {}
    for i, layer in enumerate(plan.layers):
        shape = layer._replace(name="", last=False, first=False, dilation=1)
        if shape not in known:
            if layer.kind == net.BLOCK:
                known[shape] = _block_maps(plan, layer)
            else:
                R = plan.of(layer.outputs)
                forward, backward = _conv(plan, layer, layer.outputs, np.arange(layer.outputs), R)
                known[shape] = [("weight", "weight", forward, False), ("weight", "weight_t", backward, True)]
                bias = _places(layer.outputs) if layer.bias else np.full(layer.outputs, -1)
                known[shape].append(("bias" * layer.bias, "bias", _vector(plan, bias, R), False))
        for name, field, (index, matrix), training in known[shape]:
            parts.append(Part(f"{layer.name}.{name}", i, field, index, matrix, training))
    return parts + _shared_parts(plan)


def _shared_parts(plan):
    """Those of the input and of a head of two layers."""
    parts, n, head = [], plan.network, plan.network.head
    if not n.real:
        table = _places(n.input.classes, plan.layers[0].inputs)
        index = panel_index(table, n.input.classes, plan.of(plan.layers[0].inputs), plan.dtype)
        parts.append(Part("input.embedding", -1, "embedding", index, None, False))
    if head is not None and head.end_channels:
        S, E, Q = (plan.of(c) for c in (n.feature_channels, head.end_channels, head.outputs))
        weight0, weight1 = _places(n.feature_channels, head.end_channels), _places(head.end_channels, head.outputs)
        for name, field, (index, matrix), training in (
            ("0.weight", "weight0", _matrix(plan, weight0, S, E), False),
            ("0.weight", "weight0_t", _matrix(plan, weight0.T, E, S), True),
            ("0.bias", "bias0", _vector(plan, _places(head.end_channels), E), False),
            ("1.weight", "weight1", _matrix(plan, weight1, E, Q), False),
            ("1.weight", "weight1_t", _matrix(plan, weight1.T, Q, E), True),
            ("1.bias", "bias1", _vector(plan, _places(head.outputs), Q), False),
        ):  # fmt: skip
            parts.append(Part(f"head.{name}", -1, field, index, matrix, training))
    return parts


def _places(*shape):
    return np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)


def _spread(matrix, size, where, axis):
    """The matrix with its rows or columns moved to the given places of a wider one."""
    shape = list(matrix.shape)
    shape[axis] = size
    wide = np.full(shape, -1, np.int64)
    wide[(slice(None),) * axis + (where,)] = matrix
    return wide
