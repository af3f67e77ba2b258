"""What all models share: configs that check their fields; parameters, device, threads and gradients of a model."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, Self, dataclass_transform

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.kernels.pool import check_threads
from wavedil.kernels.workspace import Workspace
from wavedil.models.stored import Stored
from wavedil.ops import contract, devices
from wavedil.parameters.store import Parameters


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked_dataclass(cls: type) -> type:
    """Make a subclass of `Config` a frozen dataclass whose constructor names the key that may have been meant."""
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    init, names = made.__init__, [field.name for field in dataclasses.fields(made)]

    @functools.wraps(init)
    def checked(self, *args, **values):
        _check_keys(made, dict.fromkeys(names[: len(args)]) | values)
        init(self, *args, **values)

    made.__init__ = checked
    return made


def _check_keys(cls, values):
    """Check that all keys are known, and that what has no default is among them."""
    fields = dataclasses.fields(cls)
    for key in values:
        if key not in [field.name for field in fields]:
            raise checks.unknown_key(cls.__name__, key, [field.name for field in fields])
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ConfigError(f"{cls.__name__}: {field.name} must be given")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a model: a frozen dataclass, made by `checked_dataclass`, of values that JSON can hold."""

    @property
    def receptive_field(self) -> int:
        """Samples or rows that a prediction depends on."""
        raise NotImplementedError

    def _set(self, name: str, value: object) -> None:
        """Set a field while the config is being made."""
        object.__setattr__(self, name, value)

    def _check_plain_fields(self, **least: int) -> None:
        """Check the fields that are whole numbers (of at least 1 if not said otherwise) or flags."""
        where = type(self).__name__
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int or (field.type == int | None and value is not None):
                self._set(field.name, checks.whole(where, field.name, value, least.get(field.name, 1)))
            elif field.type is bool and not isinstance(value, bool):
                raise ConfigError(f"{where}: {field.name} must be True or False, got {value!r}")

    def to_dict(self) -> dict:
        """The values as plain JSON types."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in values.items():
            if hasattr(value, "to_dict"):
                values[name] = value.to_dict()
            elif isinstance(value, tuple):
                values[name] = list(value)
        return values

    @classmethod
    def from_dict(cls, values: Mapping) -> Self:
        """The opposite of `to_dict`.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not right.
        """
        if not hasattr(values, "keys"):
            raise ConfigError(f"{cls.__name__}: a config must be a table of keys, got {values!r}")
        _check_keys(cls, values)
        values = dict(values)
        for field in dataclasses.fields(cls):
            if hasattr(field.type, "from_dict") and field.name in values:
                values[field.name] = field.type.from_dict(values[field.name])
        return cls(**values)


class Model(Stored):
    """A network with a config, parameters on a device, and gradients with respect to some of them."""

    device: str
    threads: int

    def _set_up(self, config: Config, shapes: Mapping, dtype, device: str, threads: int | None) -> None:
        """Set what every model has; the parameters are zeros."""
        self.config, self.device = config, devices.resolve(device)
        self.threads = check_threads(threads)
        self.params, self.buffers = Parameters(shapes, dtype, self.device), {}
        self._workspace = Workspace()

    @property
    def receptive_field(self) -> int:
        """Samples or rows that a prediction depends on."""
        return self.config.receptive_field

    def _needs(self, where: str, needs: Collection[str] | None) -> list[str]:
        """The names of the parameters whose gradients are needed, after checks; None: all."""
        where = f"{type(self).__name__}.{where}"
        if needs is None:
            return list(self.params)
        if isinstance(needs, str) or not isinstance(needs, Collection):
            raise ConfigError(f"{where}: needs must be a collection of names, got {needs!r}")
        for name in needs:
            if name not in self.params:
                near = checks.nearest(name, self.params, 0)
                raise ConfigError(f"{where}: needs must name parameters, such as {near!r}, got {name!r}")
        return list(needs)

    def _grads(self, where: str, into: Mapping | None, names: Collection[str]) -> Mapping:
        """Where gradients of these parameters are added: ``into`` after checks, or fresh zeros for them alone."""
        if into is None:
            shapes = {name: shape for name, shape in self.params.shapes.items() if name in names}
            return Parameters(shapes, self.dtype, self.device) if shapes else {}
        where = f"{type(self).__name__}.{where}"
        for name in names:
            if name not in into:
                raise ConfigError(f"{where}: into must have an array for {name}, got none")
            like = self.params[name]
            contract.target(where, f"into[{name!r}]", into[name], like.shape, self.dtype, like)
        return into
