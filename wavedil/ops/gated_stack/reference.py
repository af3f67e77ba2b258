"""Plain NumPy: the equations of the contract, one layer after the other, over the whole window."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np

from wavedil.kernels import storage
from wavedil.ops.activation.reference import FUNCTIONS, SLOPES
from wavedil.ops.gated_stack.network import FILTER, GATED, PROJECT
from wavedil.ops.gated_stack.reference_heads import LOSSES, draw, fed_rows


def _conv(x, weight, dilation):
    """y[t] = sum_k x[t - (K - 1 - k) d] W_k, zeros before the window."""
    taps, time = len(weight), x.shape[1]
    y = np.zeros((*x.shape[:2], weight.shape[2]), x.dtype)
    for k in range(taps):
        shift = (taps - 1 - k) * dilation
        y[:, shift:] += x[:, : max(time - shift, 0)] @ weight[k]
    return y


# ---- the condition ---------------------------------------------------------------------------------------------------
def _spread(network, first, rows):
    """(rows, frames) matrix: how much of each frame the rows from number ``first`` on see. Its rows sum to 1."""
    condition = network.condition
    times = np.arange(first, first + rows)
    frame, part = times // condition.hop - first // condition.hop, times % condition.hop / condition.hop
    matrix = np.zeros((rows, condition.frames(rows, first)))
    here = np.arange(rows)
    if condition.interpolation == "held":
        matrix[here, frame] = 1
    else:
        matrix[here, frame] = 1 - part
        matrix[here, frame + 1] = part
    return matrix


def _at_every_row(network, condition, rows, first=0):
    """A condition as (B, 1 or T, Cc): the rows of a network see it with these channels."""
    if condition is None or (condition.ndim == 3 and not network.hop):
        return condition
    if condition.ndim == 2:
        return condition[:, None, :]
    return np.einsum("tf,bfc->btc", _spread(network, first, rows).astype(condition.dtype), condition)


# ---- forward ---------------------------------------------------------------------------------------------------------
def _activate(layer, pre, kept):
    """z, and what backward needs: tanh and sigmoid, or the pre-activation."""
    if layer.stack.activation == GATED:
        a, g = np.split(pre, 2, axis=-1)
        t, s = kept(np.tanh(a)), kept(1 / (1 + np.exp(-g)))
        return t * s, (t, s)
    kind = layer.stack.activation
    return (pre if kind == "identity" else FUNCTIONS[kind](pre, None, layer.stack.alpha)), (pre,)


def _slopes(layer, dz, saved):
    """The gradient of the pre-activation."""
    if layer.stack.activation == GATED:
        t, s = saved
        return np.concatenate([dz * s * (1 - t * t), dz * t * s * (1 - s)], axis=-1)
    kind = layer.stack.activation
    return dz if kind == "identity" else dz * SLOPES[kind](*saved, None, layer.stack.alpha)


def _of(params, layer):
    """A layer's parameters by the last part of their names."""
    begin = len(layer.name) + 1
    return {name[begin:]: params[name] for name in layer.shapes()}


def _trunk(params, inputs, network, condition, half_activations=False, first_row=0):
    """What the last layer leaves in the skip sum; and the condition, and what each layer saw and kept."""

    def kept(x):
        return x.astype(np.float16).astype(x.dtype) if half_activations else x

    c = _at_every_row(network, condition, inputs.shape[1], first_row)
    h = inputs if network.real else kept(params["input.embedding"][inputs])
    skip, saved = 0, []
    for layer in network.layers:
        p = _of(params, layer)
        if layer.kind == PROJECT:
            saved.append((h, ()))
            h = kept(h @ p["weight"] + p.get("bias", 0))
        elif layer.kind == FILTER:
            saved.append((skip, ()))
            skip = _conv(skip, p["weight"], layer.dilation) + p.get("bias", 0)
        else:
            pre = _conv(h, p["conv.weight"], layer.dilation) + p["conv.bias"]
            if c is not None:
                pre = pre + c @ p["condition.weight"] + p.get("condition.bias", 0)
            z, parts = _activate(layer, pre, kept)
            saved.append((h, (z, *parts)))
            h = kept(h + z @ p["residual.weight"] + p["residual.bias"])
            skip = skip + (z @ p["skip.weight"] + p["skip.bias"] if layer.projects_skip else z)
    return skip, c, saved


