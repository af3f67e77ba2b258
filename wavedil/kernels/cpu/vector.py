"""exp, log, tanh and sigmoid of whole vectors, in float32 and float64.

The ``emit_*`` functions write instructions into another kernel; ``exp``, ``log``, ``tanh`` and ``sigmoid`` are
kernels ``f(x, y)`` that fill a one-dimensional array ``y`` from ``x`` (which may be the same array).

Largest errors, with and without fused multiply-adds (tanh and sigmoid of float32: all numbers of size 1e-4 to 20; else
one in 29 of all bit patterns; float64: 10 million numbers). tests/kernels/test_vector.py does a part of it again:

=========  ==================================  ====================================
function   float32                             float64
=========  ==================================  ====================================
exp        1.1 ulp                             1 ulp
log        0.9 ulp                             1 ulp
tanh       absolute 3.3e-7, 4.2e-7 without     2.6 ulp
sigmoid    absolute 1.7e-7, 2.3e-7 without     2.5 ulp, and 0 for x below -709.7
=========  ==================================  ====================================

Infinities give the limits and NaN gives NaN, in both types. exp underflows to zero through subnormal numbers. Within
their errors, the float32 tanh may come out 2.4e-7 beyond 1, and the sigmoid 1.2e-7 below 0 or beyond 1.

Sources: the Cephes library (expf's polynomial); W. J. Cody and W. Waite, "Software Manual for the Elementary
Functions" (1980), for the reductions; the float32 tanh is a rational minimax approximation of degree 13/6.
"""

from math import factorial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu.emit import I64, Emitter
from wavedil.kernels.cpu.jit import jit

