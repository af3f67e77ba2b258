"""Optimizers: frozen settings. What they remember between steps is kept by the trainer, and updated by `ops.update`.

A user's own optimizer is a frozen dataclass that inherits from `Optimizer`, has ``change``, and is made known by
``@optimizers.register``: then the trainer trains with it and resumes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.ops import update
from wavedil.parameters import names as naming
from wavedil.parameters.store import Parameters
from wavedil.training.registry import Named, Registry


class Optimizer(Named):
    """Base of the optimizers.

    Attributes
    ----------
    lr : float
        Learning rate; a schedule multiplies it.
    moments : tuple of str
        Names of what is remembered between steps, each laid out as the parameters are and zero at first.
    """

    moments: ClassVar[tuple[str, ...]] = ()

    def change(self, weights: np.ndarray, gradient: np.ndarray, moments: Mapping[str, np.ndarray], *, step, lr) -> None:
        """Take one step, in place, in plain NumPy on the CPU. What is all zeros must stay zero: it may be padding.

        Parameters
        ----------
        weights, gradient : ndarray, shape (n,)
            The gradient is clipped already.
        moments : mapping of str to ndarray, shape (n,)
            One for each name in `self.moments`.
        step : int
            From 1.
        lr : float
            `self.lr` times the schedule's factor.
        """
        raise NotImplementedError(f"{type(self).__name__} must have change() or update()")

    def update(
        self, params: Parameters, grads: Parameters, moments: Mapping[str, Parameters], *,
        step, lr, scale, average, decay, threads,
    ) -> None:  # fmt: skip
        """Take one step, in place: scale the gradient, `change` the weights, and move their average.

        An optimizer that has this method in place of `change` can do all of it in one pass, and on a GPU.

        Parameters
        ----------
        params, grads : Parameters
        moments : mapping of str to Parameters
            One for each name in `self.moments`.
        step, lr, scale, average, decay, threads
            As in `wavedil.ops.update`: ``scale`` is the factor of clipping, ``average`` a flat array or None.
        """
        weights = params.flat
        if not isinstance(weights, np.ndarray):
            raise ConfigError(f"{type(self).__name__}: the weights must be on the CPU, got {weights.device} (change() "
                              "is plain NumPy; for a GPU, write update())")  # fmt: skip
        real = weights.dtype.type
        flat = {name: moment.flat for name, moment in moments.items()}
        self.change(weights, real(scale) * grads.flat, flat, step=step, lr=lr)
        if average is not None:
            average += real(1 - decay) * (weights - average)

    def decayed(self, shapes: Mapping[str, tuple[int, ...]]) -> Collection[str]:
        """Which parameters, of these names and shapes, the weight decay shrinks; default: all."""
        return shapes.keys()


registry = Registry("optimizers", Optimizer)
register, from_dict = registry.register, registry.from_dict


@register
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum (the equation: `wavedil.ops.update`).

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float, default 0
        In [0, 1).
    nesterov : bool, default False
        Nesterov's momentum instead of the heavy ball.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        self._set(lr=_least_0("SGD", "lr", self.lr), momentum=_below_1("SGD", "momentum", self.momentum),
                  nesterov=_flag("SGD", "nesterov", self.nesterov))  # fmt: skip
        if self.nesterov and not self.momentum:
            raise ConfigError("SGD: nesterov needs momentum above 0, got momentum=0")

    @property
    def moments(self):
        return ("velocity",) if self.momentum else ()

    def update(self, params, grads, moments, *, step, **options):
        velocity = moments["velocity"].flat if self.momentum else None
        settings = {"momentum": self.momentum, "nesterov": self.nesterov}
        update.sgd(params.flat, grads.flat, velocity, **settings, **options)


@register
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
        Added to the root of the mean square; at least 1e-30.
    amsgrad : bool, default False
        The mean square never falls: AMSGrad, Reddi et al., arXiv:1904.09237.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        kind = type(self).__name__
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ConfigError(f"{kind}: betas must be two numbers, got {self.betas!r}")
        eps = checks.number(kind, "eps", self.eps, "at least 1e-30", lambda value: value >= 1e-30)  # not 0 in float32
        self._set(lr=_least_0(kind, "lr", self.lr), betas=tuple(_below_1(kind, "betas", beta) for beta in self.betas),
                  eps=eps, amsgrad=_flag(kind, "amsgrad", self.amsgrad))  # fmt: skip

    @property
    def moments(self):
        return ("first", "second", "largest") if self.amsgrad else ("first", "second")

    def update(self, params, grads, moments, **options):
        flat = {name: moment.flat for name, moment in moments.items()}
        update.adam(params.flat, grads.flat, **flat, betas=self.betas, eps=self.eps, **options)


@register
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weights shrink by themselves, Loshchilov & Hutter, arXiv:1711.05101 (see `wavedil.ops.update`).

    Parameters
    ----------
    lr, betas, eps, amsgrad
        As in `Adam`.
    weight_decay : float, default 0.01
        In each step a weight loses ``lr * weight_decay`` of itself.
    decays : "all", "matrices", or str or sequence of str, default "all"
        Which parameters do. ``"matrices"`` spares biases, embeddings, and the scales and shifts of norms: it is those
        with two axes or more that are no embedding. Else patterns (see `wavedil.parameters.names`): ``"*.weight"``.
    """

    weight_decay: float = 0.01
    decays: str | tuple[str, ...] = field(default="all", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        self._set(weight_decay=_least_0("AdamW", "weight_decay", self.weight_decay))
        if self.decays not in ("all", "matrices"):
            self._set(decays=naming.listed(self.decays, "AdamW: decays"))

    def update(self, params, grads, moments, **options):
        flat = {name: moment.flat for name, moment in moments.items()}
        settings = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        update.adamw(params.flat, grads.flat, **flat, **settings, **options)

    def decayed(self, shapes):
        if self.decays == "all":
            return shapes.keys()
        return matrices(shapes) if self.decays == "matrices" else naming.select(self.decays, shapes, "AdamW: decays")


def matrices(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    """Names of the parameters with two axes or more, embeddings left out."""
    return [name for name, shape in shapes.items() if len(shape) > 1 and name.split(".")[-1] != "embedding"]


def _least_0(where, name, value):
    return checks.number(where, name, value, "a number in [0, inf)", lambda value: value >= 0)


def _below_1(where, name, value):
    return checks.number(where, name, value, "a number in [0, 1)", lambda value: 0 <= value < 1)


def _flag(where, name, value):
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{where}: {name} must be True or False, got {value!r}")
    return bool(value)
