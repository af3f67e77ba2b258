"""The trainer: draws batches, takes steps, validates, and keeps checkpoints that resume bit for bit."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np

from wavedil.checks import number, whole
from wavedil.errors import CheckpointError, ConfigError, DivergedError
from wavedil.ops import update
from wavedil.ops.contract import on_host
from wavedil.parameters.store import Parameters
from wavedil.training import checkpoint, optimizers, schedules, sources
from wavedil.training.finetune import FineTune, Group, Part, Plan
from wavedil.training.interrupt import Interrupt
from wavedil.training.metrics import Metrics
from wavedil.training.progress import Clock, Progress, loss_unit
from wavedil.training.saving import Saving


class Trainer(Saving):
    """Trains a model on random windows of data.

    Parameters
    ----------
    model : WaveNet
        Or any object with `params`, `buffers`, `config`, ``loss_and_grads(*batch, into=grads)``, ``loss(*batch)`` and
        ``save(path, step=, params=)``. If ``loss_and_grads`` takes ``needs=``, it is told the names of the parameters
        whose gradients fine-tuning needs. If it has `nats` and that is false, its loss is shown as it is, not in bits.
    data : object
        ``data.batch(rng, batch, window)`` returns the arguments of ``model.loss_and_grads``: positional arrays, and the
        keyword arguments as a dict at the end, if any. If it has ``state()`` (what JSON can hold, a fresh value each
        time) and ``set_state(state)``, they are used to resume. Or a tuple of arrays, or an iterator of batches: see
        `wavedil.training.sources`.
    optimizer : Optimizer, default ``AdamW(2e-3)``
        SGD, Adam, AdamW, or one's own: see `wavedil.training.optimizers`.
    batch, window : int
        Number of windows in a batch, and predicted samples in a window.
    seed : int
        Of the random windows.
    schedule : Schedule, optional
        Factor on the learning rate; see `wavedil.training.schedules`.
    clip : float or None, default 1.0
        Largest global gradient norm.
    ema : float, optional
        Decay of a moving average of the weights, in (0, 1). The average is what is validated, what `averaged` gives and
        what `save_model` writes. At step t the decay is ``min(ema, (1 + t) / (10 + t))``, so that the initial weights
        are soon forgotten.
    accumulate : int, default 1
        Batches for each step; the gradient is that of the mean loss over all their weighted samples.
    validation : object, optional
        ``validation.validation_batches(batch, window)`` yields the arguments of ``model.loss``, as those of a batch of
        `data`, and how much they count.
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
        What the optimizer works on: the model's parameters; or, with `finetune` or where some weights do not decay,
        copies of those values that train, from which the model's are set after each step.
    average : Parameters or None
        Moving average of `weights`.
    moments : dict of str to Parameters
        What the optimizer remembers.
    adapters : Adapters or None
        The low-rank adapters of `finetune`. The model has them merged in; ``adapters.unmerge(model.params)`` gives back
        the weights from before.
    unit : str
        Of all losses that are returned: see `Progress`.
    best : float or None
        Best validation loss so far.
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
        self.validation = self.data if validation is data else sources.source(validation)
        self.optimizer = optimizers.AdamW(2e-3) if optimizer is None else optimizer
        self.schedule = schedules.constant() if schedule is None else schedule
        self.finetune = finetune
        self.folder = None if folder is None else Path(folder)
        self.threads = getattr(model, "threads", None) if threads is None else threads
        self._writer = writer
        self.batch, self.window = whole("Trainer", "batch", batch), whole("Trainer", "window", window)
        self.accumulate = whole("Trainer", "accumulate", accumulate)
        self.validate_every = whole("Trainer", "validate_every", validate_every)
        self.patience = None if patience is None else whole("Trainer", "patience", patience)
        self.seed = whole("Trainer", "seed", seed, 0)
        self.clip, self.ema = _share("clip", clip, math.inf), _share("ema", ema, 1)
        self._check()

        self.step, self.best, self.reproducible = 0, None, True
        self._stale = 0  # validations since the best one
        self._saved = None  # step of the latest checkpoint in the folder
        self._unfinished = None  # "update" or "averaged" while the model's weights are not those of a finished step
        self._rng = np.random.Generator(np.random.PCG64(self.seed))
        self.unit, self._factor = loss_unit(model)
        self._make_buffers()
        if self.folder is not None:
            if (self.folder / checkpoint.TRAINER).exists():
                wanted = "go on with Trainer.resume, or choose another folder"
                raise CheckpointError(f"{self.folder}: holds a run already; {wanted}")
            self._sweep()

    def _check(self):
        """Raise unless model, data and the other objects are what they must be."""
        if not isinstance(self.optimizer, optimizers.Optimizer):
            wanted = f"an Optimizer ({', '.join(optimizers.registry.names)})"
            raise ConfigError(f"Trainer: optimizer must be {wanted}, got {self.optimizer!r}")
        if self.finetune is not None and not isinstance(self.finetune, FineTune):
            raise ConfigError(f"Trainer: finetune must be a FineTune or None, got {self.finetune!r}")
        if not isinstance(self.schedule, schedules.Schedule):
            raise ConfigError(f"Trainer: schedule must come from wavedil.training.schedules, got {self.schedule!r}")
        if not isinstance(getattr(self.model, "params", None), Parameters):
            raise ConfigError(f"Trainer: model must have Parameters as .params, got {type(self.model).__name__}")
        if not callable(getattr(self.data, "batch", None)):
            raise ConfigError(f"Trainer: data must have batch(rng, batch, window), got {type(self.data).__name__}")
        if self.validation is not None:
            batches = self._validation_batches(self.validation)
            if not any(amount for _, amount in batches):
                raise ConfigError("Trainer: validation must hold at least one sample, got none; pass validation=None")
        elif self.patience is not None:
            raise ConfigError("Trainer: patience needs validation, got validation=None")
        rates = [getattr(self.data, "sample_rate", None), getattr(self.model.config, "sample_rate", None)]
        if None not in rates and rates[0] != rates[1]:
            raise ConfigError(f"Trainer: the model is for {rates[1]} Hz, the data has {rates[0]} Hz")

    def _make_buffers(self):
        """Gradients, moments and average; a plan, if weights differ in how they train."""
        params = self.model.params
        self._grads = params.like()
        self._partial = params.like() if self.accumulate > 1 else None
        self._arguments = signature(self.model.loss_and_grads)
        if self.accumulate > 1 and "weights" in (names := self._arguments.parameters) and "sample_weight" not in names:
            raise ConfigError(
                "Trainer: with accumulate, expected loss_and_grads to call the weights of its rows sample_weight, "
                "got the name weights"
            )
        alike = len(set(self.optimizer.decayed(params.shapes))) == len(params)
        if self.finetune is None and alike:
            self._plan, self.adapters = None, None
            self.weights, self._dweights = params, self._grads
            self._everything = Group(tuple(params), slice(None), self.optimizer, 1.0, 0)
        else:
            self._plan = Plan(params, self.finetune or FineTune(), self.optimizer, self.seed)
            self.adapters = self._plan.adapters
            self.weights, self._dweights = self._plan.values, self._plan.grads
        self.moments = {name: self.weights.like() for name in self.optimizer.moments}
        self.average = None if self.ema is None else self.weights.copy()

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
        clock = self._clock(steps, minutes)
        with Interrupt() as interrupt, self._open_metrics() as metrics:
            try:
                reason = None
                while reason is None:
                    reason, progress = self._advance(clock)
                    if metrics is not None:
                        metrics.add(progress)
                        if reason or self._due():
                            self._save_folder()
                    if on_step is not None:
                        on_step(progress)
                    if interrupt.asked:
                        raise KeyboardInterrupt
                return reason
            except KeyboardInterrupt:
                if self.folder is not None and self._unfinished is None and self._saved != self.step:
                    self._save_folder()
                raise

    def _clock(self, steps, minutes):
        begin = time.perf_counter()
        if steps is None and minutes is None:
            raise ConfigError("Trainer.fit: steps or minutes must be given, got neither")
        if minutes is not None:
            minutes = number("Trainer.fit", "minutes", minutes, "a number above 0", lambda value: value > 0)
        last = None if steps is None else self.step + whole("Trainer.fit", "steps", steps)
        self._check_finished("fit")
        return Clock(self, last, None if minutes is None else begin + 60 * minutes)

    def _open_metrics(self):
        if self.folder is None:
            return contextlib.nullcontext()
        if self._saved != self.step:
            self._save_folder()  # also shows at once whether the folder can be written
        return Metrics(self.folder / checkpoint.METRICS, self.step)

    def _advance(self, clock):
        """One step, and a validation if it is time; returns why training ends here (or None), and the progress."""
        clock.start()
        loss, norm, rate = self._take_step()
        clock.stop()
        reason = clock.ended()
        if reason == "minutes":
            self.reproducible = False
        validation = None
        if self.validation is not None and (reason or self._due()):
            validation = clock.measure(self.validate)
            # A validation that is due only because fit ends here must not change a longer run's course.
            if self._due() and self._is_stale(validation):
                reason = reason or "patience"
        return reason, clock.progress(loss * self._factor, validation, rate, norm)

    def _due(self):
        return self.step % self.validate_every == 0

    def _take_step(self):
        """One step of the optimizer; returns the model's loss, gradient norm and learning rate."""
        before = self._position()
        try:
            loss, norm, share = self._gradients()
            if not math.isfinite(loss) or not self._fits(norm):
                raise self._diverged(loss, norm)
        except BaseException:
            # This step has not happened: whoever goes on, or saves, draws the same batch again.
            self._rewind(before)
            raise
        rate = self.optimizer.lr * self.schedule(self.step)
        step = self.step + 1
        decay = 0.0 if self.ema is None else min(self.ema, (1 + step) / (10 + step))
        scale = update.clip_scale(norm, self.clip) / share
        self._unfinished = "update"
        for group in [self._everything] if self._plan is None else self._plan.active(self.step):
            self._update(group, step - group.after, rate * group.lr_scale, scale, decay)
        if self._plan is not None:
            self._plan.write(self.model.params)
        self.step = step
        self._unfinished = None
        return loss, norm, rate

    def _update(self, group, step, rate, scale, decay):
        """Step number `step` of a group of weights."""
        if self._plan is not None and self._plan.start is not None:
            self._plan.pull(group, min(1.0, rate * self._plan.recipe.l2_start))
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
                counts = self._arguments.bind(*positional, **keywords).arguments.get("sample_weight")
                part = 1.0 if counts is None else float(np.mean(counts, dtype=np.float64))
                total += part * float(loss)
                share += part
                self._partial.flat *= self._partial.dtype.type(part)
                self._grads.flat += self._partial.flat
            loss = total / share
        if self._plan is not None:
            self._plan.collect(self._grads, self.step)
        return loss, update.global_norm(self._dweights.flat, threads=self.threads) / share, share

    def _draw(self):
        return sources.split(self.data.batch(self._rng, self.batch, self.window))

    def _fits(self, norm):
        """Whether a gradient's norm is finite, and its square too (Adam's second moment)."""
        return norm * norm <= float(np.finfo(self._grads.dtype).max)

    def _diverged(self, loss, norm):
        sizes = {name: float(np.max(np.abs(on_host(g)))) for name, g in self._grads.items()}
        name = max(sizes, key=lambda name: math.inf if math.isnan(sizes[name]) else sizes[name])
        return DivergedError(
            f"step {self.step + 1}: expected a finite loss and gradient, got loss {loss * self._factor:.4g} "
            f"{self.unit}, gradient norm {norm:.4g}, largest gradient {sizes[name]:.4g} in {name}; the weights are "
            f"those of step {self.step}, {self._kept()}. A lower learning rate, clip=1.0 or a warm-up may help"
        )

    def _kept(self):
        if self._saved is None:
            return "nothing was saved"
        return f"the checkpoint of step {self._saved} in {self.folder} is kept"

    # -- validation ----------------------------------------------------------------------------------------------------

    def validate(self, validation=None) -> float:
        """Return the loss over the validation data, in `unit`, with the averaged weights if there are any.

        It is the mean over all that the batches say they count: of clips of sound, each of their samples once, with all
        of its past; of a classifier's, clips.

        Parameters
        ----------
        validation : object, optional
            Other data than the trainer's, such as a speaker that should not be forgotten.
        """
        validation = self.validation if validation is None else sources.source(validation)
        if validation is None:
            raise ConfigError("Trainer.validate: needs validation data, got validation=None")
        total = count = 0
        with self.averaged():
            for arguments, amount in self._validation_batches(validation):
                positional, keywords = sources.split(arguments)
                total += float(self.model.loss(*positional, **keywords)) * amount
                count += amount
        if not count:
            raise ConfigError("Trainer.validate: validation must hold at least one sample, got none")
        loss = float(total / count) * self._factor
        if not math.isfinite(loss):
            raise DivergedError(f"step {self.step}: expected a finite validation loss, got {loss}; {self._kept()}")
        return loss

    def _validation_batches(self, validation):
        if not callable(getattr(validation, "validation_batches", None)):
            kind = type(validation).__name__
            raise ConfigError(f"Trainer: validation must have validation_batches(batch, window), got {kind}")
        return validation.validation_batches(self.batch, self.window)

    def _is_stale(self, loss):
        """Note a validation; whether it is time to give up."""
        if self.best is None or loss < self.best:
            self.best, self._stale = loss, 0
        else:
            self._stale += 1
        return self.patience is not None and self._stale >= self.patience

    @contextlib.contextmanager
    def averaged(self):
        """Let the model hold the averaged weights within a ``with`` block; then its own again, bit for bit.

        It is the model that `save_model` writes, frozen weights and adapters included. Without ``ema`` nothing changes.
        What is written to the model's weights in the block is lost; `fit` and `save` are not possible in it.

        ``with trainer.averaged() as model: codes = model.generate(8000)``
        """
        if self.average is None or self._unfinished == "averaged":
            yield self.model
            return
        self._check_finished("averaged")
        own = self.model.params.flat.copy()
        self._unfinished = "averaged"
        try:
            if self._plan is None:
                self.model.params.flat[:] = self.average.flat
            else:
                self._plan.write(self.model.params, self.average)
            yield self.model
        finally:
            self.model.params.flat[:] = own
            self._unfinished = None

def _share(name, value, limit):
    """None, or a number above 0 and below the limit."""
    if value is None:
        return None
    return number("Trainer", name, value, f"None or in (0, {limit})", lambda value: 0 < value < limit)
