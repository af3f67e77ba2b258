"""Shared by all tests: one hypothesis profile, so that a run can be repeated, and a Ctrl-C that works."""

import signal

from hypothesis import settings

settings.register_profile("wavedil", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("wavedil")


def pytest_configure(config):
    """A shell's background jobs start with Ctrl-C ignored; its tests need the usual handler, here and in children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
