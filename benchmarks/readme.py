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


def insert(text, new):
    """The text with what stands between the marks replaced; None if it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{new}\n{end}{after}" if begin and end else None


def run(settings):
    path = settings.out / "train_step.json"
    if not path.exists():
        say(f"README.md: left as it is: no {path}")
        return
    document = json.loads(path.read_text())
    if warning := harness.busy(document["machine"]):
        say(f"README.md: left as it is: {warning}")
        return
    picture = path.with_suffix(".png").resolve()
    picture = picture.relative_to(harness.ROOT) if picture.is_relative_to(harness.ROOT) else picture
    text = insert(README.read_text(), section(document, picture.as_posix()))
    if text is None:
        say(f"README.md: left as it is: it lacks the marks {BEGIN} and {END}")
        return
    README.write_text(text)
    say("-> README.md")
