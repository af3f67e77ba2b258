"""The averaged weights: for a while in the model, and in a model file."""

import numpy as np
import pytest
from helpers.tiny_model import Tiny, TinyData
from helpers.trainers import trainer

import wavedil as wd
from wavedil.errors import CheckpointError, ConfigError, DivergedError
from wavedil.parameters import files
from wavedil.training import AdamW, FineTune, LoRA

RECIPES = {
    "all": None,
    "frozen": FineTune(freeze="embedding"),
    "gradual": FineTune(unfreeze={"embedding": 3}, l2_start=0.5),
    "adapters": FineTune(lora=LoRA(2), train="*.bias"),
}


def trained(recipe=None, **options):
    t = trainer(finetune=recipe, **{"ema": 0.8, "validation": TinyData()} | options)
    t.fit(steps=6)
    return t


def by_hand(t):
    """What the model should hold, from the average alone."""
    wanted = {name: np.array(value) for name, value in Tiny().params.items()}
    wanted |= {name: np.array(value) for name, value in t.average.items() if name in wanted}
    if t.adapters:
        a, b = (t.average[f"head.weight.lora_{end}"] for end in "ab")
        wanted["head.weight"] = wanted["head.weight"] + a @ b
    return wanted


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_model_holds_the_average_within_the_block_and_its_own_bits_after_it(recipe):
    t = trained(recipe)
    own, wanted = t.model.params.copy(), by_hand(t)
    with t.averaged() as model:
        assert model is t.model
        for name, value in wanted.items():
            assert np.allclose(model.params[name], value, atol=1e-6), name
        assert model.params.flat.tobytes() != own.flat.tobytes()
    assert t.model.params.flat.tobytes() == own.flat.tobytes()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_an_error_or_a_changed_weight_in_the_block_changes_nothing_after_it(recipe):
    t = trained(recipe)
    own = t.model.params.flat.copy()
    with pytest.raises(ZeroDivisionError), t.averaged():
        t.model.params.flat[:] = 7
        raise ZeroDivisionError
    assert t.model.params.flat.tobytes() == own.tobytes()
    t.fit(steps=1)
    straight = trained(recipe)
    straight.fit(steps=1)
    assert t.model.params.flat.tobytes() == straight.model.params.flat.tobytes()


def test_blocks_within_blocks_hold_the_average_until_the_last_one_ends():
    t = trained()
    own, loss = t.model.params.flat.copy(), t.validate()
    with t.averaged():
        held = t.model.params.flat.copy()
        with t.averaged():
            assert np.array_equal(t.model.params.flat, held)
            assert t.validate() == loss
        assert np.array_equal(t.model.params.flat, held) and not np.array_equal(held, own)
    assert np.array_equal(t.model.params.flat, own)


def test_without_an_average_nothing_changes():
    t = trained(ema=None)
    own = t.model.params.flat.copy()
    with t.averaged():
        assert np.array_equal(t.model.params.flat, own)
        t.fit(steps=1)
    assert not np.array_equal(t.model.params.flat, own)


def test_training_and_checkpoints_wait_for_the_end_of_the_block(tmp_path):
    t = trained()
    with t.averaged():
        for act, name in ((lambda: t.fit(steps=1), "fit"), (lambda: t.save(tmp_path), "save")):
            with pytest.raises(ConfigError, match=rf"Trainer\.{name}: must not be called within averaged"):
                act()
        t.save_model(tmp_path / "model.safetensors")
    t.fit(steps=1)
    t.save(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_model_file_holds_what_the_block_shows(recipe, tmp_path):
    t = trained(recipe)
    t.save_model(tmp_path / "a.safetensors")
    saved, about = files.read(tmp_path / "a.safetensors", "model")
    assert about["step"] == 6
    with t.averaged():
        assert all(saved[name].tobytes() == value.tobytes() for name, value in t.model.params.items())
    t.save(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_without_an_average_the_model_file_holds_the_weights(tmp_path):
    t = trained(ema=None)
    t.save_model(tmp_path / "a.safetensors")
    saved, _ = files.read(tmp_path / "a.safetensors", "model")
    assert all(np.array_equal(saved[name], value) for name, value in t.model.params.items())


def test_no_model_file_of_weights_that_are_not_finite_or_half_updated(tmp_path, monkeypatch):
    t = trained()
    t.average["speaker"][0, 0] = np.nan
    with pytest.raises(DivergedError, match="speaker; not saved"):
        t.save_model(tmp_path / "a.safetensors")

    def half(*args, **options):
        raise KeyboardInterrupt

    t = trained()
    monkeypatch.setattr(AdamW, "update", half)
    with pytest.raises(KeyboardInterrupt):
        t.fit(steps=1)
    with pytest.raises(CheckpointError, match="in the middle of step 7"):
        t.save_model(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="in the middle of step 7"), t.averaged():
        pass
    assert not list(tmp_path.iterdir())


def test_a_wavenet_generates_from_its_average_as_its_file_does(tmp_path):
    data = TinyData()
    config = wd.WaveNetConfig(dilations=[1, 2], residual_channels=4, dilation_channels=4, skip_channels=4,
                              end_channels=4, classes=16, speakers=2)  # fmt: skip
    t = wd.Trainer(wd.WaveNet(config, threads=1), data, optimizer=AdamW(0.3), batch=2, window=30, ema=0.9)
    t.fit(steps=20)
    t.save_model(tmp_path / "m.safetensors")
    expected = wd.load(tmp_path / "m.safetensors").generate(60, seed=1, speaker=0)
    with t.averaged() as model:
        assert np.array_equal(model.generate(60, seed=1, speaker=0), expected)
    assert not np.array_equal(t.model.generate(60, seed=1, speaker=0), expected)
