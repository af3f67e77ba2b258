"""A network as a stream: block by block, and drawing what comes next."""

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.kernels import storage as stored
from wavedil.ops import contract
from wavedil.ops.gated_stack.arguments import checked_condition, checked_draw, checked_inputs, checked_params
from wavedil.ops.gated_stack.heads import Gaussian, Logistics, Softmax


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


def sample(first, count, state, condition=None, *, extra=None, lpc=None, temperature=1.0, top_k=None, top_p=None,
           seed=0, progress=None):  # fmt: skip
    """Draw ``count`` codes or values, each from the outputs after the one before; the state is changed in place.

    A draw depends on the seed, the stream's number, and the stream's time alone.

    Parameters
    ----------
    first : (B,) array of ints, or (B,) or (B, n) array of floats
        The code or value to go on from, which the state has not seen yet. With ``lpc`` also the values before it, of
        which it is the last; what is missing is 0.
    count : int
    state
        From `init_state`, of a network from codes to codes (`Softmax`), or from `Samples` to `Logistics` or `Gaussian`.
        What was drawn is channel 0 of the next row.
    condition : (B, Cc), (B, count, Cc) or (B, F, Cc) array, optional
        Frames as in `step`.
    extra : (B, count, channels) array, optional
        The last channels of the rows that are fed with the values: what is known in advance.
    lpc : (B, count, order) array, optional
        Coefficients of a linear prediction: row i shifts the means of what it draws by
        ``p = sum over j of lpc[:, i, j] y[j]``, where y[0] is the latest value, y[1] the one before. If the network's
        input has one channel more than the value and ``extra``, p is its channel 1.
    temperature : float
        Logits are divided by it, and scales are multiplied by it; 0 takes the most probable code, or the mean of the
        component of the largest weight.
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
    (B, count) array
        Codes in uint8, or int64 if there are more than 256 classes; or values in [-1, 1], in the state's type. Of each
        component's noise the outermost 1e-5 at both ends is cut off.

    Raises
    ------
    DivergedError
        If outputs are not finite; the state is of no more use then.
    """
    where = "gated_stack.sample"
    count = checks.whole(where, "count", count, 0)
    codes = not state.network.real
    options = _options(where, state, codes, seed, temperature, top_k, top_p)
    if codes:
        for name, given in (("extra", extra), ("lpc", lpc)):
            if given is not None:
                raise ConfigError(f"{where}: {name} must be None for a network of codes, got {np.shape(given)}")
        first = contract.integers(where, "first", np.asarray(first), (state.batch,))
        contract.in_range(where, "first", first, state.network.input.classes)
        out = np.empty((state.batch, count), np.uint8 if state.network.head.classes <= 256 else np.int64)
        first = first.astype(np.int64)[:, None]
    else:
        first, extra, lpc = _checked_values(where, state, first, count, extra, lpc)
        out = np.empty((state.batch, count), state.dtype)
    condition = _condition(where, state, condition, max(count, 1))
    pieces, start, latest = 1000, state.time, first.shape[1]
    for begin in range(0, count, pieces):
        piece = np.empty((state.batch, min(pieces, count - begin)), first.dtype)
        local = part_of_condition(condition, state.network, start, begin, piece.shape[1])
        told = [None if given is None else given[:, begin : begin + pieces] for given in (extra, lpc)]
        state.sample(first, piece, local, options, *told)
        out[:, begin : begin + pieces] = piece
        first = np.concatenate([first, piece], axis=1)[:, -latest:]
        if progress is not None:
            progress(begin + piece.shape[1], count)
    return out


def _options(where, state, codes, seed, temperature, top_k, top_p):
    """(seed, temperature, top_k, top_p) of a state that can be drawn from, after checks."""
    network, head = state.network, state.network.head
    good = isinstance(head, Logistics | Gaussian)
    if codes:
        good = isinstance(head, Softmax) and head.classes <= network.input.classes
    if not good:
        wanted = "from codes to no more codes, or from Samples to Logistics or Gaussian"
        got = f"{type(network.input).__name__} in and {type(head).__name__} out"
        raise ConfigError(f"{where}: the state's network must go {wanted}, got one with {got}")
    for name, value in (("top_k", top_k), ("top_p", top_p)):
        if value is not None and not codes:
            raise ConfigError(f"{where}: {name} must be None for a network of values, got {value!r}")
    return checked_draw(where, head.classes if codes else 1, seed, temperature, top_k, top_p)


def _checked_values(where, state, first, count, extra, lpc):
    """The latest values (as many as are needed), other channels and coefficients after checks."""
    batch, dtype, channels, order = state.batch, state.dtype, state.network.input.channels, 1
    if lpc is not None:
        lpc = contract.floats(where, "lpc", lpc, (batch, count, "order"), dtype, like="the state")
        order = max(order, lpc.shape[2])
    first = np.asarray(first)
    first = contract.floats(where, "first", first[:, None] if first.ndim == 1 else first, (batch, "n"), dtype,
                            like="the state")  # fmt: skip
    first = np.concatenate([np.zeros((batch, order), dtype), first], axis=1)[:, -order:]
    if extra is None or np.shape(extra)[2:] == (0,):
        extra = np.zeros((batch, count, 0), dtype)
    else:
        extra = contract.floats(where, "extra", extra, (batch, count, "channels"), dtype, like="the state")
    wanted = [channels - 1] if lpc is None else [n for n in (channels - 2, channels - 1) if n >= 0]
    if extra.shape[2] not in wanted:
        counts = " or ".join(map(str, wanted))
        raise ShapeError(f"{where}: extra must be ({batch}, {count}, {counts}), got {extra.shape}")
    return first, extra, lpc


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
