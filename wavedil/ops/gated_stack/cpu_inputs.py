"""What is fed, on the CPU: codes or rows of real numbers. The type of the array picks the function."""

from numba import types
from numba.extending import overload

from wavedil.kernels.cpu.jit import INNER
from wavedil.kernels.cpu.panels import address, down, right, width_of
from wavedil.kernels.cpu.rows import add_to_table, look_up


def fill_inputs(inputs, net, x, t, n):
    """The first X = what n rows from time t on feed."""
    raise NotImplementedError


def _fill_codes(inputs, net, x, t, n):
    panels = net.layers[0].inputs
    for r in range(n):
        look_up(address(net.vectors, net.embedding), inputs[t + r], down(x, r), panels, net.table_rows)


def _fill_samples(inputs, net, x, t, n):
    w, channels = width_of(x.data), inputs.shape[1]
    for p in range(net.layers[0].inputs):
        panel = right(x, p)
        for r in range(n):
            for c in range(w):
                k = p * w + c
                panel.data[r * x.row + c] = inputs[t + r, k] if k < channels else 0


def add_to_inputs(inputs, net, dh, grads, t, n):
    """The gradient of the embedding += that of the rows."""
    raise NotImplementedError


def _add_codes(inputs, net, dh, grads, t, n):
    panels = net.layers[0].inputs
    for r in range(n):
        add_to_table(down(dh, r), address(grads.slab, grads.embedding), inputs[t + r], panels, net.table_rows)


def _add_samples(inputs, net, dh, grads, t, n):
    pass


@overload(fill_inputs, jit_options=INNER)
def _fill_inputs(inputs, net, x, t, n):
    return _fill_codes if isinstance(inputs.dtype, types.Integer) else _fill_samples


@overload(add_to_inputs, jit_options=INNER)
def _add_to_inputs(inputs, net, dh, grads, t, n):
    return _add_codes if isinstance(inputs.dtype, types.Integer) else _add_samples
