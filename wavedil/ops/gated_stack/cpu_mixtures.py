"""Mixtures on the CPU: losses and draws of `Logistics` and `Gaussian`, row by row in float64.

The outputs of a row are rounded to their own type; from there on nothing is, so losses of float32 parameters are as
good as their outputs. The equations are in `heads`. A row's components are run through twice, as kernels allocate
nothing: once for the loss, once for the gradient, which needs the sum over all of them.
"""

import math

import numpy as np

from wavedil.kernels.cpu.jit import inner
from wavedil.kernels.cpu.panels import down, width_of, zero_rows

CUT = 1e-5  # of the number that is drawn, at both ends: logistic noise stays within 11.5 scales, normal within 4.3


# ---- one component ---------------------------------------------------------------------------------------------------
@inner
def logistic(head, y, error, s):
    """ln of the mass of y's level, its slope by the mean, and by the log scale s; ``error`` is y less the mean."""
    half, inverse = 1 / (head.levels - 1), math.exp(-s)
    a, b = inverse * (error + half), inverse * (error - half)
    mass, by_a, by_b, by_width = 0.0, 0.0, 0.0, 0.0
    low, high = y < half - 1, y > 1 - half
    if not high:  # ln sigma(a)
        e = math.exp(-abs(a))
        mass += min(a, 0.0) - math.log1p(e)
        by_a = (e if a > 0 else 1.0) / (1 + e)
    if not low:  # ln sigma(-b)
        e = math.exp(-abs(b))
        mass += min(-b, 0.0) - math.log1p(e)
        by_b = (1.0 if b > 0 else e) / (1 + e)
    if not (low or high):  # ln(1 - exp(-width)); a width near 0 may underflow
        width = 2 * half * inverse
        if width < 1e-6:
            mass += math.log(2 * half) - s - width / 2
            by_width = 1 - width / 2
        else:
            mass += math.log(-math.expm1(-width))
            by_width = width / math.expm1(width)
    return mass, inverse * (by_b - by_a), b * by_b - a * by_a - by_width


@inner
def normal(head, y, error, s):
    """ln of the density, its slope by the mean, and by the log scale s."""
    inverse = math.exp(-s)
    e = error * inverse
    return -s - 0.5 * e * e - 0.9189385332046727, e * inverse, e * e - 1  # ln(2 pi) / 2


# ---- losses ----------------------------------------------------------------------------------------------------------
@inner
def _get(row, c):
    w = width_of(row.data)
    return np.float64(row.data[(c // w) * row.panel + c % w])


@inner
def _set(row, c, value):
    w = width_of(row.data)
    row.data[(c // w) * row.panel + c % w] = value


@inner
def _plus(top, total, x):
    """exp(top) total + exp(x), as such a pair again."""
    if x > top:
        return x, total * math.exp(top - x) + 1
    return top, total + math.exp(x - top)


@inner
def _weight(head, row, k):
    """The logit of a component's weight; a single one has none."""
    return _get(row, k) if head.mixtures > 1 else 0.0


@inner
def _log_scale(head, row, k):
    """A component's, before the least one is seen to."""
    return _get(row, head.outputs - head.mixtures + k)


@inner
def _mean(head, row, k):
    return _get(row, head.outputs - 2 * head.mixtures + k)


@inner
def _at_least(least, x):
    return least if x < least else x  # NaN stays NaN


def mixture_loss(component):
    """The loss (see `cpu_heads.loss_rows`) of a mixture of such components."""

    def loss_rows(head, outputs, rows, targets, weights, scale, gradient):
        K, loss = head.mixtures, 0.0
        for r in range(rows):
            row = down(outputs, r)
            if weights[r] == 0:
                zero_rows(row, 1, head.output_panels)
                continue
            y = np.float64(targets[r, 0])
            moved = y - np.float64(targets[r, 1]) if targets.shape[1] > 1 else y
            prior, joint = (-np.inf, 0.0), (-np.inf, 0.0)
            for k in range(K):
                s, logit = _at_least(head.log_scale_min, _log_scale(head, row, k)), _weight(head, row, k)
                mass, _, _ = component(head, y, moved - _mean(head, row, k), s)
                prior = _plus(prior[0], prior[1], logit)
                joint = _plus(joint[0], joint[1], logit + mass)
            all_weights, predicted = prior[0] + math.log(prior[1]), joint[0] + math.log(joint[1])
            loss += np.float64(weights[r]) * (all_weights - predicted)
            if not gradient:
                continue
            share = np.float64(weights[r]) * np.float64(scale)
            for k in range(K):
                raw, logit = _log_scale(head, row, k), _weight(head, row, k)
                s = _at_least(head.log_scale_min, raw)
                mass, by_mean, by_scale = component(head, y, moved - _mean(head, row, k), s)
                part = math.exp(logit + mass - predicted)  # of this component in what is predicted
                if K > 1:
                    _set(row, k, share * (math.exp(logit - all_weights) - part))
                _set(row, head.outputs - 2 * K + k, -share * part * by_mean)
                _set(row, head.outputs - K + k, -share * part * by_scale if raw > head.log_scale_min else 0.0)
        return loss

    loss_rows.__qualname__ = f"loss_of_{component.__name__}"
    return loss_rows


# ---- draws -----------------------------------------------------------------------------------------------------------
@inner
def logistic_noise(u):
    """The logistic number of which a part u lies below."""
    return math.log(u) - math.log1p(-u)


CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip


@inner
def _ratio(coefficients, x):
    above, below = coefficients
    numerator, denominator = 0.0, 0.0
    for k in range(8):
        numerator, denominator = numerator * x + above[k], denominator * x + below[k]
    return numerator / denominator


@inner
def normal_noise(u):
    """The normal number of which a part u lies below, for u of at least 2e-11 and at most 1 - 2e-11.

    M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988; to 1e-15.
    """
    q = u - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(CENTRE, 0.180625 - q * q)
    far = _ratio(TAIL, math.sqrt(-math.log(min(u, 1 - u))) - 1.6)
    return far if q > 0 else -far


@inner
def _finite(row, outputs):
    for c in range(outputs):
        if not np.isfinite(_get(row, c)):
            return False
    return True


def mixture_draw(noise):
    """The draw (see `cpu_heads.draw`) from a mixture of components with such noise.

    One number does for both: it picks the component, and where it lies in that one's part of [0, 1) is a uniform number
    again, which makes the noise. The temperature divides the weights' logits and multiplies the scales; at 0 it is the
    mean of the likeliest component. What is drawn is cut at -1 and 1.
    """

    def draw(head, outputs, options, number, shift, probabilities, ordered):
        if not _finite(outputs, head.outputs):
            return False, 0.0
        K, temperature, k, part = head.mixtures, options.temperature, 0, 0.5
        for i in range(1, K):
            if _weight(head, outputs, i) > _weight(head, outputs, k):
                k = i
        if temperature >= 1e-20:
            top, total = _weight(head, outputs, k), 0.0
            for i in range(K):
                probabilities[i] = math.exp((_weight(head, outputs, i) - top) / temperature)
                total += probabilities[i]
            rest, k = number * total, 0
            while k < K - 1 and rest >= probabilities[k]:
                rest -= probabilities[k]
                k += 1
            if probabilities[k] > 0:
                part = min(max(rest / probabilities[k], CUT), 1 - CUT)
        scale = math.exp(_at_least(head.log_scale_min, _log_scale(head, outputs, k))) * temperature
        return True, min(max(_mean(head, outputs, k) + shift + scale * noise(part), -1.0), 1.0)

    draw.__qualname__ = f"draw_with_{noise.__name__}"
    return draw
