"""Sizes, seeds and tolerances for attention."""

from wavedil.ops import attention
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "causal", "steps")

# name: batch, time, heads, channels of a head, window
_SIZES = {
    "one-sample": (1, 1, 1, 1, 1),
    "window-1": (3, 7, 2, 5, 1),
    "window-2": (1, 9, 1, 3, 2),
    "short": (3, 20, 3, 10, 64),
    "window-16": (3, 101, 2, 16, 16),
    "long": (1, 701, 2, 8, 40),
    "wavenet-32": (1, 203, 2, 16, 64),
    "wide": (1, 131, 1, 33, 100),
    "whole-past": (1, 203, 2, 17, 1000),
}
_NAMES = ("batch", "time", "heads", "channels", "window")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    x = rng.standard_normal((s["batch"], s["time"], 3 * s["heads"] * s["channels"])).astype(dtype)
    return {"x": x}, {"heads": s["heads"], "window": s["window"]}


def stream(arrays, settings):
    """A fresh state, what is fed in pieces, and step's other arguments."""
    x = arrays["x"]
    return attention.init_state(len(x), x.shape[2], window=settings["window"], dtype=x.dtype), ("x",), settings
