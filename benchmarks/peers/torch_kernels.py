"""The same single operations with torch.nn.functional, in torch's own layouts.

"conv1d" is channels first with F.conv1d; "linear" is channels last with F.linear on shifted copies. Where an operation
has no convolution in it, there is one way, called "plain".
"""

import json

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import problem as problems
from benchmarks.peers import worker
from benchmarks.peers.probe import probe
from benchmarks.peers.torch_wavenet import WaveNet


def first(x):
    """(B, T, C) to (B, C, T) and back."""
    return x.transpose(1, 2)


class Operation:
    """Leaves in torch's layouts; ``back[name]`` turns a leaf's gradient into wavedil's layout."""

    def __init__(self, arrays, settings, formulation):
        self.t = {name: torch.tensor(value) for name, value in arrays.items()}
        self.settings, self.formulation, self.back = settings, formulation, {}
        self.dy = [self.t.pop(name) for name in sorted(self.t) if name.startswith("dy")]
        for name, value in self.t.items():
            if value.dtype == torch.float32 and name != "sample_weight":
                self.leaf(name)
        self.prepare()

    def leaf(self, name, to=None, back=None):
        value = self.t[name].detach() if to is None else to(self.t[name].detach())
        self.t[name] = value.clone(memory_format=torch.contiguous_format).requires_grad_()
        self.back[name] = back or (lambda g: g)

    def prepare(self):
        """Bring leaves and dy into the formulation's layouts."""

    def run(self):
        """A tuple of outputs."""
        raise NotImplementedError

    def channels_last(self, y):
        return first(y) if self.formulation == "conv1d" and y.ndim == 3 else y

    def forward(self):
        with torch.no_grad():
            self.run()

    def graph(self):
        self.y = self.run()

    def backward(self):
        leaves = [self.t[name] for name in self.back]
        self.grads = torch.autograd.grad(self.y, leaves, self.dy or None, retain_graph=True)

    def outputs(self):
        self.graph()
        self.backward()
        found = {f"y{i}": self.channels_last(y).detach().numpy() for i, y in enumerate(self.y)}
        for (name, back), grad in zip(self.back.items(), self.grads, strict=True):
            found[f"d{name}"] = back(grad).numpy()
        return found


class Conv1d(Operation):
    def prepare(self):
        if self.formulation == "conv1d":
            self.leaf("x", first, first)
            self.leaf("w", lambda w: w.permute(2, 1, 0), lambda g: g.permute(2, 1, 0))
            self.dy = [first(dy).contiguous() for dy in self.dy]
        elif self.settings["groups"] != 1:
            raise ValueError("linear needs groups = 1")

    def run(self):
        return (self.conv(self.t["x"], self.t["w"], self.t.get("b")),)

    def conv(self, x, w, b):
        dilation = self.settings["dilation"]
        if self.formulation == "conv1d":
            x = F.pad(x, ((w.shape[2] - 1) * dilation, 0))
            return F.conv1d(x, w, b, dilation=dilation, groups=self.settings.get("groups", 1))
        time, kernel = x.shape[1], w.shape[0]
        padded = F.pad(x, (0, 0, (kernel - 1) * dilation, 0))
        taps = torch.cat([padded[:, k * dilation :][:, :time] for k in range(kernel)], 2)
        return F.linear(taps, w.flatten(0, 1).t(), b)


class GatedBlock(Conv1d):
    def prepare(self):
        if self.formulation == "conv1d":
            self.leaf("x", first, first)
            self.leaf("conv_weight", lambda w: w.permute(2, 1, 0), lambda g: g.permute(2, 1, 0))
            for name in ("residual_weight", "skip_weight"):
                self.leaf(name, lambda w: w.t()[:, :, None], lambda g: g[:, :, 0].t())
            self.dy = [first(dy).contiguous() for dy in self.dy]

    def point(self, z, name):
        weight, bias = self.t[f"{name}_weight"], self.t.get(f"{name}_bias")
        return F.conv1d(z, weight, bias) if self.formulation == "conv1d" else F.linear(z, weight.t(), bias)

    def run(self):
        x = self.t["x"]
        pre = self.conv(x, self.t["conv_weight"], self.t.get("conv_bias"))
        a, g = pre.chunk(2, 1 if self.formulation == "conv1d" else 2)
        z = torch.tanh(a) * torch.sigmoid(g)
        return x + self.point(z, "residual"), self.point(z, "skip")


def nchw(x):
    """(B, H, W, C) to (B, C, H, W), as a view."""
    return x.permute(0, 3, 1, 2)


