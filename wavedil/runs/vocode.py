"""Vocoders of runs: networks that say what mel frames describe."""

from pathlib import Path

import numpy as np

from wavedil.errors import ConfigError, DataError
from wavedil.models.vocoder import Vocoder
from wavedil.runs.run import Run


def open_vocoder(run: Run, speaker: int | None = None, device: str = "cpu") -> Vocoder:
    """The vocoder of a run.

    Raises
    ------
    ConfigError
        The run holds a model that knows no mel frames.
    CheckpointError
        There is no model, or it is damaged.
    """
    model = run.model(device) if run.kind == "WaveNet" else None
    if model is None or model.config.mel is None:
        what = f"a {run.kind}" if model is None else "a WaveNet that was trained without --vocoder"
        raise ConfigError(f"{run.path} must hold a vocoder, got {what}")
    return Vocoder(model, speaker=speaker)


def read_frames(path: Path) -> np.ndarray:
    """Mel frames (F, mels) from a NumPy file.

    Raises
    ------
    DataError
        It cannot be read, or holds something else than finite floats of two axes.
    """
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: mel frames cannot be read: {error}") from error
    if not isinstance(frames, np.ndarray) or frames.ndim != 2 or frames.dtype.kind != "f":
        raise DataError(f"{path}: must hold mel frames (F, mels) of floats, got {getattr(frames, 'shape', None)} "
                        f"{getattr(frames, 'dtype', None)}")  # fmt: skip
    if not np.isfinite(frames).all():
        raise DataError(f"{path}: mel frames must be finite, got NaN or infinite values")
    return frames
