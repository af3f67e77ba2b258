"""The trainer: draws batches, takes steps, validates, and keeps checkpoints that resume bit for bit."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np

from wavedil.errors import CheckpointError, ConfigError, DivergedError, DTypeError, ShapeError
from wavedil.ops import update
from wavedil.ops.contract import on_host
from wavedil.parameters import files
from wavedil.parameters.store import Parameters
from wavedil.training import checkpoint, optimizers, schedules, sources
from wavedil.training.finetune import FineTune, Group, Part, Plan

_BITS = 1 / math.log(2)  # bits in a nat


@dataclass(frozen=True)
class Progress:
    """What ``on_step`` is told after each step.

    Attributes
    ----------
    step : int
        Steps done since the training began, this one included.
    steps : int or None
        What `step` will be at the end; None if only time limits it.
    loss_bits : float
        Training loss of this step's batch, bits per sample. (A loss that is not in nats, such as a square, as it is;
        likewise below.)
    validation_bits : float or None
        Loss over the whole validation clips, if it was measured after this step.
    samples_per_second : float
        Predicted samples per second of training (those in padding count too), mean over the latest steps.
    x_realtime : float or None
        The same in seconds of sound per second; None if nobody knows the sample rate.
    seconds_left : float
        Estimate for the rest, validation included.
    learning_rate : float
    gradient_norm : float
        Before clipping.
    """

    step: int
    steps: int | None
    loss_bits: float
    validation_bits: float | None
    samples_per_second: float
    x_realtime: float | None
    seconds_left: float
    learning_rate: float
    gradient_norm: float


class Trainer:
    """Trains a model on random windows of data.

    Parameters
    ----------
    model : WaveNet
        Or any object with `params`, `buffers`, `config`, ``loss_and_grads(*batch, into=grads)``, ``loss(codes)`` and
        ``save(path, step=, params=)``. If ``loss_and_grads`` takes ``needs=``, it is told the names of the parameters
        whose gradients fine-tuning needs.
    data : object
        ``data.batch(rng, batch, window)`` returns the arguments of ``model.loss_and_grads``: positional arrays, and the
        keyword arguments as a dict at the end, if any. If it has ``state()`` (what JSON can hold, a fresh value each
        time) and ``set_state(state)``, they are used to resume. Or a tuple of arrays, or an iterator of batches: see
        `wavedil.training.sources`.
    optimizer : SGD, Adam or AdamW, default ``AdamW(2e-3)``
    batch, window : int
        Number of windows in a batch, and predicted samples in a window.
    seed : int
        Of the random windows.
    schedule : Schedule, optional
        Factor on the learning rate; see `wavedil.training.schedules`.
    clip : float or None, default 1.0
        Largest global gradient norm.
    ema : float, optional
        Decay of a moving average of the weights, in (0, 1). The average is what is validated and what
        ``model.safetensors`` holds. At step t the decay is ``min(ema, (1 + t) / (10 + t))``, so that the initial
        weights are soon forgotten.
    accumulate : int, default 1
        Batches for each step; the gradient is that of the mean loss over all their weighted samples.
    validation : object, optional
        ``validation.validation_clips()`` returns (name, codes, speaker or None) of each clip. Or
        ``validation.validation_batches(batch, window)`` yields the arguments of ``model.loss`` and how much they count.
    validate_every : int, default 100
        Steps between two validations, and between two checkpoints.
    patience : int, optional
        Stop after so many validations in a row without a new best one.
    finetune : FineTune, optional
        What of the model trains, how fast and in which form; default: everything, alike.
    folder : path-like, optional
        Where ``trainer.safetensors``, ``model.safetensors`` and ``metrics.jsonl`` are kept during `fit`.
    threads : int, optional
        For the update of the weights; default: those of the model.
    writer : callable, optional
        ``writer(file, data)`` writes the bytes of ``trainer.safetensors``; for tests.

    Attributes
    ----------
    model : WaveNet
    step : int
        Steps done.
    weights : Parameters
        What the optimizer works on: the model's parameters, or with `finetune` those values that train.
    average : Parameters or None
        Moving average of `weights`.
    adapters : Adapters or None
        The low-rank adapters of `finetune`. The model has them merged in; ``adapters.unmerge(model.params)`` gives back
        the weights from before.
    best : float or None
        Best validation loss so far, bits per sample.
    reproducible : bool
        False once a time limit has ended a call of `fit`.

    Raises
    ------
    ConfigError
        An argument has the wrong type or an impossible value.
    CheckpointError
        `folder` already holds another run.
    """

    def __init__(
        self,
        model,
        data,
        *,
        optimizer: optimizers.Optimizer | None = None,
        batch: int = 4,
        window: int = 4096,
        seed: int = 0,
        schedule: schedules.Schedule | None = None,
        clip: float | None = 1.0,
        ema: float | None = None,
        accumulate: int = 1,
        validation=None,
        validate_every: int = 100,
        patience: int | None = None,
        finetune: FineTune | None = None,
        folder: str | os.PathLike | None = None,
        threads: int | None = None,
        writer: Callable | None = None,
    ):
        self.model = model
        self.data = sources.source(data)
        validation = self.data if validation is data else sources.source(validation)
        self.optimizer = optimizers.AdamW(2e-3) if optimizer is None else optimizer
        self.schedule = schedules.constant() if schedule is None else schedule
        self.batch, self.window, self.accumulate, self.seed = batch, window, accumulate, seed
        self.clip, self.ema = clip, ema
        self.validation, self.validate_every, self.patience = validation, validate_every, patience
        self.finetune = finetune
        self.folder = None if folder is None else Path(folder)
        self.threads = getattr(model, "threads", None) if threads is None else threads
        self._writer = writer
        self._check()

        self.step = 0
        self.best = None
        self.reproducible = True
        self._stale = 0  # validations since the best one
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._grads = model.params.like()
        self._partial = model.params.like() if accumulate > 1 else None
        self._arguments = signature(model.loss_and_grads)
        if finetune is None:
            self._plan, self.adapters = None, None
            self.weights, self._dweights = model.params, self._grads
            self._everything = Group(tuple(model.params), slice(None), self.optimizer, 1.0, 0)
        else:
            self._plan = Plan(model.params, finetune, self.optimizer, seed)
            self.adapters = self._plan.adapters
            self.weights, self._dweights = self._plan.values, self._plan.grads
        self.moments = {name: self.weights.like() for name in self.optimizer.moments}
        self.average = None if ema is None else self.weights.copy()
        self._bits = _BITS if getattr(model, "nats", True) else 1.0  # what a loss is multiplied with for people
        self._whole = True  # False while an update is under way
        self._saved = None  # step of the latest checkpoint in the folder

        if self.folder is not None:
            if (self.folder / checkpoint.TRAINER).exists():
                raise CheckpointError(
                    f"{self.folder}: holds a run already; go on with Trainer.resume, or choose another folder"
                )
            self._sweep()

    # -- the door ------------------------------------------------------------------------------------------------------

    def _check(self):
        for name, value, least in (
            ("batch", self.batch, 1),
            ("window", self.window, 1),
            ("accumulate", self.accumulate, 1),
            ("validate_every", self.validate_every, 1),
            ("seed", self.seed, 0),
        ):
            _whole(name, value, least)
        if self.patience is not None:
            _whole("patience", self.patience, 1)
            if self.validation is None:
                raise ConfigError("Trainer: patience needs validation, got validation=None")
        if not isinstance(self.optimizer, optimizers.Optimizer):
            raise ConfigError(f"Trainer: optimizer must be SGD, Adam or AdamW, got {self.optimizer!r}")
        if self.finetune is not None and not isinstance(self.finetune, FineTune):
            raise ConfigError(f"Trainer: finetune must be a FineTune or None, got {self.finetune!r}")
        if not isinstance(self.schedule, schedules.Schedule):
            raise ConfigError(f"Trainer: schedule must come from wavedil.training.schedules, got {self.schedule!r}")
        for name, value, limit in (("clip", self.clip, math.inf), ("ema", self.ema, 1)):
            if value is not None and (not _is_number(value) or not 0 < value < limit):
                raise ConfigError(f"Trainer: {name} must be None or in (0, {limit}), got {value!r}")
        if not isinstance(getattr(self.model, "params", None), Parameters):
            raise ConfigError(f"Trainer: model must have Parameters as .params, got {type(self.model).__name__}")
        if not callable(getattr(self.data, "batch", None)):
            raise ConfigError(f"Trainer: data must have batch(rng, batch, window), got {type(self.data).__name__}")
        if self.validation is not None:
            batches, clips = (getattr(self.validation, f"validation_{name}", None) for name in ("batches", "clips"))
            if not callable(batches) and not callable(clips):
                kind = type(self.validation).__name__
                wanted = "validation_clips() or validation_batches()"
                raise ConfigError(f"Trainer: validation must have {wanted}, got {kind}")
            if callable(clips) and not any(len(codes) for _, codes, _ in self.validation.validation_clips()):
                raise ConfigError("Trainer: validation must hold at least one sample, got none; pass validation=None")
        rates = [getattr(self.data, "sample_rate", None), getattr(self.model.config, "sample_rate", None)]
        if None not in rates and rates[0] != rates[1]:
            raise ConfigError(f"Trainer: the model is for {rates[1]} Hz, the data has {rates[0]} Hz")

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        steps: int | None = None,
        minutes: float | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> str:
        """Take `steps` more steps.

        Parameters
        ----------
        steps : int, optional
            How many more.
        minutes : float, optional
            Stop when this time is over, which makes the run depend on the machine's speed.
        on_step : callable, optional
            Called with `Progress` after each step, when all is saved that is to be saved.

        Returns
        -------
        {"steps", "minutes", "patience"}
            What ended it.

        Raises
        ------
        DivergedError
            Loss or gradient is not finite. The weights are those of before that step, and nothing is saved.
        CheckpointError
            The folder cannot be written.
        KeyboardInterrupt
            Ctrl-C. The step under way was finished and all was saved; a second Ctrl-C does not wait for that.
        """
        if steps is None and minutes is None:
            raise ConfigError("Trainer.fit: steps or minutes must be given, got neither")
        if steps is not None:
            _whole("steps", steps, 1)
        if minutes is not None and (not _is_number(minutes) or not 0 < minutes < math.inf):
            raise ConfigError(f"Trainer.fit: minutes must be above 0, got {minutes!r}")
        self._check_whole()

        begin = time.perf_counter()
        last = None if steps is None else self.step + steps
        clock = _Clock(self, last, None if minutes is None else begin + 60 * minutes)
        with contextlib.ExitStack() as stack:
            interrupt = stack.enter_context(_Interrupt())
            metrics = None
            if self.folder is not None:
                if self._saved != self.step:
                    self._save_folder()  # also shows at once whether the folder can be written
                metrics = stack.enter_context(_Metrics(self.folder / checkpoint.METRICS, self.step))
            try:
                while True:
                    clock.start()
                    loss, norm, rate = self._take_step()
                    clock.stop()
                    reason = None
                    if self.step == last:
                        reason = "steps"
                    elif clock.over():
                        reason = "minutes"
                        self.reproducible = False
                    due = self.step % self.validate_every == 0
                    bits = None
                    if self.validation is not None and (due or reason):
                        bits = clock.measure(self.validate)
                        # A validation that is due only because fit ends here must not change a longer run's course.
                        if due and self._is_stale(bits):
                            reason = reason or "patience"
                    progress = clock.progress(loss * self._bits, bits, rate, norm)
                    if metrics is not None:
                        metrics.add(progress)
                        if due or reason:
                            self._save_folder()
                    if on_step is not None:
                        on_step(progress)
                    if interrupt.asked:
                        raise KeyboardInterrupt
                    if reason:
                        return reason
            except KeyboardInterrupt:
                if self.folder is not None and self._whole and self._saved != self.step:
                    self._save_folder()
                raise

    def _take_step(self):
        """One step of the optimizer; returns loss in nats, gradient norm and learning rate."""
        before = self._random_state()
        try:
            loss, norm, share = self._gradients()
            if not math.isfinite(loss) or not self._fits(norm):
                raise self._diverged(loss, norm)
        except BaseException:
            # This step has not happened: whoever goes on, or saves, draws the same batch again.
            self._set_random_state(before)
            raise
        rate = self.optimizer.lr * self.schedule(self.step)
        step = self.step + 1
        decay = 0.0 if self.ema is None else min(self.ema, (1 + step) / (10 + step))
        scale = update.clip_scale(norm, self.clip) / share
        self._whole = False
        for group in [self._everything] if self._plan is None else self._plan.active(self.step):
            self._update(group, step - group.after, rate * group.lr_scale, scale, decay)
        if self._plan is not None:
            self._plan.write(self.model.params)
        self.step = step
        self._whole = True
        return loss, norm, rate

    def _update(self, group, step, rate, scale, decay):
        """Step number `step` of a group of weights."""
        if self._plan is not None and self._plan.start is not None:
            self._plan.pull(group, min(1.0, rate * self.finetune.l2_start))
        group.optimizer.update(
            Part(self.weights.flat[group.part]),
            Part(self._dweights.flat[group.part]),
            {name: Part(moment.flat[group.part]) for name, moment in self.moments.items()},
            step=step,
            lr=rate,
            scale=scale,
            average=None if self.average is None else self.average.flat[group.part],
            decay=decay,
            threads=self.threads,
        )

    def _gradients(self):
        """Fill the gradients with a sum over batches; returns mean loss, norm of the mean gradient, and its divisor."""
        self._grads.flat.fill(0)
        needs = {}
        if self._plan is not None and "needs" in self._arguments.parameters:
            needs = {"needs": self._plan.needs(self.step)}
        share = 1.0
        if self.accumulate == 1:
            positional, keywords = self._draw()
            loss, _ = self.model.loss_and_grads(*positional, **keywords, **needs, into=self._grads)
            loss = float(loss)
        else:
            total = share = 0.0
            for _ in range(self.accumulate):
                positional, keywords = self._draw()
                self._partial.flat.fill(0)
                loss, _ = self.model.loss_and_grads(*positional, **keywords, **needs, into=self._partial)
                # The model's loss is a mean over its batch; batches count as much as the weights in them.
                weights = self._arguments.bind(*positional, **keywords).arguments.get("weights")
                part = 1.0 if weights is None else float(np.mean(weights, dtype=np.float64))
                total += part * float(loss)
                share += part
                self._partial.flat *= self._partial.dtype.type(part)
                self._grads.flat += self._partial.flat
            loss = total / share
        if self._plan is not None:
            self._plan.collect(self._grads, self.step)
        return loss, update.global_norm(self._dweights.flat, threads=self.threads) / share, share

    def _draw(self):
        batch = tuple(self.data.batch(self._rng, self.batch, self.window))
        return (batch[:-1], batch[-1]) if batch and isinstance(batch[-1], dict) else (batch, {})

    def _fits(self, norm):
        """Whether a gradient's norm is finite, and its square too (Adam's second moment)."""
        return norm * norm <= float(np.finfo(self._grads.dtype).max)

    def _diverged(self, loss, norm):
        sizes = {name: float(np.max(np.abs(on_host(g)))) for name, g in self._grads.items()}
        name = max(sizes, key=lambda name: math.inf if math.isnan(sizes[name]) else sizes[name])
        unit = " bits" if self._bits != 1 else ""
        return DivergedError(
            f"step {self.step + 1}: expected a finite loss and gradient, got loss {loss * self._bits:.4g}{unit}, "
            f"gradient norm {norm:.4g}, largest gradient {sizes[name]:.4g} in {name}; the weights are those of step "
            f"{self.step}, {self._kept()}. A lower learning rate, clip=1.0 or a warm-up may help"
        )

    def _kept(self):
        if self._saved is None:
            return "nothing was saved"
        return f"the checkpoint of step {self._saved} in {self.folder} is kept"

    # -- validation ----------------------------------------------------------------------------------------------------

    def validate(self, validation=None) -> float:
        """Return the loss over whole validation clips in bits per sample, with the averaged weights if there are any.

        Each clip is scored from silence on, so that each of its samples is predicted once, with all of its past; the
        mean is over all samples of all clips. If the clips come as ``validation_batches``, these say what they count
        (those of a classifier: clips).

        Parameters
        ----------
        validation : object, optional
            Other clips than those of the trainer, such as a voice that should not be forgotten.
        """
        validation = self.validation if validation is None else validation
        if validation is None:
            raise ConfigError("Trainer.validate: needs validation clips, got validation=None")
        total = count = 0
        with self._averaged_weights():
            for arguments, keywords, amount in self._validation_batches(validation):
                total += float(self.model.loss(*arguments, **keywords)) * amount
                count += amount
        bits = float(total / count) * self._bits
        if not math.isfinite(bits):
            raise DivergedError(f"step {self.step}: expected a finite validation loss, got {bits}; {self._kept()}")
        return bits

    def _validation_batches(self, validation):
        """Arguments of the loss, keywords, and what they count: the data's own batches, if it has such.

        Else clips of similar length together, padded at the end with weight 0, in batches that use all threads.
        """
        if callable(getattr(validation, "validation_batches", None)):
            for arguments, amount in validation.validation_batches(self.batch, self.window):
                yield arguments, {}, amount
            return
        clips = [clip for clip in validation.validation_clips() if len(clip[1])]
        clips.sort(key=lambda clip: len(clip[1]))
        silence = self.model.config.classes // 2  # 128 for mu-law
        limit = 8 * self.batch * self.window  # samples, unless a single clip is longer
        while clips:
            longest = len(clips[-1][1])
            size = min(len(clips), max(1, limit // longest), self.batch)
            group = clips[-size:]
            del clips[-size:]
            codes = np.full((size, longest + 1), silence, dtype=group[-1][1].dtype)
            weights = np.zeros((size, longest), dtype=np.float32)
            for row, (_, clip, _) in enumerate(group):
                codes[row, 1 : len(clip) + 1] = clip
                weights[row, : len(clip)] = 1
            keywords = {}
            if group[0][2] is not None:
                keywords["speaker"] = np.array([speaker for _, _, speaker in group], dtype=np.int64)
            yield (codes, weights), keywords, np.count_nonzero(weights)

    @contextlib.contextmanager
    def _averaged_weights(self):
        """The average as the model's weights, for a while."""
        if self.average is None:
            yield
            return
        raw = self.model.params.flat.copy()
        self._whole = False
        try:
            if self._plan is None:
                self.model.params.flat[:] = self.average.flat
            else:
                self._plan.write(self.model.params, self.average)
            yield
        finally:
            self.model.params.flat[:] = raw
            self._whole = True

    def _is_stale(self, bits):
        """Note a validation; whether it is time to give up."""
        if self.best is None or bits < self.best:
            self.best, self._stale = bits, 0
        else:
            self._stale += 1
        return self.patience is not None and self._stale >= self.patience

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write all that `resume` needs.

        Parameters
        ----------
        path : path-like
            A name that ends in ``.safetensors`` is the trainer file itself. Any other is a folder, in which
            ``trainer.safetensors`` is written, and then ``model.safetensors``.

        Raises
        ------
        CheckpointError
            It cannot be written; what was there before is untouched.
        DivergedError
            A weight is not finite; what was there before is untouched.
        """
        self._check_whole()
        for name, values in self.model.params.items():
            if not np.isfinite(on_host(values)).all():
                raise DivergedError(f"step {self.step}: expected finite weights, got others in {name}; not saved")
        file = checkpoint.trainer_file(path)
        groups = {"params": self.model.params, "buffers": self.model.buffers, **self.moments}
        if self.average is not None:
            groups["average"] = self.average
        if self._plan is not None:
            groups |= self._plan.state()
        checkpoint.write(file, groups, self._about(), self._writer)
        if file != Path(path):
            self._save_model(file.with_name(checkpoint.MODEL))

    def _save_model(self, file):
        """Write the model file that follows from the trainer's state."""
        average = self.average
        if average is not None and self._plan is not None:
            average = self.model.params.copy()
            self._plan.write(average, self.average)
        self.model.save(file, step=self.step, params=average)

    def _save_folder(self):
        self.save(self.folder)
        self._saved = self.step

    def _sweep(self):
        for name in (checkpoint.TRAINER, checkpoint.MODEL, checkpoint.METRICS):
            files.sweep(self.folder / name)

    def _about(self):
        """Everything but arrays."""
        data = self.data.state() if callable(getattr(self.data, "state", None)) else None
        return {
            "class": type(self.model).__name__,
            "config": self.model.config.to_dict(),
            "dtype": str(self.model.params.dtype),
            "recompute": bool(getattr(self.model, "recompute", False)),
            "half_activations": bool(getattr(self.model, "half_activations", False)),
            "optimizer": self.optimizer.to_dict(),
            "schedule": self.schedule.to_dict(),
            "finetune": None if self.finetune is None else self.finetune.to_dict(),
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "step": self.step,
            "best": self.best,
            "stale": self._stale,
            "reproducible": self.reproducible,
            "random": checkpoint.pack_random(self._rng),
            "data": data,
            "validation": "data" if self.validation is self.data else None,
        }

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
    ) -> "Trainer":
        """Return a trainer that goes on where one was saved, bit for bit.

        Parameters
        ----------
        path : path-like
            What was given to `save`, or the `folder` of the trainer: a folder goes on being used as one.
        data, validation
            As they were; without `validation`, `data` is used for it if it was before.
        schedule : Schedule, optional
            Instead of the saved one: to train longer than was planned.
        patience : int, optional
            Instead of the saved one.
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
            There is no trainer file, it is damaged or of another kind, or does not fit the model.
        """
        file = checkpoint.trainer_file(path)
        groups, about = checkpoint.read(file)
        try:
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
            trainer = cls(
                model,
                data,
                optimizer=optimizers.from_dict(about["optimizer"]),
                schedule=schedules.from_dict(about["schedule"]) if schedule is None else schedule,
                validation=validation,
                finetune=None if about.get("finetune") is None else FineTune.from_dict(about["finetune"]),
                threads=threads,
                writer=writer,
                **settings,
            )
            trainer._load(groups, about)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: damaged or from another version: {error!r}") from error
        except (CheckpointError, ShapeError, DTypeError) as error:
            raise CheckpointError(f"{file}: {error}") from error
        if file != Path(path):
            trainer.folder = Path(path)
            trainer._saved = trainer.step
            trainer._sweep()
            trainer._rebuild_model_file()
        return trainer

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
        self.step = about["step"]
        self.best = about["best"]
        self._stale = about["stale"]
        self.reproducible = about["reproducible"]
        self._set_random_state((checkpoint.unpack_random(about["random"]).bit_generator.state, about["data"], {}))

    def _rebuild_model_file(self):
        """Write ``model.safetensors`` again if a kill came between the two files, or somebody removed it."""
        file = self.folder / checkpoint.MODEL
        try:
            if files.read(file, "model")[1].get("step") == self.step:
                return
        except CheckpointError:
            pass
        self._save_model(file)

    def _random_state(self):
        data = self.data.state() if callable(getattr(self.data, "state", None)) else None
        return self._rng.bit_generator.state, data, {name: value.copy() for name, value in self.model.buffers.items()}

    def _set_random_state(self, state):
        self._rng.bit_generator.state, data, buffers = state
        for name, value in buffers.items():
            self.model.buffers[name][...] = value
        if data is not None and callable(getattr(self.data, "set_state", None)):
            self.data.set_state(data)

    def _check_whole(self):
        if not self._whole:
            raise CheckpointError(
                f"this trainer was interrupted in the middle of step {self.step + 1}: go on with Trainer.resume"
            )


