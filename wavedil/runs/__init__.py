"""Runs: train and fine-tune a model into a folder, open it again, look at it, let it make sound.

What the command line does, as a library; it prints nothing, and tells its progress to functions that it is given.

>>> from wavedil import runs
>>> wanted = runs.settings.collect("tiny", folder="bundled:it", steps=100)
>>> training = runs.train.start("runs/it", wanted)  # doctest: +SKIP
>>> training.trainer.fit(100)                       # doctest: +SKIP
>>> run = runs.Run.open("runs/it")                  # doctest: +SKIP
>>> sound = runs.sample.generate(run, seconds=4)    # doctest: +SKIP

run       `Run`, a folder with a model and what is known of it
settings  presets, TOML files, and how they are merged
data      the clips that settings name
train     begin a run or go on with one
finetune  adapt a run to another speaker; before and after
sample    sound, and the pictures of a run
summary   layers, arithmetic and memory of a model; what a loss means, in words
"""

import importlib

__all__ = ["Run", "data", "finetune", "run", "sample", "settings", "summary", "train"]


def __getattr__(name):
    if name == "Run":
        return importlib.import_module("wavedil.runs.run").Run
    if name in __all__:
        return importlib.import_module(f"wavedil.runs.{name}")
    raise AttributeError(f"module 'wavedil.runs' has no attribute {name!r}")
