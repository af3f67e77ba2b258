"""Loss and gradients against the reference and the composition of single ops; that these checks can fail; and NaN."""

import dataclasses
import importlib

import numpy as np
import pytest
from helpers import ops as h
from helpers import stacks as s
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedil.ops import contract, conv1d, cross_entropy, embedding, gated_block, gated_stack
from wavedil.ops.gated_stack import cases
from wavedil.ops.gated_stack.heads import Regression
from wavedil.ops.gated_stack.network import ACTIVATIONS, Condition, Network, Samples, Stack


# ---- the cases -------------------------------------------------------------------------------------------------------
@s.by_any
def test_the_cases_keep_clear_of_kinks_and_of_dead_gradients(case):
    arguments, settings = cases.inputs(case, "float64")
    assert min([np.abs(x).min() for x in s.bend_inputs(arguments, settings)], default=1) > 1e-5
    if settings["network"].head.end_channels:
        skip, end = s.relu_inputs(arguments, settings)
        assert (skip > 0).any() and (skip < 0).any() and (end < 0).any()
    zero = {name for name, g in s.expected(case, "float64").grads.items() if not g.any()}
    assert zero == s.last_residual(case)


# ---- loss, gradients and outputs -------------------------------------------------------------------------------------
@s.by_dtype
@s.by_any
def test_loss_and_gradients_equal_the_reference(case, dtype):
    got = s.run(case, dtype)
    s.check_close(got, s.expected(case, dtype), case.tolerance[dtype], f"{case}, {dtype}")
    assert {g.dtype.name for g in s.gradients(got).values()} == {dtype} and isinstance(got.loss, float)


@s.by_dtype
@s.by_any
def test_outputs_equal_the_reference(case, dtype):
    got = s.outputs(*cases.inputs(case, dtype))
    assert got.dtype == dtype
    h.assert_close(got, s.expected_outputs(case, dtype), case.tolerance[dtype])


@s.by_dtype
@s.by_any
def test_loss_is_that_of_loss_and_grads_bit_for_bit(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    for threads in (1, 2):
        assert gated_stack.loss(**arguments, **settings, threads=threads) == s.plain(case, dtype).loss
    wanted = s.expected(case, "float64").loss
    wide = s.to_float64(cases.inputs(case, "float64")[0])
    assert gated_stack.loss(**wide, **settings, backend="reference") == wanted


@s.by_dtype
@s.by_any
def test_the_last_residual_reaches_nothing(case, dtype):
    for recompute in (False, True):
        got = s.run(case, dtype, recompute=recompute)
        assert not any(got.grads[name].any() for name in s.last_residual(case))


@s.by_case
def test_it_is_the_composition_of_single_ops(case):
    arguments, settings = cases.inputs(case, "float64")
    params, codes, condition = arguments["params"], arguments["inputs"], arguments.get("condition")
    dilations = settings["network"].dilations

    def block(i, *names):
        return {n.replace(".", "_"): params[f"blocks.{i}.{n}"] for n in names}

    parts = ["conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias"]
    x, looked_up = embedding.forward(codes[:, :-1], params["input.embedding"])
    skip, saved = 0, []
    for i, dilation in enumerate(dilations):
        extra = {} if condition is None else {"condition": condition, **block(i, "condition.weight")}
        y, kept = gated_block.forward(x, **block(i, *parts), **extra, dilation=dilation)
        x, skip = y.h, skip + y.skip
        saved.append(kept)
    end, head0 = conv1d.forward(np.maximum(skip, 0), params["head.0.weight"][None], params["head.0.bias"])
    loss, head1 = cross_entropy.forward(
        np.maximum(end, 0), params["head.1.weight"], params["head.1.bias"], codes[:, 1:],
        arguments.get("sample_weight"),
    )  # fmt: skip

    grads, dcondition = {}, None
    d1 = cross_entropy.backward(1.0, head1)
    d0 = conv1d.backward(d1.x * (end > 0), head0)
    grads |= {"head.1.weight": d1.w, "head.1.bias": d1.b, "head.0.weight": d0.w[0], "head.0.bias": d0.b}
    dh, dskip = np.zeros_like(x), d0.x * (skip > 0)
    for i in reversed(range(len(dilations))):
        d = gated_block.backward((dh, dskip), saved[i])
        dh = d.x
        grads |= {f"blocks.{i}.{n}": getattr(d, n.replace(".", "_")) for n in parts}
        if condition is not None:
            grads[f"blocks.{i}.condition.weight"] = d.condition_weight
            dcondition = d.condition if dcondition is None else dcondition + d.condition
    grads["input.embedding"] = embedding.backward(dh, looked_up).table
    s.check_close(s.run(case, "float64"), gated_stack.Result(loss, grads, dcondition), 1e-11, str(case))


def check_drawn(arguments, network, options):
    """Loss, gradients and outputs in float64. Kinks are no danger: rounding is 1e-16, and a flip is of that size."""
    wanted = gated_stack.loss_and_grads(**arguments, **network, backend="reference")
    scale = max(np.abs(g).max() for g in wanted.grads.values()) or 1.0
    got = gated_stack.loss_and_grads(**arguments, **network, **options)
    assert abs(got.loss - wanted.loss) <= 1e-12 * max(abs(wanted.loss), 1)
    for name, gradient in s.gradients(wanted).items():
        assert np.abs(s.gradients(got)[name] - gradient).max() <= 1e-12 * scale, name
    same = s.outputs(arguments, network, backend="reference")
    assert np.abs(s.outputs(arguments, network) - same).max() <= 1e-11 * max(np.abs(same).max(), 1)
    for name in [f"blocks.{i}.conv.weight" for i in range(len(network["network"].dilations))]:
        one = gated_stack.loss_and_grads(**arguments, **network, **options, needs=[name])
        s.check_needs(one, got, [name], name)


@settings(max_examples=60)
@given(data=st.data())
def test_wavenets_of_any_sizes_equal_the_reference(data):
    """Stacks that nobody thought of, in float64."""

    def draw(name, low, high):
        return data.draw(st.integers(low, high), label=name)

    condition = data.draw(st.sampled_from([None, None, "global", "local"]), label="condition")
    network = gated_stack.wavenet(
        data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=4), label="dilations"),
        kernel_size=draw("kernel", 1, 5), channels=draw("residual", 1, 40), gate_channels=draw("gate", 1, 40),
        skip_channels=draw("skip", 1, 40), end_channels=draw("end", 1, 40), classes=draw("classes", 1, 40),
        condition=Condition(draw("condition_channels", 1, 20)) if condition else None,
    )  # fmt: skip
    sizes = dict(
        batch=draw("batch", 1, 3), time=draw("time", 1, 220), condition=condition, network=network,
        weights=data.draw(st.booleans(), label="weights"),
    )  # fmt: skip
    arguments, stack = cases.inputs(contract.Case("drawn", draw("seed", 0, 10**6), sizes), "float64")
    options = dict(threads=draw("threads", 1, 4), recompute=data.draw(st.booleans(), label="recompute"))
    check_drawn(arguments, stack, options)


