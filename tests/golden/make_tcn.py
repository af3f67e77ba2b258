"""Makes tcn.npz: batch norm, weight norm and small TCNs, computed by PyTorch in float64.

    python tests/golden/make_tcn.py        (needs torch; nothing of wavedil is imported)

The network is written down here a second time, with torch's own convolutions, weight norm, losses and automatic
differentiation. Inputs and parameters are rounded to float32 first. Seeds are searched until every ReLU input keeps
MARGIN away from zero: nearer than rounding, two right programs may disagree about the sign.

Keys: "batch_norm/NAME", "weight_norm/NAME", and for each TCN "CASE/config" (JSON), "CASE/x", "CASE/targets",
"CASE/weights", "CASE/params/NAME", "CASE/loss", "CASE/y", "CASE/grads/NAME".
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

MARGIN = 1e-4
PATH = Path(__file__).with_name("tcn.npz")
CASES = {
    "sequence": (dict(dilations=[1, 2, 4], channels=[6, 6, 9], kernel_size=3, inputs=2, outputs=2, loss="mse"), 2, 40),
    "last": (dict(dilations=[1, 2, 4, 8], channels=[5] * 4, kernel_size=3, inputs=3, outputs=1, loss="huber",
                  delta=0.5, head="last"), 4, 61),
    "codes": (dict(dilations=[1, 3], channels=[7, 7], kernel_size=2, inputs=5, outputs=11, classes=9,
                   loss="cross_entropy"), 3, 33),
    "binary": (dict(dilations=[2, 1], channels=[4, 8], kernel_size=4, inputs=1, outputs=3, loss="binary",
                    weight_norm=False, head="last"), 3, 20),
}  # fmt: skip


def rounded(value):
    return np.asarray(value).astype(np.float32).astype(np.float64)


def tensor(value):
    return torch.tensor(value, requires_grad=True)


def batch_norm(rng):
    """Two training batches, the gradients of the second, and then the running statistics at work."""
    out = {"x": rounded(3 * rng.standard_normal((2, 4, 7, 5)) + 1), "dy": rounded(rng.standard_normal((4, 7, 5)))}
    out |= {"scale": rounded(rng.uniform(0.5, 1.5, 5)), "shift": rounded(rng.standard_normal(5))}
    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    scale, shift = tensor(out["scale"]), tensor(out["shift"])
    for x in out["x"]:
        x = tensor(x)
        scale.grad = shift.grad = None
        y = F.batch_norm(x.transpose(1, 2), mean, var, scale, shift, training=True).transpose(1, 2)
        (y * torch.tensor(out["dy"])).sum().backward()
    out |= {"y": y, "dx": x.grad, "dscale": scale.grad.clone(), "dshift": shift.grad.clone(), "mean": mean, "var": var}
    x = tensor(out["x"][0])
    y = F.batch_norm(x.transpose(1, 2), mean, var, scale, shift, training=False).transpose(1, 2)
    (y * torch.tensor(out["dy"])).sum().backward()
    return out | {"y_fixed": y, "dx_fixed": x.grad}


def normed_conv(v, g):
    """torch's own weight-normed convolution with these (K, C, N) directions and (N,) lengths."""
    conv = weight_norm(torch.nn.Conv1d(v.shape[1], v.shape[2], v.shape[0], bias=False, dtype=torch.float64))
    with torch.no_grad():
        conv.parametrizations.weight.original1.copy_(torch.tensor(v).permute(2, 1, 0))
        conv.parametrizations.weight.original0.copy_(torch.tensor(g)[:, None, None])
    return conv


def weight_norm_case(rng):
    out = {"v": rounded(rng.standard_normal((3, 4, 5))), "g": rounded(rng.uniform(0.5, 2, 5))}
    out["dw"] = rounded(rng.standard_normal((3, 4, 5)))
    conv = normed_conv(out["v"], out["g"])
    w = conv.weight.permute(2, 1, 0)
    (w * torch.tensor(out["dw"])).sum().backward()
    parts = conv.parametrizations.weight
    return out | {"w": w, "dv": parts.original1.grad.permute(2, 1, 0), "dg": parts.original0.grad.flatten()}


def shapes(c):
    out, before = {}, c["inputs"]
    if c.get("classes"):
        out["input.embedding"] = (c["classes"], before)
    for i, after in enumerate(c["channels"]):
        for j, width in enumerate((before, after)):
            name = f"blocks.{i}.conv.{j}"
            if c.get("weight_norm", True):
                out[f"{name}.weight_v"] = (c["kernel_size"], width, after)
                out[f"{name}.weight_g"] = (after,)
            else:
                out[f"{name}.weight"] = (c["kernel_size"], width, after)
            out[f"{name}.bias"] = (after,)
        if before != after:
            out[f"blocks.{i}.shortcut.weight"], out[f"blocks.{i}.shortcut.bias"] = (before, after), (after,)
        before = after
    return out | {"head.weight": (before, c["outputs"]), "head.bias": (c["outputs"],)}


