"""Attention beside PyTorch's, values that are not finite, and bad input; the generic suites do the rest."""

from pathlib import Path

import numpy as np
import pytest

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import attention

GOLDEN = Path(__file__).parents[1] / "golden" / "attention.npz"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
def test_pytorch_agrees(backend, dtype, tolerance):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        x, dy = golden["x"].astype(dtype), golden["dy"].astype(dtype)
        y, saved = attention.forward(x, heads=int(golden["heads"]), window=int(golden["window"]), backend=backend)
        grads = attention.backward(dy, saved, backend=backend)
        for got, wanted in ((y, golden["y"]), (grads.x, golden["dx"])):
            assert np.abs(got - wanted).max() < tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_shows_where_it_is_seen_and_nowhere_else(backend, bad):
    x = np.random.default_rng(0).standard_normal((1, 40, 6))
    good, _ = attention.forward(x, heads=2, window=8, backend=backend)
    x[0, 20, 4] = bad  # a value of the first head
    y, _ = attention.forward(x, heads=2, window=8, backend=backend)
    seen = np.zeros((40, 2), bool)
    seen[20:28, 0] = True
    assert np.isnan(y[0][seen]).all() and np.array_equal(y[0][~seen], good[0][~seen])


def test_memory_does_not_grow_with_the_scores():
    """Blocks that share a scratch follow each other: more rows than one share has blocks."""
    x = np.random.default_rng(1).standard_normal((1, 2000, 3)).astype("float32")
    y, _ = attention.forward(x, heads=1, window=3, threads=1)
    wanted, _ = attention.forward(x, heads=1, window=3, backend="reference")
    assert np.abs(y - wanted).max() < 1e-5


def test_bad_input():
    x = np.zeros((1, 4, 12))
    with pytest.raises(ShapeError, match=r"x must be \(B, T, 3 C\) with C a multiple of heads = 3, got \(1, 4, 12\)"):
        attention.forward(x, heads=3, window=2)
    with pytest.raises(ConfigError, match="window must be at least 1, got 0"):
        attention.forward(x, heads=2, window=0)
    with pytest.raises(ConfigError, match="heads must be an integer, got 1.5"):
        attention.forward(x, heads=1.5, window=1)
    with pytest.raises(DTypeError, match="x must be an array of floats, got int64"):
        attention.forward(x.astype(int), heads=2, window=2)
    with pytest.raises(ShapeError, match="channels must be a multiple of 3"):
        attention.init_state(1, 4, window=2)
    state = attention.init_state(1, 12, window=5, dtype="float64")
    with pytest.raises(ShapeError, match="state.history must be"):
        attention.step(x, state, heads=2, window=4)
    with pytest.raises(ShapeError, match=r"dy must be \(1, 4, 4\), got \(1, 4, 5\)"):
        attention.backward(np.zeros((1, 4, 5)), attention.forward(x, heads=2, window=2)[1])
