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

Backward stops at the lowest block with a gradient that somebody needs. The blocks below it (the *prefix*) run forward
only, as in a stream: their gates live in one chunk, and their inputs slide along.
"""

import copy

import numpy as np

from wavedil.errors import DivergedError
from wavedil.kernels import pool, storage
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.layout import unlocked
from wavedil.kernels.cpu.panels import (
    add_gathered,
    gather,
    inverse_index,
    pack_rows,
    panel_index,
    panels_of,
    unpack_rows,
    whole_tiles,
)
from wavedil.kernels.workspace import Workspace, aligned_zeros
from wavedil.ops.gated_stack.cpu_kernels import (
    BEGIN,
    CHUNK,
    CONDITION,
    CONDITION_WEIGHT,
    CONV,
    EMBEDDING,
    GATES,
    HEAD0,
    HEAD1,
    INPUT,
    RESIDUAL,
    SKIP,
    SKIP_SUM,
    STEP,
    Grads,
    Item,
    Net,
    Options,
    X,
    skip_sum_backward,
    stream_loss,
    stream_rows,
    stream_samples,
    train_backward,
    train_forward,
)


# ---- the driver -----------------------------------------------------------------------------------------------------
class Stack:
    """The shapes of a stack, and its arrays in a workspace. Without the head's parameters it has no head: E = Q = 0."""

    def __init__(self, params, dilations, workspace, local_channels):
        self.params, self.workspace = params, workspace
        self.dtype = params["input.embedding"].dtype
        self.width = width(self.dtype)
        self.kernel, self.residual, both = params["blocks.0.conv.weight"].shape
        self.dilation_channels = both // 2
        self.skip, self.head = params["blocks.0.skip.weight"].shape[1], "head.0.weight" in params
        self.end = params["head.0.weight"].shape[1] if self.head else 0
        self.classes = len(params["input.embedding"])
        self.local_channels = local_channels
        scores = self.classes if self.head else 0
        self.R, self.D, self.S, self.E, self.Q, self.C = (
            panels_of(n, self.dtype)
            for n in (self.residual, self.dilation_channels, self.skip, self.end, scores, local_channels)
        )
        self.dilations = np.array(dilations, np.int64)
        self.blocks = len(dilations)
        # Padding stays zero only among stacks of the very same sizes, and maps are those of one dtype.
        self.key = (self.dtype.str, tuple(dilations), self.kernel, self.residual, both, self.skip, self.end,
                    self.classes, local_channels)  # fmt: skip
        lanes, half = self.width // 2, self.dilation_channels
        channel = np.arange(both) % half
        self.columns = channel // lanes * self.width + np.arange(both) // half * lanes + channel % lanes

    def array(self, name, *shape, dtype=None):
        return self.workspace.array((self.key, name), shape, dtype or self.dtype)

    def claim(self):
        """A mark that this call is the latest one that writes to the workspace."""
        return self.workspace.hold((self.key, "latest"), object())

    def claimed(self, mark):
        """Whether the mark is that of the latest call."""
        return self.workspace.held((self.key, "latest")) is mark

    def laid_out(self, name, batch, size, layout):
        """An array that is used by this layout; zeros, where nobody has written since it was used by another."""
        array, layout_key = self.array(name, batch, size), (self.key, name, "layout")
        before = self.workspace.held(layout_key)
        if before is not None and not np.array_equal(before, layout):
            array[:] = 0
        self.workspace.hold(layout_key, layout.copy())
        return array

    # parameters -----------------------------------------------------------------------------------------------------
    def matrices(self):
        """(panels, panels of its rows) of each packed matrix: of one block, and of the head."""
        K, R, D, S, E, Q, C = self.kernel, self.R, self.D, self.S, self.E, self.Q, self.C
        block = dict(
            conv=(2 * D, K * R), condition=(2 * D, C), residual=(R, D), skip=(S, D), mix=(R + S, D),
            conv_t=(R, K * 2 * D), mix_t=(D, R + S), condition_t=(C, 2 * D),
        )  # fmt: skip
        return block, dict(head0=(E, S), head1=(Q, E), head0_t=(S, E), head1_t=(E, Q))

    def sizes(self):
        """Elements of the packed parameters: of one block, and of those that the blocks share."""
        w = self.width
        block, shared = ({name: p * q * w * w for name, (p, q) in part.items()} for part in self.matrices())
        block |= dict(bias=2 * self.D * w, residual_bias=self.R * w, skip_bias=self.S * w)
        shared |= dict(embedding=self.R * self.classes * w, head0_bias=self.E * w, head1_bias=self.Q * w)
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
        shared = [("input.embedding", "embedding", index(places(self.classes, channels), self.classes, R))]
        if self.head:
            head0, head1 = places(skips, self.end), places(self.end, self.classes)
            shared += [
                ("head.0.weight", "head0", index(head0, S * w, E)),
                ("head.0.weight", "head0_t", index(head0.T, E * w, S)),
                ("head.0.bias", "head0_bias", index(places(1, self.end), 1, E)),
                ("head.1.weight", "head1", index(head1, E * w, Q)),
                ("head.1.weight", "head1_t", index(head1.T, Q * w, E)),
                ("head.1.bias", "head1_bias", index(places(1, self.classes), 1, Q)),
            ]
        return self.workspace.hold((self.key, "maps"), (block, shared))

    def pack(self, threads, train, lowest=0, weights=None):
        """The parameters as panels; the transposed ones only for training, and from the lowest block to train on."""
        block_sizes, shared_sizes = self.sizes()
        unused = {"bias", "mix"} | (set() if train else {name for name in block_sizes | shared_sizes if "_t" in name})
        sizes = {name: self.blocks * size for name, size in block_sizes.items()} | shared_sizes | {"zero": self.width}
        begins, ends = {}, {"matrices": 0, "vectors": 0}
        block_matrices, shared_matrices = self.matrices()
        kinds = {name: "matrices" if name in block_matrices | shared_matrices else "vectors" for name in sizes}
        for name, size in sizes.items():
            if name not in unused:
                begins[name], ends[kinds[name]] = ends[kinds[name]], ends[kinds[name]] + size
        arrays = {kind: self.array(f"{kind}.{train}", end) for kind, end in ends.items()}
        if weights is not None:  # the floats are needed for a moment only
            self.workspace.drop((self.key, f"matrices.{train}"))
        block_maps, shared_maps = self.maps()

        def pack_part(prefix, i, maps, sizes):
            for name, packed, index in maps:
                if packed not in unused and not (prefix and i < lowest and packed.endswith("_t")):
                    begin = begins[packed] + i * sizes[packed]
                    target = arrays[kinds[packed]][begin : begin + sizes[packed]]
                    gather(self.params[prefix + name].reshape(-1), index, target)

        bias = begins["head1_bias"]
        # Classes that do not exist have probability zero.
        arrays["vectors"][bias + self.classes : bias + self.Q * self.width] = -1e30
        tasks = [(pack_part, f"blocks.{i}.", i, block_maps, block_sizes) for i in range(self.blocks)]
        pool.run([*tasks, (pack_part, "", 0, shared_maps, shared_sizes)], self._copiers(threads))
        if weights is not None:
            arrays["matrices"], moved = self._stored(arrays["matrices"], begins, weights)
            begins |= moved
        panels = (self.R, self.D, self.S, self.E, self.Q, self.C)
        begins |= {name: 0 for name in unused - {"bias", "mix"}}
        return Net(self.dilations, self.kernel, *panels, self.classes, **arrays, **begins)

    def _stored(self, packed, begins, kind):
        """Packed matrices in fewer bytes: the array, and where in it each begins."""
        block, shared = self.matrices()
        parts, moved, end = [], {}, 0
        for name, (panels, rows) in (block | shared).items():
            if name in begins:
                panels, rows = panels * (self.blocks if name in block else 1), rows * self.width
                matrix = packed[begins[name] :][: panels * rows * self.width].reshape(panels, rows, self.width)
                parts.append(storage.stored(matrix, kind) if matrix.size else np.zeros(0, storage.KINDS[kind]))
                moved[name], end = end, end + len(parts[-1])
        array = aligned_zeros(end, parts[0].dtype)
        array[:] = np.concatenate(parts)
        return array, moved

    def _copiers(self, threads):
        """Threads to copy parameters with: many small copies on two threads take twice the time of one."""
        return threads if self.params["blocks.0.conv.weight"].nbytes >= 2**16 else 1

    def biases(self, batch, condition):
        """The convolutions' biases of each item, (batch, all blocks), with a global condition added."""
        biases = self.array("biases", batch, self.blocks, 2 * self.D * self.width)
        for i in range(self.blocks):
            biases[:, i, self.columns] = self.params[f"blocks.{i}.conv.bias"]
            if condition is not None:
                weight = self.params[f"blocks.{i}.condition.weight"]
                biases[:, i, self.columns] += (condition[:, :, None] * weight).sum(axis=1)
        return biases.reshape(batch, -1)

    def lowest(self, needs):
        """The lowest block that backward must reach for the gradients of these names; the number of blocks if none."""
        for i in range(self.blocks):
            names = [f"blocks.{i}.{name}" for name in ("conv.weight", "conv.bias", "condition.weight", "skip.weight")]
            names += [f"blocks.{i}.residual.weight"] * (i + 1 < self.blocks)
            names += ["input.embedding", "condition"] if i == 0 else [f"blocks.{i - 1}.residual.bias"]
            if not needs.isdisjoint(names):
                return i
        return self.blocks

    def computed(self, needs):
        """`Grads.needs` for the gradients of these names."""
        lowest, flags = self.lowest(needs), np.zeros(self.blocks + 1, np.int64)
        for i in range(lowest, self.blocks):
            pulled = i > lowest or "input.embedding" in needs or f"blocks.{i - 1}.residual.bias" in needs
            flags[i] = sum(
                flag
                for flag, wanted in (
                    (RESIDUAL, f"blocks.{i}.residual.weight" in needs and i + 1 < self.blocks),  # the last's is zero
                    (SKIP, f"blocks.{i}.skip.weight" in needs),
                    (CONV, f"blocks.{i}.conv.weight" in needs),
                    (CONDITION_WEIGHT, f"blocks.{i}.condition.weight" in needs and self.local_channels),
                    (CONDITION, "condition" in needs and self.local_channels),
                    (INPUT, pulled),
                    (EMBEDDING, i == 0 and "input.embedding" in needs),
                )
                if wanted
            )
        for head, flag in ((0, HEAD0), (1, HEAD1)):
            flags[-1] += flag * (not needs.isdisjoint({f"head.{head}.weight", f"head.{head}.bias"}))
        biases = {f"blocks.{i}.skip.bias" for i in range(self.blocks)}
        flags[-1] += SKIP_SUM * (lowest < self.blocks or not needs.isdisjoint(biases))
        return flags

    def gradients(self, batch, needs):
        """Slabs of gradients, (batch, size), and where in them each begins."""
        block, shared = self.sizes()
        sizes = {name: self.blocks * size for name, size in block.items()} | shared
        sizes["skip_bias"] = block["skip_bias"]  # the same for all blocks
        begins, end = {}, 0
        for name in Grads._fields[2:]:
            begins[name], end = end, end + sizes[name]
        return Grads(self.array("gradients", batch, end), self.computed(needs), **begins)

    def unpack(self, grads, into, needs, condition, threads):
        """Add the items' gradients that are needed to ``into``; the gradient of a global condition is returned."""
        block_sizes, _ = self.sizes()
        last = self.blocks - 1

        def unpack_part(prefix, i, maps):
            for name, packed, index in maps:
                if packed not in Grads._fields or prefix + name not in needs:
                    continue
                if name.startswith("residual") and i == last:
                    continue  # it reaches no output
                begin = getattr(grads, packed)
                if prefix and packed != "skip_bias":
                    begin += (i + (packed == "residual_bias")) * block_sizes[packed]
                add_gathered(grads.slab, begin, index, into[prefix + name].reshape(-1))

        block_maps, shared_maps = self.inverse_maps()
        tasks = [(unpack_part, f"blocks.{i}.", i, block_maps) for i in range(self.blocks)]
        pool.run([*tasks, (unpack_part, "", 0, shared_maps)], self._copiers(threads))
        if condition is None:
            return None
        dcondition = np.zeros_like(condition) if "condition" in needs else None
        dbias = grads.slab[:, grads.bias : grads.bias + self.blocks * block_sizes["bias"]]
        dbias = dbias.reshape(len(condition), self.blocks, -1)[:, :, self.columns]
        for i in range(self.blocks):
            name = f"blocks.{i}.condition.weight"
            if name in needs:
                into[name] += (condition[:, :, None] * dbias[:, i, None, :]).sum(axis=0)
            if dcondition is not None:
                dcondition += (self.params[name] * dbias[:, i, None, :]).sum(axis=2)
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

    def inputs(self, x, layout, block):
        """A block's part of ``x (batch, size)``, as (batch, panels, rows, width); no row lies before it."""
        begin, step = layout[X, :, block]
        return x[:, begin : begin + self.R * step].reshape(len(x), self.R, -1, self.width)

    def past(self):
        """Rows that each block looks back."""
        return (self.kernel - 1) * self.dilations

    def sliding_rows(self):
        """Rows of buffers that slide: the past, and room for as much again or some chunks."""
        return self.past() + (np.maximum(self.past(), 2 * CHUNK) // CHUNK + 1) * CHUNK

    def scratch(self, rows, *name):
        """An array of scratch for so many rows, and where its matrices begin."""
        counts = dict(z=self.D, skip=self.S, end=self.E, logits=self.Q, dend=self.E)
        begins, end = {}, 0
        for matrix, panels in counts.items():
            begins[matrix], end = end, end + panels * rows * self.width
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


class Window:
    """One window of codes on its way forward and backward: its arrays, and the tasks of both.

    Parameters
    ----------
    count : int
        Rows; ``codes`` may have more columns.
    needs : frozenset of str
        The gradients that backward will be asked for.
    """

    def __init__(self, params, codes, count, condition, *, dilations, workspace, threads, recompute, needs):
        self.threads, self.count, self.recompute = pool.check_threads(threads), count, recompute
        self.everyone, self.local = _split(condition)
        channels = 0 if self.local is None else self.local.shape[2]
        self.stack = stack = Stack(params, dilations, workspace or Workspace(), channels)
        self.batch, self.rows = len(codes), whole_tiles(count)
        self.lowest = stack.lowest(needs)
        batch, L, w, rows, past = self.batch, stack.blocks, stack.width, self.rows, stack.past()
        self.stages = 1 if batch % self.threads == 0 else min(self.threads, L)
        span = count if self.stages == 1 else CHUNK * max(1, -(-count // CHUNK) // (16 * self.stages))
        self.spans = [(begin, min(begin + span, count)) for begin in range(0, count, span)]
        self.written = stack.claim()
        block_cost = 2 * (stack.kernel * stack.R * 2 * stack.D + stack.D * (stack.R + stack.S))
        head_cost = 6 * (stack.S * stack.E + stack.E * stack.Q)
        self.cuts = _cuts([block_cost] * (L - 1) + [block_cost + head_cost], self.stages)
        self.net = stack.pack(self.threads, train=True, lowest=self.lowest)
        self.biases = stack.biases(batch, self.everyone)
        self.mix = stack.array("mix", batch, (stack.R + stack.S) * rows * w)
        self.conditions = stack.local(self.local, batch, rows)
        self.codes = stack.array("codes", batch, rows + 1, dtype=np.int64)
        self.codes[:, : codes.shape[1]] = codes
        self.codes[:, codes.shape[1] :] = 0

        prefix = np.arange(L) < self.lowest
        # An input that one stage writes while the next one reads it does not slide, nor one that takes less as a whole.
        slides = prefix & ~np.isin(np.arange(L), self.cuts[1:]) & (stack.sliding_rows() < past + rows)
        x_rows = np.where(slides, stack.sliding_rows(), past + rows)
        gates_rows = np.where(prefix, 0, stack.sliding_rows() if recompute else rows + past)
        layout, (x_size, gates_size) = stack.layout(x_rows, gates_rows, np.where(slides, 0, past))
        chunk = 2 * stack.D * CHUNK * w  # gates that nobody keeps, one for each stage
        self.x = stack.laid_out("x", batch, x_size, layout)
        self.gates = stack.laid_out(f"gates.{recompute}", batch, gates_size + self.stages * chunk, layout)
        for block in np.flatnonzero(slides):
            stack.inputs(self.x, layout, block)[:, :, : past[block]] = 0
        self.layout, self.forward_layouts = layout, []
        chunked = prefix | recompute
        for s in range(self.stages):
            forward_layout = layout.copy()
            forward_layout[GATES, :, chunked] = gates_size + s * chunk, CHUNK * w
            self.forward_layouts.append(forward_layout)
        self.forward_position = np.full((batch, 2, L), -1, np.int64)
        self.forward_position[:, X, slides] = past[slides]
        self.forward_position[:, GATES, chunked] = 0
        self.position = np.full((batch, 2, L), -1, np.int64)
        if recompute:
            self.gates[:, :gates_size] = 0  # there is nothing later than the last chunk
            self.position[:, GATES] = gates_rows - past

    @property
    def fresh(self):
        """Whether backward can still run: nobody has written to the arrays since."""
        return self.stack.claimed(self.written)

    def use_up(self, threads):
        """Backward is about to overwrite the gates; it may run on another number of threads."""
        self.stack.claim()
        self.threads = pool.check_threads(threads)

    def item(self, b, stage, layout, position, dcondition):
        stack = self.stack
        return Item(
            self.x[b], self.gates[b], layout, position[b], self.x.shape[1], self.mix[b], self.conditions[b], dcondition,
            self.rows, self.rows, self.biases[b], 0, **stack.scratch(CHUNK, b, stage),
        )  # fmt: skip

    def forward_tasks(self, gradients, weights, scale, losses):
        """The skip sum, and with a head what follows: the loss, and the gradient of the skip sum in its place."""
        tasks = {}
        for b in range(self.batch):
            grads = gradients._replace(slab=gradients.slab[b])
            for i, (begin, end) in enumerate(self.spans):
                for s in range(self.stages):
                    item = self.item(b, s, self.forward_layouts[s], self.forward_position, self.conditions[b])
                    tasks["forward", b, s, i] = (
                        [("forward", b, s - 1, i), ("forward", b, s, i - 1)],
                        train_forward, self.net, item, grads, self.cuts[s], self.cuts[s + 1], begin, end,
                        self.codes[b], weights[b], scale, losses[b],
                    )  # fmt: skip
        return tasks

    def backward_tasks(self, gradients, needs):
        """All gradients that are needed, once the skip sum has been replaced by its gradient."""
        stack, tasks, lowest = self.stack, {}, self.stack.lowest(needs)
        if lowest == stack.blocks:
            return tasks
        stages = min(self.stages, stack.blocks - lowest)
        cuts = [lowest + cut for cut in _cuts([1] * (stack.blocks - lowest), stages)]
        self.dconditions = self.conditions
        if self.local is not None and "condition" in needs:
            self.dconditions = stack.local(None, self.batch, self.rows, "dcondition")
            self.dconditions[:] = 0
        for b in range(self.batch):
            grads = gradients._replace(slab=gradients.slab[b])
            items = [self.item(b, s, self.layout, self.position, self.dconditions[b]) for s in range(stages)]
            for i, (begin, end) in reversed(list(enumerate(self.spans))):
                for s in reversed(range(stages)):
                    start = [("forward", b, self.stages - 1, len(self.spans) - 1), ("dskips", b)]
                    tasks["backward", b, s, i] = (
                        [("backward", b, s + 1, i), ("backward", b, s, i + 1), *start],
                        train_backward, self.net, items[s], grads, cuts[s], cuts[s + 1], begin, end,
                        self.codes[b], self.recompute,
                    )  # fmt: skip
        return tasks

    def finish(self, gradients, into, needs):
        """Add to ``into``; returns the gradient of the condition."""
        dcondition = self.stack.unpack(gradients, into, needs, self.everyone, self.threads)
        if self.local is None or "condition" not in needs:
            return dcondition
        dcondition = np.empty_like(self.local)
        for b in range(self.batch):
            unpack_rows(self.dconditions[b].reshape(self.stack.C, self.rows, self.stack.width), dcondition[b])
        return dcondition


def loss_and_grads(
    params, codes, weights, into, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: returns the loss and the gradient of the condition; half_activations is False."""
    batch, count = weights.shape
    window = Window(params, codes, count, condition, dilations=dilations, workspace=workspace, threads=threads,
                    recompute=recompute, needs=needs)  # fmt: skip
    gradients = window.stack.gradients(batch, needs)
    scale = window.stack.dtype.type(1 / weights.sum(dtype=np.float64))
    losses = np.zeros((batch, 1))
    tasks = window.forward_tasks(gradients, weights, scale, losses) | window.backward_tasks(gradients, needs)
    pool.run_graph(tasks, window.threads)
    return float(losses.sum() * float(scale)), window.finish(gradients, into, needs)


def forward(
    params, codes, out, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs; half_activations is False."""
    batch, count = codes.shape
    window = Window(params, codes, count, condition, dilations=dilations, workspace=workspace, threads=threads,
                    recompute=recompute, needs=needs)  # fmt: skip
    stack, none = window.stack, np.zeros((batch, 0), out.dtype)
    gradients = stack.gradients(batch, needs)._replace(slab=none)
    tasks = window.forward_tasks(gradients, none, out.dtype.type(0), np.zeros((batch, 1)))
    for b in range(batch):
        skips = window.mix[b].reshape(stack.R + stack.S, window.rows, stack.width)[stack.R :]
        tasks["out", b] = ([("forward", b, window.stages - 1, len(window.spans) - 1)], unpack_rows, skips, out[b])
    pool.run_graph(tasks, window.threads)
    return window


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition."""
    kept.use_up(threads)
    gradients = kept.stack.gradients(kept.batch, needs)
    tasks = {}
    for b in range(kept.batch):
        item = kept.item(b, 0, kept.layout, kept.position, kept.conditions[b])
        grads = gradients._replace(slab=gradients.slab[b])
        tasks["dskips", b] = ([], skip_sum_backward, kept.net, item, grads, unlocked(dskips[b]))
    pool.run_graph(tasks | kept.backward_tasks(gradients, needs), kept.threads)
    return kept.finish(gradients, into, needs)


class Stream:
    """The state of streams through a stack, and the parameters as they were when it was made.

    Attributes
    ----------
    x : (batch, size) array
        Each block's latest input rows.
    position : (batch, 2, blocks) array of int64
    time : int
        Rows seen so far.
    """

    def __init__(self, params, batch, *, dilations, condition_channels, threads=None, weights=None):
        self.threads = pool.check_threads(threads)
        self.batch, self.time, self.condition_channels, self.storage = batch, 0, condition_channels, weights
        # A condition may turn out to be global (part of the biases) or local (part of the products).
        self.stacks = {local: Stack(params, dilations, Workspace(), local) for local in {0, condition_channels}}
        self.nets = {local: stack.pack(1, train=False, weights=weights) for local, stack in self.stacks.items()}
        # What the biases are made of is kept as well: training may change the parameters under way.
        names = [name for name in params if name.endswith(("conv.bias", "condition.weight"))]
        kept = {name: params[name].copy() for name in names}
        if weights is not None:
            kept = storage.rounded_matrices(kept, weights)
        for stack in self.stacks.values():
            stack.params = kept
        stack = self.stacks[0]
        self.classes, self.skip_channels, self.dtype = stack.classes, stack.skip, stack.dtype
        self._layout, (size, _) = stack.layout(stack.sliding_rows(), CHUNK)
        self._layout[GATES] = [[0] * stack.blocks, [CHUNK * stack.width] * stack.blocks]
        self.x = aligned_zeros((batch, size), stack.dtype)
        self.position = np.zeros((batch, 2, stack.blocks), np.int64)
        self._biases_of = self._plain_items = None
        self.reset()

    def reset(self):
        """Forget the past."""
        self.x[:] = 0
        self.position[:, X] = self.stacks[0].past()
        self.time = 0

    def history(self):
        """Each block's past input rows, a list of (batch, rows, R) arrays: all that the future depends on."""
        stack, rows = self.stacks[0], []
        for block in range(stack.blocks):
            panels = self._panels(block)
            now, past = self.position[0, X, block], stack.past()[block]
            part = panels[:, :, now - past : now].transpose(0, 2, 1, 3)
            rows.append(part.reshape(self.batch, past, stack.R * stack.width))
        return [np.ascontiguousarray(part[:, :, : stack.residual]) for part in rows]

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.reset()
        stack = self.stacks[0]
        for block, part in enumerate(rows):
            wide = np.zeros((*part.shape[:2], stack.R * stack.width), part.dtype)
            wide[:, :, : stack.residual] = part
            target = self._panels(block)[:, :, : part.shape[1]]
            target[...] = wide.reshape(*part.shape[:2], stack.R, stack.width).transpose(0, 2, 1, 3)
        self.time = time

    def _panels(self, block):
        """A block's X as (batch, panels, rows, width)."""
        return self.stacks[0].inputs(self.x, self._layout, block)

    def copy(self):
        """A second stream that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other.x, other.position = aligned_zeros(self.x.shape, self.x.dtype), self.position.copy()
        other.x[:] = self.x
        other.stacks = {local: copy.copy(stack) for local, stack in self.stacks.items()}
        for stack in other.stacks.values():
            stack.workspace = Workspace()
        other._biases_of = other._plain_items = None
        return other

    @property
    def nbytes(self):
        """Bytes of the state itself, the parameters not counted."""
        return self.x.nbytes + self.position.nbytes

    @property
    def weight_bytes(self):
        """Bytes of the parameters as they are read, once for each step of generation."""
        net = self.nets[0]
        return net.matrices.nbytes + net.vectors.nbytes

    def _items(self, count, condition):
        """The net and each stream's arrays for ``count`` rows."""
        everyone, local = _split(condition)
        biases = self._biases(everyone)
        if local is None and self._plain_items is not None:  # their arrays stay the same
            return self.nets[0], self._plain_items
        stack = self.stacks[0 if local is None else local.shape[2]]
        net = self.nets[stack.local_channels]
        conditions = stack.local(local, self.batch, count)
        gates = stack.array("gates", self.batch, 2 * stack.D * CHUNK * stack.width)
        mix = stack.array("mix", self.batch, (stack.R + stack.S) * CHUNK * stack.width)
        items = [
            Item(self.x[b], gates[b], self._layout, self.position[b], self.x.shape[1], mix[b], conditions[b],
                 conditions[b], count, CHUNK, biases[b], 0, **stack.scratch(CHUNK, b))
            for b in range(self.batch)
        ]  # fmt: skip
        if local is None:
            self._plain_items = items
        return net, items

    def _biases(self, condition):
        """The items' biases under a global condition; kept while the condition stays the same."""
        if self._biases_of is None or not _same(self._biases_of[0], condition):
            held = None if condition is None else condition.copy()
            self._biases_of = (held, self.stacks[0].biases(self.batch, condition))
        return self._biases_of[1]

    def step(self, codes, condition, out, head=True):
        """Fill the logits that follow each of some codes, (batch, n), or without the head their skip sums."""
        net, items = self._items(codes.shape[1], condition)
        held = np.ascontiguousarray(codes, np.int64)
        pool.run([(stream_rows, net, items[b], held[b], out[b], head) for b in range(self.batch)], self.threads)
        self.time += codes.shape[1]

    def loss(self, codes, weights, condition):
        """Sum over the items of weight * nats of codes[:, 1:]."""
        net, items = self._items(weights.shape[1], condition)
        held = np.ascontiguousarray(codes, np.int64)
        losses = np.zeros((self.batch, 1))
        tasks = [(stream_loss, net, items[b], held[b], weights[b], losses[b]) for b in range(self.batch)]
        pool.run(tasks, self.threads)
        self.time += weights.shape[1]
        return losses.sum()

    def sample(self, first, out, condition, options):
        """Fill ``out (batch, n)`` with draws that follow ``first (batch,)`` and each other.

        Streams go in groups, which are the rows of a step's products; a stream's bits do not depend on its group.
        """
        stack, net = self.stacks[0], self.nets[0]
        biases = self._biases(condition)
        codes = first.astype(np.int64)
        failed = np.full((self.batch, 2), -1)
        size = -(-self.batch // max(1, min(self.threads, self.batch // 4)))  # a group fills a tile of four rows
        groups = [slice(b, min(b + size, self.batch)) for b in range(0, self.batch, size)]
        positions = [self.position[group.start].copy() for group in groups]
        none = stack.array("none", 0)
        tasks = []
        for group, position in zip(groups, positions, strict=True):
            rows = group.stop - group.start
            gates = stack.array(("step gates", group.start), 2 * stack.D * rows * stack.width)
            item = Item(
                self.x[group].reshape(-1), gates, self._layout, position, self.x.shape[1], none, none, none,
                0, 0, biases[group].reshape(-1), biases.shape[1], **stack.scratch(rows, "step", group.start),
            )  # fmt: skip
            tasks.append(
                (stream_samples, net, item, codes[group], out[group], Options(*options), group.start, self.time,
                 *stack.array(("probabilities", group.start), 2, self.classes, dtype=np.float64), failed[group.start])
            )  # fmt: skip
        pool.run(tasks, self.threads)
        for group, position in zip(groups, positions, strict=True):
            self.position[group] = position
        if failed.max() >= 0:
            stream, step = failed[failed[:, 1] >= 0][0]
            raise DivergedError(f"generate: the logits of stream {stream} are not finite at step {step}")
        self.time += out.shape[1]


def _same(a, b):
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def init_state(params, batch, *, dilations, condition_channels, threads, weights):
    """Backend of the contract."""
    return Stream(
        params, batch, dilations=dilations, condition_channels=condition_channels, threads=threads, weights=weights
    )


def loss(params, codes, weights, *, dilations, condition, threads):
    """Backend of the contract: forward only, in little memory."""
    channels = 0 if condition is None else condition.shape[-1]
    stream = Stream(params, len(codes), dilations=dilations, condition_channels=channels, threads=threads)
    return float(stream.loss(codes, weights, condition) * float(stream.x.dtype.type(1 / weights.sum(dtype=np.float64))))
