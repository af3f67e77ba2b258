"""All layers, the head and the loss on the CPU: depth first in time.

Causality lets one item of the batch run chunk by chunk (``CHUNK`` time rows) through *all* layers, so the hidden state,
the gated activation and the outputs of a chunk stay in the cache; backward takes the chunks in reverse. Per block:

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

Work is cut into tasks ``(item, stage, span)``: a stage is a run of layers, a span a run of chunks. If the batch does
not occupy all threads, an item's stages work on different spans at once, like a pipeline. Every sum is taken in
the same order whatever the cut, and each item has gradients of its own, added in order: the bits do not depend on the
number of threads.

Backward stops at the lowest layer with a gradient that somebody needs. The layers below it (the *prefix*) run forward
only, as in a stream: their gates live in one chunk, and their inputs slide along.
"""

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu.layout import writeable_view
from wavedil.kernels.cpu.panels import unpack_rows, whole_tiles
from wavedil.kernels.workspace import Workspace
from wavedil.ops.gated_stack.cpu_frames import frames_backward, project_frames
from wavedil.ops.gated_stack.cpu_kernels import skip_sum_backward, train_backward, train_forward
from wavedil.ops.gated_stack.cpu_needs import computed, lowest_layer
from wavedil.ops.gated_stack.cpu_packing import plan_of
from wavedil.ops.gated_stack.cpu_stream import Stream, init_state
from wavedil.ops.gated_stack.cpu_tables import CHUNK, GATES, Frames, Item, NoFrames, X

__all__ = ["backward", "forward", "init_state", "loss", "loss_and_grads"]

def _cuts(costs, stages):
    """Boundaries of so many runs of about equal cost."""
    ends = np.cumsum(costs)
    cuts = [int(np.searchsorted(ends, ends[-1] * s / stages + 1e-9)) for s in range(1, stages)]
    cuts = [0, *cuts, len(costs)]
    return [max(cuts[s], s) if s < stages else cuts[s] for s in range(stages + 1)]


