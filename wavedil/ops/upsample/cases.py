"""Sizes, seeds and tolerances for upsample."""

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear")

# name: batch, time, inputs, kind, factor, kernel, outputs, bias
_SIZES = {
    "one-sample": (1, 1, 1, "nearest", 1, 0, 1, False),
    "short": (3, 5, 3, "transposed", 2, 4, 5, True),
    "nearest": (3, 7, 30, "nearest", 5, 0, 30, False),
    "kernel-below-factor": (1, 11, 16, "transposed", 4, 3, 8, True),
    "kernel-odd": (3, 9, 5, "transposed", 3, 7, 16, True),
    "kernel-beyond-the-end": (1, 2, 3, "transposed", 2, 9, 3, False),
    "long": (1, 1201, 16, "transposed", 2, 4, 16, True),
}
_NAMES = ("batch", "time", "inputs", "kind", "factor", "kernel", "outputs", "bias")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True))) for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    arrays = {"x": rng.standard_normal((s["batch"], s["time"], s["inputs"])).astype(dtype)}
    if s["kind"] == "transposed":
        arrays["w"] = rng.standard_normal((s["kernel"], s["inputs"], s["outputs"])).astype(dtype)
    if s["bias"]:
        arrays["b"] = rng.standard_normal(s["outputs"]).astype(dtype)
    return arrays, {"kind": s["kind"], "factor": s["factor"]}
