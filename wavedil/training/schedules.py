"""Schedules: factors on the learning rate as functions of the step.

A schedule is a frozen dataclass. Called with the number of steps done so far (0 before the first), it gives the factor
for the next one. They nest, and go to plain dicts and back, so that a checkpoint holds them.

>>> rate = cosine(1000, warmup=10)
>>> [round(rate(step), 3) for step in (0, 9, 10, 505, 999, 2000)]
[0.1, 1.0, 1.0, 0.5, 0.0, 0.0]
>>> from_dict(rate.to_dict()) == rate
True
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from wavedil.errors import ConfigError


class Schedule:
    """Base of the schedules: ``schedule(step)`` is the factor for the step that follows `step` steps."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Return the name of the class as ``kind``, and the fields."""
        out = {"kind": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            out[field.name] = value.to_dict() if isinstance(value, Schedule) else value
        return out


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def __call__(self, step):
        return 1.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """From 1 at step 0 to `final` at step `steps` by equal ratios: ``final ** (step / steps)``; then `final`."""

    steps: int
    final: float = 0.01

    def __post_init__(self):
        _whole("Exponential", "steps", self.steps, 1)
        _share("Exponential", "final", self.final)
        if self.final == 0:
            raise ConfigError("Exponential: final must be above 0 (equal ratios never reach it), got 0")

    def __call__(self, step):
        return self.final ** min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 at step 0 to `final` at step `steps` along half a cosine; `final` from then on.

    ``final + (1 - final) (1 + cos(pi step / steps)) / 2`` (Loshchilov & Hutter, arXiv:1608.03983, equation 5, without
    restarts).
    """

    steps: int
    final: float = 0.0

    def __post_init__(self):
        _whole("Cosine", "steps", self.steps, 1)
        _share("Cosine", "final", self.final)

    def __call__(self, step):
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rise in a straight line over `steps` steps, ``(step + 1) / steps``, to where `then` begins."""

    steps: int
    then: Schedule = Constant()

    def __post_init__(self):
        _whole("Warmup", "steps", self.steps, 1)
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


def from_dict(about: Mapping) -> Schedule:
    """Return the schedule that ``schedule.to_dict()`` describes.

    Raises
    ------
    ConfigError
        Unknown kind, unknown or missing field, or an impossible value.
    """
    kinds = {kind.__name__: kind for kind in (Constant, Exponential, Cosine, Warmup)}
    if not isinstance(about, Mapping) or about.get("kind") not in kinds:
        raise ConfigError(f"schedules: expected a dict whose kind is one of {', '.join(kinds)}, got {about!r}")
    settings = {name: value for name, value in about.items() if name != "kind"}
    if "then" in settings:
        settings["then"] = from_dict(settings["then"])
    try:
        return kinds[about["kind"]](**settings)
    except TypeError as error:
        raise ConfigError(f"schedules: {about['kind']} does not take {sorted(settings)}: {error}") from error


def _after(warmup, schedule):
    _whole("schedules", "warmup", warmup, 0)
    return Warmup(warmup, schedule) if warmup else schedule


def _rest(name, steps, warmup):
    _whole(name, "steps", steps, 1)
    _whole(name, "warmup", warmup, 0)
    if warmup >= steps:
        raise ConfigError(f"{name}: warmup must be shorter than all {steps} steps, got {warmup}")
    return steps - warmup


def _whole(where, name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{where}: {name} must be a whole number of at least {least}, got {value!r}")


def _share(where, name, value):
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{where}: {name} must be in [0, 1], got {value!r}")
