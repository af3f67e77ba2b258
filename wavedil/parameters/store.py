"""Parameters: named arrays that are views of one flat buffer, so that an optimizer sees a single vector."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from wavedil.errors import CheckpointError, ConfigError, DTypeError, ShapeError
from wavedil.ops import devices
from wavedil.ops.contract import on_host
from wavedil.parameters import names as naming

ALIGNMENT = 64  # bytes: one cache line, and the widest vector register


@dataclass(frozen=True)
class LoadReport:
    """What `Parameters.load` did, by name.

    Attributes
    ----------
    loaded : tuple of str
        Copied.
    missing : tuple of str
        Wanted, but not among the given arrays; left as they were.
    unexpected : tuple of str
        Given, but not known here.
    mismatched : tuple of (str, tuple of int, tuple of int)
        Name, own shape, given shape; left as they were.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self):
        shapes = [f"{name} ({mine} here, {theirs} there)" for name, mine, theirs in self.mismatched]
        return (
            f"{len(self.loaded)} loaded; missing: {_few(self.missing)}; unexpected: {_few(self.unexpected)}; "
            f"of another shape: {_few(shapes)}"
        )


class Parameters(Mapping):
    """A mapping from names to arrays that all lie in one flat buffer.

    Every array starts on a 64-byte boundary. The padding between arrays is zero and must stay zero: norms and
    updates run over the whole of `flat`, and zeros add nothing to them.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Name and shape of each array, in the order in which they lie in the buffer. All start as zeros.
    dtype : {"float32", "float64"}
        One dtype for all of them.
    device : {"cpu", "cuda:N"}
        Where they lie; on a GPU they are `wavedil.kernels.cuda.array.Array` in place of NumPy's.

    Attributes
    ----------
    flat : 1-D array
        The buffer itself.
    shapes : dict of str to tuple of int
    offsets : dict of str to int
        First element of each array in `flat`.
    dtype : numpy.dtype
    device : str
    count : int
        Number of real elements, padding not counted.

    Examples
    --------
    >>> p = Parameters({"weight": (2, 3), "bias": (3,)})
    >>> p["bias"][...] = 1
    >>> float(p.flat.sum()), p.count
    (3.0, 9)
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype="float32", device: str = "cpu"):
        self.dtype, self.device = np.dtype(dtype), device
        if self.dtype not in (np.float32, np.float64):
            raise DTypeError(f"Parameters: dtype must be float32 or float64, got {self.dtype}")
        if not shapes:
            raise ConfigError("Parameters: shapes must name at least one array, got none")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.offsets: dict[str, int] = {}
        self.count = 0
        step = ALIGNMENT // self.dtype.itemsize
        end = 0
        for name, shape in shapes.items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"Parameters: names must be non-empty strings, got {name!r}")
            try:
                dims = tuple(int(n) for n in shape)
                good = all(n >= 1 and n == given for n, given in zip(dims, shape, strict=True))
            except (TypeError, ValueError):
                good = False
            if not good:
                raise ShapeError(f"Parameters: the shape of {name} must be positive integers, got {shape!r}")
            size = int(np.prod(dims, dtype=np.int64))
            self.shapes[name] = dims
            self.offsets[name] = end
            self.count += size
            end += -(-size // step) * step
        self.flat = devices.zeros(end, self.dtype, device)
        self._views = {}
        for name, dims in self.shapes.items():
            start = self.offsets[name]
            size = int(np.prod(dims, dtype=np.int64))
            self._views[name] = self.flat[start : start + size].reshape(dims)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __setitem__(self, name, value):
        # Without this, `p[name] += v` would end in a bare TypeError after it has already added v to the view.
        if self._views.get(name) is not value:
            raise TypeError(f"Parameters: an array is a fixed view, fill it with p[{name!r}][...] = values")

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Parameters({len(self)} arrays, {self.count} elements, {self.dtype})"

    def like(self) -> "Parameters":
        """Return zeros in the same layout, for gradients and moments."""
        return Parameters(self.shapes, self.dtype, self.device)

    def copy(self) -> "Parameters":
        """Return a copy that shares no memory with this one."""
        other = self.like()
        other.flat[:] = self.flat
        return other

    def checksum(self) -> int:
        """The CRC-32 of all values: which parameters a stream or a fine-tuned run began with."""
        return zlib.crc32(on_host(self.flat))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def load(
        self, arrays: Mapping[str, np.ndarray], *, only: str | Iterable[str] = "*", strict: bool = True
    ) -> LoadReport:
        """Copy values in by name.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        only : str or iterable of str
            Patterns of the names to load (see `wavedil.parameters.names`); the others are left alone, here and there.
        strict : bool
            True: names and shapes must all agree, else nothing is changed. False: what agrees is copied, and the
            report tells the rest.

        Returns
        -------
        LoadReport

        Raises
        ------
        CheckpointError
            Names are missing or unknown.
        ShapeError
            An array has another shape.
        DTypeError
            An array has another dtype, strict or not.
        ConfigError
            A pattern fits no name.
        """
        wanted = naming.select(only, self, "Parameters.load")
        fits = [naming.matcher(pattern) for pattern in naming.listed(only, "Parameters.load")]
        missing = [name for name in wanted if name not in arrays]
        unknown = [name for name in arrays if name not in self._views and any(fit(name) for fit in fits)]
        if strict and (missing or unknown):
            raise CheckpointError(
                f"Parameters.load: expected {len(wanted)} names, missing: {_few(missing)}; unknown: {_few(unknown)}"
            )
        loaded, mismatched = [], []
        for name in wanted:
            if name not in arrays:
                continue
            value, shape = np.asarray(on_host(arrays[name])), self.shapes[name]
            if value.shape != shape:
                if strict:
                    raise ShapeError(f"Parameters.load: {name} must be {shape}, got {value.shape}")
                mismatched.append((name, shape, value.shape))
                continue
            if value.dtype != self.dtype:
                raise DTypeError(f"Parameters.load: {name} must be {self.dtype}, got {value.dtype}")
            loaded.append(name)
        for name in loaded:
            self[name][...] = on_host(arrays[name])
        return LoadReport(tuple(loaded), tuple(missing), tuple(unknown), tuple(mismatched))

    def element_mask(self) -> np.ndarray:
        """Return a boolean array over `flat`: True where an element is real, False in the padding."""
        mask = np.zeros(self.flat.size, dtype=bool)
        for name, view in self.items():
            start = self.offsets[name]
            mask[start : start + view.size] = True
        return mask


def _few(names: Iterable[str]) -> str:
    """Name the first few of many."""
    names = list(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) + more) or "none"
