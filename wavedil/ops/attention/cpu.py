"""Numba: the scores of a block of queries and the keys that they see, in panels, by the products of all ops.

A block's scores are one row product, its mean of the values another; backward, two more row products give the gradients
of scores and queries, and two column products, which reduce over the queries, those of keys and values:

====  =====================  ====  =========================  ====  ===============
S     Q @ K^T                P     softmax(S)                 Y     P @ V
dP    dY @ V^T               dS    P (dP - sum of dY Y)       dQ    dS @ K
dK    dS^T @ Q               dV    P^T @ dY
====  =====================  ====  =========================  ====  ===============

The keys carry the factor 1 / sqrt(D). Forward runs in parallel over items, heads and blocks; backward over items and
heads, whose keys' gradients are sums over their blocks in order.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import read_rows, write_rows
from wavedil.kernels.cpu.panels import (
    address,
    down,
    panel_view,
    panels_of,
    strided_view,
    type_of,
    width_of,
    zero_memory,
)
from wavedil.kernels.cpu.products import TILE, column_product, left_view, row_product
from wavedil.kernels.cpu.rows import row_exp_and_sum, row_max, row_scale
from wavedil.kernels.workspace import Workspace

BLOCK = 96  # queries; a multiple of every tile's rows

# Query t sees the keys from max(lowest, t + offset - window + 1) to t + offset. Head h begins h * channels columns
# after the first query, key and value; `keys` counts key rows, `panels` those of a head's channels.
Shape = namedtuple("Shape", "rows keys heads channels panels window offset lowest query_row key_row key value")


def forward(y, total, x, heads, window, *, workspace, threads):
    """y =, total ="""
    channels = y.shape[2]
    shape = _shape(x, x, heads, window, 0, 0, channels, 2 * channels)
    _attend(y, total, x, x, shape, workspace or Workspace(), threads)


def step(y, state, x, heads, window, *, workspace):
    """y =, and the state moves on."""
    workspace = workspace or Workspace()
    history, seen = state
    batch, span, wide = history.shape
    rows = workspace.array("attention.rows", (batch, span + x.shape[1], wide), x.dtype)
    rows[:, :span], rows[:, span:] = history, x[..., wide // 2 :]
    total = workspace.array("attention.total", (batch, heads, x.shape[1]), x.dtype)
    shape = _shape(x, rows, heads, window, span, max(0, span - int(seen[0])), 0, wide // 2)
    _attend(y, total, x, rows, shape, workspace, 1)
    history[...] = rows[:, rows.shape[1] - span :]
    seen += x.shape[1]


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x ="""
    x, y, total, heads, window = saved
    workspace = workspace or Workspace()
    channels = y.shape[2]
    shape = _shape(x, x, heads, window, 0, 0, channels, 2 * channels)
    tasks = [(b, h) for b in range(len(x)) for h in range(heads)]
    scratch = workspace.array("attention.backward", (len(tasks), _scratch(shape, x.dtype, True)), x.dtype)
    flat = [grads.x.reshape(-1), *map(layout.flat, (dy, x, y, total))]
    calls = [(_backward, *flat, scratch[i], *task, shape) for i, task in enumerate(tasks)]
    pool.run(calls, pool.check_threads(threads))


def _shape(x, keys, heads, window, offset, lowest, key, value):
    channels = x.shape[2] // 3 // heads
    panels = panels_of(channels, x.dtype)
    window = min(window, keys.shape[1])
    rows = x.shape[2], keys.shape[2]
    return Shape(x.shape[1], keys.shape[1], heads, channels, panels, window, offset, lowest, *rows, key, value)


