"""Causal dilated convolution networks for audio and sequences, on NumPy and Numba alone.

>>> import wavedil as wd
>>> model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4, 8]))
>>> model.receptive_field
16

Names load when they are first used, so that ``import wavedil`` itself is quick.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "wavedil.models": (
        "WaveNet", "WaveNetConfig", "TCN", "TCNConfig", "ClipClassifier", "ClipClassifierConfig", "Vocoder", "load",
    ),  # fmt: skip
    "wavedil.training": ("Trainer", "AdamW", "Adam", "SGD", "FineTune", "LoRA"),
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    "audio", "errors", "evaluation", "kernels", "layers", "models", "ops", "parameters", "receptive", "report", "runs",
    "streaming", "training",
)  # fmt: skip

__all__ = ["__version__", *_NAMES, *_MODULES, "schedules"]


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"wavedil.{name}")
    if name == "schedules":
        return importlib.import_module("wavedil.training.schedules")
    raise AttributeError(f"module 'wavedil' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
