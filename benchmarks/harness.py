"""What every benchmark shares: worker processes, alternation, statistics, the machine's description, result files.

A peer lives in a process of its own, because thread pools of two libraries in one process slow each other down, and is
kept alive, so that measurements can alternate: wavedil, torch, wavedil, torch, ... Whatever the machine does meanwhile
hits both, and the ratio of each pair is worth more than the ratio of two averages.
"""

import collections
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETTLE = 0.05  # seconds: thread pools spin a little after their last work
LOAD_BEFORE = list(os.getloadavg()) if hasattr(os, "getloadavg") else None  # of the machine, without us
# ROOT goes last: where wavedil is installed, the installed one is measured.
START = "import sys; sys.path.append({!r}); from benchmarks.peers.worker import serve; serve({!r})"


# ---- workers ---------------------------------------------------------------------------------------------------------
class WorkerError(RuntimeError):
    """A worker answered with an error, died, or took too long."""


class Absent(WorkerError):
    """The worker's framework is not installed in its interpreter."""


class Worker:
    """A peer in a process of its own.

    Parameters
    ----------
    module : str
        Such as "benchmarks.peers.torch_wavenet".
    python : path
        Interpreter of the environment that has the framework.
    threads : int
        Sets the variables that OpenMP and the BLAS libraries read when they load.
    environment : dict
        More variables.
    timeout : float
        Seconds that any answer may take.
    """

    def __init__(self, module, python=sys.executable, *, threads=None, environment=None, timeout=900.0):
        self.module, self.timeout = module, timeout
        variables = dict(os.environ) | (environment or {})
        if threads is not None:
            variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._log = tempfile.TemporaryFile("w+")  # closed in close()
        self._process = subprocess.Popen(
            [python, "-P", "-c", START.format(str(ROOT), module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
            text=True,
        )
        try:
            hello = self._receive()
            if "absent" in hello:
                raise Absent(hello["absent"])
        except WorkerError:
            self.close()
            raise
        self.import_seconds = hello["import_seconds"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, do, **arguments):
        """The value of the worker's ``do_NAME(**arguments)``."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"{self.module}: the process is gone{self._tail()}") from None
        answer = self._receive()
        if "error" in answer:
            raise WorkerError(f"{self.module}: {do}: {answer['error']}{self._tail()}")
        return answer["ok"]

    def close(self):
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _receive(self):
        timer = threading.Timer(self.timeout, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        in_time = timer.is_alive()
        timer.cancel()
        if not line:
            code = self._process.wait()
            reason = f"ended with code {code}" if in_time else f"gave no answer within {self.timeout:.0f} s"
            raise WorkerError(f"{self.module}: {reason}{self._tail()}")
        return json.loads(line)

    def _tail(self):
        self._log.seek(0)
        lines = collections.deque(self._log, maxlen=15)
        return "\n  " + "  ".join(lines).rstrip() if lines else ""


# ---- measuring -------------------------------------------------------------------------------------------------------
def alternate(measures, rounds):
    """Seconds of each measure in each round; every other round goes backwards, so none is always first.

    Parameters
    ----------
    measures : dict
        label -> callable that returns a list of seconds; its median counts for the round.
    rounds : int

    Returns
    -------
    dict
        label -> list of ``rounds`` medians; equal positions were measured next to each other.
    """
    seconds = {label: [] for label in measures}
    for index in range(rounds):
        for label in list(measures)[:: 1 if index % 2 == 0 else -1]:
            time.sleep(SETTLE)
            seconds[label].append(statistics.median(measures[label]()))
    return seconds


def repeats(seconds, budget, most=1000):
    """How many calls of so many seconds fill the budget: at least 1."""
    return max(1, min(most, math.ceil(budget / max(seconds, 1e-9))))


def quartiles(values):
    return [statistics.median(values)] * 2 if len(values) < 2 else statistics.quantiles(values, method="inclusive")[::2]


def summary(values):
    """Median, minimum, maximum, quartiles and count."""
    return {
        "median": statistics.median(values),
        "minimum": min(values),
        "maximum": max(values),
        "quartiles": quartiles(values),
        "count": len(values),
    }


def ratio(theirs, ours):
    """How many times faster ours is: the summary of theirs / ours over the pairs measured next to each other."""
    return summary([t / o for t, o in zip(theirs, ours, strict=True)])


# ---- the machine -----------------------------------------------------------------------------------------------------
def _read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _command(*arguments):
    try:
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _caches():
    """Such as {"L1d": "32 KiB", ...}, each as one core sees it."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))  # size: "512K"
        if not size.rstrip("KM").isdigit():
            continue
        name = f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")
        kib = int(size.rstrip("KM")) * (1024 if size.endswith("M") else 1)
        found[name] = f"{kib // 1024} MiB" if kib % 1024 == 0 else f"{kib} KiB"
    return found


def last_level_cache():
    """Bytes; 32 MiB where the system does not say."""
    sizes = [int(size.split()[0]) * 2 ** {"KiB": 10, "MiB": 20}[size.split()[1]] for size in _caches().values() if size]
    return max(sizes, default=32 * 2**20)


def machine():
    """Processor, cores, caches, memory, versions and commit."""
    processor = dict(line.split(":", 1) for line in _read("/proc/cpuinfo").split("\n\n")[0].splitlines() if ":" in line)
    processor = {key.strip(): value.strip() for key, value in processor.items()}
    flags = processor.get("flags", processor.get("Features", "")).split()
    memory = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines())
    versions = {"python": platform.python_version()}
    for name in ("wavedil", "numba", "llvmlite", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    changed = _command("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores(),
        "megahertz_now": float(processor["cpu MHz"]) if "cpu MHz" in processor else None,
        "caches": _caches(),
        "vector_features": [f for f in flags if f in ("sse2", "avx", "avx2", "fma", "avx512f", "asimd", "sve")],
        "memory_gib": round(int(memory["MemTotal"].split()[0]) / 2**20, 1) if "MemTotal" in memory else None,
        "system": platform.system(),
        "versions": versions,
        "commit": _command("git", "rev-parse", "HEAD"),
        "changed_since_commit": None if changed is None else bool(changed),
        "load_before": LOAD_BEFORE,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def busy(about):
    """A warning if other work was using the machine before the run, else an empty text.

    OpenMP's threads spin and wait for each other: torch gets many times slower than its share when it has not all cores
    to itself, and a ratio measured then says nothing.
    """
    load = about["load_before"]
    return f"BUSY MACHINE (load {load[0]:.1f} before the run): the ratios say nothing" if load and load[0] > 0.5 else ""


def describe(about):
    """The machine in one line."""
    caches = ", ".join(f"{name} {size}" for name, size in about["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    features = " ".join(about["vector_features"])
    commit = (about["commit"] or "unknown")[:10] + (" with changes" if about["changed_since_commit"] else "")
    text = f"{about['processor']}, {about['cores']} cores ({features}; {caches}); {versions}; commit {commit}"
    return f"{text}; {busy(about)}" if busy(about) else text


# ---- results ---------------------------------------------------------------------------------------------------------
def write_results(name, results, figure, settings):
    """NAME.json with the machine beside the results, and NAME.png."""
    settings.out.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "quick": settings.quick, "threads": settings.threads, "machine": machine()}
    path = settings.out / f"{name}.json"
    path.write_text(json.dumps(document | results, indent=1) + "\n")
    if figure is not None:
        figure.savefig(path.with_suffix(".png"), dpi=130)
    say(f"-> {path} and .png" if figure is not None else f"-> {path}")
    return path


def say(line):
    print(line, flush=True)
