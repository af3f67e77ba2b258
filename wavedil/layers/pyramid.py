"""Atrous spatial pyramid pooling, over time or over images: several dilations side by side.

Branches look at the same input at different distances, and a 1x1 convolution mixes what they found::

    f = [ x pointwise | conv(x, dilation r_0) | conv(x, dilation r_1) | ... | mean(x) pool ]
    y = relu(f) project

each with a bias. It is the pyramid of DeepLabv3 [1]_, section 3.3, without batch norm. The last branch is the mean of
the whole sequence or image, the same at every position; with ``padding="causal"`` it is the mean of all rows so far, so
that the pyramid can be streamed with `step`. Sequences are ``(B, T, C)``, images ``(B, H, W, C)``; in causal images the
rows are time.

.. [1] Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587.
"""

from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError, ShapeError
from wavedil.layers.means import mean_gradient, mean_of_all, running_mean
from wavedil.ops import contract, conv1d, conv2d
from wavedil.parameters.store import Parameters

ACTIVATIONS = ("relu", None)


class Saved(NamedTuple):
    """What backward needs; the arrays are borrowed."""

    x: np.ndarray
    causal: bool
    activation: str | None
    branches: tuple  # Saved of each convolution, in the order of the features
    features: np.ndarray  # (B, ..., (R + 2) D), after the activation
    project: conv1d.Saved


class State(NamedTuple):
    """The past of a stream, owned by the caller and changed in place by `step`."""

    rates: tuple  # State of each dilated convolution
    total: np.ndarray  # (B, C) of float64, the sum of all rows so far
    count: np.ndarray  # (1,) int64, the rows so far


def shapes(inputs, channels, outputs, *, rates, kernel_size=3, axes=1):
    """Names and shapes of the parameters.

    Parameters
    ----------
    inputs, channels, outputs : int
        Channels of x, of each branch, and of y.
    rates : sequence of int (or of pairs, in two dimensions)
        The dilation of each dilated branch.
    kernel_size : int
        Taps of a dilated branch along each axis.
    axes : {1, 2}
        Of a sequence or an image.

    Returns
    -------
    dict
        ``pointwise.weight``, ``rates.i.weight``, ``pool.weight`` and ``project.weight``, each with its ``.bias``.
    """
    where = "pyramid.shapes"
    sizes = (("inputs", inputs), ("channels", channels), ("outputs", outputs), ("kernel_size", kernel_size))
    inputs, channels, outputs, kernel_size = (contract.whole(where, name, value) for name, value in sizes)
    if axes not in (1, 2):
        raise ConfigError(f"{where}: axes must be 1 or 2, got {axes!r}")
    count = len(_rates(where, rates))
    found = {"pointwise.weight": (inputs, channels)}
    found |= {f"rates.{i}.weight": (*(kernel_size,) * axes, inputs, channels) for i in range(count)}
    found |= {"pool.weight": (inputs, channels), "project.weight": ((count + 2) * channels, outputs)}
    return {
        name: size
        for weight, shape in found.items()
        for name, size in ((weight, shape), (weight.replace("weight", "bias"), shape[-1:]))
    }


def parameters(inputs, channels, outputs, *, rates, kernel_size=3, axes=1, seed=0, dtype="float32"):
    """Parameters to start from: normal weights of variance 2 / fan-in (He et al., arXiv:1502.01852), biases of zero.

    Parameters
    ----------
    inputs, channels, outputs, rates, kernel_size, axes
        As in `shapes`.
    seed : int
    dtype : {"float32", "float64"}

    Returns
    -------
    Parameters
    """
    params = Parameters(shapes(inputs, channels, outputs, rates=rates, kernel_size=kernel_size, axes=axes), dtype)
    rng = np.random.default_rng(seed)
    for name, array in params.items():
        if name.endswith("weight"):
            array[...] = rng.standard_normal(array.shape) * np.sqrt(2 / np.prod(array.shape[:-1]))
    return params


