"""Vector instructions for one float type, written through LLVM.

Generic vector types (``<8 x float>``) become SSE, AVX, AVX-512 or NEON instructions alike. ``llvm.fmuladd`` is
one fused instruction where the machine has it, and a product and a sum elsewhere (``llvm.fma`` would call a
library routine there).
"""

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from wavedil.kernels.cpu import host

I32, I64 = ir.IntType(32), ir.IntType(64)


class Emitter:
    """Emits instructions on vectors of ``lanes`` elements of a Numba float type through an LLVM builder."""

    def __init__(self, builder, dtype, lanes=None):
        self.builder, self.dtype = builder, dtype
        self.bits = dtype.bitwidth
        self.element = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.integer = ir.IntType(self.bits)
        self.lanes = lanes or host.vector_bytes() * 8 // self.bits
        self.width = 2 * self.lanes
        self.vector = ir.VectorType(self.element, self.lanes)
        self.integers = ir.VectorType(self.integer, self.lanes)

    # vectors as wide as a register --------------------------------------------------------------------
    def registers(self):
        """An emitter whose vectors fill a register: a panel's row is one or two of them."""
        return Emitter(self.builder, self.dtype, host.register_bytes() * 8 // self.bits)

    def halves(self, value):
        """The two vectors of a panel's row that is in one register."""
        lanes = value.type.count // 2
        return [self._lanes(value, start, lanes) for start in (0, lanes)]

    def _lanes(self, value, start, count):
        numbers = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        return self.builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), numbers)

    # values -------------------------------------------------------------------------------------------
    def const(self, value):
        return ir.Constant(self.vector, [value] * self.lanes)

    def whole(self, value):
        """Constant vector of integers."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def splat(self, scalar):
        """The same element in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    # memory -------------------------------------------------------------------------------------------
    def at(self, pointer, *offsets):
        """Pointer to the element at the sum of the offsets (Python or LLVM integers)."""
        for offset in offsets:
            if isinstance(offset, int):
                if offset == 0:
                    continue
                offset = ir.Constant(I64, offset)
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def load(self, pointer):
        value = self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()))
        value.align = self.bits // 8
        return value

    def load_bytes(self, pointer):
        """Whole numbers of one byte each, as floats."""
        value = self.builder.load(self.builder.bitcast(pointer, ir.VectorType(ir.IntType(8), self.lanes).as_pointer()))
        value.align = 1
        return self.builder.sitofp(value, self.vector)

    def load_halves(self, pointer):
        """Numbers in half precision, as float32."""
        shorts = ir.VectorType(ir.IntType(16), self.lanes)
        value = self.builder.load(self.builder.bitcast(pointer, shorts.as_pointer()))
        value.align = 2
        if host.converts_halves():
            halves = self.builder.bitcast(value, ir.VectorType(ir.HalfType(), self.lanes))
            return self.builder.fpext(halves, self.vector)
        # The sign stays in front; exponent and mantissa move to where a float32 has them, 2**112 too small.
        moved = self.builder.shl(self.builder.sext(value, self.integers), self.whole(13))
        bits = self.builder.and_(moved, self.whole(0x8FFFE000 - 2**32))
        return self.mul(self.builder.bitcast(bits, self.vector), self.const(2.0**112))

    def store(self, value, pointer):
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer())).align = self.bits // 8

    def broadcast(self, pointer):
        return self.splat(self.builder.load(pointer))

    # arithmetic ---------------------------------------------------------------------------------------
    def _call(self, name, *operands):
        name = f"llvm.{name}.v{self.lanes}f{self.bits}"
        function = ir.FunctionType(self.vector, [self.vector] * len(operands))
        return self.builder.call(self.builder.module.declare_intrinsic(name, (), function), operands)

    def fma(self, x, y, z):
        """x * y + z"""
        return self._call("fmuladd", x, y, z)

    def floor(self, x):
        return self._call("floor", x)

    def add(self, x, y):
        return self.builder.fadd(x, y)

    def sub(self, x, y):
        return self.builder.fsub(x, y)

    def mul(self, x, y):
        return self.builder.fmul(x, y)

    def div(self, x, y):
        return self.builder.fdiv(x, y)

    def select(self, condition, x, y):
        return self.builder.select(condition, x, y)

    def polynomial(self, x, coefficients):
        """Horner's rule; the coefficient of the highest power comes first."""
        value = self.const(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.const(coefficient))
        return value

    def clamp(self, x, low, high):
        """x within [low, high]; the compares are unordered, so that NaN stays NaN."""
        x = self.select(self.builder.fcmp_unordered(">", self.const(high), x), x, self.const(high))
        return self.select(self.builder.fcmp_unordered("<", self.const(low), x), x, self.const(low))

    def positive(self, test, value):
        """value where test > 0 (or is NaN), else 0: the forward and the backward pass of a ReLU."""
        return self.select(self.builder.fcmp_unordered(">", test, self.const(0.0)), value, self.const(0.0))

    def power_of_two(self, k):
        """2 ** k for a vector of whole numbers within the exponent's range."""
        bias, mantissa = (127, 23) if self.bits == 32 else (1023, 52)
        exponent = self.builder.add(self.builder.fptosi(k, self.integers), self.whole(bias))
        return self.builder.bitcast(self.builder.shl(exponent, self.whole(mantissa)), self.vector)

    # reductions and loops -----------------------------------------------------------------------------
    def fold(self, value, combine):
        """Combine the lanes, halves with halves, to one element."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            value = combine(*self.halves(value))
        return self.builder.extract_element(value, ir.Constant(I32, 0))

    def variable(self, value):
        """A variable that holds a vector; LLVM keeps it in a register."""
        slot = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, slot)
        return slot

    def get(self, slot):
        return self.builder.load(slot)

    def set(self, slot, value):
        self.builder.store(value, slot)

    @contextmanager
    def loop(self, count):
        """``for index in range(count)``; yields the index."""
        with cgutils.for_range(self.builder, count, intp=I64) as loop:
            yield loop.index


def fields(builder, value):
    """The fields of a tuple that arrived as an LLVM value."""
    kind = value.type
    count = kind.count if isinstance(kind, ir.ArrayType) else len(kind.elements)
    return [builder.extract_value(value, k) for k in range(count)]
