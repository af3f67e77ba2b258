"""A WaveNet as a vocoder: sound from the mel spectra of what was said.

The network is conditioned on mel frames (``WaveNetConfig.mel``) at frame rate. With ``p[t]`` its distribution over the
next code, given all codes before and the frames around, the vocoder draws one sample after the other. Tamamori et al.,
"Speaker-dependent WaveNet vocoder" (Interspeech 2017); Shen et al., arXiv:1712.05884.
"""

import os

import numpy as np

from wavedil import checks
from wavedil.audio.codecs import audio_codec
from wavedil.audio.mel import MelStream, log_mel
from wavedil.audio.mel_clips import as_condition
from wavedil.errors import ConfigError, ShapeError
from wavedil.models.wavenet import WaveNet


class Vocoder:
    """Says what mel frames describe.

    Parameters
    ----------
    model : WaveNet or path-like
        With a mel configuration; or the file of such a model.
    speaker : int, optional
        Needed if the model has several.
    device : str
        Where a file's model is to run.

    Attributes
    ----------
    model : WaveNet
    mel : MelConfig
        The recipe of the frames that it understands.
    sample_rate : int
        Hz.
    look_ahead : int
        Samples after a sample that must be known before it can be said: half a window of the frames, and the frame that
        follows.

    Raises
    ------
    ConfigError
        If the model has no mel configuration or needs a speaker.

    Examples
    --------
    >>> vocoder = wd.Vocoder("runs/small/model.safetensors")    # doctest: +SKIP
    >>> said = vocoder.synthesise(vocoder.analyse(sound))       # doctest: +SKIP
    """

    def __init__(self, model, *, speaker=None, device="cpu"):
        if isinstance(model, str | os.PathLike):
            model = WaveNet.load(model, device=device)
        if not isinstance(model, WaveNet) or model.config.mel is None:
            what = "one without" if isinstance(model, WaveNet) else type(model).__name__
            raise ConfigError(f"Vocoder: model must be a WaveNet with a mel configuration, got {what}")
        if (speaker is None) == bool(model.config.speakers):
            wanted = "given" if model.config.speakers else "None"
            raise ConfigError(f"Vocoder: speaker must be {wanted}, got {speaker!r}")
        self.model, self.mel, self.speaker = model, model.config.mel, speaker
        self.sample_rate = model.config.sample_rate
        self.look_ahead = self.mel.look_ahead + self.mel.hop
        self._codec = audio_codec(model.config.codec, "Vocoder")

    def analyse(self, x):
        """The mel frames of a sound, as the model understands them.

        Parameters
        ----------
        x : (samples,) array of float in [-1, 1]
            At `sample_rate`.

        Returns
        -------
        (F, mels) array of float32
            One every `mel.hop` samples: F = ceil(samples / hop) + 1.
        """
        return log_mel(x, self.mel)

    def synthesise(self, frames, *, mel=None, seed=0, temperature=1.0, samples=None, storage=None, progress=None):
        """Say what frames describe.

        Parameters
        ----------
        frames : (F, mels) or (B, F, mels) array of float
            From `analyse`, or from another program by the same recipe.
        mel : MelConfig, optional
            The recipe of frames that come from elsewhere: it is compared with the model's.
        seed : int
        temperature : float
            Logits are divided by it.
        samples : int, optional
            How many; default ``(F - 1) hop``.
        storage : {None, "float16", "int8"}
            As in `WaveNet.init_stream`.
        progress : callable, optional
            ``progress(done, samples)``.

        Returns
        -------
        (samples,) or (B, samples) array of float32

        Raises
        ------
        ConfigError
            If the frames are of another recipe; the message names what differs.
        ShapeError
            If there are not two frames, or not of the model's number of channels.
        """
        where = "Vocoder.synthesise"
        if mel is not None:
            self.mel.check_same(mel, where)
        frames = np.asarray(frames, np.float32)
        batch = frames[None] if frames.ndim == 2 else frames
        if batch.ndim != 3 or batch.shape[1] < 2 or batch.shape[2] != self.mel.mels:
            raise ShapeError(f"{where}: frames must be (F, {self.mel.mels}) with F of at least 2, got {frames.shape}")
        most = (batch.shape[1] - 1) * self.mel.hop
        samples = most if samples is None else checks.whole(where, "samples", samples, 1, most)
        needed = self.model.network.condition.frames(samples)
        codes = self.model.generate(
            samples, batch=len(batch), seed=seed, temperature=temperature, storage=storage, progress=progress,
            condition=as_condition(batch[:, :needed]), speaker=self.speaker,
        )  # fmt: skip
        sound = self._codec.decode(codes)
        return sound[0] if frames.ndim == 2 else sound

    def stream(self, *, seed=0, temperature=1.0):
        """A `VocoderStream`: sound in, the same sound said by the model out, `look_ahead` samples later."""
        return VocoderStream(self, seed, temperature)


class VocoderStream:
    """Listens block by block, and says block by block what it heard, `Vocoder.look_ahead` samples later.

    Attributes
    ----------
    latency : int
        Samples.
    """

    def __init__(self, vocoder, seed, temperature):
        model = vocoder.model
        self._vocoder, self._options = vocoder, {"seed": seed, "temperature": temperature}
        self._frames, self._mel = np.zeros((0, vocoder.mel.mels + 1), np.float32), MelStream(vocoder.mel)
        self._state, self._last = model.init_stream(), vocoder._codec.silence
        self._first = 0  # number of the first frame that is kept
        self.latency = vocoder.look_ahead

    def push(self, x):
        """What can be said after some more samples: an array of as many as became known, maybe none.

        Parameters
        ----------
        x : (n,) array of float
        """
        return self._say(self._mel.push(x))

    def finish(self):
        """The rest, once nothing more is heard."""
        return self._say(self._mel.finish())

    def _say(self, frames):
        self._frames = np.concatenate([self._frames, as_condition(frames)])
        hop, model, time = self._vocoder.mel.hop, self._vocoder.model, self._state.time
        n = (self._first + len(self._frames) - 1) * hop - time
        if n <= 0:
            return np.zeros(0, np.float32)
        self._frames = self._frames[time // hop - self._first :]
        self._first = time // hop
        condition = self._frames[None, : model.network.condition.frames(n, time)]
        speaker = None if self._vocoder.speaker is None else [self._vocoder.speaker]
        codes = model.draw([self._last], n, self._state, condition=condition, speaker=speaker, **self._options)[0]
        self._last = int(codes[-1])
        return self._vocoder._codec.decode(codes)
