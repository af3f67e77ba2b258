"""From a wanted receptive field to dilations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wavedil.checks import one_of, whole
from wavedil.errors import ConfigError
from wavedil.receptive.stacks import LAGS, analyse


class Cost(NamedTuple):
    """Of all blocks of a network; what comes before and after them is not counted."""

    parameters: int
    multiply_adds: int  # a sample


class _Block(NamedTuple):
    convolutions: int  # that follow each other with the block's dilation
    parameters: tuple[int, int, int]  # times kernel_size channels^2, channels^2 and channels
    multiply_adds: tuple[int, int]  # times kernel_size channels^2 and channels^2


# wavenet: a convolution to two halves of a gate, residual and skip 1 x 1. tcn: two convolutions.
BLOCKS = {
    "conv": _Block(1, (1, 0, 1), (1, 0)),
    "wavenet": _Block(1, (2, 2, 4), (2, 2)),
    "tcn": _Block(2, (2, 0, 2), (2, 0)),
}


def cost(blocks: int, kernel_size: int, channels: int, block: str = "wavenet") -> Cost:
    """Parameters of a number of blocks, and their multiply-adds for one sample.

    With K taps and C channels everywhere, weights and biases: ``K C**2 + C`` for a block "conv", one convolution;
    ``2 K C**2 + 2 C**2 + 4 C`` for "wavenet", a gated convolution with its 1 x 1 residual and skip; ``2 K C**2 + 2 C``
    for "tcn", two convolutions (a weight norm adds ``2 C`` lengths). Each weight is one multiply-add a sample.

    Parameters
    ----------
    blocks, kernel_size, channels : int
    block : {"wavenet", "tcn", "conv"}

    Returns
    -------
    Cost

    Raises
    ------
    ConfigError
        If a number is not an integer of at least 1, or there is no such block.

    Examples
    --------
    >>> cost(20, 2, 32)
    Cost(parameters=125440, multiply_adds=122880)
    """
    blocks, k, c = (whole("cost", name, value) for name, value in
                    (("blocks", blocks), ("kernel_size", kernel_size), ("channels", channels)))
    kind = _kind("cost", block)
    p, m = kind.parameters, kind.multiply_adds
    return Cost(blocks * (p[0] * k * c * c + p[1] * c * c + p[2] * c), blocks * (m[0] * k * c * c + m[1] * c * c))


def _kind(where, block):
    return BLOCKS[one_of(where, "block", block, BLOCKS)]


@dataclass(frozen=True)
class DilationStack:
    """A suggestion of `design`."""

    name: str
    dilations: tuple[int, ...]  # of each block
    kernel_size: int
    block: str
    receptive_field: int  # samples
    evenness: float
    cost: Cost
    cautions: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Dilations of each convolution: those of the blocks, twice each for a TCN."""
        return _layers(self.dilations, BLOCKS[self.block].convolutions)


