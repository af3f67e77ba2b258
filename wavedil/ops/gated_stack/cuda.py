"""CUDA: layer by layer over the whole window, of the same tiled products as the single ops, one after the other.

Kept from forward to backward are each layer's input, and of each block tanh and sigmoid, or its pre-activation (with
``recompute`` only the input; with ``half_activations`` what blocks pass on, tanh and sigmoid in float16). The gradient
of what a convolution leaves, of the residual stream and of the skip sum each have one array for all blocks of a width.
Outputs exist for a chunk of rows at a time, and turn into their gradient in place. Nothing waits for the device until
the loss is copied.
"""

import contextlib

import numpy as np

from wavedil.errors import OutOfMemoryError
from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import device_array, scratch
from wavedil.kernels.cuda.rows import row_kernels
from wavedil.kernels.workspace import Workspace
from wavedil.ops.activation import cuda as activation
from wavedil.ops.cross_entropy import cuda as cross_entropy
from wavedil.ops.embedding import cuda as embedding
from wavedil.ops.gated_stack import cuda_condition, cuda_heads, cuda_layers, cuda_sample
from wavedil.ops.gated_stack.cuda_stream import Stream, init_state, put_in
from wavedil.ops.gated_stack.network import BLOCK, FILTER, GATED, PROJECT

__all__ = ["backward", "forward", "init_state", "kernels", "loss", "loss_and_grads"]


# ---- memory ----------------------------------------------------------------------------------------------------------
def training_bytes(network, dtype, kept_dtype, batch, time, recompute):
    """Bytes of the large arrays of a training step; without a head, of the layers' part of it."""
    wide = kept = passed = 0  # numbers a row
    for stack in network.stacks:
        blocks, gated = len(stack.dilations), stack.activation == GATED
        saved = (2 if gated else 1) * stack.gate_channels * (1 if recompute else blocks)
        kept, wide = kept + blocks * stack.channels + gated * saved, wide + (not gated) * saved
        passed += (2 if gated else 3) * stack.gate_channels + stack.channels + 2 * stack.sum_channels
    passing = batch * time * (wide + passed)
    if network.head is not None and network.head.end_channels:
        passing += batch * time * 2 * network.head.end_channels
        passing += min(cuda_heads.CHUNK, batch * time) * network.head.outputs
    return kept_dtype.itemsize * batch * time * kept + dtype.itemsize * passing + 8 * batch * time


@contextlib.contextmanager
def _room_for(where, network, like, shape, recompute, half, workspace):
    """Where memory does not suffice, say what would."""
    kept_dtype, engine = _kept_dtype(like, half), like.engine
    try:
        yield
    except OutOfMemoryError as error:
        (batch, time), room = shape, engine.memory()[0] + workspace.nbytes

        def needed(batch):
            return training_bytes(network, like.dtype, kept_dtype, batch, time, recompute)

        fits = next((b for b in range(batch - 1, 0, -1) if needed(b) <= room), 0)
        advice = f"a batch of {fits} would fit" if fits else "not even a batch of 1 fits: take shorter windows"
        less = [] if recompute else ["recompute=True"]
        less += ["half_activations=True"] if kept_dtype == np.float32 else []
        advice += f"; less is needed with {' or '.join(less)}" if less else ""
        raise OutOfMemoryError(
            f"gated_stack.{where}: a batch of {batch} x {time} needs a workspace of {needed(batch):,} bytes on "
            f"{engine.name}, which has {room:,} to spare; {advice}"
        ) from error


def _kept_dtype(like, half):
    return np.dtype("float16") if half else like.dtype


