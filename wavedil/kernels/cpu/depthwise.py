"""Depthwise products on panels: each channel is convolved with a filter of its own, and gets its weight gradient.

A tile holds some rows of one panel in registers, as in `wavedil.kernels.cpu.products`; no channel meets another, so a
step multiplies vector by vector and broadcasts nothing.
"""

from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu import host
from wavedil.kernels.cpu.emit import fields
from wavedil.kernels.cpu.products import Place, add_to, call, index, start_of, store_tile

DEEP = 4 if host.register_bytes() < 64 else 8  # rows of a tile of the depthwise products


class _Taps:
    """How the taps of a depthwise product lie.

    The panels of ``left`` are ``panels`` panels of channels for each row of taps: panel p of tap (k, m) is its panel
    ``m panels + p``.
    """

    def __init__(self, e, left, panels):
        self.e, self.panels, self.left = e, panels, left
        self.taps, self.deep = left[5], e.builder.sdiv(left[3], panels)

    def offsets(self, p, k, m):
        """Where a tap of panel p lies in the left operand, and its weights."""
        b = self.e.builder
        a = b.add(b.mul(k, self.left[4]), b.mul(b.add(b.mul(m, self.panels), p), self.left[2]))
        inner = b.add(b.mul(b.add(b.mul(p, self.taps), k), self.deep), m)
        return a, b.mul(inner, index(self.e.width))

    def each(self, p, body):
        """``body(*offsets)`` for every tap. One or three rows of taps, the usual ones, need no loop over them."""
        builder = self.e.builder

        def unrolled(deep):
            with self.e.loop(self.taps) as k:
                for m in range(deep):
                    body(*self.offsets(p, k, index(m)))

        with builder.if_else(builder.icmp_signed("==", self.deep, index(3))) as (three, other):
            with three:
                unrolled(3)
            with other, builder.if_else(builder.icmp_signed("==", self.deep, index(1))) as (one, many):
                with one:
                    unrolled(1)
                with many, self.e.loop(self.taps) as k, self.e.loop(self.deep) as m:
                    body(*self.offsets(p, k, m))


@intrinsic
def depthwise_product(typing, left, weights, rows, panels, target, start):
    """target = start + the depthwise product: ``C[r, c] = start[r, c] + sum_(k, m) A[r, (k, m), c] B[k, m, c]``.

    The arguments are those of ``row_product``, any number of rows; the weights are ``(panels, taps, rows of taps, W)``.
    The left operand has ``panels`` panels for each row of taps, and its rows lie W apart: one address then serves all
    rows of a tile (measured: less than half the time).
    """

    def codegen(context, builder, signature, args):
        call(builder, "depthwise_product", args, weights.dtype, body)
        return context.get_dummy_value()

    def body(e, left, weights, rows, panels, target, start):
        builder = e.builder
        left = fields(builder, left)
        taps = _Taps(e, left, panels)
        wide = e.registers()
        parts = e.width // wide.lanes

        def tile(p, r, size):
            place = Place(e, p, r)
            begin, to = place.view(start), place.view(target)
            sums = [[wide.variable(start_of(wide, [begin], m, v)) for v in range(parts)] for m in range(size)]
            a = e.at(left[0], builder.mul(r, index(e.width)))

            def add(a_offset, b_offset):
                b = [wide.load(e.at(weights, b_offset, v * wide.lanes)) for v in range(parts)]
                for m in range(size):
                    for v in range(parts):
                        x = wide.load(e.at(a, a_offset, m * e.width + v * wide.lanes))
                        e.set(sums[m][v], wide.fma(x, b[v], e.get(sums[m][v])))

            taps.each(p, add)
            store_tile(wide, to, [[e.get(slot) for slot in slots] for slots in sums])

        whole = builder.sdiv(rows, index(DEEP))
        done = builder.mul(whole, index(DEEP))
        with e.loop(whole) as t, e.loop(panels) as p:  # an output row-major is then written in its own order
            tile(p, builder.mul(t, index(DEEP)), DEEP)
        with e.loop(builder.sub(rows, done)) as t, e.loop(panels) as p:
            tile(p, builder.add(done, t), 1)

    return types.void(left, weights, types.int64, types.int64, target, start), codegen


@intrinsic
def depthwise_sums(typing, left, b, rows, panels, target):
    """target[p, k, m] += sum over the rows of A[r, (k, m), p] B[r, p]: the weight gradient of a depthwise product.

    The rows of both operands lie W apart.
    """

    def codegen(context, builder, signature, args):
        call(builder, "depthwise_sums", args, target.dtype, body)
        return context.get_dummy_value()

    def body(e, left, b, rows, panels, target):
        builder = e.builder
        left, (b_data, _, b_panel) = fields(builder, left), fields(builder, b)
        taps = _Taps(e, left, panels)
        wide = e.registers()
        parts = e.width // wide.lanes
        whole = builder.sdiv(rows, index(DEEP))
        done = builder.mul(whole, index(DEEP))
        with e.loop(panels) as p, e.loop(taps.taps) as k, e.loop(taps.deep) as n:
            a_offset, c_offset = taps.offsets(p, k, n)
            a, b_here = e.at(left[0], a_offset), e.at(b_data, builder.mul(p, b_panel))
            sums = [[wide.variable(wide.const(0.0)) for _ in range(parts)] for _ in range(DEEP)]

            def add(r, m, a=a, b_here=b_here, sums=sums):
                first = builder.mul(r, index(e.width))
                for v in range(parts):
                    x, y = (wide.load(e.at(q, first, m * e.width + v * wide.lanes)) for q in (a, b_here))
                    e.set(sums[m][v], wide.fma(x, y, e.get(sums[m][v])))

            with e.loop(whole) as t:
                for m in range(DEEP):
                    add(builder.mul(t, index(DEEP)), m)
            with e.loop(builder.sub(rows, done)) as t:
                add(builder.add(done, t), 0)
            for v in range(parts):
                add_to(wide, e.at(target, c_offset, v * wide.lanes), [e.get(slots[v]) for slots in sums])

    return types.void(left, b, types.int64, types.int64, target), codegen
