"""Sizes, seeds and tolerances for conv2d."""

from wavedil.ops import conv2d
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear", "causal", "steps")

# name: batch, time (rows), width, channels in, channels out, kernel, dilation, padding, groups, bias, and where they
# are not zeros and 1, what the padding is and the stride
_SIZES = {
    "one-pixel": (1, 1, 1, 1, 1, (3, 3), 1, "same", 1, True),
    "image-below-dilation": (2, 4, 3, 3, 5, (3, 3), 5, "same", 1, True),
    "kernel-1": (2, 3, 7, 30, 7, (1, 1), 1, "valid", 1, True),
    "same-3x3": (2, 9, 14, 16, 32, (3, 3), 2, "same", 1, True),
    "same-even-kernel": (3, 6, 5, 3, 16, (2, 4), (3, 1), "same", 1, False),
    "valid-5x3": (1, 11, 10, 32, 30, (5, 3), (2, 3), "valid", 1, True),
    "valid-one-pixel": (2, 5, 7, 16, 1, (3, 3), (2, 3), "valid", 1, True),
    "pads": (1, 6, 8, 3, 3, (3, 2), (2, 1), ((5, 0), (1, 2)), 1, True),
    "pads-wider-than-taps": (1, 3, 4, 3, 16, (2, 2), 1, ((3, 2), (4, 3)), 1, True),
    "grids-of-unequal-rows": (1, 7, 33, 17, 16, (3, 2), (4, 2), "causal", 1, True),
    "row": (2, 1, 213, 16, 16, (1, 3), (1, 101), "same", 1, True),
    "wavenet-32": (1, 203, 2, 32, 64, (2, 1), (16, 1), "causal", 1, True),
    "long": (1, 1201, 3, 16, 16, (2, 3), (64, 1), "causal", 1, True),
    "groups-2": (2, 6, 5, 6, 10, (3, 3), 2, "causal", 2, True),
    "groups-wide": (1, 5, 9, 64, 32, (2, 2), 1, "causal", 2, True),
    "groups-12-of-2": (1, 4, 6, 24, 36, (3, 2), 1, "same", 12, False),
    "depthwise": (2, 8, 9, 30, 30, (3, 3), 2, "causal", 30, True),
    "depthwise-multiplier": (1, 5, 6, 16, 32, (3, 1), 1, "valid", 16, True),
    "reflect": (2, 5, 6, 3, 4, (3, 3), 2, "same", 1, True, "reflect", 1),
    "replicate": (1, 4, 2, 16, 7, (3, 2), (2, 3), "causal", 1, True, "replicate", 1),
    "stride-2": (2, 7, 6, 3, 5, (3, 3), 1, "same", 1, True, "zeros", 2),
    "stride-1-3-reflect": (1, 6, 8, 4, 6, (2, 3), 1, ((1, 0), (2, 2)), 2, False, "reflect", (1, 3)),
}
_NAMES = ("batch", "time", "width", "inputs", "outputs", "kernel", "dilation", "padding", "groups", "bias",
          "padding_mode", "stride")  # fmt: skip
CASES = tuple(
    Case(name, seed, {"padding_mode": "zeros", "stride": 1} | dict(zip(_NAMES, sizes, strict=False)))
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    arrays = {
        "x": rng.standard_normal((s["batch"], s["time"], s["width"], s["inputs"])).astype(dtype),
        "w": rng.standard_normal((*s["kernel"], s["inputs"] // s["groups"], s["outputs"])).astype(dtype),
    }
    if s["bias"]:
        arrays["b"] = rng.standard_normal(s["outputs"]).astype(dtype)
    return arrays, {name: s[name] for name in ("dilation", "padding", "groups", "padding_mode", "stride")}


def stream(arrays, settings):
    """A fresh state, what is fed in pieces, and step's other arguments; None for a case that is not causal."""
    if (settings["padding"], settings["padding_mode"], settings["stride"]) != ("causal", "zeros", 1):
        return None
    options = {name: settings[name] for name in ("dilation", "groups")}
    x, rest = arrays["x"], {name: a for name, a in arrays.items() if name != "x"}
    return conv2d.init_state(x.shape[0], x.shape[2], arrays["w"], **options), ("x",), rest | options
