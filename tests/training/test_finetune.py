"""Fine-tuning with a model small enough to check by hand: patterns, recipes, what a step changes, resume, adapters."""

import json

import numpy as np
import pytest
from helpers.tiny_model import Tiny, TinyData
from helpers.trainers import state, trainer

from wavedil.errors import ConfigError
from wavedil.parameters import files, names
from wavedil.parameters.adapters import Adapters
from wavedil.parameters.store import Parameters
from wavedil.training import SGD, Adam, AdamW, FineTune, LoRA, Trainer

NAMES = [f"blocks.{i}.{kind}" for i in range(12) for kind in ("conv.weight", "conv.bias")] + ["head.0.weight"]
FACTORS = {"head.weight.lora_a", "head.weight.lora_b"}


# -- patterns ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "count"),
    [("*", 25), ("blocks.0-9.*", 20), ("blocks.9-11.conv.bias", 3), ("blocks.1.*", 2), ("*.bias", 12), ("head.*", 1),
     ("blocks.?.*", 20), ("head.0-0.weight", 1), (["blocks.0-1.*", "blocks.1-2.*"], 6), ([], 0)],
)  # fmt: skip
def test_patterns(pattern, count):
    assert len(names.select(pattern, NAMES, "here")) == count


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("block.0-3.*", "blocks.3.*"), ("blocks.12-15.*", "blocks.11.*"), ("head.0.weigth", "head.0.weight"),
     ("blocks.3.conv.bais", "blocks.3.conv.bias"), ("heads.*", "head.*")],
)  # fmt: skip
def test_a_pattern_that_fits_nothing_lists_near_names(pattern, near):
    with pytest.raises(ConfigError, match="here: pattern .* must fit a name, got none; near: ") as error:
        names.select(["*", pattern], NAMES, "here")
    assert near in str(error.value).split("near: ")[1].split(", ")


def test_patterns_must_be_strings():
    for wrong in (3, [""], ["a", None]):
        with pytest.raises(ConfigError, match="patterns must be non-empty strings"):
            names.select(wrong, NAMES, "here")


