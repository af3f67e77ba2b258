"""What stacks of dilated convolutions see: counted, by the exact rule, by looking, and as designed."""

import doctest
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import wavedil as wd
from wavedil import receptive
from wavedil.errors import ConfigError, DataError, ShapeError
from wavedil.ops import conv1d, conv2d
from wavedil.receptive import designer, durations, images, probe
from wavedil.receptive import stacks as stacks_module

DOUBLING = [2**i for i in range(10)]
stacks = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=5).map(
    lambda pairs: tuple(map(list, zip(*pairs, strict=True))))


def answers_of_ones(dilations, sizes):
    """What convolutions of ones answer to a single one: the paths to each lag, from the definition of a convolution."""
    x = np.zeros((1, 1 + sum((k - 1) * d for d, k in zip(dilations, sizes, strict=True)), 1))
    x[0, 0] = 1
    for dilation, size in zip(dilations, sizes, strict=True):
        x, _ = conv1d.forward(x, np.ones((size, 1, 1)), None, dilation=dilation, backend="reference")
    return x[0, :, 0]


def lags_by_enumeration(dilations, sizes):
    return {sum(lag) for lag in itertools.product(*(range(0, k * d, d) for d, k in zip(dilations, sizes, strict=True)))}


# ---- the field -------------------------------------------------------------------------------------------------------
def test_known_fields():
    assert receptive.receptive_field(DOUBLING, 2) == 1024
    assert receptive.receptive_field(DOUBLING * 2, 2) == 2047
    assert receptive.receptive_field(DOUBLING * 3, 3) == 6139
    assert receptive.receptive_field((5,), 1) == 1
    assert receptive.receptive_field([1, 2, 4], [5, 1, 3]) == 1 + 4 + 0 + 8
    assert receptive.receptive_field([2**100], 2) == 1 + 2**100
    # A temporal convolution network of n levels of two convolutions: 1 + 2 (k - 1) (2**n - 1)
    assert receptive.receptive_field([2**i for i in range(8) for _ in range(2)], 8) == 1 + 2 * 7 * 255


def test_any_sequence_of_whole_numbers():
    for dilations in (np.array([1, 2, 4]), (np.int64(1), 2, 4), range(1, 5)):
        got = receptive.receptive_field(dilations, np.int32(2))
        assert got == 1 + sum(dilations) and type(got) is int
    assert receptive.receptive_field([1, 2], np.array([2, 3])) == 6
    checked = receptive.check_dilations(np.array([3, 5]), 2)
    assert checked == (3, 5) and all(type(d) is int for d in checked)


def test_durations():
    assert receptive.samples("300ms", 8000) == 2400 and receptive.samples("0.1 ms", 44100) == 5  # 4.41, rounded up
    assert receptive.samples("0.3s", 8000) == 2400  # exactly: 0.3 is no binary fraction
    assert receptive.samples("77 samples") == receptive.samples(77) == receptive.samples("77") == 77
    assert receptive.milliseconds(2400, 8000) == 300.0 and receptive.milliseconds(0, 1) == 0


# ---- what is seen ----------------------------------------------------------------------------------------------------
@given(stacks)
@example(([1, 2, 4, 8], [2] * 4))
def test_multiplicity_is_what_convolutions_of_ones_answer(stack):
    counts = receptive.multiplicity(*stack)
    assert counts.dtype == np.int64 and len(counts) == receptive.receptive_field(*stack)
    assert np.array_equal(counts, answers_of_ones(*stack))
    assert counts.sum() == math.prod(stack[1])


@given(stacks)
def test_the_exact_rule_is_what_enumeration_finds(stack):
    missing = sorted(set(range(receptive.receptive_field(*stack))) - lags_by_enumeration(*stack))
    assert receptive.holes(*stack).tolist() == missing
    assert receptive.first_hole(*stack) == (missing[0] if missing else None)
    assert receptive.gridding(*stack) == len(missing) / receptive.receptive_field(*stack)
    assert bool(missing) == any("never seen" in text or "sees only" in text for text in receptive.cautions(*stack))


def test_doubling_with_kernel_2_sees_each_lag_once():
    for n in range(1, 13):
        counts = receptive.multiplicity([2**i for i in range(n)], 2)
        assert len(counts) == 2**n and (counts == 1).all()
    assert receptive.first_hole([2**i for i in range(200)], 2) is None  # no need to count them
    assert receptive.evenness(DOUBLING, 2) == 1 and receptive.gridding(DOUBLING, 2) == 0


