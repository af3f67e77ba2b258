"""Plain NumPy: the scores of all pairs of rows."""

import numpy as np


def _scores(x, heads, window):
    """Queries, keys, values as (B, H, T, D), and their masked scores (B, H, T, T)."""
    batch, time, wide = x.shape
    q, k, v = x.reshape(batch, time, 3, heads, wide // 3 // heads).transpose(2, 0, 3, 1, 4)
    t, u = np.ogrid[:time, :time]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(x.dtype)
    return q, k, v, np.where((t - window < u) & (u <= t), scores, -np.inf)


def _rows(array):
    """(B, H, T, D) as (B, T, H D)."""
    return array.swapaxes(1, 2).reshape(array.shape[0], array.shape[2], -1)


def _mix(p, v):
    """p @ v, where a value that no row sees changes nothing, not even if it is NaN."""
    bad = ~np.isfinite(v).all(-1, keepdims=True)
    y = p @ np.where(bad, 0, v)
    seen = (p > 0) & bad.swapaxes(-1, -2)
    return np.where(seen.any(-1, keepdims=True), np.nan, y)


def forward(y, total, x, heads, window, *, workspace, threads):
    """y =, total =."""
    _, _, v, scores = _scores(x, heads, window)
    top = scores.max(-1, keepdims=True)
    total[...] = (np.log(np.exp(scores - top).sum(-1, keepdims=True)) + top)[..., 0]
    y[...] = _rows(_mix(np.exp(scores - total[..., None]), v))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =."""
    x, y, total, heads, window = saved
    q, k, v, scores = _scores(x, heads, window)
    p = np.exp(scores - total[..., None])
    split = (*x.shape[:2], heads, -1)
    dy, y = dy.reshape(split).swapaxes(1, 2), y.reshape(split).swapaxes(1, 2)
    ds = p * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1]).astype(x.dtype)
    parts = ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy
    grads.x[...] = np.concatenate([_rows(part) for part in parts], axis=2)


def step(y, state, x, heads, window, *, workspace):
    """y =, and the state moves on."""
    history, seen = state
    channels = y.shape[2]
    known = min(history.shape[1], int(seen[0]))
    past = np.zeros((len(x), known, 3 * channels), x.dtype)
    past[..., channels:] = history[:, history.shape[1] - known :]
    rows = np.concatenate([past, x], axis=1)
    full = np.empty((*rows.shape[:2], channels), x.dtype)
    forward(full, np.empty((len(x), heads, rows.shape[1]), x.dtype), rows, heads, window, workspace=None, threads=None)
    y[...] = full[:, known:]
    if history.shape[1]:
        history[...] = np.concatenate([history, x[..., channels:]], axis=1)[:, x.shape[1] :]
    seen += x.shape[1]
