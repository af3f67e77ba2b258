"""Packages of the extra ``wavedil[evaluate]``: imported when they are used, asked for in one sentence."""

import importlib
import importlib.util

from wavedil.errors import ConfigError

_PACKAGES = {"pystoi": "pystoi", "pesq": "pesq", "pyworld": "pyworld-prebuilt", "pocketsphinx": "pocketsphinx"}


def installed(module):
    """Whether a module of the extra is there."""
    return importlib.util.find_spec(module) is not None


def extra(where, module):
    """The module, or a ConfigError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{where} needs the package {_PACKAGES[module]}, which is not installed: "
                          "pip install 'wavedil[evaluate]'") from None
