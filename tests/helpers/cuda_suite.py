"""The tests that every device must pass, for modules that star-import them and have a fixture ``on_device``.

`test_ptx_kernels` runs them as executed PTX, `test_gpu` on a GPU.
"""

import dataclasses

import numpy as np
import pytest
from cuda_sim import test_clip_classifier as clips
from cuda_sim import test_streams as streams
from cuda_sim import test_training as training

from helpers import device
from helpers import ops as h
from wavedil import ops
from wavedil.kernels.cuda.engine import engine_for
from wavedil.ops import inplace

__all__ = [
    "test_a_clip_classifier_equals_the_cpus", "test_a_running_pool_equals_the_reference",
    "test_a_stack_equals_the_reference", "test_streams_of_audio_equal_the_cpus",
    "test_half_activations_equal_the_reference", "test_alignment_changes_no_bit",
    "test_a_training_equals_the_cpus", "test_arrays_are_scaled_in_place",
    "test_draws_of_whole_networks",
    "test_a_tcn_equals_the_reference", "test_into_and_needs", "test_single_ops_equal_the_reference",
    "test_steps_in_place_equal_the_hosts", "test_streams_and_draws", "test_streams_of_networks",
    "test_the_same_bits_twice", "test_updates_equal_the_reference",
]  # fmt: skip
FAMILIES = h.families("parity")
STACKS = h.cases("gated_stack")
OPS = [(f, c) for f in FAMILIES for c in h.cases(f).CASES]
by_dtype = pytest.mark.parametrize("dtype", h.DTYPES)


@by_dtype
@pytest.mark.parametrize(("family", "case"), OPS, ids=str)
def test_single_ops_equal_the_reference(on_device, family, case, dtype):
    device.check_parity(family, case, dtype)
    if "steps" in h.cases(family).SUITES and h.streamed(family, case):
        time = case.sizes["time"]
        device.check_steps(family, case, dtype, [1, time - 1] if time > 1 else [1])


