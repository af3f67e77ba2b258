"""Writes attention.npz: PyTorch's scaled dot-product attention through a causal window, in float64, with its gradient.

    python tests/golden/make_attention.py        (needs torch)
"""

from pathlib import Path

import numpy as np
import torch

HEADS, WINDOW = 2, 5
rng = np.random.default_rng(11)
x = rng.standard_normal((2, 12, 3 * HEADS * 3))
dy = rng.standard_normal((2, 12, HEADS * 3))

rows = torch.arange(x.shape[1])
mask = (rows[:, None] - WINDOW < rows[None]) & (rows[None] <= rows[:, None])
leaf = torch.tensor(x, requires_grad=True)
q, k, v = leaf.view(2, 12, 3, HEADS, 3).permute(2, 0, 3, 1, 4)
y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(dy.shape)
y.backward(torch.tensor(dy))
np.savez(
    Path(__file__).with_name("attention.npz"), x=x, dy=dy, y=y.detach().numpy(), dx=leaf.grad.numpy(), heads=HEADS,
    window=WINDOW, torch=torch.__version__,
)  # fmt: skip
