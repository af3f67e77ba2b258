"""The whole network in one schedule: against the reference and single ops, as a stream, and bit for bit."""

import functools
import importlib
import itertools
import threading
import tracemalloc

import numpy as np
import pytest
from helpers import ops as h
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedil.errors import ConfigError, DivergedError, DTypeError, ShapeError
from wavedil.kernels.cpu.random import uniform
from wavedil.kernels.workspace import Workspace
from wavedil.ops import contract, conv1d, cross_entropy, embedding, gated_block, gated_stack
from wavedil.ops.gated_stack import cases, reference

CASES = cases.CASES
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", h.DTYPES)


def named(*names):
    return pytest.mark.parametrize("case", [h.case_named("gated_stack", name) for name in names], ids=str)


def f32(*shape):
    return np.ones(shape, "float32")


def to_float64(arguments):
    return h.to_float64(arguments) | {"params": h.to_float64(arguments["params"])}


def run(case, dtype, **options):
    arguments, settings = cases.inputs(case, dtype)
    return gated_stack.loss_and_grads(**arguments, **settings, **options)


@functools.cache
def plain(case, dtype):
    """One run with one thread, for tests that compare bits."""
    return run(case, dtype, threads=1)


@functools.cache
def expected(case, dtype):
    """The reference in float64, for inputs rounded to ``dtype``."""
    arguments, settings = cases.inputs(case, dtype)
    return gated_stack.loss_and_grads(**to_float64(arguments), **settings, backend="reference")


@functools.cache
def expected_logits(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    return logits(to_float64(arguments), settings, backend="reference")


def logits(arguments, settings, *, sizes=None, **options):
    """Logits of all but the last code, fed to a stream in pieces of these sizes."""
    params, codes, condition = arguments["params"], arguments["codes"][:, :-1], arguments.get("condition")
    channels = 0 if condition is None else condition.shape[-1]
    state = gated_stack.init_state(params, len(codes), **settings, condition_channels=channels, **options)
    outputs, t = [], 0
    for n in sizes or [codes.shape[1]]:
        piece = condition[:, t : t + n] if condition is not None and condition.ndim == 3 else condition
        outputs.append(gated_stack.step(codes[:, t : t + n], state, piece))
        t += n
        assert state.time == t
    assert t == codes.shape[1]
    return np.concatenate(outputs, axis=1)


def gradients(result):
    """Name -> array, with that of the condition."""
    return result.grads | ({} if result.condition is None else {"condition": result.condition})


def check_close(got, wanted, tolerance, what=""):
    assert abs(got.loss - wanted.loss) <= tolerance * abs(wanted.loss), f"{what}: loss {got.loss}, not {wanted.loss}"
    got, wanted = gradients(got), gradients(wanted)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = h.relative_error(got[name], gradient)
        assert error <= tolerance, f"{what}: {name} is off by {error:.2e}, allowed {tolerance:.0e}"


def check_bits(got, wanted, what=""):
    assert got.loss == wanted.loss, f"{what}: loss"
    for name, gradient in gradients(wanted).items():
        assert gradients(got)[name].tobytes() == gradient.tobytes(), f"{what}: {name}"


# ---- the cases -------------------------------------------------------------------------------------------------------
@by_case
def test_the_cases_keep_clear_of_kinks_and_of_dead_gradients(case):
    arguments, settings = cases.inputs(case, "float64")
    skip, end = relu_inputs(arguments, settings)
    assert min(np.abs(skip).min(), np.abs(end).min()) > 1e-5
    assert (skip > 0).any() and (skip < 0).any() and (end < 0).any()
    last = f"blocks.{len(settings['dilations']) - 1}.residual."
    zero = {name for name, g in expected(case, "float64").grads.items() if not g.any()}
    assert zero == {f"{last}weight", f"{last}bias"}


# ---- loss, gradients and logits --------------------------------------------------------------------------------------
@by_dtype
@by_case
def test_loss_and_gradients_equal_the_reference(case, dtype):
    got = run(case, dtype)
    check_close(got, expected(case, dtype), case.tolerance[dtype], f"{case}, {dtype}")
    assert {g.dtype.name for g in gradients(got).values()} == {dtype} and isinstance(got.loss, float)


@by_dtype
@by_case
def test_logits_equal_the_reference(case, dtype):
    got = logits(*cases.inputs(case, dtype))
    assert got.dtype == dtype
    h.assert_close(got, expected_logits(case, dtype), case.tolerance[dtype])


@by_dtype
@by_case
def test_loss_is_that_of_loss_and_grads_bit_for_bit(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    for threads in (1, 2):
        assert gated_stack.loss(**arguments, **settings, threads=threads) == plain(case, dtype).loss
    wanted = expected(case, "float64").loss
    assert gated_stack.loss(**to_float64(cases.inputs(case, "float64")[0]), **settings, backend="reference") == wanted


@by_dtype
@by_case
def test_the_last_residual_reaches_nothing(case, dtype):
    last = f"blocks.{len(case.sizes['dilations']) - 1}.residual."
    for recompute in (False, True):
        got = run(case, dtype, recompute=recompute)
        assert not got.grads[f"{last}weight"].any() and not got.grads[f"{last}bias"].any()


@by_dtype
@by_case
def test_recomputed_gates_give_the_same_bits(case, dtype):
    for threads in (1, 2, 3):
        check_bits(run(case, dtype, recompute=True, threads=threads), plain(case, dtype), f"{threads} threads")


@by_case
def test_it_is_the_composition_of_single_ops(case):
    arguments, settings = cases.inputs(case, "float64")
    params, codes, condition = arguments["params"], arguments["codes"], arguments.get("condition")
    blocks = range(len(settings["dilations"]))

    def block(i, *names):
        return {n.replace(".", "_"): params[f"blocks.{i}.{n}"] for n in names}

    parts = ["conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias"]
    x, looked_up = embedding.forward(codes[:, :-1], params["input.embedding"])
    skip, saved = 0, []
    for i in blocks:
        extra = {} if condition is None else {"condition": condition, **block(i, "condition.weight")}
        y, s = gated_block.forward(x, **block(i, *parts), **extra, dilation=settings["dilations"][i])
        x, skip = y.h, skip + y.skip
        saved.append(s)
    end, head0 = conv1d.forward(np.maximum(skip, 0), params["head.0.weight"][None], params["head.0.bias"])
    loss, head1 = cross_entropy.forward(
        np.maximum(end, 0), params["head.1.weight"], params["head.1.bias"], codes[:, 1:], arguments.get("weights")
    )

    grads, dcondition = {}, None
    d1 = cross_entropy.backward(1.0, head1)
    d0 = conv1d.backward(d1.x * (end > 0), head0)
    grads |= {"head.1.weight": d1.w, "head.1.bias": d1.b, "head.0.weight": d0.w[0], "head.0.bias": d0.b}
    dh, dskip = np.zeros_like(x), d0.x * (skip > 0)
    for i in reversed(blocks):
        d = gated_block.backward((dh, dskip), saved[i])
        dh = d.x
        grads |= {f"blocks.{i}.{n}": getattr(d, n.replace(".", "_")) for n in parts}
        if condition is not None:
            grads[f"blocks.{i}.condition.weight"] = d.condition_weight
            dcondition = d.condition if dcondition is None else dcondition + d.condition
    grads["input.embedding"] = embedding.backward(dh, looked_up).table
    check_close(run(case, "float64"), gated_stack.Result(loss, grads, dcondition), 1e-11, str(case))


@settings(max_examples=60)
@given(data=st.data())
def test_any_sizes_equal_the_reference(data):
    """Loss, gradients and logits of stacks that nobody thought of, in float64."""

    def draw(name, low, high):
        return data.draw(st.integers(low, high), label=name)

    condition = data.draw(st.sampled_from([None, None, "global", "local"]), label="condition")
    sizes = dict(
        batch=draw("batch", 1, 3), time=draw("time", 1, 220),
        dilations=tuple(data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=4), label="dilations")),
        kernel=draw("kernel", 1, 5), residual=draw("residual", 1, 40), dilated=draw("dilated", 1, 40),
        skip=draw("skip", 1, 40), end=draw("end", 1, 40), classes=draw("classes", 1, 40), condition=condition,
        condition_channels=draw("condition_channels", 1, 20) if condition else 0,
        weights=data.draw(st.booleans(), label="weights"),
    )  # fmt: skip
    case = contract.Case("drawn", draw("seed", 0, 10**6), sizes)
    arguments, stack = cases.inputs(case, "float64")
    # Kinks are no danger in float64: rounding is 1e-16, and a flip there is of that size too.
    wanted = gated_stack.loss_and_grads(**arguments, **stack, backend="reference")
    options = dict(threads=draw("threads", 1, 4), recompute=data.draw(st.booleans(), label="recompute"))
    scale = max(np.abs(g).max() for g in wanted.grads.values()) or 1.0
    got = gated_stack.loss_and_grads(**arguments, **stack, **options)
    assert abs(got.loss - wanted.loss) <= 1e-12 * max(abs(wanted.loss), 1)
    for name, gradient in gradients(wanted).items():
        assert np.abs(gradients(got)[name] - gradient).max() <= 1e-12 * scale, name
    assert np.abs(logits(arguments, stack) - logits(arguments, stack, backend="reference")).max() <= 1e-11


