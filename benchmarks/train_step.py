"""The whole training step (forward, backward, clipping, Adam) of a WaveNet of 20 blocks, and its forward pass alone.

All peers start from one file of weights and codes, and their losses and gradient norms over the first steps are
compared before anything is timed. Peak memory is that of each peer's whole process; beside it stands what is left of it
after import and a warm-up on a problem of 16 samples (for torch.compile, which would compile twice, after import only).
wavedil's kernels are in its cache on disk before; what compiling them takes is in compile_time.
"""

import tempfile
from pathlib import Path

from benchmarks import harness, plots
from benchmarks import problem as problems
from benchmarks.harness import say
from benchmarks.problem import Problem

SHAPES = ((16, 2), (32, 2), (64, 2), (64, 3), (128, 2))
# Relative, in float32. A step changes the loss by some 1e-3; a ReLU within rounding of 0 can change a norm by 1e-4.
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3
OURS = "wavedil"


def peers(settings, compiled):
    """label -> (module, interpreter, options)."""
    found = {
        OURS: ("benchmarks.peers.wavedil_wavenet", None, {}),
        "wavedil, recompute": ("benchmarks.peers.wavedil_wavenet", None, {"recompute": True}),
    }
    for formulation in ("conv1d", "linear"):
        options = {"formulation": formulation}
        torch = ("benchmarks.peers.torch_wavenet", settings.torch_python)
        found[f"torch {formulation}"] = (*torch, options)
        if compiled:
            found[f"torch.compile {formulation}"] = (*torch, options | {"compile": True})
        found[f"jax {formulation}"] = ("benchmarks.peers.jax_wavenet", settings.jax_python, options)
    return found


def start(chosen, settings):
    """The workers that can be started; the others are named with the reason."""
    workers, absent = {}, {}
    for label, (module, python, _) in chosen.items():
        if module in absent:
            continue
        try:
            interpreter = {} if python is None else {"python": python}
            workers[label] = harness.Worker(module, threads=settings.threads, **interpreter)
        except harness.Absent as reason:
            if label == OURS:
                raise
            absent[module] = str(reason)
            say(f"{label.split()[0]}: skipped: {reason}")
    return workers, absent


def fill_cache(chosen, settings):
    """Let a process of its own compile wavedil's kernels: the peers measured later find them on disk, as users do."""
    problem = Problem(batch=1, window=16)
    with tempfile.TemporaryDirectory() as folder:
        path = str(problems.write(problem, Path(folder) / "tiny.npz"))
        for label, (module, _, options) in chosen.items():
            if label.startswith(OURS):
                with harness.Worker(module, threads=settings.threads) as worker:
                    worker.ask("first", problem=problem.to_dict(), path=path, threads=settings.threads, **options)


def disagreement(answers):
    """Largest relative differences to the first peer's, for each peer: (of the losses, of the first gradient's norm).

    The losses after a step tell whether backward, clipping and Adam agree. Later norms are left out: Adam turns the
    rounding of nearly zero gradients into whole steps.
    """
    first, *_ = answers.values()

    def relative(value, expected):
        error = abs(value - expected) / abs(expected)
        return error if error == error else float("inf")  # a NaN disagrees with everything

    worst = {}
    for label, answer in answers.items():
        losses = zip([answer["loss"], *answer["losses"]], [first["loss"], *first["losses"]], strict=True)
        worst[label] = max(relative(*pair) for pair in losses), relative(answer["norms"][0], first["norms"][0])
    return worst


def measure(problem, chosen, settings, folder):
    """All figures of one problem: label -> what was found."""
    path = str(problems.write(problem, folder / "problem.npz"))
    tiny = Problem(problem.channels, problem.kernel, problem.dilations, 1, 16, problem.classes)
    warm_up = {"problem": tiny.to_dict(), "path": str(problems.write(tiny, folder / "tiny.npz"))}
    workers, absent = start(chosen, settings)
    found = {label: {"import_seconds": worker.import_seconds} for label, worker in workers.items()}
    try:
        checks = {}
        for label, worker in workers.items():
            options = chosen[label][2]
            first = None if options.get("compile") else warm_up
            about = worker.ask(
                "setup", problem=problem.to_dict(), path=path, warm_up=first, threads=settings.threads, **options
            )
            checks[label] = worker.ask("check", steps=3)
            found[label] |= {"about": about, "check": checks[label]}
        for label, (loss, norm) in disagreement(checks).items():
            found[label]["relative_difference"] = {"loss": loss, "norm": norm}
            if loss > LOSS_TOLERANCE or norm > NORM_TOLERANCE:
                raise harness.WorkerError(
                    f"{label}: losses must agree to {LOSS_TOLERANCE} with {OURS}'s, the first gradient's norm to "
                    f"{NORM_TOLERANCE}, got {loss:.1e} and {norm:.1e}: {checks[label]} against {checks[OURS]}"
                )
        budget = 0.2 if settings.quick else 0.7
        for what, share in (("step", 1), ("loss", 1 / 3)):  # the loss was called cold only: guess its time
            measures = {}
            for label, worker in workers.items():
                count = harness.repeats(checks[label]["seconds"][-1] * share, budget, most=20)
                measures[label] = lambda w=worker, n=count, k=what: w.ask("time", what=k, repeat=n)["seconds"]
            seconds = harness.alternate(measures, settings.rounds)
            for label, values in seconds.items():
                found[label][what] = harness.summary(values) | {"rounds": values}
                found[label][what]["times_slower_than_wavedil"] = harness.ratio(values, seconds[OURS])
        for label, worker in workers.items():
            found[label]["memory"] = worker.ask("memory", steps=2)
    finally:
        for worker in workers.values():
            worker.close()
    for row in found.values():
        row["step"]["gflops"] = problem.step_flops / row["step"]["median"] / 1e9
        row["step"]["samples_per_second"] = problem.samples / row["step"]["median"]
        row["loss"]["gflops"] = problem.forward_flops / row["loss"]["median"] / 1e9
    return {"problem": problem.to_dict(), "threads": settings.threads, "peers": found, "absent": absent}


