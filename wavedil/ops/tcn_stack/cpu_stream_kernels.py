"""The kernels of `cpu` for streams: any number of rows through all blocks, of which each keeps its past."""

from wavedil.kernels.cpu.jit import inner, jit
from wavedil.kernels.cpu.layout import read_rows
from wavedil.kernels.cpu.panels import address, down, move_memory, repeated, right, strided_view, width_of
from wavedil.kernels.cpu.products import few_row_product, few_row_product_relu, left_taps, left_view
from wavedil.kernels.cpu.rows import look_up
from wavedil.ops.tcn_stack.cpu_kernels import (
    BIAS0,
    BIAS1,
    CHUNK,
    CONV0,
    CONV1,
    SHORTCUT,
    SHORTCUT_BIAS,
    A,
    B,
    X,
    panel_add_relu,
    rows_of,
)


@inner
def slide(net, item, n):
    """Make room for n rows below the present one: a full buffer moves its past rows to its beginning."""
    w = width_of(address(item.data, 0))
    for block in range(len(net.dilations)):
        position, past = item.past[block], (net.kernel - 1) * net.dilations[block]
        for kind in (X, A):
            height = item.height[kind, block]
            if position + n > height:
                for p in range(net.panels[block] if kind == X else net.panels[block + 1]):
                    start = item.begin[kind, block] + p * height * w
                    source = address(item.data, start + (position - past) * w)
                    move_memory(address(item.data, start), source, past * w)
        if position + n > item.height[X, block]:
            item.past[block] = past


@inner
def block_stream(net, item, block, n):
    """n rows from the present one on; the tiles fit any number of them."""
    weights, w, K = net.weights, width_of(address(net.weights, 0)), net.kernel
    P, N, d, at = net.panels[block], net.panels[block + 1], net.dilations[block], net.at[:, block]
    past = (K - 1) * d
    x, a = rows_of(item, X, block, 0), rows_of(item, A, block, 0)
    z, out = rows_of(item, B, block, 0), rows_of(item, X, block + 1, 0)
    bias = repeated(address(weights, at[BIAS0]))
    few_row_product_relu(left_taps(down(x, -past), P, d * w, K), address(weights, at[CONV0]), n, N, a, bias)
    bias = repeated(address(weights, at[BIAS1]))
    few_row_product_relu(left_taps(down(a, -past), N, d * w, K), address(weights, at[CONV1]), n, N, z, bias)
    if at[SHORTCUT] >= 0:
        bias = repeated(address(weights, at[SHORTCUT_BIAS]))
        few_row_product(left_view(x, P), address(weights, at[SHORTCUT]), n, N, out, bias)
        x = out
    for p in range(N):
        panel_add_relu(right(x, p), right(z, p), right(out, p), n)


@jit
def stream_rows(net, item, codes, numbers, out):
    """Predictions after each of some more rows; out ="""
    count, top = len(out), len(net.dilations)
    w = width_of(address(item.data, 0))
    logits = strided_view(address(item.data, item.logits), w, CHUNK * w)
    for t in range(0, count, CHUNK):
        n = min(CHUNK, count - t)
        slide(net, item, n)
        x = rows_of(item, X, 0, 0)
        if net.classes > 0:
            for r in range(n):
                look_up(address(net.weights, net.embedding), codes[t + r], down(x, r), net.panels[0], net.classes)
        else:
            read_rows(address(numbers, 0), net.inputs, t, count, net.inputs, x, n)
        for block in range(top):
            block_stream(net, item, block, n)
        for block in range(top):
            item.past[block] += n
        bias = repeated(address(net.weights, net.head_bias))
        left = left_view(rows_of(item, X, top, 0), net.panels[top])
        few_row_product(left, address(net.weights, net.head), n, net.Q, logits, bias)
        for r in range(n):
            for q in range(net.outputs):
                out[t + r, q] = logits.data[(q // w) * logits.panel + r * w + q % w]
