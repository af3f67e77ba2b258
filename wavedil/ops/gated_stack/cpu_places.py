"""Where the parts of an item lie: views that begin at a time, for the kernels of the CPU."""

from wavedil.kernels.cpu.jit import inner
from wavedil.kernels.cpu.panels import address, down, panel_view, right, strided_view, width_of
from wavedil.ops.gated_stack.cpu_tables import BEGIN, GATES, STEP, X


@inner
def inputs_of(item, i, t):
    """X of a layer, from time t on."""
    row = item.position[X, i]
    if row < 0:
        row = t
    w = width_of(address(item.x, 0))
    return strided_view(address(item.x, item.layout[X, BEGIN, i] + row * w), w, item.layout[X, STEP, i])


@inner
def gates_of(item, i, t):
    """What a layer keeps besides (tanh and sigmoid, or a pre-activation; later its gradient), from time t on."""
    row = item.position[GATES, i]
    if row < 0:
        row = t
    w = width_of(address(item.gates, 0))
    at = item.layout[GATES, BEGIN, i] + row * w
    return strided_view(address(item.gates, at), w, item.layout[GATES, STEP, i])


@inner
def skip_sum(net, item, row):
    """The skip sum, from a row of its buffer on."""
    return right(down(panel_view(item.mix, 0, item.mix_rows), row), net.carried)


@inner
def nothing(net):
    """Rows of zeros."""
    return strided_view(address(net.vectors, net.zero), 0, 0)


@inner
def inputs_of_streams(item, i, t):
    """X of a layer, t rows from the present, with a row for each stream."""
    w = width_of(address(item.x, 0))
    at = item.layout[X, BEGIN, i] + (item.position[X, i] + t) * w
    return strided_view(address(item.x, at), item.stream_step, item.layout[X, STEP, i])
