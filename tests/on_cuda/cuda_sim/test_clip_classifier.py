"""A tiny clip classifier in the simulator: losses, gradients, streams, training, change of device."""

import dataclasses

import numpy as np
import pytest

import wavedil as wd
from wavedil.ops.contract import on_host

TRUNK = wd.WaveNetConfig(
    dilations=(1, 2), residual_channels=3, dilation_channels=2, skip_channels=3, end_channels=1, classes=5, codec="none"
)
SHORT = dataclasses.replace(TRUNK, dilations=(2,))
LABELS = ("no", "yes", "maybe")
CODES = np.array([[0, 3, 1, 4, 2], [4, 4, 0, 1, 3]])
LENGTHS, TARGETS = np.array([5, 3]), np.array(["yes", "no"])
CLIPS = [("a", CODES[0], "yes"), ("b", CODES[1, :3], "no")]


class Clips:
    """Batches of the clips, a shift of the codes apart."""

    sample_rate = TRUNK.sample_rate

    def batch(self, rng, batch, window):
        return (CODES + rng.integers(0, 5)) % 5, TARGETS, LENGTHS

    def validation_batches(self, batch, window):
        yield (CODES, TARGETS, LENGTHS), 2


def classifier(device, pooling="attentive", trunk=TRUNK, **options):
    """One in which nothing starts at zero."""
    model = wd.ClipClassifier(trunk, LABELS, pooling=pooling, attention_channels=2, device=device, **options)
    rng = np.random.default_rng(1)
    for name, value in model.params.items():
        if name.endswith(("bias", "score", "head.weight")):
            value[...] = rng.standard_normal(value.shape)
    for value in model.buffers.values():
        value[...] = rng.uniform(0.5, 2, value.shape)
    return model


def values(parameters):
    return {name: on_host(value) for name, value in parameters.items()}


@pytest.mark.parametrize(
    ("pooling", "dtype", "tolerance"), [("attentive", "float32", 1e-5), ("statistics", "float64", 1e-12)]
)
def test_losses_gradients_and_decisions_are_those_of_the_cpu(pooling, dtype, tolerance):
    cuda, cpu = (classifier(device, pooling, dtype=dtype) for device in ("cuda", "cpu"))
    assert cuda.device == "cuda:0" and cuda.params.flat.device == "cuda:0"
    loss, grads = cuda.loss_and_grads(CODES, TARGETS, LENGTHS)
    expected, expected_grads = cpu.loss_and_grads(CODES, TARGETS, LENGTHS)
    assert loss == pytest.approx(expected, abs=tolerance)
    assert list(grads) == list(cpu.params) and grads.flat.device == "cuda:0"
    for name, gradient in values(grads).items():
        np.testing.assert_allclose(gradient, expected_grads[name], atol=tolerance, err_msg=name)
    if pooling == "statistics":  # the simulator is slow
        return
    into, needs = cuda.params.like(), ("blocks.1.conv.bias", "pooling.score", "head.weight")
    into.flat.fill(1)
    assert cuda.loss_and_grads(CODES, TARGETS, LENGTHS, into, needs=needs) == (loss, into)
    for name, value in values(into).items():
        np.testing.assert_allclose(value, 1 + values(grads)[name] if name in needs else 1, rtol=tolerance, err_msg=name)
    assert cuda.loss(CODES, TARGETS, LENGTHS) == pytest.approx(expected, abs=tolerance)
    result, wanted = cuda.evaluate(CLIPS), cpu.evaluate(CLIPS)
    assert result.loss == pytest.approx(wanted.loss, abs=tolerance)
    assert result.predicted.tolist() == wanted.predicted.tolist()


def test_a_step_waits_for_the_loss_alone_and_a_stream_for_nothing(monkeypatch):
    model, downloads = classifier("cuda", trunk=SHORT), []
    state = model.init_stream(2)
    engine = type(model.params.flat.engine)
    download = engine.download
    monkeypatch.setattr(engine, "download", lambda self, flat: downloads.append(flat) or download(self, flat))
    model.loss_and_grads(CODES, TARGETS, LENGTHS)
    assert len(downloads) == 1 and downloads[0].size == 1
    state.take_in(CODES[:, :2], None)
    assert len(downloads) == 1