def _forward(params, inputs, network, condition, half_activations=False, first_row=0):
    """What the head puts out, and all that the gradients need."""
    skip, c, saved = _trunk(params, inputs, network, condition, half_activations, first_row)
    if network.filters or network.head is None:
        return skip, (c, saved, skip, None)
    end = np.maximum(skip, 0) @ params["head.0.weight"] + params["head.0.bias"]
    outputs = np.maximum(end, 0) @ params["head.1.weight"] + params["head.1.bias"]
    return outputs, (c, saved, skip, end)


# ---- losses ----------------------------------------------------------------------------------------------------------
def _losses(network, outputs, targets, weights):
    """The loss of each row times its weight, and the gradient of their sum; rows of weight 0 count for nothing."""
    rows, slopes = LOSSES[type(network.head).__name__](network.head, outputs, targets)
    counts = weights != 0
    return np.where(counts, rows, 0) * weights, np.where(counts[..., None], slopes, 0) * weights[..., None]


def loss(params, inputs, targets, weights, *, network, condition, threads):
    """Backend of the contract."""
    outputs, _ = _forward(params, inputs, network, condition)
    return float(_losses(network, outputs, targets, weights)[0].sum() / weights.sum())


# ---- backward --------------------------------------------------------------------------------------------------------
def loss_and_grads(
    params, inputs, targets, weights, into, *, network, condition, workspace, threads, recompute, needs,
    half_activations,
):  # fmt: skip
    """Backend of the contract. All gradients are +=."""
    del workspace, threads, recompute  # nothing to share, split or save here
    into = _targets(params, into, needs)
    outputs, (c, saved, skip, end) = _forward(params, inputs, network, condition, half_activations)
    losses, dskip = _losses(network, outputs, targets, weights)
    dskip = dskip / weights.sum()
    if not network.filters:
        dend = _linear_back(params, into, np.maximum(end, 0), dskip, "head.1") * (end > 0)
        dskip = _linear_back(params, into, np.maximum(skip, 0), dend, "head.0") * (skip > 0)
    dcondition = _trunk_back(params, into, inputs, network, condition, c, saved, dskip)
    return float(losses.sum() / weights.sum()), dcondition if "condition" in needs else None


def _targets(params, into, needs):
    """Where each gradient is added. All are computed, so that it stays plain; those that nobody needs are let go."""
    return {name: into[name] if name in needs else np.zeros_like(value) for name, value in params.items()}


def _linear_back(params, into, x, dy, name):
    """Gradients of y = x @ W + b; returns that of x."""
    into[f"{name}.weight"][...] += np.einsum("bti,bto->io", x, dy)
    if f"{name}.bias" in into:
        into[f"{name}.bias"][...] += dy.sum(axis=(0, 1))
    return dy @ params[f"{name}.weight"].T


def _conv_back(weight, dweight, x, dy, dilation):
    """dweight += the gradient of `_conv`'s weight; returns that of x."""
    dx = np.zeros_like(x)
    for k in range(len(weight)):
        shift = (len(weight) - 1 - k) * dilation
        kept = max(x.shape[1] - shift, 0)
        dweight[k] += np.einsum("bti,bto->io", x[:, :kept], dy[:, shift:])
        dx[:, :kept] += dy[:, shift:] @ weight[k].T
    return dx


def _trunk_back(params, into, inputs, network, condition, c, saved, dskip):
    """Gradients of all layers and the input; returns that of the condition, which `_trunk` returned as ``c``."""
    dh, dc = 0, None if c is None else np.zeros((*inputs.shape[:2], c.shape[2]), c.dtype)
    for layer, (x, kept) in reversed(list(zip(network.layers, saved, strict=True))):
        if layer.kind == PROJECT:
            dh = _linear_back(params, into, x, dh, layer.name)
        elif layer.kind == FILTER:
            weight = f"{layer.name}.weight"
            if layer.bias:
                into[f"{layer.name}.bias"][...] += dskip.sum(axis=(0, 1))
            dskip = _conv_back(params[weight], into[weight], x, dskip, layer.dilation)
        else:
            dh = _block_back(params, into, layer, x, kept, dh, dskip, c, dc)
    if not network.real:
        np.add.at(into["input.embedding"], inputs, dh)
    if condition is None:
        return None
    if condition.ndim == 2:
        return dc.sum(axis=1)
    if not network.hop:
        return dc
    return np.einsum("tf,btc->bfc", _spread(network, 0, inputs.shape[1]).astype(dc.dtype), dc)


