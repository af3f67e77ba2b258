"""TCN stack: a whole temporal convolutional network in one schedule, from the input to the loss and every gradient.

With ``d`` a block's dilation, each convolution padded with zeros on the left of its own input, and dropout after each
ReLU while training::

    a = relu(conv.0(h[i]; d));  z = relu(conv.1(a; d))
    h[i + 1] = relu(z + shortcut(h[i]))            shortcut: 1x1 where the widths differ, else nothing
    y = head(h[last])                              of every row, or of the last one only

It is the network of arXiv:1803.01271 (section 3 and figure 1). Parameters are a mapping of names to arrays, with ``K``
taps, ``C[i]`` channels into block i, and ``O`` outputs:

============================  ==================  =========================================================
``input.embedding``           (Q, C[0])           only if the input is codes
``blocks.i.conv.0.weight``    (K, C[i], C[i+1])   the last tap is now
``blocks.i.conv.0.bias``      (C[i+1],)
``blocks.i.conv.1.weight``    (K, C[i+1], C[i+1])
``blocks.i.conv.1.bias``      (C[i+1],)
``blocks.i.shortcut.weight``  (C[i], C[i+1])      only where the two differ
``blocks.i.shortcut.bias``    (C[i+1],)
``head.weight``, ``.bias``    (C[last], O), (O,)
============================  ==================  =========================================================

The weights are the effective ones: a weight norm is applied before, and its gradient after (`wavedil.ops.norm`).

If only the last row's prediction counts, rows that it does not depend on are never computed: with dilations 1, 2, 4
and so on, block i works on every 2^i-th row, which is a quarter of the work of an 8-block network, and the same result.
"""

import difflib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract
from wavedil.receptive import check_dilations

LOSSES = ("cross_entropy", "binary", "mse", "mae", "huber")


class Dropout(NamedTuple):
    """Settings of the masks, as in `wavedil.ops.dropout`: convolution j of block i is layer ``2 i + j``."""

    rate: float
    seed: int = 0
    step: int = 0
    channels: bool = False


class Result(NamedTuple):
    """What `loss_and_grads` returns."""

    loss: float
    grads: dict  # the mapping that was given as into, or a fresh one


def parameter_shapes(*, inputs, channels, kernel_size, outputs, classes=0):
    """Names and shapes of the parameters, in the order in which they are stored.

    Parameters
    ----------
    inputs : int
        Channels of the input, or of its embedding.
    channels : sequence of int
        Channels of each block.
    kernel_size, outputs : int
    classes : int
        Codes of the input; 0 for numbers.

    Returns
    -------
    dict of str to tuple of int
    """
    shapes = {"input.embedding": (classes, inputs)} if classes else {}
    for i, (before, after) in enumerate(zip((inputs, *channels), channels, strict=False)):
        shapes[f"blocks.{i}.conv.0.weight"] = (kernel_size, before, after)
        shapes[f"blocks.{i}.conv.0.bias"] = (after,)
        shapes[f"blocks.{i}.conv.1.weight"] = (kernel_size, after, after)
        shapes[f"blocks.{i}.conv.1.bias"] = (after,)
        if before != after:
            shapes[f"blocks.{i}.shortcut.weight"] = (before, after)
            shapes[f"blocks.{i}.shortcut.bias"] = (after,)
    shapes["head.weight"], shapes["head.bias"] = (channels[-1], outputs), (outputs,)
    return shapes


