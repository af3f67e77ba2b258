"""The one layout of every matrix inside a kernel: panels.

A matrix ``M`` of ``n`` rows and ``N`` columns is cut into panels of ``W`` columns, each stored row after row::

    P[p, r, w] = M[r, p * W + w]        shape (N / W, n, W), columns beyond N are zero

with ``W`` two vector registers wide (16 columns of float32 on AVX2). Activations (rows are time steps) and
weights (rows are inputs) share it. What it buys: a tile of a product stores its results to consecutive
addresses; the right operand of a product is read in the order in which it lies; a dilated tap is the same
panel some rows earlier; channel counts that are no multiple of ``W`` cost zeros, not special cases; and power of
two strides, which fight over the same cache sets, do not arise.

A ``View`` says where a matrix begins and how to step: ``data[r * row + p * panel + w]``. An ordinary
row-major array is a view too: its panels lie side by side (``panel = W``). A step of zero repeats a row.
"""

from collections import namedtuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wavedil.kernels.cpu import host
from wavedil.kernels.cpu.emit import I64, fields
from wavedil.kernels.cpu.jit import inner, jit

View = namedtuple("View", "data row panel")


def panels_of(columns: int, dtype) -> int:
    """Number of panels that hold so many columns."""
    return -(-columns // host.width(dtype))


def whole_tiles(rows: int) -> int:
    """The rows, rounded up to whole register tiles."""
    return -(-rows // host.tile_rows()) * host.tile_rows()


@intrinsic
def address(typing, array, offset):
    """Pointer to an element of a one-dimensional contiguous array, counted in elements.

    It holds no reference: the array must outlive it, so take it of arguments only.
    """

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.int64), codegen


@intrinsic
def beyond(typing, pointer, offset):
    """The pointer, so many elements further."""
    return pointer(pointer, types.int64), lambda context, builder, signature, args: builder.gep(args[0], [args[1]])


@intrinsic
def width_of(typing, pointer):
    """Columns of a panel of this float type: a constant."""

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, host.width(f"f{pointer.dtype.bitwidth // 8}"))

    return types.int64(pointer), codegen


@intrinsic
def type_of(typing, pointer, value):
    """The value in the pointer's float type."""

    def codegen(context, builder, signature, args):
        return context.cast(builder, args[1], value, pointer.dtype)

    return pointer.dtype(pointer, value), codegen


@intrinsic
def zero_memory(typing, pointer, count):
    """Set so many elements to zero."""

    def codegen(context, builder, signature, args):
        size = ir.Constant(I64, pointer.dtype.bitwidth // 8)
        cgutils.memset(builder, args[0], builder.mul(args[1], size), 0)
        return context.get_dummy_value()

    return types.void(pointer, types.int64), codegen


@intrinsic
def move_memory(typing, target, source, count):
    """Copy so many elements; the two places may overlap."""

    def codegen(context, builder, signature, args):
        size = ir.Constant(I64, target.dtype.bitwidth // 8)
        cgutils.raw_memmove(builder, args[0], args[1], args[2], size)
        return context.get_dummy_value()

    return types.void(target, source, types.int64), codegen


def view_type(pointer):
    """Numba's type of a View with such a pointer."""
    return types.NamedTuple([pointer, types.int64, types.int64], View)


@intrinsic
def panel_view(typing, array, at, rows):
    """View of a panel matrix with so many rows, which begins at an element of a one-dimensional array."""
    result = view_type(types.CPointer(array.dtype))

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        width = ir.Constant(I64, host.width(f"f{array.dtype.bitwidth // 8}"))
        return context.make_tuple(builder, result, [builder.gep(data, [args[1]]), width, builder.mul(args[2], width)])

    return result(array, types.int64, types.int64), codegen


@intrinsic
def strided_view(typing, pointer, row, panel):
    """View with these steps, in elements."""
    result = view_type(pointer)
    return result(pointer, types.int64, types.int64), lambda context, builder, signature, args: context.make_tuple(
        builder, result, args
    )


@intrinsic
def repeated(typing, pointer):
    """One row (a bias) as a view of any number of rows."""
    result = view_type(pointer)

    def codegen(context, builder, signature, args):
        width = ir.Constant(I64, host.width(f"f{pointer.dtype.bitwidth // 8}"))
        return context.make_tuple(builder, result, [args[0], ir.Constant(I64, 0), width])

    return result(pointer), codegen


def _moved(step):
    """Intrinsic (view, count): the view, begun ``count`` steps further; ``step`` is the field to go by."""

    @intrinsic
    def moved(typing, view, count):
        def codegen(context, builder, signature, args):
            values = fields(builder, args[0])
            values[0] = builder.gep(values[0], [builder.mul(args[1], values[step])])
            return context.make_tuple(builder, signature.return_type, values)

        return view(view, types.int64), codegen

    return moved


# The view (or left operand), begun so many rows lower (higher, if negative), or so many panels to the right.
down, right = _moved(1), _moved(2)


@inner
def zero_rows(view, rows, panels):
    """view[:rows] = 0"""
    w = width_of(view.data)
    for p in range(panels):
        for r in range(rows):
            zero_memory(beyond(view.data, p * view.panel + r * view.row), w)


# packing -------------------------------------------------------------------------------------------------
def panel_index(places: np.ndarray, rows: int, panels: int, dtype) -> np.ndarray:
    """Where each element of a panel matrix comes from, -1 for padding: for `gather`.

    Parameters
    ----------
    places : (n, N) array of int
        Flat position in the source of each element of the matrix; -1 for none.
    rows, panels : int
        Size of the panel matrix.
    dtype : dtype
        Of the elements: it sets the panels' width.

    Returns
    -------
    (panels * rows * W,) array of int64
    """
    width = host.width(dtype)
    padded = np.full((rows, panels * width), -1, np.int64)
    padded[: places.shape[0], : places.shape[1]] = places
    return np.ascontiguousarray(padded.reshape(rows, panels, width).transpose(1, 0, 2)).reshape(-1)


def inverse_index(index: np.ndarray, size: int) -> np.ndarray:
    """Where each of ``size`` source elements lies in the panel matrix that ``index`` fills."""
    where = np.empty(size, np.int64)
    where[index[index >= 0]] = np.flatnonzero(index >= 0)
    return where


@jit
def gather(source, index, target):
    """target[i] = source[index[i]]; padding (index -1) keeps its zero."""
    for i in range(len(index)):
        if index[i] >= 0:
            target[i] = source[index[i]]


@jit
def add_gathered(sources, begin, index, target):
    """target[i] += the sum over the rows of sources[:, begin + index[i]], in their order"""
    for i in range(len(index)):
        total = sources[0, begin + index[i]]
        for k in range(1, sources.shape[0]):
            total += sources[k, begin + index[i]]
        target[i] += total


@jit
def pack_rows(source, target):
    """Fill a panel matrix ``target (panels, rows, W)`` from ``source (n, N)``, n <= rows; the padding is kept."""
    width = target.shape[2]
    for r in range(source.shape[0]):
        for c in range(source.shape[1]):
            target[c // width, r, c % width] = source[r, c]


@jit
def unpack_rows(source, target):
    """Fill ``target (n, N)`` from a panel matrix ``source (panels, rows, W)``, n <= rows."""
    width = source.shape[2]
    for r in range(target.shape[0]):
        for c in range(target.shape[1]):
            target[r, c] = source[c // width, r, c % width]
