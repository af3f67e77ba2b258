"""Numba: products on panels, in parallel over batch and time.

A convolution is one row product, and its weight gradient one column product:

======  ===================================================================================
y       rows of x, taps left to right              @ w
dx      rows of dy, taps in reverse                @ w^T
dw      rows of x, taps left to right, transposed  @ rows of dy; one slab a task, added in order
======  ===================================================================================

A chunk's rows are read where they lie if their channels fill whole panels and no tap reaches beyond the edges;
otherwise they are copied into panels first, once for each tap, with zeros for the padding. Groups are products of their
own. Those of few channels would leave a panel nearly empty: `conv2d` merges them, and has a product for depthwise ones.
"""

from collections import namedtuple

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import CHUNK, read_rows, read_taps, write_rows
from wavedil.kernels.cpu.panels import address, panel_view, panels_of, repeated, strided_view, zero_memory
from wavedil.kernels.cpu.products import TILE, column_product, few_row_product, left_taps, left_view
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.kernels.workspace import Workspace
from wavedil.ops import conv2d
from wavedil.ops.conv2d import cpu as image

FEW = 4  # input channels of a group below which conv2d takes over

# Rows and channels of what goes in and what comes out; channels are per group, panels hold them, left is the padding;
# whether rows are read where they lie, and written.
Shape = namedtuple(
    "Shape", "rows_in rows_out inputs outputs panels_in panels_out kernel dilation left groups in_place out_place"
)


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y ="""
    workspace = workspace or Workspace()
    if _narrow(w, groups):
        arrays = y[:, None], x[:, None], w[None], b
        image.forward(*arrays, (1, dilation), ((0, 0), padding), groups, workspace=workspace, threads=threads)
        return
    shape = _shape(x, y, w, dilation, padding[0], groups)
    bias = _bias(workspace, b, shape, x.dtype)
    weights = workspace.array("conv1d.weights", (groups, shape.panels_out, *_inner(shape, x.dtype)), x.dtype)
    for g, view in enumerate(_groups(w, groups)):
        places = (layout.plain_map(n, x.dtype) for n in view.shape[1:])
        layout.pack_weight(w, view, *places, weights[g])
    _products(workspace, "conv1d.forward", threads, y, (x, weights, bias), shape)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    workspace = workspace or Workspace()
    x, w, bias, dilation, padding, groups, *_ = saved
    if _narrow(w, groups):
        targets = conv2d.Grads(
            None if grads.x is None else grads.x[:, None], None if grads.w is None else grads.w[None], grads.b
        )
        saved = conv2d.Saved(x[:, None], w[None], bias, (1, dilation), ((0, 0), padding), groups)
        image.backward(targets, dy[:, None], saved, workspace=workspace, threads=threads)
        return
    if grads.x is not None:
        _input_gradient(workspace, grads.x, dy, w, dilation, padding[0], groups, threads)
    if grads.w is not None or grads.b is not None:
        shape = _shape(x, dy, w, dilation, padding[0], groups)
        _weight_gradient(workspace, grads, x, dy, shape, threads)


def step(y, state, x, w, b, dilation, groups, *, workspace):
    """y =, and the state moves on. Each tap's rows are laid one after the other: a convolution of dilation n."""
    workspace = workspace or Workspace()
    history, position = state
    batch, n, channels = x.shape
    taps = workspace.array("conv1d.taps", (batch, w.shape[0], n, channels), x.dtype)
    x = layout.writeable_view(x)
    layout.tap_rows(history, position, x, dilation, taps)
    forward(y, taps.reshape(batch, -1, channels), w, b, n, (0, 0), groups, workspace=workspace, threads=1)
    layout.remember(history, position, x)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def _narrow(w, groups):
    return groups > 1 and w.shape[1] < FEW


def _groups(w, groups):
    """The weights of each group."""
    n = w.shape[2] // groups
    return [w[:, :, g * n : (g + 1) * n] for g in range(groups)]


def _shape(x, y, w, dilation, left, groups):
    inputs, outputs = x.shape[2] // groups, y.shape[2] // groups
    panels = panels_of(inputs, x.dtype), panels_of(outputs, x.dtype)
    # Rows a multiple of 2 KiB apart fall into so few sets of the first cache that a tile's rows displace each other.
    in_place = inputs % width(x.dtype) == 0 and x.shape[2] * x.itemsize % 2048 != 0
    out_place = outputs % width(x.dtype) == 0
    return Shape(
        x.shape[1], y.shape[1], inputs, outputs, *panels, w.shape[0], dilation, left, groups, in_place, out_place
    )


def _inner(shape, dtype):
    """Rows and columns of a panel of weights."""
    return shape.kernel * shape.panels_in * width(dtype), width(dtype)


def _bias(workspace, b, shape, dtype):
    """(G, outputs), each row filled up to whole panels with zeros."""
    bias = workspace.array("conv1d.bias", (shape.groups, shape.panels_out * width(dtype)), dtype)
    bias[:, : shape.outputs] = 0 if b is None else b.reshape(shape.groups, -1)
    return bias


def _scratch(workspace, name, count, shape, dtype):
    """Room for a chunk's rows in and out, for each thread."""
    panels = shape.kernel * shape.panels_in + shape.panels_out
    return workspace.array(f"{name}.scratch", (count, panels * CHUNK * width(dtype)), dtype)


def _products(workspace, name, threads, y, arrays, shape):
    shares = layout.shares(layout.blocks(y.shape[0], y.shape[1]), threads, y.size * shape.kernel * shape.inputs)
    scratch = _scratch(workspace, name, len(shares), shape, y.dtype)
    arrays = [y.reshape(-1), *map(layout.flat, arrays)]
    calls = [(_forward, *arrays, part, *share, shape) for part, share in zip(scratch, shares, strict=True)]
    pool.run(calls, len(shares))


