"""Mu-law companding: audio samples in [-1, 1] to 2**bits codes and back. NumPy only."""

from functools import lru_cache

import numpy as np

from wavedil import checks
from wavedil.errors import DataError, DTypeError, ShapeError

#: The code of silence in 8 bits: ``mulaw_encode(0.0)``, and what stands before the first sample of every clip.
SILENCE = 128


def mulaw_encode(x, bits=8):
    """Encode audio samples as mu-law codes.

    ``f = sign(x) ln(1 + mu |x|) / ln(1 + mu)`` with ``mu = 2**bits - 1`` and x clipped to [-1, 1], then
    ``q = floor((f + 1) / 2 * mu + 0.5)``. Computed in float64, so that float32 and float64 input of the same value get
    the same code on every machine. Silence (0.0) encodes to ``2**(bits - 1)``, 128 in 8 bits. librosa's dialect
    differs: it has no code for 0.

    Parameters
    ----------
    x : array_like of float, any shape
        Samples; full scale is [-1, 1], beyond it they clip. Integer arrays are refused: scale PCM first.
    bits : int, default 8
        2 to 16.

    Returns
    -------
    numpy.ndarray of uint8 (of uint16 for more than 8 bits), shape of `x`
        Codes in [0, mu].

    Raises
    ------
    DTypeError
        If `x` is an array of integers, booleans or complex numbers.
    DataError
        If `x` holds a NaN.
    ConfigError
        If `bits` is no integer from 2 to 16.

    References
    ----------
    ITU-T G.711 (the companding curve, there in segments); van den Oord et al., WaveNet, arXiv:1609.03499, section 2.2.

    Examples
    --------
    >>> mulaw_encode([-1.0, -0.1, 0.0, 0.1, 1.0])
    array([  0,  52, 128, 203, 255], dtype=uint8)
    >>> int(mulaw_encode(-7.5)), int(mulaw_encode(0.0, bits=10))
    (0, 512)
    """
    mu = _mu("mulaw_encode", bits)
    x = samples_of("mulaw_encode", x)
    f = np.copysign(np.log1p(mu * np.abs(x)) / np.log1p(mu), x)
    return np.floor((f + 1.0) / 2.0 * mu + 0.5).astype(dtype_of_codes(mu + 1))


def mulaw_decode(q, bits=8):
    """Decode mu-law codes to audio samples.

    ``f = 2 q / mu - 1``, ``x = sign(f) ((1 + mu)^|f| - 1) / mu`` with ``mu = 2**bits - 1``, which inverts the curve of
    `mulaw_encode`: encoding what was decoded gives the code back, for all of them. No f is 0, so silence decodes to a
    little above 0: to 8.6e-5 in 8 bits.

    Parameters
    ----------
    q : array_like of int, any shape
        Codes in [0, mu].
    bits : int, default 8
        2 to 16.

    Returns
    -------
    numpy.ndarray of float32, shape of `q`
        Samples in [-1, 1].

    Raises
    ------
    DTypeError
        If `q` is not of an integer type.
    ShapeError
        If a code lies outside of [0, mu].
    ConfigError
        If `bits` is no integer from 2 to 16.

    Examples
    --------
    >>> mulaw_decode([0, 128, 255]).round(4)
    array([-1.e+00,  1.e-04,  1.e+00], dtype=float32)
    """
    mu = _mu("mulaw_decode", bits)
    return _decoded(mu)[codes_of("mulaw_decode", q, mu + 1)]


def _mu(where, bits):
    return 2 ** checks.whole(where, "bits", bits, 2, 16) - 1


@lru_cache
def _decoded(mu):
    """What each code decodes to."""
    f = 2.0 * np.arange(mu + 1) / mu - 1.0
    table = (np.sign(f) * np.expm1(np.abs(f) * np.log1p(mu)) / mu).astype(np.float32)
    table.flags.writeable = False
    return table


def dtype_of_codes(classes):
    """The smallest type of unsigned integers that holds so many codes."""
    return np.dtype(np.uint8 if classes <= 256 else np.uint16)


def samples_of(where, x):
    """Samples as float64, clipped to [-1, 1]."""
    if isinstance(x, np.ndarray) and x.dtype.kind != "f":
        raise DTypeError(f"{where}: x must be floating point in [-1, 1], got {x.dtype} (scale PCM samples first)")
    try:
        x = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{where}: x must be an array of real numbers, got {type(x).__name__}") from error
    if np.isnan(x).any():
        raise DataError(f"{where}: x must be free of NaN, got {int(np.isnan(x).sum())} NaN of {x.size} samples")
    return np.clip(x, -1.0, 1.0)


def codes_of(where, q, classes):
    """Codes as an array of integers in [0, classes)."""
    q = np.asarray(q)
    if q.dtype.kind not in "iu":
        raise DTypeError(f"{where}: q must be integer codes, got {q.dtype}")
    if q.size and (q.min() < 0 or q.max() >= classes):
        raise ShapeError(f"{where}: q must lie in [0, {classes - 1}], got [{q.min()}, {q.max()}]")
    return q
