"""What a model of the codes must beat: plain statistics, and a lossless coder."""

import io
import math
from dataclasses import dataclass

import numpy as np

from wavedil import checks
from wavedil.audio.codecs import audio_codec
from wavedil.errors import DataError

_PRIOR = 0.01  # added to every count, so that an unseen pair costs many bits but not infinitely many
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Baselines:
    """Bits per sample of the validation codes.

    Attributes
    ----------
    uniform : float
        ``log2(classes)``, 8.0 for 8-bit mu-law: no model at all.
    order0 : float
        ``mean -log2 p(c[t])`` with p the frequencies of codes in the training clips.
    order1 : float
        ``mean -log2 p(c[t] | c[t-1])``, frequencies of pairs in the training clips; before a clip there is silence.
    flac : float
        Size of a FLAC file (highest level) of all validation codes one after another, in bits per sample.
    """

    uniform: float
    order0: float
    order1: float
    flac: float


def baselines(train_clips, validation_clips, sample_rate, codec="mulaw"):
    """Measure how well plain statistics and FLAC code the validation clips.

    ``p(c) = (n(c) + 0.01) / sum (n + 0.01)``, with n counted on the training clips and p read on the validation clips;
    likewise for pairs. Every sample of every clip counts, as in the validation loss: a clip is [silence, c[0], ...].

    Parameters
    ----------
    train_clips, validation_clips : sequence of (name, codes, speaker), or of codes
        As `Clips.train_clips` returns them; codes are 1-D and of the codec.
    sample_rate : int
        Hz, written to the FLAC file.
    codec : str or Codec, default "mulaw"

    Returns
    -------
    Baselines

    Raises
    ------
    DataError
        If there are no training or no validation samples.
    ConfigError
        If the rate or the codec is impossible.
    """
    rate, codec = checks.whole("baselines", "sample_rate", sample_rate), audio_codec(codec, "baselines")
    trained, read = _pairs(train_clips, codec), _pairs(validation_clips, codec)
    for name, pairs in (("train_clips", trained), ("validation_clips", read)):
        if not len(pairs[0]):
            raise DataError(f"baselines: {name} must hold samples, got none")
    order0, order1 = _order0(trained, read, codec.classes), _order1(trained, read, codec.classes)
    return Baselines(math.log2(codec.classes), order0, order1, _flac_bits(validation_clips, rate, codec))


def _codes(clip):
    return np.asarray(clip[1] if isinstance(clip, tuple) else clip)


def _pairs(clips, codec):
    """Return the pairs of codes that occur, as ``classes * before + code``, ascending, and how often each does."""
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for clip in clips:
        codes, before = _codes(clip), codec.silence
        for start in range(0, len(codes), _CHUNK):
            part = codes[start : start + _CHUNK].astype(np.int64)
            found = np.unique(codec.classes * np.concatenate(([before], part[:-1])) + part, return_counts=True)
            keys.append(found[0])
            counts.append(found[1])
            before = part[-1]
    keys, owner = np.unique(np.concatenate(keys), return_inverse=True)
    return keys, np.bincount(owner, np.concatenate(counts), len(keys))


def _order0(trained, read, classes):
    """Mean bits of a code by the frequencies of codes."""
    trained, read = (np.bincount(keys % classes, counts, classes) for keys, counts in (trained, read))
    bits = np.log2(trained.sum() + _PRIOR * classes) - np.log2(trained + _PRIOR)
    return float((read * bits).sum() / read.sum())


def _order1(trained, read, classes):
    """Mean bits of a code by the frequencies of the pairs with the code before it."""
    keys, counts = trained
    total = np.bincount(keys // classes, counts, classes) + _PRIOR * classes  # of each code before
    at = np.minimum(np.searchsorted(keys, read[0]), len(keys) - 1)
    seen = np.where(keys[at] == read[0], counts[at], 0.0)
    bits = np.log2(total[read[0] // classes]) - np.log2(seen + _PRIOR)
    return float((read[1] * bits).sum() / read[1].sum())


def _flac_bits(clips, rate, codec):
    import soundfile

    file, samples = io.BytesIO(), 0
    # soundfile takes 16 bits; of PCM_S8 it writes the upper 8. In more, FLAC leaves out low bits that are always 0.
    subtype = "PCM_S8" if codec.classes <= 256 else "PCM_16"
    shift = 16 - max(8, math.ceil(math.log2(codec.classes)))
    options = dict(channels=1, format="FLAC", subtype=subtype, compression_level=1.0)
    with soundfile.SoundFile(file, "w", rate, **options) as flac:
        for clip in clips:
            codes = _codes(clip)
            samples += len(codes)
            for start in range(0, len(codes), _CHUNK):
                part = codes[start : start + _CHUNK].astype(np.int32) - codec.silence
                flac.write((part << shift).astype(np.int16))
    return 8.0 * len(file.getbuffer()) / samples
