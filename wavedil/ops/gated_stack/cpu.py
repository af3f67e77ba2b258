"""All blocks, the head and the loss on the CPU: depth first in time.

Causality lets one item of the batch run chunk by chunk (``CHUNK`` time rows) through *all* blocks, so the hidden state,
the gated activation and the logits of a chunk stay in the cache; backward takes the chunks in reverse. Per block:

===========  ==========================================================================  ================
forward      gates, z = gate(bias + sum_k X[t - (K-1-k) d] W_k)                          row product
             X' = X + b_r + z R;  skip += b_s + z S                                      row products
backward     dz = [dh | dskip] [R | S]^T, then through the gate, and the bias gradient   row product
             d[R | S] += z^T [dh | dskip];  dW_k += X[t - (K-1-k) d]^T da                column products
             dh += sum_k da[t + (K-1-k) d] W_k^T                                         row product
===========  ==========================================================================  ================

Three choices keep the memory small and the passes few: the gradient ``da`` of the gates' inputs overwrites tanh and
sigmoid in place; the input gradient *pulls* from later rows, which the reverse order has finished; and ``dh`` and
``dskip`` lie side by side, so each pair of products with R and S is one.

Work is cut into tasks ``(item, stage, span)``: a stage is a run of blocks, a span a run of chunks. If the batch does
not occupy all threads, an item's stages work on different spans at once, like a pipeline. Every sum is taken in
the same order whatever the cut, and each item has gradients of its own, added in order: the bits do not depend on the
number of threads.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.host import tile_rows, width
from wavedil.kernels.jit import jit
from wavedil.kernels.panels import (
    add_gathered,
    address,
    beyond,
    down,
    gather,
    inverse_index,
    move_memory,
    pack_rows,
    panel_index,
    panel_view,
    panels_of,
    repeated,
    right,
    strided_view,
    unpack_rows,
    whole_tiles,
    width_of,
    zero_memory,
    zero_rows,
)
from wavedil.kernels.products import (
    column_product,
    left_taps,
    left_view,
    row_product,
    row_product_biased,
    row_product_gate,
    row_product_gate_backward,
    row_product_mask,
    row_product_relu,
    row_product_sum,
)
from wavedil.kernels.rows import add_column_sums, add_to_table, cross_entropy_rows, look_up, relu_rows
from wavedil.kernels.workspace import Workspace

CHUNK = 96  # time rows; a multiple of every tile's rows
TILE = tile_rows()

# Counts of panels (of residual, dilation, skip, end channels, classes, local condition channels); the packed parameters
# in one array, and where in it each begins: `mix` is [residual | skip], `_t` is transposed, for the backward pass.
Net = namedtuple(
    "Net",
    "dilations kernel R D S E Q C classes weights embedding conv condition residual residual_bias skip skip_bias "
    "head0 head0_bias head1 head1_bias conv_t mix_t condition_t head0_t head1_t zero",
)
# Gradients of one item in one array, packed like the parameters. residual_bias of block i belongs to block i - 1.
Grads = namedtuple(
    "Grads", "slab embedding conv bias condition mix residual_bias skip_bias head0 head0_bias head1 head1_bias"
)
# Activations of one item. `layout` holds for each block where its input X and its gates begin and how far their panels
# lie apart, in elements. Rows are times, but for buffers that slide along: those have each block's present row in
# `position`. `scratch` is of one chunk: z, skip, end, logits and dend are where its matrices begin.
Item = namedtuple(
    "Item",
    "x gates layout position x_slides gates_slide mix condition dcondition rows mix_rows bias "
    "scratch z skip end logits dend",
)
X, GATES = 0, 1  # rows of `layout` (each with BEGIN and STEP) and of `position`
BEGIN, STEP = 0, 1


# ---- kernels: one chunk ------------------------------------------------------------------------------------------------
@jit
def inputs(item, block, t):
    """X of a block, from time t on."""
    row = item.position[X, block] if item.x_slides else t
    w = width_of(address(item.x, 0))
    return strided_view(address(item.x, item.layout[X, BEGIN, block] + row * w), w, item.layout[X, STEP, block])


@jit
def gates_of(item, block, t):
    """tanh and sigmoid of a block (or the gradient of their inputs), from time t on."""
    row = item.position[GATES, block] if item.gates_slide else t
    w = width_of(address(item.gates, 0))
    at = item.layout[GATES, BEGIN, block] + row * w
    return strided_view(address(item.gates, at), w, item.layout[GATES, STEP, block])


@jit
def gate_forward(net, item, block, t, n, z):
    """gates, z = gate(bias + condition + conv(X)) for n rows."""
    weights, w = net.weights, width_of(address(net.weights, 0))
    dilation, D2 = net.dilations[block], 2 * net.D
    gates = gates_of(item, block, t)
    start = repeated(address(item.bias, block * D2 * w))
    if net.C > 0:
        condition = down(panel_view(item.condition, 0, item.rows), t)
        matrix = address(weights, net.condition + block * D2 * net.C * w * w)
        row_product(left_view(condition, net.C), matrix, n, D2, gates, start)
        start = gates
    x = down(inputs(item, block, t), -(net.kernel - 1) * dilation)
    matrix = address(weights, net.conv + block * D2 * net.kernel * net.R * w * w)
    row_product_gate(left_taps(x, net.R, dilation, net.kernel), matrix, n, net.D, gates, start, z)


@jit
def blocks_forward(net, item, codes, first, last, t, mix_row, n):
    """n rows through the blocks first .. last - 1: fills the next X and the skip sum."""
    weights, w = net.weights, width_of(address(net.weights, 0))
    skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    z = panel_view(item.scratch, item.z, CHUNK)
    left = left_view(z, net.D)
    if first == 0:
        x = inputs(item, 0, t)
        for r in range(n):
            look_up(address(weights, net.embedding), codes[t + r], down(x, r), net.R, net.classes)
    for block in range(first, last):
        gate_forward(net, item, block, t, n, z)
        if block + 1 < len(net.dilations):
            matrix = address(weights, net.residual + block * net.D * net.R * w * w)
            bias = repeated(address(weights, net.residual_bias + block * net.R * w))
            x, following = inputs(item, block, t), inputs(item, block + 1, t)
            row_product_biased(left, matrix, n, net.R, following, x, bias)
        matrix = address(weights, net.skip + block * net.D * net.S * w * w)
        bias = repeated(address(weights, net.skip_bias + block * net.S * w))
        before = strided_view(address(weights, net.zero), 0, 0) if block == 0 else skip
        row_product_biased(left, matrix, n, net.S, skip, before, bias)


@jit
def head_forward(net, item, mix_row, n):
    """ReLUs and logits of n rows, into the item's scratch."""
    skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
    logits = panel_view(item.scratch, item.logits, CHUNK)
    relu_rows(skip, skip_on, n, net.S)
    weights = net.weights
    bias0, bias1 = repeated(address(weights, net.head0_bias)), repeated(address(weights, net.head1_bias))
    row_product_relu(left_view(skip_on, net.S), address(weights, net.head0), n, net.E, end, bias0)
    row_product(left_view(end, net.E), address(weights, net.head1), n, net.Q, logits, bias1)
    return logits


