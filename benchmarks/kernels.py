"""Every family of operations at the sizes that training uses, beside torch.nn.functional, under the measured roofs.

GFLOP/s count the multiplications and additions of the matrix products (for the optimizer, its arithmetic); bytes are
the least that must move: every input read once, every output written once. What an operation computes twice to save
memory counts once. The roofs come from the same run: the peak of fused multiply-adds and the memory bandwidth.
"""

import math
import tempfile
from pathlib import Path

from benchmarks import harness, peak, plots
from benchmarks.harness import say
from benchmarks.peers.probe import difference
from benchmarks.problem import Problem

TOLERANCE = 1e-3


def conv1d(channels, kernel, dilation, groups=1, time=4096):
    names = ("batch", "time", "inputs", "outputs", "kernel", "dilation", "padding", "groups", "bias")
    return dict(zip(names, (4, time, channels, channels, kernel, dilation, "causal", groups, True), strict=True))


def conv2d(channels, kernel, dilation, groups=1, size=64):
    names = ("batch", "time", "width", "inputs", "outputs", "kernel", "dilation", "padding", "groups", "bias")
    sizes = (4, size, size, channels, channels, (kernel, kernel), dilation, "same", groups, True)
    return dict(zip(names, sizes, strict=True))


def separable(channels, kernel, dilation, width=None):
    names = ("batch", "time", "width", "inputs", "outputs", "kernel", "dilation", "padding", "bias")
    if width is None:
        return dict(zip(names, (4, 4096, None, channels, channels, kernel, dilation, "causal", True), strict=True))
    kernels = (kernel, kernel)
    return dict(zip(names, (4, width, width, channels, channels, kernels, dilation, "same", True), strict=True))


