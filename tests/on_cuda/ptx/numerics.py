"""Arithmetic as PTX defines it, where NumPy's differs: fused multiply-add, directed rounding, saturating conversions,
approximate instructions with the largest error that the PTX manual allows.
"""

import numpy as np

WIDER = {np.dtype("f2"): np.dtype("f4"), np.dtype("f4"): np.dtype("f8")}
U32, U64 = np.uint32, np.uint64


# ---- rounding --------------------------------------------------------------------------------------------------------
def flush(x):
    """Subnormal float32 numbers as zeros of their sign (.ftz)."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def saturate(x):
    """Into [0, 1], NaN as 0 (.sat)."""
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, 0, 1)).astype(x.dtype)


def _two_sum(a, b):
    """a + b rounded, and the rounding error, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _two_product(a, b):
    """a b rounded, and the rounding error, exactly (float64, by Veltkamp's splitting)."""
    p = a * b
    ca, cb = a * 134217729.0, b * 134217729.0
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _to_odd(s, error):
    """A float64 sum and its error, rounded to odd: a second rounding, to float32, is then as good as the only one."""
    s, error = np.broadcast_arrays(s, error)
    bits = np.array(s).view(np.int64)
    inexact = (error != 0) & np.isfinite(s) & (bits & 1 == 0)
    away = (error > 0) == (s >= 0)
    return np.where(inexact, bits + np.where(away, 1, -1), bits).view(np.float64)


def narrow(x, dtype, mode="rn"):
    """A wider float rounded to ``dtype``, in PTX's four ways."""
    y = x.astype(dtype)
    if mode == "rn":
        return y
    if mode == "rz":
        return np.where(np.abs(y) > np.abs(x), np.nextafter(y, dtype.type(0)), y)
    if mode == "rm":
        return np.where(y > x, np.nextafter(y, dtype.type(-np.inf)), y)
    return np.where(y < x, np.nextafter(y, dtype.type(np.inf)), y)


def fma(a, b, c, mode="rn"):
    """a b + c with one rounding.

    float32: exact. The product of two float32 numbers is exact in float64; the sum with c, rounded to odd, is exact
    enough for any rounding to float32. The slow way is taken only where the fast one could differ. float64: from the
    exact product and sums in pairs; wrong by one unit in the last place in about one case of 2**50.
    """
    dtype = np.result_type(a, b, c)
    if dtype == np.float32:
        p, wide = np.multiply(a, b, dtype="f8"), np.float64(c) if np.ndim(c) == 0 else c.astype("f8")
        s = p + wide
        if mode == "rn":
            # A second rounding errs only where the first one ended half way between two float32 numbers, or where
            # the result is subnormal and has fewer bits.
            half = (s.view(np.int64) & 0x1FFFFFFF) == 0x10000000
            size = np.abs(s)
            if not (half.any() or ((size < 2.0**-125) & (size > 0)).any()):
                return s.astype(np.float32)
        return narrow(_to_odd(s, _two_sum(p, wide)[1]), dtype, mode)
    if mode != "rn":
        raise NotImplementedError(f"fma.{mode} of {dtype}")
    p, error = _two_product(a, b)
    s, low = _two_sum(p, c)
    exact = s + (low + error)
    return np.where(np.isfinite(exact), exact, a * b + c)


def arithmetic(operation, a, b, mode):
    """add, sub, mul, div of floats with directed rounding, by way of the wider type."""
    wide = WIDER[a.dtype]
    return narrow(operation(a.astype(wide), b.astype(wide)), a.dtype, mode)


# ---- integers --------------------------------------------------------------------------------------------------------
def wide_product(a, b):
    """mul.wide: twice as many bits."""
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(wide) * b.astype(wide)


def high_product(a, b):
    """mul.hi: the upper half of the product."""
    bits = 8 * a.dtype.itemsize
    if bits < 64:
        product = wide_product(a, b)
        return (product >> product.dtype.type(bits)).astype(a.dtype)
    x, y, half, mask = a.view(U64), b.view(U64), U64(32), U64(0xFFFFFFFF)
    low, high = (x & mask) * (y & mask), (x >> half) * (y >> half)
    one, two = (x >> half) * (y & mask), (x & mask) * (y >> half)
    middle = (low >> half) + (one & mask) + (two & mask)
    result = high + (one >> half) + (two >> half) + (middle >> half)
    if a.dtype.kind == "i":
        result = result - np.where(a < 0, y, U64(0)) - np.where(b < 0, x, U64(0))
    return result.view(a.dtype)


def quotient(a, b):
    """Integer division towards zero; all bits set where b is zero."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    q = a // safe
    if a.dtype.kind == "i":
        q = q + ((q * safe != a) & ((a < 0) != (safe < 0)))
    return np.where(b == 0, a.dtype.type(-1) if a.dtype.kind == "i" else ~a.dtype.type(0), q).astype(a.dtype)


def remainder(a, b):
    return (a - quotient(a, b) * b).astype(a.dtype)


def shift_left(a, n):
    bits = 8 * a.dtype.itemsize
    return np.where(n >= bits, a.dtype.type(0), a << np.minimum(n, U32(bits - 1)).astype(a.dtype))


def shift_right(a, n):
    """Shifts in copies of the sign of signed numbers."""
    bits = 8 * a.dtype.itemsize
    last = a >> np.minimum(n, U32(bits - 1)).astype(a.dtype)
    return last if a.dtype.kind == "i" else np.where(n >= bits, a.dtype.type(0), last)


def population(a):
    return np.bitwise_count(a).astype(U32)


def leading_zeros(a):
    bits = 8 * a.dtype.itemsize
    for k in (1, 2, 4, 8, 16, 32):
        if k < bits:
            a = a | (a >> a.dtype.type(k))
    return U32(bits) - population(a)


def reversed_bits(a):
    result, one = a ^ a, a.dtype.type(1)
    for _ in range(8 * a.dtype.itemsize):
        result, a = (result << one) | (a & one), a >> one
    return result


def extracted(a, start, length):
    """bfe: a field of bits, its top bit repeated upwards for signed types."""
    bits = 8 * a.dtype.itemsize
    start, length = start & U32(255), length & U32(255)
    field = shift_right(a.view(f"u{a.dtype.itemsize}"), start)
    spare = U32(bits) - np.minimum(length, U32(bits))
    return np.where(length == 0, a.dtype.type(0), shift_right(shift_left(field, spare).view(a.dtype), spare))


def inserted(a, b, start, length):
    """bfi: the low ``length`` bits of a in place of b's, from ``start`` on."""
    one = b.dtype.type(1)
    start, length = start & U32(255), length & U32(255)
    mask = shift_left(shift_left(one + np.zeros_like(b), length) - one, start)
    return (b & ~mask) | (shift_left(a, start) & mask)