@jit
def head_backward(net, item, grads, mix_row, n):
    """From the logits' gradient to dskip, which replaces the skip sum; parameter gradients +=."""
    dskip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    skip_on, end = panel_view(item.scratch, item.skip, CHUNK), panel_view(item.scratch, item.end, CHUNK)
    dlogits, dend = panel_view(item.scratch, item.logits, CHUNK), panel_view(item.scratch, item.dend, CHUNK)
    weights, slab = net.weights, grads.slab
    add_column_sums(dlogits, n, net.Q, address(slab, grads.head1_bias))
    column_product(left_view(end, net.E), dlogits, n, net.Q, address(slab, grads.head1))
    matrix, sums = address(weights, net.head1_t), address(slab, grads.head0_bias)
    row_product_mask(left_view(dlogits, net.Q), matrix, n, net.E, dend, end, sums)
    column_product(left_view(skip_on, net.S), dend, n, net.E, address(slab, grads.head0))
    matrix, sums = address(weights, net.head0_t), address(slab, grads.skip_bias)
    row_product_mask(left_view(dend, net.E), matrix, n, net.S, dskip, skip_on, sums)


@jit
def block_backward(net, item, grads, block, t, n, mix, z, recompute):
    """n rows back through one block; dh in the first panels of ``mix`` is replaced, parameter gradients +=."""
    weights, slab, w = net.weights, grads.slab, width_of(address(net.weights, 0))
    dilation, D2, RS = net.dilations[block], 2 * net.D, net.R + net.S
    if recompute:
        item.position[GATES, block] -= n
        gate_forward(net, item, block, t, n, z)
    gates = gates_of(item, block, t)
    matrix = address(weights, net.mix_t + block * RS * net.D * w * w)
    sums = address(slab, grads.bias + block * D2 * w)
    row_product_gate_backward(left_view(mix, RS), matrix, n, net.D, gates, z, sums)

    column_product(left_view(z, net.D), mix, n, RS, address(slab, grads.mix + block * RS * net.D * w * w))
    x = left_taps(down(inputs(item, block, t), -(net.kernel - 1) * dilation), net.R, dilation, net.kernel)
    column_product(x, gates, n, D2, address(slab, grads.conv + block * net.kernel * net.R * D2 * w * w))
    if net.C > 0:
        condition = down(panel_view(item.condition, 0, item.rows), t)
        dcondition = down(panel_view(item.dcondition, 0, item.rows), t)
        target = address(slab, grads.condition + block * net.C * D2 * w * w)
        column_product(left_view(condition, net.C), gates, n, D2, target)
        matrix = address(weights, net.condition_t + block * D2 * net.C * w * w)
        row_product(left_view(gates, D2), matrix, n, net.C, dcondition, dcondition)

    later = left_taps(down(gates, (net.kernel - 1) * dilation), D2, -dilation, net.kernel)
    matrix = address(weights, net.conv_t + block * net.kernel * D2 * net.R * w * w)
    sums = address(slab, grads.residual_bias + block * net.R * w)
    row_product_sum(later, matrix, n, net.R, mix, mix, sums)


