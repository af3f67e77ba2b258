"""Clip classification: a WaveNet's trunk, pooled over time, and one linear layer.

With ``s[t]`` the sum of the skip outputs of all blocks after code ``t`` (see `wavedil.ops.gated_stack`)::

    y = pool over t of relu(s[t])               a mean, a mean and a deviation, or those under attention
    scores = (y - center) scale W + b           one for each label; center and scale are set by `calibrate`
    loss = mean over clips of -ln softmax(scores)[label]

The trunk hears a clip as it learned to predict it, so little labelled sound is enough to tell classes apart. Only the
samples of a clip count, not what pads it, and pooling has a running form: a stream's decision after its last block is
that of the whole clip.
"""

import copy
import dataclasses
import difflib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wavedil.errors import ConfigError, DataError, DTypeError, ShapeError
from wavedil.kernels.pool import check_threads
from wavedil.kernels.workspace import Workspace
from wavedil.models.stored import Stored
from wavedil.models.wavenet import WaveNet, WaveNetConfig
from wavedil.ops import contract, cross_entropy, gated_stack, pooling
from wavedil.parameters import devices
from wavedil.parameters.store import Parameters, host

_ROWS = 8192  # of all streams together, when whole clips run through as streams


@dataclass(frozen=True)
class ClipClassifierConfig:
    """Sizes of a clip classifier.

    Attributes
    ----------
    trunk : WaveNetConfig
        Without condition and speakers. Its head is not used.
    labels : tuple of str
        Names of the classes. Any sequence is accepted.
    pooling : {"average", "statistics", "attentive"}
        See `wavedil.ops.pooling`.
    attention_channels : int
        Of the hidden layer of the attention.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.
    """

    trunk: WaveNetConfig
    labels: tuple[str, ...]
    pooling: str = "statistics"
    attention_channels: int = 32

    def __post_init__(self):
        where = "ClipClassifierConfig"
        if not isinstance(self.trunk, WaveNetConfig):
            raise ConfigError(f"{where}: trunk must be a WaveNetConfig, got {type(self.trunk).__name__}")
        if self.trunk.condition_channels:
            raise ConfigError(
                f"{where}: trunk must have no condition, got condition_channels={self.trunk.condition_channels}"
            )
        labels = self.labels
        good = not isinstance(labels, str) and hasattr(labels, "__iter__")
        labels = tuple(labels) if good else ()
        if len(labels) < 2 or len(set(labels)) != len(labels) or not all(isinstance(t, str) and t for t in labels):
            raise ConfigError(f"{where}: labels must be at least 2 different texts, got {self.labels!r}")
        object.__setattr__(self, "labels", tuple(str(text) for text in labels))
        if self.pooling not in pooling.KINDS:
            kinds = ", ".join(map(repr, pooling.KINDS))
            raise ConfigError(f"{where}: pooling must be one of {kinds}, got {self.pooling!r}")
        channels = contract.whole(where, "attention_channels", self.attention_channels)
        object.__setattr__(self, "attention_channels", channels)

    @property
    def sample_rate(self):
        """Hz of the audio that the codes stand for."""
        return self.trunk.sample_rate

    @property
    def receptive_field(self):
        """Samples that a row of the trunk depends on."""
        return self.trunk.receptive_field

    def to_dict(self):
        """The values as plain JSON types."""
        return {
            "trunk": self.trunk.to_dict(), "labels": list(self.labels), "pooling": self.pooling,
            "attention_channels": self.attention_channels,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values):
        """The opposite of `to_dict`.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not right.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not hasattr(values, "keys") or not {"trunk", "labels"} <= set(values) <= set(known):
            raise ConfigError(f"ClipClassifierConfig: expected trunk, labels and maybe {', '.join(known[2:])}")
        return cls(**dict(values) | {"trunk": WaveNetConfig.from_dict(values["trunk"])})


class Evaluation(NamedTuple):
    """What `ClipClassifier.evaluate` returns."""

    accuracy: float  # share of the clips that are labelled right
    loss: float  # mean nats of the right label
    confusion: np.ndarray  # (labels, labels): clips of the row's label that were taken for the column's
    predicted: np.ndarray  # a label for each clip


class ClipClassifier(Stored):
    """A network that names what a whole clip is.

    Parameters
    ----------
    trunk : WaveNet, WaveNetConfig or ClipClassifierConfig
        A model, whose trunk is copied; or the sizes alone, for one with initial weights. Of a model with speakers the
        mean voice is taken (exactly: what it adds to each block becomes part of the block's bias).
    labels : sequence of str
        Names of the classes; left out with a ClipClassifierConfig.
    pooling : {"average", "statistics", "attentive"}
        Mean over time; mean and deviation; mean and deviation where attention puts its weight. Default "statistics".
    attention_channels : int
        Hidden channels of the attention. Default 32.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}, optional
        Default: that of the trunk.
    device : {"cpu", "cuda", "cuda:N", "auto"}, optional
        Where it trains and runs; default: where the trunk's model is, or the CPU. What goes in and comes out are NumPy
        arrays either way; only the parameters and their gradients lie on the device.
    recompute, half_activations : bool
        As in `WaveNet`.
    threads : int, optional
        None: one a core. Changes no bit of any result.

    Attributes
    ----------
    config : ClipClassifierConfig
    params : Parameters
        The trunk's names (``input.embedding``, ``blocks.*``), ``pooling.weight``, ``.bias`` and ``.score`` of the
        attention, ``head.weight`` and ``head.bias``.
    buffers : dict
        ``pooled.center`` and ``pooled.scale`` of each pooled number: 0 and 1 until `calibrate` sets them.
    labels : tuple of str
    receptive_field : int
        Samples.
    """

    Config = ClipClassifierConfig

    def __init__(self, trunk, labels=None, *, pooling=None, attention_channels=None, seed=0, dtype=None, device=None,
                 recompute=False, threads=None, half_activations=False):  # fmt: skip
        given = {"labels": labels, "pooling": pooling, "attention_channels": attention_channels}
        given = {name: value for name, value in given.items() if value is not None}
        model = trunk if isinstance(trunk, WaveNet) else None
        if isinstance(trunk, ClipClassifierConfig):
            if given:
                raise ConfigError(f"ClipClassifier: {', '.join(given)} must be left out, as a whole config is given")
            config = trunk
        else:
            if labels is None:
                raise ConfigError("ClipClassifier: labels must be given, got None")
            sizes = model.config if model else trunk
            if not isinstance(sizes, WaveNetConfig):
                raise ConfigError(f"ClipClassifier: trunk must be a WaveNet or a config, got {type(trunk).__name__}")
            if sizes.speakers:
                sizes = dataclasses.replace(sizes, speakers=0, condition_channels=0)
            config = ClipClassifierConfig(sizes, **given)
        if device is None:
            device = model.device if model else "cpu"
        self.config, self.device, self.recompute = config, devices.resolve(device), bool(recompute)
        self.half_activations = bool(half_activations)
        self.threads = check_threads(threads)
        seed = contract.whole("ClipClassifier", "seed", seed, 0)
        self.params = Parameters(_shapes(config), dtype or (model.dtype if model else "float32"), self.device)
        width = len(self.params["head.weight"])
        self.buffers = {"pooled.center": np.zeros(width, self.dtype), "pooled.scale": np.ones(width, self.dtype)}
        self._workspace = Workspace()
        _initialize(self.params, config, model, seed)

    def __repr__(self):
        c = self.config
        return f"ClipClassifier({len(c.labels)} labels, {c.pooling} pooling, {self.params.count:,} parameters)"

    @property
    def labels(self):
        """Names of the classes, in the order of the scores."""
        return self.config.labels

    @property
    def receptive_field(self):
        """Samples that a row of the trunk depends on."""
        return self.config.receptive_field

    @property
    def dtype(self):
        """Of the parameters and activations."""
        return self.params.dtype

    @property
    def trunk_names(self):
        """Names of the parameters that came from the trunk."""
        return tuple(name for name in self.params if name.startswith(("input.", "blocks.")))

    # training ---------------------------------------------------------------------------------------------------------
    def loss(self, codes, labels, lengths=None):
        """Mean nats of the clips' labels; the memory needed does not grow with the length.

        Parameters
        ----------
        codes : (B, T) array of ints in [0, classes)
            Whole clips, padded at the end with anything.
        labels : (B,) array of str, or of ints in the order of the model's labels
        lengths : (B,) array of ints, optional
            Codes of each clip; default all T.

        Returns
        -------
        float

        Raises
        ------
        DataError
            If a label is unknown.
        ShapeError, DTypeError
            If an argument does not fit; the message says what was expected and what came.
        """
        codes, mask = self._clips("loss", codes, lengths)
        targets = self._targets("loss", labels, len(codes))
        return self._score(self._pooled(codes, mask), targets)[0]

    def loss_and_grads(self, codes, labels, lengths=None, into=None, *, needs=None):
        """The loss and its gradient with respect to the parameters.

        Parameters
        ----------
        codes, labels, lengths
            As in `loss`.
        into : Parameters, optional
            Gradients are added to it (``+=``).
        needs : collection of str, optional
            Names of the parameters whose gradients are wanted; the trunk is not run backwards below them. None: all.

        Returns
        -------
        loss : float
        grads : Parameters
            ``into`` if given, else fresh ones with the names that are needed.
        """
        where = "ClipClassifier.loss_and_grads"
        codes, mask = self._clips("loss_and_grads", codes, lengths)
        targets = self._targets("loss_and_grads", labels, len(codes))
        needs, grads = self._grads(where, into, needs)
        trunk = [name for name in self.trunk_names if name in needs]
        x, saved_trunk = gated_stack.forward(
            self.params, codes, dilations=self.config.trunk.dilations, recompute=self.recompute, needs=trunk,
            half_activations=self.half_activations and self.device != "cpu",
            workspace=self._workspace, threads=self.threads,
        )  # fmt: skip
        _relu(x)
        attention = {name: full for name, full in self._attention().items() if full in needs}
        pooled, saved_pooling = pooling.forward(
            x, **self._attention_arrays(), kind=self.config.pooling, weights=mask, workspace=self._workspace,
            threads=self.threads,
        )  # fmt: skip
        loss, saved_head = self._score(pooled, targets)
        below = bool(trunk or attention)
        head = cross_entropy.backward(
            1.0, saved_head, needs=[n for n, full in _HEAD.items() if full in needs] + ["x"] * below,
            workspace=self._workspace, threads=self.threads,
        )  # fmt: skip
        _add(grads, head, {n: full for n, full in _HEAD.items() if full in needs})
        if below:
            dpooled = self._normal(head.x.reshape(pooled.shape), centred=False)
            d = pooling.backward(
                dpooled, saved_pooling, needs=[*attention, *["x"] * bool(trunk)], workspace=self._workspace,
                threads=self.threads,
            )  # fmt: skip
            _add(grads, d, attention)
        if trunk:
            _relu_back(d.x, x)
            gated_stack.backward(d.x, saved_trunk, into=grads, threads=self.threads)
        return loss, grads

    def calibrate(self, clips):
        """Set the center and scale so that the pooled numbers have mean 0 and deviation 1 over some clips.

        Before training: pooled numbers differ in size a hundredfold, and the head learns slowly from such. The answers
        of a trained model change.

        Parameters
        ----------
        clips : sequence of (name, codes, label)
            Such as ``LabelledClips.train_clips()``; the labels are not looked at.

        Returns
        -------
        ClipClassifier
            The model itself.
        """
        pooled = [host(self._pooled(*self._clips("calibrate", np.asarray(codes)[None], None))) for _, codes, _ in clips]
        if not pooled:
            raise DataError("ClipClassifier.calibrate: clips must hold at least one, got none")
        pooled = np.concatenate(pooled).astype(np.float64)
        deviation = pooled.std(axis=0)
        self.buffers["pooled.center"][...] = pooled.mean(axis=0)
        self.buffers["pooled.scale"][...] = 1 / np.maximum(deviation, max(1e-3 * deviation.max(), 1e-6))
        return self

    # decisions --------------------------------------------------------------------------------------------------------
    def predict_proba(self, codes, lengths=None):
        """Probabilities (B, labels) of each clip.

        Parameters
        ----------
        codes : (B, T) array of ints, or a sequence of (T,) arrays of any lengths
        lengths : (B,) array of ints, optional
            With an array of codes.
        """
        if isinstance(codes, np.ndarray):
            pooled = self._pooled(*self._clips("predict_proba", codes, lengths))
            return _softmax(_scores(pooled, {name: host(value) for name, value in self._above().items()}))
        clips = [contract.integers("ClipClassifier.predict_proba", "codes", np.asarray(c), ("T",)) for c in codes]
        if not clips or lengths is not None:
            raise ShapeError("ClipClassifier.predict_proba: codes must be an array (with lengths), or some clips")
        out = np.empty((len(clips), len(self.labels)), self.dtype)
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))  # those of like lengths run together
        for begin in range(0, len(order), 8):
            some = order[begin : begin + 8]
            size = np.array([len(clips[i]) for i in some])
            padded = np.zeros((len(some), size.max()), np.int64)
            for row, i in zip(padded, some, strict=True):
                row[: len(clips[i])] = clips[i]
            out[some] = self.predict_proba(padded, size)
        return out

    def predict(self, codes, lengths=None):
        """The likeliest label of each clip, (B,) of str; arguments as in `predict_proba`."""
        return np.array(self.labels)[self.predict_proba(codes, lengths).argmax(axis=1)]

    def evaluate(self, clips):
        """Accuracy, loss and confusions over labelled clips.

        Parameters
        ----------
        clips : sequence of (name, codes, label)
            Such as ``LabelledClips.validation_clips()``.

        Returns
        -------
        Evaluation
        """
        clips = list(clips)
        if not clips:
            raise DataError("ClipClassifier.evaluate: clips must hold at least one, got none")
        truth = self._targets("evaluate", np.array([label for _, _, label in clips]), len(clips))
        proba = self.predict_proba([codes for _, codes, _ in clips])
        predicted = proba.argmax(axis=1)
        confusion = np.zeros((len(self.labels),) * 2, np.int64)
        np.add.at(confusion, (truth, predicted), 1)
        nats = -np.log(np.maximum(proba[np.arange(len(clips)), truth], np.finfo(self.dtype).tiny))
        loss = float(nats.mean(dtype=np.float64))
        return Evaluation(float((predicted == truth).mean()), loss, confusion, np.array(self.labels)[predicted])

    def init_stream(self, batch=1):
        """State of so many streams that have heard nothing yet, for `stream`.

        The parameters are kept as they are now. It is the caller's: it can be copied (``copy()``) and reset
        (``reset()``).
        """
        return _Stream(self, contract.whole("ClipClassifier.init_stream", "batch", batch))

    def stream(self, codes, state, weights=None):
        """Probabilities (B, labels) given all codes so far, these included.

        Parameters
        ----------
        codes : (B, n) array of ints
            Any n from 1 up.
        state
            From `init_stream`; changed in place.
        weights : (B, n) array, optional
            How much each row counts: 0 for what is not to be judged, such as the rest of a stream that has ended.
        """
        if getattr(state, "made_for", None) != (self.config, self.dtype):
            raise ConfigError("ClipClassifier.stream: state must come from init_stream of this model")
        return _softmax(_scores(state.take_in(codes, weights), state.above))

    # parts ------------------------------------------------------------------------------------------------------------
    def _above(self):
        """What comes after pooling: the head's parameters and the buffers."""
        return {name: self.params[name] for name in _HEAD.values()} | self.buffers

    def _attention(self):
        """Names of the pooling's arguments -> those of the parameters."""
        return _ATTENTION if self.config.pooling == "attentive" else {}

    def _attention_arrays(self):
        return {name: self.params[full] for name, full in self._attention().items()}

    def _pooled(self, codes, mask):
        """The pooled trunk of each clip, run through as a stream: in little memory."""
        state = self.init_stream(len(codes))
        rows = max(1, _ROWS // len(codes))
        for begin in range(0, codes.shape[1], rows):
            pooled = state.take_in(codes[:, begin : begin + rows], mask[:, begin : begin + rows])
        return pooled

    def _score(self, pooled, targets):
        head, (batch, width) = [self.params[name] for name in _HEAD.values()], pooled.shape
        return cross_entropy.forward(
            self._normal(pooled, centred=True).reshape(batch, 1, width), *head, targets.reshape(batch, 1),
            workspace=self._workspace, threads=self.threads,
        )  # fmt: skip

    def _normal(self, pooled, *, centred):
        """(pooled - center) scale, or, of a gradient, without the center."""
        center, scale = (
            contract.placed(self._workspace, name, self.buffers[name], pooled)
            for name in ("pooled.center", "pooled.scale")
        )
        if self.device == "cpu":
            return (pooled - center) * scale if centred else pooled * scale
        from wavedil.ops.norm import cuda as norm

        out = contract.empty(self._workspace, ("normal", centred), pooled.shape, self.dtype, pooled)
        norm.forward(
            out, center if centred else None, scale, None, pooled, None, None, "batch", 0.0, True,
            workspace=self._workspace, threads=None,
        )  # fmt: skip
        return out

    def _clips(self, where, codes, lengths):
        """The codes, and a mask of those that count."""
        where = f"ClipClassifier.{where}"
        codes = contract.integers(where, "codes", np.asarray(codes), ("B", "T"))
        contract.in_range(where, "codes", codes, self.config.trunk.classes)
        if lengths is None:
            return codes, np.ones(codes.shape, bool)
        lengths = contract.integers(where, "lengths", np.asarray(lengths), codes.shape[:1])
        if lengths.min() < 1 or lengths.max() > codes.shape[1]:
            raise ShapeError(f"{where}: lengths must lie in [1, {codes.shape[1]}], got {lengths.tolist()}")
        return codes, np.arange(codes.shape[1]) < lengths[:, None]

    def _targets(self, where, labels, count):
        """Labels as numbers."""
        where, labels = f"ClipClassifier.{where}", np.asarray(labels)
        if labels.shape != (count,):
            raise ShapeError(f"{where}: labels must be ({count},), got {labels.shape}")
        if labels.dtype.kind in "iu":
            contract.in_range(where, "labels", labels, len(self.labels))
            return labels
        if labels.dtype.kind != "U":
            raise DTypeError(f"{where}: labels must be texts or integers, got {labels.dtype}")
        numbers = {text: i for i, text in enumerate(self.labels)}
        for text in labels:
            if text not in numbers:
                near = difflib.get_close_matches(str(text), self.labels, 3, 0.5) or self.labels[:5]
                raise DataError(f"{where}: labels must be the model's, got {str(text)!r}; near: {', '.join(near)}")
        return np.array([numbers[text] for text in labels])

    def _grads(self, where, into, needs):
        """Names of the gradients that are needed, and Parameters to add them to."""
        unknown = sorted(set(needs or ()) - set(self.params))
        if isinstance(needs, str) or unknown:
            raise ConfigError(f"{where}: needs must hold names of parameters, got {unknown or needs!r}")
        needs = set(self.params if needs is None else needs)
        if into is None:
            shapes = {name: shape for name, shape in self.params.shapes.items() if name in needs}
            return needs, Parameters(shapes, self.dtype, self.device) if shapes else {}
        for name in needs:
            if name not in into:
                raise ConfigError(f"{where}: into must have an array for {name}, got none")
            like = self.params[name]
            contract.target(where, f"into[{name!r}]", into[name], like.shape, self.dtype, like)
        return needs, into


_ATTENTION = {"w": "pooling.weight", "b": "pooling.bias", "v": "pooling.score"}
_HEAD = {"w": "head.weight", "b": "head.bias"}


class _Stream:
    """Streams through a classifier, and its parameters as they were when this was made."""

    def __init__(self, model, batch):
        self.made_for, self.batch = (model.config, model.dtype), batch
        self.above = {name: host(array).copy() for name, array in model._above().items()}
        self._kind = model.config.pooling
        self._attention = {name: array.copy() for name, array in model._attention_arrays().items()}
        skips, classes = model.config.trunk.skip_channels, model.config.trunk.classes
        # The trunk's streams can have logits as well; these are never computed.
        shapes = {"head.0.weight": (skips, 1), "head.0.bias": (1,), "head.1.weight": (1, classes),
                  "head.1.bias": (classes,)}  # fmt: skip
        like = model.params["input.embedding"]
        head = {name: contract.zeros(shape, model.dtype, like) for name, shape in shapes.items()}
        self._trunk = gated_stack.init_state(
            {**model.params, **head}, batch, dilations=model.config.trunk.dilations, threads=model.threads
        )
        self._workspace = Workspace()
        self._pooled = pooling.init_state(batch, skips, like)

    @property
    def time(self):
        """Codes heard so far."""
        return self._trunk.time

    def take_in(self, codes, weights):
        """The pooled trunk of all codes so far; overwritten by the next call."""
        codes = np.asarray(codes)
        if weights is not None:  # before the trunk moves on
            contract.row_weights("ClipClassifier.stream", weights, codes.shape, zero=True)
        x = gated_stack.step_features(codes, self._trunk)
        _relu(x)
        return pooling.step(
            x, self._pooled, **self._attention, kind=self._kind, weights=weights, workspace=self._workspace
        )

    def reset(self):
        """Forget the past."""
        self._trunk.reset()
        self._pooled = pooling.init_state(*self._pooled.mean.shape, self._pooled.mean)

    def copy(self):
        """A second state that goes on from here; it shares the parameters."""
        other = copy.copy(self)
        other._trunk, other._workspace = self._trunk.copy(), Workspace()
        other._pooled = pooling.State(*(array.copy() for array in self._pooled))
        return other


def _add(grads, new, names):
    for name, full in names.items():
        target = grads[full]
        target += getattr(new, name)


def _relu(x):
    """x = relu(x)"""
    if contract.is_device_array(x):
        from wavedil.ops.activation import cuda as activation

        activation.forward(x, x, None, "relu", 0.0, workspace=None, threads=None)
    else:
        np.maximum(x, 0, out=x)


def _relu_back(dx, x):
    """dx = the gradient of what was in x before its `_relu`, from that of what is in it now"""
    if contract.is_device_array(x):
        from wavedil.ops import activation
        from wavedil.ops.activation import cuda

        saved, grads = activation.Saved(x, None, "relu", 0.0), activation.Grads(dx, None)
        cuda.backward(grads, dx, saved, workspace=None, threads=None)
    else:
        np.multiply(dx, x > 0, out=dx)


def _scores(pooled, above):
    """What the head says of pooled clips, on the host."""
    normal = (host(pooled) - above["pooled.center"]) * above["pooled.scale"]
    return normal @ above["head.weight"] + above["head.bias"]


def _softmax(scores):
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _shapes(config):
    t = config.trunk
    shapes = gated_stack.parameter_shapes(
        dilations=t.dilations, kernel_size=t.kernel_size, residual_channels=t.residual_channels,
        dilation_channels=t.dilation_channels, skip_channels=t.skip_channels, end_channels=t.end_channels,
        classes=t.classes,
    )  # fmt: skip
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("head.")}
    if config.pooling == "attentive":
        hidden = config.attention_channels
        shapes |= {"pooling.weight": (t.skip_channels, hidden), "pooling.bias": (hidden,), "pooling.score": (hidden,)}
    width = pooling.width(t.skip_channels, config.pooling)
    return shapes | {"head.weight": (width, len(config.labels)), "head.bias": (len(config.labels),)}


def _initialize(params, config, model, seed):
    """The trunk's values, or initial ones; attention that is even at first; a head whose loss is about ln(labels)."""
    if model is None:
        model = WaveNet(config.trunk, seed=seed, dtype=params.dtype)
    names = [name for name in params if name.startswith(("input.", "blocks."))]
    values = {name: host(model.params[name]) for name in names}
    if model.config.speakers:
        voice = host(model.params["speaker.embedding"]).mean(axis=0)
        for i in range(len(config.trunk.dilations)):
            bias, weight = f"blocks.{i}.conv.bias", host(model.params[f"blocks.{i}.condition.weight"])
            values[bias] = values[bias] + voice @ weight
    for name, value in values.items():
        params[name][...] = value
    rng = np.random.default_rng([seed, 1])
    for name, scale in (("pooling.weight", 1.0), ("head.weight", 0.1)):
        if name in params:
            params[name][...] = scale * len(params[name]) ** -0.5 * rng.standard_normal(params[name].shape)
