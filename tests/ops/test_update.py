"""Update: the CPU kernels against the reference and against a hand calculation, threads, zeros, and the door."""

import numpy as np
import pytest

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import update
from wavedil.ops.update import cases, cpu
from wavedil.parameters.store import Parameters

DTYPES = ("float32", "float64")


def run(case, arrays, gradients, **options):
    """Take all steps of a case; `arrays` change in place."""
    for step, g in enumerate(gradients, 1):
        counted = {} if case.sizes["update"] == "sgd" else {"step": step}
        getattr(update, case.sizes["update"])(grads=g, **arrays, **counted, **case.sizes["settings"], **options)


def distance(a, b):
    return np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_equals_the_reference(case, dtype):
    arrays, gradients = cases.inputs(case, dtype)
    wide = {name: a.astype(np.float64) for name, a in arrays.items()}
    start = {name: a.copy() for name, a in wide.items()}
    kept = [g.copy() for g in gradients]
    run(case, arrays, gradients, backend="cpu")
    run(case, wide, [g.astype(np.float64) for g in gradients], backend="reference")
    for name, array in arrays.items():
        assert array.dtype == dtype
        assert distance(array, wide[name]) < case.tolerance[dtype], name
        # The change is what matters, above the rounding that weights of this size have anyway.
        change = wide[name] - start[name]
        rounding = 8 * np.finfo(dtype).eps * np.abs(wide[name]).max()
        assert np.abs(array - start[name] - change).max() < case.tolerance[dtype] * np.abs(change).max() + rounding
        assert not np.array_equal(array, start[name])
    assert all(np.array_equal(a, b) for a, b in zip(gradients, kept, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_threads_change_no_bit(case, dtype):
    one, gradients = cases.inputs(case, dtype)
    two = {name: a.copy() for name, a in one.items()}
    run(case, one, gradients, threads=1)
    run(case, two, gradients, threads=3)
    for name in one:
        assert np.array_equal(one[name], two[name])
    for g in gradients:
        assert update.global_norm(g, threads=1) == update.global_norm(g, threads=3)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_two_steps_by_hand(backend):
    w, g, v = np.array([1.0]), np.array([0.5]), np.zeros(1)
    update.sgd(w, g, v, lr=0.1, momentum=0.9, backend=backend)
    update.sgd(w, g, v, lr=0.1, momentum=0.9, backend=backend)
    assert w[0] == pytest.approx(1 - 0.05 - 0.1 * (0.45 + 0.5), rel=1e-14)

    # The first step of Adam is lr * sign(g), whatever the gradient's size.
    for size in (1e-3, 1e3):
        w, first, second, average = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.array([1.0, 2.0])
        g = np.array([size, -size])
        update.adam(w, g, first, second, average, step=1, lr=0.1, decay=0.75, eps=1e-12, backend=backend)
        assert w == pytest.approx([0.9, 2.1], rel=1e-8)
        assert average == pytest.approx([0.975, 2.025], rel=1e-8)
        assert first == pytest.approx(0.1 * g) and second == pytest.approx(0.001 * g**2)

    w, first, second = np.array([1.0]), np.zeros(1), np.zeros(1)
    update.adamw(w, np.zeros(1), first, second, step=1, lr=0.1, weight_decay=0.5, backend=backend)
    assert w[0] == pytest.approx(0.95, rel=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_two_steps_of_nesterovs_momentum_by_hand(backend):
    w, g, v = np.array([1.0]), np.array([0.5]), np.zeros(1)
    for _ in range(2):
        update.sgd(w, g, v, lr=0.1, momentum=0.9, nesterov=True, backend=backend)
    assert v[0] == pytest.approx(0.95, rel=1e-14)
    assert w[0] == pytest.approx(1 - 0.1 * (0.5 + 0.9 * 0.5) - 0.1 * (0.5 + 0.9 * 0.95), rel=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_mean_square_of_amsgrad_never_falls(backend):
    """A large gradient, then small ones: plain Adam forgets the large one, AMSGrad divides by it for ever."""
    w, first, second, largest = np.array([1.0]), np.zeros(1), np.zeros(1), np.zeros(1)
    settings = {"lr": 0.1, "betas": (0.0, 0.5), "eps": 1e-12, "backend": backend}
    for step, g in enumerate((8.0, 1.0, 1.0), 1):
        update.adam(w, np.array([g]), first, second, largest=largest, step=step, **settings)
    assert second[0] == pytest.approx(8.75) and largest[0] == pytest.approx(32)
    steps = [8 / np.sqrt(32 / 0.5), 1 / np.sqrt(32 / 0.75), 1 / np.sqrt(32 / 0.875)]
    assert w[0] == pytest.approx(1 - 0.1 * sum(steps), rel=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_scale_is_a_factor_on_the_gradients(backend):
    rng = np.random.default_rng(0)
    g = rng.normal(size=50)
    states = []
    for grads, scale in ((g, 0.25), (0.25 * g, 1.0)):
        w, first, second = np.ones(50), np.zeros(50), np.zeros(50)
        update.adam(w, grads, first, second, step=1, lr=0.1, eps=0.1, scale=scale, backend=backend)
        states.append(np.concatenate([w, first, second]))
        w = np.ones(50)
        update.sgd(w, grads, lr=0.1, scale=scale, backend=backend)
        states[-1] = np.concatenate([states[-1], w])
    assert np.array_equal(*states)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000, cpu.CHUNK, 2 * cpu.CHUNK + 3])
def test_norm(size, dtype):
    x = np.random.default_rng(size).normal(size=size).astype(dtype)
    exact = np.linalg.norm(x.astype(np.float64))
    assert update.global_norm(x) == pytest.approx(exact, rel=1e-13)
    assert update.global_norm(x, backend="reference") == pytest.approx(exact, rel=1e-13)


def test_norm_of_float32_neither_overflows_nor_hides_what_is_not_finite():
    x = np.full(100, 3e38, np.float32)
    assert update.global_norm(x) == pytest.approx(3e39)
    for bad in (np.nan, np.inf, -np.inf):
        x = np.zeros(1001, np.float32)
        x[1000] = bad
        assert not np.isfinite(update.global_norm(x))


def test_clipping():
    assert update.clip_scale(5.0, 1.0) == 0.2
    assert update.clip_scale(0.5, 1.0) == 1.0 == update.clip_scale(5.0, None) == update.clip_scale(0.0, 1.0)
    for clip in (0, -1.0, np.nan, "1"):
        with pytest.raises(ConfigError, match="update.clip_scale: clip must be a number above 0, got "):
            update.clip_scale(5.0, clip)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_padding_of_parameters_stays_zero(name, dtype):
    p = Parameters({"a": (3, 5), "b": (1,)}, dtype)
    g, average = p.copy(), p.copy()
    for array in (*p.values(), *g.values()):
        array[...] = 1
    moments = [p.like().flat for _ in range(1 if name == "sgd" else 2)]
    for step in range(1, 6):
        counted = {"momentum": 0.9} if name == "sgd" else {"step": step}
        getattr(update, name)(p.flat, g.flat, *moments, average.flat, lr=0.1, decay=0.9, **counted)
    padding = ~p.element_mask()
    for flat in (p.flat, average.flat, *moments):
        assert padding.any() and not flat[padding].any() and flat[~padding].all()


def test_what_is_not_finite_reaches_the_weights():
    g = np.array([1, np.nan, np.inf], np.float32)
    w, first, second = np.ones(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    update.adam(w, g, first, second, step=1, lr=0.1)
    assert np.isfinite(w[0]) and not np.isfinite(w[1:]).any()
    w, first, second, largest = np.ones(3, np.float32), *(np.zeros(3, np.float32) for _ in range(3))
    update.adam(w, g, first, second, largest=largest, step=1, lr=0.1)
    assert np.isnan(largest[1]) and not np.isfinite(w[1:]).any()


def arguments(**change):
    arrays = {name: np.zeros(8, np.float32) for name in ("weights", "grads", "first", "second")}
    return arrays | {"step": 1, "lr": 0.1} | change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"grads": np.zeros(8)}, DTypeError, "grads must be float32"),
        ({"weights": np.zeros(8, np.int32)}, DTypeError, "weights must be an array of floats"),
        ({"weights": [1.0]}, DTypeError, "weights"),
        ({"first": np.zeros(9, np.float32)}, ShapeError, r"first must be \(8,\), got \(9,\)"),
        ({"second": None}, ShapeError, "second must be an array"),
        ({"largest": np.zeros(9, np.float32)}, ShapeError, r"largest must be \(8,\), got \(9,\)"),
        ({"grads": np.zeros(16, np.float32)[::2]}, ShapeError, "grads must be contiguous"),
        ({"average": np.zeros(16, np.float32)[::2]}, ShapeError, "average must be C-contiguous"),
        ({"step": 0}, ConfigError, "step must be at least 1, got 0"),
        ({"step": 1.0}, ConfigError, "step must be an integer"),
        ({"lr": -0.1}, ConfigError, r"lr must be in \[0, inf\), got -0.1"),
        ({"lr": float("nan")}, ConfigError, "lr"),
        ({"lr": "fast"}, ConfigError, "lr"),
        ({"betas": (0.9, 1.0)}, ConfigError, r"betas must be in \[0, 1\), got 1.0"),
        ({"betas": 0.9}, ConfigError, "betas must be two numbers"),
        ({"eps": 0}, ConfigError, "eps must be positive"),
        ({"eps": 1e-60}, ConfigError, "eps must be positive in float32"),
        ({"weight_decay": -1}, ConfigError, "weight_decay"),
        ({"scale": float("inf")}, ConfigError, "scale"),
        ({"decay": 1}, ConfigError, "decay"),
        ({"threads": 0}, ConfigError, "threads must be"),
        ({"backend": "fast"}, ConfigError, "backend must be one of"),
    ],
)
def test_the_door(change, error, words):
    with pytest.raises(error, match=f"(update.adamw: .*)?{words}"):
        update.adamw(**arguments(**change))


def test_read_only_weights_and_missing_velocity_are_refused():
    weights = np.zeros(3)
    weights.flags.writeable = False
    with pytest.raises(ShapeError, match="weights must be C-contiguous and writeable"):
        update.sgd(weights, np.zeros(3), lr=0.1)
    with pytest.raises(ConfigError, match="momentum 0.9 needs velocity"):
        update.sgd(np.zeros(3), np.zeros(3), lr=0.1, momentum=0.9)