# ---- finite differences ----------------------------------------------------------------------------------------------
def clear_of_kinks(case):
    """A case's inputs in float64, with biases that keep the input of every ReLU at least 1 away from zero."""
    arguments, settings = cases.inputs(case, "float64")
    params = arguments["params"]
    for bias, which in (("blocks.0.skip.bias", 0), ("head.0.bias", 1)):
        x = relu_inputs(arguments, settings)[which]
        open_or_shut = np.arange(params[bias].size) % 3 != 1
        params[bias] += np.where(open_or_shut, 1 - x.min(axis=(0, 1)), -1 - x.max(axis=(0, 1)))
    end = np.maximum(relu_inputs(arguments, settings)[1], 0)
    params["head.1.bias"] -= (end @ params["head.1.weight"]).mean(axis=(0, 1))  # no class is out of the question
    return arguments, settings


def relu_inputs(arguments, settings):
    """The skip sum and the output of the head's first layer."""
    codes = arguments["codes"][:, :-1]
    _, kept = reference._forward(arguments["params"], codes, settings["dilations"], arguments.get("condition"))
    return kept[2:]


def check_slopes(case, names=None, tolerance=1e-6):
    """Gradients along a random direction against a central difference of fourth order of the loss.

    One array at a time, or all of them at once. The difference is of the size of the gradient's norm, by which the
    error is divided.
    """
    arguments, settings = clear_of_kinks(case)
    result = gated_stack.loss_and_grads(**arguments, **settings)
    grads, rng = gradients(result), np.random.default_rng([case.seed, 2])
    apart = [[name] for name in grads] if names is None else [names]
    for together in apart:
        directions = {name: rng.standard_normal(grads[name].shape) for name in together}

        def loss(distance, directions=directions):
            moved = dict(arguments, params=dict(arguments["params"]))
            for name, direction in directions.items():
                where = moved if name == "condition" else moved["params"]
                where[name] = where[name] + distance * direction
            return gated_stack.loss(**moved, **settings, threads=1)

        step = 1e-4
        slope = (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step)
        norm = np.sqrt(sum((grads[name] ** 2).sum() for name in together))
        error = abs(slope - sum((grads[name] * directions[name]).sum() for name in together))
        error /= norm if norm > 0 else 1.0
        assert error <= tolerance, f"{case} along {', '.join(together)}: off by {error:.2e}, allowed {tolerance:.0e}"


@named("one-sample", "single-channels", "below-dilation", "kernel-3", "kernel-5", "one-chunk-and-a-row",
       "two-chunks-and-a-row", "global", "global-one-sample", "local", "local-long")  # fmt: skip
def test_slopes(case):
    check_slopes(case)


@by_case
def test_slope_along_all_parameters_at_once(case):
    check_slopes(case, names=list(gradients(expected(case, "float64"))))


# ---- the checks notice a wrong backward ------------------------------------------------------------------------------
def flip_sign(array):
    array *= -1


def flip_one(array):
    """The last one that is not tiny beside the others."""
    array.reshape(-1)[np.flatnonzero(np.abs(array) > 0.01 * np.abs(array).max())[-1]] *= -1


def shift(array):
    """Off by one row."""
    array[...] = np.roll(array, 1, axis=-1 if array.ndim == 1 else -2)


RED = h.case_named("gated_stack", "local")
PARTS = [
    n for n in gradients(expected(RED, "float64")) if n not in ("blocks.2.residual.weight", "blocks.2.residual.bias")
]


@pytest.mark.parametrize("damage", [flip_sign, flip_one, shift])
@pytest.mark.parametrize("name", PARTS)
def test_a_wrong_backward_is_noticed(name, damage, monkeypatch):
    kernels = importlib.import_module("wavedil.ops.gated_stack.cpu")
    right = kernels.loss_and_grads

    def wrong(params, codes, weights, into, **options):
        loss, dcondition = right(params, codes, weights, into, **options)
        damage(dcondition if name == "condition" else into[name])
        return loss, dcondition

    monkeypatch.setattr(kernels, "loss_and_grads", wrong)
    for dtype in h.DTYPES:
        with pytest.raises(AssertionError, match=f"{name} is off by"):
            check_close(run(RED, dtype), expected(RED, dtype), RED.tolerance[dtype])
    with pytest.raises(AssertionError, match=f"along {name}: off by"):
        check_slopes(RED, names=[name])


def test_a_wrong_loss_is_noticed():
    got = run(RED, "float32")
    with pytest.raises(AssertionError, match="loss"):
        check_close(got._replace(loss=got.loss * (1 + 1e-4)), expected(RED, "float32"), 2e-5)
    with pytest.raises(AssertionError, match="loss"):
        check_bits(got._replace(loss=np.nextafter(got.loss, 9)), plain(RED, "float32"))


# ---- the same bits ---------------------------------------------------------------------------------------------------
@by_dtype
@by_case
def test_threads_change_no_bit(case, dtype):
    """Batches of 1 to 3 over 1 to 7 threads: items side by side, and stages of one item side by side."""
    for threads in (None, 2, 3, 7):
        check_bits(run(case, dtype, threads=threads), plain(case, dtype), f"{threads} threads")


def test_more_stages_than_chunks_and_more_threads_than_blocks():
    case = h.case_named("gated_stack", "above-past")
    for threads in (2, 3, 5, 40):
        for recompute in (False, True):
            check_bits(run(case, "float32", threads=threads, recompute=recompute), plain(case, "float32"))


def test_a_long_window_in_spans_of_several_chunks():
    """48 chunks: with 2 or 3 threads a task of the pipeline holds more than one of them."""
    rng = np.random.default_rng(5)
    settings = {"dilations": (1, 300)}
    shapes = gated_stack.parameter_shapes(
        **settings, kernel_size=2, residual_channels=3, dilation_channels=3, skip_channels=3, end_channels=3, classes=5
    )
    params = {n: rng.standard_normal(s).astype("float32") for n, s in shapes.items()}
    codes = rng.integers(0, 5, (1, 48 * 96 - 13))
    one = gated_stack.loss_and_grads(params, codes, **settings, threads=1)
    for threads in (2, 3):
        for recompute in (False, True):
            again = gated_stack.loss_and_grads(params, codes, **settings, threads=threads, recompute=recompute)
            check_bits(again, one, f"{threads} threads")
    assert gated_stack.loss(params, codes, **settings) == one.loss
    wanted = gated_stack.loss_and_grads(
        {n: p.astype("float64") for n, p in params.items()}, codes, **settings, backend="reference"
    )
    # A ReLU may flip in 4600 rows of float32, so the loss alone is compared there; float64 keeps clear.
    assert one.loss == pytest.approx(wanted.loss, rel=1e-6)
    wide = gated_stack.loss_and_grads({n: p.astype("float64") for n, p in params.items()}, codes, **settings)
    check_close(wide, wanted, 1e-10)


def test_half_activations_are_for_a_gpu():
    with pytest.raises(ConfigError, match="half_activations is for float32 on 'cuda', got float32 on 'cpu'"):
        run(CASES[0], "float32", half_activations=True)


