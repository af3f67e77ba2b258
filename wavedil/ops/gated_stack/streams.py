"""A network as a stream: block by block, and drawing what comes next."""

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.kernels import storage as stored
from wavedil.ops import contract
from wavedil.ops.gated_stack.arguments import checked_condition, checked_draw, checked_inputs, checked_params
from wavedil.ops.gated_stack.network import Softmax


def init_state(params, batch=1, *, network, storage=None, backend=None, threads=None):
    """State of ``batch`` streams that begin with silence, for `step`.

    The parameters are packed once and kept: a stream goes on with those that it was made with.

    Parameters
    ----------
    params : mapping of str to array
    batch : int
        Independent streams.
    network : Network
        Without a head, `step_features` alone can be called.
    storage : {None, "float16", "int8"}
        Store the convolutions' weights in fewer bytes and turn them into floats in registers (see
        `wavedil.kernels.storage`): less memory to read, and rounded weights. For float32, and not on a device.
    backend : {None, "cpu", "cuda", "reference"}
    threads : int, optional
        Streams are spread over so many threads.

    Returns
    -------
    state
        With ``copy()``, ``reset()`` and ``time``, the number of rows seen.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If an argument does not fit the others, or weights to be stored are not finite.
    """
    where = "gated_stack.init_state"
    params = checked_params(where, network, params)
    batch, like = checks.whole(where, "batch", batch), next(iter(params.values()))
    if storage is not None and contract.is_device_array(like):
        raise ConfigError(f"{where}: storage must be None on a device, got {storage!r}")
    storage = stored.check(where, storage, params)
    module = contract.backend(where, backend, like, **params)
    return module.init_state(
        params, batch, network=network, threads=contract.threads(where, threads), storage_kind=storage
    )


def step(inputs, state, condition=None, *, out=None):
    """What the head puts out after each of some more rows; any number of them. The state is changed in place.

    In pieces of any sizes this equals one pass over all rows.

    Parameters
    ----------
    inputs : (B, n) array of ints, or (B, n, C) array of floats
    state
        From `init_state`.
    condition : (B, Cc), (B, n, Cc) or (B, F, Cc) array, optional
        Frames are those that these rows see: from the frame of row ``state.time`` on, as many as
        ``network.condition.frames(n, state.time)``.
    out : (B, n, outputs) array, optional

    Returns
    -------
    (B, n, outputs) array
    """
    where = "gated_stack.step"
    if state.network.head is None:
        raise ConfigError(f"{where}: the state's network must have a head, got one without: use step_features")
    return _step(where, inputs, state, condition, out, state.network.head.outputs, True)


def step_features(inputs, state, condition=None, *, out=None):
    """The skip sum of each of some more rows, as `forward` would give it in one piece; the state is changed in place.

    Parameters
    ----------
    inputs, state, condition
        As in `step`, with which it may take turns.
    out : (B, n, S) array, optional

    Returns
    -------
    (B, n, S) array
    """
    where = "gated_stack.step_features"
    if state.network.filters:
        raise ConfigError(f"{where}: the state's network must have no head of one convolution: use step")
    return _step(where, inputs, state, condition, out, state.network.feature_channels, False)


def _step(where, inputs, state, condition, out, columns, head):
    inputs = checked_inputs(where, state.network, inputs, state.dtype, batch=state.batch)
    condition = _condition(where, state, condition, inputs.shape[1])
    like = [("the state", getattr(state, "like", None))]
    out = contract.output(where, "out", out, (*inputs.shape[:2], columns), state.dtype, None, like)
    state.step(inputs, condition, out, head=head)
    return out


def _condition(where, state, condition, rows):
    """The condition of so many more rows, after checks."""
    condition = checked_condition(
        where, state.network, condition, (state.batch, rows), state.dtype, "the state", state.time
    )
    if condition is not None and getattr(state, "like", None) is not None:
        contract.same_place(where, "condition", condition, state.like)
    return condition


def sample(first, count, state, condition=None, *, temperature=1.0, top_k=None, top_p=None, seed=0, progress=None):
    """Draw ``count`` codes, each from the logits after the one before; the state is changed in place.

    A draw depends on the seed, the stream's number, and the stream's time alone.

    Parameters
    ----------
    first : (B,) array of ints
        The codes to go on from, which the state has not seen yet.
    count : int
    state
        From `init_state`, of a network from codes to codes.
    condition : (B, Cc), (B, count, Cc) or (B, F, Cc) array, optional
        Frames as in `step`.
    temperature : float
        Logits are divided by it; 0 takes the most probable code.
    top_k : int, optional
        Draw only from so many of the likeliest codes. Codes as likely as the last of these are kept as well.
    top_p : float in (0, 1], optional
        Draw only from the likeliest codes that together have at least this probability, ties included. With both, from
        the codes that both keep.
    seed : int
    progress : callable, optional
        ``progress(done, count)``, now and then.

    Returns
    -------
    (B, count) array of uint8, or int64 if there are more than 256 classes

    Raises
    ------
    DivergedError
        If logits are not finite; the state is of no more use then.
    """
    where = "gated_stack.sample"
    network, head = state.network, state.network.head
    if not isinstance(head, Softmax) or network.real or head.classes > network.input.classes:
        got = f"{type(network.input).__name__} in and {type(head).__name__} out"
        raise ConfigError(f"{where}: the state's network must go from codes to no more codes, got one with {got}")
    count = checks.whole(where, "count", count, 0)
    first = contract.integers(where, "first", np.asarray(first), (state.batch,))
    contract.in_range(where, "first", first, network.input.classes)
    condition = _condition(where, state, condition, max(count, 1))
    draw = checked_draw(where, head.classes, seed, temperature, top_k, top_p)
    out = np.empty((state.batch, count), np.uint8 if head.classes <= 256 else np.int64)
    first, pieces, start = first.astype(np.int64), 1000, state.time
    for begin in range(0, count, pieces):
        piece = np.empty((state.batch, min(pieces, count - begin)), np.int64)
        local = part_of_condition(condition, state.network, start, begin, piece.shape[1])
        state.sample(first, piece, local, draw)
        out[:, begin : begin + pieces] = piece
        first = piece[:, -1]
        if progress is not None:
            progress(begin + piece.shape[1], count)
    return out


def part_of_condition(condition, network, start, begin, rows):
    """The part of a condition, given from row ``start`` on, that so many rows from ``start + begin`` on see."""
    if condition is None or condition.ndim == 2:
        return condition
    first, size = begin, rows
    if network.hop:
        first = (start + begin) // network.hop - start // network.hop
        size = network.condition.frames(rows, start + begin)
    if contract.is_device_array(condition):
        return condition.engine.array(condition.to_host()[:, first : first + size])
    return np.ascontiguousarray(condition[:, first : first + size])
