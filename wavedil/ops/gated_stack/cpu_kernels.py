"""The kernels of `cpu`: a chunk of time rows through the blocks and the head, forward and backward; runs of chunks.

They fill outputs and return nothing; activations are written with ``=``, parameter gradients with ``+=``. Each kernel
is one thread's work: the driver in `cpu` cuts it into tasks.
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
    strided_view,
    width_of,
    zero_memory,
    zero_rows,
)
from wavedil.kernels.cpu.products import (
    column_product,
    few_row_product,
    few_row_product_biased,
    few_row_product_gate,
    few_row_product_relu,
    left_taps,
    left_view,
    matrix,
    row_product,
    row_product_biased,
    row_product_gate,
    row_product_gate_backward,
    row_product_mask,
    row_product_relu,
    row_product_sum,
)
from wavedil.kernels.cpu.random import uniform
from wavedil.kernels.cpu.rows import add_column_sums, add_to_table, cross_entropy_rows, look_up, relu_rows, sample_row

CHUNK = 192  # time rows; a multiple of every tile's rows. 96 was slower: by 3% at 32 channels, by 25% at 128
TILE = tile_rows()

# Counts of panels (of residual, dilation, skip, end channels, classes, local condition channels); the packed parameters
# in two arrays, and where in them each begins. `matrices` has the weights, of floats or stored in fewer bytes: `mix` is
# [residual | skip], `_t` is transposed, for the backward pass. `vectors` has what is always of floats.
Net = namedtuple(
    "Net",
    "dilations kernel R D S E Q C classes matrices vectors conv condition residual skip head0 head1 "
    "conv_t mix_t condition_t head0_t head1_t embedding residual_bias skip_bias head0_bias head1_bias zero",
)
# Gradients of one item in one array, packed like the parameters. residual_bias of block i belongs to block i - 1.
# `needs` has a number for each block, and one for the head: the sum of what is to be computed there, named below.
Grads = namedtuple(
    "Grads", "slab needs embedding conv bias condition mix residual_bias skip_bias head0 head0_bias head1 head1_bias"
)
RESIDUAL, SKIP, CONV, CONDITION_WEIGHT, CONDITION, INPUT, EMBEDDING = 1, 2, 4, 8, 16, 32, 64  # of a block
HEAD0, HEAD1, SKIP_SUM = 1, 2, 4  # of the head
# Activations of one item. `layout` holds for each block where its input X and its gates begin and how far their panels
# lie apart, in elements. Rows are times where `position` is negative; a buffer that slides along has its present row
# there. `scratch` is of one chunk: z, skip, end, logits and dend are where its matrices begin. In generation an item
# is a group of streams, whose X and biases lie `stream_step` and `bias_step` elements apart.
Item = namedtuple(
    "Item",
    "x gates layout position stream_step mix condition dcondition rows mix_rows bias bias_step "
    "scratch z skip end logits dend",
)
Options = namedtuple("Options", "seed temperature top_k top_p")  # of sampling
X, GATES = 0, 1  # rows of `layout` (each with BEGIN and STEP) and of `position`
BEGIN, STEP = 0, 1


# ---- one chunk -------------------------------------------------------------------------------------------------------
@inner
def inputs(item, block, t):
    """X of a block, from time t on."""
    row = item.position[X, block]
    if row < 0:
        row = t
    w = width_of(address(item.x, 0))
    return strided_view(address(item.x, item.layout[X, BEGIN, block] + row * w), w, item.layout[X, STEP, block])


@inner
def gates_of(item, block, t):
    """tanh and sigmoid of a block (or the gradient of their inputs), from time t on."""
    row = item.position[GATES, block]
    if row < 0:
        row = t
    w = width_of(address(item.gates, 0))
    at = item.layout[GATES, BEGIN, block] + row * w
    return strided_view(address(item.gates, at), w, item.layout[GATES, STEP, block])


Forward = namedtuple("Forward", "gate blocks head")


def _forward(rows, product, biased, relu, gate):
    """The forward pass of a chunk by these kinds of products, which are for so many ``rows``."""

    def compiled(function):
        function.__qualname__ = f"{function.__name__}_of_{rows}"
        return inner(function)

    @compiled
    def gate_forward(net, item, block, t, n, z):
        """gates, z = gate(bias + condition + conv(X)) for n rows."""
        w, dilation, D2 = width_of(address(net.vectors, 0)), net.dilations[block], 2 * net.D
        gates = gates_of(item, block, t)
        start = repeated(address(item.bias, block * D2 * w))
        if net.C > 0:
            condition = down(panel_view(item.condition, 0, item.rows), t)
            weights = matrix(net.matrices, net.condition, block, D2, net.C)
            product(left_view(condition, net.C), weights, n, D2, gates, start)
            start = gates
        x = down(inputs(item, block, t), -(net.kernel - 1) * dilation)
        weights = matrix(net.matrices, net.conv, block, D2, net.kernel * net.R)
        gate(left_taps(x, net.R, dilation * w, net.kernel), weights, n, net.D, gates, start, z)

    @compiled
    def blocks_forward(net, item, codes, first, last, t, mix_row, n):
        """n rows through the blocks first .. last - 1: fills the next X and the skip sum."""
        vectors, w = net.vectors, width_of(address(net.vectors, 0))
        skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
        z = panel_view(item.scratch, item.z, CHUNK)
        left = left_view(z, net.D)
        if first == 0:
            x = inputs(item, 0, t)
            for r in range(n):
                look_up(address(vectors, net.embedding), codes[t + r], down(x, r), net.R, net.classes)
        for block in range(first, last):
            gate_forward(net, item, block, t, n, z)
            if block + 1 < len(net.dilations):
                weights = matrix(net.matrices, net.residual, block, net.R, net.D)
                bias = repeated(address(vectors, net.residual_bias + block * net.R * w))
                x, following = inputs(item, block, t), inputs(item, block + 1, t)
                biased(left, weights, n, net.R, following, x, bias)
            weights = matrix(net.matrices, net.skip, block, net.S, net.D)
            bias = repeated(address(vectors, net.skip_bias + block * net.S * w))
            before = strided_view(address(vectors, net.zero), 0, 0) if block == 0 else skip
            biased(left, weights, n, net.S, skip, before, bias)

    @compiled
    def head_forward(net, item, mix_row, n):
        """ReLUs and logits of n rows, into the item's scratch."""
        skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
        skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
        logits = panel_view(item.scratch, item.logits, CHUNK)
        relu_rows(skip, skip_on, n, net.S)
        bias0, bias1 = repeated(address(net.vectors, net.head0_bias)), repeated(address(net.vectors, net.head1_bias))
        weights0 = matrix(net.matrices, net.head0, 0, net.E, net.S)
        weights1 = matrix(net.matrices, net.head1, 0, net.Q, net.E)
        relu(left_view(skip_on, net.S), weights0, n, net.E, end, bias0)
        product(left_view(end, net.E), weights1, n, net.Q, logits, bias1)
        return logits

    return Forward(gate_forward, blocks_forward, head_forward)


