"""Losses of `Logistics` and `Gaussian` on CUDA: a thread a row, in float64; the equations are in `heads`.

A thread runs through the components of its row twice: once for the loss, once for the gradient, which needs the sum
over all of them.
"""

import functools
import math

import numpy as np
from numba import cuda, float64, int64, types, uint64

from wavedil.kernels.cuda.launch import Kernel, blocks_for, threads_or
from wavedil.kernels.cuda.numbers import reals

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


# ---- one component ---------------------------------------------------------------------------------------------------
@cuda.jit(device=True)
def logistic(y, error, s, half):
    """ln of the mass of y's level, its slope by the mean, and by the log scale s; ``error`` is y less the mean."""
    inverse = math.exp(-s)
    a, b = inverse * (error + half), inverse * (error - half)
    mass, by_a, by_b, by_width = float64(0), float64(0), float64(0), float64(0)
    low, high = y < half - 1, y > 1 - half
    if not high:  # ln sigma(a)
        e = math.exp(-abs(a))
        mass += (a if a < 0 else float64(0)) - math.log(1 + e)
        by_a = (e if a > 0 else float64(1)) / (1 + e)
    if not low:  # ln sigma(-b)
        e = math.exp(-abs(b))
        mass -= (b if b > 0 else float64(0)) + math.log(1 + e)
        by_b = (float64(1) if b > 0 else e) / (1 + e)
    if not (low or high):  # ln(1 - exp(-width)), by its series near 0
        width = 2 * half * inverse
        if width < 1e-3:
            mass += math.log(2 * half) - s - width / 2 + width * width / 24
            by_width = 1 - width / 2 + width * width / 12
        else:
            e = math.exp(-width)
            mass += math.log(1 - e)
            by_width = width * e / (1 - e)
    return mass, inverse * (by_b - by_a), b * by_b - a * by_a - by_width


@cuda.jit(device=True)
def normal(y, error, s, half):
    """ln of the density, its slope by the mean, and by the log scale s."""
    inverse = math.exp(-s)
    e = error * inverse
    return -s - e * e / 2 - HALF_LOG_2PI, e * inverse, e * e - 1


# ---- losses ----------------------------------------------------------------------------------------------------------
def mixture_loss(name, component):
    """The loss of a mixture of such components."""

    def rows_loss(head, losses, outputs, targets, weights, first, scale, gradient=False):
        """losses (n,) = each row's weighted nats; with gradient, outputs (n, Q) = their gradient, times ``scale``.

        As `cuda_heads.square_loss`. Targets have one column, or two: the second shifts the means.
        """
        kernel, rows = _mixture_loss(name, component, outputs.dtype, threads_or(128)), losses.size
        half = 1 / (getattr(head, "levels", 2) - 1)
        kernel(
            blocks_for(kernel, rows), losses, outputs, targets, weights, rows, head.mixtures,
            targets.size // weights.size, first, scale, half, head.log_scale_min, gradient,
        )  # fmt: skip

    return rows_loss


@functools.cache
def _mixture_loss(name, component, dtype, threads):
    real, array = reals(dtype)

    @cuda.jit(device=True)
    def raw_of(outputs, at, k, mixtures):
        """A component's logit (0 if it is the only one), mean and log scale, of a row that begins ``at``."""
        if mixtures == 1:
            return float64(0), float64(outputs[uint64(at)]), float64(outputs[uint64(at + 1)])
        return (float64(outputs[uint64(at + k)]), float64(outputs[uint64(at + mixtures + k)]),
                float64(outputs[uint64(at + 2 * mixtures + k)]))  # fmt: skip

    @cuda.jit(device=True)
    def plus(top, total, x):
        """exp(top) total + exp(x), as such a pair again."""
        if x > top:
            return x, total * math.exp(top - x) + 1
        return top, total + math.exp(x - top)

    def kernel(losses, outputs, targets, weights, rows, mixtures, columns, first, scale, half, least, gradient):
        """losses =, and outputs = their gradient if wanted; a thread has one row at a time."""
        wide = 3 * mixtures if mixtures > 1 else 2
        for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
            weight, at = float64(weights[uint64(first + row)]), row * wide
            if weight == 0:  # whatever the row holds
                losses[uint64(row)] = 0
                if gradient:
                    for q in range(wide):
                        outputs[uint64(at + q)] = real(0)
                continue
            target = (first + row) * columns
            y = float64(targets[uint64(target)])
            moved = y
            if columns > 1:
                moved -= float64(targets[uint64(target + 1)])
            prior, priors, joint, joints = -math.inf, float64(0), -math.inf, float64(0)
            for k in range(mixtures):
                logit, mean, s = raw_of(outputs, at, k, mixtures)
                mass, _, _ = component(y, moved - mean, least if s < least else s, half)
                prior, priors = plus(prior, priors, logit)
                joint, joints = plus(joint, joints, logit + mass)
            prior, joint = prior + math.log(priors), joint + math.log(joints)
            losses[uint64(row)] = weight * (prior - joint)
            if gradient:
                share = weight * float64(scale)
                for k in range(mixtures):
                    logit, mean, s = raw_of(outputs, at, k, mixtures)
                    mass, by_mean, by_scale = component(y, moved - mean, least if s < least else s, half)
                    part = math.exp(logit + mass - joint)  # of this component in what is predicted
                    if mixtures > 1:
                        outputs[uint64(at + k)] = share * (math.exp(logit - prior) - part)
                    outputs[uint64(at + wide - 2 * mixtures + k)] = -share * part * by_mean
                    if s > least:
                        outputs[uint64(at + wide - mixtures + k)] = -share * part * by_scale
                    else:
                        outputs[uint64(at + wide - mixtures + k)] = real(0)

    double = types.Array(float64, 1, "C")
    signature = (double, array, array, array, *(int64,) * 4, real, float64, float64, int64)
    return Kernel(f"{name}_loss.{dtype}", kernel, signature, threads)


logistics_loss, gaussian_loss = mixture_loss("logistics", logistic), mixture_loss("gaussian", normal)


def kernels(dtype):
    """All kernels of this module itself."""
    kinds = (("logistics", logistic), ("gaussian", normal))
    return tuple(_mixture_loss(name, component, np.dtype(dtype), threads_or(128)) for name, component in kinds)
