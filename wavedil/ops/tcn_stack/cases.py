"""Sizes and seeds for tcn_stack; its tests and benchmarks are its own, as it takes a mapping of parameters."""

import numpy as np

from wavedil.ops.contract import Case
from wavedil.ops.tcn_stack import Dropout, parameter_shapes

SUITES = ()

# name: batch, time, inputs, channels, kernel, dilations, outputs, classes of the input, loss, last, dropout
_SIZES = {
    "one-sample": (1, 1, 3, (4, 4), 8, (1, 2), 3, 0, "mse", False, None),
    "one-sample-last": (2, 1, 1, (3,), 2, (1,), 1, 0, "mse", True, None),
    "sequence": (3, 50, 2, (5, 5, 7), 3, (1, 2, 4), 2, 0, "huber", False, None),
    "last": (3, 50, 2, (5, 5, 7), 3, (1, 2, 4), 2, 0, "binary", True, None),
    "dropped": (3, 40, 2, (5, 5), 3, (1, 2), 2, 0, "mse", False, Dropout(0.3, 5, 7)),
    "dropped-last": (18, 37, 6, (6, 6, 20), 4, (1, 2, 4), 1, 11, "mae", True, Dropout(0.2, 5, 7)),
    "channels-dropped": (2, 40, 3, (5, 5), 2, (1, 4), 2, 0, "mse", False, Dropout(0.4, 1, 2, True)),
    "codes": (2, 300, 6, (20, 20), 2, (1, 3), 19, 11, "cross_entropy", False, None),
    "codes-last": (2, 300, 6, (20, 40), 2, (2, 6), 19, 11, "cross_entropy", True, Dropout(0.2)),
    "kernel-1": (2, 9, 3, (4, 4), 1, (1, 1), 2, 0, "mse", True, None),
    "time-below-dilation": (2, 7, 3, (4, 4, 4, 4), 8, (1, 20, 400, 8), 3, 0, "mse", True, None),
    "decreasing-dilations": (2, 61, 3, (4, 4, 4), 3, (9, 6, 1), 3, 0, "mse", True, None),
    "wide": (2, 450, 3, (24,) * 4, 8, (1, 2, 4, 8), 3, 0, "binary", False, None),
    "wide-last": (2, 450, 3, (24,) * 4, 8, (1, 2, 4, 8), 3, 0, "mse", True, None),
}
_NAMES = ("batch", "time", "inputs", "channels", "kernel", "dilations", "outputs", "classes", "loss", "last", "dropout")
CASES = tuple(
    Case(name, seed, dict(zip(_NAMES, sizes, strict=True)), {"float32": 2e-4, "float64": 1e-11})
    for seed, (name, sizes) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of loss_and_grads."""
    s, rng = case.sizes, case.random()
    shapes = parameter_shapes(
        inputs=s["inputs"], channels=s["channels"], kernel_size=s["kernel"], outputs=s["outputs"], classes=s["classes"]
    )
    params = {}
    for name, shape in shapes.items():
        scale = 0.3 if name.endswith("bias") else (2 / max(1, np.prod(shape[:-1]))) ** 0.5
        params[name] = (scale * rng.standard_normal(shape)).astype(dtype)
    rows = (s["batch"], s["time"])
    x = rng.integers(0, s["classes"], rows) if s["classes"] else rng.standard_normal((*rows, s["inputs"])).astype(dtype)
    rows = rows[:1] if s["last"] else rows
    if s["loss"] == "cross_entropy":
        targets = rng.integers(0, s["outputs"], rows)
    else:
        targets = rng.uniform(0, 1, (*rows, s["outputs"])).astype(dtype)
    arrays = {"params": params, "x": x, "targets": targets, "sample_weight": rng.uniform(0.1, 1, rows).astype(dtype)}
    return arrays, {name: s[name] for name in ("dilations", "loss", "last", "dropout")}
