"""Numba: the depthwise rows of a tile go straight into the pointwise product, in parallel over batch, rows and columns.

A sequence is an image of one row. Rows of x are copied once into panels (`wavedil.kernels.cpu.grids`), and for some
columns of a row at a time, while they are in the cache:

======  ===================================================================================
h       slab of x, all taps                 * depth, element by element
y       h                                   @ point
dh      row of dy                           @ point^T; this one is kept, for dx
dpoint  h, computed again, transposed       @ row of dy; added up in a few parts, those in order
ddepth  slab of x, all taps                 * dh, summed; likewise
dx      slab of dh, taps in reverse         * depth; a second pass, as it needs rows of dh that others make
======  ===================================================================================
"""

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import grids, layout
from wavedil.kernels.cpu.depthwise import depthwise_product, depthwise_sums
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import read_rows, write_rows
from wavedil.kernels.cpu.panels import (
    address,
    beyond,
    panel_view,
    panels_of,
    repeated,
    right,
    strided_view,
    zero_memory,
)
from wavedil.kernels.cpu.products import column_product, few_row_product, left_view
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.kernels.workspace import Workspace


def forward(y, x, depth, point, b, dilation, padding, *, workspace, threads):
    """y ="""
    workspace = workspace or Workspace()
    x, y, depth, dilation, padding = _image(x, y, depth, dilation, padding)
    g = _grid(x, y, depth, dilation, tuple(before for before, _ in padding))
    w = width(y.dtype)
    bias = workspace.array("separable.bias", (g.panels_out * w,), y.dtype)
    bias[: g.outputs] = 0 if b is None else b
    no_bias = workspace.array("separable.no_bias", (g.panels_in * w,), y.dtype)
    arrays = y, x, _pack_depth(workspace, depth), _pack_point(workspace, point), bias, no_bias
    size = grids.slab_size(g, w) + g.chunk * (g.panels_in + g.panels_out) * w
    _run(_forward, workspace, "forward", threads, arrays, size, g)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.depth +=, grads.point +=, grads.b +="""
    workspace = workspace or Workspace()
    _, depth, point, _, dilation, padding = saved
    x, dy, depth, dilation, padding = _image(saved.x, dy, depth, dilation, padding)
    dh = workspace.array("separable.dh", (*dy.shape[:3], x.shape[3]), x.dtype)
    corner = tuple(before for before, _ in padding)
    g = _grid(x, dy, depth, dilation, corner)
    _weight_gradients(workspace, threads, grads, dh, x, dy, depth, point, g)
    if grads.x is not None:
        back = tuple((k - 1) * d - pad for k, d, pad in zip(depth.shape[:2], dilation, corner, strict=True))
        g = _grid(dh, x, depth, dilation, back)
        w = width(x.dtype)
        arrays = grads.x, dh, _pack_depth(workspace, depth, reverse=True)
        no_bias = workspace.array("separable.no_bias", (g.panels_out * w,), x.dtype)
        size = grids.slab_size(g, w) + g.chunk * g.panels_out * w
        _run(_depthwise, workspace, "back", threads, (*arrays, no_bias), size, g)


def step(y, state, x, depth, point, b, dilation, *, workspace):
    """y =, and the state moves on. Each tap's rows are laid one after the other: a convolution of dilation n."""
    workspace = workspace or Workspace()
    history, position = state
    batch, n, channels = x.shape
    taps = workspace.array("separable.taps", (batch, depth.shape[0], n, channels), x.dtype)
    x = layout.writeable_view(x)
    layout.tap_rows(history, position, x, dilation[0], taps)
    rows = taps.reshape(batch, -1, channels)
    forward(y, rows, depth, point, b, (n,), ((0, 0),), workspace=workspace, threads=1)
    layout.remember(history, position, x)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def _image(x, y, depth, dilation, padding):
    """The arguments in two dimensions."""
    if x.ndim == 4:
        return x, y, depth, dilation, padding
    return x[:, None], y[:, None], depth[None], (1, *dilation), ((0, 0), *padding)


def _grid(x, y, depth, dilation, corner):
    channels = x.shape[3], y.shape[3]
    return grids.grid(x.shape[1:3], y.shape[1:3], channels, depth.shape[:2], dilation, corner, 1, x.dtype)


def _pack_depth(workspace, depth, reverse=False):
    """(panels, kernel width, kernel height, W)"""
    high, wide, _, channels = depth.shape
    ordered = workspace.array("separable.ordered", (1, wide * high, channels), depth.dtype)
    ordered.reshape(wide, high, channels)[...] = depth[:, :, 0].transpose(1, 0, 2)
    places = np.arange(wide * high), layout.plain_map(channels, depth.dtype)
    packed = workspace.array(
        f"separable.depth{'_t' if reverse else ''}",
        (panels_of(channels, depth.dtype), wide * high, width(depth.dtype)), depth.dtype,
    )  # fmt: skip
    layout.pack_weight(ordered, ordered[:, ::-1] if reverse else ordered, *places, packed)
    return packed


