"""The whole stack in the simulator: training step, loss, streams and draws against the reference."""

import numpy as np
import pytest
from helpers import device
from helpers import ops as h

from wavedil.errors import ConfigError, DTypeError, OutOfMemoryError
from wavedil.kernels.cpu.random import uniform
from wavedil.kernels.cuda.engine import Driver, HostEngine, use_engine
from wavedil.kernels.workspace import Workspace
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases, cuda, cuda_sample


def small(condition=None, weights=True, batch=2, time=3, dilations=(1, 2)):
    """Arguments of loss_and_grads, of few operations."""
    sizes = (batch, time, dilations, 2, 3, 2, 3, 2, 5, condition, 2 * bool(condition), weights)
    case = cases.Case("small", 3, dict(zip(cases._NAMES, sizes, strict=True)))
    return cases.inputs(case, "float64")


def on_device(arguments):
    return arguments | {n: device.to_device(arguments[n]) for n in ("params", "condition") if n in arguments}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("condition", [None, "global", "local"])
def test_loss_and_grads(condition, recompute):
    arguments, settings = small(condition)
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference")
    workspace = Workspace()
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings, recompute=recompute, workspace=workspace)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, 1e-12, name)
    if condition:
        h.assert_close(got.condition.to_host(), expected.condition, 1e-12)
    if condition != "local":
        return
    size = workspace.nbytes
    gated_stack.loss_and_grads(**on_device(arguments), **settings, into=got.grads, workspace=workspace,
                               recompute=recompute)  # fmt: skip
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), 2 * gradient, 1e-12, name)
    assert workspace.nbytes == size


@pytest.mark.parametrize("needs", [("blocks.1.skip.bias",), ("head.1.weight",), ("condition",), ("input.embedding",)])
def test_needs(needs):
    arguments, settings = small("global")
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference")
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings, needs=needs)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    assert list(got.grads) == [name for name in needs if name != "condition"]
    for name, gradient in got.grads.items():
        h.assert_close(gradient.to_host(), expected.grads[name], 1e-12, name)
    assert (got.condition is not None) == ("condition" in needs)


def test_half_activations_take_half_the_memory_and_equal_the_reference():
    arguments, settings = small("global")
    params = {name: value.astype("float32") for name, value in arguments["params"].items()}
    arguments |= {"params": params, "condition": arguments["condition"].astype("float32")}
    wide = arguments | {"params": h.to_float64(params), "condition": arguments["condition"].astype("float64")}
    expected = gated_stack.loss_and_grads(**wide, **settings, half_activations=True, backend="reference")
    held = []
    for half in (True, False):
        workspace = Workspace()
        got = gated_stack.loss_and_grads(
            **on_device(arguments), **settings, half_activations=half, recompute=half, workspace=workspace
        )
        error = max(h.relative_error(got.grads[n].to_host(), g) for n, g in expected.grads.items())
        assert error < 1e-4 if half else error > 2e-4  # the latter lacks the rounding
        held.append({kind: workspace.array(("cuda:0", kind), shape, "float16" if half else "float32").nbytes
                     for kind, shape in (("h", (2, 2, 3, 3)), ("tanh", (1 if half else 2, 2, 3, 2)))})  # fmt: skip
    assert held[0] == {"h": 72, "tanh": 24} and held[1] == {"h": 144, "tanh": 96}


def test_what_is_launched_is_listed(monkeypatch):
    names, launch = set(), Driver.launch
    monkeypatch.setattr(
        Driver, "launch", lambda self, kernel, *rest: (names.add(kernel.name), launch(self, kernel, *rest))
    )
    arguments, settings = small("local")
    gated_stack.loss_and_grads(**on_device(arguments), **settings)
    assert names and names <= {kernel.name for kernel in cuda.kernels("float64")}


@pytest.mark.parametrize("recompute", [False, True])
def test_the_trunk_alone(recompute):
    arguments, settings = small("local")
    params, condition, codes = arguments["params"], arguments["condition"], arguments["codes"][:, 1:]
    expected, saved = gated_stack.forward(params, codes, **settings, condition=condition, backend="reference")
    dskips = h.upstream(expected)
    wanted = gated_stack.backward(dskips, saved)
    trunk = {name: value for name, value in device.to_device(params).items() if not name.startswith("head.")}
    on = {"condition": device.to_device(condition), **settings}
    nothing, _ = gated_stack.forward(trunk, codes, **on, needs=())
    skips, saved = gated_stack.forward(trunk, codes, **on, recompute=recompute)
    for got in (nothing, skips):
        h.assert_close(got.to_host(), expected, 1e-12)
    grads = gated_stack.backward(device.to_device(dskips), saved)
    h.assert_close(grads.condition.to_host(), wanted.condition, 1e-12)
    for name in trunk:
        h.assert_close(grads.params[name].to_host(), wanted.params[name], 1e-12, name)
    with pytest.raises(ConfigError, match="used up"):
        gated_stack.backward(device.to_device(dskips), saved)
    state = gated_stack.init_state(device.to_device(params), len(codes), **settings, condition_channels=2)
    parts = []
    for i in range(codes.shape[1]):
        now = device.to_device(condition[:, i : i + 1].copy())
        parts.append(gated_stack.step_features(codes[:, i : i + 1], state, now).to_host())
    h.assert_close(np.concatenate(parts, axis=1), expected, 1e-12)