@by_dtype
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_left_in_a_workspace_does_not_matter(dtype, recompute):
    """One workspace for all cases, each of them after NaN has been everywhere."""
    workspace = Workspace()
    for case in (*CASES, *reversed(CASES)):
        arguments, settings = cases.inputs(case, dtype)
        spoiled = dict(arguments, params={n: np.full_like(p, np.nan) for n, p in arguments["params"].items()})
        gated_stack.loss_and_grads(**spoiled, **settings, workspace=workspace, recompute=recompute)
        for threads in (1, 3):
            got = run(case, dtype, workspace=workspace, recompute=recompute, threads=threads)
            check_bits(got, plain(case, dtype), str(case))


@by_dtype
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("other", [(4, 2, 1), (3, 3, 1), (1, 4, 2)])
def test_other_dilations_of_the_same_sum_in_one_workspace(other, recompute, dtype):
    case = h.case_named("gated_stack", "local")
    arguments, settings = cases.inputs(case, dtype)
    assert sum(other) == sum(settings["dilations"])
    workspace = Workspace()
    for dilations in (other, settings["dilations"], other):
        got, wanted = (
            gated_stack.loss_and_grads(**arguments, dilations=dilations, recompute=recompute, workspace=w)
            for w in (workspace, None)
        )
        check_bits(got, wanted)


def test_both_dtypes_in_one_workspace():
    for case in (h.case_named("gated_stack", "local"), h.case_named("gated_stack", "wide")):
        workspace = Workspace()
        for dtype in ("float32", "float64", "float32"):
            check_bits(run(case, dtype, workspace=workspace), plain(case, dtype), dtype)


@by_dtype
@named("below-dilation", "one-chunk", "global", "local")
def test_into_accumulates(case, dtype):
    rng, fresh = np.random.default_rng(9), plain(case, dtype)
    start = {n: rng.standard_normal(g.shape).astype(dtype) for n, g in fresh.grads.items()}
    into = {n: a.copy() for n, a in start.items()}
    got = run(case, dtype, into=into)
    assert got.grads is into and got.loss == fresh.loss
    last = f"blocks.{len(case.sizes['dilations']) - 1}.residual."
    for name, total in into.items():
        wanted = start[name].astype("float64") + fresh.grads[name]
        h.assert_close(total, wanted, 1e-6 if dtype == "float32" else 1e-14, name)
        assert not name.startswith(last) or total.tobytes() == start[name].tobytes()
    if fresh.condition is not None:
        assert got.condition.tobytes() == fresh.condition.tobytes()  # always fresh


@pytest.mark.parametrize("recompute", [False, True])
@named("below-dilation", "one-chunk", "local")
def test_inputs_are_left_alone(case, recompute):
    arguments, settings = cases.inputs(case, "float32")
    arrays = [*arguments.pop("params").items(), *arguments.items()]
    before = [a.tobytes() for _, a in arrays]
    for _, a in arrays:
        a.flags.writeable = False
    split = len(arrays) - len(arguments)
    got = gated_stack.loss_and_grads(dict(arrays[:split]), **dict(arrays[split:]), **settings, recompute=recompute)
    check_bits(got, plain(case, "float32"))
    assert [a.tobytes() for _, a in arrays] == before


def scattered(array):
    """The same values, in memory with gaps and backwards."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


@named("below-dilation", "local", "global")
def test_non_contiguous_inputs(case):
    arguments, settings = cases.inputs(case, "float32")
    loose = {n: scattered(a) for n, a in arguments.items() if n != "params"}
    loose["params"] = {n: scattered(a) for n, a in arguments["params"].items()}
    check_bits(gated_stack.loss_and_grads(**loose, **settings), plain(case, "float32"))
    assert gated_stack.loss(**loose, **settings) == plain(case, "float32").loss
    assert logits(loose, settings).tobytes() == logits(arguments, settings).tobytes()


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int32, np.uint64])
def test_codes_and_weights_of_any_kind(integer):
    case = h.case_named("gated_stack", "below-dilation")
    arguments, settings = cases.inputs(case, "float32")
    codes = arguments["codes"].astype(integer)
    mask = arguments["weights"] > 0
    wanted = gated_stack.loss_and_grads(**arguments | {"weights": mask.astype("float32")}, **settings)
    for kind in (bool, np.uint8, np.float64):
        again = arguments | {"codes": codes, "weights": mask.astype(kind)}
        check_bits(gated_stack.loss_and_grads(**again, **settings), wanted)


def test_rows_without_weight_count_for_nothing():
    case = h.case_named("gated_stack", "one-chunk")
    arguments, settings = cases.inputs(case, "float64")
    arguments["weights"][:, 60:] = 0
    short = arguments | {"codes": arguments["codes"][:, :61], "weights": arguments["weights"][:, :60]}
    got, wanted = (gated_stack.loss_and_grads(**a, **settings) for a in (arguments, short))
    check_close(got, wanted, 1e-13)
    scaled = gated_stack.loss_and_grads(**arguments | {"weights": 1e6 * arguments["weights"]}, **settings)
    check_close(scaled, got, 1e-13)


def test_two_threads_train_at_once():
    results, failures = {}, []

    def work(k):
        try:
            case = CASES[(9, 11, 15)[k % 3]]
            for _ in range(3):
                check_bits(run(case, "float32", threads=2), plain(case, "float32"))
            results[k] = True
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    for k in range(3):
        plain(CASES[(9, 11, 15)[k]], "float32")
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(results) == 4


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_large_is_allocated_after_the_first_step(recompute):
    case = h.case_named("gated_stack", "twenty-blocks")
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
    settings = {"dilations": (1, 2, 4, 8, 16, 32)}
    shapes = gated_stack.parameter_shapes(
        **settings, kernel_size=2, residual_channels=16, dilation_channels=16, skip_channels=16, end_channels=16,
        classes=30,
    )  # fmt: skip
    params = {n: rng.standard_normal(s).astype("float32") for n, s in shapes.items()}
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


# ---- what nobody needs -----------------------------------------------------------------------------------------------
def needs_of(case):
    """Name -> needs: what fine-tuning asks for, and single names."""
    names = list(plain(case, "float32").grads)
    blocks = len(case.sizes["dilations"])
    above = {f"blocks.{i}" for i in range(blocks // 2, blocks)} | {"head.0", "head.1"}
    chosen = {
        "upper half": [n for n in names if n.rsplit(".", 2)[0] in above or n.startswith("head")],
        "head": [n for n in names if n.startswith("head")],
        "last layer": ["head.1.weight"],
        "nothing": [],
        "adapters": [n for n in names if n.endswith(("conv.weight", "skip.weight"))],
        "biases": [n for n in names if n.endswith("bias")],
        "all but the embedding": names[1:],
        "embedding": names[:1],
    }
    if case.sizes["condition"]:
        chosen |= {"condition": ["condition"], "condition weights": [n for n in names if "condition" in n]}
    middle = f"blocks.{blocks // 2}."
    return chosen | {f"only {n}": [n] for n in names if n.startswith((middle, "head.0")) or n.endswith("skip.bias")}


def check_needs(got, wanted, needs, what):
    """Needed gradients have the full run's bits, and there are no others."""
    assert got.loss == wanted.loss and gradients(got).keys() == set(needs), what
    for name in needs:
        assert gradients(got)[name].tobytes() == gradients(wanted)[name].tobytes(), f"{what}: {name}"


@pytest.mark.parametrize("recompute", [False, True])
@named("one-sample", "below-dilation", "kernel-3", "kernel-5", "two-chunks-and-a-row", "global", "local")
def test_needed_gradients_have_the_bits_of_the_full_run(case, recompute):
    """Whatever else is needed, in one workspace, on items side by side (1 thread) and in a pipeline (2, 3)."""
    workspace = Workspace()
    for threads in (1, 2, 3):
        for name, needs in needs_of(case).items():
            got = run(case, "float32", needs=needs, recompute=recompute, threads=threads, workspace=workspace)
            check_needs(got, plain(case, "float32"), needs, f"{name}, {threads} threads")
        got = run(case, "float32", recompute=recompute, threads=threads, workspace=workspace)
        check_bits(got, plain(case, "float32"), "all, after the others")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("kernel", "condition"), [(2, None), (3, None), (2, "global"), (3, "local")])
