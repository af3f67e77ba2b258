"""Pictures of what a stack of dilated convolutions sees: its taps, and how often it sees each lag."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from wavedil import receptive
from wavedil.report._figure import BLUE, INK, RED, fitted, kind_of, save

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
    kind = kind_of("tap_tree", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (axes,) = fitted(9.0, [_tree_height(found)])
    _tree(axes, found)
    axes.set_title(title or _what(found), loc="left", color=INK, fontsize=11)
    return save(figure, path, kind)


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
    kind = kind_of("tap_coverage", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (axes,) = fitted(9.0, [3.0])
    _coverage(axes, found)
    axes.set_title(title or _what(found), loc="left", color=INK, fontsize=11)
    return save(figure, path, kind)


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
    kind = kind_of("tap_coverage_2d", path)
    whole = receptive.multiplicity_2d(dilations, kernel_size)
    counts = _middle(_middle(whole).T).T
    figure, (axes,) = fitted(6.4, [5.4])
    _coverage_2d(axes, counts)
    text = f"dilations {_listed(dilations)}, kernel {kernel_size}: {whole.shape[0]:,} x {whole.shape[1]:,} pixels"
    if counts.shape != whole.shape:
        text += ", the middle"
    axes.set_title(title or text, loc="left", color=INK, fontsize=11)
    return save(figure, path, kind)


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
    kind = kind_of("dilations_page", path)
    found = receptive.analyse(dilations, kernel_size)
    figure, (tree, coverage), (image,) = fitted(9.0, [_tree_height(found), 2.6], [4.4])
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
    return save(figure, path, kind)


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
    _time_axis(axes, shown)
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
    _time_axis(axes, len(values))


def _time_axis(axes, field):
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
