"""The kernels of `cpu`: a chunk of time rows through the layers and the head, forward and backward; runs of chunks.

They fill outputs and return nothing; activations are written with ``=``, parameter gradients with ``+=``. Each kernel
is one thread's work: the driver in `cpu` cuts it into tasks. What differs between networks is picked by types when a
kernel is compiled: how inputs are filled in (`cpu_inputs`), what a block's activation is (`cpu_gates`) and what the
head does (`cpu_heads`). What layers there are, and where their numbers lie, is a table (`LAYER`).
"""

from collections import namedtuple

from wavedil.kernels.cpu.host import tile_rows
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.panels import (
    address,
    down,
    move_memory,
    panel_view,
    repeated,
    right,
    width_of,
    zero_memory,
    zero_rows,
)
from wavedil.kernels.cpu.products import (
    column_product,
    few_row_product,
    few_row_product_biased,
    left_taps,
    left_view,
    matrix,
    row_product,
    row_product_biased,
    row_product_sum,
)
from wavedil.kernels.cpu.rows import add_column_sums, add_rows, copy_rows
from wavedil.ops.gated_stack.cpu_frames import add_to_frames, frames_at
from wavedil.ops.gated_stack.cpu_gates import few_gates, gates_backward, whole_gates
from wavedil.ops.gated_stack.cpu_heads import few_outputs, head_backward, loss_rows, whole_outputs
from wavedil.ops.gated_stack.cpu_inputs import add_to_inputs, fill_inputs
from wavedil.ops.gated_stack.cpu_joins import few_join, join_backward, whole_join
from wavedil.ops.gated_stack.cpu_places import gates_of, inputs_of, nothing, skip_sum
from wavedil.ops.gated_stack.cpu_tables import (
    BEGIN,
    BLOCK,
    CHUNK,
    CONDITION,
    CONDITION_WEIGHT,
    EMBEDDING,
    GATES,
    INPUT,
    RESIDUAL,
    SKIP,
    STEP,
    WEIGHT,
    X,
)

TILE = tile_rows()


# ---- one chunk forward -----------------------------------------------------------------------------------------------
Forward = namedtuple("Forward", "gate layers")


def _forward(rows, product, biased, gates_rows, join):
    """The forward pass of a chunk by these kinds of products, which are for so many ``rows``."""

    def compiled(function):
        function.__qualname__ = f"{function.__name__}_of_{rows}"
        return inner(function)

    @compiled
    def gate_forward(net, item, i, t, n, z):
        """gates, z = activation(bias + condition + conv(X)) for n rows."""
        layer, w = net.layers[i], width_of(address(net.vectors, 0))
        gates = gates_of(item, i, t)
        start = repeated(address(item.bias, layer.block_bias))
        if layer.local > 0:
            condition = down(panel_view(item.condition, 0, item.rows), t)
            weights = matrix(net.matrices, layer.condition_weight, 0, layer.wide, layer.local)
            product(left_view(condition, layer.local), weights, n, layer.wide, gates, start)
            start = gates
        if frames_at(item.frames, layer, 0, t, n, gates):
            start = gates
        x = down(inputs_of(item, i, t), -(layer.taps - 1) * layer.dilation)
        weights = matrix(net.matrices, layer.weight, 0, layer.wide, layer.taps * layer.inputs)
        left = left_taps(x, layer.inputs, layer.dilation * w, layer.taps)
        gates_rows(net.activation, layer.activation, left, weights, n, layer.gate, gates, start, z)

    @compiled
    def layers_forward(net, item, inputs, first, last, t, mix_row, n):
        """n rows through the layers first .. last - 1: fills the next X and the skip sum."""
        vectors, skip = net.vectors, skip_sum(net, item, mix_row)
        z = panel_view(item.scratch, item.z, CHUNK)
        if first == 0:
            fill_inputs(inputs, net, inputs_of(item, 0, t), t, n)
        for i in range(first, last):
            layer = net.layers[i]
            if layer.kind == BLOCK:
                x = inputs_of(item, i, t)
                gate_forward(net, item, i, t, n, z)
                left = left_view(z, layer.gate)
                if layer.following >= 0:
                    weights = matrix(net.matrices, layer.residual, 0, layer.inputs, layer.gate)
                    bias = repeated(address(vectors, layer.residual_bias))
                    biased(left, weights, n, layer.inputs, inputs_of(item, layer.following, t), x, bias)
                if layer.adds_z:
                    if layer.first:
                        copy_rows(z, skip, n, layer.skip)
                    else:
                        add_rows(z, skip, n, layer.skip)
                else:
                    weights = matrix(net.matrices, layer.skip_weight, 0, layer.skip, layer.gate)
                    bias = repeated(address(vectors, layer.skip_bias))
                    before = nothing(net) if layer.first else skip
                    biased(left, weights, n, layer.skip, skip, before, bias)
                continue
            join(net.joins, net, item, i, t, skip, n)

    return Forward(gate_forward, layers_forward)


