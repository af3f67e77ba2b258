"""Engines: what all work on a device goes through, and what to say where there is no device.

An engine is numba-cuda's driver, its simulator (``NUMBA_ENABLE_CUDASIM=1``), or one that a test puts in with
`use_engine`. Nothing here waits for a device but `Engine.download` and the function that `Engine.mark` returns.
"""

import contextlib
import functools
import itertools
import math

import numpy as np

from wavedil.errors import ConfigError, OutOfMemoryError, ShapeError
from wavedil.kernels.cuda.array import Array
from wavedil.kernels.cuda.launch import SIMULATED


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


# ---- which engine ----------------------------------------------------------------------------------------------------
_used = []


@contextlib.contextmanager
def use_engine(other):
    """Put in another engine for a while, for tests."""
    _used.append(other)
    try:
        yield other
    finally:
        _used.pop()


@functools.cache
def _driver(index):
    return Driver(index)


def engine_for(device=0):
    """The engine of a device: a number, or a name such as ``"cuda:1"``.

    Raises
    ------
    ConfigError
        If there is no such device; the message has the driver's reason, and what to install.
    """
    index = device if isinstance(device, int) else parse_device(device)
    if _used:
        return _used[-1]
    reason = unavailable(index)
    if reason:
        raise ConfigError(f"device 'cuda:{index}': {reason}")
    return _driver(index)


def parse_device(name):
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


# ---- arrays of an engine ---------------------------------------------------------------------------------------------
def device_array(value):
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
        copy = engine_for().empty(value.shape, value.dtype)
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
    chosen = engine_for(index)
    flat, aligned = chosen.adopt(value, math.prod(shape), dtype), (about["data"][0] or 0) % 16 == 0
    return Array(flat, shape, dtype, chosen, value, aligned)


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