def forward(x, params, *, rates, padding="same", activation="relu", backend=None, threads=None):
    """Look at each position's surroundings at several distances, and mix what was found.

    ``y = relu([x pointwise | conv(x, r_0) | ... | mean(x) pool]) project``; see the module's page.

    Parameters
    ----------
    x : (B, T, C) or (B, H, W, C) array of floats
    params : mapping of name to array
        Of `parameters`, or with the names and shapes of `shapes`.
    rates : sequence of int (or of pairs, in two dimensions)
        The dilation of each dilated branch.
    padding : {"same", "causal"}
        Of the dilated branches; "causal" also makes the mean that of all rows so far.
    activation : {"relu", None}
        Of the branches, before they are mixed.
    backend, threads
        As in `wavedil.ops.conv1d.forward`.

    Returns
    -------
    y : (B, T, N) or (B, H, W, N) array
    saved : Saved

    Raises
    ------
    ShapeError, DTypeError
        If the arrays do not fit each other.
    ConfigError
        If a setting is out of range, or a parameter is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from wavedil.layers import pyramid
    >>> params = pyramid.parameters(4, 8, 2, rates=(1, 4, 16))
    >>> y, saved = pyramid.forward(np.ones((1, 100, 4), np.float32), params, rates=(1, 4, 16), padding="causal")
    >>> y.shape
    (1, 100, 2)
    """
    where = "pyramid.forward"
    x, rates = _check(where, x, params, rates, activation)
    if padding not in ("same", "causal"):
        raise ConfigError(f"{where}: padding must be 'same' or 'causal', got {padding!r}")
    options = {"backend": backend, "threads": threads}
    causal = padding == "causal"
    found = [_point(x, params, "pointwise", options)]
    for i, rate in enumerate(rates):
        weights = params[f"rates.{i}.weight"], params[f"rates.{i}.bias"]
        found.append(_conv(x).forward(x, *weights, dilation=rate, padding=padding, **options))
    mean = running_mean(x, np.zeros((x.shape[0], x.shape[-1])), 0) if causal else mean_of_all(x)
    found.append(_point(mean, params, "pool", options))
    y, features, project = _mix([y for y, _ in found], x, params, activation, options)
    return y, Saved(x, causal, activation, tuple(saved for _, saved in found), features, project)


def backward(dy, saved, *, into=None, backend=None, threads=None):
    """Gradients of a loss with respect to x and the parameters, given ``dy``, the one with respect to y.

    Parameters
    ----------
    dy : array of the shape of y
    saved : Saved
    into : mapping of name to array, optional
        Gradients of parameters to add to (``+=``), such as ``params.like()``; fresh ones by default.
    backend, threads
        As in `forward`.

    Returns
    -------
    dx : array of the shape of x
    grads : mapping of name to array
        ``into`` itself, if given.

    Raises
    ------
    ShapeError, DTypeError
        If ``dy`` or ``into`` does not fit.
    """
    where = "pyramid.backward"
    x, options = saved.x, {"backend": backend, "threads": threads}
    outputs = saved.project.w.shape[-1]
    dy = contract.floats(where, "dy", dy, (*x.shape[:-1], outputs), x.dtype)
    names = ["pointwise", *(f"rates.{i}" for i in range(len(saved.branches) - 2)), "pool"]
    grads = {} if into is None else into

    def keep(name, found):
        for part, gradient in (("weight", found.w), ("bias", found.b)):
            key = f"{name}.{part}"
            shape = gradient.shape
            if part == "weight" and name in ("pointwise", "pool", "project"):
                shape = shape[1:]
            if into is None:
                grads[key] = gradient.reshape(shape)
            else:
                if key not in into:
                    raise ConfigError(f"{where}: into must have {key}, got {sorted(into)}")
                contract.target(where, f"into[{key!r}]", into[key], shape, x.dtype)
                target = into[key]
                target += gradient.reshape(shape)

    mixed = conv1d.backward(dy.reshape(x.shape[0], -1, outputs), saved.project, **options)
    d_features = mixed.x.reshape(saved.features.shape)
    if saved.activation == "relu":
        d_features *= saved.features > 0
    width = saved.features.shape[-1] // len(names)
    dx = np.zeros_like(x)
    for k, (name, branch) in enumerate(zip(names, saved.branches, strict=True)):
        d_branch = d_features[..., k * width : (k + 1) * width]
        if name == "pool":
            # The mean was spread over all positions (of a row, if causal): its gradient is the sum over them.
            axes = tuple(range(2 if saved.causal else 1, x.ndim - 1))
            d_branch = d_branch.sum(axes).reshape(x.shape[0], -1, width)
        if name in ("pointwise", "pool"):
            found = conv1d.backward(np.ascontiguousarray(d_branch).reshape(x.shape[0], -1, width), branch, **options)
        else:
            found = _conv(x).backward(np.ascontiguousarray(d_branch), branch, **options)
        dx += mean_gradient(found.x, x, saved.causal) if name == "pool" else found.x.reshape(x.shape)
        keep(name, found)
    keep("project", mixed)
    return dx, grads


def init_state(batch, params, *, rates, width=None):
    """The state of a causal stream that starts with silence.

    Parameters
    ----------
    batch : int
    params : mapping of name to array
    rates : as in `forward`
    width : int, optional
        Columns of the rows, in two dimensions.

    Returns
    -------
    State
    """
    where = "pyramid.init_state"
    rates, batch = _rates(where, rates), contract.whole(where, "batch", batch)
    states = []
    for i, rate in enumerate(rates):
        w = _parameter(where, params, f"rates.{i}.weight")
        if w.ndim == 3:
            states.append(conv1d.init_state(batch, w, dilation=rate))
        else:
            states.append(conv2d.init_state(batch, contract.whole(where, "width", width), w, dilation=rate))
    channels = _parameter(where, params, "pointwise.weight").shape[0]
    return State(tuple(states), np.zeros((batch, channels)), np.zeros(1, np.int64))


