"""The PyTorch peer: the same WaveNet as a good PyTorch user writes it, eager or compiled.

Two formulations of the same network are offered, because on a CPU either may win:

- "conv1d": channels first, nn.functional.conv1d for everything. The residual and skip projections are one convolution.
- "linear": channels last, (batch * time, channels) rows and addmm; a dilated tap is a shifted copy.

In both, the residual and skip projections of a block are one product, F.cross_entropy does the loss, Adam is the fused
one, gradients are set to None, clipping is torch.nn.utils.clip_grad_norm_. Tried on two Zen 3 cores and not faster than
"linear": separate products for the two halves of the gate, separate ones for residual and skip, and one product for the
skips of all blocks.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import problem as problems
from benchmarks.peers import worker


class Block(nn.Module):
    """Weights are kept in torch's own layouts."""

    def __init__(self, weights, dilation, formulation):
        super().__init__()
        conv, conv_bias, residual, residual_bias, skip, skip_bias = weights
        self.kernel, self.width = conv.shape[0], residual.shape[0]
        self.dilation, self.formulation = dilation, formulation
        out, out_bias = torch.cat([residual, skip], 1), torch.cat([residual_bias, skip_bias])  # (D, R + S)
        if formulation == "conv1d":
            conv, out = conv.permute(2, 1, 0), out.t()[:, :, None]
        else:
            conv = conv.flatten(0, 1)
        self.conv, self.conv_bias = nn.Parameter(conv.contiguous()), nn.Parameter(conv_bias)
        self.out, self.out_bias = nn.Parameter(out.contiguous()), nn.Parameter(out_bias)

    def forward(self, h):
        reach = (self.kernel - 1) * self.dilation
        if self.formulation == "conv1d":
            pre = F.conv1d(F.pad(h, (reach, 0)), self.conv, self.conv_bias, dilation=self.dilation)
            a, g = pre.chunk(2, 1)
            r, s = F.conv1d(torch.tanh(a) * torch.sigmoid(g), self.out, self.out_bias).chunk(2, 1)
        else:
            time = h.shape[1]
            padded = F.pad(h, (0, 0, reach, 0))
            taps = torch.cat([padded[:, k * self.dilation :][:, :time] for k in range(self.kernel)], 2)
            a, g = F.linear(taps, self.conv.t(), self.conv_bias).chunk(2, 2)
            r, s = F.linear(torch.tanh(a) * torch.sigmoid(g), self.out.t(), self.out_bias).chunk(2, 2)
        return h + r, s


class WaveNet(nn.Module):
    """``forward`` is the mean cross-entropy in nats of codes (B, T + 1)."""

    def __init__(self, parameters, problem, formulation):
        super().__init__()
        p = {name: torch.tensor(value) for name, value in parameters.items()}
        names = ("conv.weight", "conv.bias", "residual.weight", "residual.bias", "skip.weight", "skip.bias")
        self.formulation = formulation
        self.embedding = nn.Parameter(p["input.embedding"])
        self.blocks = nn.ModuleList(
            Block([p[f"blocks.{i}.{name}"] for name in names], d, formulation)
            for i, d in enumerate(problem.dilations)
        )
        self.head = nn.ParameterList(p[f"head.{i}.{kind}"] for i in (0, 1) for kind in ("weight", "bias"))

    def forward(self, codes):
        h = F.embedding(codes[:, :-1], self.embedding)
        if self.formulation == "conv1d":
            h = h.transpose(1, 2).contiguous()
        skips = 0
        for block in self.blocks:
            h, s = block(h)
            skips = skips + s
        w0, b0, w1, b1 = self.head
        if self.formulation == "conv1d":
            e = F.relu(F.conv1d(F.relu(skips), w0.t()[:, :, None], b0))
            return F.cross_entropy(F.conv1d(e, w1.t()[:, :, None], b1), codes[:, 1:])
        e = F.relu(F.linear(F.relu(skips), w0.t(), b0))
        return F.cross_entropy(F.linear(e, w1.t(), b1).flatten(0, 1), codes[:, 1:].flatten())


class TorchWaveNet(worker.TrainingPeer):
    def setup(self, problem, path, *, threads, formulation, compile=False, device="cpu"):
        torch.set_num_threads(threads)
        torch.compiler.reset()
        self.formulation, self.compile = formulation, compile
        parameters, codes = problems.read(path)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.codes = torch.tensor(codes.astype("int64"), device=device)
        model = WaveNet(parameters, problems.Problem.from_dict(problem), formulation).to(device)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=problems.LEARNING_RATE, fused=True)
        self.model = torch.compile(model, dynamic=False) if compile else model

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(self.codes)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, problems.CLIP)
        self.optimizer.step()
        return loss.item(), norm.item()

    @torch.no_grad()
    def loss(self):
        return self.model(self.codes).item()

    def description(self):
        return {
            "framework": f"torch {torch.__version__}",
            "mode": "torch.compile" if self.compile else "eager",
            "formulation": self.formulation,
            "threads": torch.get_num_threads(),
        }


PEER = TorchWaveNet
