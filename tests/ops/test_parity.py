"""Every backend against the reference in float64, over all families and cases."""

import numpy as np
import pytest
from helpers import ops as h

from wavedil.errors import ConfigError


@pytest.mark.parametrize("dtype", h.DTYPES)
@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_backend_equals_reference(family, backend, case, dtype):
    h.check_parity(family, backend, case, dtype)


@pytest.mark.parametrize("dtype", h.DTYPES)
@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_outputs_keep_the_dtype(family, backend, case, dtype):
    y, saved, _, grads = h.run(family, case, dtype, backend=backend)
    found = {**h.parts(saved), **h.parts(grads), **({} if isinstance(y, float) else h.parts(y))}
    assert {a.dtype.name for a in found.values() if a.dtype.kind == "f"} == {dtype}


def scattered(array):
    """The same values, in memory with gaps and backwards."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_non_contiguous_inputs(family, backend, case):
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, "float32")
    y, _, dy, grads = h.run(family, case, "float32", backend=backend)
    loose = {n: scattered(a) if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
    y_loose, saved = op.forward(**loose, **settings, backend=backend)
    dy = type(dy)(*map(scattered, dy)) if isinstance(dy, tuple) else dy if isinstance(dy, float) else scattered(dy)
    h.assert_same_bits(y_loose, y)
    h.assert_same_bits(op.backward(dy, saved, backend=backend), grads)


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_into_accumulates(family, backend, case):
    _, saved, dy, grads = h.run(family, case, "float64", backend=backend)
    rng = np.random.default_rng(9)
    start = {n: rng.standard_normal(a.shape) for n, a in h.parts(grads).items()}
    into = type(grads)(**{n: start[n].copy() if n in start else None for n in grads._fields})
    assert h.module(family).backward(dy, saved, into=into, backend=backend) is into
    h.assert_close(
        into, type(grads)(**{n: a if a is None else a + start[n] for n, a in grads._asdict().items()}), 1e-12
    )


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_needs_skips(family, backend, case):
    op = h.module(family)
    _, saved, dy, grads = h.run(family, case, "float64", backend=backend)
    for name, array in h.parts(grads).items():
        only = op.backward(dy, saved, needs=(name,), backend=backend)
        assert list(h.parts(only)) == [name]
        h.assert_close(getattr(only, name), array, 1e-12)
        into = type(grads)(*(None if a is None else np.ones_like(a) for a in grads))
        op.backward(dy, saved, needs=(name,), into=into, backend=backend)
        for other, touched in h.parts(into).items():
            assert np.array_equal(touched, np.ones_like(touched)) == (other != name or not array.any()), other
    nothing = op.backward(dy, saved, needs=(), backend=backend)
    assert not h.parts(nothing)


@pytest.mark.parametrize("dtype", h.DTYPES)
@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_saved_of_one_backend_serves_another(family, backend, case, dtype):
    op, grads = h.module(family), h.expected(family, case, dtype)[3]
    for other in h.backends(family):
        _, saved, dy, _ = h.run(family, case, dtype, backend=other)
        what = f"{family}: forward by {other}, backward by {backend}"
        h.assert_close(op.backward(dy, saved, backend=backend), grads, case.tolerance[dtype], what)


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_out_is_filled(family, backend, case):
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, "float32")
    y, _ = op.forward(**arrays, **settings, backend=backend)
    if isinstance(y, float):
        pytest.skip("a loss is no array")
    out = type(y)(*(np.full_like(a, np.nan) for a in y)) if isinstance(y, tuple) else np.full_like(y, np.nan)
    filled, _ = op.forward(**arrays, **settings, out=out, backend=backend)
    assert filled is out or all(a is b for a, b in zip(filled, out, strict=True))
    h.assert_same_bits(out, y)


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("steps", only=h.streamed), ids=str)
def test_step_equals_forward(family, backend, case):
    time = h.cases(family).inputs(case, "float32")[0]["x"].shape[1]
    for dtype in h.DTYPES:
        steps = h.run_steps(family, case, dtype, [1] * (time // 2) + [time - time // 2], [backend])
        h.assert_close(steps, h.expected(family, case, dtype)[0], case.tolerance[dtype], f"{family}.{backend}[{case}]")


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
@pytest.mark.parametrize("family", h.families("parity"))
def test_reference_takes_any_float(family, dtype):
    case = h.cases(family).CASES[1]
    y, _, _, grads = h.run(family, case, dtype, backend="reference")
    assert isinstance(y, float) or all(a.dtype == dtype for a in h.parts(y).values())
    h.assert_close(grads, h.expected(family, case, dtype)[3], 2e-2 if dtype == "float16" else 1e-12)


@pytest.mark.parametrize("family", h.families("parity"))
def test_no_saved_of_needs_for_absent_inputs(family):
    case = next(
        (
            c
            for c in h.cases(family).CASES
            if len(h.parts(h.run(family, c, "float64", backend="reference")[3])) < len(h.module(family).Grads._fields)
        ),
        None,
    )
    if case is None:
        pytest.skip("all inputs are always there")
    _, saved, dy, grads = h.run(family, case, "float64", backend="reference")
    absent = next(n for n in grads._fields if getattr(grads, n) is None)
    with pytest.raises(ConfigError, match=f"{family}.backward: needs '{absent}'"):
        h.module(family).backward(dy, saved, needs=(absent,), backend="reference")
