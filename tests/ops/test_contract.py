"""The doors of the ops: one shape of contract for all families and backends, errors that name three facts."""

import doctest
import importlib
import inspect
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import ops as h

from wavedil import errors, ops
from wavedil.ops import contract, conv1d, cross_entropy, embedding, gated_block

PARITY = h.families("parity")


@pytest.mark.parametrize("family", ops.FAMILIES)
def test_every_family_is_a_folder_with_a_contract(family):
    for part in ("", ".reference", ".cpu", ".cases"):
        importlib.import_module(f"wavedil.ops.{family}{part}")
    assert getattr(ops, family) is h.module(family)
    assert h.module(family).__doc__


def test_an_unknown_family_is_an_attribute_error():
    with pytest.raises(AttributeError, match="wavedil.ops"):
        _ = ops.conv9d


@pytest.mark.parametrize("family", h.FAMILIES)
def test_every_family_has_all_backends(family):
    assert contract.backends(family) == contract.BACKENDS


@pytest.mark.parametrize("family", h.FAMILIES)
def test_backends_have_equal_signatures(family):
    def signatures(backend, known=()):
        """Of the functions that a backend's module defines; and of known ones, which another of its files may define."""
        kernels = importlib.import_module(f"wavedil.ops.{family}.{backend}")
        return {
            name: str(inspect.signature(value))
            for name, value in vars(kernels).items()
            if inspect.isfunction(value) and not name.startswith("_")
            and (value.__module__ == kernels.__name__ or name in known)
        }

    reference = signatures("reference")
    if family in PARITY:
        assert reference.keys() == {n for n in ("forward", "backward", "step") if hasattr(h.module(family), n)}
    for backend in h.backends(family):
        assert signatures(backend, reference) == reference, backend


@pytest.mark.parametrize("family", PARITY)
def test_doors_share_their_options(family):
    op = h.module(family)
    assert list(inspect.signature(op.backward).parameters) == [
        "dy",
        "saved",
        "into",
        "needs",
        "workspace",
        "backend",
        "threads",
    ]
    options = inspect.signature(op.forward).parameters
    for name in ("workspace", "backend", "threads"):
        assert options[name].kind is inspect.Parameter.KEYWORD_ONLY and options[name].default is None
    for function in (op.forward, op.backward):
        assert all(word in function.__doc__ for word in ("Parameters", "Returns", "Raises", "``"))


@pytest.mark.parametrize("family", h.FAMILIES)
def test_examples_in_docstrings(family):
    assert doctest.testmod(h.module(family)).failed == 0


def test_importing_ops_loads_no_numba():
    code = "import sys; from wavedil import ops; ops.conv1d, ops.embedding; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- workspaces ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "backend"), [(f, b) for f in PARITY for b in h.backends(f)])
def test_what_is_left_in_a_workspace_does_not_matter(family, backend):
    """One workspace for all cases, of all sizes and dtypes, and full of NaN before each."""
    op, workspace = h.module(family), importlib.import_module("wavedil.kernels.workspace").Workspace()

    def run(arrays, settings, seed):
        y, saved = op.forward(**arrays, **settings, workspace=workspace, backend=backend)
        op.backward(h.upstream(y, seed), saved, workspace=workspace, backend=backend)
        return y, op.backward(h.upstream(y, seed), saved, workspace=workspace, backend=backend)  # saved is as it was

    cases = h.cases(family).CASES
    for dtype in h.DTYPES:
        for case in (*cases, *reversed(cases)):
            arrays, settings = h.cases(family).inputs(case, dtype)
            y, _, _, grads = h.run(family, case, dtype, backend=backend)
            poisoned = {
                n: np.full_like(a, np.nan) if h.is_float(a) and n not in ("sample_weight", "targets") else a
                for n, a in arrays.items()
            }
            with np.errstate(invalid="ignore"):
                run(poisoned, settings, case.seed)
            y_again, grads_again = run(arrays, settings, case.seed)
            h.assert_same_bits(y_again, y, str(case))
            h.assert_same_bits(grads_again, grads, str(case))


