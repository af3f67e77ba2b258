"""Numba: products on slabs of image rows, in parallel over batch, rows and columns.

Rows of the image are copied once into panels (`wavedil.kernels.cpu.grids`), where each output row is one product:

======  ===================================================================================
y       slab of x, all taps                 @ w
dx      slab of dy, taps in reverse         @ w^T
dw      slab of x, all taps, transposed     @ row of dy; added up in a few parts, those in order
======  ===================================================================================

Groups are products of their own. Narrow ones are merged, to fill a panel, into one group whose weights are zero between
them; a depthwise convolution has a product of its own, element by element.
"""

import numpy as np

from wavedil.kernels import pool
from wavedil.kernels.cpu import grids, layout
from wavedil.kernels.cpu.depthwise import depthwise_product, depthwise_sums
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import read_rows, write_rows
from wavedil.kernels.cpu.panels import address, panel_view, repeated, right, strided_view, zero_memory
from wavedil.kernels.cpu.products import column_product, few_row_product
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.kernels.workspace import Workspace


def forward(y, x, w, b, dilation, padding, groups, *, workspace, threads):
    """y ="""
    workspace = workspace or Workspace()
    taps = _Taps(workspace, w, groups, y.dtype)
    taps.load(w)
    corner = padding[0][0], padding[1][0]
    g = taps.grid(x, y, dilation, corner)
    bias = workspace.array("conv2d.bias", (g.groups, g.panels_out * width(y.dtype)), y.dtype)
    bias[:, : g.outputs] = 0 if b is None else b.reshape(g.groups, -1)
    _products(workspace, threads, y, x, taps.pack(workspace), bias, g, taps.depthwise)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    workspace = workspace or Workspace()
    x, w, _, dilation, padding, groups, *_ = saved
    taps = _Taps(workspace, w, groups, dy.dtype)
    corner = padding[0][0], padding[1][0]
    if grads.x is not None:
        # The convolution of dy with the taps in reverse, and as much padding as brings the pixels back.
        taps.load(w)
        spans = ((k - 1) * d for k, d in zip(w.shape[:2], dilation, strict=True))
        back = tuple(span - pad for span, pad in zip(spans, corner, strict=True))
        g = taps.grid(dy, grads.x, dilation, back)
        bias = workspace.array("conv2d.no_bias", (g.groups, g.panels_out * width(dy.dtype)), dy.dtype)
        weights = taps.pack(workspace, transposed=True)
        _products(workspace, threads, grads.x, dy, weights, bias, g, taps.depthwise)
    if grads.w is not None or grads.b is not None:
        _weight_gradient(workspace, threads, grads, x, dy, taps, taps.grid(x, dy, dilation, corner))


def step(y, state, x, w, b, dilation, columns, groups, *, workspace):
    """y =, and the state moves on. Each tap's rows are laid one after the other: a convolution of dilation n."""
    workspace = workspace or Workspace()
    history, position = state
    batch, n, wide, channels = x.shape
    taps = workspace.array("conv2d.taps", (batch, w.shape[0], n, wide * channels), x.dtype)
    past, new = history.reshape(batch, -1, wide * channels), layout.writeable_view(x).reshape(batch, n, -1)
    layout.tap_rows(past, position, new, dilation[0], taps)
    taps = taps.reshape(batch, -1, wide, channels)
    forward(y, taps, w, b, (n, dilation[1]), ((0, 0), columns), groups, workspace=workspace, threads=1)
    layout.remember(past, position, new)


