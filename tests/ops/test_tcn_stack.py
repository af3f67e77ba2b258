"""The fused TCN against its reference, in every setting; streams; what it skips."""

import numpy as np
import pytest
from helpers import ops as h

from wavedil import errors
from wavedil.kernels.workspace import Workspace
from wavedil.ops import tcn_stack
from wavedil.ops.tcn_stack import cases

SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError
by_case = pytest.mark.parametrize("case", cases.CASES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", h.DTYPES)


def call(case, dtype, **options):
    arrays, settings = cases.inputs(case, dtype)
    return tcn_stack.loss_and_grads(**arrays, **settings, **options)


def expected(case, dtype):
    """Loss and gradients of the reference in float64, for inputs rounded to a dtype."""
    arrays, settings = cases.inputs(case, dtype)
    wide = {n: h.to_float64(a) if isinstance(a, dict) else a for n, a in h.to_float64(arrays).items()}
    return tcn_stack.loss_and_grads(**wide, **settings, backend="reference")


@by_dtype
@by_case
def test_loss_and_gradients_equal_the_reference(case, dtype):
    loss, grads = call(case, dtype)
    loss_expected, grads_expected = expected(case, dtype)
    assert abs(loss - loss_expected) <= case.tolerance[dtype] * abs(loss_expected)
    assert grads.keys() == grads_expected.keys()
    for name, value in grads.items():
        assert value.dtype == dtype
        error = h.relative_error(value, grads_expected[name])
        assert error <= case.tolerance[dtype], f"{name} is off by {error:.1e}"


@by_case
def test_gradients_are_slopes_of_the_loss(case):
    arrays, settings = cases.inputs(case, "float64")
    _, grads = tcn_stack.loss_and_grads(**arrays, **settings)
    rng, step = np.random.default_rng(case.seed), 1e-6
    for name, gradient in grads.items():
        direction = rng.standard_normal(gradient.shape)

        def loss(distance, name=name, direction=direction):
            moved = arrays["params"] | {name: arrays["params"][name] + distance * direction}
            # With dropout the loss alone would be that of inference.
            return tcn_stack.loss_and_grads(**(arrays | {"params": moved}), **settings).loss

        slope = (loss(step) - loss(-step)) / (2 * step)
        error = abs(slope - (gradient * direction).sum()) / max(np.linalg.norm(gradient), 1e-3)
        assert error <= 1e-6, f"{name} is off by {error:.1e}"


@by_case
def test_the_same_bits_for_any_threads_and_in_a_used_workspace(case):
    loss, grads = call(case, "float32")
    workspace = Workspace()
    for threads in (1, 2, 3, 2):
        again = call(case, "float32", threads=threads, workspace=workspace)
        assert again.loss == loss
        for name, value in grads.items():
            assert value.tobytes() == again.grads[name].tobytes(), name


def test_what_is_left_in_a_workspace_does_not_matter():
    workspace = Workspace()
    for case in (*cases.CASES, *reversed(cases.CASES)):
        arrays, settings = cases.inputs(case, "float32")
        if not case.sizes["classes"]:
            bad = arrays | {"x": np.full_like(arrays["x"], np.nan)}
            assert np.isnan(tcn_stack.loss_and_grads(**bad, **settings, workspace=workspace).loss)
        h.assert_same_bits(
            np.concatenate([g.ravel() for g in call(case, "float32", workspace=workspace).grads.values()]),
            np.concatenate([g.ravel() for g in call(case, "float32").grads.values()]),
        )


@by_case
def test_needs(case):
    _, grads = call(case, "float32")
    for names in ([], ["head.bias"], ["blocks.0.conv.1.weight"], list(grads)[-4:], list(grads)[:1]):
        part = call(case, "float32", needs=names).grads
        assert set(part) == set(names)
        for name in names:
            assert part[name].tobytes() == grads[name].tobytes()


def test_into_accumulates():
    case = cases.CASES[2]
    _, grads = call(case, "float64")
    into = {name: np.ones_like(value) for name, value in grads.items()}
    assert call(case, "float64", into=into).grads is into
    for name, value in grads.items():
        np.testing.assert_allclose(into[name], value + 1, rtol=1e-12, atol=1e-12)


@by_dtype
@by_case
def test_predictions_and_the_loss_alone(case, dtype):
    arrays, settings = cases.inputs(case, dtype)
    options = {"dilations": settings["dilations"], "last": settings["last"]}
    y = tcn_stack.predict(arrays["params"], arrays["x"], **options)
    wide = h.to_float64(arrays["params"]), arrays["x"] if case.sizes["classes"] else arrays["x"].astype("float64")
    y_expected = tcn_stack.predict(*wide, **options, backend="reference")
    assert y.dtype == dtype and h.relative_error(y, y_expected) <= case.tolerance[dtype]
    loss = tcn_stack.loss(**arrays, **settings)
    assert loss == tcn_stack.loss(**arrays, **(settings | {"dropout": None}))
    with_gradients = tcn_stack.loss_and_grads(**arrays, **(settings | {"dropout": None})).loss
    assert loss == with_gradients


@by_case
def test_a_stream_in_any_split_equals_one_pass(case):
    arrays, settings = cases.inputs(case, "float32")
    params, x, dilations = arrays["params"], arrays["x"], settings["dilations"]
    whole = tcn_stack.predict(params, x, dilations=dilations)
    rng, time = np.random.default_rng(0), x.shape[1]
    for sizes in ([1] * min(time, 30), rng.integers(1, 9, 5), [time]):
        state, done = tcn_stack.init_state(params, len(x), dilations=dilations), 0
        for size in (*sizes, time):
            size = min(int(size), time - done)
            if not size:
                continue
            y = tcn_stack.step(x[:, done : done + size], state)
            h.assert_same_bits(y, np.ascontiguousarray(whole[:, done : done + size]))
            done += size
            state = state.copy() if done % 2 else state
        assert state.time == time == done


def test_a_stream_goes_on_from_its_history():
    case = h.case_named("tcn_stack", "wide")
    arrays, settings = cases.inputs(case, "float32")
    params, x, dilations = arrays["params"], arrays["x"], settings["dilations"]
    whole = tcn_stack.predict(params, x, dilations=dilations)
    first, second = (tcn_stack.init_state(params, len(x), dilations=dilations) for _ in range(2))
    for begin in range(0, 400, 50):  # the buffers slide on the way
        tcn_stack.step(x[:, begin : begin + 50], first)
    second.set_history(first.history(), first.time)
    h.assert_same_bits(tcn_stack.step(x[:, 400:], second), np.ascontiguousarray(whole[:, 400:]))
    first.reset()
    h.assert_same_bits(tcn_stack.step(x[:, :9], first), np.ascontiguousarray(whole[:, :9]))


def test_the_last_row_needs_few_rows():
    """Rows that the prediction does not depend on may be anything."""
    case = h.case_named("tcn_stack", "decreasing-dilations")
    arrays, settings = cases.inputs(case, "float64")
    options = {"dilations": (4, 8), "last": True}
    params = {n: v for n, v in arrays["params"].items() if not n.startswith("blocks.2")}
    y = tcn_stack.predict(params, arrays["x"], **options)
    x = np.full_like(arrays["x"], np.nan)
    x[:, ::-4] = arrays["x"][:, ::-4]
    assert np.array_equal(tcn_stack.predict(params, x, **options), y)
    x[:, -5] = np.nan
    assert np.isnan(tcn_stack.predict(params, x, **options)).any()


GOOD_CASE = h.case_named("tcn_stack", "sequence")
CODES_CASE = h.case_named("tcn_stack", "codes")
WIDE_CASE = h.case_named("tcn_stack", "wide")


@pytest.mark.parametrize(
    ("case", "error", "message", "change"),
    [
        (GOOD_CASE, SHAPE, r"x must be \(B, T, 2\), got \(3, 50\)", lambda a: {"x": a["x"][..., 0]}),
        (GOOD_CASE, SHAPE, r"x must be \(B, T, 2\), got \(3, 0, 2\)", lambda a: {"x": a["x"][:, :0]}),
        (GOOD_CASE, DTYPE, "x must be float32 as head.weight is", lambda a: {"x": a["x"].astype(float)}),
        (CODES_CASE, DTYPE, "x must be an array of integers", lambda a: {"x": a["x"].astype(float)}),
        (CODES_CASE, SHAPE, r"x must lie in \[0, 11\), got 11", lambda a: {"x": a["x"] + 11 - a["x"].max()}),
        (GOOD_CASE, SHAPE, r"targets must be \(3, 50, 2\)", lambda a: {"targets": a["targets"][:, 0]}),
        (CODES_CASE, SHAPE, r"targets must lie in \[0, 19\)", lambda a: {"targets": a["targets"] + 19}),
        (GOOD_CASE, SHAPE, r"targets must lie in \[0, 1\]", lambda a: {"targets": 2 + a["targets"], "loss": "binary"}),
        (GOOD_CASE, SHAPE, r"sample_weight must be \(3, 50\)", lambda a: {"sample_weight": a["sample_weight"][0]}),
        (GOOD_CASE, SHAPE, "sample_weight must be finite", lambda a: {"sample_weight": 0 * a["sample_weight"]}),
        (GOOD_CASE, CONFIG, "loss must be one of", lambda a: {"loss": "hinge"}),
        (GOOD_CASE, CONFIG, "delta must be None for mse", lambda a: {"loss": "mse", "delta": 1.0}),
        (GOOD_CASE, CONFIG, r"rate must be a number in \[0, 1\)", lambda a: {"dropout": tcn_stack.Dropout(1.0)}),
        (GOOD_CASE, CONFIG, "each of dilations must", lambda a: {"dilations": (1, 0, 2)}),
        (WIDE_CASE, CONFIG, "params must have 2 blocks, .* got more", lambda a: {"dilations": (1, 2)}),
        (GOOD_CASE, CONFIG, "params must have the names", lambda a: {"dilations": (1, 2, 4, 8)}),
        (GOOD_CASE, CONFIG, "needs must name parameters, such as", lambda a: {"needs": ["blocks.0.conv.2.weight"]}),
        (GOOD_CASE, CONFIG, "threads must be at least 1", lambda a: {"threads": 0}),
    ],
)
def test_bad_input(case, error, message, change):
    arrays, settings = cases.inputs(case, "float32")
    with pytest.raises(error, match=message) as caught:
        tcn_stack.loss_and_grads(**(arrays | settings | {"backend": "reference"} | change(arrays)))
    assert str(caught.value).startswith("tcn_stack.") or "dilations" in message


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("last", "loss"), [(False, "mse"), (True, "mse"), (False, "cross_entropy"), (True, "huber"), (False, "binary")]
)
def test_rows_that_no_prediction_with_a_weight_sees_may_hold_anything(last, loss, backend):
    rng = np.random.default_rng(0)
    shapes = tcn_stack.parameter_shapes(inputs=2, channels=(4, 5), kernel_size=2, outputs=3)
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x, rows = rng.standard_normal((3, 260, 2)), (3,) if last else (3, 260)
    targets = rng.integers(0, 3, rows) if loss == "cross_entropy" else rng.uniform(0, 1, (*rows, 3))
    weights = np.ones(rows)
    weights[1] = 0  # a whole item
    unseen = np.zeros((3, 260), bool)
    unseen[1] = True
    if not last:
        weights[0, 200:], weights[2, 20:60] = 0, 0
        unseen[0, 200:], unseen[2, 20:54] = True, True  # the field has 1 + 2 (1 + 2) rows
    settings = dict(dilations=(1, 2), loss=loss, last=last, backend=backend)
    expected, gradients = tcn_stack.loss_and_grads(params, x, targets, weights, **settings)
    x[unseen] = np.nan
    if loss != "cross_entropy":
        targets[weights == 0] = np.nan
    value, grads = tcn_stack.loss_and_grads(params, x, targets, weights, **settings)
    assert value == pytest.approx(expected, rel=1e-13)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-10, atol=1e-14, err_msg=name)
    if not last:
        x[2, 54] = np.nan  # which row 60 sees
        assert np.isnan(tcn_stack.loss_and_grads(params, x, targets, weights, **settings).loss)
