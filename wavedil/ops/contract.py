"""What the doors of all op families share: checks with three facts, the choice of a backend, where outputs come from.

Every check is called once, at the op's door, with ``where`` (such as ``"conv1d.forward"``), the argument's name, what
is expected and what came: ``ShapeError: conv1d.forward: x must be (B, T, 16), got (4, 100, 8)``.
"""

import functools
import importlib
import importlib.util
import operator
from dataclasses import dataclass, field

import numpy as np

from wavedil.errors import ConfigError, DTypeError, ShapeError

BACKENDS = ("reference", "cpu", "cuda")


# ---- backends --------------------------------------------------------------------------------------------------------
@functools.cache
def backends(family):
    """Names of the backends that a family has a module for."""
    return tuple(b for b in BACKENDS if importlib.util.find_spec(f"wavedil.ops.{family}.{b}"))


@functools.cache
def _module(family, name):
    return importlib.import_module(f"wavedil.ops.{family}.{name}")


def backend(where, name, like):
    """The backend's module: the one named, or by the type of the array ``like`` (NumPy: cpu, device array: cuda)."""
    family = where.split(".")[0]
    if name is None:
        name = "cuda" if is_device_array(like) else "cpu"
    if name not in backends(family):
        known = ", ".join(map(repr, backends(family)))
        raise ConfigError(f"{where}: backend must be one of {known} (what {family} has so far), got {name!r}")
    if name != "cuda" and is_device_array(like):
        raise ConfigError(f"{where}: backend {name!r} needs NumPy arrays, got a device array")
    if name == "cpu" and like.dtype not in (np.float32, np.float64):
        raise DTypeError(f"{where}: backend 'cpu' computes in float32 or float64, got {like.dtype}")
    return _module(family, name)


def is_device_array(value):
    return hasattr(value, "__cuda_array_interface__")


# ---- checks ----------------------------------------------------------------------------------------------------------
def spell(shape):
    """``("B", "T", 16)`` as ``(B, T, 16)``."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def fits(shape, expected):
    """Whether a shape is the expected one, in which a name stands for any size from 1 up."""
    return len(shape) == len(expected) and all(
        n >= 1 if isinstance(e, str) else n == e for n, e in zip(shape, expected, strict=True)
    )


def floats(where, name, value, shape, dtype=None, *, like="x"):
    """The array, C-contiguous, after checking that it is of floats (of ``dtype`` if given) and of this shape."""
    return _array(where, name, value, shape, dtype, like, "f", "an array of floats")


def integers(where, name, value, shape):
    """The array, C-contiguous, after checking that it is of integers and of this shape (None: any)."""
    return _array(where, name, value, shape, None, "", "iu", "an array of integers")


def _array(where, name, value, shape, dtype, like, kinds, wanted):
    if is_device_array(value):
        return value
    if not isinstance(value, np.ndarray):
        raise DTypeError(f"{where}: {name} must be {wanted}, got {type(value).__name__}")
    if value.dtype.kind not in kinds or not value.dtype.isnative:
        raise DTypeError(f"{where}: {name} must be {wanted}, got {value.dtype}")
    if shape is not None and not fits(value.shape, shape):
        raise ShapeError(f"{where}: {name} must be {spell(shape)}, got {value.shape}")
    if dtype is not None and value.dtype != dtype:
        raise DTypeError(f"{where}: {name} must be {np.dtype(dtype)} as {like} is, got {value.dtype}")
    return np.require(value, requirements="CA")


def in_range(where, name, codes, classes):
    """Check that codes lie in [0, classes)."""
    low, high = codes.min(), codes.max()
    if low < 0 or high >= classes:
        raise ShapeError(f"{where}: {name} must lie in [0, {classes}), got {low if low < 0 else high}")


def whole(where, name, value, least=1):
    """An integer setting of at least ``least``."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{where}: {name} must be an integer, got {value!r}") from None
    if number < least:
        raise ConfigError(f"{where}: {name} must be at least {least}, got {number}")
    return number


def threads(where, value):
    """A number of threads; None leaves it to the backend."""
    return None if value is None else whole(where, "threads", value)


