"""CUDA: block by block over the whole window, of the same tiled products as the single ops, one after the other.

Kept from forward to backward are each block's input, tanh and sigmoid (with ``recompute`` only its input; all in
float16 with ``half_activations``). The gradient of the gates, of the residual stream and of the skip sum each have one
array for all blocks. Logits exist for a chunk of rows at a time, and turn into their gradient in place. Nothing waits
for the device until the loss is copied.

A stream keeps each block's latest input rows in a ring: row t of the stream is at ``t % past``.
"""

import contextlib
import copy

import numpy as np

from wavedil.errors import DivergedError, OutOfMemoryError
from wavedil.kernels.cuda import elementwise, products
from wavedil.kernels.cuda.engine import device_array, scratch, stage
from wavedil.kernels.cuda.launch import threads_or
from wavedil.kernels.cuda.rows import remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import sum_values
from wavedil.kernels.workspace import Workspace
from wavedil.ops import gated_block
from wavedil.ops.cross_entropy.cuda import CHUNK, rows_loss
from wavedil.ops.embedding import cuda as embedding
from wavedil.ops.gated_block.cuda import conv_gradients, gates, gates_back, input_gradient, mix, project
from wavedil.ops.gated_stack import cuda_sample

BLOCK = ("conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias")


class _Sizes:
    """The shapes of a stack."""

    def __init__(self, params, dilations, half_activations=False):
        self.classes, self.channels = params["input.embedding"].shape
        self.taps, _, self.wide = params["blocks.0.conv.weight"].shape
        self.half = self.wide // 2
        self.skips = params["blocks.0.skip.weight"].shape[1]
        self.end = params["head.0.weight"].shape[1] if "head.0.weight" in params else 0  # else the trunk alone
        self.dtype, self.engine = params["input.embedding"].dtype, params["input.embedding"].engine
        self.kept_dtype = np.dtype("float16") if half_activations else self.dtype
        self.dilations, self.blocks = tuple(dilations), len(dilations)

    def past(self, block):
        """Rows that a block looks back."""
        return (self.taps - 1) * self.dilations[block]

    def training_bytes(self, batch, time, recompute, head=True):
        """Bytes of the large arrays of a training step, or of the blocks' part of it."""
        rows, kept = batch * time, self.blocks * self.channels + self.wide * (1 if recompute else self.blocks)
        passing = rows * (self.wide + self.channels + 2 * self.skips)
        if head:
            passing += rows * 2 * self.end + min(CHUNK, rows) * self.classes
        return self.kept_dtype.itemsize * rows * kept + self.dtype.itemsize * passing + 8 * rows


def _block(params, i):
    """A block's parameters, by what `gates` and `mix` call them."""
    return [params.get(f"blocks.{i}.{name}") for name in (*BLOCK, "condition.weight")]


