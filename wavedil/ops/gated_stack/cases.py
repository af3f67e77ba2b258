"""Sizes, seeds and tolerances for gated_stack.

The generic suites know ``forward`` and ``backward``; this family has ``loss_and_grads``, and a suite of its own in
tests/ops/test_gated_stack.py. Seeds are such that no ReLU's input lies within rounding of zero, where two programs may
take either side, and that no gradient is all zeros; a test there sees to it.
"""

from wavedil.ops import gated_stack
from wavedil.ops.contract import Case

SUITES = ()

_TWICE_TEN = tuple(2**i for i in range(10)) * 2
# name: batch, time, dilations, kernel, residual, dilation, skip, end, classes, condition, its channels, weights
_SIZES = {
    "one-sample": (1, 1, (1,), 2, 3, 1, 3, 3, 7, None, 0, False),
    "one-sample-batch": (3, 1, (1, 2), 2, 16, 16, 16, 16, 256, None, 0, True),
    "single-channels": (3, 50, (1, 2), 2, 1, 1, 1, 1, 2, None, 0, False),
    "below-dilation": (3, 5, (8, 1, 16), 2, 3, 24, 30, 3, 30, None, 0, True),
    "dilation-is-time": (1, 16, (16, 15, 17), 3, 24, 3, 24, 30, 7, None, 0, False),
    "kernel-1": (3, 17, (1, 4), 1, 30, 24, 3, 16, 30, None, 0, False),
    "kernel-3": (1, 41, (1, 2, 4), 3, 16, 16, 16, 16, 30, None, 0, True),
    "kernel-4": (3, 29, (3, 1), 4, 5, 7, 9, 11, 300, None, 0, False),
    "kernel-5": (1, 61, (1, 5, 7), 5, 3, 16, 30, 24, 30, None, 0, True),
    "tile-below-chunk": (1, 95, (1, 2, 4, 8), 2, 32, 32, 32, 32, 256, None, 0, False),
    "one-chunk": (3, 96, (1, 2, 4, 8), 2, 32, 24, 32, 30, 256, None, 0, True),
    "one-chunk-and-a-row": (3, 97, (1, 2, 4, 8), 2, 24, 32, 30, 32, 7, None, 0, False),
    "two-chunks-and-a-row": (1, 193, (1, 64, 100), 3, 16, 16, 30, 16, 30, None, 0, True),
    "above-past": (1, 500, (150, 1, 3), 2, 5, 3, 7, 3, 30, None, 0, False),
    "wide": (1, 97, (1, 2), 2, 64, 64, 64, 64, 256, None, 0, False),
    "twenty-blocks": (2, 300, _TWICE_TEN, 2, 16, 16, 16, 16, 256, None, 0, True),
    "global": (3, 31, (1, 2, 4), 2, 5, 7, 3, 9, 30, "global", 4, True),
    "global-one-sample": (1, 1, (2, 1), 2, 16, 1, 3, 3, 7, "global", 1, False),
    "global-long": (2, 193, (1, 32), 3, 16, 24, 16, 16, 30, "global", 30, False),
    "local": (3, 31, (1, 2, 4), 2, 5, 7, 3, 9, 30, "local", 3, True),
    "local-one-sample": (1, 1, (2, 1), 2, 16, 1, 3, 3, 7, "local", 1, False),
    "local-long": (2, 193, (1, 32), 3, 16, 24, 16, 16, 30, "local", 30, False),
}
_SEEDS = {"single-channels": 22, "wide": 1, "global-one-sample": 2, "local-one-sample": 2}  # 0 else
_NAMES = (
    "batch", "time", "dilations", "kernel", "residual", "dilated", "skip", "end", "classes", "condition",
    "condition_channels", "weights",
)  # fmt: skip
CASES = tuple(
    Case(
        name, _SEEDS.get(name, 0), dict(zip(_NAMES, sizes, strict=True)),
        tolerance={"float32": 2e-5, "float64": 1e-10},
    )
    for name, sizes in _SIZES.items()
)  # fmt: skip


def inputs(case, dtype):
    """Arguments of loss_and_grads."""
    s, rng = case.sizes, case.random()
    shapes = gated_stack.parameter_shapes(
        dilations=s["dilations"], kernel_size=s["kernel"], residual_channels=s["residual"],
        dilation_channels=s["dilated"], skip_channels=s["skip"], end_channels=s["end"], classes=s["classes"],
        condition_channels=s["condition_channels"],
    )  # fmt: skip
    params = {}
    for name, shape in shapes.items():
        fan = 1
        if name.endswith("weight"):
            fan = shape[-2] * (shape[0] if len(shape) == 3 else 1) * (len(s["dilations"]) if ".skip." in name else 1)
        params[name] = (rng.standard_normal(shape) / fan**0.5).astype(dtype)
    rows = (s["batch"], s["time"])
    arguments = {"params": params, "codes": rng.integers(0, s["classes"], (s["batch"], s["time"] + 1))}
    if s["weights"]:
        weights = rng.uniform(0.5, 1.5, rows) * (rng.uniform(size=rows) < 0.7)
        weights[0, -1] = 1  # not all of them are zero
        arguments["weights"] = weights.astype(dtype)
    if s["condition"]:
        shape = (rows[: 1 + (s["condition"] == "local")]) + (s["condition_channels"],)
        arguments["condition"] = rng.standard_normal(shape).astype(dtype)
    return arguments, {"dilations": s["dilations"]}
