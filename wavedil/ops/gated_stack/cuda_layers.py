"""The layers of a network on CUDA, forward and backward, each of a few tiled products.

What a block hands to its projections is given as factors: tanh and sigmoid, whose product is z, or z itself.
"""

import functools

import numpy as np
from numba import cuda, int64, uint64

from wavedil.kernels.cuda import elementwise, products
from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals
from wavedil.ops import activation
from wavedil.ops.activation import cuda as activation_cuda
from wavedil.ops.gated_block.cuda import gates_back, input_gradient
from wavedil.ops.gated_stack.network import GATED

LEFT = {1: "plain", 2: "product"}  # of a product, by how many factors there are


# ---- forward ---------------------------------------------------------------------------------------------------------
def project(params, layer, y, x):
    """y = x W + b"""
    products.rows(y, x, params[f"{layer.name}.weight"], bias=params.get(f"{layer.name}.bias"))


def filter_rows(params, layer, y, x, shift):
    """y = the convolution of the rows of x, whose first tap is ``shift`` rows away"""
    products.rows(
        y, x, params[f"{layer.name}.weight"], bias=params.get(f"{layer.name}.bias"), taps=layer.taps, shift=shift,
        dilation=layer.dilation,
    )  # fmt: skip


def factors(make, layer, parts):
    """z as factors, of what the block's convolution left."""
    kind = layer.stack.activation
    if kind in (GATED, "identity"):
        return parts
    (pre,) = parts
    z = make(("z", layer.gate), pre.shape, pre.dtype)
    activation_cuda.forward(z, pre, None, kind, layer.stack.alpha, workspace=None, threads=None)
    return (z,)


def pass_on(params, layer, y, x, z):
    """y = x + residual(z)"""
    _mix(params, f"{layer.name}.residual", y, x, z)


def add_skip(params, layer, skip, z):
    """skip += skip(z) or z itself; of the first block skip ="""
    if layer.projects_skip:
        _mix(params, f"{layer.name}.skip", skip, None if layer.first else skip, z)
        return
    if layer.first:
        skip.fill(0)
    if len(z) == 1:
        elementwise.add(skip, *z)
    else:
        kernel = _add_product(skip.dtype, z[0].dtype, threads_or(256))
        kernel(blocks_for(kernel, skip.size), skip, *z, skip.size)


def _mix(params, name, y, before, z):
    """y = z W + b, and what was there before"""
    a2 = z[1] if len(z) == 2 else None
    end = "store" if before is None else "add"
    products.rows(
        y, z[0], params[f"{name}.weight"], a2=a2, bias=params[f"{name}.bias"], other=before, left=LEFT[len(z)], end=end
    )  # fmt: skip


# ---- backward --------------------------------------------------------------------------------------------------------
def project_back(make, params, into, layer, x, dh, pulls):
    """The gradient of x, if it is wanted; those of the parameters +=."""
    weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
    products.columns(make, into.get(weight), into.get(bias), x, dh)
    if not pulls:
        return None
    dx = make(("dh", layer.name), (*dh.shape[:2], layer.inputs), dh.dtype)
    products.rows(dx, dh, params[weight], transposed=True)
    return dx


def filter_back(make, params, into, layer, x, dskip, pulls):
    """The gradient of x, if it is wanted; those of the parameters +=."""
    weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
    settings = {"taps": layer.taps, "shift": -layer.past, "dilation": layer.dilation}
    products.columns(make, into.get(weight), into.get(bias), x, dskip, **settings)
    if not pulls:
        return None
    dx = make(("dskip", layer.name), (*dskip.shape[:2], layer.inputs), dskip.dtype)
    input_gradient(dx, dskip, None, params[weight], layer.dilation)
    return dx


