"""Networks, sizes, seeds and tolerances for gated_stack.

The generic suites know ``forward`` and ``backward``; this family has ``loss_and_grads``, and a suite of its own in
tests/ops/gated_stack. Seeds are such that no ReLU's input lies within rounding of zero, where two programs may take
either side, and that no gradient is all zeros; a test there sees to it.
"""

from wavedil.ops import gated_stack
from wavedil.ops.contract import Case
from wavedil.ops.gated_stack.heads import Gaussian, Logistics, Regression, Softmax
from wavedil.ops.gated_stack.network import Codes, Condition, Network, Samples, Stack

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
_SEEDS = {  # 0 else
    "single-channels": 22, "wide": 1, "global-one-sample": 2, "local-one-sample": 2, "frames-held": 1,
    "three-stacks": 58,
}  # fmt: skip
_NAMES = (
    "batch", "time", "dilations", "kernel", "residual", "dilated", "skip", "end", "classes", "condition",
    "condition_channels", "weights",
)  # fmt: skip
_TOLERANCE = {"float32": 2e-5, "float64": 1e-10}


def _wavenet(s):
    condition = Condition(s["condition_channels"]) if s["condition"] else None
    return gated_stack.wavenet(
        s["dilations"], kernel_size=s["kernel"], channels=s["residual"], gate_channels=s["dilated"],
        skip_channels=s["skip"], end_channels=s["end"], classes=s["classes"], condition=condition,
    )  # fmt: skip


def _case(name, sizes):
    s = dict(zip(_NAMES, sizes, strict=True))
    return Case(name, _SEEDS.get(name, 0), s | {"network": _wavenet(s)}, tolerance=_TOLERANCE)


CASES = tuple(_case(name, sizes) for name, sizes in _SIZES.items())  # WaveNets

_WIDTHS = dict(channels=5, gate_channels=7, skip_channels=3)
_AMP = (
    Stack((1, 2, 4), 3, 16, 16, 0, "tanh"), Stack((1, 8), (2, 6), 8, 8, 0, "tanh"),
)  # fmt: skip
# name: batch, time, weights, network. Networks of every other kind of input, stack, head and condition.
_NETWORKS = {
    "condition-bias": (3, 31, True, Network(Codes(30), (Stack((1, 2, 4), 2, **_WIDTHS),), Softmax(30, 9),
                                            Condition(4, bias=True))),
    "frames-linear": (3, 31, True, Network(Codes(30), (Stack((1, 2, 4), 2, **_WIDTHS),), Softmax(30, 9),
                                           Condition(3, hop=7))),
    "frames-held": (2, 200, False, Network(Codes(30), (Stack((1, 32), 3, 16, 24, 16),), Softmax(30, 16),
                                           Condition(30, hop=64, interpolation="held", bias=True))),
    "frames-one-sample": (1, 1, False, Network(Codes(7), (Stack((2, 1), 2, 16, 2, 3),), Softmax(7, 5),
                                               Condition(2, hop=80))),
    "kernel-sizes": (2, 97, True, Network(Codes(30), (Stack((1, 2, 4), (3, 1, 5), 16, 16, 16),), Softmax(30, 16))),
    "plain-tanh": (2, 60, False, Network(Codes(30), (Stack((1, 2, 4), (2, 3, 1), **_WIDTHS, activation="tanh"),),
                                         Softmax(30, 9))),
    "identity": (1, 41, False, Network(Samples(1), (Stack((1, 2), 2, 4, 4, 4, "identity"),), Regression(1))),
    "samples": (3, 97, True, Network(Samples(2, bias=True), (Stack((1, 2, 4), 3, 20, 17, 18),), Regression(3, 9))),
    "codes-fed-numbers-predicted": (2, 41, True, Network(Codes(9), (Stack((1, 2), 2, 5, 6, 7),), Regression(2, 5))),
    "numbers-fed-codes-predicted": (2, 41, True, Network(Samples(3), (Stack((1, 2), 2, 5, 6, 7),), Softmax(11, 5))),
    "gate-as-skip": (2, 50, False, Network(Codes(9), (Stack((1, 2, 4), 3, 20, 17, 0),), Softmax(9, 5))),
    "amplifier": (2, 210, True, Network(Samples(1), _AMP, Regression(1), Condition(1))),
    "head-of-16-taps": (1, 193, False, Network(Samples(1), (Stack((1, 3, 7), (6, 6, 15), 8, 8, 0, "leaky_relu"),),
                                               Regression(1, kernel_size=16), Condition(1))),
    "three-stacks": (2, 400, True, Network(
        Samples(1), (Stack((1, 2, 4), 3, 20, 17, 0), Stack((1, 8), (2, 6), 40, 8, 5, "softplus"),
                     Stack((2,), 3, 3, 30, 9, "leaky_relu")),
        Regression(2, kernel_size=5), Condition(2, hop=5), join_bias=True)),
    "logistics": (2, 97, True, Network(Samples(2), (Stack((1, 2, 4), 2, 20, 17, 18),), Logistics(10, 9))),
    "one-logistic-of-256": (1, 200, False, Network(Samples(1), (Stack((1, 2), 3, 5, 6, 7),), Logistics(1, 8, 256))),
    "gaussian": (2, 60, True, Network(Samples(1), (Stack((1, 2, 4), 2, 8, 7, 9),), Gaussian(1, 9),
                                      Condition(3, hop=7))),
    "gaussians": (3, 31, False, Network(Codes(9), (Stack((1, 2), 2, 5, 6, 7),), Gaussian(4, 8))),
}  # fmt: skip
NETWORKS = tuple(
    Case(name, _SEEDS.get(name, 0), dict(batch=batch, time=time, weights=weights, network=network),
         tolerance=_TOLERANCE)
    for name, (batch, time, weights, network) in _NETWORKS.items()
)  # fmt: skip


