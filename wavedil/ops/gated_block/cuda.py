"""CUDA: a block as a few tiled products, whose ends do the gate forward and backward.

=============  =======================================================================
tanh, sigmoid  rows that each tap sees, times conv_weight; a thread has both of a pair
h, skip        (tanh sigmoid) residual_weight + x, (tanh sigmoid) skip_weight
dpre           dh residual_weight^T + dskip skip_weight^T, through the gate
dx             rows of dpre that saw it, times conv_weight^T, + dh
weights        columns of the rows times columns of their gradients, slab by slab
=============  =======================================================================
"""

import numpy as np

from wavedil.kernels.cuda import products
from wavedil.kernels.cuda.engine import scratch
from wavedil.kernels.cuda.rows import remember, row_kernels, unroll
from wavedil.kernels.cuda.sums import add_slabs, sum_slabs


def forward(
    y,
    tanh,
    sigmoid,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
    *,
    workspace,
    threads,
):
    """y.h =, y.skip =, tanh =, sigmoid ="""
    make, past = scratch(workspace, x.engine), (conv_weight.shape[0] - 1) * dilation
    gates(make, tanh, sigmoid, x, conv_weight, conv_bias, condition, condition_weight, -past, dilation)
    project_gated(y.h, x, tanh, sigmoid, residual_weight, residual_bias)
    project_gated(y.skip, None, tanh, sigmoid, skip_weight, skip_bias)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.condition =, all others +="""
    x, make = saved.x, scratch(workspace, saved.x.engine)
    dpre = make("dpre", (*x.shape[:2], saved.conv_weight.shape[2]), x.dtype)
    gates_back(dpre, dy.h, dy.skip, saved.tanh, saved.sigmoid, saved.residual_weight, saved.skip_weight)
    dilation, past = saved.dilation, (saved.conv_weight.shape[0] - 1) * saved.dilation
    if grads.x is not None:
        input_gradient(grads.x, dpre, dy.h, saved.conv_weight, dilation)
    conv_gradients(make, grads, x, dpre, -past, dilation, saved)
    pairs = (
        (grads.residual_weight, grads.residual_bias, dy.h), (grads.skip_weight, grads.skip_bias, dy.skip)
    )  # fmt: skip
    for dw, db, g in pairs:
        if g is not None:
            products.columns(make, dw, db, saved.tanh, g, a2=saved.sigmoid, left="product")


def step(
    y,
    state,
    x,
    conv_weight,
    conv_bias,
    residual_weight,
    residual_bias,
    skip_weight,
    skip_bias,
    condition,
    condition_weight,
    dilation,
    *,
    workspace,
):
    """y.h =, y.skip =, and the state moves on."""
    history, position = state
    (batch, span, channels), n = history.shape, x.shape[1]
    make = scratch(workspace, x.engine)
    rows = make("rows", (batch, span + n, channels), x.dtype)
    tanh, sigmoid = (make(name, (batch, n, conv_weight.shape[2] // 2), x.dtype) for name in ("tanh", "sigmoid"))
    unroll(rows, history, x, int(position[0]))
    gates(make, tanh, sigmoid, rows, conv_weight, conv_bias, condition, condition_weight, 0, dilation)
    project_gated(y.h, x, tanh, sigmoid, residual_weight, residual_bias)
    project_gated(y.skip, None, tanh, sigmoid, skip_weight, skip_bias)
    remember(history, x, int(position[0]))
    if span:
        position[0] = (position[0] + n) % span


# ---- the products of a block, which gated_stack uses too -------------------------------------------------------------
def gates(make, tanh, sigmoid, x, conv_weight, conv_bias, condition, condition_weight, shift, dilation):
    """tanh =, sigmoid =: of the convolution of the rows of x, the first tap of which is ``shift`` rows away."""
    convolve(
        make, tanh, x, conv_weight, conv_bias, condition, condition_weight, shift, dilation, end="gate", y2=sigmoid
    )  # fmt: skip


def convolve(make, y, x, conv_weight, conv_bias, condition, condition_weight, shift, dilation, **ending):
    """y = the convolution of the rows of x and what the condition adds; ``ending`` is for `products.rows`."""
    settings = {"taps": conv_weight.shape[0], "shift": shift, "dilation": dilation} | ending
    if condition is not None and condition.ndim == 2:
        bias = make("item biases", (len(condition), conv_weight.shape[2]), conv_weight.dtype)
        project(bias, condition, condition_weight, conv_bias)
        products.rows(y, x, conv_weight, bias=bias, bias_step=bias.shape[1], **settings)
    else:
        products.rows(y, x, conv_weight, bias=conv_bias, more=condition, w_more=condition_weight, **settings)


def project(out, condition, weight, bias):
    """out (B, 2D) = bias + a global condition's part"""
    products.rows(out.reshape(1, *out.shape), condition.reshape(1, *condition.shape), weight, bias=bias)


