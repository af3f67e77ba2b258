"""Benchmarks: wavedil beside its peers, each in a process of its own, in alternation.

See ``python -m benchmarks --help``.
"""
