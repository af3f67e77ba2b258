"""Schedules and optimizers: values, dicts there and back, and bad settings."""

import doctest
import json

import numpy as np
import pytest

from wavedil.errors import ConfigError
from wavedil.parameters.store import Parameters
from wavedil.training import SGD, Adam, AdamW, optimizers, schedules
from wavedil.training.schedules import Constant, Cosine, Exponential, Warmup


def test_values():
    assert [schedules.constant()(t) for t in (0, 10**6)] == [1, 1]
    assert [schedules.exponential(4, final=1 / 16)(t) for t in (0, 1, 2, 4, 9)] == [1, 1 / 2, 1 / 4, 1 / 16, 1 / 16]
    cosine = schedules.cosine(8, final=0.2)
    assert [cosine(t) for t in (0, 2, 4, 8, 99)] == pytest.approx([1, 0.2 + 0.8 * 0.853553, 0.6, 0.2, 0.2], rel=1e-6)
    assert schedules.cosine(1000)(999) > 0
    warm = schedules.warmup(4, schedules.cosine(10))
    assert [warm(t) for t in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warm(9) == pytest.approx(0.5) and warm(14) == 0
    assert schedules.constant(warmup=2)(0) == 0.5 and schedules.constant(warmup=2)(50) == 1


def test_the_example_in_the_docs():
    result = doctest.testmod(schedules)
    assert result.attempted == 3 and result.failed == 0


def test_numbers_of_numpy_become_pythons():
    for mine, plain in (
        (Cosine(np.int64(10), np.float32(0.5)), Cosine(10, 0.5)),
        (Warmup(np.uint8(3), Exponential(np.int32(9))), Warmup(3, Exponential(9))),
        (schedules.cosine(np.int64(9), warmup=np.int16(2)), schedules.cosine(9, warmup=2)),
        (SGD(np.float32(0.5), np.float64(0.25), np.bool_(True)), SGD(0.5, 0.25, True)),
        (AdamW(np.float32(0.5), (np.float32(0.5), 0), eps=np.int64(1)), AdamW(0.5, (0.5, 0.0), eps=1.0)),
    ):
        assert mine == plain and json.dumps(mine.to_dict()) == json.dumps(plain.to_dict())


def test_warmup_is_part_of_all_steps():
    for make, end in ((schedules.cosine, 0.1), (schedules.exponential, 0.1)):
        rate = make(20, warmup=5, final=0.1)
        assert [rate(t) for t in (0, 4, 5)] == pytest.approx([0.2, 1, 1])
        assert rate(19) > end and rate(20) == pytest.approx(end)


@pytest.mark.parametrize(
    "schedule",
    [Constant(), Cosine(10, 0.1), Exponential(9, 0.5), Warmup(3, Warmup(2, Cosine(5))), schedules.cosine(9, warmup=2)],
    ids=str,
)
def test_schedules_go_to_json_and_back(schedule):
    assert schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


@pytest.mark.parametrize("optimizer", [
    SGD(0.1), SGD(0.1, 0.9), SGD(0.1, 0.9, nesterov=True), Adam(1e-3, (0.8, 0.9), 1e-6), Adam(1, amsgrad=True),
    AdamW(1, weight_decay=0), AdamW(1, decays="matrices"), AdamW(1, decays=["head.*", "*.weight"]),
])  # fmt: skip
def test_optimizers_go_to_json_and_back(optimizer):
    assert optimizers.from_dict(json.loads(json.dumps(optimizer.to_dict()))) == optimizer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cosine(0), "Cosine: steps must be at least 1, got 0"),
        (lambda: Cosine(10.0), "steps"),
        (lambda: Cosine(True), "steps"),
        (lambda: Cosine(10, 1.5), r"final must be in \[0, 1\], got 1.5"),
        (lambda: Cosine(10, float("nan")), "final"),
        (lambda: Exponential(10, 0), "final must be above 0"),
        (lambda: schedules.cosine(5, warmup=5), "warmup must be shorter"),
        (lambda: schedules.constant(warmup=-1), "warmup"),
        (lambda: Warmup(2, 1.0), "then must be a schedule"),
        (lambda: schedules.from_dict({"kind": "Sawtooth"}), "Sawtooth"),
        (lambda: schedules.from_dict({"kind": "Cosine", "stepz": 3}), "stepz"),
        (lambda: schedules.from_dict(None), "None"),
        (lambda: SGD(-1), r"SGD: lr must be a number in \[0, inf\), got -1"),
        (lambda: SGD("1"), "lr"),
        (lambda: SGD(1, 1), "momentum"),
        (lambda: Adam(1, (0.9, 1)), "Adam: betas"),
        (lambda: Adam(1, 0.9), "betas must be two numbers"),
        (lambda: Adam(1, eps=0), "eps"),
        (lambda: AdamW(1, eps=-1), "AdamW: eps"),
        (lambda: AdamW(1, weight_decay=-0.1), "weight_decay"),
        (lambda: AdamW(float("inf")), "lr"),
        (lambda: SGD(1, 0.9, nesterov=1), "SGD: nesterov must be True or False, got 1"),
        (lambda: SGD(1, nesterov=True), "nesterov needs momentum above 0"),
        (lambda: Adam(1, amsgrad="yes"), "Adam: amsgrad must be True or False, got 'yes'"),
        (lambda: AdamW(1, decays=3), "AdamW: decays: patterns must be non-empty strings, got 3"),
        (lambda: optimizers.from_dict({"kind": "Lion", "lr": 1}), "Lion"),
        (lambda: optimizers.from_dict({"kind": "SGD", "lr": 1, "betas": 1}), "betas"),
        (lambda: optimizers.from_dict({"kind": "SGD"}), "SGD"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("optimizer", [
    SGD(0.1), SGD(0.1, 0.9), SGD(0.1, 0.9, nesterov=True), Adam(0.1), Adam(0.1, amsgrad=True),
    AdamW(0.1, weight_decay=0.5), AdamW(0.1, weight_decay=0.5, amsgrad=True),
])  # fmt: skip
def test_each_optimizer_goes_downhill(optimizer):
    params, grads = Parameters({"a": (3,), "b": (2, 2)}), Parameters({"a": (3,), "b": (2, 2)})
    for view in params.values():
        view[...] = 1
    moments = {name: params.like() for name in optimizer.moments}
    options = {"scale": 1.0, "average": None, "decay": 0.0, "threads": 1}
    for step in range(1, 201):
        grads.flat[:] = params.flat  # of the sum of squares
        optimizer.update(params, grads, moments, step=step, lr=optimizer.lr, **options)
    assert np.abs(params.flat).max() < 0.05
    assert all(moment.flat.any() for moment in moments.values())
