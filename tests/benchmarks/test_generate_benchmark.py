"""The benchmark of generation: its checks, and a small run without torch. No figure of speed is asserted."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.append(str(ROOT))  # last, so that an installed wavedil goes before the source tree

from benchmarks import generate, harness, readme  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402


def test_peers_that_disagree_are_found():
    right = {"logits": [5.0, 1.0], "greedy": [[1, 2, 3, 4]]}
    close = {"logits": [5.00001, 1.0], "greedy": [[1, 2, 3, 5]]}
    assert generate.check({"wavedil": right, "close": close})["close"] == {
        "logits": pytest.approx(2e-6),
        "greedy": 0.25,
    }
    for wrong in ({"logits": [5.001, 1.0]}, {"greedy": [[0, 0, 0, 4]]}, {"logits": [float("nan"), 1.0]}):
        with pytest.raises(harness.WorkerError, match="other: logits must agree"):
            generate.check({"wavedil": right, "other": right | wrong})


def test_latency_tells_the_rare_and_the_worst():
    found = generate.latency([0.001] * 980 + [0.005] * 19 + [0.1])
    assert found == {"p50": 0.001, "p99": 0.005, "max": 0.1, "count": 1000}
    assert generate.latency([2.0])["p99"] == 2.0


def test_a_small_run(tmp_path, monkeypatch, capsys):
    worker = harness.Worker

    def without_torch(module, *words, **options):
        if "torch" in module:
            raise harness.Absent("No module named 'torch'")
        return worker(module, *words, **options)

    monkeypatch.setattr(harness, "Worker", without_torch)
    monkeypatch.setattr(harness, "SETTLE", 0)
    monkeypatch.setattr(Settings, "rounds", 2)
    for name, value in (("CHANNELS", (16,)), ("BATCHES", (1, 8)), ("BLOCKS", (1, 16))):
        monkeypatch.setattr(generate, name, value)
    generate.run(Settings(quick=True, threads=2, out=tmp_path))
    assert "torch: skipped: No module named 'torch'" in capsys.readouterr().out
    assert (tmp_path / "generate.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "generate.json").read_text())
    assert [(row["channels"], row["batch"]) for row in document["rows"]] == [(16, 1), (16, 8)]
    for row in document["rows"]:
        assert list(row["peers"]) == ["wavedil", "wavedil, 2 threads"]
        for peer in row["peers"].values():
            assert peer["samples_per_second"] > 0 and peer["seconds_per_sample"]["count"] == 2
            assert peer["relative_difference"] == {"logits": pytest.approx(0, abs=1e-14), "greedy": 0}
    assert [(row["block"], row["what"]) for row in document["streaming"]] == [
        (1, "model"), (1, "audio"), (16, "model"), (16, "audio")]  # fmt: skip
    assert all(0 < row["p50"] <= row["p99"] <= row["max"] for row in document["streaming"])
    assert document["small_network"]["gflops"] > 0 and document["first_sample"]["first_sample"]["median"] > 0
    assert [row["channels"] for row in document["weights"]["rows"]] == [16]
    bits = document["weights"]["effect"]["bits"]
    assert set(bits) == {"None", "float16", "int8"} and all(0 < b < 8.5 for b in bits.values())
    assert abs(bits["float16"] - bits["None"]) < 0.01 and len(set(bits.values())) == 3
    text = readme.generation(document, "picture.png")
    assert "| 16, 1 | " in text.partition("float16 | int8")[2] and "| bits/sample, 32 channels | " in text
    assert "| 16, 8 | " in text and "| 16 | 1.000 ms |" in text and "(picture.png)" in text


def test_the_readme_gets_what_was_measured(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n")
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr(readme, "generation", lambda document, picture: f"speed {document['speed']}, {picture}")
    settings = Settings(out=tmp_path)
    readme.run(settings)
    assert "old" in page.read_text() and "there is nothing to write" in capsys.readouterr().out
    machine = {"load_before": [3.0, 0.0, 0.0]}
    (tmp_path / "generate.json").write_text(json.dumps({"speed": 7, "machine": machine}))
    readme.run(settings)
    assert "old" in page.read_text() and "BUSY" in capsys.readouterr().out
    machine["load_before"] = [0.1, 0.0, 0.0]
    (tmp_path / "generate.json").write_text(json.dumps({"speed": 7, "machine": machine}))
    readme.run(settings)
    assert page.read_text() == f"a\n{readme.BEGIN}\nspeed 7, {tmp_path / 'generate.png'}\n{readme.END}\nb\n"