def test_a_long_window_above_a_frozen_prefix(kernel, condition, recompute):
    """Inputs of the prefix slide along in buffers that fill up several times, after NaN has been everywhere."""
    sizes = dict(CASES[0].sizes, batch=1, time=2500, dilations=(1, 7, 40, 3, 2), kernel=kernel, residual=5, dilated=3,
                 skip=3, end=3, classes=30, condition=condition, condition_channels=2 if condition else 0)  # fmt: skip
    arguments, settings = cases.inputs(contract.Case("long", 3, sizes), "float32")
    settings |= {"recompute": recompute}
    wanted = gated_stack.loss_and_grads(**arguments, **settings, threads=1)
    spoiled = dict(arguments, params={n: np.full_like(p, np.nan) for n, p in arguments["params"].items()})
    workspace = Workspace()
    for first in (4, 2, 5):
        needs = [n for n in wanted.grads if n.startswith(("head", *(f"blocks.{i}." for i in range(first, 5))))]
        for threads in (1, 2, 3):
            options = settings | dict(needs=needs, threads=threads, workspace=workspace)
            gated_stack.loss_and_grads(**spoiled, **options)
            got = gated_stack.loss_and_grads(**arguments, **options)
            check_needs(got, wanted, needs, f"blocks from {first}, {threads} threads")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@named("global", "local")
def test_into_is_left_alone_where_nobody_needs_it(case, backend):
    fresh = run(case, "float64", backend=backend, threads=1)
    needs = ["blocks.1.skip.weight", "head.0.bias", "blocks.2.condition.weight"]
    into = {n: np.full_like(g, 3) for n, g in fresh.grads.items()}
    got = run(case, "float64", backend=backend, needs=needs, into=into)
    assert got.grads is into and got.condition is None and got.loss == fresh.loss
    for name, total in into.items():
        assert total.tobytes() == (fresh.grads[name] + 3 if name in needs else np.full_like(total, 3)).tobytes(), name
    part = run(case, "float64", backend=backend, needs=[*needs, "condition"], into={n: into[n] for n in needs})
    assert list(part.grads) == needs and part.condition.tobytes() == fresh.condition.tobytes()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_frozen_lower_half_takes_less_memory(recompute):
    sizes = dict(CASES[0].sizes, time=6000, dilations=(1, 2, 4, 8, 16, 32), residual=16, dilated=16, skip=16, end=16)
    arguments, settings = cases.inputs(contract.Case("memory", 0, sizes), "float32")
    held = []
    for first in (0, 3):
        workspace = Workspace()
        upper = ("head", *(f"blocks.{i}." for i in range(first, 6)))
        needs = [n for n in arguments["params"] if n.startswith(upper)] if first else None
        gated_stack.loss_and_grads(**arguments, **settings, needs=needs, recompute=recompute, workspace=workspace)
        held.append(workspace.nbytes)
    assert held[1] < 0.75 * held[0]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["head.0.wieght"], "needs must name parameters, such as 'head.0.weight', got 'head.0.wieght'"),
        (["blocks.3.conv.bias"], "needs must name parameters, such as 'blocks.[0-2].conv.bias', got 'blocks.3.conv"),
        ([0], "needs must name parameters, such as '.*', got 0"),
        (["condition"], "needs must name what there is, got 'condition', and there is no condition"),
        ("head.0.bias", "needs must be a collection of names, got 'head.0.bias'"),
        (7, "needs must be a collection of names, got 7"),
    ],
)
def test_bad_needs(needs, message, backend):
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), "float32")
    with pytest.raises(ConfigError, match=f"gated_stack.loss_and_grads: {message}"):
        gated_stack.loss_and_grads(**arguments, **settings, needs=needs, backend=backend)
    with pytest.raises(ConfigError, match="must have an array for every parameter in needs, got none for head.1.bias"):
        gated_stack.loss_and_grads(**arguments, **settings, needs=["head.1.bias"], into={}, backend=backend)


# ---- the trunk alone -------------------------------------------------------------------------------------------------
def trunk_inputs(case, dtype):
    """Arguments of forward, without the head, and a gradient of what it returns."""
    arguments, settings = cases.inputs(case, dtype)
    params = {n: p for n, p in arguments["params"].items() if not n.startswith("head")}
    codes, condition = arguments["codes"][:, :-1], arguments.get("condition")
    dskips = np.random.default_rng(8).standard_normal((*codes.shape, params["blocks.0.skip.bias"].size))
    return dict(params=params, codes=codes, condition=condition, **settings), dskips.astype(dtype)


def trunk_parts(skips, grads):
    return grads.params | {"skips": skips} | ({} if grads.condition is None else {"condition": grads.condition})


def run_trunk(case, dtype, *, needs=None, **options):
    """Name -> array: the gradients, and the skips."""
    arguments, dskips = trunk_inputs(case, dtype)
    skips, saved = gated_stack.forward(**arguments, needs=needs, **options)
    return trunk_parts(skips, gated_stack.backward(dskips, saved, threads=options.get("threads")))


@functools.cache
def plain_trunk(case, dtype):
    return run_trunk(case, dtype, threads=1)


def check_trunk(got, wanted, tolerance):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        error = h.relative_error(got[name], array)
        assert error <= tolerance, f"{name} is off by {error:.2e}, allowed {tolerance:.0e}"


def check_trunk_bits(got, wanted, names=None):
    for name in wanted if names is None else names:
        assert got[name].tobytes() == wanted[name].tobytes(), name


@by_dtype
@by_case
def test_trunk_equals_the_reference(case, dtype):
    arguments, dskips = trunk_inputs(case, dtype)
    wide = h.to_float64(arguments) | {"params": h.to_float64(arguments["params"])}
    skips, saved = gated_stack.forward(**wide, backend="reference")
    wanted = trunk_parts(skips, gated_stack.backward(dskips.astype("float64"), saved))
    got = run_trunk(case, dtype)
    check_trunk(got, wanted, case.tolerance[dtype])
    assert {a.dtype.name for a in got.values()} == {dtype}


@named("below-dilation", "kernel-3", "one-chunk-and-a-row", "global", "local")
def test_trunk_is_the_composition_of_single_ops(case):
    arguments, dskips = trunk_inputs(case, "float64")
    params, condition, dilations = arguments["params"], arguments["condition"], arguments["dilations"]
    parts = ["conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias"]
    parts += ["condition.weight"] * (condition is not None)
    x, looked_up = embedding.forward(arguments["codes"], params["input.embedding"])
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
    wanted = trunk_parts(skips, gated_stack.Grads(grads, None if condition is None else dcondition))
    check_trunk(run_trunk(case, "float64"), wanted, 1e-11)


@by_dtype
@by_case
def test_trunk_has_the_same_bits_on_any_threads_and_with_gates_computed_twice(case, dtype):
    workspace = Workspace()
    for recompute in (False, True):
        for threads in (1, 2, 3):
            got = run_trunk(case, dtype, recompute=recompute, threads=threads, workspace=workspace)
            check_trunk_bits(got, plain_trunk(case, dtype))


@pytest.mark.parametrize("recompute", [False, True])
@named("below-dilation", "two-chunks-and-a-row", "global", "local")
def test_trunk_computes_what_is_needed_after_nan_was_everywhere(case, recompute):
    workspace = Workspace()
    arguments, dskips = trunk_inputs(case, "float32")
    spoiled = arguments | {"params": {n: np.full_like(p, np.nan) for n, p in arguments["params"].items()}}
    for threads in (1, 2):
        options = dict(recompute=recompute, threads=threads, workspace=workspace)
        for name, needs in needs_of(case).items():
            needs = [n for n in needs if not n.startswith("head")]
            skips, saved = gated_stack.forward(**spoiled, **options)
            gated_stack.backward(dskips * np.float32(np.nan), saved)
            got = run_trunk(case, "float32", needs=needs, **options)
            assert got.keys() == {"skips", *needs}, name
            check_trunk_bits(got, plain_trunk(case, "float32"), got)
            # The same when only backward is told, and when it is told of less than forward was.
            skips, saved = gated_stack.forward(**arguments, **options)
            grads = gated_stack.backward(dskips, saved, needs=needs, threads=threads)
            check_trunk_bits(trunk_parts(skips, grads), plain_trunk(case, "float32"), got)


