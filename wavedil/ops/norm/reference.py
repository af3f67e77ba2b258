"""Plain NumPy: means over an axis, and the chain rule through them."""

import numpy as np


def _by_group(x, groups):
    """(groups, B, numbers of a group and item) of x (B, ..., C)"""
    return np.moveaxis(x.reshape(len(x), -1, groups, x.shape[-1] // groups), 2, 0).reshape(groups, len(x), -1)


def _by_row(x, shape):
    """The opposite of `_by_group`."""
    parts = x.reshape(*x.shape[:2], -1, shape[-1] // len(x))
    return np.moveaxis(parts, 0, 2).reshape(shape)


def _axes(x, kind):
    """What the norm goes over."""
    return tuple(range(x.ndim - 1)) if kind in ("batch", "weight") else (-1,)


def forward(y, mean, inverse, var, x, scale, shift, kind, eps, fixed, *, workspace, threads):
    """y =, and unless they are fixed, mean =, inverse = and (of a batch) var =."""
    if kind == "group":  # a layer norm of other rows
        rows = _by_group(x, len(mean))
        normal = np.empty_like(rows)
        forward(normal, mean, inverse, var, rows, None, None, "layer", eps, fixed, workspace=None, threads=None)
        y[...] = _by_row(normal, x.shape) * (1 if scale is None else scale) + (0 if shift is None else shift)
        return
    axes = _axes(x, kind)
    if not fixed:
        if mean is not None:
            mean[...] = x.mean(axes)
        centred = x if mean is None else x - np.expand_dims(mean, axes)
        average = np.sum if kind == "weight" else np.mean
        squares = average(centred**2, axes)
        with np.errstate(divide="ignore"):
            inverse[...] = 1 / np.sqrt(squares + x.dtype.type(eps))
        if var is not None:
            var[...] = squares
    with np.errstate(invalid="ignore"):  # a column of zeros has no direction
        normal = (x if mean is None else x - np.expand_dims(mean, axes)) * np.expand_dims(inverse, axes)
    y[...] = normal * (1 if scale is None else scale) + (0 if shift is None else shift)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.scale +=, grads.shift +=."""
    x, scale, mean, inverse, _, kind, fixed = saved
    if kind == "group":
        _group_backward(grads, dy, x, scale, mean, inverse)
        return
    axes, rows = _axes(x, kind), tuple(range(x.ndim - 1))
    inverse = np.expand_dims(inverse, axes)
    normal = (x if mean is None else x - np.expand_dims(mean, axes)) * inverse
    if grads.x is not None:
        g = dy if scale is None else dy * scale
        if fixed:
            grads.x[...] = g * inverse
        else:
            average = np.sum if kind == "weight" else np.mean
            centre = 0 if mean is None else g.mean(axes, keepdims=True)
            grads.x[...] = (g - centre - normal * average(g * normal, axes, keepdims=True)) * inverse
    if grads.scale is not None:
        grads.scale[...] += (dy * normal).sum(rows)
    if grads.shift is not None:
        grads.shift[...] += dy.sum(rows)


def _group_backward(grads, dy, x, scale, mean, inverse):
    normal = _by_row((_by_group(x, len(mean)) - mean[..., None]) * inverse[..., None], x.shape)
    if grads.x is not None:
        g, n = (_by_group(a, len(mean)) for a in (dy if scale is None else dy * scale, normal))
        dx = (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True)) * inverse[..., None]
        grads.x[...] = _by_row(dx, x.shape)
    rows = tuple(range(x.ndim - 1))
    if grads.scale is not None:
        grads.scale[...] += (dy * normal).sum(rows)
    if grads.shift is not None:
        grads.shift[...] += dy.sum(rows)
