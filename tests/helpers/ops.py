"""What the op suites share: which (family, backend, case) there are, how a case is run, what counts as equal.

The checks raise AssertionError, so that `test_ops_red` can see them fail.
"""

import functools
import importlib
import importlib.util

import numpy as np

from wavedil import ops
from wavedil.ops import contract

DTYPES = ("float32", "float64")
FAMILIES = tuple(f for f in ops.FAMILIES if importlib.util.find_spec(f"wavedil.ops.{f}.cases"))


def module(family):
    return importlib.import_module(f"wavedil.ops.{family}")


@functools.cache
def cases(family):
    return importlib.import_module(f"wavedil.ops.{family}.cases")


def families(suite):
    """Families that take part in a generic suite."""
    return [f for f in FAMILIES if suite in getattr(cases(f), "SUITES", ())]


def backends(family):
    """Backends that can run here. Those on a GPU have a suite of their own."""
    return [b for b in contract.backends(family) if b != "cuda"]


def combinations(suite, *, only=lambda family, case: True):
    """(family, backend, case) of a suite."""
    return [(f, b, c) for f in families(suite) for b in backends(f) for c in cases(f).CASES if only(f, c)]


def streamed(family, case):
    """Whether a case is causal, so that it can be fed in pieces."""
    return cases(family).stream(*cases(family).inputs(case, "float64")) is not None


def case_named(family, name):
    return next(c for c in cases(family).CASES if c.name == name)


# ---- values: an array, a float, or a tuple of them -------------------------------------------------------------------
def parts(value):
    """Name -> array of an output, a Saved or a Grads, without what is no array."""
    if isinstance(value, tuple):
        return {n: a for n, a in zip(value._fields, value, strict=True) if isinstance(a, np.ndarray)}
    return {"y": np.asarray(value)}


def upstream(y, seed=0):
    """A random gradient of a loss with respect to an output."""
    rng = np.random.default_rng([seed, 1])
    if isinstance(y, tuple):
        return type(y)(*(rng.standard_normal(a.shape).astype(a.dtype) for a in y))
    return 0.7 if isinstance(y, float) else rng.standard_normal(y.shape).astype(y.dtype)


def inner(a, b):
    """<a, b> of two outputs, in float64."""
    return sum(
        float(np.sum(p.astype("float64") * q)) for p, q in zip(parts(a).values(), parts(b).values(), strict=True)
    )


def is_float(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def to_float64(arrays):
    return {n: a.astype("float64") if is_float(a) else a for n, a in arrays.items()}


def relative_error(got, expected):
    """max|a - b| / max|b|; max|a| where b is all zero; NaN counts as infinite."""
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    scale = np.abs(expected).max()
    error = np.abs(np.subtract(got, expected, dtype="float64")).max() / (scale if scale > 0 else 1.0)
    return error if np.isfinite(error) else np.inf


def assert_close(got, expected, tolerance, what=""):
    """Compare two outputs, Saved or Grads part by part."""
    got, expected = parts(got), parts(expected)
    assert got.keys() == expected.keys(), f"{what}: {list(got)}, expected {list(expected)}"
    for name, array in got.items():
        error = relative_error(array, expected[name])
        assert error <= tolerance, f"{what}: {name} is off by {error:.2e}, allowed {tolerance:.0e}"


def assert_same_bits(got, expected, what=""):
    got, expected = parts(got), parts(expected)
    assert got.keys() == expected.keys()
    for name, array in got.items():
        assert array.dtype == expected[name].dtype and array.tobytes() == expected[name].tobytes(), f"{what}: {name}"


# ---- running a case --------------------------------------------------------------------------------------------------
def run(family, case, dtype, **options):
    """y, saved, dy, grads of a case."""
    arrays, settings = cases(family).inputs(case, dtype)
    y, saved = module(family).forward(**arrays, **settings, **options)
    dy = upstream(y, case.seed)
    return y, saved, dy, module(family).backward(dy, saved, **options)


@functools.cache
def expected(family, case, dtype):
    """The same of the reference in float64, for inputs rounded to ``dtype``."""
    arrays, settings = cases(family).inputs(case, dtype)
    y, saved = module(family).forward(**to_float64(arrays), **settings, backend="reference")
    rounded, _ = module(family).forward(**arrays, **settings, backend="reference")
    dy = upstream(rounded, case.seed)
    dy = (
        type(y)(*(a.astype("float64") for a in dy))
        if isinstance(y, tuple)
        else dy
        if isinstance(dy, float)
        else (dy.astype("float64"))
    )
    return y, saved, dy, module(family).backward(dy, saved, backend="reference")


def check_parity(family, backend, case, dtype):
    """Outputs, saved and gradients of a backend against the reference in float64."""
    y, saved, _, grads = run(family, case, dtype, backend=backend)
    y_expected, saved_expected, _, grads_expected = expected(family, case, dtype)
    tolerance, what = case.tolerance[dtype], f"{family}.{backend}[{case}, {dtype}]"
    assert_close(y, y_expected, tolerance, what)
    assert_close(saved, saved_expected, tolerance, f"{what} saved")
    assert_close(grads, grads_expected, tolerance, f"{what} grads")


def check_gradients(family, backend, case, tolerance=1e-6):
    """Each gradient along a random direction against a central difference of fourth order, in float64.

    The direction is standard normal, so <gradient, direction> is of the size of the gradient's norm, by which the error
    is divided.
    """
    op, (arrays, settings) = module(family), cases(family).inputs(case, "float64")
    y, saved = op.forward(**arrays, **settings, backend=backend)
    dy = upstream(y, case.seed)
    grads = parts(op.backward(dy, saved, backend=backend))
    rng = np.random.default_rng([case.seed, 2])
    for name, gradient in grads.items():
        direction, h = rng.standard_normal(gradient.shape), 1e-4

        def loss(distance, name=name, direction=direction):
            moved = arrays | {name: arrays[name] + distance * direction}
            return inner(op.forward(**moved, **settings, backend=backend)[0], dy)

        slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
        norm = float(np.linalg.norm(gradient))
        error = abs(slope - inner(gradient, direction)) / (norm if norm > 0 else 1.0)
        what = f"{family}.{backend}[{case}] d{name} along a direction"
        assert error <= tolerance, f"{what}: off by {error:.2e} of the gradient's norm, allowed {tolerance:.0e}"


def split(array, sizes):
    """Pieces along time."""
    return np.split(array, np.cumsum(sizes)[:-1], axis=1)


def run_steps(family, case, dtype, sizes, backends):
    """Outputs of a stream fed in pieces of these sizes, by these backends in turn."""
    arrays, settings = cases(family).inputs(case, dtype)
    state, names, rest = cases(family).stream(arrays, settings)
    pieces = {name: split(arrays[name], sizes) for name in names}
    outputs = []
    for i in range(len(sizes)):
        fed = {name: pieces[name][i] for name in names}
        outputs.append(module(family).step(**fed, state=state, **rest, backend=backends[i % len(backends)]))
    if isinstance(outputs[0], tuple):
        return type(outputs[0])(*(np.concatenate(a, axis=1) for a in zip(*outputs, strict=True)))
    return np.concatenate(outputs, axis=1)
