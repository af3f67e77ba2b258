"""Plain NumPy: all rows at once."""

import numpy as np

from wavedil.ops.pooling import EPSILON


def forward(y, shares, mean, variance, x, weights, w, b, v, kind, *, workspace, threads):
    """y =, shares =, mean =, variance =."""
    shares[...] = weights
    x = np.where(weights[..., None] == 0, 0, x)  # what counts nothing may be NaN
    if kind == "attentive":
        scores = np.tanh(x @ w + b) @ v
        shares *= np.exp(scores - np.where(weights == 0, -np.inf, scores).max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    if kind == "average":
        y[...] = np.einsum("bt,btc->bc", shares, x)
        return
    exact = np.result_type(x, np.float64)  # in float32 the deviation of large numbers would be lost
    parts = shares.astype(exact) / shares.sum(axis=1, keepdims=True, dtype=exact)
    center = np.einsum("bt,btc->bc", parts, x)
    spread = np.einsum("bt,btc->bc", parts, (x - center[:, None]) ** 2)
    mean[...], variance[...] = center, spread
    y[...] = np.concatenate([center, np.sqrt(spread + EPSILON)], axis=1)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=, grads.v +=."""
    x, w, b, v, kind, shares, mean, variance = saved
    if kind == "average":
        if grads.x is not None:
            grads.x[...] = shares[..., None] * dy[:, None]
        return
    x = np.where(shares[..., None] == 0, 0, x)
    dmean, dstd = (part[:, None] for part in np.split(dy, 2, axis=1))
    push = dstd / np.sqrt(variance + variance.dtype.type(EPSILON))[:, None]
    apart = x - mean[:, None]
    dx = shares[..., None] * (dmean + push * apart)
    if kind == "attentive":
        hidden = np.tanh(x @ w + b)
        dscores = shares * (dmean * apart + push * (apart**2 - variance[:, None]) / 2).sum(axis=2)
        dhidden = dscores[..., None] * v * (1 - hidden**2)
        dx += dhidden @ w.T
        if grads.w is not None:
            grads.w[...] += np.einsum("btc,bth->ch", x, dhidden)
        if grads.b is not None:
            grads.b[...] += dhidden.sum(axis=(0, 1))
        if grads.v is not None:
            grads.v[...] += np.einsum("bt,bth->h", dscores, hidden)
    if grads.x is not None:
        grads.x[...] = dx


def step(y, state, x, weights, w, b, v, kind, *, workspace):
    """y =, and the state takes the rows in."""
    total, top, mean, variance = state
    x = np.where(weights[..., None] == 0, 0, x)
    scores = np.tanh(x @ w + b) @ v if kind == "attentive" else np.zeros(x.shape[:2])
    for i in np.flatnonzero(weights.any(axis=1)):
        highest = max(top[i], scores[i][weights[i] > 0].max())
        shares = weights[i] * np.exp(scores[i] - highest)
        before = total[i] * np.exp(top[i] - highest)
        total[i], top[i] = before + shares.sum(), highest
        center = (before * mean[i] + shares @ x[i]) / total[i]
        spread = before * (variance[i] + (mean[i] - center) ** 2) + shares @ (x[i] - center) ** 2
        mean[i], variance[i] = center, spread / total[i]
    y[...] = mean if kind == "average" else np.concatenate([mean, np.sqrt(variance + EPSILON)], axis=1)
