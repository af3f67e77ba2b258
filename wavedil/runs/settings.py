"""The settings of a training run: presets, TOML files and command line options, checked and merged.

A run is described by three tables. `[model]` holds the keys of `WaveNetConfig` (its own module checks them); `[train]`
and `[data]` are the dataclasses below. A preset fills all three, a file overrides single keys, the command line
overrides the file. Fine-tuning takes a trained run in place of a preset and has a fourth table, `[finetune]`: the keys
of `wavedil.training.FineTune`, which checks them.
"""

import dataclasses
import os
import tomllib
from collections.abc import Mapping

from wavedil import checks
from wavedil.errors import ConfigError

BUNDLED = "bundled"  # the speech that comes with wavedil; bundled:it and bundled:ru are one speaker of it
SCHEDULES = ("cosine", "exponential", "constant")
MAY_BE_0 = "warmup", "patience", "seed"  # all other integers are at least 1
# All presets count steps, never minutes: the same seed gives the same model on the same type of machine.
PRESETS = {
    "tiny": {  # seconds: to see that everything works
        "model": {"dilations": [2**i for i in range(8)], "residual_channels": 16, "dilation_channels": 16,
                  "skip_channels": 16, "end_channels": 16},
        "train": {"steps": 200, "learning_rate": 6e-3, "validate_every": 50},
    },
    "small": {  # minutes: the default
        "model": {"dilations": [2**i for i in range(10)] * 2},
        "train": {"steps": 2500, "batch": 2, "learning_rate": 8e-3, "ema": 0.998, "validate_every": 250},
    },
    "base": {  # hours: for a folder with more speech
        "model": {"dilations": [2**i for i in range(10)] * 3, "residual_channels": 64, "dilation_channels": 64,
                  "skip_channels": 128, "end_channels": 128},
        "train": {"steps": 20000, "learning_rate": 2e-3, "warmup": 200, "validate_every": 500},
    },
}
DEFAULT_PRESET = "small"
FINETUNE_STEPS = 300  # under a minute for the preset small on two cores
FINETUNE_RATE = 0.25  # times the learning rate of the pretrained run
LORA_RATE = 1.0
SAMPLE_SECONDS = 4.0  # of what a run lets its model say
# Seen after a short training, 24 takes of two seconds: at 0.95 half of them fall silent after some tenths of a second.
SAMPLE_TEMPERATURE = 1.0


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The table `[train]`. Where a limit can be switched off, 0 does so."""

    steps: int = 1000
    batch: int = 4
    window: int = 4096  # samples
    optimizer: str = "adamw"  # adamw | adam | sgd
    learning_rate: float = 4e-3
    weight_decay: float = 0.01  # adamw
    momentum: float = 0.9  # sgd
    schedule: str = "cosine"  # cosine | exponential | constant
    warmup: int = 0  # steps of linear rise before the schedule
    final: float = 0.0  # learning rate at the last step, as a share of learning_rate; 0: cosine 0, exponential 0.01
    clip: float = 1.0  # largest global gradient norm; 0: unlimited
    ema: float = 0.0  # decay of the averaged weights; 0: none
    accumulate: int = 1  # batches per step
    validate_every: int = 100  # steps
    patience: int = 0  # validations without progress before an early stop; 0: never
    recompute: bool = False  # less memory, more time
    half_activations: bool = False  # on a GPU: activations in float16, half the memory
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The table `[data]`."""

    folder: str = ""  # empty: the bundled clips; bundled:NAME: one speaker of them
    sample_rate: int = 8000  # Hz
    validation: float = 0.1  # share of the clips that is held out (the bundled clips have a fixed list)
    speakers: bool = False  # each subfolder of `folder` is a speaker (the bundled clips always know their two)
    seed: int = 0  # of the split
    speaker: str = ""  # fine-tuning a model of several speakers: all clips are of this one


@dataclasses.dataclass(frozen=True)
class Settings:
    """All tables; `model` is a plain dict until the data says the sample rate and the number of speakers."""

    model: dict
    train: TrainSettings
    data: DataSettings
    finetune: dict  # empty: nothing special, all of the model trains

    def to_dict(self) -> dict:
        """Plain dicts, as `from_tables` takes them."""
        return dataclasses.asdict(self)


