"""Heads: what comes out of a network, and what its loss is.

A head is a value like those below. Backends find its loss by the name of its type, in a table of theirs; how one is
added is told in docs/extending/head.md.

=============  =====================  ==================================  ============================================
head           what is predicted      loss of a row                       what comes out of `sample`
=============  =====================  ==================================  ============================================
`Softmax`      a code                 nats                                codes
`Regression`   real numbers           mean square                         (nothing is drawn)
`Logistics`    a sample in [-1, 1]    nats, of one of so many levels      samples
`Gaussian`     a sample in [-1, 1]    nats, of a density                  samples
=============  =====================  ==================================  ============================================

Losses in nats become bits per 16-bit sample, one unit for all, by each head's ``bits``: what it would cost to tell
which of the 65,536 levels a sample has, if the density were flat within a level.
"""

import math
from dataclasses import dataclass

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError

STEPS = 65535 / 2  # of 16 bits, in a length of 1


def fill(value, **fields):
    """Fill fields of a frozen value."""
    for name, number in fields.items():
        object.__setattr__(value, name, number)


@dataclass(frozen=True)
class Softmax:
    """The probability of each of so many codes: ``head.1(relu(head.0(relu(skip sum))))``, and its softmax.

    The loss is ``-ln softmax(logits)[code]``, in nats.
    """

    outputs_are = "logits"

    classes: int
    end_channels: int

    def __post_init__(self):
        fill(self, classes=checks.whole("Softmax", "classes", self.classes),
             end_channels=checks.whole("Softmax", "end_channels", self.end_channels))  # fmt: skip

    @property
    def outputs(self):
        """Columns of what comes out."""
        return self.classes

    def bits(self, loss, cell_bits):
        """Bits per 16-bit sample of a mean loss in nats.

        A code stands for an interval of samples. Within it all are taken as equally likely, which costs
        ``log2(width of the interval / step of 16 bits)`` more: ``cell_bits`` is the mean of that over the codes, such
        as `mulaw_cell_bits`. For linear 16-bit codes it is 0.
        """
        return loss / math.log(2) + cell_bits


@dataclass(frozen=True)
class Regression:
    """Real numbers ``(B, T, outputs)``, whose loss is the mean of the squares of their errors over the outputs.

    With end channels they are ``head.1(relu(head.0(relu(skip sum))))``. Without, one causal convolution of the skip
    sum: ``head.weight (kernel_size, S, outputs)`` and ``head.bias``.
    """

    outputs: int = 1
    end_channels: int = 0
    kernel_size: int = 1
    bias: bool = True

    def __post_init__(self):
        where = "Regression"
        fill(self, outputs=checks.whole(where, "outputs", self.outputs),
             end_channels=checks.whole(where, "end_channels", self.end_channels, 0),
             kernel_size=checks.whole(where, "kernel_size", self.kernel_size), bias=bool(self.bias))  # fmt: skip
        if self.end_channels and self.kernel_size > 1:
            raise ConfigError(f"{where}: kernel_size must be 1 with end_channels, got {self.kernel_size}")

    @property
    def target_columns(self):
        """How many columns targets may have."""
        return (self.outputs,)


def _check_mixture(head):
    """Check the fields that both mixtures have."""
    where, least = type(head).__name__, head.log_scale_min
    least = checks.number(where, "log_scale_min", least, "a number from -40 to 10", lambda s: -40 <= s <= 10)
    fill(head, mixtures=checks.whole(where, "mixtures", head.mixtures), log_scale_min=least,
         end_channels=checks.whole(where, "end_channels", head.end_channels))  # fmt: skip


class _Mixture:
    """What `Logistics` and `Gaussian` share: the outputs, and the columns of targets."""

    target_columns = (1, 2)  # y; or y and the shift of the means
    outputs_are = "outputs"

    @property
    def outputs(self):
        """Columns of what comes out: logits of the weights, means and log scales; of one component no weight."""
        return 3 * self.mixtures if self.mixtures > 1 else 2


