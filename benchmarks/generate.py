"""Generation, sample by sample, and streaming, block by block.

Generation: samples/s of all streams together, drawing included, beside the same cached algorithm in PyTorch on one
thread and beside naive recomputation, which computes the whole receptive field for every sample. Logits and greedy
codes must agree before anything is timed.

Streaming: the latency of a block at 64 channels and 16 kHz, of `model.stream` alone and from audio to audio (mu-law
codes, the mean of the prediction, bits/sample); and the arithmetic rate of blocks of 64 in a network like those of
guitar amplifiers: 16 channels, kernel 3.

Weights stored in fewer bytes: samples/s, and what they cost a network that was trained for a while in bits/sample.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks import harness, plots
from benchmarks import problem as problems
from benchmarks.harness import say
from benchmarks.peers import probe
from benchmarks.problem import Problem

CHANNELS, BATCHES, BLOCKS, RATE = (16, 32, 64, 128), (1, 8, 32), (1, 16, 64, 512), 16000
OURS, PEER = "wavedil", "benchmarks.peers.wavedil_generate"
TORCH, NAIVE = "torch cached", "torch naive"
TOLERANCE = 1e-5  # of the logits, relative, in float32
GREEDY = 100  # codes that must be the same
STORAGES = (None, "float16", "int8")


def disagreement(answers):
    """(relative difference of the logits, share of the greedy codes that differ) of each peer to the first one."""
    first, *_ = answers.values()

    def share(codes):
        pairs = [(a, b) for x, y in zip(codes, first["greedy"], strict=True) for a, b in zip(x, y, strict=True)]
        return sum(a != b for a, b in pairs) / len(pairs)

    return {
        label: (probe.difference(answer["logits"], first["logits"]), share(answer["greedy"]))
        for label, answer in answers.items()
    }


def check(answers):
    """Raise if the peers do not compute the same network; return how far they are apart."""
    found = disagreement(answers)
    for label, (logits, greedy) in found.items():
        # A code may fall to the other of two equally likely ones; from there on two streams go their own ways.
        if not logits <= TOLERANCE or greedy > 0.5:
            raise harness.WorkerError(
                f"{label}: logits must agree to {TOLERANCE} with {OURS}'s and most greedy codes be the same, got "
                f"{logits:.1e}, {greedy:.0%} different"
            )
    return {label: {"logits": logits, "greedy": greedy} for label, (logits, greedy) in found.items()}


def measure(channels, batch, workers, settings, folder):
    """One size: label -> seconds a sample of all streams, and what follows from it."""
    window = 64 if settings.quick else 1200  # beyond the largest dilations, so that the rings begin anew
    problem = Problem(channels, batch=batch, window=window)
    path = str(problems.write(problem, folder / "problem.npz"))
    request = {"problem": problem.to_dict(), "path": path, "batch": batch}
    budget = 0.05 if settings.quick else 0.3
    about, answers = {}, {}
    for label, (worker, threads) in workers.items():
        about[label] = worker.ask("setup", **request, threads=threads)
        answers[label] = worker.ask("check", greedy=GREEDY)
    differences = check(answers)
    measures = {}
    for label, (worker, _) in workers.items():
        few = 200
        worker.ask("time", n=few, repeat=1)
        n = few * harness.repeats(worker.ask("time", n=few, repeat=1)["seconds"][0], budget)
        measures[label] = lambda w=worker, n=n: [s / (n * batch) for s in w.ask("time", n=n, repeat=1)["seconds"]]
    seconds = harness.alternate(measures, settings.rounds)
    if batch == 1 and TORCH in workers:
        n = 3 if settings.quick else 10
        seconds[NAIVE] = [s / n for s in workers[TORCH][0].ask("naive", n=n, repeat=3)["seconds"]]
    found = {}
    for label, values in seconds.items():
        found[label] = {"seconds_per_sample": harness.summary(values)}
        found[label]["samples_per_second"] = 1 / found[label]["seconds_per_sample"]["median"]
        if label in about:
            found[label] |= {"about": about[label], "relative_difference": differences[label]}
            found[label]["times_slower_than_wavedil"] = harness.ratio(values, next(iter(seconds.values())))
    return {"channels": channels, "batch": batch, "peers": found}


def generation(settings, folder):
    """Rows of `measure`; ours with 1 and more threads, torch with 1."""
    threads = sorted({1, min(2, settings.threads)})
    workers, absent = {}, {}
    for n in threads:
        label = OURS if n == 1 else f"{OURS}, {n} threads"
        workers[label] = harness.Worker(PEER, threads=n), n
    try:
        workers[TORCH] = harness.Worker("benchmarks.peers.torch_generate", settings.torch_python, threads=1), 1
    except harness.Absent as reason:
        absent[TORCH] = str(reason)
        say(f"torch: skipped: {reason}")
    rows = []
    try:
        for channels in CHANNELS[:2] if settings.quick else CHANNELS:
            for batch in BATCHES[:2] if settings.quick else BATCHES:
                rows.append(measure(channels, batch, workers, settings, folder))
                found = rows[-1]["peers"].items()
                each = (f"{label} {peer['samples_per_second']:,.0f}" for label, peer in found)
                say(f"{channels} channels, batch {batch}, samples/s: {', '.join(each)}")
    finally:
        for worker, _ in workers.values():
            worker.close()
    return rows, absent


def latency(seconds):
    """p50, p99 and the largest of the seconds."""
    ordered = sorted(seconds)
    rank = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    return {"p50": statistics.median(ordered), "p99": ordered[rank], "max": ordered[-1], "count": len(ordered)}


def stream(settings, folder):
    """Latency of blocks at 64 channels and 16 kHz, and GFLOP/s of a small network with kernel 3."""
    with harness.Worker(PEER, threads=1) as worker:

        def setup(channels, kernel):
            problem = Problem(channels, kernel, batch=1, window=16)
            path = str(problems.write(problem, folder / "problem.npz"))
            worker.ask("setup", problem=problem.to_dict(), path=path, batch=1, threads=1, rate=RATE)
            return problem.forward_flops / problem.samples

        rows = []
        setup(64, 2)
        for block in BLOCKS:
            for what in ("model", "audio"):
                count = max(20, 1000 // block) if settings.quick else max(300, 60_000 // block)
                answer = worker.ask("stream", what=what, block=block, count=count)
                row = {"what": what, "block": block, "lasts": block / RATE, "state_bytes": answer["state_bytes"]}
                rows.append(row | latency(answer["seconds"]))
                p50, p99, most = (1e3 * rows[-1][key] for key in ("p50", "p99", "max"))
                say(
                    f"64 channels, block {block} ({1e3 * block / RATE:.2f} ms), {what}: p50 {p50:.3f}, p99 {p99:.3f}, "
                    f"max {most:.3f} ms"
                )
        flops = setup(16, 3)
        seconds = latency(worker.ask("stream", what="model", block=64, count=50 if settings.quick else 2000)["seconds"])
        small = seconds | {"gflops": 64 * flops / seconds["p50"] / 1e9}
        say(f"16 channels, kernel 3, blocks of 64: p50 {1e3 * seconds['p50']:.3f} ms, {small['gflops']:.1f} GFLOP/s")
    return rows, small


def stored(settings, folder):
    """Samples/s by how the weights are stored, on one thread, in alternation; and bits/sample of a trained network."""
    workers, rows = {kind: harness.Worker(PEER, threads=1) for kind in STORAGES}, []
    try:
        for channels in CHANNELS[:1] if settings.quick else CHANNELS:
            for batch in BATCHES[:1] if settings.quick else BATCHES[:2]:
                problem = Problem(channels, batch=batch, window=16)
                request = {"problem": problem.to_dict(), "path": str(problems.write(problem, folder / "problem.npz"))}
                measures = {}
                for kind, worker in workers.items():
                    worker.ask("setup", **request, batch=batch, threads=1, storage=kind)
                    worker.ask("time", n=200, repeat=1)
                    one = worker.ask("time", n=200, repeat=1)["seconds"][0]
                    n = 200 * harness.repeats(one, 0.05 if settings.quick else 0.3)
                    measures[kind] = lambda w=worker, n=n, b=batch: [
                        s / (n * b) for s in w.ask("time", n=n, repeat=1)["seconds"]
                    ]
                seconds = harness.alternate(measures, settings.rounds)
                row = {"channels": channels, "batch": batch, "weights": {}}
                for kind, values in seconds.items():
                    middle = statistics.median(values)
                    faster = harness.ratio(seconds[None], values)
                    row["weights"][str(kind)] = {"samples_per_second": 1 / middle, "times_faster": faster}
                rows.append(row)
                each = (f"{kind} {w['samples_per_second']:,.0f}" for kind, w in row["weights"].items())
                say(f"{channels} channels, batch {batch}, weights, samples/s: {', '.join(each)}")
        steps, seconds = (20, 1.0) if settings.quick else (1500, 10.0)
        effect = workers[None].ask("bits", steps=steps, seconds=seconds, kinds=STORAGES)
    finally:
        for worker in workers.values():
            worker.close()
    say("bits/sample by weights: " + ", ".join(f"{kind} {bits:.4f}" for kind, bits in effect["bits"].items()))
    return {"rows": rows, "effect": effect}


def first_sample(settings, folder):
    """Seconds to the first sample in fresh processes, with the kernels in their cache on disk."""
    problem, path = Problem(64, batch=1, window=16), folder / "model.safetensors"
    source = str(problems.write(problem, folder / "problem.npz"))
    with harness.Worker(PEER, threads=1) as worker:
        worker.ask("setup", problem=problem.to_dict(), path=source, batch=1, threads=1)
        worker.ask("save", path=str(path))
        worker.ask("first", path=str(path))  # fills the cache
    found = []
    for _ in range(1 if settings.quick else 5):
        with harness.Worker(PEER, threads=1) as worker:
            found.append({"import": worker.import_seconds} | worker.ask("first", path=str(path)))
    found = {key: harness.summary([f[key] for f in found]) for key in found[0]}
    say("first sample, 64 channels: " + ", ".join(f"{key} {value['median']:.2f} s" for key, value in found.items()))
    return found


def draw(rows, blocks, about):
    footnote = f"{harness.describe(about)}\n20 blocks, kernel 2, float32, torch with one thread; medians"
    fig, axes = plots.figure(13, 8, rows=2, columns=2, footnote=footnote)
    by_size = {(str(row["channels"]), row["batch"]): row["peers"] for row in rows}
    labels = [label for label in plots.COLOURS if any(label in row["peers"] for row in rows)]
    for ax, batch in zip(axes, BATCHES, strict=False):
        channels = [c for c, b in by_size if b == batch]
        if not channels:
            ax.set_axis_off()
            continue

        def speed(group, label, batch=batch):
            peer = by_size[group, batch].get(label)
            return peer["samples_per_second"] if peer else None

        title = f"Generation, batch {batch}: all streams together"
        plots.grouped_bars(ax, channels, labels, speed, lambda *k, f=speed: f"{f(*k):,.0f}", "samples/s", title)
        ax.set_yscale("log")
        ax.set_xlabel("channels")
        for rate in (8000, 16000):
            ax.axhline(rate * batch, color="#999999", linewidth=0.8, linestyle="--")
            ax.annotate(f"real time at {rate // 1000} kHz", (1, rate * batch), xycoords=("axes fraction", "data"),
                        fontsize=6.5, color="#666666", ha="right", va="bottom")  # fmt: skip
    ax = axes[3]
    for what, style in (("model", "-"), ("audio", "--")):
        for key, colour in (("p50", "#0b6e4f"), ("p99", "#d9742b"), ("max", "#999999")):
            points = [(row["block"], 1e3 * row[key]) for row in blocks if row["what"] == what]
            name = f"{key}, {'model.stream' if what == 'model' else 'audio to audio'}"
            ax.plot(*zip(*points, strict=True), style, color=colour, marker="o", ms=3, label=name)
    ax.plot(BLOCKS, [1e3 * b / RATE for b in BLOCKS], ":", color="black", label=f"the block's length at {RATE} Hz")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(BLOCKS, BLOCKS)
    ax.set_xlabel("samples a block")
    ax.set_ylabel("milliseconds")
    ax.set_title("Streaming: latency of a block, 64 channels", fontsize=10, loc="left")
    ax.legend(fontsize=7, frameon=False)
    return fig


def run(settings):
    with tempfile.TemporaryDirectory() as folder:
        rows, absent = generation(settings, Path(folder))
        blocks, small = stream(settings, Path(folder))
        first = first_sample(settings, Path(folder))
        weights = stored(settings, Path(folder))
    results = {"rows": rows, "absent": absent, "streaming": blocks, "small_network": small, "first_sample": first,
               "weights": weights}  # fmt: skip
    harness.write_results("generate", results, draw(rows, blocks, harness.machine()), settings)
    return results
