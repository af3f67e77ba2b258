"""Norms, dropout and upsampling: statistics, masks, identities, and errors that name three facts."""

import numpy as np
import pytest

from wavedil import errors
from wavedil.ops import dropout, norm, upsample

SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError
X, C = np.ones((2, 5, 4), np.float32), np.ones(4, np.float32)


# ---- norms -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_running_statistics_approach_those_of_the_data(backend):
    rng, statistics = np.random.default_rng(0), norm.init_statistics(3)
    for _ in range(200):
        x = rng.standard_normal((8, 50, 3)) * [1, 2, 3] + [0, 5, -5]
        norm.forward(x, kind="batch", statistics=statistics, backend=backend)
    assert statistics.count[0] == 200
    np.testing.assert_allclose(statistics.mean, [0, 5, -5], atol=0.1)
    np.testing.assert_allclose(statistics.var, [1, 4, 9], rtol=0.05)
    kept = [a.copy() for a in statistics]
    y, saved = norm.forward(x, kind="batch", statistics=statistics, training=False, backend=backend)
    assert all(np.array_equal(a, b) for a, b in zip(kept, statistics, strict=True))
    assert saved.fixed and abs(y.mean()) < 0.05 and abs(y.std() - 1) < 0.05


def test_the_first_batch_counts_as_much_as_momentum_says():
    statistics = norm.init_statistics(1)
    norm.forward(np.array([[1.0], [3.0]]), kind="batch", statistics=statistics, momentum=1.0)
    assert statistics.mean == [2] and statistics.var == [2]  # of a sample


def test_small_deviations_around_a_large_mean():
    rng = np.random.default_rng(1)
    x = (1000 + rng.standard_normal((4, 300, 5))).astype(np.float32)
    for kind in ("batch", "layer"):
        y, _ = norm.forward(x, kind=kind)
        expected, _ = norm.forward(x.astype(np.float64), kind=kind, backend="reference")
        assert np.abs(y - expected).max() < 2e-3  # the mean itself is rounded to 6e-5


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "kind must be one of batch, layer, group, rms, weight, got 'instance'", dict(kind="instance")),
        (SHAPE, r"x must be \(..., C\) with at least one row and channel, got \(4,\)", dict(x=C)),
        (SHAPE, r"scale must be \(4,\), got \(3,\)", dict(scale=C[:3])),
        (DTYPE, "shift must be float32 as x is, got float64", dict(shift=np.ones(4))),
        (CONFIG, "shift must be None for rms, got an array", dict(kind="rms", shift=C)),
        (CONFIG, "eps must be None for weight, got 0.1", dict(kind="weight", eps=0.1)),
        (CONFIG, "eps must be a number of at least 0, got -1", dict(eps=-1)),
        (CONFIG, r"momentum must be a number in \(0, 1\], got 0", dict(momentum=0)),
        (SHAPE, r"x must have at least 2 rows for a batch norm to learn from, got \(1, 4\)", dict(x=C[None])),
        (CONFIG, "statistics must have seen a batch before training=False, got None", dict(training=False)),
        (
            CONFIG,
            "statistics must have seen a batch before training=False, got those of no batch",
            dict(training=False, statistics=norm.init_statistics(4)),
        ),
        (SHAPE, r"statistics.mean must be \(4,\), got \(3,\)", dict(statistics=norm.init_statistics(3))),
        (CONFIG, "statistics must be a norm.Statistics, got dict", dict(statistics={})),
        (CONFIG, "statistics must be None for rms, got a St", dict(kind="rms", statistics=norm.init_statistics(4))),
    ],
)
def test_bad_input_of_norm(error, message, change):
    with pytest.raises(error, match="norm.forward: " + message):
        norm.forward(**(dict(x=X, kind="batch", backend="reference") | change))