# ---- the trunk -------------------------------------------------------------------------------------------------------
class Trunk:
    """The layers of a window on their way forward and backward, and what backward needs of them.

    Parameters
    ----------
    inputs : (B, T) or (B, T, C) array
        On the device.
    skip : (B, T, S) array
        What the last layer leaves goes there.
    keeps : bool
        False: there is no backward, and layers take turns with two arrays.
    """

    def __init__(self, params, inputs, network, condition, make, skip, *, recompute, half, keeps=True):
        self.params, self.inputs, self.network, self.make = params, inputs, network, make
        self.recompute, self.keeps, self.fresh = recompute, keeps, True
        self.rows, like = inputs.shape[:2], next(iter(params.values()))
        self.engine, self.dtype, self.kept_dtype = like.engine, like.dtype, _kept_dtype(like, half)
        self.told = cuda_condition.Told(make, params, network, condition, self.rows)
        self._lay_out(skip)

    def _lay_out(self, skip):
        """Each layer's input, what it keeps, where what it passes on goes, and whether that may be overwritten."""
        filters = [layer for layer in self.network.layers if layer.kind == FILTER]
        widths = [layer.inputs for layer in filters]  # of the skip sums before each of them
        self.skips = [self.make(("skip", i), (*self.rows, width), self.dtype) for i, width in enumerate(widths)]
        self.skips.append(skip)
        self.x, self.parts, self.shared = [], [], []
        stacks, level = iter(self.network.stacks), 0
        h = parts = ()
        for number, layer in enumerate(self.network.layers):
            if layer.kind == FILTER:
                x, own, level = self.skips[level], (), level + 1
            elif layer.kind == PROJECT and number == 0:
                x, own = self.inputs, ()
            else:
                if not h:
                    h, parts = self._arrays(next(stacks), number)
                x, own = h.pop(0), parts.pop(0) if layer.kind == BLOCK else ()
            self.x.append(x)
            self.parts.append(own)
            self.shared.append(self.recompute and layer.kind == BLOCK and len(parts) > 0)

    def _arrays(self, stack, number):
        """The inputs of a stack's blocks (and of the projection after them), and what each block keeps."""
        blocks, gated = len(stack.dilations), stack.activation == GATED
        count = blocks + any(layer.kind == PROJECT for layer in self.network.layers[number:])
        once = self.recompute or not self.keeps
        h = self.make(("h", number), (count if self.keeps else min(2, count), *self.rows, stack.channels),
                      self.kept_dtype)  # fmt: skip
        shape = (1 if once else blocks, *self.rows, stack.gate_channels)
        names, dtype = (("tanh", "sigmoid"), self.kept_dtype) if gated else (("pre",), self.dtype)
        kept = [self.make((name, number), shape, dtype) for name in names]
        return [h[i % len(h)] for i in range(count)], [tuple(a[i % len(a)] for a in kept) for i in range(blocks)]

    def _after(self, i):
        """Where what layer i passes on goes."""
        return next(self.x[j] for j in range(i + 1, len(self.x)) if self.network.layers[j].kind != FILTER)

    def forward(self):
        """Fill the skip sum; returns itself."""
        params, level = self.params, 0
        if not self.network.real:
            embedding.forward(self.x[0], self.inputs, params["input.embedding"], workspace=None, threads=None)
        for i, (layer, x, parts) in enumerate(zip(self.network.layers, self.x, self.parts, strict=True)):
            if layer.kind == PROJECT:
                cuda_layers.project(params, layer, self._after(i), x)
            elif layer.kind == FILTER:
                level += 1
                cuda_layers.filter_rows(params, layer, self.skips[level], x, -layer.past)
            else:
                self.told.convolve(layer, parts, x, -layer.past)
                z = cuda_layers.factors(self.make, layer, parts)
                if not layer.last:
                    cuda_layers.pass_on(params, layer, self._after(i), x, z)
                cuda_layers.add_skip(params, layer, self.skips[level], z)
        return self

    def backward(self, into, dskip, needs_condition):
        """The gradients of the layers and the embedding +=; returns that of the condition."""
        make, params, layers = self.make, self.params, self.network.layers
        dcondition = self.engine.zeros(self.told.condition.shape, self.dtype) if needs_condition else None
        table, dh = into.get("input.embedding"), None
        lowest = 0 if needs_condition or table is not None else _lowest(into, layers)
        for i in reversed(range(lowest, len(layers))):
            layer, x, pulls = layers[i], self.x[i], i > lowest or table is not None
            if layer.kind == PROJECT:
                dh = cuda_layers.project_back(make, params, into, layer, x, dh, pulls)
            elif layer.kind == FILTER:
                dskip = cuda_layers.filter_back(make, params, into, layer, x, dskip, pulls)
            else:
                if self.shared[i]:  # a later block's lie there now
                    self.told.convolve(layer, self.parts[i], x, -layer.past)
                dh = cuda_layers.block_back(
                    self.told, into, layer, x, self.parts[i], dh, dskip, dcondition, pulls
                )  # fmt: skip
        if table is not None:
            flat, classes = dh.reshape(1, -1, dh.shape[2]), self.network.input.classes
            products.columns(make, table, None, None, flat, codes=self.inputs, inputs=classes, left="one_hot")
        return dcondition