def from_tables(*layers: tuple[str, Mapping]) -> Settings:
    """Merge `(where it comes from, {"model": ..., "train": ..., "data": ...})` layers; later ones win.

    Raises
    ------
    ConfigError
        An unknown table or key, or a value of the wrong type or out of range; the message names the place.
    """
    merged = {"model": {}, "train": {}, "data": {}, "finetune": {}}
    kinds = {"train": TrainSettings, "data": DataSettings}
    for where, tables in layers:
        for name, table in tables.items():
            if name not in merged:
                raise checks.unknown_key(where, f"[{name}]", [f"[{known}]" for known in merged])
            if not isinstance(table, Mapping):
                raise ConfigError(f"{where}: {name} must be a table, got {table!r}")
            for key, value in table.items():
                if name in kinds:
                    value = _checked(f"{where}: [{name}]", kinds[name], key, value)
                elif key in ("sample_rate", "speakers"):
                    raise ConfigError(f"{where}: [model] {key} follows from the data: set it in [data]")
                merged[name][key] = value
    return Settings(
        merged["model"], TrainSettings(**merged["train"]), DataSettings(**merged["data"]), merged["finetune"]
    )


def finetune_tables(parent: Settings, lora: bool = False, steps: int = FINETUNE_STEPS) -> tuple[str, dict]:
    """The layer of `from_tables` that fine-tuning starts from: the trained run's own, but few and small steps."""
    rate = parent.train.learning_rate * (LORA_RATE if lora else FINETUNE_RATE)
    train = dataclasses.asdict(parent.train) | {
        "steps": steps, "validate_every": max(1, steps // 6), "schedule": "cosine", "warmup": min(10, steps // 10),
        "final": 0.0, "learning_rate": rate, "patience": 0, "seed": 0,
    }  # fmt: skip
    return "fine-tuning", {"model": parent.model, "train": train, "data": {"sample_rate": parent.data.sample_rate}}


def read_toml(path) -> tuple[str, dict]:
    """A layer for `from_tables` from a TOML file.

    Raises
    ------
    ConfigError
        The file cannot be read or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            return os.fspath(path), tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def preset(name: str) -> tuple[str, dict]:
    """A layer for `from_tables` from a preset's name."""
    return f"preset {name}", PRESETS[checks.one_of("settings", "preset", name, PRESETS)]


def collect(preset_name=None, config=None, folder=None, seed=None, steps=None) -> Settings:
    """The settings of a new run: a preset, over it a TOML file, over both the single settings that are given.

    Parameters
    ----------
    preset_name : str, optional
        A key of ``PRESETS``; default: ``DEFAULT_PRESET``.
    config : path-like, optional
        A TOML file.
    folder : path-like, optional
        With the audio; or ``"bundled:it"``, ``"bundled:ru"``.
    seed, steps : int, optional

    Raises
    ------
    ConfigError
        As `from_tables` and `read_toml`.
    """
    layers = [preset(preset_name or DEFAULT_PRESET)]
    if config:
        layers.append(read_toml(config))
    if folder:
        layers.append(("folder", {"data": {"folder": os.fspath(folder)}}))
    for key, value in (("seed", seed), ("steps", steps)):
        if value is not None:
            layers.append((key, {"train": {key: value}}))
    wanted = from_tables(*layers)
    return dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, folder=whole_path(wanted.data.folder)))


def whole_path(folder: str | os.PathLike) -> str:
    """An absolute path, because a resume may start in another folder; what is bundled has no path."""
    folder = os.fspath(folder)
    if folder == BUNDLED:
        return ""
    return os.path.abspath(folder) if folder and not folder.startswith(f"{BUNDLED}:") else folder


def optimizers() -> tuple[str, ...]:
    """Names of all optimizers that are registered."""
    from wavedil.training.optimizers import registry

    return tuple(name.lower() for name in registry.names)


def _checked(where, kind, key, value):
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if key not in fields:
        raise checks.unknown_key(where, key, fields)
    wanted = fields[key]
    if wanted is int:
        return checks.whole(where, key, value, least=0 if key in MAY_BE_0 else 1)
    if wanted is float:
        return checks.number(where, key, value)
    if key in ("optimizer", "schedule"):
        return checks.one_of(where, key, value, SCHEDULES if key == "schedule" else optimizers())
    if type(value) is not wanted:
        raise ConfigError(f"{where}: {key} must be of type {wanted.__name__}, got {value!r}")
    return value
