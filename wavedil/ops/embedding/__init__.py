"""Embedding: a row of a table for each code.

``y[i] = table[codes[i]]``, and backward adds each row of ``dy`` to the row of its code. Codes have no gradient. It is
the input layer of a model over discrete samples: a causal convolution over one-hot codes (arXiv:1609.03499, section
2.2) with kernel 1.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ShapeError
from wavedil.ops import contract


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    codes: np.ndarray  # any shape, integers
    classes: int  # rows of the table
    channels: int
    dtype: np.dtype  # of the table


class Grads(NamedTuple):
    """The gradient of the table."""

    table: np.ndarray | None


def forward(codes, table, *, out=None, workspace=None, backend=None, threads=None):
    """Look codes up in a table.

    ``y[..., :] = table[codes[...], :]``

    Parameters
    ----------
    codes : array of integers in [0, Q)
        Of any shape: (B, T) samples, or (B,) speakers.
    table : (Q, R) array of floats
    out : array of shape codes.shape + (R,), optional
        Where to write ``y``.
    workspace : Workspace, optional
        Owns ``y`` until its next forward.
    backend : {None, "cpu", "cuda", "reference"}
        None goes by the type of ``table``.
    threads : int, optional
        Changes no bit of the result.

    Returns
    -------
    y : array of shape codes.shape + (R,)
    saved : Saved

    Raises
    ------
    ShapeError
        If a code is out of range or there are none.
    DTypeError
        If the codes are not integers or the table is not of floats.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.ops import embedding
    >>> y, saved = embedding.forward(np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    >>> y
    array([[5., 6.],
           [1., 2.]])
    >>> embedding.backward(np.ones((2, 2)), saved).table
    array([[1., 1.],
           [0., 0.],
           [1., 1.]])
    """
    where = "embedding.forward"
    threads = contract.threads(where, threads)
    table = contract.floats(where, "table", table, ("Q", "R"))
    codes = contract.integers(where, "codes", codes, None)
    kernels = contract.backend(where, backend, table, codes=codes)
    if codes.ndim == 0 or codes.size == 0:
        raise ShapeError(f"{where}: codes must have at least one axis and one code, got {codes.shape}")
    contract.in_range(where, "codes", codes, table.shape[0])
    y = contract.output(where, "out", out, (*codes.shape, table.shape[1]), table.dtype, workspace, [("table", table)])
    kernels.forward(y, codes, table, workspace=workspace, threads=threads)
    return y, Saved(codes, *table.shape, table.dtype)


def backward(dy, saved, *, into=None, needs=None, workspace=None, backend=None, threads=None):
    """The gradient of a loss with respect to the table, given ``dy``, the one with respect to y.

    ``dtable[q] = sum of dy[i] over all i with codes[i] = q``

    Parameters
    ----------
    dy : array of shape codes.shape + (R,)
    saved : Saved
        Of any backend's forward.
    into : Grads, optional
        Arrays to add to (``+=``); without it the gradient is ``=`` in an array to fill.
    needs : sequence of {"table"}, optional
    workspace, backend, threads
        As in `forward`.

    Returns
    -------
    Grads
        ``into`` itself, if given.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If ``dy``, ``into`` or ``needs`` does not fit.
    """
    where = "embedding.backward"
    threads = contract.threads(where, threads)
    dy = contract.floats(where, "dy", dy, (*saved.codes.shape, saved.channels), saved.dtype, like="table")
    kernels = contract.backend(where, backend, dy, **{"saved.codes": saved.codes})
    shapes = {"table": (saved.classes, saved.channels)}
    grads = contract.Gradients(where, Grads, shapes, (), saved.dtype, into, needs, workspace, dy)
    kernels.backward(grads.targets, dy, saved, workspace=workspace, threads=threads)
    return grads.finish()
