"""The other end of harness.Worker: requests come as JSON lines on stdin, answers leave as JSON lines on stdout.

The first line out says how long the import took, or what could not be imported; then a line out for each line in.

Standard library only. ``serve`` moves the real stdout aside and points file descriptor 1 at stderr, so whatever a
framework prints cannot end up between the answers.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback


def memory():
    """Resident memory of this process in MiB: now, and the highest since the start or the last ``reset_peak``."""
    now = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # ru_maxrss survives exec, so a child can inherit its parent's peak: where /proc is, its figures are the right ones.
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        now, peak = (int(fields[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    except (OSError, KeyError):
        pass
    return {"now": now, "peak": peak}


def reset_peak():
    """Let the highest resident memory start anew from what is held now. False where the system does not allow it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def time_calls(function, repeat):
    """Seconds of each of ``repeat`` calls, with the garbage collector held off."""
    gc.collect()
    gc.disable()
    try:
        seconds = []
        for _ in range(repeat):
            begin = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - begin)
    finally:
        gc.enable()
    return seconds


class Peer:
    """Answers a request {"do": NAME, ...} with the value of ``do_NAME(...)``."""

    def __init__(self):
        self.memory = {"import": memory()}

    def answer(self, request):
        return getattr(self, "do_" + request.pop("do"))(**request)


class TrainingPeer(Peer):
    """What every peer that trains a WaveNet answers. Subclasses give these four:

    setup(problem, path, **options)   build the model and the optimizer from the file
    step() -> (loss, norm)            one whole training step: loss, gradients, clipping, Adam; norm before clipping
    loss() -> float                   forward only
    description() -> dict             what is run: framework and version, formulation, threads
    """

    def do_setup(self, problem, path, warm_up=None, **options):
        """Warm up on the small problem first, if one is given: what that leaves behind is not the step's memory."""
        if warm_up is not None:
            self.setup(**warm_up, **options)
            self.step()
            self.loss()
        gc.collect()
        self.memory["warm"] = memory()
        self.setup(problem, path, **options)
        return self.description()

    def do_check(self, steps):
        """Losses and gradient norms of the first steps (they move the weights), to be compared between the peers."""
        begin = time.perf_counter()
        initial = float(self.loss())
        seconds = [time.perf_counter() - begin]
        losses, norms = [], []
        for _ in range(steps):
            begin = time.perf_counter()
            loss, norm = self.step()
            seconds.append(time.perf_counter() - begin)
            losses.append(float(loss))
            norms.append(float(norm))
        return {"loss": initial, "losses": losses, "norms": norms, "seconds": seconds}

    def do_first(self, problem, path, **options):
        """Seconds until a fresh process has taken its first step, of the step after it, and the peak memory in MiB."""
        begin = time.perf_counter()
        self.setup(problem, path, **options)
        built = time.perf_counter()
        self.step()
        first = time.perf_counter()
        self.step()
        return {
            "setup": built - begin,
            "first_step": first - built,
            "second_step": time.perf_counter() - first,
            "process_peak_mib": memory()["peak"],
        }

    def do_time(self, what, repeat):
        return {"seconds": time_calls({"step": self.step, "loss": self.loss}[what], repeat)}

    def do_memory(self, steps):
        """Highest resident memory so far, and during ``steps`` more steps; what of it import and warm-up had taken."""
        peak = memory()["peak"]
        reset = reset_peak()
        for _ in range(steps):
            self.step()
        step_peak = memory()["peak"]
        return {
            "import_mib": self.memory["import"]["peak"],
            "warm_mib": self.memory["warm"]["now"],
            "process_peak_mib": max(peak, step_peak),
            "step_peak_mib": step_peak,
            "step_net_mib": step_peak - self.memory["warm"]["now"],
            "peak_was_reset": reset,
        }


def serve(module):
    """Answer requests until stdin closes, with an object of the class that ``module`` calls PEER."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(value):
        out.write(json.dumps(value) + "\n")

    begin = time.perf_counter()
    try:
        make = importlib.import_module(module).PEER
    except ImportError as error:
        reply({"absent": str(error)})
        return
    peer = make()
    reply({"import_seconds": time.perf_counter() - begin})
    for line in sys.stdin:
        try:
            reply({"ok": peer.answer(json.loads(line))})
        except Exception as error:  # anything at all is the parent's to report; the worker lives on
            traceback.print_exc()
            reply({"error": f"{type(error).__name__}: {error}"})