def loss_and_grads(params, x, targets, sample_weight=None, into=None, *, dilations, loss, last=False, delta=None,
                   dropout=None, needs=None, workspace=None, backend=None, threads=None):  # fmt: skip
    """Mean loss of the predictions, and the gradient of every parameter that is needed.

    ``loss = sum(sample_weight l(y, targets)) / sum(sample_weight)``, where numbers also take the mean over the outputs.

    Parameters
    ----------
    params : mapping of str to array
        See the module. All of one dtype, float32 or float64, in one place. The other arrays may stay on the host though
        the parameters are on a device: they are copied to it.
    x : (B, T, C) array of floats, or (B, T) array of ints in [0, Q)
        The latter if there is an embedding.
    targets : array
        Classes ``(B, T)`` for ``cross_entropy``, else numbers ``(B, T, O)``; without the axis of time if ``last``.
    sample_weight : (B, T) or (B,) array, optional
        How much each prediction counts: not negative, with a positive sum. None: all the same.
    into : mapping like params, optional
        Gradients are added to these arrays (``+=``).
    dilations : sequence of int
        One per block.
    loss : str
        ``cross_entropy``, or one of `wavedil.ops.loss`.
    last : bool
        Predict once for each item, after its last row.
    delta : float, optional
        Of ``huber``.
    dropout : Dropout, optional
    needs : collection of str, optional
        Names of the parameters whose gradients are wanted; backward stops at the lowest block among them. None: all of
        them. ``into`` may lack the others, which are not touched; a fresh mapping does.
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
    where = "tcn_stack.loss_and_grads"
    call = _check_loss(where, params, x, targets, sample_weight, dilations, loss, last, delta, dropout, threads)
    needs = check_needs(where, needs, call["params"])
    shapes = {name: value for name, value in call["params"].items() if name in needs}
    if into is None:
        into = {name: contract.zeros(value.shape, value.dtype, value) for name, value in shapes.items()}
    for name, value in shapes.items():
        if name not in into:
            raise ConfigError(f"{where}: into must have an array for every parameter needed, got none for {name}")
        contract.target(where, f"into[{name!r}]", into[name], value.shape, value.dtype, value)
    module = contract.backend(where, backend, call["params"]["head.weight"], **call["params"])
    return Result(module.loss_and_grads(into=into, needs=needs, workspace=workspace, **call), into)


def loss(params, x, targets, sample_weight=None, *, dilations, loss, last=False, delta=None, dropout=None,
         workspace=None, backend=None, threads=None):  # fmt: skip
    """The loss of `loss_and_grads` without the gradients.

    Returns
    -------
    float
    """
    where = "tcn_stack.loss"
    call = _check_loss(where, params, x, targets, sample_weight, dilations, loss, last, delta, dropout, threads)
    module = contract.backend(where, backend, call["params"]["head.weight"], **call["params"])
    return module.loss_and_grads(into=None, needs=frozenset(), workspace=workspace, **call)


def predict(params, x, *, dilations, last=False, workspace=None, backend=None, threads=None):
    """Predictions, without dropout.

    Returns
    -------
    (B, T, O) array, or (B, O) if ``last``
    """
    where = "tcn_stack.predict"
    params, dilations = _check(where, params, dilations)
    x = _input(where, x, params)
    head = params["head.weight"]
    module = contract.backend(where, backend, head, **params)
    out = contract.empty(None, "out", (len(x), 1 if last else x.shape[1], head.shape[1]), head.dtype, head)
    module.predict(out, params, x, dilations=dilations, last=bool(last), workspace=workspace,
                   threads=contract.threads(where, threads))  # fmt: skip
    return out.reshape(len(x), head.shape[1]) if last else out


def init_state(params, batch=1, *, dilations, backend=None, threads=None):
    """State of ``batch`` streams that begin with silence, for `step`.

    The parameters are packed once and kept: a stream goes on with those that it was made with.

    Returns
    -------
    state
        With ``copy()``, ``reset()``, ``time``, ``history()`` and ``set_history()``.
    """
    where = "tcn_stack.init_state"
    params, dilations = _check(where, params, dilations)
    batch = contract.whole(where, "batch", batch)
    module = contract.backend(where, backend, params["head.weight"], **params)
    return module.init_state(params, batch, dilations=dilations, threads=contract.threads(where, threads))


def step(x, state, *, out=None):
    """Predictions after each of some more rows; any number of them. The state is changed in place.

    In pieces of any sizes this equals one pass over all rows.

    Parameters
    ----------
    x : (B, n, C) array of floats or (B, n) array of ints
    state
        From `init_state`.
    out : (B, n, O) array, optional

    Returns
    -------
    (B, n, O) array
    """
    where = "tcn_stack.step"
    x = _input(where, x, state.params)
    if len(x) != state.batch:
        raise ShapeError(f"{where}: x must have {state.batch} streams, as the state, got {x.shape}")
    shape, dtype = (*x.shape[:2], len(state.params["head.bias"])), state.params["head.weight"].dtype
    out = contract.output(where, "out", out, shape, dtype, None, [("the state", state.params["head.bias"])])
    state.step(x, out)
    return out


# ---- checks ----------------------------------------------------------------------------------------------------------
def _check(where, params, dilations):
    """Parameters, C-contiguous, and dilations."""
    dilations = check_dilations(dilations, 1, where)
    try:
        kernel, inputs, _ = params["blocks.0.conv.0.weight"].shape
        channels = [params[f"blocks.{i}.conv.1.weight"].shape[2] for i in range(len(dilations))]
        outputs = params["head.weight"].shape[1]
        classes = len(params["input.embedding"]) if "input.embedding" in params else 0
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{where}: params must have the names and ranks of a TCN of {len(dilations)} blocks: {error}"
        ) from None
    shapes = parameter_shapes(inputs=inputs, channels=channels, kernel_size=kernel, outputs=outputs, classes=classes)
    dtype, checked = params["head.weight"].dtype, {}
    for name, shape in shapes.items():
        if name not in params:
            raise ConfigError(f"{where}: params must have {name}, got none")
        checked[name] = contract.floats(where, name, params[name], shape, dtype, like="head.weight")
    if f"blocks.{len(dilations)}.conv.0.weight" in params:
        raise ConfigError(f"{where}: params must have {len(dilations)} blocks, as there are dilations; got more")
    return checked, dilations


def check_needs(where, needs, params):
    """The names whose gradients are needed, as a set."""
    if needs is None:
        return frozenset(params)
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise ConfigError(f"{where}: needs must be a collection of names, got {needs!r}")
    for name in needs:
        if name not in params:
            near = difflib.get_close_matches(str(name), params, 1, 0)[0]
            raise ConfigError(f"{where}: needs must name parameters, such as {near!r}, got {name!r}")
    return frozenset(needs)


def _input(where, x, params):
    if "input.embedding" in params:
        x = contract.integers(where, "x", x, ("B", "T"))
        contract.in_range(where, "x", x, len(params["input.embedding"]))
    else:
        inputs = params["blocks.0.conv.0.weight"].shape[1]
        x = contract.floats(where, "x", x, ("B", "T", inputs), params["head.weight"].dtype, like="head.weight")
    contract.not_beyond(where, "x", x, params["head.weight"])
    return x


def _without_unseen(x, shares, params, dilations):
    """The input with zeros in rows that no prediction of a weight above 0 sees: those may hold NaN."""
    time, counts = x.shape[1], shares != 0
    if counts.all():
        return x
    if shares.ndim == 1:  # only the last row's prediction
        seen = np.repeat(counts[:, None], time, axis=1)
    else:
        field = 1 + 2 * (params["blocks.0.conv.0.weight"].shape[0] - 1) * sum(dilations)
        places = np.where(counts, np.arange(time), 2 * time + field)  # of the first row from here on that counts
        following = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
        seen = following - np.arange(time) < field
    held = contract.on_host(x)
    if np.isfinite(held[~seen]).all():
        return x
    return contract.placed(None, "x", np.where(seen[..., None], held, held.dtype.type(0)), x)


def _check_loss(where, params, x, targets, sample_weight, dilations, loss, last, delta, dropout, threads):
    params, dilations = _check(where, params, dilations)
    x = _input(where, x, params)
    if loss not in LOSSES:
        raise ConfigError(f"{where}: loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if delta is not None and loss != "huber":
        raise ConfigError(f"{where}: delta must be None for {loss}, got {delta!r}")
    delta = checks.number(where, "delta", 1.0 if delta is None else delta, "a number above 0", lambda d: d > 0)
    outputs, dtype = len(params["head.bias"]), params["head.weight"].dtype
    rows = x.shape[:1] if last else x.shape[:2]
    if loss == "cross_entropy":
        targets = contract.integers(where, "targets", targets, rows)
        contract.in_range(where, "targets", targets, outputs)
    else:
        targets = contract.floats(where, "targets", targets, (*rows, outputs), dtype, like="head.weight")
    contract.not_beyond(where, "targets", targets, params["head.weight"])
    parts = 1 if loss == "cross_entropy" else outputs
    shares = contract.shares(where, sample_weight, np.empty(rows, dtype), parts)
    if loss == "binary":
        contract.between(where, "targets", targets, 0, 1, shares)
    if sample_weight is not None and "input.embedding" not in params:
        x = _without_unseen(x, shares, params, dilations)
    if dropout is not None:
        rate = checks.number(where, "rate", dropout.rate, "a number in [0, 1)", lambda r: 0 <= r < 1)
        seed, step = (contract.whole(where, n, getattr(dropout, n), 0) for n in ("seed", "step"))
        if max(seed, step) >= 2**63:
            raise ConfigError(f"{where}: seed and step of the dropout must be below 2**63, got {seed} and {step}")
        dropout = Dropout(rate, seed, step, bool(dropout.channels)) if rate > 0 else None
    return {
        "params": params, "x": x, "targets": targets, "shares": shares, "dilations": dilations, "loss": loss,
        "last": bool(last), "delta": delta, "dropout": dropout, "threads": contract.threads(where, threads),
    }  # fmt: skip
