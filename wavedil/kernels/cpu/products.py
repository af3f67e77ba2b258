"""Matrix products on panels: one register tile, with what comes before and after it fused in.

Two products do all the work of a convolution, forward and backward (W is the width of a panel):

``C[r, :] = start[r, :] + sum_k sum_i A[r + k tap, i] B[k, i, :]``
    The *row product*: forward with the weights, and the input gradient with the transposed weights. Its
    left operand is read at several rows, one a tap of the dilated convolution.
``C[(k, i), :] += sum_r A[r + k tap, i] B[r, :]``
    The *column product*: the weight gradient, a sum over time.

Each is a tile of ``host.tile_rows()`` rows of a panel, whose accumulators live in registers from the first term
to the last (6 x 16 floats on AVX2, 24 x 16 on AVX-512). A step of the inner loop loads a row of B's panel, and
broadcasts one element of every row of A against it: on AVX2, 12 fused multiply-adds for 8 loads, so the loop is bound
by arithmetic. The tiles of a
product go down the rows first, so that one panel of B stays in the first cache.

How a row product starts and ends is what tells its kinds apart: one that ends in the gate of a WaveNet applies tanh
and sigmoid while the sums are still in registers, and they never reach memory. This is what the fused kernels are
made of. Each kind takes ``(left, weights, rows, panels, ...)``:

==============================  =================================================================================
``row_product``                 ``target, start``: target = start + left @ weights
``row_product_biased``          ``target, start, bias``: target = start + bias + left @ weights
``row_product_relu``            ``target, start``: target = max(0, start + left @ weights)
``row_product_sum``             ``target, start, sums``: target = start + left @ weights, and
                                sums += the column sums of the target
``row_product_mask``            ``target, test, sums``: target = left @ weights where test > 0, else 0, and
                                sums += the column sums of the target
``row_product_gate``            ``gates, start, z``: a, g = start + left @ weights; gates = tanh(a), sigmoid(g);
                                z = tanh(a) sigmoid(g). ``panels`` counts those of z
``row_product_gate_backward``   ``gates, z, sums``: dz = left @ weights; tanh and sigmoid in gates are replaced by
                                da and dg; z = tanh sigmoid; sums += the column sums of (da, dg).
                                ``panels`` counts those of z
==============================  =================================================================================

Targets, starts and tests are views; weights and sums are pointers. A panel of gates holds one vector of a (or
tanh), then the vector of g (or sigmoid) for the same channels. Rows come in whole tiles (``panels.whole_tiles``);
the callers allocate so, except for the kinds whose name begins with ``few_``, which take any number. A start may be
the target itself, for ``+=``. The order of every sum is the same in all tiles, so a row's bits do not depend on how
many rows there are. Weights may be stored in fewer bytes (see `storage`): a row of a panel becomes floats as it is
loaded, and with int8 the finished sum is multiplied by its column's scale before the start is added.

Every kind is one LLVM function in the module that calls it, so a kernel that uses it twice compiles it once.
"""

from collections import namedtuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu import host
from wavedil.kernels.cpu.emit import I64, Emitter, fields
from wavedil.kernels.cpu.vector import emit_sigmoid, emit_tanh
from wavedil.kernels.storage import SCALES

Left = namedtuple("Left", "data row panel panels tap taps")
Left.__doc__ = """Left operand: a View of so many panels, read at ``taps`` positions that lie ``tap`` elements apart."""

TILE, COLUMN_TILE = host.tile_rows(), host.column_tile_rows()
STEP = 4  # inner terms of a row product in a step of its loop; divides every panel's width
UNROLL = 2  # rows in a step of the column product's loop; whole tiles are a multiple of it


def index(value):
    return ir.Constant(I64, value)


# left operands --------------------------------------------------------------------------------------------------------
@intrinsic
def left_taps(typing, view, panels, tap, taps):
    """A view of so many panels as a left operand with several taps, so many elements apart; the first is the view."""
    result = types.NamedTuple([view.types[0], *[types.int64] * 5], Left)

    def codegen(context, builder, signature, args):
        data, row, panel = fields(builder, args[0])
        return context.make_tuple(builder, result, [data, row, panel, *args[1:]])

    return result(view, types.int64, types.int64, types.int64), codegen


