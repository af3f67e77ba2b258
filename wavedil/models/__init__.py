"""Whole networks: a frozen config, parameters in one flat buffer, and three ways to run it.

Files name a model by its class; `load` finds it here.
"""

from wavedil.errors import CheckpointError
from wavedil.models.clip_classifier import ClipClassifier, ClipClassifierConfig
from wavedil.models.tcn import TCN, TCNConfig
from wavedil.models.vocoder import Vocoder
from wavedil.models.wavenet import WaveNet, WaveNetConfig
from wavedil.parameters import files

MODELS = {model.__name__: model for model in (WaveNet, TCN, ClipClassifier)}


def build(name, config, **options):
    """A model with initial weights, from its class's name and its config as a dict.

    Raises
    ------
    CheckpointError
        If there is no such class.
    """
    model = _named(name)
    return model(model.Config.from_dict(config), **options)


def _named(name):
    if name not in MODELS:
        raise CheckpointError(f"model class must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name]


def load(path, **options):
    """The model that a file holds, of whichever class.

    Parameters
    ----------
    path : path-like
        Written by a model's ``save``.
    options
        ``threads``, ``recompute``, ``half_activations``, ``device``: what does not live in the file.

    Raises
    ------
    CheckpointError
        If it is no such file, or damaged.
    """
    tensors, about = files.read(path, "model")
    return _named(about.get("class")).from_file(tensors, about, path, **options)


__all__ = [
    "MODELS",
    "TCN",
    "ClipClassifier",
    "ClipClassifierConfig",
    "TCNConfig",
    "Vocoder",
    "WaveNet",
    "WaveNetConfig",
    "build",
    "load",
]
