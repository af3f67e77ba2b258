"""CUDA: one thread an element; of the gated kinds a thread has both halves of a pair.

The gradient of the learned numbers is written element by element beside dx, and its rows are added up slab by slab.
"""

import functools
import math

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import add_rows_to, sum_kernels
from wavedil.ops.activation import GATED, KINDS, LEARNED
from wavedil.ops.activation.angles import PI, sine_and_cosine


def forward(y, x, a, kind, alpha, *, workspace, threads):
    """y ="""
    kernel = _forward(y.dtype, threads_or(256), kind)
    kernel(blocks_for(kernel, y.size), y, x, x if a is None else a, alpha, y.size, y.shape[-1])


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.a +="""
    x, a, kind, alpha = saved
    make, channels = scratch(workspace, dy.engine), dy.shape[-1]
    dx = make("dx", x.shape, x.dtype) if grads.x is None else grads.x
    da = make("da", dy.shape, x.dtype) if grads.a is not None else dx
    kernel = _backward(dy.dtype, threads_or(256), kind)
    kernel(blocks_for(kernel, dy.size), dx, da, dy, x, dy if a is None else a, alpha, dy.size, channels)
    if grads.a is not None:
        add_rows_to(make, grads.a, da)


def _polynomial(real, coefficients):
    """A function of t by Horner's rule, the coefficient of the highest power first."""
    first, *others = map(real, coefficients)

    @cuda.jit(device=True)
    def constant(t):
        return first

    value = constant
    for c in others:
        value = _next(value, c)
    return value


def _next(inner, c):
    @cuda.jit(device=True)
    def value(t):
        return inner(t) * t + c

    return value


def _angle(real):
    """Sine and cosine of the angle modulo pi, for what is the same at both; libdevice has tables for large angles."""
    bits = real.bitwidth
    sine, cosine = (_polynomial(real, c) for c in sine_and_cosine(bits))
    high, middle, low = map(real, PI[bits])
    one, turns = real(1), real(1 / math.pi)
    magic = real(1.5 * 2.0 ** (23 if bits == 32 else 52))  # numbers so large have no digits after the point

    @cuda.jit(device=True)
    def both(angle):
        k = (angle * turns + magic) - magic
        r = ((angle - k * high) - k * middle) - k * low
        t = r * r
        return r * (one + t * sine(t)), cosine(t)

    return both


def _logistic(real):
    """1 / (1 + e^-x), with a small relative error at both ends."""
    zero, one = real(0), real(1)

    @cuda.jit(device=True)
    def sigmoid(x):
        z = math.exp(-abs(x))
        return (one if x >= zero else z) / (one + z)

    return sigmoid


def _function(kind, real):
    """f(x, v, a, alpha); v is the other half's element of a gated kind."""
    zero, one, half, root = real(0), real(1), real(0.5), real(0.5**0.5)
    sine_and_cosine, sigmoid = _angle(real), _logistic(real)

    @cuda.jit(device=True)
    def f(x, v, a, alpha):
        if kind == "relu":
            return zero if x < zero else x
        if kind == "leaky_relu":
            return x if x > zero else alpha * x
        if kind == "prelu":
            return x if x > zero else a * x
        if kind == "elu":
            return alpha * math.expm1(x) if x <= zero else x
        if kind == "gelu":
            return x * half * (one + math.erf(x * root))
        if kind == "silu":
            return x * sigmoid(x)
        if kind == "softplus":
            return max(x, zero) + math.log1p(math.exp(-abs(x))) if x == x else x
        if kind == "tanh":
            return math.tanh(x)
        if kind == "sigmoid":
            return sigmoid(x)
        if kind == "gated_tanh":
            return math.tanh(x) * sigmoid(v)
        if kind == "glu":
            return x * sigmoid(v)
        s, _ = sine_and_cosine(a * x)
        return x + s * s / a

    return f


def _slopes(kind, real):
    """The slopes of f by x, by v and by a."""
    zero, one, half, two = real(0), real(1), real(0.5), real(2)
    root, bell = real(0.5**0.5), real((2 * math.pi) ** -0.5)
    sine_and_cosine, sigmoid = _angle(real), _logistic(real)

    @cuda.jit(device=True)
    def tanh_slope(x):  # without the difference 1 - tanh(x)^2
        return two * two * sigmoid(two * x) * sigmoid(-two * x)

    @cuda.jit(device=True)
    def by_x(x, v, a, alpha):
        if kind == "relu":
            return zero if x <= zero else one
        if kind == "leaky_relu":
            return one if x > zero else alpha
        if kind == "prelu":
            return one if x > zero else a
        if kind == "elu":
            return alpha * math.exp(x) if x <= zero else one
        if kind == "gelu":
            return half * (one + math.erf(x * root)) + x * math.exp(-half * x * x) * bell
        if kind == "silu":
            return sigmoid(x) * (one + x * (one - sigmoid(x)))
        if kind == "softplus":
            return sigmoid(x)
        if kind == "tanh":
            return tanh_slope(x)
        if kind == "sigmoid":
            return sigmoid(x) * sigmoid(-x)
        if kind == "gated_tanh":
            return tanh_slope(x) * sigmoid(v)
        if kind == "glu":
            return sigmoid(v)
        s, c = sine_and_cosine(a * x)
        return one + two * s * c

    @cuda.jit(device=True)
    def by_v(x, v):
        slope = sigmoid(v) * sigmoid(-v)
        return math.tanh(x) * slope if kind == "gated_tanh" else x * slope

    @cuda.jit(device=True)
    def by_a(x, a):
        if kind == "prelu":
            return min(x, zero)
        s, c = sine_and_cosine(a * x)
        return x * two * s * c / a - s * s / (a * a)

    return by_x, by_v, by_a


@functools.cache
def _forward(dtype, threads, kind):
    real, array = reals(dtype)
    f = _function(kind, real)
    gated, learned, one = kind in GATED, kind in LEARNED, real(1)

    def kernel(y, x, a, alpha, count, channels):
        """y =: one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = uint64(i // channels * channels + i) if gated else uint64(i)
            v = x[uint64(at + channels)] if gated else one
            number = a[uint64(i % channels)] if learned else one
            y[uint64(i)] = f(x[at], v, number, alpha)

    return Kernel(f"activation.{kind}.{dtype}", kernel, (array,) * 3 + (real, int64, int64), threads)


@functools.cache
def _backward(dtype, threads, kind):
    real, array = reals(dtype)
    by_x, by_v, by_a = _slopes(kind, real)
    gated, learned, one = kind in GATED, kind in LEARNED, real(1)

    def kernel(dx, da, dy, x, a, alpha, count, channels):
        """dx =, and da = element by element (a column's sum is the gradient of its number); one thread an element."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = uint64(i // channels * channels + i) if gated else uint64(i)
            other = uint64(at + channels) if gated else at
            number = a[uint64(i % channels)] if learned else one
            g, value, v = dy[uint64(i)], x[at], x[other]
            if learned:
                da[uint64(i)] = g * by_a(value, number)
            dx[at] = g * by_x(value, v, number, alpha)
            if gated:
                dx[other] = g * by_v(value, v)

    return Kernel(f"activation_back.{kind}.{dtype}", kernel, (array,) * 5 + (real, int64, int64), threads)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, threads = np.dtype(dtype), threads_or(256)
    made = [make(dtype, threads, kind) for kind in KINDS for make in (_forward, _backward)]
    return (*made, *sum_kernels(dtype))
