"""Drawing what comes next."""

import numpy as np
import pytest
from helpers import stacks as s

from wavedil.errors import ConfigError, DivergedError
from wavedil.kernels.cpu.random import uniform
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases


def sampled(case, dtype, first, count, *, batch=3, pieces=None, backend="cpu", threads=None, **options):
    arguments, settings = cases.inputs(case, dtype)
    state = gated_stack.init_state(arguments["params"], batch, **settings, backend=backend, threads=threads)
    out, first = [], np.full(batch, first)
    for n in pieces or [count]:
        out.append(gated_stack.sample(first, n, state, **options))
        assert state.time == sum(o.shape[1] for o in out)
        first = out[-1][:, -1] if n else first
    return np.concatenate(out, axis=1)


SAMPLED = s.named("kernel-4", "above-past", "one-chunk-and-a-row")


KEPT = [{}, {"top_k": 1}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 4, "top_p": 0.9}, {"top_p": 1e-9}, {"top_k": 10**9}]


@s.by_dtype
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


@s.by_dtype
@SAMPLED
def test_temperature_zero_takes_the_largest_logit(case, dtype):
    got = sampled(case, dtype, 2, 30, temperature=0)
    arguments, settings = cases.inputs(case, "float64")
    codes = np.concatenate([np.full((3, 1), 2), got[:, :-1], np.zeros((3, 1), int)], axis=1)
    scores = s.outputs(arguments | {"inputs": codes}, settings, backend="reference")
    assert np.array_equal(scores.argmax(axis=2), got)


def test_equal_logits_at_temperature_zero_give_the_first():
    arguments, settings = cases.inputs(s.case_named("kernel-3"), "float32")
    arguments["params"]["head.1.weight"][...] = 0
    arguments["params"]["head.1.bias"][...] = 1
    arguments["params"]["head.1.bias"][[17, 23]] = 2
    state = gated_stack.init_state(arguments["params"], **settings)
    assert gated_stack.sample(np.array([0]), 4, state, temperature=0).tolist() == [[17] * 4]


def one_channel(classes, dtype):
    """Parameters of zeros, whose logits are the last bias, and the network."""
    network = gated_stack.wavenet(
        (1,), kernel_size=1, channels=1, gate_channels=1, skip_channels=1, end_channels=1, classes=classes
    )
    return {n: np.zeros(shape, dtype) for n, shape in network.parameter_shapes.items()}, {"network": network}


@s.by_dtype
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 7, 30, 256, 300])
def test_samples_follow_the_softmax(classes, temperature, dtype):
    """Logits that do not depend on the past: the counts of many draws, by the chi-square statistic."""
    rng = np.random.default_rng(classes)
    params, settings = one_channel(classes, dtype)
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


@s.by_dtype
@pytest.mark.parametrize(
    "kept", [{"top_k": 3}, {"top_k": 1}, {"top_p": 0.6}, {"top_p": 1.0}, {"top_k": 5, "top_p": 0.6}]
)
def test_top_k_and_top_p_leave_the_likeliest(kept, dtype):
    """The classes that are drawn, and how often, when the probabilities are 0.4, 0.25, 0.15, 0.1, 0.06, 0.04."""
    p = np.array([0.06, 0.25, 0.04, 0.4, 0.1, 0.15])
    params, settings = one_channel(6, dtype)
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


@s.by_dtype
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1e30, 1e300])
def test_extreme_temperatures(temperature, dtype):
    arguments, settings = cases.inputs(s.case_named("kernel-3"), dtype)

    def draw(temperature):
        state = gated_stack.init_state(arguments["params"], 2, **settings)
        return gated_stack.sample(np.zeros(2, int), 200, state, temperature=temperature, seed=2)

    got = draw(temperature)
    if temperature < 1:
        assert np.array_equal(got, draw(0))
    else:  # all classes alike
        assert np.bincount(got.reshape(-1), minlength=30).max() < 40 and len(np.unique(got)) == 30


@s.by_dtype
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("places", [[0], [1], [13], [29], slice(None)], ids=str)
def test_logits_that_are_not_finite_name_the_step(places, bad, temperature, backend, dtype):
    arguments, settings = cases.inputs(s.case_named("kernel-3"), dtype)
    arguments["params"]["head.1.bias"][places] = bad
    state = gated_stack.init_state(arguments["params"], 2, **settings, backend=backend)
    with np.errstate(invalid="ignore"), pytest.raises(DivergedError, match="logits of stream 0 .* at step 0"):
        gated_stack.sample(np.zeros(2, int), 9, state, temperature=temperature)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_divergence_on_the_way_names_its_step_and_stream(backend):
    """NaN in the embedding of one code, which only the second stream is given, two samples before."""
    arguments, settings = cases.inputs(s.case_named("kernel-3"), "float32")
    arguments["params"]["input.embedding"][29] = np.nan
    arguments["params"]["head.1.bias"][29] = -1e4  # never drawn
    state = gated_stack.init_state(arguments["params"], 2, **settings, backend=backend)
    with np.errstate(invalid="ignore"):
        gated_stack.step(np.array([[1, 2], [1, 29]]), state)
        with pytest.raises(DivergedError, match="logits of stream 1 .* at step 2"):
            gated_stack.sample(np.array([3, 3]), 9, state)


