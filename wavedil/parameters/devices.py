"""Where a model lives: names of devices, checked."""

import warnings
from collections.abc import Callable

from wavedil.errors import ConfigError


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
    from wavedil.kernels.cuda import device as cuda_device

    if device != "auto":
        return cuda_device.engine(device).name
    reason = cuda_device.unavailable()
    if reason is None:
        return cuda_device.engine().name
    text = f"device='auto': going on with the CPU, because {reason}"
    if say is None:
        warnings.warn(text, stacklevel=3)
    else:
        say(text)
    return "cpu"
