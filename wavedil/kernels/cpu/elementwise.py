"""Loops over contiguous memory, a vector at a time: what activations, losses, norms and dropout are made of.

A *kind* is a named tuple of numbers; its class picks the instructions, so that one kernel serves a whole family and
each kind is compiled when it is first used. `loops` makes the kernel's inner loop from a table of such kinds:

    apply(kind, sources, targets, count)        targets[j][i] = emit(*sources[..][i])[j] for i < count

Sources and targets are tuples of pointers; a target may be a source, for ``+=`` and in-place work. `sums` makes

    reduce(kind, sources, count)                the sum over i < count of each value that emit gives

A count that is no multiple of a vector ends in a vector of its own, so that nothing past the end is touched; it goes
through the same instructions, so a value's bits do not depend on where it stands.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu.emit import I64, Emitter, fields
from wavedil.kernels.cpu.vector import emit_exp, emit_log


def _options(e, context, kind, value):
    """The fields of a kind: floats as vectors, whole numbers as they are."""
    values = fields(e.builder, value)
    if all(isinstance(t, types.Integer) for t in kind.types):
        return values
    element = types.float32 if e.bits == 32 else types.float64
    return [
        v if isinstance(t, types.Integer) else e.splat(context.cast(e.builder, v, t, element))
        for t, v in zip(kind.types, values, strict=True)
    ]


class _Vectors:
    """A loop over vectors, the last of which may be short: it is copied to and from memory of its own."""

    def __init__(self, e, sources, targets, count):
        self.e, self.sources, self.targets = e, sources, targets
        b, lanes = e.builder, ir.Constant(I64, e.lanes)
        self.whole = b.sdiv(count, lanes)
        self.done = b.mul(self.whole, lanes)
        self.rest = b.sub(count, self.done)
        self.total = b.sdiv(b.add(count, ir.Constant(I64, e.lanes - 1)), lanes)
        self.lanes = lanes
        self.short_in = [b.bitcast(e.variable(e.const(0.0)), e.element.as_pointer()) for _ in sources]
        self.short_out = [b.bitcast(e.variable(e.const(0.0)), e.element.as_pointer()) for _ in targets]

    def run(self, body):
        """``body(first element, values, whole)`` -> values of the targets; ``whole``: is this a full vector?"""
        e, b = self.e, self.e.builder
        with e.loop(self.rest) as i:
            for source, cells in zip(self.sources, self.short_in, strict=True):
                b.store(b.load(e.at(source, self.done, i)), e.at(cells, i))
        with e.loop(self.total) as i:
            at, full = b.mul(i, self.lanes), b.icmp_signed("<", i, self.whole)
            values = [
                e.load(b.select(full, e.at(source, at), cells))
                for source, cells in zip(self.sources, self.short_in, strict=True)
            ]
            results = body(at, values, full)
            for result, target, cells in zip(results, self.targets, self.short_out, strict=True):
                e.store(result, b.select(full, e.at(target, at), cells))
        with e.loop(self.rest) as i:
            for target, cells in zip(self.targets, self.short_out, strict=True):
                b.store(b.load(e.at(cells, i)), e.at(target, self.done, i))


def loops(table):
    """Intrinsic ``apply(kind, sources, targets, count)`` of some kinds.

    Parameters
    ----------
    table : dict of type to callable
        The class of a kind -> ``emit(e, at, options, *values)``, which gives a value for each target. ``at`` is the
        number of the first element; options are the kind's fields.
    """

    @intrinsic
    def apply(typing, kind, sources, targets, count):
        emit = table[kind.instance_class]

        def codegen(context, builder, signature, args):
            e = Emitter(builder, sources.types[0].dtype)
            options = _options(e, context, kind, args[0])
            vectors = _Vectors(e, fields(builder, args[1]), fields(builder, args[2]), args[3])
            vectors.run(lambda at, values, full: emit(e, at, options, *values))
            return context.get_dummy_value()

        return types.void(kind, sources, targets, types.int64), codegen

    return apply


def sums(table, results):
    """Intrinsic ``reduce(kind, sources, count)`` of some kinds: a tuple of so many sums, of the sources' type.

    Each lane adds up its own elements, and halves are added to halves at the end.
    """

    @intrinsic
    def reduce(typing, kind, sources, count):
        emit = table[kind.instance_class]
        result = types.UniTuple(sources.types[0].dtype, results)

        def codegen(context, builder, signature, args):
            e = Emitter(builder, sources.types[0].dtype)
            options = _options(e, context, kind, args[0])
            totals = [e.variable(e.const(0.0)) for _ in range(results)]
            vectors = _Vectors(e, fields(builder, args[1]), [], args[2])

            def body(at, values, full):
                limit = builder.select(full, ir.Constant(I64, e.lanes), vectors.rest)
                inside = builder.icmp_signed("<", counting(e), splat_integer(e, limit))
                for total, value in zip(totals, emit(e, at, options, *values), strict=True):
                    e.set(total, e.add(e.get(total), e.select(inside, value, e.const(0.0))))
                return []

            vectors.run(body)
            return context.make_tuple(builder, result, [e.fold(e.get(total), e.add) for total in totals])

        return result(kind, sources, types.int64), codegen

    return reduce


# ---- whole numbers ---------------------------------------------------------------------------------------------------
def counting(e):
    """The vector 0, 1, 2, ... of 32-bit integers."""
    return ir.Constant(ir.VectorType(ir.IntType(32), e.lanes), list(range(e.lanes)))


def splat_integer(e, value):
    """A 64-bit integer, cut to 32 bits, in every lane."""
    kind = ir.VectorType(ir.IntType(32), e.lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    scalar = e.builder.trunc(value, ir.IntType(32))
    first = e.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return e.builder.shuffle_vector(first, undefined, ir.Constant(kind, [0] * e.lanes))


def emit_kept(e, at, first, low, high, threshold):
    """Which of the elements ``first + at + lane`` a mask keeps: those whose hash is at least the threshold.

    The hash is two rounds of multiply and shift over 32 bits, with half of the key before and half between them.
    """
    b, kind = e.builder, ir.VectorType(ir.IntType(32), e.lanes)

    def constant(value):
        return ir.Constant(kind, [value] * e.lanes)

    x = b.add(splat_integer(e, b.add(first, at)), counting(e))
    x = b.xor(b.mul(x, constant(0x9E3779B1)), splat_integer(e, low))
    x = b.mul(b.xor(x, b.lshr(x, constant(16))), constant(0x7FEB352D))
    x = b.xor(x, splat_integer(e, high))
    x = b.mul(b.xor(x, b.lshr(x, constant(15))), constant(0x846CA68B))
    x = b.xor(x, b.lshr(x, constant(16)))
    return b.icmp_unsigned(">=", x, splat_integer(e, threshold))


# ---- functions -------------------------------------------------------------------------------------------------------
def magnitude(e, x):
    """|x|"""
    mask = e.whole(2 ** (e.bits - 1) - 1)
    return e.builder.bitcast(e.builder.and_(e.builder.bitcast(x, e.integers), mask), e.vector)


def negative(e, x):
    return e.sub(e.const(0.0), x)


def emit_logistic(e, x):
    """1 / (1 + e**-x), with a small relative error at both ends."""
    return e.div(e.const(1.0), e.add(e.const(1.0), emit_exp(e, negative(e, x))))


def emit_softplus(e, x):
    """ln(1 + e**x) = max(x, 0) + ln(1 + e**-|x|)"""
    z = emit_exp(e, negative(e, magnitude(e, x)))
    w = e.add(e.const(1.0), z)
    lost = e.sub(e.sub(w, e.const(1.0)), z)  # what 1 + z was rounded by
    return e.add(e.positive(x, x), e.sub(emit_log(e, w), e.div(lost, w)))
