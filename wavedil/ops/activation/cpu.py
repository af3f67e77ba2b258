"""Numba: vector instructions over flat memory, in parallel over pieces of it.

=================  ================================================================================================
plain kinds        tasks of ``PIECE`` elements
learned kinds      the numbers of the channels, repeated to a tile of some rows, so that they are one more stream;
                   their gradients add up in such a tile for each task, and the tiles are added in order
gated kinds        row by row, as the halves of a row are the two streams
=================  ================================================================================================

gelu takes the normal law from exp(-u^2) and a polynomial for exp(u^2) erfc(u) (1 + 2u), u = |x| / sqrt 2, in
t = (u - k) / (u + k): a Chebyshev interpolation, off by 7.3e-8 (degree 10, float32) and 3.5e-15 (degree 20, float64).
snake reduces its angle modulo pi, in three parts of pi; up to angles of 1e4 (float32) and 1e8 (float64) that is exact.
"""

from collections import namedtuple
from math import pi

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.elementwise import emit_logistic, emit_softplus, loops, magnitude, negative
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address, zero_memory
from wavedil.kernels.cpu.vector import _reduce, emit_exp, emit_sigmoid, emit_tanh
from wavedil.kernels.workspace import Workspace
from wavedil.ops.activation import GATED, LEARNED
from wavedil.ops.activation.angles import PI, sine_and_cosine

PIECE = 2**14  # elements of a task
TILE = 1024  # least elements of a tile of learned numbers

Relu = namedtuple("Relu", "alpha")
LeakyRelu = namedtuple("LeakyRelu", "alpha")
Prelu = namedtuple("Prelu", "alpha")
Elu = namedtuple("Elu", "alpha")
Gelu = namedtuple("Gelu", "alpha")
Silu = namedtuple("Silu", "alpha")
Softplus = namedtuple("Softplus", "alpha")
Tanh = namedtuple("Tanh", "alpha")
Sigmoid = namedtuple("Sigmoid", "alpha")
GatedTanh = namedtuple("GatedTanh", "alpha")
Glu = namedtuple("Glu", "alpha")
Snake = namedtuple("Snake", "alpha")
KINDS = {"relu": Relu, "leaky_relu": LeakyRelu, "prelu": Prelu, "elu": Elu, "gelu": Gelu, "silu": Silu,
         "softplus": Softplus, "tanh": Tanh, "sigmoid": Sigmoid, "gated_tanh": GatedTanh, "glu": Glu,
         "snake": Snake}  # fmt: skip

# exp(u^2) erfc(u) (1 + 2u) as a polynomial in (u - k) / (u + k), the highest power first: k, coefficients.
ERFC = {
    32: (2.0, (1.658675788e-04, -1.824780150e-04, -1.408357748e-03, 1.040480802e-03, 8.700217212e-03,
               -7.940706906e-03, -5.421590088e-02, 1.640352733e-01, -1.660306043e-01, -9.276303881e-02,
               1.276978382e+00)),
    64: (3.75, (1.73122090831189331e-08, 8.51255945176133144e-09, -2.13213604098646025e-07, -2.76856638497009445e-08,
                1.69392544782761755e-06, -1.00847137255462328e-06, -1.13976252879216547e-05, 2.24101577597770104e-05,
                5.16247920094277805e-05, -2.90166391361438929e-04, 2.93721834191926407e-04, 1.75562954876343127e-03,
                -9.74658126249445568e-03, 2.83622767478264801e-02, -5.86933983839754078e-02, 9.23043212277115527e-02,
                -1.08803930154330625e-01, 8.22767384870404517e-02, 3.58541548576278568e-03, -1.40240598585505749e-01,
                1.23751263083782637e+00)),
}  # fmt: skip


# ---- what the kinds are made of --------------------------------------------------------------------------------------
def _above_zero(e, x, yes, no):
    return e.select(e.builder.fcmp_ordered(">", x, e.const(0.0)), yes, no)


def _normal(e, x):
    """Distribution and density of the normal law."""
    k, coefficients = ERFC[e.bits]
    u = e.clamp(e.mul(magnitude(e, x), e.const(0.5**0.5)), 0.0, 40.0)
    fall = emit_exp(e, negative(e, e.mul(u, u)))
    t = e.div(e.sub(u, e.const(k)), e.add(u, e.const(k)))
    tail = e.div(e.mul(e.mul(e.const(0.5), e.polynomial(t, coefficients)), fall), e.fma(u, e.const(2.0), e.const(1.0)))
    return _above_zero(e, x, e.sub(e.const(1.0), tail), tail), e.mul(fall, e.const((2 * pi) ** -0.5))


