"""Plain NumPy: the equations of the contract, one after the other, over the whole window."""

import copy
from types import SimpleNamespace

import numpy as np

from wavedil.errors import DivergedError
from wavedil.kernels import storage
from wavedil.kernels.cpu.random import uniform


def _conv(x, weight, dilation):
    """y[t] = sum_k x[t - (K - 1 - k) d] W_k, zeros before the window."""
    taps, time = len(weight), x.shape[1]
    y = np.zeros((*x.shape[:2], weight.shape[2]), x.dtype)
    for k in range(taps):
        shift = (taps - 1 - k) * dilation
        y[:, shift:] += x[:, : max(time - shift, 0)] @ weight[k]
    return y


def _trunk(params, codes, dilations, condition, half_activations=False):
    """The skip sum; and the condition, and the input, tanh and sigmoid of each block."""

    def kept(x):
        return x.astype(np.float16).astype(x.dtype) if half_activations else x

    if condition is not None and condition.ndim == 2:
        condition = condition[:, None, :]
    h = kept(params["input.embedding"][codes])
    skip = 0
    blocks = []
    for i, dilation in enumerate(dilations):
        p = {name: params[f"blocks.{i}.{name}"] for name in _block_names(condition)}
        pre = _conv(h, p["conv.weight"], dilation) + p["conv.bias"]
        if condition is not None:
            pre = pre + condition @ p["condition.weight"]
        a, g = np.split(pre, 2, axis=-1)
        t, s = kept(np.tanh(a)), kept(1 / (1 + np.exp(-g)))
        z = t * s
        blocks.append((h, t, s))
        h = kept(h + z @ p["residual.weight"] + p["residual.bias"])
        skip = skip + z @ p["skip.weight"] + p["skip.bias"]
    return skip, condition, blocks


def _forward(params, codes, dilations, condition, half_activations=False):
    """Logits, and all that the gradients need."""
    skip, condition, blocks = _trunk(params, codes, dilations, condition, half_activations)
    end = np.maximum(skip, 0) @ params["head.0.weight"] + params["head.0.bias"]
    logits = np.maximum(end, 0) @ params["head.1.weight"] + params["head.1.bias"]
    return logits, (condition, blocks, skip, end)


def _block_names(condition):
    names = ["conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias"]
    return names if condition is None else [*names, "condition.weight"]


def _nats(logits, codes):
    """-ln softmax(logits)[code], and the softmax."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    score = np.take_along_axis(shifted, codes[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.log(total[..., 0]) - score, exp / total


def loss(params, codes, weights, *, dilations, condition, threads):
    """Backend of the contract."""
    logits, _ = _forward(params, codes[:, :-1], dilations, condition)
    nats, _ = _nats(logits, codes[:, 1:])
    return float((weights * nats).sum() / weights.sum())


def loss_and_grads(
    params, codes, weights, into, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract. All gradients are +=."""
    del workspace, threads, recompute  # nothing to share, split or save here
    into = _targets(params, into, needs)
    logits, (c, blocks, skip, end) = _forward(params, codes[:, :-1], dilations, condition, half_activations)
    nats, probability = _nats(logits, codes[:, 1:])
    one_hot = np.arange(logits.shape[-1]) == codes[:, 1:, None]
    dlogits = probability - one_hot
    dlogits = dlogits * (weights / weights.sum())[..., None]

    dend = _linear_back(params, into, np.maximum(end, 0), dlogits, "head.1") * (end > 0)
    dskip = _linear_back(params, into, np.maximum(skip, 0), dend, "head.0") * (skip > 0)
    dcondition = _trunk_back(params, into, codes[:, :-1], dilations, condition, c, blocks, dskip)
    return float((weights * nats).sum() / weights.sum()), dcondition if "condition" in needs else None


def _targets(params, into, needs):
    """Where each gradient is added. All are computed, so that it stays plain; those that nobody needs are let go."""
    return {name: into[name] if name in needs else np.zeros_like(value) for name, value in params.items()}


def _linear_back(params, into, x, dy, name):
    """Gradients of y = x @ W + b; returns that of x."""
    into[f"{name}.weight"][...] += np.einsum("bti,bto->io", x, dy)
    into[f"{name}.bias"][...] += dy.sum(axis=(0, 1))
    return dy @ params[f"{name}.weight"].T


