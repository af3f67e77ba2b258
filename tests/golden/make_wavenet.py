"""Makes wavenet.npz: losses, logits and gradients of small WaveNets, computed by PyTorch in float64.

    python tests/golden/make_wavenet.py        (needs torch; nothing of wavedil is imported)

The network is written down here a second time, from the equations, with torch's own convolutions and its automatic
differentiation, so that the file is evidence and not an echo. Parameters and conditions are rounded to float32 first,
so a float32 model sees exactly the same numbers. Seeds are searched until every ReLU input keeps MARGIN away from zero:
nearer than rounding, two right programs may disagree about the sign.

Keys of the file: "CASE/config" (JSON), "CASE/codes", "CASE/weights", "CASE/condition", "CASE/speaker" (where given),
"CASE/params/NAME", "CASE/loss", "CASE/times" and "CASE/logits" (rows of the logits at those times),
"CASE/grads/NAME", "CASE/grad_condition".
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

MARGIN = 1e-4
PATH = Path(__file__).with_name("wavenet.npz")


def channels(R, D, S, E, Q):
    return dict(residual_channels=R, dilation_channels=D, skip_channels=S, end_channels=E, classes=Q)


# Name -> model configuration; batch; window; which inputs it has.
CASES = {
    "plain": (dict(dilations=[1, 2, 4, 8, 1, 2], kernel_size=2, **channels(8, 6, 10, 12, 256)), 2, 60, ()),
    "weights": (dict(dilations=[1, 3, 9, 2], kernel_size=3, **channels(5, 3, 7, 4, 32)), 3, 37, ("weights",)),
    "speaker": (
        dict(dilations=[1, 2, 4], kernel_size=2, speakers=3, condition_channels=4, **channels(6, 5, 9, 7, 32)),
        4,
        33,
        ("speaker", "weights"),
    ),
    "global": (
        dict(dilations=[1, 2, 4], kernel_size=2, condition_channels=3, **channels(4, 7, 5, 9, 16)),
        3,
        29,
        ("global",),
    ),
    "local": (
        dict(dilations=[1, 2, 4, 1], kernel_size=3, condition_channels=5, **channels(7, 4, 6, 8, 32)),
        2,
        41,
        ("local", "weights"),
    ),
    # Windows longer than any tile of time rows, over several of them, with dilations that reach across.
    "long": (dict(dilations=[1, 2, 4, 8, 16, 32, 64, 128], kernel_size=2, **channels(16, 16, 16, 16, 16)), 2, 701, ()),
    # A window shorter than most dilations.
    "short": (dict(dilations=[1, 2, 4, 8, 16], kernel_size=2, **channels(3, 2, 1, 3, 8)), 1, 5, ()),
    # Kernel 1: no history at all.
    "pointwise": (dict(dilations=[1, 1], kernel_size=1, **channels(4, 3, 2, 5, 8)), 2, 19, ()),
}


def parameter_shapes(config):
    R, D, S, E, Q = (
        config[k] for k in ("residual_channels", "dilation_channels", "skip_channels", "end_channels", "classes")
    )
    shapes = {"input.embedding": (Q, R)}
    if config.get("speakers"):
        shapes["speaker.embedding"] = (config["speakers"], config["condition_channels"])
    for i in range(len(config["dilations"])):
        shapes[f"blocks.{i}.conv.weight"] = (config["kernel_size"], R, 2 * D)
        shapes[f"blocks.{i}.conv.bias"] = (2 * D,)
        if config.get("condition_channels"):
            shapes[f"blocks.{i}.condition.weight"] = (config["condition_channels"], 2 * D)
        shapes[f"blocks.{i}.residual.weight"] = (D, R)
        shapes[f"blocks.{i}.residual.bias"] = (R,)
        shapes[f"blocks.{i}.skip.weight"] = (D, S)
        shapes[f"blocks.{i}.skip.bias"] = (S,)
    shapes |= {"head.0.weight": (S, E), "head.0.bias": (E,), "head.1.weight": (E, Q), "head.1.bias": (Q,)}
    return shapes


def random_parameters(shapes, rng):
    out = {}
    for name, shape in shapes.items():
        scale = 0.3 if name.endswith("bias") else 1.0 if name.endswith("embedding") else np.prod(shape[:-1]) ** -0.5
        out[name] = (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
    return out


def pointwise(x, weight, bias=None):
    """A 1x1 convolution of x (B, C, T) with weight (C, O)."""
    return F.conv1d(x, weight.t()[:, :, None], bias)


def logits_of(p, config, codes, condition):
    """Logits (B, T, Q) and the inputs of both ReLUs. condition is (B, Cc), (B, T, Cc) or None."""
    if condition is not None:
        condition = condition[:, :, None] if condition.ndim == 2 else condition.transpose(1, 2)
    h, s = p["input.embedding"][codes].transpose(1, 2), 0
    for i, dilation in enumerate(config["dilations"]):
        padded = F.pad(h, ((config["kernel_size"] - 1) * dilation, 0))
        weight = p[f"blocks.{i}.conv.weight"].permute(2, 1, 0)
        gate = F.conv1d(padded, weight, p[f"blocks.{i}.conv.bias"], dilation=dilation)
        if condition is not None:
            gate = gate + pointwise(condition, p[f"blocks.{i}.condition.weight"])
        a, g = gate.chunk(2, dim=1)
        z = torch.tanh(a) * torch.sigmoid(g)
        s = s + pointwise(z, p[f"blocks.{i}.skip.weight"], p[f"blocks.{i}.skip.bias"])
        h = h + pointwise(z, p[f"blocks.{i}.residual.weight"], p[f"blocks.{i}.residual.bias"])
    e = pointwise(F.relu(s), p["head.0.weight"], p["head.0.bias"])
    return pointwise(F.relu(e), p["head.1.weight"], p["head.1.bias"]).transpose(1, 2), (s, e)


def make(name, seed):
    """All arrays of one case; None where a ReLU input comes too near to zero."""
    config, batch, window, inputs = CASES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    values = random_parameters(parameter_shapes(config), rng)
    codes = rng.integers(0, config["classes"], (batch, window + 1))
    out = {"config": np.array(json.dumps(config)), "codes": codes.astype(np.uint8)}
    weights = np.ones((batch, window))
    if "weights" in inputs:  # a whole item half padded, single samples left out, others counted more or less
        weights = rng.choice([0.0, 0.5, 1.0, 2.0], (batch, window), p=[0.2, 0.2, 0.4, 0.2])
        weights[-1, window // 2 :] = 0.0
        out["weights"] = weights
    condition = None
    p = {k: torch.tensor(v, requires_grad=True) for k, v in values.items()}
    if "speaker" in inputs:
        out["speaker"] = rng.integers(0, config["speakers"], batch)
        condition = p["speaker.embedding"][torch.tensor(out["speaker"])]
    elif config.get("condition_channels"):
        shape = (batch, config["condition_channels"]) if "global" in inputs else (batch, window, -1)
        shape = tuple(config["condition_channels"] if n == -1 else n for n in shape)
        out["condition"] = rng.standard_normal(shape).astype(np.float32).astype(np.float64)
        condition = torch.tensor(out["condition"], requires_grad=True)

    logits, relu_inputs = logits_of(p, config, torch.tensor(codes[:, :-1]), condition)
    if min(v.abs().min().item() for v in relu_inputs) < MARGIN:
        return None
    nats = F.cross_entropy(logits.transpose(1, 2), torch.tensor(codes[:, 1:]), reduction="none")
    w = torch.tensor(weights)
    loss = (w * nats).sum() / w.sum()
    loss.backward()

    out["loss"] = np.array(loss.item())
    out["times"] = np.unique(np.r_[0, 1, np.linspace(0, window - 1, min(window, 40)).astype(int)])
    out["logits"] = logits.detach().numpy()[:, out["times"]]
    for k, v in p.items():  # the last block's residual reaches no output: torch gives None
        out[f"params/{k}"] = values[k]
        out[f"grads/{k}"] = np.zeros_like(values[k]) if v.grad is None else v.grad.numpy()
    if "condition" in out:
        out["grad_condition"] = condition.grad.numpy()
    return out


def main():
    torch.set_num_threads(1)
    arrays = {}
    for name in CASES:
        seed = 0
        while (case := make(name, seed)) is None:
            seed += 1
        print(f"{name}: seed {seed}, loss {case['loss']:.6f} nats")
        arrays |= {f"{name}/{k}": v for k, v in case.items()}
    np.savez_compressed(PATH, allow_pickle=False, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
