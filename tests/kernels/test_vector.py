"""exp, log, tanh and sigmoid of vectors against NumPy in a wider type: the errors that their docstring states."""

import numpy as np
import pytest

from wavedil.kernels.cpu import host, vector

# name -> the function in the wider type, unit and largest error of float32, the same of float64
FUNCTIONS = {
    "exp": (np.exp, "ulp", 1.1, "ulp", 1.0),
    "log": (np.log, "ulp", 0.9, "ulp", 1.0),
    "tanh": (np.tanh, "absolute", 4.2e-7, "ulp", 2.6),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), "absolute", 2.3e-7, "ulp", 2.5),
}
by_name = pytest.mark.parametrize("name", FUNCTIONS)
by_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def call(name, x):
    y = np.empty_like(x)
    getattr(vector, name)(x, y)
    return y


def largest_error(name, x, wider, unit):
    """Over results that are finite and normal numbers; the others are checked here."""
    y = call(name, x)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][0](x.astype(wider))
        rounded = exact.astype(x.dtype)
    finite = np.isfinite(rounded)
    assert np.array_equal(y[~finite], rounded[~finite], equal_nan=True)
    tiny = finite & (np.abs(rounded) < np.finfo(x.dtype).tiny)  # subnormal results
    assert (np.abs(y[tiny] - rounded[tiny]) < np.finfo(x.dtype).tiny).all()
    normal = finite & ~tiny
    errors = np.abs(y[normal].astype(wider) - exact[normal])
    if unit == "ulp":
        errors /= np.spacing(np.abs(rounded[normal])).astype(wider)
    return float(errors.max(initial=0))


@by_name
def test_float32_over_all_exponents_of_either_sign(name):
    """One in 499 of all bit patterns: a prime stride, so that mantissas differ from exponent to exponent."""
    _, unit, limit, _, _ = FUNCTIONS[name]
    worst, seen = 0.0, 0
    for start in range(0, 2**32, 499 * 2**20):
        x = np.arange(start, min(start + 499 * 2**20, 2**32), 499, dtype=np.uint64).astype(np.uint32).view(np.float32)
        worst, seen = max(worst, largest_error(name, x, "float64", unit)), seen + len(x)
    assert seen > 8e6
    # Errors are not far below the limit either: the docstring says what is the case.
    assert 0.5 * limit < worst <= limit


def points(name):
    """Random bits, and the ranges where each function has its difficulties."""
    rng, n = np.random.default_rng(1), 250_000
    ranges = {"exp": (-760, 720), "sigmoid": (-750, 40), "tanh": (0.2, 0.7), "log": (0.6, 1.5)}
    bits = rng.integers(0, 2**64, n, dtype=np.uint64).view(np.float64)
    x = np.concatenate([
        bits[~np.isnan(bits)], rng.standard_normal(n), rng.uniform(-40, 40, n), 1 + 1e-3 * rng.standard_normal(n),
        1e-4 * rng.standard_normal(n), rng.uniform(*ranges[name], n), np.exp(rng.uniform(-740, 700, n)),
    ])  # fmt: skip
    return np.abs(x) if name == "log" else x


@by_name
def test_float64_at_full_precision(name):
    _, _, _, unit, limit = FUNCTIONS[name]
    wide = np.finfo(np.longdouble).nmant > 60  # elsewhere NumPy's own float64 functions are the measure
    worst = largest_error(name, points(name), "longdouble" if wide else "float64", unit)
    assert worst <= limit + (0 if wide else 0.5)
    assert worst > 0.5 * limit


