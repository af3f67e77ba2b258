"""Clips as codes, in memory: random windows to train on, whole clips to validate with."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.audio.codecs import audio_codec
from wavedil.errors import ConfigError, DataError


class Clip(NamedTuple):
    """One usable clip; its codes are either in memory (`codes`) or on disk (`cached`)."""

    name: str
    length: int
    speaker: str | int | None
    codes: np.ndarray | None
    path: Path | None = None
    cached: Path | None = None


class _Listed(Sequence):
    """(name, codes, speaker) of each clip; codes on disk are mapped when asked for, so that any number will do."""

    def __init__(self, owner, clips):
        self._owner, self._clips = owner, clips

    def __len__(self):
        return len(self._clips)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        clip = self._clips[index]
        return clip.name, self._owner._codes(clip), clip.speaker


class Clips:
    """Clips of codes in memory, served as random windows to train on and as whole clips to validate with.

    Every clip is seen as ``[silence, c[0], ..., c[n-1]]``: so its first sample is predicted too.

    Parameters
    ----------
    train, validation : sequence of (name, codes, speaker), or of codes
        As `train_clips` returns them; ``codes`` are 1-D and of the codec, ``speaker`` is an id or None. An empty
        ``train`` is for validation alone.
    sample_rate : int, default 8000
        Hz.
    speakers : sequence of str, optional
        Names in the order of the ids. With them every clip has an id, and batches carry these.
    codec : str or Codec, default "mulaw"
        What the codes are of.

    Attributes
    ----------
    sample_rate : int
        Hz.
    speakers : tuple of str
    codec : Codec

    Raises
    ------
    DataError
        If a clip has no samples or another rank, codes that the codec does not have, or no id among the speakers.
    ConfigError
        If the rate or the codec is impossible.

    Examples
    --------
    >>> clips = Clips([np.array([130, 131, 129])], [np.array([127])])
    >>> codes, sample_weight = clips.batch(np.random.default_rng(0), batch=1, window=4)
    >>> codes.tolist(), sample_weight.tolist()
    ([[128, 130, 131, 129, 128]], [[1.0, 1.0, 1.0, 0.0]])
    """

    def __init__(self, train, validation=(), sample_rate=8000, *, speakers=(), codec="mulaw"):
        self.sample_rate = checks.whole("Clips", "sample_rate", sample_rate)
        self.codec = audio_codec(codec, "Clips")
        self.speakers = tuple(speakers)
        train, validation = (
            [self._checked(i, clip) for i, clip in enumerate(clips)] for clips in (train, validation)
        )
        self._keep(train, validation)

    def _keep(self, train, validation):
        self._train, self._validation = train, validation
        self._lengths = np.array([clip.length for clip in train], dtype=np.int64)
        self._ends = {}  # window -> running sum of the clips' weights

    def _checked(self, number, clip):
        name, codes, speaker = clip if isinstance(clip, tuple) else (str(number), clip, None)
        codes = np.asarray(codes)
        if codes.ndim != 1 or not codes.size or codes.dtype.kind not in "iu":
            raise DataError(f"Clips: clip {name} must be (samples,) integer codes, got {codes.dtype} {codes.shape}")
        if codes.min() < 0 or codes.max() >= self.codec.classes:
            raise DataError(f"Clips: codes of clip {name} must lie in [0, {self.codec.classes - 1}] "
                            f"({self.codec.name}), got [{codes.min()}, {codes.max()}]")
        if self.speakers:
            try:
                speaker = checks.whole("Clips", f"speaker of clip {name}", speaker, 0, len(self.speakers) - 1)
            except ConfigError as error:
                raise DataError(f"{error}; speakers are {', '.join(self.speakers)}") from None
        return Clip(name, len(codes), speaker if self.speakers else None, codes.astype(self.codec.dtype, copy=False))

    def _codes(self, clip):
        return clip.codes

    def batch(self, rng, batch, window):
        """Draw random windows of the training clips.

        A clip is drawn with a chance in proportion to max(its samples, window), then a window within it, all positions
        alike: so every sample of the set is about equally often predicted, short clips or long ones. A clip shorter
        than the window comes whole; the rest is padding, with weight 0.

        Parameters
        ----------
        rng : numpy.random.Generator
            The same state gives the same batch.
        batch : int
            Number of windows B.
        window : int
            Predicted samples in each, T.

        Returns
        -------
        codes : numpy.ndarray of the codec's type, shape (B, T + 1)
            ``codes[:, t]`` is the input and ``codes[:, t + 1]`` the target of sample t.
        sample_weight : numpy.ndarray of float32, shape (B, T)
            1 for a sample of a clip, 0 for padding.
        dict, only with speakers
            ``{"speaker": ids}``, int64 (B,).

        Raises
        ------
        ConfigError
            If batch or window is no integer of at least 1.
        DataError
            If there are no training clips.
        """
        where = f"{type(self).__name__}.batch"
        batch, window = checks.whole(where, "batch", batch), checks.whole(where, "window", window)
        if not self._train:
            raise DataError(f"{where}: needs training clips, got none")
        if window not in self._ends:
            self._ends[window] = np.cumsum(np.maximum(self._lengths, window))
        ends = self._ends[window]
        chosen = np.searchsorted(ends, rng.integers(ends[-1], size=batch), side="right")
        starts = rng.integers(np.maximum(self._lengths[chosen] - window, 0) + 1)
        codes = np.full((batch, window + 1), self.codec.silence, dtype=self.codec.dtype)
        sample_weight = np.zeros((batch, window), dtype=np.float32)
        for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            # Sample `start` is the first target; its input is the sample before, or silence before the clip.
            clip = self._codes(self._train[index])
            end = min(start + window, len(clip))
            if start:
                codes[row, 0] = clip[start - 1]
            codes[row, 1 : end - start + 1] = clip[start:end]
            sample_weight[row, : end - start] = 1.0
        return self._arguments(codes, sample_weight, [self._train[index] for index in chosen])

    def validation_batches(self, batch, window):
        """Yield what a model's loss takes of the held-out clips, each of them whole and once.

        Each clip is scored from silence on, so that each of its samples is predicted once, with all of its past. Clips
        of similar length come together, the longest first, padded at the end with weight 0: at most ``batch`` clips and
        ``8 batch window`` samples, unless a single clip is longer.

        Yields
        ------
        arguments : tuple
            As `batch` returns them.
        amount : int
            Predicted samples, without padding: what the loss is a mean over.
        """
        clips = sorted(self._validation, key=lambda clip: clip.length)
        limit = 8 * batch * window
        while clips:
            size = min(len(clips), max(1, limit // clips[-1].length), batch)
            group = clips[-size:]
            del clips[-size:]
            codes, lengths = padded([self._codes(clip) for clip in group], self.codec, before=1)
            sample_weight = (np.arange(codes.shape[1] - 1) < lengths[:, None]).astype(np.float32)
            yield self._arguments(codes, sample_weight, group), int(lengths.sum())

    def _arguments(self, codes, sample_weight, clips):
        if not self.speakers:
            return codes, sample_weight
        return codes, sample_weight, {"speaker": np.array([clip.speaker for clip in clips], dtype=np.int64)}

    def train_clips(self):
        """Return a sequence of (name, 1-D codes, speaker id or None) of the training clips."""
        return _Listed(self, self._train)

    def validation_clips(self):
        """Return a sequence of (name, 1-D codes, speaker id or None) of the held-out clips."""
        return _Listed(self, self._validation)

    def take(self, seconds=None, seed=0, *, validation=None):
        """Return some of the clips, in an order drawn by a seed; the last one is cut, so that the time is met.

        Parameters
        ----------
        seconds, validation : float, optional
            How much of the training clips, and of the held-out ones; default all, in their own order. If there is less,
            all that there is.
        seed : int, default 0
            The same seed gives the same clips.

        Returns
        -------
        Clips
            In memory.

        Raises
        ------
        ConfigError
            If a time is no number above 0.
        """
        parts = []
        for name, clips, time in (("seconds", self._train, seconds), ("validation", self._validation, validation)):
            if time is None:
                parts.append([clip._replace(codes=np.array(self._codes(clip))) for clip in clips])
                continue
            wanted = "a finite number above 0"
            time = checks.number(f"{type(self).__name__}.take", name, time, wanted, lambda value: value > 0)
            left, taken = max(1, round(time * self.sample_rate)), []
            for i in np.random.default_rng(seed).permutation(len(clips)):
                codes = np.array(self._codes(clips[i])[:left])
                taken.append(clips[i]._replace(codes=codes, length=len(codes)))
                left -= len(codes)
                if not left:
                    break
            parts.append(taken)
        other = Clips((), (), self.sample_rate, speakers=self.speakers, codec=self.codec)
        other._keep(*parts)
        return other

    def as_speaker(self, speaker, speakers):
        """Return the same clips as all of one speaker of a model.

        Parameters
        ----------
        speaker : str
        speakers : sequence of str
            The model's, in the order of their ids.

        Returns
        -------
        Clips
            Of the same kind; the clips are shared.

        Raises
        ------
        ConfigError
            If the model has no such speaker.
        """
        other = copy.copy(self)
        other.speakers = tuple(speakers)
        checks.one_of(f"{type(self).__name__}.as_speaker", "speaker", speaker, other.speakers)
        number = other.speakers.index(speaker)
        other._keep(*([clip._replace(speaker=number) for clip in clips] for clips in (self._train, self._validation)))
        return other


def padded(clips, codec, before=0):
    """Clips as rows of one array, silence at their ends and for so many samples before them; and their lengths."""
    lengths = np.array([len(codes) for codes in clips], dtype=np.int64)
    codes = np.full((len(clips), before + lengths.max()), codec.silence, dtype=codec.dtype)
    for row, clip in zip(codes, clips, strict=True):
        row[before : before + len(clip)] = clip
    return codes, lengths
