"""Heads that are densities of a sample: losses, gradients, draws, and bits in one unit."""

import math

import numpy as np
import pytest
from numba import njit

from wavedil.audio import mulaw_encode
from wavedil.errors import ConfigError, DivergedError, ShapeError
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import Gaussian, Logistics, Network, Samples, Stack, cases, cpu_heads
from wavedil.ops.gated_stack.cpu_mixtures import logistic
from wavedil.ops.gated_stack.reference_heads import _logistic

CASES = [case for case in cases.NETWORKS if isinstance(case.sizes["network"].head, Logistics | Gaussian)]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
by_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
HEADS = [Logistics(1, 4), Logistics(3, 4), Logistics(2, 4, 256), Gaussian(1, 4), Gaussian(3, 4)]
by_head = pytest.mark.parametrize("head", HEADS, ids=str)


def saying(head, outputs, dtype="float64", channels=1):
    """A network whose head says the same at every row, and its parameters."""
    network = Network(Samples(channels), (Stack((1,), 2, 2, 2, 2),), head)
    params = {name: np.zeros(shape, dtype) for name, shape in network.parameter_shapes.items()}
    params["head.1.bias"][:] = outputs
    return {"params": params, "network": network}


def fed(targets, dtype):
    targets = np.asarray(targets, dtype)
    return {"inputs": np.zeros((*targets.shape[:2], 1), dtype), "targets": targets}


def one(head, outputs, target, dtype="float64", **options):
    """Loss of one row, and its gradient by the outputs."""
    got = gated_stack.loss_and_grads(**saying(head, outputs, dtype), **fed([[target]], dtype), **options)
    return got.loss, got.grads["head.1.bias"]


# ---- masses ----------------------------------------------------------------------------------------------------------
@njit
def _masses(head, y, mean, s, out):
    for i in range(len(y)):
        out[i] = logistic(head, y[i], y[i] - mean, s)[0]


def log_masses(backend, levels, mean, s):
    y = 2 * np.arange(levels) / (levels - 1) - 1
    head = Logistics(1, 4, levels)
    if backend == "reference":
        with np.errstate(over="ignore"):
            return _logistic(head, y, y - mean, np.full(levels, s))[0]
    numbers = {name: 0 for name in cpu_heads.Logistics._fields} | {"levels": levels}
    out = np.empty(levels)
    _masses(cpu_heads.Logistics(**numbers), y, mean, s, out)
    return out


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("levels", [2, 2**8, 2**10, 2**16])
def test_the_masses_of_all_levels_sum_to_one(levels, backend):
    for mean in (0.0, 0.3, 0.95, -1.0, 1.3):
        for s in (-11.0, -7.0, -3.0, 0.0, 4.0):
            assert abs(np.exp(log_masses(backend, levels, mean, s)).sum() - 1) < 1e-11, (mean, s)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_masses_are_differences_of_the_distribution_function(backend):
    def below(x):
        return 1 / (1 + np.exp(-(x.astype(np.longdouble) - 0.1) / np.exp(np.longdouble(-2))))

    levels = 2**10
    edges = (2 * np.arange(levels - 1) + 1) / (levels - 1) - 1
    wanted = np.diff(np.concatenate([[0], below(edges), [1]]))
    np.testing.assert_allclose(np.exp(log_masses(backend, levels, 0.1, -2.0)), wanted.astype(float), rtol=1e-11)


