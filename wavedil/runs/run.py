"""A run: a folder with a trained model and what was asked for and measured.

``model.safetensors``    the weights, and the model's config in the metadata
``trainer.safetensors``  all that a resume needs
``metrics.jsonl``        losses, a line a step
``config.json``          the settings of the run, its speakers, the baselines of its data; after fine-tuning also
                         where it began and how it compares

`wavedil.Trainer` writes the first three, `Run` the last. A folder of the trainer alone is a run too, of which less is
known: see `Run.open`.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from wavedil import checks
from wavedil.errors import CheckpointError, ConfigError
from wavedil.parameters import files
from wavedil.runs import settings
from wavedil.training import checkpoint, read_metrics

CONFIG = "config.json"


@dataclass
class Run:
    """A run folder, open.

    Attributes
    ----------
    path : Path
    settings : Settings
    speakers : list of str
        Names of the speakers, in the order of their numbers; empty if the model tells no speakers apart.
    baselines : dict or None
        Bits per sample that simple predictors need for the validation clips: ``uniform, order0, order1, flac``.
    reproducible : bool
        False if a time limit was given: then the same seed may give another model.
    parent : dict or None
        Of a fine-tuned run, where it began: ``run`` (a path), ``step``, ``params_checksum`` and ``settings``.
    eval_old : str or None
        Folder with the old speaker, of which the run tells how much is forgotten.
    before, after : dict or None
        Bits per sample of the ``new`` and the ``old`` speaker, before and after fine-tuning; None where not measured.
    """

    path: Path
    settings: settings.Settings
    speakers: list
    baselines: dict | None = None
    reproducible: bool = True
    parent: dict | None = None
    eval_old: str | None = None
    before: dict | None = None
    after: dict | None = None

    @classmethod
    def create(cls, path, wanted, speakers=(), **more) -> "Run":
        """Begin a run: make the folder and write its ``config.json``.

        Parameters
        ----------
        path : path-like
        wanted : Settings
        speakers : sequence of str
        more
            Other attributes.

        Raises
        ------
        ConfigError
            The folder holds something already, or cannot be one.
        """
        check_new(path)
        run = cls(Path(path), wanted, list(speakers), **more)
        run.save()
        return run

    @classmethod
    def open(cls, path) -> "Run":
        """Open a run folder.

        Of a folder without ``config.json`` (one that `wavedil.Trainer` made) the files of the model and the trainer
        tell the settings; speakers are called by their numbers: ``"0"``, ``"1"``.

        Raises
        ------
        CheckpointError
            There is neither ``config.json`` nor ``model.safetensors``, or it is damaged.
        """
        path = Path(path)
        file = path / CONFIG
        try:
            about = json.loads(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, *_of_model(path))
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
        if not isinstance(about, dict) or not {"settings", "speakers", "baselines"} <= set(about):
            raise CheckpointError(f"{file} is not from wavedil: settings, speakers and baselines expected")
        wanted = settings.from_tables((str(file), about["settings"]))
        more = ("baselines", "reproducible", "parent", "eval_old", "before", "after")
        return cls(path, wanted, list(about["speakers"]), **{key: about[key] for key in more if key in about})

    @property
    def config(self) -> dict:
        """What ``config.json`` holds."""
        about = {"settings": self.settings.to_dict(), "speakers": self.speakers, "reproducible": self.reproducible,
                 "baselines": self.baselines}  # fmt: skip
        if self.parent is not None:
            about |= {"parent": self.parent, "eval_old": self.eval_old, "before": self.before}
            about |= {"after": self.after} if self.after else {}
        return about

    def save(self) -> None:
        """Write ``config.json``.

        Raises
        ------
        CheckpointError
            It cannot be written.
        """
        files.write_bytes(self.path / CONFIG, (json.dumps(self.config, indent=2) + "\n").encode())

    @property
    def kind(self) -> str:
        """Class of the model: ``"WaveNet"``, ``"TCN"`` or ``"ClipClassifier"``."""
        return files.read_metadata(self.path / checkpoint.MODEL, "model").get("class")

    def model(self, device: str = "cpu", **options):
        """The trained model; options as in `wavedil.load`.

        Raises
        ------
        CheckpointError
            There is none, or the file is damaged.
        """
        from wavedil import models

        return models.load(self.path / checkpoint.MODEL, device=device, **options)

    def speaker(self, name: str | None = None) -> int | None:
        """The number of a speaker by its name; without a name that of the run's own, None if it has no speakers.

        The own speaker is the one that fine-tuning taught, else the first.

        Raises
        ------
        ConfigError
            The run has no such speaker.
        """
        if not self.speakers:
            if name is not None:
                raise ConfigError(f"{self.path}: speaker {name!r}: this model has only one speaker")
            return None
        name = name or self.settings.data.speaker or self.speakers[0]
        return self.speakers.index(checks.one_of(self.path, "speaker", name, self.speakers))

    def metrics(self) -> list[dict]:
        """The rows of ``metrics.jsonl`` in order of steps; after a resume the later row of a step counts."""
        return read_metrics(self.path / checkpoint.METRICS)

    def losses(self) -> tuple[list, list]:
        """Training and validation losses as (step, bits) pairs; step 0 is the model that fine-tuning began with."""
        found = []
        rows = self.metrics()
        for key in ("loss", "validation"):
            found.append([(row["step"], row[key]) for row in rows if row.get(key) is not None])
        if self.before and self.before["new"] is not None:
            found[1].insert(0, (0, self.before["new"]))
        return tuple(found)


def check_new(path) -> None:
    """Say no before the long work begins.

    Raises
    ------
    ConfigError
        The folder of a new run holds something already, or cannot be a folder.
    """
    path = Path(path)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"cannot make the run folder {path}: {part} is not a folder")
    if path.exists() and any(path.iterdir()):
        resume = f"wavedil train --out {shlex.quote(str(path))} --resume"
        raise ConfigError(f"{path} is not empty: choose another folder, or go on with it: {resume}")


def _of_model(path):
    """Settings and speakers as the files of model and trainer tell them."""
    file = path / checkpoint.MODEL
    if not file.is_file():
        raise CheckpointError(f"{path} is not a run folder: there is no {path / CONFIG} and no {file}")
    config = dict(files.read_metadata(file, "model")["config"])
    speakers = [str(number) for number in range(config.pop("speakers", 0))]
    rate = config.pop("sample_rate", None) or config.get("trunk", {}).get("sample_rate")
    tables = {"model": config, "data": {"sample_rate": rate} if rate else {}}
    trainer = path / checkpoint.TRAINER
    if trainer.is_file():
        tables["train"] = _train_table(files.read_metadata(trainer, "trainer"))
    return settings.from_tables((str(path), tables)), speakers


def _train_table(about):
    """The table [train] of a trainer's file, as far as it can be told."""
    optimizer = about["optimizer"]
    table = {key: value or 0 for key, value in about["settings"].items()}  # None: 0 switches a limit off
    table |= {key: about[key] for key in ("recompute", "half_activations")} | {"steps": max(1, about["step"])}
    if optimizer["kind"].lower() in settings.optimizers():
        table |= {"optimizer": optimizer["kind"].lower(), "learning_rate": optimizer["lr"]}
        table |= {key: optimizer[key] for key in ("weight_decay", "momentum") if key in optimizer}
    known = settings.TrainSettings.__dataclass_fields__
    return {key: value for key, value in table.items() if key in known}
