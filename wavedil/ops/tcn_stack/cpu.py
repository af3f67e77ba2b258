"""All blocks, the head and the loss on the CPU: item by item, forward and backward while the rows are in the cache.

An item runs chunk by chunk (``CHUNK`` time rows) through all blocks, and back in reverse. Per block:

========  ==================================================================  ====================
forward   a = relu(bias + sum_k X[t - (K-1-k) d] W0_k), dropout               row product
          z = relu(bias + sum_k a[t - (K-1-k) d] W1_k), dropout               row product
          X' = relu(z + shortcut(X))                                          one pass
backward  dh where X' > 0;  dz = dh where z > 0, in place of z                one pass
          dW1_k += a[t - (K-1-k) d]^T dz                                      column product
          da = sum_k dz[t + (K-1-k) d] W1_k^T where a > 0, in place of a      row product
          dW0_k += X[t - (K-1-k) d]^T da                                      column product
          dh += sum_k da[t + (K-1-k) d] W0_k^T                                row product
========  ==================================================================  ====================

The input gradients *pull* from later rows, which the reverse order has finished. Taps that see only the padding before
the first row, or rows beyond the last one, are left out: at 8 levels and 600 rows an eighth of all. If only the last
row counts, block i holds the rows that are left, ``stride[i]`` apart, without gaps; there is one chunk, and it goes
block by block.

Items are dealt out to at most `GROUPS` tasks, by the batch's size alone. A task has its own buffers, which the next
item uses again, and its own gradients, which are added in order: the bits do not depend on the number of threads.
"""

import copy
import math

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.panels import panels_of, whole_tiles
from wavedil.kernels.workspace import Workspace, aligned_zeros
from wavedil.ops.tcn_stack.cpu_kernels import (
    BIAS0,
    BIAS1,
    BINARY,
    CHUNK,
    CONV0,
    CONV0_T,
    CONV1,
    CONV1_T,
    CROSS_ENTROPY,
    HUBER,
    MAE,
    MSE,
    PARTS,
    SHORTCUT,
    SHORTCUT_BIAS,
    SHORTCUT_T,
    TILE,
    A,
    B,
    Drop,
    Grads,
    Item,
    Loss,
    Net,
    X,
    predict_items,
    train_items,
)
from wavedil.ops.tcn_stack.cpu_stream_kernels import stream_rows

GROUPS = 16  # tasks: as many partial gradients
KINDS = {"cross_entropy": CROSS_ENTROPY, "binary": BINARY, "mse": MSE, "mae": MAE, "huber": HUBER}
# Part, name within a block, whether it is transposed.
MATRICES = (
    (CONV0, "conv.0.weight", False), (CONV1, "conv.1.weight", False), (SHORTCUT, "shortcut.weight", False),
    (CONV0_T, "conv.0.weight", True), (CONV1_T, "conv.1.weight", True), (SHORTCUT_T, "shortcut.weight", True),
)  # fmt: skip
BIASES = ((BIAS0, "conv.0.bias"), (BIAS1, "conv.1.bias"), (SHORTCUT_BIAS, "shortcut.bias"))
NO_DROP = (0, 0, 0, 1.0, False)


