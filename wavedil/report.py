"""Pictures for people: the loss curve of a run, and a real clip's spectrogram above a generated one's.

Everything is drawn on Figure objects with the Agg canvas: no display is needed and no global matplotlib state changes.
matplotlib is imported when a picture is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wavedil.errors import DataError

INK, FAINT, BLUE, RED = "#333333", "#999999", "#2066a8", "#c8452d"


def loss_curve(path, train, validation=(), yardsticks: Mapping[str, float] | None = None, title: str = "") -> Path:
    """Draw training and validation loss over the steps, with yardsticks as horizontal lines, into a PNG.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    train, validation : sequence of (step, bits) pairs
        Loss in bits per sample. The training loss is drawn raw (faint) and smoothed (a running mean over about a
        fiftieth of the run); the validation loss as measured.
    yardsticks : mapping of label to bits per sample, optional
        Each becomes a labelled horizontal line.
    title : str

    Raises
    ------
    DataError
        If `train` is empty.
    """
    train, validation, yardsticks = _pairs(train), _pairs(validation), dict(yardsticks or {})
    if not len(train):
        raise DataError("loss_curve: train must hold at least one (step, bits) pair, got none")
    figure, axes = _figure(9.0, 5.0, right=0.80)
    steps, bits = train.T
    smooth = _running_mean(bits, max(1, len(bits) // 50))
    marker = "o" if len(bits) == 1 else None
    axes.plot(steps, bits, color=BLUE, linewidth=0.8, alpha=0.3, marker=marker)
    axes.plot(steps, smooth, color=BLUE, linewidth=1.8)
    labels = [(smooth[-1], f"training {smooth[-1]:.2f}", BLUE)]
    if len(validation):
        at, held_out = validation.T
        axes.plot(at, held_out, color=RED, linewidth=1.8, marker="o", markersize=3.5)
        labels.append((held_out[-1], f"validation {held_out[-1]:.2f}", RED))
    for name, value in yardsticks.items():
        axes.axhline(value, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        labels.append((value, f"{name} {value:.2f}", INK))

    # Single noisy steps may be cut off; they must not flatten the curve.
    shown = [*smooth, *np.quantile(bits, (0.01, 0.99)), *validation[:, 1], *yardsticks.values()]
    shown = [value for value in shown if math.isfinite(value)] or [0.0]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) + 0.05
    low, high = low - margin, high + margin
    axes.set_ylim(low, high)
    axes.set_xlim(0.0, 1.01 * max(steps[-1], 1.0))
    positions = _spread([min(max(value, low), high) for value, _, _ in labels], gap=0.045 * (high - low))
    for y, (_, text, color) in zip(positions, labels, strict=True):
        axes.annotate(text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                      color=color, va="center", fontsize=9, annotation_clip=False)
    axes.set_xlabel("training step")
    axes.set_ylabel("bits per sample (lower is better)")
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    return _save(figure, path)


def before_after(path, curve, rows: Mapping[str, tuple[float, float]], title: str = "") -> Path:
    """Draw what fine-tuning did into a PNG: the new clips' loss over the steps, and each set of clips before and after.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    curve : sequence of (step, bits) pairs
        Validation loss of the new clips in bits per sample; step 0 is the pretrained model.
    rows : mapping of label to (before, after)
        Bits per sample of each set of clips.
    title : str

    Raises
    ------
    DataError
        If `curve` or `rows` is empty.
    """
    curve = _pairs(curve)
    if not len(curve) or not rows:
        raise DataError("before_after: curve and rows must hold at least one entry each, got none")
    figure, axes = _figure(9.0, 4.4 + 0.6 * len(rows), right=0.80, rows=2, heights=(3.0, 0.4 + 0.5 * len(rows)))
    above, below = axes
    steps, bits = curve.T
    above.plot(steps, bits, color=RED, linewidth=1.8, marker="o", markersize=3.5)
    above.axhline(bits[0], color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    labels = [(bits[0], f"before {bits[0]:.2f}", INK), (bits[-1], f"now {bits[-1]:.2f}", RED)]
    low, high = bits.min(), bits.max()
    margin = 0.08 * (high - low) + 0.05
    above.set_ylim(low - margin, high + margin)
    above.set_xlim(0.0, 1.01 * max(steps[-1], 1.0))
    positions = _spread([value for value, _, _ in labels], gap=0.08 * (high - low + 2 * margin))
    for y, (_, text, color) in zip(positions, labels, strict=True):
        above.annotate(text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                       color=color, va="center", fontsize=9, annotation_clip=False)
    above.set_xlabel("fine-tuning step")
    above.set_ylabel("bits per sample")
    above.set_title(title, loc="left", color=INK, fontsize=11)
    above.grid(axis="y", color="#eeeeee")

    for y, (before, after) in enumerate(rows.values()):
        color = BLUE if after <= before else RED
        below.annotate("", (after, y), (before, y), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.8})
        below.plot([before], [y], "o", color=FAINT, markersize=6)
        below.plot([after], [y], "o", color=color, markersize=6)
        below.annotate(f"{before:.2f} to {after:.2f} ({after - before:+.2f})", (1.0, y),
                       xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", color=color,
                       va="center", fontsize=9, annotation_clip=False)
    below.set_yticks(range(len(rows)), list(rows))
    below.set_ylim(len(rows) - 0.4, -0.6)
    ends = [value for pair in rows.values() for value in pair]
    margin = 0.08 * (max(ends) - min(ends)) + 0.05
    below.set_xlim(min(ends) - margin, max(ends) + margin)
    below.set_xlabel("bits per sample, before (grey) and after; lower is better")
    below.grid(axis="x", color="#eeeeee")
    for one in axes:
        one.set_axisbelow(True)
    figure.subplots_adjust(left=0.13, hspace=0.45)
    return _save(figure, path)


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
    figure, rows = _figure(9.0, 0.8 + 2.6 * len(pictures), right=0.86, rows=len(pictures))
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
    return _save(figure, path)


def _figure(width, height, right, rows=None, heights=None):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.subplots(rows or 1, 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.subplots_adjust(left=0.085, right=right, top=1.0 - 0.6 / height, bottom=0.55 / height, hspace=0.3)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, (axes if rows else axes[0])


def _save(figure, path):
    path = Path(path)
    figure.savefig(path, format="png")
    return path


def _pairs(pairs):
    return np.array(list(pairs), dtype=np.float64).reshape(-1, 2)


def _running_mean(values, span):
    """Exponential running mean over about `span` values, free of the start-up bias."""
    keep = 1.0 - 1.0 / span
    smooth, total, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1.0
        smooth[i] = total / weight
    return smooth


def _spread(values, gap):
    """Move label positions apart until neighbours are at least `gap` from each other, in the order of their values."""
    order = np.argsort(values, kind="stable")
    placed = np.array(values, dtype=np.float64)[order]
    for _ in range(100):
        overlap = gap - np.diff(placed)
        if (overlap <= 1e-9).all():
            break
        push = np.maximum(overlap, 0.0) / 2
        placed[:-1] -= push
        placed[1:] += push
    result = np.empty(len(values))
    result[order] = placed
    return result


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
