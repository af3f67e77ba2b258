"""The benchmarks' harness: statistics, worker processes, and a small run. No figure of speed is asserted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.append(str(ROOT))  # last, so that an installed wavedil goes before the source tree

from benchmarks import harness, kernels, plots, readme, train_step  # noqa: E402
from benchmarks import problem as problems  # noqa: E402
from benchmarks.peers import probe, worker  # noqa: E402
from benchmarks.problem import Problem  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402

STUB = """
import os, sys
from benchmarks.peers import worker

print("noise at import")

class Stub(worker.Peer):
    def do_echo(self, value):
        print("noise in an answer")
        os.write(1, b"noise below Python's buffers\\n")
        return value

    def do_fail(self):
        raise ValueError("expected a square, got a circle")

    def do_end(self):
        print("last words", file=sys.stderr)
        os._exit(3)

    def do_hang(self):
        import time
        time.sleep(60)

    def do_variables(self):
        return {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "EXTRA")}

PEER = Stub
"""


@pytest.fixture
def stub(tmp_path):
    (tmp_path / "stub_peer.py").write_text(STUB)
    (tmp_path / "absent_peer.py").write_text("import a_module_that_is_nowhere\n")

    def start(module="stub_peer", **options):
        environment = {"PYTHONPATH": str(tmp_path), "EXTRA": "yes"}
        return harness.Worker(module, environment=environment, **options)

    return start


# ---- statistics ------------------------------------------------------------------------------------------------------
def test_summary():
    assert harness.summary([4.0, 1.0, 3.0, 2.0, 10.0]) == {
        "median": 3.0,
        "minimum": 1.0,
        "maximum": 10.0,
        "quartiles": [2.0, 4.0],
        "count": 5,
    }
    assert harness.summary([2.0])["quartiles"] == [2.0, 2.0]


def test_ratio_is_of_pairs_and_not_of_medians():
    # The machine slows down threefold on the way: the pairs still say 2.
    ours, theirs = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]
    assert harness.ratio(theirs, ours) == harness.summary([2.0, 2.0, 2.0])
    assert harness.ratio([1.0, 9.0, 1.0], [1.0, 1.0, 2.0])["median"] == 1.0
    with pytest.raises(ValueError):
        harness.ratio([1.0, 2.0], [1.0])


def test_alternation_turns_the_order_and_takes_medians(monkeypatch):
    monkeypatch.setattr(harness, "SETTLE", 0)
    order = []

    def measure(label, seconds):
        order.append(label)
        return seconds

    measures = {"a": lambda: measure("a", [9.0, 1.0, 2.0]), "b": lambda: measure("b", [5.0])}
    assert harness.alternate(measures, 3) == {"a": [2.0] * 3, "b": [5.0] * 3}
    assert order == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.parametrize(
    ("seconds", "budget", "count"), [(0.1, 0.35, 4), (5.0, 0.3, 1), (1e-9, 1.0, 20), (0.0, 1.0, 20)]
)
def test_repeats(seconds, budget, count):
    assert harness.repeats(seconds, budget, most=20) == count


# ---- workers ---------------------------------------------------------------------------------------------------------
def test_a_worker_answers_and_what_it_prints_stays_out_of_the_way(stub):
    with stub(threads=3) as peer:
        assert peer.import_seconds >= 0
        for value in (1.5, "text", [1, {"a": None}], {}):
            assert peer.ask("echo", value=value) == value
        assert peer.ask("variables") == {"OMP_NUM_THREADS": "3", "EXTRA": "yes"}


def test_a_worker_survives_its_errors(stub):
    with stub() as peer:
        with pytest.raises(harness.WorkerError, match="stub_peer: fail: ValueError: expected a square, got a circle"):
            peer.ask("fail")
        assert peer.ask("echo", value=2) == 2


def test_a_worker_that_dies_is_named_with_its_last_words(stub):
    with stub() as peer:
        with pytest.raises(harness.WorkerError, match="(?s)stub_peer: ended with code 3.*last words"):
            peer.ask("end")
        with pytest.raises(harness.WorkerError, match="stub_peer: "):
            peer.ask("echo", value=1)


def test_a_worker_that_hangs_is_ended(stub):
    with stub() as peer:
        peer.timeout = 0.3
        with pytest.raises(harness.WorkerError, match="gave no answer within"):
            peer.ask("hang")


def test_a_framework_that_is_absent(stub):
    with pytest.raises(harness.Absent, match="a_module_that_is_nowhere"):
        stub("absent_peer")


def test_absent_peers_are_skipped_with_a_line(stub, capsys):
    chosen = {f"other {kind}": ("benchmarks.peers.nowhere", None, {}) for kind in ("conv1d", "linear")}
    workers, absent = train_step.start(chosen, Settings())
    assert workers == {} and list(absent) == ["benchmarks.peers.nowhere"]
    assert capsys.readouterr().out == "other: skipped: No module named 'benchmarks.peers.nowhere'\n"


def test_memory_counts_what_is_held_and_the_peak_can_start_anew():
    before = worker.memory()
    held = np.ones(64 * 2**20, np.uint8)
    during = worker.memory()
    assert 55 < during["now"] - before["now"] < 80
    assert during["peak"] >= during["now"] - 1
    del held
    if worker.reset_peak():
        assert worker.memory()["peak"] < during["now"] - 40


# ---- problems and checks ---------------------------------------------------------------------------------------------
def test_a_problem_survives_its_file(tmp_path):
    problem = Problem(channels=4, dilations=(1, 2), batch=2, window=9, classes=16)
    parameters, codes = problems.read(problems.write(problem, tmp_path / "p.npz"))
    assert {name: value.shape for name, value in parameters.items()} == problems.shapes(problem)
    assert all(value.dtype == np.float32 for value in parameters.values())
    assert codes.shape == (2, 10) and codes.dtype == np.uint8 and codes.max() < 16
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_flops_are_those_of_the_products():
    problem = Problem(channels=4, kernel=3, dilations=(1, 2), batch=2, window=9, classes=16)
    products = sum(np.prod(shape) for name, shape in problems.shapes(problem).items() if name.endswith("weight"))
    assert problem.forward_flops == 2 * 18 * products
    assert problem.step_flops == 3 * problem.forward_flops


def test_cost_counts_the_least_work():
    rows = 4 * 4096
    sizes = kernels.conv1d(32, 2, 64)
    assert kernels.cost("conv1d", sizes, "forward") == (2 * rows * 2 * 32 * 32, 4 * (rows * 64 + 2048))
    assert kernels.cost("conv1d", sizes, "backward") == (4 * rows * 2 * 32 * 32, 4 * (rows * 96 + 4096))
    assert kernels.cost("conv1d", kernels.conv1d(64, 3, 4, groups=64), "forward")[0] == 2 * rows * 3 * 64
    assert kernels.cost("gated_block", kernels.gated_block(32, 2, 1), "forward")[0] == 2 * rows * 6 * 32 * 32
    assert kernels.cost("conv2d", kernels.conv2d(64, 3, 2, groups=4), "forward")[0] == 2 * rows * 9 * 16 * 64
    assert kernels.cost("separable", kernels.separable(32, 3, 4), "backward")[0] == 4 * rows * 32 * (3 + 32)
    assert kernels.cost("separable", kernels.separable(32, 3, 4, 64), "forward")[0] == 2 * rows * 32 * (9 + 32)


def test_peers_that_disagree_are_found():
    right = {"loss": 5.0, "losses": [5.0, 4.0], "norms": [1.0, 2.0]}
    others = {
        "same": right,
        "later norm": right | {"norms": [1.0, 2.1]},
        "norm": right | {"norms": [1.1, 2.0]},
        "loss": right | {"losses": [5.0, 4.2]},
        "nan": right | {"losses": [5.0, float("nan")]},
    }
    assert train_step.disagreement({"first": right} | others) == {
        "first": (0, 0),
        "same": (0, 0),
        "later norm": (0, 0),
        "norm": (0, pytest.approx(0.1)),
        "loss": (pytest.approx(0.05), 0),
        "nan": (float("inf"), 0),
    }


def test_a_probe_notices_order():
    x = np.random.default_rng(0).standard_normal((5, 6))
    assert probe.difference(probe.probe(x), probe.probe(x.copy())) == 0
    assert probe.difference(probe.probe(x.T), probe.probe(x)) > 0.01
    assert probe.difference(probe.probe(np.roll(x, 1)), probe.probe(x)) > 0.01


def test_the_machine_is_described():
    about = json.loads(json.dumps(harness.machine()))
    assert about["cores"] >= 1 and about["versions"]["numpy"] == np.__version__
    assert f"{about['cores']} cores" in harness.describe(about)
    assert harness.last_level_cache() >= 2**18


def test_a_busy_machine_is_told_wherever_the_machine_is():
    about = harness.machine() | {"load_before": [0.1, 3.0, 3.0]}
    assert harness.busy(about) == "" and "BUSY" not in harness.describe(about)
    about["load_before"] = [1.2, 0.0, 0.0]
    assert "load 1.2" in harness.busy(about) and "BUSY" in harness.describe(about)


def test_the_readme_section_goes_between_its_marks():
    text = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.insert(text, "new") == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
    assert readme.insert("no marks\n", "new") is None


def test_bars_leave_gaps_where_a_peer_is_missing():
    fig, (ax,) = plots.figure(4, 3)
    heights = {("g", "wavedil"): 1.0, ("h", "wavedil"): 2.0, ("h", "torch linear"): 3.0}
    labels = ["wavedil", "torch linear"]
    plots.grouped_bars(ax, ["g", "h"], labels, lambda *k: heights.get(k), lambda *k: str(heights[k]), "ms", "title")
    assert [patch.get_height() for patch in ax.patches] == [1.0, 2.0, 3.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["wavedil", "torch linear"]
    assert [text.get_text() for text in ax.texts] == ["1.0", "2.0", "3.0"]


# ---- a small run -----------------------------------------------------------------------------------------------------
def test_a_small_run_writes_figures_of_both_kinds(tmp_path, monkeypatch):
    ours = {"wavedil": train_step.peers(Settings(), compiled=False)["wavedil"]}
    monkeypatch.setattr(train_step, "peers", lambda settings, compiled: ours)
    monkeypatch.setattr(Settings, "rounds", 2)
    monkeypatch.setattr(harness, "SETTLE", 0)
    settings = Settings(quick=True, out=tmp_path)
    train_step.run(settings, shapes=[(16, 2)], window=64)
    assert (tmp_path / "train_step.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "train_step.json").read_text())
    (row,) = document["rows"]
    assert Problem.from_dict(row["problem"]) == Problem(16, 2, window=64)
    assert set(row["peers"]) == set(ours)
    for peer in row["peers"].values():
        assert peer["relative_difference"]["loss"] <= train_step.LOSS_TOLERANCE
        assert peer["step"]["count"] == peer["loss"]["count"] == 2
        assert peer["step"]["minimum"] > 0
        assert peer["memory"]["process_peak_mib"] >= peer["memory"]["import_mib"] > 1
    assert "| 16, 2 |" in readme.section(document | {"threads": settings.threads}, "picture.png")
