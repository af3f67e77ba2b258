"""The op suites' checks for device arrays: a case's arrays go to the device, and what comes out is copied back."""

import numpy as np

from helpers import ops as h
from wavedil.kernels.cuda.array import Array
from wavedil.kernels.cuda.engine import device_array


def to_device(value):
    """The arrays in a value, on the device."""
    if isinstance(value, np.ndarray):
        wide = value.astype(np.int64) if value.dtype.kind in "iu" else value
        return device_array(wide)
    if isinstance(value, dict):
        return {name: to_device(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item) for item in value))
    return value


def to_host(value):
    """The arrays in a value, copied back."""
    if isinstance(value, Array):
        return value.to_host()
    if isinstance(value, dict):
        return {name: to_host(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_host(item) for item in value))
    return value


def check_parity(family, case, dtype, tolerance=None):
    """Outputs, saved and gradients on the device against the reference in float64."""
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, dtype)
    arrays = {n: a if n == "sample_weight" else to_device(a) for n, a in arrays.items()}
    y, saved = op.forward(**arrays, **settings)
    y_expected, saved_expected, dy_expected, grads_expected = h.expected(family, case, dtype)
    dy = h.upstream(to_host(y), case.seed)
    grads = op.backward(to_device(dy), saved)
    tolerance, what = tolerance or case.tolerance[dtype], f"{family}.cuda[{case}, {dtype}]"
    h.assert_close(to_host(y), y_expected, tolerance, what)
    h.assert_close(to_host(saved), saved_expected, tolerance, f"{what} saved")
    h.assert_close(to_host(grads), grads_expected, tolerance, f"{what} grads")
    return y, saved, dy, grads


def check_steps(family, case, dtype, sizes):
    """A stream in pieces of these sizes against the reference's forward."""
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, dtype)
    arrays = to_device(arrays)
    state, names, rest = h.cases(family).stream(arrays, settings)
    host = {name: h.split(arrays[name].to_host(), sizes) for name in names}
    outputs = []
    for i in range(len(sizes)):
        fed = {name: to_device(np.ascontiguousarray(host[name][i])) for name in names}
        outputs.append(to_host(op.step(**fed, state=state, **rest)))
    if isinstance(outputs[0], tuple):
        y = type(outputs[0])(*(np.concatenate(a, axis=1) for a in zip(*outputs, strict=True)))
    else:
        y = np.concatenate(outputs, axis=1)
    h.assert_close(y, h.expected(family, case, dtype)[0], case.tolerance[dtype], f"{family}.cuda[{case}]")


def check_running_pool(case, dtype, sizes):
    """Pooled rows of a stream that comes in pieces of these sizes, after each, against the reference's forward."""
    op, (arrays, settings) = h.module("pooling"), h.cases("pooling").inputs(case, dtype)
    x, sample_weight = arrays.pop("x"), arrays.pop("sample_weight", None)
    state, end, moved = op.init_state(len(x), x.shape[2], device_array(x)), 0, to_device(arrays)
    for n in sizes:
        begin, end = end, end + n
        part, upto = (None if sample_weight is None else sample_weight[:, b:end] for b in (begin, 0))
        y = op.step(device_array(x[:, begin:end]), state, **moved, **settings, sample_weight=part)
        expected, _ = op.forward(
            **h.to_float64(arrays | {"x": x[:, :end]}), **settings, sample_weight=upto, backend="reference"
        )
        h.assert_close(y.to_host(), expected, case.tolerance[dtype], f"pooling.cuda.step[{case}] after {end} rows")
