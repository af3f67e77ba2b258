"""The vector registers of this machine, and the register tile that fits them.

A tile of a matrix product holds ``tile_rows() x 2`` vectors of accumulators, and needs room for two
vectors of the right operand and one broadcast element of the left one:

============  =========  ========  ======================================
registers     bytes      tile      accumulators + operands
============  =========  ========  ======================================
16 (SSE2)     16         4 x 2     8 + 2 + 1, and products (SSE has no fused multiply-add)
16 (AVX2)     32         6 x 2     12 + 2 + 1
32 (AVX-512)  64         12 x 2    24 + 2 + 1
32 (NEON)     16         12 x 2    24 + 2 + 1
============  =========  ========  ======================================
"""

import platform
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from numba import config


@cache
def _features() -> frozenset:
    """Names of the CPU features that Numba compiles for (it honours NUMBA_CPU_NAME and _FEATURES)."""
    if config.CPU_FEATURES is not None:
        return frozenset(f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+"))
    if config.CPU_NAME and config.CPU_NAME != llvm.get_host_cpu_name():
        return frozenset()  # another CPU ("generic"): only what every CPU of this family has
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@cache
def vector_bytes() -> int:
    """Bytes of one vector register."""
    if "avx512f" in _features():
        return 64
    return 32 if "avx" in _features() else 16


@cache
def tile_rows() -> int:
    """Rows of the register tile; chunks of time rows are multiples of it."""
    if vector_bytes() == 64 or platform.machine().lower() in ("aarch64", "arm64"):
        return 12
    return 6 if vector_bytes() == 32 else 4


def lanes(dtype) -> int:
    """Elements in one vector register."""
    return vector_bytes() // np.dtype(dtype).itemsize


def width(dtype) -> int:
    """Columns of one panel: two vectors."""
    return 2 * lanes(dtype)
