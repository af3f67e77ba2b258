"""CUDA: block by block over the whole window, of the tiled products and elementwise kernels of the single ops.

All rows are computed, also where only the last one's prediction counts. Kept from forward to backward are each block's
input and what follows its two convolutions; dropout is a hash, so there is no mask to keep. In backward a ReLU asks the
sign of what follows it, which dropout does not change where it does not put zeros.

A stream keeps the latest input rows of each convolution in a ring: row t of the stream is at ``t % past``.
"""

import copy

import numpy as np

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.array import int64_codes
from wavedil.kernels.cuda.engine import device_array, scratch, stage
from wavedil.kernels.cuda.rows import move_columns, remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import sum_values
from wavedil.kernels.workspace import Workspace
from wavedil.ops.activation import Grads as ActivationGrads
from wavedil.ops.activation import Saved as ActivationSaved
from wavedil.ops.activation import cuda as activation
from wavedil.ops.cross_entropy.cuda import rows_loss
from wavedil.ops.dropout import Saved as Mask
from wavedil.ops.dropout import cuda as masks
from wavedil.ops.embedding import cuda as embedding
from wavedil.ops.loss import Grads as LossGrads
from wavedil.ops.loss import Saved as LossSaved
from wavedil.ops.loss import cuda as losses


class _Net:
    """The parameters of a network by block, its settings, and where to put what is in between."""

    def __init__(self, params, dilations, make, dropout=None, into=None):
        self.params, self.dilations, self.make, self.dropout = params, dilations, make, dropout
        self.into = into or {}  # what is needed
        self.taps = params["blocks.0.conv.0.weight"].shape[0]
        self.dtype = params["head.weight"].dtype

    def weight_and_bias(self, name, params=None):
        params = self.params if params is None else params
        return params.get(f"{name}.weight"), params.get(f"{name}.bias")

    def empty(self, name, like, channels):
        return self.make(name, (*like.shape[:2], channels), self.dtype)

    def conv(self, i, j, x, shift=None):
        """relu(conv.j(x)) of block i; with ``shift`` 0 the rows of the past come first in x."""
        weight, bias = self.weight_and_bias(f"blocks.{i}.conv.{j}")
        past = (self.taps - 1) * self.dilations[i]
        rows = x.shape[1] - (past if shift == 0 else 0)
        y = self.make(("conv", i, j), (x.shape[0], rows, weight.shape[2]), self.dtype)
        settings = {"taps": self.taps, "shift": -past if shift is None else shift, "dilation": self.dilations[i]}
        products.rows(y, x, weight, bias=bias, end="relu", **settings)
        return y

    def out(self, i, x, z):
        """relu(z + shortcut(x)) of block i."""
        weight, bias = self.weight_and_bias(f"blocks.{i}.shortcut")
        y = self.make(("out", i), z.shape, self.dtype)
        if weight is None:
            y.set(z)
            y += x
        else:
            products.rows(y, x, weight, bias=bias, other=z, end="add")
        activation.forward(y, y, None, "relu", 0.0, workspace=None, threads=None)
        return y

    def drop(self, i, j, values):
        """values times the mask, in place"""
        if self.dropout is not None:
            d = self.dropout
            mask = Mask(values.shape, self.dtype, d.rate, d.seed, d.step, 2 * i + j, d.channels)
            masks.forward(values, values, mask, workspace=None, threads=None)

    def back(self, i, x, a, z, y, dy, lowest):
        """The gradients of block i's parameters +=; returns that of its input, unless it is the lowest."""
        past, dilation = (self.taps - 1) * self.dilations[i], self.dilations[i]
        total = self.empty("total", dy, dy.shape[2])
        _relu_back(total, dy, y)
        dz = self.empty("dz", dy, dy.shape[2])
        dz.set(total)
        self.drop(i, 1, dz)
        _relu_back(dz, dz, z)
        seen = {"taps": self.taps, "shift": -past, "dilation": dilation}
        back = {"taps": self.taps, "shift": past, "dilation": -dilation, "transposed": True}
        products.columns(self.make, *self.weight_and_bias(f"blocks.{i}.conv.1", self.into), a, dz, **seen)
        products.columns(self.make, *self.weight_and_bias(f"blocks.{i}.shortcut", self.into), x, total)
        da = self.empty("da", dy, dy.shape[2])
        weight, _ = self.weight_and_bias(f"blocks.{i}.conv.1")
        products.rows(da, dz, weight, other=a, end="relu_back", **back)
        self.drop(i, 0, da)
        products.columns(self.make, *self.weight_and_bias(f"blocks.{i}.conv.0", self.into), x, da, **seen)
        if lowest:
            return None
        weight, _ = self.weight_and_bias(f"blocks.{i}.conv.0")
        shortcut, _ = self.weight_and_bias(f"blocks.{i}.shortcut")
        dx = self.make(("dx", i % 2, x.shape[2]), x.shape, self.dtype)
        if shortcut is None:
            products.rows(dx, da, weight, other=total, end="add", **back)
        else:
            products.rows(dx, da, weight, more=total, w_more=shortcut, **back)
        return dx


