"""Checks of the arguments that the calls of gated_stack share."""

from collections.abc import Collection

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import contract
from wavedil.ops.gated_stack.heads import Softmax
from wavedil.ops.gated_stack.network import Network


def checked_params(where, network, params):
    """The parameters that the network has, C-contiguous, after checks; others may be there as well."""
    if not isinstance(network, Network):
        raise ConfigError(f"{where}: network must be a gated_stack.Network, got {type(network).__name__}")
    shapes, found, like = network.parameter_shapes, {}, next(iter(network.parameter_shapes))
    for name, shape in shapes.items():
        if name not in params:
            raise ConfigError(f"{where}: params must have all that the network has; no {name}")
        dtype = found[like].dtype if found else None
        found[name] = contract.floats(where, name, params[name], shape, dtype, like=like)
    return found


def checked(where, network, params, inputs, condition, extra=0):
    """Parameters, inputs and condition after checks; inputs of codes have ``extra`` more columns than rows count."""
    params = checked_params(where, network, params)
    like, dtype = next(iter(params)), next(iter(params.values())).dtype
    inputs = checked_inputs(where, network, inputs, dtype, extra)
    rows = (len(inputs), inputs.shape[1] - extra)
    return params, inputs, checked_condition(where, network, condition, rows, dtype, like)


def checked_inputs(where, network, inputs, dtype, extra=0, batch="B"):
    """What is fed, after checks."""
    if network.real:
        return contract.floats(where, "inputs", inputs, (batch, "T", network.input.channels), dtype, like="params")
    inputs = contract.integers(where, "inputs", inputs, None)
    if inputs.ndim != 2 or (batch != "B" and len(inputs) != batch) or not len(inputs):
        wanted = f"({batch}, T{' + 1' * bool(extra)})"
        raise ShapeError(f"{where}: inputs must be {wanted}, got {inputs.shape}")
    if inputs.shape[1] <= extra:
        columns = f"{extra + 1} column{'s' * bool(extra)}"
        raise ShapeError(f"{where}: inputs must have at least {columns}, got {inputs.shape}")
    contract.in_range(where, "inputs", inputs, network.input.classes)
    return inputs


def checked_condition(where, network, condition, rows, dtype, like, first=0):
    """The condition of ``rows`` (batch, time), of which the first is row number ``first``, after checks."""
    if condition is None:
        return None
    wanted = network.condition
    if wanted is None:
        raise ConfigError(f"{where}: condition must be None, as the network has none, got {np.shape(condition)}")
    rank = np.ndim(condition)
    if rank not in (2, 3) or (rank == 2 and wanted.hop):
        kinds = "frames (B, F, Cc)" if wanted.hop else "(B, Cc) or (B, T, Cc)"
        raise ShapeError(f"{where}: condition must be {kinds}, got {np.shape(condition)}")
    shape = (rows[0], wanted.channels)
    if rank == 3:
        shape = (rows[0], wanted.frames(rows[1], first) if wanted.hop else rows[1], wanted.channels)
    return contract.floats(where, "condition", condition, shape, dtype, like=like)


def checked_targets(where, network, params, inputs, targets, condition):
    """Parameters, inputs, targets and condition after checks."""
    head = getattr(network, "head", None)
    if isinstance(network, Network) and head is None:
        raise ConfigError(f"{where}: network must have a head, got one without: use forward and backward")
    shifted = targets is None and isinstance(network, Network)
    if shifted and (network.real or not isinstance(head, Softmax)):
        raise ConfigError(f"{where}: targets must be given, as what is fed is not what is predicted, got None")
    params, inputs, condition = checked(where, network, params, inputs, condition, int(shifted))
    if shifted:
        inputs = contract.on_host(inputs)
        contract.in_range(where, "inputs", inputs, head.classes)
        return params, inputs[:, :-1], inputs[:, 1:], condition
    rows, dtype = inputs.shape[:2], next(iter(params.values())).dtype
    if isinstance(head, Softmax):
        targets = contract.integers(where, "targets", targets, rows)
        contract.in_range(where, "targets", targets, head.classes)
    else:
        shape = (*rows, head.target_columns[0])
        if np.shape(targets)[-1:] and np.shape(targets)[-1] in head.target_columns:
            shape = (*rows, np.shape(targets)[-1])
        targets = contract.floats(where, "targets", targets, shape, dtype, like="params")
    return params, inputs, targets, condition


