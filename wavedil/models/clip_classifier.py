"""Clip classification: a WaveNet's trunk, pooled over time, and one linear layer.

With ``s[t]`` the sum of the skip outputs of all blocks after code ``t`` (see `wavedil.ops.gated_stack`)::

    y = pool over t of relu(s[t])               a mean, a mean and a deviation, or those under attention
    scores = (y - center) scale W + b           one for each label; center and scale are set by `calibrate`
    loss = mean over clips of -ln softmax(scores)[label]

The trunk hears a clip as it learned to predict it, so little labelled sound is enough to tell classes apart. Only the
samples of a clip count, not what pads it, and pooling has a running form: a stream's decision after its last block is
that of the whole clip.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from wavedil import checks
from wavedil.errors import ConfigError, DataError, DTypeError, ShapeError
from wavedil.models.base import Model
from wavedil.models.clip_config import ClipClassifierConfig, parameter_shapes
from wavedil.models.clip_stream import ClipStream, scores, softmax
from wavedil.models.wavenet import WaveNet, WaveNetConfig
from wavedil.ops import contract, cross_entropy, gated_stack, inplace, pooling
from wavedil.ops.contract import on_host

_ROWS = 8192  # of all streams together, when whole clips run through as streams


class Evaluation(NamedTuple):
    """What `ClipClassifier.evaluate` returns."""

    accuracy: float  # share of the clips that are labelled right
    loss: float  # mean nats of the right label
    confusion: np.ndarray  # (labels, labels): clips of the row's label that were taken for the column's
    predicted: np.ndarray  # a label for each clip


class ClipClassifier(Model):
    """A network that names what a whole clip is.

    Parameters
    ----------
    trunk : WaveNet, WaveNetConfig or ClipClassifierConfig
        A model, whose trunk is copied; or the sizes alone, for one with initial weights. Of a model with speakers the
        mean speaker is taken (exactly: what it adds to each block becomes part of the block's bias).
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
    config: ClipClassifierConfig

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
        seed = checks.whole("ClipClassifier", "seed", seed, 0)
        dtype = dtype or (model.dtype if model else "float32")
        self._set_up(config, parameter_shapes(config), dtype, device, threads)
        self.recompute, self.half_activations = bool(recompute), bool(half_activations)
        width = len(self.params["head.weight"])
        self.buffers = {"pooled.center": np.zeros(width, self.dtype), "pooled.scale": np.ones(width, self.dtype)}
        _initialize(self.params, config, model, seed)

    def __repr__(self):
        c = self.config
        return f"ClipClassifier({len(c.labels)} labels, {c.pooling} pooling, {self.params.count:,} parameters)"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores."""
        return self.config.labels

    @property
    def trunk_names(self) -> tuple[str, ...]:
        """Names of the parameters that came from the trunk."""
        return tuple(name for name in self.params if name.startswith(("input.", "blocks.")))

    # training ---------------------------------------------------------------------------------------------------------
    def loss(self, codes: np.ndarray, labels: ArrayLike, lengths: ArrayLike | None = None) -> float:
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

    def loss_and_grads(
        self, codes: np.ndarray, labels: ArrayLike, lengths: ArrayLike | None = None, into: Mapping | None = None, *,
        needs: Collection[str] | None = None,
    ) -> tuple[float, Mapping]:  # fmt: skip
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
        codes, mask = self._clips("loss_and_grads", codes, lengths)
        targets = self._targets("loss_and_grads", labels, len(codes))
        needs = set(self._needs("loss_and_grads", needs))
        grads = self._grads("loss_and_grads", into, needs)
        trunk = [name for name in self.trunk_names if name in needs]
        x, saved_trunk = gated_stack.forward(
            self.params, codes, network=self.config.trunk.network.without_head(), recompute=self.recompute, needs=trunk,
            half_activations=self.half_activations and self.device != "cpu",
            workspace=self._workspace, threads=self.threads,
        )  # fmt: skip
        inplace.relu(x)
        attention = {name: full for name, full in self._attention().items() if full in needs}
        pooled, saved_pooling = pooling.forward(
            x, **self._attention_arrays(), kind=self.config.pooling, sample_weight=mask, workspace=self._workspace,
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
            inplace.relu_backward(d.x, x)
            gated_stack.backward(d.x, saved_trunk, into=grads, threads=self.threads)
        return loss, grads

    def calibrate(self, clips: Iterable[tuple]) -> Self:
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
        rows = (self._clips("calibrate", np.asarray(codes)[None], None) for _, codes, _ in clips)
        pooled = [on_host(self._pooled(*row)) for row in rows]
        if not pooled:
            raise DataError("ClipClassifier.calibrate: clips must hold at least one, got none")
        together = np.concatenate(pooled).astype(np.float64)
        deviation = together.std(axis=0)
        self.buffers["pooled.center"][...] = together.mean(axis=0)
        self.buffers["pooled.scale"][...] = 1 / np.maximum(deviation, max(1e-3 * deviation.max(), 1e-6))
        return self

    # decisions --------------------------------------------------------------------------------------------------------
    def predict_proba(
        self, codes: np.ndarray | Sequence[ArrayLike], lengths: ArrayLike | None = None
    ) -> np.ndarray:
        """Probabilities (B, labels) of each clip.

        Parameters
        ----------
        codes : (B, T) array of ints, or a sequence of (T,) arrays of any lengths
        lengths : (B,) array of ints, optional
            With an array of codes.
        """
        if isinstance(codes, np.ndarray):
            pooled = self._pooled(*self._clips("predict_proba", codes, lengths))
            return softmax(scores(pooled, {name: on_host(value) for name, value in self._above().items()}))
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

    def predict(self, codes: np.ndarray | Sequence[ArrayLike], lengths: ArrayLike | None = None) -> np.ndarray:
        """The likeliest label of each clip, (B,) of str; arguments as in `predict_proba`."""
        return np.array(self.labels)[self.predict_proba(codes, lengths).argmax(axis=1)]

    def evaluate(self, clips: Iterable[tuple]) -> Evaluation:
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

    def init_stream(self, batch: int = 1) -> ClipStream:
        """State of so many streams that have heard nothing yet, for `stream`.

        The parameters are kept as they are now. It is the caller's: it can be copied (``copy()``) and reset
        (``reset()``).
        """
        return ClipStream(self, checks.whole("ClipClassifier.init_stream", "batch", batch))

    def stream(self, codes: np.ndarray, state: ClipStream, sample_weight: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (B, labels) given all codes so far, these included.

        Parameters
        ----------
        codes : (B, n) array of ints
            Any n from 1 up.
        state
            From `init_stream`; changed in place.
        sample_weight : (B, n) array, optional
            How much each row counts: 0 for what is not to be judged, such as the rest of a stream that has ended.
        """
        if getattr(state, "made_for", None) != (self.config, self.dtype):
            raise ConfigError("ClipClassifier.stream: state must come from init_stream of this model")
        return softmax(scores(state.take_in(codes, sample_weight), state.above))

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
        out = contract.empty(self._workspace, ("normal", centred), pooled.shape, self.dtype, pooled)
        inplace.affine(out, pooled, center if centred else None, scale)
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
                near = checks.nearest(text, self.labels, 0)
                raise DataError(f"{where}: labels must be the model's, such as {near!r}, got {str(text)!r}")
        return np.array([numbers[text] for text in labels])


_ATTENTION = {"w": "pooling.weight", "b": "pooling.bias", "v": "pooling.score"}
_HEAD = {"w": "head.weight", "b": "head.bias"}


def _add(grads, new, names):
    for name, full in names.items():
        target = grads[full]
        target += getattr(new, name)


def _initialize(params, config, model, seed):
    """The trunk's values, or initial ones; attention that is even at first; a head whose loss is about ln(labels)."""
    if model is None:
        model = WaveNet(config.trunk, seed=seed, dtype=params.dtype)
    names = [name for name in params if name.startswith(("input.", "blocks."))]
    values = {name: on_host(model.params[name]) for name in names}
    if model.config.speakers:
        mean = on_host(model.params["speaker.embedding"]).mean(axis=0)
        for i in range(len(config.trunk.dilations)):
            bias, weight = f"blocks.{i}.conv.bias", on_host(model.params[f"blocks.{i}.condition.weight"])
            values[bias] = values[bias] + mean @ weight
    for name, value in values.items():
        params[name][...] = value
    rng = np.random.default_rng([seed, 1])
    for name, scale in (("pooling.weight", 1.0), ("head.weight", 0.1)):
        if name in params:
            params[name][...] = scale * len(params[name]) ** -0.5 * rng.standard_normal(params[name].shape)
