"""Numba: each item's rows are taken in chunk by chunk; parallel over the batch.

The rows of a chunk are read while they are in the cache: scores of the attention (a row product and tanh), then the
chunk's mean and variance about its own mean. Those join the moments of the rows before them in float64 (Chan, Golub
and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979); when a higher score
comes, what came before is scaled down, as in any softmax that sees its scores one after the other. So forward is a
stream whose state begins empty, and long clips lose no digits. Backward computes the attention's hidden layer again.
Pooling is little work beside the network under it, so one item is one task.
"""

import math
from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout, vector
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.layout import CHUNK, read_rows, write_rows
from wavedil.kernels.cpu.panels import address, beyond, down, panel_view, panels_of, repeated, zero_memory, zero_rows
from wavedil.kernels.cpu.products import TILE, column_product, left_view, row_product
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.kernels.workspace import Workspace
from wavedil.ops.pooling import EPSILON

Shape = namedtuple("Shape", "rows channels hidden panels panels_hidden attentive")  # panels hold channels and hidden


def forward(y, shares, mean, variance, x, weights, w, b, v, kind, *, workspace, threads):
    """y =, shares =, mean =, variance ="""
    workspace = workspace or Workspace()
    batch, channels = x.shape[0], x.shape[2]
    total, top = (workspace.array(f"pooling.{name}", (batch,), np.float64) for name in ("total", "top"))
    moments = workspace.array("pooling.moments", (2, batch, channels), np.float64)
    total[:], top[:], moments[:] = 0, -np.inf, 0
    _take_in(workspace, (total, top, *moments), x, weights, shares, w, b, v, kind, threads)
    _shares(shares.reshape(-1), weights.reshape(-1), total, top, kind == "attentive")
    _result(y, *moments, kind)
    if kind != "average":
        mean[...], variance[...] = moments


def step(y, state, x, weights, w, b, v, kind, *, workspace):
    """y =, and the state takes the rows in"""
    workspace = workspace or Workspace()
    scores = workspace.array("pooling.scores", x.shape[:2], x.dtype)
    _take_in(workspace, state, x, weights, scores, w, b, v, kind, threads=1)
    _result(y, state[2], state[3], kind)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +=, grads.v +="""
    workspace = workspace or Workspace()
    x, w, b, v, kind, shares, mean, variance = saved
    dtype, batch = x.dtype, len(x)
    if kind == "average":
        if grads.x is not None:
            arrays = grads.x.reshape(-1), layout.flat(dy), layout.flat(shares)
            pool.run([(_spread_out, *arrays, i, *x.shape[1:]) for i in range(batch)], pool.check_threads(threads))
        return
    shape, packed = _attention(workspace, x, w, b, v, kind)
    channels, hidden = layout.plain_map(shape.channels, dtype), layout.plain_map(shape.hidden, dtype)
    w_t = workspace.array("pooling.w_t", (shape.panels, len(hidden), width(dtype)), dtype)
    if shape.attentive:
        layout.pack_weight(w, w.T[None], hidden, channels, w_t)
    push = workspace.array("pooling.push", (batch, shape.channels), dtype)
    np.add(variance, dtype.type(EPSILON), out=push)
    np.sqrt(push, out=push)
    np.divide(dy[:, shape.channels :], push, out=push)
    zero = workspace.array("pooling.zero", (len(channels),), dtype)
    slabs = workspace.array("pooling.slabs", (batch, 1, shape.panels_hidden, len(channels), width(dtype)), dtype)
    sums = workspace.array("pooling.sums", (2, batch, len(hidden)), dtype)
    size = 2 * (shape.panels + shape.panels_hidden) * CHUNK * width(dtype)
    scratch = workspace.array("pooling.backward.scratch", (batch, size), dtype)
    wants = grads.x is not None, grads.w is not None
    dx = layout.flat(grads.x if wants[0] else x)  # a kernel that does not want it leaves it alone
    arrays = [layout.flat(a) for a in (dy, x, shares, mean, variance, push)]
    calls = [(_backward, dx, slabs[i].reshape(-1), *sums[:, i], *arrays, *packed, w_t.reshape(-1), zero, scratch[i], i,
              shape, wants) for i in range(batch)]  # fmt: skip
    pool.run(calls, pool.check_threads(threads))
    if grads.w is not None:
        layout.add_weight(slabs[:, 0], channels, hidden, grads.w, grads.w[None])
    for target, parts in ((grads.b, sums[0]), (grads.v, sums[1])):
        if target is not None:
            for part in parts:
                target += part[: shape.hidden]


# ---- hosts -----------------------------------------------------------------------------------------------------------
def _attention(workspace, x, w, b, v, kind):
    """The shape, and the attention's arrays as kernels take them."""
    dtype, attentive = x.dtype, kind == "attentive"
    hidden = w.shape[1] if attentive else 1
    shape = Shape(*x.shape[1:], hidden, panels_of(x.shape[2], dtype), panels_of(hidden, dtype), attentive)
    rows, columns = layout.plain_map(shape.channels, dtype), layout.plain_map(hidden, dtype)
    packed = workspace.array("pooling.w", (shape.panels_hidden, len(rows), width(dtype)), dtype)
    vectors = workspace.array("pooling.vectors", (2, len(columns)), dtype)
    vectors[:] = 0
    if attentive:
        layout.pack_weight(w, w[None], rows, columns, packed)
        vectors[:, :hidden] = b, v
    return shape, (packed.reshape(-1), *vectors)