def _most_keys(shape, w):
    """Keys that a block sees at most, in whole panels."""
    return -(-min(shape.keys, shape.window - 1 + BLOCK) // w) * w


def _scratch(shape, dtype, backward):
    """Elements of a task's scratch."""
    w = width(dtype)
    keys, channels = _most_keys(shape, w), shape.panels * w
    matrices = (keys + BLOCK) * channels * 2 + BLOCK * keys
    return w + matrices * (1 + backward)


def _attend(y, total, x, keys, shape, workspace, threads):
    tasks = [
        (b, h, t, min(t + BLOCK, shape.rows))
        for b in range(len(x)) for h in range(shape.heads) for t in range(0, shape.rows, BLOCK)
    ]  # fmt: skip
    threads = pool.check_threads(threads)
    # A scratch for each share of the tasks: they run one after the other on one thread.
    shares = min(len(tasks), 4 * threads)
    cuts = [len(tasks) * i // shares for i in range(shares + 1)]
    scratch = workspace.array("attention.forward", (shares, _scratch(shape, x.dtype, False)), x.dtype)
    flat = [y.reshape(-1), total.reshape(-1), layout.flat(x), layout.flat(keys)]
    table = np.array(tasks)
    pool.run([(_forward, *flat, scratch[i], table[cuts[i] : cuts[i + 1]], shape) for i in range(shares)], threads)


# ---- kernels ---------------------------------------------------------------------------------------------------------
@inner
def _read_columns(source, row, first, count, channels, factor, target, keys):
    """target[p, i, w] = factor * element i of row ``first + p W + w``; zeros beyond ``count`` rows or the channels."""
    w = width_of(source)
    for p in range(keys // w):
        for i in range((channels + w - 1) // w * w):
            for j in range(w):
                at = ((p * ((channels + w - 1) // w * w)) + i) * w + j
                r = p * w + j
                target[at] = source[(first + r) * row + i] * factor if i < channels and r < count else 0 * factor


@inner
def _hide(scores, begin, n, first, count, keys, value, s):
    """scores = value where a query does not see the key."""
    w = width_of(scores.data)
    for r in range(n):
        low = max(s.lowest, begin + r + s.offset - s.window + 1) - first
        high = begin + r + s.offset - first + 1
        for j in range(low):
            scores.data[(j // w) * scores.panel + r * scores.row + j % w] = value
        for j in range(high, keys):
            scores.data[(j // w) * scores.panel + r * scores.row + j % w] = value


@inner
def _range(begin, end, s):
    """First key that the queries begin .. end - 1 see, and how many."""
    first = max(s.lowest, begin + s.offset - s.window + 1)
    return first, end + s.offset - first


@jit
def _forward(y, total, x, keys, scratch, tasks, s):
    """y =, total ="""
    w = width_of(address(x, 0))
    one = type_of(address(x, 0), 1.0)
    factor = type_of(address(x, 0), 1 / np.sqrt(s.channels))
    hidden = type_of(address(x, 0), -np.inf)
    nothing = strided_view(address(scratch, 0), 0, 0)
    zero_memory(address(scratch, 0), w)
    wide = s.panels * w
    for task in range(len(tasks)):
        b, h, begin, end = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        n = end - begin
        rows = (n + TILE - 1) // TILE * TILE
        first, count = _range(begin, end, s)
        panels = (count + w - 1) // w
        held = panels * w
        k_at = w
        v_at = k_at + held * wide
        q_at = v_at + held * wide
        y_at = q_at + BLOCK * wide
        s_at = y_at + BLOCK * wide
        q, target = panel_view(scratch, q_at, BLOCK), panel_view(scratch, y_at, BLOCK)
        scores, values = panel_view(scratch, s_at, BLOCK), panel_view(scratch, v_at, held)
        head = h * s.channels
        source = address(x, b * s.rows * s.query_row + head)
        read_rows(source, s.query_row, begin, s.rows, s.channels, q, rows)
        source = address(keys, b * s.keys * s.key_row + s.key + head)
        _read_columns(source, s.key_row, first, count, s.channels, factor, address(scratch, k_at), held)
        source = address(keys, b * s.keys * s.key_row + s.value + head)
        read_rows(source, s.key_row, first, first + count, s.channels, values, held)
        # A value that is not finite must show in the rows that see it, and in no other: 0 * NaN is NaN.
        worst = -1
        for j in range(count):
            for c in range(s.channels):
                if not np.isfinite(source[(first + j) * s.key_row + c]):
                    worst = j
                    for i in range(s.channels):
                        values.data[(i // w) * values.panel + j * w + i % w] = one - one
                    break
        row_product(left_view(q, s.panels), address(scratch, k_at), rows, panels, scores, nothing)
        _hide(scores, begin, n, first, count, held, hidden, s)
        for r in range(n):
            row = down(scores, r)
            top = row_max(row, panels)
            normalizer = row_exp_and_sum(row, panels, top)
            row_scale(row, panels, one / normalizer)
            total[(b * s.heads + h) * s.rows + begin + r] = top + np.log(normalizer)
        _hide(scores, begin, n, first, count, held, one - one, s)
        row_product(left_view(scores, panels), address(scratch, v_at), rows, s.panels, target, nothing)
        out = (b * s.rows + begin) * s.heads * s.channels + head
        write_rows(target, n, s.channels, address(y, out), s.heads * s.channels)
        if worst >= 0:
            for j in range(worst + 1):
                bad = False
                for c in range(s.channels):
                    bad = bad or not np.isfinite(source[(first + j) * s.key_row + c])
                if bad:
                    newest = first + j - s.offset  # the first query that sees it
                    for t in range(max(begin, newest), min(end, newest + s.window)):
                        for c in range(s.channels):
                            y[(b * s.rows + t) * s.heads * s.channels + head + c] = hidden - hidden


@inner
def _score_gradients(ds, p, dy, y, first, channels, n, rows, panels, factor, s):
    """ds = p (ds - dy . y) factor in n rows, and zeros in the rest of ds and p; row 0 of dy and y begins at first."""
    w, zero = width_of(ds.data), type_of(ds.data, 0.0)
    for r in range(rows):
        mean = zero
        if r < n:
            at = first + r * channels
            for c in range(s.channels):
                mean += dy[at + c] * y[at + c]
        for panel in range(panels):
            of, to = panel * p.panel + r * w, panel * ds.panel + r * w
            for j in range(w):
                ds.data[to + j] = p.data[of + j] * (ds.data[to + j] - mean) * factor if r < n else zero
                if r >= n:
                    p.data[of + j] = zero


@jit
def _backward(dx, dy, x, y, total, scratch, b, h, s):
    """dx ="""
    w = width_of(address(x, 0))
    one = type_of(address(x, 0), 1.0)
    factor = type_of(address(x, 0), 1 / np.sqrt(s.channels))
    hidden = type_of(address(x, 0), -np.inf)
    nothing = strided_view(address(scratch, 0), 0, 0)
    zero_memory(address(scratch, 0), w)
    wide, channels = s.panels * w, s.heads * s.channels
    head = h * s.channels
    for t in range(s.rows):
        for c in range(s.channels):
            dx[(b * s.rows + t) * s.query_row + s.key + head + c] = one - one
            dx[(b * s.rows + t) * s.query_row + s.value + head + c] = one - one
    for begin in range(0, s.rows, BLOCK):
        end = min(begin + BLOCK, s.rows)
        n = end - begin
        rows = (n + TILE - 1) // TILE * TILE
        first, count = _range(begin, end, s)
        panels = (count + w - 1) // w
        held = panels * w
        kt_at = w
        vt_at = kt_at + held * wide
        k_at = vt_at + held * wide
        dk_at = k_at + held * wide
        q_at = dk_at + held * wide
        dy_at = q_at + BLOCK * wide
        dq_at = dy_at + BLOCK * wide
        s_at = dq_at + 2 * BLOCK * wide
        p_at = s_at + BLOCK * held
        q, dq = panel_view(scratch, q_at, BLOCK), panel_view(scratch, dq_at, BLOCK)
        upstream = panel_view(scratch, dy_at, BLOCK)
        p, ds, k = panel_view(scratch, p_at, BLOCK), panel_view(scratch, s_at, BLOCK), panel_view(scratch, k_at, held)
        queries = address(x, b * s.rows * s.query_row + head)
        keys = address(x, b * s.rows * s.query_row + s.key + head)
        values = address(x, b * s.rows * s.query_row + s.value + head)
        read_rows(queries, s.query_row, begin, s.rows, s.channels, q, rows)
        read_rows(address(dy, b * s.rows * channels + head), channels, begin, s.rows, s.channels, upstream, rows)
        read_rows(keys, s.query_row, first, first + count, s.channels, k, held)
        _read_columns(keys, s.query_row, first, count, s.channels, factor, address(scratch, kt_at), held)
        _read_columns(values, s.query_row, first, count, s.channels, one, address(scratch, vt_at), held)
        row_product(left_view(q, s.panels), address(scratch, kt_at), rows, panels, p, nothing)
        row_product(left_view(upstream, s.panels), address(scratch, vt_at), rows, panels, ds, nothing)
        _hide(p, begin, n, first, count, held, hidden, s)
        for r in range(n):
            row_exp_and_sum(down(p, r), panels, total[(b * s.heads + h) * s.rows + begin + r])
        _hide(p, begin, n, first, count, held, one - one, s)
        _score_gradients(ds, p, dy, y, (b * s.rows + begin) * channels + head, channels, n, rows, panels, factor, s)
        row_product(left_view(ds, panels), address(scratch, k_at), rows, s.panels, dq, nothing)
        write_rows(dq, n, s.channels, address(dx, (b * s.rows + begin) * s.query_row + head), s.query_row)
        for which in range(2):
            zero_memory(address(scratch, dk_at), held * wide)
            if which == 0:
                column_product(left_view(ds, panels), q, rows, s.panels, address(scratch, dk_at))
            else:
                column_product(left_view(p, panels), upstream, rows, s.panels, address(scratch, dk_at))
            to = b * s.rows * s.query_row + (s.key if which == 0 else s.value) + head
            for j in range(count):
                for c in range(s.channels):
                    dx[to + (first + j) * s.query_row + c] += scratch[dk_at + ((c // w) * held + j) * w + c % w]
