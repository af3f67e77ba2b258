"""Which layers the backward pass must reach on the CPU, and what it computes in each of them."""

import numpy as np

from wavedil.ops.gated_stack import network as net
from wavedil.ops.gated_stack.cpu_tables import (
    CONDITION,
    CONDITION_WEIGHT,
    EMBEDDING,
    HEAD0,
    HEAD1,
    INPUT,
    RESIDUAL,
    SKIP,
    SKIP_SUM,
    WEIGHT,
)


def _below(layers, i):
    """The bias whose gradient is the column sums of that of the layer's X: of what writes h before it."""
    for layer in reversed(layers[:i]):
        if layer.kind == net.BLOCK:
            return f"{layer.name}.residual.bias"
        if layer.kind == net.PROJECT:
            return f"{layer.name}.bias"
    return "input.embedding"


def _skip_biases(layers, level):
    """Names of the biases that are added to the skip sum after so many filters."""
    names, at = set(), 0
    for layer in layers:
        if layer.kind == net.FILTER:
            at += 1
            if at == level:
                names.add(f"{layer.name}.bias")
        elif layer.kind == net.BLOCK and at == level:
            names.add(f"{layer.name}.skip.bias")
    return names


def _names(layers, i):
    """Names of the gradients for which backward must reach layer i."""
    layer = layers[i]
    if layer.kind == net.FILTER:
        level = sum(x.kind == net.FILTER for x in layers[:i])
        return {f"{layer.name}.weight", *_skip_biases(layers, level)}
    names = {_below(layers, i)}
    if layer.kind == net.PROJECT:
        return names | {f"{layer.name}.weight"}
    parts = ["conv.weight", "conv.bias", "condition.weight", "condition.bias", "skip.weight"]
    parts += ["residual.weight"] * (not layer.last)
    names |= {f"{layer.name}.{part}" for part in parts}
    return names | ({"condition"} if layer.first else set())


def lowest_layer(plan, needs):
    """The lowest layer that backward must reach for the gradients of these names; the number of layers if none."""
    for i in range(len(plan.layers)):
        if not needs.isdisjoint(_names(plan.layers, i)):
            return i
    return len(plan.layers)


def computed(plan, needs):
    """`Grads.needs` for the gradients of these names."""
    layers, lowest = plan.layers, lowest_layer(plan, needs)
    operand = plan.local and not plan.network.hop
    flags = np.zeros(len(layers) + 1, np.int64)
    for i in range(lowest, len(layers)):
        layer, name = layers[i], layers[i].name
        if layer.kind == net.FILTER:
            level = sum(x.kind == net.FILTER for x in layers[:i])
            pulled = i > lowest or not needs.isdisjoint(_skip_biases(layers, level))
        else:
            pulled = i > lowest or _below(layers, i) in needs
        wanted = {WEIGHT: f"{name}.weight" in needs, INPUT: pulled}
        if layer.kind == net.BLOCK:
            wanted |= {
                WEIGHT: f"{name}.conv.weight" in needs,
                RESIDUAL: f"{name}.residual.weight" in needs and not layer.last,  # the last one's is zero
                SKIP: f"{name}.skip.weight" in needs,
                CONDITION_WEIGHT: operand and f"{name}.condition.weight" in needs,
                CONDITION: operand and "condition" in needs,
            }
        wanted[EMBEDDING] = i == 0 and "input.embedding" in needs
        flags[i] = sum(flag for flag, on in wanted.items() if on)
    for head, flag in ((0, HEAD0), (1, HEAD1)):
        flags[-1] += flag * (not needs.isdisjoint({f"head.{head}.weight", f"head.{head}.bias"}))
    top = sum(layer.kind == net.FILTER for layer in layers)
    flags[-1] += SKIP_SUM * (lowest < len(layers) or not needs.isdisjoint(_skip_biases(layers, top)))
    return flags
