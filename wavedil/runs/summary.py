"""What a model is made of and what it costs; what a loss and a recipe mean, in words."""

import math
from dataclasses import dataclass

from wavedil import receptive
from wavedil.models import TCN, WaveNet
from wavedil.runs.run import Run
from wavedil.runs.settings import Settings, TrainSettings
from wavedil.runs.train import model_config, optimizer
from wavedil.training import checkpoint


@dataclass(frozen=True)
class Layer:
    """A row of the table of layers: its name, what it is, how many rows of the input it sees, and its parameters."""

    name: str
    what: str
    field: int
    parameters: int


@dataclass(frozen=True)
class Summary:
    """What a model is made of.

    Attributes
    ----------
    layers : list of Layer
        From the input up.
    parameters, nbytes : int
    receptive_field : int
        Samples.
    flops : int
        Floating point operations of one output sample's forward pass.
    memory : int or None
        Bytes of a training step; None where only WaveNets are known.
    cautions : list of str
        What may be wrong with the dilations.
    """

    layers: list
    parameters: int
    nbytes: int
    receptive_field: int
    flops: int
    memory: int | None
    cautions: list


def model(run: Run, device: str = "cpu"):
    """The model of a run, to look at: its settings suffice for a WaveNet, so that it can be seen during training."""
    if not (run.path / checkpoint.MODEL).is_file() or run.kind == "WaveNet":
        return untrained(run.settings, len(run.speakers), device)
    return run.model(device)


def untrained(wanted: Settings, speakers: int, device: str = "cpu") -> WaveNet:
    """The WaveNet that settings describe, with initial weights."""
    return WaveNet(model_config(wanted, speakers), recompute=wanted.train.recompute, device=device)


def summarise(model, t: TrainSettings) -> Summary:
    """Look at a model that is to train by these settings."""
    memory, window = None, None
    if isinstance(model, WaveNet):
        moments = len(optimizer(t).moments)
        memory = memory_of_a_step(model.config, model.params, t.batch, t.window, t.recompute, moments, t.ema > 0)
        window = t.window
    dilations, kernel = _convolutions(model)
    cautions = list(receptive.cautions(dilations, kernel, window=window))
    return Summary(layers(model), model.params.count, model.params.count * model.params.flat.itemsize,
                   model.receptive_field, forward_flops(model.params.shapes), memory, cautions)  # fmt: skip


def layers(model) -> list[Layer]:
    """The layers of a model, from the input up."""
    config = getattr(model.config, "trunk", model.config)
    sizes = {}
    for name, array in model.params.items():
        first, second = name.split(".")[:2]
        key = f"{first}.{second}" if second.isdigit() else first
        sizes[key] = sizes.get(key, 0) + int(array.size)
    dilations, kernel = _convolutions(model)
    each = len(dilations) // len(config.dilations)
    rows, field = [], 1
    for key in sorted(sizes, key=lambda key: key != "speaker"):  # first the speaker, which sees no samples
        what = {"speaker": f"{getattr(config, 'speakers', 0)} speakers", "input": "embedding"}.get(key, "1 x 1")
        if key.startswith("blocks."):
            dilation = config.dilations[int(key.partition(".")[2])]
            field += each * (kernel - 1) * dilation
            what = f"dilation {dilation}"
        rows.append(Layer(key, what, field, sizes[key]))
    return rows


def _convolutions(model):
    """The dilation of each convolution of a model, and their kernel size."""
    config = getattr(model.config, "trunk", model.config)
    each = 2 if isinstance(model, TCN) else 1
    return [dilation for dilation in config.dilations for _ in range(each)], config.kernel_size


def forward_flops(shapes: dict) -> int:
    """Floating point operations of one output sample's forward pass; a multiply-add is two.

    Matrix products only: lookups, gates and sums are few beside them, and a speaker is projected once a clip.
    """
    return sum(2 * math.prod(shape) for name, shape in shapes.items()
               if name.endswith((".weight", ".weight_v")) and not name.endswith(".condition.weight"))  # fmt: skip


def memory_of_a_step(config, params, batch, window, recompute=False, moments=2, ema=False) -> int:
    """Bytes of the arrays that a training step holds: the weights and their likes, and the activations for backward.

    Weights, gradient, moments, average, the weights packed twice, and gradients of each batch item; of each block its
    input and, unless they are computed again, tanh and sigmoid; and one gradient of the residual and skip channels.
    """
    copies = 4 + moments + ema + batch
    per_block = config.residual_channels + (0 if recompute else 2 * config.dilation_channels)
    rows = len(config.dilations) * window + (config.kernel_size - 1) * sum(config.dilations)
    activations = per_block * rows + (config.residual_channels + config.skip_channels) * window
    return params.flat.itemsize * (copies * params.flat.size + batch * activations)


def verdict(bits: float, baselines: dict) -> str:
    """What a validation loss means, in a sentence for a newcomer."""
    order0, order1 = baselines["order0"], baselines["order1"]
    text = f"For each sample of speech that it never heard, the model needs {bits:.2f} bits. "
    if bits >= order0:
        return text + (f"Knowing how often each value occurs, and nothing else, needs {order0:.2f}: it has not learned "
                       "anything about speech yet; train longer.")
    if bits >= order1:
        return text + (f"That is less than {order0:.2f}, for knowing how often each value occurs, but not yet less "
                       f"than {order1:.2f}, for knowing the sample before; train longer.")
    return text + (f"FLAC needs {baselines['flac']:.2f}, knowing nothing 8.00, knowing only the sample before "
                   f"(order-1) {order1:.2f}: it predicts speech better than that by {order1 - bits:.2f} bits per "
                   "sample.")


def recipe_text(recipe: dict) -> str:
    """What fine-tuning trains, in a sentence."""
    parts = []
    if recipe.get("lora"):
        parts.append(f"adapters of rank {recipe['lora']['rank']}")
    for key, words in (("train", "only"), ("freeze", "frozen:"), ("lr_scale", "learning rate:"),
                       ("decay_scale", "weight decay:"), ("unfreeze", "from step:")):
        items = recipe.get(key) or ()
        items = items.items() if isinstance(items, dict) else items
        texts = [item if isinstance(item, str) else f"{item[0]} x {item[1]:g}" if key != "unfreeze" else
                 f"{item[0]} {item[1]}" for item in items]
        if texts:
            parts.append(f"{words} {', '.join(texts)}")
    if recipe.get("l2_start"):
        parts.append(f"L2 to the start {recipe['l2_start']:g}")
    return "; ".join(parts) or "all of the model trains"
