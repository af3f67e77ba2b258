"""Kinds of update, sizes, seeds and tolerances."""

import numpy as np

from wavedil.ops.contract import Case

SUITES = ()  # no backward and no stream: tests/ops/test_update.py is the suite

_MANY = 65536  # one chunk of the CPU kernel

# name: update, elements, steps, with average, settings
_KINDS = {
    "sgd-1": ("sgd", 1, 3, False, {"lr": 0.1}),
    "sgd-plain": ("sgd", 1000, 5, True, {"lr": 0.05, "decay": 0.9, "scale": 0.3}),
    "sgd-momentum": ("sgd", 1023, 30, False, {"lr": 0.02, "momentum": 0.9}),
    "sgd-momentum-average": ("sgd", 2 * _MANY + 5, 4, True, {"lr": 0.02, "momentum": 0.95, "decay": 0.99}),
    "adam-1": ("adam", 1, 1, False, {"lr": 0.01}),
    "adam": ("adam", 1003, 60, False, {"lr": 2e-3}),
    "adam-average": ("adam", _MANY, 3, True, {"lr": 2e-3, "decay": 0.999, "scale": 0.01}),
    "adam-other-betas": ("adam", 77, 20, True, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "decay": 0.5}),
    "adam-betas-0": ("adam", 9, 5, False, {"lr": 0.01, "betas": (0.0, 0.0)}),
    "adamw-3": ("adamw", 3, 7, True, {"lr": 0.01, "decay": 0.9}),
    "adamw": ("adamw", 4096, 60, True, {"lr": 2e-3, "weight_decay": 0.1, "decay": 0.99}),
    "adamw-chunks": ("adamw", 3 * _MANY + 17, 3, True, {"lr": 2e-3, "decay": 0.99, "scale": 0.5}),
    "sgd-nesterov": ("sgd", 1025, 30, True, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "decay": 0.9}),
    "sgd-nesterov-7": ("sgd", 7, 3, False, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "adam-amsgrad-5": ("adam", 5, 3, True, {"lr": 2e-3, "betas": (0.9, 0.1), "decay": 0.9}),
    "adam-amsgrad": ("adam", 1003, 40, False, {"lr": 2e-3, "betas": (0.9, 0.9)}),
    "adamw-amsgrad": ("adamw", _MANY + 3, 8, True, {"lr": 2e-3, "betas": (0.8, 0.5), "decay": 0.99, "scale": 0.5}),
}
_NAMES = ("update", "elements", "steps", "average", "settings")
CASES = tuple(Case(name, i, dict(zip(_NAMES, kind, strict=True))) for i, (name, kind) in enumerate(_KINDS.items()))


def inputs(case, dtype):
    """Weights, moments and average (a dict of arrays to update), and the gradients of all steps."""
    s, rng = case.sizes, case.random()
    moments = {"sgd": ("velocity",) if s["settings"].get("momentum") else ()}.get(s["update"], ("first", "second"))
    weights = rng.standard_normal(s["elements"]).astype(dtype)
    if "amsgrad" in case.name:
        moments = (*moments, "largest")
    arrays = {"weights": weights} | {name: np.zeros_like(weights) for name in moments}
    if s["average"]:
        arrays["average"] = weights.copy()
    # Of very different sizes, as the gradients of a network are, and some exactly zero.
    sizes = 10.0 ** rng.uniform(-6, 1, s["elements"]) * (rng.random(s["elements"]) > 0.05)
    sizes[0] = 1
    return arrays, [(sizes * rng.standard_normal(s["elements"])).astype(dtype) for _ in range(s["steps"])]
