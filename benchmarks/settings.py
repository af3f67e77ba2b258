"""Options that all benchmarks share."""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness


@dataclass(frozen=True)
class Settings:
    """``quick`` measures less of everything, and writes to a folder of its own."""

    quick: bool = False
    threads: int = harness.cores()
    torch_python: str = sys.executable
    jax_python: str = sys.executable
    out: Path = harness.RESULTS
    speech: Path = Path("speech")

    @property
    def rounds(self):
        return 3 if self.quick else 11