def loss_and_grads(
    params, codes, weights, into, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: returns the loss and the gradient of the condition."""
    into = {name: device_array(into[name]) for name in params if name in needs}
    sizes = _Sizes(params, dilations, half_activations)
    workspace = workspace or Workspace()
    with _room_for("loss_and_grads", sizes, weights.shape, recompute, workspace):
        return _train(sizes, params, codes, weights, into, condition, workspace, recompute, "condition" in needs)


@contextlib.contextmanager
def _room_for(where, sizes, shape, recompute, workspace):
    """Where memory does not suffice, say what would."""
    try:
        yield
    except OutOfMemoryError as error:
        (batch, time), room = shape, sizes.engine.memory()[0] + workspace.nbytes

        def needed(batch):
            return sizes.training_bytes(batch, time, recompute, head=where == "loss_and_grads")

        fits = next((b for b in range(batch - 1, 0, -1) if needed(b) <= room), 0)
        advice = f"a batch of {fits} would fit" if fits else "not even a batch of 1 fits: take shorter windows"
        less = [] if recompute else ["recompute=True"]
        less += ["half_activations=True"] if sizes.kept_dtype == np.float32 else []
        advice += f"; less is needed with {' or '.join(less)}" if less else ""
        raise OutOfMemoryError(
            f"gated_stack.{where}: a batch of {batch} x {time} needs a workspace of {needed(batch):,} bytes on "
            f"{sizes.engine.name}, which has {room:,} to spare; {advice}"
        ) from error


def _train(sizes, params, codes, weights, into, condition, workspace, recompute, needs_condition):
    """``into`` has only what is needed."""
    engine, make = sizes.engine, scratch(workspace, sizes.engine)
    codes = codes.to_host() if hasattr(codes, "to_host") else codes
    inputs, targets = (
        stage(workspace, engine, name, np.ascontiguousarray(part, np.int64))
        for name, part in (("inputs", codes[:, :-1]), ("targets", codes[:, 1:]))
    )
    shares = stage(workspace, engine, "weights", weights)
    scale = 1 / weights.sum(dtype=np.float64)
    skip, dskip = (make(name, (*weights.shape, sizes.skips), sizes.dtype) for name in ("skip", "dskip"))
    kept = _trunk(sizes, params, inputs, condition, make, skip, recompute)
    loss = _head(sizes, params, into, make, skip, dskip, targets, shares, scale)
    dcondition = _trunk_back(kept, into, dskip, needs_condition)
    return float(loss.to_host()[0] * scale), dcondition


class _Kept:
    """What backward needs of the blocks."""

    def __init__(self, sizes, params, inputs, condition, make, recompute, keeps=True):
        self.sizes, self.params, self.inputs, self.condition = sizes, params, inputs, condition
        self.make, self.recompute, self.keeps, self.fresh = make, recompute, keeps, True
        rows = inputs.shape
        self.h = make("h", (sizes.blocks if keeps else 2, *rows, sizes.channels), sizes.kept_dtype)
        gate = (sizes.blocks if keeps and not recompute else 1, *rows, sizes.half)
        self.tanh, self.sigmoid = (make(name, gate, sizes.kept_dtype) for name in ("tanh", "sigmoid"))

    def block(self, i):
        """A block's input, tanh and sigmoid."""
        gate = i % len(self.tanh)
        return self.h[i % len(self.h)], self.tanh[gate], self.sigmoid[gate]

    def gates(self, i):
        """tanh =, sigmoid ="""
        conv, conv_bias, *_, by_condition = _block(self.params, i)
        dilation, past = self.sizes.dilations[i], self.sizes.past(i)
        x, t, s = self.block(i)
        gates(self.make, t, s, x, conv, conv_bias, self.condition, by_condition, -past, dilation)


def _trunk(sizes, params, inputs, condition, make, skip, recompute, keeps=True):
    """skip = the sum of the blocks' skip outputs; returns what backward needs."""
    kept = _Kept(sizes, params, inputs, condition, make, recompute, keeps)
    embedding_forward(kept.h[0], inputs, params["input.embedding"])
    for i in range(sizes.blocks):
        _, _, residual, residual_bias, out, out_bias, _ = _block(params, i)
        kept.gates(i)
        x, t, s = kept.block(i)
        if i < sizes.blocks - 1:
            mix(kept.block(i + 1)[0], x, t, s, residual, residual_bias)
        mix(skip, skip if i else None, t, s, out, out_bias)
    return kept


def _trunk_back(kept, into, dskip, needs_condition):
    """The gradients of the blocks and the embedding +=; returns that of the condition."""
    sizes, make, condition = kept.sizes, kept.make, kept.condition
    rows, last = kept.inputs.shape, sizes.blocks - 1
    dpre, dh = make("dpre", (*rows, sizes.wide), sizes.dtype), make("dh", (*rows, sizes.channels), sizes.dtype)
    dcondition = sizes.engine.zeros(condition.shape, sizes.dtype) if needs_condition else None
    dcondition_of_block = make("dcondition", condition.shape, sizes.dtype) if needs_condition else None
    table = into.get("input.embedding")
    lowest = 0 if needs_condition or table is not None else _lowest(into, sizes.blocks)
    for i in reversed(range(lowest, sizes.blocks)):
        if kept.recompute and i < last:  # those of the last block are still there
            kept.gates(i)
        conv, _, residual, _, out, _, by_condition = _block(kept.params, i)
        (x, t, s), dilation = kept.block(i), sizes.dilations[i]
        dh_out = dh if i < last else None  # the last block's residual reaches no output
        gates_back(dpre, dh_out, dskip, t, s, residual, out)
        d_conv, d_conv_bias, d_residual, d_residual_bias, d_out, d_out_bias, d_by_condition = _block(into, i)
        saved = gated_block.Saved(x, t, s, conv, residual, out, condition, by_condition, (True,) * 3, dilation)
        grads = gated_block.Grads(
            None, d_conv, d_conv_bias, d_residual, d_residual_bias, d_out, d_out_bias, dcondition_of_block,
            d_by_condition,
        )  # fmt: skip
        conv_gradients(make, grads, x, dpre, -sizes.past(i), dilation, saved)
        if needs_condition:
            elementwise.add(dcondition, dcondition_of_block)
        products.columns(make, d_out, d_out_bias, t, dskip, a2=s, left="product")
        if dh_out is not None:
            products.columns(make, d_residual, d_residual_bias, t, dh, a2=s, left="product")
        if i > lowest or table is not None:
            input_gradient(dh, dpre, dh_out, conv, dilation)
    flat = dh.reshape(1, -1, sizes.channels)
    products.columns(make, table, None, None, flat, codes=kept.inputs, inputs=sizes.classes, left="one_hot")
    return dcondition


def forward(
    params, codes, out, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs."""
    sizes, workspace = _Sizes(params, dilations, half_activations), workspace or Workspace()
    plain = scratch(workspace, sizes.engine)

    def make(name, shape, dtype):
        return plain(("trunk", name), shape, dtype)  # apart from what loss_and_grads uses

    codes = codes.to_host() if hasattr(codes, "to_host") else codes
    key = (sizes.engine.name, "trunk")
    if (before := workspace.held(key)) is not None:
        before.fresh = False  # its arrays are overwritten
    with _room_for("forward", sizes, codes.shape, recompute, workspace) if needs else contextlib.nullcontext():
        inputs = stage(workspace, sizes.engine, "trunk inputs", np.ascontiguousarray(codes, np.int64))
        kept = _trunk(sizes, params, inputs, condition, make, out, recompute, bool(needs))
    return workspace.hold(key, kept)


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition. All others are +=."""
    kept.fresh = False
    into = {name: device_array(into[name]) for name in kept.params if name in needs}
    return _trunk_back(kept, into, dskips, "condition" in needs) if needs else None


def _lowest(into, blocks):
    """The first block that has a gradient to fill; ``blocks`` if none has."""
    return min((int(name.split(".")[1]) for name in into if name.startswith("blocks.")), default=blocks)


def embedding_forward(h, codes, table):
    """h = the rows of the codes"""
    embedding.forward(h, codes, table, workspace=None, threads=None)


def _head(sizes, params, into, make, skip, dskip, targets, shares, scale):
    """The loss times the sum of the weights, (1,); dskip =, and the gradients of the head +=."""
    dtype, rows = sizes.dtype, targets.size
    weight0, bias0, weight1, bias1 = (params[f"head.{i}.{n}"] for i in range(2) for n in ("weight", "bias"))
    d_weight0, d_bias0, d_weight1, d_bias1 = (into.get(f"head.{i}.{n}") for i in range(2) for n in ("weight", "bias"))
    skip, dskip = skip.reshape(1, rows, -1), dskip.reshape(1, rows, -1)
    end, dend = (make(name, (1, rows, sizes.end), dtype) for name in ("end", "dend"))
    nats, loss = make("nats", (rows,), np.float64), make("loss", (1,), np.float64)
    held = make("logits", (min(CHUNK, rows), sizes.classes), dtype)
    products.rows(end, skip, weight0, bias=bias0, left="relu")
    for first in range(0, rows, CHUNK):
        last = min(first + CHUNK, rows)
        logits = held[: last - first].reshape(1, last - first, -1)
        some, dsome = (array[0][first:last].reshape(1, last - first, -1) for array in (end, dend))
        products.rows(logits, some, weight1, bias=bias1, left="relu")
        rows_loss(nats.part(first, last), logits, targets, shares, first, scale, gradient=True)
        products.columns(make, d_weight1, d_bias1, some, logits, left="relu")
        products.rows(dsome, logits, weight1, other=some, end="relu_back", transposed=True)
    sum_values(loss, nats)
    products.columns(make, d_weight0, d_bias0, skip, dend, left="relu")
    products.rows(dskip, dend, weight0, other=skip, end="relu_back", transposed=True)
    return loss


# ---- streams ---------------------------------------------------------------------------------------------------------
class Stream:
    """The state of streams through a stack, and the parameters as they were when it was made.

    Attributes
    ----------
    time : int
        Rows seen so far.
    """

    def __init__(self, params, batch, *, dilations, condition_channels):
        self.sizes = sizes = _Sizes(params, dilations)
        self.batch, self.condition_channels, self.time = batch, condition_channels, 0
        self.classes, self.dtype, self.skip_channels = sizes.classes, sizes.dtype, sizes.skips
        self._keep(params)
        self._cut(sizes.engine.zeros(max(1, sum(self._ring_sizes())), self.dtype))
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
        names = ["input.embedding"]
        names += [f"blocks.{i}.{name}" for i in range(self.sizes.blocks) for name in BLOCK]
        names += ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]
        self._sampled = sum(params[name].size for name in names)
        names += [name for name in params if name.endswith("condition.weight")]
        self.kept = self.sizes.engine.empty(sum(params[name].size for name in names), self.dtype)
        self.params, begin = {}, 0
        for name in names:
            end = begin + params[name].size
            self.params[name] = self.kept.part(begin, end).reshape(params[name].shape)
            self.params[name].set(params[name])
            begin = end

    def _ring_sizes(self):
        return [self.batch * self.sizes.past(i) * self.sizes.channels for i in range(self.sizes.blocks)]

    def _cut(self, rings):
        self._rings, self.rings, begin = rings, [], 0
        for i, size in enumerate(self._ring_sizes()):
            shape = (self.batch, self.sizes.past(i), self.sizes.channels)
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
        """Each block's past input rows, a list of (batch, rows, R) NumPy arrays: all that the future depends on."""
        empty = np.zeros((self.batch, 0, self.sizes.channels), self.dtype)
        return [
            empty if ring is None else np.roll(ring.to_host(), -(self.time % ring.shape[1]), axis=1)
            for ring in self.rings
        ]

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.time = time
        for ring, part in zip(self.rings, rows, strict=True):
            if ring is not None:
                ring.set(np.roll(np.asarray(part, self.dtype), time % ring.shape[1], axis=1))

    def _advance(self, codes, condition):
        """The skip sum of some more codes, (B, n, S)."""
        sizes, params, make = self.sizes, self.params, scratch(self._workspace, self.sizes.engine)
        rows = (self.batch, codes.shape[1])
        held = stage(self._workspace, sizes.engine, "codes", np.ascontiguousarray(codes, np.int64))
        h, h_next = (make(name, (*rows, sizes.channels), self.dtype) for name in ("h", "h_next"))
        tanh, sigmoid = (make(name, (*rows, sizes.half), self.dtype) for name in ("tanh", "sigmoid"))
        skip = make("skip", (*rows, sizes.skips), self.dtype)
        embedding_forward(h, held, params["input.embedding"])
        for i, (dilation, ring) in enumerate(zip(sizes.dilations, self.rings, strict=True)):
            conv, conv_bias, residual, residual_bias, out, out_bias, by_condition = _block(params, i)
            seen = h
            if ring is not None:
                past = ring.shape[1]
                seen = make(("seen", past), (rows[0], past + rows[1], sizes.channels), self.dtype)
                unroll(seen, ring, h, self.time % past)
                remember(ring, h, self.time % past)
            gates(make, tanh, sigmoid, seen, conv, conv_bias, condition, by_condition, 0, dilation)
            if i < sizes.blocks - 1:
                mix(h_next, h, tanh, sigmoid, residual, residual_bias)
            mix(skip, skip if i else None, tanh, sigmoid, out, out_bias)
            h, h_next = h_next, h
        self.time += rows[1]
        return skip

    def _logits(self, logits, skip):
        """logits (1, rows, Q) = the head of the skip sum"""
        sizes, p = self.sizes, self.params
        skip = skip.reshape(1, -1, sizes.skips)
        end = scratch(self._workspace, sizes.engine)("end", (1, skip.shape[1], sizes.end), self.dtype)
        products.rows(end, skip, p["head.0.weight"], bias=p["head.0.bias"], left="relu")
        products.rows(logits, end, p["head.1.weight"], bias=p["head.1.bias"], left="relu")

    def step(self, codes, condition, out, head=True):
        """Fill the logits that follow each of some codes, (batch, n), or without the head their skip sums."""
        codes = codes.to_host() if hasattr(codes, "to_host") else codes
        skip = self._advance(codes, condition)
        if head:
            self._logits(out.reshape(1, -1, self.classes), skip)
        else:
            out.set(skip)

    def loss(self, codes, weights, condition):
        """Sum over the streams of weight * nats of codes[:, 1:]."""
        make, engine = scratch(self._workspace, self.sizes.engine), self.sizes.engine
        time, span = weights.shape[1], max(1, CHUNK // self.batch)
        spans = [(begin, min(begin + span, time)) for begin in range(0, time, span)]
        sums = engine.zeros(len(spans), np.float64)
        for i, (begin, end) in enumerate(spans):
            local = condition
            if condition is not None and condition.ndim == 3:
                local = engine.array(condition.to_host()[:, begin:end])
            rows = self.batch * (end - begin)
            logits = make("logits", (1, rows, self.classes), self.dtype)
            self._logits(logits, self._advance(codes[:, begin:end], local))
            targets = stage(self._workspace, engine, "targets", codes[:, begin + 1 : end + 1].astype(np.int64))
            shares = stage(self._workspace, engine, "weights", np.ascontiguousarray(weights[:, begin:end]))
            nats = make("nats", (rows,), np.float64)
            rows_loss(nats, logits, targets, shares, 0, 0.0)
            sum_values(sums.part(i, i + 1), nats)
        return float(sums.to_host().sum())

    def sample(self, first, out, condition, options):
        """Fill ``out (batch, n)`` with draws that follow ``first (batch,)`` and each other."""
        seed, temperature, top_k, top_p = options
        sizes, engine, (batch, count) = self.sizes, self.sizes.engine, out.shape
        widths = cuda_sample.Widths(sizes.taps, sizes.channels, sizes.half, sizes.skips, sizes.end, sizes.classes)
        needed = cuda_sample.shared_bytes(self.dtype, widths, threads_or(cuda_sample.THREADS))
        weights = self._sampled * self.dtype.itemsize
        if needed > engine.shared_memory:
            raise OutOfMemoryError(
                f"generate: a stream of {sizes.classes} classes and these channels needs {needed:,} bytes of shared "
                f"memory, {engine.name} has {engine.shared_memory:,} for a block of threads"
            )
        held = needed + weights <= engine.shared_memory  # otherwise they stay in global memory, and in the caches
        kernel = cuda_sample.sampler(self.dtype, widths, held)
        extra = self.kept
        if condition is not None:
            extra = engine.empty((sizes.blocks, batch, sizes.wide), self.dtype)
            for i in range(sizes.blocks):
                project(extra[i], condition, self.params[f"blocks.{i}.condition.weight"], None)
        drawn, codes = engine.empty((batch, count), np.int64), engine.array(np.asarray(first, np.int64))
        failed = engine.array(np.full((batch, 2), -1))
        dilations = engine.array(np.array(sizes.dilations, np.int64))
        numbers = engine.array(cuda_sample.draws(seed, batch, self.time, count))
        kernel(
            batch, drawn, codes, self.kept, extra, self._rings, dilations, numbers, failed,
            batch, count, self.time, sizes.blocks, sizes.classes, condition is not None, self._sampled,
            top_k, temperature, top_p, shared=weights if held else 0,
        )  # fmt: skip
        out[...] = drawn.to_host()
        failed = failed.to_host()
        if failed.max() >= 0:
            stream, step = failed[failed[:, 1] >= 0][0]
            raise DivergedError(f"generate: the logits of stream {stream} are not finite at step {step}")
        self.time += count


def init_state(params, batch, *, dilations, condition_channels, threads, weights):
    """Backend of the contract; ``weights`` is None."""
    del threads, weights
    return Stream(params, batch, dilations=dilations, condition_channels=condition_channels)


def loss(params, codes, weights, *, dilations, condition, threads):
    """Backend of the contract: forward only, a span of time after the other."""
    channels = 0 if condition is None else condition.shape[-1]
    stream = Stream(params, len(codes), dilations=dilations, condition_channels=channels)
    codes = codes.to_host() if hasattr(codes, "to_host") else codes
    return stream.loss(codes, weights, condition) / weights.sum(dtype=np.float64)


def kernels(dtype):
    """All kernels that this family launches."""
    from wavedil.ops.cross_entropy import cuda as cross_entropy

    dtype = np.dtype(dtype)
    halves = (*products.half_kernels(), embedding.half_kernel()) if dtype == np.float32 else ()
    return (
        *products.kernels(dtype), *row_kernels(dtype), *embedding.kernels(dtype),
        *cross_entropy.kernels(dtype), *cuda_sample.kernels(dtype), *halves,
    )  # fmt: skip