def _lowest(into, layers):
    """The first layer that has a gradient to fill; the number of layers if none has."""
    return next((i for i, layer in enumerate(layers) if not into.keys().isdisjoint(layer.shapes())), len(layers))


# ---- backend of the contract -----------------------------------------------------------------------------------------
def loss_and_grads(
    params, inputs, targets, weights, into, *, network, condition, workspace, threads, recompute, needs,
    half_activations,
):  # fmt: skip
    """Backend of the contract: returns the loss and the gradient of the condition."""
    into = {name: device_array(into[name]) for name in params if name in needs}
    workspace, like = workspace or Workspace(), next(iter(params.values()))
    engine, dtype, make = like.engine, like.dtype, scratch(workspace, like.engine)
    with _room_for("loss_and_grads", network, like, weights.shape, recompute, half_activations, workspace):
        inputs, targets, shares = (
            put_in(workspace, engine, name, part, dtype)
            for name, part in (("inputs", inputs), ("targets", targets), ("weights", weights))
        )
        scale = 1 / weights.sum(dtype=np.float64)
        skip = make("skip", (*weights.shape, network.feature_channels), dtype)
        trunk = Trunk(
            params, inputs, network, condition, make, skip, recompute=recompute, half=half_activations
        ).forward()  # fmt: skip
        loss, dskip = cuda_heads.train(make, params, into, network, skip, targets, shares, scale)
        dcondition = trunk.backward(into, dskip, "condition" in needs)
    return float(loss.to_host()[0] * scale), dcondition


def forward(
    params, inputs, out, *, network, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs."""
    workspace, like, keeps = workspace or Workspace(), next(iter(params.values())), bool(needs)
    plain = scratch(workspace, like.engine)

    def make(name, shape, dtype):
        return plain(("trunk", name), shape, dtype)  # apart from what loss_and_grads uses

    key, shape = (like.engine.name, "trunk"), inputs.shape[:2]
    if (before := workspace.held(key)) is not None:
        before.fresh = False  # its arrays are overwritten
    room = _room_for("forward", network, like, shape, recompute, half_activations, workspace)
    with room if keeps else contextlib.nullcontext():
        inputs = put_in(workspace, like.engine, "trunk inputs", inputs, like.dtype)
        trunk = Trunk(
            params, inputs, network, condition, make, out, recompute=recompute, half=half_activations, keeps=keeps
        ).forward()  # fmt: skip
    return workspace.hold(key, trunk)


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition. All others are +=."""
    kept.fresh = False
    into = {name: device_array(into[name]) for name in kept.params if name in needs}
    return kept.backward(into, dskips, "condition" in needs) if needs else None


def loss(params, inputs, targets, weights, *, network, condition, threads):
    """Backend of the contract: forward only, a span of time after the other."""
    stream = Stream(params, len(weights), network)
    return stream.loss(inputs, targets, weights, condition) / weights.sum(dtype=np.float64)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype = np.dtype(dtype)
    halves = (*products.half_kernels(), embedding.half_kernel()) if dtype == np.float32 else ()
    parts = (row_kernels, embedding.kernels, cross_entropy.kernels, activation.kernels, cuda_condition.kernels,
             cuda_layers.kernels, cuda_heads.kernels, cuda_sample.kernels)  # fmt: skip
    return (*products.kernels(dtype), *(kernel for part in parts for kernel in part(dtype)), *halves)