@by_dtype
@pytest.mark.parametrize("case", h.cases("pooling").CASES, ids=str)
def test_a_running_pool_equals_the_reference(on_device, case, dtype):
    time = case.sizes["time"]
    device.check_running_pool(case, dtype, [1, (time - 1) // 3, time - 1 - (time - 1) // 3] if time > 3 else [time])


@pytest.mark.parametrize("family", FAMILIES)
def test_into_and_needs(on_device, family):
    op, case = h.module(family), h.cases(family).CASES[3]
    expected = h.expected(family, case, "float32")[3]
    _, saved, dy, grads = device.check_parity(family, case, "float32")
    op.backward(device.to_device(dy), saved, into=grads)
    twice = type(expected)(*(None if a is None else 2 * a for a in expected))
    h.assert_close(device.to_host(grads), twice, case.tolerance["float32"], f"{family}.cuda[{case}] twice")
    for name in h.parts(expected):
        only = device.to_host(op.backward(device.to_device(dy), saved, needs=(name,)))
        assert list(h.parts(only)) == [name]
        h.assert_close(h.parts(only)[name], getattr(expected, name), case.tolerance["float32"], name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_twice(on_device, family):
    case = h.cases(family).CASES[-1]
    first, second = (device.check_parity(family, case, "float32")[3] for _ in range(2))
    h.assert_same_bits(device.to_host(first), device.to_host(second))


@by_dtype
@pytest.mark.parametrize("case", h.cases("update").CASES, ids=str)
def test_updates_equal_the_reference(on_device, case, dtype):
    arrays, gradients = h.cases("update").inputs(case, dtype)
    wide, moved = h.to_float64(arrays), device.to_device(arrays)
    step = getattr(ops.update, case.sizes["update"])
    for number, g in enumerate(gradients[:3], 1):
        settings = case.sizes["settings"] | ({} if case.sizes["update"] == "sgd" else {"step": number})
        step(grads=g.astype("float64"), **wide, **settings, backend="reference")
        step(grads=device.to_device(g), **moved, **settings)
    for name, expected in wide.items():
        h.assert_close(moved[name].to_host(), expected, case.tolerance[dtype], name)
    norm = ops.update.global_norm(device.to_device(gradients[0]))
    assert norm == pytest.approx(np.linalg.norm(gradients[0].astype("float64")), rel=1e-14)


def _stack(case, dtype):
    """Arguments on the device, in float64 on the host, and settings."""
    arguments, settings = STACKS.inputs(case, dtype)
    wide = h.to_float64(arguments) | {"params": h.to_float64(arguments["params"])}
    moved = arguments | {n: device.to_device(arguments[n]) for n in ("params", "condition") if n in arguments}
    return moved, wide, settings


RECOMPUTED = ("wide", "one-chunk", "amplifier", "three-stacks")
HALVES = (
    "wide", "kernel-3", "below-dilation", "global", "local", "plain-tanh", "amplifier", "three-stacks", "frames-linear",
)  # fmt: skip


def _named(name):
    return next(case for case in STACKS.CASES + STACKS.NETWORKS if case.name == name)


def _smooth(case):
    """A case whose blocks have no kinks."""
    network = case.sizes["network"]
    stacks = [
        dataclasses.replace(stack, activation="softplus", alpha=None) if stack.activation == "leaky_relu" else stack
        for stack in network.stacks
    ]
    return dataclasses.replace(case, sizes=case.sizes | {"network": dataclasses.replace(network, stacks=stacks)})


@by_dtype
@pytest.mark.parametrize("case", STACKS.CASES + STACKS.NETWORKS, ids=str)
def test_a_stack_equals_the_reference(on_device, case, dtype):
    moved, wide, settings = _stack(case, dtype)
    expected = ops.gated_stack.loss_and_grads(**wide, **settings, backend="reference")
    got = ops.gated_stack.loss_and_grads(**moved, **settings, recompute=case.name in RECOMPUTED)
    tolerance = case.tolerance[dtype]
    assert got.loss == pytest.approx(expected.loss, rel=tolerance)
    for name, gradient in expected.grads.items():
        h.assert_close(got.grads[name].to_host(), gradient, tolerance, f"{case}, {dtype}: {name}")
    if expected.condition is not None:
        h.assert_close(got.condition.to_host(), expected.condition, tolerance, f"{case}, {dtype}: condition")


@pytest.mark.parametrize("name", HALVES)
def test_half_activations_equal_the_reference(on_device, name):
    """The reference rounds in float64, so an input within rounding of a tie may go the other way: 2^-11 of it.

    In deep networks some do. Then the slope of a kink may flip as well, so there are none here.
    """
    moved, wide, settings = _stack(_smooth(_named(name)), "float32")
    expected = ops.gated_stack.loss_and_grads(**wide, **settings, half_activations=True, backend="reference")
    got = ops.gated_stack.loss_and_grads(**moved, **settings, half_activations=True, recompute=name in RECOMPUTED)
    assert got.loss == pytest.approx(expected.loss, rel=5e-5 if name == "three-stacks" else 1e-5)
    for key, gradient in expected.grads.items():
        h.assert_close(got.grads[key].to_host(), gradient, 5e-4, f"{name}: {key}")
    plain = ops.gated_stack.loss_and_grads(**wide, **settings, backend="reference")
    off = max(h.relative_error(expected.grads[key], plain.grads[key]) for key in plain.grads)
    assert 5e-5 < off < 2e-2, "nothing was rounded, or too much"


@by_dtype
@pytest.mark.parametrize("channels", [16, 30])
def test_alignment_changes_no_bit(on_device, channels, dtype):
    """Rows that do not begin on 16 bytes are read one number at a time."""
    rng = np.random.default_rng(1)
    x, w, b, dy = (rng.standard_normal(s) for s in ((2, 40, channels), (2, channels, 24), (24,), (2, 40, 24)))
    results = []
    for off in (0, 1):
        arrays = []
        for array in (x, w, b, dy):
            held = engine_for().empty(array.size + off, dtype).part(off, array.size + off)
            held.set(array.reshape(-1).astype(dtype))
            assert held.aligned == (off == 0)
            arrays.append(held.reshape(*array.shape))
        *arguments, dy_held = arrays
        y, saved = ops.conv1d.forward(*arguments, dilation=3)
        results.append([y.to_host(), device.to_host(ops.conv1d.backward(dy_held, saved))])
    for aligned, other in zip(*results, strict=True):
        h.assert_same_bits(other, aligned)


@by_dtype
@pytest.mark.parametrize("name", ["sequence", "dropped-last", "codes-last"])
def test_a_tcn_equals_the_reference(on_device, name, dtype):
    case = h.case_named("tcn_stack", name)
    arguments, settings = h.cases("tcn_stack").inputs(case, dtype)
    wide = h.to_float64({n: a for n, a in arguments.items() if n != "params"})
    wide["params"] = h.to_float64(arguments["params"])
    expected = ops.tcn_stack.loss_and_grads(**wide, **settings, backend="reference")
    got = ops.tcn_stack.loss_and_grads(**arguments | {"params": device.to_device(arguments["params"])}, **settings)
    tolerance = case.tolerance[dtype]
    assert got.loss == pytest.approx(expected.loss, rel=tolerance)
    for key, gradient in expected.grads.items():
        h.assert_close(got.grads[key].to_host(), gradient, tolerance, f"{case}, {dtype}: {key}")


@by_dtype
def test_arrays_are_scaled_in_place(on_device, dtype):
    x = np.random.default_rng(0).standard_normal((3, 700)).astype(dtype)
    moved = device.to_device(x)
    moved *= 0.3
    h.assert_close(moved.to_host(), 0.3 * x, 1e-6 if dtype == "float32" else 1e-14)


def _steps_in_place(move, dtype):
    """What each step of `ops.inplace` makes of the same numbers, wherever ``move`` puts them."""
    rng = np.random.default_rng(0)
    x, y, rows = (move(rng.standard_normal((6, 5)).astype(dtype)) for _ in range(3))
    a, b, db = (move(rng.standard_normal(shape).astype(dtype)) for shape in ((6, 2), (2, 5), (2, 5)))
    center, scale, table = (move(rng.standard_normal(shape).astype(dtype)) for shape in ((5,), (5,), (4, 5)))
    normal, low, da = (move(np.zeros(shape, dtype)) for shape in ((6, 5), (6, 5), (6, 2)))
    inplace.affine(normal, x, center, scale)
    inplace.add_rows(table, np.array([2, 0, 2, 1, 1, 2]), rows)
    inplace.add_low_rank(low, x, a, b, 0.5)
    inplace.low_rank_backward(da, db, y, a, b, 0.5)
    inplace.pull(rows, x, 0.1)
    inplace.relu(x)
    inplace.relu_backward(y, x)
    return {"affine": normal, "rows": table, "low rank": low, "da": da, "db": db, "pull": rows, "relu": x, "back": y}


@by_dtype
def test_steps_in_place_equal_the_hosts(on_device, dtype):
    got, expected = (_steps_in_place(move, dtype) for move in (device.to_device, lambda array: array))
    for name, array in expected.items():
        h.assert_close(got[name].to_host(), array, 1e-5 if dtype == "float32" else 1e-13, name)


def _states(moved, wide, network):
    """A stream on the device, and the reference's."""
    batch, init_state = len(moved["inputs"]), ops.gated_stack.init_state
    plain = init_state(wide["params"], batch, network=network, backend="reference")
    return init_state(moved["params"], batch, network=network), plain


def _check_steps(ours, plain, inputs, condition, tolerance, cuts=(0, 1, 7)):
    """Both streams, fed in pieces, put out the same. Inputs and condition are float64 on the host."""
    network, dtype = ours.network, ours.dtype
    for begin, end in zip(cuts, cuts[1:], strict=False):
        fed = np.ascontiguousarray(inputs[:, begin:end])
        told = ops.gated_stack.part_of_condition(condition, network, 0, begin, end - begin)
        here = None if told is None else device.to_device(told.astype(dtype))
        got = ops.gated_stack.step(fed.astype(dtype) if network.real else fed, ours, here).to_host()
        h.assert_close(got, ops.gated_stack.step(fed, plain, told), tolerance, f"rows {begin} to {end}")


@by_dtype
@pytest.mark.parametrize("name", ["kernel-3", "global"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 3, "top_p": 0.8}], ids=str)
def test_streams_and_draws(on_device, name, options, dtype):
    case = h.case_named("gated_stack", name)
    moved, wide, settings = _stack(case, dtype)
    codes, condition = wide["inputs"], wide.get("condition")
    ours, plain = _states(moved, wide, **settings)
    _check_steps(ours, plain, codes, condition, case.tolerance[dtype])
    got = ops.gated_stack.sample(codes[:, 7], 6, ours, moved.get("condition"), seed=3, **options)
    assert np.array_equal(got, ops.gated_stack.sample(codes[:, 7], 6, plain, condition, seed=3, **options))


@by_dtype
@pytest.mark.parametrize("case", STACKS.NETWORKS, ids=str)
def test_streams_of_networks(on_device, case, dtype):
    moved, wide, settings = _stack(case, dtype)
    network, time = settings["network"], case.sizes["time"]
    ours, plain = _states(moved, wide, network)
    _check_steps(ours, plain, wide["inputs"], wide.get("condition"), case.tolerance[dtype],
                 (0, 1, 7) if time > 7 else (0, 1))  # fmt: skip
    if network.real or network.head.outputs != getattr(network.input, "classes", None):
        return
    told = None
    if network.condition is not None:
        rows = network.condition.frames(3, ours.time) if network.hop else 3
        told = np.random.default_rng(1).standard_normal((ours.batch, rows, network.condition.channels)).astype(dtype)
    first = wide["inputs"][:, -1]
    got = ops.gated_stack.sample(first, 3, ours, None if told is None else device.to_device(told), seed=3)
    told = None if told is None else told.astype("float64")
    assert np.array_equal(got, ops.gated_stack.sample(first, 3, plain, told, seed=3))


@by_dtype
@pytest.mark.parametrize("widths", [(2, 32, 32, 32, 32, 256), (2, 4, 4, 4, 8, 16)], ids=str)
def test_draws_of_whole_networks(on_device, widths, dtype):
    """The networks whose samplers `cuda_sample.kernels` lists."""
    names = ("kernel_size", "channels", "gate_channels", "skip_channels", "end_channels", "classes")
    network = ops.gated_stack.wavenet((1, 2), **dict(zip(names, widths, strict=True)))
    rng = np.random.default_rng(7)
    params = {
        n: (rng.standard_normal(s) / max(1, s[-2] if len(s) > 1 else 4) ** 0.5)
        for n, s in network.parameter_shapes.items()
    }
    params = {name: value.astype(dtype) for name, value in params.items()}
    states = [
        ops.gated_stack.init_state(device.to_device(params), 2, network=network),
        ops.gated_stack.init_state(h.to_float64(params), 2, network=network, backend="reference"),
    ]
    got, expected = (ops.gated_stack.sample(np.array([0, 3]), 5, state, seed=11) for state in states)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("name", ["steps", "speakers", "finetune", "lora", "files", "conditions"])
def test_a_training_equals_the_cpus(on_device, name, tmp_path):
    recipes = dict(zip(("finetune", "lora"), _recipes(), strict=True))
    {
        "steps": lambda: training.test_five_steps_as_on_the_cpu_and_a_resume_on_either_device(tmp_path),
        "speakers": lambda: training.test_speakers_accumulation_and_validation(tmp_path),
        "finetune": lambda: training.test_finetuning(recipes["finetune"]),
        "lora": lambda: training.test_finetuning(recipes["lora"]),
        "files": lambda: training.test_files_and_generation(tmp_path),
        "conditions": training.test_global_and_local_conditions,
    }[name]()


@pytest.mark.parametrize("name", ["attentive", "statistics", "stream", "steps", "finetune", "files"])
def test_a_clip_classifier_equals_the_cpus(on_device, name, tmp_path):
    (mark,) = clips.test_losses_gradients_and_decisions_are_those_of_the_cpu.pytestmark
    same = {case[0]: case for case in mark.args[1]}
    {
        "attentive": lambda: clips.test_losses_gradients_and_decisions_are_those_of_the_cpu(*same["attentive"]),
        "statistics": lambda: clips.test_losses_gradients_and_decisions_are_those_of_the_cpu(*same["statistics"]),
        "stream": clips.test_a_stream_decides_at_its_end_as_the_whole_clip,
        "steps": lambda: clips.test_steps_as_on_the_cpu_and_a_resume_on_either_device(tmp_path),
        "finetune": clips.test_finetuning_with_a_frozen_trunk_and_adapters,
        "files": lambda: clips.test_it_lives_where_its_trunk_does_and_its_files_anywhere(tmp_path),
    }[name]()


@pytest.mark.parametrize("name", ["predictor", "generator", "effect", "command"])
def test_streams_of_audio_equal_the_cpus(on_device, name, tmp_path, monkeypatch):
    {
        "predictor": streams.test_a_predictor_with_speakers_and_a_condition,
        "generator": streams.test_a_generator_speaks_what_the_model_generates,
        "effect": streams.test_an_effect,
        "command": lambda: streams.test_the_command_line(tmp_path, monkeypatch),
    }[name]()


def _recipes():
    (mark,) = training.test_finetuning.pytestmark
    return mark.args[1]
