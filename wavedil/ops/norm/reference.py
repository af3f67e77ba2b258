"""Plain NumPy: means over an axis, and the chain rule through them."""

import numpy as np


def _axes(x, kind):
    """What the norm goes over."""
    return tuple(range(x.ndim - 1)) if kind in ("batch", "weight") else (-1,)


def forward(y, mean, inverse, var, x, scale, shift, kind, eps, fixed, *, workspace, threads):
    """y =, and unless they are fixed, mean =, inverse = and (of a batch) var =."""
    axes = _axes(x, kind)
    if not fixed:
        if mean is not None:
            mean[...] = x.mean(axes)
        centred = x if mean is None else x - np.expand_dims(mean, axes)
        average = np.sum if kind == "weight" else np.mean
        squares = average(centred**2, axes)
        inverse[...] = 1 / np.sqrt(squares + x.dtype.type(eps))
        if var is not None:
            var[...] = squares
    normal = (x if mean is None else x - np.expand_dims(mean, axes)) * np.expand_dims(inverse, axes)
    y[...] = normal * (1 if scale is None else scale) + (0 if shift is None else shift)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.scale +=, grads.shift +=."""
    x, scale, mean, inverse, _, kind, fixed = saved
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
