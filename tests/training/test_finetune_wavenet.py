"""Reusing a WaveNet: loading parts by name, new heads, blocks and speakers, and fine-tuning it."""

import dataclasses

import numpy as np
import pytest
from helpers.tiny_model import TinyData

import wavedil as wd
from wavedil.errors import CheckpointError, ConfigError, DTypeError, ShapeError
from wavedil.parameters import files

CONFIG = wd.WaveNetConfig(
    dilations=[1, 2, 4, 8], residual_channels=6, dilation_channels=5, skip_channels=7, end_channels=9, classes=16
)


class Data(TinyData):
    """TinyData without speakers."""

    def batch(self, rng, batch, window):
        return super().batch(rng, batch, window)[:2]

    def validation_batches(self, batch, window):
        for (codes, weights, _), amount in super().validation_batches(batch, window):
            yield (codes, weights), amount


def net(seed=0, dtype="float32", **changes):
    return wd.WaveNet(dataclasses.replace(CONFIG, **changes), seed=seed, dtype=dtype, threads=1)


def codes(model, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.classes, (2, 50))


# -- loading by name ---------------------------------------------------------------------------------------------------
def test_strict_loading_takes_all_or_nothing(tmp_path):
    source, target = net(1), net(2)
    source.save(tmp_path / "m.safetensors")
    for given in (source, tmp_path / "m.safetensors"):
        target = net(2)
        report = target.load_params(given)
        assert target.params.flat.tobytes() == source.params.flat.tobytes()
        assert report.loaded == tuple(source.params) and not (report.missing or report.unexpected or report.mismatched)
    before = target.params.flat.copy()
    for other, error, words in (
        (net(classes=20), ShapeError, r"input\.embedding must be \(16, 6\), got \(20, 6\)"),
        (net(dilations=(1, 2)), CheckpointError, r"missing: blocks\.2\.conv\.weight"),
        (net(dilations=(1, 2, 4, 8, 1)), CheckpointError, r"unknown: blocks\.4"),
        (net(dtype="float64"), DTypeError, "must be float32, got float64"),
        (net(sample_rate=16000), CheckpointError, r"sample_rate must be 8000, .* got 16000; allow=\['sample_rate'\]"),
        (net(codec="none"), CheckpointError, "codec must be mulaw"),
        (net(dilations=(1, 2, 4, 7)), CheckpointError, r"dilations must be \[1, 2, 4, 8\], .* got \[1, 2, 4, 7\]"),
    ):
        with pytest.raises(error, match=words):
            target.load_params(other)
    assert np.array_equal(target.params.flat, before)


def test_a_partial_load_reports_what_it_did_not_do():
    source, target = net(1, dilations=(1, 2, 4, 8, 16), classes=20), net(2)
    start = target.params.copy()
    report = target.load_params(source, strict=False)
    assert report.unexpected == tuple(name for name in source.params if name.startswith("blocks.4."))
    assert [name for name, _, _ in report.mismatched] == ["input.embedding", "head.1.weight", "head.1.bias"]
    assert report.mismatched[0][1:] == ((16, 6), (20, 6)) and report.missing == ()
    for name in target.params:
        assert np.array_equal(target.params[name], (source if name in report.loaded else net(2)).params[name])
    assert "of another shape: input.embedding ((16, 6) here, (20, 6) there)" in str(report)
    assert "unexpected: blocks.4.conv.weight" in str(report)
    report = net(2).load_params(net(1, dilations=(1, 2)), strict=False)
    assert len(report.missing) == 12 and report.missing[0] == "blocks.2.conv.weight"

    target.params.load(start)
    report = target.load_params(source, only="blocks.1-2.*")  # strict, but about these alone
    assert len(report.loaded) == 12 and all(name.startswith(("blocks.1.", "blocks.2.")) for name in report.loaded)
    assert np.array_equal(target.params["blocks.3.conv.weight"], start["blocks.3.conv.weight"])
    target.load_params(net(1, sample_rate=16000), allow=["sample_rate"])
    target.load_params(net(1, dilations=(1, 2, 4, 7)), only="blocks.0-2.*")


def test_what_load_params_refuses(tmp_path):
    target = net()
    with pytest.raises(CheckpointError, match="no such file"):
        target.load_params(tmp_path / "m.safetensors")
    files.write(tmp_path / "m.safetensors", {}, {"kind": "model", "class": "TCN"})
    with pytest.raises(CheckpointError, match="must hold a WaveNet, got a TCN"):
        target.load_params(tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match=r"pattern 'block\.0\.\*' must fit a name, got none; near: blocks"):
        target.load_params(net(1), only="block.0.*")
    with pytest.raises(ConfigError, match="allow must be a list"):
        target.load_params(net(1), allow=["classes"])


