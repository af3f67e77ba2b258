"""The trainer: what it computes, bitwise resume, averages, accumulation, early stop, divergence, interrupts, files."""

import errno
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.tiny_model import Tiny, TinyConfig, TinyData, metrics
from helpers.trainers import state, trainer

from wavedil.audio import Clips
from wavedil.errors import CheckpointError, ConfigError, DataError, DivergedError
from wavedil.parameters import files
from wavedil.training import SGD, Adam, AdamW, FineTune, Trainer, schedules


def full_disk(file, data):
    file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


# -- what a step computes ----------------------------------------------------------------------------------------------


def test_the_first_step_by_hand():
    t = trainer(optimizer=SGD(0.5), clip=0.01, schedule=schedules.constant(warmup=4))
    model, data = Tiny(), TinyData()
    *batch, keywords = data.batch(np.random.Generator(np.random.PCG64(5)), 3, 20)
    loss, grads = model.loss_and_grads(*batch, **keywords)
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads.values()))
    assert norm > 0.01
    seen = []
    t.fit(steps=1, on_step=seen.append)
    for name, w in model.params.items():
        expected = w - 0.5 / 4 * (0.01 / norm) * grads[name]
        assert np.abs(t.model.params[name] - expected).max() < 1e-7
        assert not np.array_equal(w, t.model.params[name])
    assert seen[0].loss == pytest.approx(loss / math.log(2), rel=1e-6)
    assert seen[0].gradient_norm == pytest.approx(norm, rel=1e-5)
    assert seen[0].learning_rate == 0.125 and seen[0].step == seen[0].steps == 1
    assert seen[0].validation is None and seen[0].seconds_left == 0
    assert seen[0].samples_per_second > 0 and seen[0].x_realtime == seen[0].samples_per_second / 8000


def test_it_learns():
    t = trainer(validation=TinyData())
    before = t.validate()
    assert t.fit(steps=150) == "steps"
    assert t.validate() < before - 1 and t.best < before - 1


def test_accumulation_refuses_weights_by_their_old_name():
    class Old(Tiny):
        def loss_and_grads(self, codes, weights=None, *, into=None, **keywords):
            return super().loss_and_grads(codes, weights, into=into, **keywords)

    trainer(model=Old())
    with pytest.raises(ConfigError, match="expected loss_and_grads to call .* sample_weight, got the name weights"):
        trainer(model=Old(), accumulate=2)


