"""Tests in the CUDA simulator: a process of its own, with NUMBA_ENABLE_CUDASIM=1 before Numba is imported."""

import os

collect_ignore_glob = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["test_*.py"]
