"""conv2d: against PyTorch's golden values, its own definition, and bad input. The generic suites do the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ops as h

from wavedil import errors
from wavedil.ops import conv1d, conv2d

with np.load(Path(__file__).parents[1] / "golden" / "conv2d.npz", allow_pickle=False) as _file:
    GOLDEN = {key: _file[key] for key in _file.files}
GOLDEN_CASES = sorted({key.split("/")[0] for key in GOLDEN})
BACKENDS = h.backends("conv2d")


@pytest.mark.parametrize("dtype", h.DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_values_of_pytorch(case, backend, dtype):
    x, w, b, dy = (GOLDEN[f"{case}/{name}"].astype(dtype) for name in ("x", "w", "b", "dy"))
    y, saved = conv2d.forward(x, w, b, **json.loads(str(GOLDEN[f"{case}/settings"])), backend=backend)
    grads = conv2d.backward(dy, saved, backend=backend)
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    h.assert_close(y, GOLDEN[f"{case}/y"], tolerance, case)
    h.assert_close(grads, conv2d.Grads(*(GOLDEN[f"{case}/d{name}"] for name in "xwb")), tolerance, case)


def test_the_golden_file_has_each_padding_and_kind_of_groups():
    settings = [json.loads(str(GOLDEN[f"{case}/settings"])) for case in GOLDEN_CASES]
    assert {str(s["padding"]) for s in settings} >= {"same", "causal", "valid"}
    assert {s["groups"] for s in settings} == {1, 3, 20}


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_of_one_row_or_one_column_is_a_sequence(backend):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 30, 5)), rng.standard_normal((3, 5, 7)), rng.standard_normal(7)
    expected, _ = conv1d.forward(x, w, b, dilation=4, backend="reference")
    column, _ = conv2d.forward(x[:, :, None], w[:, None], b, dilation=(4, 1), padding="causal", backend=backend)
    row, _ = conv2d.forward(x[:, None], w[None], b, dilation=(1, 4), padding=((0, 0), (8, 0)), backend=backend)
    h.assert_close(column[:, :, 0], expected, 1e-13)
    h.assert_close(row[:, 0], expected, 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dilation_is_no_stride_and_its_grids_never_meet(backend):
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 9, 11, 3)), rng.standard_normal((3, 3, 3, 4))
    y, _ = conv2d.forward(x, w, dilation=(2, 3), backend=backend)
    assert y.shape[:3] == x.shape[:3]
    for i in range(2):
        for j in range(3):  # each grid is a dense convolution of its own
            dense, _ = conv2d.forward(np.ascontiguousarray(x[:, i::2, j::3]), w, backend="reference")
            h.assert_close(y[:, i::2, j::3], dense, 1e-13)


def test_causal_means_that_rows_are_time():
    x = np.zeros((1, 6, 5, 1))
    x[0, 2, 2] = 1
    y, saved = conv2d.forward(x, np.ones((2, 3, 1, 1)), dilation=(2, 1), padding="causal", backend="reference")
    assert saved.padding == ((2, 0), (1, 1))
    assert np.array_equal(np.argwhere(y[0, :, :, 0]), [[i, j] for i in (2, 4) for j in (1, 2, 3)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_wider_than_a_task_and_taps_farther_apart_than_a_chunk(backend):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((1, 2, 1500, 3)), rng.standard_normal((2, 3, 3, 2))
    settings = dict(dilation=(1, 400), padding=((1, 0), (800, 0)))
    y, saved = conv2d.forward(x, w, **settings, backend=backend)
    expected, saved_expected = conv2d.forward(x, w, **settings, backend="reference")
    h.assert_close(y, expected, 1e-13)
    dy = h.upstream(y)
    h.assert_close(
        conv2d.backward(dy, saved, backend=backend), conv2d.backward(dy, saved_expected, backend="reference"), 1e-12
    )


# ---- bad input -------------------------------------------------------------------------------------------------------
def f32(*shape):
    return np.ones(shape, np.float32)


X, W, B = f32(2, 9, 8, 16), f32(3, 2, 16, 8), f32(8)
SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError
PADDING = "padding must be 'causal', 'same', 'valid' or ((above, below), (left, right)), got "

BAD = [
    (SHAPE, "x must be (B, H, W, 16), got (2, 9, 8, 8)", dict(x=f32(2, 9, 8, 8))),
    (SHAPE, "x must be (B, H, W, 16), got (9, 8, 16)", dict(x=f32(9, 8, 16))),
    (SHAPE, "x must be (B, H, W, 16), got (2, 0, 8, 16)", dict(x=f32(2, 0, 8, 16))),
    (SHAPE, "w must be (kh, kw, C // groups, N), got (3, 16, 8)", dict(w=f32(3, 16, 8))),
    (SHAPE, "w must have output channels divisible by groups = 3, got (3, 2, 16, 8)", dict(groups=3)),
    (SHAPE, "x must be (B, H, W, 32), got (2, 9, 8, 16)", dict(groups=2)),
    (SHAPE, "b must be (8,), got (1, 8)", dict(b=f32(1, 8))),
    (
        SHAPE,
        "x must have at least 9 rows and 9 columns for padding 'valid', kernel (3, 2) and dilation (4, 8), got (9, 8)",
        dict(padding="valid", dilation=(4, 8)),
    ),
    (SHAPE, "out must be (2, 9, 8, 8), got (2, 9, 8, 7)", dict(out=f32(2, 9, 8, 7))),
    (DTYPE, "x must be an array of floats, got list", dict(x=[[[[1.0, "a"]]]])),
    (DTYPE, "x must be an array of floats, got int64", dict(x=np.ones((2, 9, 8, 16), np.int64))),
    (DTYPE, "w must be float64 as x is, got float32", dict(x=np.ones((2, 9, 8, 16)))),
    (DTYPE, "b must be float32 as x is, got float64", dict(b=np.ones(8))),
    (CONFIG, "dilation must be at least 1, got 0", dict(dilation=0)),
    (CONFIG, "dilation must be at least 1, got -2", dict(dilation=(1, -2))),
    (CONFIG, "dilation must be an integer, got 1.5", dict(dilation=1.5)),
    (CONFIG, "dilation must be one whole number or two, got (1, 2, 3)", dict(dilation=(1, 2, 3))),
    (CONFIG, "groups must be at least 1, got 0", dict(groups=0)),
    (CONFIG, PADDING + "'full'", dict(padding="full")),
    (CONFIG, PADDING + "(1, 2)", dict(padding=(1, 2))),
    (CONFIG, "padding must be at least 0, got -1", dict(padding=((0, 0), (0, -1)))),
    (CONFIG, "threads must be at least 1, got 0", dict(threads=0)),
    (CONFIG, "backend must be one of 'reference'", dict(backend="fast")),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, change):
    with pytest.raises(error) as caught:
        conv2d.forward(**(dict(x=X, w=W, b=B, backend="reference") | change))
    assert str(caught.value).startswith("conv2d.forward: ")
    assert message in str(caught.value)


def test_bad_state_and_gradients():
    state = conv2d.init_state(2, 8, W, dilation=(2, 1))
    with pytest.raises(SHAPE, match=r"conv2d.step: state.history must be \(2, 8, 8, 16\), got \(2, 4, 8, 16\)"):
        conv2d.step(X, state, W, dilation=4, backend="reference")
    with pytest.raises(CONFIG, match="conv2d.init_state: width must be at least 1, got 0"):
        conv2d.init_state(2, 0, W)
    _, saved = conv2d.forward(X, W, backend="reference")
    with pytest.raises(SHAPE, match=r"conv2d.backward: dy must be \(2, 9, 8, 8\), got \(2, 9, 7, 8\)"):
        conv2d.backward(f32(2, 9, 7, 8), saved, backend="reference")
    with pytest.raises(CONFIG, match="conv2d.backward: needs 'b', but forward or into has no such array"):
        conv2d.backward(f32(2, 9, 8, 8), saved, needs=("b",), backend="reference")
