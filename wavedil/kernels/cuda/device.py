"""CUDA devices: arrays on them, kernels and their launch, and what to say where there is none.

All device work goes through an *engine*: numba-cuda's driver, its simulator (``NUMBA_ENABLE_CUDASIM=1``), or one that a
test puts in with `use`. Nothing here waits for a device but `Array.to_host`.
"""

import contextlib
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from numba.core import config

from wavedil.errors import ConfigError, OutOfMemoryError, ShapeError

SIMULATED = bool(config.ENABLE_CUDASIM)


# ---- kernels ---------------------------------------------------------------------------------------------------------
class Tile(NamedTuple):
    """The piece of a matrix product that a block of threads computes at once.

    A block takes ``rows x columns`` of the result and reads ``depth`` of the inner dimension at a time into shared
    memory; each of its threads keeps ``down x across`` results in registers.
    """

    rows: int
    columns: int
    depth: int
    down: int
    across: int

    @property
    def threads(self):
        """Threads of a block."""
        return (self.rows // self.down) * (self.columns // self.across)

    def shared_bytes(self, itemsize):
        """Bytes of shared memory of a block: both factors, and 16 bytes a line against bank conflicts."""
        return self.depth * ((self.rows + self.columns) * itemsize + 32)

    def fitting(self, itemsize, limit):
        """The tile, with so much less depth that it fits into shared memory of ``limit`` bytes."""
        tile = self
        while tile.shared_bytes(itemsize) > limit:
            if tile.depth == 1:
                raise OutOfMemoryError(
                    f"a tile of {self.rows} x {self.columns} needs {tile.shared_bytes(itemsize):,} bytes of shared "
                    f"memory even with a depth of 1, the device has {limit:,} for a block"
                )
            tile = tile._replace(depth=tile.depth // 2)
        return tile

    def intensity(self, itemsize):
        """FLOPs per byte that a thread reads from shared memory."""
        return 2 * self.down * self.across / ((self.down + self.across) * itemsize)


class Kernel:
    """A CUDA kernel: a Python function, the types of its arguments, and how it is launched.

    All arrays are one-dimensional and contiguous; blocks and grids too. Every kernel strides over its work by the whole
    grid, so any grid and (but for tiles) any block are right.

    Attributes
    ----------
    name : str
    function : callable
    signature : tuple of Numba types
    threads : int
        Of a block.
    tile : Tile or None
    dynamic_shared : int
        Bytes of dynamic shared memory in a typical case.
    about : str
    """

    def __init__(self, name, function, signature, threads, tile=None, dynamic_shared=0):
        self.name, self.function, self.signature = name, function, tuple(signature)
        self.threads, self.tile, self.dynamic_shared = threads, tile, dynamic_shared
        self.about = (function.__doc__ or "").strip().split("\n")[0]
        self.compiled = {}
        casts = {"int64": int, "float32": np.float32, "float64": float}
        self._casts = [casts.get(str(kind)) for kind in self.signature]  # None: an array

    def __repr__(self):
        return f"Kernel({self.name})"

    def __call__(self, work, *args, shared=0):
        """Launch it.

        Parameters
        ----------
        work : int
            How many blocks it takes if each does one piece of work.
        args
            `Array` and numbers, in the order of the signature.
        shared : int
            Bytes of dynamic shared memory.
        """
        engine = next(a.engine for a in args if isinstance(a, Array))
        native = [a.flat if cast is None else cast(a) for a, cast in zip(args, self._casts, strict=True)]
        engine.launch(self, max(1, min(int(work), engine.most_blocks)), self.threads, native, shared)


class _Blocks(NamedTuple):
    """Sizes of blocks; None: those that were chosen for a device."""

    tile: Tile | None
    threads: int | None


# A simulated thread is a Python thread of 175 us, so blocks are tiny there: small cases already need many of them.
_blocks = _Blocks(Tile(8, 8, 4, 4, 4), 4) if SIMULATED else _Blocks(None, None)


@contextlib.contextmanager
def blocks(tile=None, threads=None):
    """Other sizes of blocks for a while, for tests."""
    global _blocks
    before, _blocks = _blocks, _Blocks(tile or _blocks.tile, threads or _blocks.threads)
    try:
        yield
    finally:
        _blocks = before


def tile_or(chosen):
    """The tile to use: the chosen one, unless a test wants another."""
    return _blocks.tile or chosen


def threads_or(chosen):
    """The threads of a block of a kernel without tiles."""
    return _blocks.threads or chosen


def lanes(threads):
    """Threads of a block that share a row, where a row has several: 32, or what a smaller block has."""
    return math.gcd(threads, 32)


# ---- arrays ----------------------------------------------------------------------------------------------------------
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
        from wavedil.kernels.cuda import rows as cuda_rows

        cuda_rows.add(self, other)
        return self

    def __imul__(self, factor):
        from wavedil.kernels.cuda import rows as cuda_rows

        cuda_rows.scale(self, factor)
        return self


def array(value):
    """An `Array`: of a host array a copy on the current device, of another library's device array the same memory.

    Raises
    ------
    ShapeError
        If a device array is not contiguous.
    """
    if isinstance(value, Array):
        return value
    if not hasattr(value, "__cuda_array_interface__"):
        value = np.ascontiguousarray(value)
        copy = engine().empty(value.shape, value.dtype)
        copy.set(value)
        return copy
    about = value.__cuda_array_interface__
    shape, dtype = tuple(about["shape"]), np.dtype(about["typestr"])
    steps = about.get("strides")
    dense = tuple(dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if steps is not None and any(s != d and n > 1 for s, d, n in zip(steps, dense, shape, strict=True)):
        raise ShapeError(f"must be contiguous, got strides {tuple(steps)} for {shape}")
    device = getattr(value, "device", 0)
    index = next((i for i in (getattr(device, name, None) for name in ("index", "id")) if isinstance(i, int)), 0)
    chosen = engine(index)
    flat, aligned = chosen.adopt(value, math.prod(shape), dtype), (about["data"][0] or 0) % 16 == 0
    return Array(flat, shape, dtype, chosen, value, aligned)


def whole(codes):
    """Codes as int64, which is what kernels take; those of another type go by way of the host."""
    return codes if codes.dtype == np.int64 else codes.engine.array(codes.to_host().astype(np.int64))


# ---- engines ---------------------------------------------------------------------------------------------------------
class Engine:
    """What all work on a device goes through. Kernels of one engine run one after the other."""

    name = "cuda:0"
    most_blocks = 2**31 - 1  # of a grid
    shared_memory = 48 * 1024  # bytes of a block, without asking the driver for more

    def empty(self, shape, dtype):
        """An `Array` of garbage."""
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        dtype = np.dtype(dtype)
        try:
            flat = self.allocate(max(1, math.prod(shape)), dtype)
        except MemoryError:
            free, total = self.memory()
            raise OutOfMemoryError(
                f"{self.name}: an array of {math.prod(shape) * dtype.itemsize:,} bytes does not fit: {free:,} of "
                f"{total:,} bytes are free"
            ) from None
        return Array(flat, shape, dtype, self)

    def zeros(self, shape, dtype):
        """An `Array` of zeros."""
        fresh = self.empty(shape, dtype)
        self.zero(fresh.flat)
        return fresh

    def array(self, value):
        """A host array's copy here."""
        value = np.ascontiguousarray(value)
        copy = self.empty(value.shape, value.dtype)
        copy.set(value)
        return copy

    # What an engine is made of; ``flat`` arrays are its own.
    def allocate(self, count, dtype):
        """So many elements; MemoryError if there is no room."""
        raise NotImplementedError

    def adopt(self, value, count, dtype):
        """The flat array of another library's device array."""
        raise NotImplementedError

    def pointer(self, flat):
        """The address."""
        raise NotImplementedError

    def zero(self, flat):
        raise NotImplementedError

    def upload(self, flat, host):
        raise NotImplementedError

    def download(self, flat):
        raise NotImplementedError

    def copy(self, target, source):
        raise NotImplementedError

    def staging(self, count, dtype):
        """A host array from which `upload` is fastest. It may only be written to once `mark`'s wait is over."""
        return np.empty(count, dtype)

    def mark(self):
        """A function that waits for all that was asked for so far."""
        return lambda: None

    def memory(self):
        """Bytes: free, total."""
        raise NotImplementedError

    def launch(self, kernel, grid, block, args, shared):
        """Run a kernel on flat arrays and numbers."""
        raise NotImplementedError


class HostEngine(Engine):
    """Arrays in the memory of the host: for an engine that has a `launch` of its own.

    Parameters
    ----------
    limit : int
        Bytes that can be allocated in all, to see what happens where memory is short.
    """

    def __init__(self, limit=2**62):
        self.limit, self.used = limit, 0

    def allocate(self, count, dtype):
        if self.used + count * dtype.itemsize > self.limit:
            raise MemoryError
        self.used += count * dtype.itemsize
        return np.empty(count, dtype)

    def adopt(self, value, count, dtype):
        return np.asarray(_Memory(value.__cuda_array_interface__)).reshape(-1)

    def pointer(self, flat):
        return flat.ctypes.data

    def zero(self, flat):
        flat[:] = 0

    def upload(self, flat, host):
        flat[: host.size] = host

    def download(self, flat):
        return flat.copy()

    def copy(self, target, source):
        target[:] = source

    def memory(self):
        return self.limit - self.used, self.limit


def stage(workspace, engine, name, values):
    """A host array's copy on the device, by way of the workspace's pinned memory.

    Two buffers take turns, so that the host can fill one while the device still reads the other. Uploads are not waited
    for, so a buffer's own upload must have ended before it is filled again.
    """
    if workspace is None:
        return engine.array(values)
    key = (engine.name, name, values.shape, values.dtype.str)
    slots = workspace.held(key)
    if slots is None:
        fresh = [
            [engine.staging(values.size, values.dtype), engine.empty(values.shape, values.dtype), lambda: None]
            for _ in range(2)
        ]  # fmt: skip
        slots = workspace.hold(key, itertools.cycle(fresh))
    slot = next(slots)
    pinned, copy, wait = slot
    wait()
    pinned[:] = values.reshape(-1)
    engine.upload(copy.flat, pinned)
    slot[2] = engine.mark()
    return copy


def scratch(workspace, engine):
    """What makes arrays to use meanwhile: ``make(name, shape, dtype)``, the workspace's own if there is one."""

    def make(name, shape, dtype):
        if workspace is None:
            return engine.empty(shape, dtype)
        return workspace.array((engine.name, name), shape, dtype, engine.zeros)

    return make


class _Memory:
    """The memory that a device array's interface points to, for NumPy."""

    def __init__(self, about):
        self.__array_interface__ = {"version": 3} | {k: about[k] for k in ("shape", "typestr", "data")}


class Driver(Engine):
    """A GPU by way of numba-cuda, or its simulator."""

    def __init__(self, index):
        from numba import cuda

        self.cuda, self.index, self.name = cuda, index, f"cuda:{index}"
        if not SIMULATED:
            with self._here():
                device = cuda.get_current_device()
                self.most_blocks = 32 * device.MULTIPROCESSOR_COUNT
                self.shared_memory = device.MAX_SHARED_MEMORY_PER_BLOCK
                self.stream = cuda.default_stream()
            # Small grids are right for small arrays; Numba would warn of each.
            from numba.cuda.dispatcher import config as launch_config

            launch_config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
        else:
            self.stream = 0

    def _here(self):
        return contextlib.nullcontext() if self.index == 0 else self.cuda.gpus[self.index]

    def allocate(self, count, dtype):
        with self._here():
            try:
                return self.cuda.device_array(count, dtype)
            except Exception as error:
                if "OUT_OF_MEMORY" in str(error):
                    raise MemoryError from error
                raise

    def adopt(self, value, count, dtype):
        if SIMULATED:
            from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

            return FakeCUDAArray(np.asarray(_Memory(value.__cuda_array_interface__)).reshape(-1))
        with self._here():
            return self.cuda.as_cuda_array(value).reshape(count)

    def pointer(self, flat):
        return flat._ary.ctypes.data if SIMULATED else flat.device_ctypes_pointer.value

    def zero(self, flat):
        if SIMULATED:
            flat[:] = 0
        else:
            from numba.cuda.cudadrv import driver

            with self._here():
                driver.device_memset(flat, 0, flat.nbytes, stream=self.stream)

    def upload(self, flat, host):
        with self._here():
            flat[: host.size].copy_to_device(host, stream=self.stream)

    def download(self, flat):
        with self._here():
            return flat.copy_to_host()

    def copy(self, target, source):
        with self._here():
            target.copy_to_device(source, stream=self.stream)

    def staging(self, count, dtype):
        with self._here():
            return self.cuda.pinned_array(count, dtype)

    def mark(self):
        if SIMULATED:
            return super().mark()
        with self._here():
            event = self.cuda.event(timing=False)
            event.record(self.stream)
            return event.synchronize

    def memory(self):
        if SIMULATED:
            return 2**62, 2**62
        with self._here():
            return tuple(self.cuda.current_context().get_memory_info())

    def launch(self, kernel, grid, block, args, shared):
        with self._here():
            compiled = kernel.compiled.get(self.index)
            if compiled is None:
                compiled = kernel.compiled[self.index] = self.cuda.jit(kernel.signature)(kernel.function)
            compiled[grid, block, self.stream, shared](*args)


_used = []


@contextlib.contextmanager
def use(other):
    """Put in another engine for a while, for tests."""
    _used.append(other)
    try:
        yield other
    finally:
        _used.pop()


@functools.cache
def _driver(index):
    return Driver(index)


def engine(device=0):
    """The engine of a device: a number, or a name such as ``"cuda:1"``.

    Raises
    ------
    ConfigError
        If there is no such device; the message has the driver's reason, and what to install.
    """
    index = device if isinstance(device, int) else parse(device)
    if _used:
        return _used[-1]
    reason = unavailable(index)
    if reason:
        raise ConfigError(f"device 'cuda:{index}': {reason}")
    return _driver(index)


def parse(name):
    """The number in a device's name: 0 for ``"cuda"``."""
    kind, colon, index = str(name).partition(":")
    if kind != "cuda" or (colon and not index.isdigit()):
        raise ConfigError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {name!r}")
    return int(index or 0)


def unavailable(index=0):
    """Why there is no such device and what to install, in one line; None if there is one."""
    if _used or (SIMULATED and index == 0):
        return None
    if SIMULATED:
        return "the simulator has one device"
    try:
        from numba import cuda
    except ImportError as error:
        return f"{error}; install wavedil[cuda]"
    if getattr(cuda, "implementation", "Built-in") == "Built-in":
        return "numba-cuda is not installed; pip install 'wavedil[cuda]', and a driver of NVIDIA"
    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "no GPU was found").split())
        return f"no CUDA device can be used: {reason}; install a driver of NVIDIA for your GPU and CUDA 13"
    count = len(list(cuda.gpus))
    return None if index < count else f"there are only {count} CUDA devices, counted from 0"