# -- recipes -----------------------------------------------------------------------------------------------------------
def test_recipes_go_to_plain_types_and_back():
    recipe = FineTune(freeze="embedding", train=["head.*"], lr_scale={"head.*": 2, "head.bias": 0.5},
                      decay_scale={"*.bias": 0}, unfreeze={"head.bias": 3}, l2_start=0.1,
                      lora=LoRA(2, alpha=4, targets="head"))  # fmt: skip
    about = recipe.to_dict()
    assert about["lr_scale"] == [["head.*", 2.0], ["head.bias", 0.5]] and about["lora"]["targets"] == ["head"]
    assert FineTune.from_dict(about) == recipe
    assert FineTune().to_dict() == {} and LoRA(3).alpha == 3
    wide = FineTune(lr_scale={"*": np.float32(2)}, unfreeze={"speaker": np.int64(3)}, l2_start=np.float32(0.5),
                    lora=LoRA(np.int64(2), np.float32(4)))  # fmt: skip
    plain = FineTune(lr_scale={"*": 2}, unfreeze={"speaker": 3}, l2_start=0.5, lora=LoRA(2, 4))
    assert wide == plain and json.dumps(wide.to_dict()) == json.dumps(plain.to_dict())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FineTune(freeze=[3]), "freeze: patterns"),
        (lambda: FineTune(lr_scale={"head.*": 0}), r"lr_scale of 'head\.\*' must be a number above 0 .*use freeze"),
        (lambda: FineTune(lr_scale={"head.*": "2"}), "must be a number"),
        (lambda: FineTune(lr_scale=["head.*"]), "must be pairs"),
        (lambda: FineTune(unfreeze={"head.*": 1.5}), "unfreeze of .* must be an integer, got 1.5"),
        (lambda: FineTune(l2_start=-1), "l2_start"),
        (lambda: FineTune(lora=2), "lora must be a LoRA"),
        (lambda: LoRA(0), "rank"),
        (lambda: LoRA(2, alpha=0), "alpha must be a number above 0"),
        (lambda: FineTune.from_dict({"frezee": []}), "unknown key 'frezee'; did you mean 'freeze'"),
        (lambda: FineTune.from_dict({"lora": {"rnak": 2}}), "LoRA: unknown key 'rnak'; did you mean 'rank'"),
        (lambda: FineTune.from_dict({"lora": {}}), "rank must be given"),
        (lambda: FineTune.from_dict(None), "expected a table"),
        (lambda: trainer(finetune={"freeze": []}), "finetune must be a FineTune"),
        (lambda: trainer(finetune=FineTune(freeze="haed.*")), "freeze: pattern 'haed.*' .* near: head"),
        (lambda: trainer(finetune=FineTune(freeze="*")), "something must train"),
        (lambda: trainer(finetune=FineTune(freeze="head.*", lr_scale={"head.*": 2})), "all it fits is frozen"),
        (lambda: trainer(finetune=FineTune(unfreeze={"hed": 2})), "unfreeze: pattern 'hed'"),
        (lambda: trainer(finetune=FineTune(lora=LoRA(2, targets="tail"))), "targets: pattern 'tail'.* near: head"),
        (lambda: trainer(finetune=FineTune(lora=LoRA(6))), r"rank must be at most 5 for head.weight \(5, 16\), got 6"),
        (lambda: trainer(finetune=FineTune(freeze="*.lora_a", lora=LoRA(2))), "must leave the adapters alone.*lora_a"),
        (lambda: trainer(finetune=FineTune(freeze="head.*", lora=LoRA(2))), "with lora all else is frozen already"),
        (lambda: trainer(finetune=FineTune(train="head.*", lora=LoRA(2))), "train must not fit weights that have"),
        (lambda: trainer(optimizer=Adam(0.1), finetune=FineTune(decay_scale={"*": 0})), "needs an optimizer with w"),
    ],
)  # fmt: skip
def test_bad_recipes(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# -- what a step changes -----------------------------------------------------------------------------------------------
def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_frozen_values_stay_bit_for_bit_also_in_the_average(tmp_path):
    start = Tiny().params
    t = trainer(tmp_path, ema=0.7, optimizer=AdamW(0.02, weight_decay=0.3), finetune=FineTune(freeze="embedding"))
    t.fit(steps=5)
    assert changed(start, t.model.params) == {"speaker", "head.weight", "head.bias"}
    assert set(t.weights) == set(t.average) == set(t.moments["first"]) == {"speaker", "head.weight", "head.bias"}
    saved, _ = files.read(tmp_path / "model.safetensors")
    assert np.array_equal(saved["embedding"], start["embedding"])
    assert np.array_equal(saved["head.bias"], t.average["head.bias"])
    assert not np.array_equal(saved["head.bias"], t.model.params["head.bias"])


def test_without_a_limit_on_the_norm_the_rest_trains_as_if_nothing_were_frozen_at_the_first_step():
    whole = trainer(clip=None)
    part = trainer(clip=None, finetune=FineTune(freeze="embedding"))
    for t in (whole, part):
        t.fit(steps=1)
    for name in part.weights:
        assert np.array_equal(whole.model.params[name], part.model.params[name])


def test_a_recipe_that_changes_nothing_changes_nothing():
    plain, recipe = trainer(ema=0.9, clip=0.05), trainer(ema=0.9, clip=0.05, finetune=FineTune())
    for t in (plain, recipe):
        t.fit(steps=10)
    for name in plain.weights:
        assert np.array_equal(plain.model.params[name], recipe.model.params[name])
        assert np.array_equal(plain.average[name], recipe.average[name])


def test_the_norm_is_that_of_what_trains():
    seen = []
    t = trainer(finetune=FineTune(train="head.bias"), clip=1e-3, optimizer=SGD(1.0))
    start = t.model.params["head.bias"].copy()
    t.fit(steps=1, on_step=seen.append)
    assert np.linalg.norm(t.model.params["head.bias"] - start) == pytest.approx(1e-3, rel=1e-3)
    _, grads = Tiny().loss_and_grads(*_first_batch()[0], **_first_batch()[1])
    assert seen[0].gradient_norm == pytest.approx(np.linalg.norm(grads["head.bias"]), rel=1e-5)


def _first_batch():
    *batch, keywords = TinyData().batch(np.random.Generator(np.random.PCG64(5)), 3, 20)
    return batch, keywords


def test_factors_on_the_learning_rate_and_the_last_that_fits_counts():
    recipe = FineTune(lr_scale=[("*", 3.0), ("head.*", 0.5)])
    scaled, plain = trainer(optimizer=SGD(0.1), clip=None, finetune=recipe), trainer(optimizer=SGD(0.1), clip=None)
    start = Tiny().params
    for t in (scaled, plain):
        t.fit(steps=1)
    for name, factor in (("embedding", 3), ("speaker", 3), ("head.weight", 0.5), ("head.bias", 0.5)):
        wanted = factor * (plain.model.params[name] - start[name])
        assert np.allclose(scaled.model.params[name] - start[name], wanted, atol=1e-7) and wanted.any()


def test_factors_on_the_weight_decay():
    start = Tiny().params
    with_decay, recipe = AdamW(0.01, weight_decay=0.5), FineTune(decay_scale={"*.bias": 0, "speaker": 2})
    moved = {}
    for key, options in {"decay": {"optimizer": with_decay}, "none": {"optimizer": AdamW(0.01, weight_decay=0)},
                         "recipe": {"optimizer": with_decay, "finetune": recipe}}.items():  # fmt: skip
        t = trainer(**options)
        t.fit(steps=1)
        moved[key] = t.model.params
    for name, factor in (("head.bias", 0), ("speaker", 2), ("embedding", 1)):
        assert np.allclose(moved["recipe"][name], moved["none"][name] - factor * 0.005 * start[name], atol=1e-7)


def test_gradual_unfreezing_starts_as_fresh_as_a_first_step():
    t = trainer(clip=None, ema=0.5, finetune=FineTune(unfreeze={"embedding": 3, "speaker": 5}))
    start = Tiny().params
    t.fit(steps=3)
    assert changed(start, t.model.params) == {"head.weight", "head.bias"}
    assert np.array_equal(t.average["embedding"], start["embedding"])
    assert not t.moments["first"]["embedding"].any()
    t.fit(steps=1)
    assert changed(start, t.model.params) == {"head.weight", "head.bias", "embedding"}
    # The first step of Adam is about the learning rate, however late it comes.
    assert np.abs(t.model.params["embedding"] - start["embedding"]).max() == pytest.approx(0.02, rel=0.05)
    t.fit(steps=2)
    assert changed(start, t.model.params) == set(start)


def test_only_needed_gradients_are_asked_for():
    asked = []

    class Asked(Tiny):
        def loss_and_grads(self, codes, sample_weight=None, into=None, *, needs=None, speaker=None):
            asked.append(needs)
            return super().loss_and_grads(codes, sample_weight, into, speaker=speaker)

    trainer(model=Asked()).fit(steps=1)
    trainer(model=Asked(), finetune=FineTune(freeze="embedding", unfreeze={"speaker": 1})).fit(steps=2)
    trainer(model=Asked(), accumulate=2, finetune=FineTune(lora=LoRA(1))).fit(steps=1)
    head = {"head.weight", "head.bias"}
    assert asked == [None, head, head | {"speaker"}, {"head.weight"}, {"head.weight"}]


def test_l2_to_the_start_holds_values_back():
    start = Tiny().params
    free, held, tied = (trainer(optimizer=AdamW(0.02, weight_decay=0), finetune=FineTune(l2_start=strength))
                        for strength in (0.0, 5.0, 50.0))  # fmt: skip
    for t in (free, held, tied):
        t.fit(steps=30)
    a, b, c = (np.linalg.norm(t.model.params.flat - start.flat) for t in (free, held, tied))
    assert c < b < 0.8 * a and c > 0
    # By hand: one step from elsewhere than the start, without a gradient.
    t = trainer(optimizer=SGD(0.1), finetune=FineTune(l2_start=2.0))
    t.weights.flat[:] += 1
    for group in t._plan.groups:
        t._plan.pull(group, 0.1 * 2)
    assert np.allclose(t.weights["speaker"], start["speaker"] + 0.8)


# -- resume ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "recipe",
    [
        FineTune(freeze="embedding", lr_scale={"*": 0.5, "head.*": 2}, decay_scale={"*.bias": 0}),
        FineTune(unfreeze={"embedding": 13, "speaker": 5}, l2_start=1.0),
        FineTune(lora=LoRA(2, alpha=3), train="*.bias", lr_scale={"*.lora_b": 4.0}, l2_start=0.5),
    ],
    ids=["frozen", "gradual", "lora"],
)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_20_steps_are_10_saved_and_10_more(recipe, ema, tmp_path):
    options = {"finetune": recipe, "ema": ema, "clip": 0.2, "accumulate": 2, "validation": TinyData()}
    straight = trainer(**options)
    straight.fit(steps=20)
    first = trainer(tmp_path, **options)
    first.fit(steps=10)
    second = Trainer.resume(tmp_path, TinyData(), model=Tiny(seed=99))
    assert second.finetune == recipe
    assert everything(second) == everything(first)
    second.fit(steps=10)
    assert everything(second) == everything(straight) != everything(first)