class Stack:
    """The shapes of a network, its packed parameters, and the buffers of a task."""

    def __init__(self, params, dilations, workspace):
        self.params, self.workspace = params, workspace
        self.dtype = params["head.weight"].dtype
        self.width = width(self.dtype)
        self.blocks = len(dilations)
        self.kernel, inputs, _ = params["blocks.0.conv.0.weight"].shape
        self.channels = [inputs, *(params[f"blocks.{i}.conv.1.weight"].shape[2] for i in range(self.blocks))]
        self.outputs = len(params["head.bias"])
        self.classes = len(params["input.embedding"]) if "input.embedding" in params else 0
        self.panels = np.array([panels_of(n, self.dtype) for n in self.channels])
        self.Q = panels_of(self.outputs, self.dtype)
        self.dilations = np.array(dilations, np.int64)
        # What only fills panels up stays zero only in arrays of a network of the very same sizes.
        self.key = (self.dtype.str, tuple(dilations), self.kernel, *self.channels, self.outputs, self.classes)

    def array(self, name, *shape, dtype=None):
        return self.workspace.array((self.key, name), shape, dtype or self.dtype)

    def places(self, n):
        """Index map of so many channels."""
        return layout.plain_map(n, self.dtype)

    def begins(self):
        """Where each part begins, in parameters and gradients alike: of the blocks (PARTS, L), of the rest, the end."""
        w, at, end = self.width, np.full((PARTS, self.blocks), -1, np.int64), 0
        for transposed in (False, True):  # the transposed ones come last: gradients have none
            for part, name, flag in MATRICES:
                for i in range(self.blocks if flag == transposed else 0):
                    if f"blocks.{i}.{name}" in self.params:
                        taps = self.kernel if name.startswith("conv") else 1
                        before = self.panels[i + 1 if name == "conv.1.weight" else i]
                        at[part, i], end = end, end + taps * before * self.panels[i + 1] * w * w
            if transposed:
                continue
            for part, name in BIASES:
                for i in range(self.blocks):
                    if f"blocks.{i}.{name}" in self.params:
                        at[part, i], end = end, end + self.panels[i + 1] * w
            shared, top = {}, self.panels[-1]
            for name, size in (
                ("head", self.Q * top * w * w), ("head_bias", self.Q * w),
                ("embedding", self.panels[0] * self.classes * w),
            ):  # fmt: skip
                shared[name], end = end, end + size
            gradients = end
        for name, size in (("head_t", self.Q * top * w * w), ("zero", w)):
            shared[name], end = end, end + size
        return at, shared, gradients, end

    def matrices(self, at, shared, transposed):
        """(parameter, where it is packed, taps, channels in, channels out, whether transposed) of each weight."""
        for part, name, flag in MATRICES:
            for i in range(self.blocks):
                if at[part, i] >= 0 and flag in (False, transposed):
                    before = self.channels[i + 1 if name == "conv.1.weight" else i]
                    taps = self.kernel if name.startswith("conv") else 1
                    yield f"blocks.{i}.{name}", at[part, i], taps, before, self.channels[i + 1], flag
        top = self.channels[-1]
        yield "head.weight", shared["head"], 1, top, self.outputs, False
        if transposed:
            yield "head.weight", shared["head_t"], 1, top, self.outputs, True
        if self.classes:
            yield "input.embedding", shared["embedding"], 1, self.classes, self.channels[0], False

    def rows_map(self, name, n):
        """Places of a matrix's rows: the embedding has one a code, the others fill whole panels."""
        return np.arange(n) if name == "input.embedding" else self.places(n)

    def net(self, plan, last, scale, train, softmax):
        """The packed parameters; ``scale``: what dropout scales with, which the way back needs a second time."""
        at, shared, _, end = self.begins()
        weights = self.array(f"weights.{train}", end)
        for name, begin, taps, before, after, flag in self.matrices(at, shared, train):
            value = self.params[name].reshape(taps, before, after)
            if flag and name.endswith("conv.1.weight") and scale != 1:
                value = value * self.dtype.type(scale)
            view = value.transpose(0, 2, 1) if flag else value
            rows, columns = self.rows_map(name, view.shape[1]), self.places(view.shape[2])
            size = taps * len(rows) * len(columns)
            target = weights[begin : begin + size].reshape(-1, taps * len(rows), self.width)
            layout.pack_weight(value, view, rows, columns, target)
        for part, name in BIASES:
            for i in range(self.blocks):
                if at[part, i] >= 0:
                    value = self.params[f"blocks.{i}.{name}"]
                    weights[at[part, i] : at[part, i] + len(value)] = value
        begin = shared["head_bias"]
        weights[begin : begin + self.outputs] = self.params["head.bias"]
        if softmax:
            weights[begin + self.outputs : begin + self.Q * self.width] = -1e30  # no classes: probability zero
        else:
            weights[begin + self.outputs : begin + self.Q * self.width] = 0
        return Net(self.kernel, plan["dilations"], self.panels, plan["rows"], plan["offset"], plan["stride"],
                   plan["first"], plan["step"], at, weights, Q=self.Q, outputs=self.outputs, classes=self.classes,
                   inputs=self.channels[0], channels=np.array(self.channels), last=last, **shared)  # fmt: skip

    def plan(self, rows, last):
        """Which rows of time each block has, as arrays; see `Net`."""
        L = self.blocks
        stride = [1] * (L + 1)
        if last:  # block i's input counts on the rows that the dilations from i on reach back to
            reach = 0
            for i in reversed(range(L)):
                reach = math.gcd(reach, int(self.dilations[i]))
                stride[i] = reach
            stride[L] = 2 * rows  # one row is left
        stride = np.array(stride, np.int64)
        offset = (rows - 1) % stride
        if last:
            offset[L] = rows - 1
        counts = (rows - 1 - offset) // stride + 1
        step = np.maximum(stride[1:] // stride[:-1], 1)
        if last:
            step[-1] = 1 if counts[L - 1] == 1 else 2
        first = (counts[:-1] - 1) - step * (counts[1:] - 1)
        return dict(rows=counts, offset=offset, stride=stride, first=first, step=step,
                    dilations=self.dilations // stride[:-1])  # fmt: skip

    def item(self, name, plan, rows, last):
        """Buffers of a task for sequences of so many rows."""
        w, L, past = self.width, self.blocks, (self.kernel - 1) * plan["dilations"]
        own = np.array([whole_tiles(n) for n in plan["rows"]])
        reach = plan["rows"][:-1] + plan["step"] * TILE  # rows that a tile of the rows that are left looks at
        height = np.zeros((3, L + 1), np.int64)
        height[X, :L] = past + np.maximum(own[:-1], reach)
        height[X, L] = own[L]
        height[A, :L] = past + np.maximum(own[:-1] + past, reach)
        height[B, :L] = own[1:] + past  # later rows have no gradient
        widest = self.panels.max()
        tall = int(max(np.max(reach), own.max())) if last else CHUNK
        stuffed = int((own[:-1] + past).max()) if last else 0
        begin, end = self.lay_out(height)
        scratch = {}
        for kind, size in (
            ("logits", self.Q * CHUNK), ("dtop", self.panels[L] * height[X, L]), ("d0", widest * tall),
            ("d1", widest * tall), ("stuffed", widest * stuffed),
        ):  # fmt: skip
            scratch[kind], end = end, end + int(size) * w
        data = self.array((name, rows, last), end)
        return Item(data, begin, height, np.append(past, 0), tall=tall, **scratch)

    def lay_out(self, height):
        """Where matrices of these heights begin, and the end."""
        begin, end = np.zeros_like(height), 0
        for kind, panels in ((X, self.panels), (A, self.panels[1:]), (B, self.panels[1:])):
            for i, count in enumerate(panels):
                begin[kind, i], end = end, end + int(count * height[kind, i]) * self.width
        return begin, end


def _pair(values, shape, dtype):
    """(codes, numbers): the values, and something of the other type that nobody reads."""
    if values.dtype.kind in "iu":
        return np.ascontiguousarray(values, np.int64), np.zeros((*shape, 0, 0), dtype)
    return np.zeros((*shape, 0), np.int64), layout.writeable_view(values)


def loss_and_grads(
    params, x, targets, shares, into, *, dilations, loss, last, delta, dropout, needs, workspace, threads
):
    """Backend of the contract: the loss; into +=, unless it is None."""
    threads = pool.check_threads(threads)
    stack = Stack(params, dilations, workspace or Workspace())
    batch, rows = x.shape[:2]
    train = into is not None
    settings = NO_DROP
    if train and dropout is not None:
        threshold = int(dropout.rate * 2**32)
        settings = (dropout.seed, dropout.step, threshold, 1 / (1 - threshold / 2**32), dropout.channels)
    drop = Drop(*settings)._replace(scale=stack.dtype.type(settings[3]))
    plan = stack.plan(rows, last)
    net = stack.net(plan, last, settings[3], train, loss == "cross_entropy")
    groups = min(batch, GROUPS)
    at, shared, gradients, _ = stack.begins()
    slabs = stack.array(f"slabs.{train}", groups, gradients if train else 0)
    losses = np.zeros((batch, 1))
    if last:
        targets, shares = targets[:, None], shares[:, None]
    pairs = _pair(x, (batch,), stack.dtype), _pair(targets, (batch,), stack.dtype)
    measure = Loss(KINDS[loss], stack.dtype.type(delta))
    # Backward stops at the lowest block that needs something; -1 is the embedding.
    lowest = min((_block(name, stack.blocks) for name in needs), default=stack.blocks)
    starts = {name: shared[name] for name in ("head", "head_bias", "embedding")}
    tasks = [
        (train_items, net, stack.item(("train", g), plan, rows, last), Grads(slabs[g], lowest, **starts), drop, measure,
         *pairs, shares, losses, g, groups)
        for g in range(groups)
    ]  # fmt: skip
    pool.run(tasks, threads)
    if train:
        _unpack(stack, slabs, at, shared, into, needs)
    return float(losses.sum())


def _block(name, blocks):
    """Number of the block that a parameter belongs to."""
    first, *rest = name.split(".")
    return {"input": -1, "head": blocks}[first] if first != "blocks" else int(rest[0])


def _unpack(stack, slabs, at, shared, into, needs):
    """Add up the tasks' gradients, in their order; into +="""
    total = slabs.sum(axis=0)
    for name, begin, taps, before, after, _ in stack.matrices(at, shared, False):
        if name not in needs:
            continue
        rows, columns = stack.rows_map(name, before), stack.places(after)
        size = taps * len(rows) * len(columns)
        slab = total[begin : begin + size].reshape(1, -1, taps * len(rows), stack.width)
        layout.add_weight(slab, rows, columns, into[name], into[name].reshape(taps, before, after))
    for part, name in BIASES:
        for i in range(stack.blocks):
            if at[part, i] >= 0 and f"blocks.{i}.{name}" in needs:
                target = into[f"blocks.{i}.{name}"]
                target += total[at[part, i] : at[part, i] + len(target)]
    if "head.bias" in needs:
        target = into["head.bias"]
        target += total[shared["head_bias"] : shared["head_bias"] + len(target)]


def predict(out, params, x, *, dilations, last, workspace, threads):
    """Backend of the contract: out ="""
    threads = pool.check_threads(threads)
    stack = Stack(params, dilations, workspace or Workspace())
    batch, rows = x.shape[:2]
    plan = stack.plan(rows, last)
    net = stack.net(plan, last, 1.0, False, False)
    drop = Drop(*NO_DROP)._replace(scale=stack.dtype.type(1))
    groups = min(batch, max(threads, 1))  # nothing is summed over items: their number changes no bit
    tasks = [
        (predict_items, net, stack.item(("train", g), plan, rows, last), drop, _pair(x, (batch,), stack.dtype), out,
         g, groups)
        for g in range(groups)
    ]  # fmt: skip
    pool.run(tasks, threads)


class Stream:
    """The state of streams through a network, and its parameters as they were when it was made.

    Attributes
    ----------
    data : (batch, size) array
        Each block's latest input rows, and those between its convolutions.
    position : (batch, blocks + 1) array of int64
        Rows before the present one in each buffer; there are none in the last output's.
    time : int
        Rows seen so far.
    """

    def __init__(self, params, batch, *, dilations, threads=None):
        self.threads, self.batch = pool.check_threads(threads), batch
        self.params = {name: value.copy() for name, value in params.items()}
        self.stack = stack = Stack(self.params, dilations, Workspace())
        self.net = stack.net(stack.plan(1, False), False, 1.0, False, False)
        self.past = (stack.kernel - 1) * stack.dilations
        height = np.full((3, stack.blocks + 1), whole_tiles(CHUNK))
        height[:2, :-1] = self.past + np.maximum(self.past, 2 * CHUNK)
        self._height, (self._begin, end) = height, stack.lay_out(height)
        self._logits = end
        self.data = aligned_zeros((batch, end + stack.Q * CHUNK * stack.width), stack.dtype)
        self.position = np.zeros((batch, stack.blocks + 1), np.int64)
        self.reset()

    def reset(self):
        """Forget the past."""
        self.data[:] = 0
        self.position[:, :-1] = self.past
        self.time = 0

    def copy(self):
        """A second stream that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other.data, other.position = aligned_zeros(self.data.shape, self.data.dtype), self.position.copy()
        other.data[:] = self.data
        return other

    @property
    def nbytes(self):
        """Bytes of the state itself, the parameters not counted."""
        return self.data.nbytes + self.position.nbytes

    def history(self):
        """Past rows of each convolution's input, a list of (batch, rows, C) arrays: all that the future depends on."""
        rows = []
        for i, past in enumerate(self.past):
            now = self.position[0, i]
            for kind in (X, A):
                part = self._matrix(kind, i)[:, :, now - past : now].transpose(0, 2, 1, 3)
                channels = self.stack.channels[i + kind]
                wide = part.reshape(self.batch, past, part.shape[2] * part.shape[3])
                rows.append(np.ascontiguousarray(wide[:, :, :channels]))
        return rows

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.reset()
        for j, part in enumerate(rows):
            i, kind = divmod(j, 2)
            matrix = self._matrix(kind, i)
            wide = np.zeros((*part.shape[:2], matrix.shape[1] * matrix.shape[3]), part.dtype)
            wide[:, :, : part.shape[2]] = part
            target = matrix[:, :, : part.shape[1]]
            target[...] = wide.reshape(*part.shape[:2], *matrix.shape[1::2]).transpose(0, 2, 1, 3)
        self.time = time

    def _matrix(self, kind, block):
        """X or A of a block as (batch, panels, rows, width)."""
        begin, height, w = self._begin[kind, block], self._height[kind, block], self.stack.width
        panels = self.stack.panels[block + kind]
        return self.data[:, begin : begin + panels * height * w].reshape(self.batch, panels, height, w)

    def step(self, x, out):
        """Fill the predictions that follow each of some rows."""
        codes, numbers = _pair(x, (self.batch,), self.stack.dtype)
        tasks = []
        for b in range(self.batch):
            item = Item(self.data[b], self._begin, self._height, self.position[b], self._logits, 0, 0, 0, 0, 0)
            tasks.append((stream_rows, self.net, item, codes[b], numbers[b].reshape(-1), out[b]))
        pool.run(tasks, self.threads)
        self.time += x.shape[1]


def init_state(params, batch, *, dilations, threads):
    """Backend of the contract."""
    return Stream(params, batch, dilations=dilations, threads=threads)
