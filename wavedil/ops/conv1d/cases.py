"""Sizes, seeds and tolerances for conv1d."""

from wavedil.ops import conv1d
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear", "causal", "steps")

# name: batch, time, channels in, channels out, kernel, dilation, padding, groups, bias, and where they are not
# zeros and 1, what the padding is and the stride
_SIZES = {
    "one-sample": (1, 1, 1, 1, 2, 1, "causal", 1, True),
    "time-below-dilation": (3, 5, 3, 5, 2, 8, "causal", 1, True),
    "kernel-1": (3, 17, 30, 7, 1, 1, "causal", 1, True),
    "kernel-3-same": (1, 33, 16, 32, 3, 2, "same", 1, True),
    "kernel-4-same-odd": (3, 20, 3, 16, 4, 3, "same", 1, False),
    "kernel-5-valid": (1, 41, 32, 30, 5, 4, "valid", 1, True),
    "valid-one-row": (3, 9, 16, 1, 3, 4, "valid", 1, True),
    "pads-5-2": (3, 13, 30, 3, 3, 2, (5, 2), 1, True),
    "pads-wider-than-taps": (1, 4, 3, 16, 2, 1, (6, 3), 1, True),
    "pad-right-only": (1, 12, 1, 30, 3, 2, (0, 4), 1, False),
    "wavenet-32": (3, 203, 32, 64, 2, 16, "causal", 1, True),
    "long": (1, 1201, 16, 16, 2, 64, "causal", 1, True),
    "groups-2": (3, 23, 6, 10, 3, 2, "causal", 2, True),
    "groups-wide": (1, 50, 64, 32, 2, 4, "causal", 2, True),
    "groups-3-same": (1, 19, 3, 30, 2, 2, "same", 3, False),
    "depthwise": (3, 40, 30, 30, 5, 2, "causal", 30, True),
    "depthwise-multiplier": (1, 21, 16, 32, 3, 1, "valid", 16, True),
    "depthwise-1": (1, 7, 1, 1, 4, 1, "causal", 1, False),
    "reflect": (2, 9, 5, 3, 3, 2, "same", 1, True, "reflect", 1),
    "replicate": (2, 3, 16, 7, 4, 3, "causal", 1, True, "replicate", 1),
    "stride-2": (3, 12, 3, 5, 3, 1, "causal", 1, True, "zeros", 2),
    "stride-3-reflect": (2, 14, 6, 4, 3, 2, (4, 3), 2, False, "reflect", 3),
    "stride-beyond": (1, 4, 3, 2, 2, 1, "valid", 1, True, "zeros", 5),
}
_NAMES = ("batch", "time", "inputs", "outputs", "kernel", "dilation", "padding", "groups", "bias", "padding_mode",
          "stride")  # fmt: skip
CASES = tuple(
    Case(name, seed, {"padding_mode": "zeros", "stride": 1} | dict(zip(_NAMES, sizes, strict=False)))
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    arrays = {
        "x": rng.standard_normal((s["batch"], s["time"], s["inputs"])).astype(dtype),
        "w": rng.standard_normal((s["kernel"], s["inputs"] // s["groups"], s["outputs"])).astype(dtype),
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
    return conv1d.init_state(x.shape[0], arrays["w"], **options), ("x",), rest | options
