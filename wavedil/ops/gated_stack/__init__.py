"""Gated stack: a whole WaveNet in one schedule, from codes to the loss and every gradient.

With ``c`` the condition, ``D`` channels in each half of the gate, and each convolution padded with zeros on the left::

    h[0] = embedding[code]
    pre = conv(h[i]; dilation[i]) + c condition[i]
    z = tanh(pre[..., :D]) sigmoid(pre[..., D:])
    h[i + 1] = h[i] + residual[i](z)
    s = sum over i of skip[i](z)
    logits = head.1(relu(head.0(relu(s))))
    loss = sum(weights * -ln softmax(logits)[next code]) / sum(weights)        in nats

It equals the composition of ``embedding``, ``gated_block``, ``conv1d`` and ``cross_entropy``, which a test shows, but
keeps what those hand to each other in the cache. The network is that of WaveNet (arXiv:1609.03499, section 2).

Parameters are a mapping of names to arrays, with ``R, D, S, E, Q`` for the numbers of residual, dilation, skip and end
channels and classes, ``K`` taps and ``Cc`` condition channels:

=============================  ============  ====================================================
``input.embedding``            (Q, R)
``blocks.i.conv.weight``       (K, R, 2D)    first D columns tanh, last D sigmoid; the last tap is now
``blocks.i.conv.bias``         (2D,)
``blocks.i.condition.weight``  (Cc, 2D)      only if there is a condition
``blocks.i.residual.weight``   (D, R)        the last block's reaches no output: its gradient is zero
``blocks.i.residual.bias``     (R,)
``blocks.i.skip.weight``       (D, S)
``blocks.i.skip.bias``         (S,)
``head.0.weight``, ``.bias``   (S, E), (E,)
``head.1.weight``, ``.bias``   (E, Q), (Q,)
=============================  ============  ====================================================
"""

import difflib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.kernels import storage
from wavedil.ops import contract
from wavedil.receptive import check_dilations


class Result(NamedTuple):
    """What `loss_and_grads` returns."""

    loss: float  # nats
    grads: dict  # the mapping that was given as into, or a fresh one
    condition: np.ndarray | None  # gradient of the condition, fresh; None if there is none, or it is not needed


class Grads(NamedTuple):
    """What `backward` returns."""

    params: dict  # the mapping that was given as into, or a fresh one
    condition: np.ndarray | None  # gradient of the condition, fresh; None if there is none, or it is not needed


class Saved(NamedTuple):
    """What `backward` needs from `forward`."""

    backend: object
    kept: object  # the backend's own; it has `fresh`: whether nobody has written to its arrays
    params: dict
    condition: np.ndarray | None
    needs: frozenset
    shape: tuple


def parameter_shapes(*, dilations, kernel_size, residual_channels, dilation_channels, skip_channels, end_channels,
                     classes, condition_channels=0):  # fmt: skip
    """Names and shapes of the parameters, in the order in which they are stored.

    Returns
    -------
    dict of str to tuple of int
    """
    both = 2 * dilation_channels
    shapes = {"input.embedding": (classes, residual_channels)}
    for i in range(len(dilations)):
        shapes[f"blocks.{i}.conv.weight"] = (kernel_size, residual_channels, both)
        shapes[f"blocks.{i}.conv.bias"] = (both,)
        if condition_channels:
            shapes[f"blocks.{i}.condition.weight"] = (condition_channels, both)
        shapes[f"blocks.{i}.residual.weight"] = (dilation_channels, residual_channels)
        shapes[f"blocks.{i}.residual.bias"] = (residual_channels,)
        shapes[f"blocks.{i}.skip.weight"] = (dilation_channels, skip_channels)
        shapes[f"blocks.{i}.skip.bias"] = (skip_channels,)
    shapes["head.0.weight"], shapes["head.0.bias"] = (skip_channels, end_channels), (end_channels,)
    shapes["head.1.weight"], shapes["head.1.bias"] = (end_channels, classes), (classes,)
    return shapes


