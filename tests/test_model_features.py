"""WaveNet: gradients of chosen parameters."""

import numpy as np
import pytest

import wavedil as wd
from wavedil.errors import ConfigError

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
