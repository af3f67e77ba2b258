r"""Low-rank adapters (LoRA): a few numbers that are trained in place of a large weight.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. A weight of a dilated or a 1x1
convolution, :math:`(K, C_{in} / groups, C_{out})` or :math:`(C_{in}, C_{out})`, is read as a matrix with
:math:`K C_{in} / groups` rows, and

.. math:: W = W_0 + \frac{\alpha}{r} A B, \qquad A: (K C_{in} / groups, r), \quad B: (r, C_{out})

:math:`W_0` stays as it was. :math:`W` is formed once a step, so the network itself does not know about adapters, and
its gradient gives theirs:

.. math:: dA = \frac{\alpha}{r} dW B^T, \qquad dB = \frac{\alpha}{r} A^T dW
"""

from collections.abc import Iterable, Mapping

import numpy as np

from wavedil.checks import whole
from wavedil.errors import ConfigError
from wavedil.ops import inplace
from wavedil.parameters import names as naming
from wavedil.parameters.store import Parameters

A, B = ".lora_a", ".lora_b"


class Adapters:
    """Low-rank adapters on some of the weights of a model.

    At first every B is zero, so the model is what it was; A is drawn, because with both zero no gradient would flow.

    Parameters
    ----------
    params : Parameters
        Those of the model.
    targets : str or iterable of str
        Patterns (see `wavedil.parameters.names`) of the layers, or of their weights, that get one: all that fit and
        have a ``.weight`` of two axes or more.
    rank : int
        Columns of A and rows of B, at most the smaller side of the weight.
    alpha : float
        The product is multiplied by ``alpha / rank``.
    seed : int
        Of the draw.

    Attributes
    ----------
    targets : tuple of str
        Names of the weights.
    shapes : dict of str to tuple of int
        Names and shapes of all factors: ``NAME.lora_a`` and ``NAME.lora_b`` for each weight.
    base : Parameters
        Copies of the weights as they were, which `unmerge` gives back.
    scale : float
        ``alpha / rank``.

    Raises
    ------
    ConfigError
        No layer fits, or the rank does not.
    """

    def __init__(self, params: Parameters, targets: str | Iterable[str], rank: int, alpha: float, seed: int = 0):
        layers = [name.removesuffix(".weight") for name, w in params.items() if name.endswith(".weight") and w.ndim > 1]
        ends = ("", ".weight")
        found = naming.select(targets, [layer + end for layer in layers for end in ends], "LoRA: targets")
        chosen = {name.removesuffix(".weight") for name in found}
        self.targets = tuple(f"{layer}.weight" for layer in layers if layer in chosen)
        self.base = Parameters({name: params.shapes[name] for name in self.targets}, params.dtype, params.device)
        self.base.load({name: params[name] for name in self.targets})
        rank = whole("LoRA", "rank", rank)
        self.scale, self.seed = alpha / rank, seed
        self.shapes: dict[str, tuple[int, int]] = {}
        for name, w in self.base.items():
            rows, columns = _matrix(w).shape
            if rank > min(rows, columns):
                raise ConfigError(f"LoRA: rank must be at most {min(rows, columns)} for {name} {w.shape}, got {rank}")
            self.shapes |= {name + A: (rows, rank), name + B: (rank, columns)}

    def initialize(self, values: Mapping[str, np.ndarray]) -> None:
        """Fill the factors with what they start from: A normal with variance 1 / rows, B zero."""
        rng = np.random.default_rng(self.seed)
        for name in self.targets:
            a = values[name + A]
            a[...] = rng.standard_normal(a.shape) * len(a) ** -0.5
            values[name + B][...] = 0

    def merge(self, values: Mapping[str, np.ndarray], params: Parameters) -> None:
        """Set (``=``) each weight of `params` to W0 + alpha / r A B."""
        for name in self.targets:
            w, base, a, b = params[name], self.base[name], values[name + A], values[name + B]
            inplace.add_low_rank(_matrix(w), _matrix(base), a, b, self.scale)

    def unmerge(self, params: Parameters) -> None:
        """Set (``=``) each weight of `params` to what it was before, bit for bit."""
        for name in self.targets:
            params[name][...] = self.base[name]

    def backward(self, values, dparams: Mapping[str, np.ndarray], into: Mapping[str, np.ndarray], names) -> None:
        """Add (``+=``) the gradients of the factors called `names`, from those of the weights."""
        for name in self.targets:
            da, db = (into[factor] if factor in names else None for factor in (name + A, name + B))
            if da is not None or db is not None:
                a, b = values[name + A], values[name + B]
                inplace.low_rank_backward(da, db, _matrix(dparams[name]), a, b, self.scale)


def target(name: str) -> str:
    """The weight that a factor belongs to."""
    return name.removesuffix(A).removesuffix(B)


def _matrix(w):
    """A view of a convolution's weights with a column for each output channel."""
    return w.reshape(-1, w.shape[-1])
