"""The same bits whatever the threads, the workspace and the arrays' memory; and how much memory."""

import dataclasses
import threading
import tracemalloc

import numpy as np
import pytest
from helpers import ops as h
from helpers import stacks as s

from wavedil.errors import ConfigError
from wavedil.kernels.workspace import Workspace
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases


# ---- the same bits ---------------------------------------------------------------------------------------------------
@s.by_dtype
@s.by_any
def test_recomputed_gates_give_the_same_bits(case, dtype):
    for threads in (1, 2, 3):
        s.check_bits(s.run(case, dtype, recompute=True, threads=threads), s.plain(case, dtype), f"{threads} threads")


@s.by_dtype
@s.by_any
def test_threads_change_no_bit(case, dtype):
    """Batches of 1 to 3 over 1 to 7 threads: items side by side, and stages of one item side by side."""
    for threads in (None, 2, 3, 7):
        s.check_bits(s.run(case, dtype, threads=threads), s.plain(case, dtype), f"{threads} threads")


def test_more_stages_than_chunks_and_more_threads_than_blocks():
    case = s.case_named("above-past")
    for threads in (2, 3, 5, 40):
        for recompute in (False, True):
            s.check_bits(s.run(case, "float32", threads=threads, recompute=recompute), s.plain(case, "float32"))


def test_a_long_window_in_spans_of_several_chunks():
    """48 chunks: with 2 or 3 threads a task of the pipeline holds more than one of them."""
    rng = np.random.default_rng(5)
    widths = dict(channels=3, gate_channels=3, skip_channels=3, end_channels=3)
    settings = {"network": gated_stack.wavenet((1, 300), **widths, classes=5)}
    params = s.random_params(settings["network"], rng)
    codes = rng.integers(0, 5, (1, 48 * 192 - 13))
    one = gated_stack.loss_and_grads(params, codes, **settings, threads=1)
    for threads in (2, 3):
        for recompute in (False, True):
            again = gated_stack.loss_and_grads(params, codes, **settings, threads=threads, recompute=recompute)
            s.check_bits(again, one, f"{threads} threads")
    assert gated_stack.loss(params, codes, **settings) == one.loss
    wanted = gated_stack.loss_and_grads(
        {n: p.astype("float64") for n, p in params.items()}, codes, **settings, backend="reference"
    )
    # A ReLU may flip in 9200 rows of float32, so the loss alone is compared there; float64 keeps clear.
    assert one.loss == pytest.approx(wanted.loss, rel=1e-6)
    wide = gated_stack.loss_and_grads({n: p.astype("float64") for n, p in params.items()}, codes, **settings)
    s.check_close(wide, wanted, 1e-10)


def test_half_activations_are_for_a_gpu():
    with pytest.raises(ConfigError, match="half_activations is for float32 on 'cuda', got float32 on 'cpu'"):
        s.run(s.CASES[0], "float32", half_activations=True)


@s.by_dtype
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_left_in_a_workspace_does_not_matter(dtype, recompute):
    """One workspace for all cases, each of them after NaN has been everywhere."""
    workspace = Workspace()
    every = s.CASES + s.NETWORKS
    for case in (*every, *reversed(every)):
        arguments, settings = cases.inputs(case, dtype)
        gated_stack.loss_and_grads(**s.spoiled(arguments), **settings, workspace=workspace, recompute=recompute)
        for threads in (1, 3):
            got = s.run(case, dtype, workspace=workspace, recompute=recompute, threads=threads)
            s.check_bits(got, s.plain(case, dtype), str(case))


@s.by_dtype
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("other", [(4, 2, 1), (3, 3, 1), (1, 4, 2)])
def test_other_dilations_of_the_same_sum_in_one_workspace(other, recompute, dtype):
    case = s.case_named("local")
    arguments, settings = cases.inputs(case, dtype)
    network, workspace = settings["network"], Workspace()
    (stack,) = network.stacks
    assert sum(other) == sum(network.dilations)
    changed = dataclasses.replace(network, stacks=[dataclasses.replace(stack, dilations=other)])
    for one in (changed, network, changed):
        got, wanted = (
            gated_stack.loss_and_grads(**arguments, network=one, recompute=recompute, workspace=w)
            for w in (workspace, None)
        )
        s.check_bits(got, wanted)


def test_both_dtypes_in_one_workspace():
    for case in map(s.case_named, ("local", "wide", "three-stacks")):
        workspace = Workspace()
        for dtype in ("float32", "float64", "float32"):
            s.check_bits(s.run(case, dtype, workspace=workspace), s.plain(case, dtype), dtype)


@s.by_dtype
@s.named("below-dilation", "one-chunk", "global", "local", "three-stacks", "frames-held")
def test_into_accumulates(case, dtype):
    rng, fresh = np.random.default_rng(9), s.plain(case, dtype)
    start = {n: rng.standard_normal(g.shape).astype(dtype) for n, g in fresh.grads.items()}
    into = {n: a.copy() for n, a in start.items()}
    got = s.run(case, dtype, into=into)
    assert got.grads is into and got.loss == fresh.loss
    for name, total in into.items():
        wanted = start[name].astype("float64") + fresh.grads[name]
        h.assert_close(total, wanted, 1e-6 if dtype == "float32" else 1e-14, name)
        assert name not in s.last_residual(case) or total.tobytes() == start[name].tobytes()
    if fresh.condition is not None:
        assert got.condition.tobytes() == fresh.condition.tobytes()  # always fresh


