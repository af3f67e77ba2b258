"""Numba: products on panels with the gate in their ends, in parallel over batch and time.

========  ==========================================================================================  ===============
forward   gates, z = gate(bias + condition + taps of x @ conv_weight)                                 row product
          h = x + residual_bias + z @ residual_weight;  skip = skip_bias + z @ skip_weight            row products
backward  dz = [dh | dskip] @ [residual_weight | skip_weight]^T, through the gate to dpre             row product
          gradients of all weights and biases: one slab a task, added in order                        column products
          then, with dpre known for later rows too: dx = dh + taps of dpre @ conv_weight^T            row product
========  ==========================================================================================  ===============

``dpre`` of the whole window lies in panels between the two passes, with zeros after the last row; in them each panel
has one vector of tanh, then the vector of the sigmoid for the same channels (`layout.gate_map`).
"""

from collections import namedtuple

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.host import width
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.layout import CHUNK, read_rows, read_taps, write_rows
from wavedil.kernels.cpu.panels import (
    address,
    beyond,
    down,
    panel_view,
    panels_of,
    repeated,
    right,
    strided_view,
    whole_tiles,
    zero_memory,
    zero_rows,
)
from wavedil.kernels.cpu.products import (
    TILE,
    column_product,
    left_taps,
    left_view,
    row_product,
    row_product_biased,
    row_product_gate,
    row_product_gate_backward,
)
from wavedil.kernels.cpu.rows import add_column_sums
from wavedil.kernels.workspace import Workspace

# Channel counts (residual, one half of the gate, skip, condition) and the panels that hold them; rows of dpre's panels;
# whether the condition has a row for each time step.
Shape = namedtuple("Shape", "rows kernel dilation r d s c R D S C height local")
Packed = namedtuple("Packed", "conv conv_bias residual residual_bias skip skip_bias condition")
Transposed = namedtuple("Transposed", "conv mix condition")
Wants = namedtuple("Wants", "conv_weight residual_weight skip_weight condition_weight")


def forward(y, tanh, sigmoid, x, conv_weight, conv_bias, residual_weight, residual_bias, skip_weight, skip_bias,
            condition, condition_weight, dilation, *, workspace, threads):  # fmt: skip
    """y.h =, y.skip =, tanh =, sigmoid ="""
    workspace = workspace or Workspace()
    weights = conv_weight, conv_bias, residual_weight, residual_bias, skip_weight, skip_bias, condition_weight
    shape = _shape(x.shape[1], *weights[0:6:2], condition, condition_weight, dilation)
    span = (shape.kernel - 1) * dilation
    _run_forward(workspace, threads, y, tanh, sigmoid, x, x.shape[1], span, weights, condition, shape)


