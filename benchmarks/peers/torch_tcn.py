"""The PyTorch peer: the TCN of arXiv:1803.01271 as its users write it, eager or compiled.

Channels first, conv1d on input padded on the left, torch's own weight norm, fused Adam, gradients set to None.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks import tcn_problem as problems
from benchmarks.peers import worker


class Block(nn.Module):
    def __init__(self, p, i, dilation):
        super().__init__()
        self.convs, self.dilation = nn.ModuleList(), dilation
        for j in range(2):
            v, g, bias = (p[f"blocks.{i}.conv.{j}.{name}"] for name in ("weight_v", "weight_g", "bias"))
            conv = weight_norm(nn.Conv1d(v.shape[1], v.shape[2], v.shape[0], dilation=dilation))
            with torch.no_grad():
                conv.parametrizations.weight.original1.copy_(v.permute(2, 1, 0))
                conv.parametrizations.weight.original0.copy_(g[:, None, None])
                conv.bias.copy_(bias)
            self.convs.append(conv)
        self.shortcut = None
        if f"blocks.{i}.shortcut.weight" in p:
            weight = p[f"blocks.{i}.shortcut.weight"]
            self.shortcut = nn.Conv1d(*weight.shape, 1)
            with torch.no_grad():
                self.shortcut.weight.copy_(weight.t()[:, :, None])
                self.shortcut.bias.copy_(p[f"blocks.{i}.shortcut.bias"])

    def forward(self, x):
        y = x
        for conv in self.convs:
            y = F.relu(conv(F.pad(y, ((conv.kernel_size[0] - 1) * self.dilation, 0))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class TCN(nn.Module):
    def __init__(self, parameters, head):
        super().__init__()
        p = {name: torch.tensor(value) for name, value in parameters.items()}
        self.blocks = nn.Sequential(*(Block(p, i, 2**i) for i in range(problems.LEVELS)))
        self.last = head == "last"
        self.head = nn.Linear(*p["head.weight"].shape)
        with torch.no_grad():
            self.head.weight.copy_(p["head.weight"].t())
            self.head.bias.copy_(p["head.bias"])

    def forward(self, x):
        h = self.blocks(x.transpose(1, 2))
        return self.head(h[:, :, -1] if self.last else h.transpose(1, 2))


class TorchTCN(worker.TrainingPeer):
    def setup(self, problem, path, *, threads, compile=False):
        torch.set_num_threads(threads)
        torch.compiler.reset()
        self.compile = compile
        parameters, x, y = problems.read(path)
        self.x, self.y = torch.tensor(x), torch.tensor(y)
        model = TCN(parameters, problem["head"])
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=problems.LEARNING_RATE, fused=True)
        self.model = torch.compile(model, dynamic=False) if compile else model

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.model(self.x), self.y)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, problems.CLIP)
        self.optimizer.step()
        return loss.item(), norm.item()

    @torch.no_grad()
    def loss(self):
        return F.mse_loss(self.model(self.x), self.y).item()

    def description(self):
        mode = "torch.compile" if self.compile else "eager"
        return {"framework": f"torch {torch.__version__}", "mode": mode, "threads": torch.get_num_threads()}


PEER = TorchTCN