def _relu_back(dx, dy, y):
    """dx = dy where y > 0; dx may be dy itself."""
    saved = ActivationSaved(y, None, "relu", 0.0)
    activation.backward(ActivationGrads(dx, None), dy, saved, workspace=None, threads=None)


def _input(workspace, params, x):
    """The rows that go into the first block, and the codes on the device if x are codes."""
    engine = params["head.weight"].engine
    table = params.get("input.embedding")
    if table is None:
        return (x if hasattr(x, "to_host") else stage(workspace, engine, "x", np.ascontiguousarray(x))), None
    codes = int64_codes(x) if hasattr(x, "to_host") else stage(workspace, engine, "x", x.astype(np.int64))
    rows = scratch(workspace, engine)("embedded", (*codes.shape, table.shape[1]), table.dtype)
    embedding.forward(rows, codes, table, workspace=None, threads=None)
    return rows, codes


def _last(make, x):
    """The last row of each item, (B, 1, C)."""
    batch, time, channels = x.shape
    out = make("last row", (1, batch, channels), x.dtype)
    move_columns(out, x.reshape(1, batch, time * channels), (time - 1) * channels, 0)
    return out.reshape(batch, 1, channels)


def loss_and_grads(
    params, x, targets, shares, into, *, dilations, loss, last, delta, dropout, needs, workspace, threads
):
    """The loss; into +=, unless it is None."""
    workspace, engine = workspace or Workspace(), params["head.weight"].engine
    make = scratch(workspace, engine)
    into = {} if into is None else {name: device_array(into[name]) for name in needs}
    net = _Net(params, dilations, make, dropout, into)
    rows, codes = _input(workspace, params, x)
    inputs, kept = rows, []
    for i in range(len(dilations)):
        a = net.conv(i, 0, rows)
        net.drop(i, 0, a)
        z = net.conv(i, 1, a)
        net.drop(i, 1, z)
        y = net.out(i, rows, z)
        kept.append((rows, a, z, y))
        rows = y

    seen = _last(make, rows) if last else rows
    weight, bias = net.weight_and_bias("head")
    y = net.empty("head", seen, weight.shape[1])
    products.rows(y, seen, weight, bias=bias)
    shares = stage(workspace, engine, "shares", shares)
    value = make("loss", (1,), np.float64)
    if loss == "cross_entropy":
        targets = (
            int64_codes(targets) if hasattr(targets, "to_host")
            else stage(workspace, engine, "targets", targets.astype(np.int64))
        )  # fmt: skip
        nats, dy = make("nats", (targets.size,), np.float64), y
        rows_loss(nats, y, targets, shares, 0, 1.0, gradient=True)
        sum_values(value, nats)
    else:
        if not hasattr(targets, "to_host"):
            targets = stage(workspace, engine, "targets", np.ascontiguousarray(targets))
        losses.forward(value, y, targets, shares, loss, delta, workspace=workspace, threads=None)
        dy = net.empty("dhead", seen, weight.shape[1])
        saved = LossSaved(y, targets, shares, loss, delta)
        losses.backward(LossGrads(dy), 1.0, saved, workspace=workspace, threads=None)
    if into:
        _backward(net, kept, inputs, codes, seen, dy, last)
    return float(value.to_host()[0])


def _backward(net, kept, inputs, codes, seen, dy, last):
    """The gradients of what is needed +="""
    make, into = net.make, net.into
    weight, _ = net.weight_and_bias("head")
    products.columns(make, *net.weight_and_bias("head", into), seen, dy)
    numbers = [int(name.split(".")[1]) for name in into if name.startswith("blocks.")]
    lowest = -1 if "input.embedding" in into else min(numbers, default=len(kept))
    if lowest == len(kept):
        return
    d_seen = net.empty("dseen", seen, seen.shape[2])
    products.rows(d_seen, dy, weight, transposed=True)
    d_rows = d_seen
    if last:
        batch, time, channels = kept[-1][0].shape[0], kept[-1][0].shape[1], seen.shape[2]
        d_rows = make("drows", (batch, time, channels), net.dtype)
        d_rows.fill(0)
        whole = d_rows.reshape(1, batch, time * channels)
        move_columns(whole, d_seen.reshape(1, batch, channels), 0, (time - 1) * channels)
    for i in reversed(range(max(0, lowest), len(kept))):
        d_rows = net.back(i, *kept[i], d_rows, i == lowest)
    if lowest < 0:
        table = into["input.embedding"]
        flat = d_rows.reshape(1, -1, inputs.shape[2])
        products.columns(make, table, None, None, flat, codes=codes, inputs=table.shape[0], left="one_hot")


