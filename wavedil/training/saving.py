"""Writing a trainer to its files and reading it back; what the files hold is told in `wavedil.training.checkpoint`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from wavedil.errors import CheckpointError, ConfigError, DivergedError, DTypeError, ShapeError
from wavedil.ops.contract import on_host
from wavedil.parameters import files
from wavedil.parameters.store import Parameters
from wavedil.training import checkpoint, optimizers, schedules
from wavedil.training.finetune import FineTune, Plan

SETTINGS = ("batch", "window", "seed", "clip", "ema", "accumulate", "validate_every", "patience")


class Saving:
    """What a `Trainer` does with files; the attributes are told in `wavedil.training.trainer`."""

    model: Any
    data: Any
    validation: Any
    optimizer: optimizers.Optimizer
    schedule: schedules.Schedule
    finetune: FineTune | None
    folder: Path | None
    moments: dict[str, Parameters]
    average: Parameters | None
    step: int
    best: float | None
    reproducible: bool
    _plan: Plan | None
    _rng: np.random.Generator
    _writer: Callable | None
    _stale: int
    _saved: int | None
    _unfinished: str | None

    def save_model(self, path: str | os.PathLike) -> None:
        """Write the model, with the averaged weights if there are any, to a file that `wavedil.load` reads.

        Raises
        ------
        CheckpointError
            It cannot be written; what was there before is untouched.
        DivergedError
            A weight is not finite; what was there before is untouched.
        """
        if self._unfinished != "averaged":
            self._check_finished("save_model")
        average = self.average
        if average is not None and self._plan is not None:
            average = self.model.params.copy()
            self._plan.write(average, self.average)
        self._check_finite(self.model.params if average is None else average)
        self.model.save(path, step=self.step, params=average)

    def save(self, path: str | os.PathLike) -> None:
        """Write all that `resume` needs.

        Parameters
        ----------
        path : path-like
            A name that ends in ``.safetensors`` is the trainer file itself. Any other is a folder, in which
            ``trainer.safetensors`` is written, and then ``model.safetensors``.

        Raises
        ------
        CheckpointError, DivergedError
            As in `save_model`.
        """
        self._check_finished("save")
        self._check_finite(self.model.params)
        file = checkpoint.trainer_file(path)
        groups = {"params": self.model.params, "buffers": self.model.buffers, **self.moments}
        if self.average is not None:
            groups["average"] = self.average
        if self._plan is not None:
            groups |= self._plan.state()
        checkpoint.write(file, groups, self._about(), self._writer)
        if file != Path(path):
            self.save_model(file.with_name(checkpoint.MODEL))

    def _save_folder(self):
        self.save(self.folder)
        self._saved = self.step

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike,
        data,
        *,
        validation=None,
        schedule: schedules.Schedule | None = None,
        patience: int | None = None,
        model=None,
        device: str = "cpu",
        threads: int | None = None,
        writer: Callable | None = None,
    ) -> Self:
        """Return a trainer that goes on where one was saved, bit for bit.

        Parameters
        ----------
        path : path-like
            What was given to `save`, or the `folder` of the trainer: a folder goes on being used as one.
        data, validation
            As they were; without `validation`, `data` is used for it if it was before.
        schedule, patience
            In place of the saved ones: to train longer than was planned.
        model : object, optional
            A model to load the weights into; without it one is built from the file.
        device : {"cpu", "cuda", "cuda:N", "auto"}
            Of the model that is built: not necessarily the one on which the run was saved. On the same one a run goes
            on bit for bit, on the other within rounding.
        threads, writer
            As in `Trainer`.

        Raises
        ------
        CheckpointError
            There is no trainer file, it is damaged or of another kind, or does not fit the model; or its optimizer or
            schedule is a class that nobody has registered.
        """
        file = checkpoint.trainer_file(path)
        groups, about = checkpoint.read(file)
        try:
            trainer = cls(**_arguments(about, model, data, validation, schedule, patience, device, threads, writer))
            trainer._load(groups, about)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: damaged or from another version: {error!r}") from error
        except (CheckpointError, ShapeError, DTypeError) as error:
            raise CheckpointError(f"{file}: {error}") from error
        if file != Path(path):
            trainer.folder, trainer._saved = Path(path), trainer.step
            trainer._sweep()
            trainer._rebuild_model_file()
        return trainer

    def _about(self):
        """Everything but arrays."""
        return {
            "class": type(self.model).__name__,
            "config": self.model.config.to_dict(),
            "dtype": str(self.model.params.dtype),
            "recompute": bool(getattr(self.model, "recompute", False)),
            "half_activations": bool(getattr(self.model, "half_activations", False)),
            "optimizer": self.optimizer.to_dict(),
            "schedule": self.schedule.to_dict(),
            "finetune": None if self.finetune is None else self.finetune.to_dict(),
            "settings": {name: getattr(self, name) for name in SETTINGS},
            "step": self.step,
            "best": self.best,
            "stale": self._stale,
            "reproducible": self.reproducible,
            "random": checkpoint.pack_random(self._rng),
            "data": self._data_state(),
            "validation": "data" if self.validation is self.data else None,
        }

    def _load(self, groups, about):
        self.model.params.load(groups["params"])
        if self._plan is not None:
            self._plan.load(self.model.params, groups)
        for name, moment in self.moments.items():
            moment.load(groups[name])
        if self.average is not None:
            self.average.load(groups["average"])
        saved = groups.get("buffers", {})
        if saved.keys() != self.model.buffers.keys():
            raise CheckpointError(f"expected buffers {sorted(self.model.buffers)}, got {sorted(saved)}")
        for name, buffer in self.model.buffers.items():
            new = saved[name]
            if buffer.shape != new.shape or buffer.dtype != new.dtype:
                raise CheckpointError(
                    f"buffer {name}: expected {buffer.shape} of {buffer.dtype}, got {new.shape} of {new.dtype}"
                )
            buffer[...] = new
        self.step, self.best, self._stale = about["step"], about["best"], about["stale"]
        self.reproducible = about["reproducible"]
        self._rewind((checkpoint.unpack_random(about["random"]).bit_generator.state, about["data"], {}))

    def _rebuild_model_file(self):
        """Write ``model.safetensors`` again if a kill came between the two files, or somebody removed it."""
        file = self.folder / checkpoint.MODEL
        try:
            if files.read(file, "model")[1].get("step") == self.step:
                return
        except CheckpointError:
            pass
        self.save_model(file)

    def _sweep(self):
        """Remove the half-written files that a kill may leave."""
        for name in (checkpoint.TRAINER, checkpoint.MODEL, checkpoint.METRICS):
            files.sweep(self.folder / name)

    def _position(self):
        """All that drawing a batch and computing its gradients changes."""
        buffers = {name: value.copy() for name, value in self.model.buffers.items()}
        return self._rng.bit_generator.state, self._data_state(), buffers

    def _rewind(self, position):
        self._rng.bit_generator.state, data, buffers = position
        for name, value in buffers.items():
            self.model.buffers[name][...] = value
        if data is not None and callable(getattr(self.data, "set_state", None)):
            self.data.set_state(data)

    def _data_state(self):
        return self.data.state() if callable(getattr(self.data, "state", None)) else None

    def _check_finite(self, params):
        for name, values in params.items():
            if not np.isfinite(on_host(values)).all():
                raise DivergedError(f"step {self.step}: expected finite weights, got others in {name}; not saved")

    def _check_finished(self, what):
        if self._unfinished == "averaged":
            raise ConfigError(f"Trainer.{what}: must not be called within averaged(): the model holds other weights")
        if self._unfinished == "update":
            raise CheckpointError(
                f"this trainer was interrupted in the middle of step {self.step + 1}: go on with Trainer.resume"
            )


def _arguments(about, model, data, validation, schedule, patience, device, threads, writer):
    """The arguments of a trainer that goes on: those in its file, and what is given in their place."""
    if model is None:
        model = _build_model(about, device, threads)
    elif type(model).__name__ != about["class"] or model.config.to_dict() != about["config"]:
        raise CheckpointError(f"expected a {about['class']} with config {about['config']}, got another model")
    if validation is None and about["validation"] == "data":
        validation = data
    settings = dict(about["settings"])
    settings["patience"] = settings["patience"] if patience is None else patience
    if validation is None:
        settings["patience"] = None
    return {
        **settings,
        "model": model,
        "data": data,
        "optimizer": _made(optimizers, about["optimizer"]),
        "schedule": _made(schedules, about["schedule"]) if schedule is None else schedule,
        "validation": validation,
        "finetune": None if about.get("finetune") is None else FineTune.from_dict(about["finetune"]),
        "threads": threads,
        "writer": writer,
    }


def _made(module, about):
    """The optimizer or schedule that a file describes."""
    try:
        return module.from_dict(about)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _build_model(about, device, threads):
    """A model of the class and config that a file names."""
    from wavedil import models

    options = {"dtype": about["dtype"], "device": device, "threads": threads}
    for name in ("recompute", "half_activations"):  # not every class has them
        if about.get(name):
            options[name] = True
    return models.build(about["class"], about["config"], **options)
