"""Matrix products on panels: one register tile, with what comes before and after it fused in.

Two products do all the work of a convolution, forward and backward (W is the width of a panel):

``C[r, :] = start[r, :] + sum_k sum_i A[r + k tap, i] B[k, i, :]``
    The *row product*: forward with the weights, and the input gradient with the transposed weights. Its
    left operand is read at several rows, one a tap of the dilated convolution.
``C[(k, i), :] += sum_r A[r + k tap, i] B[r, :]``
    The *column product*: the weight gradient, a sum over time.

Each is a tile of ``host.tile_rows()`` x 2 vectors of accumulators that live in registers from the first term
to the last (6 x 16 floats on AVX2). A step of the inner loop loads two vectors of B, and broadcasts one element of
every row of A against them: 12 fused multiply-adds for 8 loads, so the loop is bound by arithmetic.

How a tile starts and ends is a parameter (``ENDS``): a tile that ends in the gate of a WaveNet applies tanh and
sigmoid while the sums are still in registers, and they never reach memory. This is what the fused kernels
are made of.

Rows of a row product come in whole tiles (``panels.whole_tiles``); the callers allocate so. The kernels write
with ``=`` except where their comment says ``+=``.
"""

from collections import namedtuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wavedil.kernels import host
from wavedil.kernels.emit import I64, Emitter, fields
from wavedil.kernels.jit import jit
from wavedil.kernels.panels import beyond, down, right, strided_view, width_of
from wavedil.kernels.vector import emit_sigmoid, emit_tanh

Left = namedtuple("Left", "data row panel panels tap taps")
Left.__doc__ = """Left operand: a View of so many panels, read at ``taps`` positions that lie ``tap`` elements apart."""

TILE = host.tile_rows()
STEP = 4  # inner terms of a row product in a step of its loop; divides every panel's width
UNROLL = 2  # rows in a step of the column product's loop; whole tiles are a multiple of it