def permuted(a, b, selector):
    """prmt: four bytes picked from the eight of b and a."""
    both = (b.astype(U64) << U64(32)) | a.astype(U64)
    result = U64(0)
    for k in range(4):
        pick = (selector.astype(U64) >> U64(4 * k)) & U64(15)
        byte = (both >> (U64(8) * (pick & U64(7)))) & U64(255)
        sign = np.where(byte >> U64(7), U64(255), U64(0))
        result = result | (np.where(pick & U64(8), sign, byte) << U64(8 * k))
    return result.astype(U32)


def funnel(low, high, n, left, clamp):
    """shf: 32 bits out of 64."""
    n = (np.minimum(n, U32(32)) if clamp else n & U32(31)).astype(U64)
    both = (high.astype(U64) << U64(32)) | low.astype(U64)
    return ((both << n) >> U64(32) if left else both >> n).astype(U32)


def logic3(a, b, c, table):
    """lop3: any function of three bits, by its truth table."""
    result = a ^ a
    for k in range(8):
        if int(table) >> k & 1:
            result = result | ((a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c))
    return result


# ---- conversions -----------------------------------------------------------------------------------------------------
def to_integer(x, dtype, mode):
    """A float rounded (rni, rzi, rmi, rpi) to an integer, clipped to the type, NaN as 0."""
    x, limits = whole(x.astype("f8"), mode), np.iinfo(dtype)
    low, high = dtype.type(limits.min), dtype.type(limits.max)
    above, below = x >= 2.0 ** (limits.bits - (dtype.kind == "i")), x < float(low)
    inside = np.where(above | below | np.isnan(x), 0.0, x).astype(dtype)
    return np.where(above, high, np.where(below, low, inside))


def whole(x, mode):
    """A float rounded to an integral float."""
    return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode](x)


def clipped(x, dtype):
    """An integer into another type, at its limits (cvt.sat)."""
    info, own = np.iinfo(dtype), np.iinfo(x.dtype)
    return np.clip(x, max(info.min, own.min), min(info.max, own.max)).astype(dtype)


def to_bf16(x):
    """float32 to the nearest bfloat16, ties to even."""
    bits = x.view(U32)
    rounded = (bits + U32(0x7FFF) + ((bits >> U32(16)) & U32(1))) >> U32(16)
    return np.where(np.isnan(x), U32(0x7FFF), rounded).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(U32) << U32(16)).view(np.float32)


# ---- approximate instructions ----------------------------------------------------------------------------------------
def _spoil(exact, relative, absolute=0.0):
    """The worst that an instruction may return: off by its error bound, up or down by a hash of the result's bits."""
    bits = exact.view(np.uint64)
    sign = np.where((bits * U64(0x9E3779B97F4A7C15)) >> U64(63), 1.0, -1.0)
    return exact + sign * np.maximum(np.abs(exact) * relative, absolute)


# Instruction: function, largest relative and absolute error of float32 (the PTX manual's bounds or a little more).
APPROXIMATE = {
    "ex2": (np.exp2, 2.0**-22, 0.0),
    "lg2": (np.log2, 2.0**-22, 2.0**-22),
    "rcp": (lambda x: 1 / x, 2.0**-23, 0.0),
    "sqrt": (np.sqrt, 2.0**-23, 0.0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9, 0.0),
    "sin": (np.sin, 0.0, 2.0**-20.5),
    "cos": (np.cos, 0.0, 2.0**-20.5),
    "tanh": (np.tanh, 2.0**-11, 0.0),
}


def approximate(name, x):
    """An .approx instruction, as wrong as it may be; exact where the result is a power of two, 0, inf or NaN."""
    function, relative, absolute = APPROXIMATE[name]
    wide = x.astype("f8")
    if name in ("rcp", "rsqrt") and x.dtype == np.float64:  # these read and give the upper 32 bits only
        wide = (x.view(U64) & U64(0xFFFFFFFF00000000)).view("f8")
        return (function(wide).view(U64) & U64(0xFFFFFFFF00000000)).view("f8")
    exact = function(wide)
    power = (np.frexp(exact)[0] == 0.5) | ~np.isfinite(exact) | (exact == 0)
    return np.where(power, exact, _spoil(exact, relative, absolute)).astype(x.dtype)


def approximate_quotient(a, b):
    """div.approx and div.full: two units in the last place."""
    exact = a.astype("f8") / b.astype("f8")
    keep = ~np.isfinite(exact) | (exact == 0)
    return np.where(keep, exact, _spoil(exact, 2.0**-23)).astype(np.float32)
