"""Activations of blocks on the CPU: tanh times sigmoid while the sums are in registers, or any plain activation.

``Net.activation`` is a tuple of kinds, one for each activation that the network has; a layer's field ``activation``
says which one is its own. Of a gate, tanh and sigmoid are kept for backward; of a plain activation, what went into it.
"""

from collections import namedtuple

from numba.extending import overload

from wavedil.kernels.cpu.elementwise import loops
from wavedil.kernels.cpu.jit import INNER
from wavedil.kernels.cpu.panels import address, panel_view, right, strided_view, width_of
from wavedil.kernels.cpu.products import (
    few_row_product,
    few_row_product_gate,
    left_view,
    matrix,
    row_product,
    row_product_gate,
    row_product_gate_backward,
)
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.ops.activation import cpu as plain
from wavedil.ops.gated_stack.cpu_tables import CHUNK

Gated = namedtuple("Gated", "alpha")
Identity = namedtuple("Identity", "alpha")
KINDS = {"gated": Gated, "identity": Identity} | {name: plain.KINDS[name] for name in plain.KINDS}

_apply = loops(plain.FORWARD | {Identity: lambda e, at, options, x: (x,)})
_apply_backward = loops(plain.BACKWARD | {Identity: lambda e, at, options, x, dy: (dy,)})


def _forward(rows, product, gate):
    """The function that types pick: of gates, or of a plain activation; for so many ``rows``."""

    def gated(kinds, which, left, weights, n, panels, gates, start, z):
        gate(left, weights, n, panels, gates, start, z)

    def activated(kinds, which, left, weights, n, panels, gates, start, z):
        product(left, weights, n, panels, gates, start)
        w = width_of(z.data)
        for p in range(panels):  # the rows of a panel lie one after the other
            _apply(kinds[0], (right(gates, p).data,), (right(z, p).data,), n * w)

    def stub(kinds, which, left, weights, n, panels, gates, start, z):
        """gates =, z = activation(start + left weights)"""
        raise NotImplementedError

    def chosen(kinds, which, left, weights, n, panels, gates, start, z):
        if which == 0:
            stub(kinds[:1], 0, left, weights, n, panels, gates, start, z)
        else:
            stub(kinds[1:], which - 1, left, weights, n, panels, gates, start, z)

    for function in (gated, activated, chosen):
        function.__qualname__ = f"{function.__name__}_of_{rows}"

    @overload(stub, jit_options=INNER)
    def picked(kinds, which, left, weights, n, panels, gates, start, z):
        return _picked(kinds, gated, activated, chosen)

    return stub


def _picked(kinds, gated, plain, chosen):
    """One of these functions, by the types of the kinds."""
    if len(kinds) > 1:
        return chosen
    return gated if kinds[0].instance_class is Gated else plain


whole_gates = _forward("whole_tiles", row_product, row_product_gate)
few_gates = _forward("few_rows", few_row_product, few_row_product_gate)


def gates_backward(kinds, which, net, item, layer, both, n, gates, z, sums):
    """From [dh | dskip] to the gradient of what went into the activation, which replaces the gates; z =, sums +=."""
    raise NotImplementedError


def _gated_backward(kinds, which, net, item, layer, both, n, gates, z, sums):
    columns = layer.inputs + layer.skip
    weights = matrix(net.matrices, layer.back, 0, layer.gate, columns)
    row_product_gate_backward(left_view(both, columns), weights, n, layer.gate, gates, z, sums)


def _activated_backward(kinds, which, net, item, layer, both, n, gates, z, sums):
    dz = panel_view(item.scratch, item.dz, CHUNK)
    if layer.adds_z:
        weights = matrix(net.matrices, layer.back, 0, layer.gate, layer.inputs)
        row_product(left_view(both, layer.inputs), weights, n, layer.gate, dz, right(both, layer.inputs))
    else:
        columns = layer.inputs + layer.skip
        weights = matrix(net.matrices, layer.back, 0, layer.gate, columns)
        zeros = strided_view(address(net.vectors, net.zero), 0, 0)
        row_product(left_view(both, columns), weights, n, layer.gate, dz, zeros)
    w = width_of(z.data)
    for p in range(layer.gate):
        pre = right(gates, p).data
        _apply(kinds[0], (pre,), (right(z, p).data,), n * w)
        _apply_backward(kinds[0], (pre, right(dz, p).data), (pre,), n * w)
    add_column_sums(gates, n, layer.gate, sums)


def _chosen_backward(kinds, which, net, item, layer, both, n, gates, z, sums):
    if which == 0:
        gates_backward(kinds[:1], 0, net, item, layer, both, n, gates, z, sums)
    else:
        gates_backward(kinds[1:], which - 1, net, item, layer, both, n, gates, z, sums)


@overload(gates_backward, jit_options=INNER)
def _gates_backward(kinds, which, net, item, layer, both, n, gates, z, sums):
    return _picked(kinds, _gated_backward, _activated_backward, _chosen_backward)
