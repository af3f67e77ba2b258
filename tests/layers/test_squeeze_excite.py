"""Squeeze and excitation beside its equation in NumPy, by finite differences, and as a stream."""

import numpy as np
import pytest

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.layers import squeeze_excite


def problem(dtype="float64"):
    params = squeeze_excite.parameters(6, 4, seed=1, dtype=dtype)
    params["squeeze.bias"][:] = np.linspace(0.3, 0.9, 4)  # keeps clear of the kink of the ReLU
    x = np.random.default_rng(2).standard_normal((3, 17, 6)).astype(dtype)
    return x, params


def by_the_book(x, params, causal):
    means = np.stack([x[:, : t + 1 if causal else None].mean(1) for t in range(x.shape[1])], axis=1)
    hidden = np.maximum(means @ params["squeeze.weight"] + params["squeeze.bias"], 0)
    return x / (1 + np.exp(-(hidden @ params["excite.weight"] + params["excite.bias"])))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
def test_it_is_the_equation(causal, dtype, tolerance):
    x, params = problem(dtype)
    y, _ = squeeze_excite.forward(x, params, causal=causal)
    assert y.dtype == dtype and np.abs(y - by_the_book(x, params, causal)).max() < tolerance


@pytest.mark.parametrize("causal", [False, True])
def test_gradients(causal):
    x, params = problem()
    rng = np.random.default_rng(3)
    y, saved = squeeze_excite.forward(x, params, causal=causal)
    dy = rng.standard_normal(y.shape)
    dx, grads = squeeze_excite.backward(dy, saved)
    into = {name: np.ones_like(g) for name, g in grads.items()}
    squeeze_excite.backward(dy, saved, into=into)
    for name, array in [("x", x), *params.items()]:
        gradient = dx if name == "x" else grads[name]
        assert name == "x" or np.array_equal(into[name], 1 + gradient)
        direction, values, eps = rng.standard_normal(array.shape), [], 1e-6
        kept = array.copy()
        for sign in (1, -1):
            array[...] = kept + sign * eps * direction
            values.append((squeeze_excite.forward(x, params, causal=causal)[0] * dy).sum())
        array[...] = kept
        measured = (values[0] - values[1]) / (2 * eps)
        assert abs(measured - (gradient * direction).sum()) < 1e-6 * max(1, abs(measured)), name


@pytest.mark.parametrize("sizes", [[17], [1] * 17, [5, 1, 11]])
def test_a_stream_equals_forward(sizes):
    x, params = problem()
    state = squeeze_excite.init_state(3, 6)
    parts = [squeeze_excite.step(part, state, params) for part in np.split(x, np.cumsum(sizes)[:-1], axis=1)]
    wanted, _ = squeeze_excite.forward(x, params, causal=True)
    assert np.abs(np.concatenate(parts, axis=1) - wanted).max() < 1e-13


def test_bad_input():
    x, params = problem()
    with pytest.raises(ShapeError, match=r"x must be \(B, T, 6\), got \(3, 17, 5\)"):
        squeeze_excite.forward(x[..., :5], params)
    with pytest.raises(DTypeError, match="must be float32 as x is, got float64"):
        squeeze_excite.forward(x.astype("float32"), params)
    with pytest.raises(ConfigError, match="params must have excite.bias"):
        squeeze_excite.forward(x, {n: a for n, a in params.items() if n != "excite.bias"})
    with pytest.raises(ShapeError, match="state.total must be"):
        squeeze_excite.step(x, squeeze_excite.init_state(2, 6), params)
    device = type("Device", (), {"__cuda_array_interface__": {}})()
    with pytest.raises(ConfigError, match="x must be a NumPy array .* got one on a device"):
        squeeze_excite.forward(device, params)
    with pytest.raises(ConfigError, match="hidden must be at least 1, got 0"):
        squeeze_excite.shapes(6, 0)
