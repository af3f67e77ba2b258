"""Schedules: factors on the learning rate as functions of the step.

A schedule is a frozen dataclass, made known by ``@register``. Called with the number of steps done so far (0 before
the first), it gives the factor for the next one. They nest, and go to plain dicts and back, so that a checkpoint holds
them.

>>> rate = cosine(1000, warmup=10)
>>> [round(rate(step), 3) for step in (0, 9, 10, 505, 999, 2000)]
[0.1, 1.0, 1.0, 0.5, 0.0, 0.0]
>>> from_dict(rate.to_dict()) == rate
True
"""

import math
from dataclasses import dataclass

from wavedil.checks import number, whole
from wavedil.errors import ConfigError
from wavedil.training.registry import Named, Registry


class Schedule(Named):
    """Base of the schedules: ``schedule(step)`` is the factor for the step that follows `step` steps."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError


registry = Registry("schedules", Schedule)
register, from_dict = registry.register, registry.from_dict


@register
@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def __call__(self, step):
        return 1.0


@register
@dataclass(frozen=True)
class Exponential(Schedule):
    """From 1 at step 0 to `final` at step `steps` by equal ratios: ``final ** (step / steps)``; then `final`."""

    steps: int
    final: float = 0.01

    def __post_init__(self):
        self._set(steps=whole("Exponential", "steps", self.steps), final=_share("Exponential", "final", self.final))
        if self.final == 0:
            raise ConfigError("Exponential: final must be above 0 (equal ratios never reach it), got 0")

    def __call__(self, step):
        return self.final ** min(step / self.steps, 1.0)


@register
@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 at step 0 to `final` at step `steps` along half a cosine; `final` from then on.

    ``final + (1 - final) (1 + cos(pi step / steps)) / 2`` (Loshchilov & Hutter, arXiv:1608.03983, equation 5, without
    restarts).
    """

    steps: int
    final: float = 0.0

    def __post_init__(self):
        self._set(steps=whole("Cosine", "steps", self.steps), final=_share("Cosine", "final", self.final))

    def __call__(self, step):
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))


@register
@dataclass(frozen=True)
class Warmup(Schedule):
    """Rise in a straight line over `steps` steps, ``(step + 1) / steps``, to where `then` begins."""

    steps: int
    then: Schedule = Constant()

    def __post_init__(self):
        self._set(steps=whole("Warmup", "steps", self.steps))
        if not isinstance(self.then, Schedule):
            raise ConfigError(f"Warmup: then must be a schedule, got {self.then!r}")

    def __call__(self, step):
        if step < self.steps:
            return (step + 1) / self.steps * self.then(0)
        return self.then(step - self.steps)


def constant(*, warmup: int = 0) -> Schedule:
    """Return a schedule that stays at 1, after `warmup` steps of rise."""
    return _after(warmup, Constant())


def exponential(steps: int, *, warmup: int = 0, final: float = 0.01) -> Schedule:
    """Return `Exponential` decay that ends at step `steps`, of which the first `warmup` are a rise."""
    return _after(warmup, Exponential(_rest("exponential", steps, warmup), final))


def cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return `Cosine` decay that ends at step `steps`, of which the first `warmup` are a rise."""
    return _after(warmup, Cosine(_rest("cosine", steps, warmup), final))


def warmup(steps: int, then: Schedule | None = None) -> Schedule:
    """Return a rise over `steps` steps, followed by `then` (default: constant)."""
    return Warmup(steps, Constant() if then is None else then)


def _after(warmup, schedule):
    return Warmup(warmup, schedule) if whole("schedules", "warmup", warmup, 0) else schedule


def _rest(name, steps, warmup):
    steps, warmup = whole(name, "steps", steps), whole(name, "warmup", warmup, 0)
    if warmup >= steps:
        raise ConfigError(f"{name}: warmup must be shorter than all {steps} steps, got {warmup}")
    return steps - warmup


def _share(where, name, value):
    return number(where, name, value, "in [0, 1]", lambda value: 0 <= value <= 1)
