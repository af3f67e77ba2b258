"""Runs trained, adapted and heard from Python, without the shell."""

import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile
from helpers.runs import wanted_of

from wavedil import runs
from wavedil.errors import CheckpointError, ConfigError, DataError


def test_a_training_prints_nothing_and_leaves_a_run(one, capsys):
    done = []
    runs.sample.illustrate(one, lambda *progress: done.append(progress))
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in one.run.path.iterdir()} == {
        "config.json", "metrics.jsonl", "model.safetensors", "trainer.safetensors", "loss.png", "spectrogram.png",
        "sample.wav"}  # fmt: skip
    assert done[-1] == (32000, 32000)
    assert soundfile.info(one.run.path / "sample.wav").frames == 32000


def test_the_library_needs_no_shell():
    code = "import sys; from wavedil import runs; [getattr(runs, name) for name in runs.__all__]; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert not {"typer", "rich", "wavedil.cli"} & set(out.split())


def test_generated_sound_goes_on_from_a_primer(one):
    model = runs.sample.model(one.run)
    primer = 0.3 * np.sin(np.arange(50))
    sounds = [runs.sample.generate(model, 0.01, seed=1, primer=x) for x in (None, primer, primer)]
    assert len(sounds[0]) == 80 and np.array_equal(sounds[1], sounds[2]) and not np.array_equal(*sounds[:2])


def test_the_sample_is_made_on_the_device_of_the_training(one, tmp_path, monkeypatch):
    asked = []
    model = runs.sample.model(one.run)
    monkeypatch.setattr(runs.Run, "model", lambda self, device="cpu", **_: asked.append(device) or model)
    elsewhere = types.SimpleNamespace(model=types.SimpleNamespace(device="cuda:0"), step=2)
    runs.sample.illustrate(runs.train.Training(one.run, elsewhere, one.clips, 2))
    assert asked == ["cuda:0"]


def test_resume_goes_on_and_fewer_steps_change_nothing(one, clips, tmp_path):
    path = shutil.copytree(one.run.path, tmp_path / "run")
    less = runs.train.resume(path, 1)
    assert (less.steps_left, less.run.settings.train.steps) == (0, 2)
    more = runs.train.resume(path, 3)
    assert (more.steps_left, more.total, runs.Run.open(path).settings.train.steps) == (1, 3, 3)
    more.trainer.fit(more.steps_left)
    straight = runs.train.start(tmp_path / "straight", wanted_of(clips / "anna"))
    straight.trainer.fit(3)
    assert (path / "model.safetensors").read_bytes() == (tmp_path / "straight" / "model.safetensors").read_bytes()
    assert runs.train.resume(path, 9, timed=True).run.reproducible is False


def test_resume_needs_to_know_the_data(bare, clips, tmp_path):
    with pytest.raises(CheckpointError, match="no config.json to tell what data .* wavedil.Trainer.resume"):
        runs.train.resume(bare)
    runs.train.start(tmp_path / "run", wanted_of(clips, speakers=True)).trainer.fit(1)
    run = runs.Run.open(tmp_path / "run")
    run.speakers = ["anna", "carla"]
    run.save()
    with pytest.raises(DataError, match=r"was trained with the speakers \['anna', 'carla'\], the data now has"):
        runs.train.resume(tmp_path / "run")


def test_before_and_after_are_compared(one, clips, tmp_path):
    wanted = runs.finetune.collect(one.run, clips / "bruno", freeze=["input.*"], lr_scale=[("head.*", 2)], steps=2)
    training = runs.finetune.start(tmp_path / "run", one.run, wanted, eval_old=clips / "anna")
    assert not (tmp_path / "run" / "trainer.safetensors").exists()
    before = runs.finetune.measure_before(training)
    training.trainer.fit(training.steps_left)
    compared = runs.finetune.compare(training)
    assert list(compared.rows) == ["new speaker", "old speaker"]
    assert compared.rows["new speaker"] == (before["new"], compared.curve[-1][1])
    assert compared.curve[0] == (0, before["new"])
    assert compared.rows["old speaker"][0] == pytest.approx(one.run.losses()[1][-1][1])
    run = runs.Run.open(tmp_path / "run")
    assert run == training.run and run.parent["run"] == str(one.run.path)
    again = runs.finetune.compare(runs.train.resume(run.path))  # the old clips are read again
    assert again.rows["old speaker"] == pytest.approx(compared.rows["old speaker"])


def test_a_trainers_folder_is_adapted(bare, clips, tmp_path):
    old = runs.Run.open(bare)
    training = runs.finetune.start(tmp_path / "run", old, runs.finetune.collect(old, clips / "anna", steps=1))
    assert training.run.speakers == ["0", "1", "anna"]
    assert training.trainer.optimizer.lr == pytest.approx(0.25 * 0.01)


def test_a_config_that_changes_the_model_is_refused(one, clips, tmp_path):
    (tmp_path / "my.toml").write_text("[model]\nclasses = 64\n")
    with pytest.raises(ConfigError, match=r"my.toml: \[model\] classes must be 256, as .* was trained, got 64"):
        runs.finetune.collect(one.run, clips, tmp_path / "my.toml")


def test_a_bundled_speaker_has_its_own_split():
    found = runs.data.clips(runs.settings.DataSettings(folder="bundled:it"))
    assert found.audit.clips == 83 and found.validation_clips()
    with pytest.raises(ConfigError, match="speaker must be one of 'it', 'ru', got 'xx'"):
        runs.data.clips(runs.settings.DataSettings(folder="bundled:xx"))
