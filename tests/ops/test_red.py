"""A check counts after it has been seen to fail: the suite's own checks must notice a wrong backward."""

import importlib

import numpy as np
import pytest
from helpers import ops as h


def flip_sign(array):
    array *= -1


def flip_one(array):
    """Only the last element, the one that a remainder loop would miss."""
    array.reshape(-1)[np.flatnonzero(array)[-1]] *= -1


def shift_time(array):
    """Off by one row."""
    array[...] = np.roll(array, 1, axis=0 if array.ndim < 3 or array.shape[1] == 1 else 1)


TARGETS = [(f, b, name) for f in h.families("gradients") for b in h.backends(f) for name in h.module(f).Grads._fields]


def case_with(family, name):
    """A case in which this gradient exists and is of more than one value."""
    for case in h.cases(family).CASES:
        gradient = getattr(h.expected(family, case, "float64")[3], name)
        if gradient is not None and gradient.shape[0] > 1 and gradient.size > 8:
            return case
    raise LookupError(f"{family} has no case with a gradient of {name}")


@pytest.mark.parametrize("damage", [flip_sign, flip_one, shift_time])
@pytest.mark.parametrize(("family", "backend", "name"), TARGETS)
def test_a_wrong_backward_is_noticed(family, backend, name, damage, monkeypatch):
    case = case_with(family, name)
    kernels = importlib.import_module(f"wavedil.ops.{family}.{backend}")
    right = kernels.backward
    h.check_parity(family, backend, case, "float64")
    h.check_gradients(family, backend, case)

    def wrong(grads, *args, **options):
        right(grads, *args, **options)
        damage(getattr(grads, name))

    monkeypatch.setattr(kernels, "backward", wrong)
    if backend != "reference":  # it is what parity compares with
        with pytest.raises(AssertionError, match=f"{name} is off by"):
            h.check_parity(family, backend, case, "float32")
    with pytest.raises(AssertionError, match=f"d{name} along a direction"):
        h.check_gradients(family, backend, case)


@pytest.mark.parametrize(("family", "backend"), [(f, b) for f in h.families("steps") for b in h.backends(f)])
def test_a_stream_that_forgets_is_noticed(family, backend, monkeypatch):
    case = next(c for c in h.cases(family).CASES if c.name == "wavenet-32")
    kernels = importlib.import_module(f"wavedil.ops.{family}.{backend}")
    right = kernels.step

    def forgetful(y, state, *args, **options):
        right(y, state, *args, **options)
        state.history[:, 0] = 0

    monkeypatch.setattr(kernels, "step", forgetful)
    steps = h.run_steps(family, case, "float64", [100, 103], [backend])
    with pytest.raises(AssertionError, match="is off by"):
        h.assert_close(steps, h.expected(family, case, "float64")[0], 1e-6)


def test_comparison_sees_nan_shape_and_names():
    good = np.ones((2, 3))
    h.assert_close(good, good, 0)
    for bad in (np.full((2, 3), np.nan), good + 1e-4, np.full((2, 3), np.inf)):
        with pytest.raises(AssertionError, match="is off by"):
            h.assert_close(bad, good, 1e-5)
    with pytest.raises(AssertionError, match="is off by"):
        h.assert_close(good, 0 * good, 1e-5)
    with pytest.raises(AssertionError, match="shape"):
        h.assert_close(good[:1], good, 1e-5)
