"""Pictures of results: curves of the loss, before and after, spreads of several runs, confusion matrices."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wavedil.errors import DataError
from wavedil.report._figure import BLUE, FAINT, INK, RED, apart, note, page, save


def loss_curve(path, train, validation=(), baselines: Mapping[str, float] | None = None, title: str = "") -> Path:
    """Draw training and validation loss over the steps, with baselines as horizontal lines, into a PNG.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    train, validation : sequence of (step, bits) pairs
        Loss in bits per sample. The training loss is drawn raw (faint) and smoothed (a running mean over about a
        fiftieth of the run); the validation loss as measured.
    baselines : mapping of label to bits per sample, optional
        Each becomes a labelled horizontal line.
    title : str

    Raises
    ------
    DataError
        If `train` is empty.
    """
    train, validation, baselines = _pairs(train), _pairs(validation), dict(baselines or {})
    if not len(train):
        raise DataError("loss_curve: train must hold at least one (step, bits) pair, got none")
    figure, axes = page(9.0, 5.0, right=0.80)
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
    for name, value in baselines.items():
        axes.axhline(value, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        labels.append((value, f"{name} {value:.2f}", INK))

    # Single noisy steps may be cut off; they must not flatten the curve.
    shown = [*smooth, *np.quantile(bits, (0.01, 0.99)), *validation[:, 1], *baselines.values()]
    shown = [value for value in shown if math.isfinite(value)] or [0.0]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) + 0.05
    low, high = low - margin, high + margin
    axes.set_ylim(low, high)
    axes.set_xlim(0.0, 1.01 * max(steps[-1], 1.0))
    positions = apart([min(max(value, low), high) for value, _, _ in labels], gap=0.045 * (high - low))
    for y, (_, text, color) in zip(positions, labels, strict=True):
        note(axes, y, text, color)
    axes.set_xlabel("training step")
    axes.set_ylabel("bits per sample (lower is better)")
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    return save(figure, path)


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
    figure, axes = page(9.0, 4.4 + 0.6 * len(rows), right=0.80, rows=2, heights=(3.0, 0.4 + 0.5 * len(rows)))
    above, below = axes
    steps, bits = curve.T
    above.plot(steps, bits, color=RED, linewidth=1.8, marker="o", markersize=3.5)
    above.axhline(bits[0], color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    labels = [(bits[0], f"before {bits[0]:.2f}", INK), (bits[-1], f"now {bits[-1]:.2f}", RED)]
    low, high = bits.min(), bits.max()
    margin = 0.08 * (high - low) + 0.05
    above.set_ylim(low - margin, high + margin)
    above.set_xlim(0.0, 1.01 * max(steps[-1], 1.0))
    positions = apart([value for value, _, _ in labels], gap=0.08 * (high - low + 2 * margin))
    for y, (_, text, color) in zip(positions, labels, strict=True):
        note(above, y, text, color)
    above.set_xlabel("fine-tuning step")
    above.set_ylabel("bits per sample")
    above.set_title(title, loc="left", color=INK, fontsize=11)
    above.grid(axis="y", color="#eeeeee")

    for y, (before, after) in enumerate(rows.values()):
        color = BLUE if after <= before else RED
        below.annotate("", (after, y), (before, y), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.8})
        below.plot([before], [y], "o", color=FAINT, markersize=6)
        below.plot([after], [y], "o", color=color, markersize=6)
        note(below, y, f"{before:.2f} to {after:.2f} ({after - before:+.2f})", color)
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
    return save(figure, path)


def confusion_matrix(path, counts, labels: Sequence[str], title: str = "") -> Path:
    """Draw how often clips of each label were taken for each label, into a PNG.

    Rows are what the clips are, columns what they were taken for. Colours are shares of a row, so that rare labels show
    as much as common ones; numbers are clips.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    counts : (n, n) array of integers
        Such as ``ClipClassifier.evaluate(...).confusion``.
    labels : sequence of str
        n names.
    title : str
        Without one, the share of right ones.

    Raises
    ------
    DataError
        If `counts` is not square, or not of these labels.
    """
    counts, size = np.asarray(counts), len(labels)
    if counts.shape != (size, size) or size < 1:
        raise DataError(f"confusion_matrix: counts must be ({size}, {size}), as there are labels, got {counts.shape}")
    rows = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(rows, 1)
    side = max(4.2, 1.8 + 0.42 * size)
    figure, axes = page(side, side, right=0.97)
    longest = max(map(len, labels))
    figure.subplots_adjust(left=(0.55 + 0.085 * longest) / side, bottom=(0.55 + 0.085 * longest) / side)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(size), labels, rotation=90 if longest > 4 else 0)
    axes.set_yticks(range(size), labels)
    axes.tick_params(length=0)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    right = f"{np.trace(counts)} of {counts.sum()} right ({np.trace(counts) / max(counts.sum(), 1):.0%})"
    axes.set_title(title or right, loc="left", color=INK, fontsize=11)
    return save(figure, path)


def spread(path, arms: Mapping[str, Sequence[float]], label: str, chance: float | None = None, title: str = "") -> Path:
    """Draw results of several runs of each arm as dots, with their median as a line, into a PNG.

    Parameters
    ----------
    path : path-like
        The PNG to write.
    arms : mapping of name to numbers
        One number for each run.
    label : str
        What the numbers are, with their unit.
    chance : float, optional
        A level to compare with, drawn as a dashed line.
    title : str

    Raises
    ------
    DataError
        If there is no arm, or one without runs.
    """
    if not arms or not all(len(runs) for runs in arms.values()):
        raise DataError(f"spread: arms must hold at least one with at least one number each, got {dict(arms)!r}")
    figure, axes = page(7.5, 1.5 + 0.55 * len(arms), right=0.93)
    longest = max(map(len, arms))
    figure.subplots_adjust(left=(0.3 + 0.075 * longest) / 7.5)
    for row, runs in enumerate(arms.values()):
        median = float(np.median(runs))
        axes.plot([median, median], [row - 0.3, row + 0.3], color=RED, linewidth=2.5)
        axes.plot(runs, np.full(len(runs), row), "o", color=BLUE, markersize=6, alpha=0.6, markeredgewidth=0)
        note(axes, row, f"{median:.3g}", RED)
    if chance is not None:
        axes.axvline(chance, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate("chance", (chance, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -3),
                      textcoords="offset points", color=INK, fontsize=9, va="top")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return save(figure, path)


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