def test_1_2_4_8_with_kernel_3():
    counts = receptive.multiplicity([1, 2, 4, 8], 3).tolist()
    # Ways to write n as a sum of powers of two, each at most twice (Stern's sequence), while n < 16; then mirrored.
    assert counts[:16] == [1, 1, 2, 1, 3, 2, 3, 1, 4, 3, 5, 2, 5, 3, 4, 1]
    assert counts == counts[::-1] and len(counts) == 31 and sum(counts) == 3**4
    assert receptive.first_hole([1, 2, 4, 8], 3) is None


def test_2_4_8_has_holes():
    for kernel_size, field in ((2, 15), (3, 29)):
        assert receptive.holes([2, 4, 8], kernel_size).tolist() == list(range(1, field, 2))
        assert receptive.first_hole([2, 4, 8], kernel_size) == 1
        assert receptive.gridding([2, 4, 8], kernel_size) == (field // 2) / field
    assert receptive.cautions([2, 4, 8], 2) == (
        "all dilations are multiples of 2: the stack sees only every 2nd sample, none at lag 1",)


def test_huge_counts_are_exact():
    counts = receptive.multiplicity([1] * 64, 2)
    assert counts.dtype == object and counts[32] == math.comb(64, 32) and counts.sum() == 2**64
    assert receptive.multiplicity([1] * 62, 2).dtype == np.int64
    assert 0 < receptive.evenness([1] * 1200, 2) < 0.1  # binomial(1200, 600) is beyond a float
    assert receptive.gridding([2] * 64, 2) == 64 / 129
    square = receptive.multiplicity_2d([1] * 40, 2)
    assert square.dtype == object and square[20, 20] == math.comb(40, 20) ** 2


def test_evenness_by_its_formula():
    counts = receptive.multiplicity([1, 2, 4, 8] * 3, 3).astype(float)
    assert receptive.evenness([1, 2, 4, 8] * 3, 3) == pytest.approx(counts.sum() ** 2 / len(counts) / (counts**2).sum())
    assert receptive.evenness([2, 4], 2) == pytest.approx(4 / 7)  # four lags of seven, each once


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3), st.integers(1, 3),
       st.integers(1, 3))
def test_two_dimensions_by_enumeration(dilations, rows, columns):
    counts = receptive.multiplicity_2d(dilations, (rows, columns))
    wanted = np.zeros_like(counts)
    for taps in itertools.product(itertools.product(range(rows), range(columns)), repeat=len(dilations)):
        wanted[tuple(sum(tap[axis] * d[axis] for tap, d in zip(taps, dilations, strict=True)) for axis in (0, 1))] += 1
    assert np.array_equal(counts, wanted)


def test_two_dimensions_by_convolutions_of_ones():
    dilations, kernel_size = [(1, 2), (2, 1), (3, 3)], (3, 2)
    counts = receptive.multiplicity_2d(dilations, kernel_size)
    x = np.zeros((1, *counts.shape, 1))
    x[0, 0, 0, 0] = 1
    for dilation in dilations:
        above, left = ((k - 1) * d for k, d in zip(kernel_size, dilation, strict=True))
        x, _ = conv2d.forward(x, np.ones((*kernel_size, 1, 1)), dilation=dilation, padding=((above, 0), (left, 0)),
                              backend="reference")
    assert np.array_equal(x[0, :, :, 0], counts)


def test_the_hybrid_rule():
    # Wang et al., section 3.2: with kernel 3 these pass and fail.
    assert receptive.hybrid_2d([1, 2, 5], 3) == (2, 1, True)
    assert receptive.hybrid_2d([1, 2, 9], 3) == (5, 1, False)
    assert receptive.hybrid_2d([2, 4, 8], 3).common_factor == 2 and not receptive.hybrid_2d([2, 4, 8], 3).passes
    # As its page says: it agrees with the count here, and errs there.
    for n in (2, 3, 4):
        for dilations in itertools.combinations_with_replacement(range(1, 13), n - 1):
            dilations = [1, *dilations]
            assert receptive.hybrid_2d(dilations, 3).passes == (receptive.first_hole(dilations, 3) is None)
    assert receptive.hybrid_2d([2, 3, 5], 3).passes and receptive.multiplicity_2d([2, 3, 5], 3)[1, 0] == 0
    assert not receptive.hybrid_2d([1, 1, 8], 5).passes and (receptive.multiplicity_2d([1, 1, 8], 5) > 0).all()