# ---- hosts -----------------------------------------------------------------------------------------------------------
class _Taps:
    """The weights in the order of the kernels: (kernel width, kernel height, inputs, outputs), of merged groups."""

    def __init__(self, workspace, w, groups, dtype):
        high, wide, inputs, outputs = w.shape
        outputs //= groups
        self.depthwise = groups > 1 and inputs == outputs == 1
        fit = width(dtype) // max(inputs, outputs)
        self.merged = 1 if self.depthwise else max([s for s in range(1, fit + 1) if groups % s == 0], default=1)
        self.groups, self.kernel = groups // self.merged, (high, wide)
        self.channels = inputs * self.merged, outputs * self.merged
        self.array = workspace.array("conv2d.ordered", (wide, high, self.channels[0], w.shape[3]), dtype)

    def _pairs(self, w):
        """(own array, weight) for each of the groups that are merged into one."""
        s, (wide, high, inputs, _) = self.merged, self.array.shape
        own = self.array.reshape(wide, high, s, inputs // s, self.groups, s, -1)
        other = w.transpose(1, 0, 2, 3).reshape(wide, high, inputs // s, self.groups, s, -1)
        return [(own[:, :, i, :, :, i], other[:, :, :, :, i]) for i in range(s)]

    def load(self, w):
        """Take the weights."""
        if self.merged > 1:
            self.array.fill(0)
        for own, other in self._pairs(w):
            own[...] = other

    def add_to(self, w):
        """w += what lies in the array"""
        for own, other in self._pairs(w):
            other += own

    def grid(self, x, y, dilation, corner):
        """How x becomes y: the convolution, or that of the input gradient."""
        if self.depthwise:
            channels, groups = (x.shape[3], x.shape[3]), 1
        else:
            channels, groups = (x.shape[3] // self.groups, y.shape[3] // self.groups), self.groups
        return grids.grid(x.shape[1:3], y.shape[1:3], channels, self.kernel, dilation, corner, groups, x.dtype)

    def views(self):
        """The weights of each group as (taps, inputs, outputs); a depthwise one has its taps as inputs."""
        inputs, n = self.channels
        if self.depthwise:
            return [self.array.reshape(1, -1, self.array.shape[3])]
        flat = self.array.reshape(-1, inputs, self.array.shape[3])
        return [flat[:, :, k * n : (k + 1) * n] for k in range(self.groups)]

    def maps(self, view):
        """Index maps of the rows and columns of a view."""
        dtype = self.array.dtype
        rows = np.arange(view.shape[1]) if self.depthwise else layout.plain_map(view.shape[1], dtype)
        return rows, layout.plain_map(view.shape[2], dtype)

    def panels(self, view):
        """Shape of the panels of a view."""
        rows, columns = self.maps(view)
        w = width(self.array.dtype)
        return len(columns) // w, view.shape[0] * len(rows), w

    def pack(self, workspace, transposed=False):
        """All weights in panels, (G, panels, terms, W); transposed and in reverse for the input gradient."""
        views = self.views()
        if transposed and self.depthwise:
            views = [views[0][:, ::-1]]
        elif transposed:
            views = [view[::-1].transpose(0, 2, 1) for view in views]
        name = f"conv2d.weights{'_t' if transposed else ''}"
        packed = workspace.array(name, (len(views), *self.panels(views[0])), self.array.dtype)
        for view, target in zip(views, packed, strict=True):
            layout.pack_weight(self.array, view, *self.maps(view), target)
        return packed


def _products(workspace, threads, y, x, weights, bias, g, depthwise):
    """y =, a task for some rows of the images."""
    shares = layout.shares(grids.tasks(y.shape[0], g), threads, y.shape[0] * grids.products(g, depthwise))
    w = width(y.dtype)
    size = grids.slab_size(g, w) + g.chunk * g.panels_out * w
    scratch = workspace.array("conv2d.products.scratch", (len(shares), size), y.dtype)
    arrays = y.reshape(-1), layout.flat(x), weights.reshape(-1), bias.reshape(-1)
    calls = [(_forward, *arrays, part, *share, g, depthwise) for part, share in zip(scratch, shares, strict=True)]
    pool.run(calls, len(shares))


def _weight_gradient(workspace, threads, grads, x, dy, taps, g):
    """dw and db, from a slab of each part of the tasks."""
    dtype, w = x.dtype, width(x.dtype)
    tasks = grids.tasks(x.shape[0], g)
    parts = grids.parts(tasks)
    views = taps.views()
    slabs = workspace.array("conv2d.slabs", (len(parts), len(views), *taps.panels(views[0])), dtype)
    sums = workspace.array("conv2d.sums", (len(parts), g.groups, g.panels_out * w), dtype)
    size = grids.slab_size(g, w) + (g.chunk + 1) * g.panels_out * w
    shares = layout.shares(parts, threads, len(x) * grids.products(g, taps.depthwise))
    scratch = workspace.array("conv2d.weight.scratch", (len(shares), size), dtype)
    arrays = slabs.reshape(len(parts), -1), sums.reshape(len(parts), -1), layout.flat(x), layout.flat(dy)
    tasks = np.array(tasks, np.int64)
    calls = [
        (_weight_gradients, *arrays, part, tasks, *share, g, taps.depthwise)
        for part, share in zip(scratch, shares, strict=True)
    ]
    pool.run(calls, len(shares))
    if grads.w is not None:
        taps.array.fill(0)
        for k, view in enumerate(views):
            layout.add_weight(slabs[:, k], *taps.maps(view), taps.array, view)
        taps.add_to(grads.w)
    if grads.b is not None:
        by_group = grads.b.reshape(g.groups, -1)
        for part in sums:
            by_group += part[:, : g.outputs]


# ---- kernels: a thread's tasks each, which are some rows and columns of an image -------------------------------------
@jit
def _forward(y, x, weights, bias, scratch, tasks, first, step, g, depthwise):
    """y ="""
    for i in range(first, len(tasks), step):
        _forward_task(y, x, weights, bias, scratch, tasks[i], g, depthwise)


@inner
def _forward_task(y, x, weights, bias, scratch, task, g, depthwise):
    b, begin, end, first, last = task[0], task[1], task[2], task[3], task[4]
    column, channels_out = g.groups * g.inputs, g.groups * g.outputs
    row = g.width * column
    target = panel_view(scratch, 0, g.chunk)
    w = target.row
    slab = address(scratch, g.panels_out * g.chunk * w)
    size = g.panels_out * g.kernel_width * g.kernel_height * g.panels_in * w * w
    place = begin
    while place < end:
        i, count = grids.next_run(place, end, g)
        place += count
        for j in range(first, last, g.chunk):
            n = min(g.chunk, last - j)
            for k in range(g.groups):
                source = address(x, b * g.height * row + k * g.inputs)
                seen = count + g.kernel_height - 1
                left = grids.read_slab(
                    source, row, column, i - g.top, j - g.left, n, seen, g.inputs, g.panels_in, slab, g
                )
                start = repeated(address(bias, k * g.panels_out * w))
                for s in range(count):
                    here = right(left, s * g.panels_in)
                    pixel = (b * g.rows + i + s * g.dilation_height) * g.columns + j
                    to = address(y, pixel * channels_out + k * g.outputs)
                    whole = g.outputs % w == 0  # panels are then columns of y itself
                    into = strided_view(to, channels_out, w) if whole else target
                    if depthwise:
                        depthwise_product(here, address(weights, 0), n, g.panels_out, into, start)
                    else:
                        few_row_product(here, address(weights, k * size), n, g.panels_out, into, start)
                    if not whole:
                        write_rows(target, n, g.outputs, to, channels_out)


@jit
def _weight_gradients(slabs, sums, x, dy, scratch, tasks, parts, first, step, g, depthwise):
    """slabs =, sums =: the gradients of each part's tasks."""
    for i in range(first, len(parts), step):
        zero_memory(address(slabs[i], 0), slabs.shape[1])
        zero_memory(address(sums[i], 0), sums.shape[1])
        for k in range(parts[i, 0], parts[i, 1]):
            _add_weight_gradient(slabs[i], sums[i], x, dy, scratch, tasks[k], g, depthwise)


@inner
def _add_weight_gradient(dw, db, x, dy, scratch, task, g, depthwise):
    """dw +=, db +=: a task's part of the sums."""
    b, begin, end, first, last = task[0], task[1], task[2], task[3], task[4]
    column, channels_out = g.groups * g.inputs, g.groups * g.outputs
    row = g.width * column
    upper = panel_view(scratch, 0, g.chunk + 1)
    w = upper.row
    slab = address(scratch, g.panels_out * (g.chunk + 1) * w)
    size = g.panels_out * g.kernel_width * g.kernel_height * g.panels_in * w * w
    place = begin
    while place < end:
        i, count = grids.next_run(place, end, g)
        place += count
        for j in range(first, last, g.chunk):
            n = min(g.chunk, last - j)
            even = n + n % 2  # the product takes rows in pairs; the last of dy may be one of zeros
            for k in range(g.groups):
                source = address(x, b * g.height * row + k * g.inputs)
                seen = count + g.kernel_height - 1
                left = grids.read_slab(
                    source, row, column, i - g.top, j - g.left, even, seen, g.inputs, g.panels_in, slab, g
                )
                for s in range(count):
                    here = right(left, s * g.panels_in)
                    line = (b * g.rows + i + s * g.dilation_height) * g.columns
                    source = address(dy, line * channels_out + k * g.outputs)
                    read_rows(source, channels_out, j, j + n, g.outputs, upper, even)
                    if depthwise:
                        depthwise_sums(here, upper, n, g.panels_out, address(dw, 0))
                    else:
                        column_product(here, upper, even, g.panels_out, address(dw, k * size))
                    add_column_sums(upper, n, g.panels_out, address(db, k * g.panels_out * w))
