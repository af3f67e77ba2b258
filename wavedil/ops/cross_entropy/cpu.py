"""Numba: product, softmax and loss of a chunk at a time, whose logits stay in the cache; parallel over batch and time.

Backward computes the logits again and turns them into their gradient where they lie; each task has a slab for the
gradients of w and b, and the slabs are added in order.
"""

from collections import namedtuple

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import CHUNK, read_rows, write_rows
from wavedil.kernels.cpu.panels import address, down, panel_view, panels_of, repeated, width_of, zero_memory, zero_rows
from wavedil.kernels.cpu.products import TILE, column_product, left_view, row_product
from wavedil.kernels.cpu.rows import add_column_sums, cross_entropy_rows
from wavedil.kernels.workspace import Workspace

Shape = namedtuple("Shape", "rows channels classes panels panels_out")  # panels hold the channels and the classes


def forward(loss, x, w, b, targets, weights, smoothing, *, workspace, threads):
    """loss ="""
    workspace = workspace or Workspace()
    shape, arrays, scratch, tasks = _prepare(workspace, x, w, b, targets, weights)
    parts = workspace.array("cross_entropy.parts", (len(tasks), 1), np.float64)
    smooth = x.dtype.type(smoothing)
    calls = [(_forward, parts[i], *arrays, scratch[i], *task, smooth, shape) for i, task in enumerate(tasks)]
    pool.run(calls, pool.check_threads(threads))
    loss[0] = 0
    for part in parts:
        loss += part


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    workspace = workspace or Workspace()
    x, w, dtype = saved.x, saved.w, saved.x.dtype
    shape, arrays, scratch, tasks = _prepare(workspace, *saved[:-1])
    channels, classes = layout.plain_map(shape.channels, dtype), layout.plain_map(shape.classes, dtype)
    w_t = workspace.array("cross_entropy.w_t", (shape.panels, len(classes), width(dtype)), dtype)
    layout.pack_weight(w, w.T[None], classes, channels, w_t)
    zero = workspace.array("cross_entropy.zero", (len(channels),), dtype)
    slabs = workspace.array(
        "cross_entropy.slabs", (len(tasks), 1, shape.panels_out, len(channels), width(dtype)), dtype
    )
    sums = workspace.array("cross_entropy.sums", (len(tasks), len(classes)), dtype)
    wants = grads.x is not None, grads.w is not None, grads.b is not None
    dx = layout.flat(grads.x if wants[0] else x)  # a kernel that does not want it leaves it alone
    numbers = dtype.type(dy), dtype.type(saved.smoothing)
    calls = [(_backward, dx, slabs[i].reshape(-1), sums[i], *numbers, *arrays, w_t.reshape(-1), zero, scratch[i],
              *task, shape, wants) for i, task in enumerate(tasks)]  # fmt: skip
    pool.run(calls, pool.check_threads(threads))
    if wants[1]:
        layout.add_weight(slabs[:, 0], channels, classes, grads.w, grads.w[None])
    if wants[2]:
        for part in sums:
            grads.b[...] += part[: shape.classes]


def _prepare(workspace, x, w, b, targets, weights):
    """What both directions read: the shape, arrays, scratch of each task, and the tasks."""
    dtype = x.dtype
    shape = Shape(x.shape[1], *w.shape, panels_of(w.shape[0], dtype), panels_of(w.shape[1], dtype))
    rows, columns = layout.plain_map(w.shape[0], dtype), layout.plain_map(w.shape[1], dtype)
    packed = workspace.array("cross_entropy.w", (shape.panels_out, len(rows), width(dtype)), dtype)
    layout.pack_weight(w, w[None], rows, columns, packed)
    bias = workspace.array("cross_entropy.b", (len(columns),), dtype)
    bias[: shape.classes] = 0 if b is None else b
    bias[shape.classes :] = -np.inf  # what fills a panel up is no class
    codes = workspace.array("cross_entropy.targets", (targets.size,), np.int64)
    codes[:] = targets.reshape(-1)
    tasks = layout.blocks(*x.shape[:2])
    size = (2 * shape.panels + shape.panels_out) * CHUNK * width(dtype)
    scratch = workspace.array("cross_entropy.scratch", (len(tasks), size), dtype)
    return shape, (layout.flat(x), packed.reshape(-1), bias, codes, layout.flat(weights)), scratch, tasks


