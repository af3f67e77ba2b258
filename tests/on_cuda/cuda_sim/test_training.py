"""A whole tiny WaveNet in the simulator: training, resume, change of device, fine-tuning, generation."""

import numpy as np
import pytest

import wavedil as wd
from wavedil.errors import ConfigError
from wavedil.training.finetune import FineTune, LoRA

CONFIG = dict(
    dilations=(1, 2), residual_channels=3, dilation_channels=2, skip_channels=3, end_channels=3, classes=5, codec="none"
)


class Codes:
    """Windows of a sequence, and a speaker if the model has some."""

    def __init__(self, speakers=0):
        self.codes, self.speakers = np.arange(60) * 7 % 5, speakers

    def batch(self, rng, batch, window):
        begins = rng.integers(0, len(self.codes) - window, batch)
        arrays = (np.stack([self.codes[b : b + window + 1] for b in begins]),)
        return arrays + (({"speaker": begins % self.speakers},) if self.speakers else ())

    def validation_batches(self, batch, window):
        codes = np.r_[2, self.codes[:4]][None]
        yield (codes, *([{"speaker": np.zeros(1, np.int64)}] if self.speakers else [])), 4


def trainer(device, steps=0, speakers=0, **options):
    model = wd.WaveNet(wd.WaveNetConfig(**CONFIG, speakers=speakers), seed=1, device=device)
    options = {"batch": 2, "window": 3, "seed": 4, "ema": 0.9} | options
    made = wd.Trainer(model, Codes(speakers), optimizer=wd.AdamW(0.05), **options)
    return made, fit(made, steps)


def fit(trainer, steps):
    """Losses in bits of some more steps."""
    losses = []
    if steps:
        trainer.fit(steps=steps, on_step=lambda progress: losses.append(progress.loss))
    return losses


def values(parameters):
    return {name: value.to_host() if hasattr(value, "to_host") else value for name, value in parameters.items()}


def test_five_steps_as_on_the_cpu_and_a_resume_on_either_device(tmp_path):
    cuda, losses = trainer("cuda", 4)
    assert cuda.model.device == "cuda:0" and cuda.model.params.flat.device == "cuda:0"
    cpu, expected = trainer("cpu", 4)
    cuda.save(tmp_path / "cuda.safetensors")
    cpu.save(tmp_path / "cpu.safetensors")
    losses += fit(cuda, 1)
    expected += fit(cpu, 1)
    assert len(losses) == 5 and losses == pytest.approx(expected, abs=1e-5)

    again = wd.Trainer.resume(tmp_path / "cuda.safetensors", Codes(), device="cuda")
    assert fit(again, 1) == losses[4:]
    for name, value in values(again.model.params).items():
        assert np.array_equal(value, values(cuda.model.params)[name]), name
    moved = wd.Trainer.resume(tmp_path / "cuda.safetensors", Codes())
    assert moved.model.device == "cpu" and fit(moved, 1) == pytest.approx(losses[4:], abs=1e-5)
    moved = wd.Trainer.resume(tmp_path / "cpu.safetensors", Codes(), device="cuda")
    assert fit(moved, 1) == pytest.approx(losses[4:], abs=1e-5)
    for name, value in values(moved.average).items():
        assert np.allclose(value, values(cpu.average)[name], atol=1e-5), name


def test_half_activations_live_in_the_file(tmp_path):
    model = wd.WaveNet(wd.WaveNetConfig(**CONFIG), seed=1, device="cuda", half_activations=True)
    made = wd.Trainer(model, Codes(), optimizer=wd.AdamW(0.05), batch=2, window=3, seed=4)
    fit(made, 1)
    made.save(tmp_path / "half.safetensors")
    losses = fit(made, 1)
    again = wd.Trainer.resume(tmp_path / "half.safetensors", Codes(), device="cuda")
    assert again.model.half_activations and fit(again, 1) == losses
    on_cpu = wd.Trainer.resume(tmp_path / "half.safetensors", Codes())
    (other,) = fit(on_cpu, 1)
    assert losses[0] != other == pytest.approx(losses[0], abs=1e-3)  # not rounded there


def test_speakers_accumulation_and_validation(tmp_path):
    options = {"speakers": 2, "accumulate": 2, "validation": Codes(2)}
    cuda, losses = trainer("cuda", 1, **options)
    cpu, expected = trainer("cpu", 1, **options)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert cuda.validate() == pytest.approx(cpu.validate(), abs=1e-5)
    for name, value in values(cuda.model.params).items():
        assert np.allclose(value, cpu.model.params[name], atol=1e-5), name