def test_accumulated_batches_equal_one_large_batch():
    class Pieces(TinyData):
        """The windows of one large batch, three at a time, with very different weights in them."""

        def batch(self, rng, batch, window):
            codes, weights, keywords = super().batch(np.random.default_rng(11), 9, window)
            weights[:3] *= 0.1
            part = slice(self.drawn // 9 % 3 * 3 - 3, self.drawn // 9 % 3 * 3 or None)
            return codes[part], weights[part], {"speaker": keywords["speaker"][part]}

    class Whole(Pieces):
        def batch(self, rng, batch, window):
            parts = [super(Whole, self).batch(rng, 3, window) for _ in range(3)]
            return *(np.concatenate(p) for p in zip(*(q[:2] for q in parts), strict=True)), {
                "speaker": np.concatenate([p[2]["speaker"] for p in parts])
            }

    runs = []
    for data, options in ((Pieces(), {"accumulate": 3}), (Whole(), {"batch": 9})):
        seen = []
        t = trainer(data=data, model=Tiny(dtype="float64"), optimizer=SGD(0.3), clip=0.1, **options)
        t.fit(steps=3, on_step=seen.append)
        runs.append((t.model.params.flat, [(p.loss, p.gradient_norm) for p in seen]))
    assert np.allclose(runs[0][0], runs[1][0], rtol=1e-12, atol=1e-14)
    assert np.allclose(runs[0][1], runs[1][1], rtol=1e-12)


def test_the_average_follows_the_weights_and_is_what_is_validated():
    t = trainer(ema=0.95, validation=TinyData(), validate_every=10)
    average = t.model.params.flat.astype(float)
    weights = []
    seen = []

    def on_step(progress):
        seen.append(progress)
        weights.append(t.model.params.flat.copy())

    t.fit(steps=30, on_step=on_step)
    for step, w in enumerate(weights, 1):
        decay = min(0.95, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    assert np.abs(t.average.flat - average).max() < 1e-6
    assert np.array_equal(weights[-1], t.model.params.flat)

    averaged = Tiny()
    averaged.params.load(t.average)
    raw, smooth = (trainer(model=m, validation=TinyData()).validate() for m in (t.model, averaged))
    assert seen[-1].validation == pytest.approx(smooth, rel=1e-6)
    assert abs(raw - smooth) > 1e-4
    assert [p.step for p in seen if p.validation is not None] == [10, 20, 30]


def test_validation_scores_every_sample_of_each_whole_clip():
    model = Tiny(TinyConfig(classes=256))
    rng = np.random.default_rng(0)
    clips = [(str(n), rng.integers(0, 256, n).astype(np.uint8), i % 2) for i, n in enumerate((1, 50, 7, 300, 299))]
    nats = 0
    for _, codes, speaker in clips:
        h = model.params["embedding"][np.r_[128, codes[:-1]]] + model.params["speaker"][speaker]
        logits = (h @ model.params["head.weight"] + model.params["head.bias"]).astype(float)
        nats += (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(codes)), codes]).sum()
    expected = nats / sum(len(codes) for _, codes, _ in clips) / math.log(2)
    data = Clips((), clips, speakers=("a", "b"))
    for window in (1, 20, 4096):
        t = trainer(model=model, validation=data, window=window)
        assert t.validate() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="at least one sample"):
        trainer(model=model, validation=Clips(()))


def test_the_rule_of_weight_decay_spares_biases_and_embeddings():
    start, moved = Tiny().params, {}
    for key, settings in {"none": {"weight_decay": 0}, "all": {}, "matrices": {"decays": "matrices"},
                          "patterns": {"decays": ["*.bias", "emb*"]}}.items():  # fmt: skip
        t = trainer(optimizer=AdamW(0.01, **{"weight_decay": 0.5} | settings))
        t.fit(steps=1)
        moved[key] = t.model.params
    for rule, decayed in (("all", set(start)), ("matrices", {"speaker", "head.weight"}),
                          ("patterns", {"head.bias", "embedding"})):  # fmt: skip
        for name in start:
            factor = 0.005 if name in decayed else 0
            assert np.allclose(moved[rule][name], moved["none"][name] - factor * start[name], atol=1e-8), (rule, name)
    with pytest.raises(ConfigError, match="AdamW: decays: pattern 'haed.*' must fit a name"):
        trainer(optimizer=AdamW(0.01, decays="haed.*"))


def test_the_rule_of_weight_decay_multiplies_the_factors_of_a_recipe():
    start = Tiny().params
    rule = AdamW(0.01, weight_decay=0.5, decays="matrices")
    recipe = FineTune(freeze="speaker", decay_scale={"*": 3}, lr_scale={"embedding": 2})
    runs = [trainer(optimizer=optimizer, finetune=recipe) for optimizer in (rule, AdamW(0.01, weight_decay=0))]
    for t in runs:
        t.fit(steps=1)
    mine, plain = (t.model.params for t in runs)
    assert np.array_equal(mine["speaker"], start["speaker"])
    assert np.array_equal(mine["head.bias"], plain["head.bias"])
    assert np.array_equal(mine["embedding"], plain["embedding"])
    wanted = plain["head.weight"] - 0.01 * 0.5 * 3 * start["head.weight"]
    assert np.allclose(mine["head.weight"], wanted, atol=1e-8)


def test_a_rule_that_spares_nothing_keeps_the_bits():
    plain, ruled = (trainer(optimizer=AdamW(0.02, decays=rule), ema=0.9) for rule in ("all", "*"))
    for t in (plain, ruled):
        t.fit(steps=8)
    assert state(plain) == state(ruled)


