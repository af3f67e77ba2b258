"""Writes the measured figures into README.md, between two marks, so that no number there is typed by hand."""

import json

from benchmarks import harness
from benchmarks.harness import say
from benchmarks.problem import Problem

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
README = harness.ROOT / "README.md"


def section(document, picture):
    """Markdown of the results of train_step."""
    rows = document["rows"]
    problem = Problem.from_dict(rows[0]["problem"])
    labels = list(rows[0]["peers"])
    lines = [
        f"One training step (forward, backward, clipping, Adam) of a WaveNet of {len(problem.dilations)} blocks, batch "
        f"{problem.batch} x {problem.window} samples, float32, {document['threads']} threads: milliseconds, and in "
        "brackets how many times wavedil's. Each peer runs in a process of its own, in alternation, from the same "
        "weights; medians.",
        "",
        "| channels, kernel | " + " | ".join(labels) + " |",
        "|---" * (len(labels) + 1) + "|",
    ]
    for row in rows:
        shape = Problem.from_dict(row["problem"])
        cells = [f"{shape.channels}, {shape.kernel}"]
        for label in labels:
            step = row["peers"][label]["step"] if label in row["peers"] else None
            times = f"{step['times_slower_than_wavedil']['median']:.2f}x" if step else ""
            cells.append(f"{1e3 * step['median']:.0f} ({times})" if step else "-")
        lines.append("| " + " | ".join(cells) + " |")
    machine = harness.describe(document["machine"])
    lines += ["", f"![Time and memory of a training step]({picture})", "", f"Machine: {machine}."]
    return "\n".join(lines)


def generation(document, picture):
    """Markdown of the results of generate."""
    rows = document["rows"]
    labels = list(dict.fromkeys(label for row in rows for label in row["peers"]))
    lines = [
        "Generation: samples/s of all streams together, and in brackets how many times slower than wavedil on one "
        "thread; 20 blocks, kernel 2, float32. PyTorch runs the same cached algorithm on one thread; naive is "
        "recomputing the receptive field for every sample.",
        "",
        "| channels, streams | " + " | ".join(labels) + " |",
        "|---" * (len(labels) + 1) + "|",
    ]
    for row in rows:
        cells = [f"{row['channels']}, {row['batch']}"]
        ours = row["peers"][labels[0]]["samples_per_second"]
        for label in labels:
            if label not in row["peers"]:
                cells.append("-")
                continue
            peer = row["peers"][label]
            speed, pairs = peer["samples_per_second"], peer.get("times_slower_than_wavedil")
            cells.append(f"{speed:,.0f} ({pairs['median'] if pairs else ours / speed:.2f}x)")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Streaming from audio to audio, 64 channels, 16 kHz, one thread:",
        "",
        "| block | lasts | p50 | p99 | max |",
        "|---" * 5 + "|",
    ]
    for row in document["streaming"]:
        if row["what"] == "audio":
            figures = " | ".join(f"{1e3 * row[key]:.3f} ms" for key in ("lasts", "p50", "p99", "max"))
            lines.append(f"| {row['block']} | {figures} |")
    weights = document["weights"]
    exact = weights["effect"]["bits"]["None"]
    lines += [
        "",
        "Weights stored in fewer bytes, one thread: samples/s of all streams, and in brackets how many times faster; "
        f"the last row is what they cost a network after {weights['effect']['steps']} training steps, in bits/sample.",
        "",
        "| channels, streams | float32 | float16 | int8 |",
        "|---" * 4 + "|",
    ]
    for row in weights["rows"]:
        cells = [f"{row['channels']}, {row['batch']}"]
        for kind in ("None", "float16", "int8"):
            of = row["weights"][kind]
            faster = "" if kind == "None" else f" ({of['times_faster']['median']:.2f}x)"
            cells.append(f"{of['samples_per_second']:,.0f}{faster}")
        lines.append("| " + " | ".join(cells) + " |")
    bits = weights["effect"]["bits"]
    costs = (f"{round(bits[kind] - exact, 4) + 0.0:+.4f}" for kind in ("float16", "int8"))
    lines.append("| " + " | ".join(["bits/sample, 32 channels", f"{exact:.4f}", *costs]) + " |")
    lines += ["", f"![Generation and streaming]({picture})"]
    lines += ["", f"Machine: {harness.describe(document['machine'])}."]
    return "\n".join(lines)


def insert(text, new):
    """The text with what stands between the marks replaced; None if it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{new}\n{end}{after}" if begin and end else None


def run(settings):
    parts = []
    for name, write in (("train_step", section), ("generate", generation)):
        path = settings.out / f"{name}.json"
        if not path.exists():
            say(f"README.md: without {name}: no {path}")
            continue
        document = json.loads(path.read_text())
        if warning := harness.busy(document["machine"]):
            say(f"README.md: left as it is: {name}: {warning}")
            return
        picture = path.with_suffix(".png").resolve()
        picture = picture.relative_to(harness.ROOT) if picture.is_relative_to(harness.ROOT) else picture
        parts.append(write(document, picture.as_posix()))
    if not parts:
        say("README.md: left as it is: there is nothing to write")
        return
    text = insert(README.read_text(), "\n\n".join(parts))
    if text is None:
        say(f"README.md: left as it is: it lacks the marks {BEGIN} and {END}")
        return
    README.write_text(text)
    say("-> README.md")