def _sine_and_cosine(e, angle):
    """Of the angle modulo pi, for what is the same at both: products of the two."""
    k = e.floor(e.fma(angle, e.const(1 / pi), e.const(0.5)))
    r = angle
    for part in PI[e.bits]:
        r = e.fma(k, e.const(-part), r)
    r2 = e.mul(r, r)
    sine, cosine = sine_and_cosine(e.bits)
    return e.fma(e.mul(r, r2), e.polynomial(r2, sine), r), e.polynomial(r2, cosine)


def _expm1(e, x):
    """e**x - 1 for x <= 0, with all its digits near zero."""
    k, p = _reduce(e, e.clamp(x, -50.0, 1.0))
    scale = e.power_of_two(k)
    return e.fma(p, scale, e.sub(scale, e.const(1.0)))


def _silu_slope(e, x):
    s = emit_logistic(e, x)
    return e.mul(s, e.fma(x, e.sub(e.const(1.0), s), e.const(1.0)))


def _gelu_slope(e, x):
    distribution, density = _normal(e, x)
    return e.fma(x, density, distribution)


def _rest(e, x):
    """1 - s(x), which is s(-x): no digits are lost where s(x) is near 1."""
    return emit_logistic(e, negative(e, x))


def _tanh_slope(e, x):
    """1 - tanh(x)^2 = 4 s(2x) s(-2x)"""
    double = e.add(x, x)
    return e.mul(e.const(4.0), e.mul(emit_logistic(e, double), _rest(e, double)))


def _gated_tanh_backward(e, at, options, u, v, dy):
    g = e.mul(dy, emit_logistic(e, v))
    return e.mul(g, _tanh_slope(e, u)), e.mul(e.mul(g, emit_tanh(e, u)), _rest(e, v))


def _glu_backward(e, at, options, u, v, dy):
    s = emit_logistic(e, v)
    return e.mul(dy, s), e.mul(e.mul(e.mul(dy, u), s), _rest(e, v))


def _prelu_backward(e, at, options, x, dy, a, da):
    return _above_zero(e, x, dy, e.mul(a, dy)), e.fma(_above_zero(e, x, e.const(0.0), x), dy, da)


def _snake(e, at, options, x, a):
    sine, _ = _sine_and_cosine(e, e.mul(a, x))
    return (e.add(x, e.div(e.mul(sine, sine), a)),)


def _snake_backward(e, at, options, x, dy, a, da):
    sine, cosine = _sine_and_cosine(e, e.mul(a, x))
    double = e.mul(e.const(2.0), e.mul(sine, cosine))
    slope = e.sub(e.mul(x, double), e.div(e.mul(sine, sine), a))
    return e.fma(dy, double, dy), e.fma(dy, e.div(slope, a), da)


FORWARD = {
    Relu: lambda e, at, options, x: (e.positive(x, x),),
    LeakyRelu: lambda e, at, options, x: (_above_zero(e, x, x, e.mul(options[0], x)),),
    Prelu: lambda e, at, options, x, a: (_above_zero(e, x, x, e.mul(a, x)),),
    Elu: lambda e, at, options, x: (_above_zero(e, x, x, e.mul(options[0], _expm1(e, x))),),
    Gelu: lambda e, at, options, x: (e.mul(x, _normal(e, x)[0]),),
    Silu: lambda e, at, options, x: (e.mul(x, emit_logistic(e, x)),),
    Softplus: lambda e, at, options, x: (emit_softplus(e, x),),
    Tanh: lambda e, at, options, x: (emit_tanh(e, x),),
    Sigmoid: lambda e, at, options, x: (emit_logistic(e, x),),
    GatedTanh: lambda e, at, options, u, v: (e.mul(emit_tanh(e, u), emit_sigmoid(e, v)),),
    Glu: lambda e, at, options, u, v: (e.mul(u, emit_logistic(e, v)),),
    Snake: _snake,
}


def _slope(function):
    """dx = dy times a function of x."""
    return lambda e, at, options, x, dy: (e.mul(dy, function(e, x)),)


