"""WaveNet: gradients of chosen parameters; features, their gradients, and streams of them."""

import doctest

import numpy as np
import pytest

import wavedil as wd
from wavedil.errors import ConfigError, ShapeError
from wavedil.models import wavenet

SMALL = dict(
    dilations=[1, 2, 4], kernel_size=2, residual_channels=5, dilation_channels=6, skip_channels=7, end_channels=8,
    classes=30,
)  # fmt: skip


def net(**changes):
    model = wd.WaveNet(wd.WaveNetConfig(**SMALL | changes))
    model.params["head.1.weight"][...] *= 10  # gradients that are not tiny
    return model


def inputs_of(model, batch=2, time=20):
    rng = np.random.default_rng(1)
    given = {"codes": rng.integers(0, 30, (batch, time))}
    if model.config.condition_channels and not model.config.speakers:
        given["condition"] = rng.standard_normal((batch, time - 1, model.config.condition_channels)).astype("float32")
    if model.config.speakers:
        given["speaker"] = rng.integers(0, model.config.speakers, batch)
    return given


MODELS = [{}, dict(condition_channels=3), dict(speakers=3)]


# ---- gradients of chosen parameters ----------------------------------------------------------------------------------
@pytest.mark.parametrize("changes", MODELS, ids=["plain", "condition", "speakers"])
def test_needed_gradients_are_those_of_the_full_run(changes):
    model = net(**changes)
    given = inputs_of(model)
    loss, wanted = model.loss_and_grads(**given)
    assert list(wanted) == list(model.params)
    upper = [name for name in model.params if name.startswith(("blocks.2.", "head."))]
    for needs in (upper, ["head.1.bias"], [n for n in model.params if "embedding" in n], [], list(model.params)):
        got_loss, got = model.loss_and_grads(**given, needs=needs)
        assert got_loss == loss and list(got) == [n for n in model.params if n in needs]
        into = {name: np.full_like(value, 2) for name, value in wanted.items()}
        model.loss_and_grads(**given, needs=needs, into=into)
        for name, value in wanted.items():
            assert into[name].tobytes() == (2 + value if name in needs else np.full_like(value, 2)).tobytes(), name
            assert name not in needs or got[name].tobytes() == value.tobytes()


def test_bad_needs():
    model = net(speakers=3)
    given = inputs_of(model)
    for needs, message in [
        (["speaker.embeding"], "needs must name parameters, such as 'speaker.embedding', got 'speaker.embeding'"),
        (["condition"], "needs must name parameters, such as 'blocks.[0-2].condition.weight', got 'condition'"),
        ("head.0.bias", "needs must be a collection of names, got 'head.0.bias'"),
    ]:
        with pytest.raises(ConfigError, match=f"WaveNet.loss_and_grads: {message}"):
            model.loss_and_grads(**given, needs=needs)
    with pytest.raises(ConfigError, match="into must have an array for speaker.embedding, got none"):
        model.loss_and_grads(**given, needs=["speaker.embedding"], into={})


# ---- features --------------------------------------------------------------------------------------------------------
def head_of(model, skips):
    """Logits by hand."""
    end = np.maximum(skips, 0) @ model.params["head.0.weight"] + model.params["head.0.bias"]
    return np.maximum(end, 0) @ model.params["head.1.weight"] + model.params["head.1.bias"]


def feature_inputs(model):
    given = inputs_of(model)
    return given | {"codes": given["codes"][:, :-1]}


@pytest.mark.parametrize("changes", MODELS, ids=["plain", "condition", "speakers"])
def test_features_lead_to_the_logits(changes):
    model = net(**changes)
    given = feature_inputs(model)
    skips = model.features(**given)
    assert skips.shape == (2, 19, 7) and skips.dtype == np.float32
    np.testing.assert_allclose(head_of(model, skips), model.logits(**given), rtol=0, atol=1e-4)
    again, _ = model.forward_features(**given)
    assert again.tobytes() == skips.tobytes() and not np.shares_memory(again, model.features(**given))