@pytest.mark.parametrize("family", [f for f in PARITY if "cpu" in h.backends(f)])
def test_a_workspace_allocates_once(family):
    workspace = importlib.import_module("wavedil.kernels.workspace").Workspace()
    op, case = h.module(family), h.case_named(family, "long")
    arrays, settings = h.cases(family).inputs(case, "float32")
    _, _, dy, _ = h.run(family, case, "float32", backend="cpu")

    def once():
        _, saved = op.forward(**arrays, **settings, workspace=workspace, backend="cpu")
        op.backward(dy, saved, workspace=workspace, backend="cpu")

    once()
    once()
    tracemalloc.start()
    try:
        once()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000, f"{peak} bytes"  # objects and NumPy's cast buffers; the least activation has 1201 * 16 * 4


# ---- bad input -------------------------------------------------------------------------------------------------------
def f32(*shape):
    return np.ones(shape, np.float32)


X, W, B = f32(4, 100, 16), f32(2, 16, 8), f32(8)
SHAPE, DTYPE, CONFIG = errors.ShapeError, errors.DTypeError, errors.ConfigError

BAD_CONV1D = [
    (SHAPE, "x must be (B, T, 16), got (4, 100, 8)", dict(x=f32(4, 100, 8))),
    (SHAPE, "x must be (B, T, 16), got (100, 16)", dict(x=f32(100, 16))),
    (SHAPE, "x must be (B, T, 16), got (4, 0, 16)", dict(x=f32(4, 0, 16))),
    (SHAPE, "x must be (B, T, 16), got (0, 5, 16)", dict(x=f32(0, 5, 16))),
    (SHAPE, "w must be (K, C // groups, N), got (16, 8)", dict(w=f32(16, 8))),
    (SHAPE, "w must have output channels divisible by groups = 3, got (2, 16, 8)", dict(groups=3)),
    (SHAPE, "x must be (B, T, 32), got (4, 100, 16)", dict(groups=2)),
    (SHAPE, "b must be (8,), got (1, 8)", dict(b=f32(1, 8))),
    (
        SHAPE,
        "x must have at least 101 rows for padding 'valid', kernel 2 and dilation 100, got 100",
        dict(padding="valid", dilation=100),
    ),
    (SHAPE, "out must be (4, 100, 8), got (4, 99, 8)", dict(out=f32(4, 99, 8))),
    (SHAPE, "out must be C-contiguous and writeable, got strides", dict(out=f32(4, 8, 100).transpose(0, 2, 1))),
    (DTYPE, "out must be an array of float32, got dtype('float64')", dict(out=np.ones((4, 100, 8)))),
    (DTYPE, "x must be an array of floats, got list", dict(x=[[[1.0], [1.0, 2.0]]])),
    (DTYPE, "x must be an array of floats, got list", dict(x=[[["a"]]])),
    (DTYPE, "x must be an array of floats, got str", dict(x="abc")),
    (DTYPE, "x must be an array of floats, got object", dict(x=np.full((4, 100, 16), None))),
    (DTYPE, "x must be a plain array, got a masked one", dict(x=np.ma.ones((4, 100, 16)))),
    (DTYPE, "x must be float32 or float64, got float16", dict(x=X.astype("float16"))),
    (CONFIG, "dilation must be at most 2147483647, got 4611686018427387904", dict(dilation=2**62)),
    (CONFIG, "stride must be at least 1, got 0", dict(stride=0)),
    (CONFIG, "padding_mode must be one of 'zeros', 'reflect', 'replicate', got 'full'", dict(padding_mode="full")),
    (SHAPE, "x must have more rows than are reflected, got 100 rows and padding (100, 0)",
     dict(dilation=100, padding_mode="reflect")),
    (DTYPE, "x must be an array of floats, got int64", dict(x=np.ones((4, 100, 16), np.int64))),
    (DTYPE, "x must be an array of floats, got complex64", dict(x=np.ones((4, 100, 16), np.complex64))),
    (DTYPE, "x must be an array of floats, got >f4", dict(x=np.ones((4, 100, 16), ">f4"))),
    (DTYPE, "w must be float64 as x is, got float32", dict(x=np.ones((4, 100, 16)))),
    (DTYPE, "b must be float32 as x is, got float64", dict(b=np.ones(8))),
    (CONFIG, "dilation must be at least 1, got 0", dict(dilation=0)),
    (CONFIG, "dilation must be an integer, got 1.5", dict(dilation=1.5)),
    (CONFIG, "dilation must be an integer, got True", dict(dilation=True)),
    (CONFIG, "groups must be at least 1, got -1", dict(groups=-1)),
    (CONFIG, "padding must be 'causal', 'same', 'valid' or (before, after), got 'full'", dict(padding="full")),
    (CONFIG, "padding must be 'causal', 'same', 'valid' or (before, after), got (1, 2, 3)", dict(padding=(1, 2, 3))),
    (CONFIG, "padding must be at least 0, got -1", dict(padding=(2, -1))),
    (CONFIG, "threads must be at least 1, got 0", dict(threads=0)),
    (CONFIG, "threads must be an integer, got '2'", dict(threads="2")),
    (CONFIG, "backend must be one of 'reference'", dict(backend="fast")),
    (DTYPE, "backend 'cuda' needs arrays on a device, got a NumPy array", dict(backend="cuda")),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD_CONV1D, ids=[m for _, m, _ in BAD_CONV1D])
