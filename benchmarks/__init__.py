"""Benchmarks: wavedil beside its peers, each in a process of its own, in alternation. Run ``python -m benchmarks --help``."""
