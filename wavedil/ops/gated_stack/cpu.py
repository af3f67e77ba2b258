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
from wavedil.kernels.jit import fragment, jit
from wavedil.kernels.panels import (
    View,
    add_gathered,
    address,
    beyond,
    down,
    gather,
    inverse_index,
    pack_rows,
    panel_index,
    panel_view,
    panels_of,
    right,
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
    repeated,
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

# Counts of panels (of residual, dilation, skip, end channels, classes, local condition channels), and the packed
# parameters: `mix` is [residual | skip], `_t` transposed, for the backward pass.
Net = namedtuple(
    "Net",
    "dilations kernel R D S E Q C embedding conv condition residual residual_bias skip skip_bias "
    "head0 head0_bias head1 head1_bias conv_t mix_t condition_t head0_t head1_t zero",
)
# Gradients of one item, packed like the parameters. residual_bias[i] belongs to block i - 1.
Grads = namedtuple("Grads", "embedding conv bias condition mix residual_bias skip_bias head0 head0_bias head1 head1_bias")
# Activations of one item. Offsets are elements of row 0 of a block's matrix, panel steps are elements. Where `position`
# is not empty it holds each block's present row (a buffer that slides along); otherwise rows are times.
Item = namedtuple(
    "Item",
    "x x_offset x_panel x_position gates gates_offset gates_panel gates_position mix mix_rows condition dcondition "
    "condition_rows bias z skip end logits dend",
)


# ---- kernels: one chunk ------------------------------------------------------------------------------------------------
@fragment
def inputs(net, item, block, t):
    """X of a block, from time t on."""
    row = item.x_position[block] if len(item.x_position) else t
    w = width_of(address(item.x, 0))
    return View(address(item.x, item.x_offset[block] + row * w), w, item.x_panel[block])


@fragment
def gates_of(net, item, block, t):
    """tanh and sigmoid of a block (or the gradient of their inputs), from time t on."""
    row = item.gates_position[block] if len(item.gates_position) else t
    w = width_of(address(item.gates, 0))
    return View(address(item.gates, item.gates_offset[block] + row * w), w, item.gates_panel[block])


@fragment
def parameters_of(array, block, row_panels, panels):
    """Pointer to a block's weights of (panels, row_panels * W, W)."""
    w = width_of(address(array, 0))
    return address(array, block * row_panels * panels * w * w)


@fragment
def embed(net, item, codes, t, n):
    """X of block 0: n rows of the table."""
    x, table = inputs(net, item, 0, t), address(net.embedding, 0)
    table_rows = len(net.embedding) // (net.R * width_of(table))
    for r in range(n):
        look_up(table, codes[t + r], down(x, r), net.R, table_rows)


@fragment
def gate_forward(net, item, block, t, n, z):
    """gates, z = gate(bias + condition + conv(X)) for n rows."""
    w = width_of(address(item.x, 0))
    dilation = net.dilations[block]
    gates = gates_of(net, item, block, t)
    start = repeated(address(item.bias, block * 2 * net.D * w))
    if net.C > 0:
        condition = down(panel_view(item.condition, 0, item.condition_rows), t)
        weights = parameters_of(net.condition, block, net.C, 2 * net.D)
        row_product(left_view(condition, net.C), weights, n, 2 * net.D, gates, start)
        start = gates
    x = down(inputs(net, item, block, t), -(net.kernel - 1) * dilation)
    weights = parameters_of(net.conv, block, net.kernel * net.R, 2 * net.D)
    row_product_gate(left_taps(x, net.R, dilation, net.kernel), weights, n, net.D, gates, start, z)


@fragment
def blocks_forward(net, item, first, last, t, mix_row, n):
    """n rows through the blocks first .. last - 1: fills the next X and the skip sum."""
    w = width_of(address(item.x, 0))
    skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    z = panel_view(item.z, 0, CHUNK)
    for block in range(first, last):
        gate_forward(net, item, block, t, n, z)
        left = left_view(z, net.D)
        if block + 1 < len(net.dilations):
            weights = parameters_of(net.residual, block, net.D, net.R)
            bias = repeated(address(net.residual_bias, block * net.R * w))
            x, following = inputs(net, item, block, t), inputs(net, item, block + 1, t)
            row_product_biased(left, weights, n, net.R, following, x, bias)
        weights = parameters_of(net.skip, block, net.D, net.S)
        bias = repeated(address(net.skip_bias, block * net.S * w))
        before = View(address(net.zero, 0), 0, 0) if block == 0 else skip
        row_product_biased(left, weights, n, net.S, skip, before, bias)


@fragment
def head_forward(net, item, mix_row, n):
    """ReLUs and logits of n rows, into the item's scratch."""
    skip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    skip_on, end = panel_view(item.skip, 0, CHUNK), panel_view(item.end, 0, CHUNK)
    logits = panel_view(item.logits, 0, CHUNK)
    relu_rows(skip, skip_on, n, net.S)
    row_product_relu(
        left_view(skip_on, net.S), address(net.head0, 0), n, net.E, end, repeated(address(net.head0_bias, 0))
    )
    row_product(left_view(end, net.E), address(net.head1, 0), n, net.Q, logits, repeated(address(net.head1_bias, 0)))
    return logits


@fragment
def head_backward(net, item, grads, mix_row, n):
    """From the logits' gradient to dskip, which replaces the skip sum; parameter gradients +=."""
    dskip = right(down(panel_view(item.mix, 0, item.mix_rows), mix_row), net.R)
    skip_on, end = panel_view(item.skip, 0, CHUNK), panel_view(item.end, 0, CHUNK)
    dlogits, dend = panel_view(item.logits, 0, CHUNK), panel_view(item.dend, 0, CHUNK)
    add_column_sums(dlogits, n, net.Q, address(grads.head1_bias, 0))
    column_product(left_view(end, net.E), dlogits, n, net.Q, address(grads.head1, 0))
    row_product_mask(
        left_view(dlogits, net.Q), address(net.head1_t, 0), n, net.E, dend, end, address(grads.head0_bias, 0)
    )
    column_product(left_view(skip_on, net.S), dend, n, net.E, address(grads.head0, 0))
    row_product_mask(
        left_view(dend, net.E), address(net.head0_t, 0), n, net.S, dskip, skip_on, address(grads.skip_bias, 0)
    )


@fragment
def blocks_backward(net, item, grads, first, last, t, n, codes, real, recompute):
    """n rows back through the blocks last - 1 .. first; dh enters and leaves in item.mix, parameter gradients +=."""
    w = width_of(address(item.x, 0))
    mix = down(panel_view(item.mix, 0, item.mix_rows), t)
    z = panel_view(item.z, 0, CHUNK)
    if last == len(net.dilations):
        zero_rows(mix, n, net.R)
    for block in range(last - 1, first - 1, -1):
        dilation = net.dilations[block]
        if recompute:
            item.gates_position[block] -= n
            gate_forward(net, item, block, t, n, z)
        gates = gates_of(net, item, block, t)
        row_product_gate_backward(
            left_view(mix, net.R + net.S),
            parameters_of(net.mix_t, block, net.R + net.S, net.D),
            n,
            net.D,
            gates,
            z,
            address(grads.bias, block * 2 * net.D * w),
        )
        column_product(
            left_view(z, net.D), mix, n, net.R + net.S, parameters_of(grads.mix, block, net.D, net.R + net.S)
        )
        x = down(inputs(net, item, block, t), -(net.kernel - 1) * dilation)
        column_product(
            left_taps(x, net.R, dilation, net.kernel),
            gates,
            n,
            2 * net.D,
            parameters_of(grads.conv, block, net.kernel * net.R, 2 * net.D),
        )
        if net.C > 0:
            condition = down(panel_view(item.condition, 0, item.condition_rows), t)
            dcondition = down(panel_view(item.dcondition, 0, item.condition_rows), t)
            target = parameters_of(grads.condition, block, net.C, 2 * net.D)
            column_product(left_view(condition, net.C), gates, n, 2 * net.D, target)
            weights = parameters_of(net.condition_t, block, 2 * net.D, net.C)
            row_product(left_view(gates, 2 * net.D), weights, n, net.C, dcondition, dcondition)
        row_product_sum(
            left_taps(down(gates, (net.kernel - 1) * dilation), 2 * net.D, -dilation, net.kernel),
            parameters_of(net.conv_t, block, net.kernel * 2 * net.D, net.R),
            n,
            net.R,
            mix,
            mix,
            address(grads.residual_bias, block * net.R * w),
        )
    if first == 0:
        table = address(grads.embedding, 0)
        table_rows = len(grads.embedding) // (net.R * w)
        for r in range(real):
            add_to_table(down(mix, r), table, codes[t + r], net.R, table_rows)


# ---- kernels: a span of chunks -----------------------------------------------------------------------------------------
@jit
def train_forward(net, item, grads, first, last, begin, end, codes, weights, scale, loss):
    """A span forward; the last stage adds to the loss and turns the skip sum into its gradient.

    The first stage's first span, which every other task of the item waits for, clears the gradients.
    """
    if first == 0 and begin == 0:
        for array in (
            grads.embedding, grads.conv, grads.bias, grads.condition, grads.mix, grads.residual_bias, grads.skip_bias,
            grads.head0, grads.head0_bias, grads.head1, grads.head1_bias,
        ):  # fmt: skip
            zero_memory(address(array, 0), len(array))
    for t in range(begin, end, CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        if first == 0:
            embed(net, item, codes, t, n)
        blocks_forward(net, item, first, last, t, t, n)
        if last == len(net.dilations):
            logits = head_forward(net, item, t, n)
            loss[0] += cross_entropy_rows(logits, real, net.Q, codes[t + 1 :], weights[t:], scale, True)
            zero_rows(down(logits, real), n - real, net.Q)
            head_backward(net, item, grads, t, n)


@jit
def train_backward(net, item, grads, first, last, begin, end, codes, recompute):
    """A span backward, its chunks in reverse."""
    for t in range(begin + (end - begin - 1) // CHUNK * CHUNK, begin - 1, -CHUNK):
        real = min(CHUNK, end - t)
        n = (real + TILE - 1) // TILE * TILE
        if recompute:
            slide_up(net, item, first, last, n)
        blocks_backward(net, item, grads, first, last, t, n, codes, real, recompute)


@jit
def slide_up(net, item, first, last, n):
    """Make room for n rows above the present one: a full gate buffer moves its future rows to its end."""
    w = width_of(address(item.gates, 0))
    for block in range(first, last):
        if item.gates_position[block] < n:
            rows = item.gates_panel[block] // w
            kept = (net.kernel - 1) * net.dilations[block]
            moved = rows - kept - item.gates_position[block]
            for p in range(2 * net.D):
                start = item.gates_offset[block] + p * rows * w + item.gates_position[block] * w
                for i in range(kept * w - 1, -1, -1):
                    item.gates[start + moved * w + i] = item.gates[start + i]
            item.gates_position[block] = rows - kept


@jit
def slide_down(net, item, n):
    """Make room for n rows below the present one: a full input buffer moves its past rows to its beginning."""
    w = width_of(address(item.x, 0))
    for block in range(len(net.dilations)):
        rows, position = item.x_panel[block] // w, item.x_position[block]
        if position + n > rows:
            kept = (net.kernel - 1) * net.dilations[block]
            for p in range(net.R):
                start = item.x_offset[block] + p * rows * w
                for i in range(kept * w):
                    item.x[start + i] = item.x[start + (position - kept) * w + i]
            item.x_position[block] = kept


@jit
def stream_rows(net, item, codes, count, weights, loss, logits):
    """Forward only, through buffers that slide: adds to the loss where there are weights, else fills the logits."""
    for t in range(0, count, CHUNK):
        real = min(CHUNK, count - t)
        n = (real + TILE - 1) // TILE * TILE
        slide_down(net, item, n)
        embed(net, item, codes, t, n)
        blocks_forward(net, item, 0, len(net.dilations), t, 0, n)
        scores = head_forward(net, item, 0, n)
        if len(weights):
            loss[0] += cross_entropy_rows(scores, real, net.Q, codes[t + 1 :], weights[t:], weights[0], False)
        else:
            w = width_of(scores.data)
            for r in range(real):
                for q in range(logits.shape[1]):
                    logits[t + r, q] = scores.data[(q // w) * scores.panel + r * w + q % w]
        for block in range(len(net.dilations)):
            item.x_position[block] += real


# ---- the driver ------------------------------------------------------------------------------------------------------
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
        held = {
            name: self.array(f"net.{name}.{train}", 0 if name in unused else blocks * size)
            for sizes, blocks in ((block_sizes, self.blocks), (shared_sizes, 1))
            for name, size in sizes.items()
        }
        block_maps, shared_maps = self.maps()

        def pack_part(prefix, i, maps, sizes):
            for name, packed, index in maps:
                if packed not in unused:
                    target = held[packed][i * sizes[packed] : (i + 1) * sizes[packed]]
                    gather(self.params[prefix + name].reshape(-1), index, target)

        held["head1_bias"][self.classes :] = -1e30  # classes that do not exist get probability zero
        tasks = [(pack_part, f"blocks.{i}.", i, block_maps, block_sizes) for i in range(self.blocks)]
        pool.run([*tasks, (pack_part, "", 0, shared_maps, shared_sizes)], threads)
        for name in ("bias", "mix"):
            del held[name]
        panels = (self.R, self.D, self.S, self.E, self.Q, self.C)
        return Net(self.dilations, self.kernel, *panels, zero=self.array("zero", self.width), **held)

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
        """Slabs of gradients, (batch, size) each."""
        block, shared = self.sizes()
        sizes = {name: self.blocks * size for name, size in block.items()} | shared
        sizes["skip_bias"] = block["skip_bias"]  # the same for all blocks
        return Grads(**{name: self.array(f"grads.{name}", batch, sizes[name]) for name in Grads._fields})

    def unpack(self, slabs, into, condition, threads):
        """Add the items' gradients to ``into``; the gradient of a global condition is returned."""
        block_sizes, _ = self.sizes()
        last = self.blocks - 1

        def unpack_part(prefix, i, maps):
            for name, packed, index in maps:
                if packed not in Grads._fields or (name.startswith("residual") and i == last):
                    continue  # the last block's residual reaches no output
                source = getattr(slabs, packed)
                # residual_bias[i] belongs to block i - 1, and all blocks share one skip bias gradient
                row = {"residual_bias": i + 1, "skip_bias": 0}.get(packed, i)
                if prefix:
                    source = source.reshape(len(source), -1, block_sizes[packed])[:, row]
                target = into[prefix + name].reshape(-1)
                add_gathered(source, index, target)

        block_maps, shared_maps = self.inverse_maps()
        tasks = [(unpack_part, f"blocks.{i}.", i, block_maps) for i in range(self.blocks)]
        pool.run([*tasks, (unpack_part, "", 0, shared_maps)], threads)
        if condition is None:
            return None
        dcondition = np.zeros_like(condition)
        dbias = slabs.bias.reshape(len(condition), self.blocks, -1)[:, :, self.columns]
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
    def buffers(self, panels, rows):
        """Offsets, panel steps (in elements) and the size of one matrix a block, of so many rows each."""
        steps = np.asarray(rows, np.int64) * self.width
        ends = np.cumsum(panels * steps)
        return ends - panels * steps, steps, int(ends[-1])

    def past(self):
        """Rows that each block looks back."""
        return (self.kernel - 1) * self.dilations

    def sliding_rows(self):
        """Rows of buffers that slide: the past, and room for as much again or some chunks."""
        return self.past() + (np.maximum(self.past(), 2 * CHUNK) // CHUNK + 1) * CHUNK

    def item(self, name, index, stage, rows, x, x_layout, x_position, gates, gates_layout, gates_position, mix,
             condition, dcondition, bias):  # fmt: skip
        """One item's arrays, with scratch of its own for each stage."""
        w = self.width
        sizes = dict(z=self.D, skip=self.S, end=self.E, logits=self.Q, dend=self.E)
        scratch = {k: self.array(f"{name}.{k}.{index}.{stage}", n * CHUNK * w) for k, n in sizes.items()}
        return Item(
            x, *x_layout[:2], x_position, gates, *gates_layout[:2], gates_position, mix, len(mix) // (w * (self.R + self.S)),
            condition, dcondition, rows, bias, **scratch,
        )  # fmt: skip

    def local(self, condition, rows, name="condition"):
        """A local condition as panels, (batch, size)."""
        if condition is None or not self.C:
            return self.array("nothing", 0 if condition is None else len(condition), 0)
        held = self.array(name, len(condition), self.C, rows, self.width)
        for b in range(len(condition)):
            pack_rows(condition[b], held[b])
        return held.reshape(len(condition), -1)


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
    L, dtype, w = stack.blocks, stack.dtype, stack.width
    rows = whole_tiles(count)
    net = stack.pack(threads, train=True)
    slabs = stack.gradients(batch)
    biases = stack.biases(batch, everyone)
    x_layout = stack.buffers(stack.R, stack.past() + rows)
    x_layout[0][:] += stack.past() * w  # time 0 comes after the past, which stays zero
    x = stack.array("train.x", batch, x_layout[2])
    gates_rows = stack.sliding_rows() if recompute else rows + stack.past()
    gates_layout = stack.buffers(2 * stack.D, gates_rows)
    gates = stack.array(f"train.gates{recompute}", batch, gates_layout[2])
    positions = np.empty((batch, L if recompute else 0), np.int64)
    if recompute:
        gates[:] = 0
        positions[:] = gates_rows - stack.past()
    mix = stack.array("train.mix", batch, (stack.R + stack.S) * rows * w)
    conditions, dconditions = stack.local(local, rows), stack.local(local, rows, "dcondition")
    dconditions[:] = 0
    held_codes = stack.array("codes", batch, rows + 1, dtype=np.int64)
    held_codes[:, : count + 1] = codes
    held_codes[:, count + 1 :] = 0
    scale = dtype.type(1 / weights.sum(dtype=np.float64))
    losses = np.zeros((batch, 1))

    stages = 1 if batch % threads == 0 else min(threads, L)
    block_cost = 2 * (stack.kernel * stack.R * 2 * stack.D + stack.D * (stack.R + stack.S))
    head_cost = 6 * (stack.S * stack.E + stack.E * stack.Q)
    forward_cuts = _cuts([block_cost] * (L - 1) + [block_cost + head_cost], stages)
    backward_cuts = _cuts([1] * L, stages)
    chunks = -(-count // CHUNK)
    span = count if stages == 1 else CHUNK * max(1, chunks // (16 * stages))
    spans = [(begin, min(begin + span, count)) for begin in range(0, count, span)]
    none = np.empty(0, np.int64)
    tasks = {}
    for b in range(batch):
        grads = Grads(*(part[b] for part in slabs))
        items = [
            stack.item("train", b, s, rows, x[b], x_layout, none, gates[b], gates_layout, positions[b], mix[b],
                       conditions[b] if local is not None else conditions.ravel(),
                       dconditions[b] if local is not None else dconditions.ravel(), biases[b])
            for s in range(stages)
        ]  # fmt: skip
        if recompute:
            # Forward keeps no gates: all blocks of a stage write to the same scratch.
            scratch_layout = (np.zeros(L, np.int64), np.full(L, CHUNK * w))
            forward_items = [
                item._replace(
                    gates=stack.array(f"gates.{b}.{s}", 2 * stack.D * CHUNK * w),
                    gates_offset=scratch_layout[0],
                    gates_panel=scratch_layout[1],
                    gates_position=np.zeros(L, np.int64),
                )
                for s, item in enumerate(items)
            ]
        else:
            forward_items = items
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
    dcondition = stack.unpack(slabs, into, everyone, threads)
    if local is not None:
        dcondition = np.empty_like(local)
        for b in range(batch):
            unpack_rows(dconditions[b].reshape(stack.C, rows, w), dcondition[b])
    return float(losses.sum() * float(scale)), dcondition
