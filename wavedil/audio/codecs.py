"""Codecs: how audio samples become codes, by name. `wavedil.audio.codec` finds one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from wavedil import checks
from wavedil.audio.mulaw import codes_of, dtype_of_codes, mulaw_decode, mulaw_encode, samples_of
from wavedil.errors import ConfigError


def linear_encode(x):
    """Encode audio samples as 16-bit linear codes.

    ``q = clip(round(32768 x), -32768, 32767) + 32768``: the very steps of a 16-bit WAV file, whose samples come back
    unchanged. Silence (0.0) encodes to 32768. The largest code is 1 - 2^-15.

    Parameters
    ----------
    x : array_like of float, any shape
        As in `mulaw_encode`.

    Returns
    -------
    numpy.ndarray of uint16, shape of `x`

    Raises
    ------
    DTypeError, DataError
        As in `mulaw_encode`.
    """
    return (np.clip(np.rint(samples_of("linear_encode", x) * 32768.0), -32768, 32767) + 32768).astype(np.uint16)


def linear_decode(q):
    """Decode 16-bit linear codes: ``x = (q - 32768) / 32768``, exact in float32.

    Raises
    ------
    DTypeError, ShapeError
        As in `mulaw_decode`.
    """
    return ((codes_of("linear_decode", q, 1 << 16).astype(np.int32) - 32768) / np.float32(32768)).astype(np.float32)


def _no_audio(_):
    raise ConfigError("codec 'none': its codes are not audio, so nothing can be encoded or decoded")


@dataclass(frozen=True)
class Codec:
    """How audio samples become codes and back.

    `WaveNetConfig.codec` holds the name of one: ``codec(config.codec)`` encodes what goes into such a network and
    decodes what comes out.

    Attributes
    ----------
    name : str
        Keys of caches hold it: other codes, another name.
    classes : int or None
        Codes are in [0, classes). None, for "none" alone: the model says how many.
    silence : int or None
        The code of 0.0, which stands before the first sample of every clip. In all codecs here it is ``classes // 2``.
    encode : callable
        Samples in [-1, 1] (what is beyond clips, NaN is a DataError) to codes of the type `dtype`, in the same order:
        a larger sample never gets a smaller code.
    decode : callable
        Codes to float32 samples.

    Raises
    ------
    ConfigError
        If `classes` is no integer from 2 to 65,536, or `silence` none of the codes.
    """

    name: str
    classes: int | None
    silence: int | None
    encode: Callable = _no_audio
    decode: Callable = _no_audio

    def __post_init__(self):
        if self.classes is not None:
            checks.whole("Codec", "classes", self.classes, 2, 1 << 16)
            checks.whole("Codec", "silence", self.silence, 0, self.classes - 1)

    @property
    def dtype(self) -> np.dtype:
        """Of the codes: uint8, or uint16 for more than 256 of them."""
        return dtype_of_codes(self.classes)


def _mulaw(name, bits):
    return Codec(name, 2**bits, 2 ** (bits - 1), partial(mulaw_encode, bits=bits), partial(mulaw_decode, bits=bits))


#: The codecs by their names: mu-law of 8, 9 and 10 bits, 16-bit linear, and codes that are not audio.
CODECS = {
    one.name: one
    for one in (
        _mulaw("mulaw", 8),
        _mulaw("mulaw9", 9),
        _mulaw("mulaw10", 10),
        Codec("linear16", 1 << 16, 1 << 15, linear_encode, linear_decode),
        Codec("none", None, None),
    )
}


def codec(name, where="codec") -> Codec:
    """Return the codec of this name; a `Codec` is returned as it is.

    Raises
    ------
    ConfigError
        If there is none of this name.

    Examples
    --------
    >>> found = codec("mulaw10")
    >>> found.classes, found.silence, found.encode([-2.0, 0.0, 0.1, 1.0]).tolist()
    (1024, 512, [0, 512, 854, 1023])
    >>> codec("linear16").decode([32768]).tolist()
    [0.0]
    """
    return name if isinstance(name, Codec) else CODECS[checks.one_of(where, "codec", name, CODECS)]


def audio_codec(name, where) -> Codec:
    """The codec of this name, which must have a silence: all but "none"."""
    found = codec(name, where)
    if found.classes is None:
        raise ConfigError(f"{where}: codec must say its classes and its silence, got {found.name!r}; for codes that "
                          'are not audio pass Codec("none", classes, silence)')
    return found
