"""The kernels of `cpu`: an item's rows through all blocks, the head and the loss, and back.

They fill outputs and return nothing; activations are written with ``=``, parameter gradients with ``+=``. Each call is
one thread's work: the driver in `cpu` gives it some items of the batch.
"""

from collections import namedtuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu.elementwise import emit_kept
from wavedil.kernels.cpu.emit import Emitter, fields
from wavedil.kernels.cpu.host import tile_rows
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import read_rows, write_rows
from wavedil.kernels.cpu.panels import (
    address,
    beyond,
    down,
    repeated,
    right,
    strided_view,
    width_of,
    zero_memory,
    zero_rows,
)
from wavedil.kernels.cpu.products import (
    column_product,
    index,
    left_taps,
    left_view,
    row_product,
    row_product_mask,
    row_product_relu,
)
from wavedil.kernels.cpu.random import mask_key
from wavedil.kernels.cpu.rows import add_column_sums, add_to_table, cross_entropy_rows, look_up

CHUNK = 192  # time rows; a multiple of every tile's rows
TILE = tile_rows()

# `at[PART, block]`: where each packed parameter begins (-1: there is none), the same in `weights` and in gradients.
CONV0, CONV1, SHORTCUT, BIAS0, BIAS1, SHORTCUT_BIAS, CONV0_T, CONV1_T, SHORTCUT_T = range(9)
PARTS = 9
# Counts of channels and panels: `panels[i]` of block i's input. Block i has rows `offset[i] + stride[i] r` of time, on
# which its dilation is `dilations[i]`, `rows[i]` of them; its output has rows `first[i] + step[i] r` of those.
Net = namedtuple(
    "Net",
    "kernel dilations panels rows offset stride first step at weights head head_bias head_t embedding zero Q outputs "
    "classes inputs channels last",
)
# Where the shared gradients begin in a slab; those of the blocks begin where the parameters do. `lowest` is the first
# block with gradients that somebody needs: -1 stands for the embedding.
Grads = namedtuple("Grads", "slab lowest head head_bias embedding")
# Activations in one array. `begin[KIND, block]` is where each begins and `height[KIND, block]` how many rows its panels
# have; `past[block]` rows of X and A lie before the first one (or before the present one of a stream).
Item = namedtuple("Item", "data begin height past logits dtop d0 d1 tall stuffed")
X, A, B = 0, 1, 2  # input, output of the first convolution, of the second; backward turns A and B into gradients
Drop = namedtuple("Drop", "seed step threshold scale whole")  # whole: channels, not elements
Loss = namedtuple("Loss", "kind delta")
CROSS_ENTROPY, BINARY, MSE, MAE, HUBER = range(5)


# ---- rows of a panel -------------------------------------------------------------------------------------------------
@intrinsic
def panel_add_relu(typing, x, y, target, rows):
    """target = max(0, x + y)"""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, x.types[0].dtype)
        views = [fields(builder, arg) for arg in args[:3]]
        with e.loop(args[3]) as r:
            places = [e.at(data, builder.mul(r, row)) for data, row, _ in views]
            for v in range(2):
                total = e.add(*[e.load(e.at(place, v * e.lanes)) for place in places[:2]])
                e.store(e.positive(total, total), e.at(places[2], v * e.lanes))
        return context.get_dummy_value()

    return types.void(x, y, target, rows), codegen


@intrinsic
def _panel_masks(typing, dh, out, b, rows, scale):
    """dh = dh where out > 0, else 0; b = scale dh where b > 0, else 0"""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, dh.types[0].dtype)
        views = [fields(builder, arg) for arg in args[:3]]
        factor = e.splat(args[4])
        with e.loop(args[3]) as r:
            places = [e.at(data, builder.mul(r, row)) for data, row, _ in views]
            for v in range(2):
                d, o, z = (e.at(place, v * e.lanes) for place in places)
                value = e.positive(e.load(o), e.load(d))
                e.store(value, d)
                e.store(e.positive(e.load(z), e.mul(value, factor)), z)
        return context.get_dummy_value()

    return types.void(dh, out, b, rows, scale), codegen


