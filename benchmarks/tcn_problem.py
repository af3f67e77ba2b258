"""What is timed: the weights, data and cost of a TCN's training step. NumPy only: every peer imports it."""

import numpy as np

LEVELS, CHANNELS, KERNEL, TIME, BATCH = 8, 24, 8, 600, 32
LEARNING_RATE, CLIP = 2e-3, 0.05  # clipping low enough to be active


def write(path, head, seed=0):
    """Weights (by wavedil's names), inputs and targets."""
    rng, arrays, before = np.random.default_rng(seed), {}, 2
    for i in range(LEVELS):
        for j in range(2):
            shape = (KERNEL, before if j == 0 else CHANNELS, CHANNELS)
            v = (2 / (shape[0] * shape[1])) ** 0.5 * rng.standard_normal(shape) / (1 if j == 0 else LEVELS**0.5)
            name = f"params/blocks.{i}.conv.{j}"
            arrays[f"{name}.weight_v"], arrays[f"{name}.weight_g"] = v, np.sqrt((v * v).sum((0, 1)))
            arrays[f"{name}.bias"] = 0.1 * rng.standard_normal(CHANNELS)
        if before != CHANNELS:
            arrays[f"params/blocks.{i}.shortcut.weight"] = rng.standard_normal((before, CHANNELS)) / before**0.5
            arrays[f"params/blocks.{i}.shortcut.bias"] = np.zeros(CHANNELS)
        before = CHANNELS
    arrays["params/head.weight"] = rng.standard_normal((CHANNELS, 1)) / CHANNELS**0.5
    arrays["params/head.bias"] = np.zeros(1)
    arrays["x"] = rng.standard_normal((BATCH, TIME, 2))
    arrays["y"] = rng.standard_normal((BATCH, 1) if head == "last" else (BATCH, TIME, 1))
    np.savez(path, **{name: value.astype(np.float32) for name, value in arrays.items()})
    return path


def read(path):
    """(params, x, y)"""
    with np.load(path) as file:
        params = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
        return params, file["x"], file["y"]


def flops():
    """Multiplications and additions of all rows' products in one step."""
    pairs = KERNEL * CHANNELS * (2 * LEVELS - 1) * CHANNELS + KERNEL * 2 * CHANNELS
    return 3 * 2 * BATCH * TIME * pairs