def step(y, state, x, conv_weight, conv_bias, residual_weight, residual_bias, skip_weight, skip_bias, condition,
         condition_weight, dilation, *, workspace):  # fmt: skip
    """y.h =, y.skip =, and the state moves on. Each tap's rows are laid one after the other: a dilation of n."""
    workspace = workspace or Workspace()
    history, position = state
    batch, n, channels = x.shape
    taps = workspace.array("gated_block.taps", (batch, conv_weight.shape[0], n, channels), x.dtype)
    x = layout.writeable_view(x)
    layout.tap_rows(history, position, x, dilation, taps)
    weights = conv_weight, conv_bias, residual_weight, residual_bias, skip_weight, skip_bias, condition_weight
    shape = _shape(n, *weights[0:6:2], condition, condition_weight, n)
    tanh, sigmoid = (
        workspace.array(f"gated_block.{name}", (batch, n, shape.d), x.dtype) for name in ("tanh", "sigmoid")
    )
    rows = taps.reshape(batch, -1, channels)
    _run_forward(workspace, 1, y, tanh, sigmoid, rows, rows.shape[1], 0, weights, condition, shape)
    layout.remember(history, position, x)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.condition =, all others +="""
    workspace = workspace or Workspace()
    x, dtype, threads = saved.x, saved.x.dtype, pool.check_threads(threads)
    batch, rows, _ = x.shape
    condition = saved.condition
    s = _shape(rows, saved.conv_weight, saved.residual_weight, saved.skip_weight, condition, saved.condition_weight,
               saved.dilation)  # fmt: skip
    w, tasks = width(dtype), layout.blocks(batch, rows)
    empty = workspace.array("gated_block.empty", (0,), dtype)
    flat = [empty if a is None else layout.flat(a) for a in (*dy, x, saved.tanh, saved.sigmoid, condition)]
    transposed = _transpose(workspace, saved, s)
    dpre = workspace.array("gated_block.dpre", (batch, 2 * s.D, s.height, w), dtype)

    def slabs(name, *shape):
        return workspace.array(f"gated_block.slabs.{name}", (len(tasks), *shape), dtype)

    conv, mix = slabs("conv", 2 * s.D, s.kernel * s.R * w, w), slabs("mix", s.R + s.S, s.D * w, w)
    cond = slabs("condition", 2 * s.D, s.C * w, w)
    pre_sums, mix_sums = slabs("pre_sums", 2 * s.D * w), slabs("mix_sums", (s.R + s.S) * w)
    panels = s.kernel * s.R + s.R + s.S + s.D + s.C
    scratch = workspace.array("gated_block.backward.scratch", (len(tasks), panels * CHUNK * w), dtype)
    wants = Wants(*(getattr(grads, name) is not None for name in Wants._fields))
    pool.run([(_backward_gate, dpre[task[0]].reshape(-1), conv[i].reshape(-1), mix[i].reshape(-1), cond[i].reshape(-1),
               pre_sums[i], mix_sums[i], *flat, transposed.mix, scratch[i], *task, s, wants)
              for i, task in enumerate(tasks)], threads)  # fmt: skip
    dcondition = grads.condition if s.local else None
    if grads.x is not None or dcondition is not None:
        outputs = [empty if a is None else a.reshape(-1) for a in (grads.x, dcondition)]
        pool.run([(_backward_inputs, *outputs, dpre[task[0]].reshape(-1), flat[0], transposed, scratch[i], *task, s)
                  for i, task in enumerate(tasks)], threads)  # fmt: skip
    _add_parameter_gradients(workspace, grads, s, conv, mix, cond, pre_sums, mix_sums)
    if condition is not None and not s.local:
        _global_condition(workspace, grads, condition, transposed.condition, pre_sums, tasks, s)


# ---- hosts -----------------------------------------------------------------------------------------------------------
def _shape(rows, conv_weight, residual_weight, skip_weight, condition, condition_weight, dilation):
    kernel, r, _ = conv_weight.shape
    d, s, c = *skip_weight.shape, 0 if condition is None else condition_weight.shape[0]
    panels = [panels_of(n, conv_weight.dtype) for n in (r, d, s, c)]
    height = -(-rows // CHUNK) * CHUNK + (kernel - 1) * dilation
    return Shape(rows, kernel, dilation, r, d, s, c, *panels, height, condition is not None and condition.ndim == 3)


def _run_forward(workspace, threads, y, tanh, sigmoid, x, rows_in, left, weights, condition, shape):
    packed = _pack(workspace, *weights, shape)
    tasks, w = layout.blocks(y.h.shape[0], shape.rows), width(x.dtype)
    panels = shape.kernel * shape.R + 5 * shape.D + max(shape.R, shape.S) + shape.C
    scratch = workspace.array("gated_block.forward.scratch", (len(tasks), panels * CHUNK * w), x.dtype)
    condition = packed.conv_bias if condition is None else layout.flat(condition)
    arrays = [*(a.reshape(-1) for a in (*y, tanh, sigmoid)), layout.flat(x)]
    pool.run([(_forward, *arrays, rows_in, left, condition, packed, scratch[i], *task, shape)
              for i, task in enumerate(tasks)], pool.check_threads(threads))  # fmt: skip


def _maps(shape, dtype):
    """Places of residual, gate, dilation and skip channels, and of those of the condition."""
    r, d, s, c = (layout.plain_map(n, dtype) for n in (shape.r, shape.d, shape.s, shape.c))
    return r, layout.gate_map(shape.d, dtype), d, s, c


def _pack(workspace, conv, conv_bias, residual, residual_bias, skip, skip_bias, condition, shape):
    dtype, w = conv.dtype, width(conv.dtype)
    r, gate, d, s, c = _maps(shape, dtype)

    def packed(name, weight, rows, columns):
        taps = weight.shape[0] if weight.ndim == 3 else 1
        target = workspace.array(f"gated_block.{name}", (len(columns) // w, taps * len(rows), w), dtype)
        layout.pack_weight(weight, weight if weight.ndim == 3 else weight[None], rows, columns, target)
        return target.reshape(-1)

    def bias(name, values, columns):
        target = workspace.array(f"gated_block.{name}", (len(columns) // w, 1, w), dtype)
        if values is None:
            target.fill(0)
        else:
            layout.pack_weight(values, values[None, None], layout.plain_map(1, dtype)[:1], columns, target)
        return target.reshape(-1)

    conv_bias = bias("conv_bias", conv_bias, gate)
    return Packed(
        packed("conv", conv, r, gate), conv_bias,
        packed("residual", residual, d, r), bias("residual_bias", residual_bias, r),
        packed("skip", skip, d, s), bias("skip_bias", skip_bias, s),
        conv_bias if condition is None else packed("condition_weight", condition, c, gate),
    )  # fmt: skip


def _transpose(workspace, saved, shape):
    """The weights that the gradients go back through; conv's taps in reverse, residual above skip."""
    dtype = saved.x.dtype
    w = width(dtype)
    r, gate, d, s, c = _maps(shape, dtype)

    def target(name, rows, columns):
        return workspace.array(f"gated_block.{name}", (len(columns) // w, rows, w), dtype)

    conv = target("conv_t", shape.kernel * len(gate), r)
    layout.pack_weight(saved.conv_weight, saved.conv_weight[::-1].transpose(0, 2, 1), gate, r, conv)
    mix = target("mix_t", len(r) + len(s), d)
    layout.pack_weight(saved.residual_weight, saved.residual_weight.T[None], r, d, mix[:, : len(r)])
    layout.pack_weight(saved.skip_weight, saved.skip_weight.T[None], s, d, mix[:, len(r) :])
    condition = conv
    if shape.c:
        condition = target("condition_t", len(gate), c)
        layout.pack_weight(saved.condition_weight, saved.condition_weight.T[None], gate, c, condition)
    return Transposed(conv.reshape(-1), mix.reshape(-1), condition.reshape(-1))


def _add_parameter_gradients(workspace, grads, s, conv, mix, cond, pre_sums, mix_sums):
    """+= the sums of the tasks' slabs."""
    dtype, w = conv.dtype, width(conv.dtype)
    r, gate, d, skip, c = _maps(s, dtype)
    one = layout.plain_map(1, dtype)[:1]
    pre_sums, mix_sums = (sums.reshape(len(sums), -1, 1, w) for sums in (pre_sums, mix_sums))
    for target, slabs, rows, columns in (
        (grads.conv_weight, conv, r, gate),
        (grads.residual_weight, mix[:, : s.R], d, r),
        (grads.skip_weight, mix[:, s.R :], d, skip),
        (grads.condition_weight if s.local else None, cond, c, gate),
        (grads.conv_bias, pre_sums, one, gate),
        (grads.residual_bias, mix_sums[:, : s.R], one, r),
        (grads.skip_bias, mix_sums[:, s.R :], one, skip),
    ):
        if target is not None:
            layout.add_weight(slabs, rows, columns, target, target.reshape(-1, *target.shape[-2:]) if target.ndim > 1
                              else target[None, None])  # fmt: skip


def _global_condition(workspace, grads, condition, weight_t, pre_sums, tasks, s):
    """The gradients of a condition with one row an item: products with the sums of dpre over time."""
    dtype, w, batch = condition.dtype, width(condition.dtype), len(condition)
    height = whole_tiles(batch)
    sums = workspace.array("gated_block.item_sums", (2 * s.D, height, w), dtype)
    sums.fill(0)
    for (b, _, _), part in zip(tasks, pre_sums, strict=True):
        sums[:, b] += part.reshape(-1, w)
    slab = workspace.array("gated_block.global.slab", (1, 2 * s.D, s.C * w, w), dtype)
    scratch = workspace.array("gated_block.global.scratch", (2 * s.C, height, w), dtype)
    target = layout.flat(condition if grads.condition is None else grads.condition)
    _backward_global(target, slab.reshape(-1), sums.reshape(-1), layout.flat(condition), weight_t, scratch.reshape(-1),
                     0, batch, height, s, grads.condition is not None)  # fmt: skip
    if grads.condition_weight is not None:
        _, gate, _, _, c = _maps(s, dtype)
        layout.add_weight(slab, c, gate, grads.condition_weight, grads.condition_weight[None])


# ---- kernels: a block of rows each -----------------------------------------------------------------------------------
@jit
def _place(scratch, panels):
    """A view of the scratch that begins after so many panels of a chunk."""
    view = panel_view(scratch, 0, CHUNK)
    return right(view, panels)


@jit
def _read_condition(condition, b, t, n, rows, s, target):
    """The condition of a chunk: its own rows, or one row."""
    first = b * s.rows + t if s.local else b
    read_rows(address(condition, 0), s.c, first, first + (n if s.local else 1), s.c, target, rows)


@jit
def _forward(h, skip, tanh, sigmoid, x, rows_in, left, condition, packed, scratch, b, begin, end, s):
    """h =, skip =, tanh =, sigmoid ="""
    taps, gates = _place(scratch, 0), _place(scratch, s.kernel * s.R)
    start_of, z = _place(scratch, s.kernel * s.R + 2 * s.D), _place(scratch, s.kernel * s.R + 4 * s.D)
    target = _place(scratch, s.kernel * s.R + 5 * s.D)
    conditions = right(target, max(s.R, s.S))
    present = right(taps, (s.kernel - 1) * s.R)
    half = taps.row // 2
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        source = address(x, b * rows_in * s.r)
        read_taps(source, s.r, t - left, s.dilation, s.kernel, rows_in, s.r, taps, rows)
        start = repeated(address(packed.conv_bias, 0))
        if s.c > 0:
            if s.local or t == begin:
                _read_condition(condition, b, t, n, rows, s, conditions)
                row_product(left_view(conditions, s.C), address(packed.condition, 0), rows, 2 * s.D, start_of, start)
            start = strided_view(start_of.data, start_of.row if s.local else 0, start_of.panel)
        row_product_gate(left_view(taps, s.kernel * s.R), address(packed.conv, 0), rows, s.D, gates, start, z)
        row = b * s.rows + t
        _write_gates(gates, n, s.d, half, address(tanh, row * s.d), address(sigmoid, row * s.d))
        mixed, bias = left_view(z, s.D), repeated(address(packed.residual_bias, 0))
        row_product_biased(mixed, address(packed.residual, 0), rows, s.R, target, present, bias)
        write_rows(target, n, s.r, address(h, row * s.r), s.r)
        row_product(mixed, address(packed.skip, 0), rows, s.S, target, repeated(address(packed.skip_bias, 0)))
        write_rows(target, n, s.s, address(skip, row * s.s), s.s)


@jit
def _write_gates(gates, n, channels, half, tanh, sigmoid):
    """Two row-major matrices = the halves of the panels."""
    for p in range((channels + half - 1) // half):
        filled = min(half, channels - p * half)
        for r in range(n):
            of, at = beyond(gates.data, p * gates.panel + r * gates.row), r * channels + p * half
            for j in range(filled):
                tanh[at + j] = of[j]
                sigmoid[at + j] = of[half + j]


@jit
def _read_gates(tanh, sigmoid, n, channels, half, gates, rows, panels):
    """The panels of two row-major matrices; zeros where there is nothing."""
    zero_rows(gates, rows, panels)
    for p in range((channels + half - 1) // half):
        filled = min(half, channels - p * half)
        for r in range(n):
            to, at = beyond(gates.data, p * gates.panel + r * gates.row), r * channels + p * half
            for j in range(filled):
                to[j] = tanh[at + j]
                to[half + j] = sigmoid[at + j]


@jit
def _read_upstream(dy, b, t, n, channels, rows_total, target, rows):
    """A chunk of dh or dskip; an empty array means zeros."""
    count = t + n if len(dy) > 0 else 0
    read_rows(address(dy, b * rows_total * channels), channels, t, count, channels, target, rows)


@jit
def _backward_gate(dpre, conv, mix, cond, pre_sums, mix_sums, dh, dskip, x, tanh, sigmoid, condition, mix_t, scratch, b,
                   begin, end, s, wants):  # fmt: skip
    """dpre =; conv =, mix = [residual | skip], cond =, pre_sums =, mix_sums =: this block's part of the sums."""
    for array in (conv, mix, cond, pre_sums, mix_sums):
        zero_memory(address(array, 0), len(array))
    taps, upstream = _place(scratch, 0), _place(scratch, s.kernel * s.R)
    z, conditions = right(upstream, s.R + s.S), right(upstream, s.R + s.S + s.D)
    w = taps.row
    gates = panel_view(dpre, begin * w, s.height)
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        row = b * s.rows + t
        _read_upstream(dh, b, t, n, s.r, s.rows, upstream, rows)
        _read_upstream(dskip, b, t, n, s.s, s.rows, right(upstream, s.R), rows)
        _read_gates(address(tanh, row * s.d), address(sigmoid, row * s.d), n, s.d, w // 2, gates, rows, 2 * s.D)
        row_product_gate_backward(
            left_view(upstream, s.R + s.S), address(mix_t, 0), rows, s.D, gates, z, address(pre_sums, 0)
        )
        add_column_sums(upstream, rows, s.R + s.S, address(mix_sums, 0))
        if wants.conv_weight:
            source = address(x, b * s.rows * s.r)
            first = t - (s.kernel - 1) * s.dilation
            read_taps(source, s.r, first, s.dilation, s.kernel, s.rows, s.r, taps, rows)
            column_product(left_view(taps, s.kernel * s.R), gates, rows, 2 * s.D, address(conv, 0))
        if wants.residual_weight:
            column_product(left_view(z, s.D), upstream, rows, s.R, address(mix, 0))
        if wants.skip_weight:
            target = address(mix, s.R * s.D * w * w)
            column_product(left_view(z, s.D), right(upstream, s.R), rows, s.S, target)
        if wants.condition_weight and s.local:
            _read_condition(condition, b, t, n, rows, s, conditions)
            column_product(left_view(conditions, s.C), gates, rows, 2 * s.D, address(cond, 0))
        gates = down(gates, rows)
    if end == s.rows:
        after = begin + (end - begin + TILE - 1) // TILE * TILE
        zero_rows(panel_view(dpre, after * w, s.height), s.height - after, 2 * s.D)


@jit
def _backward_inputs(dx, dcondition, dpre, dh, transposed, scratch, b, begin, end, s):
    """dx =, dcondition = (local)"""
    start, target = _place(scratch, 0), _place(scratch, s.R)
    w = start.row
    for t in range(begin, end, CHUNK):
        n = min(CHUNK, end - t)
        rows = (n + TILE - 1) // TILE * TILE
        gates = panel_view(dpre, t * w, s.height)
        if len(dx) > 0:
            _read_upstream(dh, b, t, n, s.r, s.rows, start, rows)
            left = left_taps(gates, 2 * s.D, s.dilation * gates.row, s.kernel)
            row_product(left, address(transposed.conv, 0), rows, s.R, target, start)
            write_rows(target, n, s.r, address(dx, (b * s.rows + t) * s.r), s.r)
        if len(dcondition) > 0:
            zero_rows(start, 1, 1)
            nothing = strided_view(start.data, 0, 0)
            row_product(left_view(gates, 2 * s.D), address(transposed.condition, 0), rows, s.C, target, nothing)
            write_rows(target, n, s.c, address(dcondition, (b * s.rows + t) * s.c), s.c)


@jit
def _backward_global(dcondition, slab, sums, condition, weight_t, scratch, first, batch, height, s, wanted):
    """dcondition = (if wanted); slab = the gradient of the condition's weight"""
    zero_memory(address(slab, 0), len(slab))
    view = panel_view(sums, 0, height)
    w = view.row
    rows, target = panel_view(scratch, 0, height), panel_view(scratch, s.C * height * w, height)
    read_rows(address(condition, 0), s.c, first, batch, s.c, rows, height)
    column_product(left_view(rows, s.C), view, height, 2 * s.D, address(slab, 0))
    if wanted:
        zero_rows(rows, 1, 1)
        nothing = strided_view(rows.data, 0, 0)
        row_product(left_view(view, 2 * s.D), address(weight_t, 0), height, s.C, target, nothing)
        write_rows(target, batch, s.c, address(dcondition, 0), s.c)
