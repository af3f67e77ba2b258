"""The tasks of examples/sequence_tasks.py with several seeds each, beside the paper's table where the task is the same.

    python -m benchmarks.sequence_tasks                     every task, seeds 0, 1, 2: about an hour on 2 cores
    python -m benchmarks.sequence_tasks adding-600 --seeds 0 --minutes 4

Each run is kept in runs/sequence_tasks until it is done, so that ``--minutes`` may cut the work into slices. Results go
to results/sequence_tasks.json and .md, which are made again from all that is known.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import time

from benchmarks import harness
from benchmarks.harness import ROOT, say

RUNS = ROOT / "runs" / "sequence_tasks"
# arXiv:1803.01271, Table 1. Its images have 784 pixels and 60,000 of them train; its characters are those of the Penn
# Treebank: of these tasks only the adding problem of 600 steps is the same here.
PAPER = {"adding-600": {"LSTM": 0.164, "GRU": 5.3e-5, "TCN": 5.8e-5}}


def tasks():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("sequence_tasks", ROOT / "examples" / "sequence_tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(examples, name, seed, minutes):
    """One run, or a slice of it: its result, or None if it is not done yet."""
    folder = RUNS / f"{name}-{seed}"
    trainer, steps, measure = examples.start(name, seed, folder=folder)
    clock = folder / "seconds.json"
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    begin = time.perf_counter()
    if trainer.step < steps:
        trainer.fit(steps=steps - trainer.step, minutes=minutes)
    seconds = before + time.perf_counter() - begin
    clock.write_text(json.dumps(seconds))
    if trainer.step < steps:
        say(f"{name}, seed {seed}: step {trainer.step} of {steps}, {seconds:.0f} s so far")
        return None
    found = measure(trainer.model)
    ((what, value),) = found.items()
    say(f"{name}, seed {seed}: {what} {value:.4g} after {steps} steps, {seconds:.0f} s")
    shutil.rmtree(folder)
    count = trainer.model.params.count
    return {"measure": what, "value": value, "steps": steps, "seconds": seconds, "parameters": count}


def table(results):
    """Lines of Markdown."""
    lines = ["| task | measure | wavedil: median (each seed) | steps | minutes | parameters | paper: LSTM, GRU, TCN |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, by_seed in results.items():
        rows = [by_seed[seed] for seed in sorted(by_seed, key=int)]
        values = [row["value"] for row in rows]
        each = ", ".join(f"{value:.3g}" for value in values)
        minutes = statistics.median(row["seconds"] for row in rows) / 60
        paper = ", ".join(f"{value:.2g}" for value in PAPER.get(name, {}).values()) or "another data set"
        if name == "adding-200":
            paper = "not in the table"
        first = rows[0]
        lines.append(
            f"| {name} | {first['measure']} | {statistics.median(values):.3g} ({each}) | {first['steps']} | "
            f"{minutes:.1f} | {first['parameters']:,} | {paper} |"
        )
    return lines


def main():
    examples = tasks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *examples.TASKS], metavar="TASK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="stop each run after so long; call again to go on")
    options = parser.parse_args()
    measure(options.tasks or list(examples.TASKS), options.seeds, options.minutes)


def run(settings):
    """As one of `python -m benchmarks`; quick: the fastest task, once, and nothing is written."""
    if settings.quick:
        train(tasks(), "digits", 0, None)
    else:
        measure(list(tasks().TASKS), [0, 1, 2])


def measure(names, seeds, minutes=None):
    """Run what is not known yet, and write the table."""
    examples = tasks()
    path = harness.RESULTS / "sequence_tasks.json"
    document = json.loads(path.read_text()) if path.exists() else {"results": {}}
    for name in names:
        for seed in seeds:
            known = document["results"].setdefault(name, {})
            if str(seed) in known:
                continue
            result = train(examples, name, seed, minutes)
            if result is None:
                continue
            known[str(seed)] = result
            document["machine"] = harness.machine()
            order = {task: document["results"][task] for task in examples.TASKS if document["results"].get(task)}
            document["results"] = order
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=1) + "\n")
            # Errors do not depend on what else the machine does; minutes do.
            about = harness.describe(document["machine"] | {"load_before": None})
            lines = [*table(order), "", f"{about}. The minutes include whatever else the machine did."]
            path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