def test_cautions():
    assert receptive.cautions(DOUBLING, 2, clip=1024, window=1024) == ()
    (text,) = receptive.cautions([1, 2, 9], 3)
    assert text == "dilation 9 exceeds 7, the field of all smaller ones together: lag 7 is never seen"
    (text,) = receptive.cautions(DOUBLING, 2, clip=256)
    assert text == "dilation 256, 512 exceeds what a clip of 256 samples holds: all its past taps read padding"
    (text,) = receptive.cautions(DOUBLING, 2, clip=1000)
    assert text == "the field of 1,024 samples exceeds the clip of 1,000: the longest lags read padding"
    (text,) = receptive.cautions(DOUBLING, 2, window=1000)
    assert text == "the field of 1,024 samples exceeds the training window of 1,000: the longest lags are never trained"
    assert len(receptive.cautions([3, 6], 2, clip=5, window=5)) == 3
    assert receptive.cautions([7], 1) == ()  # one tap: the dilation does not matter


def test_analyse_has_it_all():
    found = receptive.analyse([2, 4, 8], 2, window=10)
    assert found.receptive_field == 15 and found.paths == 8 and found.kernel_sizes == (2, 2, 2)
    assert found.holes.tolist() == receptive.holes([2, 4, 8], 2).tolist()
    assert found.gridding == receptive.gridding([2, 4, 8], 2) and found.evenness == receptive.evenness([2, 4, 8], 2)
    assert found.cautions == receptive.cautions([2, 4, 8], 2, window=10) and len(found.cautions) == 2


# ---- measured --------------------------------------------------------------------------------------------------------
def net(dilations, kernel_size, seed=0, **sizes):
    channels = dict.fromkeys(("residual_channels", "dilation_channels", "skip_channels", "end_channels"), 8)
    config = wd.WaveNetConfig(dilations=dilations, kernel_size=kernel_size, **{**channels, **sizes})
    model = wd.WaveNet(config, seed=seed, dtype="float64", threads=1)
    rng = np.random.default_rng(seed)
    for array in model.params.values():  # no bias and no weight is zero
        array[...] = rng.standard_normal(array.shape) / 4
    return model


@pytest.mark.parametrize(("dilations", "kernel_size"), [([1, 2, 4, 8], 2), ([1, 2, 4] * 2, 3), ([2, 4, 8], 2)])
def test_a_wavenet_sees_what_was_computed(dilations, kernel_size):
    model = net(dilations, kernel_size, classes=30)
    codes = np.random.default_rng(1).integers(0, 30, (2, 3 * model.receptive_field))
    found = receptive.measure(model.logits, codes)
    assert found.causal and found.receptive_field == model.receptive_field
    # A hole of a stack is a hole of the network with its residual and skip connections too.
    assert np.array_equal(found.holes, receptive.holes(dilations, kernel_size))
    assert np.array_equal(found.lags, receptive.measure(model.logits, codes, at=0).lags)


def test_a_wavenets_gradient_proves_the_same():
    """Codes that differ all, so the gradient of a code's embedding is the gradient of one input sample."""
    model = net([1, 2, 4, 8] * 2, 2, classes=128)
    codes = np.random.default_rng(0).permutation(128)[None, :]

    def gradient(weights):
        _, grads = model.loss_and_grads(codes, weights)
        return grads["input.embedding"][codes[:, :-1]]

    weights = np.ones((1, 127))
    assert receptive.measure(gradient, weights, by="gradient", at=126).lags.tolist() == list(range(31))
    assert receptive.measure(gradient, weights, by="gradient").receptive_field == model.receptive_field == 31