def test_batches_without_weights_or_keywords():
    class Bare(TinyData):
        state = None

        def batch(self, rng, batch, window):
            return (super().batch(rng, batch, window)[0],)

    for accumulate in (1, 2):
        assert trainer(data=Bare(), accumulate=accumulate).fit(steps=2) == "steps"


# -- resume ------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "everything": {
        "optimizer": AdamW(0.02, weight_decay=0.1),
        "schedule": schedules.cosine(20, warmup=3),
        "ema": 0.9,
        "accumulate": 2,
        "clip": 0.05,
        "validation": TinyData(),
        "validate_every": 4,
        "patience": 50,
    },
    "sgd": {"optimizer": SGD(0.3, momentum=0.9, nesterov=True), "clip": None},
    "amsgrad": {"optimizer": AdamW(0.01, amsgrad=True, weight_decay=0.1)},
    "decay of matrices": {"optimizer": AdamW(0.01, decays="matrices", weight_decay=0.1), "ema": 0.9},
    "plain sgd": {"optimizer": SGD(0.3)},
    "adam": {"optimizer": Adam(0.01, betas=(0.8, 0.99)), "schedule": schedules.exponential(20)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_20_steps_are_10_saved_and_10_more(options, dtype, tmp_path):
    straight = trainer(model=Tiny(dtype=dtype), **options)
    straight.fit(steps=20)

    first = trainer(model=Tiny(dtype=dtype), **options)
    first.fit(steps=10)
    first.save(tmp_path / "any name.safetensors")
    assert os.listdir(tmp_path) == ["any name.safetensors"]
    model = Tiny(seed=99, dtype=dtype)
    second = Trainer.resume(
        tmp_path / "any name.safetensors", TinyData(), validation=options.get("validation"), model=model
    )
    assert state(first) == state(second) and second.model is model
    assert second.optimizer == first.optimizer and second.schedule == first.schedule
    second.fit(steps=10)
    assert state(second) == state(straight)
    assert state(second) != state(first)


def test_a_folder_is_gone_on_with(tmp_path):
    straight = trainer(tmp_path / "a", validation=TinyData(), validate_every=5, ema=0.9)
    straight.fit(steps=20)
    trainer(tmp_path / "b", validation=TinyData(), validate_every=5, ema=0.9).fit(steps=10)
    second = Trainer.resume(tmp_path / "b", TinyData(), validation=TinyData(), model=Tiny())
    assert second.folder == tmp_path / "b"
    second.fit(steps=10)
    for name in ("trainer.safetensors", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "b")) == ["metrics.jsonl", "model.safetensors", "trainer.safetensors"]
    a, b = (metrics(tmp_path / name) for name in "ab")
    for line in a + b:
        del line["samples_per_second"]
    assert a == b and [line["step"] for line in a] == list(range(1, 21))
    assert [line["step"] for line in a if line["validation"] is not None] == [5, 10, 15, 20]
    tensors, about = files.read(tmp_path / "b" / "model.safetensors", "model")
    assert about["step"] == 20
    assert all(np.array_equal(tensors[name], view) for name, view in second.average.items())
    assert not np.array_equal(tensors["head.bias"], second.model.params["head.bias"])


def test_after_a_kill_the_last_checkpoint_is_gone_on_with(tmp_path):
    program = (
        "import os, sys\n"
        "from helpers.trainers import trainer\n"
        "from pathlib import Path\n"
        "def on_step(progress):\n"
        "    if progress.step == 17: os._exit(9)\n"
        "trainer(Path(sys.argv[1]), validate_every=5).fit(steps=30, on_step=on_step)\n"
    )
    paths = [os.path.dirname(__file__), *sys.path]
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={"PYTHONPATH": os.pathsep.join(paths)})
    assert killed.returncode == 9
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 18, "loss_')
    (tmp_path / ".trainer.safetensors.1.tmp").write_bytes(b"half")
    t = Trainer.resume(tmp_path, TinyData(), model=Tiny())
    assert t.step == 15
    t.fit(steps=5)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 21))
    straight = trainer()
    straight.fit(steps=20)
    assert state(t) == state(straight)
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "model.safetensors", "trainer.safetensors"]