# Training has whole tiles of rows; a stream's blocks may be of any size, down to one row.
_whole = _forward("whole_tiles", row_product, row_product_biased, whole_gates, whole_join)
_few = _forward("few_rows", few_row_product, few_row_product_biased, few_gates, few_join)
gate_forward, layers_forward = _whole
stream_layers = _few.layers


# ---- one chunk backward ----------------------------------------------------------------------------------------------
@inner
def block_backward(net, item, grads, i, t, n, mix, z, recompute):
    """n rows back through one block, as far as is needed: dh in ``mix`` is replaced, the gates are by their gradient,
    parameter gradients +=."""
    slab, w, layer, needs = grads.slab, width_of(address(net.vectors, 0)), net.layers[i], grads.needs[i]
    both, columns = right(mix, net.carried - layer.inputs), layer.inputs + layer.skip  # [dh | dskip]
    if recompute:
        item.position[GATES, i] -= n
        gate_forward(net, item, i, t, n, z)
    gates = gates_of(item, i, t)
    sums = address(slab, layer.d_bias)
    gates_backward(net.activation, layer.activation, net, item, layer, both, n, gates, z, sums)

    trained = layer.inputs if layer.adds_z else columns
    if needs & (RESIDUAL | SKIP):
        begin = 0 if needs & RESIDUAL else layer.inputs
        end = trained if needs & SKIP else layer.inputs
        target = address(slab, layer.d_mix + begin * layer.gate * w * w)
        column_product(left_view(z, layer.gate), right(both, begin), n, end - begin, target)
    if needs & WEIGHT:
        past = down(inputs_of(item, i, t), -(layer.taps - 1) * layer.dilation)
        x = left_taps(past, layer.inputs, layer.dilation * w, layer.taps)
        column_product(x, gates, n, layer.wide, address(slab, layer.d_weight))
    if needs & CONDITION_WEIGHT:
        condition = down(panel_view(item.condition, 0, item.rows), t)
        column_product(left_view(condition, layer.local), gates, n, layer.wide, address(slab, layer.d_condition))
    if needs & CONDITION:
        dcondition = down(panel_view(item.dcondition, 0, item.rows), t)
        weights = matrix(net.matrices, layer.condition_t, 0, layer.local, layer.wide)
        row_product(left_view(gates, layer.wide), weights, n, layer.local, dcondition, dcondition)
    add_to_frames(item.dframes, layer, t, n, gates)
    if needs & INPUT:
        later = left_taps(down(gates, (layer.taps - 1) * layer.dilation), layer.wide, -layer.dilation * w, layer.taps)
        weights = matrix(net.matrices, layer.weight_t, 0, layer.inputs, layer.taps * layer.wide)
        row_product_sum(later, weights, n, layer.inputs, both, both, address(slab, layer.d_sums))


