"""Pictures of sound: spectrograms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wavedil.errors import DataError
from wavedil.report._figure import INK, page, save


def spectrogram_page(path, clips: Sequence[tuple[str, np.ndarray]], sample_rate: int, title: str = "") -> Path:
    """Draw the spectrograms of labelled clips below each other, on the same scales, into a PNG.

    Magnitudes are in dB relative to the loudest bin of the first clip; all clips share the colours, the time axis
    (seconds) and the frequency axis (Hz). Frames are 32 ms with a Hann window, every 4 ms.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    clips : sequence of (label, samples) pairs
        samples: (n,) float, n >= 1.
    sample_rate : int
        Hz, the same for all clips.
    title : str

    Raises
    ------
    DataError
        If there is no clip, or one is empty, not 1-D or not finite.
    """
    if not clips:
        raise DataError("spectrogram_page: clips must hold at least one (label, samples) pair, got none")
    frame, hop = max(16, round(0.032 * sample_rate)), max(1, round(0.004 * sample_rate))
    pictures = [(label, _magnitudes(label, x, frame, hop), len(x) / sample_rate) for label, x in clips]
    reference = max(float(pictures[0][1].max()), 1e-10)
    figure, rows = page(9.0, 0.8 + 2.6 * len(pictures), right=0.86, rows=len(pictures))
    for axes, (label, magnitudes, seconds) in zip(rows, pictures, strict=True):
        decibels = 20.0 * np.log10(np.maximum(magnitudes, 1e-10) / reference)
        image = axes.imshow(decibels.T, origin="lower", aspect="auto", cmap="magma", vmin=-70.0, vmax=0.0,
                            extent=(0.0, seconds, 0.0, sample_rate / 2), interpolation="nearest")
        axes.set_xlim(0.0, max(length for _, _, length in pictures))
        axes.set_ylabel("frequency (Hz)")
        axes.set_title(label, loc="left", color=INK, fontsize=10)
    rows[-1].set_xlabel("time (s)")
    bounds = rows[0].get_position(), rows[-1].get_position()
    bar = figure.add_axes((0.88, bounds[1].y0, 0.018, bounds[0].y1 - bounds[1].y0))
    figure.colorbar(image, cax=bar, label="level (dB, 0 = loudest bin of the top clip)")
    if title:
        figure.suptitle(title, x=bounds[0].x0, y=0.985, ha="left", color=INK, fontsize=11)
    return save(figure, path)


def _magnitudes(label, x, frame, hop):
    """Short-time magnitudes (frames, frame // 2 + 1) of samples padded by half a frame of silence on each side."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"spectrogram_page: clip {label!r} must have shape (n,) with n >= 1, got {x.shape}")
    if not np.isfinite(x).all():
        raise DataError(f"spectrogram_page: clip {label!r} must hold finite samples, got NaN or infinity")
    padded = np.pad(x, (frame // 2, frame - frame // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(frame)))