def loss_and_grads(params, codes, weights=None, into=None, *, dilations, condition=None, recompute=False, needs=None,
                   half_activations=False, workspace=None, backend=None, threads=None):  # fmt: skip
    """Mean nats of each code given those before it, and the gradient of every parameter that is needed.

    Backward stops at the lowest block that needs something, and blocks below it keep nothing for it. A gradient has the
    same bits whatever else is needed.

    Parameters
    ----------
    params : mapping of str to array
        See the module. All of one dtype, float32 or float64, in one place. Codes and weights may stay on the host
        though the parameters are on a device: they are copied to it.
    codes : (B, T + 1) array of ints in [0, Q)
        ``codes[:, t + 1]`` is predicted from ``codes[:, : t + 1]``.
    weights : (B, T) array, optional
        How much each predicted code counts: not negative, with a positive sum. None: all the same.
    into : mapping like params, optional
        Gradients are added to these arrays (``+=``).
    dilations : sequence of int
        One per block.
    condition : (B, Cc) or (B, T, Cc) array, optional
        Global or local.
    recompute : bool
        Keep only each block's input, and compute the gates a second time in the backward pass: a third of the memory.
    needs : collection of str, optional
        Names of the parameters whose gradients are wanted, and ``"condition"`` for that of the condition, for which all
        blocks must run. None: all of them. ``into`` may lack the others, which are not touched; a fresh mapping does.
    half_activations : bool
        Blocks pass on and keep their input, tanh and sigmoid in float16, rounded to nearest: half the memory. For
        float32 parameters, on "cuda" (and "reference"). Sums and all gradients stay float32; the gradient goes through
        the rounding as if there were none.
    workspace : Workspace, optional
        Holds all large arrays from call to call.
    backend : {None, "cpu", "cuda", "reference"}
    threads : int, optional
        None: one a core. Changes no bit of the result.

    Returns
    -------
    Result

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If an argument does not fit the others; the message names it, the expectation and what came.
    """
    where = "gated_stack.loss_and_grads"
    params, dilations, codes, condition = _check(where, params, dilations, codes, condition, extra=1)
    weights = _weights(where, weights, codes, params)
    needs = _needs(where, needs, params, condition)
    into = _into(where, into, params, needs)
    module = contract.backend(where, backend, params["input.embedding"], **params, condition=condition)
    loss, dcondition = module.loss_and_grads(
        params, codes, weights, into, dilations=dilations, condition=condition, recompute=bool(recompute),
        needs=needs, half_activations=_half(where, half_activations, params, module), workspace=workspace,
        threads=contract.threads(where, threads),
    )  # fmt: skip
    return Result(loss, into, dcondition)


def loss(params, codes, weights=None, *, dilations, condition=None, backend=None, threads=None):
    """The loss of `loss_and_grads` without the gradients, in memory that does not grow with T.

    The parameters, errors and (on one backend) the bits are those of `loss_and_grads`.

    Returns
    -------
    float
        Nats.
    """
    where = "gated_stack.loss"
    params, dilations, codes, condition = _check(where, params, dilations, codes, condition, extra=1)
    weights = _weights(where, weights, codes, params)
    module = contract.backend(where, backend, params["input.embedding"], **params, condition=condition)
    return module.loss(
        params, codes, weights, dilations=dilations, condition=condition, threads=contract.threads(where, threads)
    )


def forward(params, codes, *, dilations, condition=None, recompute=False, needs=None, half_activations=False, out=None,
            workspace=None, backend=None, threads=None):  # fmt: skip
    """The trunk alone, for other heads: the sum of the skip outputs of all blocks, before the head's first ReLU.

    In the same schedule and with the same kernels as `loss_and_grads`; `backward` takes it from there.

    Parameters
    ----------
    params : mapping of str to array
        See the module. It may have no ``head.*``; they are not used.
    codes : (B, T) array of ints in [0, Q)
        All of them inputs.
    dilations, condition, recompute, half_activations, threads
        As in `loss_and_grads`.
    needs : collection of str, optional
        The gradients that `backward` will be asked for, as in `loss_and_grads`. None: all. With ``()`` nothing is kept,
        and no memory is used that grows with T times the number of blocks.
    out : (B, T, S) array, optional
    workspace : Workspace, optional
        Holds all large arrays from call to call, ``saved`` among them.
    backend : {None, "cpu", "cuda", "reference"}

    Returns
    -------
    skips : (B, T, S) array
    saved : Saved
        For one `backward`; valid until the workspace's next `forward`. Parameters and codes must not change before.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If an argument does not fit the others; the message names it, the expectation and what came.
    """
    where = "gated_stack.forward"
    params, dilations, codes, condition = _check(where, params, dilations, codes, condition, head=False)
    needs = _needs(where, needs, params, condition)
    shape, dtype = (*codes.shape, params["blocks.0.skip.bias"].size), params["input.embedding"].dtype
    module = contract.backend(where, backend, params["input.embedding"], **params, condition=condition)
    out = contract.output(where, "out", out, shape, dtype, workspace, [*params.items(), ("condition", condition)])
    kept = module.forward(
        params, codes, out, dilations=dilations, condition=condition, recompute=bool(recompute), needs=needs,
        half_activations=_half(where, half_activations, params, module), workspace=workspace,
        threads=contract.threads(where, threads),
    )  # fmt: skip
    return out, Saved(module, kept, params, condition, needs, shape)


