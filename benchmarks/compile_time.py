"""What a user waits for before the second step: import, first step with an empty cache, first step with a full one.

Every figure is from a process started for it. The cold start has a fresh cache folder; the warm one comes after it and
finds what the cold one left. "ready" in the results is the import of everything that a model needs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import harness, plots
from benchmarks import problem as problems
from benchmarks.harness import say
from benchmarks.problem import Problem

IMPORT = "import sys, time; sys.path.append({!r}); t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def peers(settings):
    """label -> (package, interpreter, module, variables that name a cache folder, options)."""
    torch = ("torch", settings.torch_python, "benchmarks.peers.torch_wavenet")
    inductor = ("TORCHINDUCTOR_CACHE_DIR",)
    jax = ("jax", settings.jax_python, "benchmarks.peers.jax_wavenet")
    found = {
        "wavedil": ("wavedil", sys.executable, "benchmarks.peers.wavedil_wavenet", ("NUMBA_CACHE_DIR",), {}),
        "torch linear": (*torch, (), {"formulation": "linear"}),
        "torch.compile linear": (*torch, inductor, {"formulation": "linear", "compile": True}),
        "jax linear": (*jax, (), {"formulation": "linear"}),
    }
    if settings.quick:
        del found["torch.compile linear"]
        say("torch.compile: skipped: it alone compiles for longer than --quick may take")
    return found


def import_seconds(package, python):
    """Seconds of ``import package``, or None if it is absent."""
    command = [python, "-P", "-c", IMPORT.format(str(harness.ROOT), package)]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def first_step(module, python, threads, environment, request):
    with harness.Worker(module, python, threads=threads, environment=environment) as worker:
        found = worker.ask("first", threads=threads, **request)
        return found | {"ready": worker.import_seconds}


def measure(label, about, settings, folder):
    package, python, module, cache_variables, options = about
    problem = Problem()
    path = str(problems.write(problem, folder / "problem.npz"))
    request = {"problem": problem.to_dict(), "path": path, **options}
    repeat = 1 if settings.quick or "compile" in label else 3
    found = {"import": [], "cold": [], "warm": []}
    for index in range(repeat):
        seconds = import_seconds(package, python)
        if seconds is None:
            say(f"{label}: skipped: no {package} in {python}")
            return None
        found["import"].append(seconds)
        cache = folder / f"{label.replace(' ', '-').replace('.', '-')}-cache-{index}"  # g++ stumbles over spaces
        environment = {name: str(cache) for name in cache_variables}
        found["cold"].append(first_step(module, python, settings.threads, environment, request))
        if cache_variables:
            found["warm"].append(first_step(module, python, settings.threads, environment, request))
    row = {"import": harness.summary(found["import"])}
    for kind in ("cold", "warm"):
        if found[kind]:
            row[kind] = {key: harness.summary([f[key] for f in found[kind]]) for key in found[kind][0]}
    return row


def draw(rows, about):
    footnote = f"{harness.describe(about)}\nmedians; each figure from a process started for it"
    fig, (ax,) = plots.figure(9, 4, footnote=footnote)
    kinds = ("import", "cold first step", "warm first step")

    def seconds(kind, label):
        if kind == "import":
            return rows[label]["import"]["median"]
        found = rows[label].get(kind.split()[0])
        return found["first_step"]["median"] if found else None

    plots.grouped_bars(
        ax, kinds, list(rows), seconds, lambda k, n: f"{seconds(k, n):.2g} s", "seconds", "Before the second step"
    )
    return fig


def run(settings):
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, about in peers(settings).items():
            row = measure(label, about, settings, Path(folder))
            if row is None:
                continue
            rows[label] = row
            text = f"{label}: import {row['import']['median']:.2f} s"
            text += f" (with all that a model needs {row['cold']['ready']['median']:.2f} s)"
            for kind in ("cold", "warm"):
                if kind in row:
                    first, second = (row[kind][key]["median"] for key in ("first_step", "second_step"))
                    text += f"; {kind}: first step {first:.2f} s (the next one {second:.2f} s)"
            say(text)
    harness.write_results("compile_time", {"peers": rows}, draw(rows, harness.machine()), settings)
    return rows
