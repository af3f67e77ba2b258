"""What the doors of all op families share: checks with three facts, the choice of a backend, where outputs come from.

Every check is called once, at the op's door, with ``where`` (such as ``"conv1d.forward"``), the argument's name, what
is expected and what came: ``ShapeError: conv1d.forward: x must be (B, T, 16), got (4, 100, 8)``.
"""

import functools
import importlib
import importlib.util
from dataclasses import dataclass, field

import numpy as np

from wavedil.checks import whole
from wavedil.errors import ConfigError, DTypeError, OutOfMemoryError, ShapeError

BACKENDS = ("reference", "cpu", "cuda")
FLOATS = (np.dtype("float32"), np.dtype("float64"))
ROWS = 2**31 - 1  # rows that a setting may reach over, at most


# ---- backends --------------------------------------------------------------------------------------------------------
@functools.cache
def backends(family):
    """Names of the backends that a family has a module for."""
    return tuple(b for b in BACKENDS if importlib.util.find_spec(f"wavedil.ops.{family}.{b}"))


@functools.cache
def _module(family, name):
    return importlib.import_module(f"wavedil.ops.{family}.{name}")


def backend(where, name, like, **others):
    """The backend's module: the one named, or by the type of the array ``like`` (NumPy: cpu, device array: cuda).

    ``others`` are the arrays that must lie where ``like`` does; None is let pass.
    """
    family = where.split(".")[0]
    if name is None:
        name = "cuda" if is_device_array(like) else "cpu"
    if name not in backends(family):
        known = ", ".join(map(repr, backends(family)))
        raise ConfigError(f"{where}: backend must be one of {known} (what {family} has so far), got {name!r}")
    if name != "cuda" and is_device_array(like):
        raise ConfigError(f"{where}: backend {name!r} needs NumPy arrays, got a device array")
    if name == "cuda" and not is_device_array(like):
        raise DTypeError(f"{where}: backend 'cuda' needs arrays on a device, got a NumPy array")
    for other, array in others.items():
        same_place(where, other, array, like)
    if name == "cpu" and like.dtype not in (np.float32, np.float64):
        raise DTypeError(f"{where}: backend 'cpu' computes in float32 or float64, got {like.dtype}")
    return _module(family, name)


def is_device_array(value):
    return not isinstance(value, np.ndarray) and hasattr(value, "__cuda_array_interface__")


def not_beyond(where, name, array, like):
    """Check that an array lies where another does or in the host's memory, from where it is copied."""
    if is_device_array(array):
        same_place(where, name, array, like)


def host_only(where, name, array):
    """Check that an array is in the host's memory, for what has no way on a device."""
    if is_device_array(array):
        raise ConfigError(f"{where}: {name} must be a NumPy array (this layer runs on the CPU), got one on a device")


def same_place(where, name, array, like):
    """Check that an array lies where another does: in the host's memory or on the same device."""
    if array is not None and place(array) != place(like):
        raise DTypeError(f"{where}: {name} must be in {place(like)} as the others are, got one in {place(array)}")


def place(array):
    """Where a checked array lies, for an error's text."""
    return f"the memory of {array.device}" if is_device_array(array) else "the host's memory (NumPy)"


def _device_array(where, name, value):
    """The `Array` of any library's device array; the same memory."""
    from wavedil.kernels.cuda.engine import device_array

    try:
        return device_array(value)
    except ShapeError as error:
        raise ShapeError(f"{where}: {name} {error}") from None


# ---- checks ----------------------------------------------------------------------------------------------------------
def spell(shape):
    """``("B", "T", 16)`` as ``(B, T, 16)``."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def fits(shape, expected):
    """Whether a shape is the expected one, in which a name stands for any size from 1 up."""
    return len(shape) == len(expected) and all(
        n >= 1 if isinstance(e, str) else n == e for n, e in zip(shape, expected, strict=True)
    )


def alike(*values):
    """The values, lists among them as arrays of the dtype of the first one that is an array of floats.

    Numbers in a list have no precision of their own: they take that of the arrays beside them, or else float32. Other
    libraries' arrays on the host become NumPy's. For the arguments of a door whose dtypes must agree.
    """
    values = [np.asarray(v) if hasattr(v, "__array__") and not isinstance(v, np.ndarray) and not is_device_array(v)
              else v for v in values]  # fmt: skip
    if any(isinstance(v, list | tuple) for v in values):
        dtypes = (np.dtype(v.dtype) for v in values if hasattr(v, "dtype"))
        dtype = next((d for d in dtypes if d.kind == "f"), np.float32)
        values = [_numbers(v, dtype) if isinstance(v, list | tuple) else v for v in values]
    return values


def floats(where, name, value, shape, dtype=None, *, like="x"):
    """The array, C-contiguous, after checking that it is of floats (of ``dtype`` if given) and of this shape.

    Lists become arrays of ``dtype``, or of float32. What has ``__array__`` (a CPU tensor of torch, say) is taken as
    NumPy sees it, in the same memory.
    """
    if isinstance(value, list | tuple):
        value = _numbers(value, np.float32 if dtype is None else dtype)
    return _array(where, name, value, shape, dtype, like, "f", "an array of floats")


def integers(where, name, value, shape):
    """The array, C-contiguous, after checking that it is of integers and of this shape (None: any); lists as above."""
    return _array(where, name, value, shape, None, "", "iu", "an array of integers")


def _numbers(value, dtype):
    """A list of numbers as an array of this dtype; what is no such list stays what it is, for an error's text."""
    try:
        array = np.asarray(value)
        return array.astype(dtype) if array.dtype.kind in "fiu" else value
    except (TypeError, ValueError):  # of unequal lengths
        return value