@intrinsic
def left_view(typing, view, panels):
    """A view of so many panels as a left operand with one tap."""
    result = types.NamedTuple([view.types[0], *[types.int64] * 5], Left)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, result, [*fields(builder, args[0]), args[1], index(0), index(1)])

    return result(view, types.int64), codegen


# weights --------------------------------------------------------------------------------------------------------------
@intrinsic
def matrix(typing, array, begin, number, panels, inner):
    """Pointer to a matrix of so many panels, which have ``inner`` panels of rows: one of several, one after another."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        begin, number, panels, inner = args[1:]
        w = host.width("f4" if array.dtype.bitwidth < 32 else f"f{array.dtype.bitwidth // 8}")
        rows = builder.add(builder.mul(inner, index(w)), index(_scale_rows(array.dtype)))
        size = builder.mul(builder.mul(panels, rows), index(w))
        return builder.gep(data, [builder.add(begin, builder.mul(number, size))])

    return types.CPointer(array.dtype)(array, *[types.int64] * 4), codegen


# functions within a module --------------------------------------------------------------------------------------------
def call(builder, name, args, dtype, body):
    """Call a function of the module under construction, written by ``body(emitter, *args)`` if it is not there yet."""
    name = f"wavedil.{name}.{dtype}"
    function = builder.module.globals.get(name)
    if function is None:
        signature = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = ir.Function(builder.module, signature, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        body(Emitter(inside, dtype), *function.args)
        inside.ret_void()
    builder.call(function, args)


# row products ---------------------------------------------------------------------------------------------------------
class Place:
    """Where the other operands lie for panel p and row m of a product."""

    def __init__(self, e, p, m):
        self.e, self.p, self.m = e, p, m

    def view(self, value, panel=None):
        """(pointer, row step, panel step) of a view at this panel (or another) and row."""
        data, row, step = fields(self.e.builder, value)
        b = self.e.builder
        at = b.add(b.mul(self.m, row), b.mul(self.p if panel is None else panel, step))
        return self.e.at(data, at), row, step

    def half(self, value):
        """The vector of a view's panel p / 2 that belongs to an even or odd p."""
        b = self.e.builder
        data, row, step = self.view(value, b.sdiv(self.p, index(2)))
        return self.e.at(data, b.mul(b.srem(self.p, index(2)), index(self.e.lanes))), row, step

    def double(self, value):
        """The two panels of a view that belong to panel p."""
        return self.view(value, self.e.builder.mul(self.p, index(2)))

    def pointer(self, value, panels=1):
        """Pointer to this panel's (or pair of panels') part of a row."""
        return self.e.at(value, self.e.builder.mul(self.p, index(panels * self.e.width)))


def _scale_rows(stored):
    """Rows of a panel of weights of this Numba type that its scales take."""
    return SCALES if stored == types.int8 else 0