def test_progress_is_reported():
    arguments, settings = cases.inputs(s.case_named("one-sample"), "float32")
    state = gated_stack.init_state(arguments["params"], **settings)
    seen = []
    gated_stack.sample(np.array([0]), 2500, state, progress=lambda done, count: seen.append((done, count)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (2500, 2500)
    assert len(seen) > 1 and {count for _, count in seen} == {2500}


# ---- with a condition, and networks of other kinds -------------------------------------------------------------------
DRAWING = [
    case
    for case in s.CASES + s.NETWORKS
    if "targets" not in cases.inputs(case, "float32")[0] and (case in s.NETWORKS or case.sizes["condition"])
]
by_drawing = pytest.mark.parametrize("case", DRAWING, ids=str)


def drawn(case, dtype, count, *, sizes=None, batch=3, before=5, backend="cpu", threads=None, **options):
    """Draws in pieces of these sizes, which begin inside a hop; the codes, with those before, and the condition."""
    arguments, settings = cases.inputs(case, dtype)
    network, rng = settings["network"], np.random.default_rng(7)
    told, total, condition = network.condition, before + count, None
    if told is not None:
        rows = told.frames(total) if told.hop else total
        # The first streams stay the same, however many there are.
        condition = rng.standard_normal((20, rows, told.channels)).astype(dtype)[:batch]
        if case.sizes.get("condition") == "global":
            condition = condition[:, 0].copy()
    state = gated_stack.init_state(arguments["params"], batch, **settings, backend=backend, threads=threads)
    codes = np.tile(np.arange(before + 1) % network.input.classes, (batch, 1))
    gated_stack.step(codes[:, :-1], state, s.part(network, condition, 0, before))
    for n in sizes or [count]:
        local = s.part(network, condition, state.time, max(n, 1))
        codes = np.concatenate([codes, gated_stack.sample(codes[:, -1], n, state, local, **options)], axis=1)
    assert state.time == total and codes.shape == (batch, total + 1)
    return codes, condition


@s.by_dtype
@by_drawing
def test_draws_of_any_network_equal_the_reference(case, dtype):
    for temperature in (0, 1.0):
        got, _ = drawn(case, dtype, 30, temperature=temperature, seed=2)
        wanted, _ = drawn(case, dtype, 30, temperature=temperature, seed=2, backend="reference")
        same = (got == wanted)[:, 6:]
        assert same.all() if dtype == "float64" else same[:, :5].all() and same.mean() > 0.6


@s.by_dtype
@by_drawing
def test_draws_of_any_network_depend_on_no_piece_group_or_thread(case, dtype):
    wanted, _ = drawn(case, dtype, 40, batch=19, threads=1, seed=3)
    for batch, threads, sizes in ((1, 1, None), (2, 2, [1, 0, 25, 14]), (9, 2, [20, 20]), (19, 4, [7, 33])):
        got, _ = drawn(case, dtype, 40, batch=batch, threads=threads, sizes=sizes, seed=3)
        assert np.array_equal(got, wanted[:batch])
    assert len(np.unique(wanted, axis=0)) > 15


@by_drawing
def test_the_largest_logit_under_a_condition(case):
    """Of one pass over all that was drawn."""
    codes, condition = drawn(case, "float64", 60, temperature=0)
    arguments, settings = cases.inputs(case, "float64")
    again = dict(params=arguments["params"], inputs=codes) | ({} if condition is None else {"condition": condition})
    scores = s.outputs(again, settings, backend="reference")
    assert np.array_equal(scores.argmax(axis=2)[:, 5:], codes[:, 6:])


@s.named("local", "frames-linear", "frames-held", "global")
def test_a_long_draw_is_cut_into_pieces(case):
    """Of 1000 rows inside `sample`, which begin inside a hop."""
    wanted, _ = drawn(case, "float32", 2500, seed=4, batch=2)
    got, _ = drawn(case, "float32", 2500, seed=4, batch=2, sizes=[999, 2, 3, 1496])
    assert np.array_equal(got, wanted)
    # And the logits at their borders are those of one pass.
    arguments, settings = cases.inputs(case, "float32")
    greedy, condition = drawn(case, "float32", 2500, temperature=0, batch=2)
    scores = s.outputs(dict(params=arguments["params"], inputs=greedy, condition=condition), settings)
    assert (scores.argmax(axis=2)[:, 5:] == greedy[:, 6:]).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@s.named("samples", "codes-fed-numbers-predicted", "numbers-fed-codes-predicted")
def test_what_is_not_from_codes_to_codes_cannot_be_drawn(case, backend):
    arguments, settings = cases.inputs(case, "float32")
    state = gated_stack.init_state(arguments["params"], 2, **settings, backend=backend)
    wanted = "from codes to no more codes, or from Samples to Logistics or Gaussian, got one"
    with pytest.raises(ConfigError, match=f"sample: the state's network must go {wanted}"):
        gated_stack.sample(np.zeros(2, int), 3, state)


def test_a_network_that_draws_more_codes_than_it_knows_is_refused():
    network = gated_stack.Network(gated_stack.Codes(5), (gated_stack.Stack((1,)),), gated_stack.Softmax(6, 4))
    state = gated_stack.init_state(s.random_params(network, np.random.default_rng(0)), network=network)
    with pytest.raises(ConfigError, match="must go from codes to no more codes, .* got one with Codes in and Softmax"):
        gated_stack.sample(np.array([0]), 3, state)
