"""Sizes, seeds and tolerances for window_pooling."""

import math

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients")

# name: kind, batch, extent, channels, window, stride, padding
_SIZES = {
    "one-sample": ("max", 1, (1,), 1, 1, None, "valid"),
    "short": ("average", 3, (5,), 3, 2, None, "valid"),
    "max": ("max", 3, (101,), 30, 3, 2, "same"),
    "overlap": ("average", 1, (97,), 16, 7, 1, "causal"),
    "max-overlap": ("max", 3, (50,), 5, 4, 3, "causal"),
    "stride-beyond-window": ("max", 1, (40,), 3, 2, 5, (1, 0)),
    "window-beyond-time": ("average", 1, (3,), 3, 9, 1, (8, 8)),
    "global-max": ("max", 3, (61,), 30, None, None, "valid"),
    "global-average": ("average", 1, (33,), 5, None, None, "valid"),
    "image": ("max", 3, (9, 11), 5, 2, None, "valid"),
    "image-average": ("average", 1, (13, 8), 16, (3, 2), (2, 1), "same"),
    "image-causal": ("max", 1, (7, 10), 3, (4, 3), 1, "causal"),
    "image-padded": ("average", 3, (6, 5), 1, 3, 2, ((1, 2), (0, 1))),
    "image-global": ("max", 3, (6, 7), 3, None, None, "valid"),
    "long": ("max", 1, (1201,), 16, 4, None, "valid"),
}
_NAMES = ("kind", "batch", "extent", "channels", "window", "stride", "padding")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward: numbers a hundredth apart, so that a small change makes no other one the largest."""
    s = case.sizes
    shape = (s["batch"], *s["extent"], s["channels"])
    count = math.prod(shape)
    arrays = {"x": ((case.random().permutation(count) - count / 2) / 100).reshape(shape).astype(dtype)}
    return arrays, {name: s[name] for name in ("kind", "window", "stride", "padding")}
