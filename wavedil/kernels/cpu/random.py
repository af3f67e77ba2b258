"""Random numbers as a function of where they are used: a hash of (seed, stream, step), or of (seed, step, layer, item).

There is no state to keep, so draws do not depend on the order of work, on threads or on how a stream is cut. The hash
applies the finalizer of SplitMix64 to one number after the other (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", 2014).
"""

import numpy as np

from wavedil.kernels.cpu.jit import jit

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_S32, _LOW32 = np.uint64(32), np.uint64(0xFFFFFFFF)


@jit
def scramble(x):
    """Scramble 64 bits."""
    x = (x ^ (x >> _S30)) * _FIRST
    x = (x ^ (x >> _S27)) * _SECOND
    return x ^ (x >> _S31)


@jit
def uniform(seed, stream, step):
    """A float64 in [0, 1) for three whole numbers."""
    x = scramble(np.uint64(seed) + _GOLDEN)
    x = scramble(x + np.uint64(stream) * _GOLDEN + _GOLDEN)
    x = scramble(x + np.uint64(step) * _GOLDEN + _GOLDEN)
    return np.float64(x >> _S11) * 2.0**-53


@jit
def mask_key(seed, step, layer, item):
    """The key of a dropout mask, as two whole numbers of 32 bits; see `elementwise.emit_kept`."""
    x = scramble(np.uint64(seed) + _GOLDEN)
    for value in (step, layer, item):
        x = scramble(x + np.uint64(value) * _GOLDEN + _GOLDEN)
    return np.int64(x >> _S32), np.int64(x & _LOW32)
