"""Clips with their mel frames: what a vocoder learns from."""

import copy

import numpy as np

from wavedil import checks
from wavedil.audio.mel import log_mel
from wavedil.errors import ConfigError

# Speech has a deviation of about 0.6 in the frames' unit; the network learns faster from numbers twice as large.
SCALE = np.float32(2)


def as_condition(frames):
    """Mel frames ``(..., F, mels)`` as a WaveNet's condition ``(..., F, mels + 1)``: the last channel says "given"."""
    frames = np.asarray(frames, np.float32)
    return np.concatenate([SCALE * frames, np.ones((*frames.shape[:-1], 1), np.float32)], axis=-1)


class MelClips:
    """Clips whose windows come with the mel frames of what is to be predicted.

    Row t of a window predicts sample ``start + t``, and windows start on frames: frame f of a window belongs to row
    ``f hop``, so the condition of a row is that of the sample it predicts. A window of T rows has ``ceil(T / hop) + 1``
    frames, as `wavedil.ops.gated_stack.Condition` wants them.

    Parameters
    ----------
    clips : Clips
    mel : MelConfig
        Of the clips' sample rate.
    drop : float in [0, 1)
        Share of the windows that come without frames (all zeros, the "given" channel too): the network then learns to
        go on by itself as well.
    noise : float
        Standard deviation, in codes, of Gaussian noise on the codes that are fed; targets stay clean. A network that
        only ever saw true samples is at a loss when it hears its own.

    Raises
    ------
    ConfigError
        If the rates differ or a number is out of range.
    """

    def __init__(self, clips, mel, *, drop=0.0, noise=0.0):
        where = "MelClips"
        if mel.sample_rate != clips.sample_rate:
            raise ConfigError(f"{where}: mel must be at the clips' {clips.sample_rate} Hz, got {mel.sample_rate}")
        self.drop = checks.number(where, "drop", drop, "a number in [0, 1)", lambda share: 0 <= share < 1)
        self.noise = checks.number(where, "noise", noise, "a number of at least 0", lambda level: level >= 0)
        self.clips, self.mel = clips, mel
        self._frames = {}

    def __getattr__(self, name):
        if name == "clips":  # not there yet, as while a copy is made
            raise AttributeError(name)
        return getattr(self.clips, name)  # the rest is that of the clips: their rate, speakers, audit, codec

    def as_speaker(self, speaker, speakers):
        """The same clips as all of one speaker of a model."""
        other = copy.copy(self)
        other.clips = self.clips.as_speaker(speaker, speakers)
        return other

    def frames(self, name, codes):
        """The condition of a clip ``(F, mels + 1)``; it is made once."""
        if name not in self._frames:
            self._frames[name] = as_condition(log_mel(self.clips.codec.decode(codes), self.mel))
        return self._frames[name]

    def batch(self, rng, batch, window):
        """Random windows of the training clips, that start on frames, as `Clips.batch` gives them, and their frames.

        Returns
        -------
        codes, sample_weight : array
        dict
            ``condition (B, F, mels + 1)``; with speakers ``speaker (B,)``; with noise ``fed (B, T)``, the codes that go
            in instead of ``codes[:, :-1]``.
        """
        hop = self.mel.hop
        codes, weights, chosen, starts = self.clips.windows(rng, batch, window, step=hop)
        count = -(-window // hop) + 1
        condition = np.zeros((batch, count, self.mel.mels + 1), np.float32)
        given = rng.random(batch) >= self.drop
        for row, (clip, start) in enumerate(zip(chosen, starts, strict=True)):
            if given[row]:
                part = self.frames(clip.name, self.clips._codes(clip))[start // hop :][:count]
                condition[row, : len(part)], condition[row, len(part) :] = part, part[-1]
        more = {"condition": condition} | self._speakers(chosen)
        if self.noise:
            moved = codes[:, :-1] + np.rint(rng.normal(0.0, self.noise, (batch, window)))
            more["fed"] = np.clip(moved, 0, self.clips.codec.classes - 1).astype(codes.dtype)
        return codes, weights, more

    def validation_batches(self, batch, window):
        """What `Clips.validation_batches` yields, with the frames of each clip."""
        hop = self.mel.hop
        for (codes, weights, *_), amount, group in self.clips.validation_groups(batch, window):
            count = -(-weights.shape[1] // hop) + 1
            condition = np.zeros((len(codes), count, self.mel.mels + 1), np.float32)
            for row, clip in enumerate(group):
                part = self.frames(clip.name, self.clips._codes(clip))
                condition[row, : len(part)], condition[row, len(part) :] = part[:count], part[-1]
            yield (codes, weights, {"condition": condition} | self._speakers(group)), amount

    def _speakers(self, clips):
        if not self.clips.speakers:
            return {}
        return {"speaker": np.array([clip.speaker for clip in clips], dtype=np.int64)}
