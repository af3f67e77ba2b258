"""Small steps between ops, for arrays in the host's memory or on a device: each overwrites or adds to an argument.

They have no checks, no saved state and no backends of their own: models and recipes call them on arrays that an op has
already checked.
"""

import numpy as np

from wavedil.ops import contract


def relu(x):
    """Overwrite x (``=``) with ``max(x, 0)``."""
    if contract.is_device_array(x):
        from wavedil.ops.activation import cuda

        cuda.forward(x, x, None, "relu", 0.0, workspace=None, threads=None)
    else:
        np.maximum(x, 0, out=x)


def relu_backward(dy, y):
    """Overwrite ``dy`` (``=``) with the gradient of a `relu`'s input, given its output y."""
    if contract.is_device_array(y):
        from wavedil.ops import activation
        from wavedil.ops.activation import cuda

        saved, grads = activation.Saved(y, None, "relu", 0.0), activation.Grads(dy, None)
        cuda.backward(grads, dy, saved, workspace=None, threads=None)
    else:
        np.multiply(dy, y > 0, out=dy)


def affine(out, x, center, scale):
    """Overwrite ``out (..., C)`` (``=``) with ``(x - center) scale``; ``center (C,)`` may be None."""
    if contract.is_device_array(x):
        from wavedil.ops.norm import cuda

        cuda.forward(out, center, scale, None, x, None, None, "batch", 0.0, True, workspace=None, threads=None)
        return
    centred = x if center is None else np.subtract(x, center, out=out)
    np.multiply(centred, scale, out=out)


def add_rows(table, codes, rows, workspace=None):
    """Add (``+=``) rows ``(B, C)``, or the sums over time of ``(B, T, C)``, to the rows ``codes (B,)`` of a table."""
    if contract.is_device_array(table):
        from wavedil.ops.embedding import cuda

        cuda.add_rows(table, codes, rows, workspace)
        return
    np.add.at(table, codes, rows if rows.ndim == 2 else rows.sum(axis=1))


def pull(values, towards, rate):
    """Move values (``-=``) by ``rate`` of the way to others."""
    if contract.is_device_array(values):
        from wavedil.kernels.cuda import elementwise

        elementwise.pull(values, towards, rate)
        return
    values -= values.dtype.type(rate) * (values - towards)


def add_low_rank(w, base, a, b, scale):
    """Overwrite ``w (N, C)`` (``=``) with ``base + scale a b``, for ``a (N, r)`` and ``b (r, C)``."""
    if contract.is_device_array(w):
        from wavedil.kernels.cuda import products

        scaled = b.copy()
        scaled *= scale
        w, base, a = (x.reshape(1, *x.shape) for x in (w, base, a))
        products.rows(w, a, scaled, other=base, end="add")
        return
    # einsum and not a BLAS: small products, and the same bits with any number of threads.
    product = np.einsum("ir,ro->io", a, b)
    product *= product.dtype.type(scale)
    np.add(base, product, out=w)


def low_rank_backward(da, db, dw, a, b, scale):
    """Add (``+=``) the gradients of a and b in ``w = base + scale a b``, given w's; either may be None: not needed."""
    if contract.is_device_array(dw):
        _low_rank_backward_on_device(da, db, dw, a, b, scale)
        return
    scale = dw.dtype.type(scale)
    if da is not None:
        da += scale * np.einsum("io,ro->ir", dw, b)
    if db is not None:
        db += scale * np.einsum("ir,io->ro", a, dw)


def _low_rank_backward_on_device(da, db, dw, a, b, scale):
    from wavedil.kernels.cuda import products
    from wavedil.kernels.cuda.engine import scratch

    dw, left, engine = dw.reshape(1, *dw.shape), a.reshape(1, *a.shape), a.engine
    if da is not None:
        fresh = engine.zeros(a.shape, a.dtype)
        products.rows(fresh.reshape(1, *a.shape), dw, b, transposed=True)
        fresh *= scale
        da += fresh
    if db is not None:
        fresh = engine.zeros(b.shape, b.dtype)
        products.columns(scratch(None, engine), fresh, None, left, dw)
        fresh *= scale
        db += fresh
