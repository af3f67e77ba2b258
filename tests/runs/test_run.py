"""A run folder, opened and written from Python."""

import json

import numpy as np
import pytest

import wavedil as wd
from wavedil import runs
from wavedil.errors import CheckpointError, ConfigError


def test_a_run_opens_as_it_was_written(tmp_path, one):
    made = runs.Run.create(tmp_path / "run", one.run.settings, ["a", "b"], baselines={"flac": 1.0}, reproducible=False)
    assert runs.Run.open(tmp_path / "run") == made
    assert runs.Run.open(one.run.path) == one.run
    assert json.loads((one.run.path / "config.json").read_text()) == one.run.config
    made.parent, made.before, made.after = {"run": "x", "step": 1}, {"new": 5.0, "old": None}, {"new": 4.0, "old": None}
    made.save()
    assert runs.Run.open(tmp_path / "run") == made


def test_a_new_run_overwrites_nothing(tmp_path, one):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file is not a folder"):
        runs.Run.create(tmp_path / "file" / "run", one.run.settings)
    with pytest.raises(ConfigError, match="is not empty: choose another folder, or go on with it: .*--resume"):
        runs.Run.create(tmp_path, one.run.settings)


def test_speakers_are_numbers_by_name(tmp_path, one):
    run = runs.Run.create(tmp_path / "run", one.run.settings, ["anna", "bruno"])
    assert (run.speaker(), run.speaker("bruno")) == (0, 1)
    with pytest.raises(ConfigError, match="speaker must be one of 'anna', 'bruno', got 'carla'"):
        run.speaker("carla")
    assert one.run.speaker() is None
    with pytest.raises(ConfigError, match="only one speaker"):
        one.run.speaker("anna")


def test_metrics_survive_half_a_line_and_repeated_steps(tmp_path, one):
    run = runs.Run.create(tmp_path / "run", one.run.settings)
    (run.path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 8}\n{"step": 2, "loss": 7}\n{"step": 2, "loss": 6}\n{"step": 3'
    )
    assert run.metrics() == [{"step": 1, "loss": 8}, {"step": 2, "loss": 6}]
    assert run.losses() == ([(1, 8), (2, 6)], [])
    run.before = {"new": 9.0, "old": None}
    assert run.losses()[1] == [(0, 9.0)]


def test_a_folder_of_the_trainer_alone_is_a_run(bare):
    run = runs.Run.open(bare)
    assert (run.kind, run.speakers, run.parent) == ("WaveNet", ["0", "1"], None)
    train = run.settings.train
    assert (train.optimizer, train.learning_rate, train.momentum) == ("sgd", 0.01, 0.8)
    assert (train.batch, train.window, train.steps, train.ema, train.patience) == (2, 100, 2, 0.5, 0)
    assert run.settings.data.sample_rate == 8000
    known = runs.train.model_config(run.settings, len(run.speakers))
    assert known == run.model().config
    assert not (bare / "config.json").exists()


def test_so_is_a_model_file_alone(tmp_path):
    model = wd.TCN(wd.TCNConfig(dilations=[1, 2], channels=3, sample_rate=16000), seed=0)
    model.save(tmp_path / "model.safetensors")
    run = runs.Run.open(tmp_path)
    assert (run.kind, run.settings.data.sample_rate) == ("TCN", 16000)
    x = np.ones((1, 5, 1), np.float32)
    assert np.array_equal(run.model().predict(x), model.predict(x))
    with pytest.raises(ConfigError, match="must hold a WaveNet to make sound, got a TCN"):
        runs.sample.model(run)


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="not a run folder: there is no .*config.json and no .*model.safetensors"):
        runs.Run.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="settings, speakers and baselines expected"):
        runs.Run.open(tmp_path)
