"""Begin a run, or go on with one: settings become a model, its data and a trainer."""

import dataclasses
import os
from dataclasses import dataclass

from wavedil.audio import Clips
from wavedil.errors import CheckpointError, ConfigError, DataError
from wavedil.models import WaveNet, WaveNetConfig
from wavedil.runs import data, settings
from wavedil.runs.run import CONFIG, Run, check_new
from wavedil.training import Trainer, optimizers, schedules


@dataclass
class Training:
    """A run whose training can go on: ``trainer.fit(steps_left)``.

    Attributes
    ----------
    run : Run
    trainer : Trainer
    clips : Clips
        What is learned from, and what is held out.
    total : int
        Steps that the run is to have in the end.
    old_clips : Clips or None
        Of the old speaker, if fine-tuning is to tell how much of it is forgotten.
    """

    run: Run
    trainer: Trainer
    clips: Clips
    total: int
    old_clips: Clips | None = None

    @property
    def steps_left(self) -> int:
        """Steps still to do; 0 if the run is done."""
        return max(0, self.total - self.trainer.step)


def start(
    path, wanted: settings.Settings, *, threads: int | None = None, device: str = "cpu", timed: bool = False
) -> Training:
    """Begin a new run.

    Parameters
    ----------
    path : path-like
        Folder of the run; it must be empty or not there.
    wanted : Settings
    threads : int, optional
        Of the CPU; the result does not depend on it.
    device : str
        As in `wavedil.ops.devices.resolve`.
    timed : bool
        A time limit will be given to ``fit``: the run is marked as not reproducible.

    Raises
    ------
    ConfigError, DataError
        Before anything is written.
    """
    check_new(path)
    model_config(wanted, 0)  # what is wrong with the settings should show before the data is read
    clips = data.clips(wanted.data)
    t = wanted.train
    model = WaveNet(model_config(wanted, len(clips.speakers)), seed=t.seed, recompute=t.recompute,
                    half_activations=t.half_activations, threads=threads, device=device)  # fmt: skip
    trainer = new_trainer(path, t, model, clips)
    run = Run.create(path, wanted, clips.speakers, baselines=data.baselines(clips), reproducible=not timed)
    return Training(run, trainer, clips, t.steps)


def resume(
    path, steps: int | None = None, *, threads: int | None = None, device: str = "cpu", timed: bool = False
) -> Training:
    """Go on with a run, bit for bit on the device that it was on.

    Parameters
    ----------
    path : path-like
        Folder of the run.
    steps : int, optional
        How many the run is to have in all; default: as was planned. A run that has more already is left as it is.
    threads, device, timed
        As in `start`.

    Raises
    ------
    CheckpointError
        There is no such run, or it is damaged.
    DataError
        The data is gone or has other speakers now.
    """
    run = Run.open(path)
    if not (run.path / CONFIG).is_file():
        raise CheckpointError(f"{run.path} has no {CONFIG} to tell what data it was trained on: go on with it in "
                              "Python, by wavedil.Trainer.resume")  # fmt: skip
    wanted = run.settings
    model_config(wanted, 0)
    clips = data.clips(wanted.data, run.speakers)
    if list(clips.speakers) != run.speakers:
        raise DataError(f"{run.path} was trained with the speakers {run.speakers}, the data now has "
                        f"{list(clips.speakers)}")  # fmt: skip
    options = {"validation": clips if clips.validation_clips() else None, "threads": threads, "device": device}
    trainer = Trainer.resume(run.path, clips, **options)
    total = steps or wanted.train.steps
    if total != wanted.train.steps and total > trainer.step:
        run.settings = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, steps=total))
        trainer.schedule = schedule(run.settings.train)
    run.reproducible &= not timed
    run.save()
    return Training(run, trainer, clips, total)


def model_config(wanted: settings.Settings, speakers: int) -> WaveNetConfig:
    """The model that settings describe, for so many speakers.

    Raises
    ------
    ConfigError
        A key of the table ``[model]`` is unknown or its value is not right.
    """
    try:
        return WaveNetConfig.from_dict({**wanted.model, "sample_rate": wanted.data.sample_rate, "speakers": speakers})
    except ConfigError as error:
        raise ConfigError(f"[model] {error}") from error


def new_trainer(path: os.PathLike, t: settings.TrainSettings, model: WaveNet, clips, recipe=None) -> Trainer:
    """A trainer as the table ``[train]`` says; ``recipe`` is a `wavedil.training.FineTune`, if any."""
    return Trainer(model, clips, optimizer=optimizer(t), batch=t.batch, window=t.window, seed=t.seed,
                   schedule=schedule(t), clip=t.clip or None, ema=t.ema or None, accumulate=t.accumulate,
                   validation=clips if clips.validation_clips() else None, validate_every=t.validate_every,
                   patience=t.patience or None, finetune=recipe, folder=path)  # fmt: skip


def optimizer(t: settings.TrainSettings) -> optimizers.Optimizer:
    """The optimizer that the table ``[train]`` says."""
    table = {"lr": t.learning_rate, "momentum": t.momentum, "weight_decay": t.weight_decay}
    return optimizers.registry.named(t.optimizer, table)


def schedule(t: settings.TrainSettings) -> schedules.Schedule:
    """The schedule of the learning rate that the table ``[train]`` says."""
    if t.schedule == "constant":
        return schedules.constant(warmup=t.warmup)
    final = {"final": t.final} if t.final else {}
    return getattr(schedules, t.schedule)(t.steps, warmup=t.warmup, **final)