@intrinsic
def _panel_copy(typing, source, target, rows):
    def codegen(context, builder, signature, args):
        e = Emitter(builder, source.types[0].dtype)
        (x, x_row, _), (y, y_row, _) = fields(builder, args[0]), fields(builder, args[1])
        with e.loop(args[2]) as r:
            for v in range(2):
                value = e.load(e.at(x, builder.mul(r, x_row), v * e.lanes))
                e.store(value, e.at(y, builder.mul(r, y_row), v * e.lanes))
        return context.get_dummy_value()

    return types.void(source, target, rows), codegen


@intrinsic
def _panel_drop(typing, view, rows, first, step, low, high, threshold, scale):
    """view[r, w] = 0 where the mask drops place ``first + r step + w``, and scaled elsewhere"""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, view.types[0].dtype)
        data, row, _ = fields(builder, args[0])
        factor = e.splat(args[7])
        with e.loop(args[1]) as r:
            for v in range(2):
                here = e.at(data, builder.mul(r, row), v * e.lanes)
                at = builder.add(builder.mul(r, args[3]), index(v * e.lanes))
                kept = emit_kept(e, at, *args[2:3], *args[4:7])
                e.store(e.mul(e.load(here), e.select(kept, factor, e.const(0.0))), here)
        return context.get_dummy_value()

    long = types.int64
    return types.void(view, long, long, long, long, long, long, scale), codegen


@inner
def drop_rows(drop, key, view, rows, panels, channels, time, stride):
    """Dropout of rows that lie ``stride`` apart in time, from ``time`` on."""
    w = width_of(view.data)
    place = 0 if drop.whole else channels
    for p in range(panels):
        first = time * place + p * w
        _panel_drop(right(view, p), rows, first, stride * place, key[0], key[1], drop.threshold, drop.scale)


# ---- convolutions without the taps that see only zeros ---------------------------------------------------------------
# A panel of the output at a time, so that a product may begin at any tap of its weights.
@inner
def every(view, step):
    """Each step-th row of a view."""
    return strided_view(view.data, view.row * step, view.panel)


