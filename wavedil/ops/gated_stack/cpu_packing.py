"""A network on the CPU: how its parameters become panels and gradients come back, and where its activations lie.

Everything that does not change from call to call is a `Plan`, made once for a network, a dtype and a way in which the
condition comes, and kept in the workspace.
"""

import functools

import numpy as np

from wavedil.kernels import pool, storage
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.panels import add_gathered, gather, inverse_index, pack_rows, panels_of
from wavedil.kernels.workspace import aligned_zeros
from wavedil.ops.gated_stack import cpu_gates, cpu_heads, cpu_joins, heads
from wavedil.ops.gated_stack import network as net
from wavedil.ops.gated_stack.cpu_maps import all_parts, columns
from wavedil.ops.gated_stack.cpu_tables import BEGIN, CHUNK, GATES, LAYER, STEP, Grads, Net, X

KINDS = {net.BLOCK: 0, net.PROJECT: 1, net.FILTER: 2}


@functools.lru_cache(maxsize=16)
def plan_of(network, dtype, local):
    """The `Plan` of a network; the latest ones are kept, as making one takes longer than generating 100 samples."""
    return Plan(network, np.dtype(dtype), local)


class Plan:
    """Sizes, index maps and tables.

    Parameters
    ----------
    network : Network
    dtype : dtype
    local : bool
        Whether the condition is one of the products' operands, at every row or at frame rate, not part of the biases.
    """

    def __init__(self, network, dtype, local):
        self.network, self.dtype, self.width, self.local = network, np.dtype(dtype), width(dtype), local
        self.layers = network.layers
        # Of a plan's arrays in a workspace, whose padding stays zero: no other plan may write to them.
        self.key = object()
        self.panels = {n: panels_of(n, dtype) for n in {c for x in self.layers for c in (x.inputs, x.outputs, x.skip)}}
        self.table = np.zeros(len(self.layers), LAYER)
        for i, layer in enumerate(self.layers):
            self._fill(self.table[i], i, layer)
        self.carried = max(self.of(x.inputs) for x in self.layers if x.kind != net.FILTER)
        self.carried = max([self.carried, *(self.of(x.outputs) for x in self.layers if x.kind == net.PROJECT)])
        sums = [x.skip if x.kind == net.BLOCK else x.outputs for x in self.layers if x.kind != net.PROJECT]
        self.summed = max(self.of(n) for n in [*sums, *(x.inputs for x in self.layers if x.kind == net.FILTER)])
        self.skips = self.of(network.feature_channels)
        self.kinds = list(dict.fromkeys((s.activation, s.alpha) for s in network.stacks))
        blocks = self.blocks = [i for i, x in enumerate(self.layers) if x.kind == net.BLOCK]
        for i in blocks:
            stack = self.layers[i].stack
            self.table["activation"][i] = self.kinds.index((stack.activation, stack.alpha))
        wide = np.zeros(len(self.layers), np.int64)
        wide[blocks] = self.table["wide"][blocks]
        self.wide = int(wide.sum())  # panels of all blocks' convolutions
        self.table["frames"] = np.cumsum(wide) - wide
        self.table["block_bias"] = self.table["frames"] * self.width
        self.columns = [columns(self.layers[i], self.width) for i in blocks]
        self.parts = all_parts(self)
        self._placed = {train: self._place(train) for train in (False, True)}
        self._inverse = None
        self.slab_size, self.d_embedding, self.head_gradients = self._lay_out_gradients()

    def of(self, channels):
        """Panels of so many channels."""
        return panels_of(channels, self.dtype)

    def _fill(self, row, i, layer):
        """The sizes of one layer."""
        readers = [k for k in range(i + 1, len(self.layers)) if self.layers[k].kind != net.FILTER]
        row["kind"], row["taps"], row["dilation"] = KINDS[layer.kind], layer.taps, layer.dilation
        row["inputs"], row["outputs"], row["following"] = self.of(layer.inputs), self.of(layer.outputs), -1
        if readers and not layer.last and layer.kind != net.FILTER:
            row["following"] = readers[0]
        if layer.kind == net.BLOCK:
            row["gate"], row["skip"] = self.of(layer.gate), self.of(layer.skip)
            row["wide"] = row["kept"] = row["gate"] * (layer.wide // layer.gate)
            row["first"], row["adds_z"] = layer.first, not layer.projects_skip
            row["local"] = self.of(layer.condition.channels) if self.local and not self.network.hop else 0
        elif layer.kind == net.FILTER:
            row["kept"] = row["outputs"]

    @property
    def condition_panels(self):
        """Of a condition that is an operand; 0 if there is none."""
        return self.of(self.network.condition.channels) if self.local else 0

    # parameters -------------------------------------------------------------------------------------------------------
    def pack(self, params, workspace, threads, train, lowest=0, kind=None):
        """The parameters as panels; transposed ones only for training, and from the lowest layer to train on."""
        begins, ends, found, groups = self._placed[train]
        arrays = {where: workspace.array((self.key, where, train), (end,), self.dtype) for where, end in ends.items()}
        if kind is not None:  # the floats are needed for a moment only
            workspace.drop((self.key, "matrices", train))

        def pack_layer(parts):
            for part in parts:
                begin = begins[part.layer, part.field]
                target = arrays[found[part.layer, part.field][0]][begin : begin + len(part.index)]
                gather(params[part.name].reshape(-1), part.index, target)

        tasks = [
            (pack_layer, [part for part in parts if not part.training] if 0 <= i < lowest else parts)
            for i, parts in groups.items()
        ]
        pool.run(tasks, self._copy_threads(params, threads))
        self._fill_padding(arrays, begins)
        if kind is not None:
            arrays["matrices"], moved = self._stored(arrays["matrices"], begins, found, kind)
            begins = begins | moved
        return self._net(begins, arrays)

    def _place(self, train):
        """Where each packed array begins, how long the two arrays are, what lies where, and the parts of each layer."""
        begins, ends, found, groups = {}, {"matrices": 0, "vectors": 0}, {}, {}
        for part in self.parts:
            if train or not part.training:
                where = "vectors" if part.matrix is None else "matrices"
                place = (part.layer, part.field)
                if place not in found:  # two parameters may share a matrix
                    found[place] = (where, len(part.index), part.matrix)
                    begins[place], ends[where] = ends[where], ends[where] + len(part.index)
                if part.index.max() >= 0:  # else a bias that is not there
                    groups.setdefault(part.layer, []).append(part)
        largest = max(self.carried, self.summed) * self.width
        begins[-1, "zero"], ends["vectors"] = ends["vectors"], ends["vectors"] + largest
        return begins, ends, found, groups

    def _fill_padding(self, arrays, begins):
        """Numbers that are no parameters: outputs that do not exist, and skip outputs that are z itself."""
        if (-1, "bias1") in begins and isinstance(self.network.head, heads.Softmax):
            begin, classes = begins[-1, "bias1"], self.network.head.classes
            # Classes that do not exist have probability zero.
            arrays["vectors"][begin + classes : begin + self.of(classes) * self.width] = -1e30
        for i in self.blocks:
            layer, row, w = self.layers[i], self.table[i], self.width
            if (i, "back") in begins and row["adds_z"] and layer.stack.activation == net.GATED:
                D, R, S = int(row["gate"]), int(row["inputs"]), int(row["skip"])
                matrix = arrays["matrices"][begins[i, "back"] :][: D * (R + S) * w * w].reshape(D, R + S, w, w)
                for p in range(D):
                    matrix[p, R + p] = np.eye(w)

    def _net(self, begins, arrays):
        """What the kernels are told."""
        table = self.table.copy()
        for (i, field), begin in begins.items():
            if i >= 0:
                table[field][i] = begin
        alphas = tuple(cpu_gates.KINDS[name](alpha) for name, alpha in self.kinds)
        shared = {field: begin for (i, field), begin in begins.items() if i < 0}
        joins = cpu_joins.Joins() if len(self.blocks) < len(self.layers) else cpu_joins.NoJoins()
        return Net(
            table, alphas, joins, self._head(shared), self.carried, arrays["matrices"], arrays["vectors"],
            shared.get("embedding", 0), 0 if self.network.real else self.network.input.classes, shared["zero"],
        )  # fmt: skip

    def _head(self, begins):
        head = self.network.head
        kind = getattr(cpu_heads, type(head).__name__) if head is not None else cpu_heads.NoHead
        two = head is not None and head.end_channels
        sizes = {
            "skips": self.skips, "end": self.of(head.end_channels) if two else 0,
            "output_panels": 0 if head is None else self.of(head.outputs),
            "outputs": 0 if head is None else head.outputs,
        }  # fmt: skip
        values = {name: int(value) for name, value in (begins | sizes | self.head_gradients).items()}
        values |= {name: getattr(head, name) for name in kind._fields if hasattr(head, name)}
        return kind(**{name: values.get(name, 0) for name in kind._fields})

    def _stored(self, packed, begins, found, kind):
        """Packed matrices in fewer bytes: the array, and where in it each begins."""
        parts, moved, end = [], {}, 0
        for place, (where, size, matrix) in found.items():
            if where == "matrices":
                panels, rows = matrix
                begin = begins[place]
                values = packed[begin : begin + size].reshape(panels, rows * self.width, self.width)
                parts.append(storage.stored(values, kind) if values.size else np.zeros(0, storage.KINDS[kind]))
                moved[place], end = end, end + len(parts[-1])
        array = aligned_zeros(end, parts[0].dtype)
        array[:] = np.concatenate(parts)
        return array, moved

    def _copy_threads(self, params, threads):
        """Threads to copy parameters with: many small copies on two threads take twice the time of one."""
        return threads if params["blocks.0.conv.weight"].nbytes >= 2**16 else 1

    def biases(self, params, workspace, batch, condition):
        """The convolutions' biases of each item, (batch, all blocks), with a global condition added."""
        biases = workspace.array((self.key, "biases"), (batch, self.wide * self.width), self.dtype)
        for i, own in zip(self.blocks, self.columns, strict=True):
            layer, begin = self.layers[i], int(self.table["block_bias"][i])
            places = begin + own
            bias = params[f"{layer.name}.conv.bias"]
            told = condition is not None or self.local
            if told and layer.condition.bias:
                bias = bias + params[f"{layer.name}.condition.bias"]
            biases[:, places] = bias
            if condition is not None:
                weight = params[f"{layer.name}.condition.weight"]
                biases[:, places] += (condition[:, :, None] * weight).sum(axis=1)
        return biases

    # gradients --------------------------------------------------------------------------------------------------------
    def _lay_out_gradients(self):
        """Fill the table's gradient fields; the slab's size, and where the input's and the head's begin."""
        end, w, level = 0, self.width, None

        def take(size):
            nonlocal end
            begin, end = end, end + int(size)
            return begin

        level = take(self.of(self._level_channels(0)) * w)
        self.levels = [level]
        for i, layer in enumerate(self.layers):
            row = self.table[i]
            outputs = row["wide"] if layer.kind == net.BLOCK else row["outputs"]
            row["d_level"] = level
            row["d_weight"] = take(layer.taps * row["inputs"] * outputs * w * w)
            if layer.kind != net.FILTER:
                row["d_sums"] = take(row["inputs"] * w)
            else:
                level = take(row["outputs"] * w)
                self.levels.append(level)
            if layer.kind == net.BLOCK:
                row["d_bias"] = take(row["wide"] * w)
                row["d_mix"] = take((row["inputs"] + row["skip"]) * row["gate"] * w * w)
                row["d_condition"] = take(self.condition_panels * row["wide"] * w * w)
        n, head, places = self.network, self.network.head, {"d_skip_sum": level}
        table = 0 if n.real else take(self.of(self.layers[0].inputs) * n.input.classes * w)
        if head is not None and head.end_channels:
            S, E, Q = (self.of(c) for c in (n.feature_channels, head.end_channels, head.outputs))
            places |= {"d_weight0": take(S * E * w * w), "d_bias0": take(E * w), "d_weight1": take(E * Q * w * w),
                       "d_bias1": take(Q * w)}  # fmt: skip
        return end, table, places

    def _level_channels(self, level):
        """Channels of the skip sum before so many filters have changed it."""
        return next(x.skip for x in self.layers if x.kind == net.BLOCK) if level == 0 else None

    def gradients(self, workspace, batch, needed):
        """Slabs of gradients, (batch, size), and where in them each begins."""
        slab = workspace.array((self.key, "gradients"), (batch, self.slab_size), self.dtype)
        return Grads(slab, needed, self.d_embedding)

    def gradient_parts(self):
        """(parameter, where its gradient begins in a slab, where each of its elements lies from there on)."""
        if self._inverse is None:
            known = {}

            def inverse(index):
                if id(index) not in known:
                    known[id(index)] = inverse_index(index, int(index.max()) + 1)
                return known[id(index)]

            self._inverse = [
                (part.name, begin, inverse(part.index))
                for part in self.parts
                if (begin := self._gradient_of(part)) is not None and part.index.max() >= 0
            ]
        return self._inverse

    def _gradient_of(self, part):
        """Where in a slab the gradient of a packed array begins; None if it has none of its own."""
        if part.layer < 0:
            return self.d_embedding if part.field == "embedding" else self.head_gradients.get(f"d_{part.field}")
        row, layer = self.table[part.layer], self.layers[part.layer]
        following = int(row["following"])
        begin = {
            "weight": row["d_weight"], "condition_weight": row["d_condition"], "residual": row["d_mix"],
            "skip_weight": row["d_mix"] + row["inputs"] * row["gate"] * self.width**2, "skip_bias": row["d_level"],
            "residual_bias": self.table["d_sums"][following], "bias": self.table["d_sums"][following],
        }.get(part.field)  # fmt: skip
        if part.field in ("residual", "residual_bias") and following < 0:
            return None  # it reaches no output
        if part.field == "bias" and layer.kind == net.FILTER:
            below = sum(x.kind == net.FILTER for x in self.layers[: part.layer])
            begin = self.levels[below + 1]
        return None if begin is None else int(begin)

    def unpack(self, params, grads, into, needs, condition, threads):
        """Add the items' gradients that are needed to ``into``; the gradient of a global condition is returned."""
        parts = [part for part in self.gradient_parts() if part[0] in needs]

        def unpack_parts(parts):
            for name, begin, index in parts:
                add_gathered(grads.slab, begin, index, into[name].reshape(-1))

        size = 8
        tasks = [(unpack_parts, parts[k : k + size]) for k in range(0, len(parts), size)]
        pool.run(tasks, self._copy_threads(params, threads))
        dcondition = None
        if condition is not None and "condition" in needs:
            dcondition = np.zeros_like(condition)
        for i, own in zip(self.blocks, self.columns, strict=True):
            layer, begin = self.layers[i], int(self.table["d_bias"][i])
            dbias = grads.slab[:, begin + own]
            conv, told = f"{layer.name}.conv.bias", condition is not None or self.local
            if conv in needs:
                into[conv] += _summed(dbias)
            if told and (name := f"{layer.name}.condition.bias") in needs:
                into[name] += _summed(dbias)
            name = f"{layer.name}.condition.weight"
            if condition is not None and name in needs:
                into[name] += (condition[:, :, None] * dbias[:, None, :]).sum(axis=0)
            if dcondition is not None:
                dcondition += (params[name] * dbias[:, None, :]).sum(axis=2)
        return dcondition

    # activations ------------------------------------------------------------------------------------------------------
    def layout(self, x_rows, gates_rows, x_first=0):
        """`Item.layout` for so many rows of each layer's X and of what it keeps, and the sizes of the two arrays.

        ``x_first`` is the row of X where the times (or positions) begin.
        """
        layout, sizes = np.empty((2, 2, len(self.layers)), np.int64), []
        for which, panels, rows in ((X, self.table["inputs"], x_rows), (GATES, self.table["kept"], gates_rows)):
            layout[which, STEP] = np.asarray(rows) * self.width
            ends = np.cumsum(panels * layout[which, STEP])
            layout[which, BEGIN] = ends - panels * layout[which, STEP]
            sizes.append(int(ends[-1]))
        layout[X, BEGIN] += np.asarray(x_first) * self.width
        return layout, sizes

    def inputs(self, x, layout, i):
        """A layer's part of ``x (batch, size)``, as (batch, panels, rows, width); no row lies before it."""
        begin, step = layout[X, :, i]
        panels = int(self.table["inputs"][i])
        return x[:, begin : begin + panels * step].reshape(len(x), panels, -1, self.width)

    def past(self):
        """Rows that each layer looks back."""
        return (self.table["taps"] - 1) * self.table["dilation"]

    def sliding_rows(self):
        """Rows of buffers that slide: the past, and room for as much again or some chunks."""
        return self.past() + (np.maximum(self.past(), 2 * CHUNK) // CHUNK + 1) * CHUNK

    def scratch(self, workspace, rows, *name):
        """An array of scratch for so many rows, and where its matrices begin."""
        head = self.network.head
        plain = any(s.activation != net.GATED for s in self.network.stacks)
        projected = [int(r["outputs"]) for r in self.table if r["kind"] == KINDS[net.PROJECT]]
        z, outputs = max([int(self.table["gate"].max()), *projected]), 0 if head is None else self.of(head.outputs)
        end = self.of(head.end_channels) if head is not None and head.end_channels else 0
        counts = dict(z=z, dz=z if plain else 0, skip=self.summed, end=end, outputs=outputs, dend=end)
        begins, size = {}, 0
        for matrix, panels in counts.items():
            begins[matrix], size = size, size + panels * rows * self.width
        return dict(scratch=workspace.array((self.key, "scratch", *name), (size,), self.dtype), **begins)

    def packed_rows(self, workspace, condition, batch, rows, name="condition"):
        """A condition that is an operand as panels, (batch, size)."""
        held = workspace.array((self.key, name), (batch, self.condition_panels, rows, self.width), self.dtype)
        if condition is not None:
            for b in range(batch):
                pack_rows(condition[b], held[b])
        return held.reshape(batch, -1)


def _summed(dbias):
    """The sum over the items, one after the other: as `add_gathered` adds them."""
    total = dbias[0].copy()
    for row in dbias[1:]:
        total += row
    return total