def _trunk_back(params, into, codes, dilations, condition, c, blocks, dskip):
    """Gradients of the blocks and the embedding; returns that of the condition, which `_trunk` returned as ``c``."""
    dh = np.zeros_like(blocks[0][0])
    dcondition = None if condition is None else np.zeros_like(condition)
    for i in reversed(range(len(dilations))):
        x, t, s = blocks[i]
        z = t * s
        dz = _linear_back(params, into, z, dskip, f"blocks.{i}.skip")
        dz = dz + _linear_back(params, into, z, dh, f"blocks.{i}.residual")
        dpre = np.concatenate([dz * s * (1 - t * t), dz * t * s * (1 - s)], axis=-1)
        into[f"blocks.{i}.conv.bias"][...] += dpre.sum(axis=(0, 1))
        if c is not None:
            weight, local = params[f"blocks.{i}.condition.weight"], np.broadcast_to(c, (*x.shape[:2], c.shape[2]))
            into[f"blocks.{i}.condition.weight"][...] += np.einsum("btc,bto->co", local, dpre)
            dc = dpre @ weight.T
            dcondition += dc.sum(axis=1) if condition.ndim == 2 else dc
        weight = params[f"blocks.{i}.conv.weight"]
        for k in range(len(weight)):
            shift = (len(weight) - 1 - k) * dilations[i]
            kept = max(x.shape[1] - shift, 0)
            into[f"blocks.{i}.conv.weight"][k] += np.einsum("bti,bto->io", x[:, :kept], dpre[:, shift:])
            dh[:, :kept] += dpre[:, shift:] @ weight[k].T
    np.add.at(into["input.embedding"], codes, dh)
    return dcondition


def forward(
    params, codes, out, *, dilations, condition, workspace, threads, recompute, needs, half_activations
):  # fmt: skip
    """Backend of the contract: fills the skip sum, returns what backward needs."""
    del workspace, threads, recompute, needs
    out[...], c, blocks = _trunk(params, codes, dilations, condition, half_activations)
    return SimpleNamespace(fresh=True, arguments=(codes, dilations, condition, c, blocks), params=params)


def backward(dskips, kept, into, *, needs, threads):
    """Backend of the contract: returns the gradient of the condition. All others are +=."""
    del threads
    kept.fresh = False
    dcondition = _trunk_back(kept.params, _targets(kept.params, into, needs), *kept.arguments, dskips)
    return dcondition if "condition" in needs else None


class Stream:
    """All that was seen so far: every step runs the whole past again."""

    def __init__(self, params, batch, dilations, condition_channels, weights):
        self.storage = weights
        self.params, self.batch, self.dilations = params, batch, dilations
        self.condition_channels = condition_channels
        self.classes, self.dtype = params["head.1.weight"].shape[1], params["head.1.weight"].dtype
        self.skip_channels = len(params["head.0.weight"])
        self.reset()

    def reset(self):
        """Forget the past."""
        self.codes, self.condition, self.time = np.zeros((self.batch, 0), np.int64), None, 0

    def copy(self):
        """A second stream that goes on from here."""
        return copy.copy(self)

    def step(self, codes, condition, out, head=True):
        """Fill the logits that follow each of some codes, or without the head their skip sums."""
        self.codes = np.concatenate([self.codes, codes], axis=1)
        if condition is not None and condition.ndim == 3:
            before = [] if self.condition is None else [self.condition]
            self.condition = condition = np.concatenate([*before, condition], axis=1)
        self.time += codes.shape[1]
        logits, (_, _, skips, _) = _forward(self.params, self.codes, self.dilations, condition)
        out[...] = (logits if head else skips)[:, -codes.shape[1] :]

    def sample(self, first, out, condition, options):
        """Fill ``out (batch, n)`` with draws."""
        seed, temperature, top_k, top_p = options
        logits = np.empty((self.batch, 1, self.classes), self.dtype)
        for i in range(out.shape[1]):
            self.step(first[:, None] if i == 0 else out[:, i - 1 : i], condition, logits)
            for b in range(self.batch):
                row = logits[b, 0].astype(np.float64)
                if not np.isfinite(row).all():
                    raise DivergedError(f"generate: the logits of stream {b} are not finite at step {self.time - 1}")
                if temperature == 0:
                    out[b, i] = row.argmax()
                    continue
                p = np.exp((row - row.max()) / temperature)
                ordered = np.sort(p)[::-1]
                kept = self.classes if top_p == 1 else 1 + int((ordered.cumsum() < top_p * p.sum()).sum())
                kept = min(kept, top_k or self.classes, self.classes)
                p = np.where(p >= ordered[kept - 1], p, 0).cumsum()
                code = np.searchsorted(p, uniform(seed, b, self.time - 1) * p[-1], side="right")
                out[b, i] = min(code, np.searchsorted(p, p[-1]))


def init_state(params, batch, *, dilations, condition_channels, threads, weights):
    """Backend of the contract."""
    params = {name: np.array(value) for name, value in params.items()}
    if weights is not None:
        params = storage.rounded_matrices(params, weights)
    return Stream(params, batch, dilations, condition_channels, weights)
