"""The TCN stack in the simulator: training step, predictions and streams against the reference."""

import numpy as np
import pytest
from helpers import device
from helpers import ops as h

from wavedil.errors import DTypeError
from wavedil.kernels.cuda.engine import Driver
from wavedil.ops import tcn_stack
from wavedil.ops.tcn_stack import Dropout, cases, cuda

# batch, time, inputs, channels, kernel, dilations, outputs, classes of the input, loss, last, dropout
SIZES = {
    "numbers": (2, 3, 2, (2, 3), 2, (1, 2), 2, 0, "huber", False, Dropout(0.3, 5, 7)),
    "codes-last": (2, 3, 2, (2, 2), 2, (1, 2), 3, 4, "cross_entropy", True, None),
}


def small(name):
    case = cases.Case(name, 1, dict(zip(cases._NAMES, SIZES[name], strict=True)))
    return cases.inputs(case, "float64")


@pytest.mark.parametrize("name", SIZES)
def test_loss_and_grads_and_predictions(name):
    arguments, settings = small(name)
    expected = tcn_stack.loss_and_grads(**arguments, **settings, backend="reference")
    on_device = arguments | {"params": device.to_device(arguments["params"])}
    got = tcn_stack.loss_and_grads(**on_device, **settings)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    for key, gradient in expected.grads.items():
        h.assert_close(got.grads[key].to_host(), gradient, 1e-12, key)
    needs = ("blocks.1.conv.1.bias",)
    only = tcn_stack.loss_and_grads(**on_device, **settings, needs=needs).grads
    assert list(only) == list(needs)
    h.assert_close(only[needs[0]].to_host(), expected.grads[needs[0]], 1e-12)
    wanted = {"dilations": settings["dilations"], "last": settings["last"]}
    y = tcn_stack.predict(on_device["params"], arguments["x"], **wanted)
    h.assert_close(y.to_host(), tcn_stack.predict(arguments["params"], arguments["x"], **wanted, backend="reference"),
                   1e-12)  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_streams(name):
    arguments, settings = small(name)
    params, x, dilations = arguments["params"], arguments["x"], settings["dilations"]
    state = tcn_stack.init_state(device.to_device(params), len(x), dilations=dilations)
    first = tcn_stack.step(x[:, :1], state).to_host()
    state = state.copy()
    state.set_history(state.history(), state.time)
    rest = tcn_stack.step(x[:, 1:], state).to_host()
    expected = tcn_stack.predict(params, x, dilations=dilations, backend="reference")
    h.assert_close(np.concatenate([first, rest], axis=1), expected, 1e-12)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_launched_is_listed(name, monkeypatch):
    names, launch = set(), Driver.launch
    monkeypatch.setattr(
        Driver, "launch", lambda self, kernel, *rest: (names.add(kernel.name), launch(self, kernel, *rest))
    )
    arguments, settings = small(name)
    tcn_stack.loss_and_grads(**arguments | {"params": device.to_device(arguments["params"])}, **settings)
    assert names and names <= {kernel.name for kernel in cuda.kernels("float64")}


def test_parameters_in_one_place():
    arguments, settings = small("numbers")
    mixed = device.to_device(arguments["params"]) | {"head.bias": arguments["params"]["head.bias"]}
    with pytest.raises(DTypeError, match="head.bias must be in the memory of cuda:0"):
        tcn_stack.loss_and_grads(**arguments | {"params": mixed}, **settings)
