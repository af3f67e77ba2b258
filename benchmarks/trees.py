"""Two trees of the library beside each other: does a change cost speed?

    python -m benchmarks.trees OLD NEW [--rounds 7] [--out results/trees.json]

OLD and NEW are folders that hold a ``wavedil`` package, such as ``git worktree add``s. Each cell (a training step, or
generation) is measured in a process of its own, old and new in alternation, from the same weights; the table has the
medians of the rounds and their ratio. Above 1 the new tree is slower.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import harness

TRAIN = [(16, 2), (32, 2), (64, 2), (64, 3), (128, 2)]  # channels, kernel size
GENERATE = [(16, 1), (16, 8), (32, 1), (32, 8), (64, 1), (64, 8), (128, 1)]  # channels, streams


def measure(kind, channels, number):
    """Seconds of one step, or of 1,000 samples; the median of some, in this process."""
    import numpy as np

    import wavedil as wd

    kernel = number if kind == "train" else 2
    sizes = {f"{name}_channels": channels for name in ("residual", "dilation", "skip", "end")}
    config = wd.WaveNetConfig(dilations=[2**i for i in range(10)] * 2, kernel_size=kernel, **sizes)
    model = wd.WaveNet(config, seed=0, threads=2 if kind == "train" else 1)
    codes = np.random.default_rng(0).integers(0, 256, (4, 4097))
    into = model.loss_and_grads(codes[:, :300])[1] if kind == "train" else None

    def run():
        if kind == "train":
            model.loss_and_grads(codes, into=into)
        else:
            model.generate(1000, batch=number, seed=1)

    run()
    taken, end = [], time.perf_counter() + 0.7
    while len(taken) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def measured_in(tree, cell):
    """`measure` in a process that imports the tree's package."""
    folder = str(Path(tree).resolve())
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__), "--cell", *map(str, cell)], cwd=folder, text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(Path(__file__).parents[1])])}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", metavar="TREE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "trees.json")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        kind, channels, number = options.cell
        print(measure(kind, int(channels), int(number)))
        return
    if len(options.trees) != 2:
        parser.error(f"expected two trees, OLD and NEW, got {len(options.trees)}")
    rows = []
    for cell in [("train", *c) for c in TRAIN] + [("generate", *c) for c in GENERATE]:
        seconds = [[], []]
        for turn in range(options.rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                seconds[side].append(measured_in(options.trees[side], cell))
        old, new = map(statistics.median, seconds)
        rows.append({"cell": cell, "old": old, "new": new, "ratio": new / old, "seconds": seconds})
        print(f"{cell[0]:9}{cell[1]:4} channels, {cell[2]}: {1e3 * old:9.2f} ms {1e3 * new:9.2f} ms  {new / old:.3f}",
              flush=True)  # fmt: skip
    options.out.write_text(json.dumps({"machine": harness.machine(), "rounds": options.rounds, "rows": rows}, indent=1)
                           + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