@jit
def _logits(x, w, bias, weights, scratch, b, t, n, rows, s):
    """A chunk's rows of x, zeros where the weight is 0, and their logits, as views of the scratch."""
    inputs = panel_view(scratch, 0, CHUNK)
    logits = panel_view(scratch, s.panels * CHUNK * inputs.row, CHUNK)
    row = b * s.rows + t
    read_rows(address(x, 0), s.channels, row, row + n, s.channels, inputs, rows)
    for r in range(n):
        if weights[row + r] == 0:
            zero_rows(down(inputs, r), 1, s.panels)
    row_product(left_view(inputs, s.panels), address(w, 0), rows, s.panels_out, logits, repeated(address(bias, 0)))
    return inputs, logits


@inner
def _smoothing_loss(logits, rows, codes, weights, smoothing, classes):
    """What smoothing adds to the rows' loss: weight * smoothing * (the target's logit - the mean logit)."""
    w, total = width_of(logits.data), 0.0
    for r in range(rows):
        if weights[r] != 0:
            row, mean = down(logits, r), 0.0
            for c in range(classes):
                mean += np.float64(row.data[(c // w) * row.panel + c % w]) / classes
            target = np.float64(row.data[(codes[r] // w) * row.panel + codes[r] % w])
            total += np.float64(weights[r]) * np.float64(smoothing) * (target - mean)
    return total


@inner
def _smooth(gradients, rows, codes, weights, scale, classes):
    """The rows' gradients += weight * scale * (onehot(code) - 1 / classes)"""
    w = width_of(gradients.data)
    for r in range(rows):
        row, share = down(gradients, r), weights[r] * scale
        for c in range(classes):
            row.data[(c // w) * row.panel + c % w] -= share / classes
        row.data[(codes[r] // w) * row.panel + codes[r] % w] += share


@jit
def _forward(loss, x, w, bias, codes, weights, scratch, b, begin, end, smoothing, s):
    """loss[0] = this block's part"""
    loss[0] = 0
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        _, logits = _logits(x, w, bias, weights, scratch, b, t, n, rows, s)
        row = b * s.rows + t
        if smoothing > 0:
            loss[0] += _smoothing_loss(logits, n, codes[row:], weights[row:], smoothing, s.classes)
        loss[0] += cross_entropy_rows(logits, n, s.panels_out, codes[row:], weights[row:], bias.dtype.type(1), False)


@jit
def _backward(dx, dw, db, dy, smoothing, x, w, bias, codes, weights, w_t, zero, scratch, b, begin, end, s, wants):
    """dx =, dw =, db =: this block's rows, and its part of the sums"""
    zero_memory(address(dw, 0), len(dw))
    zero_memory(address(db, 0), len(db))
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        inputs, logits = _logits(x, w, bias, weights, scratch, b, t, n, rows, s)
        row = b * s.rows + t
        cross_entropy_rows(logits, n, s.panels_out, codes[row:], weights[row:], dy, True)
        if smoothing > 0:
            _smooth(logits, n, codes[row:], weights[row:], dy * smoothing, s.classes)
        zero_rows(down(logits, n), rows - n, s.panels_out)
        if wants[0]:
            target = panel_view(scratch, (s.panels + s.panels_out) * CHUNK * inputs.row, CHUNK)
            start = repeated(address(zero, 0))
            row_product(left_view(logits, s.panels_out), address(w_t, 0), rows, s.panels, target, start)
            write_rows(target, n, s.channels, address(dx, row * s.channels), s.channels)
        if wants[1]:
            column_product(left_view(inputs, s.panels), logits, rows, s.panels_out, address(dw, 0))
        if wants[2]:
            add_column_sums(logits, rows, s.panels_out, address(db, 0))