class Window:
    """One window on its way forward and backward: its arrays, and the tasks of both.

    Parameters
    ----------
    needs : frozenset of str
        The gradients that backward will be asked for.
    """

    def __init__(self, params, inputs, network, condition, *, workspace, threads, recompute, needs):
        self.threads, self.recompute, self.params = pool.check_threads(threads), recompute, params
        self.batch, self.count = inputs.shape[:2]
        self.network, self.workspace = network, workspace or Workspace()
        self.global_condition = condition if condition is not None and condition.ndim == 2 else None
        self.local = condition if self.global_condition is None else None
        dtype = next(iter(params.values())).dtype
        self.plan = plan = plan_of(network, dtype.str, self.local is not None)
        self.rows, self.width, self.length = whole_tiles(self.count), plan.width, len(plan.layers)
        self.lowest = lowest_layer(plan, needs)
        self._cut()
        self.written = self.workspace.hold((plan.key, "latest"), object())
        self.net = plan.pack(params, self.workspace, self.threads, True, self.lowest)
        self.biases = plan.biases(params, self.workspace, self.batch, self.global_condition)
        mix = (self.batch, (plan.carried + plan.summed) * self.rows * self.width)
        self.mix = self._array("mix", mix)
        self._take_inputs(inputs)
        self._take_condition()
        self._lay_out(plan.past())

    def _array(self, name, shape, dtype=None):
        return self.workspace.array((self.plan.key, name), shape, dtype or self.plan.dtype)

    def _cut(self):
        """Into stages of about the same cost, and spans of time."""
        plan = self.plan
        self.stages = 1 if self.batch % self.threads == 0 else min(self.threads, self.length)
        span = self.count
        if self.stages > 1:
            span = CHUNK * max(1, -(-self.count // CHUNK) // (16 * self.stages))
        self.spans = [(begin, min(begin + span, self.count)) for begin in range(0, self.count, span)]
        t, head = plan.table, self.network.head
        widest = np.maximum(t["wide"], t["outputs"])
        costs = 2 * (t["taps"] * t["inputs"] * widest + t["gate"] * (t["inputs"] + t["skip"]))
        if head is not None and head.end_channels:
            end = plan.of(head.end_channels)
            costs[-1] += 6 * end * (plan.skips + plan.of(head.outputs))
        self.cuts = _cuts(costs, self.stages)

    def _take_inputs(self, inputs):
        """What is fed, with rows of zeros up to a whole tile."""
        shape = (self.batch, self.rows, *inputs.shape[2:])
        self.inputs = self._array("inputs", shape, None if self.network.real else np.int64)
        self.inputs[:, : self.count] = inputs
        self.inputs[:, self.count :] = 0

    def _take_condition(self):
        """A condition that is an operand, and for frames room for their products."""
        plan, none = self.plan, np.zeros(0, self.plan.dtype)
        self.framed = self.local is not None and self.network.hop > 0
        self.frames = [NoFrames()] * self.batch
        self.dframes, self.conditions = self.frames, [none] * self.batch
        if self.local is None:
            return
        frames, hop = self.local.shape[1], self.network.hop
        rows = whole_tiles(frames) if hop else self.rows
        self.conditions = plan.packed_rows(self.workspace, self.local, self.batch, rows)
        if hop:
            linear = int(self.network.condition.interpolation == "linear")
            both = [self._array(name, (self.batch, plan.wide * rows * self.width)) for name in ("frames", "dframes")]
            self.frames, self.dframes = (
                [Frames(array[b], rows, 0, hop, linear, 0) for b in range(self.batch)] for array in both
            )
            pool.run([
                (project_frames, self.net, self.conditions[b], plan.condition_panels, self.frames[b], self.biases[b])
                for b in range(self.batch)
            ], self.threads)  # fmt: skip

    def _lay_out(self, past):
        """Where each layer's X and what it keeps lie: of the prefix they slide along."""
        plan, L = self.plan, self.length
        prefix, sliding = np.arange(L) < self.lowest, plan.sliding_rows()
        # An input that one stage writes while the next one reads it does not slide, nor one that takes less as a whole.
        slides = prefix & ~np.isin(np.arange(L), self._read_by_next()) & (sliding < past + self.rows)
        x_rows = np.where(slides, sliding, past + self.rows)
        gates_rows = np.where(prefix, 0, sliding if self.recompute else self.rows + past)
        layout, (x_size, gates_size) = plan.layout(x_rows, gates_rows, np.where(slides, 0, past))
        chunk = int(plan.table["kept"].max()) * CHUNK * self.width  # gates that nobody keeps, one for each stage
        self.x = self._laid_out("x", x_size, layout)
        self.gates = self._laid_out(f"gates.{self.recompute}", gates_size + self.stages * chunk, layout)
        for i in np.flatnonzero(slides):
            plan.inputs(self.x, layout, i)[:, :, : past[i]] = 0
        self.layout, self.forward_layouts = layout, []
        chunked = prefix | self.recompute
        for s in range(self.stages):
            forward_layout = layout.copy()
            forward_layout[GATES, :, chunked] = gates_size + s * chunk, CHUNK * self.width
            self.forward_layouts.append(forward_layout)
        self.forward_position = np.full((self.batch, 2, L), -1, np.int64)
        self.forward_position[:, X, slides] = past[slides]
        self.forward_position[:, GATES, chunked] = 0
        self.position = np.full((self.batch, 2, L), -1, np.int64)
        if self.recompute:
            self.gates[:, :gates_size] = 0  # there is nothing later than the last chunk
            self.position[:, GATES] = gates_rows - past

    def _read_by_next(self):
        """The layers whose input is written by the stage before their own."""
        following, cuts = self.plan.table["following"], self.cuts
        stage = np.searchsorted(cuts, np.arange(self.length), side="right")
        return [f for i, f in enumerate(following) if f >= 0 and stage[i] != stage[f]]

    def _laid_out(self, name, size, layout):
        """An array that is used by this layout; zeros, where nobody has written since it was used by another."""
        array, key = self._array(name, (self.batch, size)), (self.plan.key, name, "layout")
        before = self.workspace.held(key)
        if before is not None and not np.array_equal(before, layout):
            array[:] = 0
        self.workspace.hold(key, layout.copy())
        return array

    @property
    def fresh(self):
        """Whether backward can still run: nobody has written to the arrays since."""
        return self.workspace.held((self.plan.key, "latest")) is self.written

    def use_up(self, threads):
        """Backward is about to overwrite the gates; it may run on another number of threads."""
        self.workspace.hold((self.plan.key, "latest"), object())
        self.threads = pool.check_threads(threads)

    def item(self, b, stage, layout, position, dcondition, dframes=None):
        """The arrays of one item in one stage."""
        frames = self.frames[b]
        none = frames._replace(values=frames.values[:0], hop=0) if self.framed else NoFrames()
        return Item(
            self.x[b], self.gates[b], layout, position[b], self.x.shape[1], self.mix[b], self.conditions[b], dcondition,
            self.rows, self.rows, self.biases[b], 0, frames, none if dframes is None else dframes,
            **self.plan.scratch(self.workspace, CHUNK, b, stage),
        )  # fmt: skip

    def forward_tasks(self, gradients, targets, weights, scale, losses):
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
                        self.inputs[b], targets[b], weights[b], scale, losses[b],
                    )  # fmt: skip
        return tasks

    def backward_tasks(self, gradients, needs):
        """All gradients that are needed, once the skip sum has been replaced by its gradient."""
        tasks, lowest = {}, lowest_layer(self.plan, needs)
        if lowest == self.length:
            return tasks
        stages = min(self.stages, self.length - lowest)
        cuts = [lowest + cut for cut in _cuts([1] * (self.length - lowest), stages)]
        self.dconditions, framed = self.conditions, self._frames_needed(needs)
        if self.local is not None and "condition" in needs and not self.network.hop:
            self.dconditions = self.plan.packed_rows(self.workspace, None, self.batch, self.rows, "dcondition")
            self.dconditions[:] = 0
        for b in range(self.batch):
            grads = gradients._replace(slab=gradients.slab[b])
            dframes = self.dframes[b] if framed else None
            if framed:
                dframes.values[:] = 0
            items = [
                self.item(b, s, self.layout, self.position, self.dconditions[b], dframes) for s in range(stages)
            ]
            for i, (begin, end) in reversed(list(enumerate(self.spans))):
                for s in reversed(range(stages)):
                    start = [("forward", b, self.stages - 1, len(self.spans) - 1), ("dskips", b)]
                    tasks["backward", b, s, i] = (
                        [("backward", b, s + 1, i), ("backward", b, s, i + 1), *start],
                        train_backward, self.net, items[s], grads, cuts[s], cuts[s + 1], begin, end,
                        self.inputs[b], self.recompute,
                    )  # fmt: skip
        return tasks

    def _frames_needed(self, needs):
        """Whether the gradient of projected frames is: for the condition's, or for weights that meet them."""
        names = {f"{layer.name}.condition.weight" for layer in self.plan.layers} | {"condition"}
        return bool(self.local is not None and self.network.hop and not needs.isdisjoint(names))

    def finish(self, gradients, into, needs):
        """Add to ``into``; returns the gradient of the condition."""
        if self._frames_needed(needs):
            self._finish_frames(gradients, "condition" in needs)
        dcondition = self.plan.unpack(self.params, gradients, into, needs, self.global_condition, self.threads)
        if self.local is None or "condition" not in needs:
            return dcondition
        dcondition = np.empty_like(self.local)
        panels = self.plan.condition_panels
        for b in range(self.batch):
            unpack_rows(self.dconditions[b].reshape(panels, -1, self.width), dcondition[b])
        return dcondition

    def _finish_frames(self, gradients, needs_condition):
        """From the gradient of the projected frames to those of weights and condition."""
        panels, rows = self.plan.condition_panels, self.frames[0].rows
        self.dconditions = self.plan.packed_rows(self.workspace, None, self.batch, rows, "dcondition")
        pool.run([
            (frames_backward, self.net, self.conditions[b], self.dconditions[b], panels, self.dframes[b],
             gradients.slab[b], needs_condition)
            for b in range(self.batch)
        ], self.threads)  # fmt: skip


def _targets(window, targets):
    """Targets as the kernels take them."""
    if targets is None:
        return np.zeros((window.batch, 0), np.int64)
    return np.ascontiguousarray(targets, np.int64 if targets.dtype.kind in "iu" else window.plan.dtype)


def loss_and_grads(
    params, inputs, targets, weights, into, *, network, condition, workspace, threads, recompute, needs,
    half_activations,
):  # fmt: skip
    """Backend of the contract: returns the loss and the gradient of the condition; half_activations is False."""
    window = Window(params, inputs, network, condition, workspace=workspace, threads=threads, recompute=recompute,
                    needs=needs)  # fmt: skip
    gradients = window.plan.gradients(window.workspace, window.batch, computed(window.plan, needs))
    scale = window.plan.dtype.type(1 / weights.sum(dtype=np.float64))
    losses = np.zeros((window.batch, 1))
    tasks = window.forward_tasks(gradients, _targets(window, targets), weights, scale, losses)
    pool.run_graph(tasks | window.backward_tasks(gradients, needs), window.threads)
    return float(losses.sum() * float(scale)), window.finish(gradients, into, needs)


def forward(
    params, inputs, out, *, network, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs; half_activations is False."""
    window = Window(params, inputs, network, condition, workspace=workspace, threads=threads, recompute=recompute,
                    needs=needs)  # fmt: skip
    plan, none = window.plan, np.zeros((window.batch, 0), out.dtype)
    gradients = plan.gradients(window.workspace, window.batch, computed(plan, needs))._replace(slab=none)
    losses = np.zeros((window.batch, 1))
    tasks = window.forward_tasks(gradients, _targets(window, None), none, out.dtype.type(0), losses)
    for b in range(window.batch):
        skips = window.mix[b].reshape(-1, window.rows, plan.width)[plan.carried : plan.carried + plan.skips]
        tasks["out", b] = ([("forward", b, window.stages - 1, len(window.spans) - 1)], unpack_rows, skips, out[b])
    pool.run_graph(tasks, window.threads)
    return window


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition."""
    kept.use_up(threads)
    gradients = kept.plan.gradients(kept.workspace, kept.batch, computed(kept.plan, needs))
    tasks = {}
    for b in range(kept.batch):
        item = kept.item(b, 0, kept.layout, kept.position, kept.conditions[b])
        grads = gradients._replace(slab=gradients.slab[b])
        tasks["dskips", b] = ([], skip_sum_backward, kept.net, item, grads, writeable_view(dskips[b]))
    pool.run_graph(tasks | kept.backward_tasks(gradients, needs), kept.threads)
    return kept.finish(gradients, into, needs)


def loss(params, inputs, targets, weights, *, network, condition, threads):
    """Backend of the contract: forward only, in little memory."""
    stream = Stream(params, len(inputs), network=network, threads=threads)
    total = stream.loss(inputs, targets, weights, condition)
    return float(total * float(stream.x.dtype.type(1 / weights.sum(dtype=np.float64))))
