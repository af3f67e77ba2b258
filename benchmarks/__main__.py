"""Command line of the benchmarks."""

import importlib
import shutil
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import harness
from benchmarks.settings import Settings


class Name(StrEnum):
    peak = "peak"
    kernels = "kernels"
    train_step = "train_step"
    tcn_step = "tcn_step"
    scaling = "scaling"
    generate = "generate"
    compile_time = "compile_time"
    gpu = "gpu"
    finetune = "finetune"
    sequence_tasks = "sequence_tasks"


def interpreter(path):
    found = shutil.which(path)
    if found is None:
        raise typer.BadParameter(f"expected a Python interpreter, got {path!r}")
    return found


def main(
    names: Annotated[list[Name] | None, typer.Argument(
        help="What to run; if none is named, all but gpu, and finetune and sequence_tasks, which take most of an hour; "
             "with --quick peak, kernels, train_step and generate.",
    )] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller cases, under two minutes in all.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every peer.")] = harness.cores(),
    torch_python: Annotated[str, typer.Option(help="Interpreter that has torch.")] = sys.executable,
    jax_python: Annotated[str, typer.Option(help="Interpreter that has jax.")] = sys.executable,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and PNG files.")] = None,
    speech: Annotated[Path, typer.Option(help="What examples/get_speech.py made, for finetune.")] = Path("speech"),
    readme: Annotated[bool, typer.Option("--readme", help="Write the results into README.md as well.")] = False,
):
    """Measure wavedil beside its peers and write JSON and PNG files under benchmarks/results (quick/ with --quick)."""
    if out is None:
        out = harness.RESULTS / "quick" if quick else harness.RESULTS
    settings = Settings(quick, threads, interpreter(torch_python), interpreter(jax_python), out, speech)
    harness.say(harness.describe(harness.machine()))
    left_out = {Name.gpu, Name.finetune, Name.sequence_tasks}
    if quick:
        left_out |= {Name.tcn_step, Name.scaling, Name.compile_time}
    for name in names or [n for n in Name if n not in left_out]:
        begin = time.perf_counter()
        harness.say(f"\n== {name}")
        importlib.import_module(f"benchmarks.{name}").run(settings)
        harness.say(f"{name}: {time.perf_counter() - begin:.0f} s")
    if readme:
        importlib.import_module("benchmarks.readme").run(settings)


if __name__ == "__main__":
    typer.run(main)
