"""TCN: residual blocks of dilated causal convolutions, for regression and classification of sequences.

Bai, Kolter and Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
arXiv:1803.01271.
"""

import math

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.models.base import Config, Model, checked_dataclass
from wavedil.models.stored import StoredStreams
from wavedil.ops import contract, norm, tcn_stack
from wavedil.ops.contract import on_host
from wavedil.receptive import check_dilations, receptive_field

HEADS = ("sequence", "last")


@checked_dataclass
class TCNConfig(Config):
    """Sizes of a TCN, and what it is to predict.

    Attributes
    ----------
    dilations : tuple of int
        Rows between the taps of each block's two convolutions: one entry, one block. Any sequence is accepted.
    channels : tuple of int
        Channels of each block; a single number stands for all of them.
    kernel_size : int
        Taps of each convolution.
    inputs : int
        Channels of the input, or of the embedding of its codes.
    outputs : int
        Numbers or classes that are predicted.
    classes : int
        Codes of the input; 0 if it is numbers.
    loss : str
        ``"mse"``, ``"mae"``, ``"huber"``, ``"binary"`` (outputs are logits) or ``"cross_entropy"`` (of classes).
    delta : float
        Where ``"huber"`` turns from a square to a straight line.
    head : {"sequence", "last"}
        Predict after each row, or only after the last one.
    dropout : float
        Probability of an element behind each convolution to be dropped in training.
    dropout_channels : bool
        Drop whole channels instead.
    weight_norm : bool
        Each convolution has a weight norm: directions ``weight_v`` and lengths ``weight_g`` of its output channels.
    sample_rate : int, optional
        Hz, if the rows are audio.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.
    """

    dilations: tuple[int, ...]
    channels: tuple[int, ...] | int = 32
    kernel_size: int = 3
    inputs: int = 1
    outputs: int = 1
    classes: int = 0
    loss: str = "mse"
    delta: float = 1.0
    head: str = "sequence"
    dropout: float = 0.0
    dropout_channels: bool = False
    weight_norm: bool = True
    sample_rate: int | None = None

    def __post_init__(self):
        put = self._set
        put("dilations", check_dilations(self.dilations, self.kernel_size, "TCNConfig"))
        self._check_plain_fields(classes=0)
        channels = self.channels
        if not isinstance(channels, tuple | list):
            channels = (channels,) * len(self.dilations)
        put("channels", tuple(contract.whole("TCNConfig", "channels", n) for n in channels))
        if len(self.channels) != len(self.dilations):
            raise ConfigError(
                f"TCNConfig: channels must be one number, or one for each of {len(self.dilations)} dilations, got "
                f"{len(self.channels)}"
            )
        for name, value, known in (("loss", self.loss, tcn_stack.LOSSES), ("head", self.head, HEADS)):
            if value not in known:
                raise ConfigError(f"TCNConfig: {name} must be one of {', '.join(known)}, got {value!r}")
        put("delta", checks.number("TCNConfig", "delta", self.delta, "a number above 0", lambda d: d > 0))
        wanted = "a number in [0, 1)"
        put("dropout", checks.number("TCNConfig", "dropout", self.dropout, wanted, lambda r: 0 <= r < 1))

    @property
    def receptive_field(self):
        """Rows that a prediction depends on: each block has two convolutions."""
        return receptive_field(self.dilations * 2, self.kernel_size)