class Images(Operation):
    """Convolutions of images, "channels first" or "channels last" in memory; sequences are channels first."""

    def to_torch(self, name, to, back):
        last = self.formulation == "channels last" and self.t[name].ndim == 4
        memory = torch.channels_last if last else torch.contiguous_format
        self.t[name] = to(self.t[name].detach()).clone(memory_format=memory).requires_grad_()
        self.back[name] = back

    def prepare(self):
        self.wide = self.t["x"].ndim == 4
        to, back = (nchw, lambda g: g.permute(0, 2, 3, 1)) if self.wide else (first, first)
        self.to_torch("x", to, back)
        memory = torch.channels_last if self.formulation == "channels last" else torch.contiguous_format
        self.dy = [to(dy).contiguous(memory_format=memory) for dy in self.dy]
        self.weights()

    def weight(self, name):
        """(kh, kw, c, N) to (N, c, kh, kw), or the same with one axis less."""
        if self.t[name].ndim == 4:
            self.to_torch(name, lambda w: w.permute(3, 2, 0, 1), lambda g: g.permute(2, 3, 1, 0))
        else:
            self.to_torch(name, lambda w: w.permute(2, 1, 0), lambda g: g.permute(2, 1, 0))

    def weights(self):
        self.weight("w")

    def channels_last(self, y):
        return y.permute(0, 2, 3, 1) if self.wide else first(y)

    def conv(self, x, w, b, groups):
        dilation, padding = self.settings["dilation"], self.settings["padding"]
        if padding == "causal" and not self.wide:
            return F.conv1d(F.pad(x, ((w.shape[2] - 1) * dilation, 0)), w, b, dilation=dilation, groups=groups)
        pads = [(k - 1) * dilation // 2 for k in w.shape[2:]]
        return F.conv2d(x, w, b, padding=pads, dilation=dilation, groups=groups)

    def run(self):
        return (self.conv(self.t["x"], self.t["w"], self.t.get("b"), self.settings["groups"]),)


class Separable(Images):
    def weights(self):
        self.weight("depth")
        ones = (1,) * (self.t["x"].ndim - 2)
        self.to_torch("point", lambda w: w.t().reshape(*w.t().shape, *ones), lambda g: g.flatten(1).t())

    def run(self):
        x, point = self.t["x"], self.t["point"]
        hidden = self.conv(x, self.t["depth"], None, x.shape[1])
        return ((F.conv2d if self.wide else F.conv1d)(hidden, point, self.t.get("b")),)


class Attention(Operation):
    def prepare(self):
        time, window = self.t["x"].shape[1], self.settings["window"]
        ago = torch.arange(time)[:, None] - torch.arange(time)
        self.options = {"attn_mask": (0 <= ago) & (ago < window)} if window < time else {"is_causal": True}

    def run(self):
        x, heads = self.t["x"], self.settings["heads"]
        q, k, v = x.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return (F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2),)


class Embedding(Operation):
    def prepare(self):
        self.t["codes"] = self.t["codes"].long()

    def run(self):
        return (F.embedding(self.t["codes"], self.t["table"]),)


class CrossEntropy(Operation):
    def prepare(self):
        self.t["targets"] = self.t["targets"].long().flatten()

    def run(self):
        logits = F.linear(self.t["x"].flatten(0, 1), self.t["w"].t(), self.t.get("b"))
        return (F.cross_entropy(logits, self.t["targets"]),)


class Update:
    def __init__(self, arrays, settings, formulation):
        self.weights = torch.tensor(arrays["weights"], requires_grad=True)
        self.grads = torch.tensor(arrays["grads"])
        self.optimizer = torch.optim.Adam([self.weights], lr=problems.LEARNING_RATE, fused=True)
        self.weights.grad = self.grads

    def step(self):
        torch.nn.utils.clip_grad_norm_([self.weights], problems.CLIP)
        self.optimizer.step()

    def outputs(self):
        before = self.weights.detach().clone()
        self.step()
        return {"change": (self.weights.detach() - before).numpy()}


class Stack:
    def __init__(self, arrays, settings, formulation):
        self.codes = torch.tensor(arrays.pop("codes").astype("int64"))
        self.model = WaveNet(arrays, problems.Problem.from_dict(settings), formulation)

    def loss(self):
        with torch.no_grad():
            return self.model(self.codes).item()

    def loss_and_grads(self):
        self.model.zero_grad(set_to_none=True)
        loss = self.model(self.codes)
        loss.backward()
        return loss.item()

    def outputs(self):
        loss = self.loss_and_grads()
        head = self.model.head[2].grad
        return {"loss": loss, "dembedding": self.model.embedding.grad.numpy(), "dhead": head.numpy()}


TASKS = {
    "conv1d": Conv1d,
    "conv2d": Images,
    "separable": Separable,
    "attention": Attention,
    "gated_block": GatedBlock,
    "gated_stack": Stack,
    "embedding": Embedding,
    "cross_entropy": CrossEntropy,
    "update": Update,
}


class TorchKernels(worker.Peer):
    def do_setup(self, family, path, threads, formulations):
        torch.set_num_threads(threads)
        self.tasks = {}
        for name in formulations:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            settings = json.loads(str(arrays.pop("settings")))
            self.tasks[name] = TASKS[family](arrays, settings, name)

    def do_check(self):
        checks = {}
        for name, task in self.tasks.items():
            checks[name] = {key: probe(array) for key, array in task.outputs().items()}
        return checks

    def do_time(self, what, repeat, formulation):
        task = self.tasks[formulation]
        if what == "backward":
            task.graph()
        function = getattr(task, what)
        function()
        return {"seconds": worker.time_calls(function, repeat)}


PEER = TorchKernels
