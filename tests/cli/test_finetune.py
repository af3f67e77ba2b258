"""`wavedil finetune`, from the shell's side."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
from helpers.shell import RATE, assert_one_clear_line, wavedil

import wavedil as wd
from wavedil import report
from wavedil.errors import DataError
from wavedil.runs import Run


@pytest.fixture(scope="module")
def base(place):
    """A run of one speaker."""
    run = place / "runs" / "one"
    result = wavedil("train", place / "clips" / "anna", "--config", place / "settings.toml", "--out", run)
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture(scope="module")
def adapted(place, base):
    """(run folder, result) of a fine-tuning with all options."""
    run = place / "runs" / "adapted"
    result = wavedil("finetune", base, place / "clips" / "bruno", "--freeze", "input.*", "--freeze", "blocks.0-1.*",
                     "--lr-scale", "head.*=2", "--steps", 4, "--eval-old", place / "clips" / "anna", "--out", run)
    assert result.exit_code == 0, result.output
    return run, result


def test_a_fine_tuned_run_has_all_that_a_run_has_and_its_origin(adapted, base, place):
    run, result = adapted
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "model.safetensors", "trainer.safetensors", "loss.png", "spectrogram.png",
        "sample.wav", "finetune.png"}
    about = json.loads((run / "config.json").read_text())
    assert about["parent"]["run"] == str(base) and about["parent"]["step"] == 3
    assert about["settings"]["finetune"] == {"freeze": ["input.*", "blocks.0-1.*"], "lr_scale": [["head.*", 2.0]]}
    for key in ("before", "after"):
        assert 7.5 < about[key]["new"] < 8.5 and 7.5 < about[key]["old"] < 8.5
    out = result.stdout
    assert "frozen: input.*, blocks.0-1.*; learning rate: head.* x 2" in out
    assert re.search(r"new speaker +\d\.\d{3} +\d\.\d{3} +[-+]\d\.\d{3}", out)
    assert re.search(r"old speaker +\d\.\d{3} +\d\.\d{3} +[-+]\d\.\d{3}", out)
    old, new = (wd.load(folder / "model.safetensors").params for folder in (base, run))
    for name in old:
        frozen = name.startswith(("input.", "blocks.0.", "blocks.1."))
        assert np.array_equal(old[name], new[name]) == (frozen or name == "blocks.2.residual.bias"), name


def test_before_is_the_pretrained_model(adapted, base, place):
    """The held-out clips of the folder that the run was trained on: the run's own last validation."""
    about = json.loads((adapted[0] / "config.json").read_text())
    assert about["before"]["old"] == pytest.approx(Run.open(base).metrics()[-1]["validation"])
    assert about["after"]["new"] == Run.open(adapted[0]).metrics()[-1]["validation"]


def test_generate_stream_and_info_work_on_it(adapted, place, tmp_path):
    run, _ = adapted
    assert wavedil("generate", run, "--seconds", 0.05, "-o", tmp_path / "a.wav").exit_code == 0
    assert wavedil("stream", run, "--in", place / "clips" / "anna" / "0.wav", "--block", 256).exit_code == 0
    info = wavedil("info", run, "--no-measure").stdout
    assert "fine-tuned from" in info and "step 3" in info and "frozen: input.*" in info


