"""Sizes, seeds and tolerances for cross_entropy."""

import numpy as np

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: batch, time, channels, classes, bias, weights, scale of the logits, dtype of the targets, and where there are
# any, label smoothing and the ignored target
_SIZES = {
    "one-sample": (1, 1, 1, 2, True, None, 1.0, np.uint8),
    "one-class": (1, 3, 3, 1, True, None, 1.0, np.uint8),
    "short": (3, 5, 3, 7, False, "floats", 1.0, np.int64),
    "odd": (1, 41, 30, 30, True, "mask", 1.0, np.int32),
    "wavenet-32": (3, 203, 32, 256, True, "floats", 1.0, np.uint8),
    "no-bias-256": (1, 50, 16, 256, False, None, 1.0, np.int64),
    "long": (1, 1201, 16, 256, True, "mask", 1.0, np.uint8),
    "confident": (3, 20, 16, 16, True, None, 30.0, np.int16),
    "smooth": (2, 7, 5, 9, True, "floats", 1.0, np.uint8, 0.1),
    "smooth-256": (1, 203, 16, 256, False, "mask", 1.0, np.int64, 0.3),
    "ignored": (2, 5, 3, 7, True, "floats", 1.0, np.int64, 0.1, -100),
}
_NAMES = ("batch", "time", "channels", "classes", "bias", "sample_weight", "scale", "integer", "smoothing", "ignored")
_DEFAULTS = {"smoothing": 0.0, "ignored": None}
CASES = tuple(
    Case(name, seed, _DEFAULTS | dict(zip(_NAMES, sizes, strict=False)))
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    rows = (s["batch"], s["time"])
    arrays = {
        "x": rng.standard_normal((*rows, s["channels"])).astype(dtype),
        "w": (s["scale"] * rng.standard_normal((s["channels"], s["classes"])) / s["channels"] ** 0.5).astype(dtype),
        "b": rng.standard_normal(s["classes"]).astype(dtype) if s["bias"] else None,
        "targets": rng.integers(0, s["classes"], rows).astype(s["integer"]),
    }
    if s["sample_weight"] == "floats":
        arrays["sample_weight"] = rng.uniform(0.1, 2.0, rows).astype(dtype)
    elif s["sample_weight"] == "mask":
        arrays["sample_weight"] = np.arange(s["time"]) < rng.integers(1, s["time"] + 1, (s["batch"], 1))
    if s["ignored"] is not None:
        arrays["targets"][:, 1::2] = s["ignored"]
    return arrays, {"ignore_index": s["ignored"], "label_smoothing": s["smoothing"]}