def inputs(case, dtype):
    """Arguments of loss_and_grads."""
    s, rng = case.sizes, case.random()
    network, rows = s["network"], (s["batch"], s["time"])
    params, blocks = {}, len(network.dilations)
    for name, shape in network.parameter_shapes.items():
        fan = 1
        if name.endswith("weight"):
            fan = shape[-2] * (shape[0] if len(shape) == 3 else 1) * (blocks if ".skip." in name else 1)
        params[name] = (rng.standard_normal(shape) / fan**0.5).astype(dtype)
    arguments = {"params": params} | _fed(network, rows, rng, dtype)
    if s["weights"]:
        weights = rng.uniform(0.5, 1.5, rows) * (rng.uniform(size=rows) < 0.7)
        weights[0, -1] = 1  # not all of them are zero
        arguments["sample_weight"] = weights.astype(dtype)
    condition = network.condition
    if condition is not None:
        shape = (s["batch"], condition.channels)
        if s.get("condition") != "global":
            shape = (s["batch"], condition.frames(s["time"]) if condition.hop else s["time"], condition.channels)
        arguments["condition"] = rng.standard_normal(shape).astype(dtype)
    return arguments, {"network": network}


def _fed(network, rows, rng, dtype):
    """What is fed, and what is to be predicted."""
    head = network.head
    if not network.real and isinstance(head, Softmax):
        return {"inputs": rng.integers(0, network.input.classes, (rows[0], rows[1] + 1))}
    fed = {"inputs": rng.standard_normal((*rows, network.input.channels)).astype(dtype)} if network.real else {
        "inputs": rng.integers(0, network.input.classes, rows)}  # fmt: skip
    if isinstance(head, Softmax):
        return fed | {"targets": rng.integers(0, head.classes, rows)}
    if isinstance(head, Regression):
        return fed | {"targets": rng.standard_normal((*rows, head.outputs)).astype(dtype)}
    targets = rng.uniform(-1, 1, (*rows, head.target_columns[rows[0] % 2]))  # with a shift where the batch is odd
    targets[0, 0, 0] = -1
    targets[-1, -1, 0] = 1
    return fed | {"targets": targets.astype(dtype)}
