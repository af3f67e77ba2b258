"""Shared by all tests: one hypothesis profile, so that a run can be repeated, markers, and a Ctrl-C that works."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
# Folders and files of each marker, as pytest's options -m slow, -m "not slow" choose them.
MARKED = {
    "slow": ("benchmarks", "cli", "docs", "on_cuda", "training"),
    "cuda": ("on_cuda",),
    "docs": ("docs",),
}

settings.register_profile("wavedil", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("wavedil")


def pytest_configure(config):
    """A shell's background jobs start with Ctrl-C ignored; its tests need the usual handler, here and in children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Mark each test by the folder that it lies in."""
    for item in items:
        parts = item.path.relative_to(TESTS).parts
        for marker, folders in MARKED.items():
            if parts[0] in folders:
                item.add_marker(getattr(pytest.mark, marker))
