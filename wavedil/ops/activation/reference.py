"""Plain NumPy: each function and its derivative, as they are written in books."""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _normal(x):
    """Distribution and density of the normal law."""
    return (0.5 * (1 + _erf(x / 2**0.5))).astype(x.dtype), np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5


def _halves(x):
    return np.split(x, 2, axis=-1)


def _elu(x, a, alpha):
    return np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x)


FUNCTIONS = {
    "relu": lambda x, a, alpha: np.maximum(x, 0),
    "leaky_relu": lambda x, a, alpha: np.where(x > 0, x, alpha * x),
    "prelu": lambda x, a, alpha: np.where(x > 0, x, a * x),
    "elu": _elu,
    "gelu": lambda x, a, alpha: x * _normal(x)[0],
    "silu": lambda x, a, alpha: x * _sigmoid(x),
    "softplus": lambda x, a, alpha: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "tanh": lambda x, a, alpha: np.tanh(x),
    "sigmoid": lambda x, a, alpha: _sigmoid(x),
    "gated_tanh": lambda x, a, alpha: np.tanh(_halves(x)[0]) * _sigmoid(_halves(x)[1]),
    "glu": lambda x, a, alpha: _halves(x)[0] * _sigmoid(_halves(x)[1]),
    "snake": lambda x, a, alpha: x + np.sin(a * x) ** 2 / a,
}


def _tanh_slope(x):
    """1 - tanh(x)^2, without the difference."""
    return 4 * _sigmoid(2 * x) * _sigmoid(-2 * x)


def _gated_tanh_slopes(x, a, alpha):
    u, v = _halves(x)
    return _tanh_slope(u) * _sigmoid(v), np.tanh(u) * _sigmoid(v) * _sigmoid(-v)


def _glu_slopes(x, a, alpha):
    u, v = _halves(x)
    return _sigmoid(v), u * _sigmoid(v) * _sigmoid(-v)


# dy/dx; a pair for the halves of the gated kinds.
SLOPES = {
    "relu": lambda x, a, alpha: np.where(x <= 0, 0, np.ones_like(x)),
    "leaky_relu": lambda x, a, alpha: np.where(x > 0, 1, np.full_like(x, alpha)),
    "prelu": lambda x, a, alpha: np.where(x > 0, 1, a),
    "elu": lambda x, a, alpha: np.where(x <= 0, alpha * np.exp(np.minimum(x, 0)), 1),
    "gelu": lambda x, a, alpha: _normal(x)[0] + x * _normal(x)[1],
    "silu": lambda x, a, alpha: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
    "softplus": lambda x, a, alpha: _sigmoid(x),
    "tanh": lambda x, a, alpha: _tanh_slope(x),
    "sigmoid": lambda x, a, alpha: _sigmoid(x) * _sigmoid(-x),
    "gated_tanh": _gated_tanh_slopes,
    "glu": _glu_slopes,
    "snake": lambda x, a, alpha: 1 + np.sin(2 * a * x),
}
# dy/da
LEARNED_SLOPES = {
    "prelu": lambda x, a: np.minimum(x, 0),
    "snake": lambda x, a: x * np.sin(2 * a * x) / a - np.sin(a * x) ** 2 / a**2,
}


def forward(y, x, a, kind, alpha, *, workspace, threads):
    """y =."""
    y[...] = FUNCTIONS[kind](x, a, x.dtype.type(alpha))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.a +=."""
    x, a, kind, alpha = saved
    if grads.x is not None:
        slopes = SLOPES[kind](x, a, x.dtype.type(alpha))
        grads.x[...] = np.concatenate([dy * s for s in slopes], -1) if isinstance(slopes, tuple) else dy * slopes
    if grads.a is not None:
        grads.a[...] += (dy * LEARNED_SLOPES[kind](x, a)).sum(tuple(range(x.ndim - 1)))
