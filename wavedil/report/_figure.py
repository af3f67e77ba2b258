"""What the pictures share: figures, colours, files and labels that keep apart."""

from pathlib import Path

import numpy as np

from wavedil.errors import ConfigError

INK, FAINT, BLUE, RED = "#333333", "#999999", "#2066a8", "#c8452d"


def page(width, height, right, rows=None, heights=None):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.subplots(rows or 1, 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.subplots_adjust(left=0.085, right=right, top=1.0 - 0.6 / height, bottom=0.55 / height, hspace=0.3)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, (axes if rows else axes[0])


def fitted(width, *groups):
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


def save(figure, path, kind="png"):
    path = Path(path)
    figure.savefig(path, format=kind)
    return path


def kind_of(where, path):
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ConfigError(f"{where}: path must end in .png or .svg, got {str(path)!r}")
    return kind


def apart(values, gap):
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


def note(axes, y, text, color):
    """Write text to the right of the axes, at a height of their data."""
    axes.annotate(text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                  color=color, va="center", fontsize=9, annotation_clip=False)
