"""Sizes, seeds and tolerances for loss."""

import numpy as np

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: shape, kind, delta, sample_weight
_SIZES = {
    "one-sample": ((1, 1, 1), "mse", None, None),
    "short": ((3, 5, 3), "binary", None, "floats"),
    "binary": ((2, 33, 1), "binary", None, "mask"),
    "mse": ((3, 40, 5), "mse", None, "floats"),
    "mae": ((1, 41, 30), "mae", None, None),
    "huber": ((3, 20, 7), "huber", 0.7, "mask"),
    "huber-default": ((1, 19, 1), "huber", None, "floats"),
    "four-axes": ((2, 3, 4, 5), "mse", None, None),
    "long": ((1, 1201, 16), "mse", None, "floats"),
}
CASES = tuple(
    Case(name, seed, dict(zip(("shape", "kind", "delta", "sample_weight"), sizes, strict=True)))
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward: differences that keep clear of the bends at 0 and delta."""
    s, rng = case.sizes, case.random()
    shape = s["shape"]
    if s["kind"] == "binary":
        x, targets = 4 * rng.standard_normal(shape), rng.choice([0.0, 0.3, 1.0], shape)
    else:
        targets, delta = rng.standard_normal(shape), s["delta"] or 1.0
        distance = rng.uniform(0.05, 1.8, shape) * delta
        distance += np.where(np.abs(distance - delta) < 0.02, 0.05, 0)
        x = targets + rng.choice([-1, 1], shape) * distance
    arrays = {"x": x.astype(dtype), "targets": targets.astype(dtype)}
    if s["sample_weight"] == "floats":
        arrays["sample_weight"] = rng.uniform(0.1, 2.0, shape[:-1]).astype(dtype)
    elif s["sample_weight"] == "mask":
        arrays["sample_weight"] = rng.uniform(size=shape[:-1]) < 0.7
    return arrays, {"kind": s["kind"], "delta": s["delta"]}