# ---- kernels: a span of chunks -----------------------------------------------------------------------------------------
@jit
def train_forward(net, item, grads, first, last, begin, end, codes, weights, scale, loss):
    """A span forward; the last stage adds to the loss and turns the skip sum into its gradient.

    The first stage's first span, which every other task of the item waits for, clears the gradients.
    """
    if first == 0 and begin == 0:
        zero_memory(address(grads.slab, 0), len(grads.slab))
    for t in range(begin, end, CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        blocks_forward(net, item, codes, first, last, t, t, n)
        if last == len(net.dilations):
            logits = head_forward(net, item, t, n)
            loss[0] += cross_entropy_rows(logits, real, net.Q, codes[t + 1 :], weights[t:], scale, True)
            zero_rows(down(logits, real), n - real, net.Q)
            head_backward(net, item, grads, t, n)


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
        if first == 0:
            for r in range(real):
                add_to_table(down(mix, r), address(grads.slab, grads.embedding), codes[t + r], net.R, net.classes)


@jit
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


@jit
def slide_down(net, item, n):
    """Make room for n rows below the present one: a full input buffer moves its past rows to its beginning."""
    w = width_of(address(item.x, 0))
    for block in range(len(net.dilations)):
        position, rows = item.position[X, block], item.layout[X, STEP, block] // w
        if position + n > rows:
            kept = (net.kernel - 1) * net.dilations[block]
            for p in range(net.R):
                start = item.layout[X, BEGIN, block] + p * rows * w
                move_memory(address(item.x, start), address(item.x, start + (position - kept) * w), kept * w)
            item.position[X, block] = kept


@jit
def stream_rows(net, item, codes, count, weights, loss, logits):
    """Forward only, through buffers that slide: adds to the loss where there are weights, else fills the logits."""
    for t in range(0, count, CHUNK):
        real = min(CHUNK, count - t)
        n = (real + TILE - 1) // TILE * TILE
        slide_down(net, item, n)
        blocks_forward(net, item, codes, 0, len(net.dilations), t, 0, n)
        scores = head_forward(net, item, 0, n)
        if len(weights):
            loss[0] += cross_entropy_rows(scores, real, net.Q, codes[t + 1 :], weights[t:], weights[0], False)
        else:
            w = width_of(scores.data)
            for r in range(real):
                for q in range(logits.shape[1]):
                    logits[t + r, q] = scores.data[(q // w) * scores.panel + r * w + q % w]
        for block in range(len(net.dilations)):
            item.position[X, block] += real


# ---- the driver -----------------------------------------------------------------------------------------------------
class Stack:
    """The shapes of a stack, and its arrays in a workspace."""

    def __init__(self, params, dilations, workspace, local_channels):
        self.params, self.workspace = params, workspace
        self.dtype = params["input.embedding"].dtype
        self.width = width(self.dtype)
        self.kernel, self.residual, both = params["blocks.0.conv.weight"].shape
        self.dilation_channels = both // 2
        self.skip, self.end = params["head.0.weight"].shape
        self.classes = params["head.1.weight"].shape[1]
        self.local_channels = local_channels
        self.R, self.D, self.S, self.E, self.Q, self.C = (
            panels_of(n, self.dtype)
            for n in (self.residual, self.dilation_channels, self.skip, self.end, self.classes, local_channels)
        )
        self.dilations = np.array(dilations, np.int64)
        self.blocks = len(dilations)
        # Padding stays zero only among stacks of the very same sizes.
        self.key = (self.blocks, self.kernel, self.residual, both, self.skip, self.end, self.classes, local_channels)
        lanes, half = self.width // 2, self.dilation_channels
        channel = np.arange(both) % half
        self.columns = channel // lanes * self.width + np.arange(both) // half * lanes + channel % lanes

    def array(self, name, *shape, dtype=None):
        return self.workspace.array((self.key, name), shape, dtype or self.dtype)

    # parameters -----------------------------------------------------------------------------------------------------
    def sizes(self):
        """Elements of the packed parameters: of one block, and of those that the blocks share."""
        w, K, R, D, S, E, Q, C = self.width, self.kernel, self.R, self.D, self.S, self.E, self.Q, self.C
        block = dict(
            conv=2 * D * K * R * w * w, bias=2 * D * w, condition=2 * D * C * w * w, residual=R * D * w * w,
            residual_bias=R * w, skip=S * D * w * w, skip_bias=S * w, mix=(R + S) * D * w * w,
            conv_t=R * K * 2 * D * w * w, mix_t=D * (R + S) * w * w, condition_t=C * 2 * D * w * w,
        )  # fmt: skip
        shared = dict(
            embedding=R * self.classes * w, head0=E * S * w * w, head0_bias=E * w, head1=Q * E * w * w,
            head1_bias=Q * w, head0_t=S * E * w * w, head1_t=E * Q * w * w,
        )  # fmt: skip
        return block, shared

    def maps(self):
        """(parameter, packed array, index) of a block and of the rest: index[i] is the parameter's element, or -1."""
        if (maps := self.workspace.held((self.key, "maps"))) is not None:
            return maps
        w, K, R, D, S, E, Q, C = self.width, self.kernel, self.R, self.D, self.S, self.E, self.Q, self.C
        channels, half, skips, both = self.residual, self.dilation_channels, self.skip, 2 * self.dilation_channels

        def places(*shape):
            return np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)

        def index(matrix, rows, panels):
            return panel_index(matrix, rows, panels, self.dtype)

        def spread(matrix, size, where, axis):
            """The matrix with its rows or columns moved to the given places of a wider one."""
            shape = list(matrix.shape)
            shape[axis] = size
            wide = np.full(shape, -1, np.int64)
            wide[(slice(None),) * axis + (where,)] = matrix
            return wide

        conv = spread(places(K, channels, both), 2 * D * w, self.columns, 2)  # (K, R, 2D)
        taps = np.concatenate([np.arange(channels) + k * R * w for k in range(K)])
        forward = spread(conv.reshape(K * channels, -1), K * R * w, taps, 0)
        backward = conv.transpose(0, 2, 1).reshape(K * 2 * D * w, channels)
        residual, skip = places(half, channels), places(half, skips)
        mix_columns = np.arange(R * w, R * w + skips)
        block = [
            ("conv.weight", "conv", index(forward, K * R * w, 2 * D)),
            ("conv.weight", "conv_t", index(backward, K * 2 * D * w, R)),
            ("conv.bias", "bias", index(spread(places(1, both), 2 * D * w, self.columns, 1), 1, 2 * D)),
            ("residual.weight", "residual", index(residual, D * w, R)),
            ("residual.weight", "mix", index(residual, D * w, R + S)),
            ("residual.weight", "mix_t", index(residual.T, (R + S) * w, D)),
            ("residual.bias", "residual_bias", index(places(1, channels), 1, R)),
            ("skip.weight", "skip", index(skip, D * w, S)),
            ("skip.weight", "mix", index(spread(skip, (R + S) * w, mix_columns, 1), D * w, R + S)),
            ("skip.weight", "mix_t", index(spread(skip.T, (R + S) * w, mix_columns, 0), (R + S) * w, D)),
            ("skip.bias", "skip_bias", index(places(1, skips), 1, S)),
        ]
        if C:
            weight = spread(places(self.local_channels, both), 2 * D * w, self.columns, 1)
            block += [
                ("condition.weight", "condition", index(weight, C * w, 2 * D)),
                ("condition.weight", "condition_t", index(weight.T, 2 * D * w, C)),
            ]
        head0, head1 = places(skips, self.end), places(self.end, self.classes)
        shared = [
            ("input.embedding", "embedding", index(places(self.classes, channels), self.classes, R)),
            ("head.0.weight", "head0", index(head0, S * w, E)),
            ("head.0.weight", "head0_t", index(head0.T, E * w, S)),
            ("head.0.bias", "head0_bias", index(places(1, self.end), 1, E)),
            ("head.1.weight", "head1", index(head1, E * w, Q)),
            ("head.1.weight", "head1_t", index(head1.T, Q * w, E)),
            ("head.1.bias", "head1_bias", index(places(1, self.classes), 1, Q)),
        ]
        return self.workspace.hold((self.key, "maps"), (block, shared))

    def pack(self, threads, train):
        """The parameters as panels; the transposed ones only if they are to be trained."""
        block_sizes, shared_sizes = self.sizes()
        unused = {"bias", "mix"} | (set() if train else {name for name in block_sizes | shared_sizes if "_t" in name})
        sizes = {name: self.blocks * size for name, size in block_sizes.items()} | shared_sizes | {"zero": self.width}
        begins, end = {}, 0
        for name in sizes.keys() - unused:
            begins[name], end = end, end + sizes[name]
        weights = self.array(f"weights.{train}", end)
        block_maps, shared_maps = self.maps()

        def pack_part(prefix, i, maps, sizes):
            for name, packed, index in maps:
                if packed not in unused:
                    begin = begins[packed] + i * sizes[packed]
                    gather(self.params[prefix + name].reshape(-1), index, weights[begin : begin + sizes[packed]])

        bias = begins["head1_bias"]
        weights[bias + self.classes : bias + self.Q * self.width] = -1e30  # classes that do not exist: probability zero
        tasks = [(pack_part, f"blocks.{i}.", i, block_maps, block_sizes) for i in range(self.blocks)]
        pool.run([*tasks, (pack_part, "", 0, shared_maps, shared_sizes)], threads)
        panels = (self.R, self.D, self.S, self.E, self.Q, self.C)
        begins |= {name: 0 for name in unused - {"bias", "mix"}}
        return Net(self.dilations, self.kernel, *panels, self.classes, weights, **begins)

    def biases(self, batch, condition):
        """The convolutions' biases of each item, (batch, all blocks), with a global condition added."""
        biases = self.array("biases", batch, self.blocks, 2 * self.D * self.width)
        for i in range(self.blocks):
            biases[:, i, self.columns] = self.params[f"blocks.{i}.conv.bias"]
            if condition is not None:
                weight = self.params[f"blocks.{i}.condition.weight"]
                biases[:, i, self.columns] += (condition[:, :, None] * weight).sum(axis=1)
        return biases.reshape(batch, -1)

    def gradients(self, batch):
        """Slabs of gradients, (batch, size), and where in them each begins."""
        block, shared = self.sizes()
        sizes = {name: self.blocks * size for name, size in block.items()} | shared
        sizes["skip_bias"] = block["skip_bias"]  # the same for all blocks
        begins, end = {}, 0
        for name in Grads._fields[1:]:
            begins[name], end = end, end + sizes[name]
        return Grads(self.array("gradients", batch, end), **begins)

    def unpack(self, grads, into, condition, threads):
        """Add the items' gradients to ``into``; the gradient of a global condition is returned."""
        block_sizes, _ = self.sizes()
        last = self.blocks - 1

        def unpack_part(prefix, i, maps):
            for name, packed, index in maps:
                if packed not in Grads._fields or (name.startswith("residual") and i == last):
                    continue  # the last block's residual reaches no output
                begin = getattr(grads, packed)
                if prefix and packed != "skip_bias":
                    begin += (i + (packed == "residual_bias")) * block_sizes[packed]
                add_gathered(grads.slab, begin, index, into[prefix + name].reshape(-1))

        block_maps, shared_maps = self.inverse_maps()
        tasks = [(unpack_part, f"blocks.{i}.", i, block_maps) for i in range(self.blocks)]
        pool.run([*tasks, (unpack_part, "", 0, shared_maps)], threads)
        if condition is None:
            return None
        dcondition = np.zeros_like(condition)
        dbias = grads.slab[:, grads.bias : grads.bias + self.blocks * block_sizes["bias"]]
        dbias = dbias.reshape(len(condition), self.blocks, -1)[:, :, self.columns]
        for i in range(self.blocks):
            into[f"blocks.{i}.condition.weight"] += (condition[:, :, None] * dbias[:, i, None, :]).sum(axis=0)
            dcondition += (self.params[f"blocks.{i}.condition.weight"] * dbias[:, i, None, :]).sum(axis=2)
        return dcondition

    def inverse_maps(self):
        """`maps` the other way round: where each element of a parameter lies in the packed array."""
        if (maps := self.workspace.held((self.key, "inverse"))) is not None:
            return maps
        inverse = tuple(
            [(name, packed, inverse_index(index, int(index.max()) + 1)) for name, packed, index in maps]
            for maps in self.maps()
        )
        return self.workspace.hold((self.key, "inverse"), inverse)

    # activations ------------------------------------------------------------------------------------------------------
    def layout(self, x_rows, gates_rows, x_first=0):
        """`Item.layout` for so many rows of each block's X and gates, and the sizes of the two arrays.

        ``x_first`` is the row of X where the times (or positions) begin.
        """
        layout, sizes = np.empty((2, 2, self.blocks), np.int64), []
        for which, panels, rows in ((X, self.R, x_rows), (GATES, 2 * self.D, gates_rows)):
            layout[which, STEP] = np.asarray(rows) * self.width
            ends = np.cumsum(panels * layout[which, STEP])
            layout[which, BEGIN] = ends - panels * layout[which, STEP]
            sizes.append(int(ends[-1]))
        layout[X, BEGIN] += np.asarray(x_first) * self.width
        return layout, sizes

    def past(self):
        """Rows that each block looks back."""
        return (self.kernel - 1) * self.dilations

    def sliding_rows(self):
        """Rows of buffers that slide: the past, and room for as much again or some chunks."""
        return self.past() + (np.maximum(self.past(), 2 * CHUNK) // CHUNK + 1) * CHUNK

    def scratch(self, *name):
        """An array of scratch, and where its matrices begin."""
        counts = dict(z=self.D, skip=self.S, end=self.E, logits=self.Q, dend=self.E)
        begins, end = {}, 0
        for matrix, panels in counts.items():
            begins[matrix], end = end, end + panels * CHUNK * self.width
        return dict(scratch=self.array(("scratch", *name), end), **begins)

    def local(self, condition, batch, rows, name="condition"):
        """A local condition as panels, (batch, size)."""
        held = self.array(name, batch, self.C, rows, self.width)
        if condition is not None:
            for b in range(batch):
                pack_rows(condition[b], held[b])
        return held.reshape(batch, -1)


def _split(condition):
    """A condition as (global or None, local or None)."""
    if condition is None:
        return None, None
    return (condition, None) if condition.ndim == 2 else (None, condition)


def _cuts(costs, stages):
    """Boundaries of so many runs of about equal cost."""
    ends = np.cumsum(costs)
    cuts = [int(np.searchsorted(ends, ends[-1] * s / stages + 1e-9)) for s in range(1, stages)]
    cuts = [0, *cuts, len(costs)]
    return [max(cuts[s], s) if s < stages else cuts[s] for s in range(stages + 1)]


def loss_and_grads(params, codes, weights, into, *, dilations, condition, workspace, threads, recompute):
    """Backend of the contract: returns the loss and the gradient of the condition."""
    threads = pool.check_threads(threads)
    everyone, local = _split(condition)
    stack = Stack(params, dilations, workspace or Workspace(), 0 if local is None else local.shape[2])
    batch, count = weights.shape
    L, w, past = stack.blocks, stack.width, stack.past()
    rows = whole_tiles(count)
    net = stack.pack(threads, train=True)
    gradients = stack.gradients(batch)
    biases = stack.biases(batch, everyone)
    gates_rows = stack.sliding_rows() if recompute else rows + past
    layout, (x_size, gates_size) = stack.layout(past + rows, gates_rows, past)
    x, gates = stack.array("x", batch, x_size), stack.array(f"gates.{recompute}", batch, gates_size)
    position = np.zeros((batch, 2, L), np.int64)
    if recompute:
        gates[:] = 0  # there is nothing later than the last chunk
        position[:, GATES] = gates_rows - past
    mix = stack.array("mix", batch, (stack.R + stack.S) * rows * w)
    conditions, dconditions = stack.local(local, batch, rows), stack.local(local, batch, rows, "dcondition")
    dconditions[:] = 0
    held_codes = stack.array("codes", batch, rows + 1, dtype=np.int64)
    held_codes[:, : count + 1] = codes
    held_codes[:, count + 1 :] = 0
    scale = stack.dtype.type(1 / weights.sum(dtype=np.float64))
    losses = np.zeros((batch, 1))

    stages = 1 if batch % threads == 0 else min(threads, L)
    block_cost = 2 * (stack.kernel * stack.R * 2 * stack.D + stack.D * (stack.R + stack.S))
    head_cost = 6 * (stack.S * stack.E + stack.E * stack.Q)
    forward_cuts = _cuts([block_cost] * (L - 1) + [block_cost + head_cost], stages)
    backward_cuts = _cuts([1] * L, stages)
    span = count if stages == 1 else CHUNK * max(1, -(-count // CHUNK) // (16 * stages))
    spans = [(begin, min(begin + span, count)) for begin in range(0, count, span)]
    tasks = {}
    for b in range(batch):
        grads = gradients._replace(slab=gradients.slab[b])
        items = [
            Item(x[b], gates[b], layout, position[b], False, recompute, mix[b], conditions[b], dconditions[b], rows, rows,
                 biases[b], **stack.scratch(b, s))
            for s in range(stages)
        ]  # fmt: skip
        forward_items = items
        if recompute:  # forward keeps no gates: all blocks of a stage write to the same chunk
            one_chunk = layout.copy()
            one_chunk[GATES] = [[0] * L, [CHUNK * w] * L]
            forward_items = [
                item._replace(gates=stack.array(f"gates.{b}.{s}", 2 * stack.D * CHUNK * w), layout=one_chunk,
                              position=np.zeros((2, L), np.int64))
                for s, item in enumerate(items)
            ]  # fmt: skip
        for i, (begin, end) in enumerate(spans):
            for s in range(stages):
                tasks["forward", b, s, i] = (
                    [("forward", b, s - 1, i), ("forward", b, s, i - 1)],
                    train_forward, net, forward_items[s], grads, forward_cuts[s], forward_cuts[s + 1], begin, end,
                    held_codes[b], weights[b], scale, losses[b],
                )  # fmt: skip
        for i, (begin, end) in reversed(list(enumerate(spans))):
            for s in reversed(range(stages)):
                tasks["backward", b, s, i] = (
                    [("backward", b, s + 1, i), ("backward", b, s, i + 1), ("forward", b, stages - 1, len(spans) - 1)],
                    train_backward, net, items[s], grads, backward_cuts[s], backward_cuts[s + 1], begin, end,
                    held_codes[b], recompute,
                )  # fmt: skip
    pool.run_graph(tasks, threads)
    dcondition = stack.unpack(gradients, into, everyone, threads)
    if local is not None:
        dcondition = np.empty_like(local)
        for b in range(batch):
            unpack_rows(dconditions[b].reshape(stack.C, rows, w), dcondition[b])
    return float(losses.sum() * float(scale)), dcondition
