"""Every family's cases in the simulator, with tiny blocks, so that small cases already need many of them.

A simulated thread is a Python thread, so only cases of few operations run here; all of them run as executed PTX.
"""

import importlib
from unittest import mock

import numpy as np
import pytest
from helpers import device
from helpers import ops as h

from wavedil import errors, ops
from wavedil.kernels.cuda.engine import Driver, HostEngine, device_array, use_engine
from wavedil.kernels.cuda.launch import SIMULATED
from wavedil.kernels.workspace import Workspace
from wavedil.ops import contract

SMALL = {
    "conv1d": ("one-sample", "time-below-dilation", "pad-right-only", "valid-one-row", "pads-wider-than-taps",
               "groups-2", "depthwise-1", "stride-beyond", "reflect"),
    "gated_block": ("one-sample", "time-below-dilation", "local-one-sample"),
    "embedding": ("one-sample", "short", "speakers"),
    "cross_entropy": ("one-sample", "one-class", "short", "ignored"),
    "activation": ("one-sample", "short", "gated-tanh-narrow", "leaky-default"),
    "loss": ("one-sample", "short", "huber-default"),
    "norm": ("one-channel", "short", "rms-one-channel", "weight-plain", "batch-fixed", "group-plain"),
    "dropout": ("one-sample", "short"),
    "upsample": ("one-sample", "kernel-beyond-the-end"),
    "pooling": ("one-sample", "one-row"),
    "window_pooling": ("one-sample", "short", "max-overlap"),
    "conv2d": ("one-pixel", "image-below-dilation", "stride-1-3-reflect"),
    "separable": ("one-sample", "time-below-dilation"),
    "attention": ("one-sample", "window-2"),
}  # fmt: skip
CASES = [(f, h.case_named(f, name)) for f, names in SMALL.items() for name in names]
DTYPES = ("float32", "float64")


@pytest.fixture
def launched(monkeypatch):
    """The kernels that are launched."""
    kernels, launch = [], Driver.launch
    monkeypatch.setattr(
        Driver, "launch", lambda self, kernel, *rest: (kernels.append(kernel), launch(self, kernel, *rest))
    )
    return kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("family", "case"), CASES, ids=str)
def test_parity(family, case, dtype, launched):
    device.check_parity(family, case, dtype)
    # `kernels(dtype)` is what the other proofs go through.
    listed = importlib.import_module(f"wavedil.ops.{family}.cuda").kernels(dtype)
    assert launched and {kernel.name for kernel in launched} <= {kernel.name for kernel in listed}


@pytest.mark.parametrize(("family", "case"), [c for c in CASES if "steps" in h.cases(c[0]).SUITES], ids=str)
def test_steps(family, case):
    time = case.sizes["time"]
    if h.streamed(family, case) and time > 1:
        device.check_steps(family, case, "float64", [1, time - 1])


@pytest.mark.parametrize(
    "name", ["sgd-1", "sgd-momentum", "sgd-nesterov-7", "adam-other-betas", "adam-amsgrad-5", "adamw-3"]
)
def test_update(name):
    case = h.case_named("update", name)
    arrays, gradients = h.cases("update").inputs(case, "float64")
    on_device = device.to_device(arrays)
    for step, g in enumerate(gradients[:2], 1):
        settings = case.sizes["settings"] | ({} if case.sizes["update"] == "sgd" else {"step": step})
        call = getattr(ops.update, case.sizes["update"])
        call(grads=g, **arrays, **settings, backend="reference")
        call(grads=device_array(g), **on_device, **settings)
    for key, expected in arrays.items():
        h.assert_close(on_device[key].to_host(), expected, 1e-14, key)
    norm = ops.update.global_norm(device_array(gradients[0]))
    assert norm == pytest.approx(np.linalg.norm(gradients[0]), rel=1e-14)


@pytest.mark.parametrize("family", list(SMALL))
def test_into_accumulates_and_needs_skips(family):
    op, case = h.module(family), h.case_named(family, SMALL[family][1])
    _, saved, dy, grads = device.check_parity(family, case, "float32")
    op.backward(device.to_device(dy), saved, into=grads)
    once = h.expected(family, case, "float32")[3]
    doubled = type(once)(*(None if a is None else 2 * a for a in once))
    h.assert_close(device.to_host(grads), doubled, case.tolerance["float32"])
    name = next(n for n, a in once._asdict().items() if a is not None)
    only = op.backward(device.to_device(dy), saved, needs=(name,))
    assert [n for n, a in only._asdict().items() if a is not None] == [name]


