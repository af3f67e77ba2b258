"""The trainer with a small WaveNet: resume and threads bit for bit, and what the model file holds."""

import math

import numpy as np
import pytest
from helpers.tiny_model import TinyData

import wavedil as wd
from wavedil.errors import CheckpointError, DivergedError

CONFIG = wd.WaveNetConfig(
    dilations=[1, 2, 4, 8], residual_channels=6, dilation_channels=5, skip_channels=7, end_channels=9, classes=16,
    speakers=2,
)  # fmt: skip
OPTIONS = {
    "optimizer": wd.AdamW(0.02),
    "schedule": wd.schedules.cosine(20, warmup=3),
    "batch": 3,
    "window": 40,
    "ema": 0.9,
    "accumulate": 2,
    "validate_every": 5,
    "patience": 10,
}


def trained(steps, folder=None, threads=1, dtype="float32", recompute=False, **options):
    data = TinyData()
    model = wd.WaveNet(CONFIG, dtype=dtype, threads=threads, recompute=recompute)
    trainer = wd.Trainer(model, data, validation=data, folder=folder, **OPTIONS | options)
    seen = []
    trainer.fit(steps=steps, on_step=seen.append)
    return trainer, [(p.loss, p.gradient_norm, p.validation) for p in seen]


def same(a, b):
    sets = [(t.model.params, t.average, *t.moments.values()) for t in (a, b)]
    pairs = [(x[name], y[name]) for x, y in zip(*sets, strict=True) for name in x]
    return a.step == b.step and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_20_steps_are_10_saved_and_10_more(dtype, recompute, tmp_path):
    straight, seen = trained(20, dtype=dtype, recompute=recompute)
    trained(10, tmp_path, dtype=dtype, recompute=recompute)
    second = wd.Trainer.resume(tmp_path, TinyData(), threads=1)
    assert second.step == 10 and second.model.dtype == dtype and second.model.recompute is recompute
    rest = []
    second.fit(steps=10, on_step=rest.append)
    assert same(straight, second)
    assert [(p.loss, p.gradient_norm, p.validation) for p in rest] == seen[10:]


def test_one_thread_and_two_give_the_same_bits():
    one, seen_one = trained(6, threads=1)
    two, seen_two = trained(6, threads=2)
    assert same(one, two) and seen_one == seen_two


def test_the_model_file_holds_the_averaged_weights_and_plays(tmp_path):
    trainer, _ = trained(20, tmp_path)
    model = wd.load(tmp_path / "model.safetensors")
    assert model.config == CONFIG and model.about["step"] == 20
    for name, average in trainer.average.items():
        assert np.array_equal(model.params[name], average)
        if name != "blocks.3.residual.weight":  # the last block's residual reaches nothing
            assert not np.array_equal(model.params[name], trainer.model.params[name]) or not average.any()
    assert model.generate(5, speaker=0).shape == (1, 5)
    with pytest.raises(CheckpointError, match="expected a model file, got 'trainer'"):
        wd.load(tmp_path / "trainer.safetensors")


def test_it_learns_from_ln_of_classes():
    trainer, seen = trained(120, schedule=None, validate_every=20)
    assert seen[0][0] == pytest.approx(math.log2(16), rel=0.03)
    assert np.mean([loss for loss, _, _ in seen[-5:]]) < 2.3
    assert seen[-1][2] == pytest.approx(trainer.validate()) and seen[-1][2] < seen[19][2]


def test_divergence_names_a_parameter_of_the_model(tmp_path):
    data = TinyData()
    trainer = wd.Trainer(wd.WaveNet(CONFIG, threads=1), data, folder=tmp_path, **OPTIONS | {"patience": None})
    trainer.fit(steps=5)
    trainer.model.params["blocks.2.skip.weight"][...] = np.nan
    with pytest.raises(DivergedError, match=r"step 6: .* nan in [a-z]+\..*; .* checkpoint of step 5"):
        trainer.fit(steps=1)
    assert wd.Trainer.resume(tmp_path, data).step == 5


def test_another_class_in_the_file(tmp_path):
    from helpers.tiny_model import Tiny

    wd.Trainer(Tiny(), TinyData()).save(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: model class must be one of .*, got 'Tiny'"):
        wd.Trainer.resume(tmp_path / "x.safetensors", TinyData())
