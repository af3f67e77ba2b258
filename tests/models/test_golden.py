"""wavedil's WaveNet against losses, logits and gradients that PyTorch computed (tests/golden/make_wavenet.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

import wavedil as wd
from wavedil.ops import gated_stack

with np.load(Path(__file__).parents[1] / "golden" / "wavenet.npz", allow_pickle=False) as _file:
    GOLDEN = {key: _file[key] for key in _file.files}
CASES = sorted({key.split("/")[0] for key in GOLDEN})
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def arrays(case, group):
    prefix = f"{case}/{group}/"
    return {key.removeprefix(prefix): value for key, value in GOLDEN.items() if key.startswith(prefix)}


def build(case, dtype, **options):
    config = wd.WaveNetConfig.from_dict(json.loads(str(GOLDEN[f"{case}/config"])))
    model = wd.WaveNet(config, dtype=dtype, **options)
    values = arrays(case, "params")
    assert set(model.params) == set(values)
    for name, value in values.items():
        assert model.params[name].shape == value.shape, name
        model.params[name][...] = value
    return model


def inputs(case, dtype):
    """Codes, weights and the keywords of the case; weights is None where the case has none."""
    weights, condition, speaker = (GOLDEN.get(f"{case}/{k}") for k in ("weights", "condition", "speaker"))
    keywords = {}
    if condition is not None:
        keywords["condition"] = condition.astype(dtype)
    if speaker is not None:
        keywords["speaker"] = speaker
    return GOLDEN[f"{case}/codes"], None if weights is None else weights.astype(dtype), keywords


def close(got, expected, tolerance, what):
    """max|got - expected| / max|expected| <= tolerance; an expectation of zero is met exactly."""
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape, what
    error, scale = np.abs(got - expected).max(), np.abs(expected).max()
    assert error <= tolerance * scale, f"{what}: relative error {error / scale if scale else np.inf:.1e}"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case, dtype, recompute, threads):
    model = build(case, dtype, recompute=recompute, threads=threads)
    codes, weights, keywords = inputs(case, dtype)
    loss, grads = model.loss_and_grads(codes, weights, **keywords)
    close(loss, GOLDEN[f"{case}/loss"], TOLERANCE[dtype], "loss")
    expected = arrays(case, "grads")
    assert set(grads) == set(expected)
    for name in expected:
        assert grads[name].dtype == dtype
        close(grads[name], expected[name], TOLERANCE[dtype], name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_logits(case, dtype):
    model = build(case, dtype)
    codes, weights, keywords = inputs(case, dtype)
    close(model.loss(codes, weights, **keywords), GOLDEN[f"{case}/loss"], TOLERANCE[dtype], "loss")
    logits = model.logits(codes[:, :-1], **keywords)  # [:, t] predicts codes[:, t + 1]
    assert logits.dtype == dtype
    times = GOLDEN[f"{case}/times"]
    close(logits[:, times], GOLDEN[f"{case}/logits"], TOLERANCE[dtype], "logits")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ["global", "local"])
def test_gradient_of_the_condition(case, dtype, recompute):
    model = build(case, dtype)
    codes, weights, keywords = inputs(case, dtype)
    result = gated_stack.loss_and_grads(
        model.params, codes, None, weights, network=model.network, recompute=recompute, **keywords
    )
    close(result.condition, GOLDEN[f"{case}/grad_condition"], TOLERANCE[dtype], "condition")
    model.recompute = recompute
    for needs in (None, ["head.1.bias"], []):
        loss, grads, dcondition = model.loss_and_grads(
            codes, weights, **keywords, needs=needs, condition_gradient=True
        )  # fmt: skip
        assert loss == result.loss and set(grads) == set(model.params if needs is None else needs)
        assert dcondition.tobytes() == result.condition.tobytes() and dcondition.dtype == dtype


def test_the_file_is_what_its_script_describes():
    assert CASES == ["global", "local", "long", "plain", "pointwise", "short", "speaker", "weights"]
    for case in CASES:
        last = max(int(name.split(".")[1]) for name in arrays(case, "params") if name.startswith("blocks."))
        zero = {name for name, g in arrays(case, "grads").items() if not g.any()}
        assert zero == {f"blocks.{last}.residual.weight", f"blocks.{last}.residual.bias"}, case
