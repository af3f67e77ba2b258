"""Heads in plain NumPy: the loss of each row with its gradient by the outputs, and draws."""

from math import exp, log
from statistics import NormalDist

import numpy as np

from wavedil.errors import DivergedError
from wavedil.kernels.cpu.random import uniform


# ---- losses ----------------------------------------------------------------------------------------------------------
def _softmax(head, logits, codes):
    """-ln softmax(logits)[code], and its gradient."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    score = np.take_along_axis(shifted, codes[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.log(total[..., 0]) - score, exp / total - (np.arange(logits.shape[-1]) == codes[..., None])


def _square(head, outputs, targets):
    """The mean square of the errors, and its gradient."""
    error = outputs - targets
    return (error * error).mean(axis=-1), 2 / error.shape[-1] * error


def _logistic(head, y, error, s):
    """ln of the mass of y's level, its slope by the mean, and by the log scale s; ``error`` is y less the mean."""
    half, inverse = 1 / (head.levels - 1), np.exp(-s)
    a, b, width = inverse * (error + half), inverse * (error - half), 2 * half * inverse
    low, high = y < half - 1, y > 1 - half
    inner = ~(low | high)
    by_a = np.where(high, 0, np.exp(-np.logaddexp(0, a)))  # sigma(-a), the slope of ln sigma(a)
    by_b = np.where(low, 0, -np.exp(-np.logaddexp(0, -b)))
    flat = width < 1e-6  # 1 - exp(-width) is the width, less half its square
    inside = np.where(flat, np.log(2 * half) - s - width / 2, np.log(-np.expm1(-width)))
    by_width = np.where(flat, 1 - width / 2, width / np.expm1(width))
    mass = np.where(inner, inside, 0) - np.where(high, 0, np.logaddexp(0, -a)) - np.where(low, 0, np.logaddexp(0, b))
    return mass, -inverse * (by_a + by_b), -(a * by_a + b * by_b) - np.where(inner, by_width, 0)


def _normal(head, y, error, s):
    """ln of the density, its slope by the mean, and by the log scale s."""
    inverse = np.exp(-s)
    e = error * inverse
    return -s - e * e / 2 - np.log(2 * np.pi) / 2, e * inverse, e * e - 1


def _mixture(component):
    """The loss of a mixture of such components."""

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")  # rows of weight 0 hold anything
    def loss(head, outputs, targets):
        K, y = head.mixtures, targets[..., :1]
        logits = outputs[..., :K] if K > 1 else np.zeros_like(outputs[..., :1])
        means, raw = outputs[..., -2 * K : -K], outputs[..., -K:]
        scales = np.maximum(raw, head.log_scale_min)
        error = y - targets[..., 1:].sum(axis=-1, keepdims=True) - means
        masses, by_mean, by_scale = component(head, y, error, scales)
        prior = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        total = np.logaddexp.reduce(prior + masses, axis=-1, keepdims=True)
        share = np.exp(prior + masses - total)  # of each component in what is predicted
        slopes = [np.exp(prior) - share] * (K > 1) + [-share * by_mean, -share * by_scale * (raw > head.log_scale_min)]
        return -total[..., 0], np.concatenate(slopes, axis=-1)

    return loss


LOSSES = {
    "Softmax": _softmax, "Regression": _square, "Logistics": _mixture(_logistic), "Gaussian": _mixture(_normal),
}  # fmt: skip


# ---- draws -----------------------------------------------------------------------------------------------------------
def _code(head, logits, options, number, shift):
    """A class drawn from softmax(logits / temperature)."""
    _, temperature, top_k, top_p = options
    if temperature == 0:
        return logits.argmax()
    p = np.exp((logits - logits.max()) / temperature)
    ordered = np.sort(p)[::-1]
    kept = len(p) if top_p == 1 else 1 + int((ordered.cumsum() < top_p * p.sum()).sum())
    kept = min(kept, top_k or len(p), len(p))
    p = np.where(p >= ordered[kept - 1], p, 0).cumsum()
    code = np.searchsorted(p, number * p[-1], side="right")
    return min(code, np.searchsorted(p, p[-1]))


def _sampled(noise):
    """A sample of a mixture: a component by the number, and by what is left of the number the noise in it."""

    def draw(head, outputs, options, number, shift):
        K, temperature = head.mixtures, options[1]
        logits = outputs[:K] if K > 1 else np.zeros(1)
        k, left = int(logits.argmax()), 0.5
        if temperature > 0:
            p = np.exp((logits - logits.max()) / temperature)
            rest = number * sum(p)
            k = 0
            while k < K - 1 and rest >= p[k]:
                rest, k = rest - p[k], k + 1
            left = min(max(rest / p[k], 1e-5), 1 - 1e-5) if p[k] > 0 else 0.5
        scale = exp(max(outputs[k - K], head.log_scale_min)) * temperature
        return min(max(outputs[k - 2 * K] + shift + scale * noise(left), -1), 1)

    return draw


DRAWS = {
    "Softmax": _code, "Logistics": _sampled(lambda u: log(u) - log(1 - u)), "Gaussian": _sampled(NormalDist().inv_cdf),
}  # fmt: skip


def fed_rows(network, past, extra, lpc, i):
    """What is fed at step i of the draws, (batch, 1) or (batch, 1, channels), and the shifts of what comes out.

    ``past (batch, n)`` are the latest codes or values; the others are those of `wavedil.ops.gated_stack.sample`.
    """
    shifts = np.zeros(len(past))
    if not network.real:
        return past[:, -1:], shifts
    columns = [past[:, -1:], extra[:, i]]
    if lpc is not None:
        shifts = (past[:, : -lpc.shape[2] - 1 : -1].astype(np.float64) * lpc[:, i]).sum(axis=1)
        if network.input.channels > 1 + extra.shape[2]:
            columns.insert(1, shifts[:, None].astype(past.dtype))
    return np.concatenate(columns, axis=1)[:, None], shifts


def draw(head, outputs, options, stream, time, shift=0.0):
    """What the head draws from its outputs at one time of a stream."""
    if not np.isfinite(outputs).all():
        raise DivergedError(f"generate: the {head.outputs_are} of stream {stream} are not finite at step {time}")
    return DRAWS[type(head).__name__](head, outputs, options, uniform(options[0], stream, time), shift)
