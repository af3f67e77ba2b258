"""Sizes, seeds and tolerances for separable, in one dimension and in two."""

from wavedil.ops import separable
from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear", "causal", "steps")

# name: batch, time (rows), width (None: one dimension), channels in, channels out, kernel, dilation, padding, bias
_SIZES = {
    "one-sample": (1, 1, None, 1, 1, 2, 1, "causal", True),
    "time-below-dilation": (3, 5, None, 3, 5, 2, 8, "causal", True),
    "kernel-1": (2, 17, None, 30, 7, 1, 1, "causal", True),
    "same-odd": (3, 20, None, 3, 16, 4, 3, "same", False),
    "valid-one-row": (2, 9, None, 16, 1, 3, 4, "valid", True),
    "pads-5-2": (2, 13, None, 30, 3, 3, 2, (5, 2), True),
    "wavenet-32": (2, 203, None, 32, 64, 2, 16, "causal", True),
    "long": (1, 1201, None, 16, 16, 3, 64, "causal", True),
    "taps-apart": (1, 213, None, 17, 16, 3, 101, "causal", True),
    "image": (2, 9, 14, 16, 32, (3, 3), 2, "same", True),
    "image-odd": (2, 7, 5, 3, 17, (2, 4), (3, 1), "same", False),
    "image-causal": (1, 7, 6, 33, 16, (3, 2), (4, 2), "causal", True),
    "image-pads": (1, 6, 8, 3, 3, (3, 2), (2, 1), ((5, 0), (1, 2)), True),
}
_NAMES = ("batch", "time", "width", "inputs", "outputs", "kernel", "dilation", "padding", "bias")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    place, kernel = ((s["time"],), (s["kernel"],)) if s["width"] is None else ((s["time"], s["width"]), s["kernel"])
    arrays = {
        "x": rng.standard_normal((s["batch"], *place, s["inputs"])).astype(dtype),
        "depth": rng.standard_normal((*kernel, 1, s["inputs"])).astype(dtype),
        "point": rng.standard_normal((s["inputs"], s["outputs"])).astype(dtype),
    }
    if s["bias"]:
        arrays["b"] = rng.standard_normal(s["outputs"]).astype(dtype)
    return arrays, {name: s[name] for name in ("dilation", "padding")}


def stream(arrays, settings):
    """A fresh state, what is fed in pieces, and step's other arguments; None for what cannot be fed so."""
    if settings["padding"] != "causal" or arrays["x"].ndim != 3:
        return None
    x, rest = arrays["x"], {name: a for name, a in arrays.items() if name != "x"}
    dilation = {"dilation": settings["dilation"]}
    return separable.init_state(x.shape[0], arrays["depth"], **dilation), ("x",), rest | dilation
