"""Whole networks: a frozen config, parameters in one flat buffer, and three ways to run it.

Files name a model by its class; `load` finds it here.
"""

from wavedil.errors import CheckpointError
from wavedil.layers import files
from wavedil.models.wavenet import WaveNet, WaveNetConfig

MODELS = {model.__name__: model for model in (WaveNet,)}


def build(name, config, **options):
    """A model with initial weights, from its class's name and its config as a dict.

    Raises
    ------
    CheckpointError
        If there is no such class.
    """
    if name not in MODELS:
        raise CheckpointError(f"model class must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name](MODELS[name].Config.from_dict(config), **options)


def load(path, **options):
    """The model that a file holds, of whichever class.

    Parameters
    ----------
    path : path-like
        Written by a model's ``save``.
    options
        ``threads``, ``recompute``, ``device``: what does not live in the file.

    Raises
    ------
    CheckpointError
        If it is no such file, or damaged.
    """
    tensors, about = files.read(path, "model")
    model = build(about.get("class"), about.get("config"), dtype=about.get("dtype", "float32"), **options)
    model.adopt(tensors, about, path)
    return model


__all__ = ["MODELS", "WaveNet", "WaveNetConfig", "build", "load"]