@pytest.mark.parametrize("harm", ["behind", "missing", "damaged"])
def test_the_model_file_is_rebuilt_when_it_is_not_that_of_the_trainer(harm, tmp_path):
    t = trainer(tmp_path, ema=0.5)
    t.fit(steps=3)
    model = tmp_path / "model.safetensors"
    older = model.read_bytes()
    t.fit(steps=2)
    newest = model.read_bytes()
    assert newest != older
    if harm == "missing":
        model.unlink()
    else:
        model.write_bytes(older if harm == "behind" else newest[:-3])
    Trainer.resume(tmp_path, TinyData(), model=Tiny())
    assert model.read_bytes() == newest


def test_the_data_goes_on_being_the_validation(tmp_path):
    data = TinyData()
    trainer(data=data, validation=data, patience=2).save(tmp_path / "x.safetensors")
    again = TinyData()
    t = Trainer.resume(tmp_path / "x.safetensors", again, model=Tiny())
    assert t.validation is again and t.patience == 2
    trainer(validation=TinyData(), patience=2).save(tmp_path / "x.safetensors")
    t = Trainer.resume(tmp_path / "x.safetensors", again, model=Tiny())
    assert t.validation is None and t.patience is None


def test_another_schedule_to_train_longer(tmp_path):
    t = trainer(tmp_path, schedule=schedules.cosine(4))
    t.fit(steps=4)
    t = Trainer.resume(tmp_path, TinyData(), model=Tiny(), schedule=schedules.cosine(8))
    seen = []
    t.fit(steps=1, on_step=seen.append)
    assert seen[0].learning_rate == pytest.approx(0.01)