def test_loss_in_spans(monkeypatch):
    arguments, settings = small("local", time=5)
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference").loss
    monkeypatch.setattr("wavedil.ops.gated_stack.cuda.CHUNK", 4)  # two rows of each item at a time
    assert gated_stack.loss(**on_device(arguments), **settings) == pytest.approx(expected, rel=1e-12)


def test_logits_in_chunks(monkeypatch):
    arguments, settings = small()
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference")
    monkeypatch.setattr("wavedil.ops.gated_stack.cuda.CHUNK", 4)
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, 1e-12, name)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("options", [{}, {"top_k": 3, "top_p": 0.8, "temperature": 1.5}, {"temperature": 0}], ids=str)
def test_streams_and_draws(options, held, monkeypatch):
    arguments, settings = small("global", weights=False)
    params, condition, codes = arguments["params"], arguments["condition"], arguments["codes"]
    settings = settings | {"batch": len(codes), "condition_channels": 2}
    ours = gated_stack.init_state(device.to_device(params), **settings)
    reference = gated_stack.init_state(params, **settings, backend="reference")
    for begin, end in ((0, 1), (1, 3)):
        got = gated_stack.step(codes[:, begin:end], ours, device.to_device(condition)).to_host()
        h.assert_close(got, gated_stack.step(codes[:, begin:end], reference, condition), 1e-12)
    ours = ours.copy()
    ours.set_history(ours.history(), ours.time)
    if not held:
        monkeypatch.setattr(ours.sizes.engine, "shared_memory", 900)
    got = gated_stack.sample(codes[:, -1], 4, ours, device.to_device(condition), seed=3, **options)
    expected = gated_stack.sample(codes[:, -1], 4, reference, condition, seed=3, **options)
    assert np.array_equal(got, expected) and ours.time == reference.time


def test_draws_are_those_of_the_cpu():
    numbers = cuda_sample.draws(2**40 + 7, 3, 1000, 4)
    assert all(numbers[b, i] == uniform(2**40 + 7, b, 1000 + i) for b in range(3) for i in range(4))


def test_too_little_shared_memory_is_said(monkeypatch):
    arguments, settings = small()
    state = gated_stack.init_state(device.to_device(arguments["params"]), **settings)
    monkeypatch.setattr(state.sizes.engine, "shared_memory", 100)
    with pytest.raises(OutOfMemoryError, match="needs [0-9,]+ bytes of shared memory, cuda:0 has 100"):
        gated_stack.sample(np.zeros(1, int), 1, state)


def test_out_of_memory_says_which_batch_fits():
    arguments, settings = small(time=200, batch=4)

    class Small(HostEngine):
        def launch(self, *_):
            raise AssertionError("nothing should run")

    with use_engine(Small(limit=150_000)):
        with pytest.raises(OutOfMemoryError) as caught:
            gated_stack.loss_and_grads(**on_device(arguments), **settings)
    text = str(caught.value)
    assert "a batch of 4 x 200 needs a workspace of" in text and "a batch of 1 would fit" in text, text
    assert text.endswith("; less is needed with recompute=True")

    with use_engine(Small(limit=20_000)):
        params = device.to_device({n: a.astype("float32") for n, a in arguments["params"].items()})
        with pytest.raises(OutOfMemoryError) as caught:
            gated_stack.forward(params, arguments["codes"], **settings, half_activations=True, recompute=True)
    text = str(caught.value)
    assert "gated_stack.forward: a batch of 4 x 201 needs" in text and "less is needed" not in text, text


def test_bad_input():
    arguments, settings = small("global")
    given = on_device(arguments)
    mixed = given | {"params": given["params"] | {"head.0.bias": arguments["params"]["head.0.bias"]}}
    with pytest.raises(DTypeError, match="head.0.bias must be in the memory of cuda:0 as the others are"):
        gated_stack.loss_and_grads(**mixed, **settings)
    with pytest.raises(DTypeError, match="condition must be in the memory of cuda:0"):
        gated_stack.loss_and_grads(**given | {"condition": arguments["condition"]}, **settings)
    with pytest.raises(DTypeError, match="into.*must be in the memory of cuda:0"):
        gated_stack.loss_and_grads(**given, **settings, into=arguments["params"])
    with pytest.raises(ConfigError, match="backend 'reference' needs NumPy arrays"):
        gated_stack.loss(**given, **settings, backend="reference")
