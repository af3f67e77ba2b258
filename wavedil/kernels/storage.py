"""Weights of a stream in fewer bytes: rounded once, when the stream is made, and turned into floats in registers.

==============  ======================================================================================================
``"float16"``   IEEE half precision: 11 bits of a weight, and none above 65504
``"int8"``      ``scale * q`` with whole q from -127 to 127, and one float32 ``scale = max|w| / 127`` for each output
                channel, which multiplies the finished sum
==============  ======================================================================================================

A panel of int8 begins with the scales of its columns, which take the place of `SCALES` of its rows.
"""

import numpy as np

from wavedil.errors import ConfigError, DTypeError

KINDS = {"float16": np.uint16, "int8": np.int8}  # how the kernels see them: Numba has no float16 on a CPU
SCALES = np.dtype(np.float32).itemsize


def check(where, kind, params):
    """``kind`` after checks: None, or one that the matrices of these parameters can be stored in."""
    if kind is None:
        return None
    if kind not in KINDS:
        raise ConfigError(f"{where}: storage must be None, {' or '.join(map(repr, KINDS))}, got {kind!r}")
    for name, value in params.items():
        if value.dtype != np.float32:
            raise DTypeError(f"{where}: params must be float32 for storage={kind!r}, got {value.dtype}")
        largest = np.abs(value).max()
        if name.endswith("weight") and not largest <= (65504 if kind == "float16" else np.finfo(np.float32).max):
            raise ConfigError(f"{where}: {name} must be finite for storage={kind!r}, and it reaches {largest}")
    return kind


def scales(matrix):
    """(..., rows, columns) -> the scale of each column, (..., 1, columns)."""
    largest = np.abs(matrix).max(axis=-2, keepdims=True) / np.float32(127)
    return np.where(largest > 0, largest, np.float32(1))


def rounded(weight, kind):
    """A weight ``(..., out_channels)`` as the kernels see it once it is stored."""
    if kind == "float16":
        return weight.astype(np.float16).astype(np.float32)
    matrix = weight.reshape(-1, weight.shape[-1])
    scale = scales(matrix)
    return (np.rint(matrix / scale) * scale).reshape(weight.shape)


def rounded_matrices(params, kind):
    """The parameters with all matrices rounded."""
    return {name: rounded(value, kind) if name.endswith("weight") else value for name, value in params.items()}


def stored(panels, kind):
    """Panels ``(n, rows, W)`` of float32 as the kernels take them: one array, panel after panel."""
    if kind == "float16":
        return panels.astype(np.float16).view(np.uint16).reshape(-1)
    scale = scales(panels)
    numbers = np.rint(panels / scale).astype(np.int8).reshape(len(panels), -1)
    heads = scale.astype(np.float32).view(np.int8).reshape(len(panels), -1)
    return np.concatenate([heads, numbers], axis=1).reshape(-1)