def backward(dskips, saved, *, into=None, needs=None, threads=None):
    """Gradients of the trunk's parameters, given that of the skip sum.

    Parameters
    ----------
    dskips : (B, T, S) array
    saved : Saved
        From `forward`; it is used up.
    into : mapping, optional
        Gradients are added to these arrays (``+=``).
    needs : collection of str, optional
        Some of those that `forward` was told; None: all of them.
    threads : int, optional

    Returns
    -------
    Grads

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If an argument does not fit the others, or ``saved`` was used before.
    """
    where = "gated_stack.backward"
    if not isinstance(saved, Saved):
        raise ConfigError(f"{where}: saved must be what forward returned, got {type(saved).__name__}")
    if not saved.kept.fresh:
        raise ConfigError(f"{where}: saved must be of the latest forward, for one backward, got one that is used up")
    dtype = saved.params["input.embedding"].dtype
    dskips = contract.floats(where, "dskips", dskips, saved.shape, dtype, like="the skip sum")
    contract.same_place(where, "dskips", dskips, saved.params["input.embedding"])
    given, needs = needs, saved.needs if needs is None else _needs(where, needs, saved.params, saved.condition)
    for name in needs - saved.needs:
        raise ConfigError(f"{where}: needs must be some of those of forward, got {given!r} with {name!r}")
    into = _into(where, into, saved.params, needs)
    threads = contract.threads(where, threads)
    return Grads(into, saved.backend.backward(dskips, saved.kept, into, needs=needs, threads=threads))