def block_back(told, into, layer, x, parts, dh, dskip, dcondition, pulls):
    """The gradient of x, in place of dh, if it is wanted; dcondition and those of the parameters +=.

    The last block's dh is None, as what it passes on reaches nothing.
    """
    make, params = told.make, told.params
    dpre, z = _dpre(make, params, layer, parts, dh, dskip)
    told.gradients(layer, into, x, dpre, dcondition)
    for name, gradient in (("skip", dskip if layer.projects_skip else None), ("residual", dh)):
        if gradient is not None:
            weight, bias = (into.get(f"{layer.name}.{name}.{part}") for part in ("weight", "bias"))
            a2 = z[1] if len(z) == 2 else None
            products.columns(make, weight, bias, z[0], gradient, a2=a2, left=LEFT[len(z)])
    if not pulls:
        return dh
    dx = make(("dh", "last"), (*dskip.shape[:2], layer.inputs), dskip.dtype) if dh is None else dh
    input_gradient(dx, dpre, dh, params[f"{layer.name}.conv.weight"], layer.dilation)
    return dx


def _dpre(make, params, layer, parts, dh, dskip):
    """The gradient of what the convolution leaves, and z as factors."""
    kind, shape = layer.stack.activation, dskip.shape[:2]
    residual, skip = (params.get(f"{layer.name}.{name}.weight") for name in ("residual", "skip"))
    dpre = make(("dpre", layer.wide), (*shape, layer.wide), dskip.dtype)
    if kind == GATED and layer.projects_skip:
        gates_back(dpre, dh, dskip, *parts, residual, skip)
        return dpre, parts
    z = factors(make, layer, parts)
    if kind == "identity":
        return _dz(dpre, layer, dh, dskip, residual, skip), z
    dz = _dz(make(("dz", layer.gate), (*shape, layer.gate), dskip.dtype), layer, dh, dskip, residual, skip)
    if kind == GATED:
        kernel = _gate_slopes(dz.dtype, parts[0].dtype, threads_or(256))
        kernel(blocks_for(kernel, dz.size), dpre, dz, *parts, dz.size, layer.gate)
    else:
        saved = activation.Saved(*parts, None, kind, layer.stack.alpha)
        activation_cuda.backward(activation.Grads(dpre, None), dz, saved, workspace=None, threads=None)
    return dpre, z


def _dz(out, layer, dh, dskip, residual, skip):
    """The gradient of z: ``out``, or dskip itself where nothing else reaches z."""
    if dh is None and not layer.projects_skip:
        return dskip
    if dh is None:
        products.rows(out, dskip, skip, transposed=True)
    elif layer.projects_skip:
        products.rows(out, dh, residual, more=dskip, w_more=skip, transposed=True)
    else:
        products.rows(out, dh, residual, other=dskip, end="add", transposed=True)
    return out


# ---- kernels ---------------------------------------------------------------------------------------------------------
def _suffix(dtype, kept):
    return f"{'' if kept == dtype else '.a16'}.{dtype}"


@functools.cache
def _add_product(dtype, kept, threads):
    (real, array), (_, factor) = reals(dtype), reals(kept)

    def kernel(y, a, b, count):
        """y += a b; a thread has one element at a time."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            y[uint64(i)] += real(a[uint64(i)]) * real(b[uint64(i)])

    return Kernel(f"add_product{_suffix(dtype, kept)}", kernel, (array, factor, factor, int64), threads)


@functools.cache
def _gate_slopes(dtype, kept, threads):
    (real, array), (_, factor) = reals(dtype), reals(kept)
    one = real(1)

    def kernel(dpre, dz, tanh, sigmoid, count, columns):
        """dpre (B, T, 2 D) =: through the gate; a thread has both halves of a pair."""
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = uint64(i // columns * columns + i)
            v, t, s = dz[uint64(i)], real(tanh[uint64(i)]), real(sigmoid[uint64(i)])
            dpre[at] = v * s * (one - t * t)
            dpre[uint64(at + columns)] = v * t * s * (one - s)

    return Kernel(f"gate_slopes{_suffix(dtype, kept)}", kernel, (array, array, factor, factor, int64, int64), threads)


def kernels(dtype):
    """All kernels of this module itself."""
    dtype = np.dtype(dtype)
    kept = [dtype, np.dtype("float16")] if dtype == np.float32 else [dtype]
    return tuple(make(dtype, k, threads_or(256)) for make in (_add_product, _gate_slopes) for k in kept)
