"""What a model of the codes must beat: plain statistics, and a lossless coder."""

import io
from dataclasses import dataclass

import numpy as np

from wavedil.audio.files import check_rate
from wavedil.audio.mulaw import SILENCE
from wavedil.errors import DataError

_PRIOR = 0.01  # added to every count, so that an unseen pair costs many bits but not infinitely many
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Yardsticks:
    """Bits per sample of the validation codes.

    Attributes
    ----------
    uniform : float
        8.0: no model at all.
    order0 : float
        ``mean -log2 p(c[t])`` with p the frequencies of codes in the training clips.
    order1 : float
        ``mean -log2 p(c[t] | c[t-1])``, frequencies of pairs in the training clips; before a clip there is silence.
    flac : float
        Size of a FLAC file (8 bit, highest level) of all validation codes one after another, in bits per sample.
    """

    uniform: float
    order0: float
    order1: float
    flac: float


def yardsticks(train_clips, validation_clips, sample_rate):
    """Measure how well plain statistics and FLAC code the validation clips.

    ``p(c) = (n(c) + 0.01) / sum (n + 0.01)``, with n counted on the training clips and p read on the validation clips;
    likewise for pairs. Every sample of every clip counts, as in the validation loss: a clip is [128, c[0], ...].

    Parameters
    ----------
    train_clips, validation_clips : sequence of (name, codes, speaker), or of codes
        As `ClipFolder.train_clips` returns them; codes are 1-D uint8.
    sample_rate : int
        Hz, written to the FLAC file.

    Returns
    -------
    Yardsticks

    Raises
    ------
    DataError
        If there are no training or no validation samples.
    """
    rate = check_rate(sample_rate, "yardsticks")
    trained, read = _pairs(train_clips), _pairs(validation_clips)
    for name, pairs in (("train_clips", trained), ("validation_clips", read)):
        if pairs.sum() == 0:
            raise DataError(f"yardsticks: {name} must hold samples, got none")
    order0 = _bits(trained.sum(axis=0), read.sum(axis=0))
    return Yardsticks(8.0, order0, _bits(trained, read), _flac_bits(validation_clips, rate))


def _codes(clip):
    return clip[1] if isinstance(clip, tuple) else clip


def _pairs(clips):
    """Return how often each code (column) follows each code (row), (256, 256)."""
    counts = np.zeros(256 * 256, dtype=np.int64)
    for clip in clips:
        codes = _codes(clip)
        before = SILENCE
        for start in range(0, len(codes), _CHUNK):
            part = codes[start : start + _CHUNK].astype(np.int32)
            counts += np.bincount(256 * np.concatenate(([before], part[:-1])) + part, minlength=256 * 256)
            before = part[-1]
    return counts.reshape(256, 256)


def _bits(trained, read):
    """Mean -log2 of probabilities from counts `trained`, over the events counted in `read`."""
    smooth = trained + _PRIOR
    bits = np.log2(smooth.sum(axis=-1, keepdims=True)) - np.log2(smooth)
    return float((read * bits).sum() / read.sum())


def _flac_bits(clips, rate):
    import soundfile

    file, samples = io.BytesIO(), 0
    with soundfile.SoundFile(
        file, "w", rate, channels=1, format="FLAC", subtype="PCM_S8", compression_level=1.0
    ) as flac:
        for clip in clips:
            codes = _codes(clip)
            samples += len(codes)
            for start in range(0, len(codes), _CHUNK):
                # soundfile takes 16 bits and writes the upper 8.
                flac.write((codes[start : start + _CHUNK].astype(np.int16) - SILENCE) << 8)
    return 8.0 * len(file.getbuffer()) / samples