def check_trunk_slopes(case, names, tolerance=1e-6):
    """Gradients of <skips, dskips> against a central difference of fourth order, along a direction of each array."""
    arguments, dskips = trunk_inputs(case, "float64")
    grads, rng = run_trunk(case, "float64"), np.random.default_rng([case.seed, 3])
    for name in [n for n in grads if n != "skips"] if names is None else names:
        direction = rng.standard_normal(grads[name].shape)

        def value(distance, name=name, direction=direction):
            moved = dict(arguments, params=dict(arguments["params"]))
            where = moved if name == "condition" else moved["params"]
            where[name] = where[name] + distance * direction
            return (gated_stack.forward(**moved, needs=(), threads=1)[0] * dskips).sum()

        step = 1e-3
        slope = (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)
        norm = np.sqrt((grads[name] ** 2).sum()) or 1.0
        error = abs(slope - (grads[name] * direction).sum()) / norm
        assert error <= tolerance, f"{case} along {name}: off by {error:.2e}, allowed {tolerance:.0e}"


@named("one-sample", "kernel-3", "below-dilation", "global", "local")
def test_trunk_slopes(case):
    check_trunk_slopes(case, None)


@pytest.mark.parametrize("name", ["input.embedding", "blocks.1.conv.weight", "blocks.2.skip.bias", "condition"])
def test_a_wrong_trunk_backward_is_noticed(name, monkeypatch):
    kernels = importlib.import_module("wavedil.ops.gated_stack.cpu")
    right = kernels.backward

    def wrong(dskips, kept, into, **options):
        dcondition = right(dskips, kept, into, **options)
        flip_one(dcondition if name == "condition" else into[name])
        return dcondition

    wanted = plain_trunk(RED, "float64")
    monkeypatch.setattr(kernels, "backward", wrong)
    with pytest.raises(AssertionError, match=f"{name} is off by"):
        check_trunk(run_trunk(RED, "float64"), wanted, RED.tolerance["float64"])
    with pytest.raises(AssertionError, match=f"along {name}: off by"):
        check_trunk_slopes(RED, [name])