def checked_needs(where, needs, params, condition):
    """The names whose gradients are needed, as a set."""
    known = list(params) + ["condition"] * (condition is not None)
    if needs is None:
        return frozenset(known)
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise ConfigError(f"{where}: needs must be a collection of names, got {needs!r}")
    for name in needs:
        if name == "condition" and condition is None:
            raise ConfigError(f"{where}: needs must name what there is, got 'condition', and there is no condition")
        if name not in known:
            near = checks.nearest(name, known, 0)
            raise ConfigError(f"{where}: needs must name parameters, such as {near!r}, got {name!r}")
    return frozenset(needs)


def checked_into(where, into, params, needs):
    """``into`` after checks, or zeros to add the gradients to."""
    wanted = {name: value for name, value in params.items() if name in needs}
    if into is None:
        return {name: contract.zeros(value.shape, value.dtype, value) for name, value in wanted.items()}
    for name, value in wanted.items():
        if name not in into:
            what = "every parameter" if len(wanted) == len(params) else "every parameter in needs"
            raise ConfigError(f"{where}: into must have an array for {what}, got none for {name}")
        contract.target(where, f"into[{name!r}]", into[name], value.shape, value.dtype, value)
    return into


def half_or_not(where, half_activations, like, module):
    """Whether activations are kept in float16: for float32 parameters, and not on the CPU."""
    backend = module.__name__.rpartition(".")[2]
    if half_activations and (backend == "cpu" or (backend == "cuda" and like.dtype != np.float32)):
        raise ConfigError(f"{where}: half_activations is for float32 on 'cuda', got {like.dtype} on {backend!r}")
    return bool(half_activations)


def checked_weight(where, weights, shape, like):
    """How much each row counts, on the host; extreme numbers are scaled, as only ratios count."""
    if weights is None:
        return np.ones(shape, like.dtype)
    if contract.is_device_array(weights):  # checked on the host, which waits for them
        weights = contract.floats(where, "sample_weight", weights, shape, like.dtype, like="params").to_host()
    weights = np.asarray(weights)
    if weights.dtype.kind not in "fbiu":
        raise DTypeError(f"{where}: sample_weight must be numbers, got {weights.dtype}")
    if weights.shape != shape:
        raise ShapeError(f"{where}: sample_weight must be {contract.spell(shape)}, got {weights.shape}")
    weights = np.ascontiguousarray(weights, like.dtype)
    total = weights.sum(dtype=np.float64)
    if not (weights.min() >= 0 and 0 < total < np.inf):
        raise ShapeError(f"{where}: sample_weight must be finite, at least 0 and not all 0, got a sum of {total}")
    largest = weights.max()
    return weights if 1e-20 < largest < 1e20 else weights / largest


def checked_draw(where, classes, seed, temperature, top_k, top_p):
    """Seed, temperature, top_k and top_p after checks, as the backends take them."""
    seed = checks.whole(where, "seed", seed, 0)
    if seed >= 2**63:
        raise ConfigError(f"{where}: seed must be below 2**63, got {seed}")
    temperature = checks.number(where, "temperature", temperature, "a finite number of at least 0", lambda t: t >= 0)
    top_k = 0 if top_k is None else min(checks.whole(where, "top_k", top_k), classes)
    top_p = 1.0 if top_p is None else checks.number(where, "top_p", top_p, "a number above 0, up to 1",
                                                    lambda p: 0 < p <= 1)  # fmt: skip
    return seed, temperature, top_k, top_p
