"""A condition at frame rate, on the CPU: each block's product with it is done once a frame, and spread over the rows.

Row t of the item lies ``(phase + t) / hop`` frames after the first one. "linear" mixes the frames on both sides of it,
"held" takes the earlier one. Both are linear, so the products may come first.
"""


from numba.extending import overload

from wavedil.kernels.cpu.jit import INNER, inner, jit
from wavedil.kernels.cpu.panels import address, panel_view, repeated, type_of, width_of, zero_memory
from wavedil.kernels.cpu.products import column_product, left_view, matrix, row_product
from wavedil.ops.gated_stack.cpu_tables import BLOCK, NoFrames


@inner
def _frame(frames, t):
    """The frame before a row, and how far the row is on its way to the next one."""
    at = frames.phase + t
    return at // frames.hop, (at % frames.hop) / frames.hop


def frames_at(frames, layer, stream, t, n, target):
    """target = what the block is told at n rows from t on, bias and all; False if there are no frames."""
    raise NotImplementedError


def _none_at(frames, layer, stream, t, n, target):
    return False


def _frames_at(frames, layer, stream, t, n, target):
    w = width_of(target.data)
    for p in range(layer.wide):
        begin = stream * frames.step + (layer.frames + p) * frames.rows * w
        for r in range(n):
            f, part = _frame(frames, t + r)
            at, to = begin + f * w, p * target.panel + r * target.row
            if frames.linear:
                a = type_of(target.data, part)
                for c in range(w):
                    low = frames.values[at + c]
                    target.data[to + c] = low + a * (frames.values[at + w + c] - low)
            else:
                for c in range(w):
                    target.data[to + c] = frames.values[at + c]
    return True


@overload(frames_at, jit_options=INNER)
def _at(frames, layer, stream, t, n, target):
    return _none_at if frames.instance_class is NoFrames else _frames_at


def add_to_frames(frames, layer, t, n, gradient):
    """The frames' gradient += that of n rows from t on"""
    raise NotImplementedError


def _add_to_none(frames, layer, t, n, gradient):
    pass


def _add_to_frames(frames, layer, t, n, gradient):
    if frames.hop == 0:
        return
    w = width_of(gradient.data)
    for p in range(layer.wide):
        begin = (layer.frames + p) * frames.rows * w
        for r in range(n):
            f, part = _frame(frames, t + r)
            if frames.linear and f + 1 >= frames.rows or f >= frames.rows:
                break  # rows of a tile beyond the last one, whose gradient is zero
            at, come = begin + f * w, p * gradient.panel + r * gradient.row
            if frames.linear:
                a = type_of(gradient.data, part)
                for c in range(w):
                    value = gradient.data[come + c]
                    frames.values[at + c] += value - a * value
                    frames.values[at + w + c] += a * value
            else:
                for c in range(w):
                    frames.values[at + c] += gradient.data[come + c]


@overload(add_to_frames, jit_options=INNER)
def _add(frames, layer, t, n, gradient):
    return _add_to_none if frames.instance_class is NoFrames else _add_to_frames


@jit
def project_frames(net, condition, panels, frames, bias):
    """Each block's product with the frames, its bias included. ``condition`` has so many panels of frames."""
    left = left_view(panel_view(condition, 0, frames.rows), panels)
    w = width_of(address(condition, 0))
    for i in range(len(net.layers)):
        layer = net.layers[i]
        if layer.kind == BLOCK:
            target = panel_view(frames.values, layer.frames * frames.rows * w, frames.rows)
            weights = matrix(net.matrices, layer.condition_weight, 0, layer.wide, panels)
            row_product(left, weights, frames.rows, layer.wide, target, repeated(address(bias, layer.block_bias)))


@jit
def frames_backward(net, condition, dcondition, panels, dframes, slab, needs_condition):
    """From the gradient of the projected frames to those of the blocks' weights (+=) and of the condition (=)."""
    w = width_of(address(condition, 0))
    left = left_view(panel_view(condition, 0, dframes.rows), panels)
    target = panel_view(dcondition, 0, dframes.rows)
    if needs_condition:
        zero_memory(address(dcondition, 0), panels * dframes.rows * w)
    for i in range(len(net.layers)):
        layer = net.layers[i]
        if layer.kind == BLOCK:
            gradient = panel_view(dframes.values, layer.frames * dframes.rows * w, dframes.rows)
            column_product(left, gradient, dframes.rows, layer.wide, address(slab, layer.d_condition))
            if needs_condition:
                weights = matrix(net.matrices, layer.condition_t, 0, panels, layer.wide)
                row_product(left_view(gradient, layer.wide), weights, dframes.rows, panels, target, target)