def test_bad_input_of_conv1d(error, message, change):
    with pytest.raises(error) as caught:
        conv1d.forward(**(dict(x=X, w=W, b=B, backend="reference") | change))
    assert str(caught.value).startswith("conv1d.forward: ")
    assert message in str(caught.value)


def test_out_may_not_be_an_input():
    x = f32(1, 5, 4)
    with pytest.raises(SHAPE, match="conv1d.forward: out must not share memory with x"):
        conv1d.forward(x, f32(1, 4, 4), out=x, backend="reference")


def test_bad_state_and_gradients_of_conv1d():
    state = conv1d.init_state(4, W, dilation=2)
    with pytest.raises(SHAPE, match=r"conv1d.step: state.history must be \(4, 4, 16\), got \(4, 2, 16\)"):
        conv1d.step(X, state, W, dilation=4, backend="reference")
    with pytest.raises(SHAPE, match=r"conv1d.step: state.position must be \(1,\), got \(4,\)"):
        conv1d.step(X, state._replace(position=np.zeros(4, np.int64)), W, dilation=2, backend="reference")
    with pytest.raises(DTYPE, match="conv1d.step: state.history must be an array of float32, got dtype.'float64'"):
        conv1d.step(X, conv1d.init_state(4, W.astype(float), dilation=2), W, dilation=2, backend="reference")
    with pytest.raises(CONFIG, match="conv1d.init_state: batch must be at least 1, got 0"):
        conv1d.init_state(0, W)
    _, saved = conv1d.forward(X, W, backend="reference")
    for error, message, dy, options in [
        (SHAPE, r"dy must be \(4, 100, 8\), got \(4, 99, 8\)", f32(4, 99, 8), {}),
        (DTYPE, "dy must be float32 as x is, got float64", np.ones((4, 100, 8)), {}),
        (CONFIG, r"needs must name gradients of \(x, w, b\), got 'weight'", f32(4, 100, 8), dict(needs=("weight",))),
        (CONFIG, "needs must be a sequence of names, got 'w'", f32(4, 100, 8), dict(needs="w")),
        (CONFIG, "needs 'b', but forward or into has no such array", f32(4, 100, 8), dict(needs=("b",))),
        (CONFIG, "into must be a conv1d.Grads, got dict", f32(4, 100, 8), dict(into={})),
        (
            SHAPE,
            r"into.w must be \(2, 16, 8\), got \(2, 8, 16\)",
            f32(4, 100, 8),
            dict(into=conv1d.Grads(None, f32(2, 8, 16), None)),
        ),
        (
            CONFIG,
            "into.b is given, but forward had no such input",
            f32(4, 100, 8),
            dict(into=conv1d.Grads(None, None, f32(8))),
        ),
    ]:
        with pytest.raises(error, match="conv1d.backward: " + message):
            conv1d.backward(dy, saved, backend="reference", **options)


