"""Sizes, seeds and tolerances for embedding."""

import numpy as np

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear")

# name: shape of the codes, classes, channels, dtype of the codes
_SIZES = {
    "one-sample": ((1, 1), 1, 1, np.uint8),
    "short": ((3, 5), 7, 3, np.int64),
    "odd-channels": ((3, 41), 256, 30, np.uint8),
    "wavenet-32": ((3, 203), 256, 32, np.int32),
    "long": ((1, 1201), 256, 16, np.int16),
    "speakers": ((3,), 2, 16, np.int64),
    "unseen-rows": ((1, 4), 300, 5, np.uint16),
}
CASES = tuple(
    Case(name, seed, {"codes": shape, "classes": classes, "channels": channels, "integer": integer})
    for seed, (name, (shape, classes, channels, integer)) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    codes = rng.integers(0, s["classes"], s["codes"]).astype(s["integer"])
    return {"codes": codes, "table": rng.standard_normal((s["classes"], s["channels"])).astype(dtype)}, {}
