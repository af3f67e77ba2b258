"""On a GPU: the training step beside torch on the same GPU, and generation beside the CPU. Only run when named.

Both peers compute in float32; torch may not use TF32, which would be another computation. The losses are copied to the
host in each step, so what is timed is the whole step and not its launches.
"""

import tempfile
from pathlib import Path

from benchmarks import harness, plots, train_step
from benchmarks import problem as problems
from benchmarks.generate import check
from benchmarks.harness import say
from benchmarks.problem import Problem
from wavedil.kernels.cuda.engine import unavailable
from wavedil.kernels.cuda.launch import SIMULATED

CHANNELS, BATCHES, GREEDY = (32, 64, 128), (1, 32, 256), 100
OURS, CPU, PEER = "wavedil", "wavedil on the CPU", "benchmarks.peers.wavedil_generate"


def peers(settings, device):
    """label -> (module, interpreter, options), as in `train_step`."""
    found = {}
    for label, options in ((OURS, {}), (f"{OURS}, recompute", {"recompute": True})):
        found[label] = "benchmarks.peers.wavedil_wavenet", None, options | {"device": device}
    for formulation in ("conv1d", "linear"):
        options = {"formulation": formulation, "device": device}
        torch = "benchmarks.peers.torch_wavenet", settings.torch_python
        found[f"torch {formulation}"] = (*torch, options)
        if not settings.quick:
            found[f"torch.compile {formulation}"] = (*torch, options | {"compile": True})
    return found


def training(problem, settings, device, folder):
    """A row of `train_step.measure`, said in lines."""
    row = train_step.measure(problem, peers(settings, device), settings, folder)
    say(f"{problem.name}, batch {problem.batch} x {problem.window}, {problem.step_flops / 1e9:.1f} GFLOP a step")
    for line in train_step.table(row):
        say("  " + line)
    return row


def generation(problem, settings, device, folder, greedy=GREEDY):
    """Samples/s of all streams together, on the GPU and on the CPU; both must draw the same codes."""
    path = str(problems.write(problem, folder / "problem.npz"))
    request = {"problem": problem.to_dict(), "path": path, "batch": problem.batch, "threads": settings.threads}
    workers = {label: harness.Worker(PEER, threads=settings.threads) for label in (OURS, CPU)}
    try:
        about, answers = {}, {}
        for label, worker in workers.items():
            about[label] = worker.ask("setup", **request, device=device if label == OURS else "cpu")
            answers[label] = worker.ask("check", greedy=greedy)
        differences, measures = check(answers), {}
        for label, worker in workers.items():
            few = greedy
            worker.ask("time", n=few, repeat=1)
            n = few * harness.repeats(worker.ask("time", n=few, repeat=1)["seconds"][0], 0.05 if settings.quick else 1)
            measures[label] = lambda w=worker, n=n: [
                s / (n * problem.batch) for s in w.ask("time", n=n, repeat=1)["seconds"]
            ]
        seconds = harness.alternate(measures, settings.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    found = {
        label: {
            "about": about[label], "relative_difference": differences[label],
            "seconds_per_sample": harness.summary(values),
            "samples_per_second": 1 / harness.summary(values)["median"],
            "times_slower_than_wavedil": harness.ratio(values, seconds[OURS]),
        }
        for label, values in seconds.items()
    }  # fmt: skip
    each = ", ".join(f"{label} {peer['samples_per_second']:,.0f}" for label, peer in found.items())
    say(f"{problem.channels} channels, {problem.batch} streams, samples/s: {each}")
    return {"channels": problem.channels, "batch": problem.batch, "peers": found}


def draw(rows, drawn, about, gpu):
    footnote = f"{gpu}; {harness.describe(about)}\n20 blocks, kernel 2, float32; medians"
    fig, axes = plots.figure(12, 8, rows=2, footnote=footnote)
    by_name = {Problem.from_dict(row["problem"]).name: row["peers"] for row in rows}
    labels = [label for label in plots.COLOURS if any(label in row["peers"] for row in rows)]
    plots.grouped_bars(
        axes[0], list(by_name), labels,
        lambda group, label: 1e3 * by_name[group][label]["step"]["median"] if label in by_name[group] else None,
        lambda group, label: f"{1e3 * by_name[group][label]['step']['median']:.1f}",
        "milliseconds", "Training step on the GPU: forward, backward, clipping, Adam",
    )  # fmt: skip
    groups = {f"{row['channels']} ch., {row['batch']} str.": row["peers"] for row in drawn}
    plots.grouped_bars(
        axes[1], list(groups), [OURS, CPU],
        lambda group, label: groups[group][label]["samples_per_second"],
        lambda group, label: f"{groups[group][label]['samples_per_second']:,.0f}",
        "samples/s of all streams", "Generation",
    )  # fmt: skip
    axes[1].set_yscale("log")
    return fig


def name():
    """The GPU in one line."""
    from numba import cuda

    if SIMULATED:
        return "numba's simulator"
    gpu, (major, minor) = cuda.get_current_device(), cuda.runtime.get_version()
    chip = ".".join(map(str, gpu.compute_capability))
    text = gpu.name.decode() if isinstance(gpu.name, bytes) else gpu.name
    return f"{text} (compute capability {chip}, {gpu.MULTIPROCESSOR_COUNT} multiprocessors; CUDA {major}.{minor})"


def run(settings, device="cuda", trained=None, generated=None, greedy=GREEDY):
    """Measure; other problems and another device only for tests."""
    if reason := unavailable():
        raise SystemExit(f"no GPU to run on: {reason}")
    channels = CHANNELS[:2] if settings.quick else CHANNELS
    trained = trained or [Problem(c, window=1024 if settings.quick else 4096) for c in channels]
    batches = BATCHES[:2] if settings.quick else BATCHES
    generated = generated or [Problem(c, batch=b, window=1200) for c in channels for b in batches]
    gpu = name()
    say(gpu)
    rows, drawn = [], []
    with tempfile.TemporaryDirectory() as folder:
        for problem in trained:
            rows.append(training(problem, settings, device, Path(folder)))
        for problem in generated:
            drawn.append(generation(problem, settings, device, Path(folder), greedy))
    about = harness.machine()
    found = {"gpu": gpu, "rows": rows, "generation": drawn}
    return harness.write_results("gpu", found, draw(rows, drawn, about, gpu), settings)