@pytest.mark.parametrize(
    "recipe",
    [
        FineTune(freeze=["input.*", "blocks.0.*"], lr_scale={"head.*": 2.0}, l2_start=0.1),
        FineTune(lora=LoRA(2, 3.0)),
    ],
    ids=["freeze", "lora"],
)
def test_finetuning(recipe):
    cuda, losses = trainer("cuda", 2, finetune=recipe)
    cpu, expected = trainer("cpu", 2, finetune=recipe)
    assert losses == pytest.approx(expected, abs=1e-5)
    before = wd.WaveNet(wd.WaveNetConfig(**CONFIG), seed=1).params
    moved = 0
    for name, value in values(cuda.model.params).items():
        assert np.allclose(value, cpu.model.params[name], atol=1e-5), name
        moved += not np.array_equal(value, before[name])
    assert 0 < moved < len(before)


def test_files_and_generation(tmp_path):
    config = wd.WaveNetConfig(**CONFIG)
    cuda, cpu = (wd.WaveNet(config, seed=2, dtype="float64", device=device) for device in ("auto", "cpu"))
    assert cuda.device == "cuda:0"
    cuda.save(tmp_path / "cuda.safetensors")
    cpu.save(tmp_path / "cpu.safetensors")
    assert (tmp_path / "cuda.safetensors").read_bytes() == (tmp_path / "cpu.safetensors").read_bytes()
    cuda = wd.load(tmp_path / "cpu.safetensors", device="cuda")
    options = {"batch": 2, "seed": 5, "primer": [1, 4, 2]}
    assert np.array_equal(cuda.generate(6, **options), cpu.generate(6, **options))
    codes = np.array([[0, 1, 2, 3]])
    logits = cuda.logits(codes)
    assert isinstance(logits, np.ndarray) and np.allclose(logits, cpu.logits(codes), rtol=1e-10)

    state = cuda.init_stream()
    cuda.stream(codes, state)
    cuda.save_stream(state, tmp_path / "stream.safetensors")
    on_cpu = cpu.load_stream(tmp_path / "stream.safetensors")
    assert np.allclose(cpu.stream(codes, on_cpu), cuda.stream(codes, state), rtol=1e-10)


def test_global_and_local_conditions():
    config = wd.WaveNetConfig(**CONFIG, condition_channels=2)
    cuda, cpu = (wd.WaveNet(config, dtype="float64", device=device) for device in ("cuda", "cpu"))
    codes, rng = np.array([[0, 1, 2, 3], [4, 3, 2, 1]]), np.random.default_rng(0)
    for shape in ((2, 2), (2, 3, 2)):
        condition = rng.standard_normal(shape)
        loss, grads = cuda.loss_and_grads(codes, condition=condition)
        expected, expected_grads = cpu.loss_and_grads(codes, condition=condition)
        assert loss == pytest.approx(expected, rel=1e-10)
        for name, gradient in values(grads).items():
            assert np.allclose(gradient, expected_grads[name], atol=1e-10), name


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="device 'cuda:7': the simulator has one device"):
        wd.WaveNet(wd.WaveNetConfig(**CONFIG), device="cuda:7")


class Sums(Codes):
    """Sequences of numbers whose running sums are to be predicted."""

    def batch(self, rng, batch, window):
        x = rng.standard_normal((batch, window, 2)).astype(np.float32)
        return x, x.sum(axis=2, keepdims=True).cumsum(axis=1)


def test_a_tcn(tmp_path):
    config = wd.TCNConfig(dilations=(1, 2), channels=3, kernel_size=2, inputs=2, dropout=0.2)
    losses = {}
    for device in ("cuda", "cpu"):
        model = wd.TCN(config, seed=1, device=device)
        made = wd.Trainer(model, Sums(), optimizer=wd.Adam(0.01), batch=2, window=3, seed=4)
        losses[device] = fit(made, 2)
        made.save(tmp_path / f"{device}.safetensors")
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-5)
    moved = [wd.Trainer.resume(tmp_path / "cpu.safetensors", Sums(), device=device) for device in ("cuda", "cpu")]
    assert fit(moved[0], 1) == pytest.approx(fit(moved[1], 1), abs=1e-5)
    on_cuda, on_cpu = (trainer.model for trainer in moved)
    x = np.random.default_rng(0).standard_normal((1, 4, 2)).astype(np.float32)
    assert np.allclose(on_cuda.predict(x), on_cpu.predict(x), atol=1e-5)
    state = on_cuda.init_stream()
    streamed = np.concatenate([on_cuda.stream(x[:, :1], state), on_cuda.stream(x[:, 1:], state)], axis=1)
    assert np.allclose(streamed, on_cpu.predict(x), atol=1e-5)
