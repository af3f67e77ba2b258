"""Shared by all tests: one hypothesis profile, so that a run can be repeated."""

from hypothesis import settings

settings.register_profile("wavedil", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("wavedil")
