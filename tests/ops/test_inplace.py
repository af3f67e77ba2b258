"""Small steps between ops: each writes where it says, and nowhere else."""

import numpy as np
import pytest
from helpers import ops as h

from wavedil.ops import activation, embedding, inplace

RNG = np.random.default_rng(5)


def some(*shape, dtype="float64"):
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", h.DTYPES)
def test_relu_and_its_backward_are_those_of_the_op(dtype):
    x, dy = some(2, 5, 3, dtype=dtype), some(2, 5, 3, dtype=dtype)
    y, saved = activation.forward(x, kind="relu")
    expected = activation.backward(dy, saved).x
    inplace.relu(x)
    inplace.relu_backward(dy, x)
    assert (x == y).all() and (dy == expected).all()


def test_affine_with_and_without_a_center():
    x, center, scale = some(4, 3), some(3), some(3)
    out = np.empty_like(x)
    inplace.affine(out, x, center, scale)
    assert (out == (x - center) * scale).all()
    inplace.affine(out, x, None, scale)
    assert (out == x * scale).all()


@pytest.mark.parametrize("time", [0, 4])
def test_rows_are_added_where_their_codes_stand_also_twice(time):
    codes, table = np.array([2, 0, 2]), np.ones((4, 3))
    rows = some(3, time, 3) if time else some(3, 3)
    sums = rows.sum(axis=1) if time else rows
    _, saved = embedding.forward(codes, table)
    expected = 1 + embedding.backward(sums, saved).table
    inplace.add_rows(table, codes, rows)
    np.testing.assert_allclose(table, expected, rtol=1e-14)


def test_pull_goes_a_part_of_the_way():
    values, start = some(7), some(7)
    expected = values - 0.25 * (values - start)
    inplace.pull(values, start, 0.25)
    assert (values == expected).all()


def test_a_low_rank_product_and_its_gradients():
    base, a, b, dw = some(6, 4), some(6, 2), some(2, 4), some(6, 4)
    w, da, db = np.empty((6, 4)), np.ones((6, 2)), np.ones((2, 4))
    inplace.add_low_rank(w, base, a, b, 0.5)
    np.testing.assert_allclose(w, base + 0.5 * a @ b, rtol=1e-13)
    inplace.low_rank_backward(da, db, dw, a, b, 0.5)
    np.testing.assert_allclose(da, 1 + 0.5 * dw @ b.T, rtol=1e-13)
    np.testing.assert_allclose(db, 1 + 0.5 * a.T @ dw, rtol=1e-13)
    inplace.low_rank_backward(None, db, dw, a, b, 0.5)
    np.testing.assert_allclose(db, 1 + a.T @ dw, rtol=1e-13)