@pytest.mark.parametrize("name", ["short", "statistics-short"])
def test_a_running_pool(name):
    sizes = {"kind": "statistics", "batch": 2, "time": 5, "channels": 3, "hidden": 0, "sample_weight": "lengths"}
    case = h.case_named("pooling", name) if name == "short" else contract.Case(name, 1, sizes)
    with mock.patch("wavedil.ops.pooling.cuda.SLAB", 2):
        device.check_running_pool(case, "float64", [1, 4])


def test_targets_and_weights_of_the_host():
    arrays, _ = h.cases("cross_entropy").inputs(h.case_named("cross_entropy", "short"), "float64")
    arrays["targets"] = arrays["targets"].astype(np.uint8)
    arrays["sample_weight"] = np.ones(arrays["x"].shape[:2], bool)
    expected, _ = ops.cross_entropy.forward(**arrays, backend="reference")
    moved = arrays | {name: device.to_device(arrays[name]) for name in ("x", "w", "b")}
    for workspace in (None, Workspace()):
        got, saved = ops.cross_entropy.forward(**moved, workspace=workspace)
        assert got == pytest.approx(expected, rel=1e-12) and saved.targets.device == "cuda:0"
    targets = arrays["targets"].copy()
    targets[0, 0] = arrays["w"].shape[1]
    with pytest.raises(errors.ShapeError, match=r"cross_entropy.forward: targets must lie in \[0, "):
        ops.cross_entropy.forward(**moved | {"targets": targets})
    with pytest.raises(errors.DTypeError, match="targets must be in the host's memory .* in the memory of cuda:0"):
        ops.cross_entropy.forward(**arrays | {"targets": device.to_device(targets)})


def test_rows_of_weight_0_may_hold_nan():
    weights = np.array([[1.0, 0.0, 2.0]])
    x, targets = np.array([[[1.0, 2.0], [np.nan, np.inf], [0.5, 0.25]]]), np.array([[[0.5, 1.0], [np.nan, 0], [0, 1]]])
    for kind in ops.loss.KINDS:
        expected, saved = ops.loss.forward(x, targets, weights, kind=kind, backend="reference")
        got, on_device = ops.loss.forward(device.to_device(x), device.to_device(targets), weights, kind=kind)
        assert got == pytest.approx(expected, rel=1e-12)
        h.assert_close(
            device.to_host(ops.loss.backward(1.0, on_device)), ops.loss.backward(1.0, saved, backend="reference"), 1e-12
        )
    w, codes = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]]), np.array([[0, 1, 2]])
    for smoothing in (0.0, 0.2):
        given = dict(sample_weight=weights, label_smoothing=smoothing)
        expected, saved = ops.cross_entropy.forward(x, w, None, codes, **given, backend="reference")
        got, on_device = ops.cross_entropy.forward(*device.to_device({"x": x, "w": w}).values(), None, codes, **given)
        assert got == pytest.approx(expected, rel=1e-12)
        gradients = ops.cross_entropy.backward(1.0, saved, backend="reference")
        h.assert_close(device.to_host(ops.cross_entropy.backward(1.0, on_device)), gradients, 1e-12)


def test_rows_that_no_prediction_of_a_tcn_sees_may_hold_nan():
    rng = np.random.default_rng(0)
    shapes = ops.tcn_stack.parameter_shapes(inputs=2, channels=(2,), kernel_size=2, outputs=1)
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x, targets, weights = rng.standard_normal((1, 6, 2)), rng.standard_normal((1, 6, 1)), np.array([[1, 1, 0, 0, 0, 0]])
    x[0, 2:], targets[0, 2:] = np.nan, np.nan
    settings, moved = dict(dilations=(1,), loss="mse"), device.to_device(params)
    expected = ops.tcn_stack.loss_and_grads(params, x, targets, weights, **settings, backend="reference")
    for rows in (x, device.to_device(x)):
        got = ops.tcn_stack.loss_and_grads(moved, rows, targets, weights, **settings)
        assert got.loss == pytest.approx(expected.loss, rel=1e-12)
        for name, gradient in expected.grads.items():
            np.testing.assert_allclose(got.grads[name].to_host(), gradient, rtol=1e-10, atol=1e-14)


def test_a_pooled_deviation_of_large_numbers_is_not_lost():
    x = (1e6 + np.random.default_rng(0).standard_normal((1, 6, 2))).astype(np.float32)
    expected = np.sqrt(x.astype(np.float64).var(axis=1) + ops.pooling.EPSILON)
    with mock.patch("wavedil.ops.pooling.cuda.SLAB", 3):
        y, _ = ops.pooling.forward(device.to_device(x), kind="statistics")
    np.testing.assert_allclose(y.to_host()[:, 2:], expected, rtol=1e-5)


