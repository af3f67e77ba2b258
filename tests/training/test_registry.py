"""A user's own optimizer and schedule: they train, go to files by name, and resume once they are registered."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from helpers.tiny_model import Tiny, TinyData
from helpers.trainers import state, trainer

from wavedil.errors import CheckpointError, ConfigError
from wavedil.training import FineTune, Trainer, optimizers, schedules
from wavedil.training.registry import Registry


@dataclass(frozen=True)
class Signs(optimizers.Optimizer):
    """Steps of one size along the signs of a running mean."""

    lr: float
    keep: float = 0.5
    unused: tuple[int, ...] = (1, 2)
    weight_decay: float = 0.0

    moments = ("mean",)

    def change(self, weights, gradient, moments, *, step, lr):
        mean = moments["mean"]
        mean += (1 - self.keep) * (gradient - mean)
        weights -= lr * (np.sign(mean) + self.weight_decay * weights)


@dataclass(frozen=True)
class Halves(schedules.Schedule):
    """Half as much after every so many steps, and what another schedule says of it."""

    every: int
    of: schedules.Schedule = schedules.Constant()

    def __call__(self, step):
        return 0.5 ** (step // self.every) * self.of(step)


@pytest.fixture
def known(monkeypatch):
    """Both are registered during a test."""
    for module, kind in ((optimizers, Signs), (schedules, Halves)):
        monkeypatch.setattr(module.registry, "_kinds", dict(module.registry._kinds))
        module.register(kind)


def run(steps, **options):
    mine = {"optimizer": Signs(0.01), "schedule": Halves(4, schedules.cosine(40)), "ema": 0.9, "clip": 0.05}
    t = trainer(**mine | options)
    t.fit(steps=steps)
    return t


@pytest.mark.parametrize("recipe", [None, FineTune(freeze="embedding", lr_scale={"head.*": 2})], ids=["all", "part"])
def test_they_train_and_resume_bit_for_bit(recipe, known, tmp_path):
    straight, first = run(20, finetune=recipe), run(10, finetune=recipe)
    first.save(tmp_path / "x.safetensors")
    second = Trainer.resume(tmp_path / "x.safetensors", TinyData(), model=Tiny(seed=9))
    assert second.optimizer == first.optimizer and second.schedule == first.schedule
    second.fit(steps=10)
    assert state(second) == state(straight) != state(first)


def test_the_first_step_by_hand():
    t = run(1, schedule=None)
    start = Tiny().params
    for name, value in t.weights.items():
        moved = t.model.params[name] - start[name]
        assert np.allclose(np.abs(moved[moved != 0]), 0.01, atol=1e-6) and moved.any(), name
        decay = 2 / 11
        assert np.allclose(t.average[name], decay * start[name] + (1 - decay) * value, atol=1e-7)


def test_the_gradient_comes_clipped(known):
    seen = []

    @optimizers.register
    @dataclass(frozen=True)
    class Looks(optimizers.Optimizer):
        lr: float = 1.0

        def change(self, weights, gradient, moments, *, step, lr):
            seen.append((float(np.linalg.norm(gradient)), step, lr))

    run(2, optimizer=Looks(), clip=1e-3, schedule=schedules.constant(warmup=4))
    assert [norm for norm, _, _ in seen] == pytest.approx([1e-3, 1e-3], rel=1e-4)
    assert [rest for _, *rest in seen] == [[1, 0.25], [2, 0.5]]


def test_its_weight_decay_follows_a_recipe():
    start = Tiny().params["speaker"].copy()
    still = {"optimizer": Signs(0.1, keep=1.0, weight_decay=0.5), "schedule": None, "ema": None}
    t = run(1, finetune=FineTune(decay_scale={"speaker": 2, "head.*": 0}), **still)
    assert np.allclose(t.model.params["speaker"], start * (1 - 0.1 * 0.5 * 2), atol=1e-7)
    assert np.array_equal(t.model.params["head.weight"], Tiny().params["head.weight"])


@pytest.mark.parametrize(("options", "name", "module"), [({"schedule": None}, "Signs", "optimizers"),
                                                         ({"optimizer": None}, "Halves", "schedules")])
def test_a_resume_without_the_class_says_to_register_it(options, name, module, tmp_path):
    run(1, **options).save(tmp_path / "x.safetensors")
    words = rf"x\.safetensors: {module}: kind must be one of .*, got '{name}'; a class of your own must be imported "
    with pytest.raises(CheckpointError, match=words + rf"and registered first \(@{module}\.register\)"):
        Trainer.resume(tmp_path / "x.safetensors", TinyData(), model=Tiny())


def test_they_go_to_json_and_back(known):
    for module, thing in ((optimizers, Signs(0.1)), (schedules, schedules.warmup(3, Halves(2, schedules.cosine(9))))):
        assert module.from_dict(json.loads(json.dumps(thing.to_dict()))) == thing


def test_names_are_those_that_are_registered(known):
    assert optimizers.registry.names == ("SGD", "Adam", "AdamW", "Signs")
    assert schedules.registry.names == ("Constant", "Exponential", "Cosine", "Warmup", "Halves")


def test_a_name_and_a_table_of_settings_make_an_optimizer_with_what_it_knows(known):
    table = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "keep": 0.25}
    for name, expected in (("sgd", optimizers.SGD(0.1, 0.9)), ("Adam", optimizers.Adam(0.1)),
                           ("adamw", optimizers.AdamW(0.1, weight_decay=0.2)),
                           ("signs", Signs(0.1, 0.25, weight_decay=0.2))):  # fmt: skip
        assert optimizers.registry.named(name, table) == expected
    with pytest.raises(ConfigError, match="optimizers: name must be one of 'sgd', 'adam', 'adamw', 'signs', got"):
        optimizers.registry.named("lion", table)
    with pytest.raises(ConfigError, match="optimizers: SGD does not take"):
        optimizers.registry.named("sgd", {})


def test_what_cannot_be_registered():
    registry = Registry("things", optimizers.Optimizer)

    class Plain(optimizers.Optimizer):
        pass

    for wrong in (Plain, Halves, 3, Signs(0.1)):
        with pytest.raises(ConfigError, match=r"things\.register: the class must be a dataclass that inherits"):
            registry.register(wrong)
    assert registry.register(Signs) is Signs
    again = dataclass(frozen=True)(type("Signs", (Signs,), {"__module__": Signs.__module__}))
    assert registry.register(again) is again  # a notebook's cell that runs again
    other = dataclass(frozen=True)(type("Signs", (Signs,), {"__module__": "elsewhere"}))
    with pytest.raises(ConfigError, match=r"things\.register: Signs is the name of .*test_registry's already"):
        registry.register(other)


def test_an_optimizer_without_change_says_so():
    @dataclass(frozen=True)
    class Empty(optimizers.Optimizer):
        lr: float = 0.1

    with pytest.raises(NotImplementedError, match=r"Empty must have change\(\) or update\(\)"):
        run(1, optimizer=Empty())
