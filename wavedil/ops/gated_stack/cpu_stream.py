"""Streams on the CPU: the state of a network between blocks of rows, and drawing from it."""

import copy

import numpy as np

from wavedil.errors import DivergedError
from wavedil.kernels import pool, storage
from wavedil.kernels.cpu.panels import whole_tiles
from wavedil.kernels.workspace import Workspace, aligned_zeros
from wavedil.ops.gated_stack.cpu_frames import project_frames
from wavedil.ops.gated_stack.cpu_kernels import stream_loss, stream_rows
from wavedil.ops.gated_stack.cpu_packing import plan_of
from wavedil.ops.gated_stack.cpu_sample import FedCodes, FedValues, Options, stream_samples
from wavedil.ops.gated_stack.cpu_tables import CHUNK, GATES, Frames, Item, NoFrames, X


class Stream:
    """The state of streams through a network, and the parameters as they were when it was made.

    Attributes
    ----------
    x : (batch, size) array
        Each layer's latest input rows.
    position : (batch, 2, layers) array of int64
    time : int
        Rows seen so far.
    """

    def __init__(self, params, batch, *, network, threads=None, storage_kind=None):
        self.threads, self.network = pool.check_threads(threads), network
        self.batch, self.time, self.storage = batch, 0, storage_kind
        dtype, self.workspace = next(iter(params.values())).dtype, Workspace()
        # A condition may turn out to be global (part of the biases) or an operand (part of the products).
        kinds = {False, network.condition is not None}
        self.plans = {local: plan_of(network, dtype.str, local) for local in kinds}
        self.nets = {
            local: plan.pack(params, self.workspace, 1, False, kind=storage_kind) for local, plan in self.plans.items()
        }
        # What the biases are made of is kept as well: training may change the parameters under way.
        endings = ("conv.bias", "condition.weight", "condition.bias")
        self.params = {name: value.copy() for name, value in params.items() if name.endswith(endings)}
        if storage_kind is not None:
            self.params = storage.rounded_matrices(self.params, storage_kind)
        plan = self.plans[False]
        self.dtype = plan.dtype
        self._layout, (size, _) = plan.layout(plan.sliding_rows(), CHUNK)
        self._layout[GATES] = [[0] * len(plan.layers), [CHUNK * plan.width] * len(plan.layers)]
        self.x = aligned_zeros((batch, size), plan.dtype)
        self.position = np.zeros((batch, 2, len(plan.layers)), np.int64)
        self._biases_of = self._plain_items = None
        self.reset()

    def reset(self):
        """Forget the past."""
        self.x[:] = 0
        self.position[:, X] = self.plans[False].past()
        self.time = 0

    # what is saved ----------------------------------------------------------------------------------------------------
    def history(self):
        """Each layer's past input rows, a list of (batch, rows, channels) arrays: all that the future depends on."""
        plan, rows = self.plans[False], []
        for i, layer in enumerate(plan.layers):
            panels = self._panels(i)
            now, past = self.position[0, X, i], layer.past
            part = panels[:, :, now - past : now].transpose(0, 2, 1, 3)
            part = part.reshape(self.batch, past, panels.shape[1] * plan.width)
            rows.append(np.ascontiguousarray(part[:, :, : layer.inputs]))
        return rows

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.reset()
        for i, part in enumerate(rows):
            panels = self._panels(i)
            wide = np.zeros((*part.shape[:2], panels.shape[1] * panels.shape[3]), part.dtype)
            wide[:, :, : part.shape[2]] = part
            shape = (*part.shape[:2], panels.shape[1], panels.shape[3])
            panels[:, :, : part.shape[1]] = wide.reshape(shape).transpose(0, 2, 1, 3)
        self.time = time

    def _panels(self, i):
        """A layer's X as (batch, panels, rows, width)."""
        return self.plans[False].inputs(self.x, self._layout, i)

    def copy(self):
        """A second stream that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other.x, other.position = aligned_zeros(self.x.shape, self.x.dtype), self.position.copy()
        other.x[:] = self.x
        other.workspace = Workspace()
        other._biases_of = other._plain_items = None
        return other

    @property
    def nbytes(self):
        """Bytes of the state itself, the parameters not counted."""
        return self.x.nbytes + self.position.nbytes

    @property
    def weight_bytes(self):
        """Bytes of the parameters as they are read, once for each step of generation."""
        net = self.nets[False]
        return net.matrices.nbytes + net.vectors.nbytes

    # a block of rows --------------------------------------------------------------------------------------------------
    def _items(self, count, condition):
        """The net and each stream's arrays for ``count`` rows."""
        global_condition = condition if condition is not None and condition.ndim == 2 else None
        local = condition if global_condition is None else None
        biases = self._biases(global_condition, local is not None)
        if local is None and self._plain_items is not None:  # their arrays stay the same
            return self.nets[False], self._plain_items
        plan, net = self.plans[local is not None], self.nets[local is not None]
        none = np.zeros(0, self.dtype)
        frames, conditions = self._frames(local, biases), [none] * self.batch
        if local is not None and not self.network.hop:
            conditions = plan.packed_rows(self.workspace, local, self.batch, count)
        panels = {"gates": int(plan.table["kept"].max()), "mix": plan.carried + plan.summed}
        gates, mix = (
            self.workspace.array(name, (self.batch, count * CHUNK * plan.width), self.dtype)
            for name, count in panels.items()
        )
        items = [
            Item(self.x[b], gates[b], self._layout, self.position[b], self.x.shape[1], mix[b], conditions[b],
                 conditions[b], count, CHUNK, biases[b], 0, frames[b], NoFrames(),
                 **plan.scratch(self.workspace, CHUNK, b))
            for b in range(self.batch)
        ]  # fmt: skip
        if local is None:
            self._plain_items = items
        return net, items

    def _frames(self, local, biases, hop=None):
        """What the blocks are told, for each stream: frames of the condition, or of none."""
        hop = self.network.hop if hop is None else hop
        if local is None or not hop:
            return [NoFrames()] * self.batch
        plan, net = self.plans[True], self.nets[True]
        rows = whole_tiles(local.shape[1])
        packed = plan.packed_rows(self.workspace, local, self.batch, rows, "frames")
        values = self.workspace.array("projected", (self.batch, plan.wide * rows * plan.width), self.dtype)
        linear = int(bool(self.network.hop) and self.network.condition.interpolation == "linear")
        frames = [Frames(values[b], rows, values.shape[1], hop, linear, self.time % hop) for b in range(self.batch)]
        pool.run([(project_frames, net, packed[b], plan.condition_panels, frames[b], biases[b])
                  for b in range(self.batch)], self.threads)  # fmt: skip
        return frames

    def _biases(self, condition, local=False):
        """The items' biases under a global condition; kept while the condition stays the same."""
        if local:
            return self.plans[True].biases(self.params, self.workspace, self.batch, None)
        if self._biases_of is None or not _same(self._biases_of[0], condition):
            held = None if condition is None else condition.copy()
            self._biases_of = (held, self.plans[False].biases(self.params, self.workspace, self.batch, condition))
        return self._biases_of[1]

    def _taken(self, inputs):
        return np.ascontiguousarray(inputs, self.dtype if self.network.real else np.int64)

    def step(self, inputs, condition, out, head=True):
        """Fill what comes out after each of some rows, (batch, n), or without the head their skip sums."""
        net, items = self._items(inputs.shape[1], condition)
        held = self._taken(inputs)
        pool.run([(stream_rows, net, items[b], held[b], out[b], head) for b in range(self.batch)], self.threads)
        self.time += inputs.shape[1]

    def loss(self, inputs, targets, weights, condition):
        """Sum over the items of weight * loss of the targets."""
        net, items = self._items(weights.shape[1], condition)
        held, losses = self._taken(inputs), np.zeros((self.batch, 1))
        targets = np.ascontiguousarray(targets, np.int64 if targets.dtype.kind in "iu" else self.dtype)
        tasks = [(stream_loss, net, items[b], held[b], targets[b], weights[b], losses[b]) for b in range(self.batch)]
        pool.run(tasks, self.threads)
        self.time += weights.shape[1]
        return losses.sum()

    # drawing ----------------------------------------------------------------------------------------------------------
    def sample(self, first, out, condition, options, extra=None, lpc=None):
        """Fill ``out (batch, n)`` with draws that follow ``first`` (`streams.sample`) and each other.

        Streams go in groups, which are the rows of a step's products; a stream's bits do not depend on its group. A
        condition that changes in time is projected first, for all rows (one "frame" a row, if it has no frames).
        """
        global_condition = condition if condition is not None and condition.ndim == 2 else None
        local = condition if global_condition is None else None
        plan, net = self.plans[local is not None], self.nets[local is not None]
        biases = self._biases(global_condition, local is not None)
        frames = self._frames(local, biases, self.network.hop or 1)
        failed = np.full((self.batch, 2), -1)
        size = -(-self.batch // max(1, min(self.threads, self.batch // 4)))  # a group fills a tile of four rows
        groups = [slice(b, min(b + size, self.batch)) for b in range(0, self.batch, size)]
        positions = [self.position[group.start].copy() for group in groups]
        none, tasks = np.zeros(0, self.dtype), []
        for group, position in zip(groups, positions, strict=True):
            rows, b = group.stop - group.start, group.start
            kept = int(plan.table["kept"].max()) * rows * plan.width
            gates = self.workspace.array(("step gates", b), (kept,), self.dtype)
            told = frames[b]
            if local is not None:
                projected = self.workspace.array("projected", (self.batch, told.step), self.dtype)
                told = told._replace(values=projected[group].reshape(-1))
            item = Item(
                self.x[group].reshape(-1), gates, self._layout, position, self.x.shape[1], none, none, none,
                0, 0, biases[group].reshape(-1), biases.shape[1], told, NoFrames(),
                **plan.scratch(self.workspace, rows, "step", b),
            )  # fmt: skip
            chances = self.workspace.array(("probabilities", b), (2, self.network.head.outputs), np.float64)
            tasks.append((stream_samples, net, item, self._fed(group, first, extra, lpc), out[group],
                          Options(*options), b, self.time, *chances, failed[b]))  # fmt: skip
        pool.run(tasks, self.threads)
        for group, position in zip(groups, positions, strict=True):
            self.position[group] = position
        if failed.max() >= 0:
            stream, step = failed[failed[:, 1] >= 0][0]
            what = self.network.head.outputs_are
            raise DivergedError(f"generate: the {what} of stream {stream} are not finite at step {step}")
        self.time += out.shape[1]

    def _fed(self, group, first, extra, lpc):
        """What a group of streams is fed in drawing: codes, or values and what comes with them."""
        latest, shift = first[group, ::-1], np.zeros(group.stop - group.start)
        if not self.network.real:
            return FedCodes(latest.astype(np.int64, "C"), shift)
        extra = np.ascontiguousarray(extra[group], self.dtype)
        rows, count, others = extra.shape
        lpc = np.zeros((rows, count, 0), self.dtype) if lpc is None else np.ascontiguousarray(lpc[group], self.dtype)
        predicted = int(self.network.input.channels - 1 - others)
        return FedValues(latest.astype(self.dtype, "C"), shift, extra, lpc, predicted)


def _same(a, b):
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def init_state(params, batch, *, network, threads, storage_kind):
    """Backend of the contract."""
    return Stream(params, batch, network=network, threads=threads, storage_kind=storage_kind)
