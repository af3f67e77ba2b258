"""Kernels over the rows of a panel view: ReLU, sums, softmax with cross-entropy, table look-up."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from wavedil.kernels.cpu.emit import Emitter, fields
from wavedil.kernels.cpu.jit import inner
from wavedil.kernels.cpu.panels import beyond, down, move_memory, right, type_of, width_of, zero_rows
from wavedil.kernels.cpu.vector import emit_exp_negative


def _each_vector(e, view, panels, body):
    """Run ``body(pointer)`` for every vector of one row of a view."""
    data, _, panel = view
    with e.loop(panels) as p:
        here = e.at(data, e.builder.mul(p, panel))
        for v in range(2):
            body(e.at(here, v * e.lanes))


@intrinsic
def row_max(typing, view, panels):
    """The largest element of a row."""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, view.types[0].dtype)
        largest = e.variable(e.const(float("-inf")))

        def body(pointer):
            x, top = e.load(pointer), e.get(largest)
            e.set(largest, e.select(builder.fcmp_unordered(">", x, top), x, top))

        _each_vector(e, fields(builder, args[0]), args[1], body)
        return e.fold(e.get(largest), lambda x, y: e.select(builder.fcmp_unordered(">", x, y), x, y))

    return view.types[0].dtype(view, panels), codegen


@intrinsic
def row_exp_and_sum(typing, view, panels, shift):
    """Replace the elements x of a row by exp(x - shift), for shifts that are no smaller; their sum."""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, view.types[0].dtype)
        total, top = e.variable(e.const(0.0)), e.splat(args[2])

        def body(pointer):
            y = emit_exp_negative(e, e.sub(e.load(pointer), top))
            e.store(y, pointer)
            e.set(total, e.add(e.get(total), y))

        _each_vector(e, fields(builder, args[0]), args[1], body)
        return e.fold(e.get(total), e.add)

    return view.types[0].dtype(view, panels, shift), codegen


@intrinsic
def row_scale(typing, view, panels, factor):
    """Multiply a row by a number."""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, view.types[0].dtype)
        f = e.splat(args[2])
        _each_vector(e, fields(builder, args[0]), args[1], lambda p: e.store(e.mul(e.load(p), f), p))
        return context.get_dummy_value()

    return types.void(view, panels, factor), codegen


@intrinsic
def _panel_sum(typing, view, rows, sums):
    """sums[:W] += the sum over the rows of one panel."""

    def codegen(context, builder, signature, args):
        e = Emitter(builder, view.types[0].dtype)
        data, row, _ = fields(builder, args[0])
        totals = [e.variable(e.load(e.at(args[2], v * e.lanes))) for v in range(2)]
        with e.loop(args[1]) as r:
            here = e.at(data, builder.mul(r, row))
            for v in range(2):
                e.set(totals[v], e.add(e.get(totals[v]), e.load(e.at(here, v * e.lanes))))
        for v in range(2):
            e.store(e.get(totals[v]), e.at(args[2], v * e.lanes))
        return context.get_dummy_value()

    return types.void(view, rows, sums), codegen


@intrinsic
def _panel_relu(typing, source, target, rows):
    def codegen(context, builder, signature, args):
        e = Emitter(builder, source.types[0].dtype)
        (x, x_row, _), (y, y_row, _) = fields(builder, args[0]), fields(builder, args[1])
        with e.loop(args[2]) as r:
            for v in range(2):
                value = e.load(e.at(x, builder.mul(r, x_row), v * e.lanes))
                e.store(e.positive(value, value), e.at(y, builder.mul(r, y_row), v * e.lanes))
        return context.get_dummy_value()

    return types.void(source, target, rows), codegen


@intrinsic(prefer_literal=True)
def _copy_vectors(typing, source, target, add):
    """target[:W] = or += source[:W]; ``add`` is a literal."""
    adds = add.literal_value

    def codegen(context, builder, signature, args):
        e = Emitter(builder, source.dtype)
        for v in range(2):
            value, pointer = e.load(e.at(args[0], v * e.lanes)), e.at(args[1], v * e.lanes)
            e.store(e.add(e.load(pointer), value) if adds else value, pointer)
        return context.get_dummy_value()

    return types.void(source, target, add), codegen


@inner
def relu_rows(source, target, rows, panels):
    """target = max(0, source)"""
    for p in range(panels):
        _panel_relu(right(source, p), right(target, p), rows)


@inner
def copy_rows(source, target, rows, panels):
    """target = source"""
    w = width_of(source.data)
    for p in range(panels):
        for r in range(rows):
            move_memory(beyond(target.data, p * target.panel + r * target.row),
                        beyond(source.data, p * source.panel + r * source.row), w)  # fmt: skip


@inner
def add_rows(source, target, rows, panels):
    """target += source"""
    for p in range(panels):
        for r in range(rows):
            _copy_vectors(beyond(source.data, p * source.panel + r * source.row),
                          beyond(target.data, p * target.panel + r * target.row), True)  # fmt: skip


@inner
def add_column_sums(view, rows, panels, sums):
    """sums += the sums over the rows"""
    w = width_of(sums)
    for p in range(panels):
        _panel_sum(right(view, p), rows, beyond(sums, p * w))


@inner
def look_up(table, code, target, panels, table_rows):
    """Row of a panel matrix with so many rows -> one row of a view."""
    w = width_of(table)
    for p in range(panels):
        _copy_vectors(beyond(table, (p * table_rows + code) * w), beyond(target.data, p * target.panel), False)


@inner
def add_to_table(source, table, code, panels, table_rows):
    """A row of a panel matrix with so many rows += one row of a view."""
    w = width_of(table)
    for p in range(panels):
        _copy_vectors(beyond(source.data, p * source.panel), beyond(table, (p * table_rows + code) * w), True)


@inner
def cross_entropy_rows(logits, rows, panels, codes, weights, scale, with_gradient):
    """Sum of weight * nats of the rows' codes; the logits are replaced by their gradient if asked for.

    dlogits = weight * scale * (softmax(logits) - one_hot(code)). Otherwise the logits are used up. Rows of weight 0
    count for nothing, whatever they hold.
    """
    w = width_of(logits.data)
    total = 0.0
    for r in range(rows):
        row = down(logits, r)
        if weights[r] == 0:
            zero_rows(row, 1, panels)
            continue
        target = (codes[r] // w) * row.panel + codes[r] % w
        top = row_max(row, panels)
        score = row.data[target]
        normalizer = row_exp_and_sum(row, panels, top)
        total += np.float64(weights[r]) * (np.log(np.float64(normalizer)) + np.float64(top) - np.float64(score))
        if with_gradient:
            share = weights[r] * scale
            row_scale(row, panels, share / normalizer)
            row.data[target] -= share
    return total


@inner
def least_kept(probabilities, total, top_k, top_p, ordered):
    """The smallest of the probabilities (of such a total) that top-k and top-p sampling keep."""
    ordered[:] = probabilities
    ordered.sort()
    count = len(ordered)
    least = ordered[count - top_k] if 0 < top_k < count else ordered[0]
    if top_p < 1:
        mass, k = 0.0, count
        while k > 0 and mass < top_p * total:
            k -= 1
            mass += ordered[k]
        least = max(least, ordered[k])
    return least


@inner
def sample_row(logits, panels, options, draw, probabilities, ordered):
    """A class drawn from softmax(logits / temperature) by a number in [0, 1); the first largest at temperature 0.

    ``options`` has temperature, top_k (0: all) and top_p (1: all): the k likeliest classes, and the likeliest ones that
    together have at least the probability p, ties included. ``probabilities`` and ``ordered`` are scratch for a number
    for each class. -1 if the logits are not finite. The logits of the row are used up.
    """
    w, classes = width_of(logits.data), len(probabilities)
    top = row_max(logits, panels)
    if not np.isfinite(top):
        return -1
    if options.temperature < 1e-20:  # 1 / temperature might overflow
        first = -1
        for k in range(classes - 1, -1, -1):
            value = logits.data[(k // w) * logits.panel + k % w]
            if np.isnan(value):  # the largest may hide it
                return -1
            if value == top:
                first = k
        return first
    factor = type_of(logits.data, 1 / options.temperature)
    row_scale(logits, panels, factor)
    if not np.isfinite(row_exp_and_sum(logits, panels, row_max(logits, panels))):
        return -1
    total = 0.0
    for k in range(classes):
        probabilities[k] = logits.data[(k // w) * logits.panel + k % w]
        total += probabilities[k]
    if options.top_k > 0 or options.top_p < 1:
        least = least_kept(probabilities, total, options.top_k, options.top_p, ordered)
        total = 0.0
        for k in range(classes):
            if probabilities[k] < least:
                probabilities[k] = 0.0
            total += probabilities[k]
    rest, last = draw * total, 0
    for k in range(classes):
        if probabilities[k] > 0:
            last = k
            rest -= probabilities[k]
            if rest < 0:
                return k
    return last
