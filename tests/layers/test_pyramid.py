"""The pyramid: against its definition, gradients, causality, streams, and bad input."""

import doctest

import numpy as np
import pytest
from helpers import ops as h
from hypothesis import given
from hypothesis import strategies as st

from wavedil import errors
from wavedil.layers import pyramid
from wavedil.ops import conv1d, conv2d

# rates, kernel, x, padding
CASES = {
    "sequence": ((1, 3, 9), 3, (2, 23, 5), "same"),
    "causal sequence": ((1, 4), 2, (2, 23, 5), "causal"),
    "image": ((1, (2, 3)), 3, (2, 6, 7, 5), "same"),
    "causal image": ((2,), 3, (2, 9, 4, 5), "causal"),
}
CAUSAL = [name for name in CASES if name.startswith("causal")]


def build(name, dtype="float64"):
    rates, kernel, size, padding = CASES[name]
    params = pyramid.parameters(5, 4, 6, rates=rates, kernel_size=kernel, axes=len(size) - 2, seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    for key, array in params.items():
        if key.endswith("bias"):
            array[...] = rng.standard_normal(array.shape)
    return rng.standard_normal(size).astype(dtype), params, {"rates": rates, "padding": padding}


def expected(x, params, rates, padding, activation):
    """The definition, position by position."""
    conv = conv1d if x.ndim == 3 else conv2d
    places, features = x.shape[1:-1], []
    features.append(x @ params["pointwise.weight"] + params["pointwise.bias"])
    for i, rate in enumerate(rates):
        weights = params[f"rates.{i}.weight"], params[f"rates.{i}.bias"]
        features.append(conv.forward(x, *weights, dilation=rate, padding=padding, backend="reference")[0])
    mean = np.empty_like(x)
    for t in range(places[0]):
        seen = x[:, : t + 1] if padding == "causal" else x
        mean[:, t] = seen.mean(tuple(range(1, x.ndim - 1)), keepdims=True)[:, 0]
    features.append(mean @ params["pool.weight"] + params["pool.bias"])
    f = np.concatenate(features, axis=-1)
    return (np.maximum(f, 0) if activation else f) @ params["project.weight"] + params["project.bias"]


@pytest.mark.parametrize("activation", pyramid.ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_it_says(name, activation):
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        x, params, settings = build(name, dtype)
        y, _ = pyramid.forward(x, params, **settings, activation=activation, threads=1)
        assert y.dtype == dtype
        wide = {key: array.astype("float64") for key, array in params.items()}
        h.assert_close(y, expected(x.astype("float64"), wide, **settings, activation=activation), tolerance, name)


@pytest.mark.parametrize("activation", pyramid.ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, activation):
    x, params, settings = build(name)
    y, saved = pyramid.forward(x, params, **settings, activation=activation)
    rng = np.random.default_rng(3)
    dy = rng.standard_normal(y.shape)
    dx, grads = pyramid.backward(dy, saved)
    assert set(grads) == set(params)
    distance = 1e-3 if activation is None else 1e-6  # the steps must not lead over a kink
    for key, gradient in {"x": dx, **grads}.items():
        direction = rng.standard_normal(gradient.shape)

        def loss(step, key=key, direction=direction):
            moved = {k: a + step * direction if k == key else a for k, a in params.items()}
            moved_x = x + step * direction if key == "x" else x
            return float((pyramid.forward(moved_x, moved, **settings, activation=activation)[0] * dy).sum())

        slope = (loss(distance) - loss(-distance)) / (2 * distance)
        assert abs(slope - float((gradient * direction).sum())) <= 1e-6 * np.linalg.norm(gradient), key


def test_gradients_are_added_to_what_is_given():
    x, params, settings = build("causal sequence")
    y, saved = pyramid.forward(x, params, **settings)
    dx, grads = pyramid.backward(y, saved)
    into = params.like()
    for array in into.values():
        array.fill(2)
    dx_again, same = pyramid.backward(y, saved, into=into)
    assert same is into
    h.assert_same_bits(dx_again, dx)
    for key, array in grads.items():
        h.assert_close(into[key], array + 2, 1e-14, key)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_changes_no_bit_of_the_past(name):
    x, params, settings = build(name, "float32")
    y, _ = pyramid.forward(x, params, **settings)
    for t in (0, 1, 5, 8):
        changed = x.copy()
        changed[:, t:] = np.nan
        with np.errstate(invalid="ignore"):
            y_changed, _ = pyramid.forward(changed, params, **settings)
        assert y_changed[:, :t].tobytes() == y[:, :t].tobytes()
        assert np.isnan(y_changed[:, t:]).all()


@pytest.mark.parametrize("name", CAUSAL)
@given(data=st.data())
def test_a_stream_in_any_split_equals_forward(name, data):
    x, params, settings = build(name)
    rates, time = settings["rates"], x.shape[1]
    cuts = data.draw(st.lists(st.integers(1, time - 1), max_size=6, unique=True).map(sorted))
    y, _ = pyramid.forward(x, params, **settings)
    width = x.shape[2] if x.ndim == 4 else None
    state = pyramid.init_state(2, params, rates=rates, width=width)
    pieces = [pyramid.step(piece, state, params, rates=rates) for piece in np.split(x, cuts, axis=1)]
    h.assert_close(np.concatenate(pieces, axis=1), y, 1e-13)


def test_examples():
    assert doctest.testmod(pyramid).failed == 0


SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (CONFIG, "rates must be a sequence of dilations, got ()", dict(rates=())),
        (CONFIG, "rates must be at least 1, got 0", dict(rates=(1, 0, 2))),
        (CONFIG, "params must have rates.3.weight, got [", dict(rates=(1, 2, 3, 4))),
        (CONFIG, "activation must be 'relu' or None, got 'tanh'", dict(activation="tanh")),
        (CONFIG, "padding must be 'same' or 'causal', got 'valid'", dict(padding="valid")),
        (SHAPE, "x must be (B, T, 5), got (2, 9, 4)", dict(x=np.ones((2, 9, 4)))),
        (SHAPE, "x must be (B, T, 5), got (2, 9, 4, 5)", dict(x=np.ones((2, 9, 4, 5)))),
        (SHAPE, "params['project.weight'] must be (16, N), got (20, 6)", dict(rates=(1, 2))),
        (DTYPE, "must be float32 as x is, got float64", dict(x=np.ones((2, 9, 5), np.float32))),
    ],
)
def test_bad_input(error, message, change):
    x, params, settings = build("sequence")
    with pytest.raises(error) as caught:
        pyramid.forward(**(dict(x=x, params=params) | settings | change))
    assert str(caught.value).startswith("pyramid.forward: ") and message in str(caught.value)


def test_bad_state_and_gradients():
    x, params, settings = build("causal sequence")
    state = pyramid.init_state(2, params, rates=settings["rates"])
    with pytest.raises(CONFIG, match="pyramid.step: state must be of 1 rates, got 2"):
        pyramid.step(x, state, {k: v for k, v in params.items() if "rates.1" not in k} | {
            "project.weight": np.ones((12, 6))}, rates=(1,))  # fmt: skip
    _, saved = pyramid.forward(x, params, **settings)
    with pytest.raises(SHAPE, match=r"pyramid.backward: dy must be \(2, 23, 6\), got \(2, 23, 5\)"):
        pyramid.backward(x, saved)
    with pytest.raises(CONFIG, match="pyramid.shapes: axes must be 1 or 2, got 3"):
        pyramid.shapes(3, 4, 5, rates=(1,), axes=3)
    images = pyramid.parameters(5, 4, 6, rates=(1,), axes=2)
    with pytest.raises(CONFIG, match="pyramid.init_state: width must be an integer, got None"):
        pyramid.init_state(2, images, rates=(1,))
