"""Plain NumPy: the equations, one after the other."""

import numpy as np


def _taps(padded, conv_weight, dilation, rows):
    """Each tap: (rows of the padded input that it sees, their values, its weights)."""
    for k, w in enumerate(conv_weight):
        seen = slice(k * dilation, k * dilation + rows)
        yield k, seen, padded[:, seen], w


def _block(
    y,
    tanh,
    sigmoid,
    padded,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
):
    pre = np.zeros((*x.shape[:2], conv_weight.shape[2]), x.dtype)
    for _, _, values, w in _taps(padded, conv_weight, dilation, x.shape[1]):
        pre += values @ w
    if conv_bias is not None:
        pre += conv_bias
    if condition is not None:
        projected = condition @ condition_weight
        pre += projected[:, None] if condition.ndim == 2 else projected
    half = tanh.shape[-1]
    tanh[...] = np.tanh(pre[..., :half])
    sigmoid[...] = 0.5 + 0.5 * np.tanh(0.5 * pre[..., half:])
    z = tanh * sigmoid
    y.h[...] = x + z @ residual_weight + (0 if residual_bias is None else residual_bias)
    y.skip[...] = z @ skip_weight + (0 if skip_bias is None else skip_bias)


def forward(
    y,
    tanh,
    sigmoid,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
    *,
    workspace,
    threads,
):
    """y.h =, y.skip =, tanh =, sigmoid =."""
    padded = np.pad(x, ((0, 0), ((conv_weight.shape[0] - 1) * dilation, 0), (0, 0)))
    _block(
        y,
        tanh,
        sigmoid,
        padded,
        x,
        conv_weight,
        conv_bias,
        residual_weight,
        residual_bias,
        skip_weight,
        skip_bias,
        condition,
        condition_weight,
        dilation,
    )


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.condition =, all others +=."""
    x, t, s, conv_weight = saved.x, saved.tanh, saved.sigmoid, saved.conv_weight
    span = (conv_weight.shape[0] - 1) * saved.dilation
    dh = np.zeros_like(x) if dy.h is None else dy.h
    dskip = np.zeros((*x.shape[:2], saved.skip_weight.shape[1]), x.dtype) if dy.skip is None else dy.skip
    z = t * s
    dz = dh @ saved.residual_weight.T + dskip @ saved.skip_weight.T
    dpre = np.concatenate([dz * s * (1 - t * t), dz * t * s * (1 - s)], axis=-1)
    padded = np.pad(x, ((0, 0), (span, 0), (0, 0)))
    d_padded = np.zeros_like(padded)
    d_padded[:, span:] = dh
    for k, seen, values, w in _taps(padded, conv_weight, saved.dilation, x.shape[1]):
        d_padded[:, seen] += dpre @ w.T
        if grads.conv_weight is not None:
            grads.conv_weight[k] += np.einsum("btc,btn->cn", values, dpre)
    if grads.x is not None:
        grads.x[...] = d_padded[:, span:]
    if grads.conv_bias is not None:
        grads.conv_bias[...] += dpre.sum((0, 1))
    if grads.residual_weight is not None:
        grads.residual_weight[...] += np.einsum("btd,btr->dr", z, dh)
    if grads.residual_bias is not None:
        grads.residual_bias[...] += dh.sum((0, 1))
    if grads.skip_weight is not None:
        grads.skip_weight[...] += np.einsum("btd,bts->ds", z, dskip)
    if grads.skip_bias is not None:
        grads.skip_bias[...] += dskip.sum((0, 1))
    if saved.condition is not None:
        local = saved.condition.ndim == 3
        d_projected = dpre if local else dpre.sum(1, keepdims=True)
        rows = saved.condition if local else saved.condition[:, None]
        if grads.condition is not None:
            grads.condition[...] = (d_projected @ saved.condition_weight.T).reshape(saved.condition.shape)
        if grads.condition_weight is not None:
            grads.condition_weight[...] += np.einsum("btc,btn->cn", rows, d_projected)


def step(
    y,
    state,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
    *,
    workspace,
):
    """y.h =, y.skip =, and the state moves on."""
    history, position = state
    span = history.shape[1]
    rows = np.concatenate([np.roll(history, -position[0], axis=1), x], axis=1)
    tanh = np.empty((*x.shape[:2], conv_weight.shape[2] // 2), x.dtype)
    _block(
        y,
        tanh,
        np.empty_like(tanh),
        rows,
        x,
        conv_weight,
        conv_bias,
        residual_weight,
        residual_bias,
        skip_weight,
        skip_bias,
        condition,
        condition_weight,
        dilation,
    )
    if span:
        position[0] = (position[0] + x.shape[1]) % span
        history[...] = np.roll(rows[:, -span:], position[0], axis=1)
