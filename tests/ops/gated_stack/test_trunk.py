"""The trunk alone, for other heads: forward, backward, and in a stream."""

import importlib
import itertools
import tracemalloc

import numpy as np
import pytest
from helpers import ops as h
from helpers import stacks as s

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.kernels.workspace import Workspace
from wavedil.ops import contract, embedding, gated_block, gated_stack
from wavedil.ops.gated_stack import cases

RED = s.case_named("local")
WITHOUT_FILTER = [str(case) for case in s.NETWORKS if not case.sizes["network"].filters]


# ---- the trunk alone -------------------------------------------------------------------------------------------------
@s.by_dtype
@s.by_any
def test_trunk_equals_the_reference(case, dtype):
    arguments, dskips = s.trunk_inputs(case, dtype)
    skips, saved = gated_stack.forward(**s.to_float64(arguments), backend="reference")
    wanted = s.trunk_parts(skips, gated_stack.backward(dskips.astype("float64"), saved))
    got = s.run_trunk(case, dtype)
    s.check_trunk(got, wanted, case.tolerance[dtype])
    assert {a.dtype.name for a in got.values()} == {dtype}


@s.named("below-dilation", "kernel-3", "one-chunk-and-a-row", "global", "local")
def test_trunk_is_the_composition_of_single_ops(case):
    arguments, dskips = s.trunk_inputs(case, "float64")
    params, condition, dilations = arguments["params"], arguments.get("condition"), arguments["network"].dilations
    parts = ["conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias"]
    parts += ["condition.weight"] * (condition is not None)
    x, looked_up = embedding.forward(arguments["inputs"], params["input.embedding"])
    skips, saved, grads = 0, [], {}
    for i, dilation in enumerate(dilations):
        named_parts = {n.replace(".", "_"): params[f"blocks.{i}.{n}"] for n in parts}
        y, kept = gated_block.forward(x, **named_parts, condition=condition, dilation=dilation)
        x, skips = y.h, skips + y.skip
        saved.append(kept)
    dh, dcondition = np.zeros_like(x), 0
    for i in reversed(range(len(dilations))):
        d = gated_block.backward((dh, dskips), saved[i])
        dh = d.x
        grads |= {f"blocks.{i}.{n}": getattr(d, n.replace(".", "_")) for n in parts}
        dcondition = dcondition if condition is None else dcondition + d.condition
    grads["input.embedding"] = embedding.backward(dh, looked_up).table
    wanted = s.trunk_parts(skips, gated_stack.Grads(grads, None if condition is None else dcondition))
    s.check_trunk(s.run_trunk(case, "float64"), wanted, 1e-11)


@s.by_dtype
@s.by_any
def test_trunk_has_the_same_bits_on_any_threads_and_with_gates_computed_twice(case, dtype):
    workspace = Workspace()
    for recompute in (False, True):
        for threads in (1, 2, 3):
            got = s.run_trunk(case, dtype, recompute=recompute, threads=threads, workspace=workspace)
            s.check_trunk_bits(got, s.plain_trunk(case, dtype))


@pytest.mark.parametrize("recompute", [False, True])
@s.named("below-dilation", "two-chunks-and-a-row", "global", "local", *map(str, s.NETWORKS))
def test_trunk_computes_what_is_needed_after_nan_was_everywhere(case, recompute):
    workspace = Workspace()
    arguments, dskips = s.trunk_inputs(case, "float32")
    for threads in (1, 2):
        options = dict(recompute=recompute, threads=threads, workspace=workspace)
        for name, needs in s.needs_of(case).items():
            needs = [n for n in needs if not n.startswith("head")]
            skips, saved = gated_stack.forward(**s.spoiled(arguments), **options)
            gated_stack.backward(dskips * np.float32(np.nan), saved)
            got = s.run_trunk(case, "float32", needs=needs, **options)
            assert got.keys() == {"skips", *needs}, name
            s.check_trunk_bits(got, s.plain_trunk(case, "float32"), got)
            # The same when only backward is told, and when it is told of less than forward was.
            skips, saved = gated_stack.forward(**arguments, **options)
            grads = gated_stack.backward(dskips, saved, needs=needs, threads=threads)
            s.check_trunk_bits(s.trunk_parts(skips, grads), s.plain_trunk(case, "float32"), got)


@s.named("one-sample", "kernel-3", "below-dilation", "global", "local", *map(str, s.NETWORKS))
def test_trunk_slopes(case):
    s.check_trunk_slopes(case, None)


