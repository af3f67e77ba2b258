"""What counts as an array at every door: lists, tensors, and rows that are masked out and hold NaN."""

import numpy as np
import pytest
from helpers import ops as h

from wavedil import errors
from wavedil.ops import attention, contract, conv1d, conv2d, cross_entropy, loss, pooling, separable, window_pooling

BACKENDS = ("reference", "cpu")
by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_dtype = pytest.mark.parametrize("dtype", h.DTYPES)
SMALL = {f: c for f in h.families("parity") for c in h.cases(f).CASES if c.name in ("short", "one-sample")}


class Tensor:
    """What NumPy sees of another library's array on the CPU."""

    def __init__(self, array):
        self.array, self.dtype = array, "another library's float"

    def __array__(self, dtype=None, copy=None):
        return self.array


@by_dtype
@pytest.mark.parametrize("family", SMALL)
def test_tensors_are_taken_as_numpy_sees_them(family, dtype):
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(SMALL[family], dtype)
    y, saved = op.forward(**arrays, **settings)
    moved = {n: Tensor(a) if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
    again, _ = op.forward(**moved, **settings)
    h.assert_same_bits(again, y)
    dy = h.upstream(y)
    if isinstance(dy, np.ndarray):
        h.assert_same_bits(op.backward(Tensor(dy), saved), op.backward(dy, saved))


@by_dtype
@pytest.mark.parametrize("family", [f for f in SMALL if f != "gated_block"])
def test_lists_take_the_dtype_of_the_arrays_beside_them(family, dtype):
    """Each argument in turn as a list, and then all of them: those have no dtype, so float32."""
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(SMALL[family], dtype)
    y, saved = op.forward(**arrays, **settings)
    given = [n for n, a in arrays.items() if isinstance(a, np.ndarray)]
    floats = [n for n in given if h.is_float(arrays[n]) and n != "sample_weight"]
    for name in given:
        if floats == [name] and dtype == "float64":
            continue  # nothing beside it tells
        again, _ = op.forward(**arrays | {name: arrays[name].tolist()}, **settings)
        h.assert_close(again, y, 1e-6 if name == "sample_weight" else 0, name)  # divided in their own precision
    again, _ = op.forward(**{n: a.tolist() if n in given else a for n, a in arrays.items()}, **settings)
    assert isinstance(y, float) or {a.dtype.name for a in h.parts(again).values()} == {"float32"}
    dy = h.upstream(y)
    if isinstance(dy, np.ndarray):
        h.assert_same_bits(op.backward(dy.tolist(), saved), op.backward(dy, saved))


def test_what_is_no_array_of_numbers_is_refused():
    for value, got in (({"a": 1}, "dict"), ([1.0, "a"], "list"), (None, "NoneType"), ([[1.0], [1.0, 2.0]], "list")):
        with pytest.raises(errors.DTypeError, match=f"here: x must be an array of floats, got {got}"):
            contract.floats("here", "x", value, None)
    with pytest.raises(errors.DTypeError, match="here: codes must be a plain array, got a masked one"):
        contract.integers("here", "codes", np.ma.array([1, 2], mask=[0, 1]), None)
    with pytest.raises(errors.DTypeError, match="here: sample_weight must be a plain array, got a masked one"):
        contract.row_weights("here", np.ma.array([1, 2], mask=[0, 1]), (2,))


# ---- rows of weight 0 ------------------------------------------------------------------------------------------------
@by_dtype
@by_backend
@pytest.mark.parametrize("kind", loss.KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_masked_row_of_numbers_may_hold_anything(kind, bad, backend, dtype):
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((2, 6, 3)).astype(dtype), rng.uniform(0, 1, (2, 6, 3)).astype(dtype)
    weights = np.array([[1, 0, 2, 0, 0, 1], [0, 1, 1, 1, 1, 0]])
    expected, saved = loss.forward(x, targets, weights, kind=kind, backend=backend)
    gradient = loss.backward(0.7, saved, backend=backend).x
    x[weights == 0], targets[weights == 0] = bad, np.nan
    value, saved = loss.forward(x, targets, weights, kind=kind, backend=backend)
    assert value == expected
    dx = loss.backward(0.7, saved, backend=backend).x
    assert np.array_equal(dx, gradient) and not dx[weights == 0].any()


@by_dtype
@by_backend
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_masked_row_of_classes_may_hold_anything(smoothing, backend, dtype):
    arrays, _ = h.cases("cross_entropy").inputs(h.case_named("cross_entropy", "long"), dtype)
    masked = ~arrays["sample_weight"]
    assert masked.any()
    options = dict(label_smoothing=smoothing, backend=backend)
    expected, saved = cross_entropy.forward(**arrays, **options)
    gradients = cross_entropy.backward(0.7, saved, backend=backend)
    arrays["x"][masked] = np.nan
    value, saved = cross_entropy.forward(**arrays, **options)
    assert value == expected
    h.assert_same_bits(cross_entropy.backward(0.7, saved, backend=backend), gradients)


# ---- ignored targets and smoothed labels -----------------------------------------------------------------------------
@by_backend
def test_an_ignored_target_is_a_weight_of_zero(backend):
    arrays, _ = h.cases("cross_entropy").inputs(h.case_named("cross_entropy", "short"), "float64")
    counted = np.arange(15).reshape(3, 5) % 4 != 1
    weights = arrays.pop("sample_weight")
    for given in (None, weights):
        zeroed = counted * (1.0 if given is None else given)
        expected, _ = cross_entropy.forward(**arrays, sample_weight=zeroed, backend=backend)
        marked = arrays | {"targets": np.where(counted, arrays["targets"], -100)}
        got, _ = cross_entropy.forward(**marked, sample_weight=given, ignore_index=-100, backend=backend)
        assert got == pytest.approx(expected, rel=1e-14)


@by_backend
def test_label_smoothing_is_a_mean_of_two_losses(backend):
    """(1 - a) of the loss of the target and a of the mean of the losses of all classes."""
    arrays, _ = h.cases("cross_entropy").inputs(h.case_named("cross_entropy", "short"), "float64")
    each = [
        cross_entropy.forward(**arrays | {"targets": np.full((3, 5), q)}, backend=backend)[0] for q in range(7)
    ]  # fmt: skip
    plain, _ = cross_entropy.forward(**arrays, backend=backend)
    smooth, _ = cross_entropy.forward(**arrays, label_smoothing=0.3, backend=backend)
    assert smooth == pytest.approx(0.7 * plain + 0.3 * np.mean(each), rel=1e-13)


# ---- padding by copies, strides --------------------------------------------------------------------------------------
@by_backend
@pytest.mark.parametrize(("mode", "numpys"), [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge")])
def test_padding_and_stride_are_those_of_numpy(mode, numpys, backend):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 9, 3)), rng.standard_normal((3, 3, 4)), rng.standard_normal(4)
    padded = np.pad(x, ((0, 0), (3, 5), (0, 0)), mode=numpys)
    expected, _ = conv1d.forward(padded, w, b, dilation=2, padding="valid", backend="reference")
    settings = dict(dilation=2, padding=(3, 5), padding_mode=mode, stride=3, backend=backend)
    y, _ = conv1d.forward(x, w, b, **settings)
    np.testing.assert_allclose(y, expected[:, ::3], rtol=1e-12)
    out = np.empty_like(y)
    assert conv1d.forward(x, w, b, **settings, out=out)[0] is out and np.array_equal(out, y)
    image, wide = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((2, 3, 3, 4))
    padded = np.pad(image, ((0, 0), (1, 2), (3, 4), (0, 0)), mode=numpys)
    expected, _ = conv2d.forward(padded, wide, padding="valid", backend="reference")
    settings = dict(padding=((1, 2), (3, 4)), padding_mode=mode, stride=(2, 3), backend=backend)
    np.testing.assert_allclose(conv2d.forward(image, wide, **settings)[0], expected[:, ::2, ::3], rtol=1e-12)


# ---- states ----------------------------------------------------------------------------------------------------------
X, W, D = (np.ones(shape, np.float32) for shape in ((2, 3, 6), (2, 6, 4), (2, 1, 6)))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("conv1d", lambda x: conv1d.step(x, conv1d.init_state(2, W), W)),
        ("separable", lambda x: separable.step(x, separable.init_state(2, D), D, W[0])),
        ("attention", lambda x: attention.step(x, attention.init_state(2, 6, window=3), heads=1, window=3)),
        ("window_pooling", lambda x: window_pooling.step(x, window_pooling.init_state(2, 6, 3), kind="max", window=3)),
        ("pooling", lambda x: pooling.step(x, pooling.init_state(2, 6))),
    ],
)
def test_a_wrong_number_of_streams_is_the_inputs_fault(name, call):
    call(X)
    with pytest.raises(errors.ShapeError, match=rf"{name}.step: x must have 2 streams, as the state has, got \(3, 3"):
        call(np.ones((3, 3, 6), np.float32))


@pytest.mark.parametrize("dtype", ["foo", "int32", "float16"])
def test_a_state_is_of_a_dtype_that_kernels_compute_in(dtype):
    for op, make in (
        ("attention", lambda: attention.init_state(1, 6, window=2, dtype=dtype)),
        ("window_pooling", lambda: window_pooling.init_state(1, 6, 2, dtype=dtype)),
    ):
        with pytest.raises(errors.ConfigError, match=f"{op}.init_state: dtype must be float32 or float64, got "):
            make()


def test_a_state_too_large_for_the_memory_says_so():
    with pytest.raises(errors.ConfigError, match="conv1d.init_state: dilation must be at most 2147483647"):
        conv1d.init_state(1, W, dilation=2**31)
    with pytest.raises(errors.OutOfMemoryError, match="an array of float32 of shape .* does not fit"):
        conv1d.init_state(2**31 - 1, W, dilation=2**31 - 1)