@pytest.mark.parametrize(("levels", "kernel_size"), [(3, 2), (2, 3)])
def test_a_tcn_like_stack_sees_what_was_computed_both_ways(levels, kernel_size):
    """Two convolutions a level, ReLU, a shortcut around both."""
    rng = np.random.default_rng(0)
    dilations = [2**i for i in range(levels) for _ in range(2)]
    weights = [rng.standard_normal((kernel_size, 6, 6)) / 3 for _ in dilations]
    tape = []

    def forward(h):
        tape.clear()
        for i in range(0, len(dilations), 2):
            y = h
            for w, d in zip(weights[i : i + 2], dilations[i : i + 2], strict=True):
                y, saved = conv1d.forward(y, w, dilation=d, backend="reference")
                y = np.maximum(y, 0.1 * y)  # leaky: nothing is off
                tape.append((saved, y))
            h = h + y
        return h

    def backward(dy):
        for i in reversed(range(0, len(dilations), 2)):
            d = dy
            for saved, y in reversed(tape[i : i + 2]):
                d = conv1d.backward(np.where(y > 0, d, 0.1 * d), saved, needs=("x",), backend="reference").x
            dy = dy + d
        return dy

    field = receptive.receptive_field(dilations, kernel_size)
    x = rng.standard_normal((1, 3 * field, 6))
    forward_lags = receptive.measure(forward, x).lags
    forward(x)
    backward_lags = receptive.measure(backward, x, by="gradient").lags
    assert forward_lags.tolist() == backward_lags.tolist() == list(range(field))


@pytest.mark.parametrize(("dilations", "kernel_size"), [([1, 2, 4], 3), ([3, 6], 2)])
def test_a_tcn_sees_what_was_computed(dilations, kernel_size):
    model = wd.TCN(wd.TCNConfig(dilations=dilations, kernel_size=kernel_size, channels=12, inputs=3), dtype="float64",
                   threads=1)
    x = np.random.default_rng(0).standard_normal((4, 3 * model.receptive_field, 3))
    found = receptive.measure(model.predict, x)
    assert found.causal and found.receptive_field == model.receptive_field
    assert found.holes.tolist() == receptive.holes(dilations * 2, kernel_size).tolist()


def test_a_centred_convolution_sees_the_future():
    w = np.ones((3, 1, 1))
    found = receptive.measure(lambda x: conv1d.forward(x, w, dilation=4, padding="same", backend="reference")[0],
                              np.zeros((1, 30, 1)))
    assert found.lags.tolist() == [-4, 0, 4] and not found.causal and found.receptive_field == 9
    assert found.holes.tolist() == [-3, -2, -1, 1, 2, 3]


def test_measuring_leaves_x_alone_and_sees_arrays_that_are_filled_anew():
    buffer = np.empty(9)

    def into_the_same_array(x):
        buffer[:] = x
        x[:] = 7
        return buffer

    x = np.arange(9.0)
    assert receptive.measure(into_the_same_array, x).lags.tolist() == [0]
    assert np.array_equal(x, np.arange(9.0))


# ---- designed --------------------------------------------------------------------------------------------------------
@given(st.integers(1, 5000), st.integers(2, 9), st.integers(1, 24), st.sampled_from(list(receptive.BLOCKS)))
@example(2400, 2, 20, "wavenet")
@example(1, 2, 1, "conv")
@example(4096, 2, 12, "wavenet")
@example(4005, 8, 10, "tcn")
@example(2365, 7, 4, "conv")  # growth by 6.99, rounded, would outrun the rule by one sample
def test_no_suggestion_has_a_blind_spot(field, kernel_size, blocks, block):
    base = 1 + (kernel_size - 1) * (2 if block == "tcn" else 1)
    if base**blocks < field:
        with pytest.raises(ConfigError, match=f"blocks must be at least .* to see {field:,} samples"):
            receptive.design(field, kernel_size, blocks, block=block)
        return
    schedules = receptive.design(field, kernel_size, blocks, block=block)
    assert schedules and len({s.dilations for s in schedules}) == len(schedules)
    assert len(schedules[0].dilations) == max(1, next(n for n in range(blocks + 1) if base**n >= field))
    for s in schedules:
        assert len(s.dilations) <= blocks
        assert receptive.receptive_field(s.layers, kernel_size) == s.receptive_field >= field
        assert len(receptive.holes(s.layers, kernel_size)) == 0 and receptive.first_hole(s.layers, kernel_size) is None
        assert s.cautions == () and s.evenness == receptive.evenness(s.layers, kernel_size)
        assert s.cost == receptive.cost(len(s.dilations), kernel_size, 32, block)
    order = [(s.cost.multiply_adds, s.receptive_field) for s in schedules]
    assert order == sorted(order)