@by_dtype
@named("below-dilation", "above-past", "two-chunks-and-a-row", "global", "local")
def test_trunk_in_a_stream_equals_one_pass(case, dtype):
    """In pieces of any size, which take turns with those of a stream of logits."""
    arguments, _ = cases.inputs(case, dtype)
    codes, condition = arguments["codes"][:, :-1], arguments.get("condition")
    wanted, scores, time = plain_trunk(case, dtype)["skips"], whole(case, dtype), codes.shape[1]
    local = condition is not None and condition.ndim == 3
    for backend in ("cpu", "reference"):
        state = gated_stack.init_state(
            arguments["params"], len(codes), dilations=case.sizes["dilations"], backend=backend,
            condition_channels=case.sizes["condition_channels"],
        )  # fmt: skip
        cuts = sorted({0, 1, 2, time // 3, time // 2, time - 1, time})
        for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
            piece = condition[:, begin:end] if local else condition
            function, whole_one = ((gated_stack.step_features, wanted), (gated_stack.step, scores))[i == 2]
            got = function(codes[:, begin:end], state, piece)
            if backend == "cpu":
                assert got.tobytes() == whole_one[:, begin:end].tobytes()
            h.assert_close(got, whole_one[:, begin:end], case.tolerance[dtype])
        assert state.time == time


def test_trunk_into_out_and_heads():
    """Gradients are added, the rest is left alone; a head that is there changes nothing."""
    arguments, dskips = trunk_inputs(RED, "float32")
    wanted = plain_trunk(RED, "float32")
    params = cases.inputs(RED, "float32")[0]["params"]
    out, needs = np.empty_like(wanted["skips"]), ["blocks.2.conv.weight", "condition"]
    skips, saved = gated_stack.forward(**arguments | {"params": params}, out=out)
    assert skips is out and out.tobytes() == wanted["skips"].tobytes()
    into = {n: np.full_like(p, 2) for n, p in params.items()}
    dskips.flags.writeable = False
    grads = gated_stack.backward(scattered(dskips), saved, into=into, needs=needs)
    assert grads.params is into and grads.condition.tobytes() == wanted["condition"].tobytes()
    for name, total in into.items():
        assert total.tobytes() == (wanted[name] + 2 if name in needs else np.full_like(total, 2)).tobytes(), name


def test_a_trunk_that_keeps_nothing_takes_little_memory():
    """What forward holds for 3000 rows with nothing to keep: much the same for 2 blocks and for 12."""
    held = {}
    for blocks in (2, 12):
        sizes = dict(CASES[0].sizes, time=3000, dilations=(1, 2) * (blocks // 2), residual=16, dilated=16, skip=16)
        arguments, dskips = trunk_inputs(contract.Case("memory", 0, sizes), "float32")
        for needs in (None, ()):
            workspace = Workspace()
            _, saved = gated_stack.forward(**arguments, needs=needs, workspace=workspace, threads=1)
            held[blocks, needs] = workspace.nbytes
            assert needs is None or gated_stack.backward(dskips, saved) == ({}, None)
    activation = 3000 * 16 * 4
    assert held[12, ()] - held[2, ()] < 5 * activation < 0.2 * (held[12, None] - held[2, None])


def test_nothing_large_is_allocated_after_the_first_trunk_step():
    arguments, dskips = trunk_inputs(h.case_named("gated_stack", "twenty-blocks"), "float32")
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
    arguments, dskips = trunk_inputs(RED, "float32")
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
    (ShapeError, "forward: codes must be (B, T), got (32,)", dict(codes=np.zeros(32, int))),
    (ShapeError, "forward: codes must lie in [0, 30), got 30", dict(codes=np.full((3, 31), 30))),
    (ShapeError, "forward: condition must be (3, 31, 3), got (3, 30, 3)", dict(condition=f32(3, 30, 3))),
    (DTypeError, "forward: condition must be float32 as input.embedding is, got float64",
     dict(condition=np.ones((3, 31, 3)))),
    (ShapeError, "forward: out must be (3, 31, 3), got (3, 31, 4)", dict(out=f32(3, 31, 4))),
    (ConfigError, "forward: needs must name parameters, such as", dict(needs=["head.0.bias"])),
    (ConfigError, "forward: params must have the names and ranks of a gated stack", dict(params={})),
    (ConfigError, "forward: threads must be at least 1, got 0", dict(threads=0)),
    (ShapeError, "backward: dskips must be (3, 31, 3), got (3, 31, 2)", dict(dskips=f32(3, 31, 2))),
    (DTypeError, "backward: dskips must be float32 as the skip sum is, got float64",
     dict(dskips=np.ones((3, 31, 3)))),
    (ConfigError, "backward: saved must be what forward returned, got NoneType", dict(saved=None)),
    (ConfigError, "backward: into must have an array for every parameter, got none for input.embedding",
     dict(into={})),
    (ConfigError, "backward: threads must be at least 1, got 0", dict(back_threads=0)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), BAD_TRUNK, ids=[m for _, m, _ in BAD_TRUNK])
def test_bad_input_of_a_trunk(error, message, change):
    arguments, dskips = trunk_inputs(RED, "float32")
    back = {n.removeprefix("back_"): change[n] for n in ("dskips", "saved", "into", "back_threads") if n in change}
    with pytest.raises(error) as caught:
        there = {n: v for n, v in change.items() if n.removeprefix("back_") not in back}
        _, saved = gated_stack.forward(**arguments | there)
        gated_stack.backward(**dict(dskips=dskips, saved=saved) | back)
    assert str(caught.value).startswith("gated_stack." + message)


def test_backward_of_a_trunk_needs_what_forward_was_told():
    arguments, dskips = trunk_inputs(RED, "float32")
    _, saved = gated_stack.forward(**arguments, needs=["blocks.1.conv.bias"])
    with pytest.raises(ConfigError, match="backward: needs must be some of those of forward, got .* 'condition'"):
        gated_stack.backward(dskips, saved, needs=["condition"])


# ---- NaN shows -------------------------------------------------------------------------------------------------------
@by_dtype
@named("one-sample", "kernel-3", "local", "global-one-sample")
def test_a_nan_parameter_shows(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    first = arguments["codes"][0, 0]
    last, taps = f"blocks.{len(settings['dilations']) - 1}.residual.", case.sizes["kernel"]
    for name, value in arguments["params"].items():
        spoiled = value.copy()
        spoiled[{"input.embedding": first}.get(name, -1 if taps > 1 else 0)] = np.nan
        given = arguments | {"params": arguments["params"] | {name: spoiled}}
        result = gated_stack.loss_and_grads(**given, **settings)
        # The last block's residual reaches nothing, so nothing shows.
        assert np.isnan(result.loss) != name.startswith(last), name
        assert np.isnan(gated_stack.loss(**given, **settings)) != name.startswith(last), name
        if not name.startswith(last):
            assert np.isnan(result.grads["head.1.weight"]).any() or np.isnan(result.grads["head.1.bias"]).any(), name


@by_dtype
def test_an_infinite_parameter_shows(dtype):
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), dtype)
    arguments["params"]["head.1.weight"][:, 0] = np.inf
    assert not np.isfinite(gated_stack.loss(**arguments, **settings))


# ---- causality and streams -------------------------------------------------------------------------------------------
@by_dtype
@by_case
def test_the_future_changes_no_bit_of_the_past(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    time, before = case.sizes["time"], logits(arguments, settings)
    rng = np.random.default_rng(case.seed)
    for t in sorted({0, 1, time // 2, time - 1, int(rng.integers(time))} & set(range(time))):
        codes = arguments["codes"].copy()
        codes[:, t:] = (codes[:, t:] + 1) % case.sizes["classes"]
        changed = arguments | {"codes": codes}
        if case.sizes["condition"] == "local":
            changed["condition"] = arguments["condition"].copy()
            changed["condition"][:, t:] = np.nan
        after = logits(changed, settings)
        assert after[:, :t].tobytes() == before[:, :t].tobytes(), f"before {t}"
        assert not np.array_equal(after[:, t:], before[:, t:]), "the change was not seen at all"


STREAM_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@by_dtype
@pytest.mark.parametrize(
    "name",
    ["below-dilation", "dilation-is-time", "kernel-4", "above-past", "two-chunks-and-a-row", "global", "local"],
)
@given(data=st.data())
def test_a_stream_in_any_split_equals_one_pass(name, dtype, data):
    case = h.case_named("gated_stack", name)
    time = case.sizes["time"]
    cuts = data.draw(st.lists(st.integers(1, time - 1), max_size=8, unique=True).map(sorted), label="cuts")
    got = logits(*cases.inputs(case, dtype), sizes=np.diff([0, *cuts, time]).tolist())
    h.assert_close(got, expected_logits(case, dtype), case.tolerance[dtype])
    assert got.tobytes() == whole(case, dtype).tobytes()


@functools.cache
def whole(case, dtype):
    return logits(*cases.inputs(case, dtype))


@by_dtype
@by_case
def test_a_stream_sample_by_sample_equals_one_pass(case, dtype):
    """Then, on the same state, a block longer than a chunk and longer than the largest dilation."""
    time = case.sizes["time"]
    singles = min(time, 150)
    sizes = [1] * singles + ([time - singles] if time > singles else [])
    assert logits(*cases.inputs(case, dtype), sizes=sizes).tobytes() == whole(case, dtype).tobytes()


def test_streams_of_both_kinds_of_condition():
    """A global condition is the local one that says the same in every row."""
    arguments, settings = cases.inputs(h.case_named("gated_stack", "global-long"), "float64")
    local = np.repeat(arguments["condition"][:, None], arguments["codes"].shape[1] - 1, axis=1)
    h.assert_close(logits(arguments | {"condition": local}, settings), logits(arguments, settings), 1e-12)
    codes = arguments["codes"]
    state = gated_stack.init_state(arguments["params"], len(codes), **settings, condition_channels=30)
    pieces = [
        gated_stack.step(codes[:, :50], state, arguments["condition"]),
        gated_stack.step(codes[:, 50:51], state, local[:, :1]),
        gated_stack.step(codes[:, 51:-1], state, arguments["condition"]),
    ]
    h.assert_close(np.concatenate(pieces, axis=1), logits(arguments, settings), 1e-12)
    # A condition that changes on the way is that of each piece.
    state.reset()
    other = -arguments["condition"]
    local[:, 50:] = other[:, None]
    pieces = [
        gated_stack.step(codes[:, :50], state, arguments["condition"]),
        gated_stack.step(codes[:, 50:-1], state, other),
    ]
    h.assert_close(np.concatenate(pieces, axis=1), logits(arguments | {"condition": local}, settings), 1e-12)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@named("above-past", "local", "global")
def test_copy_and_reset(case, backend):
    arguments, settings = cases.inputs(case, "float32")
    codes, condition = arguments["codes"][:, :-1], arguments.get("condition")
    channels = 0 if condition is None else condition.shape[-1]
    local = condition is not None and condition.ndim == 3

    def feed(state, begin, end):
        piece = condition[:, begin:end] if local else condition
        return gated_stack.step(codes[:, begin:end], state, piece)

    half, time = codes.shape[1] // 2, codes.shape[1]
    state = gated_stack.init_state(
        arguments["params"], len(codes), **settings, condition_channels=channels, backend=backend
    )
    first = feed(state, 0, half)
    other = state.copy()
    rest = feed(state, half, time)
    assert (state.time, other.time) == (time, half)
    assert feed(other, half, time).tobytes() == rest.tobytes()
    other.reset()
    assert (state.time, other.time) == (time, 0)
    again = other.copy()
    assert feed(other, 0, half).tobytes() == first.tobytes()
    assert feed(again, 0, half).tobytes() == first.tobytes()
    assert feed(other, half, time).tobytes() == rest.tobytes()


def test_a_stream_keeps_the_parameters_it_began_with():
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), "float32")
    codes = arguments["codes"]
    before = logits(arguments, settings)
    for backend in ("cpu", "reference"):
        params = {n: p.copy() for n, p in arguments["params"].items()}
        state = gated_stack.init_state(params, **settings, backend=backend)
        first = gated_stack.step(codes[:, :20], state)
        for p in params.values():
            p[...] = 0
        rest = gated_stack.step(codes[:, 20:-1], state)
        h.assert_close(np.concatenate([first, rest], axis=1), before, 2e-5)


def test_streams_in_two_threads_at_once():
    """Copies of one stream, which share the parameters and nothing else."""
    arguments, settings = cases.inputs(h.case_named("gated_stack", "above-past"), "float32")
    codes = np.random.default_rng(0).integers(0, 30, (1, 12_000))
    first = gated_stack.init_state(arguments["params"], **settings)
    gated_stack.step(codes[:, :100], first)
    states, failures = [first, *(first.copy() for _ in range(3))], []
    for state in states:
        state.reset()
    wanted = gated_stack.step(codes, first.copy())
    scratch = {id(stack.workspace) for state in states for stack in state.stacks.values()}
    assert len(scratch) == len(states)  # what a race would show most of the time, but not always
    barrier = threading.Barrier(len(states))

    def work(state, size):
        try:
            barrier.wait(60)
            pieces = [gated_stack.step(codes[:, t : t + size], state) for t in range(0, codes.shape[1], size)]
            assert np.concatenate(pieces, axis=1).tobytes() == wanted.tobytes()
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(s, n)) for s, n in zip(states, (3000, 97, 12_000, 50), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_step_fills_out():
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), "float32")
    state = gated_stack.init_state(arguments["params"], **settings)
    out = np.full((1, 41, 30), np.nan, "float32")
    assert gated_stack.step(arguments["codes"][:, :-1], state, out=out) is out
    assert out.tobytes() == logits(arguments, settings).tobytes()


# ---- sampling --------------------------------------------------------------------------------------------------------
def sampled(case, dtype, first, count, *, batch=3, pieces=None, backend="cpu", threads=None, **options):
    arguments, settings = cases.inputs(case, dtype)
    state = gated_stack.init_state(arguments["params"], batch, **settings, backend=backend, threads=threads)
    out, first = [], np.full(batch, first)
    for n in pieces or [count]:
        out.append(gated_stack.sample(first, n, state, **options))
        assert state.time == sum(o.shape[1] for o in out)
        first = out[-1][:, -1] if n else first
    return np.concatenate(out, axis=1)


SAMPLED = named("kernel-4", "above-past", "one-chunk-and-a-row")


KEPT = [{}, {"top_k": 1}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 4, "top_p": 0.9}, {"top_p": 1e-9}, {"top_k": 10**9}]


