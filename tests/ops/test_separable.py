"""separable: the composition of depthwise and pointwise convolutions, what it saves, and bad input."""

import numpy as np
import pytest
from helpers import ops as h

from wavedil import errors
from wavedil.ops import conv1d, conv2d, separable

BACKENDS = h.backends("separable")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", h.cases("separable").CASES, ids=str)
def test_it_is_depthwise_then_pointwise(case, backend):
    arrays, settings = h.cases("separable").inputs(case, "float64")
    y, _, dy, grads = h.run("separable", case, "float64", backend=backend)
    x, depth, point = (arrays[name] for name in ("x", "depth", "point"))
    conv, mix = (conv1d, point[None]) if x.ndim == 3 else (conv2d, point[None, None])
    hidden, deep = conv.forward(x, depth, **settings, groups=x.shape[-1], backend="reference")
    options = {"padding": "valid", "backend": "reference"}
    expected, flat = conv.forward(hidden, mix, arrays.get("b"), **options)
    h.assert_close(y, expected, 1e-13)
    up = conv.backward(dy, flat, backend="reference")
    down = conv.backward(up.x, deep, backend="reference")
    h.assert_close(grads, separable.Grads(down.x, down.w, up.w.reshape(point.shape), up.b), 1e-12)


def test_saving_counts_parameters_and_flops():
    for kernel in ((3,), (3, 5)):
        depth, point = np.ones((*kernel, 1, 32)), np.ones((32, 48))
        taps = int(np.prod(kernel))
        found = separable.saving(depth, point)
        assert found.parameters == taps * 32 + 32 * 48 and found.full_parameters == taps * 32 * 48
        assert (found.flops, found.full_flops) == (2 * found.parameters, 2 * found.full_parameters)
        assert found.ratio == found.full_parameters / found.parameters
    with pytest.raises(errors.ShapeError, match=r"separable.saving: depth must be .*, got \(3, 2, 4\)"):
        separable.saving(np.ones((3, 2, 4)), np.ones((4, 4)))
    with pytest.raises(errors.ShapeError, match=r"separable.saving: point must be \(4, N\), got \(5, 4\)"):
        separable.saving(np.ones((3, 1, 4)), np.ones((5, 4)))


# ---- bad input -------------------------------------------------------------------------------------------------------
def f32(*shape):
    return np.ones(shape, np.float32)


SEQUENCE = dict(x=f32(2, 9, 8), depth=f32(3, 1, 8), point=f32(8, 5), b=f32(5), backend="reference")
IMAGE = SEQUENCE | dict(x=f32(2, 9, 7, 8), depth=f32(3, 2, 1, 8))
SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError

BAD = [
    (SHAPE, "x must be (B, T, 8), got (2, 9, 4)", SEQUENCE, dict(x=f32(2, 9, 4))),
    (SHAPE, "x must be (B, T, 8), got (2, 9, 7, 8)", SEQUENCE, dict(x=f32(2, 9, 7, 8))),
    (SHAPE, "x must be (B, H, W, 8), got (2, 9, 8)", IMAGE, dict(x=f32(2, 9, 8))),
    (SHAPE, "depth must be (K, 1, C), got (3, 2, 8)", SEQUENCE, dict(depth=f32(3, 2, 8))),
    (SHAPE, "depth must be (K, 1, C) or (kh, kw, 1, C), got (3, 8)", SEQUENCE, dict(depth=f32(3, 8))),
    (SHAPE, "depth must be (K, 1, C) or (kh, kw, 1, C), got NoneType", SEQUENCE, dict(depth=None)),
    (SHAPE, "point must be (8, N), got (5, 8)", SEQUENCE, dict(point=f32(5, 8))),
    (SHAPE, "b must be (5,), got (8,)", SEQUENCE, dict(b=f32(8))),
    (DTYPE, "depth must be float64 as x is, got float32", SEQUENCE, dict(x=np.ones((2, 9, 8)))),
    (DTYPE, "point must be float32 as x is, got float64", SEQUENCE, dict(point=np.ones((8, 5)))),
    (CONFIG, "dilation must be at least 1, got 0", SEQUENCE, dict(dilation=0)),
    (CONFIG, "dilation must be an integer, got (1, 1)", SEQUENCE, dict(dilation=(1, 1))),
    (CONFIG, "dilation must be at least 1, got -1", IMAGE, dict(dilation=(1, -1))),
    (CONFIG, "dilation must be one whole number or two, got (1, 2, 3)", IMAGE, dict(dilation=(1, 2, 3))),
    (
        CONFIG,
        "padding must be 'causal', 'same', 'valid' or (before, after), got 'full'",
        SEQUENCE,
        dict(padding="full"),
    ),
    (
        CONFIG,
        "padding must be 'causal', 'same', 'valid' or ((above, below), (left, right)), got (1, 2)",
        IMAGE,
        dict(padding=(1, 2)),
    ),
    (CONFIG, "padding must be at least 0, got -1", SEQUENCE, dict(padding=(2, -1))),
    (
        SHAPE,
        "x must have at least (11,) positions for padding 'valid', kernel (3,) and dilation (5,), got (9,)",
        SEQUENCE,
        dict(padding="valid", dilation=5),
    ),
    (SHAPE, "out must be (2, 9, 5), got (2, 9, 4)", SEQUENCE, dict(out=f32(2, 9, 4))),
]


@pytest.mark.parametrize(("error", "message", "arguments", "change"), BAD, ids=[m for _, m, _, _ in BAD])
def test_bad_input(error, message, arguments, change):
    with pytest.raises(error) as caught:
        separable.forward(**(arguments | change))
    assert str(caught.value).startswith("separable.forward: ")
    assert message in str(caught.value)


def test_bad_state_and_gradients():
    x, depth, point = (SEQUENCE[name] for name in ("x", "depth", "point"))
    state = separable.init_state(2, depth, dilation=2)
    with pytest.raises(SHAPE, match=r"separable.step: state.history must be \(2, 8, 8\), got \(2, 4, 8\)"):
        separable.step(x, state, depth, point, dilation=4, backend="reference")
    with pytest.raises(SHAPE, match=r"separable.step: depth must be \(K, 1, C\), got \(3, 2, 1, 8\)"):
        separable.step(x, state, IMAGE["depth"], point, backend="reference")
    _, saved = separable.forward(**SEQUENCE)
    with pytest.raises(SHAPE, match=r"separable.backward: dy must be \(2, 9, 5\), got \(2, 8, 5\)"):
        separable.backward(f32(2, 8, 5), saved, backend="reference")