def init_state(params, batch=1, *, dilations, condition_channels=0, weights=None, backend=None, threads=None):
    """State of ``batch`` streams that begin with silence, for `step`.

    The parameters are packed once and kept: a stream goes on with those that it was made with.

    Parameters
    ----------
    params : mapping of str to array
    batch : int
        Independent streams.
    dilations : sequence of int
    condition_channels : int
        Channels of the condition that `step` will be given; 0 for none.
    weights : {None, "float16", "int8"}
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
    channels = contract.whole(where, "condition_channels", condition_channels, 0)
    params, dilations, _, _ = _check(where, params, dilations, None, None, condition_channels=channels)
    batch = contract.whole(where, "batch", batch)
    if weights is not None and contract.is_device_array(params["input.embedding"]):
        raise ConfigError(f"{where}: weights must be None on a device, got {weights!r}")
    weights = storage.check(where, weights, params)
    module = contract.backend(where, backend, params["input.embedding"], **params)
    return module.init_state(
        params, batch, dilations=dilations, condition_channels=channels, threads=contract.threads(where, threads),
        weights=weights,
    )  # fmt: skip


def step(codes, state, condition=None, *, out=None):
    """Logits after each of some more codes; any number of them. The state is changed in place.

    In pieces of any sizes this equals one pass over all codes.

    Parameters
    ----------
    codes : (B, n) array of ints
    state
        From `init_state`.
    condition : (B, Cc) or (B, n, Cc) array, optional
    out : (B, n, Q) array, optional

    Returns
    -------
    (B, n, Q) array
    """
    where = "gated_stack.step"
    codes, condition = _check_step(where, codes, state, condition)
    shape, dtype = (*codes.shape, state.classes), state.dtype
    out = contract.output(where, "out", out, shape, dtype, None, [("the state", getattr(state, "like", None))])
    state.step(codes, condition, out)
    return out


def step_features(codes, state, condition=None, *, out=None):
    """The skip sum of each of some more codes, as `forward` would give it in one piece; the state is changed in place.

    Parameters
    ----------
    codes, state, condition
        As in `step`, with which it may take turns.
    out : (B, n, S) array, optional

    Returns
    -------
    (B, n, S) array
    """
    where = "gated_stack.step_features"
    codes, condition = _check_step(where, codes, state, condition)
    like = [("the state", getattr(state, "like", None))]
    out = contract.output(where, "out", out, (*codes.shape, state.skip_channels), state.dtype, None, like)
    state.step(codes, condition, out, head=False)
    return out


def sample(first, count, state, condition=None, *, temperature=1.0, top_k=None, top_p=None, seed=0, progress=None):
    """Draw ``count`` codes, each from the logits after the one before; the state is changed in place.

    A draw depends on the seed, the stream's number, and the stream's time alone.

    Parameters
    ----------
    first : (B,) array of ints
        The codes to go on from, which the state has not seen yet.
    count : int
    state
        From `init_state`.
    condition : (B, Cc) array, optional
        Global.
    temperature : float
        Logits are divided by it; 0 takes the most probable code.
    top_k : int, optional
        Draw only from so many of the likeliest codes.
    top_p : float in (0, 1], optional
        Draw only from the likeliest codes that together have at least this probability.
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
    codes, condition = _check_step(where, np.asarray(first)[:, None], state, condition)
    if condition is not None and condition.ndim == 3:
        raise ShapeError(f"{where}: condition must be global, (B, Cc), got {condition.shape}")
    count = contract.whole(where, "count", count, 0)
    seed = contract.whole(where, "seed", seed, 0)
    if seed >= 2**63:
        raise ConfigError(f"{where}: seed must be below 2**63, got {seed}")
    temperature = _number(where, "temperature", temperature, "of at least 0", lambda value: 0 <= value < np.inf)
    top_k = 0 if top_k is None else contract.whole(where, "top_k", top_k)
    top_p = 1.0 if top_p is None else _number(where, "top_p", top_p, "above 0, up to 1", lambda value: 0 < value <= 1)
    out = np.empty((len(codes), count), np.uint8 if state.classes <= 256 else np.int64)
    first, pieces = codes[:, 0].astype(np.int64), 1000
    for begin in range(0, count, pieces):
        piece = np.empty((len(codes), min(pieces, count - begin)), np.int64)
        state.sample(first, piece, condition, (seed, temperature, top_k, top_p))
        out[:, begin : begin + pieces] = piece
        first = piece[:, -1]
        if progress is not None:
            progress(begin + piece.shape[1], count)
    return out


def _number(where, name, value, wanted, good):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not good(number):
        raise ConfigError(f"{where}: {name} must be a number {wanted}, got {value!r}")
    return number


def _check_step(where, codes, state, condition):
    codes = contract.integers(where, "codes", codes, None)
    if codes.ndim != 2 or len(codes) != state.batch or codes.shape[1] < 1:
        raise ShapeError(f"{where}: codes must be ({state.batch}, n) with n of at least 1, got {codes.shape}")
    contract.in_range(where, "codes", codes, state.classes)
    if condition is None:
        return codes, None
    if not state.condition_channels:
        raise ConfigError(f"{where}: condition must be None, as the state was made for none, got {condition.shape}")
    shape = (len(codes), *codes.shape[1:] * (condition.ndim == 3), state.condition_channels)
    condition = contract.floats(where, "condition", condition, shape, state.dtype, like="the state")
    if getattr(state, "like", None) is not None:
        contract.same_place(where, "condition", condition, state.like)
    return codes, condition


