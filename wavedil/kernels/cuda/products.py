"""Matrix products on CUDA: one register tile, with what it reads and what it does at the end chosen when it compiles.

A block of threads computes a tile of the result. For a few inner indices at a time (``Tile.depth``) it copies the two
factors into shared memory, both with the inner index first, so that each thread reads its rows and columns as
16-byte vectors and multiplies them into registers. The order of every sum depends on the shape alone.

::

    rows       y[b, t, n] = end(bias[n] + sum over k and c of left(a)[b, t + shift + k dilation, c] w[k, c, n])
    columns    dw[k, c, n] += sum over b and t of left(a)[b, t + shift + k dilation, c] g[b, t, n]

The second is taken slab of rows by slab of rows, and the slabs are added in their order. Rows outside of an item count
as zeros: that is the padding of a convolution.

Arrays of activations may be float16: they are widened as they are read, and rounded to nearest as they are written. All
arithmetic is done in the dtype of the weights.
"""

import functools
import math

import numpy as np
from numba import cuda, int64, types, uint32, uint64

from wavedil.kernels.cuda.launch import SIMULATED, Kernel, tile_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.kernels.cuda.sums import add_slabs, cut_rows, sum_slabs
from wavedil.kernels.cuda.tiles import COLUMN_TILES, ROW_TILES, SHARED, global_reader, parts, shared_writer

# ---- row product -----------------------------------------------------------------------------------------------------
LEFTS = ("plain", "product", "relu")
GATES = ("gate", "gate_add")  # tanh and sigmoid; the second adds `other` before
ENDS = ("store", "add", "relu", "relu_back", "gate", "gate_add", "gate_back")


def row_product(dtype, left="plain", end="store", transposed=False, second=False, shared=SHARED, halves=""):
    """The kernel of `rows`, for a dtype and what it reads and does, on a device with so much shared memory.

    ``halves`` names the arrays in float16: "a" (with a2), "y" (with y2), "o" (other and other2).
    """
    dtype = np.dtype(dtype)
    tile = tile_or(ROW_TILES[dtype.name]).fitting(dtype.itemsize, shared)
    return _row_product(dtype, tile, left, end, bool(transposed), bool(second), halves)