BACKWARD = {
    Relu: lambda e, at, options, x, dy: (e.positive(x, dy),),
    LeakyRelu: lambda e, at, options, x, dy: (_above_zero(e, x, dy, e.mul(options[0], dy)),),
    Prelu: _prelu_backward,
    Elu: lambda e, at, options, x, dy: (
        _above_zero(e, x, dy, e.mul(dy, e.mul(options[0], emit_exp(e, x)))),
    ),
    Gelu: _slope(_gelu_slope),
    Silu: _slope(_silu_slope),
    Softplus: _slope(emit_logistic),
    Tanh: _slope(_tanh_slope),
    Sigmoid: _slope(lambda e, x: e.mul(emit_logistic(e, x), _rest(e, x))),
    GatedTanh: _gated_tanh_backward,
    Glu: _glu_backward,
    Snake: _snake_backward,
}
_apply_forward, _apply_backward = loops(FORWARD), loops(BACKWARD)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def forward(y, x, a, kind, alpha, *, workspace, threads):
    """y ="""
    arrays = KINDS[kind](alpha), y.reshape(-1), layout.flat(x)
    if kind in GATED:
        calls = [(_forward_gated, *arrays, *rows, y.shape[-1]) for rows in _pieces(y)]
    elif kind in LEARNED:
        tile, size = _tile(workspace, "activation.a", a)
        calls = [(_forward_learned, *arrays, tile, *piece) for piece in _pieces_of(y.size, size)]
    else:
        calls = [(_forward, *arrays, *piece) for piece in _pieces_of(y.size, 1)]
    pool.run(calls, pool.check_threads(threads))


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.a +="""
    x, a, kind, alpha = saved
    if grads.x is None and grads.a is None:
        return
    workspace = workspace or Workspace()
    dx = (workspace.array("activation.dx", x.shape, x.dtype) if grads.x is None else grads.x).reshape(-1)
    arrays = KINDS[kind](alpha), dx, layout.flat(x), layout.flat(dy)
    if kind in GATED:
        calls = [(_backward_gated, *arrays, *rows, dy.shape[-1]) for rows in _pieces(dy)]
    elif kind in LEARNED:
        tile, size = _tile(workspace, "activation.a", a)
        pieces = _pieces_of(dy.size, size)
        slabs = workspace.array("activation.da", (len(pieces), size), x.dtype)
        calls = [(_backward_learned, *arrays, tile, slabs[i], *piece) for i, piece in enumerate(pieces)]
    else:
        calls = [(_backward, *arrays, *piece) for piece in _pieces_of(dy.size, 1)]
    pool.run(calls, pool.check_threads(threads))
    if grads.a is not None:
        for slab in slabs:
            grads.a[...] += slab.reshape(-1, len(a)).sum(0)


def _pieces_of(count, unit):
    """(begin, end) of pieces that are multiples of a unit."""
    size = -(-PIECE // unit) * unit
    return [(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _pieces(y):
    """Pieces of whole rows."""
    channels = y.shape[-1]
    return [(begin // channels, end // channels) for begin, end in _pieces_of(y.size, channels)]


def _tile(workspace, name, a):
    """The learned numbers of some rows, one after the other."""
    size = -(-TILE // len(a)) * len(a)
    tile = (workspace or Workspace()).array(name, (size,), a.dtype)
    tile.reshape(-1, len(a))[...] = a
    return tile, size


# ---- kernels: a piece each -------------------------------------------------------------------------------------------
@jit
def _forward(kind, y, x, begin, end):
    """y ="""
    _apply_forward(kind, (address(x, begin),), (address(y, begin),), end - begin)


@jit
def _backward(kind, dx, x, dy, begin, end):
    """dx ="""
    _apply_backward(kind, (address(x, begin), address(dy, begin)), (address(dx, begin),), end - begin)


@jit
def _forward_learned(kind, y, x, tile, begin, end):
    """y ="""
    for i in range(begin, end, len(tile)):
        count = min(len(tile), end - i)
        _apply_forward(kind, (address(x, i), address(tile, 0)), (address(y, i),), count)


@jit
def _backward_learned(kind, dx, x, dy, tile, da, begin, end):
    """dx =, da =: this piece's part of the sums"""
    zero_memory(address(da, 0), len(da))
    for i in range(begin, end, len(tile)):
        sources = address(x, i), address(dy, i), address(tile, 0), address(da, 0)
        _apply_backward(kind, sources, (address(dx, i), address(da, 0)), min(len(tile), end - i))


@jit
def _forward_gated(kind, y, x, begin, end, channels):
    """y ="""
    for row in range(begin, end):
        at = 2 * row * channels
        _apply_forward(kind, (address(x, at), address(x, at + channels)), (address(y, row * channels),), channels)


@jit
def _backward_gated(kind, dx, x, dy, begin, end, channels):
    """dx ="""
    for row in range(begin, end):
        at = 2 * row * channels
        sources = address(x, at), address(x, at + channels), address(dy, row * channels)
        _apply_backward(kind, sources, (address(dx, at), address(dx, at + channels)), channels)
