"""Checks of settings: one rule for numbers and names, and one form of error, for the whole library.

An error tells three facts: whose argument it is, what was expected, and what came:
``ConfigError: Trainer: batch must be at least 1, got 0``. A whole number is anything that Python takes for an index
(``numpy.int64(4)`` as well as ``4``), but no bool.
"""

import difflib
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from wavedil.errors import ConfigError

T = TypeVar("T")


def whole(where: str, name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """An integer setting of at least ``least`` (and at most ``most``)."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise ConfigError(f"{where}: {name} must be an integer, got {value!r}") from None
    if result < least:
        raise ConfigError(f"{where}: {name} must be at least {least}, got {result}")
    if most is not None and result > most:
        raise ConfigError(f"{where}: {name} must be at most {most}, got {result}")
    return result


def number(
    where: str, name: str, value: object, wanted: str = "a finite number", good: Callable = lambda value: True
) -> float:
    """A setting that is a finite number, and what else is wanted of it."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number) or not (
        np.isfinite(value) and good(value)
    ):
        raise ConfigError(f"{where}: {name} must be {wanted}, got {value!r}")
    return float(value)


def one_of(where: str, name: str, value: T, known: Iterable) -> T:
    """A setting that is one of the known values; the error tells them all."""
    if value not in tuple(known):
        raise ConfigError(f"{where}: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def nearest(value: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like the value, or None; with a cutoff of 0 always one."""
    found = difflib.get_close_matches(str(value), list(known), 1, cutoff)
    return found[0] if found else None


def unknown_key(where: str, key: object, known: Iterable[str]) -> ConfigError:
    """The error for a key that nobody knows, with the name that may have been meant."""
    near = nearest(key, known)
    hint = f"; did you mean {near!r}?" if near else f"; known are {', '.join(known)}"
    return ConfigError(f"{where}: unknown key {key!r}{hint}")