def _row_tile(e, left, b, panel_step, rows, ends, stored):
    """One tile of so many rows, and a panel for each of ``ends``: (views to start from, function that stores it).

    ``stored`` is the Numba type of the weights in memory.
    """
    builder, wide = e.builder, e.registers()
    parts = e.width // wide.lanes  # registers to a panel's row
    data, row, panel, panels, tap, taps = left
    load = {types.int8: wide.load_bytes, types.uint16: wide.load_halves}.get(stored, wide.load)
    scaled = stored == types.int8
    sums = [
        [[e.variable(start_of(wide, [] if scaled else starts, m, v)) for v in range(parts)] for m in range(rows)]
        for starts, _ in ends
    ]
    heads = [e.at(b, builder.mul(panel_step, index(p))) for p in range(len(ends))]
    b = e.at(b, _scale_rows(stored) * e.width)
    a = [e.at(data, builder.mul(row, index(m))) for m in range(rows)]
    with e.loop(taps) as k, e.loop(panels) as q, e.loop(index(e.width // STEP)) as step:
        first = builder.mul(step, index(STEP))
        offset = builder.add(builder.add(builder.mul(k, tap), builder.mul(q, panel)), first)
        inner = builder.add(builder.mul(builder.add(builder.mul(k, panels), q), index(e.width)), first)
        b_here = e.at(b, builder.mul(inner, index(e.width)))
        b_panels = [e.at(b_here, builder.mul(panel_step, index(p))) for p in range(len(ends))]
        for j in range(STEP):
            b_vectors = [[load(e.at(b, j * e.width + v * wide.lanes)) for v in range(parts)] for b in b_panels]
            for m in range(rows):
                x = wide.broadcast(e.at(a[m], offset, j))
                for vectors, panel_sums in zip(b_vectors, sums, strict=True):
                    for v in range(parts):
                        e.set(panel_sums[m][v], wide.fma(x, vectors[v], e.get(panel_sums[m][v])))
    for (starts, finish), panel_sums, head in zip(ends, sums, heads, strict=True):
        values = [[e.get(slot) for slot in slots] for slots in panel_sums]
        if scaled:
            head = builder.bitcast(head, e.element.as_pointer())
            scales = [wide.load(e.at(head, v * wide.lanes)) for v in range(parts)]
            values = [
                [wide.fma(value, scales[v], start_of(wide, starts, m, v)) for v, value in enumerate(row)]
                for m, row in enumerate(values)
            ]
        finish(values if parts == 2 else [e.halves(value) for (value,) in values])


def start_of(e, views, m, v):
    """Vector v of row m of the sum of some views."""
    value = None
    for data, row, _ in views:
        term = e.load(e.at(data, e.builder.mul(row, index(m)), v * e.lanes))
        value = term if value is None else e.add(value, term)
    return e.const(0.0) if value is None else value


def _fours(builder, rows, tile):
    """How many tiles of four rows leave a multiple of the tile's rows, or as little else as can be.

    The rest of whole tiles is a multiple of 4 but for tiles of 6 rows, where a rest of 2 or 3 takes two of them.
    """
    rest = builder.srem(rows, index(tile))
    if tile != 6:
        return builder.sdiv(rest, index(4))
    two = builder.and_(builder.icmp_signed("==", builder.and_(rest, index(6)), index(2)),
                       builder.icmp_signed(">=", rows, index(8)))  # fmt: skip
    return builder.select(two, index(2), builder.sdiv(rest, index(4)))


def _row_product(name, kind, extras, panels_each=1, few=False):
    """Intrinsic ``(left, weights, rows, panels, *extras)``.

    ``kind(e, place, *extras)`` gives the views that a panel of a tile starts from, and the function that stores it.
    Training works on whole tiles of time rows. Generation has a row for each stream and ``few`` of them, so it also has
    tiles for four rows and for single ones; those are four panels wide, to hide the latency of the additions.
    """

    def codegen(context, builder, signature, args):
        stored, dtype = signature.args[1].dtype, signature.args[0].types[0].dtype
        call(builder, f"{name}.{stored}", args, dtype, lambda e, *args: body(e, stored, *args))
        return context.get_dummy_value()

    def body(e, stored, left, weights, rows, panels, *others):
        builder = e.builder
        data, row, *rest = fields(builder, left)
        inner_rows = builder.mul(builder.mul(rest[1], rest[3]), index(e.width))
        inner = builder.mul(builder.add(inner_rows, index(_scale_rows(stored))), index(e.width))  # elements of a panel
        panels = builder.mul(panels, index(panels_each))

        def tile(p, m, tile_rows, tile_panels):
            here = [e.at(data, builder.mul(m, row)), row, *rest]
            ends = [kind(e, Place(e, builder.add(p, index(i)), m), *others) for i in range(tile_panels)]
            _row_tile(e, here, e.at(weights, builder.mul(p, inner)), inner, tile_rows, ends, stored)

        if not few:
            high = builder.sdiv(rows, index(TILE))
            with e.loop(panels) as p, e.loop(high) as m:
                tile(p, builder.mul(m, index(TILE)), TILE, 1)
            return
        # Whole tiles and tiles of four rows together, so that a panel of weights is read once; then what is left.
        fours = _fours(builder, rows, TILE)
        high = builder.sdiv(builder.sub(rows, builder.mul(fours, index(4))), index(TILE))
        with e.loop(panels) as p:
            with e.loop(high) as m:
                tile(p, builder.mul(m, index(TILE)), TILE, 1)
            with e.loop(fours) as m:
                tile(p, builder.add(builder.mul(high, index(TILE)), builder.mul(m, index(4))), 4, 1)
        done = builder.add(builder.mul(high, index(TILE)), builder.mul(fours, index(4)))
        first_panel = index(0)
        for wide in (4, 2, 1):
            count = builder.sdiv(builder.sub(panels, first_panel), index(wide))
            with e.loop(count) as p, e.loop(builder.sub(rows, done)) as m:
                tile(builder.add(first_panel, builder.mul(p, index(wide))), builder.add(done, m), 1, wide)
            first_panel = builder.add(first_panel, builder.mul(count, index(wide)))

    if extras == 2:

        @intrinsic
        def product(typing, left, weights, rows, panels, first, second):
            return types.void(left, weights, types.int64, types.int64, first, second), codegen
    else:

        @intrinsic
        def product(typing, left, weights, rows, panels, first, second, third):
            return types.void(left, weights, types.int64, types.int64, first, second, third), codegen

    return product


def store_tile(e, target, sums):
    data, row, _ = target
    for m, vectors in enumerate(sums):
        for v, value in enumerate(vectors):
            e.store(value, e.at(data, e.builder.mul(row, index(m)), v * e.lanes))


def add_to(e, pointer, rows):
    """pointer[:] += the sum over the rows."""
    total = rows[0]
    for value in rows[1:]:
        total = e.add(total, value)
    e.store(e.add(e.load(pointer), total), pointer)


def _store_and_sum(e, target, column_sums, sums):
    store_tile(e, target, sums)
    for v in range(2):
        add_to(e, e.at(column_sums, v * e.lanes), [row[v] for row in sums])


def _plain(e, place, target, start):
    return [place.view(start)], lambda sums: store_tile(e, place.view(target), sums)


def _biased(e, place, target, start, bias):
    return [place.view(start), place.view(bias)], lambda sums: store_tile(e, place.view(target), sums)


def _relu(e, place, target, start):
    def finish(sums):
        store_tile(e, place.view(target), [[e.positive(x, x) for x in row] for row in sums])

    return [place.view(start)], finish


def _sum(e, place, target, start, column_sums):
    def finish(sums):
        _store_and_sum(e, place.view(target), place.pointer(column_sums), sums)

    return [place.view(start)], finish


def _mask(e, place, target, test, column_sums):
    def finish(sums):
        data, row, _ = place.view(test)
        for m in range(len(sums)):
            for v in range(2):
                x = e.load(e.at(data, e.builder.mul(row, index(m)), v * e.lanes))
                sums[m][v] = e.positive(x, sums[m][v])
        _store_and_sum(e, place.view(target), place.pointer(column_sums), sums)

    return [], finish


def _gate(e, place, gates, start, z):
    def finish(sums):
        (data, data_row, _), (z_data, z_row, _) = place.view(gates), place.half(z)
        for m, (a, g) in enumerate(sums):
            t, s = emit_tanh(e, a), emit_sigmoid(e, g)
            here = e.at(data, e.builder.mul(data_row, index(m)))
            e.store(t, here)
            e.store(s, e.at(here, e.lanes))
            e.store(e.mul(t, s), e.at(z_data, e.builder.mul(z_row, index(m))))

    return [place.view(start)], finish


def _gate_backward(e, place, gates, z, column_sums):
    """Vector v of dz belongs to panel v of the two panels of gates."""

    def finish(sums):
        (data, data_row, data_panel), (z_data, z_row, _) = place.double(gates), place.view(z)
        for v in range(2):
            rows = []
            for m in range(len(sums)):
                here = e.at(data, e.builder.mul(data_row, index(m)), e.builder.mul(data_panel, index(v)))
                t, s = e.load(here), e.load(e.at(here, e.lanes))
                e.store(e.mul(t, s), e.at(z_data, e.builder.mul(z_row, index(m)), v * e.lanes))
                g = e.mul(sums[m][v], s)
                gt = e.mul(g, t)
                da, dg = e.fma(gt, e.sub(e.const(0.0), t), g), e.mul(gt, e.sub(e.const(1.0), s))
                e.store(da, here)
                e.store(dg, e.at(here, e.lanes))
                rows.append((da, dg))
            for half in range(2):
                at = e.at(place.pointer(column_sums, 2), v * e.width + half * e.lanes)
                add_to(e, at, [pair[half] for pair in rows])

    return [], finish


row_product = _row_product("row_product", _plain, 2)
row_product_biased = _row_product("row_product_biased", _biased, 3)
row_product_relu = _row_product("row_product_relu", _relu, 2)
row_product_sum = _row_product("row_product_sum", _sum, 3)
row_product_mask = _row_product("row_product_mask", _mask, 3)
row_product_gate = _row_product("row_product_gate", _gate, 3, panels_each=2)
row_product_gate_backward = _row_product("row_product_gate_backward", _gate_backward, 3)

few_row_product = _row_product("few_row_product", _plain, 2, few=True)
few_row_product_biased = _row_product("few_row_product_biased", _biased, 3, few=True)
few_row_product_relu = _row_product("few_row_product_relu", _relu, 2, few=True)
few_row_product_gate = _row_product("few_row_product_gate", _gate, 3, panels_each=2, few=True)


# the column product ---------------------------------------------------------------------------------------------------
def _column_tile(e, left, first, b, count, c, tile_rows):
    """c[m, :] += sum_r A[r, first + m] B[r, :] for m < tile_rows; c is row-major and W wide."""
    builder, wide = e.builder, e.registers()
    parts = e.width // wide.lanes
    data, row, panel, panels, tap, _ = left
    b_data, b_row, _ = b
    a = []
    for m in range(tile_rows):
        column = builder.add(first, index(m))
        q, w = builder.sdiv(column, index(e.width)), builder.srem(column, index(e.width))
        k, q = builder.sdiv(q, panels), builder.srem(q, panels)
        a.append(e.at(data, builder.mul(k, tap), builder.mul(q, panel), w))
    targets = [[e.at(c, m * e.width + v * wide.lanes) for v in range(parts)] for m in range(tile_rows)]
    sums = [[e.variable(wide.load(pointer)) for pointer in pointers] for pointers in targets]
    with e.loop(builder.sdiv(count, index(UNROLL))) as step:
        for u in range(UNROLL):
            r = builder.add(builder.mul(step, index(UNROLL)), index(u))
            a_offset, b_here = builder.mul(r, row), e.at(b_data, builder.mul(r, b_row))
            b_vectors = [wide.load(e.at(b_here, v * wide.lanes)) for v in range(parts)]
            for m in range(tile_rows):
                x = wide.broadcast(e.at(a[m], a_offset))
                for v in range(parts):
                    e.set(sums[m][v], wide.fma(x, b_vectors[v], e.get(sums[m][v])))
    for pointers, slots in zip(targets, sums, strict=True):
        for pointer, slot in zip(pointers, slots, strict=True):
            wide.store(e.get(slot), pointer)


@intrinsic
def column_product(typing, left, b, rows, panels, target):
    """target += left.T @ b, a sum over so many rows: target is a pointer to (panels, taps * left.panels * W, W)."""

    def codegen(context, builder, signature, args):
        call(builder, "column_product", args, target.dtype, body)
        return context.get_dummy_value()

    def body(e, left, b, rows, panels, c):
        builder = e.builder
        left, (b_data, b_row, b_panel) = fields(builder, left), fields(builder, b)
        total = builder.mul(builder.mul(left[3], left[5]), index(e.width))  # rows of the target
        fours = _fours(builder, total, COLUMN_TILE)  # nothing is left over: widths are multiples of four
        whole = builder.sub(total, builder.mul(fours, index(4)))
        with e.loop(panels) as p:
            c_here = e.at(c, builder.mul(p, builder.mul(total, index(e.width))))
            b_here = e.at(b_data, builder.mul(p, b_panel)), b_row, b_panel
            tiles = builder.sdiv(whole, index(COLUMN_TILE))
            for begin, count, size in ((index(0), tiles, COLUMN_TILE), (whole, fours, 4)):
                with e.loop(count) as t:
                    m = builder.add(begin, builder.mul(t, index(size)))
                    _column_tile(e, left, m, b_here, rows, e.at(c_here, builder.mul(m, index(e.width))), size)

    return types.void(left, b, types.int64, types.int64, target), codegen