def predict(p, c, x):
    """Predictions (B, T, O), and the inputs of all ReLUs."""
    h, seen = p["input.embedding"][x] if c.get("classes") else x, []
    h = h.transpose(1, 2)
    for i, dilation in enumerate(c["dilations"]):
        y = h
        for j in range(2):
            name = f"blocks.{i}.conv.{j}"
            if c.get("weight_norm", True):
                v = p[f"{name}.weight_v"]
                w = torch._weight_norm(v.permute(2, 1, 0), p[f"{name}.weight_g"][:, None, None], 0)
            else:
                w = p[f"{name}.weight"].permute(2, 1, 0)
            y = F.conv1d(F.pad(y, ((c["kernel_size"] - 1) * dilation, 0)), w, p[f"{name}.bias"], dilation=dilation)
            seen.append(y)
            y = F.relu(y)
        if f"blocks.{i}.shortcut.weight" in p:
            h = F.conv1d(h, p[f"blocks.{i}.shortcut.weight"].t()[:, :, None], p[f"blocks.{i}.shortcut.bias"])
        seen.append(y + h)
        h = F.relu(y + h)
    return h.transpose(1, 2) @ p["head.weight"] + p["head.bias"], seen


def losses(c, y, targets):
    """Of each row; the mean over the outputs."""
    if c["loss"] == "cross_entropy":
        return F.cross_entropy(y.flatten(0, -2), targets.flatten(), reduction="none").reshape(targets.shape)
    kinds = {
        "mse": lambda: F.mse_loss(y, targets, reduction="none"),
        "huber": lambda: F.huber_loss(y, targets, reduction="none", delta=c.get("delta", 1.0)),
        "binary": lambda: F.binary_cross_entropy_with_logits(y, targets, reduction="none"),
    }
    return kinds[c["loss"]]().mean(-1)


def make(name, seed):
    """All arrays of one case; None where a ReLU input comes too near to zero."""
    c, batch, time = CASES[name]
    rng, last = np.random.default_rng([seed, *name.encode()]), c.get("head") == "last"
    values = {}
    for key, shape in shapes(c).items():
        scale = 0.3 if key.endswith("bias") else 1.0 if key.endswith("embedding") else np.prod(shape[:-1]) ** -0.5
        values[key] = rounded(scale * rng.standard_normal(shape))
        if key.endswith("weight_g"):
            values[key] = rounded(rng.uniform(0.7, 1.4, shape))
    x = rng.integers(0, c["classes"], (batch, time)) if c.get("classes") else rounded(
        rng.standard_normal((batch, time, c["inputs"])))  # fmt: skip
    rows = (batch,) if last else (batch, time)
    if c["loss"] == "cross_entropy":
        targets = rng.integers(0, c["outputs"], rows)
    else:
        targets = rounded(rng.uniform(0, 1, (*rows, c["outputs"])))
    weights = rng.choice([0.0, 0.5, 1.0, 2.0], rows, p=[0.1, 0.2, 0.5, 0.2])
    p = {key: tensor(value) for key, value in values.items()}
    y, seen = predict(p, c, torch.tensor(x))
    # Exact zeros, sums of what ReLUs have cut off, are zero in every program.
    if min(v[v != 0].abs().min().item() for v in seen) < MARGIN:
        return None
    y = y[:, -1] if last else y
    w = torch.tensor(weights)
    loss = (w * losses(c, y, torch.tensor(targets))).sum() / w.sum()
    loss.backward()
    out = {"config": np.array(json.dumps(c)), "x": x, "targets": targets, "weights": weights, "loss": loss, "y": y}
    out |= {f"params/{key}": value for key, value in values.items()}
    return out | {f"grads/{key}": value.grad for key, value in p.items()}


def main():
    torch.set_num_threads(1)
    rng, arrays = np.random.default_rng(0), {}
    groups = {"batch_norm": batch_norm(rng), "weight_norm": weight_norm_case(rng)}
    for name in CASES:
        seed = 0
        while (case := make(name, seed)) is None:
            seed += 1
        print(f"{name}: seed {seed}, loss {case['loss'].item():.6f}")
        groups[name] = case
    for group, values in groups.items():
        for key, value in values.items():
            arrays[f"{group}/{key}"] = value.detach().numpy() if isinstance(value, torch.Tensor) else value
    np.savez_compressed(PATH, allow_pickle=False, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