# ---- dropout ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [False, True])
def test_as_many_are_dropped_as_the_rate_says(channels):
    x = np.ones((400, 10, 50))
    y, _ = dropout.forward(x, rate=0.3, channels=channels)
    dropped = y == 0
    assert np.unique(y).tolist() == [0, 1 / (1 - int(0.3 * 2**32) / 2**32)]
    per_item = dropped.mean((1, 2))
    draws = 50 * (1 if channels else 10)
    assert abs(dropped.mean() - 0.3) < 4 * (0.21 / (400 * draws)) ** 0.5
    assert 0.8 < per_item.var() / (0.21 / draws) < 1.25  # as independent draws have it
    assert channels == (dropped == dropped[:, :1]).all()
    # Neighbouring rows, channels and items do not go together.
    for a, b in ((dropped[1:], dropped[:-1]), (dropped[..., 1:], dropped[..., :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / (400 * draws) ** 0.5


def test_a_mask_depends_on_all_that_it_is_made_of():
    x = np.ones((2, 30, 20))
    masks = [
        dropout.forward(x, rate=0.5, **change)[0].tobytes()
        for change in ({}, dict(seed=1), dict(step=1), dict(layer=1), dict(channels=True))
    ]
    assert len(set(masks)) == 5
    assert dropout.forward(x, rate=0.5)[0].tobytes() == masks[0]
    first, second = dropout.forward(x, rate=0.5)[0]
    assert (first != second).any()


def test_a_mask_is_the_same_in_both_dtypes_and_backends():
    masks = [
        dropout.forward(np.ones((3, 7, 5), dtype), rate=0.5, seed=9, backend=backend)[0] > 0
        for dtype in ("float32", "float64")
        for backend in ("reference", "cpu")
    ]
    assert all(np.array_equal(m, masks[0]) for m in masks)


def test_without_training_nothing_is_dropped():
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    y, saved = dropout.forward(x, rate=0.5, training=False)
    assert np.array_equal(y, x) and np.array_equal(dropout.backward(x, saved).x, x)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, r"rate must be a number in \[0, 1\), got 1.0", dict(rate=1.0)),
        (CONFIG, r"rate must be a number in \[0, 1\), got nan", dict(rate=float("nan"))),
        (CONFIG, "seed must be at least 0, got -1", dict(seed=-1)),
        (CONFIG, r"step must be below 2\*\*63, got", dict(step=2**63)),
        (SHAPE, r"x must be \(B, ..., C\) .*, got \(4,\)", dict(x=C)),
        (DTYPE, "x must be an array of floats, got int64", dict(x=np.ones((2, 3), np.int64))),
    ],
)
def test_bad_input_of_dropout(error, message, change):
    with pytest.raises(error, match="dropout.forward: " + message):
        dropout.forward(**(dict(x=X, rate=0.1, backend="reference") | change))


# ---- upsampling ------------------------------------------------------------------------------------------------------
def test_the_past_does_not_see_the_future():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 6, 3)), rng.standard_normal((5, 3, 2))
    y, _ = upsample.forward(x, w, kind="transposed", factor=2)
    x[:, 4:] = np.nan
    changed, _ = upsample.forward(x, w, kind="transposed", factor=2)
    assert np.array_equal(y[:, :8], changed[:, :8]) and np.isnan(changed[:, 8:]).all()


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "kind must be one of nearest, transposed, got 'linear'", dict(kind="linear")),
        (CONFIG, "factor must be at least 1, got 0", dict(factor=0)),
        (CONFIG, "w must be None for nearest, got an array", dict(w=np.ones((2, 4, 3), np.float32))),
        (CONFIG, "w must be given for transposed, got None", dict(kind="transposed")),
        (SHAPE, r"x must be \(B, T, 3\), got", dict(kind="transposed", w=np.ones((2, 3, 3), np.float32))),
        (SHAPE, r"x must be \(B, T, C\), got \(5, 4\)", dict(x=X[0])),
    ],
)
def test_bad_input_of_upsample(error, message, change):
    with pytest.raises(error, match="upsample.forward: " + message):
        upsample.forward(**(dict(x=X, kind="nearest", factor=2, backend="reference") | change))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.filterwarnings("error")
def test_a_weight_of_zeros_has_no_direction_and_no_warning(backend):
    y, _ = norm.forward(np.zeros((2, 3, 4)), np.ones(4), kind="weight", backend=backend)
    assert np.isnan(y).all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_group_has_mean_0_and_deviation_1_in_each_item(backend):
    x = np.random.default_rng(0).standard_normal((3, 50, 6)) * [1, 2, 3, 4, 5, 6] + 7
    y, saved = norm.forward(x, kind="group", groups=2, eps=0, backend=backend)
    parts = y.reshape(3, 50, 2, 3)
    np.testing.assert_allclose(parts.mean((1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(parts.std((1, 3)), 1, rtol=1e-12)
    assert saved.mean.shape == (2, 3)
    one = norm.forward(x.reshape(1, 3, 300), kind="layer", eps=0, backend=backend)[0]
    same = norm.forward(x, kind="group", groups=1, eps=0, backend=backend)[0]  # a group of all: a layer of all rows
    np.testing.assert_allclose(same.ravel(), one.ravel(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "groups must be 1 for layer, got 2", dict(kind="layer")),
        (SHAPE, r"x must have channels divisible by groups = 3, got \(2, 5, 4\)", dict(groups=3)),
        (CONFIG, "groups must be at least 1, got 0", dict(groups=0)),
    ],
)
def test_bad_groups(error, message, change):
    with pytest.raises(error, match="norm.forward: " + message):
        norm.forward(X, **dict(kind="group", groups=2) | change)