def test_a_device_array_without_cuda_is_a_clear_error():
    class Device:
        __cuda_array_interface__ = {"shape": X.shape, "typestr": "<f4", "data": (64, False), "version": 3}

    with pytest.raises(CONFIG, match="^device 'cuda:0': .*install.*$"):  # with the reason, in one line
        conv1d.forward(Device(), W)


def test_cpu_refuses_other_floats():
    with pytest.raises(DTYPE, match="conv1d.forward: backend 'cpu' computes in float32 or float64, got float16"):
        conv1d.forward(X.astype("float16"), W.astype("float16"), backend="cpu")


TABLE = f32(5, 3)


@pytest.mark.parametrize(
    ("error", "message", "codes", "table"),
    [
        (SHAPE, r"codes must lie in \[0, 5\), got 5", np.array([[0, 5]]), TABLE),
        (SHAPE, r"codes must lie in \[0, 5\), got -1", np.array([[0, -1]]), TABLE),
        (SHAPE, r"codes must lie in \[0, 5\), got 255", np.array([[255]], np.uint8), TABLE),
        (SHAPE, r"codes must have at least one axis and one code, got \(3, 0\)", np.zeros((3, 0), int), TABLE),
        (SHAPE, r"codes must have at least one axis and one code, got \(\)", np.array(1), TABLE),
        (DTYPE, "codes must be an array of integers, got float64", np.array([[1.0]]), TABLE),
        (DTYPE, "codes must be an array of integers, got bool", np.array([[True]]), TABLE),
        (DTYPE, "codes must be an array of integers, got float64", [[1.0]], TABLE),
        (SHAPE, r"table must be \(Q, R\), got \(5,\)", np.array([[1]]), f32(5)),
        (DTYPE, "table must be an array of floats, got int64", np.array([[1]]), np.ones((5, 3), np.int64)),
    ],
)
def test_bad_input_of_embedding(error, message, codes, table):
    with pytest.raises(error, match="embedding.forward: " + message):
        embedding.forward(codes, table, backend="reference")


ROWS = dict(x=f32(2, 3, 4), w=f32(4, 5), b=f32(5), targets=np.zeros((2, 3), np.uint8), backend="reference")


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (SHAPE, r"x must be \(B, T, E\), got \(3, 4\)", dict(x=f32(3, 4))),
        (SHAPE, r"w must be \(4, Q\), got \(5, 4\)", dict(w=f32(5, 4))),
        (SHAPE, r"b must be \(5,\), got \(4,\)", dict(b=f32(4))),
        (DTYPE, "w must be float32 as x is, got float64", dict(w=np.ones((4, 5)))),
        (SHAPE, r"targets must be \(2, 3\), got \(2, 4\)", dict(targets=np.zeros((2, 4), int))),
        (SHAPE, r"targets must lie in \[0, 5\), got 5", dict(targets=np.full((2, 3), 5))),
        (DTYPE, "targets must be an array of integers, got float64", dict(targets=np.zeros((2, 3)))),
        (SHAPE, r"sample_weight must be \(2, 3\), got \(3, 2\)", dict(sample_weight=f32(3, 2))),
        (SHAPE, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=0 * f32(2, 3))),
        (SHAPE, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=np.nan * f32(2, 3))),
        (SHAPE, "sample_weight must be finite, at least 0 and not all 0",
         dict(sample_weight=np.array([[1, 1, 1], [1, 1, -1]]))),
        (DTYPE, "sample_weight must be an array of numbers, got list", dict(sample_weight=[["1", "1"]])),
        (CONFIG, r"label_smoothing must be a number in \[0, 1\), got 1", dict(label_smoothing=1)),
        (CONFIG, "ignore_index must be an integer, got 1.5", dict(ignore_index=1.5)),
        (SHAPE, "sample_weight must be finite, at least 0 and not all 0", dict(ignore_index=0)),
    ],
)
def test_bad_input_of_cross_entropy(error, message, change):
    with pytest.raises(error, match="cross_entropy.forward: " + message):
        cross_entropy.forward(**(ROWS | change))


