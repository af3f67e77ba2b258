"""Plain NumPy: all logits at once."""

import numpy as np


def _logits(x, w, b):
    logits = x @ w
    return logits if b is None else logits + b


def forward(loss, lse, x, w, b, targets, weights, *, workspace, threads):
    """loss =, lse =."""
    logits = _logits(x, w, b)
    top = logits.max(-1)
    lse[...] = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    picked = np.take_along_axis(logits, targets[..., None].astype(np.intp), -1)[..., 0]
    loss[0] = (weights * (lse - picked)).sum(dtype=np.float64)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=."""
    x, w, b, targets, weights, lse = saved
    d_logits = np.exp(_logits(x, w, b) - lse[..., None])
    batch, time = np.indices(targets.shape)
    d_logits[batch, time, targets] -= 1
    d_logits *= dy * weights[..., None]
    if grads.x is not None:
        grads.x[...] = d_logits @ w.T
    if grads.w is not None:
        grads.w[...] += np.einsum("bte,btq->eq", x, d_logits)
    if grads.b is not None:
        grads.b[...] += d_logits.sum((0, 1))