def _input_gradient(workspace, dx, dy, w, dilation, left, groups, threads):
    """dx = the convolution of dy with the taps in reverse, and as much padding as brings the rows back."""
    shape = _shape(dy, dx, w, dilation, (w.shape[0] - 1) * dilation - left, groups)
    bias = workspace.array("conv1d.no_bias", (groups, shape.panels_out * width(dx.dtype)), dx.dtype)
    weights = workspace.array("conv1d.weights_t", (groups, shape.panels_out, *_inner(shape, dx.dtype)), dx.dtype)
    for g, view in enumerate(_groups(w, groups)):
        view = view[::-1].transpose(0, 2, 1)
        places = (layout.plain_map(n, dx.dtype) for n in view.shape[1:])
        layout.pack_weight(w, view, *places, weights[g])
    _products(workspace, "conv1d.backward", threads, dx, (dy, weights, bias), shape)


def _weight_gradient(workspace, grads, x, dy, shape, threads):
    """dw and db, from a slab of each task."""
    dtype, tasks = x.dtype, layout.blocks(dy.shape[0], dy.shape[1])
    panels = (len(tasks), shape.groups, shape.panels_out)
    sums = workspace.array("conv1d.sums", (*panels, width(dtype)), dtype)
    slabs = workspace.array("conv1d.slabs", (*panels, *_inner(shape, dtype)), dtype)
    shares = layout.shares(tasks, threads, dy.size * shape.kernel * shape.inputs)
    scratch = _scratch(workspace, "conv1d.weight", len(shares), shape, dtype)
    arrays = slabs.reshape(len(tasks), -1), sums.reshape(len(tasks), -1), layout.flat(x), layout.flat(dy)
    calls = [(_weight_gradients, *arrays, part, *share, shape) for part, share in zip(scratch, shares, strict=True)]
    pool.run(calls, len(shares))
    if grads.w is not None:
        rows, columns = layout.plain_map(shape.inputs, dtype), layout.plain_map(shape.outputs, dtype)
        for g, view in enumerate(_groups(grads.w, shape.groups)):
            layout.add_weight(slabs[:, g], rows, columns, grads.w, view)
    if grads.b is not None:
        by_group = grads.b.reshape(shape.groups, -1)
        for part in sums.reshape(len(tasks), shape.groups, -1):
            by_group += part[:, : shape.outputs]


# ---- kernels: a thread's blocks of rows each -------------------------------------------------------------------------
@inner
def _taps(x, panels, b, g, t, n, s):
    """n rows of a group from time t on as a left operand."""
    channels, first = s.groups * s.inputs, t - s.left
    w = panels.row
    if s.in_place and first >= 0 and first + n + (s.kernel - 1) * s.dilation <= s.rows_in:
        view = strided_view(address(x, (b * s.rows_in + first) * channels + g * s.inputs), channels, w)
        return left_taps(view, s.panels_in, s.dilation * channels, s.kernel)
    source = address(x, b * s.rows_in * channels + g * s.inputs)
    read_taps(source, channels, first, s.dilation, s.kernel, s.rows_in, s.inputs, panels, n)
    return left_view(panels, s.kernel * s.panels_in)


@jit
def _forward(y, x, weights, bias, scratch, tasks, first, step, s):
    """y ="""
    channels = s.groups * s.outputs
    taps = panel_view(scratch, 0, CHUNK)
    width = taps.row
    target = panel_view(scratch, s.kernel * s.panels_in * CHUNK * width, CHUNK)
    size = s.panels_out * s.kernel * s.panels_in * width * width
    for task in range(first, len(tasks), step):
        b, begin, end = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        for t in range(begin, end, CHUNK):
            n = min(CHUNK, end - t)
            for g in range(s.groups):
                left = _taps(x, taps, b, g, t, n, s)
                start = repeated(address(bias, g * s.panels_out * width))
                to = address(y, (b * s.rows_out + t) * channels + g * s.outputs)
                into = strided_view(to, channels, width) if s.out_place else target
                few_row_product(left, address(weights, g * size), n, s.panels_out, into, start)
                if not s.out_place:
                    write_rows(target, n, s.outputs, to, channels)


@jit
def _weight_gradients(slabs, sums, x, dy, scratch, tasks, first, step, s):
    """slabs =, sums =: each block's part of the gradients."""
    channels = s.groups * s.outputs
    taps = panel_view(scratch, 0, CHUNK)
    width = taps.row
    copies = panel_view(scratch, s.kernel * s.panels_in * CHUNK * width, CHUNK)
    size = s.panels_out * s.kernel * s.panels_in * width * width
    for task in range(first, len(tasks), step):
        dw, db = slabs[task], sums[task]
        zero_memory(address(dw, 0), len(dw))
        zero_memory(address(db, 0), len(db))
        b, begin, end = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        for t in range(begin, end, CHUNK):
            n = min(CHUNK, end - t)
            rows = (n + TILE - 1) // TILE * TILE
            for g in range(s.groups):
                source = address(dy, (b * s.rows_out + t) * channels + g * s.outputs)
                if s.out_place and n == rows:
                    right = strided_view(source, channels, width)
                else:
                    right = copies
                    source = address(dy, b * s.rows_out * channels + g * s.outputs)
                    read_rows(source, channels, t, end, s.outputs, right, rows)
                left = _taps(x, taps, b, g, t, rows, s)
                column_product(left, right, rows, s.panels_out, address(dw, g * size))
                add_column_sums(right, rows, s.panels_out, address(db, g * s.panels_out * width))