@pytest.mark.parametrize("changes", MODELS, ids=["plain", "condition", "speakers"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_features_are_slopes(changes, recompute):
    model = wd.WaveNet(wd.WaveNetConfig(**SMALL | changes), dtype="float64", recompute=recompute)
    given = feature_inputs(model)
    if "condition" in given:
        given["condition"] = given["condition"].astype("float64")
    rng = np.random.default_rng(2)
    skips, saved = model.forward_features(**given)
    dskips = rng.standard_normal(skips.shape)
    grads = model.backward_features(dskips, saved)
    assert list(grads) == [name for name in model.params if not name.startswith("head.")]
    for name in grads:
        direction, value = rng.standard_normal(grads[name].shape), model.params[name]
        ends = []
        for sign in (1, -1):
            before = value.copy()
            value += sign * 1e-5 * direction
            ends.append((model.features(**given) * dskips).sum())
            value[...] = before
        slope, norm = (ends[0] - ends[1]) / 2e-5, np.linalg.norm(grads[name]) or 1.0
        assert abs(slope - (grads[name] * direction).sum()) <= 1e-6 * norm, name
    # Needed ones alone, added to what is there; names of a head are no mistake.
    needs = ["blocks.1.skip.weight", "head.0.bias", *(["speaker.embedding"] if "speaker" in given else [])]
    into = {name: np.full_like(value, 2) for name, value in model.params.items()}
    _, saved = model.forward_features(**given, needs=needs)
    assert model.backward_features(dskips, saved, into=into) is into
    for name, total in into.items():
        wanted = 2 + grads[name] if name in needs and not name.startswith("head") else np.full_like(total, 2)
        assert total.tobytes() == wanted.tobytes(), name
    _, saved = model.forward_features(**given)
    part = model.backward_features(dskips, saved, needs=needs)
    assert list(part) == [n for n in grads if n in needs]


@pytest.mark.parametrize("changes", MODELS, ids=["plain", "condition", "speakers"])
def test_features_in_a_stream_equal_one_pass(changes):
    """Bit for bit, taking turns with logits."""
    model = net(**changes)
    given = feature_inputs(model)
    codes, condition, rest = given.pop("codes"), given.pop("condition", None), given
    wanted = model.features(codes, condition=condition, **rest)
    scores = model.logits(codes, condition=condition, **rest)
    state, t = model.init_stream(2), 0
    for i, n in enumerate((1, 4, 2, 12)):
        piece = None if condition is None else condition[:, t : t + n]
        function, whole = (model.stream, scores) if i == 1 else (model.stream_features, wanted)
        got = function(codes[:, t : t + n], state, condition=piece, **rest)
        t += n
        assert got.tobytes() == whole[:, t - n : t].tobytes() and state.time == t


def test_a_trunk_can_learn():
    """One of two codes, 3 before the end, is read off the features at the end by a linear layer."""
    model = net()
    model.threads = 1  # there is little to do
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, (32, 8))
    labels = np.where(codes[:, -4] < 15, 1.0, -1.0).astype("float32")
    weight, grads, losses = rng.standard_normal(7).astype("float32") * 0.1, None, []
    for _ in range(300):
        skips, saved = model.forward_features(codes)
        error = skips[:, -1] @ weight - labels
        losses.append((error**2).mean())
        dskips = np.zeros_like(skips)
        dskips[:, -1] = 2 / 32 * error[:, None] * weight
        if grads is not None:
            grads.flat[:] = 0
        grads = model.backward_features(dskips, saved, into=grads)
        weight -= 0.1 * 2 / 32 * error @ skips[:, -1]
        for name, gradient in grads.items():
            model.params[name][...] -= 0.1 * gradient
    assert losses[-1] < 0.3 * losses[0]


def test_bad_features():
    model = net()
    codes = np.zeros((2, 9), int)
    for function in (model.features, model.forward_features):
        with pytest.raises(ShapeError, match=r"codes must be \(B, T\), got \(9,\)"):
            function(codes[0])
        with pytest.raises(ConfigError, match="condition must be None, as condition_channels is 0, got one"):
            function(codes, condition=np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="WaveNet.forward_features: needs must name parameters, such as .*, got 'x'"):
        model.forward_features(codes, needs=["x"])
    skips, saved = model.forward_features(codes, needs=["blocks.0.conv.bias"])
    for change, message in [
        (dict(saved=None), "WaveNet.backward_features: saved must come from forward_features, got NoneType"),
        (dict(needs=["input.embedding"]), "must be some of those of forward_features, got 'input.embedding'"),
        (dict(dskips=skips[:, 1:]), r"dskips must be \(2, 9, 7\), got \(2, 8, 7\)"),
    ]:
        with pytest.raises((ConfigError, ShapeError), match=message):
            model.backward_features(**dict(dskips=skips, saved=saved) | change)
    model.features(codes)  # leaves what is saved alone, and so does training on the same model
    model.loss_and_grads(codes)
    assert list(model.backward_features(skips, saved)) == ["blocks.0.conv.bias"]
    with pytest.raises(ConfigError, match="got one that is used up"):
        model.backward_features(skips, saved)
    with pytest.raises(ConfigError, match="WaveNet.stream_features: state must come from init_stream of this model"):
        model.stream_features(codes, wd.WaveNet(wd.WaveNetConfig(**SMALL | {"classes": 31})).init_stream(2))


def test_the_example_of_a_regression_head_gives_what_it_shows():
    found = doctest.testmod(wavenet)
    assert found.attempted > 10 and found.failed == 0
