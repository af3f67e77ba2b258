r"""Update: one optimizer step on flat buffers, in one pass, with clipping and an average of the weights fused in.

With weights :math:`w`, gradients :math:`g`, the learning rate :math:`\eta` and a factor :math:`s` on the gradients
(from clipping, and from averaging over accumulated batches), at step :math:`t = 1, 2, \dots`:

SGD with momentum (Polyak's heavy ball)

.. math:: v \leftarrow \mu v + s g, \qquad w \leftarrow w - \eta v

and with Nesterov's momentum (Sutskever et al., ICML 2013, equations 3 and 4, with the gradient taken at the weights
themselves, as deep learning frameworks do)

.. math:: v \leftarrow \mu v + s g, \qquad w \leftarrow w - \eta (s g + \mu v)

Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1)

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) s g, \qquad
    v \leftarrow \beta_2 v + (1 - \beta_2) (s g)^2 \\
    w &\leftarrow w - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

AMSGrad (Reddi et al., arXiv:1904.09237, algorithm 2): Adam in which the mean square never falls. With
:math:`u \leftarrow \max(u, v)`, :math:`u` takes the place of :math:`v` in the last line. (The paper leaves out the two
corrections :math:`1 - \beta^t`; they are kept here.)

AdamW (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2): Adam, and the weights shrink by themselves

.. math:: w \leftarrow w - \eta \lambda w - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

Clipping by the global norm (Pascanu et al., arXiv:1211.5063, algorithm 1)

.. math:: s = \min(1, c / \lVert g \rVert_2)

Average of the weights, after each step (arXiv:1412.6980, section 7.2)

.. math:: a \leftarrow d \, a + (1 - d) w

This family has no backward and no stream step. All arrays are 1-D, contiguous, of one dtype (float32 or float64) and
one size; weights, moments and average are updated in place (``=``), gradients are only read. Zeros everywhere stay
zeros, so the padding of a `Parameters` buffer needs no care. The cut into chunks depends on the size alone: any number
of threads gives the same bits.
"""

import math

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, ShapeError
from wavedil.kernels import pool
from wavedil.ops import contract


def global_norm(x, *, threads=None, backend=None) -> float:
    """Return the Euclidean norm of a flat buffer, :math:`\\sqrt{\\sum_i x_i^2}`.

    The sum is taken in float64, so that a float32 buffer neither overflows nor loses digits: the norm is finite
    exactly when all elements are (for float32).

    Parameters
    ----------
    x : ndarray, shape (n,)
    threads : int, optional
        Changes the time taken and no bit of the result; None is one a core.
    backend : {None, "cpu", "cuda", "reference"}

    Returns
    -------
    float
        NaN or infinity if an element is.
    """
    arrays = {"x": x}
    kernels, threads = _door("update.global_norm", arrays, threads, backend)
    return float(kernels.global_norm(arrays["x"], threads))


def clip_scale(norm: float, clip: float | None) -> float:
    """Return the factor that brings a gradient of this norm to at most `clip`: ``min(1, clip / norm)``.

    Parameters
    ----------
    norm : float
        Global norm of the gradients.
    clip : float or None
        Largest norm allowed, positive; None does not clip.

    Raises
    ------
    ConfigError
        If ``clip`` is not a number above 0.
    """
    if clip is None:
        return 1.0
    clip = checks.number("update.clip_scale", "clip", clip, "a number above 0", lambda c: c > 0)
    if norm <= clip:
        return 1.0
    return clip / norm


def sgd(
    weights,
    grads,
    velocity=None,
    average=None,
    *,
    lr,
    momentum=0.0,
    nesterov=False,
    scale=1.0,
    decay=0.0,
    threads=None,
    backend=None,
) -> None:
    """Take one step of gradient descent with momentum, in place.

    Parameters
    ----------
    weights, grads : ndarray, shape (n,)
    velocity : ndarray, shape (n,), optional
        Running sum of gradients, zeros at first; needed if `momentum` is not 0.
    average : ndarray, shape (n,), optional
        Moving average of the weights.
    lr : float
        Learning rate, at least 0.
    momentum : float
        In [0, 1).
    nesterov : bool
        Nesterov's momentum instead of the heavy ball.
    scale : float
        Factor on the gradients.
    decay : float
        How much of `average` is kept in each step, in [0, 1).
    threads : int, optional
        Changes the time taken and no bit of the result; None is one a core.
    backend : {None, "cpu", "cuda", "reference"}

    Raises
    ------
    ShapeError, DTypeError, ConfigError
    """
    arrays = {"weights": weights, "grads": grads, "velocity": velocity, "average": average}
    where = "update.sgd"
    kernels, threads = _door(where, arrays, threads, backend)
    _number(where, "lr", lr, math.inf)
    _number(where, "momentum", momentum, 1)
    _number(where, "scale", scale, math.inf)
    _number(where, "decay", decay, 1)
    if velocity is None and momentum:
        raise ConfigError(f"{where}: momentum {momentum} needs velocity, got None")
    kernels.sgd(*arrays.values(), lr, momentum, bool(nesterov), scale, decay, threads)


