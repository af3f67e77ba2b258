"""The benchmark for a GPU runs from end to end: in the simulator, on problems of a few operations."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.append(str(ROOT))  # last, so that an installed wavedil goes before the source tree

from benchmarks import gpu  # noqa: E402
from benchmarks.problem import Problem  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402


def test_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.harness, "repeats", lambda *_, **__: 1)
    monkeypatch.setattr(Settings, "rounds", 1)
    tiny = Problem(2, dilations=(1,), batch=1, window=2, classes=4)
    monkeypatch.setattr(gpu.train_step, "Problem", lambda *_: tiny)  # the warm-up's
    monkeypatch.setattr(gpu, "peers", lambda *_, peers=gpu.peers: {gpu.OURS: peers(*_)[gpu.OURS]})
    settings = Settings(quick=True, threads=1, out=tmp_path)
    path = gpu.run(settings, trained=[tiny], generated=[tiny], greedy=2)
    found = json.loads(path.read_text())
    assert found["gpu"] == "numba's simulator" and path.with_suffix(".png").stat().st_size > 0
    (row,), (drawn,) = found["rows"], found["generation"]
    assert row["peers"][gpu.OURS]["step"]["median"] > 0
    assert set(drawn["peers"]) == {gpu.OURS, gpu.CPU}