class TCN(Model, StoredStreams):
    """A temporal convolutional network.

    The equations, and the parameters' names and shapes, are those of `wavedil.ops.tcn_stack`; with weight norm
    ``blocks.i.conv.j.weight_v (K, C, N)`` and ``blocks.i.conv.j.weight_g (N,)`` take the place of ``.weight``.

    Parameters
    ----------
    config : TCNConfig
    seed : int
        Of the initial weights and the dropout. The same seed gives the same weights in either dtype, up to rounding.
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda", "cuda:N", "auto"}
        Where it trains and runs. What goes in and comes out are NumPy arrays either way; only the parameters and their
        gradients lie on the device.
    threads : int, optional
        None: one a core. Changes no bit of any result.

    Attributes
    ----------
    config : TCNConfig
    params : Parameters
        Name -> array, views of one flat buffer.
    buffers : dict
        ``dropout.counter``, the seed and the number of masks drawn, if there is dropout.
    receptive_field : int
        Rows.
    nats : bool
        Whether the loss is in nats.

    Examples
    --------
    >>> import numpy as np
    >>> import wavedil as wd
    >>> model = wd.TCN(wd.TCNConfig(dilations=[1, 2, 4], channels=8, kernel_size=3, inputs=2, outputs=1))
    >>> model.receptive_field
    29
    >>> model.predict(np.zeros((4, 50, 2), np.float32)).shape
    (4, 50, 1)
    """

    Config = TCNConfig
    rows_of = "convolutions"

    def __init__(self, config, seed=0, dtype="float32", device="cpu", threads=None):
        if not isinstance(config, TCNConfig):
            raise ConfigError(f"TCN: config must be a TCNConfig, got {type(config).__name__}")
        seed = contract.whole("TCN", "seed", seed, 0)
        self._set_up(config, _shapes(config), dtype, device, threads)
        if config.dropout:
            self.buffers["dropout.counter"] = np.array([seed % 2**63, 0])
        _initialize(self.params, config, seed)

    def __repr__(self):
        c = self.config
        return f"TCN({len(c.dilations)} blocks, {self.params.count:,} parameters, field {self.receptive_field})"

    @property
    def nats(self):
        return self.config.loss in ("cross_entropy", "binary")

    # training -----------------------------------------------------------------------------------------------------
    def loss(self, x, targets, sample_weight=None):
        """Mean loss of the predictions, without dropout.

        Parameters
        ----------
        x : (B, T, inputs) array of floats, or (B, T) array of ints in [0, classes)
        targets : array
            ``(B, T)`` ints for ``cross_entropy``, else ``(B, T, outputs)`` floats; without the axis of time for the
            head ``"last"``.
        sample_weight : (B, T) or (B,) array, optional
            How much each prediction counts.

        Returns
        -------
        float
            ``sum(sample_weight * loss) / sum(sample_weight)``; the mean over the outputs of a regression.

        Raises
        ------
        ShapeError, DTypeError
            If an argument does not fit; the message says what was expected and what came.
        """
        effective, _ = self._effective()
        return tcn_stack.loss(effective, x, targets, sample_weight, **self._settings(), **self._delta())

    def loss_and_grads(self, x, targets, sample_weight=None, into=None, *, needs=None):
        """The loss under dropout, and its gradient with respect to every parameter.

        Parameters
        ----------
        x, targets, sample_weight
            As in `loss`.
        into : Parameters, optional
            Gradients are added to it (``+=``).
        needs : collection of str, optional
            Names of the parameters whose gradients are wanted; the others stay as they are. None: all.

        Returns
        -------
        loss : float
        grads : Parameters
            ``into`` if given, else fresh ones with the names that are needed.
        """
        c = self.config
        needs = set(self._needs("loss_and_grads", needs))
        grads = self._grads("loss_and_grads", into, needs)
        dropout = None
        if c.dropout:
            seed, step = self.buffers["dropout.counter"].tolist()
            dropout = tcn_stack.Dropout(c.dropout, seed, step, c.dropout_channels)
        effective, saved = self._effective()
        target, wanted = {}, []
        for name, value in effective.items():
            if name in saved:
                if {f"{name}_v", f"{name}_g"} & needs:
                    target[name] = contract.empty(self._workspace, f"gradient {name}", value.shape, self.dtype, value)
                    target[name][...] = 0
                    wanted.append(name)
            elif name in needs:
                target[name] = grads[name]
                wanted.append(name)
        result = tcn_stack.loss_and_grads(
            effective, x, targets, sample_weight, target, **self._settings(), **self._delta(), dropout=dropout,
            needs=wanted,
        )  # fmt: skip
        for name in wanted:
            if name in saved:
                parts = norm.Grads(*(grads[n] if n in needs else None for n in (f"{name}_v", f"{name}_g")), None)
                norm.backward(result.grads[name], saved[name], into=parts, threads=1)
        if c.dropout:
            self.buffers["dropout.counter"][1] += 1
        return result.loss, grads

    def predict(self, x):
        """Predictions, without dropout: numbers, or logits of classes.

        Parameters
        ----------
        x : array
            As in `loss`.

        Returns
        -------
        (B, T, outputs) array, or (B, outputs) for the head ``"last"``
        """
        settings = self._settings()
        settings.pop("loss")
        return on_host(tcn_stack.predict(self._effective()[0], x, **settings))

    def _settings(self):
        c = self.config
        return {"dilations": c.dilations, "loss": c.loss, "last": c.head == "last", "workspace": self._workspace,
                "threads": self.threads}  # fmt: skip

    def _delta(self):
        return {"delta": self.config.delta} if self.config.loss == "huber" else {}

    def _effective(self):
        """The weights as the stack takes them, and what the weight norms' backward needs."""
        if not self.config.weight_norm:
            return self.params, {}
        effective, saved = {}, {}
        for name, value in self.params.items():
            if name.endswith("weight_v"):
                name = name.removesuffix("_v")
                out = contract.empty(self._workspace, f"effective {name}", value.shape, self.dtype, value)
                effective[name], saved[name] = norm.forward(
                    value, self.params[f"{name}_g"], kind="weight", out=out, threads=1
                )
            elif not name.endswith("weight_g"):
                effective[name] = value
        return effective, saved

    # streams --------------------------------------------------------------------------------------------------------
    def init_stream(self, batch=1):
        """State of so many streams that begin with silence, for `stream`.

        The state keeps the parameters as they are now. It is the caller's: it can be copied (``copy()``) and reset
        (``reset()``).
        """
        state = tcn_stack.init_state(
            self._effective()[0], batch, dilations=self.config.dilations, threads=self.threads
        )
        return self._mark(state)

    def stream(self, x, state):
        """Predictions after each of n more rows, as `predict` of a sequence would give them in one piece.

        Parameters
        ----------
        x : (B, n, inputs) array of floats or (B, n) array of ints
            Any n from 1 up, shorter or longer than the dilations.
        state
            From `init_stream`; changed in place.

        Returns
        -------
        (B, n, outputs) array
            For the head ``"last"`` too: what the prediction would be if the sequence ended there.
        """
        self._check_state("stream", state)
        return on_host(tcn_stack.step(x, state))