# Training has whole tiles of rows; a stream's blocks may be of any size, down to one row.
_whole = _forward("whole_tiles", row_product, row_product_biased, row_product_relu, row_product_gate)
_few = _forward("few_rows", few_row_product, few_row_product_biased, few_row_product_relu, few_row_product_gate)
gate_forward, blocks_forward, head_forward = _whole
stream_blocks, stream_head = _few.blocks, _few.head


@inner
def head_backward(net, item, grads, mix_row, n):
    """From the logits' gradient to dskip, which replaces the skip sum; parameter gradients +=."""
    dskip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
    dlogits, dend = panel_view(item.scratch, item.logits, CHUNK), panel_view(item.scratch, item.dend, CHUNK)
    slab, needs = grads.slab, grads.needs[len(net.dilations)]
    if needs & HEAD1:
        add_column_sums(dlogits, n, net.Q, address(slab, grads.head1_bias))
        column_product(left_view(end, net.E), dlogits, n, net.Q, address(slab, grads.head1))
    if needs & (HEAD0 | SKIP_SUM):
        weights, sums = matrix(net.matrices, net.head1_t, 0, net.E, net.Q), address(slab, grads.head0_bias)
        row_product_mask(left_view(dlogits, net.Q), weights, n, net.E, dend, end, sums)
    if needs & HEAD0:
        column_product(left_view(skip_on, net.S), dend, n, net.E, address(slab, grads.head0))
    if needs & SKIP_SUM:
        weights, sums = matrix(net.matrices, net.head0_t, 0, net.S, net.E), address(slab, grads.skip_bias)
        row_product_mask(left_view(dend, net.E), weights, n, net.S, dskip, skip_on, sums)