def test_bad_upstream_of_cross_entropy():
    _, saved = cross_entropy.forward(**ROWS)
    with pytest.raises(DTYPE, match="cross_entropy.backward: dy must be a number, got ndarray"):
        cross_entropy.backward(f32(2, 3), saved, backend="reference")


def test_a_mask_of_booleans_means_the_same_as_ones_and_zeros():
    mask = np.array([[True, False, True], [True, True, False]])
    a, b = (cross_entropy.forward(**ROWS, sample_weight=w)[0] for w in (mask, mask.astype(np.float64)))
    assert a == b == pytest.approx(np.log(5))


BLOCK = dict(
    x=f32(2, 9, 4),
    conv_weight=f32(2, 4, 6),
    conv_bias=f32(6),
    residual_weight=f32(3, 4),
    residual_bias=f32(4),
    skip_weight=f32(3, 5),
    skip_bias=f32(5),
    backend="reference",
)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (SHAPE, r"x must be \(B, T, 4\), got \(2, 9, 5\)", dict(x=f32(2, 9, 5))),
        (SHAPE, r"conv_weight must have an even number of columns, got \(2, 4, 7\)", dict(conv_weight=f32(2, 4, 7))),
        (SHAPE, r"conv_bias must be \(6,\), got \(3,\)", dict(conv_bias=f32(3))),
        (SHAPE, r"residual_weight must be \(3, 4\), got \(6, 4\)", dict(residual_weight=f32(6, 4))),
        (SHAPE, r"skip_weight must be \(3, S\), got \(4, 5\)", dict(skip_weight=f32(4, 5))),
        (SHAPE, r"skip_bias must be \(5,\), got \(4,\)", dict(skip_bias=f32(4))),
        (DTYPE, "skip_weight must be an array of floats, got NoneType", dict(skip_weight=None)),
        (DTYPE, "conv_weight must be float32 as x is, got float64", dict(conv_weight=np.ones((2, 4, 6)))),
        (CONFIG, "dilation must be at least 1, got -2", dict(dilation=-2)),
        (CONFIG, "condition_weight must be given where condition is, got None", dict(condition=f32(2, 7))),
        (CONFIG, "condition must be given where condition_weight is, got None", dict(condition_weight=f32(7, 6))),
        (
            SHAPE,
            r"condition must be \(2, 9, 7\), got \(2, 8, 7\)",
            dict(condition=f32(2, 8, 7), condition_weight=f32(7, 6)),
        ),
        (SHAPE, r"condition must be \(2, 7\), got \(1, 7\)", dict(condition=f32(1, 7), condition_weight=f32(7, 6))),
        (
            SHAPE,
            r"condition_weight must be \(Cc, 6\), got \(7, 3\)",
            dict(condition=f32(2, 7), condition_weight=f32(7, 3)),
        ),
        (CONFIG, r"out must be Outputs\(h, skip\), got ndarray", dict(out=f32(2, 9, 4))),
        (SHAPE, r"out.skip must be \(2, 9, 5\), got \(2, 9, 4\)", dict(out=(None, f32(2, 9, 4)))),
    ],
)
def test_bad_input_of_gated_block(error, message, change):
    with pytest.raises(error, match="gated_block.forward: " + message):
        gated_block.forward(**(BLOCK | change))