def test_lora_goes_on_bit_for_bit(base, place, tmp_path):
    words = ["finetune", base, place / "clips" / "bruno", "--lora", 2, "--seed", 3]
    config = tmp_path / "constant.toml"
    config.write_text('[train]\nschedule = "constant"\nvalidate_every = 2\n')
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    result = wavedil(*words, "--config", config, "--steps", 4, "--out", straight)
    assert result.exit_code == 0, result.output
    assert "adapters of rank 2" in result.stdout and "old speaker" not in result.stdout
    assert wavedil(*words, "--config", config, "--steps", 2, "--out", halves).exit_code == 0
    result = wavedil("train", "--out", halves, "--resume", "--steps", 4)
    assert result.exit_code == 0, result.output
    assert (halves / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert "Before and after" in result.stdout
    old, new = (wd.load(run / "model.safetensors").params for run in (base, straight))
    moved = {name for name in old if not np.array_equal(old[name], new[name])}
    assert moved and all(name.endswith(".weight") for name in moved)


def test_a_run_of_several_speakers_gets_another_and_keeps_them(trained, place, tmp_path):
    parent, _ = trained
    run = tmp_path / "clara"
    result = wavedil("finetune", parent, place / "clips" / "bruno", "--speaker", "clara", "--steps", 2, "--freeze",
                     "blocks.*", "--freeze", "input.*", "--eval-old", place / "clips", "--out", run)
    assert result.exit_code == 0, result.output
    about = json.loads((run / "config.json").read_text())
    assert about["speakers"] == ["anna", "bruno", "clara"] and about["settings"]["data"]["speaker"] == "clara"
    old, new = (wd.load(folder / "model.safetensors").params["speaker.embedding"] for folder in (parent, run))
    assert np.allclose(new[:2], old, atol=1e-3) and new.shape == (3, 8)
    assert np.abs(new[2] - old.mean(axis=0)).max() > 1e-3
    last = Run.open(parent).metrics()[-1]["validation"]
    assert about["before"]["old"] == pytest.approx(last)
    own = wavedil("generate", run, "--seconds", 0.05, "-o", tmp_path / "own.wav")
    clara = wavedil("generate", run, "--seconds", 0.05, "--speaker", "clara", "-o", tmp_path / "clara.wav")
    assert own.exit_code == clara.exit_code == 0
    assert (tmp_path / "own.wav").read_bytes() == (tmp_path / "clara.wav").read_bytes()
    assert wavedil("train", "--out", run, "--resume", "--steps", 3).exit_code == 0

    known = tmp_path / "bruno"  # a name that the run knows: that speaker goes on
    result = wavedil("finetune", parent, place / "clips" / "bruno", "--steps", 1, "--out", known)
    assert result.exit_code == 0, result.output
    assert json.loads((known / "config.json").read_text())["speakers"] == ["anna", "bruno"]


def test_a_bundled_speaker(base, tmp_path):
    run = tmp_path / "run"
    result = wavedil("finetune", base, "bundled:it", "--steps", 1, "--out", run)
    assert result.exit_code == 0, result.output
    assert "83 clips" in result.stdout
    assert json.loads((run / "config.json").read_text())["settings"]["data"]["folder"] == "bundled:it"


# ---- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--freeze", "block.0-1.*"], ["freeze", "'block.0-1.*'", "near: blocks."]),
        (["--lr-scale", "head.*"], ["--lr-scale", "head.*=2"]),
        (["--lr-scale", "head.*=fast"], ["--lr-scale", "fast"]),
        (["--lr-scale", "hed.*=2"], ["lr_scale", "near: head.*"]),
        (["--lora", 2, "--freeze", "blocks.0.*"], ["freeze", "adapters", "lora_a"]),
        (["--lora", 99], ["rank must be at most 16"]),
        (["--speaker", "x"], ["only one speaker"]),
        (["--eval-old", "nowhere"], ["nowhere", "does not exist"]),
        (["--eval-old", "bundled:xx"], ["speaker must be one of 'it', 'ru', got 'xx'"]),
    ],
)
def test_bad_options(base, place, tmp_path, words, expected):
    result = wavedil("finetune", base, place / "clips" / "bruno", "--out", tmp_path / "run", *words)
    assert_one_clear_line(result, *expected)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\nclasses = 64", ["[model] classes must be 256", "got 64", "with_head"]),
        ("[data]\nsample_rate = 16000", ["[data] sample_rate must be 8000", "got 16000"]),
        ("[finetune]\nfrezee = ['head.*']", ["[finetune]", "'frezee'", "did you mean 'freeze'"]),
        ("[finetune]\nlora = {rank = 2, targets = ['tail.*']}", ["LoRA: targets", "'tail.*'", "near:"]),
        ("[finetune]\nunfreeze = {'tail.*' = 3}", ["unfreeze", "'tail.*'"]),
    ],
)
def test_bad_settings(base, place, tmp_path, text, expected):
    (tmp_path / "my.toml").write_text(text)
    result = wavedil("finetune", base, place / "clips" / "bruno", "--config", tmp_path / "my.toml", "--out",
                     tmp_path / "run")
    assert_one_clear_line(result, *expected)


def test_no_run_no_model_and_a_run_that_exists(base, place, tmp_path):
    clips = place / "clips" / "bruno"
    assert_one_clear_line(wavedil("finetune", tmp_path, clips), tmp_path, "not a run folder")
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    assert_one_clear_line(wavedil("finetune", tmp_path / "copy", clips), "no trained model", "model.safetensors")
    assert_one_clear_line(wavedil("finetune", base, clips, "--out", base), "not empty")


def test_another_sample_rate_is_an_explicit_choice(base, tmp_path):
    (tmp_path / "clips").mkdir()
    for i in range(3):
        sound = np.sin(np.arange(4000) * 0.1 * (i + 1)) * 0.3
        soundfile.write(tmp_path / "clips" / f"{i}.wav", sound, 2 * RATE)
    words = ["finetune", base, tmp_path / "clips", "--steps", 1, "--out", tmp_path / "run"]
    assert_one_clear_line(wavedil(*words), "8,000 Hz", "3 clips at 16,000 Hz", "--resample")
    result = wavedil(*words, "--resample")
    assert result.exit_code == 0 and "3 resampled to 8000 Hz" in result.stdout, result.output


def test_another_number_of_classes(base, place, tmp_path):
    run = tmp_path / "small"
    shutil.copytree(base, run)
    model = wd.load(run / "model.safetensors")
    model.with_head(classes=64).save(run / "model.safetensors", step=1)
    result = wavedil("finetune", run, place / "clips" / "bruno", "--out", tmp_path / "run")
    assert_one_clear_line(result, "64 classes", "256", "with_head")


def test_before_after_needs_something_to_show(tmp_path):
    path = report.before_after(tmp_path / "a.png", [(0, 6.0), (5, 5.5)], {"new speaker": (6.0, 5.5)})
    assert path.read_bytes()[:4] == b"\x89PNG"
    for curve, rows in (([], {"a": (1, 2)}), ([(0, 1.0)], {})):
        with pytest.raises(DataError, match="before_after"):
            report.before_after(tmp_path / "a.png", curve, rows)
