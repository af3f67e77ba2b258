"""Pooling over windows: its definition, streams, NaN, and bad input. The generic suites do the rest."""

import numpy as np
import pytest
from helpers import ops as h
from hypothesis import given
from hypothesis import strategies as st

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import window_pooling as op

by_backend = pytest.mark.parametrize("backend", ["cpu", "reference"])
by_kind = pytest.mark.parametrize("kind", op.KINDS)


def rows(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@by_backend
@by_kind
def test_windows_side_by_side_are_a_reshape(kind, backend):
    x = rows(2, 12, 3)
    y, _ = op.forward(x, kind=kind, window=4, backend=backend)
    blocks = x.reshape(2, 3, 4, 3)
    np.testing.assert_allclose(y, blocks.max(axis=2) if kind == "max" else blocks.mean(axis=2), rtol=1e-5)
    image = rows(2, 6, 8, 3)
    y, _ = op.forward(image, kind=kind, window=(3, 2), backend=backend)
    blocks = image.reshape(2, 2, 3, 4, 2, 3)
    wanted = blocks.max(axis=(2, 4)) if kind == "max" else blocks.mean(axis=(2, 4))
    np.testing.assert_allclose(y, wanted, rtol=1e-5)


@by_backend
def test_padding_never_counts(backend):
    x = np.full((1, 4, 1), -2.0)
    for kind in op.KINDS:
        for padding in ("same", "causal", (2, 1)):
            y, _ = op.forward(x, kind=kind, window=3, stride=1, padding=padding, backend=backend)
            assert (y == -2).all()
    assert op.forward(x, kind="max", window=3, stride=1, padding="same", backend=backend)[0].shape == (1, 4, 1)


@by_backend
@by_kind
def test_causal_windows_know_nothing_of_what_comes(kind, backend):
    x = rows(1, 40, 3)
    y, _ = op.forward(x, kind=kind, window=5, stride=2, padding="causal", backend=backend)
    x[:, 21:] += 1
    other, _ = op.forward(x, kind=kind, window=5, stride=2, padding="causal", backend=backend)
    assert np.array_equal(y[:, :11], other[:, :11]) and not np.array_equal(y[:, 11:], other[:, 11:])


@by_backend
def test_the_gradient_goes_to_the_first_of_equals(backend):
    x = np.array([2.0, 5.0, 5.0, 1.0]).reshape(1, 4, 1)
    _, saved = op.forward(x, kind="max", backend=backend)
    assert np.array_equal(op.backward(np.ones((1, 1)), saved, backend=backend).x.ravel(), [0, 1, 0, 0])


@by_backend
def test_nan_shows(backend):
    x = rows(1, 6, 2)
    x[0, 3, 0] = x[0, 4, 0] = np.nan
    for kind in op.KINDS:
        y, saved = op.forward(x, kind=kind, window=3, backend=backend)
        assert np.array_equal(np.isnan(y[0]), [[False, False], [True, False]])
    assert saved.places[0, 1, 0, 0] == 3
    x[0, 1, 1] = -np.inf
    assert op.forward(x, kind="average", window=3, backend=backend)[0][0, 0, 1] == -np.inf


@by_backend
@by_kind
@given(data=st.data())
def test_a_stream_in_any_split_equals_causal_windows(kind, backend, data):
    window, stride = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    x = rows(2, sum(sizes), 3, seed=sum(sizes))
    wanted, _ = op.forward(x, kind=kind, window=window, stride=stride, padding="causal", backend=backend)
    state, parts, t = op.init_state(2, 3, window), [], 0
    for n in sizes:
        parts.append(op.step(x[:, t : t + n], state, kind=kind, window=window, stride=stride, backend=backend))
        t += n
    got = np.concatenate(parts, axis=1)
    assert got.shape == wanted.shape and h.relative_error(got, wanted) < 1e-6
    if kind == "max":
        assert np.array_equal(got, wanted)


@by_kind
def test_threads_change_no_bit(kind):
    x = rows(3, 2000, 5)
    y, saved = op.forward(x, kind=kind, window=7, stride=3, padding="same", threads=1)
    many, _ = op.forward(x, kind=kind, window=7, stride=3, padding="same", threads=3)
    assert y.tobytes() == many.tobytes()
    one, three = (op.backward(y, saved, threads=n).x for n in (1, 3))
    assert one.tobytes() == three.tobytes()


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "median"}, ConfigError, "kind must be one of 'average', 'max', got 'median'"),
        ({"window": 0}, ConfigError, "window must be at least 1, got 0"),
        ({"window": (2, 2)}, ConfigError, "window must be an integer, got \\(2, 2\\)"),
        ({"stride": 0}, ConfigError, "stride must be at least 1"),
        ({"padding": "full"}, ConfigError, "padding must be 'causal', 'same', 'valid' or .* got 'full'"),
        ({"padding": 1}, ConfigError, "padding must be .* or \\(before, after\\), got 1"),
        ({"padding": (1, 2, 3)}, ConfigError, "padding must be .* or \\(before, after\\), got \\(1, 2, 3\\)"),
        ({"padding": (-1, 0)}, ConfigError, "padding must be at least 0, got -1"),
        ({"padding": (0, 3)}, ConfigError, "padding must be below the window of 3, got \\(0, 3\\)"),
        ({"window": 9}, ShapeError, "x must have at least \\(9,\\) rows and columns for these windows, got \\(8,\\)"),
        ({"window": None, "stride": 2}, ConfigError, "stride and padding must be left out without a window"),
        ({"x": rows(8, 2)}, ShapeError, "x must be"),
        ({"x": np.ones((1, 8, 2), int)}, DTypeError, "x must be"),
    ],
)
def test_bad_arguments(change, error, message):
    good = {"x": rows(1, 8, 2), "kind": "max", "window": 3}
    op.forward(**good)
    with pytest.raises(error, match="window_pooling.forward: " + message):
        op.forward(**good | change)


def test_bad_images_and_states():
    image = rows(1, 4, 5, 2)
    with pytest.raises(ConfigError, match="window must be one whole number or two, got \\(1, 2, 3\\)"):
        op.forward(image, kind="max", window=(1, 2, 3))
    with pytest.raises(ConfigError, match="above, below"):
        op.forward(image, kind="max", window=2, padding=(1, 0))
    with pytest.raises(ShapeError, match="at least \\(2, 6\\) rows and columns for these windows, got \\(4, 5\\)"):
        op.forward(image, kind="max", window=(2, 6))
    state = op.init_state(1, 2, 3)
    with pytest.raises(ShapeError, match="state.history must be"):
        op.step(rows(1, 4, 2), state, kind="max", window=4)
    with pytest.raises(ShapeError, match="dy must be"):
        op.backward(rows(1, 3, 2), op.forward(rows(1, 8, 2), kind="max", window=4)[1])