@by_dtype
@SAMPLED
def test_samples_equal_the_reference(case, dtype):
    for temperature in (0, 0.3, 1.0, 2.5):
        for kept in KEPT if temperature == 1 else KEPT[:1]:
            options = dict(temperature=temperature, seed=5, **kept)
            got = sampled(case, dtype, 1, 40, **options)
            assert got.dtype == (np.uint8 if case.sizes["classes"] <= 256 else np.int64) and got.shape == (3, 40)
            wanted = sampled(case, dtype, 1, 40, backend="reference", **options)
            # In float32 a draw within rounding of a boundary may go to either side, and all after it with it.
            same = got == wanted
            assert same.all() if dtype == "float64" or temperature == 0 else same[:, :5].all() and same.mean() > 0.6


@SAMPLED
def test_samples_depend_on_seed_stream_and_time_alone(case):
    wanted = sampled(case, "float32", 0, 40, batch=4, seed=3)
    assert np.array_equal(sampled(case, "float32", 0, 40, batch=1, seed=3), wanted[:1])
    assert np.array_equal(sampled(case, "float32", 0, 40, batch=2, seed=3, threads=1), wanted[:2])
    assert np.array_equal(sampled(case, "float32", 0, 40, batch=4, seed=3, threads=3), wanted)
    many = sampled(case, "float32", 0, 40, batch=19, seed=3, threads=1)
    for batch, threads in ((19, 2), (19, 4), (9, 2), (8, 2)):  # streams go in groups
        got = sampled(case, "float32", 0, 40, batch=batch, seed=3, threads=threads)
        assert np.array_equal(got, many[:batch]) and np.array_equal(got[:4], wanted)
    assert np.array_equal(sampled(case, "float32", 0, 40, batch=4, seed=3, pieces=[1, 0, 25, 14]), wanted)
    assert not np.array_equal(sampled(case, "float32", 0, 40, batch=4, seed=4), wanted)
    assert len(np.unique(wanted, axis=0)) == 4


@by_dtype
@SAMPLED
def test_temperature_zero_takes_the_largest_logit(case, dtype):
    got = sampled(case, dtype, 2, 30, temperature=0)
    arguments, settings = cases.inputs(case, "float64")
    codes = np.concatenate([np.full((3, 1), 2), got[:, :-1], np.zeros((3, 1), int)], axis=1)
    scores = logits(arguments | {"codes": codes}, settings, backend="reference")
    assert np.array_equal(scores.argmax(axis=2), got)


def test_equal_logits_at_temperature_zero_give_the_first():
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), "float32")
    arguments["params"]["head.1.weight"][...] = 0
    arguments["params"]["head.1.bias"][...] = 1
    arguments["params"]["head.1.bias"][[17, 23]] = 2
    state = gated_stack.init_state(arguments["params"], **settings)
    assert gated_stack.sample(np.array([0]), 4, state, temperature=0).tolist() == [[17] * 4]


@by_dtype
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 7, 30, 256, 300])
def test_samples_follow_the_softmax(classes, temperature, dtype):
    """Logits that do not depend on the past: the counts of many draws, by the chi-square statistic."""
    rng = np.random.default_rng(classes)
    settings = {"dilations": (1,)}
    shapes = gated_stack.parameter_shapes(
        **settings, kernel_size=1, residual_channels=1, dilation_channels=1, skip_channels=1, end_channels=1,
        classes=classes,
    )  # fmt: skip
    params = {n: np.zeros(s, dtype) for n, s in shapes.items()}
    params["head.1.bias"][...] = rng.standard_normal(classes)
    batch, count = 8, 4000
    state = gated_stack.init_state(params, batch, **settings)
    got = gated_stack.sample(np.zeros(batch, int), count, state, temperature=temperature, seed=1)
    p = np.exp(params["head.1.bias"].astype("float64") / temperature)
    wanted = batch * count * p / p.sum()
    counts = np.bincount(got.reshape(-1), minlength=classes)
    chi_square = ((counts - wanted) ** 2 / wanted).sum()
    degrees = classes - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees) + 5
    # Each draw is the inverse of the cumulative distribution at the uniform number of (seed, stream, time).
    draws = np.array([[uniform(1, b, t) for t in range(50)] for b in range(batch)])
    ends = np.cumsum(p / p.sum())
    inverse = np.searchsorted(ends, draws, side="right")
    certain = np.abs(draws[..., None] - ends).min(axis=-1) > 1e-5
    assert certain.mean() > 0.9 and np.array_equal(got[:, :50][certain], inverse[certain])


@by_dtype
@pytest.mark.parametrize(
    "kept", [{"top_k": 3}, {"top_k": 1}, {"top_p": 0.6}, {"top_p": 1.0}, {"top_k": 5, "top_p": 0.6}]
)
def test_top_k_and_top_p_leave_the_likeliest(kept, dtype):
    """The classes that are drawn, and how often, when the probabilities are 0.4, 0.25, 0.15, 0.1, 0.06, 0.04."""
    p = np.array([0.06, 0.25, 0.04, 0.4, 0.1, 0.15])
    settings = {"dilations": (1,)}
    shapes = gated_stack.parameter_shapes(
        **settings, kernel_size=1, residual_channels=1, dilation_channels=1, skip_channels=1, end_channels=1, classes=6
    )
    params = {n: np.zeros(s, dtype) for n, s in shapes.items()}
    params["head.1.bias"][...] = np.log(p)
    left = {3: [3, 1, 5], 1: [3], 5: [3, 1]}.get(kept.get("top_k"), [3, 1] if kept.get("top_p") == 0.6 else range(6))
    for backend in ("cpu", "reference"):
        state = gated_stack.init_state(params, 4, **settings, backend=backend)
        count = 5000 if backend == "cpu" else 40
        got = gated_stack.sample(np.zeros(4, int), count, state, seed=1, **kept)
        shares = np.bincount(got.reshape(-1), minlength=6) / got.size
        wanted = np.where(np.isin(np.arange(6), left), p, 0)
        wanted /= wanted.sum()
        assert not shares[wanted == 0].any()
        assert backend == "reference" or np.abs(shares - wanted).max() < 0.02


@by_dtype
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1e30, 1e300])
def test_extreme_temperatures(temperature, dtype):
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), dtype)

    def draw(temperature):
        state = gated_stack.init_state(arguments["params"], 2, **settings)
        return gated_stack.sample(np.zeros(2, int), 200, state, temperature=temperature, seed=2)

    got = draw(temperature)
    if temperature < 1:
        assert np.array_equal(got, draw(0))
    else:  # all classes alike
        assert np.bincount(got.reshape(-1), minlength=30).max() < 40 and len(np.unique(got)) == 30


@by_dtype
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("places", [[0], [1], [13], [29], slice(None)], ids=str)
def test_logits_that_are_not_finite_name_the_step(places, bad, temperature, backend, dtype):
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), dtype)
    arguments["params"]["head.1.bias"][places] = bad
    state = gated_stack.init_state(arguments["params"], 2, **settings, backend=backend)
    with np.errstate(invalid="ignore"), pytest.raises(DivergedError, match="logits of stream 0 .* at step 0"):
        gated_stack.sample(np.zeros(2, int), 9, state, temperature=temperature)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_divergence_on_the_way_names_its_step_and_stream(backend):
    """NaN in the embedding of one code, which only the second stream is given, two samples before."""
    arguments, settings = cases.inputs(h.case_named("gated_stack", "kernel-3"), "float32")
    arguments["params"]["input.embedding"][29] = np.nan
    arguments["params"]["head.1.bias"][29] = -1e4  # never drawn
    state = gated_stack.init_state(arguments["params"], 2, **settings, backend=backend)
    with np.errstate(invalid="ignore"):
        gated_stack.step(np.array([[1, 2], [1, 29]]), state)
        with pytest.raises(DivergedError, match="logits of stream 1 .* at step 2"):
            gated_stack.sample(np.array([3, 3]), 9, state)


