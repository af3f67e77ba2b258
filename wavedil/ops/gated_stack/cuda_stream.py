"""Streams on CUDA: each layer's latest input rows lie in a ring, row t of the stream at ``t % past``."""

import copy

import numpy as np

from wavedil.errors import DivergedError, OutOfMemoryError
from wavedil.kernels.cuda.engine import scratch, stage
from wavedil.kernels.cuda.launch import threads_or
from wavedil.kernels.cuda.rows import remember, unroll
from wavedil.kernels.cuda.sums import sum_values
from wavedil.kernels.workspace import Workspace
from wavedil.ops.embedding import cuda as embedding
from wavedil.ops.gated_block.cuda import project as project_condition
from wavedil.ops.gated_stack import cuda_heads, cuda_layers, cuda_sample
from wavedil.ops.gated_stack.cuda_condition import Told
from wavedil.ops.gated_stack.heads import Softmax
from wavedil.ops.gated_stack.network import FILTER, GATED, PROJECT
from wavedil.ops.gated_stack.reference_heads import draw, fed_rows
from wavedil.ops.gated_stack.streams import part_of_condition


def put_in(workspace, engine, name, values, dtype):
    """What is fed or predicted, on the device: codes as int64; real rows that are there already as they are."""
    if values.dtype.kind in "iu":
        values, dtype = on_host(values), np.int64
    elif hasattr(values, "to_host"):
        return values
    return stage(workspace, engine, name, np.ascontiguousarray(values, dtype))


def on_host(array):
    """Its copy, if it is on a device."""
    return array.to_host() if hasattr(array, "to_host") else array