def step(x, state, params, *, rates, activation="relu", backend=None):
    """The pyramid of the next rows of a stream: what causal `forward` gives for these rows after all earlier ones.

    Parameters
    ----------
    x : (B, n, C) or (B, n, W, C) array of floats
        Any number of rows from 1 up.
    state : State
        Of `init_state`; changed in place.
    params, rates, activation, backend
        As in `forward`.

    Returns
    -------
    y : (B, n, N) or (B, n, W, N) array

    Raises
    ------
    ShapeError, DTypeError, ConfigError
        As `forward` does, or if the state is not one of these sizes.
    """
    where = "pyramid.step"
    x, rates = _check(where, x, params, rates, activation)
    if len(state.rates) != len(rates):
        raise ConfigError(f"{where}: state must be of {len(rates)} rates, got {len(state.rates)}")
    contract.target(where, "state.total", state.total, (x.shape[0], x.shape[-1]), np.float64)
    options = {"backend": backend, "threads": 1}
    found = [_point(x, params, "pointwise", options)[0]]
    for i, rate in enumerate(rates):
        weights = params[f"rates.{i}.weight"], params[f"rates.{i}.bias"]
        found.append(_conv(x).step(x, state.rates[i], *weights, dilation=rate, backend=backend))
    found.append(_point(running_mean(x, state.total, int(state.count[0])), params, "pool", options)[0])
    state.count[0] += x.shape[1]
    return _mix(found, x, params, activation, options)[0]


# ---- parts -----------------------------------------------------------------------------------------------------------
def _conv(x):
    return conv1d if x.ndim == 3 else conv2d


def _point(x, params, name, options):
    """A 1x1 convolution of all positions, (B, positions, channels)."""
    rows = np.ascontiguousarray(x).reshape(x.shape[0], -1, x.shape[-1])
    return conv1d.forward(rows, params[f"{name}.weight"][None], params[f"{name}.bias"], **options)


def _mix(found, x, params, activation, options):
    """y, the features, and what backward needs of the mixing, from the branches."""
    width = found[0].shape[-1]
    features = np.empty((*x.shape[:-1], len(found) * width), x.dtype)
    for k, branch in enumerate(found):
        place = features[..., k * width : (k + 1) * width]
        if k == len(found) - 1 and x.ndim == 4:  # the mean, of the image or of each row
            branch = branch[:, :, None]
        place[...] = branch.reshape(place.shape) if k == 0 else branch
    if activation == "relu":
        np.maximum(features, 0, out=features)
    y, project = _point(features, params, "project", options)
    return y.reshape(*x.shape[:-1], y.shape[-1]), features, project


# ---- checks ----------------------------------------------------------------------------------------------------------
def _rates(where, rates):
    if not isinstance(rates, tuple | list) or not rates:
        raise ConfigError(f"{where}: rates must be a sequence of dilations, got {rates!r}")
    for rate in rates:
        for number in rate if isinstance(rate, tuple | list) else (rate,):
            contract.whole(where, "rates", number)
    return rates


def _parameter(where, params, name):
    if name not in params:
        raise ConfigError(f"{where}: params must have {name}, got {sorted(params)}")
    return params[name]


def _check(where, x, params, rates, activation):
    """Every array against the shapes that follow from the first dilated branch."""
    rates = _rates(where, rates)
    if activation not in ACTIVATIONS:
        raise ConfigError(f"{where}: activation must be 'relu' or None, got {activation!r}")
    w = _parameter(where, params, "rates.0.weight")
    if getattr(w, "ndim", 0) not in (3, 4):
        raise ShapeError(
            f"{where}: params['rates.0.weight'] must be (K, C, D) or (kh, kw, C, D), got {getattr(w, 'shape', w)}"
        )
    inputs, channels = w.shape[-2:]
    contract.host_only(where, "x", x)
    x = contract.floats(where, "x", x, ("B", *("T" if w.ndim == 3 else "HW"), inputs))
    wanted = {"pointwise": (inputs, channels), "pool": (inputs, channels)}
    wanted |= {f"rates.{i}": w.shape for i in range(len(rates))}
    wanted["project"] = ((len(rates) + 2) * channels, "N")
    for name, shape in wanted.items():
        weight = _parameter(where, params, f"{name}.weight")
        contract.floats(where, f"params['{name}.weight']", weight, shape, x.dtype)
        bias = _parameter(where, params, f"{name}.bias")
        contract.floats(where, f"params['{name}.bias']", bias, weight.shape[-1:], x.dtype)
    return x, rates