# ln 2 in two parts: the first has few bits, so that its product with a whole number is exact.
LN2 = {32: (0.693359375, -2.12194440054690583e-4), 64: (6.93147180369123816490e-01, 1.90821492927058770002e-10)}
# (e**r - 1 - r) / r**2 for |r| <= ln(2) / 2, the highest power first.
EXPM1 = {
    32: (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
    64: tuple(1 / factorial(n) for n in range(14, 1, -1)),
}
EXP_RANGE = {32: (-104.0, 89.0), 64: (-746.0, 710.0)}
TANH_NUMERATOR = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
                  1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
TANH_DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
TANH_RANGE = 9.0  # the approximation is exactly 1 here


def _reduce(e: Emitter, x):
    """k and expm1(r) with x = k ln 2 + r, |r| <= ln(2) / 2."""
    high, low = LN2[e.bits]
    k = e.floor(e.fma(x, e.const(1 / 0.6931471805599453), e.const(0.5)))
    r = e.fma(k, e.const(-low), e.fma(k, e.const(-high), x))
    return k, e.fma(e.mul(e.polynomial(r, EXPM1[e.bits]), r), r, r)


def emit_exp(e: Emitter, x):
    k, p = _reduce(e, e.clamp(x, *EXP_RANGE[e.bits]))
    # In two factors, so that the largest results and the subnormal ones come out right.
    half = e.floor(e.mul(k, e.const(0.5)))
    return e.mul(e.mul(e.add(p, e.const(1.0)), e.power_of_two(half)), e.power_of_two(e.sub(k, half)))


def emit_exp_negative(e: Emitter, x):
    """exp for x <= 0 in fewer steps (results below 2**-126 or 2**-1022 come out as about that)."""
    k, p = _reduce(e, e.clamp(x, -87.3 if e.bits == 32 else -708.3, 1.0))
    scale = e.power_of_two(k)
    return e.fma(p, scale, scale)


def emit_log(e: Emitter, x):
    mantissa, bias = (23, 127) if e.bits == 32 else (52, 1023)
    b = e.builder
    # Subnormal numbers are scaled up first.
    small = b.fcmp_ordered("<", x, e.const(2.0 ** (1 - bias)))
    scaled = e.select(small, e.mul(x, e.const(2.0 ** (mantissa + 2))), x)
    bits = b.bitcast(scaled, e.integers)
    # The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)): 0x3f3504f3 is the float sqrt(1/2).
    root = 0x3F3504F3 if e.bits == 32 else 0x3FE6A09E667F3BCD
    shifted = b.sub(bits, e.whole(root))
    exponent = b.ashr(shifted, e.whole(mantissa))
    m = b.bitcast(b.sub(bits, b.shl(exponent, e.whole(mantissa))), e.vector)
    k = b.sitofp(exponent, e.vector)
    k = e.sub(k, e.select(small, e.const(mantissa + 2.0), e.const(0.0)))
    f = e.sub(m, e.const(1.0))
    s = e.div(f, e.add(m, e.const(1.0)))
    s2 = e.mul(s, s)
    # log m = 2 atanh(s) = f - s (f - R), R = 2 s^2 (1/3 + s^2/5 + ...)
    terms = 5 if e.bits == 32 else 12
    r = e.mul(s2, e.polynomial(s2, [2 / (2 * n + 1) for n in range(terms, 0, -1)]))
    high, low = LN2[e.bits]
    tail = e.sub(e.mul(s, e.sub(f, r)), e.mul(k, e.const(low)))
    y = e.fma(k, e.const(high), e.sub(f, tail))
    infinity, nan = e.const(float("inf")), e.const(float("nan"))
    y = e.select(b.fcmp_unordered("<", x, infinity), y, x)
    y = e.select(b.fcmp_ordered("==", x, e.const(0.0)), e.const(float("-inf")), y)
    return e.select(b.fcmp_unordered("<", x, e.const(0.0)), nan, y)


def emit_tanh(e: Emitter, x):
    if e.bits == 32:
        x = e.clamp(x, -TANH_RANGE, TANH_RANGE)
        x2 = e.mul(x, x)
        return e.div(e.mul(x, e.polynomial(x2, TANH_NUMERATOR)), e.polynomial(x2, TANH_DENOMINATOR))
    # tanh |x| = -E / (2 + E) with E = expm1(-2 |x|)
    sign = ir.Constant(e.integers, [-(2**63)] * e.lanes)
    bits = e.builder.bitcast(x, e.integers)
    magnitude = e.builder.bitcast(e.builder.and_(bits, e.builder.not_(sign)), e.vector)
    k, p = _reduce(e, e.clamp(e.mul(magnitude, e.const(-2.0)), -50.0, 0.0))
    scale = e.power_of_two(k)
    em1 = e.fma(p, scale, e.sub(scale, e.const(1.0)))
    y = e.div(e.sub(e.const(0.0), em1), e.add(e.const(2.0), em1))
    return e.builder.bitcast(e.builder.or_(e.builder.bitcast(y, e.integers), e.builder.and_(bits, sign)), e.vector)


def emit_sigmoid(e: Emitter, x):
    if e.bits == 32:
        return e.fma(e.const(0.5), emit_tanh(e, e.mul(e.const(0.5), x)), e.const(0.5))
    return e.div(e.const(1.0), e.add(e.const(1.0), emit_exp(e, e.sub(e.const(0.0), x))))


def _pointwise(emit):
    """Intrinsic (x, y): y = emit(x) over two one-dimensional contiguous arrays of one length."""

    @intrinsic
    def apply(_typing, x, y):
        def codegen(context, builder, signature, args):
            e = Emitter(builder, x.dtype)
            source, target = (context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1))
            lanes = ir.Constant(I64, e.lanes)
            whole = builder.sdiv(target.nitems, lanes)
            with e.loop(whole) as i:
                at = builder.mul(i, lanes)
                e.store(emit(e, e.load(e.at(source.data, at))), e.at(target.data, at))
            # The rest goes through a vector of its own, so that nothing past the end is touched.
            done = builder.mul(whole, lanes)
            rest = e.variable(e.const(0.0))
            cells = builder.bitcast(rest, e.element.as_pointer())
            count = builder.sub(target.nitems, done)
            with e.loop(count) as i:
                builder.store(builder.load(e.at(source.data, done, i)), e.at(cells, i))
            e.set(rest, emit(e, e.get(rest)))
            with e.loop(count) as i:
                builder.store(builder.load(e.at(cells, i)), e.at(target.data, done, i))
            return context.get_dummy_value()

        return types.void(x, y), codegen

    return apply


_exp, _log = _pointwise(emit_exp), _pointwise(emit_log)
_tanh, _sigmoid = _pointwise(emit_tanh), _pointwise(emit_sigmoid)


@jit
def exp(x, y):
    """y = e ** x"""
    _exp(x, y)


@jit
def log(x, y):
    """y = ln x"""
    _log(x, y)


@jit
def tanh(x, y):
    """y = tanh x"""
    _tanh(x, y)


@jit
def sigmoid(x, y):
    """y = 1 / (1 + e ** -x)"""
    _sigmoid(x, y)
