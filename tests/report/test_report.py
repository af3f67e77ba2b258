"""The pictures: right data on right axes, readable labels, no display and no global state."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from wavedil import receptive, report
from wavedil.errors import ConfigError, DataError
from wavedil.report._figure import RED

BASELINES = {"uniform": 8.0, "order-0 entropy": 7.66, "FLAC": 6.30, "order-1 entropy": 6.22}


@pytest.fixture
def figures(monkeypatch):
    """The figures that a call draws, as they are just before they are saved."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k))[1])
    return drawn


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_loss_curve_shows_all_series_and_labels(tmp_path, figures):
    train = [(step, 8.0 - step / 50) for step in range(1, 101)]
    validation = [(50, 7.2), (100, 6.1)]
    path = report.loss_curve(tmp_path / "loss.png", train, validation, BASELINES, title="tiny: 100 steps")
    assert is_png(path)
    (axes,) = figures[0].axes
    raw, smooth, held_out, *horizontal = axes.lines
    assert np.array_equal(raw.get_xydata(), np.array(train))
    assert np.array_equal(held_out.get_xydata(), np.array(validation))
    assert [line.get_ydata()[0] for line in horizontal] == list(BASELINES.values())
    assert len(smooth.get_ydata()) == 100
    assert abs(smooth.get_ydata()[-1] - raw.get_ydata()[-1]) < 0.2
    assert "bits per sample" in axes.get_ylabel()
    texts = [text.get_text() for text in axes.texts]
    assert any(text.startswith("validation 6.10") for text in texts)
    assert all(any(text.startswith(name) for text in texts) for name in BASELINES)


def test_loss_curve_keeps_close_labels_apart(tmp_path, figures):
    report.loss_curve(tmp_path / "loss.png", [(1, 6.25), (2, 6.25)], [(2, 6.24)], BASELINES)
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    heights = sorted(text.xy[1] for text in axes.texts)
    assert min(np.diff(heights)) >= 0.044 * (high - low)


@pytest.mark.parametrize("train", [[(1, 8.0)], [(1, 8.0), (2, float("nan"))], [(1, float("nan"))]])
def test_loss_curve_survives_short_and_diverged_runs(tmp_path, train):
    assert is_png(report.loss_curve(tmp_path / "loss.png", train))


def test_loss_curve_without_steps_is_an_error(tmp_path):
    with pytest.raises(DataError, match="at least one"):
        report.loss_curve(tmp_path / "loss.png", [])


