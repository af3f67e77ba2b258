"""Figures that can be read at a glance. The Agg canvas only: nothing of pyplot, no display."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {
    "wavedil": "#0b6e4f",
    "wavedil, recompute": "#6bbf9c",
    "wavedil, 2 threads": "#6bbf9c",
    "torch cached": "#d9742b",
    "torch naive": "#cccccc",
    "torch conv1d": "#f2a65a",
    "torch linear": "#d9742b",
    "torch.compile conv1d": "#b07aa1",
    "torch.compile linear": "#7b4f8a",
    "jax conv1d": "#8fb8de",
    "jax linear": "#3d6fa5",
}


def colour(label):
    return COLOURS.get(label, "#777777")


def figure(width, height, rows=1, columns=1, footnote=""):
    """A figure on an Agg canvas, and its axes in one list."""
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    if footnote:
        fig.supxlabel(footnote, fontsize=6.5, color="#555555")
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, list(axes.flat)


def grouped_bars(ax, groups, labels, value, text, unit, title):
    """Bars of each label in each group, the number written on top.

    Parameters
    ----------
    ax : Axes
    groups, labels : list of str
    value, text : callables (group, label) -> height (None leaves a gap) and what to write above the bar
    unit, title : str
    """
    width = 0.82 / len(labels)
    for j, label in enumerate(labels):
        for i, group in enumerate(groups):
            height = value(group, label)
            if height is None:
                continue
            x = i + (j - (len(labels) - 1) / 2) * width
            ax.bar(x, height, width * 0.94, color=colour(label), label=label)
            ax.annotate(text(group, label), (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=6.5)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(handles.values(), handles.keys(), fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xticks(range(len(groups)), groups)
    ax.set_ylabel(unit)
    ax.set_title(title, fontsize=10, loc="left")