def test_bad_upstream_of_gated_block():
    y, saved = gated_block.forward(**BLOCK)
    for dy in (y.h, (None, None), (y.h, y.skip, y.h)):
        with pytest.raises(SHAPE, match=r"gated_block.backward: dy must be \(dh, dskip\), not both None"):
            gated_block.backward(dy, saved, backend="reference")
    with pytest.raises(SHAPE, match=r"gated_block.backward: dskip must be \(2, 9, 5\), got \(2, 9, 4\)"):
        gated_block.backward((None, y.h), saved, backend="reference")


# ---- the fused block is what it is made of ---------------------------------------------------------------------------
def gate(pre):
    half = pre.shape[-1] // 2
    return np.tanh(pre[..., :half]), 1 / (1 + np.exp(-pre[..., half:]))


@pytest.mark.parametrize(
    ("backend", "case"), [(b, c) for _, b, c in h.combinations("parity", only=lambda f, c: f == "gated_block")], ids=str
)
def test_gated_block_is_the_composition_of_single_ops(backend, case):
    arrays, settings = h.cases("gated_block").inputs(case, "float64")
    y, _, dy, grads = h.run("gated_block", case, "float64", backend=backend)
    condition = arrays.get("condition")

    pre, conv = conv1d.forward(arrays["x"], arrays["conv_weight"], arrays["conv_bias"], **settings, backend=backend)
    if condition is not None:
        rows = condition if condition.ndim == 3 else condition[:, None]
        projected, condition_saved = conv1d.forward(rows, arrays["condition_weight"][None], backend=backend)
        pre = pre + projected
    t, s = gate(pre)
    r, residual = conv1d.forward(t * s, arrays["residual_weight"][None], arrays["residual_bias"], backend=backend)
    skip, skip_saved = conv1d.forward(t * s, arrays["skip_weight"][None], arrays["skip_bias"], backend=backend)
    h.assert_close(y, gated_block.Outputs(arrays["x"] + r, skip), 1e-12)

    d_residual = conv1d.backward(dy.h, residual, backend=backend)
    d_skip = conv1d.backward(dy.skip, skip_saved, backend=backend)
    dz = d_residual.x + d_skip.x
    dpre = np.concatenate([dz * s * (1 - t * t), dz * t * s * (1 - s)], axis=-1)
    d_conv = conv1d.backward(dpre, conv, backend=backend)
    d_condition = conv1d.Grads(None, None, None)
    if condition is not None:
        d_projected = dpre if condition.ndim == 3 else dpre.sum(1, keepdims=True)
        d_condition = conv1d.backward(d_projected, condition_saved, backend=backend)
    h.assert_close(
        grads,
        gated_block.Grads(
            dy.h + d_conv.x,
            d_conv.w,
            d_conv.b,
            d_residual.w[0],
            d_residual.b,
            d_skip.w[0],
            d_skip.b,
            None if condition is None else d_condition.x.reshape(condition.shape),
            None if condition is None else d_condition.w[0],
        ),
        1e-12,
    )


@pytest.mark.parametrize("backend", h.backends("gated_block"))
def test_an_absent_upstream_gradient_means_zeros(backend):
    for name in ("wavenet-32", "global-condition", "local-condition", "one-sample"):
        _, saved, dy, _ = h.run("gated_block", h.case_named("gated_block", name), "float64", backend=backend)
        zero = gated_block.Outputs(*map(np.zeros_like, dy))
        for some, full in [((None, dy.skip), (zero.h, dy.skip)), ((dy.h, None), (dy.h, zero.skip))]:
            h.assert_close(
                gated_block.backward(some, saved, backend=backend),
                gated_block.backward(gated_block.Outputs(*full), saved, backend=backend),
                1e-12,
            )
