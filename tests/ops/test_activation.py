"""Activations and losses: accuracy in the tails, settings, and errors that name three facts."""

import numpy as np
import pytest

from wavedil import errors
from wavedil.ops import activation, loss

SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError
X = np.ones((2, 5, 4), np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [k for k in activation.KINDS if k not in activation.GATED])
def test_accuracy_far_from_zero(kind, dtype):
    """Each value by itself, not against the largest of all; no overflow where the true value is finite."""
    x = np.concatenate([np.linspace(-40, 40, 8001), [-1e4, 1e4, -1e-6, 1e-6]]).astype(dtype)[:, None]
    a = np.full(1, 0.75, dtype) if kind in activation.LEARNED else None
    y, saved = activation.forward(x, a, kind=kind)
    slope = activation.backward(np.ones_like(x), saved, needs=("x",)).x
    wide = x.astype(np.float64), None if a is None else a.astype(np.float64)
    expected, wide_saved = activation.forward(*wide, kind=kind, backend="reference")
    wide_slope = activation.backward(np.ones_like(wide[0]), wide_saved, needs=("x",), backend="reference").x
    tolerance = 2e-6 if dtype == "float32" else 2e-14
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    scale = 1e4 if kind == "snake" else 1  # its angle is rounded
    np.testing.assert_allclose(slope, wide_slope, rtol=tolerance, atol=tolerance * scale)


def test_infinity_and_nan():
    x = np.array([[np.inf, -np.inf, np.nan]])
    for kind, expected in {
        "relu": [np.inf, 0, np.nan],
        "softplus": [np.inf, 0, np.nan],
        "tanh": [1, -1, np.nan],
        "sigmoid": [1, 0, np.nan],
        "elu": [np.inf, -1, np.nan],
    }.items():
        np.testing.assert_array_equal(activation.forward(x, kind=kind)[0], [expected], err_msg=kind)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "kind must be one of relu, .*, got 'mish'", dict(kind="mish")),
        (SHAPE, r"x must be \(..., C\) with at least one row and channel, got \(4,\)", dict(x=X[0, 0])),
        (SHAPE, r"x must be \(..., C\) .*, got \(0, 5, 4\)", dict(x=X[:0])),
        (SHAPE, r"x must have an even number of channels for glu, got \(2, 5, 3\)", dict(x=X[..., :3], kind="glu")),
        (CONFIG, r"a must be \(4,\) array for prelu, got None", dict(kind="prelu")),
        (CONFIG, "a must be None for relu, got an array", dict(a=X[0, 0])),
        (SHAPE, r"a must be \(4,\), got \(3,\)", dict(a=X[0, 0, :3], kind="snake")),
        (DTYPE, "a must be float32 as x is, got float64", dict(a=np.ones(4), kind="snake")),
        (CONFIG, "alpha must be None for relu, got 0.1", dict(alpha=0.1)),
        (CONFIG, "alpha must be a finite number, got nan", dict(alpha=float("nan"), kind="elu")),
        (DTYPE, "x must be an array of floats, got int64", dict(x=np.ones((2, 3), np.int64))),
    ],
)
def test_bad_input_of_activation(error, message, change):
    with pytest.raises(error, match="activation.forward: " + message):
        activation.forward(**(dict(x=X, kind="relu", backend="reference") | change))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "kind must be one of binary, .*, got 'l3'", dict(kind="l3")),
        (SHAPE, r"targets must be \(2, 5, 4\), got \(2, 5\)", dict(targets=X[..., 0])),
        (DTYPE, "targets must be float32 as x is, got float64", dict(targets=X.astype(float))),
        (SHAPE, r"targets must lie in \[0, 1\], got 2.0 to 2.0", dict(kind="binary", targets=2 * X)),
        (SHAPE, r"targets must lie in \[0, 1\], got nan", dict(kind="binary", targets=np.nan * X)),
        (CONFIG, "delta must be None for mse, got 1.0", dict(delta=1.0)),
        (CONFIG, "delta must be a number above 0, got 0", dict(kind="huber", delta=0)),
        (SHAPE, r"sample_weight must be \(2, 5\), got \(2, 5, 4\)", dict(sample_weight=X)),
        (SHAPE, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=0 * X[..., 0])),
    ],
)
def test_bad_input_of_loss(error, message, change):
    with pytest.raises(error, match="loss.forward: " + message):
        loss.forward(**(dict(x=X, targets=X, kind="mse", backend="reference") | change))


def test_bad_upstream_of_loss():
    _, saved = loss.forward(X, X, kind="mse", backend="reference")
    with pytest.raises(DTYPE, match="loss.backward: dy must be a number, got ndarray"):
        loss.backward(X, saved, backend="reference")


def test_masked_rows_count_nothing():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 3, 5, 2))
    mask = np.array([[True, False, True, True, False]] * 3)
    value, saved = loss.forward(x, t, mask, kind="mse")
    assert value == pytest.approx(((x - t)[mask] ** 2).mean())
    assert not loss.backward(1.0, saved).x[~mask].any()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_in_the_tails_do_not_cancel(dtype, backend):
    def slopes(kind, *x):
        x = np.array([x], dtype)
        y, saved = activation.forward(x, kind=kind, backend=backend)
        return activation.backward(np.ones_like(y), saved, backend=backend).x[0]

    tail = np.exp(-20.0)
    small = tail / (1 + tail) ** 2  # s(20) s(-20)
    sech = 4 * np.exp(-40.0) / (1 + np.exp(-40.0)) ** 2
    tolerance = dict(rtol=1e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(slopes("elu", -20, 1), [tail, 1], **tolerance)
    np.testing.assert_allclose(slopes("tanh", 20, -20), [sech, sech], **tolerance)
    np.testing.assert_allclose(slopes("glu", 3, 20), [1 / (1 + tail), 3 * small], **tolerance)
    np.testing.assert_allclose(slopes("glu", 3, -20), [tail / (1 + tail), 3 * small], **tolerance)
    np.testing.assert_allclose(slopes("gated_tanh", 20, 20), [sech / (1 + tail), small], **tolerance)
