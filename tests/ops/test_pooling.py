"""Pooling beyond the generic suites: streams, padding, large scores, bad input."""

import numpy as np
import pytest
from helpers import ops as h
from hypothesis import given
from hypothesis import strategies as st

from wavedil import errors
from wavedil.ops import pooling

BACKENDS = h.backends("pooling")
STREAMED = ("average", "statistics", "attentive-32", "far-from-zero")


def arrays_of(name, dtype="float64"):
    """Arrays without weights, settings, weights."""
    arrays, settings = h.cases("pooling").inputs(h.case_named("pooling", name), dtype)
    return arrays, settings, arrays.pop("sample_weight", None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", STREAMED)
@given(data=st.data())
def test_a_stream_in_any_split_ends_as_forward(name, weighted, data):
    arrays, settings, weights = arrays_of(name)
    x = arrays.pop("x")
    weights = weights if weighted else np.ones(x.shape[:2])
    cuts = data.draw(st.lists(st.integers(1, x.shape[1] - 1), max_size=6, unique=True).map(sorted), label="cuts")
    backends = data.draw(st.permutations(BACKENDS), label="backends")  # a state goes from one to the other
    state, end = pooling.init_state(len(x), x.shape[2]), 0
    for i, (piece, part) in enumerate(zip(np.split(x, cuts, 1), np.split(weights, cuts, 1), strict=True)):
        given_weights = part if weighted else None
        backend = backends[i % len(backends)]
        y = pooling.step(piece, state, **arrays, **settings, sample_weight=given_weights, backend=backend)
        end += piece.shape[1]
        seen = weights[:, :end]
        so_far, _ = pooling.forward(x[:, :end], **arrays, **settings, sample_weight=seen, backend="reference")
        h.assert_close(y, so_far, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_without_rows_that_count(backend):
    state = pooling.init_state(2, 3)
    rows = np.array([[0, 0], [1, 0]])
    y = pooling.step(np.full((2, 2, 3), np.nan), state, sample_weight=rows, backend=backend)
    assert np.isnan(y[1]).all() and not y[0].any()  # the NaN that counts shows, the one that does not does not


def test_a_long_stream_in_float32_loses_no_digits():
    """A million rows far from zero, whose plain float32 sum would be off in the third digit."""
    rng = np.random.default_rng(0)
    state, total, square = pooling.init_state(1, 2), 0.0, 0.0
    for _ in range(100):
        x = (100 + rng.standard_normal((1, 10_000, 2))).astype(np.float32)
        y = pooling.step(x, state, kind="statistics")
        total, square = total + x[0].sum(0, dtype=float), square + (x[0].astype(float) ** 2).sum(0)
    mean = total / 1e6
    expected = np.concatenate([mean, np.sqrt(square / 1e6 - mean**2 + pooling.EPSILON)])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", pooling.KINDS)
def test_padding_changes_no_bit_and_may_be_nan(kind, backend):
    arrays, settings, _ = arrays_of("attentive-32", "float32")
    x, settings["kind"] = arrays.pop("x"), kind
    arrays = arrays if kind == "attentive" else {}
    lengths = np.array([203, 97, 1])
    weights = np.arange(203) < lengths[:, None]
    padded = np.where(weights[..., None], x, np.nan).astype(np.float32)
    y, saved = pooling.forward(padded, **arrays, **settings, sample_weight=weights, backend=backend)
    dy = h.upstream(y)
    grads = pooling.backward(dy, saved, backend=backend)
    assert all(np.isfinite(a).all() for a in h.parts(grads).values())
    assert not grads.x[~weights].any()
    for i, n in enumerate(lengths):
        alone, saved = pooling.forward(x[i : i + 1, :n], **arrays, **settings, backend=backend)
        h.assert_close(y[i : i + 1], alone, 1e-6)
        dx = pooling.backward(dy[i : i + 1], saved, backend=backend).x
        h.assert_close(grads.x[i : i + 1, :n], dx, 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_overflow(backend):
    x = np.linspace(-1, 1, 300, dtype=np.float32).reshape(1, 300, 1)
    w, b = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    for size in (1e4, -1e4):  # all the attention goes to one end
        y, saved = pooling.forward(x, w, b, np.array([size], np.float32), kind="attentive", backend=backend)
        assert y[0, 0] == pytest.approx(np.sign(size), abs=1e-3)
        assert np.isfinite(pooling.backward(h.upstream(y), saved, backend=backend).x).all()


def test_statistics_are_those_of_numpy():
    arrays, settings, _ = arrays_of("statistics")
    y, _ = pooling.forward(**arrays, **settings)
    x = arrays["x"]
    np.testing.assert_allclose(y, np.concatenate([x.mean(1), np.sqrt(x.var(1) + 1e-5)], axis=1), rtol=1e-12)
    assert pooling.width(30, "statistics") == y.shape[1] and pooling.width(30, "average") == 30


def test_a_channel_that_does_not_move_has_finite_gradients():
    y, saved = pooling.forward(np.full((1, 50, 3), 0.3), kind="statistics")
    assert np.isfinite(pooling.backward(np.ones_like(y), saved).x).all()


X, W, B = np.ones((2, 5, 3), np.float32), np.ones((3, 4), np.float32), np.ones(4, np.float32)
GOOD = dict(x=X, w=W, b=B, v=B, kind="attentive")


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (errors.ShapeError, r"x must be \(B, T, C\), got \(5, 3\)", dict(x=X[0])),
        (errors.ShapeError, r"w must be \(3, H\), got \(4, 3\)", dict(w=W.T)),
        (errors.ShapeError, r"v must be \(4,\), got \(3,\)", dict(v=B[:3])),
        (errors.DTypeError, "b must be float32 as x is, got float64", dict(b=B.astype(float))),
        (errors.ConfigError, "kind must be one of 'average', .*, got 'mean'", dict(kind="mean")),
        (errors.ConfigError, "v must be given for kind 'attentive', got None", dict(v=None)),
        (errors.ConfigError, "w must be None for kind 'average', got an array", dict(kind="average")),
        (errors.ShapeError, r"sample_weight must be \(2, 5\), got \(2, 4\)", dict(sample_weight=np.ones((2, 4)))),
        (errors.ShapeError, "sample_weight must be .* not all 0 in an item",
         dict(sample_weight=np.array([[1] * 5, [0] * 5]))),
        (errors.ShapeError, "sample_weight must be finite", dict(sample_weight=np.full((2, 5), np.nan))),
        (errors.ShapeError, "sample_weight must be .* a least of -1",
         dict(sample_weight=np.array([[1, 1, 1, 1, -1]] * 2))),
        (errors.DTypeError, "sample_weight must be an array of numbers, got list", dict(sample_weight=[["1"] * 5] * 2)),
        (errors.ShapeError, r"out must be \(2, 6\), got \(2, 3\)", dict(out=X[:, 0])),
    ],
)
def test_bad_input_of_forward(error, message, change):
    with pytest.raises(error, match="pooling.forward: " + message):
        pooling.forward(**(GOOD | change))


def test_bad_input_of_backward_and_step():
    y, saved = pooling.forward(X)
    with pytest.raises(errors.ShapeError, match=r"pooling.backward: dy must be \(2, 3\), got \(2, 6\)"):
        pooling.backward(np.ones((2, 6), np.float32), saved)
    with pytest.raises(errors.ConfigError, match="pooling.backward: needs 'w', but forward or into has no such array"):
        pooling.backward(y, saved, needs=("w",))
    with pytest.raises(errors.ShapeError, match=r"pooling.step: state.mean must be \(2, 3\), got \(2, 4\)"):
        pooling.step(X, pooling.init_state(2, 4))
    with pytest.raises(errors.ConfigError, match="pooling.init_state: batch must be at least 1, got 0"):
        pooling.init_state(0, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("far", [0, 1e4, 1e6])
def test_the_deviation_of_large_numbers_is_not_lost(far, backend):
    rng = np.random.default_rng(0)
    x = (far + rng.standard_normal((2, 700, 3))).astype(np.float32)
    expected = np.sqrt(x.astype(np.float64).var(axis=1) + pooling.EPSILON)
    y, _ = pooling.forward(x, kind="statistics", backend=backend)
    np.testing.assert_allclose(y[:, 3:], expected, rtol=1e-6)
    state = pooling.init_state(2, 3)
    for t in range(0, 700, 100):
        y = pooling.step(x[:, t : t + 100], state, kind="statistics", backend=backend)
    np.testing.assert_allclose(y[:, 3:], expected, rtol=1e-6)
