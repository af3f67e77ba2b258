"""The suite in the CUDA simulator, in a process of its own: Numba reads NUMBA_ENABLE_CUDASIM when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_the_simulator_suite_passes():
    done = subprocess.run(
        [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "pytest", "-q", TESTS / "cuda_sim"],
        cwd=TESTS.parents[1], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