@dataclass(frozen=True)
class Logistics(_Mixture):
    """A sample in [-1, 1] as one of so many levels, by a mixture of logistic distributions.

    The outputs are ``head.1(relu(head.0(relu(skip sum))))``: K logits w, K means m, K log scales s'. With one component
    there is no w. Targets are y ``(B, T, 1)``, where level k is ``y = 2 k / (levels - 1) - 1``, or ``(B, T, 2)``: y and
    a shift p, such as a linear prediction. With h = 1 / (levels - 1), half the distance of two levels, and sigma the
    logistic function::

        s = max(s', log_scale_min),   a = exp(-s) (y - p - m + h),   b = exp(-s) (y - p - m - h)
        mass = sigma(a) - sigma(b);   sigma(a) at the lowest level (y < h - 1), 1 - sigma(b) at the highest (y > 1 - h)
        loss = -ln sum over k of softmax(w)[k] mass[k]                                                      in nats

    The masses of all levels sum to 1. No difference of nearly equal numbers is taken:
    ``ln(sigma(a) - sigma(b)) = ln sigma(a) + ln sigma(-b) + ln(1 - exp(b - a))``. Draws have the same least scale.

    Attributes
    ----------
    mixtures : int
        K.
    end_channels : int
    levels : int
        At least 2; 65,536 for 16 bits.
    log_scale_min : float
        The gradient of a smaller log scale is 0. The steps of 16 bits are exp(-10.4) apart.

    Notes
    -----
    A target between two levels costs what an interval of one level's width around it has. So samples v / 32768 of a
    16-bit file can be used as they are: they lie up to half a level beside the levels.

    Parameters near 0 mean scales near 1, far wider than audio. Training starts sooner with the log scales' part of
    ``head.1.bias`` (the last K numbers) at about -4, and the means' part spread over what is predicted.

    References
    ----------
    Salimans et al., PixelCNN++, arXiv:1701.05517; van den Oord et al., Parallel WaveNet, arXiv:1711.10433. The shift:
    Hwang et al., LP-WaveNet, arXiv:1811.11913.
    """

    mixtures: int
    end_channels: int
    levels: int = 65536
    log_scale_min: float = -11.0

    def __post_init__(self):
        _check_mixture(self)
        fill(self, levels=checks.whole("Logistics", "levels", self.levels, 2))

    def bits(self, loss):
        """Bits per 16-bit sample of a mean loss in nats: those per level, if there are 65,536."""
        return loss / math.log(2) + math.log2(65535 / (self.levels - 1))


@dataclass(frozen=True)
class Gaussian(_Mixture):
    """A sample in [-1, 1] by the density of a mixture of normal distributions.

    Outputs and targets (y, and maybe a shift p) are those of `Logistics`::

        s = max(s', log_scale_min),   e = (y - p - m) exp(-s)
        loss = -ln sum over k of softmax(w)[k] exp(-s[k] - e[k]^2 / 2) / sqrt(2 pi)         in nats; it may be negative

    Attributes
    ----------
    mixtures : int
        K.
    end_channels : int
    log_scale_min : float
        The gradient of a smaller log scale is 0. Rows of exact zeros draw the scale down to it.

    References
    ----------
    Ping, Peng and Chen, ClariNet, arXiv:1807.07281.
    """

    mixtures: int
    end_channels: int
    log_scale_min: float = -10.0

    def __post_init__(self):
        _check_mixture(self)

    def bits(self, loss):
        """Bits per 16-bit sample of a mean loss in nats: ``loss / ln 2 + log2(65535 / 2)``."""
        return loss / math.log(2) + math.log2(STEPS)


HEADS = (Softmax, Regression, Logistics, Gaussian)


def mulaw_cell_bits(codes, classes):
    """Mean of ``log2(width / step of 16 bits)`` over the intervals of samples that mu-law codes stand for.

    Code q stands for the samples whose ``f = sign(x) ln(1 + mu |x|) / ln(1 + mu)`` is within ``1 / mu`` of
    ``2 q / mu - 1``, with mu = classes - 1, cut at -1 and 1. For `Softmax.bits`.

    Bits of `Softmax` plus this, of `Logistics` and of `Gaussian` are comparable: all are a density's, over the same
    samples. Not comparable are bits per code of different codecs, and bits of samples that were scaled first: a gain g
    adds log2 g (a filter whose first coefficient is 1, such as pre-emphasis, adds nothing). The intervals of 10 bits
    near 0 are shorter than a step of 16 bits (0.4), where a density may gain what no 16-bit file can show; Logistics
    cannot.

    Parameters
    ----------
    codes : array of ints in [0, classes)
    classes : int
        2^bits.

    Returns
    -------
    float

    Raises
    ------
    ConfigError
        If there are fewer than 2 classes, no codes, or codes that are none of the classes.
    """
    where = "mulaw_cell_bits"
    mu, codes = checks.whole(where, "classes", classes, 2) - 1, np.asarray(codes)
    if codes.dtype.kind not in "iu" or not codes.size or codes.min() < 0 or codes.max() > mu:
        raise ConfigError(f"{where}: codes must be some integers in [0, {mu}], got {codes.dtype} {codes.shape}")
    edges = np.clip((2 * np.arange(mu + 2) - 1) / mu - 1, -1, 1)
    edges = np.sign(edges) * np.expm1(np.abs(edges) * np.log1p(mu)) / mu
    counts = np.bincount(codes.reshape(-1), minlength=mu + 1)
    return float((counts * np.log2(np.diff(edges) * STEPS)).sum() / codes.size)
