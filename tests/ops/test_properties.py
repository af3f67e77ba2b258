"""What holds for any input: causality, streams in any split, the same bits again and for any number of threads."""

import numpy as np
import pytest
from helpers import ops as h
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("future", ["random", "nan"])
@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("causal", only=h.streamed), ids=str)
def test_the_future_changes_no_bit_of_the_past(family, backend, case, future):
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, "float32")
    _, names, _ = h.cases(family).stream(arrays, settings)
    time = arrays["x"].shape[1]
    y, _ = op.forward(**arrays, **settings, backend=backend)
    rng = np.random.default_rng(case.seed)
    for t in {0, 1, time // 2, time - 1, int(rng.integers(time))}:
        if t >= time:
            continue
        changed = {n: arrays[n].copy() for n in names}
        for a in changed.values():
            a[:, t:] = np.nan if future == "nan" else 100 * rng.standard_normal(a[:, t:].shape)
        y_changed, _ = op.forward(**(arrays | changed), **settings, backend=backend)
        for name, a in h.parts(y).items():
            b = h.parts(y_changed)[name]
            assert a[:, :t].tobytes() == b[:, :t].tobytes(), f"{family}.{backend}[{case}] {name} before {t}"
            assert not np.array_equal(a[:, t:], b[:, t:]), "the change was not seen at all"


STREAMS = [
    (f, c.name)
    for f in h.families("steps")
    for c in h.cases(f).CASES
    if h.streamed(f, c) and c.sizes["time"] > 1 and c.sizes["time"] < 300
]


@pytest.mark.parametrize(("family", "name"), STREAMS)
@given(data=st.data())
def test_a_stream_in_any_split_equals_forward(family, name, data):
    case = h.case_named(family, name)
    time = case.sizes["time"]
    cuts = data.draw(st.lists(st.integers(1, time - 1), max_size=8, unique=True).map(sorted), label="cuts")
    sizes = np.diff([0, *cuts, time])
    backends = data.draw(st.permutations(h.backends(family)), label="backends")  # a state goes from one to the other
    steps = h.run_steps(family, case, "float64", sizes, backends)
    h.assert_close(steps, h.expected(family, case, "float64")[0], 1e-12)


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_the_same_bits_again_and_for_any_threads(family, backend, case):
    y, saved, _, grads = h.run(family, case, "float32", backend=backend)
    for threads in (None, 1, 2, 3):
        again = h.run(family, case, "float32", backend=backend, threads=threads)
        h.assert_same_bits(again[0], y, f"{family}.{backend}[{case}] y with {threads} threads")
        h.assert_same_bits(again[1], saved, f"{family}.{backend}[{case}] saved with {threads} threads")
        h.assert_same_bits(again[3], grads, f"{family}.{backend}[{case}] grads with {threads} threads")


@pytest.mark.parametrize(("family", "backend"), [(f, b) for f in h.families("parity") for b in h.backends(f)])
def test_nan_shows(family, backend):
    for case in h.cases(family).CASES:
        for dtype in h.DTYPES:
            arrays, settings = h.cases(family).inputs(case, dtype)
            if "x" not in arrays:
                continue
            counted = arrays.get("sample_weight", np.ones(1)) != 0  # a row that counts nothing may hold NaN
            arrays["x"].reshape(-1, arrays["x"].shape[-1])[np.flatnonzero(counted)[0], 0] = np.nan
            y, _ = h.module(family).forward(**arrays, **settings, backend=backend)
            assert any(np.isnan(a).any() for a in h.parts(y).values()), f"{family}.{backend}[{case}]"


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("parity"), ids=str)
def test_inputs_are_left_alone(family, backend, case):
    """Not written to, by NumPy or by a kernel: they are read-only, and have the same bytes after it."""
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, "float32")
    given = {n: a for n, a in arrays.items() if isinstance(a, np.ndarray)}
    before = {n: lock(a).tobytes() for n, a in given.items()}
    y, saved = op.forward(**arrays, **settings, backend=backend)
    dy = h.upstream(y, case.seed)
    for kind, value in (("saved", saved), *((("dy", dy),) if not isinstance(dy, float) else ())):
        given |= {f"{kind}.{n}": lock(a) for n, a in h.parts(value).items()}
    before |= {n: a.tobytes() for n, a in given.items() if n not in before}
    op.backward(dy, saved, backend=backend)
    for name, array in given.items():
        assert array.tobytes() == before[name], name


def lock(array):
    array.flags.writeable = False
    return array
