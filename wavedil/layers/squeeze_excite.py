"""Squeeze and excitation: the mean over time decides how loud each channel is.

With ``m`` the mean of ``x`` over the whole sequence or, with ``causal=True``, over all rows so far::

    s = sigmoid(relu(m squeeze) excite)        each with a bias
    y[t] = x[t] s        or x[t] s[t], if causal

It is the block of [1]_, section 3, over time instead of images. The causal form sees no future and can be streamed.

.. [1] Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError
from wavedil.layers.means import mean_gradient, mean_of_all, running_mean
from wavedil.ops import activation, contract, conv1d
from wavedil.parameters.store import Parameters


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray
    scale: np.ndarray  # (B, 1, C) or (B, T, C)
    causal: bool
    stages: tuple  # Saved of squeeze, relu, excite and sigmoid


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    total: np.ndarray  # (B, C) of float64, the sum of all rows so far
    count: np.ndarray  # (1,) int64, the rows so far


def shapes(channels, hidden):
    """Names and shapes of the parameters.

    Parameters
    ----------
    channels, hidden : int
        Channels of x, and of the bottleneck: the paper takes a sixteenth of them.

    Returns
    -------
    dict
        ``squeeze.weight (C, M)``, ``squeeze.bias``, ``excite.weight (M, C)``, ``excite.bias``.
    """
    where = "squeeze_excite.shapes"
    channels, hidden = contract.whole(where, "channels", channels), contract.whole(where, "hidden", hidden)
    return {
        "squeeze.weight": (channels, hidden), "squeeze.bias": (hidden,),
        "excite.weight": (hidden, channels), "excite.bias": (channels,),
    }  # fmt: skip


def parameters(channels, hidden, *, seed=0, dtype="float32"):
    """Parameters to start from: normal weights of variance 2 / fan-in (arXiv:1502.01852), biases of zero.

    Parameters
    ----------
    channels, hidden
        As in `shapes`.
    seed : int
    dtype : {"float32", "float64"}

    Returns
    -------
    Parameters
    """
    params = Parameters(shapes(channels, hidden), dtype)
    rng = np.random.default_rng(seed)
    for name, array in params.items():
        if name.endswith("weight"):
            array[...] = rng.standard_normal(array.shape) * np.sqrt(2 / len(array))
    return params


def forward(x, params, *, causal=False, backend=None, threads=None):
    """Scale each channel by what the mean over time asks for.

    ``y = x sigmoid(relu(mean(x) squeeze) excite)``; see the module's page.

    Parameters
    ----------
    x : (B, T, C) array of floats
    params : mapping of name to array
        Of `parameters`, or with the names and shapes of `shapes`.
    causal : bool
        Whether a row's mean is that of the rows up to it.
    backend, threads
        As in `wavedil.ops.conv1d.forward`.

    Returns
    -------
    y : (B, T, C) array
    saved : Saved

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.
    ConfigError
        If a parameter is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.layers import squeeze_excite
    >>> params = squeeze_excite.parameters(8, 2)
    >>> y, saved = squeeze_excite.forward(np.ones((1, 100, 8), np.float32), params, causal=True)
    >>> y.shape
    (1, 100, 8)
    """
    x = _check("squeeze_excite.forward", x, params)
    mean = running_mean(x, np.zeros((len(x), x.shape[2])), 0) if causal else mean_of_all(x)
    scale, stages = _scale(mean, params, backend, threads)
    return x * scale, Saved(x, scale, causal, stages)


def backward(dy, saved, *, into=None, backend=None, threads=None):
    """Gradients of a loss with respect to x and the parameters, given ``dy``, the one with respect to y.

    Parameters
    ----------
    dy : (B, T, C) array
    saved : Saved
    into : mapping of name to array, optional
        Gradients of parameters to add to (``+=``), such as ``params.like()``; fresh ones by default.
    backend, threads
        As in `forward`.

    Returns
    -------
    dx : (B, T, C) array
    grads : mapping of name to array
        ``into`` itself, if given.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        If ``dy`` or ``into`` does not fit.
    """
    where = "squeeze_excite.backward"
    x, scale, causal, (squeeze, relu, excite, sigmoid) = saved
    options = {"backend": backend, "threads": threads}
    dy = contract.floats(where, "dy", dy, x.shape, x.dtype)
    d_scale = dy * x
    if not causal:  # one scale for all rows
        d_scale = d_scale.sum(1, keepdims=True)
    excited = conv1d.backward(activation.backward(d_scale, sigmoid, **options).x, excite, **options)
    squeezed = conv1d.backward(activation.backward(excited.x, relu, **options).x, squeeze, **options)
    found = {
        "squeeze.weight": squeezed.w[0], "squeeze.bias": squeezed.b,
        "excite.weight": excited.w[0], "excite.bias": excited.b,
    }  # fmt: skip
    grads = {} if into is None else into
    for name, gradient in found.items():
        if into is None:
            grads[name] = gradient
            continue
        if name not in into:
            raise ConfigError(f"{where}: into must have {name}, got {sorted(into)}")
        contract.target(where, f"into[{name!r}]", into[name], gradient.shape, x.dtype)
        target = into[name]
        target += gradient
    return dy * scale + mean_gradient(squeezed.x, x, causal), grads


def init_state(batch, channels):
    """The state of a causal stream that has seen nothing.

    Parameters
    ----------
    batch, channels : int

    Returns
    -------
    State
    """
    where = "squeeze_excite.init_state"
    batch, channels = contract.whole(where, "batch", batch), contract.whole(where, "channels", channels)
    return State(np.zeros((batch, channels)), np.zeros(1, np.int64))


def step(x, state, params, *, backend=None):
    """The next rows of a stream: what causal `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    params, backend
        As in `forward`.

    Returns
    -------
    y : (B, n, C) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not of this size.
    """
    where = "squeeze_excite.step"
    x = _check(where, x, params)
    contract.target(where, "state.total", state.total, (x.shape[0], x.shape[2]), np.float64)
    mean = running_mean(x, state.total, int(state.count[0]))
    state.count[0] += x.shape[1]
    return x * _scale(mean, params, backend, 1)[0]


def _scale(mean, params, backend, threads):
    options = {"backend": backend, "threads": threads}
    hidden, squeeze = conv1d.forward(mean, params["squeeze.weight"][None], params["squeeze.bias"], **options)
    hidden, relu = activation.forward(hidden, kind="relu", **options)
    scale, excite = conv1d.forward(hidden, params["excite.weight"][None], params["excite.bias"], **options)
    scale, sigmoid = activation.forward(scale, kind="sigmoid", **options)
    return scale, (squeeze, relu, excite, sigmoid)


def _check(where, x, params):
    contract.host_only(where, "x", x)
    for name in ("squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias"):
        if name not in params:
            raise ConfigError(f"{where}: params must have {name}, got {sorted(params)}")
    weight = contract.floats(where, "squeeze.weight", params["squeeze.weight"], ("C", "M"))
    x = contract.floats(where, "x", x, ("B", "T", weight.shape[0]))
    for name, shape in shapes(*weight.shape).items():
        contract.floats(where, name, params[name], shape, x.dtype)
    return x
