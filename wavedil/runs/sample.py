"""Sound that a model makes up, and the pictures of a run."""

import numpy as np

from wavedil import audio, report
from wavedil.errors import ConfigError
from wavedil.runs.run import Run
from wavedil.runs.settings import SAMPLE_SECONDS, SAMPLE_TEMPERATURE
from wavedil.runs.train import Training

NAMES = {"uniform": "uniform", "order0": "order-0", "order1": "order-1", "flac": "FLAC"}


def model(run: Run, device: str = "cpu"):
    """The WaveNet of a run.

    Raises
    ------
    ConfigError
        The run holds another kind of model, which cannot speak.
    CheckpointError
        There is no model, or it is damaged.
    """
    if run.kind != "WaveNet":
        raise ConfigError(f"{run.path} must hold a WaveNet to make sound, got a {run.kind}")
    return run.model(device)


def generate(
    model, seconds: float = SAMPLE_SECONDS, *, primer=None, temperature: float = SAMPLE_TEMPERATURE, **options
) -> np.ndarray:
    """Sound that a WaveNet makes up.

    Parameters
    ----------
    model : WaveNet
    seconds : float
        Length.
    primer : (n,) array, optional
        Samples at the model's rate to go on from; they are not part of the result.
    temperature : float
    options
        As of `wavedil.WaveNet.generate`: ``seed, speaker, top_k, top_p, storage, progress``.

    Returns
    -------
    (seconds * sample rate,) array of float
        Samples in [-1, 1].
    """
    primer = None if primer is None else audio.mulaw_encode(primer)
    n = max(1, round(seconds * model.config.sample_rate))
    return audio.mulaw_decode(model.generate(n, primer=primer, temperature=temperature, **options)[0])


def illustrate(training: Training, progress=None) -> None:
    """Write ``loss.png``, ``sample.wav`` and ``spectrogram.png``: what a person looks at first.

    The sample is of the run's own speaker, made on the device that the model trained on.

    Parameters
    ----------
    training : Training
    progress : callable, optional
        ``progress(done, total)``, in samples.
    """
    run, rate = training.run, training.clips.sample_rate
    title = f"{run.path.name}: {training.trainer.step} steps"
    report.loss_curve(run.path / "loss.png", *run.losses(), named(run.baselines), title=title)

    speaker = run.speaker()
    trained = model(run, training.trainer.model.device)
    made = generate(trained, SAMPLE_SECONDS, seed=0, speaker=speaker, progress=progress)
    audio.write_audio(run.path / "sample.wav", made, rate)
    spoken = f", speaker {run.speakers[speaker]}" if speaker is not None else ""
    name, codes = _like(training.clips, speaker, SAMPLE_SECONDS * rate)
    pictures = [(f"real: {name}", audio.mulaw_decode(codes)),
                (f"generated: temperature {SAMPLE_TEMPERATURE}, seed 0{spoken}", made)]  # fmt: skip
    report.spectrogram_page(run.path / "spectrogram.png", pictures, rate, title=title)


def named(baselines: dict | None) -> dict:
    """Baselines by the names that people know."""
    return {NAMES[key]: value for key, value in (baselines or {}).items()}


def _like(clips, speaker, samples):
    """Name and codes of the clip of that speaker whose length is nearest; a held-out one, if there are any."""
    known = clips.validation_clips() or clips.train_clips()
    known = [clip for clip in known if clip[2] == speaker] or clips.train_clips()
    return min(known, key=lambda clip: abs(len(clip[1]) - samples))[:2]