def attention(channels, time, window):
    names = ("batch", "time", "heads", "channels", "window")
    return dict(zip(names, (4, time, 4, channels // 4, window), strict=True))


def gated_block(channels, kernel, dilation):
    names = ("batch", "time", "residual", "dilated", "skip", "kernel", "dilation", "bias", "condition")
    sizes = dict(zip(names, (4, 4096, channels, channels, channels, kernel, dilation, True, None), strict=True))
    return sizes | {"condition_channels": 0}


def cross_entropy(channels):
    names = ("batch", "time", "channels", "classes", "bias", "sample_weight", "scale", "integer")
    return dict(zip(names, (4, 4096, channels, 256, True, None, 1.0, "uint8"), strict=True))


def embedding(channels):
    return {"codes": [4, 4096], "classes": 256, "channels": channels, "integer": "uint8"}


QUICK = ("conv1d", "gated_block", "gated_stack", "cross_entropy", "update")  # of these --quick runs the first case
# family -> case -> sizes, in the words of the family's cases.py.
CASES = {
    "conv1d": {
        "C=32 K=2 d=64": conv1d(32, 2, 64),
        "C=16 K=2 d=64": conv1d(16, 2, 64),
        "C=64 K=2 d=64": conv1d(64, 2, 64),
        "C=128 K=2 d=64": conv1d(128, 2, 64),
        "C=64 K=3 d=512": conv1d(64, 3, 512),
        "C=30 K=2 d=7": conv1d(30, 2, 7),
        "C=64 K=5 d=1": conv1d(64, 5, 1),
        "C=64 1x1": conv1d(64, 1, 1),
        "C=64 K=3 depthwise": conv1d(64, 3, 4, groups=64),
        "C=64 K=3 groups=4": conv1d(64, 3, 4, groups=4),
    },
    "conv2d": {
        "C=32 3x3 d=2": conv2d(32, 3, 2),
        "C=16 3x3 d=1": conv2d(16, 3, 1),
        "C=30 3x3 d=2": conv2d(30, 3, 2),
        "C=64 3x3 d=2": conv2d(64, 3, 2),
        "C=64 3x3 d=8": conv2d(64, 3, 8),
        "C=64 32x32 3x3 d=4": conv2d(64, 3, 4, size=32),
        "C=64 1x1": conv2d(64, 1, 1),
        "C=64 3x3 depthwise": conv2d(64, 3, 2, groups=64),
        "C=64 3x3 groups=4": conv2d(64, 3, 2, groups=4),
    },
    "separable": {
        "C=32 K=3 d=64": separable(32, 3, 64),
        "C=16 K=3 d=64": separable(16, 3, 64),
        "C=64 K=3 d=64": separable(64, 3, 64),
        "C=64 K=5 d=4": separable(64, 5, 4),
        "C=32 3x3 d=2": separable(32, 3, 2, width=64),
        "C=64 3x3 d=2": separable(64, 3, 2, width=64),
    },
    "attention": {
        "C=64 T=2048 window=64": attention(64, 2048, 64),
        "C=64 T=2048 window=512": attention(64, 2048, 512),
        "C=64 T=1024 whole past": attention(64, 1024, 1024),
        "C=128 T=2048 window=64": attention(128, 2048, 64),
    },
    "gated_block": {
        "C=32 K=2 d=64": gated_block(32, 2, 64),
        "C=16 K=2 d=64": gated_block(16, 2, 64),
        "C=64 K=2 d=64": gated_block(64, 2, 64),
        "C=64 K=3 d=64": gated_block(64, 3, 64),
        "C=128 K=2 d=64": gated_block(128, 2, 64),
    },
    "gated_stack": {f"C={c} K={k}": Problem(c, k).to_dict() for c, k in ((32, 2), (64, 2))},
    "embedding": {"C=32": embedding(32), "C=128": embedding(128)},
    "cross_entropy": {f"E={channels} Q=256": cross_entropy(channels) for channels in (32, 64, 128)},
    "update": {f"adam, {n} floats": {"elements": n} for n in (1_000_000, 100_000, 10_000_000)},
}
MARKS = {  # of the roofline
    "conv1d": "o", "conv2d": "h", "separable": "^", "attention": "X", "gated_block": "s", "cross_entropy": "D",
    "embedding": "v", "update": "P",
}  # fmt: skip
CONVOLUTIONS = ("conv1d", "gated_block", "gated_stack")
IMAGES = ("channels first", "channels last")  # torch's two layouts
PASSES = {"gated_stack": ("loss", "loss_and_grads"), "update": ("step",)}


def cost(family, sizes, what):
    """FLOPs and least bytes of one call."""
    both = 2 if what == "backward" else 1  # two gradients for each product
    if family == "conv1d":
        s = sizes
        rows = s["batch"] * s["time"]
        weights = s["kernel"] * s["inputs"] // s["groups"] * s["outputs"]
        return 2 * rows * weights * both, 4 * (rows * (both * s["inputs"] + s["outputs"]) + both * weights)
    if family in ("conv2d", "separable"):
        s = sizes
        rows, taps = s["batch"] * s["time"] * (s["width"] or 1), math.prod(s["kernel"]) if s["width"] else s["kernel"]
        if family == "conv2d":
            weights = taps * s["inputs"] // s["groups"] * s["outputs"]
        else:
            weights = s["inputs"] * (taps + s["outputs"])
        return 2 * rows * weights * both, 4 * (rows * (both * s["inputs"] + s["outputs"]) + both * weights)
    if family == "attention":
        s = sizes
        window = min(s["window"], s["time"])
        pairs = s["time"] * window - window * (window - 1) // 2
        wide, rows = s["heads"] * s["channels"], s["batch"] * s["time"]
        return 4 * s["batch"] * pairs * wide * both, 4 * rows * wide * (4 if both == 1 else 7)
    if family == "gated_block":
        s = sizes
        rows, gate = s["batch"] * s["time"], s["dilated"]
        products = s["kernel"] * s["residual"] * 2 * gate + gate * (s["residual"] + s["skip"])
        return 2 * rows * products * both, 4 * rows * ((1 + both) * s["residual"] + s["skip"] + 2 * gate)
    if family == "gated_stack":  # bytes depend on what is kept: no figure
        problem = Problem.from_dict(sizes)
        return (problem.step_flops if what == "loss_and_grads" else problem.forward_flops), None
    if family == "embedding":
        rows = sizes["codes"][0] * sizes["codes"][1]
        return (rows * sizes["channels"] if what == "backward" else 0), rows * (4 * sizes["channels"] + 1)
    if family == "cross_entropy":
        rows = sizes["batch"] * sizes["time"]
        return 2 * rows * sizes["channels"] * sizes["classes"] * both, 4 * rows * sizes["channels"] * both + rows
    return 14 * sizes["elements"], 8 * 4 * sizes["elements"]  # g twice (norm, then step); w, m, v read and written


def measure(family, name, sizes, workers, settings, folder):
    """Rows of one case, one for each pass."""
    ours, torch = workers
    path = str(folder / "inputs.npz")
    ours.ask("inputs", family=family, sizes=sizes, path=path)
    ours.ask("setup", family=family, path=path)
    expected = ours.ask("check")
    formulations = []
    if torch is not None:
        formulations = ["conv1d", "linear"] if family in CONVOLUTIONS else ["plain"]
        if family in ("conv2d", "separable"):
            formulations = list(IMAGES if sizes["width"] else IMAGES[:1])
        if family in CONVOLUTIONS and sizes.get("groups", 1) > 1:
            formulations.remove("linear")
        torch.ask("setup", family=family, path=path, threads=settings.threads, formulations=formulations)
        for formulation, found in torch.ask("check").items():
            for key, value in expected.items():
                worst = difference(found[key], value)
                if not worst <= TOLERANCE:
                    raise harness.WorkerError(f"{family} {name}: {key} of torch {formulation} differs by {worst:.1e}")
    rows = []
    for what in PASSES.get(family, ("forward", "backward")):
        asks = {"wavedil": lambda n, what=what: ours.ask("time", what=what, repeat=n, threads=settings.threads)}
        if settings.threads > 1:
            asks["wavedil, 1 thread"] = lambda n, what=what: ours.ask("time", what=what, repeat=n, threads=1)
        for formulation in formulations:
            asks[f"torch {formulation}"] = lambda n, what=what, f=formulation: torch.ask(
                "time", what=what, repeat=n, formulation=f
            )
        measures = {}
        for label, ask in asks.items():
            count = harness.repeats(min(ask(2)["seconds"]), 0.02 if settings.quick else 0.1)
            measures[label] = lambda ask=ask, count=count: ask(count)["seconds"]
        seconds = harness.alternate(measures, min(settings.rounds, 7))
        flops, moved = cost(family, sizes, what)
        row = {"family": family, "case": name, "pass": what, "flops": flops, "bytes": moved, "peers": {}}
        for label, values in seconds.items():
            found = harness.summary(values)
            found["gflops"] = flops / found["median"] / 1e9
            found["gbytes"] = None if moved is None else moved / found["median"] / 1e9
            found["times_slower_than_wavedil"] = harness.ratio(values, seconds["wavedil"])
            row["peers"][label] = found
        rows.append(row)
    return rows


def add_shares(rows, roofs, threads):
    """Shares of the measured peak and bandwidth, of the threads that a peer used."""
    for row in rows:
        for label, found in row["peers"].items():
            count = "1" if label == "wavedil, 1 thread" else str(threads)
            found["share_of_peak"] = found["gflops"] / roofs["gflops"][count]["best"]
            if found["gbytes"] is not None:
                found["share_of_bandwidth"] = found["gbytes"] / roofs["gbytes"][count]["best"]


def best_of_torch(row):
    found = [(peer["median"], label) for label, peer in row["peers"].items() if label.startswith("torch")]
    return min(found)[1] if found else None


def line(row):
    ours, other = row["peers"]["wavedil"], best_of_torch(row)
    name = f"{row['family']} {row['case']} {row['pass']}"
    text = f"{name:42}{1e3 * ours['median']:9.3f} ms{ours['gflops']:8.1f} GFLOP/s ({100 * ours['share_of_peak']:3.0f}%)"
    one = row["peers"].get("wavedil, 1 thread")
    text += f", 1 thread {100 * one['share_of_peak']:3.0f}%" if one else ""
    text += f"{ours['gbytes']:7.1f} GB/s ({100 * ours['share_of_bandwidth']:3.0f}%)" if row["bytes"] else " " * 19
    if other:
        text += f"  {row['peers'][other]['times_slower_than_wavedil']['median']:6.2f}x ({other})"
    return text


def draw(rows, roofs, settings, about):
    counted = "medians of alternating runs; bytes: each input read once, each output written once"
    counted += " (above the slope: what was written last is still in the cache)"
    footnote = f"{harness.describe(about)}\n{counted}"
    fig, (left, right) = plots.figure(13, 2 + 0.2 * len(rows) + 2, columns=2, footnote=footnote)
    peak_rate, bandwidth = (roofs[key][str(settings.threads)]["best"] for key in ("gflops", "gbytes"))
    lowest, highest = 0.05, 500.0
    left.plot(
        [lowest, peak_rate / bandwidth, highest], [lowest * bandwidth, peak_rate, peak_rate], color="#444444", lw=1.2
    )
    text = f"{peak_rate:.0f} GFLOP/s; {bandwidth:.1f} GB/s (measured, {settings.threads} threads)"
    left.set_title(f"Roofline, float32: {text}", fontsize=9, loc="left")
    for label in ("wavedil", "torch"):
        for row in rows:
            key = label if label == "wavedil" else best_of_torch(row)
            if key is None or not row["bytes"] or not row["flops"]:
                continue
            colour = plots.colour("wavedil" if label == "wavedil" else "torch linear")
            name = f"{row['family']}, {'best of torch' if label == 'torch' else label}"
            rate = row["peers"][key]["gflops"]
            left.plot(row["flops"] / row["bytes"], rate, MARKS[row["family"]], color=colour, ms=5, label=name)
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    left.legend(handles.values(), handles.keys(), fontsize=6.5, frameon=False, loc="lower right")
    left.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="GFLOP/s")

    shown = [row for row in rows if best_of_torch(row)][::-1]
    for i, row in enumerate(shown):
        times = row["peers"][best_of_torch(row)]["times_slower_than_wavedil"]["median"]
        right.barh(i, times, 0.72, color=plots.colour("wavedil" if times >= 1 else "torch linear"))
        milliseconds = 1e3 * row["peers"]["wavedil"]["median"]
        right.annotate(f"{times:.2f}x  ({milliseconds:.2f} ms)", (times, i), (2, 0), textcoords="offset points",
                       va="center", fontsize=6.5)  # fmt: skip
    right.axvline(1, color="#444444", lw=0.8)
    right.set_yticks(range(len(shown)), [f"{r['family']} {r['case']} {r['pass']}" for r in shown], fontsize=6.5)
    right.set_xlabel("best of torch's time / wavedil's time (wavedil's milliseconds in brackets)")
    right.set_title("How many times faster than torch.nn.functional", fontsize=9, loc="left")
    right.margins(x=0.2, y=0.01)
    return fig


def run(settings):
    roofs = peak.measure(settings)
    ours = harness.Worker("benchmarks.peers.wavedil_kernels", threads=settings.threads)
    torch = None
    try:
        try:
            torch = harness.Worker("benchmarks.peers.torch_kernels", settings.torch_python, threads=settings.threads)
        except harness.Absent as reason:
            say(f"torch: skipped: {reason}")
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for family, cases in CASES.items():
                if settings.quick and family not in QUICK:
                    continue
                for name, sizes in list(cases.items())[: 1 if settings.quick else None]:
                    new = measure(family, name, sizes, (ours, torch), settings, Path(folder))
                    add_shares(new, roofs, settings.threads)
                    rows += new
                    for row in new:
                        say(line(row))
    finally:
        ours.close()
        if torch is not None:
            torch.close()
    figure = draw(rows, roofs, settings, harness.machine())
    harness.write_results("kernels", {"roofs": roofs, "rows": rows}, figure, settings)
    return rows
