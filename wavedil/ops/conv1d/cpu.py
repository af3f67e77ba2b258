"""Numba: products on panels, in parallel over batch and time.

A chunk's rows, as each tap sees them, are copied side by side into panels (zeros for the padding), so that a
convolution is one row product and its weight gradient one column product:

======  ===================================================================================
y       rows of x, taps left to right              @ w
dx      rows of dy, taps in reverse                @ w^T
dw      rows of x, taps left to right, transposed  @ rows of dy; one slab a task, added in order
======  ===================================================================================

Groups are products of their own. Those of few channels would leave a panel nearly empty: they run as plain loops.
"""

from collections import namedtuple

from wavedil.kernels import layout, pool
from wavedil.kernels.host import width
from wavedil.kernels.jit import jit
from wavedil.kernels.layout import CHUNK, read_rows, read_taps, write_rows
from wavedil.kernels.panels import address, panel_view, panels_of, repeated, zero_memory
from wavedil.kernels.products import TILE, column_product, left_view, row_product
from wavedil.kernels.rows import add_column_sums
from wavedil.kernels.workspace import Workspace

FEW = 4  # input channels of a group below which plain loops take over

# Rows and channels of what goes in and what comes out; channels are per group, panels hold them, left is the padding.
Shape = namedtuple("Shape", "rows_in rows_out inputs outputs panels_in panels_out kernel dilation left groups")


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y ="""
    workspace = workspace or Workspace()
    shape = _shape(x, y, w, dilation, padding[0], groups)
    bias = _bias(workspace, b, shape, x.dtype)
    if _plain(w, groups):
        _run(_plain_forward, threads, y, (x, w, bias), shape)
        return
    weights = workspace.array("conv1d.weights", (groups, shape.panels_out, *_inner(shape, x.dtype)), x.dtype)
    for g, view in enumerate(_groups(w, groups)):
        places = (layout.plain_map(n, x.dtype) for n in view.shape[1:])
        layout.pack_weight(w, view, *places, weights[g])
    _products(workspace, "conv1d.forward", threads, y, (x, weights, bias), shape)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    workspace = workspace or Workspace()
    x, w, _, dilation, padding, groups = saved
    if grads.x is not None:
        _input_gradient(workspace, grads.x, dy, w, dilation, padding[0], groups, threads)
    if grads.w is not None or grads.b is not None:
        shape = _shape(x, dy, w, dilation, padding[0], groups)
        _weight_gradient(workspace, grads, x, dy, shape, _plain(w, groups), threads)


def step(y, state, x, w, b, dilation, groups, *, workspace):
    """y =, and the state moves on. Each tap's rows are laid one after the other: a convolution of dilation n."""
    workspace = workspace or Workspace()
    history, position = state
    batch, n, channels = x.shape
    taps = workspace.array("conv1d.taps", (batch, w.shape[0], n, channels), x.dtype)
    x = layout.unlocked(x)
    layout.tap_rows(history, position, x, dilation, taps)
    forward(y, taps.reshape(batch, -1, channels), w, b, n, (0, 0), groups, workspace=workspace, threads=1)
    layout.remember(history, position, x)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def _plain(w, groups):
    return groups > 1 and w.shape[1] < FEW


def _groups(w, groups):
    """The weights of each group."""
    n = w.shape[2] // groups
    return [w[:, :, g * n : (g + 1) * n] for g in range(groups)]


def _shape(x, y, w, dilation, left, groups):
    inputs, outputs = x.shape[2] // groups, y.shape[2] // groups
    panels = panels_of(inputs, x.dtype), panels_of(outputs, x.dtype)
    return Shape(x.shape[1], y.shape[1], inputs, outputs, *panels, w.shape[0], dilation, left, groups)


def _inner(shape, dtype):
    """Rows and columns of a panel of weights."""
    return shape.kernel * shape.panels_in * width(dtype), width(dtype)


def _bias(workspace, b, shape, dtype):
    """(G, outputs), each row filled up to whole panels with zeros."""
    bias = workspace.array("conv1d.bias", (shape.groups, shape.panels_out * width(dtype)), dtype)
    bias[:, : shape.outputs] = 0 if b is None else b.reshape(shape.groups, -1)
    return bias


def _run(kernel, threads, y, arrays, shape, scratch=None):
    """A task for each block of rows of y."""
    tasks = layout.blocks(y.shape[0], y.shape[1])
    extra = [()] * len(tasks) if scratch is None else [(s,) for s in scratch]
    arrays = [y.reshape(-1), *map(layout.flat, arrays)]
    calls = [(kernel, *arrays, *more, *task, shape) for task, more in zip(tasks, extra, strict=True)]
    pool.run(calls, pool.check_threads(threads))