# ---- losses and gradients --------------------------------------------------------------------------------------------
@by_dtype
@by_case
def test_loss_and_gradients_equal_the_reference(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    wanted = gated_stack.loss_and_grads(**cases.inputs(case, "float64")[0], **settings, backend="reference")
    got = gated_stack.loss_and_grads(**arguments, **settings)
    assert abs(got.loss - wanted.loss) <= case.tolerance[dtype] * abs(wanted.loss)
    assert got.loss == gated_stack.loss(**arguments, **settings)
    for name, gradient in wanted.grads.items():
        assert np.abs(got.grads[name] - gradient).max() <= case.tolerance[dtype] * np.abs(gradient).max(), name


TARGETS = [[0.31], [-1.0], [1.0], [0.2, 0.15], [1.0, -0.4], [-1.0, 3.0]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@by_head
def test_gradients_by_the_outputs_are_finite_differences_of_the_loss(head, backend):
    outputs = np.random.default_rng(0).standard_normal(head.outputs) * 0.7
    outputs[-head.mixtures :] -= 1
    step = 1e-5
    for target in TARGETS:
        gradient = one(head, outputs, target, backend=backend)[1]
        for k in range(head.outputs):
            by = step * (np.arange(head.outputs) == k)
            there, back = (one(head, outputs + x, target, backend=backend)[0] for x in (by, -by))
            assert abs((there - back) / (2 * step) - gradient[k]) <= 1e-7 * max(1, np.abs(gradient).max()), (target, k)


@by_head
def test_a_shift_moves_the_means(head):
    outputs = np.linspace(-0.4, 0.3, head.outputs)
    moved = outputs.copy()
    moved[head.outputs - 2 * head.mixtures : head.outputs - head.mixtures] += 0.15
    for a, b in zip(one(head, outputs, [0.2, 0.15]), one(head, moved, [0.2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# (log scale, distance of the target from the mean in scales)
EXTREMES = [(s, far) for s in (-30.0, -11.0, -10.0, -3.0, 5.0) for far in (-1e3, 0.0, 0.5, 1e3)]


@by_head
def test_extreme_targets_and_scales_give_finite_losses_and_gradients_in_float32(head):
    for s, far in EXTREMES:
        outputs = np.zeros(head.outputs)
        outputs[-head.mixtures :] = s
        for y in (-1.0, 1.0, 0.25):
            mean = y - far * np.exp(max(s, head.log_scale_min))
            outputs[head.outputs - 2 * head.mixtures : head.outputs - head.mixtures] = mean
            outputs = outputs.astype(np.float32).astype(float)
            loss, gradient = one(head, outputs, [y], "float32")
            wanted, slopes = one(head, outputs, [y], backend="reference")
            assert np.isfinite(loss) and np.isfinite(gradient).all(), (s, far, y)
            assert abs(loss - wanted) <= 1e-12 * max(abs(wanted), 1e-3), (s, far, y)  # the outputs are the same
            np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-15 + 1e-9 * np.abs(slopes).max())
            if s <= head.log_scale_min:
                assert not gradient[-head.mixtures :].any()


@by_case
def test_the_loss_in_float32_is_off_by_less_than_a_millionth(case):
    wanted = gated_stack.loss(**cases.inputs(case, "float64")[0], network=case.sizes["network"], backend="reference")
    got = gated_stack.loss(**cases.inputs(case, "float32")[0], network=case.sizes["network"])
    assert abs(got - wanted) < 1e-6 * abs(wanted)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@by_head
def test_a_target_of_nan_counts_for_nothing_at_weight_0(head, backend):
    outputs = np.linspace(-0.4, 0.3, head.outputs)
    targets, weights = np.array([[[0.1], [np.nan], [-0.2]]]), np.array([[1.0, 0.0, 2.0]])
    both = {"backend": backend, "sample_weight": weights}
    got = gated_stack.loss_and_grads(**saying(head, outputs), **fed(targets, "float64"), **both)
    wanted = gated_stack.loss_and_grads(**saying(head, outputs), **fed(np.nan_to_num(targets), "float64"), **both)
    assert got.loss == wanted.loss and np.isfinite(got.loss)
    for name, gradient in wanted.grads.items():
        assert np.array_equal(got.grads[name], gradient), name


# ---- draws -----------------------------------------------------------------------------------------------------------
def drawing(head, *, lpc, dtype="float64", batch=3, count=37, predicted=True):
    """A state's parameters and network, and what `sample` is told."""
    rng = np.random.default_rng(3)
    network = Network(Samples(2 + (lpc and predicted)), (Stack((1, 2, 4), 2, 5, 6, 7),), head)
    params = {n: (rng.standard_normal(shape) / 2).astype(dtype) for n, shape in network.parameter_shapes.items()}
    params["head.1.weight"] /= 4  # not all draws are cut at full scale
    params["head.1.bias"][-head.mixtures :] -= 3
    told = {"first": rng.uniform(-1, 1, (batch, 2)).astype(dtype)[:, slice(2) if lpc else 1],
            "extra": rng.standard_normal((batch, count, 1)).astype(dtype)}  # fmt: skip
    if lpc:
        told["lpc"] = (0.3 * rng.standard_normal((batch, count, 4))).astype(dtype)
    return params, network, told


def draws(params, network, told, *, backend=None, threads=None, pieces=None, **options):
    first, out, begin = told["first"], [], 0
    state = gated_stack.init_state(params, len(first), network=network, backend=backend, threads=threads)
    for n in pieces or [told["extra"].shape[1]]:
        part = {name: told[name][:, begin : begin + n] for name in ("extra", "lpc") if name in told}
        out.append(gated_stack.sample(first, n, state, **part, **options))
        columns = first[:, None] if first.ndim == 1 else first
        first = np.concatenate([columns, out[-1]], axis=1)[:, -4:]
        first = first if "lpc" in told else first[:, -1]
        begin += n
    return np.concatenate(out, axis=1)


by_lpc = pytest.mark.parametrize("lpc", [False, True], ids=["plain", "lpc"])


@by_lpc
@by_head
def test_draws_equal_the_reference(head, lpc):
    for predicted in (True, False):
        given = drawing(head, lpc=lpc, predicted=predicted)
        for temperature in (0, 0.4, 1.0):
            got = draws(*given, seed=5, temperature=temperature)
            assert got.dtype == np.float64 and got.shape == (3, 37) and len(np.unique(got)) > 10
            wanted = draws(*given, seed=5, temperature=temperature, backend="reference")
            np.testing.assert_allclose(got, wanted, atol=1e-9)


@by_lpc
@by_head
def test_draws_depend_on_seed_stream_and_time_alone(head, lpc):
    params, network, told = drawing(head, lpc=lpc, dtype="float32", batch=13)
    told = {name: np.repeat(value[:1], 13, axis=0) for name, value in told.items()}
    wanted = draws(params, network, told, seed=3, threads=1)
    assert wanted.dtype == np.float32 and len(np.unique(wanted, axis=0)) == 13
    for batch, threads in ((1, 1), (5, 2), (13, 4)):
        few = {name: value[:batch] for name, value in told.items()}
        assert np.array_equal(draws(params, network, few, seed=3, threads=threads), wanted[:batch])
    assert np.array_equal(draws(params, network, told, seed=3, pieces=[1, 0, 25, 11]), wanted)
    assert not np.array_equal(draws(params, network, told, seed=4), wanted)


def test_a_long_draw_in_pieces_of_its_own_is_the_draw_in_one_piece():
    given = drawing(Logistics(2, 4), lpc=True, count=2100)
    assert np.array_equal(draws(*given, pieces=[999, 1101]), draws(*given))


def test_what_is_drawn_is_fed_and_the_prediction_shifts_it():
    head = Gaussian(1, 4)
    params, network, told = drawing(head, lpc=True)
    got = draws(params, network, told, temperature=0)
    past = np.concatenate([np.zeros((3, 2)), told["first"], got], axis=1)
    shifts = np.array([[told["lpc"][b, i] @ past[b, i : i + 4][::-1] for i in range(37)] for b in range(3)])
    rows = np.concatenate([past[:, 3:-1, None], shifts[:, :, None], told["extra"]], axis=2)
    state = gated_stack.init_state(params, 3, network=network)
    means = gated_stack.step(rows, state)[:, :, 0]
    np.testing.assert_allclose(got, np.clip(means + shifts, -1, 1), atol=1e-12)


def many(head, outputs, **options):
    """Draws of a network that says the same at every row."""
    said = saying(head, outputs)
    state = gated_stack.init_state(said["params"], 8, network=said["network"])
    return gated_stack.sample(np.zeros(8), 5000, state, **options).reshape(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_mean_and_the_spread_of_their_distribution(temperature):
    for head, spread in ((Logistics(1, 4), math.pi / math.sqrt(3)), (Gaussian(1, 4), 1.0)):
        got = many(head, [0.25, -4.0], temperature=temperature)
        wanted = spread * math.exp(-4) * temperature
        assert abs(got.mean() - 0.25) < 0.03 * wanted and abs(got.std() / wanted - 1) < 0.02


def test_each_component_is_drawn_as_often_as_its_weight_says():
    for kind in (Logistics, Gaussian):
        outputs = [math.log(0.2), math.log(0.5), math.log(0.3), -0.5, 0.0, 0.5, -6, -5, -4]
        for temperature in (1.0, 0.5):
            got = many(kind(3, 4), outputs, temperature=temperature)
            weights = np.array([0.2, 0.5, 0.3]) ** (1 / temperature)
            shares = [np.mean(np.abs(got - mean) < 0.25) for mean in (-0.5, 0, 0.5)]
            np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)
            inside = got[np.abs(got - 0.0) < 0.25]  # the same number makes the noise of a component
            assert abs(np.median(inside)) < 0.1 * math.exp(-5)


@by_head
def test_draws_are_cut_at_full_scale_and_have_the_least_scale(head):
    outputs = np.zeros(head.outputs)
    assert np.abs(many(head, outputs)).max() == 1
    outputs[-head.mixtures :] = -30
    got = many(head, outputs)
    assert np.exp(head.log_scale_min) < np.abs(got).max() < 11.6 * np.exp(head.log_scale_min)


def test_temperature_zero_takes_the_mean_of_the_largest_weight():
    got = many(Gaussian(3, 4), [0, 2, 1, -0.5, 0.125, 0.5, 0, 0, 0], temperature=0)
    assert (got == 0.125).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_outputs_that_are_not_finite_raise(backend):
    said = saying(Logistics(2, 4), [0, 0, 0, np.nan, 0, 0])
    state = gated_stack.init_state(said["params"], 2, network=said["network"], backend=backend)
    with pytest.raises(DivergedError, match="the outputs of stream 0 are not finite at step 0"):
        gated_stack.sample(np.zeros(2), 3, state)


# ---- bits ------------------------------------------------------------------------------------------------------------
def test_a_uniform_density_costs_16_bits_by_every_head():
    wanted = math.log2(65535)  # a length of 2 in steps of 16 bits
    assert abs(Gaussian(1, 4).bits(math.log(2)) - wanted) < 1e-12
    for levels in (2**8, 2**10, 2**16):
        # The levels at the ends stand for twice their share: half of it lies beyond full scale.
        assert abs(Logistics(1, 4, levels).bits(math.log(levels - 1)) - wanted) < 1e-12
    assert Logistics(1, 4).bits(math.log(65536)) == 16
    for bits in (8, 9, 10):
        codes = mulaw_encode((2 * np.arange(2**20) + 1) / 2**20 - 1, bits)
        share = np.bincount(codes, minlength=2**bits) / len(codes)
        nats = -(share[share > 0] * np.log(share[share > 0])).sum()
        found = gated_stack.Softmax(2**bits, 4).bits(nats, gated_stack.mulaw_cell_bits(codes, 2**bits))
        assert abs(found - wanted) < 1e-3


def test_a_wide_logistic_of_16_bits_costs_as_much_as_its_density():
    outputs, y = [0.1, -3.0], 0.2
    mass = one(Logistics(1, 4), outputs, [y])[0]
    e = (y - 0.1) * math.exp(3)
    density = e - 3 + 2 * math.log1p(math.exp(-e))
    assert abs(Logistics(1, 4).bits(mass) - Gaussian(1, 4).bits(density)) < 1e-6


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("make", "text"), [
    (lambda: Logistics(0, 4), "Logistics: mixtures must be at least 1, got 0"),
    (lambda: Logistics(3, 0), "Logistics: end_channels must be at least 1, got 0"),
    (lambda: Logistics(3, 4, 1), "Logistics: levels must be at least 2, got 1"),
    (lambda: Gaussian(3, 4, -50), "Gaussian: log_scale_min must be a number from -40 to 10, got -50"),
    (lambda: gated_stack.mulaw_cell_bits([256], 256), r"mulaw_cell_bits: codes must be some integers in \[0, 255\]"),
])  # fmt: skip
def test_bad_settings_are_refused(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
    assert Logistics(np.int64(3), np.int32(4), np.int64(256)) == Logistics(3, 4, 256)


@pytest.mark.parametrize("columns", [0, 3])
def test_targets_of_another_width_are_refused(columns):
    with pytest.raises(ShapeError, match=r"targets must be \(1, 2, 1\), got"):
        gated_stack.loss(**saying(Gaussian(1, 4), 0), **fed(np.zeros((1, 2, columns)), "float64"))


def refused(error, text, state, first=None, **options):
    with pytest.raises(error, match=text):
        gated_stack.sample(np.zeros(2) if first is None else first, 3, state, **options)


def test_bad_arguments_of_sample_are_refused():
    said = saying(Gaussian(1, 4), 0, channels=3)
    state = gated_stack.init_state(said["params"], 2, network=said["network"])
    lpc, extra = np.zeros((2, 3, 4)), np.zeros((2, 3, 2))
    refused(ConfigError, "top_k must be None for a network of values, got 3", state, top_k=3)
    refused(ShapeError, r"extra must be \(2, 3, 2\), got \(2, 3, 0\)", state)
    refused(ShapeError, r"extra must be \(2, 3, 1 or 2\), got \(2, 3, 0\)", state, lpc=lpc)
    refused(ShapeError, r"lpc must be \(2, 3, order\), got \(2, 2, 4\)", state, lpc=lpc[:, :2], extra=extra)
    refused(ShapeError, r"first must be \(2, n\), got \(3, 1\)", state, np.zeros(3), extra=extra)
    codes = gated_stack.wavenet((1,), channels=2, gate_channels=2, skip_channels=2, end_channels=2, classes=5)
    params = {name: np.zeros(shape) for name, shape in codes.parameter_shapes.items()}
    state = gated_stack.init_state(params, 2, network=codes)
    refused(ConfigError, "extra must be None for a network of codes", state, np.zeros(2, int), extra=extra)