def test_known_designs():
    by_name = {s.name: s for s in receptive.design(1024, 2, 20, block="conv")}
    assert by_name["powers of 2"].dilations == tuple(DOUBLING)
    assert by_name["2 cycles, powers of 2"].dilations == tuple(DOUBLING) * 2
    assert {s.receptive_field for s in receptive.design(1000, 2, 20) if "fitted" in s.name} <= set(range(1000, 1003))
    assert receptive.design(3**7, 3, 9)[0].dilations == tuple(3**i for i in range(7))
    tcn = {s.name: s for s in receptive.design(3571, 8, 8, block="tcn")}["powers of 2"]
    assert tcn.dilations == tuple(2**i for i in range(8)) and tcn.layers == tuple(2 ** (i // 2) for i in range(16))
    assert tcn.receptive_field == 1 + 2 * 7 * 255
    assert all(len(s.cautions) == 1 for s in receptive.design(1000, 2, 20, window=900))
    assert all(len(s.cautions) == 1 for s in receptive.design(1000, 2, 20, clip=900))


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_costs_are_a_wavenets(kernel_size):
    model = net([1, 2, 4], kernel_size)
    sizes = {name: array.size for name, array in model.params.items() if name.startswith("blocks.")}
    weights = sum(size for name, size in sizes.items() if name.endswith("weight"))
    assert receptive.cost(3, kernel_size, 8) == (sum(sizes.values()), weights)


def test_costs_are_a_tcns():
    model = wd.TCN(wd.TCNConfig(dilations=[1, 2], kernel_size=3, channels=8, inputs=8, weight_norm=False))
    sizes = {name: array.size for name, array in model.params.items() if name.startswith("blocks.")}
    weights = sum(size for name, size in sizes.items() if name.endswith("weight"))
    assert receptive.cost(2, 3, 8, "tcn") == (sum(sizes.values()), weights)


def test_costs_of_plain_convolutions():
    assert receptive.cost(1, 3, 10, "conv") == (310, 300)
    assert receptive.cost(2, 3, 10, "tcn") == (4 * 310, 4 * 300)


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dilations", "kernel_size", "message"),
    [
        ([], 2, "dilations must name at least one block, got an empty list"),
        (4, 2, "dilations must be a list of integers, got 4"),
        (None, 2, "dilations must be a list of integers, got None"),
        ([1, 0], 2, "each of dilations must be at least 1, got 0"),
        ([1, -2], 2, "each of dilations must be at least 1, got -2"),
        ([1, 2.0], 2, "each of dilations must be an integer, got 2.0"),
        ([1, True], 2, "each of dilations must be an integer, got True"),
        ("12", 2, "each of dilations must be an integer, got '1'"),
        ([1], 0, "kernel_size must be at least 1, got 0"),
        ([1], 2.5, "kernel_size must be an integer, got 2.5"),
        ([1], True, "kernel_size must be an integer, got True"),
        ([1], "2", "kernel_size must be an integer, got '2'"),
        ([1], None, "kernel_size must be an integer, got None"),
    ],
)
def test_bad_stacks(dilations, kernel_size, message):
    for function in (receptive.receptive_field, receptive.check_dilations, receptive.multiplicity, receptive.holes,
                     receptive.first_hole, receptive.gridding, receptive.evenness, receptive.analyse,
                     receptive.cautions, receptive.hybrid_2d, receptive.multiplicity_2d):
        with pytest.raises(ConfigError) as caught:
            function(dilations, kernel_size)
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"{function.__name__}: ")


def walk(x):
    return np.cumsum(x)


