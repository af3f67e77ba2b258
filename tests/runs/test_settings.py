"""Presets and TOML files: what is merged, and what is refused with which words."""

import numpy as np
import pytest

from wavedil.errors import ConfigError
from wavedil.runs import settings


def test_later_layers_win_and_untouched_keys_stay():
    merged = settings.from_tables(
        ("preset", {"model": {"residual_channels": 16, "kernel_size": 2}, "train": {"steps": 10, "batch": 2}}),
        ("file", {"model": {"kernel_size": 3}, "train": {"learning_rate": 1}, "data": {"folder": "speech"}}),
        ("--steps", {"train": {"steps": 20}}),
    )
    assert merged.model == {"residual_channels": 16, "kernel_size": 3}
    assert (merged.train.steps, merged.train.batch, merged.train.learning_rate) == (20, 2, 1.0)
    assert type(merged.train.learning_rate) is float
    assert merged.data.folder == "speech"


def test_settings_survive_their_dict():
    merged = settings.from_tables(settings.preset("base"), ("x", {"data": {"speakers": True}}))
    assert settings.from_tables(("config.json", merged.to_dict())) == merged


@pytest.mark.parametrize("name", settings.PRESETS)
def test_presets_are_valid_and_count_steps(name):
    merged = settings.from_tables(settings.preset(name))
    assert merged.train.steps >= 1
    assert merged.train.warmup < merged.train.steps


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"modle": {}}, ["my.toml", "modle", "'[model]'"]),
        ({"train": {"step": 3}}, ["my.toml", "[train]", "'step'", "'steps'"]),
        ({"train": {"colour": 3}}, ["[train]", "colour", "known are", "batch"]),
        ({"train": {"steps": "many"}}, ["steps", "integer", "'many'"]),
        ({"train": {"steps": True}}, ["steps", "integer", "True"]),
        ({"train": {"steps": 2.5}}, ["steps", "integer", "2.5"]),
        ({"train": {"steps": 0}}, ["steps", "at least 1", "0"]),
        ({"train": {"learning_rate": "fast"}}, ["learning_rate", "number", "'fast'"]),
        ({"train": {"optimizer": "lion"}}, ["optimizer", "adamw", "'lion'"]),
        ({"train": {"schedule": "linear"}}, ["schedule", "cosine", "'linear'"]),
        ({"train": 3}, ["train", "table", "3"]),
        ({"data": {"speakers": 2}}, ["speakers", "bool", "2"]),
        ({"model": {"sample_rate": 16000}}, ["[model]", "sample_rate", "[data]"]),
    ],
)
def test_bad_settings_are_named(tables, words):
    with pytest.raises(ConfigError) as error:
        settings.from_tables(("my.toml", tables))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_toml_files(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("[train]\nsteps = 7\n")
    assert settings.from_tables(settings.read_toml(path)).train.steps == 7
    for content, words in ((b"steps = ", "not valid TOML"), (b"\xff\xfe", "not valid TOML")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            settings.read_toml(path)
    for missing in (tmp_path / "none.toml", tmp_path, path / "below.toml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            settings.read_toml(missing)


def test_unknown_preset():
    with pytest.raises(ConfigError, match="'tiny', 'small', 'base', got 'huge'"):
        settings.preset("huge")


def test_collected_settings_know_their_folder_wherever_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text("[train]\nsteps = 7\nseed = 1\n")
    wanted = settings.collect(config="my.toml", folder="speech", seed=np.int64(3))
    assert wanted.data.folder == str(tmp_path / "speech")
    assert (wanted.train.steps, wanted.train.seed, type(wanted.train.seed)) == (7, 3, int)
    assert settings.collect("tiny", folder="bundled").data.folder == ""
    assert settings.collect("tiny", folder="bundled:it").data.folder == "bundled:it"