def _shapes(c):
    shapes = tcn_stack.parameter_shapes(
        inputs=c.inputs, channels=c.channels, kernel_size=c.kernel_size, outputs=c.outputs, classes=c.classes
    )
    if not c.weight_norm:
        return shapes
    normed = {}
    for name, shape in shapes.items():
        if ".conv." in name and name.endswith("weight"):
            normed[f"{name}_v"], normed[f"{name}_g"] = shape, shape[-1:]
        else:
            normed[name] = shape
    return normed


def _initialize(params, c, seed):
    """Draw initial weights: He et al., arXiv:1502.01852, so that no layer starts with tiny or huge numbers.

    Each block adds to the one before: the second convolutions start smaller, so that the sum has the variance of one.
    """
    rng = np.random.default_rng(seed)
    for name, value in params.items():
        if name.endswith(("bias", "weight_g")):
            continue
        if name == "input.embedding":
            scale = 1.0
        else:
            gain = 2.0 if ".conv." in name else 1.0
            scale = math.sqrt(gain / np.prod(value.shape[:-1]))
            if ".conv.1." in name:
                scale /= math.sqrt(len(c.dilations))
        value[...] = scale * rng.standard_normal(value.shape)
        if name.endswith("weight_v"):
            params[name.removesuffix("_v") + "_g"][...] = np.sqrt((on_host(value) ** 2).sum((0, 1)))
