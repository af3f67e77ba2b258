"""Mu-law companding: audio samples in [-1, 1] to 256 codes and back. NumPy only."""

import numpy as np

from wavedil.errors import DataError, DTypeError, ShapeError

#: The code of silence: ``mulaw_encode(0.0)``, and what stands before the first sample of every clip.
SILENCE = 128
_MU = 255.0

# The 256 values that codes decode to. 2q/255 - 1 never is 0, so silence decodes to 8.6e-5, not to 0.
_f = 2.0 * np.arange(256) / 255.0 - 1.0
_DECODED = (np.sign(_f) * np.expm1(np.abs(_f) * np.log1p(_MU)) / _MU).astype(np.float32)
_DECODED.flags.writeable = False


def mulaw_encode(x):
    """Encode audio samples as 8-bit mu-law codes.

    ``f = sign(x) ln(1 + 255 |x|) / ln 256`` with x clipped to [-1, 1], then ``q = floor((f + 1) / 2 * 255 + 0.5)``.
    Computed in float64, so that float32 and float64 input of the same value get the same code on every machine.
    Silence (0.0) encodes to 128. librosa's dialect differs: it has no code for 0.

    Parameters
    ----------
    x : array_like of float, any shape
        Samples; full scale is [-1, 1], beyond it they clip. Integer arrays are refused: scale PCM first.

    Returns
    -------
    numpy.ndarray of uint8, shape of `x`
        Codes in [0, 255].

    Raises
    ------
    DTypeError
        If `x` is an array of integers, booleans or complex numbers.
    DataError
        If `x` holds a NaN.

    References
    ----------
    ITU-T G.711 (the companding curve, there in segments); van den Oord et al., WaveNet, arXiv:1609.03499, section 2.2.

    Examples
    --------
    >>> mulaw_encode([-1.0, -0.1, 0.0, 0.1, 1.0])
    array([  0,  52, 128, 203, 255], dtype=uint8)
    >>> int(mulaw_encode(-7.5))
    0
    """
    if isinstance(x, np.ndarray) and x.dtype.kind != "f":
        raise DTypeError(f"mulaw_encode: x must be floating point in [-1, 1], got {x.dtype} (scale PCM samples first)")
    try:
        x = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"mulaw_encode: x must be an array of real numbers, got {type(x).__name__}") from error
    if np.isnan(x).any():
        raise DataError(f"mulaw_encode: x must be free of NaN, got {int(np.isnan(x).sum())} NaN of {x.size} samples")
    x = np.clip(x, -1.0, 1.0)
    f = np.copysign(np.log1p(_MU * np.abs(x)) / np.log1p(_MU), x)
    return np.floor((f + 1.0) / 2.0 * 255.0 + 0.5).astype(np.uint8)


def mulaw_decode(q):
    """Decode 8-bit mu-law codes to audio samples.

    ``f = 2 q / 255 - 1``, ``x = sign(f) (256^|f| - 1) / 255``, which inverts the curve of `mulaw_encode`: encoding what
    was decoded gives the code back, for all 256.

    Parameters
    ----------
    q : array_like of int, any shape
        Codes in [0, 255].

    Returns
    -------
    numpy.ndarray of float32, shape of `q`
        Samples in [-1, 1].

    Raises
    ------
    DTypeError
        If `q` is not of an integer type.
    ShapeError
        If a code lies outside of [0, 255].

    Examples
    --------
    >>> mulaw_decode([0, 128, 255]).round(4)
    array([-1.e+00,  1.e-04,  1.e+00], dtype=float32)
    """
    q = np.asarray(q)
    if q.dtype.kind not in "iu":
        raise DTypeError(f"mulaw_decode: q must be integer codes, got {q.dtype}")
    if q.size and (q.min() < 0 or q.max() > 255):
        raise ShapeError(f"mulaw_decode: q must lie in [0, 255], got [{q.min()}, {q.max()}]")
    return _DECODED[q]