# ---- outputs ---------------------------------------------------------------------------------------------------------
def empty(workspace, key, shape, dtype):
    """An array to fill: fresh, or the workspace's own for this key (its old content is garbage)."""
    return np.empty(shape, dtype) if workspace is None else workspace.array(key, shape, dtype)


def output(where, name, out, shape, dtype, workspace, inputs=()):
    """``out`` after checks, or an array to fill."""
    if out is None:
        return empty(workspace, f"{where}.{name}", shape, dtype)
    target(where, name, out, shape, dtype)
    for other, array in inputs:
        if array is not None and np.may_share_memory(out, array):
            raise ShapeError(f"{where}: {name} must not share memory with {other}, got overlapping arrays")
    return out


def target(where, name, array, shape, dtype):
    """Check an array that will be written to."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise DTypeError(
            f"{where}: {name} must be an array of {np.dtype(dtype)}, got {getattr(array, 'dtype', array)!r}"
        )
    if array.shape != tuple(shape):
        raise ShapeError(f"{where}: {name} must be {spell(shape)}, got {array.shape}")
    if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
        raise ShapeError(f"{where}: {name} must be C-contiguous and writeable, got strides {array.strides}")


class Gradients:
    """The arrays that a backward fills, and what its caller gets.

    A kernel overwrites the gradients of activations (``=``) and accumulates those of parameters (``+=``). An op's
    ``into=`` accumulates all of them, so an activation's gradient is filled beside it and added by `finish`.

    Parameters
    ----------
    where : str
        Such as ``"conv1d.backward"``.
    grads : type
        The family's NamedTuple of gradients.
    shapes : dict
        Shape of each gradient; None where forward had no such input.
    activations : sequence of str
        Names of the gradients that the kernel overwrites.
    dtype, into, needs, workspace
        As in the op's backward.
    """

    def __init__(self, where, grads, shapes, activations, dtype, into, needs, workspace):
        if into is not None and not isinstance(into, grads):
            raise ConfigError(
                f"{where}: into must be a {grads.__module__.split('.')[-1]}.Grads, got {type(into).__name__}"
            )
        if isinstance(needs, str):
            raise ConfigError(f"{where}: needs must be a sequence of names, got {needs!r}")
        for name in needs or ():
            if name not in shapes:
                raise ConfigError(f"{where}: needs must name gradients of {spell(grads._fields)}, got {name!r}")
            if shapes[name] is None or (into is not None and getattr(into, name) is None):
                raise ConfigError(f"{where}: needs {name!r}, but forward or into has no such array")
        self._added = []
        given, filled = {}, {}
        for name, shape in shapes.items():
            old = None if into is None else getattr(into, name)
            wanted = shape is not None and (name in needs if needs is not None else into is None or old is not None)
            if old is not None and shape is None:
                raise ConfigError(f"{where}: into.{name} is given, but forward had no such input")
            if old is not None:
                target(where, f"into.{name}", old, shape, dtype)
            given[name] = old
            filled[name] = None
            if not wanted:
                continue
            if old is not None and name not in activations:
                filled[name] = old
                continue
            filled[name] = empty(workspace, f"{where}.{name}", shape, dtype)
            if old is not None:
                self._added.append((old, filled[name]))
            else:
                given[name] = filled[name]
                if name not in activations:
                    filled[name].fill(0)
        self.targets = grads(**filled)
        self._result = into if into is not None else grads(**given)

    def finish(self):
        """Add what `into` still lacks; the Grads for the caller."""
        for old, new in self._added:
            old += new
        return self._result


# ---- cases -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """A named set of sizes and settings that every test and benchmark of a family uses.

    A family's ``cases`` module has ``CASES`` (a tuple of these), ``SUITES`` (the generic suites that it takes part in:
    of "parity", "gradients", "linear", "causal", "steps") and ``inputs(case, dtype) -> (arrays, settings)``, the
    keyword arguments of forward. With "steps" it has ``stream(arrays, settings) -> (state, names, arguments)``: a
    fresh state, the arrays that are fed in pieces along time, and the other arguments of step.
    """

    name: str
    seed: int
    sizes: dict = field(hash=False)
    tolerance: dict = field(default_factory=lambda: {"float32": 2e-5, "float64": 1e-12}, hash=False)

    def __str__(self):
        return self.name

    def random(self):
        """A generator seeded for this case."""
        return np.random.default_rng(self.seed)