def _array(where, name, value, shape, dtype, like, kinds, wanted):
    value = _seen(where, name, value, wanted)
    if value.dtype.kind not in kinds or not value.dtype.isnative:
        raise DTypeError(f"{where}: {name} must be {wanted}, got {value.dtype}")
    if shape is not None and not fits(value.shape, shape):
        raise ShapeError(f"{where}: {name} must be {spell(shape)}, got {value.shape}")
    if dtype is not None and value.dtype != dtype:
        if np.dtype(dtype) not in FLOATS and value.dtype in FLOATS:  # then the other one is to blame
            raise DTypeError(f"{where}: {like} must be float32 or float64, got {np.dtype(dtype)}")
        raise DTypeError(f"{where}: {name} must be {np.dtype(dtype)} as {like} is, got {value.dtype}")
    return value if is_device_array(value) else np.require(value, requirements="CA")


def _seen(where, name, value, wanted):
    """A device array, or what NumPy makes an array of."""
    if is_device_array(value):
        return _device_array(where, name, value)
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(f"{where}: {name} must be a plain array, got a masked one, whose mask would not be seen")
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except Exception as error:  # any library's reason why its array is none of NumPy's
        raise DTypeError(f"{where}: {name} must be {wanted}, got {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{where}: {name} must be {wanted}, got {type(value).__name__}")
    return array


def in_range(where, name, codes, classes):
    """Check that codes lie in [0, classes). Those on a device are copied to the host for it, which waits."""
    codes = on_host(codes)
    low, high = codes.min(), codes.max()
    if low < 0 or high >= classes:
        raise ShapeError(f"{where}: {name} must lie in [0, {classes}), got {low if low < 0 else high}")


def between(where, name, values, low, high, shares=None):
    """Check that numbers lie in [low, high], but for rows of share 0. Those on a device are waited for."""
    values = on_host(values)
    if shares is not None:
        values = values[on_host(shares) != 0]
    if not (values.min() >= low and values.max() <= high):  # so that NaN is out of range
        raise ShapeError(f"{where}: {name} must lie in [{low}, {high}], got {values.min()} to {values.max()}")


def per_axis(where, name, value, axes, least=1):
    """An integer setting of each axis, below 2^31; one number is for all of them."""
    if axes > 1 and isinstance(value, tuple | list):
        if len(value) != axes:
            raise ConfigError(f"{where}: {name} must be one whole number or two, got {value!r}")
        return tuple(whole(where, name, number, least, ROWS) for number in value)
    return (whole(where, name, value, least, ROWS),) * axes


def padding(where, value, spans):
    """(before, after) of each of one or two axes, of which the first is time, from how far taps reach along them."""
    if isinstance(value, str):
        halves = tuple((span // 2, span - span // 2) for span in spans)
        named = {"causal": ((spans[0], 0), *halves[1:]), "same": halves, "valid": ((0, 0),) * len(spans)}
        if value in named:
            return named[value]
    elif isinstance(value, tuple | list) and len(value) == 2:
        sides = (value,) if len(spans) == 1 else value
        if all(isinstance(side, tuple | list) and len(side) == 2 for side in sides):
            return tuple(tuple(whole(where, "padding", n, 0, ROWS) for n in side) for side in sides)
    explicit = "(before, after)" if len(spans) == 1 else "((above, below), (left, right))"
    raise ConfigError(f"{where}: padding must be 'causal', 'same', 'valid' or {explicit}, got {value!r}")


def threads(where, value):
    """A number of threads; None leaves it to the backend."""
    return None if value is None else whole(where, "threads", value)


# ---- outputs ---------------------------------------------------------------------------------------------------------
def empty(workspace, key, shape, dtype, like=None):
    """An array to fill: fresh, or the workspace's own for this key (its old content is garbage), where ``like`` is."""
    if is_device_array(like):
        from wavedil.kernels.cuda.engine import scratch

        return scratch(workspace, like.engine)(key, shape, dtype)
    return np.empty(shape, dtype) if workspace is None else workspace.array(key, shape, dtype)


def placed(workspace, name, values, like):
    """A host array, or its copy where ``like`` is, by way of the workspace's pinned memory; nothing waits."""
    if not is_device_array(like):
        return values
    from wavedil.kernels.cuda.engine import stage

    return stage(workspace, like.engine, name, values)


def output(where, name, out, shape, dtype, workspace, inputs=()):
    """``out`` after checks, or an array to fill, where the first of the inputs is."""
    like = inputs[0][1] if inputs else None
    if out is None:
        return empty(workspace, f"{where}.{name}", shape, dtype, like)
    out = target(where, name, out, shape, dtype, like)
    for other, array in inputs:
        if array is not None and _overlap(out, array):
            raise ShapeError(f"{where}: {name} must not share memory with {other}, got overlapping arrays")
    return out


def _overlap(a, b):
    if is_device_array(a) and is_device_array(b):
        begins = [x.__cuda_array_interface__["data"][0] for x in (a, b)]
        return begins[0] < begins[1] + b.nbytes and begins[1] < begins[0] + a.nbytes
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)


def zeros(shape, dtype, like=None):
    """Zeros where ``like`` is."""
    if is_device_array(like):
        return like.engine.zeros(shape, dtype)
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError):  # the latter beyond the address space
        raise OutOfMemoryError(f"an array of {np.dtype(dtype)} of shape {tuple(shape)} does not fit") from None


