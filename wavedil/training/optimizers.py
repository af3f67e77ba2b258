"""Optimizers: frozen settings. What they remember between steps is kept by the trainer, and updated by `ops.update`."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from wavedil.errors import ConfigError
from wavedil.ops import update
from wavedil.parameters.store import Parameters


class Optimizer:
    """Base of the optimizers.

    Attributes
    ----------
    lr : float
        Learning rate; a schedule multiplies it.
    moments : tuple of str
        Names of what is remembered between steps, each laid out as the parameters are and zero at first.
    """

    moments: ClassVar[tuple[str, ...]] = ()

    def update(self, params: Parameters, grads: Parameters, moments: Mapping[str, Parameters], **options) -> None:
        """Take one step, in place.

        Parameters
        ----------
        params, grads : Parameters
        moments : mapping of str to Parameters
            One for each name in `self.moments`.
        **options
            ``step`` (from 1), ``lr``, ``scale``, ``average`` (flat array or None), ``decay`` and ``threads``, as in
            `wavedil.ops.update`.
        """
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Return the name of the class as ``kind``, and the settings."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum (the equation: `wavedil.ops.update`).

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float, default 0
        In [0, 1).
    """

    lr: float
    momentum: float = 0.0

    def __post_init__(self):
        _number("SGD", "lr", self.lr)
        _number("SGD", "momentum", self.momentum, 1)

    @property
    def moments(self):
        return ("velocity",) if self.momentum else ()

    def update(self, params, grads, moments, *, step, lr, **options):
        velocity = moments["velocity"].flat if self.momentum else None
        update.sgd(params.flat, grads.flat, velocity, lr=lr, momentum=self.momentum, **options)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, Kingma & Ba, arXiv:1412.6980 (the equation: `wavedil.ops.update`).

    Parameters
    ----------
    lr : float
        Learning rate.
    betas : (float, float), default (0.9, 0.999)
        How much of the mean gradient and of the mean square is kept in each step; each in [0, 1).
    eps : float, default 1e-8
        Added to the root of the mean square; positive.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    moments = ("first", "second")

    def __post_init__(self):
        kind = type(self).__name__
        _number(kind, "lr", self.lr)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ConfigError(f"{kind}: betas must be two numbers, got {self.betas!r}")
        for beta in self.betas:
            _number(kind, "betas", beta, 1)
        object.__setattr__(self, "betas", tuple(self.betas))
        _number(kind, "eps", self.eps)
        if self.eps < 1e-30:  # still positive in float32
            raise ConfigError(f"{kind}: eps must be at least 1e-30, got {self.eps}")

    def update(self, params, grads, moments, **options):
        first, second = moments["first"].flat, moments["second"].flat
        update.adam(params.flat, grads.flat, first, second, betas=self.betas, eps=self.eps, **options)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weights shrink by themselves, Loshchilov & Hutter, arXiv:1711.05101 (see `wavedil.ops.update`).

    Parameters
    ----------
    lr, betas, eps
        As in `Adam`.
    weight_decay : float, default 0.01
        In each step every weight loses ``lr * weight_decay`` of itself, biases and embeddings too.
    """

    weight_decay: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        _number("AdamW", "weight_decay", self.weight_decay)

    def update(self, params, grads, moments, **options):
        first, second = moments["first"].flat, moments["second"].flat
        settings = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        update.adamw(params.flat, grads.flat, first, second, **settings, **options)


def from_dict(about: Mapping) -> Optimizer:
    """Return the optimizer that ``optimizer.to_dict()`` describes.

    Raises
    ------
    ConfigError
        Unknown kind, unknown or missing setting, or an impossible value.
    """
    kinds = {kind.__name__: kind for kind in (SGD, Adam, AdamW)}
    if not isinstance(about, Mapping) or about.get("kind") not in kinds:
        raise ConfigError(f"optimizers: expected a dict whose kind is one of {', '.join(kinds)}, got {about!r}")
    settings = {name: value for name, value in about.items() if name != "kind"}
    try:
        return kinds[about["kind"]](**settings)
    except TypeError as error:
        raise ConfigError(f"optimizers: {about['kind']} does not take {sorted(settings)}: {error}") from error


def _number(where, name, value, limit=math.inf):
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < limit:
        raise ConfigError(f"{where}: {name} must be a number in [0, {limit}), got {value!r}")
