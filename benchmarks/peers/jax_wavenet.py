"""The JAX peer: the same WaveNet, the whole training step in one jitted function with donated buffers.

"linear" writes the dilated convolution as products of shifted rows, "conv1d" as lax.conv_general_dilated, both channels
last; the residual and skip projections are one product, as in the PyTorch peer.
"""

import os

import jax
import jax.numpy as jnp

from benchmarks import problem as problems
from benchmarks.peers import worker


def loss_of(p, codes, problem, formulation):
    kernel, time = problem.kernel, codes.shape[1] - 1
    h, skips = p["input.embedding"][codes[:, :-1]], 0.0
    for i, dilation in enumerate(problem.dilations):
        weight = p[f"blocks.{i}.conv.weight"]
        reach = (kernel - 1) * dilation
        if formulation == "conv1d":
            pre = jax.lax.conv_general_dilated(
                h, weight, (1,), [(reach, 0)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
            )
        else:
            padded = jnp.pad(h, ((0, 0), (reach, 0), (0, 0)))
            taps = jnp.concatenate([padded[:, k * dilation : k * dilation + time] for k in range(kernel)], 2)
            pre = taps @ weight.reshape(-1, weight.shape[2])
        a, g = jnp.split(pre + p[f"blocks.{i}.conv.bias"], 2, axis=2)
        both = (jnp.tanh(a) * jax.nn.sigmoid(g)) @ p[f"blocks.{i}.out.weight"] + p[f"blocks.{i}.out.bias"]
        r, s = jnp.split(both, 2, axis=2)
        h, skips = h + r, skips + s
    e = jax.nn.relu(jax.nn.relu(skips) @ p["head.0.weight"] + p["head.0.bias"])
    logits = jax.nn.log_softmax(e @ p["head.1.weight"] + p["head.1.bias"])
    return -jnp.take_along_axis(logits, codes[:, 1:, None], 2).mean()


def adam_step(state, codes, problem, formulation):
    p, first, second, count = state
    loss, grads = jax.value_and_grad(loss_of)(p, codes, problem, formulation)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
    scale, count = jnp.minimum(1.0, problems.CLIP / norm), count + 1
    grads = jax.tree.map(lambda g: scale * g, grads)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    rate = problems.LEARNING_RATE / (1 - 0.9**count)
    p = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8), p, first, second
    )
    return (p, first, second, count), loss, norm


class JaxWaveNet(worker.TrainingPeer):
    def setup(self, problem, path, *, threads, formulation):
        if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it sees cores
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        self.problem, self.threads, self.formulation = problems.Problem.from_dict(problem), threads, formulation
        parameters, codes = problems.read(path)
        for i in range(len(self.problem.dilations)):
            for kind, axis in (("weight", 1), ("bias", 0)):
                pair = [jnp.asarray(parameters.pop(f"blocks.{i}.{part}.{kind}")) for part in ("residual", "skip")]
                parameters[f"blocks.{i}.out.{kind}"] = jnp.concatenate(pair, axis)
        p = {name: jnp.asarray(value) for name, value in parameters.items()}
        zeros = jax.tree.map(jnp.zeros_like, p)
        self.state = (p, zeros, jax.tree.map(jnp.zeros_like, p), jnp.float32(0))
        self.codes = jnp.asarray(codes, jnp.int32)
        statics = {"static_argnums": (2, 3)}
        self.jit_step = jax.jit(adam_step, donate_argnums=0, **statics)
        self.jit_loss = jax.jit(loss_of, **statics)

    def step(self):
        self.state, loss, norm = self.jit_step(self.state, self.codes, self.problem, self.formulation)
        jax.block_until_ready(self.state)
        return float(loss), float(norm)

    def loss(self):
        return float(self.jit_loss(self.state[0], self.codes, self.problem, self.formulation))

    def description(self):
        return {
            "framework": f"jax {jax.__version__}",
            "mode": "jit",
            "formulation": self.formulation,
            "threads": self.threads,
        }


PEER = JaxWaveNet