@pytest.mark.parametrize("name", ["input.embedding", "blocks.1.conv.weight", "blocks.2.skip.bias", "condition"])
def test_a_wrong_trunk_backward_is_noticed(name, monkeypatch):
    kernels = importlib.import_module("wavedil.ops.gated_stack.cpu")
    right = kernels.backward

    def wrong(dskips, kept, into, **options):
        dcondition = right(dskips, kept, into, **options)
        s.flip_one(dcondition if name == "condition" else into[name])
        return dcondition

    wanted = s.plain_trunk(RED, "float64")
    monkeypatch.setattr(kernels, "backward", wrong)
    with pytest.raises(AssertionError, match=f"{name} is off by"):
        s.check_trunk(s.run_trunk(RED, "float64"), wanted, RED.tolerance["float64"])
    with pytest.raises(AssertionError, match=f"along {name}: off by"):
        s.check_trunk_slopes(RED, [name])


@s.by_dtype
@s.named("below-dilation", "above-past", "two-chunks-and-a-row", "global", "local", *WITHOUT_FILTER)
def test_trunk_in_a_stream_equals_one_pass(case, dtype):
    """In pieces of any size, which take turns with those of a stream of outputs."""
    arguments, settings = cases.inputs(case, dtype)
    wanted, scores, time = s.plain_trunk(case, dtype)["skips"], s.whole(case, dtype), case.sizes["time"]
    for backend in ("cpu", "reference"):
        state = gated_stack.init_state(arguments["params"], case.sizes["batch"], **settings, backend=backend)
        cuts = list(itertools.pairwise(sorted({0, 1, 2, time // 3, time // 2, time - 1, time} & set(range(time + 1)))))
        fed = s.pieces(arguments, settings, [end - begin for begin, end in cuts])
        for i, ((begin, end), (inputs, condition)) in enumerate(zip(cuts, fed, strict=True)):
            function, whole_one = ((gated_stack.step_features, wanted), (gated_stack.step, scores))[i == 2]
            got = function(inputs, state, condition)
            if backend == "cpu":
                assert got.tobytes() == whole_one[:, begin:end].tobytes()
            h.assert_close(got, whole_one[:, begin:end], case.tolerance[dtype])
        assert state.time == time


def test_trunk_into_out_and_heads():
    """Gradients are added, the rest is left alone; a head that is there changes nothing."""
    arguments, dskips = s.trunk_inputs(RED, "float32")
    wanted = s.plain_trunk(RED, "float32")
    params = cases.inputs(RED, "float32")[0]["params"]
    out, needs = np.empty_like(wanted["skips"]), ["blocks.2.conv.weight", "condition"]
    skips, saved = gated_stack.forward(**arguments | {"params": params}, out=out)
    assert skips is out and out.tobytes() == wanted["skips"].tobytes()
    into = {n: np.full_like(p, 2) for n, p in params.items()}
    dskips.flags.writeable = False
    grads = gated_stack.backward(s.scattered(dskips), saved, into=into, needs=needs)
    assert grads.params is into and grads.condition.tobytes() == wanted["condition"].tobytes()
    for name, total in into.items():
        assert total.tobytes() == (wanted[name] + 2 if name in needs else np.full_like(total, 2)).tobytes(), name


def test_a_trunk_that_keeps_nothing_takes_little_memory():
    """What forward holds for 3000 rows with nothing to keep: much the same for 2 blocks and for 12."""
    held = {}
    for blocks in (2, 12):
        widths = dict(channels=16, gate_channels=16, skip_channels=16, end_channels=3)
        network = gated_stack.wavenet((1, 2) * (blocks // 2), **widths, classes=7)
        sizes = dict(batch=1, time=3000, weights=False, network=network)
        arguments, dskips = s.trunk_inputs(contract.Case("memory", 0, sizes), "float32")
        for needs in (None, ()):
            workspace = Workspace()
            _, saved = gated_stack.forward(**arguments, needs=needs, workspace=workspace, threads=1)
            held[blocks, needs] = workspace.nbytes
            assert needs is None or gated_stack.backward(dskips, saved) == ({}, None)
    activation = 3000 * 16 * 4
    assert held[12, ()] - held[2, ()] < 5 * activation < 0.2 * (held[12, None] - held[2, None])


def test_nothing_large_is_allocated_after_the_first_trunk_step():
    arguments, dskips = s.trunk_inputs(s.case_named("twenty-blocks"), "float32")
    workspace = Workspace()
    into = {n: np.zeros_like(p) for n, p in arguments["params"].items()}

    def step():
        skips, saved = gated_stack.forward(**arguments, workspace=workspace, threads=2)
        gated_stack.backward(dskips, saved, into=into, threads=2)

    step()
    held = workspace.nbytes
    tracemalloc.start()
    try:
        step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert workspace.nbytes == held and peak < 0.05 * held


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_saved_trunk_serves_once(backend):
    arguments, dskips = s.trunk_inputs(RED, "float32")
    message = "backward: saved must be of the latest forward, for one backward, got one that is used up"
    workspace = Workspace()
    _, first = gated_stack.forward(**arguments, backend=backend, workspace=workspace)
    if backend == "cpu":
        _, second = gated_stack.forward(**arguments, backend=backend, workspace=workspace)
        with pytest.raises(ConfigError, match=message):
            gated_stack.backward(dskips, first)
        first = second
    gated_stack.backward(dskips, first)
    with pytest.raises(ConfigError, match=message):
        gated_stack.backward(dskips, first)


BAD_TRUNK = [
    (ShapeError, "forward: inputs must be (B, T), got (32,)", dict(inputs=np.zeros(32, int))),
    (ShapeError, "forward: inputs must lie in [0, 30), got 30", dict(inputs=np.full((3, 31), 30))),
    (ShapeError, "forward: condition must be (3, 31, 3), got (3, 30, 3)", dict(condition=s.f32(3, 30, 3))),
    (DTypeError, "forward: condition must be float32 as input.embedding is, got float64",
     dict(condition=np.ones((3, 31, 3)))),
    (ShapeError, "forward: out must be (3, 31, 3), got (3, 31, 4)", dict(out=s.f32(3, 31, 4))),
    (ConfigError, "forward: needs must name parameters, such as", dict(needs=["head.0.bias"])),
    (ConfigError, "forward: params must have all that the network has; no input.embedding", dict(params={})),
    (ConfigError, "forward: network must have no head, such as network.without_head(), got one",
     dict(network=RED.sizes["network"])),
    (ConfigError, "forward: network must be a gated_stack.Network, got NoneType", dict(network=None)),
    (ConfigError, "forward: threads must be at least 1, got 0", dict(threads=0)),
    (ShapeError, "backward: dskips must be (3, 31, 3), got (3, 31, 2)", dict(dskips=s.f32(3, 31, 2))),
    (DTypeError, "backward: dskips must be float32 as the skip sum is, got float64",
     dict(dskips=np.ones((3, 31, 3)))),
    (ConfigError, "backward: saved must be what forward returned, got NoneType", dict(saved=None)),
    (ConfigError, "backward: into must have an array for every parameter, got none for input.embedding",
     dict(into={})),
    (ConfigError, "backward: threads must be at least 1, got 0", dict(back_threads=0)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), BAD_TRUNK, ids=[m for _, m, _ in BAD_TRUNK])
def test_bad_input_of_a_trunk(error, message, change):
    arguments, dskips = s.trunk_inputs(RED, "float32")
    back = {n.removeprefix("back_"): change[n] for n in ("dskips", "saved", "into", "back_threads") if n in change}
    with pytest.raises(error) as caught:
        there = {n: v for n, v in change.items() if n.removeprefix("back_") not in back}
        _, saved = gated_stack.forward(**arguments | there)
        gated_stack.backward(**dict(dskips=dskips, saved=saved) | back)
    assert str(caught.value).startswith("gated_stack." + message)


def test_backward_of_a_trunk_needs_what_forward_was_told():
    arguments, dskips = s.trunk_inputs(RED, "float32")
    _, saved = gated_stack.forward(**arguments, needs=["blocks.1.conv.bias"])
    with pytest.raises(ConfigError, match="backward: needs must be some of those of forward, got .* 'condition'"):
        gated_stack.backward(dskips, saved, needs=["condition"])




def test_a_head_that_is_a_filter_has_no_features_to_step():
    arguments, settings = cases.inputs(s.case_named("three-stacks"), "float32")
    state = gated_stack.init_state(arguments["params"], 2, **settings)
    with pytest.raises(ConfigError, match="step_features: the state's network must have no head of one convolution"):
        gated_stack.step_features(arguments["inputs"], state, arguments["condition"])
    trunk, _ = s.trunk_inputs(s.case_named("three-stacks"), "float32")
    state = gated_stack.init_state(trunk["params"], 2, network=trunk["network"])
    with pytest.raises(ConfigError, match="step: the state's network must have a head, got one without: use step_feat"):
        gated_stack.step(trunk["inputs"], state, trunk["condition"])
    got = gated_stack.step_features(trunk["inputs"], state, trunk["condition"])
    assert got.tobytes() == s.plain_trunk(s.case_named("three-stacks"), "float32")["skips"].tobytes()
