"""Makes conv2d.npz: outputs and gradients of dilated convolutions, computed by PyTorch in float64.

    python tests/golden/make_conv2d.py        (needs torch; nothing of wavedil is imported)

The arrays are wavedil's layouts: x and y are (B, H, W, C), w is (kh, kw, C // groups, N). Inputs are rounded to float32
first, so that a float32 kernel sees the same numbers. Keys of the file: "CASE/settings" (JSON: dilation, padding,
groups, as conv2d.forward takes them), "CASE/x", "w", "b", "dy", and what PyTorch makes of them: "y", "dx", "dw", "db".
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

PATH = Path(__file__).with_name("conv2d.npz")

# name: batch, height, width, channels in and out, kernel, dilation, padding, groups
CASES = {
    "same": (2, 7, 9, 3, 5, (3, 3), (2, 2), "same", 1),
    "same-even": (1, 6, 8, 4, 3, (2, 4), (3, 1), "same", 1),
    "causal": (2, 11, 5, 6, 4, (3, 3), (2, 1), "causal", 1),
    "valid": (1, 9, 8, 17, 6, (3, 2), (4, 3), "valid", 1),
    "pads": (2, 4, 6, 2, 18, (2, 3), (1, 2), [[3, 0], [1, 5]], 1),
    "groups": (1, 8, 6, 6, 9, (3, 3), (2, 2), "same", 3),
    "depthwise": (2, 6, 9, 20, 20, (3, 3), (1, 4), "causal", 20),
}


def zeros_around(padding, kernel, dilation):
    """((above, below), (left, right)), from the definition of each padding."""
    spans = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    halves = [(span // 2, span - span // 2) for span in spans]
    return {"same": halves, "causal": [(spans[0], 0), halves[1]], "valid": [(0, 0), (0, 0)]}[padding]


def main():
    rng, found = np.random.default_rng(7), {}
    for name, (batch, high, wide, inputs, outputs, kernel, dilation, padding, groups) in CASES.items():
        pads = zeros_around(padding, kernel, dilation) if isinstance(padding, str) else padding
        shapes = {"x": (batch, high, wide, inputs), "w": (*kernel, inputs // groups, outputs), "b": (outputs,)}
        arrays = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
        x, w, b = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays.values())
        padded = F.pad(x.permute(0, 3, 1, 2), (*pads[1], *pads[0]))
        y = F.conv2d(padded, w.permute(3, 2, 0, 1), b, dilation=dilation, groups=groups).permute(0, 2, 3, 1)
        dy = rng.standard_normal(tuple(y.shape)).astype(np.float32)
        y.backward(torch.tensor(dy, dtype=torch.float64))
        settings = {"dilation": list(dilation), "padding": padding, "groups": groups}
        results = {"y": y.detach(), "dx": x.grad, "dw": w.grad, "db": b.grad}
        found |= {f"{name}/settings": np.array(json.dumps(settings)), f"{name}/dy": dy}
        found |= {f"{name}/{key}": value for key, value in arrays.items()}
        found |= {f"{name}/{key}": value.numpy() for key, value in results.items()}
    np.savez_compressed(PATH, allow_pickle=False, **found)
    print(PATH, PATH.stat().st_size, "bytes, torch", torch.__version__)


if __name__ == "__main__":
    main()
