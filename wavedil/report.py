"""Pictures for people: the loss curve of a run, spectrograms, and what a stack of dilated convolutions sees.

Everything is drawn on Figure objects with the Agg canvas: no display is needed and no global matplotlib state changes.
matplotlib is imported when a picture is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from wavedil import receptive
from wavedil.errors import ConfigError, DataError

INK, FAINT, BLUE, RED = "#333333", "#999999", "#2066a8", "#c8452d"


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
    figure, axes = _figure(side, side, right=0.97)
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
    return _save(figure, path)


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
    figure, axes = _figure(7.5, 1.5 + 0.55 * len(arms), right=0.93)
    longest = max(map(len, arms))
    figure.subplots_adjust(left=(0.3 + 0.075 * longest) / 7.5)
    for row, runs in enumerate(arms.values()):
        median = float(np.median(runs))
        axes.plot([median, median], [row - 0.3, row + 0.3], color=RED, linewidth=2.5)
        axes.plot(runs, np.full(len(runs), row), "o", color=BLUE, markersize=6, alpha=0.6, markeredgewidth=0)
        axes.annotate(f"{median:.3g}", (1.0, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", color=RED, va="center", fontsize=9)
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
    return _save(figure, path)


# ---- dilations -------------------------------------------------------------------------------------------------------
TREE_LAGS, TREE_LINES = 4096, 150_000  # more are cut off: they would be finer than any screen
PIXELS = 128  # of an image's side: holes show only where each pixel does


def tap_tree(path, dilations: Sequence[int], kernel_size: int | Sequence[int], title: str = "") -> Path:
    """Draw which samples one output of a stack of causal dilated convolutions is made from, layer by layer.

    The figure of the WaveNet paper (arXiv:1609.03499, figure 3) for any stack: time runs to the right, the input is the
    lowest row, the output the dot at the top right. Input samples inside the receptive field that nothing leads to are
    red circles, or red ticks if they are many.

    Parameters
    ----------
    path : path-like
        The file to write: .png or .svg.
    dilations, kernel_size
        As in `wavedil.receptive.receptive_field`.
    title : str

    Raises
    ------
    ConfigError
        As `wavedil.receptive.multiplicity`, or if the name ends otherwise.
    """
    kind = _kind("tap_tree", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (axes,) = _fitted(9.0, [_tree_height(found)])
    _tree(axes, found)
    axes.set_title(title or _what(found), loc="left", color=INK, fontsize=11)
    return _save(figure, path, kind)


def tap_coverage(path, dilations: Sequence[int], kernel_size: int | Sequence[int], title: str = "") -> Path:
    """Draw how many paths lead from each input sample to one output of a stack: its multiplicity; holes are red.

    Parameters
    ----------
    path : path-like
        The file to write: .png or .svg.
    dilations, kernel_size
        As in `wavedil.receptive.receptive_field`.
    title : str

    Raises
    ------
    ConfigError
        As `wavedil.receptive.multiplicity`, or if the name ends otherwise.
    """
    kind = _kind("tap_coverage", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (axes,) = _fitted(9.0, [3.0])
    _coverage(axes, found)
    axes.set_title(title or _what(found), loc="left", color=INK, fontsize=11)
    return _save(figure, path, kind)


def tap_coverage_2d(path, dilations: Sequence, kernel_size, title: str = "") -> Path:
    """Draw how many paths lead from each pixel to the middle one of a stack of 2D convolutions; white is never seen.

    Of fields with more than 128 pixels a side the middle is drawn.

    Parameters
    ----------
    path : path-like
        The file to write: .png or .svg.
    dilations, kernel_size
        As in `wavedil.receptive.multiplicity_2d`.
    title : str

    Raises
    ------
    ConfigError
        As `wavedil.receptive.multiplicity_2d`, or if the name ends otherwise.
    """
    kind = _kind("tap_coverage_2d", path)
    whole = receptive.multiplicity_2d(dilations, kernel_size)
    counts = _middle(_middle(whole).T).T
    figure, (axes,) = _fitted(6.4, [5.4])
    _coverage_2d(axes, counts)
    text = f"dilations {_listed(dilations)}, kernel {kernel_size}: {whole.shape[0]:,} x {whole.shape[1]:,} pixels"
    if counts.shape != whole.shape:
        text += ", the middle"
    axes.set_title(title or text, loc="left", color=INK, fontsize=11)
    return _save(figure, path, kind)


def dilations_page(path, dilations: Sequence[int], kernel_size: int, title: str = "") -> Path:
    """Draw a page about a stack: the tree of taps, the coverage of each lag below it, and the same stack in 2D.

    Parameters
    ----------
    path : path-like
        The file to write: .png or .svg.
    dilations : sequence of int
    kernel_size : int
    title : str

    Raises
    ------
    ConfigError
        As `wavedil.receptive.multiplicity`, or if the name ends otherwise.
    """
    kind = _kind("dilations_page", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (tree, coverage), (image,) = _fitted(9.0, [_tree_height(found), 2.6], [4.4])
    _tree(tree, found)
    tree.set_title(title or _what(found), loc="left", color=INK, fontsize=11)
    _coverage(coverage, found)
    middle = _middle(found.multiplicity).astype(object)
    _coverage_2d(image, np.multiply.outer(middle, middle))
    cut = ", the middle" if len(middle) < found.receptive_field else ""
    image.set_title(f"the same stack in two dimensions{cut}", loc="left", color=INK, fontsize=10)
    most, n = int(found.multiplicity.max()), len(found.holes)
    facts = (f"field: {_count(found.receptive_field, 'sample')}",
             f"holes: {n:,}" + (f", the first at lag {found.holes[0]:,}" if n else ""),
             f"gridding: {found.gridding:.3f}",
             f"paths: {_short(found.paths)}, at most {_short(most)} to a lag",
             f"evenness: {found.evenness:.2f}")
    image.figure.text(0.01, 0.9, "\n".join(facts), va="top", color=INK, fontsize=10, linespacing=1.8)
    return _save(figure, path, kind)


def _kind(where, path):
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ConfigError(f"{where}: path must end in .png or .svg, got {str(path)!r}")
    return kind


def _what(found):
    sizes = sorted(set(found.kernel_sizes))
    kernel = f"kernel {sizes[0]}" if len(sizes) == 1 else f"kernels {_listed(found.kernel_sizes)}"
    n = len(found.holes)
    return (f"dilations {_listed(found.dilations)}, {kernel}: {_count(found.receptive_field, 'sample')}, "
            f"{_count(n, 'hole') if n else 'no hole'}")


def _count(n, what):
    return f"{n:,} {what}" + ("s" if n != 1 else "")


def _short(n):
    return f"{n:,}" if n < 10**9 else f"{Decimal(n):.1e}"


def _middle(counts):
    """At most PIXELS of the first axis."""
    cut = max(0, len(counts) - PIXELS)
    return counts[cut // 2 : len(counts) - (cut + 1) // 2]


def _listed(values):
    """Some numbers in short, cycles as such."""
    values = list(values)
    for length in range(1, len(values) // 2 + 1):
        cycles, rest = divmod(len(values), length)
        if not rest and values[:length] * cycles == values:
            return f"({_listed(values[:length])}) x {cycles}" if length > 1 else f"{values[0]} x {cycles}"
    texts = [str(value).replace(" ", "") for value in values]
    return "-".join(texts if len(texts) <= 12 else [*texts[:5], "...", *texts[-2:]])


def _tree_height(found):
    return min(1.4 + 0.5 * (len(found.dilations) + 1), 7.0)


def _tree(axes, found):
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba_array

    field, depth = found.receptive_field, len(found.dilations)
    shown = min(field, TREE_LAGS, max(1, TREE_LINES // sum(found.kernel_sizes)))
    seen = np.arange(shown) == 0
    rows, segments, few, width = [seen], [], [], float(np.clip(60 / shown, 0.25, 1.4))
    for level in range(depth, 0, -1):
        d, k = found.dilations[level - 1], found.kernel_sizes[level - 1]
        lags, below = np.flatnonzero(seen), np.zeros(shown, bool)
        few += [300 / (k * len(lags))] * (k * len(lags))
        for tap in range(k):
            ends = lags + tap * d
            segments.append(np.stack([np.stack([-lags, np.full_like(lags, level)], 1),
                                      np.stack([-ends, np.full_like(ends, level - 1)], 1)], 1))
            below[ends[ends < shown]] = True
        seen = below
        rows.append(seen)
    # A layer's few lines are drawn thick and dark, its many are shades.
    axes.add_collection(LineCollection(np.concatenate(segments), colors=to_rgba_array(BLUE, np.clip(few, 0.12, 0.8)),
                                       linewidths=np.clip(few, width, max(width, 0.8)), zorder=1,
                                       rasterized=len(few) > 2000))
    size = float(np.clip(420 / shown, 0.8, 8))
    seen = np.stack(rows[::-1])
    if shown <= 128:
        levels, at = np.nonzero(~seen[1:])
        axes.plot(-at, levels + 1, "o", color="#dddddd", markersize=0.5 * size, zorder=0)
    levels, at = np.nonzero(seen)
    axes.plot(-at, levels, "o", color=BLUE, markersize=size, markeredgewidth=0, rasterized=len(at) > 1000, zorder=2)
    axes.plot(0, depth, "o", color=INK, markersize=size, markeredgewidth=0, zorder=3)
    holes = found.holes[found.holes < shown]
    if shown <= 128:
        axes.plot(-holes, np.zeros(len(holes)), "o", markerfacecolor="white", markeredgecolor=RED, markersize=size,
                  markeredgewidth=1.2, zorder=3)
    else:
        axes.plot(-holes, np.full(len(holes), -0.22), "|", color=RED, markersize=6, markeredgewidth=width,
                  rasterized=len(holes) > 2000)
    step = -(-depth // 12)
    levels = [0, *(level for level in range(depth, 0, -step))]
    names = {level: f"dilation {found.dilations[level - 1]:,}" for level in range(1, depth + 1)}
    axes.set_yticks(levels, ["input" if level == 0 else names[level] for level in levels])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_ylim(-0.45, depth + 0.35)
    axes.set_xlabel("samples ago")
    _past(axes, shown)
    if shown < field:
        axes.text(0.01, 1.0, f"the latest {shown:,} of {field:,} samples", transform=axes.transAxes, va="top",
                  color=INK, fontsize=9)


def _coverage(axes, found):
    counts = found.multiplicity
    scale = counts.max() if counts.max() >= 2**63 else 1
    values = (counts / scale).astype(np.float64)
    lags = np.arange(len(values))
    if len(values) <= 256:
        axes.bar(-lags, values, width=0.8, color=BLUE)
    else:
        axes.fill_between(-lags, values, step="mid", color=BLUE, linewidth=0.3, rasterized=len(values) > 4000)
    top = float(values.max())
    axes.set_ylim(-0.06 * top, (1.25 if len(found.holes) else 1.1) * top)
    axes.plot(-found.holes, np.full(len(found.holes), -0.03 * top), "s" if len(values) <= 128 else "|", color=RED,
              markersize=4, markeredgewidth=float(np.clip(200 / len(values), 0.3, 1.0)),
              rasterized=len(found.holes) > 2000)
    if len(found.holes):
        axes.text(0.01, 1.0, f"red: the {len(found.holes):,} lags that are never seen", transform=axes.transAxes,
                  va="top", color=RED, fontsize=9)
    if top <= 6:
        axes.set_yticks(range(int(top) + 1))
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_ylabel("paths" if scale == 1 else "paths (1 = the most)")
    axes.set_xlabel("samples ago")
    _past(axes, len(values))


def _past(axes, field):
    """Time runs to the right, up to now; ticks say how long ago."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    margin = 0.012 * field + 0.5
    axes.set_xlim(-(field - 1) - margin, margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):,.0f}" if x <= 0 else ""))


