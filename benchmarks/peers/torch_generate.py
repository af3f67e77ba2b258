"""Generation in PyTorch by the same cached algorithm, and by naive recomputation.

The cached one keeps a ring buffer for every block, so that a sample costs one step. It is written for speed on one
core: everything is preallocated and written through ``out=``, so that a step allocates nothing and slices nothing; all
past taps are gathered at once and multiplied in one batched product before the blocks begin; all skips are one product
after them; biases of the residuals ride on a column of ones; and tanh(a) sigmoid(g) is one tanh over both halves,
because sigmoid(g) = (1 + tanh(g / 2)) / 2 and the factors go into the weights. That leaves four calls a block. Samples
are drawn by adding Gumbel noise, drawn ahead, and taking the largest. The loop over the blocks is TorchScript, which
takes less time between the calls than Python. Tried on two Zen 3 cores and slower: the same without TorchScript (up to
a third), and torch.compile of a step without ``out=`` (half as fast).
"""

import math
import warnings

import torch
import torch.nn.functional as F

from benchmarks import problem as problems
from benchmarks.peers import probe, torch_wavenet, worker


def blocks(pre: list[torch.Tensor], a: list[torch.Tensor], g: list[torch.Tensor], h: list[torch.Tensor],
           weight: list[torch.Tensor], z: list[torch.Tensor], z1: list[torch.Tensor],
           residual: list[torch.Tensor]):  # fmt: skip
    """One step through the blocks: ``a``, ``g`` are the halves of ``pre``, ``z1`` is ``z`` with the column of ones."""
    for i in range(len(pre)):
        torch.addmm(pre[i], h[i], weight[i], out=pre[i])
        torch.tanh(pre[i], out=pre[i])
        torch.addcmul(a[i], a[i], g[i], out=z[i])
        if i + 1 < len(pre):  # the last residual reaches no output
            torch.addmm(h[i], z1[i], residual[i], out=h[i + 1])


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is deprecated, but faster here than what is to replace it
    blocks = torch.jit.script(blocks)


class Cached:
    """All streams' state and one step of it."""

    def __init__(self, parameters, problem, batch):
        if problem.kernel != 2:
            raise ValueError(f"kernel must be 2, got {problem.kernel}")
        p = {name: torch.tensor(value) for name, value in parameters.items()}
        each, C = range(len(problem.dilations)), problem.channels
        halves = torch.cat([torch.ones(C), torch.full((C,), 0.5)])
        conv = torch.stack([p[f"blocks.{i}.conv.weight"] for i in each]) * halves  # (L, 2, C, 2C)
        bias = torch.stack([p[f"blocks.{i}.conv.bias"] for i in each]) * halves
        self.past_weight, self.bias = conv[:, 0].contiguous(), bias[:, None].contiguous()

        def with_bias(kind):
            weight, bias = (torch.stack([p[f"blocks.{i}.{kind}.{part}"] for i in each]) for part in ("weight", "bias"))
            return torch.cat([0.5 * weight, bias[:, None]], 1)  # (L, C + 1, C)

        self.embedding, self.skip_weight = p["input.embedding"], with_bias("skip").flatten(0, 1)
        self.head = [p[f"head.{i}.{kind}"] for i in (0, 1) for kind in ("weight", "bias")]
        # Where each block's ring has its oldest row, for each step until all rings begin anew.
        dilations = torch.tensor(problem.dilations)
        begins = dilations.cumsum(0) - dilations
        self.slots = begins + torch.arange(math.lcm(*problem.dilations))[:, None] % dilations
        self.ring = torch.zeros(int(dilations.sum()), batch, C)
        self.past, self.h = torch.zeros(len(each), batch, C), torch.zeros(len(each), batch, C)
        self.pre = torch.zeros(len(each), batch, 2 * C)
        z = torch.ones(batch, len(each), C + 1)
        self.z = z.view(batch, -1)
        self.views = (
            [self.pre[i] for i in each], [self.pre[i, :, :C] for i in each], [self.pre[i, :, C:] for i in each],
            [self.h[i] for i in each], [conv[i, 1].contiguous() for i in each], [z[:, i, :C] for i in each],
            [z[:, i] for i in each], list(with_bias("residual")),
        )  # fmt: skip
        self.time = 0

    def step(self, codes):
        """Logits (B, Q) after one more code (B,) of each stream."""
        slots = self.slots[self.time % len(self.slots)]
        self.time += 1
        torch.index_select(self.embedding, 0, codes, out=self.h[0])
        torch.index_select(self.ring, 0, slots, out=self.past)
        torch.baddbmm(self.bias, self.past, self.past_weight, out=self.pre)
        blocks(*self.views)
        self.ring.index_copy_(0, slots, self.h)
        w0, b0, w1, b1 = self.head
        skip = torch.relu_(self.z @ self.skip_weight)
        return torch.addmm(b1, torch.relu_(torch.addmm(b0, skip, w0)), w1)


class TorchGenerate(worker.Peer):
    def do_setup(self, problem, path, *, batch, threads):
        torch.set_num_threads(threads)
        self.problem, self.batch = problems.Problem.from_dict(problem), batch
        self.parameters, codes = problems.read(path)
        self.codes = torch.tensor(codes.astype("int64"))
        return {"framework": f"torch {torch.__version__}", "threads": torch.get_num_threads()}

    def cached(self):
        return Cached(self.parameters, self.problem, self.batch)

    @torch.inference_mode()
    def do_check(self, greedy):
        """Of the logits after every code of the file, and the codes that follow when the likeliest is taken."""
        net = self.cached()
        logits = torch.stack([net.step(column) for column in self.codes[: self.batch].t()], 1)
        likeliest = [logits[:, -1].argmax(1)]
        for _ in range(greedy - 1):
            likeliest.append(net.step(likeliest[-1]).argmax(1))
        return {"logits": probe.probe(logits.numpy()), "greedy": torch.stack(likeliest, 1).tolist()}

    @torch.inference_mode()
    def generate(self, n):
        net, out = self.cached(), torch.empty(n, self.batch, dtype=torch.int64)
        noise = torch.empty(n, self.batch, self.problem.classes).exponential_().log_().neg_()
        codes = torch.full((self.batch,), self.problem.classes // 2)
        for i in range(n):
            torch.argmax(torch.add(net.step(codes), noise[i]), 1, out=out[i])
            codes = out[i]
        return out

    def do_time(self, n, repeat):
        return {"seconds": worker.time_calls(lambda: self.generate(n), repeat)}

    @torch.inference_mode()
    def do_naive(self, n, repeat):
        """Every sample from all that it depends on, with nothing kept: one stream."""
        net = torch_wavenet.WaveNet(self.parameters, self.problem, "linear")
        field = sum(self.problem.dilations) + 1
        codes = torch.full((1, field + n), self.problem.classes // 2)
        w0, b0, w1, b1 = net.head

        def generate():
            for i in range(n):
                h, skips = F.embedding(codes[:, i : i + field], net.embedding), 0
                for block in net.blocks:
                    h, s = block(h)
                    skips = skips + s[:, -1]
                logits = torch.addmm(b1, F.relu(torch.addmm(b0, F.relu(skips), w0)), w1)
                codes[0, i + field] = torch.multinomial(logits.softmax(1), 1)[0, 0]

        return {"seconds": worker.time_calls(generate, repeat)}


PEER = TorchGenerate
