"""The benchmark of fine-tuning, with tones for speech: what it keeps, and that it goes on where it stopped."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.append(str(ROOT))  # last, so that an installed wavedil goes before the source tree

from benchmarks import finetune, harness  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402

PLAN = replace(finetune.QUICK, pretraining_steps=4, steps=10, share=5, seconds=(1.0,), held_out=0.5, window=64)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for voice, pitch in (("it", 150), ("ru", 260)):
        (tmp_path / "speech" / voice).mkdir(parents=True)
        for i in range(12):
            t = np.arange(2000) / 8000
            sound = 0.4 * np.sin(2 * np.pi * pitch * (1 + i / 20) * t) + 0.02 * rng.standard_normal(len(t))
            soundfile.write(tmp_path / "speech" / voice / f"{i}.wav", sound, 8000)
    monkeypatch.setattr(harness, "SETTLE", 0)
    monkeypatch.setattr(finetune, "QUICK", PLAN)
    return Settings(quick=True, threads=1, out=tmp_path / "out", speech=tmp_path / "speech")


def test_it_writes_all_runs_and_does_none_twice(settings, monkeypatch):
    finetune.run(settings)
    about = json.loads((settings.out / "finetune.json").read_text())
    assert (settings.out / "finetune.png").read_bytes()[:4] == b"\x89PNG"
    assert len(about["runs"]) == 1 + 5 * 2 + 5  # pretraining; two rates; the chosen ones with the other seed
    assert set(about["rates"]) == set(about["seconds_per_step"]) == set(finetune.ARMS)
    for run in about["runs"].values():
        assert run["curve"][-1][0] == run["steps"] and run["best"] <= run["last"]
    steps = {run["arm"]: run["steps"] for run in about["runs"].values()}
    assert steps["from scratch"] == steps["full, all steps"] == 5 * steps["full"] == 10
    lora = next(run for run in about["runs"].values() if run["arm"] == "LoRA")
    assert lora["trained"] < 0.3 * lora["parameters"] and lora["old"] > 0
    rows = {row["arm"]: row for row in about["judged"]}
    assert set(rows) == set(finetune.ARMS) - {"from scratch"} and rows["full"]["against_full"] == 0

    def fit(*_):
        raise AssertionError("a finished run was done again")

    monkeypatch.setattr(finetune, "fit", fit)
    finetune.run(settings)
    with pytest.raises(AssertionError):
        monkeypatch.setattr(finetune, "QUICK", replace(PLAN, steps=20))
        finetune.run(settings)


def test_without_speech_it_says_how_to_get_it(settings, capsys):
    finetune.run(replace(settings, speech=settings.out))
    assert "get_speech.py" in capsys.readouterr().out
