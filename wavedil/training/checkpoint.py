"""What the trainer's files hold.

``trainer.safetensors`` alone resumes: tensors ``params/NAME``, ``average/NAME``, one group for each moment of the
optimizer, ``buffers/NAME``; settings, counters and random states in the metadata. ``model.safetensors`` (the averaged
weights if there are any) is derived from it: written second, and written again when it is behind.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wavedil.errors import CheckpointError
from wavedil.parameters import files

TRAINER = "trainer.safetensors"
MODEL = "model.safetensors"
METRICS = "metrics.jsonl"


def trainer_file(path: str | os.PathLike) -> Path:
    """Return the trainer file that `path` means: itself if it ends in ``.safetensors``, else the one in that folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / TRAINER


def write(path, groups: Mapping[str, Mapping[str, np.ndarray]], about: Mapping, writer=None) -> None:
    """Write a trainer file; `groups` become tensors ``GROUP/NAME``. See `wavedil.parameters.files.write`."""
    tensors = {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    files.write(path, tensors, {**about, "kind": "trainer"}, writer)


def read(path) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
    """Read a trainer file; the opposite of `write`. See `wavedil.parameters.files.read`."""
    tensors, about = files.read(path, "trainer")
    groups = {}
    for key, array in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = array
    return groups, about


def pack_random(rng: np.random.Generator) -> dict:
    """Return the state of a generator for JSON: whole numbers as strings, because they have up to 128 bits."""

    def pack(value):
        if isinstance(value, Mapping):
            return {name: pack(item) for name, item in value.items()}
        return str(value) if isinstance(value, int) else value

    return pack(rng.bit_generator.state)


def unpack_random(packed: Mapping) -> np.random.Generator:
    """Return a generator in the state that `pack_random` returned.

    Raises
    ------
    CheckpointError
        It is not the state of a PCG64 generator.
    """

    def unpack(value):
        if isinstance(value, Mapping):
            return {name: unpack(item) for name, item in value.items()}
        return value if value == "PCG64" else int(value)

    rng = np.random.Generator(np.random.PCG64(0))
    try:
        rng.bit_generator.state = unpack(packed)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(f"random state: expected that of a PCG64 generator, got {packed!r}") from error
    return rng
