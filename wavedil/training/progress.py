"""What a training run tells of itself after each step: losses, speed, time left."""

import math
import time
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What ``on_step`` is told after each step.

    Attributes
    ----------
    step : int
        Steps done since the training began, this one included.
    steps : int or None
        What `step` will be at the end; None if only time limits it.
    loss : float
        Training loss of this step's batch, in `unit`.
    validation : float or None
        Loss over all of the validation data in `unit`, if it was measured after this step.
    unit : str
        ``"bits"`` (of each sample, or clip) if the model's loss is a cross-entropy, else the name of its loss:
        ``"mse"``, ``"mae"``, ``"huber"``.
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
    loss: float
    validation: float | None
    unit: str
    samples_per_second: float
    x_realtime: float | None
    seconds_left: float
    learning_rate: float
    gradient_norm: float


def loss_unit(model) -> tuple[str, float]:
    """The unit in which people read a model's loss, and the factor that brings the loss there: nats become bits."""
    if getattr(model, "nats", True):
        return "bits", 1 / math.log(2)
    return getattr(model.config, "loss", "loss"), 1.0


class Clock:
    """Speed, time left, and whether it is time to stop.

    Parameters
    ----------
    trainer : Trainer
    last : int or None
        Step to end at.
    deadline : float or None
        Value of ``time.perf_counter()`` to end at.
    """

    def __init__(self, trainer, last: int | None, deadline: float | None):
        self._trainer, self._last, self._deadline = trainer, last, deadline
        self._seconds = deque(maxlen=20)
        self._validation = 0.0  # seconds of the latest one
        self._samples = trainer.batch * trainer.window * trainer.accumulate
        rates = (getattr(trainer.data, "sample_rate", None), getattr(trainer.model.config, "sample_rate", None))
        self._rate = next((rate for rate in rates if rate), None)
        self._first = True

    def start(self):
        """A step begins."""
        self._begin = time.perf_counter()

    def stop(self):
        """The step is done."""
        self._seconds.append(time.perf_counter() - self._begin)

    def measure(self, validate):
        """Call a validation and return what it returns."""
        begin = time.perf_counter()
        result = validate()
        self._validation = time.perf_counter() - begin
        return result

    def ended(self) -> str | None:
        """Return "steps" or "minutes" if that many are over, else None."""
        if self._trainer.step == self._last:
            return "steps"
        return "minutes" if self._deadline is not None and time.perf_counter() >= self._deadline else None

    def progress(self, loss, validation, learning_rate, gradient_norm) -> Progress:
        """What there is to tell after a step."""
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
            loss=loss,
            validation=validation,
            unit=self._trainer.unit,
            samples_per_second=speed,
            x_realtime=None if self._rate is None else speed / self._rate,
            seconds_left=0.0 if step == self._last else left,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
        )
