"""The whole stack in the simulator: training step, loss, streams and draws against the reference."""

import dataclasses

import numpy as np
import pytest
from helpers import device
from helpers import ops as h

from wavedil.errors import ConfigError, DTypeError, OutOfMemoryError
from wavedil.kernels.cpu.random import uniform
from wavedil.kernels.cuda.engine import Driver, HostEngine, use_engine
from wavedil.kernels.workspace import Workspace
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases, cuda, cuda_sample, part_of_condition


def small(condition=None, weights=True, batch=2, time=3, dilations=(1, 2)):
    """Arguments of loss_and_grads, of few operations."""
    sizes = (batch, time, dilations, 2, 3, 2, 3, 2, 5, condition, 2 * bool(condition), weights)
    return cases.inputs(dataclasses.replace(cases._case("small", sizes), seed=3), "float64")


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
        shapes = {"h": (2, 2, 3, 3), "tanh": (1 if half else 2, 2, 3, 2)}
        held.append([workspace.array(("cuda:0", (kind, 0)), shape, "float16" if half else "float32").nbytes
                     for kind, shape in shapes.items()])  # fmt: skip
    assert held == [[72, 24], [144, 96]]


def tiny(case, dtype):
    """Arguments and settings of a network of the same kinds of parts, with few channels, blocks and rows."""
    network = case.sizes["network"]
    stacks = [
        dataclasses.replace(
            stack, channels=3 + k, gate_channels=2 + k, skip_channels=min(stack.skip_channels, 2 + k),
            dilations=[min(d, 3) for d in stack.dilations[:2]],
            kernel_sizes=[min(n, 3) for n in stack.kernel_sizes[:2]],
        )
        for k, stack in enumerate(network.stacks)
    ]  # fmt: skip
    condition = network.condition
    if condition is not None:
        condition = dataclasses.replace(condition, channels=min(condition.channels, 2), hop=min(condition.hop, 3))
    network = dataclasses.replace(network, stacks=stacks, condition=condition)
    sizes = {"batch": 2, "time": 5, "weights": True, "network": network}
    return cases.inputs(cases.Case("tiny", 0, sizes), dtype)


def launched(monkeypatch):
    """The names of the kernels that are launched from here on."""
    names, launch = set(), Driver.launch
    monkeypatch.setattr(
        Driver, "launch", lambda self, kernel, *rest: (names.add(kernel.name), launch(self, kernel, *rest))
    )
    return names


# The longer ones, and float32, run as executed PTX alone: a simulated thread takes its time.
SHORT = [case for case in cases.NETWORKS if case.sizes["batch"] * case.sizes["time"] <= 150]


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize("case", SHORT, ids=str)
def test_networks(case, dtype, monkeypatch):
    """In float32 with half activations."""
    names, half = launched(monkeypatch), dtype == "float32"
    arguments, settings = tiny(case, dtype)
    wide = h.to_float64(arguments) | {"params": h.to_float64(arguments["params"])}
    expected = gated_stack.loss_and_grads(**wide, **settings, half_activations=half, backend="reference")
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings, half_activations=half, recompute=half)
    tolerance = 5e-4 if half else 1e-12
    assert got.loss == pytest.approx(expected.loss, rel=tolerance)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, tolerance, name)
    if expected.condition is not None:
        h.assert_close(got.condition.to_host(), expected.condition, tolerance, "condition")
    if not half:
        assert gated_stack.loss(**on_device(arguments), **settings) == pytest.approx(expected.loss, rel=1e-12)
    assert names and names <= {kernel.name for kernel in cuda.kernels(dtype)}


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_streams_of_networks(case):
    arguments, settings = tiny(case, "float64")
    network, condition = settings["network"], arguments.get("condition")
    ours = gated_stack.init_state(device.to_device(arguments["params"]), 2, **settings)
    plain = gated_stack.init_state(arguments["params"], 2, **settings, backend="reference")
    for begin, end in ((0, 1), (1, 4)):
        fed = np.ascontiguousarray(arguments["inputs"][:, begin:end])
        told = part_of_condition(condition, network, 0, begin, end - begin)
        got = gated_stack.step(fed, ours, told if told is None else device.to_device(told)).to_host()
        h.assert_close(got, gated_stack.step(fed, plain, told), 1e-12)
    ours = ours.copy()
    history = ours.history()
    assert [rows.shape[1:] for rows in history] == [(layer.past, layer.inputs) for layer in network.layers]
    ours.reset()
    ours.set_history(history, 4)
    if network.real or network.head.outputs != network.input.classes:
        return
    told = None
    if condition is not None:
        rows = network.condition.frames(3, 4) if network.hop else 3
        told = np.random.default_rng(0).standard_normal((2, rows, network.condition.channels))
    first = arguments["inputs"][:, 4]
    got = gated_stack.sample(first, 3, ours, told if told is None else device.to_device(told), seed=3)
    assert np.array_equal(got, gated_stack.sample(first, 3, plain, told, seed=3)) and ours.time == plain.time