class Stream:
    """The state of streams through a network, and the parameters as they were when it was made.

    Attributes
    ----------
    time : int
        Rows seen so far.
    """

    storage = None

    def __init__(self, params, batch, network):
        first = next(iter(params.values()))
        self.engine, self.dtype = first.engine, first.dtype
        self.network, self.batch, self.time = network, batch, 0
        self._keep(params)
        self._cut(self.engine.zeros(max(1, sum(self._ring_sizes())), self.dtype))
        self._workspace = Workspace()

    @property
    def like(self):
        """An array on the stream's device."""
        return self._rings

    @property
    def nbytes(self):
        """Bytes of the state itself, the parameters not counted."""
        return sum(self._ring_sizes()) * self.dtype.itemsize

    def _keep(self, params):
        """Copy the parameters one after the other, those of a condition at the end: the order of `cuda_sample`."""
        names = sorted(params, key=lambda name: ".condition." in name)  # all others stay in their order
        self._sampled = sum(params[name].size for name in names if ".condition." not in name)
        self.kept = self.engine.empty(sum(params[name].size for name in names), self.dtype)
        self.params, begin = {}, 0
        for name in names:
            end = begin + params[name].size
            self.params[name] = self.kept.part(begin, end).reshape(params[name].shape)
            self.params[name].set(params[name])
            begin = end

    def _ring_sizes(self):
        return [self.batch * layer.past * layer.inputs for layer in self.network.layers]

    def _cut(self, rings):
        self._rings, self.rings, begin = rings, [], 0
        for layer, size in zip(self.network.layers, self._ring_sizes(), strict=True):
            shape = (self.batch, layer.past, layer.inputs)
            self.rings.append(rings.part(begin, begin + size).reshape(shape) if size else None)
            begin += size

    def reset(self):
        """Forget the past."""
        self._rings.fill(0)
        self.time = 0

    def copy(self):
        """A second stream that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other._cut(self._rings.copy())
        other._workspace = Workspace()
        return other

    def history(self):
        """Each layer's past input rows, a list of (batch, rows, channels) arrays: all that the future depends on."""
        return [
            np.zeros((self.batch, 0, layer.inputs), self.dtype) if ring is None
            else np.roll(ring.to_host(), -(self.time % layer.past), axis=1)
            for layer, ring in zip(self.network.layers, self.rings, strict=True)
        ]  # fmt: skip

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.time = time
        for ring, part in zip(self.rings, rows, strict=True):
            if ring is not None:
                ring.set(np.roll(np.asarray(part, self.dtype), time % ring.shape[1], axis=1))

    # a block of rows --------------------------------------------------------------------------------------------------
    def _make(self):
        return scratch(self._workspace, self.engine)

    def _advance(self, inputs, condition):
        """What the last layer leaves of some more rows: the skip sum, (B, n, S), or the filter's outputs."""
        network, make, rows = self.network, self._make(), inputs.shape[:2]
        h = put_in(self._workspace, self.engine, "inputs", inputs, self.dtype)
        if not network.real:
            codes, h = h, make(("h", -1), (*rows, network.layers[0].inputs), self.dtype)
            embedding.forward(h, codes, self.params["input.embedding"], workspace=None, threads=None)
        told, skip = Told(make, self.params, network, condition, rows, self.time), None
        for i, layer in enumerate(network.layers):
            if layer.kind == PROJECT:
                x, h = h, make(("h", i), (*rows, layer.outputs), self.dtype)
                cuda_layers.project(self.params, layer, h, x)
            elif layer.kind == FILTER:
                x, skip = self._seen(i, skip), make(("skip", i), (*rows, layer.outputs), self.dtype)
                cuda_layers.filter_rows(self.params, layer, skip, x, 0)
            else:
                skip = make(("skip", "first"), (*rows, layer.skip), self.dtype) if layer.first else skip
                h = self._block(told, i, layer, h, skip)
        self.time += rows[1]
        return skip

    def _block(self, told, i, layer, h, skip):
        """What a block passes on; skip +="""
        make, shape = told.make, (*h.shape[:2], layer.gate)
        names = ("tanh", "sigmoid") if layer.stack.activation == GATED else ("pre",)
        parts = tuple(make((name, layer.gate), shape, self.dtype) for name in names)
        told.convolve(layer, parts, self._seen(i, h), 0)
        z = cuda_layers.factors(make, layer, parts)
        after = None
        if not layer.last:
            after = make(("h", "of blocks", i % 2, h.shape[2]), h.shape, self.dtype)
            cuda_layers.pass_on(self.params, layer, after, h, z)
        cuda_layers.add_skip(self.params, layer, skip, z)
        return after

    def _seen(self, i, x):
        """A layer's past rows and these, which are remembered."""
        ring = self.rings[i]
        if ring is None:
            return x
        past = ring.shape[1]
        shape = (self.batch, past + x.shape[1], x.shape[2])
        seen = self._make()(("seen", past, x.shape[2]), shape, self.dtype)
        unroll(seen, ring, x, self.time % past)
        remember(ring, x, self.time % past)
        return seen

    def step(self, inputs, condition, out, head=True):
        """Fill what comes out after each of some rows, or without the head their skip sums."""
        skip = self._advance(inputs, condition)
        if head:
            cuda_heads.put_out(self._make(), self.params, self.network, out, skip)
        else:
            out.set(skip)

    def loss(self, inputs, targets, weights, condition):
        """Sum over the streams of weight * loss of the targets; a span of time after the other."""
        time, span = weights.shape[1], max(1, cuda_heads.CHUNK // self.batch)
        spans = [(begin, min(begin + span, time)) for begin in range(0, time, span)]
        inputs, targets, condition, start = *map(on_host, (inputs, targets, condition)), self.time
        sums = self.engine.zeros(len(spans), np.float64)
        for i, (begin, end) in enumerate(spans):
            local = part_of_condition(condition, self.network, start, begin, end - begin)
            outputs = self._advance(inputs[:, begin:end], None if local is None else self.engine.array(local))
            self._loss_of_span(sums.part(i, i + 1), outputs, targets[:, begin:end], weights[:, begin:end])
        return float(sums.to_host().sum())

    def _loss_of_span(self, total, skip, targets, weights):
        """total (1,) = the sum of a span's weighted losses"""
        network, make, outputs = self.network, self._make(), skip
        if not network.filters:
            outputs = make("outputs", (*skip.shape[:2], network.head.outputs), self.dtype)
            cuda_heads.put_out(make, self.params, network, outputs, skip)
        targets, shares = (
            put_in(self._workspace, self.engine, name, part, self.dtype)
            for name, part in (("targets", targets), ("weights", weights))
        )
        losses = make("losses", (weights.size,), np.float64)
        cuda_heads.loss_of(network.head)(losses, outputs, targets, shares, 0, 0.0)
        sum_values(total, losses)

    # drawing ----------------------------------------------------------------------------------------------------------
    def sample(self, first, out, condition, options, extra=None, lpc=None):
        """Fill ``out (batch, n)`` with draws that follow ``first`` (`streams.sample`) and each other.

        WaveNets without a condition, or with a global one, draw in one persistent kernel. All others, and conditions
        that change in time, go step by step and draw on the host, which is right but waits for each step.
        """
        widths = self._widths()
        if widths is not None and (condition is None or condition.ndim == 2):
            self._sample_at_once(widths, first, out, condition, options)
        else:
            self._sample_step_by_step(first, out, condition, options, extra, lpc)

    def _widths(self):
        """What the persistent kernel is compiled for; None if it does not know such networks."""
        network, stack = self.network, self.network.stacks[0]
        same = len(network.stacks) == 1 and stack.activation == GATED and len(set(stack.kernel_sizes)) == 1
        if not (same and stack.skip_channels and isinstance(network.head, Softmax)):
            return None
        if network.input.classes != network.head.classes:
            return None
        return cuda_sample.Widths(
            stack.kernel_sizes[0], stack.channels, stack.gate_channels, stack.skip_channels, network.head.end_channels,
            network.head.classes,
        )  # fmt: skip

    def _sample_step_by_step(self, first, out, condition, options, extra, lpc):
        network, start, condition = self.network, self.time, on_host(condition)
        is_global = condition is None or condition.ndim == 2
        local = None if condition is None else self.engine.array(condition)
        outputs, past = self.engine.empty((self.batch, 1, network.head.outputs), self.dtype), first
        for i in range(out.shape[1]):
            if not is_global:
                local = self.engine.array(part_of_condition(condition, network, start, i, 1))
            fed, shifts = fed_rows(network, past, extra, lpc, i)
            self.step(fed, local, outputs)
            said = outputs.to_host().astype(np.float64)
            for b in range(self.batch):
                out[b, i] = draw(network.head, said[b, 0], options, b, self.time - 1, shifts[b])
            past = np.concatenate([past[:, 1:], out[:, i : i + 1]], axis=1)

    def _sample_at_once(self, widths, first, out, condition, options):
        seed, temperature, top_k, top_p = options
        network, engine, (batch, count) = self.network, self.engine, out.shape
        weights = self._sampled * self.dtype.itemsize
        held = self._shared_memory(widths) + weights <= engine.shared_memory  # else in global memory, and the caches
        kernel = cuda_sample.sampler(self.dtype, widths, held)
        extra = self.kept if condition is None else self._projected(condition)
        drawn, codes = engine.empty((batch, count), np.int64), engine.array(first[:, -1].astype(np.int64))
        failed = engine.array(np.full((batch, 2), -1))
        dilations = engine.array(np.array(network.dilations, np.int64))
        numbers = engine.array(cuda_sample.draws(seed, batch, self.time, count))
        kernel(
            batch, drawn, codes, self.kept, extra, self._rings, dilations, numbers, failed,
            batch, count, self.time, len(network.dilations), widths.classes, condition is not None, self._sampled,
            top_k, temperature, top_p, shared=weights if held else 0,
        )  # fmt: skip
        out[...] = drawn.to_host()
        failed = failed.to_host()
        if failed.max() >= 0:
            stream, step = failed[failed[:, 1] >= 0][0]
            raise DivergedError(f"generate: the logits of stream {stream} are not finite at step {step}")
        self.time += count

    def _shared_memory(self, widths):
        """Bytes that the persistent kernel needs of it, the weights not counted."""
        needed = cuda_sample.shared_bytes(self.dtype, widths, threads_or(cuda_sample.THREADS))
        if needed > self.engine.shared_memory:
            raise OutOfMemoryError(
                f"generate: a stream of {widths.classes} classes and these channels needs {needed:,} bytes of shared "
                f"memory, {self.engine.name} has {self.engine.shared_memory:,} for a block of threads"
            )
        return needed

    def _projected(self, condition):
        """What a global condition adds to the blocks' convolutions, (blocks, B, W)."""
        layers = self.network.layers
        extra = self.engine.empty((len(layers), self.batch, layers[0].wide), self.dtype)
        for i, layer in enumerate(layers):
            weight, bias = (self.params.get(f"{layer.name}.condition.{part}") for part in ("weight", "bias"))
            project_condition(extra[i], condition, weight, bias)
        return extra


def init_state(params, batch, *, network, threads, storage_kind):
    """Backend of the contract; ``storage_kind`` is None."""
    del threads, storage_kind
    return Stream(params, batch, network)
