"""What is timed: WaveNet training problems, their weights and data, and what they cost.

NumPy only: every peer imports it.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

# Adam with betas (0.9, 0.999) and eps 1e-8; clipping by the global norm, low enough to be active.
LEARNING_RATE, CLIP = 1e-3, 0.01


@dataclass(frozen=True)
class Problem:
    """One training step of a WaveNet whose residual, dilation, skip and end channels are all ``channels``."""

    channels: int = 32
    kernel: int = 2
    dilations: tuple[int, ...] = field(default=tuple(2**i for i in range(10)) * 2)
    batch: int = 4
    window: int = 4096
    classes: int = 256

    @property
    def name(self):
        return f"C={self.channels} K={self.kernel}"

    @property
    def samples(self):
        return self.batch * self.window

    @property
    def forward_flops(self):
        """Multiplications and additions of the matrix products of one forward pass."""
        C, K = self.channels, self.kernel
        block = 2 * K * C * C + 2 * C * C
        return 2 * self.samples * (len(self.dilations) * block + C * C + C * self.classes)

    @property
    def step_flops(self):
        """The forward pass, and twice as much for the two gradients of each product."""
        return 3 * self.forward_flops

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, d):
        return cls(**{**d, "dilations": tuple(d["dilations"])})


def shapes(problem):
    """Names and shapes of the parameters."""
    C, Q = problem.channels, problem.classes
    out = {"input.embedding": (Q, C)}
    for i in range(len(problem.dilations)):
        out |= {
            f"blocks.{i}.conv.weight": (problem.kernel, C, 2 * C),
            f"blocks.{i}.conv.bias": (2 * C,),
            f"blocks.{i}.residual.weight": (C, C),
            f"blocks.{i}.residual.bias": (C,),
            f"blocks.{i}.skip.weight": (C, C),
            f"blocks.{i}.skip.bias": (C,),
        }
    return out | {"head.0.weight": (C, C), "head.0.bias": (C,), "head.1.weight": (C, Q), "head.1.bias": (Q,)}


def write(problem, path, seed=0):
    """Weights and codes in one .npz that every peer reads, so that all of them start from the same numbers."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes(problem).items():
        scale = 0.1 if name.endswith("bias") else 0.3 if name.endswith("embedding") else 0.5 / np.sqrt(shape[-2])
        arrays[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    # A random walk over the classes: speech-like enough that the loss moves, and no two neighbours are unrelated.
    steps = rng.integers(-8, 9, (problem.batch, problem.window + 1)).cumsum(axis=1)
    arrays["codes"] = ((problem.classes // 2 + steps) % problem.classes).astype(np.uint8)
    np.savez(path, **arrays)
    return Path(path)


def read(path):
    """(parameters, codes) of a file that ``write`` made."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, arrays.pop("codes")
