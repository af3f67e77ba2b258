"""On paper: FLOPs and bytes of every kernel launch of a training step, and the least time that an H100 needs for them.

    python -m benchmarks.cuda_roofline [CHANNELS] [half]

Nothing is computed: an engine that only notes what it is asked to launch goes through the step. FLOPs are those that a
kernel executes (a fused multiply-add is two); bytes are each array that it reads or writes, once. No GPU is needed, and
no numba-cuda.
"""

import sys
from collections import defaultdict

import numpy as np

from wavedil.kernels.cuda.engine import HostEngine, use_engine
from wavedil.ops import gated_stack, update

PEAK, BANDWIDTH = 67e12, 3.35e12  # of an H100 SXM: float32 FLOP/s without tensor cores, bytes/s of its memory
DILATIONS, BATCH, WINDOW, CLASSES = tuple(2**i for i in range(10)) * 2, 4, 4096, 256


class Notes(HostEngine):
    """Notes the launches; its arrays are never touched."""

    def __init__(self):
        super().__init__()
        self.launches = []

    def zero(self, flat):
        pass

    def launch(self, kernel, grid, block, args, shared):
        names = kernel.function.__code__.co_varnames
        self.launches.append((kernel, grid, dict(zip(names, args, strict=False))))


def cost(kernel, a):
    """(FLOPs, bytes) of a launch."""
    kind, *variant = kernel.name.split(".")

    def size(*names):
        return sum(a[n].nbytes for n in names)

    if kind == "row_product":
        flops = 2 * a["batch"] * a["rows"] * a["columns"] * (a["taps"] * a["inputs"] + a["more_inputs"])
        moved = size("y", "a", "w")
        moved += size("a2") if "product" in variant else 0
        moved += size("y2") if {"gate", "gate_add"} & set(variant) else 0
        moved += size("more", "w_more") if "second" in variant else 0
        moved += size("other") if {"add", "relu_back", "gate_add", "gate_back"} & set(variant) else 0
        moved += size("other2") if "gate_back" in variant else 0
        moved += size("bias") if a["bias_step"] >= 0 else 0
        return flops, moved
    if kind == "column_product":
        flops = 2 * a["batch"] * a["rows"] * a["columns"] * a["taps"] * a["inputs"]
        moved = size("sums", "g") + size("codes" if "one_hot" in variant else "a")
        return flops, moved + (size("a2") if "product" in variant else 0)
    if kind == "sum_slabs":
        elements = a["end"] - a["begin"]
        return elements * a["slabs"], (a["slabs"] + 2) * elements * a["sums"].itemsize
    arrays = {id(v): v for v in a.values() if isinstance(v, np.ndarray)}
    moved = sum(v.nbytes for v in arrays.values())
    per_element = {"rows_loss": 6, "adam": 14, "squares": 2, "total": 1}.get(kind, 0)
    largest = max(v.size for v in arrays.values())
    # Read and written: logits, which become their gradient; weights and moments.
    again = {"rows_loss": ("logits",), "adam": ("weights", "first", "second")}.get(kind, ())
    return per_element * largest, moved + size(*again)


def step(channels, condition=0, half=False):
    """The launches of a training step: loss and gradients, norm, Adam; with ``half``, activations in float16."""
    condition = gated_stack.Condition(condition) if condition else None
    network = gated_stack.wavenet(
        DILATIONS, channels=channels, gate_channels=channels, skip_channels=channels, end_channels=channels,
        classes=CLASSES, condition=condition,
    )  # fmt: skip
    notes = Notes()
    with use_engine(notes):
        params = {name: notes.empty(shape, "float32") for name, shape in network.parameter_shapes.items()}
        codes = np.zeros((BATCH, WINDOW + 1), np.int64)
        gated_stack.loss_and_grads(params, codes, network=network, half_activations=half)
        size = sum(p.size for p in params.values())
        flat = [notes.array(np.zeros(size, "float32")) for _ in range(4)]
        update.global_norm(flat[1])
        update.adam(*flat, step=1, lr=1e-3)
    return notes.launches


def table(launches):
    """Lines: kernels by name, with the time of all their launches."""
    rows = defaultdict(lambda: [0, 0, 0.0, 0.0, 0.0, set()])
    for kernel, grid, arguments in launches:
        flops, moved = cost(kernel, arguments)
        row = rows[kernel.name]
        for i, value in enumerate((1, flops, moved, max(flops / PEAK, moved / BANDWIDTH))):
            row[i] += value
        row[5].add(grid)
    lines = [
        "| kernel | launches | blocks | GFLOP | MB | FLOP/byte | bound by | least time, us |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (count, flops, moved, seconds, _, grids) in sorted(rows.items(), key=lambda item: -item[1][3]):
        bound = "arithmetic" if flops / PEAK > moved / BANDWIDTH else "memory"
        blocks = str(min(grids)) if len(grids) == 1 else f"{min(grids)}-{max(grids)}"
        lines.append(
            f"| {name.removesuffix('.float32')} | {count} | {blocks} | {flops / 1e9:.2f} | {moved / 1e6:.0f} | "
            f"{flops / moved:.1f} | {bound} | {1e6 * seconds:.0f} |"
        )
    count, flops, moved, seconds = (sum(row[i] for row in rows.values()) for i in range(4))
    lines.append(
        f"| all | {count} | | {flops / 1e9:.1f} | {moved / 1e6:.0f} | {flops / moved:.1f} | | {1e6 * seconds:.0f} |"
    )
    return lines


if __name__ == "__main__":
    chosen, half = [int(a) for a in sys.argv[1:] if a != "half"], "half" in sys.argv
    print("\n".join(table(step(chosen[0] if chosen else 64, half=half))))