def test_progress_is_reported():
    arguments, settings = cases.inputs(h.case_named("gated_stack", "one-sample"), "float32")
    state = gated_stack.init_state(arguments["params"], **settings)
    seen = []
    gated_stack.sample(np.array([0]), 2500, state, progress=lambda done, count: seen.append((done, count)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (2500, 2500)
    assert len(seen) > 1 and {count for _, count in seen} == {2500}


# ---- bad input -------------------------------------------------------------------------------------------------------
GOOD, SETTINGS = cases.inputs(h.case_named("gated_stack", "local"), "float32")


def params_with(**changes):
    return GOOD["params"] | {name.replace("__", "."): value for name, value in changes.items()}


BAD = [
    (ShapeError, "codes must be (B, T + 1), got (32,)", dict(codes=np.zeros(32, int))),
    (ShapeError, "codes must have at least 2 columns, got (3, 1)", dict(codes=np.zeros((3, 1), int))),
    (ShapeError, "codes must be (B, T + 1), got (0, 32)", dict(codes=np.zeros((0, 32), int))),
    (ShapeError, "codes must lie in [0, 30), got 30", dict(codes=np.full((3, 32), 30))),
    (ShapeError, "codes must lie in [0, 30), got -1", dict(codes=np.full((3, 32), -1))),
    (DTypeError, "codes must be an array of integers, got float64", dict(codes=np.zeros((3, 32)))),
    (DTypeError, "codes must be an array of integers, got list", dict(codes=[["a"]])),
    (ShapeError, "weights must be (3, 31), got (3, 32)", dict(weights=f32(3, 32))),
    (ShapeError, "weights must be finite, at least 0 and not all 0", dict(weights=0 * f32(3, 31))),
    (ShapeError, "weights must be finite, at least 0 and not all 0", dict(weights=-f32(3, 31))),
    (ShapeError, "weights must be finite, at least 0 and not all 0", dict(weights=np.nan * f32(3, 31))),
    (ShapeError, "weights must be finite, at least 0 and not all 0", dict(weights=np.inf * f32(3, 31))),
    (DTypeError, "weights must be numbers, got <U1", dict(weights=np.full((3, 31), "a"))),
    (ShapeError, "condition must be (3, 31, 3), got (3, 30, 3)", dict(condition=f32(3, 30, 3))),
    (ShapeError, "condition must be (3, 3), got (3, 4)", dict(condition=f32(3, 4))),
    (DTypeError, "condition must be float32 as head.1.weight is, got float64", dict(condition=np.ones((3, 31, 3)))),
    (ConfigError, "params must have 2 blocks, as there are dilations; got more", dict(dilations=(1, 2))),
    (ConfigError, "params must have 4 blocks, as there are dilations; no blocks.3", dict(dilations=(1, 2, 4, 8))),
    (ConfigError, "each of dilations must be at least 1, got 0", dict(dilations=(1, 0, 4))),
    (ConfigError, "dilations must name at least one block", dict(dilations=())),
    (ConfigError, "params must have the names and ranks of a gated stack", dict(params={})),
    (ShapeError, "head.0.bias must be (9,), got (8,)", dict(params=params_with(head__0__bias=f32(8)))),
    (ShapeError, "blocks.1.skip.weight must be (7, 3), got (3, 7)",
     dict(params=params_with(blocks__1__skip__weight=f32(3, 7)))),
    (DTypeError, "head.0.bias must be float32 as head.1.weight is, got float64",
     dict(params=params_with(head__0__bias=np.ones(9)))),
    (ConfigError, "backend must be one of 'reference', 'cpu'", dict(backend="fast")),
    (ConfigError, "threads must be at least 1, got 0", dict(threads=0)),
    (ConfigError, "threads must be at least 1, got -1", dict(threads=-1)),
    (ConfigError, "threads must be an integer, got True", dict(threads=True)),
    (ConfigError, "threads must be an integer, got '2'", dict(threads="2")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, change):
    for function in (gated_stack.loss, gated_stack.loss_and_grads):
        with pytest.raises(error) as caught:
            function(**GOOD | SETTINGS | change)
        assert message in str(caught.value)
        assert str(caught.value).startswith((f"gated_stack.{function.__name__}: ", "dilations "))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ConfigError, "into must have an array for every parameter, got none for head.1.bias", {"head.1.bias": None}),
        (ShapeError, r"into\['head.1.bias'\] must be \(30,\), got \(29,\)", {"head.1.bias": f32(29)}),
        (DTypeError, r"into\['head.1.bias'\] must be an array of float32, got", {"head.1.bias": np.ones(30)}),
        (ShapeError, r"into\['head.1.bias'\] must be C-contiguous", {"head.1.bias": f32(60)[::2]}),
    ],
)
def test_bad_into(error, message, change):
    into = {n: np.zeros_like(p) for n, p in GOOD["params"].items()} | change
    with pytest.raises(error, match="gated_stack.loss_and_grads: " + message):
        gated_stack.loss_and_grads(**GOOD, **SETTINGS, into={n: a for n, a in into.items() if a is not None})


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ShapeError, r"step: codes must be \(2, n\) with n of at least 1, got \(3, 4\)",
         lambda s: gated_stack.step(np.zeros((3, 4), int), s)),
        (ShapeError, r"step: codes must be \(2, n\) with n of at least 1, got \(2, 0\)",
         lambda s: gated_stack.step(np.zeros((2, 0), int), s)),
        (ShapeError, r"step: codes must lie in \[0, 30\), got 30", lambda s: gated_stack.step(np.full((2, 4), 30), s)),
        (ShapeError, r"step: condition must be \(2, 4, 3\), got \(2, 5, 3\)",
         lambda s: gated_stack.step(np.zeros((2, 4), int), s, f32(2, 5, 3))),
        (ShapeError, r"step: out must be \(2, 4, 30\), got \(2, 4, 29\)",
         lambda s: gated_stack.step(np.zeros((2, 4), int), s, out=f32(2, 4, 29))),
        (ShapeError, r"sample: condition must be global, \(B, Cc\), got \(2, 1, 3\)",
         lambda s: gated_stack.sample(np.zeros(2, int), 4, s, f32(2, 1, 3))),
        (ConfigError, "sample: count must be at least 0, got -1",
         lambda s: gated_stack.sample(np.zeros(2, int), -1, s)),
        (ConfigError, "sample: seed must be at least 0, got -1",
         lambda s: gated_stack.sample(np.zeros(2, int), 1, s, seed=-1)),
        (ConfigError, "sample: seed must be an integer, got 0.5",
         lambda s: gated_stack.sample(np.zeros(2, int), 1, s, seed=0.5)),
        *((ConfigError, f"sample: temperature must be a number of at least 0, got {t!r}",
           lambda s, t=t: gated_stack.sample(np.zeros(2, int), 1, s, temperature=t))
          for t in (-1.0, np.nan, np.inf, "hot", None)),
        *((ConfigError, f"sample: top_k must be {m}, got {k!r}",
           lambda s, k=k: gated_stack.sample(np.zeros(2, int), 1, s, top_k=k))
          for m, k in (("at least 1", 0), ("at least 1", -1), ("an integer", 1.5))),
        *((ConfigError, f"sample: top_p must be a number above 0, up to 1, got {p!r}",
           lambda s, p=p: gated_stack.sample(np.zeros(2, int), 1, s, top_p=p))
          for p in (0, 1.01, -1, np.nan, "all")),
    ],
)  # fmt: skip
def test_bad_input_of_streams(error, message, call, backend):
    state = gated_stack.init_state(GOOD["params"], 2, **SETTINGS, condition_channels=3, backend=backend)
    with pytest.raises(error, match="gated_stack." + message):
        call(state)
    assert state.time == 0


def test_bad_states():
    for change, message in [
        (dict(batch=0), "batch must be at least 1, got 0"),
        (dict(batch=1.5), "batch must be an integer, got 1.5"),
        (dict(condition_channels=-1), "condition_channels must be at least 0, got -1"),
        (dict(threads=0), "threads must be at least 1, got 0"),
    ]:
        with pytest.raises(ConfigError, match="gated_stack.init_state: " + message):
            gated_stack.init_state(GOOD["params"], **SETTINGS | change)
    with pytest.raises(ShapeError, match="condition.weight must be .4, 14., got .3, 14."):
        gated_stack.init_state(GOOD["params"], **SETTINGS, condition_channels=4)
    state = gated_stack.init_state(GOOD["params"], 2, **SETTINGS)
    with pytest.raises(ConfigError, match="step: condition must be None, as the state was made for none"):
        gated_stack.step(np.zeros((2, 4), int), state, f32(2, 3))


@pytest.mark.parametrize("seed", [2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**100])
def test_large_seeds_are_taken_or_refused(seed):
    state = gated_stack.init_state(GOOD["params"], 2, **SETTINGS)
    try:
        got = gated_stack.sample(np.zeros(2, int), 20, state, seed=seed)
    except ConfigError as error:
        assert "seed" in str(error)
        return
    state.reset()
    assert not np.array_equal(gated_stack.sample(np.zeros(2, int), 20, state, seed=0), got)