_SETTINGS = ("batch", "window", "seed", "clip", "ema", "accumulate", "validate_every", "patience")


class _Interrupt:
    """Around `fit`: the first Ctrl-C sets `asked`, the second interrupts at once.

    Only in the main thread, and only where nobody else handles Ctrl-C already.
    """

    def __enter__(self):
        self.asked = False
        main = threading.current_thread() is threading.main_thread()
        self._ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Metrics:
    """``metrics.jsonl``: one line a step; lines beyond the step that is resumed are dropped."""

    def __init__(self, path, step):
        self._path = path
        with self._errors():
            text = path.read_bytes() if path.exists() else b""
            kept = b"".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
            if kept != text:
                files.replace(path, kept)
            self._file = open(path, "a", encoding="utf-8", buffering=1)

    def add(self, progress):
        line = {
            "step": progress.step,
            "loss_bits": progress.loss_bits,
            "validation_bits": progress.validation_bits,
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.gradient_norm,
            "samples_per_second": progress.samples_per_second,
        }
        with self._errors():
            self._file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._file.close()


def _step_of(line):
    """Step of a line of metrics; infinite for a damaged one (a kill in the middle of it)."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class _Clock:
    """Speed and time left."""

    def __init__(self, trainer, last, deadline):
        self._trainer, self._last, self._deadline = trainer, last, deadline
        self._seconds = deque(maxlen=20)
        self._validation = 0.0  # seconds of the latest one
        self._samples = trainer.batch * trainer.window * trainer.accumulate
        rates = (getattr(trainer.data, "sample_rate", None), getattr(trainer.model.config, "sample_rate", None))
        self._rate = next((rate for rate in rates if rate), None)
        self._first = True

    def start(self):
        self._begin = time.perf_counter()

    def stop(self):
        self._seconds.append(time.perf_counter() - self._begin)

    def measure(self, function):
        begin = time.perf_counter()
        result = function()
        self._validation = time.perf_counter() - begin
        return result

    def over(self):
        return self._deadline is not None and time.perf_counter() >= self._deadline

    def progress(self, loss_bits, validation_bits, learning_rate, gradient_norm):
        step, every = self._trainer.step, self._trainer.validate_every
        seconds = sum(self._seconds) / len(self._seconds)
        left = math.inf
        if self._last is not None:
            left = seconds * (self._last - step) + self._validation * (-(-self._last // every) - step // every)
        if self._deadline is not None:
            left = min(left, max(0.0, self._deadline - time.perf_counter()))
        if self._first:  # this one compiled the kernels
            self._first = False
            self._seconds.clear()
        speed = self._samples / seconds
        return Progress(
            step=step,
            steps=self._last,
            loss_bits=loss_bits,
            validation_bits=validation_bits,
            samples_per_second=speed,
            x_realtime=None if self._rate is None else speed / self._rate,
            seconds_left=0.0 if step == self._last else left,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
        )


def _build_model(about, device, threads):
    """A model of the class and config that a file names."""
    from wavedil import models

    options = {"dtype": about["dtype"], "device": device, "threads": threads}
    for name in ("recompute", "half_activations"):  # not every class has them
        if about.get(name):
            options[name] = True
    return models.build(about["class"], about["config"], **options)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"Trainer: {name} must be a whole number of at least {least}, got {value!r}")