def _pack_point(workspace, point, transposed=False):
    """(panels, rows, W)"""
    view = point.T[None] if transposed else point[None]
    places = [layout.plain_map(n, point.dtype) for n in view.shape[1:]]
    w = width(point.dtype)
    name = f"separable.point{'_t' if transposed else ''}"
    packed = workspace.array(name, (len(places[1]) // w, len(places[0]), w), point.dtype)
    layout.pack_weight(point, view, *places, packed)
    return packed


def _run(kernel, workspace, name, threads, arrays, size, g):
    """Fill the first of the arrays."""
    shares = layout.shares(grids.tasks(len(arrays[0]), g), threads, len(arrays[0]) * _products(g, kernel is _forward))
    scratch = workspace.array(f"separable.{name}.scratch", (len(shares), size), arrays[0].dtype)
    arrays = [arrays[0].reshape(-1), *map(layout.flat, arrays[1:])]
    pool.run([(kernel, *arrays, part, *share, g) for part, share in zip(scratch, shares, strict=True)], len(shares))


def _products(g, pointwise=True):
    """Multiplications of an image."""
    return grids.products(g, True) + pointwise * g.rows * g.columns * g.inputs * g.outputs


def _weight_gradients(workspace, threads, grads, dh, x, dy, depth, point, g):
    """dh =, and depth, point and b +=, from slabs of each part of the tasks."""
    dtype, w = x.dtype, width(x.dtype)
    tasks = grids.tasks(x.shape[0], g)
    parts = grids.parts(tasks)
    terms = g.kernel_height * g.kernel_width
    d_depth = workspace.array("separable.d_depth", (len(parts), g.panels_in, terms, w), dtype)
    d_point = workspace.array("separable.d_point", (len(parts), g.panels_out, g.panels_in * w, w), dtype)
    sums = workspace.array("separable.sums", (len(parts), g.panels_out * w), dtype)
    size = grids.slab_size(g, w) + (g.chunk + 1) * (2 * g.panels_in + g.panels_out) * w
    shares = layout.shares(parts, threads, len(x) * _products(g))
    scratch = workspace.array("separable.weight.scratch", (len(shares), size), dtype)
    no_bias = workspace.array("separable.no_bias", (g.panels_in * w,), dtype)
    weights = _pack_depth(workspace, depth), _pack_point(workspace, point, transposed=True), no_bias
    slabs = (array.reshape(len(parts), -1) for array in (d_depth, d_point, sums))
    arrays = *slabs, dh.reshape(-1), layout.flat(x), layout.flat(dy), *map(layout.flat, weights)
    tasks = np.array(tasks, np.int64)
    calls = [(_gradients, *arrays, part, tasks, *share, g) for part, share in zip(scratch, shares, strict=True)]
    pool.run(calls, len(shares))
    if grads.depth is not None:
        ordered = workspace.array("separable.ordered", (1, terms, g.inputs), dtype)
        ordered.fill(0)
        layout.add_weight(d_depth, np.arange(terms), layout.plain_map(g.inputs, dtype), ordered, ordered)
        by_tap = ordered.reshape(g.kernel_width, g.kernel_height, g.inputs).transpose(1, 0, 2)
        target = grads.depth.reshape(g.kernel_height, g.kernel_width, g.inputs)
        target += by_tap
    if grads.point is not None:
        places = [layout.plain_map(n, dtype) for n in grads.point.shape]
        layout.add_weight(d_point, *places, grads.point, grads.point[None])
    if grads.b is not None:
        for part in sums:
            grads.b[...] += part[: g.outputs]


# ---- kernels: a thread's tasks each, which are some rows and columns of an image -------------------------------------
@jit
def _forward(y, x, depth, point, bias, no_bias, scratch, tasks, first, step, g):
    """y ="""
    for i in range(first, len(tasks), step):
        _forward_task(y, x, depth, point, bias, no_bias, scratch, tasks[i], g)


@inner
def _forward_task(y, x, depth, point, bias, no_bias, scratch, task, g):
    b, begin, end, first, last = task[0], task[1], task[2], task[3], task[4]
    row = g.width * g.inputs
    hidden = panel_view(scratch, 0, g.chunk)
    w = hidden.row
    target = panel_view(scratch, g.panels_in * g.chunk * w, g.chunk)
    slab = address(scratch, (g.panels_in + g.panels_out) * g.chunk * w)
    source, start, zeros = address(x, b * g.height * row), repeated(address(bias, 0)), repeated(address(no_bias, 0))
    whole = g.outputs % w == 0  # panels are then columns of y itself
    place = begin
    while place < end:
        i, count = grids.next_run(place, end, g)
        place += count
        for j in range(first, last, g.chunk):
            n = min(g.chunk, last - j)
            seen = count + g.kernel_height - 1
            left = grids.read_slab(
                source, row, g.inputs, i - g.top, j - g.left, n, seen, g.inputs, g.panels_in, slab, g
            )
            for s in range(count):
                depthwise_product(right(left, s * g.panels_in), address(depth, 0), n, g.panels_in, hidden, zeros)
                to = address(y, ((b * g.rows + i + s * g.dilation_height) * g.columns + j) * g.outputs)
                into = strided_view(to, g.outputs, w) if whole else target
                few_row_product(left_view(hidden, g.panels_in), address(point, 0), n, g.panels_out, into, start)
                if not whole:
                    write_rows(target, n, g.outputs, to, g.outputs)


@jit
def _depthwise(y, x, depth, bias, scratch, tasks, first, step, g):
    """y ="""
    for i in range(first, len(tasks), step):
        _depthwise_task(y, x, depth, bias, scratch, tasks[i], g)


@inner
def _depthwise_task(y, x, depth, bias, scratch, task, g):
    b, begin, end, first, last = task[0], task[1], task[2], task[3], task[4]
    row = g.width * g.inputs
    target = panel_view(scratch, 0, g.chunk)
    w = target.row
    slab = address(scratch, g.panels_out * g.chunk * w)
    source, start = address(x, b * g.height * row), repeated(address(bias, 0))
    whole = g.outputs % w == 0
    place = begin
    while place < end:
        i, count = grids.next_run(place, end, g)
        place += count
        for j in range(first, last, g.chunk):
            n = min(g.chunk, last - j)
            seen = count + g.kernel_height - 1
            left = grids.read_slab(
                source, row, g.inputs, i - g.top, j - g.left, n, seen, g.inputs, g.panels_in, slab, g
            )
            for s in range(count):
                to = address(y, ((b * g.rows + i + s * g.dilation_height) * g.columns + j) * g.outputs)
                into = strided_view(to, g.outputs, w) if whole else target
                depthwise_product(right(left, s * g.panels_in), address(depth, 0), n, g.panels_out, into, start)
                if not whole:
                    write_rows(target, n, g.outputs, to, g.outputs)


@jit
def _gradients(d_depth, d_point, db, dh, x, dy, depth, point, no_bias, scratch, tasks, parts, first, step, g):
    """d_depth =, d_point =, db =: the sums of each part's tasks; dh =."""
    for i in range(first, len(parts), step):
        for slabs in (d_depth, d_point, db):
            zero_memory(address(slabs[i], 0), slabs.shape[1])
        for k in range(parts[i, 0], parts[i, 1]):
            _add_gradients(
                d_depth[i], d_point[i], db[i], dh, x, dy, depth, point, no_bias, scratch, tasks[k], g
            )


@inner
def _add_gradients(d_depth, d_point, db, dh, x, dy, depth, point, no_bias, scratch, task, g):
    """d_depth +=, d_point +=, db +=: a task's part of the sums; dh =: its rows."""
    b, begin, end, first, last = task[0], task[1], task[2], task[3], task[4]
    row = g.width * g.inputs
    high = g.chunk + 1
    hidden = panel_view(scratch, 0, high)
    w = hidden.row
    d_hidden = panel_view(scratch, g.panels_in * high * w, high)
    upper = panel_view(scratch, 2 * g.panels_in * high * w, high)
    slab = address(scratch, (2 * g.panels_in + g.panels_out) * high * w)
    source, zeros = address(x, b * g.height * row), repeated(address(no_bias, 0))
    place = begin
    while place < end:
        i, count = grids.next_run(place, end, g)
        place += count
        for j in range(first, last, g.chunk):
            n = min(g.chunk, last - j)
            even = n + n % 2  # the column product takes rows in pairs; the last of dy may be one of zeros
            seen = count + g.kernel_height - 1
            left = grids.read_slab(
                source, row, g.inputs, i - g.top, j - g.left, even, seen, g.inputs, g.panels_in, slab, g
            )
            for s in range(count):
                here = right(left, s * g.panels_in)
                line = (b * g.rows + i + s * g.dilation_height) * g.columns
                read_rows(address(dy, line * g.outputs), g.outputs, j, j + n, g.outputs, upper, even)
                depthwise_product(here, address(depth, 0), even, g.panels_in, hidden, zeros)
                column_product(left_view(hidden, g.panels_in), upper, even, g.panels_out, address(d_point, 0))
                few_row_product(left_view(upper, g.panels_out), address(point, 0), n, g.panels_in, d_hidden, zeros)
                depthwise_sums(here, d_hidden, n, g.panels_in, address(d_depth, 0))
                add_column_sums(upper, n, g.panels_out, address(db, 0))
                write_rows(d_hidden, n, g.inputs, beyond(address(dh, 0), (line + j) * g.inputs), g.inputs)