def project_gated(y, x, tanh, sigmoid, weight, bias):
    """y = x + (tanh sigmoid) weight + bias; without the first term if x is None."""
    end = "store" if x is None else "add"
    products.rows(y, tanh, weight, a2=sigmoid, bias=bias, other=x, left="product", end=end)


def gates_back(dpre, dh, dskip, tanh, sigmoid, residual_weight, skip_weight):
    """dpre =; dh or dskip may be None."""
    (first, w), *more = [(g, w) for g, w in ((dh, residual_weight), (dskip, skip_weight)) if g is not None]
    second, w_more = more[0] if more else (None, None)
    products.rows(
        dpre, first, w, more=second, w_more=w_more, other=tanh, other2=sigmoid, end="gate_back", transposed=True
    )  # fmt: skip


def input_gradient(dx, dpre, dh, conv_weight, dilation):
    """dx = dh + what comes back through the convolution; dh may be dx itself, or None."""
    taps = conv_weight.shape[0]
    products.rows(
        dx, dpre, conv_weight, taps=taps, shift=(taps - 1) * dilation, dilation=-dilation, transposed=True,
        other=dh, end="store" if dh is None else "add",
    )  # fmt: skip


def conv_gradients(make, grads, x, dpre, shift, dilation, saved, condition_bias=None):
    """grads.conv_weight +=, grads.conv_bias +=, and those of the condition."""
    condition, taps = saved.condition, saved.conv_weight.shape[0]
    settings = {"taps": taps, "shift": shift, "dilation": dilation}
    if condition is None or condition.ndim == 3:
        products.columns(make, grads.conv_weight, grads.conv_bias, x, dpre, **settings)
        rows, d_rows = condition, dpre
    else:
        batch, count = x.shape[0], dpre.shape[2]
        sums = make("item sums", (batch, count), dpre.dtype)
        sums.fill(0)
        products.columns(make, grads.conv_weight, sums, x, dpre, groups=batch, **settings)
        if grads.conv_bias is not None:
            add_slabs(None, grads.conv_bias, sums, count, count, batch)
        rows, d_rows = condition.reshape(1, *condition.shape), sums.reshape(1, batch, count)
    if condition is not None:
        condition_gradients(make, grads, rows, d_rows, saved.condition_weight, condition_bias)


def condition_gradients(make, grads, rows, d_rows, weight, d_bias=None):
    """grads.condition =, grads.condition_weight +=, d_bias +=: of ``d_rows = rows weight + bias``."""
    if grads.condition is not None:
        products.rows(grads.condition.reshape(*d_rows.shape[:2], -1), d_rows, weight, transposed=True)
    products.columns(make, grads.condition_weight, d_bias, rows, d_rows)


def kernels(dtype):
    """All kernels that this family launches."""
    dtype, row = np.dtype(dtype), products.row_product
    return (
        row(dtype), row(dtype, transposed=True), row(dtype, end="add", transposed=True),
        row(dtype, end="gate"), row(dtype, end="gate", second=True),
        row(dtype, left="product"), row(dtype, left="product", end="add"),
        row(dtype, end="gate_back", transposed=True), row(dtype, end="gate_back", transposed=True, second=True),
        products.column_product(dtype), products.column_product(dtype, "product"),
        sum_slabs(dtype), *row_kernels(dtype),
    )  # fmt: skip
