"""Fine-tuning: which values of a trained model learn, how fast, and in which form.

A recipe is a frozen dataclass that goes to plain dicts and back, so that checkpoints and run folders hold it.

>>> recipe = FineTune(freeze=["input.*", "blocks.0-9.*"], lr_scale={"head.*": 2.0})
>>> FineTune.from_dict(recipe.to_dict()) == recipe
True
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wavedil.checks import number, unknown_key, whole
from wavedil.errors import ConfigError
from wavedil.ops import inplace
from wavedil.parameters import adapters
from wavedil.parameters import names as naming
from wavedil.parameters.store import Parameters
from wavedil.training import optimizers


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (the equations: `wavedil.parameters.adapters`).

    Parameters
    ----------
    rank : int
        Of the change to each weight.
    alpha : float, optional
        The change is multiplied by ``alpha / rank``; default: ``rank``, so by 1.
    targets : str or sequence of str
        Patterns of the layers that get one; default: every convolution, dilated and 1x1.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ("*",)

    def __post_init__(self):
        object.__setattr__(self, "rank", whole("LoRA", "rank", self.rank))
        alpha = float(self.rank) if self.alpha is None else self.alpha
        object.__setattr__(self, "alpha", _positive("LoRA", "alpha", alpha))
        object.__setattr__(self, "targets", naming.listed(self.targets, "LoRA: targets"))


@dataclass(frozen=True)
class FineTune:
    """What of a model trains, for ``Trainer(finetune=)``.

    Patterns are those of `wavedil.parameters.names`: ``"blocks.0-9.*"``, ``"head.*"``, ``"*.bias"``. Where several
    pairs of a pattern and a number fit one name, the last counts. They can be given as a dict.

    What does not train stays bit for bit what it was; its gradient is not computed (if the model can leave it out), and
    the optimizer keeps nothing for it. Time is saved where a whole lower part does not train, embedding included:
    ``freeze=["input.*", "blocks.0-9.*"]``, and ``"speaker.*"`` for a model of several speakers.

    Parameters
    ----------
    freeze : str or sequence of str
        Does not train.
    train : str or sequence of str
        Trains, if `freeze` does not name it; default: everything, and with `lora` nothing but the adapters.
    lr_scale : pairs of (pattern, float)
        Factors on the learning rate.
    decay_scale : pairs of (pattern, float)
        Factors on the optimizer's weight decay; 0 for none.
    unfreeze : pairs of (pattern, int)
        Trains only after so many steps: gradual unfreezing (Howard & Ruder, arXiv:1801.06146, section 3.3).
    lora : LoRA, optional
        Train low-rank adapters in place of the weights. Their factors are called ``NAME.lora_a`` and ``NAME.lora_b``
        with the weight's name, also in patterns.
    l2_start : float
        In each step every value moves by ``learning rate * l2_start`` of the way back to where it started: the
        penalty ``l2_start / 2 |w - start|^2`` of L2-SP (Li et al., arXiv:1802.01483, equation 2), decoupled from the
        optimizer as AdamW's decay is. Adapters: back to no change.

    Raises
    ------
    ConfigError
        A value has the wrong type or is impossible. (Names are looked up when a trainer is made.)
    """

    freeze: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    lr_scale: tuple[tuple[str, float], ...] = ()
    decay_scale: tuple[tuple[str, float], ...] = ()
    unfreeze: tuple[tuple[str, int], ...] = ()
    lora: LoRA | None = None
    l2_start: float = 0.0

    def __post_init__(self):
        for name in ("freeze", "train"):
            object.__setattr__(self, name, naming.listed(getattr(self, name), f"FineTune: {name}"))
        for name, check in (("lr_scale", _positive), ("decay_scale", _least_0), ("unfreeze", _steps)):
            object.__setattr__(self, name, _pairs(name, getattr(self, name), check))
        if self.lora is not None and not isinstance(self.lora, LoRA):
            raise ConfigError(f"FineTune: lora must be a LoRA or None, got {self.lora!r}")
        object.__setattr__(self, "l2_start", _least_0("FineTune", "l2_start", self.l2_start))

    def to_dict(self) -> dict:
        """Return what is not default, as plain JSON types."""
        out = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                out[field.name] = value
        for name in ("freeze", "train"):
            if name in out:
                out[name] = list(out[name])
        for name in ("lr_scale", "decay_scale", "unfreeze"):  # lists: keys of JSON may be sorted
            if name in out:
                out[name] = [list(pair) for pair in out[name]]
        if self.lora:
            out["lora"] = dataclasses.asdict(self.lora) | {"targets": list(self.lora.targets)}
        return out

    @classmethod
    def from_dict(cls, about: Mapping) -> "FineTune":
        """Return the recipe that ``recipe.to_dict()`` describes; also the table [finetune] of a TOML file.

        Raises
        ------
        ConfigError
            Unknown key or impossible value.
        """
        if not isinstance(about, Mapping):
            raise ConfigError(f"FineTune: expected a table, got {about!r}")
        _known("FineTune", cls, about)
        about = dict(about)
        lora = about.get("lora")
        if isinstance(lora, Mapping):
            _known("LoRA", LoRA, lora)
            if "rank" not in lora:
                raise ConfigError(f"LoRA: rank must be given, got only {', '.join(lora) or 'nothing'}")
            about["lora"] = LoRA(**lora)
        return cls(**about)


class Part(NamedTuple):
    """What an optimizer needs of `Parameters`: here, a stretch of them."""

    flat: np.ndarray


class Group(NamedTuple):
    """Values that are updated in the same way; neighbours in the flat buffer."""

    names: tuple[str, ...]
    part: slice
    optimizer: optimizers.Optimizer
    lr_scale: float
    after: int  # steps before it trains


class Plan:
    """A recipe applied to one model: the values that learn, in one flat buffer, ordered in groups.

    Attributes
    ----------
    values, grads : Parameters
        What learns, and its gradient.
    groups : list of Group
    adapters : Adapters or None
    start : Parameters or None
        `values` at the start, if something is pulled there.
    """

    def __init__(self, params: Parameters, recipe: FineTune, optimizer: optimizers.Optimizer, seed: int):
        self.recipe = recipe
        self.adapters = None
        shapes = dict(params.shapes)
        factors = {}
        if recipe.lora is not None:
            lora = recipe.lora
            self.adapters = adapters.Adapters(params, lora.targets, lora.rank, lora.alpha, seed)
            factors = self.adapters.shapes
        everything = [*shapes, *factors]
        frozen = set(naming.select(recipe.freeze, everything, "FineTune: freeze"))
        caught = [name for name in factors if name in frozen]
        if caught:
            raise ConfigError(
                f"FineTune: freeze must leave the adapters alone, but it fits {len(caught)} of them, such as "
                f"{caught[0]}: with lora all else is frozen already; use LoRA(targets=) to have fewer adapters"
            )
        train = recipe.train or (() if factors else "*")
        wanted = set(naming.select(train, shapes, "FineTune: train"))
        both = sorted(wanted & {adapters.target(name) for name in factors})
        if both:
            raise ConfigError(f"FineTune: train must not fit weights that have an adapter, got {both[0]}")
        trained = [name for name in shapes if name in wanted and name not in frozen] + list(factors)
        if not trained:
            raise ConfigError("FineTune: something must train, but freeze fits all of it")
        self.groups, self.values = _groups(trained, shapes | factors, params, recipe, optimizer, everything)
        self.grads = self.values.like()
        if self.adapters:
            self.adapters.initialize(self.values)
        self.read(params)
        self.start = self.values.copy() if recipe.l2_start else None

    def state(self) -> dict[str, Mapping[str, np.ndarray]]:
        """What a checkpoint holds beside the model's parameters."""
        groups = {}
        if self.adapters:
            groups["base"] = self.adapters.base
            groups["adapters"] = {name: self.values[name] for name in self.adapters.shapes}
        if self.start is not None:
            groups["start"] = self.start
        return groups

    def load(self, params: Parameters, groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take over what `state` returned, and the parameters that were saved with it."""
        trained = {name: params[name] for name in self.values if name in params}
        self.values.load(trained | (groups["adapters"] if self.adapters else {}))
        if self.adapters:
            self.adapters.base.load(groups["base"])
        if self.start is not None:
            self.start.load(groups["start"])

    def active(self, step: int) -> list[Group]:
        """The groups that train in the step after `step`."""
        return [group for group in self.groups if group.after <= step]

    def needs(self, step: int) -> frozenset[str]:
        """Names of the model's parameters whose gradients that step needs."""
        return frozenset(adapters.target(name) for group in self.active(step) for name in group.names)

    def read(self, params: Parameters) -> None:
        """Take over (``=``) the values that train as they are."""
        for name, view in self.values.items():
            if name in params:
                view[...] = params[name]

    def write(self, params: Parameters, values: Parameters | None = None) -> None:
        """Set (``=``) the model's parameters from the values that train, or from others like them."""
        values = self.values if values is None else values
        for name, view in values.items():
            if name in params:
                params[name][...] = view
        if self.adapters:
            self.adapters.merge(values, params)

    def collect(self, dparams: Parameters, step: int) -> None:
        """Set (``=``) `grads` from the gradients of the model's parameters; zero for what does not train yet."""
        self.grads.flat.fill(0)
        names = {name for group in self.active(step) for name in group.names}
        for name in names:
            if name in dparams:
                self.grads[name][...] = dparams[name]
        if self.adapters:
            self.adapters.backward(self.values, dparams, self.grads, names)

    def pull(self, group: Group, rate: float) -> None:
        """Move a group's values by `rate` of the way to where they started."""
        inplace.pull(self.values.flat[group.part], self.start.flat[group.part], rate)


def _groups(trained, shapes, params, recipe, optimizer, everything):
    """The groups of what trains, and Parameters in which each of them is one stretch."""
    settings = {}
    for field, default in (("lr_scale", 1.0), ("decay_scale", 1.0), ("unfreeze", 0)):
        found = dict.fromkeys(trained, default)
        for pattern, value in getattr(recipe, field):
            where = f"FineTune: {field}"
            fits = [name for name in naming.select(pattern, everything, where) if name in found]
            if not fits:
                raise ConfigError(f"{where}: {pattern!r} must fit something that trains, but all it fits is frozen")
            found.update(dict.fromkeys(fits, value))
        settings[field] = found
    if recipe.decay_scale and not hasattr(optimizer, "weight_decay"):
        kind = type(optimizer).__name__
        raise ConfigError(f"FineTune: decay_scale needs an optimizer with weight_decay, such as AdamW, got {kind}")
    decayed = set(optimizer.decayed(shapes))
    settings["decay_scale"].update((name, 0.0) for name in trained if name not in decayed)
    keys = {name: tuple(settings[field][name] for field in settings) for name in trained}
    ordered = [name for key in dict.fromkeys(keys.values()) for name in trained if keys[name] == key]
    values = Parameters({name: shapes[name] for name in ordered}, params.dtype, params.device)
    groups = []
    for key in dict.fromkeys(keys.values()):
        names = tuple(name for name in ordered if keys[name] == key)
        after = [name for name in ordered[ordered.index(names[-1]) + 1 :]][:1]
        end = values.offsets[after[0]] if after else values.flat.size
        lr_scale, decay_scale, first = key
        theirs = optimizer
        if hasattr(optimizer, "weight_decay"):
            theirs = dataclasses.replace(optimizer, weight_decay=optimizer.weight_decay * decay_scale)
        groups.append(Group(names, slice(values.offsets[names[0]], end), theirs, lr_scale, first))
    return groups, values


def _pairs(name, pairs, check):
    if isinstance(pairs, Mapping):
        pairs = pairs.items()
    try:
        pairs = tuple((pattern, value) for pattern, value in pairs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"FineTune: {name} must be pairs of a pattern and a number, got {pairs!r}") from error
    naming.listed([pattern for pattern, _ in pairs], f"FineTune: {name}")
    return tuple((pattern, check("FineTune", f"{name} of {pattern!r}", value)) for pattern, value in pairs)


def _least_0(where, name, value):
    return number(where, name, value, "a number of at least 0", lambda value: value >= 0)


def _positive(where, name, value):
    hint = " (to freeze, use freeze)" if where == "FineTune" else ""
    return number(where, name, value, f"a number above 0{hint}", lambda value: value > 0)


def _steps(where, name, value):
    return whole(where, name, value, 0)


def _known(where, kind, about):
    known = [field.name for field in dataclasses.fields(kind)]
    for key in about:
        if key not in known:
            raise unknown_key(where, key, known)