def test_simulated():
    assert SIMULATED


# ---- bad input -------------------------------------------------------------------------------------------------------
X, W = np.ones((1, 4, 2), np.float32), np.ones((2, 2, 3), np.float32)


class Foreign:
    """Another library's device array."""

    def __init__(self, array, device=0):
        self.array, self.device = array, type("Device", (), {"id": device})()

    @property
    def __cuda_array_interface__(self):
        return {"version": 3} | {k: self.array.__array_interface__[k] for k in ("shape", "typestr", "data", "strides")}


def test_another_librarys_arrays_are_taken_without_a_copy():
    x, w, out = X.copy(), W.copy(), np.zeros((1, 4, 3), np.float32)
    y, _ = ops.conv1d.forward(Foreign(x), Foreign(w), out=Foreign(out))
    expected, _ = ops.conv1d.forward(X, W, backend="reference")
    assert np.array_equal(out, expected) and np.array_equal(y.to_host(), expected)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (errors.DTypeError, "w must be in the memory of cuda:0 as the others are, got one in the host's memory",
         lambda d: dict(x=d(X), w=W)),
        (errors.DTypeError, "w must be in the host's memory (NumPy) as the others are, got one in the memory of cuda:0",
         lambda d: dict(x=X, w=d(W))),
        (errors.DTypeError, "w must be float32 as x is, got float64", lambda d: dict(x=d(X), w=d(W.astype(float)))),
        (errors.DTypeError, "x must be an array of floats, got int64", lambda d: dict(x=d(X.astype(int)), w=d(W))),
        (errors.ShapeError, "x must be contiguous, got strides", lambda d: dict(x=Foreign(X[:, ::2]), w=d(W))),
        (errors.ShapeError, "x must be (B, T, 2), got (4, 2)", lambda d: dict(x=d(X[0]), w=d(W))),
        (errors.DTypeError, "backend 'cuda' needs arrays on a device, got a NumPy array",
         lambda d: dict(x=X, w=W, backend="cuda")),
        (errors.ConfigError, "backend 'reference' needs NumPy arrays, got a device array",
         lambda d: dict(x=d(X), w=d(W), backend="reference")),
        (errors.DTypeError, "out must be in the memory of cuda:0 as the others are, got one in the host's memory",
         lambda d: dict(x=d(X), w=d(W), out=np.zeros((1, 4, 3), np.float32))),
        (errors.ConfigError, "device 'cuda:1': the simulator has one device",
         lambda d: dict(x=d(X), w=Foreign(W, device=1))),
    ],
)  # fmt: skip
def test_bad_arrays(error, message, arguments):
    with pytest.raises(error) as caught:
        ops.conv1d.forward(**arguments(device_array))
    assert message in str(caught.value)


def test_arrays_on_two_devices():
    class Other(HostEngine):
        name = "cuda:1"

    x = device_array(X)
    with pytest.raises(errors.DTypeError, match="w must be in the memory of cuda:0 as the others are, .* of cuda:1"):
        ops.conv1d.forward(x, Other().array(W))


def test_a_state_elsewhere():
    for x, like, place in ((device_array(X), None, "cuda:0"), (X, device_array(X), "host's")):
        state = ops.pooling.init_state(1, 2, like)
        with pytest.raises(errors.DTypeError, match=f"pooling.step: state.total must be in the .*{place}.* as the oth"):
            ops.pooling.step(x, state)


def test_less_shared_memory_means_flatter_tiles(launched, monkeypatch):
    x, w = device_array(X), device_array(W)
    monkeypatch.setattr(x.engine, "shared_memory", 250)
    y, _ = ops.conv1d.forward(x, w)
    tile = launched[0].tile
    assert tile.depth == 2 and tile.shared_bytes(4) <= 250
    assert np.array_equal(y.to_host(), ops.conv1d.forward(X, W, backend="reference")[0])
    monkeypatch.setattr(x.engine, "shared_memory", 50)
    with pytest.raises(errors.OutOfMemoryError, match="a tile of 8 x 8 needs 96 bytes of shared memory .* has 50"):
        ops.conv1d.forward(x, w)


def test_out_of_memory_says_how_much():
    with use_engine(HostEngine(limit=1000)):
        with pytest.raises(errors.OutOfMemoryError, match="an array of 4,000 bytes does not fit: 1,000 of 1,000"):
            device_array(np.zeros(1000, np.float32))


def test_numpy_does_not_take_device_arrays_silently():
    with pytest.raises(TypeError, match="to_host"):
        np.asarray(device_array(X))