def _take_in(workspace, state, x, weights, scores, w, b, v, kind, threads):
    """The state takes all rows in; scores = those of the attention."""
    shape, packed = _attention(workspace, x, w, b, v, kind)
    size = (shape.panels + shape.panels_hidden) * CHUNK * width(x.dtype)
    scratch = workspace.array("pooling.scratch", (len(x), size), x.dtype)
    exact = x.dtype if kind == "average" else np.float64  # or else the deviation of large numbers is lost
    parts = workspace.array("pooling.parts", (len(x), 2, shape.channels), exact)
    arrays = layout.flat(x), weights.reshape(-1), scores.reshape(-1)
    calls = [(_take_in_item, *state, *arrays, *packed, scratch[i], parts[i], i, shape) for i in range(len(x))]
    pool.run(calls, pool.check_threads(threads))


def _result(y, mean, variance, kind):
    channels = mean.shape[1]
    y[:, :channels] = mean
    if kind != "average":
        deviation = y[:, channels:]
        np.add(variance, EPSILON, out=deviation, casting="same_kind")
        np.sqrt(deviation, out=deviation)


# ---- kernels: an item each -------------------------------------------------------------------------------------------
@jit
def _hidden(x, weights, w, bias, scratch, first, n, s):
    """tanh(x w + bias) of a chunk's rows, and the rows: views of the scratch. Rows of weight 0 are taken as zeros."""
    inputs = panel_view(scratch, 0, CHUNK)
    size = s.panels * CHUNK * inputs.row
    hidden = panel_view(scratch, size, CHUNK)
    rows = (n + TILE - 1) // TILE * TILE
    read_rows(address(x, 0), s.channels, first, first + n, s.channels, inputs, rows)
    for r in range(n):
        if weights[first + r] == 0:
            zero_rows(down(inputs, r), 1, s.panels)
    row_product(left_view(inputs, s.panels), address(w, 0), rows, s.panels_hidden, hidden, repeated(address(bias, 0)))
    for p in range(s.panels_hidden):
        begin = size + p * hidden.panel
        values = scratch[begin : begin + rows * hidden.row]
        vector.tanh(values, values)
    return inputs, hidden


@jit
def _take_in_item(total, top, mean, variance, x, weights, scores, w, bias, v, scratch, part, i, s):
    """total[i], top[i], mean[i], variance[i] take the rows of item i in; scores = for its rows"""
    for t in range(0, s.rows, CHUNK):
        n = min(CHUNK, s.rows - t)
        first = i * s.rows + t
        highest = -np.inf
        if s.attentive:
            _, hidden = _hidden(x, weights, w, bias, scratch, first, n, s)
            for r in range(n):
                score = weights.dtype.type(0)
                for p in range(s.panels_hidden):
                    row = beyond(hidden.data, p * hidden.panel + r * hidden.row)
                    for j in range(hidden.row):
                        score += row[j] * v[p * hidden.row + j]
                scores[first + r] = score
                if weights[first + r] != 0 and not (score <= highest):  # a NaN is higher than all
                    highest = np.float64(score)
        else:
            highest = 0.0
        amount = 0.0
        for r in range(first, first + n):
            if weights[r] != 0:
                amount += _amount(weights, scores, r, highest, s.attentive)
        if amount == 0:  # no row counts
            continue
        _chunk_moments(part, x, weights, scores, first, n, highest, amount, s)
        # The chunk joins what came before it.
        level = max(top[i], highest)
        before = total[i] * math.exp(top[i] - level)
        amount *= math.exp(highest - level)
        total[i], top[i] = before + amount, level
        share = amount / total[i]
        for c in range(s.channels):
            apart = np.float64(part[0, c]) - mean[i, c]
            mean[i, c] += share * apart
            variance[i, c] += share * (np.float64(part[1, c]) - variance[i, c] + (1 - share) * apart * apart)