def test_spectrogram_puts_a_tone_at_its_frequency_and_level(tmp_path, figures):
    rate = 8000
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    path = report.spectrogram_page(tmp_path / "s.png", [("real", tone), ("generated", 0.1 * tone[: rate // 2])], rate)
    assert is_png(path)
    top, bottom = figures[0].axes[:2]
    assert (top.get_title(loc="left"), bottom.get_title(loc="left")) == ("real", "generated")
    assert top.get_xlim() == bottom.get_xlim() == (0.0, 1.0)
    assert "Hz" in top.get_ylabel() and "(s)" in bottom.get_xlabel()
    levels = [axes.images[0].get_array()[:, 60] for axes in (top, bottom)]
    for level, axes in zip(levels, (top, bottom), strict=True):
        assert axes.images[0].get_extent()[2:] == [0.0, 4000.0]
        assert abs(np.argmax(level) * 4000 / (len(level) - 1) - 1000) < 4000 / len(level)
    assert abs(levels[0].max()) < 1.0
    assert abs(levels[1].max() + 20.0) < 1.0  # a tenth of the amplitude, on the same scale
    assert top.images[0].get_clim() == bottom.images[0].get_clim()


@pytest.mark.parametrize("samples", [[0.0], [0.0] * 5])
def test_spectrogram_of_very_short_or_silent_clips(tmp_path, samples):
    assert is_png(report.spectrogram_page(tmp_path / "s.png", [("real", samples)], 8000))


@pytest.mark.parametrize(
    ("clips", "message"),
    [([], "at least one"), ([("real", [])], "n >= 1"), ([("real", [[0.0]])], "shape"), ([("x", [np.nan])], "finite")],
)
def test_spectrogram_of_bad_clips_is_an_error(tmp_path, clips, message):
    with pytest.raises(DataError, match=message):
        report.spectrogram_page(tmp_path / "s.png", clips, 8000)


# ---- dilations -------------------------------------------------------------------------------------------------------
def test_tree_has_a_line_for_each_tap_and_a_circle_for_each_hole(tmp_path, figures):
    assert is_png(report.tap_tree(tmp_path / "tree.png", [2, 4], 2))
    (axes,) = figures[0].axes
    lines = {tuple(map(tuple, segment)) for part in axes.collections for segment in part.get_segments()}
    # From the output, level 2, down to the input, level 0; time is negative: -4 is four samples ago.
    assert lines == {((0, 2), (0, 1)), ((0, 2), (-4, 1)),
                     ((0, 1), (0, 0)), ((0, 1), (-2, 0)), ((-4, 1), (-4, 0)), ((-4, 1), (-6, 0))}
    (holes,) = [line for line in axes.lines if line.get_markeredgecolor() == RED]
    assert sorted(holes.get_xdata()) == [-5, -3, -1] and set(holes.get_ydata()) == {0}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["input", "dilation 4", "dilation 2"]
    assert axes.get_title(loc="left") == "dilations 2-4, kernel 2: 7 samples, 3 holes"
    figures[0].canvas.draw()
    assert {text.get_text() for text in axes.get_xticklabels()} >= {"0", "2", "4", "6"}


@pytest.mark.parametrize(("dilations", "kernel_size"), [([1, 2, 4, 8], 3), ([5], 1), ([2**i for i in range(8)] * 2, 3)])
def test_coverage_shows_every_count(tmp_path, figures, dilations, kernel_size):
    report.tap_coverage(tmp_path / "coverage.png", dilations, kernel_size)
    (axes,) = figures[0].axes
    counts = receptive.multiplicity(dilations, kernel_size)
    if axes.patches:
        assert [bar.get_height() for bar in axes.patches] == counts.tolist()
        assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx(-np.arange(len(counts)))
    else:
        assert axes.collections[0].get_datalim(axes.transData).ymax == counts.max()
    assert axes.get_ylim()[1] > counts.max() and axes.get_xlim()[0] < 1 - len(counts)


def test_2d_coverage_is_an_image_around_the_middle(tmp_path, figures):
    report.tap_coverage_2d(tmp_path / "square.png", [(1, 2), (2, 4)], 3)
    (image,) = figures[0].axes[0].images
    assert image.get_extent() == [-6.5, 6.5, 3.5, -3.5]
    counts = receptive.multiplicity_2d([(1, 2), (2, 4)], 3)
    assert np.array_equal(image.get_array().filled(0), counts)
    assert "never seen (46%)" in figures[0].axes[1].get_ylabel()  # 6 of 13 columns
    report.tap_coverage_2d(tmp_path / "large.png", [(100, 1)], 3)
    assert figures[1].axes[0].images[0].get_array().shape == (128, 3)
    assert "201 x 3 pixels, the middle" in figures[1].axes[0].get_title(loc="left")


@pytest.mark.parametrize(
    ("dilations", "kernel_size", "title"),
    [([1, 2, 4, 8] * 3, 2, "dilations (1-2-4-8) x 3, kernel 2: 46 samples, no hole"),
     ([1] * 1100, 2, "dilations 1 x 1100, kernel 2: 1,101 samples, no hole"),
     ([2**i for i in range(1, 15)], 2, "dilations 2-4-8-16-32-...-8192-16384, kernel 2: 32,767 samples, 16,383 holes")],
)
def test_page_for_small_and_huge_stacks(tmp_path, figures, dilations, kernel_size, title):
    assert is_png(report.dilations_page(tmp_path / "page.png", dilations, kernel_size))
    tree, coverage, image, _ = figures[0].axes
    assert tree.get_title(loc="left") == title
    assert coverage.get_xlabel() == "samples ago" and image.get_title(loc="left").startswith("the same stack in two")
    assert tree.get_position().x0 == pytest.approx(coverage.get_position().x0)


def test_svg_and_other_names(tmp_path):
    path = report.dilations_page(tmp_path / "page.SVG", [1, 2], 2)
    assert b"<svg" in path.read_bytes()
    for draw in (report.dilations_page, report.tap_tree, report.tap_coverage, report.tap_coverage_2d):
        with pytest.raises(ConfigError, match=rf"{draw.__name__}: path must end in .png or .svg, got '.*page.pdf'"):
            draw(tmp_path / "page.pdf", [1, 2], 2)
        with pytest.raises(ConfigError, match="each of dilations must be at least 1, got 0"):
            draw(tmp_path / "page.png", [1, 0], 2)


def test_drawing_needs_no_display_and_never_loads_pyplot(tmp_path):
    code = (
        "import sys; from wavedil import report; assert 'matplotlib' not in sys.modules\n"
        f"report.loss_curve({str(tmp_path / 'loss.png')!r}, [(1, 8.0)])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "", "HOME": str(tmp_path)}, timeout=60)


def test_confusion_matrix_shows_counts_by_row(tmp_path, figures):
    counts = np.array([[8, 2, 0], [1, 1, 0], [0, 0, 0]])
    path = report.confusion_matrix(tmp_path / "confusion.png", counts, ["zero", "one", "never seen"])
    assert is_png(path)
    (axes,) = figures[0].axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0.5, 0.5, 0], [0, 0, 0]])
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {((0, 0), "8"), ((1, 0), "2"), ((0, 1), "1"),
                                                                     ((1, 1), "1")}  # fmt: skip
    assert [t.get_text() for t in axes.get_yticklabels()] == ["zero", "one", "never seen"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("is", "taken for")
    assert axes.get_title(loc="left") == "9 of 12 right (75%)"
    with pytest.raises(DataError, match=r"counts must be \(2, 2\), as there are labels, got \(3, 3\)"):
        report.confusion_matrix(tmp_path / "no.png", counts, ["a", "b"])


def test_spread_shows_every_run_and_the_median(tmp_path, figures):
    arms = {"from scratch": [0.2, 0.3, 0.7], "pretrained": [0.8]}
    assert is_png(report.spread(tmp_path / "spread.png", arms, "accuracy", chance=0.25, title="5 clips"))
    (axes,) = figures[0].axes
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert [[0.2, 0], [0.3, 0], [0.7, 0]] in lines and [[0.8, 1]] in lines
    assert [[0.3, -0.3], [0.3, 0.3]] in lines and [0.25, 0.25] in [[x for x, _ in line] for line in lines]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(arms) and axes.get_xlabel() == "accuracy"
    for bad in ({}, {"a": []}):
        with pytest.raises(DataError, match="arms must hold at least one with at least one number each"):
            report.spread(tmp_path / "no.png", bad, "accuracy")
