"""Options that several commands have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wavedil.errors import ConfigError
from wavedil.kernels import storage
from wavedil.runs import settings

DEVICES = "cpu, cuda, cuda:N for a certain GPU, or auto: a GPU if there is one."

PresetName = StrEnum("PresetName", {name: name for name in settings.PRESETS})
StorageName = StrEnum("StorageName", {name: name for name in storage.KINDS})


def given(help: str, *names: str, **more):
    """An option that need not be given; its help says what happens without it."""
    return typer.Option(*names, help=help, show_default=False, **more)


Run = Annotated[Path, typer.Argument(help="Run folder of `wavedil train`.", show_default=False)]
Minutes = Annotated[float | None, given(
    "Stop after this time at the latest. The run then depends on the machine's speed.", min=0.0)]  # fmt: skip
Threads = Annotated[int | None, given(
    "CPU threads; the result does not depend on it. \\[default: all cores]", min=1)]  # fmt: skip
Device = Annotated[str, typer.Option(help=DEVICES)]
Speaker = Annotated[str | None, given("Speaker, for a model of several.")]
Storage = Annotated[StorageName | None, given(
    "Store the model's weights in fewer bytes, rounded: faster if they are large.")]  # fmt: skip


def audio_file(path: Path) -> Path:
    """The path itself, if audio can be written there: say no before the long work begins."""
    if path.suffix.lower() not in (".wav", ".flac"):
        raise ConfigError(f"--out must end in .wav or .flac, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: {path.parent} is not a folder")
    return path