# ---- a span of chunks ------------------------------------------------------------------------------------------------
@jit
def train_forward(net, item, grads, first, last, begin, end, inputs, targets, weights, scale, loss):
    """A span forward; if there is a head, the last stage adds to the loss and turns the skip sum into its gradient.

    The first stage's first span, which every other task of the item waits for, clears the gradients. Inputs of layers
    that backward does not reach slide along.
    """
    if first == 0 and begin == 0:
        zero_memory(address(grads.slab, 0), len(grads.slab))
    needs = grads.needs[len(net.layers)]
    for t in range(begin, end, CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        slide_down(net, item, first, last, n)
        layers_forward(net, item, inputs, first, last, t, t, n)
        advance(item, first, last, n)
        if last == len(net.layers) and net.head.outputs > 0:
            skip = skip_sum(net, item, t)
            outputs = whole_outputs(net.head, net, item, skip, n)
            loss[0] += loss_rows(net.head, outputs, real, targets[t:], weights[t:], scale, needs != 0)
            if needs:
                zero_rows(down(outputs, real), n - real, net.head.output_panels)
                head_backward(net.head, net, item, grads, skip, n)


@jit
def skip_sum_backward(net, item, grads, dskips):
    """Begin backward without a head: the gradient of the skip sum, (T, S), takes its place; clears the gradients."""
    zero_memory(address(grads.slab, 0), len(grads.slab))
    target, w = skip_sum(net, item, 0), width_of(address(item.mix, 0))
    rows, channels = dskips.shape
    panels = net.head.skips
    for t in range(rows):
        row = down(target, t)
        for c in range(channels):
            row.data[(c // w) * row.panel + c % w] = dskips[t, c]
        for c in range(channels, panels * w):
            row.data[(c // w) * row.panel + c % w] = 0
    zero_rows(down(target, rows), item.mix_rows - rows, panels)
    add_column_sums(target, item.mix_rows, panels, address(grads.slab, net.head.d_skip_sum))


@jit
def train_backward(net, item, grads, first, last, begin, end, inputs, recompute):
    """A span backward, its chunks in reverse."""
    z = panel_view(item.scratch, item.z, CHUNK)
    for t in range(begin + (end - begin - 1) // CHUNK * CHUNK, begin - 1, -CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        if recompute:
            slide_up(net, item, first, last, n)
        mix = down(panel_view(item.mix, 0, item.mix_rows), t)
        if last == len(net.layers):
            zero_rows(mix, n, net.carried)
        for i in range(last - 1, first - 1, -1):
            if net.layers[i].kind == BLOCK:
                block_backward(net, item, grads, i, t, n, mix, z, recompute)
            else:
                join_backward(net.joins, net, item, grads, i, t, n, mix, z, recompute)
        if first == 0 and grads.needs[0] & EMBEDDING:
            add_to_inputs(inputs, net, right(mix, net.carried - net.layers[0].inputs), grads, t, real)


# ---- buffers that slide ----------------------------------------------------------------------------------------------
@inner
def slide_up(net, item, first, last, n):
    """Make room for n rows above the present one: a full gate buffer moves its future rows to its end."""
    w = width_of(address(item.gates, 0))
    for i in range(first, last):
        layer = net.layers[i]
        position, rows = item.position[GATES, i], item.layout[GATES, STEP, i] // w
        if position < n and layer.kept > 0:
            past = (layer.taps - 1) * layer.dilation
            for p in range(layer.kept):
                start = item.layout[GATES, BEGIN, i] + p * rows * w
                move_memory(address(item.gates, start + (rows - past) * w), address(item.gates, start + position * w),
                            past * w)  # fmt: skip
            item.position[GATES, i] = rows - past


@inner
def slide_down(net, item, first, last, n):
    """Make room for n rows below the present one: a full input buffer that slides moves its past rows to its beginning.

    The item's streams lie ``stream_step`` elements apart, and share their positions.
    """
    w = width_of(address(item.x, 0))
    for i in range(first, last):
        position, rows = item.position[X, i], item.layout[X, STEP, i] // w
        if position >= 0 and position + n > rows:
            layer = net.layers[i]
            past = (layer.taps - 1) * layer.dilation
            for stream in range(len(item.x) // item.stream_step):
                for p in range(layer.inputs):
                    start = stream * item.stream_step + item.layout[X, BEGIN, i] + p * rows * w
                    source = address(item.x, start + (position - past) * w)
                    move_memory(address(item.x, start), source, past * w)
            item.position[X, i] = past


@inner
def advance(item, first, last, n):
    """The inputs that slide go on by n rows."""
    for i in range(first, last):
        if item.position[X, i] >= 0:
            item.position[X, i] += n


# ---- streams ---------------------------------------------------------------------------------------------------------
@inner
def stream_chunk(net, item, inputs, t, n):
    """Skip sum of a chunk of n rows, forward only, through buffers that slide."""
    slide_down(net, item, 0, len(net.layers), n)
    stream_layers(net, item, inputs, 0, len(net.layers), t, 0, n)
    advance(item, 0, len(net.layers), n)
    return skip_sum(net, item, 0)


@jit
def stream_loss(net, item, inputs, targets, weights, loss):
    """Add the weighted losses of the targets."""
    count = len(weights)
    for t in range(0, count, CHUNK):
        n = min(CHUNK, count - t)
        outputs = few_outputs(net.head, net, item, stream_chunk(net, item, inputs, t, n), n)
        loss[0] += loss_rows(net.head, outputs, n, targets[t:], weights[t:], weights[0], False)


@jit
def stream_rows(net, item, inputs, out, head):
    """What the head puts out after each row, or without the head the skip sum."""
    count = len(out)
    for t in range(0, count, CHUNK):
        n = min(CHUNK, count - t)
        rows = stream_chunk(net, item, inputs, t, n)
        if head:
            rows = few_outputs(net.head, net, item, rows, n)
        w = width_of(rows.data)
        for r in range(n):
            for q in range(out.shape[1]):
                out[t + r, q] = rows.data[(q // w) * rows.panel + r * w + q % w]