@inner
def block_backward(net, item, grads, block, t, n, mix, z, recompute):
    """n rows back through one block, as far as is needed: dh in the first panels of ``mix`` is replaced, the gates are
    by their gradient, parameter gradients +=."""
    slab, w = grads.slab, width_of(address(net.vectors, 0))
    dilation, D2, RS, needs = net.dilations[block], 2 * net.D, net.R + net.S, grads.needs[block]
    if recompute:
        item.position[GATES, block] -= n
        gate_forward(net, item, block, t, n, z)
    gates = gates_of(item, block, t)
    weights = matrix(net.matrices, net.mix_t, block, net.D, RS)
    sums = address(slab, grads.bias + block * D2 * w)
    row_product_gate_backward(left_view(mix, RS), weights, n, net.D, gates, z, sums)

    if needs & (RESIDUAL | SKIP):
        begin = 0 if needs & RESIDUAL else net.R
        end = RS if needs & SKIP else net.R
        target = address(slab, grads.mix + (block * RS + begin) * net.D * w * w)
        column_product(left_view(z, net.D), right(mix, begin), n, end - begin, target)
    if needs & CONV:
        x = left_taps(down(inputs(item, block, t), -(net.kernel - 1) * dilation), net.R, dilation * w, net.kernel)
        column_product(x, gates, n, D2, address(slab, grads.conv + block * net.kernel * net.R * D2 * w * w))
    if needs & CONDITION_WEIGHT:
        condition = down(panel_view(item.condition, 0, item.rows), t)
        target = address(slab, grads.condition + block * net.C * D2 * w * w)
        column_product(left_view(condition, net.C), gates, n, D2, target)
    if needs & CONDITION:
        dcondition = down(panel_view(item.dcondition, 0, item.rows), t)
        weights = matrix(net.matrices, net.condition_t, block, net.C, D2)
        row_product(left_view(gates, D2), weights, n, net.C, dcondition, dcondition)
    if needs & INPUT:
        later = left_taps(down(gates, (net.kernel - 1) * dilation), D2, -dilation * w, net.kernel)
        weights = matrix(net.matrices, net.conv_t, block, net.R, net.kernel * D2)
        sums = address(slab, grads.residual_bias + block * net.R * w)
        row_product_sum(later, weights, n, net.R, mix, mix, sums)