def noise(x):
    return np.random.default_rng().standard_normal(len(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: receptive.receptive_field([1, 2], [2, 2, 2]), ConfigError,
         "receptive_field: kernel_size must be one number or one for each of the 2 dilations, got 3"),
        (lambda: receptive.receptive_field([1, 2], [2, 0]), ConfigError, "kernel_size must be at least 1, got 0"),
        (lambda: receptive.multiplicity([2**22], 2), ConfigError, "at most 4,194,304 samples .* got 4,194,305"),
        (lambda: receptive.multiplicity_2d([2**11], 3), ConfigError, "at most 4,194,304 .* got 4,097 x 4,097"),
        (lambda: receptive.multiplicity_2d([(1, 2, 3)], 3), ConfigError, "multiplicity_2d: dilations must be one"),
        (lambda: receptive.hybrid_2d([1], 3), ConfigError, r"hybrid_2d: dilations must name at least two .* got \[1\]"),
        (lambda: receptive.hybrid_2d([1, 2], [3, 3]), ConfigError, r"kernel_size must be an integer, got \[3, 3\]"),
        (lambda: receptive.samples("300ms"), ConfigError, "samples: rate must be given .* got '300ms' and no rate"),
        (lambda: receptive.samples("300 mins", 8000), ConfigError, "samples: duration must be .* got '300 mins'"),
        (lambda: receptive.samples("0ms", 8000), ConfigError, "got '0ms'"),
        (lambda: receptive.samples("1e3"), ConfigError, "got '1e3'"),
        (lambda: receptive.samples(-4), ConfigError, "got -4"),
        (lambda: receptive.samples(2.5), ConfigError, "got 2.5"),
        (lambda: receptive.samples(True), ConfigError, "got True"),
        (lambda: receptive.samples("1s", 0), ConfigError, "samples: rate must be at least 1, got 0"),
        (lambda: receptive.milliseconds(-1, 8000), ConfigError, "milliseconds: samples must be .* got -1"),
        (lambda: receptive.cautions([1], 2, clip=0), ConfigError, "cautions: clip must be at least 1, got 0"),
        (lambda: receptive.analyse([1], 2, window=1.5), ConfigError, "analyse: window must be an integer, got 1.5"),
        (lambda: receptive.design(0), ConfigError, "design: field must be at least 1, got 0"),
        (lambda: receptive.design(10, 1), ConfigError, "design: kernel_size must be at least 2, got 1"),
        (lambda: receptive.design(10, 2, 0), ConfigError, "design: blocks must be at least 1, got 0"),
        (lambda: receptive.design(10, channels=0), ConfigError, "design: channels must be .* got 0"),
        (lambda: receptive.design(10, block="lstm"), ConfigError, "design: block must be one of 'conv', .* got 'lstm'"),
        (lambda: receptive.design(5_000_000), ConfigError, "design: field must be at most 4,194,304 .* got 5,000,000"),
        (lambda: receptive.design(1025, 2, 10), ConfigError, "design: blocks must be at least 11 .* got 10"),
        (lambda: receptive.cost(1, 2, 0), ConfigError, "cost: channels must be at least 1, got 0"),
        (lambda: receptive.measure(walk, 3.0), ShapeError, r"measure: x must be \(T,\), \(B, T\) .* got \(\)"),
        (lambda: receptive.measure(walk, np.zeros((1, 0))), ShapeError, r"got \(1, 0\)"),
        (lambda: receptive.measure(lambda x: x[1:], np.zeros(9)), ShapeError, r"as many rows as x has, 9, .* \(8,\)"),
        (lambda: receptive.measure(np.mean, np.zeros(9)), ShapeError, r"as many rows as x has, 9, got shape \(\)"),
        (lambda: receptive.measure(walk, np.zeros(9), by="luck"), ConfigError, "by must be .* got 'luck'"),
        (lambda: receptive.measure(walk, np.zeros(9), at=9), ConfigError, "at must be one of the 9 rows of x, got 9"),
        (lambda: receptive.measure(walk, np.zeros(9), at=-1), ConfigError, "at must be at least 0, got -1"),
        (lambda: receptive.measure(walk, np.zeros(9)), DataError, "x must be long enough .* a response in row 8"),
        (lambda: receptive.measure(lambda x: walk(x[::-1])[::-1], np.ones(9)), DataError, "a response in row 0"),
        (lambda: receptive.measure(lambda d: walk(d[::-1])[::-1], np.ones(9), by="gradient"), DataError, "in row 0"),
        (lambda: receptive.measure(noise, np.zeros(9)), DataError, "fn must give the same for the same x"),
        (lambda: receptive.measure(np.zeros_like, np.zeros(9)), DataError, "fn must depend on row 4 of x"),
        (lambda: receptive.measure(lambda x: x * np.nan, np.zeros(9)), DataError, "finite numbers, got NaN"),
        (lambda: receptive.measure(walk, np.full(9, 3)), DataError, "two different codes or more, got only 3"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- the module ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", [designer, durations, images, probe, stacks_module])
def test_examples_in_the_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_it_needs_no_numba():
    code = "import sys, wavedil; wavedil.receptive.design(9, 2, 9); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
