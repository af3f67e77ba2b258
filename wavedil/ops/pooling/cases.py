"""Sizes, seeds and tolerances for pooling."""

import numpy as np

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: kind, batch, time, channels, hidden, sample_weight
_SIZES = {
    "one-sample": ("average", 1, 1, 1, 0, None),
    "short": ("attentive", 3, 5, 3, 9, "floats"),
    "one-row": ("attentive", 3, 1, 3, 10, None),
    "average": ("average", 3, 101, 30, 0, "mask"),
    "statistics": ("statistics", 3, 203, 30, 0, "lengths"),
    "attentive-32": ("attentive", 3, 203, 32, 16, "lengths"),
    "mask": ("attentive", 1, 290, 5, 33, "mask"),
    "long": ("attentive", 1, 1201, 16, 16, None),
    "far-from-zero": ("statistics", 1, 1201, 3, 0, "floats"),
}
_NAMES = ("kind", "batch", "time", "channels", "hidden", "sample_weight")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    rows = (s["batch"], s["time"])
    arrays = {"x": (rng.standard_normal((*rows, s["channels"])) + (case.name == "far-from-zero") * 5).astype(dtype)}
    if s["kind"] == "attentive":
        arrays["w"] = (rng.standard_normal((s["channels"], s["hidden"])) / s["channels"] ** 0.5).astype(dtype)
        arrays["b"] = rng.standard_normal(s["hidden"]).astype(dtype)
        arrays["v"] = rng.standard_normal(s["hidden"]).astype(dtype)
    if s["sample_weight"] == "floats":
        arrays["sample_weight"] = rng.uniform(0.1, 2.0, rows).astype(dtype)
    elif s["sample_weight"] == "lengths":
        arrays["sample_weight"] = np.arange(s["time"]) < rng.integers(1, s["time"] + 1, (s["batch"], 1))
    elif s["sample_weight"] == "mask":
        arrays["sample_weight"] = (rng.random(rows) < 0.6) | (np.arange(s["time"]) == 0)
    return arrays, {"kind": s["kind"]}
