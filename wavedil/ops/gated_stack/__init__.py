"""Gated stack: a whole network in one schedule, from its input to the loss and every gradient.

A network is an input, stacks of residual blocks, and a head, as a `Network` says it (see
`wavedil.ops.gated_stack.network`).
With ``c`` the condition, ``z`` of a block's channels and each convolution padded with zeros on the left::

    h[0] = embedding[code],  or  x W (+ b) of real rows
    pre = conv(h[i]; dilation[i]) + c condition[i]
    z = tanh(first half of pre) sigmoid(second half),  or  activation(pre)
    h[i + 1] = h[i] + residual[i](z)
    s = sum over i of skip[i](z),  or of z itself
    outputs = head.1(relu(head.0(relu(s)))),  or  conv(s; head)
    loss = sum(sample_weight * loss of a row) / sum(sample_weight)        in nats, or a mean square

Between two stacks h goes through a 1x1 convolution, ``joins.k.input``, and s through ``joins.k.skip``, which makes the
start of the next sum of it. A WaveNet equals the composition of ``embedding``, ``gated_block``, ``conv1d`` and
``cross_entropy``, which a test shows, but keeps what those hand to each other in the cache (arXiv:1609.03499,
section 2); several stacks, real rows and plain activations are those of Neural Amp Modeler.

Parameters are a mapping of names to arrays, with ``R, D, S, E, Q`` for the numbers of residual, gate, skip and end
channels and outputs, ``K`` taps and ``Cc`` condition channels. ``W`` is 2D if a block is gated, else D. Blocks are
numbered through all stacks.

================================  ============  =================================================================
``input.embedding``               (classes, R)  of codes
``input.weight``, ``.bias``       (C, R), (R,)  of real rows; the bias only if the input says so
``blocks.i.conv.weight``          (K, R, W)     of a gate the first D columns are tanh, the last sigmoid; the last
                                                tap is now
``blocks.i.conv.bias``            (W,)
``blocks.i.condition.weight``     (Cc, W)       only if there is a condition; ``.bias`` (W,) if it says so
``blocks.i.residual.weight``      (D, R)        the last block's reaches no output: its gradient is zero
``blocks.i.residual.bias``        (R,)
``blocks.i.skip.weight``          (D, S)        only if the stack has skip channels
``blocks.i.skip.bias``            (S,)
``joins.k.input.weight``          (R, R')       before stack k, from 1 on
``joins.k.skip.weight``           (1, S, S')    ``.bias`` (S',) if the network says so
``head.0.weight``, ``.bias``      (S, E), (E,)  of a head with end channels
``head.1.weight``, ``.bias``      (E, Q), (Q,)
``head.weight``, ``.bias``        (K, S, Q)     of a head that is one convolution
================================  ============  =================================================================
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError
from wavedil.ops import contract
from wavedil.ops.gated_stack.arguments import (
    checked,
    checked_into,
    checked_needs,
    checked_targets,
    checked_weight,
    half_or_not,
)
from wavedil.ops.gated_stack.heads import Gaussian, Logistics, Regression, Softmax, mulaw_cell_bits
from wavedil.ops.gated_stack.network import (
    ACTIVATIONS,
    INTERPOLATIONS,
    Codes,
    Condition,
    Network,
    Samples,
    Stack,
    wavenet,
)
from wavedil.ops.gated_stack.streams import init_state, part_of_condition, sample, step, step_features

__all__ = [
    "ACTIVATIONS", "INTERPOLATIONS", "Codes", "Condition", "Gaussian", "Grads", "Logistics", "Network", "Regression",
    "Result", "Samples", "Saved", "Softmax", "Stack", "backward", "forward", "init_state", "loss", "loss_and_grads",
    "mulaw_cell_bits", "part_of_condition", "sample", "step", "step_features", "wavenet",
]  # fmt: skip


class Result(NamedTuple):
    """What `loss_and_grads` returns."""

    loss: float  # nats, or what the head's loss is in
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


def loss_and_grads(params, inputs, targets=None, sample_weight=None, into=None, *, network, condition=None,
                   recompute=False, needs=None, half_activations=False, workspace=None, backend=None,
                   threads=None):  # fmt: skip
    """Mean loss of the rows, and the gradient of every parameter that is needed.

    Backward stops at the lowest layer that needs something, and layers below it keep nothing for it. A gradient has the
    same bits whatever else is needed.

    Parameters
    ----------
    params : mapping of str to array
        See the module. All of one dtype, float32 or float64, in one place. Inputs, targets and weights may stay on the
        host though the parameters are on a device: they are copied to it.
    inputs : (B, T) array of ints in [0, classes), or (B, T, C) array of floats
        What is fed.
    targets : (B, T) array of ints, or (B, T, columns) array of floats, optional
        What row t is to predict; the head says how many columns that are. If it is left out, ``inputs (B, T + 1)`` are
        codes, each of which predicts the next.
    sample_weight : (B, T) array, optional
        How much each row counts: not negative, with a positive sum. A row of weight 0 counts for nothing, whatever
        its target is. None: all the same.
    into : mapping like params, optional
        Gradients are added to these arrays (``+=``).
    network : Network
    condition : (B, Cc), (B, T, Cc) or (B, F, Cc) array, optional
        Global, for each row, or frames (see `Condition`).
    recompute : bool
        Keep only each layer's input, and compute the gates a second time in the backward pass: a third of the memory.
    needs : collection of str, optional
        Names of the parameters whose gradients are wanted, and ``"condition"`` for that of the condition, for which all
        layers must run. None: all of them. ``into`` may lack the others, which are not touched; a fresh mapping does.
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
    params, inputs, targets, condition = checked_targets(where, network, params, inputs, targets, condition)
    like = next(iter(params.values()))
    weights = checked_weight(where, sample_weight, inputs.shape[:2], like)
    needs = checked_needs(where, needs, params, condition)
    into = checked_into(where, into, params, needs)
    module = contract.backend(where, backend, like, **params, condition=condition)
    loss, dcondition = module.loss_and_grads(
        params, inputs, targets, weights, into, network=network, condition=condition, recompute=bool(recompute),
        needs=needs, half_activations=half_or_not(where, half_activations, like, module), workspace=workspace,
        threads=contract.threads(where, threads),
    )  # fmt: skip
    return Result(loss, into, dcondition)