@inner
def first_tap(net, block, rows):
    """The first tap of which so many rows from the beginning (or to the end) see more than the padding."""
    return max(0, net.kernel - 1 - (rows - 1) // net.dilations[block])


@inner
def conv_relu(x, step, weights, P, d, K, first, rows, N, target, bias):
    """target = relu(bias + sum_k x[t - (K-1-k) d] W_k) for each step-th row t of x; the sum is from a tap on."""
    w = width_of(weights)
    seen = left_taps(every(down(x, -(K - 1 - first) * d), step), P, d * w, K - first)
    for p in range(N):
        matrix = beyond(weights, ((p * K + first) * P) * w * w)
        row_product_relu(seen, matrix, rows, 1, right(target, p), repeated(beyond(bias, p * w)))


@inner
def pull_mask(dy, weights, N, d, K, first, rows, P, target, sums):
    """target = sum_k dy[t + (K-1-k) d] W_k^T where target > 0, else 0; sums += its column sums."""
    w = width_of(weights)
    seen = left_taps(down(dy, (K - 1 - first) * d), N, -d * w, K - first)
    for p in range(P):
        matrix, here = beyond(weights, ((p * K + first) * N) * w * w), right(target, p)
        row_product_mask(seen, matrix, rows, 1, here, here, beyond(sums, p * w))


@inner
def pull_add(dy, weights, N, d, K, first, rows, P, target):
    """target += sum_k dy[t + (K-1-k) d] W_k^T"""
    w = width_of(weights)
    seen = left_taps(down(dy, (K - 1 - first) * d), N, -d * w, K - first)
    for p in range(P):
        here = right(target, p)
        row_product(seen, beyond(weights, ((p * K + first) * N) * w * w), rows, 1, here, here)


@inner
def weight_gradient(x, step, dy, P, d, K, first, rows, N, target):
    """target_k += sum_t x[t - (K-1-k) d]^T dy[t], with each step-th row t of x"""
    w = width_of(target)
    seen = left_taps(every(down(x, -(K - 1 - first) * d), step), P, d * w, K - first)
    for p in range(N):
        column_product(seen, right(dy, p), rows, 1, beyond(target, ((p * K + first) * P) * w * w))


# ---- one block -------------------------------------------------------------------------------------------------------
@inner
def rows_of(item, kind, block, row):
    """X, A or B of a block, from a row on."""
    w = width_of(address(item.data, 0))
    before = item.past[block] if kind != B else 0
    at = item.begin[kind, block] + (before + row) * w
    return strided_view(address(item.data, at), w, item.height[kind, block] * w)


@inner
def block_forward(net, item, drop, b, block, t, n, m, training):
    """n rows from t on; from them m rows of the output (as many, but for a block that leaves rows out)."""
    weights, K = net.weights, net.kernel
    P, N, d = net.panels[block], net.panels[block + 1], net.dilations[block]
    step, at = net.step[block], net.at[:, block]
    x, a = rows_of(item, X, block, t), rows_of(item, A, block, t)
    tap = first_tap(net, block, min(t + n, net.rows[block]))
    conv_relu(x, 1, address(weights, at[CONV0]), P, d, K, tap, n, N, a, address(weights, at[BIAS0]))
    time = net.offset[block] + net.stride[block] * t
    if training and drop.threshold > 0:
        key = mask_key(drop.seed, drop.step, 2 * block, b)
        drop_rows(drop, key, a, n, N, net.channels[block + 1], time, net.stride[block])
    here = net.first[block] + step * (t // step)
    z, out = rows_of(item, B, block, t // step), rows_of(item, X, block + 1, t // step)
    a = rows_of(item, A, block, here)
    conv_relu(a, step, address(weights, at[CONV1]), N, d, K, tap, m, N, z, address(weights, at[BIAS1]))
    x = every(rows_of(item, X, block, here), step)
    if training and drop.threshold > 0:
        key = mask_key(drop.seed, drop.step, 2 * block + 1, b)
        time = net.offset[block] + net.stride[block] * here
        drop_rows(drop, key, z, m, N, net.channels[block + 1], time, net.stride[block] * step)
    if at[SHORTCUT] >= 0:
        bias = repeated(address(weights, at[SHORTCUT_BIAS]))
        row_product(left_view(x, P), address(weights, at[SHORTCUT]), m, N, out, bias)
        x = out
    for p in range(N):
        panel_add_relu(right(x, p), right(z, p), right(out, p), m)


@inner
def block_backward(net, item, grads, drop, block, t, n, m, dh, dx, wants_input):
    """m rows of dh back to n rows of the input's gradient; returns whether that is in dx, or else in place of dh."""
    weights, slab, w, K = net.weights, grads.slab, width_of(address(net.weights, 0)), net.kernel
    P, N, d = net.panels[block], net.panels[block + 1], net.dilations[block]
    past, step, at = (K - 1) * d, net.step[block], net.at[:, block]
    here = net.first[block] + step * (t // step)
    z, out = rows_of(item, B, block, t // step), rows_of(item, X, block + 1, t // step)
    for p in range(N):
        _panel_masks(right(dh, p), right(out, p), right(z, p), m, drop.scale)
    add_column_sums(z, m, N, address(slab, at[BIAS1]))
    a, x = rows_of(item, A, block, t), rows_of(item, X, block, t)
    early = first_tap(net, block, min(t + n, net.rows[block]))
    late = first_tap(net, block, net.rows[block] - t)
    weight_gradient(rows_of(item, A, block, here), step, z, N, d, K, early, m, N, address(slab, at[CONV1]))
    same = every(rows_of(item, X, block, here), step)
    if at[SHORTCUT] >= 0:
        column_product(left_view(same, P), dh, m, N, address(slab, at[SHORTCUT]))
        add_column_sums(dh, m, N, address(slab, at[SHORTCUT_BIAS]))

    later = z
    if step > 1:  # rows that were left out have no gradient
        height = n + past
        later = strided_view(address(item.data, item.stuffed), w, height * w)
        zero_rows(later, height, N)
        for p in range(N):
            _panel_copy(right(z, p), right(every(down(later, here), step), p), net.rows[block + 1])
    pull_mask(later, address(weights, at[CONV1_T]), N, d, K, late, n, N, a, address(slab, at[BIAS0]))
    weight_gradient(x, 1, a, P, d, K, early, n, N, address(slab, at[CONV0]))
    if not wants_input:
        return False
    moved = step > 1 or at[SHORTCUT] >= 0
    if moved:
        zero_rows(dx, n, P)
        target = every(down(dx, here - t), step)
        if at[SHORTCUT] >= 0:
            none = strided_view(address(weights, net.zero), 0, 0)
            row_product(left_view(dh, N), address(weights, at[SHORTCUT_T]), m, P, target, none)
        else:
            for p in range(N):
                _panel_copy(right(dh, p), right(target, p), net.rows[block + 1])
    pull_add(a, address(weights, at[CONV0_T]), N, d, K, late, n, P, dx if moved else dh)
    return moved


# ---- loss ------------------------------------------------------------------------------------------------------------
@inner
def number_rows(logits, rows, outputs, loss, targets, weights, with_gradient):
    """Sum of weight * loss of the rows' numbers; the predictions are replaced by their gradient if asked for."""
    w = width_of(logits.data)
    total, one = 0.0, weights.dtype.type(1)
    half, zero = weights.dtype.type(0.5), weights.dtype.type(0)
    for r in range(rows):
        for c in range(outputs):
            place = (c // w) * logits.panel + r * logits.row + c % w
            x, y, delta = logits.data[place], targets[r, c], loss.delta
            d = x - y
            if loss.kind == BINARY:
                z = np.exp(-abs(x))
                value = max(x, 0 * x) - x * y + np.log1p(z)
                slope = (one if x >= 0 else z) / (one + z) - y
            elif loss.kind == MSE:
                value, slope = d * d, d + d
            elif loss.kind == MAE:
                value, slope = abs(d), (one if d > 0 else (-one if d < 0 else d))
            else:
                inside = abs(d) <= delta
                value = half * d * d if inside else delta * (abs(d) - half * delta)
                slope = d if inside else (delta if d > 0 else (-delta if d < 0 else d))
            if weights[r] == 0:  # then the numbers may be NaN
                value, slope = zero, zero
            total += np.float64(weights[r]) * np.float64(value)
            if with_gradient:
                logits.data[place] = weights[r] * slope
    return total


@inner
def head_rows(net, item, t, n):
    """Predictions of n rows of the last block's output."""
    weights = net.weights
    top = len(net.dilations)
    w = width_of(address(item.data, 0))
    logits = strided_view(address(item.data, item.logits), w, CHUNK * w)
    bias = repeated(address(weights, net.head_bias))
    left = left_view(rows_of(item, X, top, t), net.panels[top])
    row_product(left, address(weights, net.head), n, net.Q, logits, bias)
    return logits


@inner
def head_loss(net, item, grads, loss, codes, numbers, weights, total, t, real, with_gradient):
    """Add up the loss of some rows; their gradient goes to dtop, and into the head's."""
    n = (real + TILE - 1) // TILE * TILE
    logits = head_rows(net, item, t, n)
    if loss.kind == CROSS_ENTROPY:
        one = weights.dtype.type(1)
        total[0] += cross_entropy_rows(logits, real, net.Q, codes[t:], weights[t:], one, with_gradient)
    else:
        total[0] += number_rows(logits, real, net.outputs, loss, numbers[t:], weights[t:], with_gradient)
    if not with_gradient:
        return
    top = len(net.dilations)
    zero_rows(down(logits, real), n - real, net.Q)
    P, slab = net.panels[top], grads.slab
    add_column_sums(logits, n, net.Q, address(slab, grads.head_bias))
    column_product(left_view(rows_of(item, X, top, t), P), logits, n, net.Q, address(slab, grads.head))
    dtop = top_gradient(net, item, t)
    none = strided_view(address(net.weights, net.zero), 0, 0)
    row_product(left_view(logits, net.Q), address(net.weights, net.head_t), n, P, dtop, none)


@inner
def top_gradient(net, item, t):
    w, top = width_of(address(item.data, 0)), len(net.dilations)
    return strided_view(address(item.data, item.dtop + t * w), w, item.height[X, top] * w)


# ---- an item ---------------------------------------------------------------------------------------------------------
@inner
def whole(rows):
    return (rows + TILE - 1) // TILE * TILE


@inner
def read_input(net, item, codes, numbers, t, n):
    """n rows of the first block's input, from t on; zeros beyond the end."""
    x, count, stride = rows_of(item, X, 0, t), net.rows[0], net.stride[0]
    if net.classes > 0:
        real = min(n, count - t)
        for r in range(real):
            code = codes[net.offset[0] + stride * (t + r)]
            look_up(address(net.weights, net.embedding), code, down(x, r), net.panels[0], net.classes)
        zero_rows(down(x, real), n - real, net.panels[0])
    else:
        source = address(numbers, net.offset[0] * net.inputs)
        read_rows(source, stride * net.inputs, t, count, net.inputs, x, n)


@inner
def item_forward(net, item, drop, b, codes, numbers, t, real, training):
    """Rows from t on through all blocks: ``real`` of them, or if only the last output counts, all there are."""
    n = whole(net.rows[0] if net.last else real)
    read_input(net, item, codes, numbers, t, n)
    for block in range(len(net.dilations)):
        m = whole(net.rows[block + 1]) if net.last else n
        block_forward(net, item, drop, b, block, t, n, m, training)
        n = m


@inner
def item_backward(net, item, grads, drop, codes, t, real):
    """The same rows back, from the gradient in dtop."""
    w, top = width_of(address(item.data, 0)), len(net.dilations)
    dh, which = top_gradient(net, item, t), 0
    for block in range(top - 1, max(grads.lowest, 0) - 1, -1):
        n = whole(net.rows[block] if net.last else real)
        m = whole(net.rows[block + 1] if net.last else real)
        dx = strided_view(address(item.data, item.d1 if which else item.d0), w, item.tall * w)
        if block_backward(net, item, grads, drop, block, t, n, m, dh, dx, block > grads.lowest):
            dh, which = dx, 1 - which
    if grads.lowest < 0:
        for r in range(net.rows[0] if net.last else real):
            code = codes[net.offset[0] + net.stride[0] * (t + r)]
            add_to_table(down(dh, r), address(grads.slab, grads.embedding), code, net.panels[0], net.classes)


@jit
def train_items(net, item, grads, drop, loss, inputs, targets, weights, losses, begin, step):
    """Items begin, begin + step, ... forward and, if there is a slab for gradients, back; losses[b] =, slab =

    Inputs and targets are pairs: codes and numbers.
    """
    trains = len(grads.slab) > 0
    zero_memory(address(grads.slab, 0), len(grads.slab))
    (codes, numbers), count = inputs, weights.shape[1]
    for b in range(begin, len(weights), step):
        losses[b, 0] = 0
        for t in range(0, count, CHUNK):
            real = min(CHUNK, count - t)
            item_forward(net, item, drop, b, codes[b], numbers[b], t, real, trains)
            head_loss(net, item, grads, loss, targets[0][b], targets[1][b], weights[b], losses[b], t, real, trains)
        if trains:
            for t in range((count - 1) // CHUNK * CHUNK, -1, -CHUNK):
                item_backward(net, item, grads, drop, codes[b], t, min(CHUNK, count - t))


@jit
def predict_items(net, item, drop, inputs, out, begin, step):
    """Predictions of items begin, begin + step, ...; out ="""
    (codes, numbers), count = inputs, out.shape[1]
    for b in range(begin, len(out), step):
        here = out[b]
        for t in range(0, count, CHUNK):
            real = min(CHUNK, count - t)
            item_forward(net, item, drop, b, codes[b], numbers[b], t, real, False)
            logits = head_rows(net, item, t, whole(real))
            write_rows(logits, real, net.outputs, address(here, t * net.outputs), net.outputs)
