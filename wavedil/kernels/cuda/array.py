"""Arrays on a device."""

import math

import numpy as np

from wavedil.errors import ShapeError
from wavedil.kernels.cuda import elementwise


class Array:
    """A contiguous array on a device.

    ``__cuda_array_interface__`` hands it to CuPy (``cupy.asarray``) and PyTorch (``torch.as_tensor``) without a copy,
    and theirs are accepted by every op.

    Attributes
    ----------
    flat
        What kernels are given: all elements in one dimension.
    shape, dtype
        As NumPy's.
    engine : Engine
        The device.
    aligned : bool
        Whether it begins on 16 bytes, as all fresh arrays do.
    """

    __slots__ = ("_owner", "aligned", "dtype", "engine", "flat", "shape")

    def __init__(self, flat, shape, dtype, engine, owner=None, aligned=True):
        self.flat, self.shape, self.dtype = flat, tuple(int(n) for n in shape), np.dtype(dtype)
        self.engine, self._owner, self.aligned = engine, owner, aligned

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def itemsize(self):
        return self.dtype.itemsize

    @property
    def nbytes(self):
        return self.size * self.itemsize

    @property
    def device(self):
        """Such as ``"cuda:0"``."""
        return self.engine.name

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.engine.pointer(self.flat), False),
            "strides": None, "version": 3,
        }  # fmt: skip

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"Array({self.shape}, {self.dtype}, {self.device!r})"

    def __array__(self, dtype=None, copy=None):
        raise TypeError(f"an array on {self.device} must be copied with to_host() before NumPy can use it")

    def reshape(self, *shape):
        """The same memory in another shape, one of whose sizes may be -1."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.size // known if n == -1 else n for n in shape)
        if math.prod(shape) != self.size:
            raise ShapeError(f"reshape: shape must have {self.size} elements, got {shape}")
        return Array(self.flat, shape, self.dtype, self.engine, self, self.aligned)

    def part(self, begin, end):
        """The elements from begin to end, in one dimension; the same memory."""
        aligned = self.aligned and begin * self.itemsize % 16 == 0
        return Array(self.flat[begin:end], (end - begin,), self.dtype, self.engine, self, aligned)

    def __getitem__(self, index):
        """A row, or some rows in succession; the same memory."""
        rows, inner = self.shape[0], self.size // max(1, self.shape[0])
        if isinstance(index, slice):
            begin, end, step = index.indices(rows)
            if step != 1 or end < begin:
                raise ShapeError(f"an array on a device must be cut into rows in succession, got {index}")
            return self.part(begin * inner, end * inner).reshape(end - begin, *self.shape[1:])
        index = range(rows)[index]
        return self.part(index * inner, (index + 1) * inner).reshape(*self.shape[1:])

    def to_host(self):
        """A copy as a NumPy array; waits for all work on the device that comes before."""
        return self.engine.download(self.flat)[: self.size].reshape(self.shape)

    def copy(self):
        """A copy on the same device."""
        other = self.engine.empty(self.shape, self.dtype)
        other.set(self)
        return other

    def set(self, values):
        """Overwrite it with an array of the same shape and dtype, of the host or of the same device."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ShapeError(f"set: values must be {self.shape} of {self.dtype}, got {values.shape} of {values.dtype}")
        if isinstance(values, Array):
            self.engine.copy(self.flat, values.flat)
        else:
            self.engine.upload(self.flat, np.ascontiguousarray(values).reshape(-1))

    def fill(self, value):
        """Overwrite it with one number."""
        if value == 0:
            self.engine.zero(self.flat)
        else:
            self.set(np.full(self.shape, value, self.dtype))

    def __setitem__(self, index, values):
        """Overwrite it, or rows in succession, with a number or an array: ``[...]``, ``[:]``, ``[i]``, ``[i:j]``."""
        target = self if index is Ellipsis else self[index]
        if isinstance(values, Array):
            target.set(values)
        elif np.ndim(values) == 0:
            target.fill(values)
        else:
            target.set(np.broadcast_to(np.asarray(values, self.dtype), target.shape))

    def __iadd__(self, other):
        elementwise.add(self, other)
        return self

    def __imul__(self, factor):
        elementwise.scale(self, factor)
        return self


def int64_codes(codes):
    """Codes as int64, which is what kernels take; those of another type go by way of the host."""
    return codes if codes.dtype == np.int64 else codes.engine.array(codes.to_host().astype(np.int64))
