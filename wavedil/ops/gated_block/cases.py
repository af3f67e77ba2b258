"""Sizes, seeds and tolerances for gated_block."""

from wavedil.ops import gated_block
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "causal", "steps")

# name: batch, time, residual, dilation channels, skip, kernel, dilation, bias, condition, condition channels
_SIZES = {
    "one-sample": (1, 1, 1, 1, 1, 2, 1, True, None, 0),
    "time-below-dilation": (3, 5, 3, 3, 5, 2, 8, True, None, 0),
    "kernel-1": (3, 17, 30, 3, 16, 1, 1, True, None, 0),
    "kernel-3": (1, 33, 16, 16, 16, 3, 2, True, None, 0),
    "kernel-5-no-bias": (1, 41, 3, 16, 30, 5, 4, False, None, 0),
    "odd-30": (3, 29, 30, 30, 30, 2, 4, True, None, 0),
    "wavenet-32": (3, 203, 32, 32, 32, 2, 16, True, None, 0),
    "wavenet-32-shorter": (3, 194, 32, 32, 32, 2, 16, True, None, 0),  # the same buffers, used less far
    "long": (1, 1201, 16, 16, 16, 2, 64, True, None, 0),
    "global-condition": (3, 23, 16, 3, 5, 2, 2, True, "global", 4),
    "local-condition": (3, 23, 5, 16, 16, 3, 2, True, "local", 7),
    "global-long": (1, 1201, 3, 16, 3, 2, 4, False, "global", 30),
    "local-one-sample": (1, 1, 16, 1, 3, 4, 2, False, "local", 1),
    "local-wide": (3, 101, 32, 32, 32, 2, 8, True, "local", 32),
}
_NAMES = (
    "batch",
    "time",
    "residual",
    "dilated",
    "skip",
    "kernel",
    "dilation",
    "bias",
    "condition",
    "condition_channels",
)
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    r, d, skip, cc = s["residual"], s["dilated"], s["skip"], s["condition_channels"]

    def random(*shape, fan=1):
        return (rng.standard_normal(shape) / fan**0.5).astype(dtype)

    def bias(n):
        return random(n) if s["bias"] else None

    arrays = {
        "x": random(s["batch"], s["time"], r),
        "conv_weight": random(s["kernel"], r, 2 * d, fan=s["kernel"] * r),
        "conv_bias": bias(2 * d),
        "residual_weight": random(d, r, fan=d),
        "residual_bias": bias(r),
        "skip_weight": random(d, skip, fan=d),
        "skip_bias": bias(skip),
    }
    if s["condition"]:
        rows = (s["batch"], s["time"]) if s["condition"] == "local" else (s["batch"],)
        arrays["condition"] = random(*rows, cc)
        arrays["condition_weight"] = random(cc, 2 * d, fan=cc)
    return arrays, {"dilation": s["dilation"]}


def stream(arrays, settings):
    """A fresh state, what is fed in pieces, and step's other arguments."""
    state = gated_block.init_state(arrays["x"].shape[0], arrays["conv_weight"], **settings)
    pieces = ("x", "condition") if arrays.get("condition") is not None and arrays["condition"].ndim == 3 else ("x",)
    return state, pieces, {name: a for name, a in arrays.items() if name not in pieces} | settings
