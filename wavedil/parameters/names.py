"""Patterns that choose parameters by name.

In a pattern, ``*`` stands for any text (dots included), ``?`` for one character, and two numbers with a hyphen for all
whole numbers from the first to the second: ``blocks.0-9.*`` is all of the first ten blocks.

>>> names = ["blocks.8.conv.bias", "blocks.9.conv.bias", "blocks.10.conv.bias", "head.0.bias"]
>>> select("blocks.9-10.*", names, "example")
['blocks.9.conv.bias', 'blocks.10.conv.bias']
"""

import difflib
import re
from collections.abc import Iterable

from wavedil.errors import ConfigError

_PARTS = re.compile(r"(?<![^.])(\d+)-(\d+)(?![^.])|(\*)|(\?)")


def matcher(pattern: str):
    """Return a function that tells whether a name fits the pattern."""
    regex, limits, end = "", [], 0
    for part in _PARTS.finditer(pattern):
        regex += re.escape(pattern[end : part.start()])
        end = part.end()
        low, high, star, _ = part.groups()
        if low is not None:
            limits.append((int(low), int(high)))
            regex += r"(\d+)"
        else:
            regex += ".*" if star else "."
    compiled = re.compile(regex + re.escape(pattern[end:]), re.DOTALL)

    def fits(name: str) -> bool:
        found = compiled.fullmatch(name)
        return found is not None and all(
            low <= int(number) <= high for number, (low, high) in zip(found.groups(), limits, strict=True)
        )

    return fits


def select(patterns: str | Iterable[str], names: Iterable[str], where: str) -> list[str]:
    """Return the names that fit at least one of the patterns, in the order of `names`.

    Parameters
    ----------
    patterns : str or iterable of str
    names : iterable of str
        All names there are.
    where : str
        What asks, for the message.

    Raises
    ------
    ConfigError
        A pattern fits no name; the message lists near ones.
    """
    names = list(names)
    chosen = set()
    for pattern in listed(patterns, where):
        found = list(filter(matcher(pattern), names))
        if not found:
            raise ConfigError(f"{where}: pattern {pattern!r} must fit a name, got none; near: {near(pattern, names)}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def listed(patterns: str | Iterable[str], where: str) -> tuple[str, ...]:
    """Return one or several patterns as a tuple.

    Raises
    ------
    ConfigError
        Something in it is no text, or empty.
    """
    listed = tuple(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else (patterns,)
    if not all(isinstance(pattern, str) and pattern for pattern in listed):
        raise ConfigError(f"{where}: patterns must be non-empty strings, got {patterns!r}")
    return listed


def near(pattern: str, names: Iterable[str]) -> str:
    """Return the names, or the patterns of whole groups of them, that look most like a pattern that fits nothing."""
    candidates = {}
    for name in names:
        parts = name.split(".")
        candidates.update(dict.fromkeys(".".join([*parts[:n], "*"]) for n in range(1, len(parts))))
        candidates[name] = None
    plain = re.sub(r"(\d+)-(\d+)", r"\2", pattern)  # a range is compared by its last number
    close = difflib.get_close_matches(plain, candidates, n=3, cutoff=0.5)
    return ", ".join(close or list(candidates)[:3])
