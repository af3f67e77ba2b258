"""The two roofs of this machine, measured: fused multiply-adds a second, and bytes a second to and from memory.

The arithmetic peak comes from a loop over independent vector accumulators, ``acc = acc * a + b``, written in LLVM's IR
so that nothing can be reordered or optimised away: as many accumulators as hide the latency, no memory at all. Several
vector widths and counts are tried and the best is the peak; it moves with the clock, so it is taken several times.
The memory roof is the best of a copy and STREAM's triad over arrays far larger than the last-level cache, counting the
bytes read and the bytes written.
"""

from functools import cache

from benchmarks import harness, plots
from benchmarks.harness import say


@cache
def measure(settings):
    """The roofs of one thread and of all, by the number of threads as text; measured once in a run, by a worker."""
    with harness.Worker("benchmarks.peers.roofs") as worker:
        size = max(64 * 2**20, 4 * harness.last_level_cache())
        return worker.ask("measure", threads=settings.threads, rounds=settings.rounds, array_bytes=size)


def draw(found, about):
    fig, axes = plots.figure(9, 3.6, columns=2, footnote=harness.describe(about))
    counts = list(found["gflops"])
    for ax, key, unit, title in (
        (axes[0], "gflops", "GFLOP/s", "Fused multiply-add peak, float32"),
        (axes[1], "gbytes", "GB/s, read + written", "Memory bandwidth"),
    ):
        for i, count in enumerate(counts):
            value = found[key][count]["best"]
            ax.bar(i, value, 0.6, color=plots.colour("wavedil"))
            ax.annotate(f"{value:.1f}", (i, value), (0, 2), textcoords="offset points", ha="center")
        ax.set_xticks(range(len(counts)), [f"{count} thread" + "s" * (count != "1") for count in counts])
        ax.set_ylabel(unit)
        ax.set_title(title, fontsize=10, loc="left")
    return fig


def run(settings):
    found = measure(settings)
    for count in found["gflops"]:
        flops, memory = found["gflops"][count], found["gbytes"][count]
        say(
            f"{count} thread(s): {flops['best']:.1f} GFLOP/s (median {flops['median']:.1f}; {flops['how']}), "
            f"{memory['best']:.1f} GB/s ({memory['how']})"
        )
    harness.write_results("peak", found, draw(found, harness.machine()), settings)
    return found
