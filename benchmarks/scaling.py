"""How the training step's time and memory grow with the window, the channels, the blocks and the threads.

One quantity moves at a time. Window lengths use batch 1, so that a window alone has to occupy all threads. A size that
a peer cannot hold in half of the free memory is left out for that peer.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import harness, plots, train_step
from benchmarks import problem as problems
from benchmarks.harness import say
from benchmarks.problem import Problem

LABELS = ("wavedil", "wavedil, recompute", "torch conv1d", "torch linear")
# Floats kept for each sample, block and channel, generously, to leave out what would not fit.
KEPT = {"wavedil": 4, "wavedil, recompute": 2, "torch conv1d": 14, "torch linear": 16}


def axes_of(settings):
    """axis -> list of (value, problem, threads)."""
    window = 1024 if settings.quick else 4096
    base, threads = Problem(window=window), settings.threads
    powers = (10, 13) if settings.quick else range(10, 21)
    channels = (16, 32) if settings.quick else (16, 24, 30, 32, 48, 64, 96, 128)
    blocks = (10, 20) if settings.quick else (5, 10, 20, 40)
    return {
        "window": [(2**n, replace(base, batch=1, window=2**n), threads) for n in powers],
        "channels": [(c, replace(base, channels=c), threads) for c in channels],
        "blocks": [(n, replace(base, dilations=tuple(2 ** (i % 10) for i in range(n))), threads) for n in blocks],
        "threads": [(n, base, n) for n in range(1, threads + 1)],
    }


def available_memory():
    """Bytes; 8 GiB where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 8 * 2**30


def fits(label, problem):
    kept = KEPT[label] * problem.samples * len(problem.dilations) * problem.channels * 4
    return kept < available_memory() / 2


def measure(axis, value, problem, threads, workers, chosen, settings, folder):
    path = str(problems.write(problem, folder / "problem.npz"))
    measures, found = {}, {}
    for label, worker in workers.items():
        if not fits(label, problem):
            continue
        options = chosen[label][2]
        worker.ask("setup", problem=problem.to_dict(), path=path, threads=threads, **options)
        seconds = worker.ask("check", steps=2)["seconds"][-1]
        count = harness.repeats(seconds, 0.05 if settings.quick else 0.3, most=20)
        measures[label] = lambda w=worker, n=count: w.ask("time", what="step", repeat=n)["seconds"]
        found[label] = {}
    for label, seconds in harness.alternate(measures, 2 if settings.quick else 5).items():
        found[label] = harness.summary(seconds)
        found[label]["nanoseconds_per_sample"] = found[label]["median"] / problem.samples * 1e9
        found[label]["gflops"] = problem.step_flops / found[label]["median"] / 1e9
        found[label]["step_peak_mib"] = workers[label].ask("memory", steps=1)["step_peak_mib"]
    return {"axis": axis, "value": value, "problem": problem.to_dict(), "threads": threads, "peers": found}


def series(rows, axis, label, key):
    """(values, figures) along one axis."""
    points = [(row["value"], row["peers"][label][key]) for row in rows if row["axis"] == axis and label in row["peers"]]
    return tuple(zip(*points, strict=True)) if points else ((), ())


def draw(rows, about):
    footnote = f"{harness.describe(about)}\nmedians of alternating runs"
    fig, axes = plots.figure(13, 8, rows=2, columns=3, footnote=footnote)
    panels = (
        ("window", "nanoseconds_per_sample", 1, "ns a sample", "Time against window (batch 1; flat = linear)"),
        ("window", "step_peak_mib", 1, "MiB", "Peak memory against window (batch 1)"),
        ("channels", "median", 1e3, "milliseconds a step", "Channels"),
        ("channels", "gflops", 1, "GFLOP/s", "Channels: arithmetic rate"),
        ("blocks", "median", 1e3, "milliseconds a step", "Blocks"),
        ("threads", "median", None, "times one thread's speed", "Threads"),
    )
    for ax, (axis, key, factor, unit, title) in zip(axes, panels, strict=True):
        for label in LABELS:
            values, figures = series(rows, axis, label, key)
            if not values:
                continue
            figures = [figures[0] / f for f in figures] if factor is None else [factor * f for f in figures]
            ax.plot(values, figures, "o-", ms=3.5, color=plots.colour(label), label=label)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlabel({"window": "samples a window"}.get(axis, axis))
        ax.set_ylabel(unit)
        if axis == "window":
            ax.set_xscale("log", base=2)
        else:
            ticks = [row["value"] for row in rows if row["axis"] == axis and row["value"] != 30]  # too near to 32
            ax.set_xticks(ticks)
        if key == "step_peak_mib":
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
    axes[-1].legend(fontsize=7, frameon=False, loc="lower right")
    return fig


def run(settings):
    chosen = train_step.peers(settings, compiled=False)
    chosen = {label: chosen[label] for label in LABELS}
    workers, absent = train_step.start(chosen, settings)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for axis, points in axes_of(settings).items():
                for value, problem, threads in points:
                    rows.append(measure(axis, value, problem, threads, workers, chosen, settings, Path(folder)))
                    found = rows[-1]["peers"].items()
                    each = (f"{k} {1e3 * f['median']:.1f} ms, {f['step_peak_mib']:.0f} MiB" for k, f in found)
                    say(f"{axis} {value}: {', '.join(each)}")
                figure = draw(rows, harness.machine())
                harness.write_results("scaling", {"rows": rows, "absent": absent}, figure, settings)
    finally:
        for worker in workers.values():
            worker.close()
    for label in workers:
        values, figures = series(rows, "window", label, "nanoseconds_per_sample")
        if 4096 in values:
            at = dict(zip(values, figures, strict=True))
            longest = max(at)
            say(f"{label}: a sample in a window of {longest} costs {at[longest] / at[4096]:.2f}x one in 4096")
    return rows
