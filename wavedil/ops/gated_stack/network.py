"""What a network is made of, as values: an input, stacks of blocks, a head, and a condition.

A `Network` says everything about a network but its numbers: which parameters it has (`Network.parameter_shapes`), what
they mean, and in which order they are used (`Network.layers`). The backends read nothing else, so a network that can be
written down here runs forward, backward, as a stream and as a generator on all of them.

=============  ====================================================================================================
input          `Codes` (an embedding) or `Samples` (rows of real numbers, through a 1x1 convolution)
stacks         `Stack`s of blocks, one after the other; between two of them a 1x1 convolution fits the width of what
               blocks pass on, and a convolution turns the sum of one stack's skip outputs into the start of the next
head           `Softmax` over codes, `Regression` of real numbers, `Logistics` or `Gaussian` densities of a sample (see
               `wavedil.ops.gated_stack.heads`), or None: the skip sum itself is what comes out
condition      `Condition`: global, at every row, or at frame rate
=============  ====================================================================================================
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.ops import activation
from wavedil.ops.gated_stack.heads import HEADS, Softmax, fill
from wavedil.receptive import check_dilations

GATED = "gated"  # tanh of one half times sigmoid of the other
ACTIVATIONS = (GATED, "identity", *(kind for kind in activation.KINDS if kind not in activation.LEARNED
                                    and kind not in activation.GATED))  # fmt: skip
INTERPOLATIONS = ("linear", "held")


@dataclass(frozen=True)
class Codes:
    """Whole numbers in [0, classes) go in; each has a row of ``input.embedding (classes, channels)``."""

    classes: int

    def __post_init__(self):
        fill(self, classes=checks.whole("Codes", "classes", self.classes))


@dataclass(frozen=True)
class Samples:
    """Rows of real numbers ``(B, T, channels)`` go in, through ``input.weight (channels, R)`` and ``input.bias``."""

    channels: int = 1
    bias: bool = False

    def __post_init__(self):
        fill(self, channels=checks.whole("Samples", "channels", self.channels), bias=bool(self.bias))


@dataclass(frozen=True)
class Condition:
    """What each block's convolution is told besides, through ``blocks.i.condition.weight (channels, ...)``.

    Without a hop it is global, ``(B, channels)``, or has a row for each row of the input, ``(B, T, channels)``. With
    one it has frames, ``(B, F, channels)``, one every ``hop`` rows: frame f belongs to row ``f hop``. Rows between two
    frames see a mixture of both (``"linear"``, F = ceil(T / hop) + 1) or the earlier frame (``"held"``,
    F = ceil(T / hop)). The product with the weights is linear as well, so it is done once a frame.
    """

    channels: int
    hop: int = 0
    interpolation: str = "linear"
    bias: bool = False

    def __post_init__(self):
        where = "Condition"
        checks.one_of(where, "interpolation", self.interpolation, INTERPOLATIONS)
        fill(self, channels=checks.whole(where, "channels", self.channels), hop=checks.whole(where, "hop", self.hop, 0),
             bias=bool(self.bias))  # fmt: skip

    def frames(self, rows, first=0):
        """How many frames so many rows need, of which the first is row number ``first`` of the whole."""
        last = (first + rows - 1) // self.hop + (self.interpolation == "linear")
        return last - first // self.hop + 1


@dataclass(frozen=True)
class Stack:
    """Blocks of one width.

    Block i computes ``pre = conv(h) + condition``, ``z = activation(pre)``, passes on ``h + residual(z)`` and adds
    ``skip(z)`` to the skip sum; without skip channels it adds z itself.

    Attributes
    ----------
    dilations : tuple of int
        One a block.
    kernel_sizes : tuple of int
        One a block; a single number is for all of them.
    channels, gate_channels : int
        Of h and of z.
    skip_channels : int
        Of the skip sum; 0: z itself is added to it, which then has ``gate_channels``.
    activation : str
        ``"gated"``: the convolution has twice ``gate_channels`` outputs, and z is tanh of the first half times sigmoid
        of the second. Or the name of an activation of `wavedil.ops.activation`, or ``"identity"``.
    alpha : float
        The setting of ``"leaky_relu"`` (0.01) and ``"elu"`` (1).
    """

    dilations: tuple
    kernel_sizes: tuple = (2,)
    channels: int = 32
    gate_channels: int = 32
    skip_channels: int = 32
    activation: str = GATED
    alpha: float | None = None

    def __post_init__(self):
        where, sizes = "Stack", self.kernel_sizes
        dilations = check_dilations(self.dilations, 1, where)
        sizes = tuple(sizes) if hasattr(sizes, "__iter__") else (sizes,)
        sizes = tuple(checks.whole(where, "kernel_sizes", size) for size in sizes)
        sizes = sizes * len(dilations) if len(sizes) == 1 else sizes
        if len(sizes) != len(dilations):
            raise ConfigError(
                f"{where}: kernel_sizes must be one for each of the {len(dilations)} dilations, got {len(sizes)}"
            )
        checks.one_of(where, "activation", self.activation, ACTIVATIONS)
        default = activation.ALPHA.get(self.activation, 0.0)
        fill(self, dilations=dilations, kernel_sizes=sizes,
             alpha=checks.number(where, "alpha", default if self.alpha is None else self.alpha),
             channels=checks.whole(where, "channels", self.channels),
             gate_channels=checks.whole(where, "gate_channels", self.gate_channels),
             skip_channels=checks.whole(where, "skip_channels", self.skip_channels, 0))  # fmt: skip

    @property
    def sum_channels(self):
        """Channels of the skip sum."""
        return self.skip_channels or self.gate_channels


BLOCK, PROJECT, FILTER = "block", "project", "filter"  # kinds of layers


class Layer(NamedTuple):
    """One step of a network, in the order in which it runs.

    ============  =====================================================================================================
    ``block``     a block of a stack: h (inputs) -> h, and its skip output is added to the skip sum
    ``project``   h (inputs) -> h (outputs), by a 1x1 convolution: the input of real rows, and between stacks
    ``filter``    skip sum (inputs) -> skip sum (outputs), by a causal convolution: between stacks, and as a head
    ============  =====================================================================================================
    """

    kind: str
    name: str  # of its parameters, without what follows the last dot
    taps: int
    dilation: int
    inputs: int
    outputs: int
    gate: int = 0  # channels of z
    skip: int = 0  # channels of the skip sum
    stack: Stack | None = None
    last: bool = False  # what a block passes on reaches nothing
    first: bool = False  # the skip sum begins here
    bias: bool = True
    condition: Condition | None = None

    @property
    def past(self):
        """Rows that it looks back."""
        return (self.taps - 1) * self.dilation

    @property
    def wide(self):
        """Columns of a block's convolution."""
        return self.gate * (2 if self.stack.activation == GATED else 1)

    @property
    def projects_skip(self):
        """Whether a block's skip output is a product of its own, and not z itself."""
        return bool(self.stack.skip_channels)

    def shapes(self):
        """Name -> shape of each of its parameters."""
        if self.kind != BLOCK:
            shape = (self.inputs, self.outputs) if self.kind == PROJECT else (self.taps, self.inputs, self.outputs)
            return {f"{self.name}.weight": shape} | ({f"{self.name}.bias": (self.outputs,)} if self.bias else {})
        shapes = {"conv.weight": (self.taps, self.inputs, self.wide), "conv.bias": (self.wide,)}
        if self.condition is not None:
            shapes["condition.weight"] = (self.condition.channels, self.wide)
            if self.condition.bias:
                shapes["condition.bias"] = (self.wide,)
        shapes |= {"residual.weight": (self.gate, self.inputs), "residual.bias": (self.inputs,)}
        if self.projects_skip:
            shapes |= {"skip.weight": (self.gate, self.skip), "skip.bias": (self.skip,)}
        return {f"{self.name}.{name}": shape for name, shape in shapes.items()}


