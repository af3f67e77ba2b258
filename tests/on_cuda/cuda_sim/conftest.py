"""Tests in the CUDA simulator: a process of its own, with NUMBA_ENABLE_CUDASIM=1 before Numba is imported."""

import os

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from wavedil.kernels.cuda.engine import Driver

    # A simulated thread is one of Python's: as on a GPU, a grid has few blocks, and kernels stride over more work.
    Driver.most_blocks = 4
else:
    collect_ignore_glob = ["test_*.py"]