def drawn_stack(draw, activation):
    """One of one to three blocks."""
    dilations = draw(st.lists(st.integers(1, 120), min_size=1, max_size=3), label="dilations")
    sizes = draw(st.lists(st.integers(1, 7), min_size=len(dilations), max_size=len(dilations)), label="kernel_sizes")
    width = st.integers(1, 40)
    return Stack(dilations, sizes, draw(width, label="channels"), draw(width, label="gate"),
                 draw(st.sampled_from([0, 0, 1, 5, 33]), label="skip"), activation)  # fmt: skip


@settings(max_examples=60)
@given(data=st.data())
def test_networks_of_any_sizes_equal_the_reference(data):
    """Several stacks, real rows, filters as heads and frames, with windows of up to three chunks."""
    draw, flag = data.draw, st.booleans()
    activation = draw(st.sampled_from(["gated", "leaky_relu"]), label="activation")
    stacks = [drawn_stack(draw, activation) for _ in range(draw(st.integers(1, 3), label="stacks"))]
    end, outputs = draw(st.sampled_from([0, 0, 9]), label="end"), draw(st.integers(1, 3), label="outputs")
    head = Regression(outputs, end, 1 if end else draw(st.sampled_from([1, 2, 16, 230]), label="filter"),
                      draw(flag, label="bias"))  # fmt: skip
    condition, hop = None, draw(st.sampled_from([0, 1, 5, 80, 500]), label="hop")
    if draw(flag, label="condition"):
        condition = Condition(draw(st.integers(1, 20), label="condition_channels"), hop,
                              draw(st.sampled_from(["linear", "held"]), label="interpolation"),
                              draw(flag, label="condition_bias"))  # fmt: skip
    channels = draw(st.sampled_from([1, 3, 20]), label="inputs")
    network = Network(Samples(channels, draw(flag, label="input_bias")), stacks, head, condition,
                      draw(flag, label="join_bias"))  # fmt: skip
    sizes = dict(batch=draw(st.integers(1, 3), label="batch"), weights=draw(flag, label="weights"), network=network,
                 time=draw(st.one_of(st.integers(1, 60), st.integers(180, 420)), label="time"),
                 condition=draw(st.sampled_from(["global", "local"]), label="kind") if not hop else None)  # fmt: skip
    case = contract.Case("drawn", draw(st.integers(0, 10**6), label="seed"), sizes)
    arguments, settings = cases.inputs(case, "float64")
    check_drawn(arguments, settings, dict(threads=draw(st.integers(1, 4), label="threads"),
                                          recompute=draw(flag, label="recompute")))  # fmt: skip