def _products(workspace, name, threads, y, arrays, shape):
    count = len(layout.blocks(y.shape[0], y.shape[1]))
    panels = shape.kernel * shape.panels_in + shape.panels_out
    scratch = workspace.array(f"{name}.scratch", (count, panels * CHUNK * width(y.dtype)), y.dtype)
    _run(_forward, threads, y, arrays, shape, scratch)


def _input_gradient(workspace, dx, dy, w, dilation, left, groups, threads):
    """dx = the convolution of dy with the taps in reverse, and as much padding as brings the rows back."""
    shape = _shape(dy, dx, w, dilation, (w.shape[0] - 1) * dilation - left, groups)
    if _plain(w, groups):
        _run(_plain_input_gradient, threads, dx, (dy, w), shape)
        return
    bias = workspace.array("conv1d.no_bias", (groups, shape.panels_out * width(dx.dtype)), dx.dtype)
    weights = workspace.array("conv1d.weights_t", (groups, shape.panels_out, *_inner(shape, dx.dtype)), dx.dtype)
    for g, view in enumerate(_groups(w, groups)):
        view = view[::-1].transpose(0, 2, 1)
        places = (layout.plain_map(n, dx.dtype) for n in view.shape[1:])
        layout.pack_weight(w, view, *places, weights[g])
    _products(workspace, "conv1d.backward", threads, dx, (dy, weights, bias), shape)


def _weight_gradient(workspace, grads, x, dy, shape, plain, threads):
    """dw and db, from a slab of each task."""
    dtype, tasks = x.dtype, layout.blocks(dy.shape[0], dy.shape[1])
    sums = workspace.array("conv1d.sums", (len(tasks), shape.groups, shape.panels_out * width(dtype)), dtype)
    if plain:
        slabs = workspace.array("conv1d.slabs", (len(tasks), shape.kernel, shape.inputs, dy.shape[2]), dtype)
        calls = [(_plain_weight_gradient, slabs[i].reshape(-1), sums[i].reshape(-1), layout.flat(x), layout.flat(dy),
                  *task, shape) for i, task in enumerate(tasks)]  # fmt: skip
        pool.run(calls, pool.check_threads(threads))
        if grads.w is not None:
            for slab in slabs:
                grads.w[...] += slab
    else:
        slabs = workspace.array(
            "conv1d.slabs", (len(tasks), shape.groups, shape.panels_out, *_inner(shape, dtype)), dtype
        )
        panels = shape.kernel * shape.panels_in + shape.panels_out
        scratch = workspace.array("conv1d.weight.scratch", (len(tasks), panels * CHUNK * width(dtype)), dtype)
        calls = [(_weight_gradient_block, slabs[i].reshape(-1), sums[i].reshape(-1), layout.flat(x), layout.flat(dy),
                  scratch[i], *task, shape) for i, task in enumerate(tasks)]  # fmt: skip
        pool.run(calls, pool.check_threads(threads))
        if grads.w is not None:
            rows, columns = layout.plain_map(shape.inputs, dtype), layout.plain_map(shape.outputs, dtype)
            for g, view in enumerate(_groups(grads.w, shape.groups)):
                layout.add_weight(slabs[:, g], rows, columns, grads.w, view)
    if grads.b is not None:
        by_group = grads.b.reshape(shape.groups, -1)
        for part in sums:
            by_group += part[:, : shape.outputs]


# ---- kernels: a block of rows each -----------------------------------------------------------------------------------
@jit
def _forward(y, x, weights, bias, scratch, b, begin, end, s):
    """y ="""
    channels_in, channels_out = s.groups * s.inputs, s.groups * s.outputs
    taps = panel_view(scratch, 0, CHUNK)
    width = taps.row
    target = panel_view(scratch, s.kernel * s.panels_in * CHUNK * width, CHUNK)
    size = s.panels_out * s.kernel * s.panels_in * width * width
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        for g in range(s.groups):
            source = address(x, b * s.rows_in * channels_in + g * s.inputs)
            read_taps(source, channels_in, t - s.left, s.dilation, s.kernel, s.rows_in, s.inputs, taps, rows)
            start = repeated(address(bias, g * s.panels_out * width))
            left = left_view(taps, s.kernel * s.panels_in)
            row_product(left, address(weights, g * size), rows, s.panels_out, target, start)
            write_rows(
                target, n, s.outputs, address(y, (b * s.rows_out + t) * channels_out + g * s.outputs), channels_out
            )