def loss(params, inputs, targets=None, sample_weight=None, *, network, condition=None, backend=None, threads=None):
    """The loss of `loss_and_grads` without the gradients, in memory that does not grow with T.

    The parameters, errors and (on one backend) the bits are those of `loss_and_grads`.

    Returns
    -------
    float
        Nats, or what the head's loss is in.
    """
    where = "gated_stack.loss"
    params, inputs, targets, condition = checked_targets(where, network, params, inputs, targets, condition)
    like = next(iter(params.values()))
    weights = checked_weight(where, sample_weight, inputs.shape[:2], like)
    module = contract.backend(where, backend, like, **params, condition=condition)
    return module.loss(
        params, inputs, targets, weights, network=network, condition=condition,
        threads=contract.threads(where, threads),
    )  # fmt: skip


def forward(params, inputs, *, network, condition=None, recompute=False, needs=None, half_activations=False, out=None,
            workspace=None, backend=None, threads=None):  # fmt: skip
    """The trunk alone, for other heads: the sum of the skip outputs of all blocks, before the head's first ReLU.

    In the same schedule and with the same kernels as `loss_and_grads`; `backward` takes it from there.

    Parameters
    ----------
    params : mapping of str to array
        See the module.
    inputs : (B, T) array of ints in [0, classes), or (B, T, C) array of floats
    network : Network
        Without a head.
    condition, recompute, half_activations, threads
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
        For one `backward`; valid until the workspace's next `forward`. Parameters and inputs must not change before.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If an argument does not fit the others; the message names it, the expectation and what came.
    """
    where = "gated_stack.forward"
    if getattr(network, "head", None) is not None:
        raise ConfigError(f"{where}: network must have no head, such as network.without_head(), got one")
    params, inputs, condition = checked(where, network, params, inputs, condition)
    like = next(iter(params.values()))
    needs = checked_needs(where, needs, params, condition)
    shape = (*inputs.shape[:2], network.feature_channels)
    module = contract.backend(where, backend, like, **params, condition=condition)
    half = half_or_not(where, half_activations, like, module)
    out = contract.output(where, "out", out, shape, like.dtype, workspace, [*params.items(), ("condition", condition)])
    kept = module.forward(
        params, inputs, out, network=network, condition=condition, recompute=bool(recompute), needs=needs,
        half_activations=half, workspace=workspace, threads=contract.threads(where, threads),
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
    like = next(iter(saved.params.values()))
    dskips = contract.floats(where, "dskips", dskips, saved.shape, like.dtype, like="the skip sum")
    contract.same_place(where, "dskips", dskips, like)
    given, needs = needs, saved.needs if needs is None else checked_needs(where, needs, saved.params, saved.condition)
    for name in needs - saved.needs:
        raise ConfigError(f"{where}: needs must be some of those of forward, got {given!r} with {name!r}")
    into = checked_into(where, into, saved.params, needs)
    threads = contract.threads(where, threads)
    return Grads(into, saved.backend.backward(dskips, saved.kept, into, needs=needs, threads=threads))