# -- new parts ---------------------------------------------------------------------------------------------------------
def test_new_blocks_change_no_bit_of_the_logits_and_learn():
    old = net(1)
    new = old.with_blocks([16, 32], seed=5)
    assert new.config.dilations == (1, 2, 4, 8, 16, 32) and new.receptive_field > old.receptive_field
    assert np.array_equal(new.logits(codes(old)), old.logits(codes(old)))
    assert new.params["blocks.5.conv.weight"].any()
    _, grads = new.loss_and_grads(codes(old))
    for name, g in grads.items():
        dead = name in ("blocks.3.residual.weight", "blocks.3.residual.bias")  # feeds blocks that are not heard yet
        new_block = name.startswith(("blocks.4.", "blocks.5.")) and ".skip." not in name
        assert g.any() != (dead or new_block), name
    trainer = wd.Trainer(new, Data(), optimizer=wd.AdamW(0.02), batch=2, window=40,
                         finetune=wd.FineTune(train="blocks.4-5.*"))  # fmt: skip
    trainer.fit(steps=3)
    start = old.with_blocks([16, 32], seed=5).params
    moved = {name for name in start if not np.array_equal(new.params[name], start[name])}
    # The last residual reaches no output: weight decay alone moves it, and its bias is zero.
    assert moved == {n for n in start if n.startswith(("blocks.4.", "blocks.5."))} - {"blocks.5.residual.bias"}


def test_a_new_head_keeps_the_trunk():
    old = net(1)
    new = old.with_head(classes=20, end_channels=11, seed=3)
    assert new.config.classes == 20 and new.params["head.0.weight"].shape == (7, 11)
    for name in old.params:
        same = new.params[name].shape == old.params[name].shape and np.array_equal(new.params[name], old.params[name])
        assert same == name.startswith("blocks."), name
    again = old.with_head(seed=3)
    assert np.array_equal(again.params["input.embedding"], old.params["input.embedding"])
    assert not np.array_equal(again.params["head.0.weight"], old.params["head.0.weight"])


def test_new_speakers_leave_the_old_ones_alone():
    two = net(1, speakers=2)
    three = two.with_speakers(3, seed=5)
    x, who = codes(two), np.array([0, 1])
    assert np.array_equal(three.logits(x, speaker=who), two.logits(x, speaker=who))
    table = three.params["speaker.embedding"]
    assert np.allclose(table[2], table[:2].mean(axis=0))
    one = net(1)
    voiced = one.with_speakers(2)
    assert np.array_equal(voiced.logits(x, speaker=who), one.logits(x))
    _, grads = voiced.loss_and_grads(x, speaker=who)
    assert grads["blocks.0.condition.weight"].any()
    with pytest.raises(ConfigError, match="at least 2"):
        two.with_speakers(1)
    with pytest.raises(ConfigError, match="no condition"):
        net(condition_channels=3).with_speakers(2)


# -- fine-tuning -------------------------------------------------------------------------------------------------------
def test_with_the_lower_half_frozen_the_rest_gets_the_same_gradients():
    recipe = wd.FineTune(freeze=["input.*", "blocks.0-1.*"])
    whole, half = (wd.Trainer(net(dtype="float64"), Data(), optimizer=wd.SGD(0.1), clip=None, batch=2, window=40,
                              finetune=recipe) for recipe in (None, recipe))  # fmt: skip
    start = net(dtype="float64").params
    for trainer in (whole, half):
        trainer.fit(steps=1)
    for name in start:
        if name.startswith(("input.", "blocks.0.", "blocks.1.")):
            assert half.model.params[name].tobytes() == start[name].tobytes(), name
        else:
            assert np.array_equal(half.model.params[name], whole.model.params[name]), name


def test_a_model_with_merged_adapters_is_a_model(tmp_path):
    trainer = wd.Trainer(net(), Data(), optimizer=wd.AdamW(0.05), batch=2, window=40, ema=0.5, folder=tmp_path,
                         validation=Data(), finetune=wd.FineTune(lora=wd.LoRA(2)))  # fmt: skip
    before = trainer.validate()
    trainer.fit(steps=30)
    assert trainer.validate() < before - 0.02
    saved = wd.load(tmp_path / "model.safetensors", threads=1)
    x = codes(saved)
    # The merged weights against W0 x + alpha / r (x A) B, here as a second network in float64.
    average, by_hand = trainer.average, net(dtype="float64")
    for name in trainer.adapters.targets:
        a, b = (average[name + end].astype(float) for end in (".lora_a", ".lora_b"))
        by_hand.params[name][...] += (a @ b).reshape(by_hand.params[name].shape)
    difference = np.abs(saved.logits(x) - by_hand.logits(x)).max() / np.abs(by_hand.logits(x)).max()
    assert difference < 1e-5
    assert not np.allclose(saved.logits(x), net().logits(x), atol=1e-3)
    trainer.adapters.unmerge(trainer.model.params)
    assert trainer.model.params.flat.tobytes() == net().params.flat.tobytes()


def test_fine_tuning_goes_on_bit_for_bit(tmp_path):
    options = {"optimizer": wd.AdamW(0.02), "batch": 2, "window": 40, "ema": 0.9,
               "finetune": wd.FineTune(freeze="input.*", unfreeze={"blocks.0-1.*": 4}, l2_start=0.1)}  # fmt: skip
    straight = wd.Trainer(net(), Data(), **options)
    straight.fit(steps=8)
    wd.Trainer(net(), Data(), folder=tmp_path, **options).fit(steps=3)
    second = wd.Trainer.resume(tmp_path, Data(), threads=1)
    second.fit(steps=5)
    assert second.model.params.flat.tobytes() == straight.model.params.flat.tobytes()
    assert all(np.array_equal(second.average[name], straight.average[name]) for name in straight.average)