def predict(out, params, x, *, dilations, last, workspace, threads):
    """out ="""
    workspace = workspace or Workspace()
    make = scratch(workspace, out.engine)
    net = _Net(params, dilations, make)
    rows, _ = _input(workspace, params, x)
    for i in range(len(dilations)):
        rows = net.out(i, rows, net.conv(i, 1, net.conv(i, 0, rows)))
    weight, bias = net.weight_and_bias("head")
    products.rows(out, _last(make, rows) if last else rows, weight, bias=bias)


class Stream:
    """The state of streams through a network, and its parameters as they were when it was made.

    Attributes
    ----------
    time : int
        Rows seen so far.
    """

    def __init__(self, params, batch, *, dilations):
        self.params = {name: value.copy() for name, value in params.items()}
        self.batch, self.dilations = batch, dilations
        self._workspace = Workspace()
        self._engine = params["head.weight"].engine
        taps = params["blocks.0.conv.0.weight"].shape[0]
        self.rings = []  # of each block's input, and of what is between its convolutions
        for i, dilation in enumerate(dilations):
            for j in range(2):
                channels = params[f"blocks.{i}.conv.{j}.weight"].shape[1]
                shape = (batch, (taps - 1) * dilation, channels)
                self.rings.append(self._engine.zeros(shape, params["head.weight"].dtype))
        self.time = 0

    @property
    def nbytes(self):
        """Bytes of the state itself, the parameters not counted."""
        return sum(ring.nbytes for ring in self.rings)

    def reset(self):
        """Forget the past."""
        for ring in self.rings:
            ring.fill(0)
        self.time = 0

    def copy(self):
        """A second stream that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other.rings, other._workspace = [ring.copy() for ring in self.rings], Workspace()
        return other

    def history(self):
        """Past rows of each convolution's input, a list of (batch, rows, C) NumPy arrays."""
        return [np.roll(ring.to_host(), -(self.time % max(1, ring.shape[1])), axis=1) for ring in self.rings]

    def set_history(self, rows, time):
        """Go on from what `history` returned after so many rows."""
        self.time = time
        for ring, part in zip(self.rings, rows, strict=True):
            if ring.shape[1]:
                ring.set(np.roll(np.asarray(part, ring.dtype), time % ring.shape[1], axis=1))

    def step(self, x, out):
        """Fill the predictions that follow each of some rows."""
        make = scratch(self._workspace, self._engine)
        net = _Net(self.params, self.dilations, make)
        rows, _ = _input(self._workspace, self.params, x)
        for i in range(len(self.dilations)):
            z = rows
            for j in range(2):
                z = net.conv(i, j, self._with_past(make, 2 * i + j, z), shift=0)
            rows = net.out(i, rows, z)
        weight, bias = net.weight_and_bias("head")
        products.rows(out, rows, weight, bias=bias)
        self.time += out.shape[1]

    def _with_past(self, make, number, x):
        """The rows that a convolution sees; its ring takes the new ones in."""
        ring = self.rings[number]
        past = ring.shape[1]
        if not past:
            return x
        seen = make(("seen", number), (self.batch, past + x.shape[1], x.shape[2]), x.dtype)
        unroll(seen, ring, x, self.time % past)
        remember(ring, x, self.time % past)
        return seen


def init_state(params, batch, *, dilations, threads):
    """Backend of the contract."""
    return Stream(params, batch, dilations=dilations)


def kernels(dtype):
    """All kernels that this family launches."""
    from wavedil.ops.cross_entropy import cuda as cross_entropy

    dtype = np.dtype(dtype)
    row = products.row_product
    return (
        row(dtype), row(dtype, end="relu"), row(dtype, end="add"), row(dtype, transposed=True),
        row(dtype, transposed=True, second=True), row(dtype, end="add", transposed=True),
        row(dtype, end="relu_back", transposed=True), products.column_product(dtype),
        products.column_product(dtype, "one_hot"), *row_kernels(dtype), *activation.kernels(dtype),
        *masks.kernels(dtype), *losses.kernels(dtype), *cross_entropy.kernels(dtype), *embedding.kernels(dtype),
    )  # fmt: skip