@jit
def _weight_gradient_block(dw, db, x, dy, scratch, b, begin, end, s):
    """dw =, db =: this block's part of the sums."""
    channels_in, channels_out = s.groups * s.inputs, s.groups * s.outputs
    taps = panel_view(scratch, 0, CHUNK)
    width = taps.row
    right = panel_view(scratch, s.kernel * s.panels_in * CHUNK * width, CHUNK)
    size = s.panels_out * s.kernel * s.panels_in * width * width
    zero_memory(address(dw, 0), len(dw))
    zero_memory(address(db, 0), len(db))
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        for g in range(s.groups):
            source = address(x, b * s.rows_in * channels_in + g * s.inputs)
            read_taps(source, channels_in, t - s.left, s.dilation, s.kernel, s.rows_in, s.inputs, taps, rows)
            source = address(dy, b * s.rows_out * channels_out + g * s.outputs)
            read_rows(source, channels_out, t, end, s.outputs, right, rows)
            left = left_view(taps, s.kernel * s.panels_in)
            column_product(left, right, rows, s.panels_out, address(dw, g * size))
            add_column_sums(right, rows, s.panels_out, address(db, g * s.panels_out * width))


@jit
def _plain_forward(y, x, w, bias, b, begin, end, s):
    """y ="""
    channels_in, channels_out = s.groups * s.inputs, s.groups * s.outputs
    bias_step = len(bias) // s.groups
    for t in range(begin, end):
        to = address(y, (b * s.rows_out + t) * channels_out)
        for g in range(s.groups):
            for n in range(s.outputs):
                to[g * s.outputs + n] = bias[g * bias_step + n]
        for k in range(s.kernel):
            row = t - s.left + k * s.dilation
            if row < 0 or row >= s.rows_in:
                continue
            of = address(x, (b * s.rows_in + row) * channels_in)
            for c in range(s.inputs):
                weights = address(w, (k * s.inputs + c) * channels_out)
                if s.inputs == 1 and s.outputs == 1:  # depthwise: this loop becomes vector code
                    for n in range(channels_out):
                        to[n] += of[n] * weights[n]
                else:
                    for g in range(s.groups):
                        for n in range(g * s.outputs, (g + 1) * s.outputs):
                            to[n] += of[g * s.inputs + c] * weights[n]


@jit
def _plain_input_gradient(dx, dy, w, b, begin, end, s):
    """dx =; in and out are those of the gradient, so ``inputs`` are channels of dy."""
    channels_in, channels_out = s.groups * s.inputs, s.groups * s.outputs
    for t in range(begin, end):
        to = address(dx, (b * s.rows_out + t) * channels_out)
        zero_memory(to, channels_out)
        for k in range(s.kernel):
            row = t - s.left + k * s.dilation
            if row < 0 or row >= s.rows_in:
                continue
            of = address(dy, (b * s.rows_in + row) * channels_in)
            for c in range(s.outputs):
                weights = address(w, ((s.kernel - 1 - k) * s.outputs + c) * channels_in)
                if s.inputs == 1 and s.outputs == 1:
                    for n in range(channels_out):
                        to[n] += of[n] * weights[n]
                else:
                    for g in range(s.groups):
                        total = to[g * s.outputs + c]
                        for n in range(g * s.inputs, (g + 1) * s.inputs):
                            total += of[n] * weights[n]
                        to[g * s.outputs + c] = total


@jit
def _plain_weight_gradient(dw, db, x, dy, b, begin, end, s):
    """dw =, db =: this block's part of the sums."""
    channels_in, channels_out = s.groups * s.inputs, s.groups * s.outputs
    bias_step = len(db) // s.groups
    zero_memory(address(dw, 0), len(dw))
    zero_memory(address(db, 0), len(db))
    for t in range(begin, end):
        right = address(dy, (b * s.rows_out + t) * channels_out)
        for g in range(s.groups):
            for n in range(s.outputs):
                db[g * bias_step + n] += right[g * s.outputs + n]
        for k in range(s.kernel):
            row = t - s.left + k * s.dilation
            if row < 0 or row >= s.rows_in:
                continue
            of = address(x, (b * s.rows_in + row) * channels_in)
            for c in range(s.inputs):
                to = address(dw, (k * s.inputs + c) * channels_out)
                if s.inputs == 1 and s.outputs == 1:
                    for n in range(channels_out):
                        to[n] += of[n] * right[n]
                else:
                    for g in range(s.groups):
                        for n in range(g * s.outputs, (g + 1) * s.outputs):
                            to[n] += of[g * s.inputs + c] * right[n]