def everything(t):
    plan = [t.weights.copy()] + ([t._plan.start] if t._plan.start else [])
    plan += [t.adapters.base] if t.adapters else []
    return state(t), [view.tobytes() for values in plan for view in values.values()]


# -- adapters ----------------------------------------------------------------------------------------------------------
SHAPES = {"a.conv.weight": (2, 6, 10), "a.conv.bias": (10,), "b.weight": (6, 4), "c.embedding": (8, 6)}


def adapted(dtype="float64", rank=2):
    rng = np.random.default_rng(3)
    params = Parameters(SHAPES, dtype)
    for view in params.values():
        view[...] = rng.standard_normal(view.shape)
    adapters = Adapters(params, "*", rank, alpha=3.0, seed=1)
    values = Parameters(adapters.shapes, dtype)
    adapters.initialize(values)
    return params, adapters, values, rng


def test_adapters_have_the_shapes_of_the_weights_as_matrices():
    params, adapters, values, _ = adapted()
    assert values.shapes == {"a.conv.weight.lora_a": (12, 2), "a.conv.weight.lora_b": (2, 10),
                             "b.weight.lora_a": (6, 2), "b.weight.lora_b": (2, 4)}  # fmt: skip
    before = params.flat.copy()
    adapters.merge(values, params)
    assert np.array_equal(params.flat, before)  # B is zero