@functools.cache
def _row_product(dtype, tile, left, end, transposed, second, halves):
    real, array = reals(dtype)
    (_, a_array), (stored, y_array), (_, o_array) = (reals("float16" if h in halves else dtype) for h in "ayo")
    multiply, left_step, right_step = parts(dtype, tile)
    left_size, right_size = tile.depth * left_step, tile.depth * right_step
    block_rows, block_columns, depth, down, across = tile
    threads, threads_across, results_count = tile.threads, tile.columns // tile.across, tile.down * tile.across
    zero, one = real(0), real(1)
    half = real(0.5)
    gate, gate_add, gate_back, add = end in GATES, end == "gate_add", end == "gate_back", end == "add"
    relu, relu_back = end == "relu", end == "relu_back"
    # A thread's share of the factors: so many times ``span`` neighbours in memory.
    span = math.gcd(depth, block_columns // 2, 4)
    left_spans, right_spans = block_rows * depth // span, block_columns * depth // span
    left_rounds, right_rounds = -(-left_spans // threads), -(-right_spans // threads)
    left_share, right_share = left_rounds * span, right_rounds * span
    deep, wide = depth // span, block_columns // span  # spans side by side
    read, read_weights = global_reader(left, real, span), global_reader("plain", real, span)

    @cuda.jit(device=True)
    def fetch_left(held, a, a2, b, first, rows_in, c0, inputs, thread, vectors):
        for j in range(left_rounds):
            e = thread + j * threads
            row, c = first + e // deep, c0 + e % deep * span
            count = inputs - c if e < left_spans and row >= 0 and row < rows_in else 0
            read(held, j * span, a, a2, (b * rows_in + row) * inputs + c, count, vectors)

    @cuda.jit(device=True)
    def fetch_right(held, w, k, c0, inputs, n0, columns, thread, vectors):
        for j in range(right_rounds):
            e = thread + j * threads
            if transposed:
                c, n = c0 + e % deep * span, n0 + e // deep
                count, at = inputs - c if n < columns else 0, (k * columns + n) * inputs + c
            elif gate:  # first the columns of tanh, then those of the sigmoid
                c, n, side = c0 + e // wide, (n0 >> 1) + e % (wide // 2) * span, e % wide // (wide // 2)
                count = (columns >> 1) - n if c < inputs else 0
                at = (k * inputs + c) * columns + side * (columns >> 1) + n
            else:
                c, n = c0 + e // wide, n0 + e % wide * span
                count, at = columns - n if c < inputs else 0, (k * inputs + c) * columns + n
            read_weights(held, j * span, w, w, at, count if e < right_spans else 0, vectors)

    put_left = shared_writer(span, deep, left_spans, threads, left_step, True)
    put_plain_right = shared_writer(span, deep if transposed else wide, right_spans, threads, right_step, transposed)

    @cuda.jit(device=True)
    def put_gate(rights, held, thread):
        """Tanh and sigmoid of a channel side by side, so that one thread has both."""
        for j in range(right_rounds):
            e = thread + j * threads
            at = e // wide * right_step + 2 * (e % (wide // 2) * span) + e % wide // (wide // 2)
            if e < right_spans:
                for i in range(span):
                    rights[uint32(at) + uint32(2 * i)] = held[j * span + i]

    put_right = put_gate if gate else put_plain_right

    @cuda.jit(device=True)
    def finish(y, y2, other, other2, row, n, columns, v, v2):
        at = uint64(row * columns + n)
        if gate:
            if gate_add:
                v += other[uint64(row * columns + (n >> 1))]
                v2 += other[uint64(row * columns + (columns >> 1) + (n >> 1))]
            at = uint64(row * (columns >> 1) + (n >> 1))
            y[at] = stored(math.tanh(v))
            y2[at] = stored(half + half * math.tanh(half * v2))
        elif gate_back:
            t, s = real(other[at]), real(other2[at])
            y[uint64(row * 2 * columns + n)] = v * s * (one - t * t)
            y[uint64((row * 2 + 1) * columns + n)] = v * t * s * (one - s)
        elif add:
            y[at] = stored(v + real(other[at]))
        elif relu:
            y[at] = zero if v < zero else v
        elif relu_back:
            y[at] = v if other[at] > zero else zero
        else:
            y[at] = stored(v)

    def kernel(
        y, y2, a, a2, w, more, w_more, bias, other, other2,
        batch, rows_in, rows, inputs, columns, taps, shift, dilation, more_inputs, bias_step,
        left_vectors, right_vectors,
    ):  # fmt: skip
        """y =: rows of a times w, in tiles; a thread has down x across of the results in registers."""
        if SIMULATED:  # which does not know of alignment
            lefts = cuda.shared.array(left_size, real)
            rights = cuda.shared.array(right_size, real)
        else:  # so that neighbouring loads become one of 16 bytes
            lefts = cuda.shared.array(left_size, real, 16)
            rights = cuda.shared.array(right_size, real, 16)
        results = cuda.local.array(results_count, real)
        left_held = cuda.local.array(left_share, real)
        right_held = cuda.local.array(right_share, real)
        thread = int64(uint32(cuda.threadIdx.x))
        first_column, first_row = thread % threads_across * across, thread // threads_across * down
        row_tiles, column_tiles = (rows + block_rows - 1) // block_rows, (columns + block_columns - 1) // block_columns
        steps = taps * ((inputs + depth - 1) // depth)
        if second:
            steps += (more_inputs + depth - 1) // depth
        for piece in range(cuda.blockIdx.x, batch * row_tiles * column_tiles, cuda.gridDim.x):
            n0 = piece % column_tiles * block_columns
            t0 = piece // column_tiles % row_tiles * block_rows
            b = piece // (column_tiles * row_tiles)
            for i in range(results_count):
                results[i] = zero
            first = t0 + shift
            fetch_left(left_held, a, a2, b, first, rows_in, 0, inputs, thread, left_vectors)
            fetch_right(right_held, w, 0, 0, inputs, n0, columns, thread, right_vectors)
            k, c0 = 0, 0
            for _ in range(steps):
                put_left(lefts, left_held, thread)
                put_right(rights, right_held, thread)
                cuda.syncthreads()
                # What comes next is fetched meanwhile.
                c0 += depth
                if k < taps and c0 >= inputs:
                    k, c0, first = k + 1, 0, first + dilation
                if k < taps:
                    fetch_left(left_held, a, a2, b, first, rows_in, c0, inputs, thread, left_vectors)
                    fetch_right(right_held, w, k, c0, inputs, n0, columns, thread, right_vectors)
                elif second:
                    fetch_left(left_held, more, more, b, t0, rows, c0, more_inputs, thread, left_vectors)
                    fetch_right(right_held, w_more, 0, c0, more_inputs, n0, columns, thread, right_vectors)
                multiply(results, lefts, rights, first_row, first_column)
                cuda.syncthreads()
            for c in range(across):
                n = n0 + first_column + c
                if n < columns:
                    column = n
                    if gate:
                        column = (n & 1) * (columns >> 1) + (n >> 1)
                    extra = zero
                    if bias_step >= 0:
                        extra = bias[uint64(b * bias_step + column)]
                    for r in range(down):
                        results[r * across + c] += extra
            for r in range(down):
                t = t0 + first_row + r
                if t < rows:
                    for c in range(0, across, 2 if gate else 1):
                        n = n0 + first_column + c
                        if n < columns:
                            v = results[r * across + c]
                            v2 = results[r * across + c + 1] if gate else v
                            finish(y, y2, other, other2, b * rows + t, n, columns, v, v2)

    variant = f"{left}.{end}{'.transposed' * transposed}{'.second' * second}{halves and f'.{halves}16'}"
    arrays = (y_array, y_array, a_array, a_array, array, array, array, array, o_array, o_array)
    signature = arrays + (int64,) * 12
    return Kernel(f"row_product.{variant}.{dtype}", kernel, signature, threads, tile)


def rows(
    y, a, w, *, y2=None, a2=None, more=None, w_more=None, bias=None, bias_step=0, other=None, other2=None,
    taps=1, shift=0, dilation=1, left="plain", end="store", transposed=False,
):  # fmt: skip
    """y =: one `row_product`.

    Parameters
    ----------
    y : (B, T, N) array
        Of a gate: tanh (B, T, N / 2), and ``y2`` the sigmoid. Of "gate_back": (B, T, 2 N).
    a : (B, T', C) array
    w : (taps, C, N) array, or (taps, N, C) if transposed; with one tap the first size may be missing
    a2 : array like a
        The other factor of left="product".
    more, w_more : arrays, optional
        A second product of one tap that is added: rows like those of y.
    bias : (N,) array, optional
        Or (B, N) with ``bias_step`` N.
    other, other2 : arrays like y, optional
        What end="add" adds, "relu_back" takes the sign of, and tanh and sigmoid of "gate_back". "gate_add" adds
        an ``other (B, T, N)`` before the gate.

    float16 may be a and a2; y and y2 of a gate; y of "store" and "add"; other and other2 of "add" and "gate_back".
    """
    columns = w.shape[-2] if transposed else w.shape[-1]
    if taps == 1 and shift == 0 and bias_step == 0 and a.shape[:-1] == y.shape[:-1]:
        batch, rows_in, rows_out = 1, a.size // a.shape[-1], a.size // a.shape[-1]
    else:
        (batch, rows_in), rows_out = a.shape[:2], y.shape[1]
    halves = "".join(name for name, array in (("a", a), ("y", y), ("o", other)) if getattr(array, "itemsize", 0) == 2)
    kernel = row_product(w.dtype, left, end, transposed, more is not None, y.engine.shared_memory, halves)
    tile = kernel.tile
    work = batch * -(-rows_out // tile.rows) * -(-columns // tile.columns)

    def given(array, instead=w):
        return instead if array is None else array

    inputs, more_inputs = a.shape[-1], 0 if more is None else more.shape[-1]
    lefts, weights = (a, given(a2, a), given(more)), (w, given(w_more))
    side = columns // 2 if end in GATES else columns  # what lies side by side in the weights
    fours = not inputs % 4 and not more_inputs % 4
    left_vectors = fours and all(array.aligned for array in lefts)
    right_vectors = (fours if transposed else not side % 4) and all(array.aligned for array in weights)
    kernel(
        work, y, given(y2, y), *lefts[:2], w, given(more), given(w_more), given(bias), given(other),
        given(other2, given(other)), batch, rows_in, rows_out, inputs, columns, taps, shift, dilation,
        more_inputs, -1 if bias is None else bias_step, left_vectors, right_vectors,
    )  # fmt: skip


# ---- column product --------------------------------------------------------------------------------------------------
COLUMN_LEFTS = ("plain", "product", "relu", "one_hot")


def column_product(dtype, left="plain", shared=SHARED, half=False):
    """The kernel of `columns`, for a dtype and what it reads, on a device with so much shared memory.

    With ``half`` a and a2 are float16.
    """
    dtype = np.dtype(dtype)
    return _column_product(dtype, tile_or(COLUMN_TILES[dtype.name]).fitting(dtype.itemsize, shared), left, half)


@functools.cache
def _column_product(dtype, tile, left, half):
    real, array = reals(dtype)
    _, a_array = reals("float16" if half else dtype)
    multiply, left_step, right_step = parts(dtype, tile)
    left_size, right_size = tile.depth * left_step, tile.depth * right_step
    block_rows, block_columns, depth, down, across = tile
    threads, threads_across, results_count = tile.threads, tile.columns // tile.across, tile.down * tile.across
    own_columns = -(-block_columns // threads)  # whose sum a thread takes
    zero, one = real(0), real(1)
    one_hot = left == "one_hot"
    # A thread's share of the factors: so many times ``span`` neighbours in memory.
    span = math.gcd(block_rows, block_columns, 4)
    deep, wide = block_rows // span, block_columns // span  # spans side by side
    left_rounds, right_rounds = -(-deep * depth // threads), -(-wide * depth // threads)
    left_share, right_share = left_rounds * span, right_rounds * span
    read, read_gradient = global_reader(left, real, span), global_reader("plain", real, span)

    @cuda.jit(device=True)
    def fetch_left(held, a, a2, codes, b, first, count, rows_in, c0, inputs, thread, vectors):
        for j in range(left_rounds):
            e = thread + j * threads
            r, c = e // deep, c0 + e % deep * span
            row = first + r
            exist = inputs - c if r < min(count, depth) and row >= 0 and row < rows_in else 0
            if one_hot:
                code = codes[uint64(b * rows_in + row)] - c if exist > 0 else int64(-1)
                for i in range(span):
                    held[j * span + i] = one if code == i else zero
            else:
                read(held, j * span, a, a2, (b * rows_in + row) * inputs + c, exist, vectors)

    @cuda.jit(device=True)
    def fetch_right(held, g, first, count, n0, columns, thread, vectors):
        for j in range(right_rounds):
            e = thread + j * threads
            r, n = e // wide, n0 + e % wide * span
            exist = columns - n if r < min(count, depth) else 0
            read_gradient(held, j * span, g, g, (first + r) * columns + n, exist, vectors)

    put_left = shared_writer(span, deep, deep * depth, threads, left_step, False)
    put_right = shared_writer(span, wide, wide * depth, threads, right_step, False)

    def kernel(
        sums, a, a2, codes, g,
        batch, rows_in, rows, inputs, columns, taps, shift, dilation, slab_rows, item_slabs,
        left_vectors, right_vectors,
    ):  # fmt: skip
        """sums =: of each slab of rows a's columns times those of g, and in a last row the sums of those of g."""
        if SIMULATED:  # which does not know of alignment
            lefts = cuda.shared.array(left_size, real)
            rights = cuda.shared.array(right_size, real)
        else:  # so that neighbouring loads become one of 16 bytes
            lefts = cuda.shared.array(left_size, real, 16)
            rights = cuda.shared.array(right_size, real, 16)
        results = cuda.local.array(results_count, real)
        left_held = cuda.local.array(left_share, real)
        right_held = cuda.local.array(right_share, real)
        totals = cuda.local.array(own_columns, real)
        thread = int64(uint32(cuda.threadIdx.x))
        first_column, first_row = thread % threads_across * across, thread // threads_across * down
        row_tiles = (inputs + block_rows - 1) // block_rows
        column_tiles = (columns + block_columns - 1) // block_columns
        for piece in range(cuda.blockIdx.x, batch * item_slabs * taps * row_tiles * column_tiles, cuda.gridDim.x):
            n0 = piece % column_tiles * block_columns
            c0 = piece // column_tiles % row_tiles * block_rows
            k = piece // (column_tiles * row_tiles) % taps
            slab = piece // (column_tiles * row_tiles * taps)
            b, begin = slab // item_slabs, slab % item_slabs * slab_rows
            end = min(begin + slab_rows, rows)
            for i in range(results_count):
                results[i] = zero
            for i in range(own_columns):
                totals[i] = zero
            away, count = shift + k * dilation, end - begin
            fetch_left(left_held, a, a2, codes, b, begin + away, count, rows_in, c0, inputs, thread, left_vectors)
            fetch_right(right_held, g, b * rows + begin, count, n0, columns, thread, right_vectors)
            for t0 in range(begin, end, depth):
                put_left(lefts, left_held, thread)
                put_right(rights, right_held, thread)
                cuda.syncthreads()
                # What comes next is fetched meanwhile.
                t1, count = t0 + depth, end - t0 - depth
                fetch_left(left_held, a, a2, codes, b, t1 + away, count, rows_in, c0, inputs, thread, left_vectors)
                fetch_right(right_held, g, b * rows + t1, count, n0, columns, thread, right_vectors)
                multiply(results, lefts, rights, first_row, first_column)
                if k == 0 and c0 == 0:
                    for i in range(own_columns):
                        if thread + i * threads < block_columns:
                            for r in range(depth):
                                totals[i] += rights[uint32(r * right_step + thread + i * threads)]
                cuda.syncthreads()
            base = slab * (taps * inputs + 1)
            for r in range(down):
                c = c0 + first_row + r
                if c < inputs:
                    for j in range(across):
                        n = n0 + first_column + j
                        if n < columns:
                            sums[uint64((base + k * inputs + c) * columns + n)] = results[r * across + j]
            if k == 0 and c0 == 0:
                for i in range(own_columns):
                    n = n0 + thread + i * threads
                    if thread + i * threads < block_columns and n < columns:
                        sums[uint64((base + taps * inputs) * columns + n)] = totals[i]

    signature = (array, a_array, a_array, types.Array(int64, 1, "C"), array) + (int64,) * 12
    return Kernel(f"column_product.{left}{'.a16' * half}.{dtype}", kernel, signature, threads, tile)


def columns(
    workspace, dw, db, a, g, *, a2=None, codes=None, inputs=None, taps=1, shift=0, dilation=1, left="plain", groups=1
):
    """dw +=, db += (either may be None): one `column_product`, and the sum of its slabs.

    Parameters
    ----------
    workspace : callable
        ``workspace(name, shape, dtype)`` is an array to use meanwhile.
    dw : (taps, C, N) array
    db : (N,) array, or (groups, N): the sums of each item's rows, with groups = B
    a : (B, T', C) array
        It and a2 may be float16. With left="one_hot" codes (B, T') instead, and ``inputs`` the number of classes.
    g : (B, T, N) array
    """
    rows_out, count = g.shape[-2], g.shape[-1]
    batch = g.size // (rows_out * count)
    if dw is None and db is None:
        return
    inputs = inputs or a.shape[-1]
    rows_in = codes.size // batch if codes is not None else a.size // (batch * inputs)
    a = g if a is None else a
    kernel = column_product(g.dtype, left, g.engine.shared_memory, a.itemsize == 2)
    tile = kernel.tile
    slab_rows, item_slabs = cut_rows(batch, rows_out, tile.depth)
    size = (taps * inputs + 1) * count
    sums = workspace(("sums", batch * item_slabs * size), (batch * item_slabs * size,), g.dtype)
    work = batch * item_slabs * taps * -(-inputs // tile.rows) * -(-count // tile.columns)
    codes = no_codes(g.engine) if codes is None else codes
    a2 = a if a2 is None else a2
    kernel(
        work, sums, a, a2, codes, g, batch, rows_in, rows_out, inputs, count, taps, shift, dilation, slab_rows,
        item_slabs, not inputs % 4 and a.aligned and a2.aligned, not count % 4 and g.aligned,
    )  # fmt: skip
    add_slabs(dw, db, sums, size, count, batch * item_slabs, groups)


@functools.cache
def no_codes(engine):
    """An array for a kernel that has an argument for codes, where there are none."""
    return engine.zeros(1, np.int64)


def kernels(dtype):
    """All kernels of this module: every combination that an op uses."""
    rows_used = [
        ("plain", "store", False, False), ("plain", "store", True, False), ("plain", "add", True, False),
        ("plain", "gate", False, False), ("plain", "gate", False, True), ("product", "store", False, False),
        ("product", "add", False, False), ("plain", "gate_back", True, False), ("plain", "gate_back", True, True),
        ("relu", "store", False, False), ("plain", "relu_back", True, False), ("plain", "add", False, False),
        ("plain", "relu", False, False), ("plain", "store", True, True),
        ("plain", "store", False, True), ("plain", "gate_add", False, False),
    ]  # fmt: skip
    return (
        *(row_product(dtype, *variant) for variant in rows_used),
        *(column_product(dtype, left) for left in COLUMN_LEFTS),
        sum_slabs(dtype),
    )


def half_kernels():
    """All kernels of this module that read or write float16; they compute in float32."""
    rows_used = [
        ("plain", "gate", False, False, "ay"), ("plain", "gate", False, True, "ay"),
        ("product", "store", False, False, "a"), ("product", "add", False, False, "a"),
        ("product", "add", False, False, "ayo"), ("plain", "gate_back", True, False, "o"),
        ("plain", "gate_back", True, True, "o"), ("plain", "gate_add", False, False, "ay"),
        ("plain", "store", False, False, "a"), ("plain", "store", False, True, "a"),
        ("plain", "add", False, False, "a"), ("plain", "store", False, False, "y"),
        ("plain", "store", False, False, "ay"), ("plain", "add", False, False, "yo"),
    ]  # fmt: skip
    return (
        *(row_product("float32", *variant, halves=halves) for *variant, halves in rows_used),
        *(column_product("float32", left, half=True) for left in ("plain", "product")),
    )
