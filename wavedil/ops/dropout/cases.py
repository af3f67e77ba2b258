"""Sizes, seeds and tolerances for dropout."""

from wavedil.ops.contract import Case

SUITES = ("parity", "gradients", "linear")

# name: shape, rate, whole channels
_SIZES = {
    "one-sample": ((1, 1, 1), 0.0, False),
    "short": ((3, 5, 3), 0.5, False),
    "rows": ((2, 41, 30), 0.2, False),
    "channels": ((3, 9, 30), 0.4, True),
    "four-axes": ((2, 3, 4, 5), 0.9, False),
    "channels-four-axes": ((2, 3, 4, 7), 0.5, True),
    "long": ((1, 1201, 16), 0.3, False),
}
CASES = tuple(
    Case(name, seed, {"shape": shape, "rate": rate, "channels": channels})
    for seed, (name, (shape, rate, channels)) in enumerate(_SIZES.items())
)


def inputs(case, dtype):
    """Arguments of forward."""
    s, rng = case.sizes, case.random()
    x = rng.standard_normal(s["shape"]).astype(dtype)
    return {"x": x}, {"rate": s["rate"], "channels": s["channels"], "seed": case.seed, "step": 5, "layer": 2}
