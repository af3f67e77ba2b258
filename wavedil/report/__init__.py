"""Pictures for people: the loss curve of a run, spectrograms, and what a stack of dilated convolutions sees.

Everything is drawn on Figure objects with the Agg canvas: no display is needed and no global matplotlib state changes.
matplotlib is imported when a picture is drawn.
"""

from wavedil.report.audio import spectrogram_page
from wavedil.report.dilations import dilations_page, tap_coverage, tap_coverage_2d, tap_tree
from wavedil.report.training import before_after, confusion_matrix, loss_curve, spread

__all__ = [
    "before_after",
    "confusion_matrix",
    "dilations_page",
    "loss_curve",
    "spectrogram_page",
    "spread",
    "tap_coverage",
    "tap_coverage_2d",
    "tap_tree",
]
