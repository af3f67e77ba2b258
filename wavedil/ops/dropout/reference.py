"""Plain NumPy: the hash in whole numbers of Python and NumPy, the mask as an array."""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_64 = 2**64 - 1


def _mix(x):
    """The finalizer of SplitMix64."""
    x &= _64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64
    return x ^ (x >> 31)


def _key(seed, *numbers):
    """A hash of 64 bits."""
    x = _mix(seed + _GOLDEN)
    for number in numbers:
        x = _mix(x + number * _GOLDEN + _GOLDEN)
    return x


def _kept(count, key, rate):
    """Which of so many places are kept."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) ^ np.uint32(key >> 32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x ^= np.uint32(key & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return (x ^ (x >> np.uint32(16))) >= np.uint32(rate * 2**32)


def _mask(saved):
    """keep / (1 - rate), in a shape that fits x."""
    shape = saved.shape[-1:] if saved.channels else saved.shape[1:]
    keys = [_key(saved.seed, saved.step, saved.layer, item) for item in range(saved.shape[0])]
    kept = np.stack([_kept(int(np.prod(shape)), key, saved.rate).reshape(shape) for key in keys])
    if saved.channels:
        kept = kept.reshape(len(kept), *[1] * (len(saved.shape) - 2), -1)
    return kept * saved.dtype.type(1 / (1 - int(saved.rate * 2**32) / 2**32))


def forward(y, x, saved, *, workspace, threads):
    """y =."""
    y[...] = x * _mask(saved)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =."""
    if grads.x is not None:
        grads.x[...] = dy * _mask(saved)
