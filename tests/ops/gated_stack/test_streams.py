"""Causality, and networks fed in pieces."""

import threading

import numpy as np
import pytest
from helpers import ops as h
from helpers import stacks as s
from hypothesis import given
from hypothesis import strategies as st

from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases
from wavedil.ops.gated_stack.heads import Regression
from wavedil.ops.gated_stack.network import Condition, Network, Samples, Stack


# ---- causality and streams -------------------------------------------------------------------------------------------
@s.by_dtype
@s.by_any
def test_the_future_changes_no_bit_of_the_past(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    time, before = case.sizes["time"], s.outputs(arguments, settings)
    rng = np.random.default_rng(case.seed)
    for t in sorted({0, 1, time // 2, time - 1, int(rng.integers(time))} & set(range(time))):
        inputs, network = arguments["inputs"].copy(), settings["network"]
        inputs[:, t:] = inputs[:, t:] + 1 if network.real else (inputs[:, t:] + 1) % network.input.classes
        changed, condition = arguments | {"inputs": inputs}, arguments.get("condition")
        if condition is not None and condition.ndim == 3:
            past = s.part(network, condition, 0, t).shape[1] if t else 0
            changed["condition"] = condition.copy()
            changed["condition"][:, past:] = np.nan
        after = s.outputs(changed, settings)
        assert after[:, :t].tobytes() == before[:, :t].tobytes(), f"before {t}"
        assert not np.array_equal(after[:, t:], before[:, t:]), "the change was not seen at all"


@s.by_dtype
@pytest.mark.parametrize(
    "name",
    ["below-dilation", "dilation-is-time", "kernel-4", "above-past", "two-chunks-and-a-row", "global", "local",
     *(str(case) for case in s.NETWORKS if case.sizes["time"] > 1)],
)  # fmt: skip
@given(data=st.data())
def test_a_stream_in_any_split_equals_one_pass(name, dtype, data):
    case = s.case_named(name)
    time = case.sizes["time"]
    cuts = data.draw(st.lists(st.integers(1, time - 1), max_size=8, unique=True).map(sorted), label="cuts")
    got = s.outputs(*cases.inputs(case, dtype), sizes=np.diff([0, *cuts, time]).tolist())
    h.assert_close(got, s.expected_outputs(case, dtype), case.tolerance[dtype])
    assert got.tobytes() == s.whole(case, dtype).tobytes()


@s.by_dtype
@s.by_any
def test_a_stream_sample_by_sample_equals_one_pass(case, dtype):
    """Then, on the same state, a block longer than a chunk and longer than the largest dilation."""
    time = case.sizes["time"]
    singles = min(time, 150)
    sizes = [1] * singles + ([time - singles] if time > singles else [])
    assert s.outputs(*cases.inputs(case, dtype), sizes=sizes).tobytes() == s.whole(case, dtype).tobytes()


def test_streams_of_both_kinds_of_condition():
    """A global condition is the local one that says the same in every row."""
    arguments, settings = cases.inputs(s.case_named("global-long"), "float64")
    local = np.repeat(arguments["condition"][:, None], arguments["inputs"].shape[1] - 1, axis=1)
    h.assert_close(s.outputs(arguments | {"condition": local}, settings), s.outputs(arguments, settings), 1e-12)
    codes = arguments["inputs"]
    state = gated_stack.init_state(arguments["params"], len(codes), **settings)
    pieces = [
        gated_stack.step(codes[:, :50], state, arguments["condition"]),
        gated_stack.step(codes[:, 50:51], state, local[:, :1]),
        gated_stack.step(codes[:, 51:-1], state, arguments["condition"]),
    ]
    h.assert_close(np.concatenate(pieces, axis=1), s.outputs(arguments, settings), 1e-12)
    # A condition that changes on the way is that of each piece.
    state.reset()
    other = -arguments["condition"]
    local[:, 50:] = other[:, None]
    pieces = [
        gated_stack.step(codes[:, :50], state, arguments["condition"]),
        gated_stack.step(codes[:, 50:-1], state, other),
    ]
    h.assert_close(np.concatenate(pieces, axis=1), s.outputs(arguments | {"condition": local}, settings), 1e-12)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@s.named("above-past", "local", "global", "frames-linear", "three-stacks", "amplifier")
def test_copy_and_reset(case, backend):
    arguments, settings = cases.inputs(case, "float32")
    inputs, condition = s.fed(arguments), arguments.get("condition")

    def feed(state, begin, end):
        piece = s.part(settings["network"], condition, begin, end - begin)
        return gated_stack.step(inputs[:, begin:end], state, piece)

    half, time = inputs.shape[1] // 2, inputs.shape[1]
    state = gated_stack.init_state(arguments["params"], len(inputs), **settings, backend=backend)
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
    arguments, settings = cases.inputs(s.case_named("kernel-3"), "float32")
    codes = arguments["inputs"]
    before = s.outputs(arguments, settings)
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
    arguments, settings = cases.inputs(s.case_named("above-past"), "float32")
    codes = np.random.default_rng(0).integers(0, 30, (1, 12_000))
    first = gated_stack.init_state(arguments["params"], **settings)
    gated_stack.step(codes[:, :100], first)
    states, failures = [first, *(first.copy() for _ in range(3))], []
    for state in states:
        state.reset()
    wanted = gated_stack.step(codes, first.copy())
    scratch = {id(state.workspace) for state in states}
    assert len(scratch) == len(states)  # what a race would show most of the time, but not always
    barrier = threading.Barrier(len(states))

    def work(state, size):
        try:
            barrier.wait(60)
            pieces = [gated_stack.step(codes[:, t : t + size], state) for t in range(0, codes.shape[1], size)]
            assert np.concatenate(pieces, axis=1).tobytes() == wanted.tobytes()
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(states, (3000, 97, 12_000, 50), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_step_fills_out():
    arguments, settings = cases.inputs(s.case_named("kernel-3"), "float32")
    state = gated_stack.init_state(arguments["params"], **settings)
    out = np.full((1, 41, 30), np.nan, "float32")
    assert gated_stack.step(arguments["inputs"][:, :-1], state, out=out) is out
    assert out.tobytes() == s.outputs(arguments, settings).tobytes()




@s.by_dtype
@s.named("above-past", "local", "frames-linear", "frames-held", "three-stacks", "amplifier", "head-of-16-taps")
def test_a_stream_goes_on_from_its_history(case, dtype):
    """Which says all that the future depends on, in arrays of the network's own widths."""
    arguments, settings = cases.inputs(case, dtype)
    network, inputs, time = settings["network"], s.fed(arguments), case.sizes["time"]
    first = gated_stack.init_state(arguments["params"], len(inputs), **settings)
    for half in (0, 1, time // 2):
        first.reset()
        if half:
            gated_stack.step(inputs[:, :half], first, s.part(network, arguments.get("condition"), 0, half))
        history = first.history()
        assert [a.shape for a in history] == [(len(inputs), layer.past, layer.inputs) for layer in network.layers]
        other = gated_stack.init_state(arguments["params"], len(inputs), **settings)
        other.step(inputs[:, :1], None, np.empty_like(s.whole(case, dtype)[:, :1]))  # what is there is forgotten
        other.set_history(history, half)
        rest = s.part(network, arguments.get("condition"), half, time - half)
        for state in (other, first):
            got = gated_stack.step(inputs[:, half:], state, rest)
            assert got.tobytes() == s.whole(case, dtype)[:, half:].tobytes() and state.time == time


@pytest.mark.parametrize("interpolation", ["linear", "held"])
@pytest.mark.parametrize("hop", [1, 4])
def test_frames_are_a_condition_at_every_row(interpolation, hop):
    """One that says what lies between two frames, or the earlier one; and its gradient is the sum of the rows'."""
    rng, rows = np.random.default_rng(hop), 9
    stack, told = Stack((1, 3), 2, 3, 4, 5), Condition(2, hop, interpolation, True)
    network = Network(Samples(1), (stack,), Regression(1), told)
    every = Network(Samples(1), (stack,), Regression(1), Condition(2, bias=True))
    params = s.random_params(network, rng, "float64")
    inputs, targets = rng.standard_normal((2, 2, rows, 1))
    frames = rng.standard_normal((2, told.frames(rows), 2))
    assert frames.shape[1] == -(-rows // hop) + (interpolation == "linear")
    share = np.zeros((rows, frames.shape[1]))
    for t in range(rows):
        part = t % hop / hop if interpolation == "linear" else 0
        share[t, t // hop] += 1 - part
        if interpolation == "linear":
            share[t, t // hop + 1] += part
    for backend in ("cpu", "reference"):
        options = dict(inputs=inputs, targets=targets, backend=backend)
        got = gated_stack.loss_and_grads(params, **options, network=network, condition=frames)
        wanted = gated_stack.loss_and_grads(params, **options, network=every, condition=share @ frames)
        dframes = np.einsum("tf,btc->bfc", share, wanted.condition)
        s.check_close(got, wanted._replace(condition=dframes), 1e-11)
