"""What a stack of dilated convolutions sees, and how to choose its dilations.

A convolution of kernel size k and dilation d reads the lags 0, d, 2d, ..., (k - 1) d. A stack reads every sum of one
lag from each of its layers. So

- its receptive field is ``1 + sum_i (k_i - 1) d_i`` samples (`receptive_field`);
- the multiplicity ``m(l)`` of a lag is the number of ways in which it is such a sum, a path from the input through one
  tap of each layer (`multiplicity`); a lag inside the field with ``m(l) = 0`` is a hole, a blind spot (`holes`,
  `first_hole`), and many of them are what is called gridding (`gridding`);
- residual and skip connections bring lag 0 of a layer, which is a tap already: they add paths and no lags.

`analyse` has all of this for one stack, `measure` finds it from outside for any callable, and `design` turns the
question round: which stacks see a wanted field without a hole, and what each costs.

The rule in one dimension is exact (`first_hole`). So is the count in two dimensions (`multiplicity_2d`). The hybrid
rule for two dimensions (`hybrid_2d`) is a heuristic, and kept apart.

Everything here takes numbers and callables, no models, and needs NumPy alone.
"""

from wavedil.receptive.designer import BLOCKS, Cost, DilationStack, cost, design
from wavedil.receptive.durations import milliseconds, samples
from wavedil.receptive.images import Hybrid, hybrid_2d, multiplicity_2d
from wavedil.receptive.probe import Measured, measure
from wavedil.receptive.stacks import (
    Analysis,
    analyse,
    cautions,
    check_dilations,
    evenness,
    first_hole,
    gridding,
    holes,
    multiplicity,
    receptive_field,
)

__all__ = [
    "BLOCKS", "Analysis", "Cost", "DilationStack", "Hybrid", "Measured", "analyse", "cautions", "check_dilations",
    "cost", "design", "evenness", "first_hole", "gridding", "holes", "hybrid_2d", "measure", "milliseconds",
    "multiplicity", "multiplicity_2d", "receptive_field", "samples",
]
