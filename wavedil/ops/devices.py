"""Where a model lives: names of devices, checked, and memory on them."""

import warnings
from collections.abc import Callable

from wavedil.errors import ConfigError
from wavedil.kernels.workspace import aligned_zeros


def resolve(device: str, say: Callable[[str], None] | None = None) -> str:
    """Return ``"cpu"`` or ``"cuda:N"`` for a device's name.

    Parameters
    ----------
    device : {"cpu", "cuda", "cuda:N", "auto"}
        ``"cuda"`` is the first GPU, ``"auto"`` the same if it can be used, and the CPU if not.
    say : callable, optional
        Is told, in one line, that and why "auto" means the CPU; default: a warning.

    Raises
    ------
    ConfigError
        No such name, or the device cannot be used: with the reason, and what to install.
    """
    if device == "cpu":
        return "cpu"
    if device != "auto" and not (isinstance(device, str) and device.partition(":")[0] == "cuda"):
        raise ConfigError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}")
    from wavedil.kernels.cuda.engine import engine_for, unavailable

    if device != "auto":
        return engine_for(device).name
    reason = unavailable()
    if reason is None:
        return engine_for().name
    text = f"device='auto': going on with the CPU, because {reason}"
    if say is None:
        warnings.warn(text, stacklevel=3)
    else:
        say(text)
    return "cpu"


def zeros(count: int, dtype, device: str):
    """Return so many zeros on a device (of `resolve`), on 64 bytes."""
    if device == "cpu":
        return aligned_zeros(count, dtype)
    from wavedil.kernels.cuda.engine import engine_for

    return engine_for(device).zeros(count, dtype)
