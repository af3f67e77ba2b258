"""The training step (forward, backward, clipping, Adam) of a TCN: 8 levels x 24 channels, kernel 8, as for the adding
problem of 600 steps (arXiv:1803.01271), with a prediction after each row and after the last one only.

All peers start from one file of weights and data, and their losses and gradient norms over the first steps are compared
before anything is timed. torch computes all rows also where only the last prediction counts, as its users do; wavedil
leaves out those that the prediction does not depend on.
"""

import tempfile
from pathlib import Path

from benchmarks import harness, plots
from benchmarks.harness import say
from benchmarks.tcn_problem import BATCH, CHANNELS, KERNEL, LEVELS, TIME, flops, write

LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3  # relative, in float32
OURS = "wavedil"


def peers(settings, compiled):
    """label -> (module, interpreter, options)."""
    found = {OURS: ("benchmarks.peers.wavedil_tcn", None, {})}
    for label, options in (("torch conv1d", {}), ("torch.compile conv1d", {"compile": True})):
        if compiled or not options:
            found[label] = ("benchmarks.peers.torch_tcn", settings.torch_python, options)
    return found


def measure(head, settings, folder):
    """label -> what was found."""
    path = str(write(Path(folder) / f"{head}.npz", head))
    workers, found, checks = {}, {}, {}
    try:
        for label, (module, python, options) in peers(settings, not settings.quick).items():
            try:
                interpreter = {} if python is None else {"python": python}
                worker = harness.Worker(module, threads=settings.threads, **interpreter)
            except harness.Absent as reason:
                say(f"{label}: skipped: {reason}")
                continue
            workers[label] = worker
            about = worker.ask("setup", problem={"head": head}, path=path, threads=settings.threads, **options)
            checks[label] = worker.ask("check", steps=3)
            found[label] = {"about": about, "check": checks[label]}
            ours, theirs = ([c["loss"], *c["losses"]] for c in (checks[OURS], checks[label]))
            off = max(abs(a - b) / abs(b) for a, b in zip(theirs, ours, strict=True))
            norm = abs(checks[label]["norms"][0] / checks[OURS]["norms"][0] - 1)
            found[label]["relative_difference"] = {"loss": off, "norm": norm}
            if not (off <= LOSS_TOLERANCE and norm <= NORM_TOLERANCE):
                raise harness.WorkerError(f"{label}: must agree with {OURS}, got differences {off:.1e}, {norm:.1e}")
        measures = {}
        for label, worker in workers.items():
            count = harness.repeats(checks[label]["seconds"][-1], 0.2 if settings.quick else 0.7, most=20)
            measures[label] = lambda w=worker, n=count: w.ask("time", what="step", repeat=n)["seconds"]
        seconds = harness.alternate(measures, settings.rounds)
        for label, values in seconds.items():
            found[label]["step"] = harness.summary(values)
            found[label]["step"]["times_slower_than_wavedil"] = harness.ratio(values, seconds[OURS])
    finally:
        for worker in workers.values():
            worker.close()
    return found


def draw(rows, about):
    footnote = f"{harness.describe(about)}; batch {BATCH} x {TIME}, {LEVELS} levels x {CHANNELS}, kernel {KERNEL}"
    fig, (ax,) = plots.figure(8, 4, footnote=footnote)
    labels = [label for label in plots.COLOURS if any(label in row for row in rows.values())]

    def value(group, label):
        return 1e3 * rows[group][label]["step"]["median"] if label in rows[group] else None

    def text(group, label):
        times = rows[group][label]["step"]["times_slower_than_wavedil"]["median"]
        return f"{value(group, label):.0f}\n{times:.1f}x"

    plots.grouped_bars(ax, list(rows), labels, value, text, "milliseconds", "Training step of a TCN, by its head")
    ax.margins(y=0.15)
    return fig


def run(settings):
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for head in ("last", "sequence"):
            rows[head] = measure(head, settings, folder)
            say(f"{head}: {flops() / 1e9:.1f} GFLOP a step if all rows are computed")
            for label, row in rows[head].items():
                step = row["step"]
                times = step["times_slower_than_wavedil"]["median"]
                say(f"  {label:22}{1e3 * step['median']:9.1f} ms, min {1e3 * step['minimum']:.1f}, {times:.2f}x")
    harness.write_results("tcn_step", {"rows": rows, "flops": flops()}, draw(rows, harness.machine()), settings)
    return rows