def test_the_class_and_config_in_the_file_must_be_those_of_the_model(tmp_path):
    trainer().save(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: expected a Tiny with config"):
        Trainer.resume(tmp_path / "x.safetensors", TinyData(), model=Tiny(TinyConfig(channels=6)))


def test_files_that_do_not_resume(tmp_path):
    path = tmp_path / "x.safetensors"
    t = trainer()
    t.save(path)
    with pytest.raises(CheckpointError, match="no such file"):
        Trainer.resume(tmp_path, TinyData(), model=Tiny())
    with pytest.raises(CheckpointError, match="expected a trainer file, got 'model'"):
        t.model.save(path)
        Trainer.resume(path, TinyData(), model=Tiny())
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        path.write_bytes(b"RIFF....WAVE")
        Trainer.resume(path, TinyData(), model=Tiny())
    groups = {"params": t.model.params, **t.moments, "buffers": t.model.buffers}
    about = t._about() | {"kind": "trainer"}
    tensors = {f"{g}/{name}": a for g, arrays in groups.items() for name, a in arrays.items()}
    for change, words in (
        ({"params/head.bias": np.zeros(3, np.float32)}, r"head\.bias must be \(16,\), got \(3,\)"),
        ({"params/head.bias": np.zeros(16)}, "head.bias must be float32, got float64"),
        ({"params/more": np.zeros(3, np.float32)}, "unknown: more"),
        ({"buffers/seen": np.zeros(2, np.int64)}, "buffer seen: expected"),
        ({"buffers/more": np.zeros(2, np.int64)}, "expected buffers"),
    ):
        files.write(path, tensors | change, about)
        with pytest.raises(CheckpointError, match=f"x.safetensors: .*{words}"):
            Trainer.resume(path, TinyData(), model=Tiny())
    for key in ("random", "settings", "step"):
        files.write(path, tensors, about | {key: {"state": "7"}} if key == "random" else _without(about, key))
        with pytest.raises(CheckpointError, match="x.safetensors: "):
            Trainer.resume(path, TinyData(), model=Tiny())


def _without(about, key):
    return {name: value for name, value in about.items() if name != key}


def test_random_states_are_strings(tmp_path):
    t = trainer()
    t.save(tmp_path / "x.safetensors")
    packed = files.read_metadata(tmp_path / "x.safetensors")["random"]
    assert packed["bit_generator"] == "PCG64"
    assert packed["state"]["state"] == str(t._rng.bit_generator.state["state"]["state"])
    assert int(packed["state"]["state"]) > 2**64


# -- ways to end -------------------------------------------------------------------------------------------------------


def test_early_stop_and_patience_across_a_resume(tmp_path):
    def run(folder, pieces):
        t = trainer(folder, optimizer=SGD(0.0), validation=TinyData(), validate_every=2, patience=3)
        for i, steps in enumerate(pieces):
            if i:
                t = Trainer.resume(folder, TinyData(), validation=TinyData(), model=Tiny())
            ended = t.fit(steps=steps)
        return t.step, ended

    assert run(tmp_path / "a", [50]) == (8, "patience")  # the first validation is the best one, three more are not
    assert run(tmp_path / "b", [5, 50]) == (8, "patience")
    assert files.read_metadata(tmp_path / "b" / "trainer.safetensors")["step"] == 8


def test_a_time_limit(tmp_path):
    t = trainer(tmp_path)
    assert t.fit(minutes=0.3 / 60) == "minutes"
    assert t.step > 1 and not t.reproducible
    assert Trainer.resume(tmp_path, TinyData(), model=Tiny()).reproducible is False
    seen = []
    t = trainer()
    assert t.fit(steps=2, minutes=10, on_step=seen.append) == "steps"
    assert t.reproducible and seen[0].seconds_left < 600


@pytest.mark.parametrize("where", ["embedding", "head.bias"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_divergence_names_step_and_gradient_and_touches_nothing(where, accumulate, tmp_path):
    t = trainer(tmp_path, ema=0.9, validate_every=3, accumulate=accumulate)
    t.model.poison = (6 * accumulate, where)
    snapshots = []
    words = f"step 6: .* nan in {where}; the weights are those of step 5, the checkpoint of step 3 in .* is kept"
    with pytest.raises(DivergedError, match=words):
        t.fit(steps=20, on_step=lambda _: snapshots.append(state(t)))
    arrays, *rest = state(t)  # the model's buffers among them
    assert arrays == snapshots[-1][0] and rest == list(snapshots[-1][1:]) and t.step == 5
    assert Trainer.resume(tmp_path, TinyData(), model=Tiny()).step == 3
    assert files.read_metadata(tmp_path / "model.safetensors")["step"] == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops(value):
    class Broken(Tiny):
        def loss_and_grads(self, *args, **keywords):
            return value, super().loss_and_grads(*args, **keywords)[1]

    t = trainer(model=Broken())
    before = t.model.params.flat.copy()
    with pytest.raises(DivergedError, match=f"step 1: .* got loss {value} bits.*nothing was saved"):
        t.fit(steps=1)
    assert np.array_equal(before, t.model.params.flat)


def test_a_gradient_whose_square_overflows_stops():
    class Steep(Tiny):
        def loss_and_grads(self, *args, into=None, **keywords):
            into["head.bias"][0] = 1e20
            return 1.0, into

    with pytest.raises(DivergedError, match=r"largest gradient 1e\+20 in head\.bias"):
        trainer(model=Steep(), clip=None).fit(steps=1)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    t = trainer(tmp_path)
    t.fit(steps=2)
    t.model.params["speaker"][0, 0] = np.inf
    with pytest.raises(DivergedError, match="step 2: .* speaker; not saved"):
        t.save(tmp_path)
    assert Trainer.resume(tmp_path, TinyData(), model=Tiny()).step == 2
    t = trainer(tmp_path / "b", validation=TinyData(), optimizer=SGD(3e38), clip=None, validate_every=1)
    with pytest.raises(DivergedError), np.errstate(all="ignore"):
        t.fit(steps=3)
    assert Trainer.resume(tmp_path / "b", TinyData(), model=Tiny()).step == 0


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    class Pressed(TinyData):
        def batch(self, rng, batch, window):
            if self.drawn == 6 * batch:
                signal.raise_signal(signal.SIGINT)
            return super().batch(rng, batch, window)

    t = trainer(tmp_path, data=Pressed(), ema=0.9)
    with pytest.raises(KeyboardInterrupt):
        t.fit(steps=50)
    assert t.step == 7 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = Trainer.resume(tmp_path, TinyData(), model=Tiny())
    assert second.step == 7 and len(metrics(tmp_path)) == 7
    second.fit(steps=3)
    straight = trainer(ema=0.9)
    straight.fit(steps=10)
    assert state(second) == state(straight)


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    class Pressed(TinyData):
        def batch(self, rng, batch, window):
            drawn = super().batch(rng, batch, window)
            if self.drawn == 3 * batch:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return drawn

    t = trainer(tmp_path, data=Pressed())
    with pytest.raises(KeyboardInterrupt):
        t.fit(steps=50)
    assert t.step == 2 and Trainer.resume(tmp_path, TinyData(), model=Tiny()).step == 2
    straight = trainer()
    straight.fit(steps=2)
    assert state(t) == state(straight)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_an_error_in_the_middle_of_a_step_undoes_its_draws(error, tmp_path):
    class Failing(TinyData):
        failed = False

        def batch(self, rng, batch, window):
            drawn = super().batch(rng, batch, window)
            if self.drawn == 4 * batch and not self.failed:
                self.failed = True
                raise error("now")
            return drawn

    t = trainer(tmp_path, data=Failing(), accumulate=2)
    with pytest.raises(error):
        t.fit(steps=10)
    assert t.step == 1
    assert files.read_metadata(tmp_path / "trainer.safetensors")["step"] == (1 if error is KeyboardInterrupt else 0)
    t.fit(steps=3)
    straight = trainer(accumulate=2)
    straight.fit(steps=4)
    assert state(t)[0][1:] == state(straight)[0][1:]  # all but the model's own buffer
    assert state(t)[1:] == state(straight)[1:]


def test_an_interrupt_within_the_update_is_never_saved(tmp_path, monkeypatch):
    t = trainer(tmp_path)
    t.fit(steps=2)

    def half(*args, **options):
        t.model.params.flat[0] = 5
        raise KeyboardInterrupt

    monkeypatch.setattr(AdamW, "update", half)
    with pytest.raises(KeyboardInterrupt):
        t.fit(steps=1)
    for act in (lambda: t.save(tmp_path), lambda: t.fit(steps=1)):
        with pytest.raises(CheckpointError, match="in the middle of step 3"):
            act()
    assert Trainer.resume(tmp_path, TinyData(), model=Tiny()).model.params.flat[0] != 5


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(tmp_path):
    t = trainer(tmp_path, validate_every=5)
    t.fit(steps=5)
    before = {name: (tmp_path / name).read_bytes() for name in ("trainer.safetensors", "model.safetensors")}
    t._writer = full_disk
    with pytest.raises(CheckpointError, match="trainer.safetensors: cannot be written: No space left"):
        t.fit(steps=10)
    assert t.step == 10
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    second = Trainer.resume(tmp_path, TinyData(), model=Tiny())
    second.fit(steps=5)
    assert len(metrics(tmp_path)) == 10
    with pytest.raises(CheckpointError, match="cannot be written"):
        trainer(tmp_path / "new", writer=full_disk).fit(steps=1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_metrics_on_a_full_disk(tmp_path, monkeypatch):
    full = open("/dev/full", "w", buffering=1)
    monkeypatch.setattr("wavedil.training.metrics.open", lambda *args, **keywords: full, raising=False)
    t = trainer(tmp_path)
    with pytest.raises(CheckpointError, match="metrics.jsonl: cannot be written: No space left"):
        t.fit(steps=2)
    assert Trainer.resume(tmp_path, TinyData(), model=Tiny()).step == 0


def test_metrics_that_are_a_folder(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match="metrics.jsonl: cannot be written"):
        trainer(tmp_path).fit(steps=1)


def test_an_impossible_folder_is_noticed_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    t = trainer(tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="cannot be written"):
        t.fit(steps=1)
    assert t.step == 0


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    trainer(tmp_path).fit(steps=1)
    with pytest.raises(CheckpointError, match="holds a run already"):
        trainer(tmp_path)


def test_saving_into_a_folder_writes_both_files(tmp_path):
    t = trainer(ema=0.9)
    t.fit(steps=2)
    t.save(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == ["model.safetensors", "trainer.safetensors"]


def test_metrics_are_json_a_line(tmp_path):
    trainer(tmp_path).fit(steps=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    keys = ["step", "loss", "validation", "unit", "learning_rate", "gradient_norm", "samples_per_second"]
    assert [list(json.loads(line)) for line in lines] == [keys] * 2


def test_an_error_in_on_step_leaves_a_trainer_that_can_go_on(tmp_path):
    class Stop(Exception):
        pass

    def on_step(progress):
        if progress.step == 3:
            raise Stop

    t = trainer(tmp_path)
    with pytest.raises(Stop):
        t.fit(steps=10, on_step=on_step)
    t.save(tmp_path)
    t = Trainer.resume(tmp_path, TinyData(), model=Tiny())
    t.fit(steps=2)
    assert t.step == 5 and [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]


# -- the door ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"window": 10.0}, "window"),
        ({"accumulate": True}, "accumulate"),
        ({"seed": -1}, "seed"),
        ({"validate_every": 0}, "validate_every"),
        ({"optimizer": "adam"}, r"optimizer must be an Optimizer \(SGD, Adam, AdamW.*\), got 'adam'"),
        ({"schedule": lambda step: 1}, "schedule must come from"),
        ({"clip": 0}, r"clip must be None or in \(0, inf\), got 0"),
        ({"ema": 1}, r"ema must be None or in \(0, 1\), got 1"),
        ({"ema": "0.9"}, "ema"),
        ({"patience": 0, "validation": TinyData()}, "patience"),
        ({"patience": 3}, "patience needs validation"),
        ({"validation": [1]}, r"validation must have validation_batches\(batch, window\), got list"),
        ({"data": [1]}, r"data must have batch\(rng, batch, window\), got list"),
        ({"model": TinyData()}, "model must have Parameters"),
        ({"model": Tiny(TinyConfig(sample_rate=16000))}, "the model is for 16000 Hz, the data has 8000 Hz"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ConfigError, match=f"Trainer: {words}|Trainer: .*{words}"):
        trainer(**options)


def test_numbers_of_numpy_pass_and_are_saved_as_pythons(tmp_path):
    numbers = {"batch": 3, "window": 20, "seed": 5, "accumulate": 2, "validate_every": 2, "patience": 9, "threads": 1}
    wide = {name: np.int64(value) for name, value in numbers.items()}
    shares = {"clip": 0.5, "ema": 0.75, "validation": TinyData()}
    narrow = shares | {name: np.float32(shares[name]) for name in ("clip", "ema")}
    plain, numpys = trainer(tmp_path / "a", **numbers, **shares), trainer(tmp_path / "b", **wide, **narrow)
    plain.fit(steps=3, minutes=10)
    numpys.fit(steps=np.int64(3), minutes=np.int64(10))
    assert state(plain) == state(numpys)
    saved = [(tmp_path / name / "trainer.safetensors").read_bytes() for name in "ab"]
    assert saved[0] == saved[1]


@pytest.mark.parametrize("limits", [{}, {"steps": 0}, {"steps": 1.5}, {"minutes": 0}, {"minutes": math.inf}])
def test_bad_limits(limits):
    with pytest.raises(ConfigError, match="Trainer"):
        trainer().fit(**limits)


def test_validation_needs_clips():
    with pytest.raises(ConfigError, match="validate: needs validation data"):
        trainer().validate()
