"""The command line, from the shell's side: what it prints, writes and returns."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from helpers.shell import RATE, assert_one_clear_line, script, wavedil

from wavedil import report
from wavedil.cli import show
from wavedil.runs import Run


# ---- train ---------------------------------------------------------------------------------------------------------
def test_train_leaves_a_whole_run_folder(trained):
    run, _ = trained
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "model.safetensors", "trainer.safetensors", "loss.png", "spectrogram.png",
        "sample.wav"}
    sound, rate = soundfile.read(run / "sample.wav")
    assert (sound.shape, rate) == ((4 * RATE,), RATE)
    assert sound.std() > 0
    about = json.loads((run / "config.json").read_text())
    assert about["speakers"] == ["anna", "bruno"]
    assert about["reproducible"] is True
    assert about["settings"]["train"]["steps"] == 3
    rows = Run.open(run).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert 7.7 < rows[0]["loss"] < 8.3
    assert rows[1]["validation"] is not None


def test_train_tells_a_newcomer_what_happens(trained):
    run, result = trained
    out = result.stdout
    place = 0
    for words in ("12 clips", "silent", "order-1", "parameters", "training  validation", "What was learned",
                  "the model needs", "sample.wav", "What to try next", "wavedil generate"):
        place = out.find(words, place)
        assert place >= 0, words
    assert "\x1b" not in out  # no colours or cursor movements in a file
    assert result.stderr == ""


def test_suggested_commands_work_as_printed(trained, tmp_path):
    run, result = trained
    commands = re.findall(r"wavedil (generate|info) (.*)", result.stdout)
    assert len(commands) >= 3
    for command, rest in commands:
        words = rest.split()
        assert wavedil(command, *words).exit_code == 0
    for made in ("more.wav", "other.wav"):
        (run / made).unlink()


def test_the_same_seed_gives_the_same_model(place, tmp_path):
    files = []
    for name, seed, threads in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        run = tmp_path / name
        result = wavedil("train", place / "clips", "--config", place / "settings.toml", "--steps", 2, "--out", run,
                         "--seed", seed, "--threads", threads)
        assert result.exit_code == 0, result.output
        files.append((run / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_resume_goes_on_bit_for_bit(place, tmp_path):
    common = ["train", place / "clips", "--config", place / "settings.toml"]
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert wavedil(*common, "--steps", 4, "--out", straight).exit_code == 0
    assert wavedil(*common, "--steps", 2, "--out", halves).exit_code == 0
    result = wavedil("train", "--out", halves, "--resume", "--steps", 4)
    assert result.exit_code == 0, result.output
    assert "steps 3 to 4" in result.stdout
    assert (halves / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert [row["step"] for row in Run.open(halves).metrics()] == [1, 2, 3, 4]
    again = wavedil("train", "--out", halves, "--resume")  # nothing is left to do; the pictures are made again
    assert again.exit_code == 0 and "All 4 steps were done before" in again.stdout


def test_fewer_steps_than_a_run_has_change_nothing_and_are_not_claimed(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    before = {name: (run / name).read_bytes() for name in ("config.json", "model.safetensors")}
    result = wavedil("train", "--out", run, "--resume", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert "The run has 3 steps already, more than the 2 of --steps: nothing is left to train" in result.stdout
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_file_is_told_that_the_first_step_compiles(trained):
    out = trained[1].stdout
    assert 0 < out.find("Ctrl-C saves and stops") < out.find("compiling the kernels") < out.find("training  validation")


def test_minutes_stop_a_run_and_mark_it(place, tmp_path):
    run = tmp_path / "run"
    result = wavedil("train", place / "clips", "--config", place / "settings.toml", "--steps", 10**6, "--minutes",
                     0.01, "--out", run)
    assert result.exit_code == 0, result.output
    assert "--minutes" in result.stdout
    assert json.loads((run / "config.json").read_text())["reproducible"] is False
    assert len(Run.open(run).metrics()) < 10**6


def test_a_single_clip_trains_without_validation(place, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(place / "clips" / "anna" / "0.wav", tmp_path / "one")
    result = wavedil("train", tmp_path / "one", "--config", place / "settings.toml", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "no clip was held out" in result.stdout


def test_a_bad_clip_among_many_is_counted(place, tmp_path):
    shutil.copytree(place / "clips", tmp_path / "clips")
    (tmp_path / "clips" / "empty.wav").write_bytes(b"")
    (tmp_path / "clips" / "text.wav").write_text("not audio")
    result = wavedil("train", tmp_path / "clips", "--config", place / "settings.toml", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "skipped 2 files" in result.stdout
    assert "empty.wav" in result.stdout and "text.wav" in result.stdout


def test_default_run_folder_is_named_after_the_preset_or_the_file(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = wavedil("train", place / "clips", "--config", place / "settings.toml", "--steps", 1)
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"settings-\d{8}-\d{6}", run.name)


def test_ctrl_c_saves_and_says_how_to_resume(place, tmp_path):
    run = tmp_path / "run"
    words = script("train", place / "clips", "--config", place / "settings.toml", "--steps", 10**6, "--out", run)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        metrics = run / "metrics.jsonl"
        until = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "To go on:\n  wavedil train --out" in out
    assert "Traceback" not in err
    done = len(Run.open(run).metrics())
    result = wavedil("train", "--out", run, "--resume", "--steps", done + 2)
    assert result.exit_code == 0, result.output
    assert len(Run.open(run).metrics()) == done + 2


# ---- generate and info ---------------------------------------------------------------------------------------------
def test_generate_is_decided_by_its_options(trained, tmp_path):
    run, _ = trained
    sounds = []
    for i, more in enumerate((["--seed", 1], ["--seed", 1], ["--seed", 2], ["--seed", 1, "--speaker", "bruno"])):
        out = tmp_path / f"{i}.wav"
        result = wavedil("generate", run, "--seconds", 0.05, "-o", out, *more)
        assert result.exit_code == 0, result.output
        assert str(out) in result.stdout
        sounds.append(soundfile.read(out)[0])
    assert len(sounds[0]) == 400
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    assert not np.array_equal(sounds[0], sounds[3])


def test_info_of_a_run_and_of_a_preset(trained):
    run, _ = trained
    result = wavedil("info", run)
    assert result.exit_code == 0, result.output
    assert "8 samples = 1.0 ms at 8000 Hz" in result.stdout
    assert re.search(r"blocks\.2 +dilation 4 +8 +1\.0", result.stdout)
    assert re.search(r"speaker +2 speakers +", result.stdout)
    preset = wavedil("info", "--preset", "tiny")
    assert preset.exit_code == 0, preset.output
    assert "256 samples = 32.0 ms" in preset.stdout
    for words in ("parameters:", "FLOPs per sample", "of memory"):
        assert words in preset.stdout


def test_info_warns_of_blind_spots_and_of_a_window_below_the_field(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[model]\ndilations = [2, 4, 8]\n[train]\nwindow = 8\n")
    result = wavedil("info", "--config", file, "--no-measure")
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 2 and "window" in warnings[1], result.stdout
    assert "warning:" not in wavedil("info", "--preset", "tiny", "--no-measure").stdout


def test_parameters_in_the_layer_table_add_up(trained):
    out = wavedil("info", trained[0]).stdout
    total = int(re.search(r"parameters: +([\d,]+)", out)[1].replace(",", ""))
    rows = re.findall(r"^(?:speaker|input|blocks|head).* ([\d,]+)$", out, re.MULTILINE)
    assert sum(int(row.replace(",", "")) for row in rows) == total


def test_commands_are_quoted():
    assert show.command("info", "my runs/a") == "wavedil info 'my runs/a'"


# ---- bad input -----------------------------------------------------------------------------------------------------
def test_a_file_where_the_run_folder_should_be(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below" / "run"):
        result = wavedil("train", place / "clips", "--out", out)
        assert_one_clear_line(result, "run folder", tmp_path / "file", "not a folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_existing_run_is_never_overwritten(trained, place):
    run, _ = trained
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = wavedil("train", place / "clips", "--config", place / "settings.toml", "--out", run)
    assert_one_clear_line(result, run, "not empty", "--resume")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "audio"),
        (lambda folder: (folder.mkdir(), (folder / "notes.txt").write_text("x")), "audio"),
        (lambda folder: folder.write_text("a file"), "file"),
        (lambda folder: (folder.mkdir(), (folder / "a.wav").write_bytes(b"")), "a.wav"),
    ],
)
def test_folders_that_hold_no_audio(tmp_path, make, words):
    make(tmp_path / "clips")
    run = tmp_path / "run"
    assert_one_clear_line(wavedil("train", tmp_path / "clips", "--out", run), tmp_path / "clips", words)
    assert not run.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\nresidual_chanels = 3", ["[model]", "residual_chanels"]),
        ("[model]\nkernel_size = 'two'", ["[model]", "kernel_size", "two"]),
        ("[model]\ndilations = []", ["[model]", "dilations"]),
        ("[train]\nstep = 3", ["bad.toml", "[train]", "step"]),
        ("[train]\nsteps = 'many'", ["bad.toml", "[train]", "steps", "many"]),
        ("[data]\nvalidation = 1.5", ["validation", "1.5"]),
        ("[wrong]\n", ["bad.toml", "[wrong]"]),
        ("steps =", ["bad.toml", "TOML"]),
    ],
)
def test_bad_settings(place, tmp_path, text, words):
    (tmp_path / "bad.toml").write_text(text)
    result = wavedil("train", place / "clips", "--config", tmp_path / "bad.toml", "--out", tmp_path / "run")
    assert_one_clear_line(result, *words)
    assert result.stdout == ""  # refused before the work began
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate", "RUN"], "config.json"),
        (["stream", "RUN", "-i", "x.wav"], "model.safetensors"),
        (["info", "RUN"], "config.json"),
        (["train", "--resume", "--out", "RUN"], "config.json"),
        (["train", "--config", "RUN/none.toml"], "cannot be read"),
    ],
)
def test_runs_that_do_not_exist(tmp_path, command, words):
    assert_one_clear_line(wavedil(*(word.replace("RUN", str(tmp_path / "none")) for word in command)), words)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b'{"settings": 1}'])
def test_damaged_config_json(trained, tmp_path, content):
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "config.json").write_bytes(content)
    for command in (["generate", run], ["info", run], ["train", "--out", run, "--resume"]):
        assert_one_clear_line(wavedil(*command), "config.json")


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
@pytest.mark.parametrize(
    ("name", "command"),
    [("model.safetensors", ["generate", "RUN"]), ("trainer.safetensors", ["train", "--resume", "--out", "RUN"])],
)
def test_damaged_weights(trained, tmp_path, content, name, command):
    run = shutil.copytree(trained[0], tmp_path / "run")
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert_one_clear_line(wavedil(*(word.replace("RUN", str(run)) for word in command)), name)


def test_speakers_that_do_not_exist(trained):
    assert_one_clear_line(wavedil("generate", trained[0], "--speaker", "carla"), "'anna', 'bruno'", "carla")


def test_generate_to_an_impossible_place(trained):
    assert_one_clear_line(wavedil("generate", trained[0], "--seconds", 0.01, "-o", trained[0] / "sample.wav" / "x.wav"),
                          "x.wav")
    assert_one_clear_line(wavedil("generate", trained[0], "--seconds", 0.01, "-o", trained[0] / "x.doc"), "x.doc")


def test_full_disk_keeps_what_was_saved(place, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(report, "loss_curve", full)
    run = tmp_path / "run"
    result = wavedil("train", place / "clips", "--config", place / "settings.toml", "--out", run)
    assert_one_clear_line(result, "No space left", "loss.png")
    monkeypatch.undo()
    result = wavedil("train", "--out", run, "--resume")
    assert result.exit_code == 0, result.output
    assert (run / "loss.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--steps", "0"],
        ["train", "--steps", "many"],
        ["train", "--preset", "huge"],
        ["train", "--resume"],
        ["train", "clips", "--resume", "--out", "run"],
        ["train", "--resume", "--out", "run", "--preset", "tiny"],
        ["train", "a", "b"],
        ["generate"],
        ["generate", "run", "--seconds", "-1"],
        ["generate", "run", "--temperature", "-1"],
        ["info"],
        ["info", "run", "--preset", "tiny"],
        ["sing"],
    ],
)
def test_wrong_usage_is_2(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = wavedil(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


# ---- start-up ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["generate", "--help"], ["info", "--help"]])
def test_help(words):
    result = wavedil(*words)
    assert result.exit_code == 0
    assert "Usage:" in result.output
    options = {"train": ["--preset", "--config", "--steps", "--minutes", "--out", "--seed", "--threads", "--resume"],
               "generate": ["--seconds", "--temperature", "--seed", "--speaker", "-o"]}
    for option in options.get(words[0], []):
        assert option in result.output


def test_version():
    result = wavedil("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"wavedil \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("wavedil", ["numba", "librosa", "soxr", "soundfile", "typer", "rich", "matplotlib"]),
        ("wavedil.cli", ["numba", "librosa", "soxr", "soundfile", "matplotlib"]),
    ],
)
def test_imports_load_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print(*(name for name in {forbidden} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_the_installed_script_answers(tmp_path):
    found = shutil.which("wavedil", path=os.path.dirname(sys.executable))
    assert found, "the wavedil script is not installed beside the interpreter"
    done = subprocess.run([found, "info", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