def test_every_activation_in_one_network_equals_the_reference():
    stacks = [Stack((1, 2), 2, 5, 6, 7, kind, 0.3 if kind in ("elu", "leaky_relu") else None) for kind in ACTIVATIONS]
    network = Network(Samples(2), stacks, Regression(2))
    sizes = dict(batch=2, time=220, weights=True, network=network)
    arguments, settings = cases.inputs(contract.Case("activations", 0, sizes), "float64")
    check_drawn(arguments, settings, {})
    changed = [dataclasses.replace(x, alpha=0.2) if x.activation == "elu" else x for x in stacks]
    other = gated_stack.loss(**arguments, network=dataclasses.replace(network, stacks=changed))
    assert other != gated_stack.loss(**arguments, **settings)


@s.named("condition-bias", "frames-linear", "three-stacks", "global", "local")
def test_without_its_condition_a_network_is_one_that_has_none(case):
    """Its weights and bias are left out, on every way."""
    arguments, settings = cases.inputs(case, "float64")
    arguments.pop("condition")
    got = gated_stack.loss_and_grads(**arguments, **settings)
    bare = {"network": dataclasses.replace(settings["network"], condition=None)}
    wanted = gated_stack.loss_and_grads(**arguments, **bare)
    assert got.condition is None and not any(g.any() for n, g in got.grads.items() if ".condition." in n)
    kept = {n: g for n, g in got.grads.items() if ".condition." not in n}
    s.check_bits(got._replace(grads=kept), wanted)
    s.check_close(gated_stack.loss_and_grads(**arguments, **settings, backend="reference"), got, 1e-10)
    assert s.outputs(arguments, settings).tobytes() == s.outputs(arguments, bare).tobytes()


# ---- the checks notice a wrong backward ------------------------------------------------------------------------------
RED = [s.case_named(name) for name in ("local", "frames-linear", "three-stacks")]
PARTS = [
    (case, name, damage)
    for case in RED
    for name, gradient in s.gradients(s.expected(case, "float64")).items()
    for damage in (s.flip_sign, s.flip_one, s.shift)
    if name not in s.last_residual(case)
    and not (damage is s.shift and gradient.shape[-1 if gradient.ndim == 1 else -2] == 1)  # one row cannot be moved
]


@pytest.mark.parametrize(
    ("case", "name", "damage"), PARTS, ids=[f"{case}-{name}-{damage.__name__}" for case, name, damage in PARTS]
)
def test_a_wrong_backward_is_noticed(case, name, damage, monkeypatch):
    kernels = importlib.import_module("wavedil.ops.gated_stack.cpu")
    right = kernels.loss_and_grads

    def wrong(params, inputs, targets, weights, into, **options):
        loss, dcondition = right(params, inputs, targets, weights, into, **options)
        damage(dcondition if name == "condition" else into[name])
        return loss, dcondition

    monkeypatch.setattr(kernels, "loss_and_grads", wrong)
    for dtype in h.DTYPES:
        with pytest.raises(AssertionError, match=f"{name} is off by"):
            s.check_close(s.run(case, dtype), s.expected(case, dtype), case.tolerance[dtype])
    with pytest.raises(AssertionError, match=f"along {name}: off by"):
        s.check_slopes(case, names=[name])


def test_a_wrong_loss_is_noticed():
    case = RED[0]
    got = s.run(case, "float32")
    with pytest.raises(AssertionError, match="loss"):
        s.check_close(got._replace(loss=got.loss * (1 + 1e-4)), s.expected(case, "float32"), 2e-5)
    with pytest.raises(AssertionError, match="loss"):
        s.check_bits(got._replace(loss=np.nextafter(got.loss, 9)), s.plain(case, "float32"))


# ---- NaN shows -------------------------------------------------------------------------------------------------------
@s.by_dtype
@s.named("one-sample", "kernel-3", "local", "global-one-sample", "three-stacks", "frames-linear")
def test_a_nan_parameter_shows(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    first = s.fed(arguments)[0, 0]
    heads = [n for n in arguments["params"] if n.startswith("head")][-2:]
    for name, value in arguments["params"].items():
        spoiled = value.copy()
        # The last tap is now; and of one row, only that.
        spoiled[first if name == "input.embedding" else -1 if value.ndim == 3 else 0] = np.nan
        given = arguments | {"params": arguments["params"] | {name: spoiled}}
        result = gated_stack.loss_and_grads(**given, **settings)
        # The last block's residual reaches nothing, so nothing shows.
        shows = name not in s.last_residual(case)
        assert np.isnan(result.loss) == shows, name
        assert np.isnan(gated_stack.loss(**given, **settings)) == shows, name
        if shows:
            assert any(np.isnan(result.grads[n]).any() for n in heads), name


@s.by_dtype
def test_an_infinite_parameter_shows(dtype):
    arguments, settings = cases.inputs(s.case_named("kernel-3"), dtype)
    arguments["params"]["head.1.weight"][:, 0] = np.inf
    assert not np.isfinite(gated_stack.loss(**arguments, **settings))