def _check(where, params, dilations, codes, condition, extra=0, condition_channels=0, head=True):
    """The arguments that all calls share, checked; arrays C-contiguous, of the parameters only those that are used."""
    dilations = check_dilations(dilations, 1, where)
    like = "head.1.weight" if head else "input.embedding"
    try:
        kernel, channels, both = params["blocks.0.conv.weight"].shape
        skips = params["blocks.0.skip.weight"].shape[1]
        end = params["head.0.weight"].shape[1] if head else 1
        classes, dtype = params[like].shape[1 if head else 0], params[like].dtype
        if condition is not None:
            condition_channels = params["blocks.0.condition.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"{where}: params must have the names and ranks of a gated stack: {error}") from None
    shapes = parameter_shapes(
        dilations=dilations, kernel_size=kernel, residual_channels=channels, dilation_channels=both // 2,
        skip_channels=skips, end_channels=end, classes=classes, condition_channels=condition_channels,
    )  # fmt: skip
    checked = {}
    for name, shape in shapes.items():
        if name.startswith("head.") and not head:
            continue
        if name not in params:
            raise ConfigError(f"{where}: params must have {len(dilations)} blocks, as there are dilations; no {name}")
        checked[name] = contract.floats(where, name, params[name], shape, dtype, like=like)
    if f"blocks.{len(dilations)}.conv.weight" in params:
        raise ConfigError(f"{where}: params must have {len(dilations)} blocks, as there are dilations; got more")
    if codes is not None:
        codes = contract.integers(where, "codes", codes, ("B", f"T + {extra}" if extra else "T"))
        if codes.shape[1] <= extra:
            raise ShapeError(f"{where}: codes must have at least {extra + 1} columns, got {codes.shape}")
        contract.in_range(where, "codes", codes, classes)
        batch, time = len(codes), codes.shape[1] - extra
        if condition is not None:
            rows = (batch, condition_channels) if condition.ndim == 2 else (batch, time, condition_channels)
            condition = contract.floats(where, "condition", condition, rows, dtype, like=like)
    return checked, dilations, codes, condition


def _needs(where, needs, params, condition):
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
            near = difflib.get_close_matches(str(name), known, 1, 0)[0]
            raise ConfigError(f"{where}: needs must name parameters, such as {near!r}, got {name!r}")
    return frozenset(needs)


def _into(where, into, params, needs):
    """``into`` after checks, or zeros to add the gradients to."""
    shapes = {name: value for name, value in params.items() if name in needs}
    if into is None:
        return {name: contract.zeros(value.shape, value.dtype, value) for name, value in shapes.items()}
    for name, value in shapes.items():
        if name not in into:
            what = "every parameter" if len(shapes) == len(params) else "every parameter in needs"
            raise ConfigError(f"{where}: into must have an array for {what}, got none for {name}")
        contract.target(where, f"into[{name!r}]", into[name], value.shape, value.dtype, value)
    return into


def _half(where, half_activations, params, module):
    """Whether activations are kept in float16: for float32 parameters, and not on the CPU."""
    dtype, backend = params["input.embedding"].dtype, module.__name__.rpartition(".")[2]
    if half_activations and (backend == "cpu" or (backend == "cuda" and dtype != np.float32)):
        raise ConfigError(f"{where}: half_activations is for float32 on 'cuda', got {dtype} on {backend!r}")
    return bool(half_activations)


def _weights(where, weights, codes, params):
    dtype = params["head.1.weight"].dtype
    shape = (len(codes), codes.shape[1] - 1)
    if weights is None:
        return np.ones(shape, dtype)
    if contract.is_device_array(weights):  # checked on the host, which waits for them
        weights = contract.floats(where, "weights", weights, shape, dtype, like="params").to_host()
    weights = np.asarray(weights)
    if weights.dtype.kind not in "fbiu":
        raise DTypeError(f"{where}: weights must be numbers, got {weights.dtype}")
    if weights.shape != shape:
        raise ShapeError(f"{where}: weights must be {contract.spell(shape)}, got {weights.shape}")
    weights = np.ascontiguousarray(weights, dtype)
    if not (weights.min() >= 0 and 0 < weights.sum(dtype=np.float64) < np.inf):
        raise ShapeError(f"{where}: weights must be finite, at least 0 and not all 0, got a sum of {weights.sum()}")
    largest = weights.max()
    # Only ratios of weights count; extreme ones would overflow when divided by their sum.
    return weights if 1e-20 < largest < 1e20 else weights / largest