def test_a_global_condition_with_a_bias_is_drawn_in_the_persistent_kernel(monkeypatch):
    case = next(case for case in cases.NETWORKS if case.name == "condition-bias")
    arguments, settings = tiny(case, "float64")
    ours = gated_stack.init_state(device.to_device(arguments["params"]), 2, **settings)
    plain = gated_stack.init_state(arguments["params"], 2, **settings, backend="reference")
    told, names = np.random.default_rng(0).standard_normal((2, 2)), launched(monkeypatch)
    got = gated_stack.sample(np.array([1, 2]), 3, ours, device.to_device(told), seed=3)
    assert np.array_equal(got, gated_stack.sample(np.array([1, 2]), 3, plain, told, seed=3))
    assert any(name.startswith("sampler.") for name in names)


def test_what_is_fed_may_be_on_the_device():
    case = next(case for case in cases.NETWORKS if case.name == "samples")
    arguments, settings = tiny(case, "float64")
    expected = gated_stack.loss_and_grads(**on_device(arguments), **settings)
    moved = on_device(arguments) | {name: device.to_device(arguments[name]) for name in ("inputs", "targets")}
    got = gated_stack.loss_and_grads(**moved, **settings)
    assert got.loss == expected.loss == gated_stack.loss_and_grads(**moved, **settings).loss
    for name, gradient in expected.grads.items():
        h.assert_same_bits(got.grads[name].to_host(), gradient.to_host())
    arguments, settings = small()
    moved = on_device(arguments) | {"inputs": device.to_device(arguments["inputs"])}
    expected = gated_stack.loss(**on_device(arguments), **settings)
    assert gated_stack.loss(**moved, **settings) == expected


def test_rows_of_weight_0_may_hold_anything():
    case = next(case for case in cases.NETWORKS if case.name == "samples")
    arguments, settings = tiny(case, "float64")
    weights = np.ones((2, 5))
    weights[:, :2] = 0
    arguments = arguments | {"sample_weight": weights}
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference")
    arguments["targets"][:, 0], arguments["targets"][:, 1] = np.nan, np.inf
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, 1e-12, name)
    assert gated_stack.loss(**on_device(arguments), **settings) == pytest.approx(expected.loss, rel=1e-12)


@pytest.mark.parametrize("needs", [("joins.1.skip.bias",), ("joins.1.input.weight",), ("head.bias", "input.bias")])
def test_needs_of_stacks(needs):
    case = next(case for case in cases.NETWORKS if case.name == "three-stacks")
    network = dataclasses.replace(case.sizes["network"], input=gated_stack.Samples(1, bias=True))
    arguments, settings = tiny(cases.Case("biased", 0, {"network": network}), "float64")
    expected = gated_stack.loss_and_grads(**on_device(arguments), **settings).grads
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings, needs=needs)
    assert set(got.grads) == set(needs) and got.condition is None
    for name in needs:
        h.assert_same_bits(got.grads[name].to_host(), expected[name].to_host())


