"""What a model is made of, in figures and in words."""

import numpy as np
import pytest

import wavedil as wd
from wavedil.runs import settings, summary


def test_forward_flops_counts_two_per_weight_of_a_product():
    shapes = {"input.embedding": (256, 4), "blocks.0.conv.weight": (2, 4, 6), "blocks.0.conv.bias": (6,),
              "blocks.0.condition.weight": (4, 6),
              "head.0.weight": (3, 5)}
    assert summary.forward_flops(shapes) == 2 * (2 * 4 * 6 + 3 * 5)


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_of_a_step_is_near_what_is_allocated(recompute):
    config = wd.WaveNetConfig(dilations=[1, 2, 4, 8, 16, 32, 64, 128], residual_channels=16, dilation_channels=16)
    model = wd.WaveNet(config, recompute=recompute)
    model.loss_and_grads(np.zeros((4, 4097), np.uint8))
    likes = 4 * model.params.flat.nbytes  # weights, gradient, two moments
    estimate = summary.memory_of_a_step(config, model.params, 4, 4096, recompute)
    assert abs(estimate / (model._workspace.nbytes + likes) - 1) < 0.25


@pytest.mark.parametrize(("bits", "words"), [(7.9, "not learned"), (7.0, "not yet less"), (5.0, "by 1.22 bits")])
def test_verdict(bits, words):
    text = summary.verdict(bits, {"uniform": 8.0, "order0": 7.66, "order1": 6.22, "flac": 6.4})
    assert f"{bits:.2f}" in text and words in text


def test_layers_of_a_wavenet_and_of_a_tcn_see_more_and_more():
    wavenet = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 4], kernel_size=3, speakers=2))
    found = summary.layers(wavenet)
    assert [(row.name, row.what, row.field) for row in found] == [
        ("speaker", "2 speakers", 1), ("input", "embedding", 1), ("blocks.0", "dilation 1", 3),
        ("blocks.1", "dilation 4", 11), ("head.0", "1 x 1", 11), ("head.1", "1 x 1", 11)]  # fmt: skip
    assert sum(row.parameters for row in found) == wavenet.params.count
    tcn = wd.TCN(wd.TCNConfig(dilations=[1, 4], channels=3, kernel_size=3))
    found = summary.layers(tcn)
    assert [(row.name, row.field) for row in found] == [("blocks.0", 5), ("blocks.1", 21), ("head", 21)]
    assert found[-1].field == tcn.receptive_field and sum(row.parameters for row in found) == tcn.params.count


def test_flops_of_a_tcn_count_its_directions_once():
    tcn = wd.TCN(wd.TCNConfig(dilations=[1], channels=3, kernel_size=2))
    assert summary.summarise(tcn, settings.TrainSettings()).flops == 2 * (2 * 1 * 3 + 2 * 3 * 3 + 1 * 3 + 3 * 1)


def test_a_recipe_in_words():
    recipe = {"lora": {"rank": 2}, "freeze": ["input.*"], "lr_scale": [["head.*", 2.0]], "unfreeze": {"blocks.*": 5}}
    assert summary.recipe_text(recipe) == (
        "adapters of rank 2; frozen: input.*; learning rate: head.* x 2; from step: blocks.* 5"
    )
    assert summary.recipe_text({}) == "all of the model trains"