def test_a_stream_decides_at_its_end_as_the_whole_clip():
    model = classifier("cuda", dtype="float64")
    whole, state = model.predict_proba(CODES), model.init_stream(2)
    model.stream(CODES[:, :2], state)
    other = state.copy()
    for name in ("head.weight", "pooling.score", "blocks.0.conv.weight"):
        model.params[name].fill(0)  # a stream keeps what it began with
    for one in (state, other):
        np.testing.assert_allclose(model.stream(CODES[:, 2:], one), whole, rtol=1e-10)
    state.reset()
    np.testing.assert_allclose(model.stream(CODES, state), whole, rtol=1e-10)


def fit(trainer, steps):
    losses = []
    trainer.fit(steps=steps, on_step=lambda progress: losses.append(progress.loss))
    return losses


def trainer(device, steps, pooling, **options):
    model = classifier(device, pooling, SHORT)
    options = {"batch": 2, "window": 5, "seed": 4, "validation": Clips()} | options
    made = wd.Trainer(model, Clips(), optimizer=wd.AdamW(0.05), **options)
    return made, fit(made, steps)


def test_steps_as_on_the_cpu_and_a_resume_on_either_device(tmp_path):
    cuda, losses = trainer("cuda", 1, "average")
    cpu, expected = trainer("cpu", 1, "average")
    cuda.save(tmp_path / "cuda.safetensors")
    cpu.save(tmp_path / "cpu.safetensors")
    losses += fit(cuda, 1)
    expected += fit(cpu, 1)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert cuda.validate() == pytest.approx(cpu.validate(), abs=1e-5)
    for source, device, exact in (("cuda", "cuda", True), ("cuda", "cpu", False), ("cpu", "cuda", False)):
        again = wd.Trainer.resume(tmp_path / f"{source}.safetensors", Clips(), device=device)
        assert again.model.device.startswith(device)
        assert fit(again, 1) == (losses[1:] if exact else pytest.approx(losses[1:], abs=1e-5))
        for name, value in values(again.model.params).items():
            np.testing.assert_allclose(value, values(cuda.model.params)[name], atol=0 if exact else 1e-5, err_msg=name)


def test_finetuning_with_a_frozen_trunk_and_adapters():
    frozen, adapters = wd.FineTune(freeze=["input.*", "blocks.*"]), wd.FineTune(lora=wd.LoRA(2, 3.0))
    for recipe, pooling, steps in ((frozen, "attentive", 2), (adapters, "average", 1)):
        cuda, losses = trainer("cuda", steps, pooling, finetune=recipe)
        cpu, expected = trainer("cpu", steps, pooling, finetune=recipe)
        assert losses == pytest.approx(expected, abs=1e-5)
        for name, value in values(cuda.model.params).items():
            np.testing.assert_allclose(value, cpu.model.params[name], atol=1e-5, err_msg=name)


def test_it_lives_where_its_trunk_does_and_its_files_anywhere(tmp_path):
    trunk = wd.WaveNet(wd.WaveNetConfig(**{**TRUNK.to_dict(), "speakers": 2}), seed=3, device="cuda")
    cuda, cpu = (wd.ClipClassifier(trunk, LABELS, device=device).calibrate(CLIPS) for device in (None, "cpu"))
    assert (cuda.device, cpu.device) == ("cuda:0", "cpu")
    for name, value in values(cuda.params).items():
        assert np.array_equal(value, cpu.params[name]), name
    for name, value in cuda.buffers.items():
        np.testing.assert_allclose(value, cpu.buffers[name], rtol=1e-5)
        cpu.buffers[name][...] = value
    cuda.save(tmp_path / "cuda.safetensors")
    cpu.save(tmp_path / "cpu.safetensors")
    assert (tmp_path / "cuda.safetensors").read_bytes() == (tmp_path / "cpu.safetensors").read_bytes()
    for load in (wd.load, wd.ClipClassifier.load):
        loaded = load(tmp_path / "cuda.safetensors", device="auto")
        assert loaded.device == "cuda:0"
        np.testing.assert_allclose(loaded.predict_proba(CODES), cpu.predict_proba(CODES), atol=1e-5)
