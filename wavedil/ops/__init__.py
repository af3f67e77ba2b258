"""Operations: one folder per family, where contract, reference, kernels and cases stand side by side.

A family's package is the contract (equation, shapes, ``forward``, ``backward``, ``step``); `reference`, `cpu` and
`cuda` in it are the backends, `cases` holds what every test and benchmark runs on. Families load when first named.
"""

import importlib

FAMILIES = (
    "conv1d", "conv2d", "separable", "gated_block", "gated_stack", "tcn_stack", "embedding", "cross_entropy", "loss",
    "activation", "norm", "dropout", "upsample", "pooling", "window_pooling", "attention", "update",
)  # fmt: skip


def __getattr__(name):
    if name in FAMILIES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *FAMILIES])
