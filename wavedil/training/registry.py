"""Classes by name: a checkpoint holds the name and the settings, so that a user's own class resumes as ours do.

>>> from wavedil.training import schedules
>>> rate = schedules.cosine(100)
>>> rate.to_dict()
{'kind': 'Cosine', 'steps': 100, 'final': 0.0}
>>> schedules.from_dict(rate.to_dict()) == rate
True
"""

import dataclasses
from collections.abc import Mapping

from wavedil.checks import one_of
from wavedil.errors import ConfigError


class Named:
    """Base of what a registry makes again: a frozen dataclass whose fields are plain values or again such objects."""

    def to_dict(self) -> dict:
        """Return the name of the class as ``kind``, and the fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value.to_dict() if isinstance(value, Named) else value for name, value in fields.items()}
        return {"kind": type(self).__name__, **plain}

    def _set(self, **checked):
        """Put checked values into the fields, which are frozen."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Registry:
    """The classes that a file may name.

    Parameters
    ----------
    module : str
        Where users find the registry, for errors: ``"optimizers"``.
    base : type
        What all of them inherit from.

    Attributes
    ----------
    names : tuple of str
        Of the known classes.
    """

    def __init__(self, module: str, base: type):
        self._module, self._base = module, base
        self._kinds = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def register(self, kind: type) -> type:
        """Make a class known by its name, and return it: a decorator, above ``@dataclass(frozen=True)``.

        Raises
        ------
        ConfigError
            It is no dataclass with the right base, or a class of another module has this name.
        """
        good = isinstance(kind, type) and issubclass(kind, self._base) and dataclasses.is_dataclass(kind)
        if not good:
            wanted = f"a dataclass that inherits from {self._base.__name__}"
            raise ConfigError(f"{self._module}.register: the class must be {wanted}, got {kind!r}")
        known = self._kinds.get(kind.__name__, kind)
        if known.__module__ != kind.__module__:  # the same module: a notebook's cell that ran again
            raise ConfigError(f"{self._module}.register: {kind.__name__} is the name of {known.__module__}'s already")
        self._kinds[kind.__name__] = kind
        return kind

    def named(self, name: str, settings: Mapping):
        """Return an object of the class of that name, in capital letters or not, with those settings that it has.

        For tables of settings that are shared by several classes, where each takes what it knows.

        Raises
        ------
        ConfigError
            Unknown name, a missing setting, or an impossible value.
        """
        kinds = {kind.lower(): kind for kind in self.names}
        kind = kinds[one_of(self._module, "name", str(name).lower(), kinds)]
        has = [field.name for field in dataclasses.fields(self._kinds[kind])]
        return self.from_dict({"kind": kind} | {key: value for key, value in settings.items() if key in has})

    def from_dict(self, about: Mapping):
        """Return the object that its ``to_dict()`` describes.

        Raises
        ------
        ConfigError
            Unknown name, unknown or missing setting, or an impossible value.
        """
        if not isinstance(about, Mapping) or "kind" not in about:
            raise ConfigError(f"{self._module}: expected a dict with a kind ({', '.join(self.names)}), got {about!r}")
        name = about["kind"]
        if name not in self.names:
            raise ConfigError(
                f"{self._module}: kind must be one of {', '.join(self.names)}, got {name!r}; a class of your own must "
                f"be imported and registered first (@{self._module}.register)"
            )
        settings = {key: self._value(value) for key, value in about.items() if key != "kind"}
        try:
            return self._kinds[name](**settings)
        except TypeError as error:
            raise ConfigError(f"{self._module}: {name} does not take {sorted(settings)}: {error}") from error

    def _value(self, value):
        """A setting as it was before JSON, which knows neither objects nor tuples."""
        if isinstance(value, Mapping) and "kind" in value:
            return self.from_dict(value)
        return tuple(value) if isinstance(value, list) else value