def design(field: int, kernel_size: int = 2, blocks: int = 20, *, channels: int = 32, block: str = "wavenet",
           clip: int | None = None, window: int | None = None) -> list[DilationStack]:
    """Stacks of dilations that see a field of at least so many samples without a hole, with the cost of each.

    Suggested are powers of 2, 3 and 4, and of the largest base without holes; cycles of doubling; and stacks fitted
    to the field, of one to three cycles, once with the fewest blocks and once with all: the dilations of a cycle grow
    by the smallest factor that reaches the field, and never beyond what the rule of `first_hole` allows.

    Parameters
    ----------
    field : int
        The wanted receptive field in samples; `samples` makes it from milliseconds.
    kernel_size : int
        At least 2.
    blocks : int
        The most that there may be.
    channels : int
        For the cost.
    block : {"wavenet", "tcn", "conv"}
        What a block is, see `cost`; a "tcn" has two convolutions with the block's dilation.
    clip, window : int, optional
        Samples of a typical clip and of a training window, for `cautions`.

    Returns
    -------
    list of DilationStack
        The cheapest first; of equally many blocks, the closest to the wanted field first.

    Raises
    ------
    ConfigError
        If a number is out of range, or so many blocks cannot see the field without a hole: n blocks see at most
        ``(1 + (kernel_size - 1) c)**n`` samples, where c is the number of convolutions of a block.

    Examples
    --------
    >>> for stack in design(300, kernel_size=2, blocks=12)[:2]:
    ...     print(stack.name, stack.dilations, stack.receptive_field)
    fitted (1, 2, 3, 6, 12, 22, 40, 75, 138) 300
    powers of 2 (1, 2, 4, 8, 16, 32, 64, 128, 256) 512
    """
    where = "design"
    field, blocks, channels = (whole(where, name, value) for name, value in
                               (("field", field), ("blocks", blocks), ("channels", channels)))
    kernel_size = whole(where, "kernel_size", kernel_size, 2)
    if field > LAGS:
        raise ConfigError(f"{where}: field must be at most {LAGS:,} samples, got {field:,}")
    convolutions = _kind(where, block).convolutions
    base = 1 + (kernel_size - 1) * convolutions
    if base**blocks < field:
        needed = next(n for n in range(blocks, 64) if base**n >= field)
        raise ConfigError(f"{where}: blocks must be at least {needed} to see {field:,} samples with kernel "
                          f"{kernel_size} and no hole, got {blocks}")

    found: dict[tuple[int, ...], str] = {}
    for name, dilations in _candidates(field, kernel_size - 1, convolutions, base, blocks):
        found.setdefault(dilations, name)
    stacks = []
    for dilations, name in found.items():
        layers = _layers(dilations, convolutions)
        seen = analyse(layers, kernel_size, clip=clip, window=window)
        stacks.append(DilationStack(name, dilations, kernel_size, block, seen.receptive_field, seen.evenness,
                                  cost(len(dilations), kernel_size, channels, block), seen.cautions))
    return sorted(stacks, key=lambda s: (len(s.dilations), s.receptive_field))


def _layers(dilations, convolutions):
    return tuple(d for d in dilations for _ in range(convolutions))


def _candidates(field, span, convolutions, base, blocks):
    """Pairs (name, dilations), some twice. A dilation adds span * convolutions times itself to the field."""
    def enough(dilations):
        return 1 + span * convolutions * sum(dilations) >= field

    for b in sorted({2, 3, 4, base}):
        for cycles in range(1, blocks + 1 if b == 2 else 2):
            fits = (n for n in range(1, blocks // cycles + 1) if enough([b**i for i in range(n)] * cycles))
            if b <= base and (n := next(fits, None)):
                yield _named(f"powers of {b}", cycles), tuple(b**i for i in range(n)) * cycles
    for cycles in range(1, min(3, blocks) + 1):
        step = span * convolutions * cycles
        most = blocks // cycles
        least = next((n for n in range(1, most + 1) if (1 + step) ** n >= field), None)
        for n in {least, most} if least else ():
            yield _named("fitted", cycles), _fitted(field, step, n) * cycles


def _named(name, cycles):
    return name if cycles == 1 else f"{cycles} cycles, {name}"


def _fitted(field, step, n) -> Sequence[int]:
    """n dilations that grow evenly and add up to the field, ``1 + step * sum``, or as little above it as possible."""
    def grown(factor):
        dilations, covered = [], 1
        for i in range(n):
            dilations.append(min(round(factor**i), covered))
            covered += step * dilations[-1]
        return dilations, covered

    low, high = 1.0, float(1 + step)
    if grown(low)[1] < field:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if grown(middle)[1] < field else (low, middle)
        dilations, covered = grown(high)
    else:
        dilations, covered = grown(low)
    floor = dilations[-2] if n > 1 else 1
    dilations[-1] = max(floor, dilations[-1] - (covered - field) // step)
    return tuple(dilations)
