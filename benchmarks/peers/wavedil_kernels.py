"""Single operations of wavedil, on the inputs that each family's own cases make."""

import json

import numpy as np

import wavedil as wd
from benchmarks import problem as problems
from benchmarks.peers import worker
from benchmarks.peers.probe import probe
from wavedil import ops
from wavedil.kernels.workspace import Workspace
from wavedil.ops.contract import Case


class Operation:
    """conv1d, gated_block, embedding, cross_entropy: forward, and backward from given gradients of the outputs."""

    def __init__(self, family, arrays, settings):
        self.op = getattr(ops, family)
        self.dy = [arrays.pop(name) for name in sorted(arrays) if name.startswith("dy")]
        if family == "cross_entropy":
            arrays.setdefault("b", None)
        self.arguments = arrays | settings
        self.workspace = Workspace()
        self.threads = None

    def forward(self):
        self.y, self.saved = self.op.forward(**self.arguments, workspace=self.workspace, threads=self.threads)

    def backward(self):
        dy = 1.0 if not self.dy else self.dy[0] if len(self.dy) == 1 else tuple(self.dy)
        self.grads = self.op.backward(dy, self.saved, workspace=self.workspace, threads=self.threads)

    def outputs(self):
        self.forward()
        y = self.y if isinstance(self.y, tuple) else (self.y,)
        found = {f"y{i}": np.asarray(a).copy() for i, a in enumerate(y)}
        self.backward()
        return found | {f"d{name}": g for name, g in self.grads._asdict().items() if g is not None}


class Update:
    """One step of Adam on a flat buffer, behind the global norm of the gradient."""

    def __init__(self, arrays, settings):
        self.arrays, self.settings = arrays, settings
        self.moments = [np.zeros_like(arrays["weights"]) for _ in range(2)]
        self.threads, self.count = None, 0

    def step(self):
        self.count += 1
        weights, grads = self.arrays["weights"], self.arrays["grads"]
        norm = ops.update.global_norm(grads, threads=self.threads)
        scale = ops.update.clip_scale(norm, problems.CLIP)
        options = {"step": self.count, "lr": problems.LEARNING_RATE, "scale": scale, "threads": self.threads}
        ops.update.adam(weights, grads, *self.moments, **options)

    def outputs(self):
        before = self.arrays["weights"].copy()
        self.step()
        return {"change": self.arrays["weights"] - before}


class Stack:
    """All blocks, head and loss in one schedule."""

    def __init__(self, arrays, settings):
        problem = problems.Problem.from_dict(settings)
        self.codes = arrays.pop("codes")
        names = ("residual_channels", "dilation_channels", "skip_channels", "end_channels")
        config = {name: problem.channels for name in names} | {"classes": problem.classes}
        self.config = wd.WaveNetConfig(dilations=problem.dilations, kernel_size=problem.kernel, **config)
        self.parameters, self.models, self.threads = arrays, {}, None

    def model(self):
        if self.threads not in self.models:
            self.models[self.threads] = wd.WaveNet(self.config, threads=self.threads)
            self.models[self.threads].params.load(self.parameters)
        return self.models[self.threads]

    def loss(self):
        return self.model().loss(self.codes)

    def loss_and_grads(self):
        return self.model().loss_and_grads(self.codes)

    def outputs(self):
        loss, grads = self.loss_and_grads()
        return {"loss": loss, "dembedding": grads["input.embedding"], "dhead": grads["head.1.weight"]}


class WavedilKernels(worker.Peer):
    def do_inputs(self, family, sizes, path):
        """Write the arrays and settings of a case to a file for all peers."""
        settings = {}
        rng = np.random.default_rng(0)
        if family == "gated_stack":
            problems.write(problems.Problem.from_dict(sizes), path)
            with np.load(path, allow_pickle=False) as file:
                arrays, settings = dict(file), sizes
        elif family == "update":
            arrays = {k: rng.standard_normal(sizes["elements"]).astype(np.float32) for k in ("weights", "grads")}
        else:
            op = getattr(ops, family)
            cases = __import__(f"wavedil.ops.{family}.cases", fromlist=["inputs"])
            arrays, settings = cases.inputs(Case("benchmark", 0, sizes), np.float32)
            arrays = {name: array for name, array in arrays.items() if array is not None}
            if family != "cross_entropy":
                y, _ = op.forward(**arrays, **settings)
                for i, part in enumerate(y if isinstance(y, tuple) else (y,)):
                    arrays[f"dy{i}"] = rng.standard_normal(part.shape).astype(np.float32)
        np.savez(path, settings=np.array(json.dumps(settings)), **arrays)

    def do_setup(self, family, path):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        settings = json.loads(str(arrays.pop("settings")))
        single = {"gated_stack": Stack, "update": Update}
        self.task = single[family](arrays, settings) if family in single else Operation(family, arrays, settings)

    def do_check(self):
        return {name: probe(array) for name, array in self.task.outputs().items()}

    def do_time(self, what, repeat, threads):
        self.task.threads = threads
        if what == "backward":
            self.task.forward()
        function = getattr(self.task, what)
        function()
        return {"seconds": worker.time_calls(function, repeat)}


PEER = WavedilKernels