def adam(
    weights,
    grads,
    first,
    second,
    average=None,
    largest=None,
    *,
    step,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    scale=1.0,
    decay=0.0,
    threads=None,
    backend=None,
) -> None:
    """Take one step of Adam, in place.

    Parameters
    ----------
    weights, grads : ndarray, shape (n,)
    first, second : ndarray, shape (n,)
        Running means of the gradients and of their squares, zeros at first.
    average : ndarray, shape (n,), optional
        Moving average of the weights.
    largest : ndarray, shape (n,), optional
        The largest `second` so far, zeros at first: makes it AMSGrad.
    step : int
        Number of this step, from 1.
    lr : float
        Learning rate, at least 0.
    betas : (float, float)
        How much of `first` and `second` is kept in each step, each in [0, 1).
    eps : float
        Positive, in the dtype of the arrays too.
    scale : float
        Factor on the gradients.
    decay : float
        How much of `average` is kept in each step, in [0, 1).
    threads : int, optional
        Changes the time taken and no bit of the result; None is one a core.
    backend : {None, "cpu", "cuda", "reference"}

    Raises
    ------
    ShapeError, DTypeError, ConfigError
    """
    moments = {"first": first, "second": second, "largest": largest}
    arrays = {"weights": weights, "grads": grads, **moments, "average": average}
    _adam("adam", arrays, step, lr, betas, eps, 0.0, scale, decay, threads, backend)


def adamw(
    weights,
    grads,
    first,
    second,
    average=None,
    largest=None,
    *,
    step,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.01,
    scale=1.0,
    decay=0.0,
    threads=None,
    backend=None,
) -> None:
    """Take one step of AdamW, in place: `adam`, and each weight shrinks by ``lr * weight_decay`` of itself.

    Parameters
    ----------
    weights, grads, first, second, average, largest, step, lr, betas, eps, scale, decay, threads, backend
        As in `adam`.
    weight_decay : float
        At least 0.

    Raises
    ------
    ShapeError, DTypeError, ConfigError
    """
    moments = {"first": first, "second": second, "largest": largest}
    arrays = {"weights": weights, "grads": grads, **moments, "average": average}
    _number("update.adamw", "weight_decay", weight_decay, math.inf)
    _adam("adamw", arrays, step, lr, betas, eps, weight_decay, scale, decay, threads, backend)


def _adam(op, arrays, step, lr, betas, eps, weight_decay, scale, decay, threads, backend) -> None:
    where = f"update.{op}"
    for moment in ("first", "second"):
        if arrays[moment] is None:
            raise ShapeError(f"{where}: {moment} must be an array like weights, got None")
    kernels, threads = _door(where, arrays, threads, backend)
    step = contract.whole(where, "step", step)
    _number(where, "lr", lr, math.inf)
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ConfigError(f"{where}: betas must be two numbers, got {betas!r}")
    for beta in betas:
        _number(where, "betas", beta, 1)
    _number(where, "eps", eps, math.inf)
    if not arrays["weights"].dtype.type(eps) > 0:
        raise ConfigError(f"{where}: eps must be positive in {arrays['weights'].dtype}, got {eps}")
    _number(where, "scale", scale, math.inf)
    _number(where, "decay", decay, 1)
    kernels.adam(*arrays.values(), step, lr, *betas, eps, weight_decay, scale, decay, threads)


def _door(where, arrays, threads, backend):
    """The backend and the number of threads, after checking that the arrays that are given are flat and alike."""
    first = next(iter(arrays))
    like = contract.floats(where, first, arrays[first], ("n",))
    for name, array in arrays.items():
        if name in ("x", "grads"):  # only read
            checked = contract.floats(where, name, array, like.shape, like.dtype, like="weights")
            if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
                raise ShapeError(f"{where}: {name} must be contiguous, got strides {array.strides}")
            arrays[name] = checked
        elif array is not None:
            arrays[name] = contract.target(where, name, array, like.shape, like.dtype, like)
    return contract.backend(where, backend, like, **arrays), pool.check_threads(threads)


def _number(where, name, value, limit) -> None:
    """Raise unless 0 <= value < limit."""
    try:
        good = 0 <= value < limit
    except TypeError:
        good = False
    if not good:
        raise ConfigError(f"{where}: {name} must be in [0, {limit}), got {value!r}")