@by_dtype
def test_special_values(dtype):
    inf, nan, smallest = np.inf, np.nan, np.finfo(dtype).smallest_subnormal
    rows = {
        "exp": ([inf, -inf, nan, 0, -0.0, smallest], [inf, 0, nan, 1, 1, 1]),
        "log": ([inf, -inf, nan, 0, -0.0, 1, -1, -smallest], [inf, nan, nan, -inf, -inf, 0, nan, nan]),
        "tanh": ([inf, -inf, nan, 0, -0.0, 60, -60], [1, -1, nan, 0, 0, 1, -1]),
        "sigmoid": ([inf, -inf, nan, 0, -0.0, 800], [1, 0, nan, 0.5, 0.5, 1]),
    }
    for name, (x, y) in rows.items():
        got = call(name, np.array(x, dtype))
        assert np.array_equal(got, np.array(y, dtype), equal_nan=True), f"{name}: {got}"
    assert np.signbit(call("tanh", np.array([-0.0], dtype)))[0]
    patterns = {"float32": [0x7FC00001, 0xFFC12345, 0x7F800001], "float64": [0x7FF8 << 48 | 1, 0xFFF << 52 | 7]}
    payloads = np.array(patterns[dtype], f"u{np.dtype(dtype).itemsize}").view(dtype)
    for name in rows:
        assert np.isnan(call(name, payloads)).all()


@by_dtype
def test_subnormal_numbers(dtype):
    info = np.finfo(dtype)
    x = np.array([1, 3, 1000, 12345], dtype) * info.smallest_subnormal
    exact = np.log(x.astype("longdouble") if dtype == "float64" else x.astype("float64"))
    assert np.abs(call("log", x) / exact.astype(dtype) - 1).max() < 2 * info.eps
    below = np.linspace(np.log(info.smallest_subnormal) + 1, np.log(info.tiny) - 0.1, 50).astype(dtype)
    wide = np.exp(below.astype("longdouble")).astype(dtype)
    assert (call("exp", below) > 0).all() and np.abs(call("exp", below) - wide).max() <= 2 * info.smallest_subnormal
    lowest = np.array([np.log(info.smallest_subnormal) - 1, -1000, info.min], dtype)
    assert not call("exp", lowest).any()
    assert np.array_equal(call("exp", np.array([np.log(info.max) + 1, info.max], dtype)), [np.inf, np.inf])
    for name in ("tanh", "sigmoid"):
        got = call(name, np.concatenate([x, -x]))
        assert np.abs(got - (0.5 if name == "sigmoid" else 0)).max() <= info.eps


@by_dtype
@by_name
def test_saturation_keeps_within_the_limits(name, dtype):
    x = np.concatenate([np.linspace(-1e3, 1e3, 100_001), np.linspace(-20, 20, 100_001)]).astype(dtype)
    y = call(name, np.abs(x) + 1 if name == "log" else x)
    low, high = {"exp": (0, np.inf), "log": (0, 8), "tanh": (-1, 1), "sigmoid": (0, 1)}[name]
    beyond = 2.4e-7 if dtype == "float32" and name in ("tanh", "sigmoid") else 0  # as the docstring says
    assert y.min() >= low - beyond and y.max() <= high + beyond


@by_dtype
@by_name
def test_any_length_and_nothing_past_the_end(name, dtype):
    lanes = host.lanes(dtype)
    rng = np.random.default_rng(2)
    x = rng.uniform(0.1, 3, 4 * lanes + 3).astype(dtype)
    whole = call(name, x)
    for n in range(len(x) + 1):
        y = np.full(len(x) + 1, -7, dtype)
        getattr(vector, name)(x[:n], y[:n])
        assert y[:n].tobytes() == whole[:n].tobytes() and (y[n:] == -7).all(), n


@by_dtype
@by_name
def test_in_place_and_unaligned(name, dtype):
    x = np.random.default_rng(3).uniform(0.1, 3, 53).astype(dtype)
    whole = call(name, x)
    y = x.copy()
    getattr(vector, name)(y, y)
    assert y.tobytes() == whole.tobytes()
    raw = np.zeros((len(x) + 1) * x.itemsize, np.uint8)
    odd = raw[x.itemsize :].view(dtype)
    odd[...] = x
    getattr(vector, name)(odd, odd)
    assert odd.tobytes() == whole.tobytes()


def test_the_measure_sees_a_wrong_bit(monkeypatch):
    right = vector.exp

    def wrong(x, y):
        right(x, y)
        y[len(y) // 2] = np.nextafter(y[len(y) // 2], np.float32(0)) * np.float32(1 - 2e-7)

    x = np.linspace(-3, 3, 1001).astype("float32")
    assert largest_error("exp", x, "float64", "ulp") <= 1.1
    monkeypatch.setattr(vector, "exp", wrong)
    assert largest_error("exp", x, "float64", "ulp") > 1.1