def _block_back(params, into, layer, x, kept, dh, dskip, c, dc):
    """Gradients of one block; returns that of its input. ``dc`` += the gradient of the condition."""
    z, *parts = kept
    if layer.last:
        dh = np.zeros_like(x)
    dz = _linear_back(params, into, z, dskip, f"{layer.name}.skip") if layer.projects_skip else dskip
    dz = dz + _linear_back(params, into, z, dh, f"{layer.name}.residual")
    dpre = _slopes(layer, dz, parts)
    into[f"{layer.name}.conv.bias"][...] += dpre.sum(axis=(0, 1))
    if c is not None:
        name = f"{layer.name}.condition"
        dc += _linear_back(params, into, np.broadcast_to(c, dc.shape), dpre, name)
    weight = f"{layer.name}.conv.weight"
    return dh + _conv_back(params[weight], into[weight], x, dpre, layer.dilation)


# ---- the trunk alone -------------------------------------------------------------------------------------------------
def forward(
    params, inputs, out, *, network, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs."""
    del workspace, threads, recompute, needs
    out[...], c, saved = _trunk(params, inputs, network, condition, half_activations)
    return SimpleNamespace(fresh=True, arguments=(inputs, network, condition, c, saved), params=params)


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition. All others are +=."""
    del threads
    kept.fresh = False
    dcondition = _trunk_back(kept.params, _targets(kept.params, into, needs), *kept.arguments, dskips)
    return dcondition if "condition" in needs else None


# ---- streams ---------------------------------------------------------------------------------------------------------
class Stream:
    """All that was seen so far: every step runs the whole past again."""

    def __init__(self, params, batch, network, storage_kind):
        self.params, self.batch, self.network, self.storage = params, batch, network, storage_kind
        self.dtype = next(iter(params.values())).dtype
        self.reset()

    def reset(self):
        """Forget the past."""
        self.inputs = self.condition = None
        self.time = 0

    def copy(self):
        """A second stream that goes on from here."""
        return copy.copy(self)

    def step(self, inputs, condition, out, head=True):
        """Fill what comes out after each of some rows, or without the head their skip sums."""
        n = inputs.shape[1]
        if condition is not None and condition.ndim == 3:
            rows = _at_every_row(self.network, condition, n, self.time)
            condition = rows if self.condition is None else np.concatenate([self.condition, rows], axis=1)
            self.condition = condition
        self.inputs = inputs if self.inputs is None else np.concatenate([self.inputs, inputs], axis=1)
        self.time += n
        plain = self._without_hop()
        if head:
            outputs, _ = _forward(self.params, self.inputs, plain, condition)
        else:
            outputs, _, _ = _trunk(self.params, self.inputs, plain.without_head(), condition)
        out[...] = outputs[:, -n:]

    def _without_hop(self):
        """The network, whose condition has been spread over the rows already."""
        if not self.network.hop:
            return self.network
        return dataclasses.replace(self.network, condition=dataclasses.replace(self.network.condition, hop=0))

    def sample(self, first, out, condition, options, extra=None, lpc=None):
        """Fill ``out (batch, n)`` with draws."""
        head = self.network.head
        outputs = np.empty((self.batch, 1, head.outputs), self.dtype)
        past = first
        for i in range(out.shape[1]):
            local = condition
            if condition is not None and condition.ndim == 3:
                local = self._frames(condition, i)
            fed, shifts = fed_rows(self.network, past, extra, lpc, i)
            self.step(fed, local, outputs)
            for b in range(self.batch):
                out[b, i] = draw(head, outputs[b, 0].astype(np.float64), options, b, self.time - 1, shifts[b])
            past = np.concatenate([past[:, 1:], out[:, i : i + 1]], axis=1)

    def _frames(self, condition, i):
        """The frames (or the row) that row i of the draws needs."""
        if not self.network.hop:
            return condition[:, i : i + 1]
        frames, begin = self.network.condition, self.time - i  # each draw moves the time on
        first = self.time // frames.hop - begin // frames.hop
        return condition[:, first : first + frames.frames(1, self.time)]


def init_state(params, batch, *, network, threads, storage_kind):
    """Backend of the contract."""
    del threads
    params = {name: np.array(value) for name, value in params.items()}
    if storage_kind is not None:
        params = storage.rounded_matrices(params, storage_kind)
    return Stream(params, batch, network, storage_kind)