@pytest.mark.parametrize("recompute", [False, True])
@s.named("below-dilation", "one-chunk", "local", "three-stacks")
def test_inputs_are_left_alone(case, recompute):
    arguments, settings = cases.inputs(case, "float32")
    arrays = [*arguments.pop("params").items(), *arguments.items()]
    before = [a.tobytes() for _, a in arrays]
    for _, a in arrays:
        a.flags.writeable = False
    split = len(arrays) - len(arguments)
    got = gated_stack.loss_and_grads(dict(arrays[:split]), **dict(arrays[split:]), **settings, recompute=recompute)
    s.check_bits(got, s.plain(case, "float32"))
    assert [a.tobytes() for _, a in arrays] == before


@s.named("below-dilation", "local", "global", "three-stacks", "numbers-fed-codes-predicted")
def test_non_contiguous_inputs(case):
    arguments, settings = cases.inputs(case, "float32")
    loose = {n: s.scattered(a) for n, a in arguments.items() if n != "params"}
    loose["params"] = {n: s.scattered(a) for n, a in arguments["params"].items()}
    s.check_bits(gated_stack.loss_and_grads(**loose, **settings), s.plain(case, "float32"))
    assert gated_stack.loss(**loose, **settings) == s.plain(case, "float32").loss
    assert s.outputs(loose, settings).tobytes() == s.outputs(arguments, settings).tobytes()


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int32, np.uint64])
def test_codes_and_weights_of_any_kind(integer):
    case = s.case_named("below-dilation")
    arguments, settings = cases.inputs(case, "float32")
    codes = arguments["inputs"].astype(integer)
    mask = arguments["sample_weight"] > 0
    wanted = gated_stack.loss_and_grads(**arguments | {"sample_weight": mask.astype("float32")}, **settings)
    for kind in (bool, np.uint8, np.float64):
        again = arguments | {"inputs": codes, "sample_weight": mask.astype(kind)}
        s.check_bits(gated_stack.loss_and_grads(**again, **settings), wanted)


def test_rows_without_weight_count_for_nothing():
    case = s.case_named("one-chunk")
    arguments, settings = cases.inputs(case, "float64")
    arguments["sample_weight"][:, 60:] = 0
    short = arguments | {"inputs": arguments["inputs"][:, :61], "sample_weight": arguments["sample_weight"][:, :60]}
    got, wanted = (gated_stack.loss_and_grads(**a, **settings) for a in (arguments, short))
    s.check_close(got, wanted, 1e-13)
    scaled = gated_stack.loss_and_grads(**arguments | {"sample_weight": 1e6 * arguments["sample_weight"]}, **settings)
    s.check_close(scaled, got, 1e-13)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@s.by_dtype
@s.named("samples", "three-stacks", "codes-fed-numbers-predicted")
def test_targets_without_weight_may_be_nan(case, dtype, backend):
    arguments, settings = cases.inputs(case, dtype)
    off = arguments["sample_weight"] == 0
    assert off.any()
    for nothing in (np.nan, np.inf):
        arguments["targets"][off] = nothing
        got = gated_stack.loss_and_grads(**arguments, **settings, backend=backend)
        assert got.loss == gated_stack.loss(**arguments, **settings, backend=backend)
        s.check_close(got, s.expected(case, dtype), case.tolerance[dtype])
    arguments["targets"][~off] = np.nan
    assert np.isnan(gated_stack.loss(**arguments, **settings, backend=backend))


def test_two_threads_train_at_once():
    results, failures, some = {}, [], [s.case_named(n) for n in ("tile-below-chunk", "global", "three-stacks")]

    def work(k):
        try:
            case = some[k % 3]
            for _ in range(3):
                s.check_bits(s.run(case, "float32", threads=2), s.plain(case, "float32"))
            results[k] = True
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    for case in some:
        s.plain(case, "float32")
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(results) == 4


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_large_is_allocated_after_the_first_step(recompute):
    case = s.case_named("twenty-blocks")
    arguments, settings = cases.inputs(case, "float32")
    workspace = Workspace()
    into = {n: np.zeros_like(p) for n, p in arguments["params"].items()}

    def step():
        gated_stack.loss_and_grads(
            **arguments, **settings, into=into, workspace=workspace, recompute=recompute, threads=2
        )  # fmt: skip

    step()
    held = workspace.nbytes
    step()
    tracemalloc.start()
    try:
        step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert workspace.nbytes == held
    assert peak < 0.05 * held, f"{peak} of {held} bytes"


def test_recomputing_takes_less_memory_and_loss_alone_little():
    rng, time = np.random.default_rng(0), 3000
    widths = dict(channels=16, gate_channels=16, skip_channels=16, end_channels=16)
    settings = {"network": gated_stack.wavenet((1, 2, 4, 8, 16, 32), **widths, classes=30)}
    params = s.random_params(settings["network"], rng)
    codes = rng.integers(0, 30, (1, time + 1))
    held = []
    for recompute in (False, True):
        workspace = Workspace()
        gated_stack.loss_and_grads(params, codes, **settings, workspace=workspace, recompute=recompute)
        held.append(workspace.nbytes)
    assert held[1] < 0.6 * held[0]

    def peak(count):
        gated_stack.loss(params, codes[:, :count], **settings)
        tracemalloc.start()
        try:
            gated_stack.loss(params, codes[:, :count], **settings)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # What grows are copies of codes and weights; one activation of one block has 64 bytes a sample.
    assert peak(time) - peak(300) < 40 * (time - 300)


