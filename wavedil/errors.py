"""The errors that wavedil raises; each message names the place, the expectation and what came."""


class WavedilError(Exception):
    """Base of all errors that wavedil raises on purpose."""


class ShapeError(WavedilError, ValueError):
    """An array has the wrong rank, shape or value range."""


class DTypeError(WavedilError, TypeError):
    """An array has the wrong dtype, or dtypes are mixed."""


class ConfigError(WavedilError, ValueError):
    """A setting is unknown, has the wrong type or contradicts another."""


class DataError(WavedilError, ValueError):
    """Audio or other training data cannot be used."""


class CheckpointError(WavedilError, ValueError):
    """A file is not a checkpoint of this kind, is damaged, or does not fit."""


class DivergedError(WavedilError, ArithmeticError):
    """A loss, gradient or logit is no longer finite."""


class OutOfMemoryError(WavedilError, MemoryError):
    """A device has not enough memory."""
