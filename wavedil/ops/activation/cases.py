"""Sizes, seeds and tolerances for activation."""

import numpy as np

from wavedil.ops.activation import LEARNED
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: shape, kind, alpha
_SIZES = {
    "one-sample": ((1, 1, 1), "relu", None),
    "short": ((3, 5, 3), "prelu", None),
    "relu": ((2, 9, 30), "relu", None),
    "leaky": ((3, 7, 5), "leaky_relu", 0.2),
    "leaky-default": ((1, 3, 16), "leaky_relu", None),
    "prelu": ((3, 50, 30), "prelu", None),
    "elu": ((1, 41, 7), "elu", 1.5),
    "gelu": ((3, 40, 5), "gelu", None),
    "silu": ((1, 33, 16), "silu", None),
    "softplus": ((2, 17, 9), "softplus", None),
    "tanh": ((1, 20, 3), "tanh", None),
    "sigmoid": ((3, 11, 7), "sigmoid", None),
    "gated-tanh": ((3, 13, 30), "gated_tanh", None),
    "gated-tanh-narrow": ((2, 5, 2), "gated_tanh", None),
    "glu": ((2, 9, 22), "glu", None),
    "snake": ((3, 31, 5), "snake", None),
    "snake-wide": ((1, 3, 70), "snake", None),
    "four-axes": ((2, 3, 5, 3), "gelu", None),
    "long": ((1, 1201, 16), "snake", None),
}
CASES = tuple(
    Case(name, seed, {"shape": shape, "kind": kind, "alpha": alpha})
    for seed, (name, (shape, kind, alpha)) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward: numbers that keep clear of the bends, and reach into the tails."""
    s, rng = case.sizes, case.random()
    x = 2.5 * rng.standard_normal(s["shape"])
    arrays = {"x": (x + np.copysign(0.01, x)).astype(dtype)}
    if s["kind"] in LEARNED:
        arrays["a"] = rng.uniform(0.3, 1.5, s["shape"][-1]).astype(dtype)
    return arrays, {"kind": s["kind"], "alpha": s["alpha"]}