def float_type(where, value):
    """A state's dtype, float32 or float64."""
    try:
        if np.dtype(value) in FLOATS:
            return np.dtype(value)
    except TypeError:
        pass
    raise ConfigError(f"{where}: dtype must be float32 or float64, got {value!r}")


def same_batch(where, x, state):
    """Check that so many streams come as the state is of."""
    if state.ndim and x.shape[0] != state.shape[0]:
        raise ShapeError(f"{where}: x must have {state.shape[0]} streams, as the state has, got {x.shape}")


def target(where, name, array, shape, dtype, like=None):
    """The array, which will be written to, after checks; it must lie where ``like`` does, if given."""
    if is_device_array(array):
        array = _device_array(where, name, array)
        if array.dtype != dtype:
            raise DTypeError(f"{where}: {name} must be an array of {np.dtype(dtype)}, got {array.dtype}")
        if array.shape != tuple(shape):
            raise ShapeError(f"{where}: {name} must be {spell(shape)}, got {array.shape}")
    if like is not None and isinstance(array, np.ndarray) or is_device_array(array):
        same_place(where, name, array, np.empty(0) if like is None else like)
    if is_device_array(array):
        return array
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise DTypeError(
            f"{where}: {name} must be an array of {np.dtype(dtype)}, got {getattr(array, 'dtype', array)!r}"
        )
    if array.shape != tuple(shape):
        raise ShapeError(f"{where}: {name} must be {spell(shape)}, got {array.shape}")
    if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
        raise ShapeError(f"{where}: {name} must be C-contiguous and writeable, got strides {array.strides}")
    return array


def on_host(array):
    """The array, or a copy of one on a device, of any library, which waits."""
    return _device_array("on_host", "the array", array).to_host() if is_device_array(array) else array


def number(array):
    """The only element of an array, as a float."""
    return float(on_host(array)[0])


def row_weights(where, sample_weight, shape, *, axis=None, zero=False):
    """Weights of rows as a NumPy array, and their sums (along an axis, or of all), after checks.

    They are numbers or booleans of this shape, finite and at least 0; a sum is above 0, but where ``zero`` lets it be.
    Those on a device are waited for.
    """
    sample_weight = _seen(where, "sample_weight", on_host(sample_weight), "an array of numbers")
    if sample_weight.dtype.kind not in "fiub":
        raise DTypeError(f"{where}: sample_weight must be an array of numbers, got {sample_weight.dtype}")
    if sample_weight.shape != tuple(shape):
        raise ShapeError(f"{where}: sample_weight must be {spell(shape)}, got {sample_weight.shape}")
    totals = sample_weight.sum(axis, dtype=np.float64)
    if not (sample_weight.min() >= 0 and np.isfinite(totals).all() and (zero or np.min(totals) > 0)):
        wanted = "" if zero else " and not all 0" if axis is None else " and not all 0 in an item"
        raise ShapeError(
            f"{where}: sample_weight must be finite, at least 0{wanted}, got a least of {sample_weight.min()} "
            f"and a sum of {np.min(totals)}"
        )
    return sample_weight, totals


def shares(where, sample_weight, out, parts=1):
    """Fill ``out`` with the rows' weights, divided by ``parts`` times their sum; None: all the same. Returns it."""
    if sample_weight is None:
        out.fill(1 / (parts * out.size))
    elif is_device_array(out):
        out.set(shares(where, sample_weight, np.empty(out.shape, out.dtype), parts))
    else:
        sample_weight, total = row_weights(where, sample_weight, out.shape)
        np.divide(sample_weight, parts * float(total), out=out, casting="same_kind")
    return out


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
    like : array, optional
        Where the gradients lie.
    """

    def __init__(self, where, grads, shapes, activations, dtype, into, needs, workspace, like=None):
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
                old = target(where, f"into.{name}", old, shape, dtype, like)
            given[name] = old
            filled[name] = None
            if not wanted:
                continue
            if old is not None and name not in activations:
                filled[name] = old
                continue
            filled[name] = empty(workspace, f"{where}.{name}", shape, dtype, like)
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
