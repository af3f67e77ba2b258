"""Plain NumPy: all logits at once."""

import numpy as np


def _logits_and_lse(x, w, b, weights):
    """The logits of each row, and their log sum exp; rows of weight 0 are taken as zeros."""
    x = np.where(weights[..., None] == 0, 0, x)
    logits = x @ w if b is None else x @ w + b
    top = logits.max(-1, keepdims=True)
    return logits, top + np.log(np.exp(logits - top).sum(-1, keepdims=True))


def forward(loss, x, w, b, targets, weights, smoothing, *, workspace, threads):
    """loss =."""
    logits, lse = _logits_and_lse(x, w, b, weights)
    picked = np.take_along_axis(logits, targets[..., None].astype(np.intp), -1)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logits.mean(-1, keepdims=True)
    loss[0] = (weights * (lse - picked)[..., 0]).sum(dtype=np.float64)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=."""
    x, w, b, targets, weights, smoothing = saved
    x = np.where(weights[..., None] == 0, 0, x)
    logits, lse = _logits_and_lse(x, w, b, weights)
    d_logits = np.exp(logits - lse)
    batch, time = np.indices(targets.shape)
    d_logits[batch, time, targets] -= 1 - smoothing
    d_logits -= smoothing / w.shape[1]
    d_logits *= dy * weights[..., None]
    if grads.x is not None:
        grads.x[...] = d_logits @ w.T
    if grads.w is not None:
        grads.w[...] += np.einsum("bte,btq->eq", x, d_logits)
    if grads.b is not None:
        grads.b[...] += d_logits.sum((0, 1))