# the row product's tile --------------------------------------------------------------------------------
def _row_tile(starts, finish):
    """Intrinsic (left, b, others): one tile of a row product.

    ``others`` is a tuple of views and pointers. The tile starts with the sum of ``others[1 : 1 + starts]``,
    and ``finish(e, others, sums)`` stores it, given ``sums[row][vector]``.
    """

    @intrinsic
    def tile(typing, left, b, others):
        def codegen(context, builder, signature, args):
            e = Emitter(builder, left.types[0].dtype)
            data, row, panel, panels, tap, taps = fields(builder, args[0])
            extra = [other if isinstance(other.type, ir.PointerType) else fields(builder, other)
                     for other in fields(builder, args[2])]  # fmt: skip
            sums = [[e.variable(_start(e, extra[1 : 1 + starts], m, v)) for v in range(2)] for m in range(TILE)]
            a = [e.at(data, builder.mul(row, ir.Constant(I64, m))) for m in range(TILE)]
            b_step = ir.Constant(I64, e.width * e.width)
            steps = ir.Constant(I64, e.width // STEP)
            with e.loop(taps) as k, e.loop(panels) as q, e.loop(steps) as step:
                first = builder.mul(step, ir.Constant(I64, STEP))
                offset = builder.add(builder.add(builder.mul(k, tap), builder.mul(q, panel)), first)
                b_here = e.at(args[1], builder.mul(builder.add(builder.mul(k, panels), q), b_step))
                b_here = e.at(b_here, builder.mul(first, ir.Constant(I64, e.width)))
                for j in range(STEP):
                    b_vectors = [e.load(e.at(b_here, j * e.width + v * e.lanes)) for v in range(2)]
                    for m in range(TILE):
                        x = e.broadcast(e.at(a[m], offset, j))
                        for v in range(2):
                            e.set(sums[m][v], e.fma(x, b_vectors[v], e.get(sums[m][v])))
            finish(e, extra, [[e.get(slot) for slot in slots] for slots in sums])
            return context.get_dummy_value()

        return types.void(left, b, others), codegen

    return tile


def _start(e, views, m, v):
    """Vector v of row m of the sum of some views."""
    value = None
    for data, row, _ in views:
        term = e.load(e.at(data, e.builder.mul(row, ir.Constant(I64, m)), v * e.lanes))
        value = term if value is None else e.add(value, term)
    return e.const(0.0) if value is None else value


def _add_to(e, pointer, rows):
    """pointer[:] += the sum over the rows."""
    total = rows[0]
    for value in rows[1:]:
        total = e.add(total, value)
    e.store(e.add(e.load(pointer), total), pointer)


def _store(e, others, sums):
    data, row, _ = others[0]
    for m in range(TILE):
        for v in range(2):
            e.store(sums[m][v], e.at(data, e.builder.mul(row, ir.Constant(I64, m)), v * e.lanes))


def _end_plain(e, others, sums):
    _store(e, others, sums)


def _end_relu(e, others, sums):
    _store(e, others, [[e.positive(x, x) for x in row] for row in sums])


def _end_sum(e, others, sums):
    _store(e, others, sums)
    for v in range(2):
        _add_to(e, e.at(others[2], v * e.lanes), [row[v] for row in sums])


def _end_mask(e, others, sums):
    (test, test_row, _), column_sums = others[1:]
    for m in range(TILE):
        for v in range(2):
            x = e.load(e.at(test, e.builder.mul(test_row, ir.Constant(I64, m)), v * e.lanes))
            sums[m][v] = e.positive(x, sums[m][v])
    _end_sum(e, [others[0], None, column_sums], sums)


def _end_gate(e, others, sums):
    """Vector 0 of the tile is the filter, vector 1 the gate of the same channels."""
    (gates, gates_row, _), _, (z, z_row, _) = others
    for m in range(TILE):
        row = ir.Constant(I64, m)
        t, s = emit_tanh(e, sums[m][0]), emit_sigmoid(e, sums[m][1])
        for v, value in enumerate((t, s)):
            e.store(value, e.at(gates, e.builder.mul(gates_row, row), v * e.lanes))
        e.store(e.mul(t, s), e.at(z, e.builder.mul(z_row, row)))


def _end_gate_backward(e, others, sums):
    """Vector v of dz belongs to panel v of the gates, which hold tanh and sigmoid and receive their gradients."""
    (gates, gates_row, gates_panel), (z, z_row, _), column_sums = others
    for v in range(2):
        rows = []
        for m in range(TILE):
            row = e.builder.mul(gates_row, ir.Constant(I64, m))
            here = e.at(gates, row, e.builder.mul(gates_panel, ir.Constant(I64, v)))
            t, s = e.load(here), e.load(e.at(here, e.lanes))
            e.store(e.mul(t, s), e.at(z, e.builder.mul(z_row, ir.Constant(I64, m)), v * e.lanes))
            g = e.mul(sums[m][v], s)
            dt = e.fma(e.mul(g, t), e.sub(e.const(0.0), t), g)
            ds = e.mul(e.mul(g, t), e.sub(e.const(1.0), s))
            e.store(dt, here)
            e.store(ds, e.at(here, e.lanes))
            rows.append((dt, ds))
        for half in range(2):
            at = e.at(column_sums, v * e.width + half * e.lanes)
            _add_to(e, at, [pair[half] for pair in rows])


_plain_tile = _row_tile(1, _end_plain)
_biased_tile = _row_tile(2, _end_plain)
_relu_tile = _row_tile(1, _end_relu)
_sum_tile = _row_tile(1, _end_sum)
_mask_tile = _row_tile(0, _end_mask)
_gate_tile = _row_tile(1, _end_gate)
_gate_backward_tile = _row_tile(0, _end_gate_backward)


# row products -------------------------------------------------------------------------------------------
@intrinsic
def left_taps(typing, view, panels, rows_apart, taps):
    """A view of so many panels as a left operand with several taps; the first is at the view's own rows."""
    result = types.NamedTuple([view.types[0], *[types.int64] * 5], Left)

    def codegen(context, builder, signature, args):
        data, row, panel = fields(builder, args[0])
        tap = builder.mul(args[2], row)
        return context.make_tuple(builder, result, [data, row, panel, args[1], tap, args[3]])

    return result(view, types.int64, types.int64, types.int64), codegen


@intrinsic
def left_view(typing, view, panels):
    """A view of so many panels as a left operand with one tap."""
    result = types.NamedTuple([view.types[0], *[types.int64] * 5], Left)

    def codegen(context, builder, signature, args):
        values = [*fields(builder, args[0]), args[1], ir.Constant(I64, 0), ir.Constant(I64, 1)]
        return context.make_tuple(builder, result, values)

    return result(view, types.int64), codegen


@jit
def row_product(left, weights, rows, panels, target, start):
    """target = start + left @ weights, over so many rows and panels of the target."""
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _plain_tile(down(left, m), b, (down(right(target, p), m), down(right(start, p), m)))


@jit
def row_product_biased(left, weights, rows, panels, target, start, bias):
    """target = start + bias + left @ weights"""
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _biased_tile(down(left, m), b, (down(right(target, p), m), down(right(start, p), m), right(bias, p)))


@jit
def row_product_relu(left, weights, rows, panels, target, start):
    """target = max(0, start + left @ weights)"""
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _relu_tile(down(left, m), b, (down(right(target, p), m), down(right(start, p), m)))


@jit
def row_product_sum(left, weights, rows, panels, target, start, sums):
    """target = start + left @ weights; sums += the column sums of the target"""
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _sum_tile(down(left, m), b, (down(right(target, p), m), down(right(start, p), m), beyond(sums, p * w)))


@jit
def row_product_mask(left, weights, rows, panels, target, test, sums):
    """target = (left @ weights) where test > 0, else 0; sums += the column sums of the target"""
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _mask_tile(down(left, m), b, (down(right(target, p), m), down(right(test, p), m), beyond(sums, p * w)))


@jit
def row_product_gate(left, weights, rows, panels, gates, start, z):
    """a, g = start + left @ weights; gates = tanh(a), sigmoid(g); z = tanh(a) * sigmoid(g)

    A panel holds one vector of a, then the vector of g for the same channels; ``panels`` counts panels of ``z``.
    """
    w = width_of(weights)
    for p in range(2 * panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        half = beyond(right(z, p // 2).data, (p % 2) * (w // 2))
        for m in range(0, rows, TILE):
            z_here = down(strided_view(half, z.row, z.panel), m)
            _gate_tile(down(left, m), b, (down(right(gates, p), m), down(right(start, p), m), z_here))


@jit
def row_product_gate_backward(left, weights, rows, panels, gates, z, sums):
    """dz = left @ weights; gates: tanh and sigmoid are replaced by da and dg; z = tanh * sigmoid

    sums += the column sums of (da, dg). The layout is that of ``row_product_gate``.
    """
    w = width_of(weights)
    for p in range(panels):
        b = beyond(weights, p * left.taps * left.panels * w * w)
        for m in range(0, rows, TILE):
            _gate_backward_tile(
                down(left, m), b, (down(right(gates, 2 * p), m), down(right(z, p), m), beyond(sums, 2 * p * w))
            )


# the column product --------------------------------------------------------------------------------------
def _column_tile(tile_rows):
    """Intrinsic (left, first, b, count, c): c[m, :] += sum_r A[r, first + m] B[r, :], a row-major c, W wide."""

    @intrinsic
    def tile(typing, left, first, b, count, c):
        def codegen(context, builder, signature, args):
            e = Emitter(builder, left.types[0].dtype)
            data, row, panel, panels, tap, _ = fields(builder, args[0])
            b_data, b_row, _ = fields(builder, args[2])
            width = ir.Constant(I64, e.width)
            a = []
            for m in range(tile_rows):
                index = builder.add(args[1], ir.Constant(I64, m))
                q, w = builder.sdiv(index, width), builder.srem(index, width)
                k, q = builder.sdiv(q, panels), builder.srem(q, panels)
                a.append(e.at(data, builder.mul(k, tap), builder.mul(q, panel), w))
            targets = [[e.at(args[4], m * e.width + v * e.lanes) for v in range(2)] for m in range(tile_rows)]
            sums = [[e.variable(e.load(pointer)) for pointer in pair] for pair in targets]
            with e.loop(builder.sdiv(args[3], ir.Constant(I64, UNROLL))) as step:
                for u in range(UNROLL):
                    r = builder.add(builder.mul(step, ir.Constant(I64, UNROLL)), ir.Constant(I64, u))
                    a_offset, b_here = builder.mul(r, row), e.at(b_data, builder.mul(r, b_row))
                    b_vectors = [e.load(e.at(b_here, v * e.lanes)) for v in range(2)]
                    for m in range(tile_rows):
                        x = e.broadcast(e.at(a[m], a_offset))
                        for v in range(2):
                            e.set(sums[m][v], e.fma(x, b_vectors[v], e.get(sums[m][v])))
            for pair, slots in zip(targets, sums, strict=True):
                for pointer, slot in zip(pair, slots, strict=True):
                    e.store(e.get(slot), pointer)
            return context.get_dummy_value()

        return types.void(left, first, b, count, c), codegen

    return tile


_column_tile_whole, _column_tile_four = _column_tile(TILE), _column_tile(4)


@jit
def column_product(left, b, rows, panels, target):
    """target += left.T @ b, a sum over so many rows: target is (panels, taps * left.panels * W, W)."""
    w = width_of(target)
    total = left.taps * left.panels * w
    fours = 0
    while (total - 4 * fours) % TILE:
        fours += 1
    whole = total - 4 * fours
    for p in range(panels):
        c, b_here = beyond(target, p * total * w), right(b, p)
        for m in range(0, whole, TILE):
            _column_tile_whole(left, m, b_here, rows, beyond(c, m * w))
        for m in range(whole, total, 4):
            _column_tile_four(left, m, b_here, rows, beyond(c, m * w))