# ---- a span of chunks ------------------------------------------------------------------------------------------------
@jit
def train_forward(net, item, grads, first, last, begin, end, codes, weights, scale, loss):
    """A span forward; if there is a head, the last stage adds to the loss and turns the skip sum into its gradient.

    The first stage's first span, which every other task of the item waits for, clears the gradients. Inputs of blocks
    that backward does not reach slide along.
    """
    if first == 0 and begin == 0:
        zero_memory(address(grads.slab, 0), len(grads.slab))
    needs = grads.needs[len(net.dilations)]
    for t in range(begin, end, CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        slide_down(net, item, first, last, n)
        blocks_forward(net, item, codes, first, last, t, t, n)
        advance(item, first, last, n)
        if last == len(net.dilations) and net.Q > 0:
            logits = head_forward(net, item, t, n)
            loss[0] += cross_entropy_rows(logits, real, net.Q, codes[t + 1 :], weights[t:], scale, needs != 0)
            if needs:
                zero_rows(down(logits, real), n - real, net.Q)
                head_backward(net, item, grads, t, n)


@jit
def skip_sum_backward(net, item, grads, dskips):
    """Begin backward without a head: the gradient of the skip sum, (T, S), takes its place; clears the gradients."""
    zero_memory(address(grads.slab, 0), len(grads.slab))
    target, w = right(panel_view(item.mix, 0, item.mix_rows), net.R), width_of(address(item.mix, 0))
    rows, channels = dskips.shape
    for t in range(rows):
        row = down(target, t)
        for c in range(channels):
            row.data[(c // w) * row.panel + c % w] = dskips[t, c]
        for c in range(channels, net.S * w):
            row.data[(c // w) * row.panel + c % w] = 0
    zero_rows(down(target, rows), item.mix_rows - rows, net.S)
    add_column_sums(target, item.mix_rows, net.S, address(grads.slab, grads.skip_bias))


@jit
def train_backward(net, item, grads, first, last, begin, end, codes, recompute):
    """A span backward, its chunks in reverse."""
    z = panel_view(item.scratch, item.z, CHUNK)
    for t in range(begin + (end - begin - 1) // CHUNK * CHUNK, begin - 1, -CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        if recompute:
            slide_up(net, item, first, last, n)
        mix = down(panel_view(item.mix, 0, item.mix_rows), t)
        if last == len(net.dilations):
            zero_rows(mix, n, net.R)
        for block in range(last - 1, first - 1, -1):
            block_backward(net, item, grads, block, t, n, mix, z, recompute)
        if first == 0 and grads.needs[0] & EMBEDDING:
            for r in range(real):
                add_to_table(down(mix, r), address(grads.slab, grads.embedding), codes[t + r], net.R, net.classes)


@inner
def slide_up(net, item, first, last, n):
    """Make room for n rows above the present one: a full gate buffer moves its future rows to its end."""
    w = width_of(address(item.gates, 0))
    for block in range(first, last):
        position, rows = item.position[GATES, block], item.layout[GATES, STEP, block] // w
        if position < n:
            kept = (net.kernel - 1) * net.dilations[block]
            for p in range(2 * net.D):
                start = item.layout[GATES, BEGIN, block] + p * rows * w
                move_memory(address(item.gates, start + (rows - kept) * w), address(item.gates, start + position * w),
                            kept * w)  # fmt: skip
            item.position[GATES, block] = rows - kept


@inner
def slide_down(net, item, first, last, n):
    """Make room for n rows below the present one: a full input buffer that slides moves its past rows to its beginning.

    The item's streams lie ``stream_step`` elements apart, and share their positions.
    """
    w = width_of(address(item.x, 0))
    for block in range(first, last):
        position, rows = item.position[X, block], item.layout[X, STEP, block] // w
        if position >= 0 and position + n > rows:
            kept = (net.kernel - 1) * net.dilations[block]
            for stream in range(len(item.x) // item.stream_step):
                for p in range(net.R):
                    start = stream * item.stream_step + item.layout[X, BEGIN, block] + p * rows * w
                    source = address(item.x, start + (position - kept) * w)
                    move_memory(address(item.x, start), source, kept * w)
            item.position[X, block] = kept


@inner
def advance(item, first, last, n):
    """The inputs that slide go on by n rows."""
    for block in range(first, last):
        if item.position[X, block] >= 0:
            item.position[X, block] += n


@inner
def stream_chunk(net, item, codes, t, n):
    """Skip sum of a chunk of n rows, forward only, through buffers that slide."""
    slide_down(net, item, 0, len(net.dilations), n)
    stream_blocks(net, item, codes, 0, len(net.dilations), t, 0, n)
    advance(item, 0, len(net.dilations), n)
    return right(panel_view(item.mix, 0, item.mix_rows), net.R)


@jit
def stream_loss(net, item, codes, weights, loss):
    """Add the weighted nats of codes[1:] given those before to the loss."""
    count = len(weights)
    for t in range(0, count, CHUNK):
        n = min(CHUNK, count - t)
        stream_chunk(net, item, codes, t, n)
        logits = stream_head(net, item, 0, n)
        loss[0] += cross_entropy_rows(logits, n, net.Q, codes[t + 1 :], weights[t:], weights[0], False)


@jit
def stream_rows(net, item, codes, out, head):
    """The logits that follow each code, or without the head its skip sum."""
    count = len(out)
    for t in range(0, count, CHUNK):
        n = min(CHUNK, count - t)
        rows = stream_chunk(net, item, codes, t, n)
        if head:
            rows = stream_head(net, item, 0, n)
        w = width_of(rows.data)
        for r in range(n):
            for q in range(out.shape[1]):
                out[t + r, q] = rows.data[(q // w) * rows.panel + r * w + q % w]


@inner
def inputs_of_streams(item, block, t):
    """X of a block, t rows from the present, with a row for each stream."""
    w = width_of(address(item.x, 0))
    at = item.layout[X, BEGIN, block] + (item.position[X, block] + t) * w
    return strided_view(address(item.x, at), item.stream_step, item.layout[X, STEP, block])


@inner
def sample_step(net, item, codes, n):
    """Logits after one more code of each of n streams, which are the rows of all matrices here."""
    vectors, w, D2 = net.vectors, width_of(address(net.vectors, 0)), 2 * net.D
    z, skip = panel_view(item.scratch, item.z, n), panel_view(item.scratch, item.skip, n)
    gates, end = panel_view(item.gates, 0, n), panel_view(item.scratch, item.end, n)
    logits = panel_view(item.scratch, item.logits, n)
    x = inputs_of_streams(item, 0, 0)
    for b in range(n):
        look_up(address(vectors, net.embedding), codes[b], down(x, b), net.R, net.classes)
    left = left_view(z, net.D)
    for block in range(len(net.dilations)):
        dilation = net.dilations[block]
        past = left_taps(inputs_of_streams(item, block, -(net.kernel - 1) * dilation), net.R, dilation * w, net.kernel)
        weights = matrix(net.matrices, net.conv, block, D2, net.kernel * net.R)
        bias = strided_view(address(item.bias, block * D2 * w), item.bias_step, w)
        few_row_product_gate(past, weights, n, net.D, gates, bias, z)
        if block + 1 < len(net.dilations):
            weights = matrix(net.matrices, net.residual, block, net.R, net.D)
            bias = repeated(address(vectors, net.residual_bias + block * net.R * w))
            x, following = inputs_of_streams(item, block, 0), inputs_of_streams(item, block + 1, 0)
            few_row_product_biased(left, weights, n, net.R, following, x, bias)
        weights = matrix(net.matrices, net.skip, block, net.S, net.D)
        bias = repeated(address(vectors, net.skip_bias + block * net.S * w))
        before = strided_view(address(vectors, net.zero), 0, 0) if block == 0 else skip
        few_row_product_biased(left, weights, n, net.S, skip, before, bias)
        item.position[X, block] += 1
    relu_rows(skip, skip, n, net.S)
    bias0, bias1 = repeated(address(vectors, net.head0_bias)), repeated(address(vectors, net.head1_bias))
    weights0 = matrix(net.matrices, net.head0, 0, net.E, net.S)
    weights1 = matrix(net.matrices, net.head1, 0, net.Q, net.E)
    few_row_product_relu(left_view(skip, net.S), weights0, n, net.E, end, bias0)
    few_row_product(left_view(end, net.E), weights1, n, net.Q, logits, bias1)
    return logits


@jit
def stream_samples(net, item, codes, out, options, first_stream, time, probabilities, ordered, failed):
    """Draw codes for a group of streams, each from the logits after the one before; ``codes`` start them."""
    n, count = out.shape
    for i in range(count):
        slide_down(net, item, 0, len(net.dilations), 1)
        logits = sample_step(net, item, codes, n)
        for b in range(n):
            draw = uniform(options.seed, first_stream + b, time + i)
            code = sample_row(down(logits, b), net.Q, options, draw, probabilities, ordered)
            if code < 0:
                failed[0], failed[1] = first_stream + b, time + i
                return
            out[b, i] = code
            codes[b] = code