def best(row, what, prefixes):
    """Label and median of the fastest peer whose label starts with one of the prefixes; None where there is none."""
    found = {label: peer[what]["median"] for label, peer in row["peers"].items() if label.startswith(prefixes)}
    return min(found.items(), key=lambda item: item[1]) if found else None


def table(row):
    """Lines of text."""
    lines = [f"{'':24}{'step ms':>9}{'min':>8}{'x':>6} {'quartiles':>12}{'GFLOP/s':>9}{'loss ms':>9}{'x':>6}"]
    lines[0] += f"{'MiB':>7}{'net':>7}"
    for label, peer in row["peers"].items():
        step, loss, memory = peer["step"], peer["loss"], peer["memory"]
        times = step["times_slower_than_wavedil"]
        spread = "{:.2f}-{:.2f}".format(*times["quartiles"])
        lines.append(
            f"{label:24}{1e3 * step['median']:9.1f}{1e3 * step['minimum']:8.1f}{times['median']:6.2f} {spread:>12}"
            f"{step['gflops']:9.1f}{1e3 * loss['median']:9.1f}{loss['times_slower_than_wavedil']['median']:6.2f}"
            f"{memory['process_peak_mib']:7.0f}{memory['step_net_mib']:7.0f}"
        )
    return lines


def draw(rows, about):
    first = rows[0]["problem"]
    labels = [label for label in plots.COLOURS if any(label in row["peers"] for row in rows)]
    by_name = {Problem.from_dict(row["problem"]).name: row["peers"] for row in rows}
    frameworks = {peer["about"]["framework"] for row in rows for peer in row["peers"].values()}
    footnote = f"{harness.describe(about)}; {', '.join(sorted(frameworks))}; {rows[0]['threads']} threads each\n"
    footnote += f"medians of {first['batch']} x {first['window']} samples, {len(first['dilations'])} blocks, float32"
    fig, axes = plots.figure(14, 11, rows=3, footnote=footnote)
    kinds = (
        ("Training step: forward, backward, clipping, Adam", "milliseconds", "step"),
        ("Forward only: the loss", "milliseconds", "loss"),
        ("Peak memory of the whole training process", "MiB", "memory"),
    )
    for ax, (title, unit, what) in zip(axes, kinds, strict=True):

        def figure_of(group, label, what=what):
            found = by_name[group][label][what]
            return found["process_peak_mib"] if what == "memory" else 1e3 * found["median"]

        def times(group, label, what=what, figure_of=figure_of):
            if label not in by_name[group]:
                return None
            if what == "memory":
                return figure_of(group, label) / figure_of(group, OURS)
            return by_name[group][label][what]["times_slower_than_wavedil"]["median"]

        def text(group, label, figure_of=figure_of, times=times):
            return f"{times(group, label):.2f}x\n{figure_of(group, label):.0f}"

        plots.grouped_bars(ax, list(by_name), labels, times, text, "times wavedil's", f"{title} (below: {unit})")
        ax.margins(y=0.15)
    return fig


def run(settings, shapes=None, window=None):
    shapes = shapes or (SHAPES[1:2] if settings.quick else SHAPES)
    window = window or (1024 if settings.quick else 4096)
    rows, chosen = [], peers(settings, compiled=not settings.quick)
    if settings.quick:
        say("torch.compile and JAX: skipped: they compile for longer than --quick may take")
        chosen = {label: peer for label, peer in chosen.items() if not label.startswith("jax")}
    fill_cache(chosen, settings)
    with tempfile.TemporaryDirectory() as folder:
        for channels, kernel in shapes:
            problem = Problem(channels, kernel, window=window)
            rows.append(measure(problem, chosen, settings, Path(folder)))
            size = f"batch {problem.batch} x {problem.window}, {problem.step_flops / 1e9:.1f} GFLOP a step"
            say(f"{problem.name}, {size}")
            for line in table(rows[-1]):
                say("  " + line)
            if fastest := best(rows[-1], "step", ("torch",)):
                ours = rows[-1]["peers"][OURS]["step"]["median"]
                say(f"  best of torch: {fastest[0]}, {fastest[1] / ours:.2f}x wavedil's time")
            rows[-1]["best_torch"] = {what: best(rows[-1], what, ("torch",)) for what in ("step", "loss")}
            # After each row: a long run may be cut off.
            harness.write_results("train_step", {"rows": rows}, draw(rows, harness.machine()), settings)
    return rows