def _coverage_2d(axes, counts):
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    scale = counts.max() if counts.max() >= 2**63 else 1
    values = np.ma.masked_equal((counts / scale).astype(np.float64), 0)
    low, high = float(values.min()), float(values.max())
    norm = LogNorm(low, high) if high > 30 * low else Normalize(0, high)
    (top, left), (height, width) = ((n - 1) / 2 for n in counts.shape), counts.shape
    image = axes.imshow(values, cmap="viridis", norm=norm, interpolation="nearest",
                        extent=(-left - 0.5, width - left - 0.5, height - top - 0.5, -top - 0.5))
    axes.spines[["top", "right"]].set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel("columns from the middle")
    axes.set_ylabel("rows from the middle")
    unseen = int((counts == 0).sum())
    label = "paths" if scale == 1 else "paths (1 = the most)"
    if unseen:
        label += f"; white: never seen ({unseen / counts.size:.0%})"
    whole = MaxNLocator(nbins=6, integer=True) if high <= 30 * low else None
    axes.figure.colorbar(image, ax=axes, label=label, ticks=whole)


# ---- what they share -------------------------------------------------------------------------------------------------
def _figure(width, height, right, rows=None, heights=None):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.subplots(rows or 1, 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.subplots_adjust(left=0.085, right=right, top=1.0 - 0.6 / height, bottom=0.55 / height, hspace=0.3)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, (axes if rows else axes[0])


def _fitted(width, *groups):
    """A figure of axes below each other that make room for their labels; those of a group (a list of heights) align."""
    from matplotlib.figure import Figure

    heights = [sum(group) for group in groups]
    figure = Figure(figsize=(width, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    axes = [part.subplots(len(group), 1, squeeze=False, height_ratios=group)[:, 0]
            for part, group in zip(parts, groups, strict=True)]
    for one in np.concatenate(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, *axes


def _save(figure, path, kind="png"):
    path = Path(path)
    figure.savefig(path, format=kind)
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