@dataclass(frozen=True)
class Network:
    """A whole network.

    Attributes
    ----------
    input : Codes or Samples
    stacks : tuple of Stack
    head : Softmax, Regression, Logistics, Gaussian or None
    condition : Condition or None
    join_bias : bool
        Whether the convolution between the skip sums of two stacks, ``joins.k.skip``, has a bias.
    """

    input: object
    stacks: tuple
    head: object = None
    condition: Condition | None = None
    join_bias: bool = False

    def __post_init__(self):
        where = "Network"
        if isinstance(self.stacks, Stack) or not hasattr(self.stacks, "__iter__"):
            raise ConfigError(f"{where}: stacks must be a tuple of Stack, got {type(self.stacks).__name__}")
        fill(self, stacks=tuple(self.stacks))
        for name, value, kinds in (("input", (self.input,), (Codes, Samples)), ("stacks", self.stacks, (Stack,)),
                                   ("head", (self.head,), (*HEADS, type(None))),
                                   ("condition", (self.condition,), (Condition, type(None)))):  # fmt: skip
            for part in value:
                if not isinstance(part, kinds):
                    wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
                    raise ConfigError(f"{where}: {name} must be {wanted}, got {type(part).__name__}")
        if not self.stacks:
            raise ConfigError(f"{where}: stacks must hold at least one, got none")

    @property
    def real(self):
        """Whether real rows go in, and not codes."""
        return isinstance(self.input, Samples)

    @property
    def dilations(self):
        """Of all blocks."""
        return tuple(d for stack in self.stacks for d in stack.dilations)

    @property
    def hop(self):
        """Rows between two frames of the condition; 0 if it has none."""
        return 0 if self.condition is None else self.condition.hop

    @property
    def condition_channels(self):
        """0 for none."""
        return 0 if self.condition is None else self.condition.channels

    @cached_property
    def layers(self):
        """All `Layer`s, in the order in which they run."""
        layers, first = [], self.stacks[0]
        if self.real:
            layers.append(Layer(PROJECT, "input", 1, 1, self.input.channels, first.channels, bias=self.input.bias))
        number = 0
        for k, stack in enumerate(self.stacks):
            if k:
                before = self.stacks[k - 1]
                layers.append(Layer(PROJECT, f"joins.{k}.input", 1, 1, before.channels, stack.channels, bias=False))
                layers.append(Layer(FILTER, f"joins.{k}.skip", 1, 1, before.sum_channels, stack.sum_channels,
                                    bias=self.join_bias))  # fmt: skip
            for i, (dilation, taps) in enumerate(zip(stack.dilations, stack.kernel_sizes, strict=True)):
                layers.append(Layer(
                    BLOCK, f"blocks.{number}", taps, dilation, stack.channels, stack.channels, stack.gate_channels,
                    stack.sum_channels, stack, number + 1 == len(self.dilations), k == i == 0,
                    condition=self.condition,
                ))  # fmt: skip
                number += 1
        if self.filters:
            head = self.head
            layers.append(Layer(FILTER, "head", head.kernel_size, 1, self.stacks[-1].sum_channels, head.outputs,
                                bias=head.bias))  # fmt: skip
        return tuple(layers)

    @property
    def filters(self):
        """Whether the head is a convolution, which then is the last layer."""
        return self.head is not None and not self.head.end_channels

    @property
    def feature_channels(self):
        """Columns of what the last layer leaves: the skip sum, or what the head's convolution makes of it."""
        return self.head.outputs if self.filters else self.stacks[-1].sum_channels

    @property
    def receptive_field(self):
        """Rows of the input that a row of the output depends on."""
        return 1 + sum(layer.past for layer in self.layers)

    @cached_property
    def parameter_shapes(self):
        """Name -> shape of the parameters, in the order in which they are stored."""
        shapes = {} if self.real else {"input.embedding": (self.input.classes, self.stacks[0].channels)}
        for layer in self.layers:
            shapes |= layer.shapes()
        if self.head is not None and self.head.end_channels:
            skips, end, outputs = self.stacks[-1].sum_channels, self.head.end_channels, self.head.outputs
            shapes |= {"head.0.weight": (skips, end), "head.0.bias": (end,), "head.1.weight": (end, outputs),
                       "head.1.bias": (outputs,)}  # fmt: skip
        return shapes

    def without_head(self):
        """The same up to the skip sum."""
        return Network(self.input, self.stacks, None, self.condition, self.join_bias)


def wavenet(dilations, *, kernel_size=2, channels=32, gate_channels=32, skip_channels=32, end_channels=32, classes=256,
            condition=None):  # fmt: skip
    """The network of a WaveNet over codes; without end channels it has no head."""
    stack = Stack(dilations, kernel_size, channels, gate_channels, skip_channels)
    head = Softmax(classes, end_channels) if end_channels else None
    return Network(Codes(classes), (stack,), head, condition)