def test_merge_is_the_equation_and_unmerge_restores_every_bit():
    params, adapters, values, rng = adapted("float32")
    before = params.copy()
    for view in values.values():
        view[...] = rng.standard_normal(view.shape)
    adapters.merge(values, params)
    a, b = values["a.conv.weight.lora_a"], values["a.conv.weight.lora_b"]
    for k in range(2):
        product = a[6 * k : 6 * k + 6].astype(float) @ b
        assert np.allclose(params["a.conv.weight"][k], before["a.conv.weight"][k] + 1.5 * product, atol=1e-5)
    assert changed(before, params) == {"a.conv.weight", "b.weight"}
    adapters.merge(values, params)  # from the kept copy: twice is not more
    adapters.unmerge(params)
    assert params.flat.tobytes() == before.flat.tobytes()


def test_gradients_of_the_factors_are_those_of_the_loss():
    params, adapters, values, rng = adapted()
    for view in values.values():
        view[...] = rng.standard_normal(view.shape)
    g = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}  # loss = sum of g W

    def loss():
        adapters.merge(values, params)
        return sum((g[name] * params[name]).sum() for name in params)

    grads = values.like()
    grads.flat[:] = 0
    adapters.backward(values, g, grads, set(values))
    twice = {"b.weight.lora_a", "a.conv.weight.lora_b"}
    adapters.backward(values, g, grads, twice)  # += and only what is named
    for name, view in values.items():
        times = 2 if name in twice else 1
        for at in ((0, 0), (1, 1)):
            view[at] += 1e-3
            high = loss()
            view[at] -= 2e-3
            assert times * (high - loss()) / 2e-3 == pytest.approx(grads[name][at], rel=1e-6)
            view[at] += 1e-3


def test_lora_trains_the_adapters_alone_and_the_model_has_them_merged_in():
    start = Tiny().params
    t = trainer(finetune=FineTune(lora=LoRA(2)), validation=TinyData())
    before = t.validate()
    t.fit(steps=40)
    assert set(t.weights) == FACTORS and t.weights.count == 2 * (5 + 16)
    assert changed(start, t.model.params) == {"head.weight"} and t.validate() < before
    delta = t.weights["head.weight.lora_a"] @ t.weights["head.weight.lora_b"]
    assert np.allclose(t.model.params["head.weight"], start["head.weight"] + delta, atol=1e-6)
    t.adapters.unmerge(t.model.params)
    assert t.model.params.flat.tobytes() == start.flat.tobytes()
    t.adapters.merge(t.weights, t.model.params)
    assert changed(start, t.model.params) == {"head.weight"}
    also = trainer(finetune=FineTune(lora=LoRA(2), train=["speaker", "*.bias"]))
    also.fit(steps=2)
    assert set(also.weights) == FACTORS | {"speaker", "head.bias"}
    assert changed(start, also.model.params) == {"speaker", "head.weight", "head.bias"}


def test_an_average_of_adapters_is_saved_merged(tmp_path):
    t = trainer(tmp_path, ema=0.8, finetune=FineTune(lora=LoRA(2)))
    t.fit(steps=6)
    saved, _ = files.read(tmp_path / "model.safetensors")
    a, b = t.average["head.weight.lora_a"], t.average["head.weight.lora_b"]
    assert np.allclose(saved["head.weight"], Tiny().params["head.weight"] + a @ b, atol=1e-6)
    assert changed(Tiny().params, saved) == {"head.weight"}