@jit
def _amount(weights, scores, r, highest, attentive):
    """What a row counts, beside one of the highest score."""
    weight = np.float64(weights[r])
    return weight * math.exp(np.float64(scores[r]) - highest) if attentive else weight


@jit
def _chunk_moments(part, x, weights, scores, first, n, highest, amount, s):
    """part = [mean, variance] of a chunk's rows"""
    part[:] = 0
    for r in range(first, first + n):
        if weights[r] != 0:
            share = part.dtype.type(_amount(weights, scores, r, highest, s.attentive) / amount)
            row = address(x, r * s.channels)
            for c in range(s.channels):
                part[0, c] += share * row[c]
    for r in range(first, first + n):
        if weights[r] != 0:
            share = part.dtype.type(_amount(weights, scores, r, highest, s.attentive) / amount)
            row = address(x, r * s.channels)
            for c in range(s.channels):
                apart = row[c] - part[0, c]
                part[1, c] += share * apart * apart


@jit
def _shares(shares, weights, total, top, attentive):
    """shares = what each row counts of its item; they hold the scores before"""
    rows = len(weights) // len(total)
    for i in range(len(total)):
        for r in range(i * rows, (i + 1) * rows):
            shares[r] = _amount(weights, shares, r, top[i], attentive) / total[i] if weights[r] != 0 else 0.0


@jit
def _spread_out(dx, dy, shares, i, rows, channels):
    """dx[i] = shares dy"""
    for r in range(i * rows, (i + 1) * rows):
        for c in range(channels):
            dx[r * channels + c] = shares[r] * dy[i * channels + c]


@jit
def _backward(dx, dw, db, dv, dy, x, shares, mean, variance, push, w, bias, v, w_t, zero, scratch, i, s, wants):
    """dx[i] =, and dw =, db =, dv =: this item's part of the sums"""
    zero_memory(address(dw, 0), len(dw))
    zero_memory(address(db, 0), len(db))
    zero_memory(address(dv, 0), len(dv))
    half = x.dtype.type(0.5)
    for t in range(0, s.rows, CHUNK):
        n = min(CHUNK, s.rows - t)
        first = i * s.rows + t
        if s.attentive:
            rows = (n + TILE - 1) // TILE * TILE
            inputs, hidden = _hidden(x, shares, w, bias, scratch, first, n, s)
            for r in range(n):
                dscore = x.dtype.type(0)
                if shares[first + r] != 0:
                    for c in range(s.channels):
                        at = i * s.channels + c
                        apart = x[(first + r) * s.channels + c] - mean[at]
                        dscore += dy[2 * i * s.channels + c] * apart + half * push[at] * (apart * apart - variance[at])
                    dscore *= shares[first + r]
                for p in range(s.panels_hidden):
                    row = beyond(hidden.data, p * hidden.panel + r * hidden.row)
                    for j in range(hidden.row):
                        h, k = row[j], p * hidden.row + j
                        dv[k] += dscore * h
                        row[j] = dscore * v[k] * (x.dtype.type(1) - h * h)
            zero_rows(down(hidden, n), rows - n, s.panels_hidden)
            add_column_sums(hidden, rows, s.panels_hidden, address(db, 0))
            if wants[1]:
                column_product(left_view(inputs, s.panels), hidden, rows, s.panels_hidden, address(dw, 0))
            if wants[0]:
                target = panel_view(scratch, (s.panels + s.panels_hidden) * CHUNK * inputs.row, CHUNK)
                start = repeated(address(zero, 0))
                row_product(left_view(hidden, s.panels_hidden), address(w_t, 0), rows, s.panels, target, start)
                write_rows(target, n, s.channels, address(dx, first * s.channels), s.channels)
        elif wants[0]:
            zero_memory(address(dx, first * s.channels), n * s.channels)
        if wants[0]:
            for r in range(first, first + n):
                if shares[r] != 0:
                    for c in range(s.channels):
                        at = i * s.channels + c
                        apart = x[r * s.channels + c] - mean[at]
                        dx[r * s.channels + c] += shares[r] * (dy[2 * i * s.channels + c] + push[at] * apart)