@pytest.mark.parametrize("recompute", [False, True])
def test_the_trunk_alone(recompute):
    arguments, settings = small("local")
    params, condition, codes = arguments["params"], arguments["condition"], arguments["inputs"][:, 1:]
    trunk = {"network": settings["network"].without_head()}
    expected, saved = gated_stack.forward(params, codes, **trunk, condition=condition, backend="reference")
    dskips = h.upstream(expected)
    wanted = gated_stack.backward(dskips, saved)
    given, on = device.to_device(params), {"condition": device.to_device(condition), **trunk}
    nothing, _ = gated_stack.forward(given, codes, **on, needs=())
    skips, saved = gated_stack.forward(given, codes, **on, recompute=recompute)
    for got in (nothing, skips):
        h.assert_close(got.to_host(), expected, 1e-12)
    grads = gated_stack.backward(device.to_device(dskips), saved)
    h.assert_close(grads.condition.to_host(), wanted.condition, 1e-12)
    for name in trunk["network"].parameter_shapes:
        h.assert_close(grads.params[name].to_host(), wanted.params[name], 1e-12, name)
    with pytest.raises(ConfigError, match="used up"):
        gated_stack.backward(device.to_device(dskips), saved)
    state = gated_stack.init_state(device.to_device(params), len(codes), **settings)
    parts = []
    for i in range(codes.shape[1]):
        now = device.to_device(condition[:, i : i + 1].copy())
        parts.append(gated_stack.step_features(codes[:, i : i + 1], state, now).to_host())
    h.assert_close(np.concatenate(parts, axis=1), expected, 1e-12)


def test_loss_in_spans(monkeypatch):
    arguments, settings = small("local", time=5)
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference").loss
    monkeypatch.setattr("wavedil.ops.gated_stack.cuda_heads.CHUNK", 4)  # two rows of each item at a time
    assert gated_stack.loss(**on_device(arguments), **settings) == pytest.approx(expected, rel=1e-12)


def test_logits_in_chunks(monkeypatch):
    arguments, settings = small()
    expected = gated_stack.loss_and_grads(**arguments, **settings, backend="reference")
    monkeypatch.setattr("wavedil.ops.gated_stack.cuda_heads.CHUNK", 4)
    got = gated_stack.loss_and_grads(**on_device(arguments), **settings)
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, 1e-12, name)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("options", [{}, {"top_k": 3, "top_p": 0.8, "temperature": 1.5}, {"temperature": 0}], ids=str)
def test_streams_and_draws(options, held, monkeypatch):
    arguments, settings = small("global", weights=False)
    params, condition, codes = arguments["params"], arguments["condition"], arguments["inputs"]
    settings = settings | {"batch": len(codes)}
    ours = gated_stack.init_state(device.to_device(params), **settings)
    reference = gated_stack.init_state(params, **settings, backend="reference")
    for begin, end in ((0, 1), (1, 3)):
        got = gated_stack.step(codes[:, begin:end], ours, device.to_device(condition)).to_host()
        h.assert_close(got, gated_stack.step(codes[:, begin:end], reference, condition), 1e-12)
    ours = ours.copy()
    ours.set_history(ours.history(), ours.time)
    if not held:
        monkeypatch.setattr(ours.engine, "shared_memory", 900)
    got = gated_stack.sample(codes[:, -1], 4, ours, device.to_device(condition), seed=3, **options)
    expected = gated_stack.sample(codes[:, -1], 4, reference, condition, seed=3, **options)
    assert np.array_equal(got, expected) and ours.time == reference.time


def test_draws_are_those_of_the_cpu():
    numbers = cuda_sample.draws(2**40 + 7, 3, 1000, 4)
    assert all(numbers[b, i] == uniform(2**40 + 7, b, 1000 + i) for b in range(3) for i in range(4))


def test_too_little_shared_memory_is_said(monkeypatch):
    arguments, settings = small()
    state = gated_stack.init_state(device.to_device(arguments["params"]), **settings)
    monkeypatch.setattr(state.engine, "shared_memory", 100)
    with pytest.raises(OutOfMemoryError, match="needs [0-9,]+ bytes of shared memory, cuda:0 has 100"):
        gated_stack.sample(np.zeros(1, int), 1, state)


def test_out_of_memory_says_which_batch_fits():
    arguments, settings = small(time=200, batch=4)

    class Small(HostEngine):
        def launch(self, *_):
            raise AssertionError("nothing should run")

    with use_engine(Small(limit=140_000)):
        with pytest.raises(OutOfMemoryError) as caught:
            gated_stack.loss_and_grads(**on_device(arguments), **settings)
    text = str(caught.value)
    assert "a batch of 4 x 200 needs a workspace of" in text and "a batch of 1 would fit" in text, text
    assert text.endswith("; less is needed with recompute=True")

    with use_engine(Small(limit=20_000)):
        params = device.to_device({n: a.astype("float32") for n, a in arguments["params"].items()})
        with pytest.raises(OutOfMemoryError) as caught:
            trunk = settings["network"].without_head()
            gated_stack.forward(params, arguments["inputs"], network=trunk, half_activations=True, recompute=True)
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
