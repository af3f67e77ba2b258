"""The vector registers of this machine, and the register tile that fits them.

A panel is two vectors wide. A tile of a matrix product holds the accumulators of some rows of a panel, and needs room
for that panel's row of the right operand and one broadcast element of the left one:

============  =========  ==========  =================  ======================================
registers     bytes      vector      tile               registers: accumulators + operands
============  =========  ==========  =================  ======================================
16 (SSE2)     16         a register  4 rows x 2         8 + 2 + 1, and products (SSE has no fused multiply-add)
16 (AVX2)     32         a register  6 rows x 2         12 + 2 + 1
32 (AVX-512)  64         half a one  24 rows x 1        24 + 1, and the broadcast is part of the instruction
32 (NEON)     16         a register  12 rows x 2        24 + 2 + 1
============  =========  ==========  =================  ======================================

With AVX-512 a panel's row is one register: were a vector one, panels would be 32 floats wide, and a network of 16
channels would spend two thirds of its time on padding (measured: 0.146 s a step, and 0.049 s with this).
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
def register_bytes() -> int:
    """Bytes of one vector register."""
    if "avx512f" in _features():
        return 64
    return 32 if "avx" in _features() else 16


@cache
def vector_bytes() -> int:
    """Bytes of one vector: half a panel's row."""
    return min(32, register_bytes())


@cache
def tile_rows() -> int:
    """Rows of the register tile; chunks of time rows are multiples of it."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 12
    return {64: 24, 32: 6, 16: 4}[register_bytes()]


@cache
def column_tile_rows() -> int:
    """Rows of the register tile of a weight gradient, whose height is a multiple of a panel's width."""
    return 16 if register_bytes() == 64 else tile_rows()


@cache
def converts_halves() -> bool:
    """Whether it has instructions from half precision to float32."""
    return "f16c" in _features() or platform.machine().lower() in ("aarch64", "arm64")


def lanes(dtype) -> int:
    """Elements in one vector."""
    return vector_bytes() // np.dtype(dtype).itemsize


def width(dtype) -> int:
    """Columns of one panel: two vectors."""
    return 2 * lanes(dtype)
