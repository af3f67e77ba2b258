"""Sizes, seeds and tolerances for norm."""

import numpy as np

from wavedil.ops import norm
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: shape, kind, scale, shift, fixed, groups
_SIZES = {
    "one-channel": ((1, 5, 1), "batch", True, True, False),
    "short": ((3, 5, 3), "layer", True, True, False),
    "batch": ((3, 41, 30), "batch", True, True, False),
    "batch-plain": ((2, 7, 16), "batch", False, False, False),
    "batch-fixed": ((3, 9, 5), "batch", True, True, True),
    "batch-four-axes": ((2, 4, 5, 3), "batch", True, False, False),
    "layer": ((2, 33, 30), "layer", True, True, False),
    "layer-plain": ((1, 3, 17), "layer", False, False, False),
    "layer-wide": ((2, 3, 200), "layer", True, True, False),
    "rms": ((3, 20, 7), "rms", True, False, False),
    "rms-one-channel": ((3, 4, 1), "rms", True, False, False),
    "weight": ((8, 24, 24), "weight", True, False, False),
    "weight-odd": ((3, 5, 7), "weight", True, False, False),
    "weight-plain": ((2, 1, 3), "weight", False, False, False),
    "group": ((3, 11, 12), "group", True, True, False, 4),
    "group-plain": ((2, 4, 6), "group", False, False, False, 2),
    "group-of-all": ((2, 3, 5, 6), "group", True, True, False, 1),
    "group-of-one": ((2, 50, 3), "group", True, True, False, 3),
    "long": ((1, 1201, 16), "batch", True, True, False),
    "long-rows": ((1, 1201, 16), "layer", True, True, False),
}
_NAMES = ("shape", "kind", "scale", "shift", "fixed", "groups")
CASES = tuple(
    Case(name, seed, {"groups": 1} | dict(zip(_NAMES, sizes, strict=False)))
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    channels = s["shape"][-1]
    arrays = {"x": (3 * rng.standard_normal(s["shape"]) + rng.standard_normal(channels)).astype(dtype)}
    if s["scale"]:
        arrays["scale"] = rng.uniform(0.5, 1.5, channels).astype(dtype)
    if s["shift"]:
        arrays["shift"] = rng.standard_normal(channels).astype(dtype)
    settings = {"kind": s["kind"], "training": not s["fixed"], "groups": s["groups"]}
    if s["fixed"]:
        mean, var = rng.standard_normal(channels), rng.uniform(0.5, 2, channels)
        settings["statistics"] = norm.Statistics(mean, var, np.ones(1, np.int64))
    return arrays, settings
