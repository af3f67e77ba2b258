"""Draws the figures of docs/dilated-convolution.md: python docs/figures.py [FOLDER]."""

import sys
from pathlib import Path

from wavedil import report


def draw(folder):
    """Write all figures into a folder."""
    report.tap_tree(folder / "plain.png", [1] * 4, 2)
    report.tap_tree(folder / "doubling.png", [1, 2, 4, 8], 2)
    report.tap_coverage(folder / "kernel-3.png", [1, 2, 4, 8], 3)
    report.tap_coverage(folder / "cycles.png", [2**i for i in range(10)] * 2, 2)
    report.tap_tree(folder / "gridding.png", [2, 4, 8], 2)
    report.tap_coverage_2d(folder / "gridding-2d.png", [2, 4, 8], 3)
    report.tap_coverage_2d(folder / "hybrid-2d.png", [1, 2, 5], 3)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures")
