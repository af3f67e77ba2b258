"""WaveNet: gated dilated convolutions over mu-law codes, for training, block streaming and generation.

van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499.
"""

import dataclasses
import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wavedil.errors import CheckpointError, ConfigError, ShapeError
from wavedil.kernels.pool import check_threads
from wavedil.kernels.workspace import Workspace
from wavedil.models.stored import StoredStreams
from wavedil.ops import contract, gated_stack
from wavedil.parameters import devices, files
from wavedil.parameters import names as naming
from wavedil.parameters.store import Parameters, host
from wavedil.receptive import check_dilations, receptive_field


@dataclass(frozen=True)
class WaveNetConfig:
    """Sizes of a WaveNet.

    Attributes
    ----------
    dilations : tuple of int
        Rows between the taps of each block: one entry, one block. Any sequence is accepted.
    kernel_size : int
        Taps of each dilated convolution.
    residual_channels, dilation_channels, skip_channels, end_channels : int
        Channels between blocks, in each half of the gate, of the skip sum, and of the head's hidden layer.
    classes : int
        Number of codes.
    sample_rate : int
        Hz of the audio that the codes stand for.
    codec : str
        ``"mulaw"``, or ``"none"`` for codes that are not audio.
    condition_channels : int
        Width of the condition; 0 for none. With speakers it defaults to ``residual_channels``.
    speakers : int
        Voices, each with an embedding that is (added to) the condition; 0 for none.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.
    """

    dilations: tuple[int, ...]
    kernel_size: int = 2
    residual_channels: int = 32
    dilation_channels: int = 32
    skip_channels: int = 32
    end_channels: int = 32
    classes: int = 256
    sample_rate: int = 8000
    codec: str = "mulaw"
    condition_channels: int = 0
    speakers: int = 0

    def __post_init__(self):
        object.__setattr__(self, "dilations", check_dilations(self.dilations, self.kernel_size, "WaveNetConfig"))
        for field in dataclasses.fields(self):
            if field.type is not int:
                continue
            value, least = getattr(self, field.name), 0 if field.name in ("condition_channels", "speakers") else 1
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
                raise ConfigError(f"WaveNetConfig: {field.name} must be an integer of at least {least}, got {value!r}")
            object.__setattr__(self, field.name, int(value))
        if self.codec not in ("mulaw", "none"):
            raise ConfigError(f"WaveNetConfig: codec must be 'mulaw' or 'none', got {self.codec!r}")
        if self.codec == "mulaw" and self.classes > 256:
            raise ConfigError(f"WaveNetConfig: classes must be at most 256, the codes of mu-law, got {self.classes}")
        if self.speakers and not self.condition_channels:
            object.__setattr__(self, "condition_channels", self.residual_channels)

    @property
    def receptive_field(self):
        """Samples that a prediction depends on."""
        return receptive_field(self.dilations, self.kernel_size)

    def to_dict(self):
        """The values as plain JSON types."""
        return dataclasses.asdict(self) | {"dilations": list(self.dilations)}

    @classmethod
    def from_dict(cls, values):
        """The opposite of `to_dict`.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not right.
        """
        if not hasattr(values, "keys"):
            raise ConfigError(f"WaveNetConfig: a config must be a table of keys, got {values!r}")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise ConfigError(f"WaveNetConfig: unknown key {key!r}{hint}")
        if "dilations" not in values:
            raise ConfigError("WaveNetConfig: dilations must be given, one for each block")
        return cls(**values)


class SavedFeatures(NamedTuple):
    """What `WaveNet.backward_features` needs from `WaveNet.forward_features`."""

    stack: gated_stack.Saved
    needs: list
    speaker: np.ndarray | None


class WaveNet(StoredStreams):
    """A WaveNet: ``logits[:, t]`` predicts ``codes[:, t + 1]`` from ``codes[:, : t + 1]``.

    The equations and the parameters' names and shapes are those of `wavedil.ops.gated_stack`; with speakers there
    is also ``speaker.embedding (speakers, condition_channels)``.

    Parameters
    ----------
    config : WaveNetConfig
    seed : int
        Of the initial weights. The same seed gives the same weights in either dtype, up to rounding.
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda", "cuda:N", "auto"}
        Where it trains and runs. What goes in and comes out (codes, weights, conditions, logits) are NumPy arrays
        either way; only the parameters and their gradients lie on the device.
    recompute : bool
        Train in a third of the memory, and a little more time.
    half_activations : bool
        On a GPU, keep what backward needs of the blocks in float16: half the memory; sums, weights and gradients stay
        float32. The CPU takes no notice of it.
    threads : int, optional
        None: one a core. Changes no bit of any result.

    Attributes
    ----------
    config : WaveNetConfig
    params : Parameters
        Name -> array, views of one flat buffer.
    buffers : dict
        Empty: a WaveNet has no running statistics.
    receptive_field : int
        Samples.

    Notes
    -----
    Every method takes ``condition=``, a global ``(B, Cc)`` or a local ``(B, T, Cc)`` array, and ``speaker=``, ``(B,)``
    whole numbers; with both, the speaker's embedding is added to the condition. A model with speakers needs
    ``speaker``, one with only condition channels needs ``condition``.
    """

    Config = WaveNetConfig
    rows_of = "blocks"

    def __init__(self, config, seed=0, dtype="float32", device="cpu", recompute=False, threads=None,
                 half_activations=False):  # fmt: skip
        if not isinstance(config, WaveNetConfig):
            raise ConfigError(f"WaveNet: config must be a WaveNetConfig, got {type(config).__name__}")
        self.config, self.device, self.recompute = config, devices.resolve(device), bool(recompute)
        self.threads = check_threads(threads)
        self.half_activations = bool(half_activations)
        self.params = Parameters(_shapes(config), dtype, self.device)
        self.buffers = {}
        self._workspace = Workspace()
        _initialize(self.params, config, seed)

    def __repr__(self):
        c = self.config
        return f"WaveNet({len(c.dilations)} blocks, {self.params.count:,} parameters, field {self.receptive_field})"

    @property
    def receptive_field(self):
        """Samples that a prediction depends on."""
        return self.config.receptive_field

    @property
    def dtype(self):
        """Of the parameters and activations."""
        return self.params.dtype

    # training -----------------------------------------------------------------------------------------------------
    def loss(self, codes, weights=None, *, condition=None, speaker=None):
        """Mean nats of each code given those before it; the memory needed does not grow with the length.

        Parameters
        ----------
        codes : (B, T + 1) array of ints in [0, classes)
        weights : (B, T) array, optional
            How much each predicted code counts.

        Returns
        -------
        float
            ``sum(weights * nats) / sum(weights)``

        Raises
        ------
        ShapeError, DTypeError, ConfigError
            If an argument does not fit; the message says what was expected and what came.
        """
        condition = self._condition("loss", codes, condition, speaker, extra=1)
        return gated_stack.loss(
            self.params, codes, weights, dilations=self.config.dilations, condition=condition, threads=self.threads
        )

    def loss_and_grads(self, codes, weights=None, into=None, *, condition=None, speaker=None, needs=None):
        """The loss and its gradient with respect to every parameter, or to those that are needed.

        Parameters
        ----------
        codes, weights
            As in `loss`.
        into : Parameters, optional
            Gradients are added to it (``+=``).
        needs : collection of str, optional
            Names of the parameters whose gradients are wanted; None: all. The others are neither computed, where that
            saves time, nor touched in ``into``, which may lack them.

        Returns
        -------
        loss : float
        grads : Parameters
            Names and layout of ``params``, or of what is needed of them: ``into`` if given, else fresh.
        """
        condition = self._condition("loss_and_grads", codes, condition, speaker, extra=1)
        grads, stack_needs = self._grads("loss_and_grads", into, needs)
        result = gated_stack.loss_and_grads(
            self.params, codes, weights, grads, dilations=self.config.dilations, condition=condition,
            recompute=self.recompute, half_activations=self._half, needs=stack_needs, workspace=self._workspace,
            threads=self.threads,
        )  # fmt: skip
        self._add_speakers(grads, speaker, result.condition)
        return result.loss, grads

    # features: the trunk without its head -----------------------------------------------------------------------------
    def features(self, codes, *, condition=None, speaker=None):
        """The sum of all blocks' skip outputs, (B, T, S), before the head's first ReLU: what another head starts from.

        S is ``config.skip_channels``. Nothing is kept for a backward pass.

        Parameters
        ----------
        codes : (B, T) array of ints in [0, classes)
        """
        condition = self._condition("features", codes, condition, speaker)
        skips, _ = gated_stack.forward(
            self.params, np.asarray(codes), dilations=self.config.dilations, condition=condition, needs=(),
            threads=self.threads,
        )  # fmt: skip
        return host(skips)

    def forward_features(self, codes, *, condition=None, speaker=None, needs=None):
        """`features`, and what `backward_features` needs.

        Parameters
        ----------
        codes : (B, T) array of ints in [0, classes)
        needs : collection of str, optional
            Names of the parameters whose gradients `backward_features` will be asked for; None: all. Names of the head
            are no mistake and change nothing. Blocks below the lowest that is needed keep nothing.

        Returns
        -------
        skips : (B, T, S) array
        saved : SavedFeatures
            For one `backward_features`; valid until the model's next `forward_features`. The parameters must stay as
            they are until then.

        Examples
        --------
        A head of another kind: regression, here of the loudness of noise around each sample.

        >>> import numpy as np
        >>> import wavedil as wd
        >>> from wavedil.ops import conv1d, loss
        >>> rng = np.random.default_rng(0)
        >>> louder = np.repeat(rng.uniform(0, 1, (4, 25)), 20, axis=1)
        >>> codes = wd.audio.mulaw_encode(louder * rng.uniform(-1, 1, louder.shape))
        >>> target = louder[..., None].astype(np.float32)
        >>> model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4, 8]), seed=0)
        >>> w = np.zeros((1, model.config.skip_channels, 1), np.float32)
        >>> b = np.full(1, 0.5, np.float32)
        >>> for step in range(300):
        ...     skips, saved = model.forward_features(codes)
        ...     y, saved_head = conv1d.forward(np.maximum(skips, 0), w, b)
        ...     mse, saved_loss = loss.forward(y, target, kind="mse")
        ...     first = mse if step == 0 else first
        ...     head = conv1d.backward(loss.backward(1.0, saved_loss).x, saved_head)
        ...     grads = model.backward_features(head.x * (skips > 0), saved)
        ...     for value, grad in [(w, head.w), (b, head.b), *((model.params[n], grads[n]) for n in grads)]:
        ...         value -= 0.5 * grad
        >>> bool(mse < 0.5 * first)
        True
        """
        condition = self._condition("forward_features", codes, condition, speaker)
        names, for_stack = self._trunk_needs("forward_features", needs)
        codes = np.asarray(codes)
        shape = (*codes.shape, self.config.skip_channels)
        out = contract.empty(None, "skips", shape, self.dtype, self.params["input.embedding"])
        skips, saved = gated_stack.forward(
            self.params, codes, dilations=self.config.dilations, condition=condition, recompute=self.recompute,
            half_activations=self._half, needs=for_stack, out=out, workspace=self._workspace, threads=self.threads,
        )  # fmt: skip
        return host(skips), SavedFeatures(saved, names, None if speaker is None else np.array(speaker))

    def backward_features(self, dskips, saved, into=None, needs=None):
        """Gradients of the trunk's parameters, given that of the features.

        Parameters
        ----------
        dskips : (B, T, S) array
        saved : SavedFeatures
            From `forward_features`; it is used up.
        into : Parameters, optional
            Gradients are added to it (``+=``).
        needs : collection of str, optional
            Some of those that `forward_features` was told; None: all of them.

        Returns
        -------
        Parameters
            ``into`` if given, else fresh ones of what is needed.
        """
        where = "backward_features"
        if not isinstance(saved, SavedFeatures):
            raise ConfigError(f"WaveNet.{where}: saved must come from forward_features, got {type(saved).__name__}")
        names, _ = self._trunk_needs(where, saved.needs if needs is None else needs)
        for name in names:
            if name not in saved.needs:
                raise ConfigError(f"WaveNet.{where}: needs must be some of those of forward_features, got {name!r}")
        grads, for_stack = self._grads(where, into, names)
        dskips = np.asarray(dskips)
        if self.device != "cpu":
            dskips = self.params.flat.engine.array(dskips)
        result = gated_stack.backward(
            dskips, saved.stack, into=grads, needs=for_stack, threads=self.threads
        )  # fmt: skip
        self._add_speakers(grads, saved.speaker, result.condition)
        return grads

    def logits(self, codes, *, condition=None, speaker=None):
        """Scores of every code after each code, (B, T, classes): ``[:, t]`` predicts ``codes[:, t + 1]``."""
        codes = np.asarray(codes)
        return self.stream(codes, self.init_stream(len(codes)), condition=condition, speaker=speaker)

    # streams --------------------------------------------------------------------------------------------------------
    def init_stream(self, batch=1, weights=None):
        """State of so many streams that begin with silence, for `stream`.

        The state keeps the parameters as they are now: a stream that is under way does not change its voice when
        training goes on. It is the caller's: it can be copied (``copy()``) and reset (``reset()``).

        Parameters
        ----------
        batch : int
        weights : {None, "float16", "int8"}
            Store the convolutions' weights in a half or a quarter of the bytes, rounded (see
            `wavedil.kernels.storage`): faster where the weights do not fit the caches. For float32 on the CPU.
        """
        state = gated_stack.init_state(
            self.params, batch, dilations=self.config.dilations, threads=self.threads,
            condition_channels=self.config.condition_channels, weights=weights,
        )  # fmt: skip
        return self._mark(state)

    def stream(self, codes, state, *, condition=None, speaker=None):
        """Logits (B, n, classes) after each of n more codes, as `logits` would give them in one piece.

        Parameters
        ----------
        codes : (B, n) array of ints
            Any n from 1 up, shorter or longer than the dilations.
        state
            From `init_stream`; changed in place.
        condition : array, optional
            Global, or local for these n codes.
        """
        self._check_state("stream", state)
        condition = self._condition("stream", codes, condition, speaker)
        return host(gated_stack.step(np.asarray(codes), state, condition))

    def stream_features(self, codes, state, *, condition=None, speaker=None):
        """Features (B, n, S) of n more codes, as `features` would give them in one piece; else like `stream`.

        Both may take turns on one state, which counts each code that either of them is given.
        """
        self._check_state("stream_features", state)
        condition = self._condition("stream_features", codes, condition, speaker)
        return host(gated_stack.step_features(np.asarray(codes), state, condition))

    def generate(self, n, batch=1, seed=0, temperature=1.0, primer=None, *, top_k=None, top_p=None, condition=None,
                 speaker=None, weights=None, progress=None):  # fmt: skip
        """Draw n codes for each of ``batch`` streams, one after the other.

        A draw depends only on the seed, the number of its stream and the time, so a stream comes out the same whatever
        the batch and the threads. Each sample costs one step and not the receptive field.

        Parameters
        ----------
        n : int
            Codes to draw; 0 gives none.
        batch : int
        seed : int
        temperature : float
            Logits are divided by it: below 1 for likelier sounds, 0 for the likeliest code each time.
        primer : (batch, m) or (m,) array of ints, optional
            Codes to go on from; they are not returned. Without one, silence (the middle code).
        top_k : int, optional
            Draw only from so many of the likeliest codes.
        top_p : float in (0, 1], optional
            Draw only from the likeliest codes that together have at least this probability.
        condition : (B, Cc) array, optional
        speaker : int or (B,) array of ints, optional
        weights : {None, "float16", "int8"}
            As in `init_stream`.
        progress : callable, optional
            ``progress(done, n)``, now and then.

        Returns
        -------
        (batch, n) array of uint8, or int64 if there are more than 256 classes

        Raises
        ------
        DivergedError
            If the logits are not finite; the message names the step.
        """
        batch = contract.whole("WaveNet.generate", "batch", batch)
        if primer is None:
            primer = np.full((batch, 1), self.config.classes // 2)
        primer = np.asarray(primer)
        if primer.ndim == 1:
            primer = np.broadcast_to(primer, (batch, len(primer)))
        if primer.ndim != 2 or len(primer) != batch or primer.shape[1] < 1:
            raise ShapeError(f"WaveNet.generate: primer must be ({batch}, m) with m of at least 1, got {primer.shape}")
        if speaker is not None and np.ndim(speaker) == 0:
            speaker = np.full(batch, speaker)
        condition = self._condition("generate", primer, condition, speaker)
        state = self.init_stream(batch, weights)
        if primer.shape[1] > 1:
            gated_stack.step(primer[:, :-1], state, condition)
        return gated_stack.sample(
            primer[:, -1], n, state, condition, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
            progress=progress,
        )  # fmt: skip

    # reuse ------------------------------------------------------------------------------------------------------------
    def load_params(self, source, *, only="*", strict=True, allow=()):
        """Take over parameters of another WaveNet by name.

        Parameters
        ----------
        source : path-like or WaveNet
            A file that `save` wrote, or a model.
        only : str or iterable of str
            Patterns of the names to take over, such as ``"blocks.0-9.*"`` (see `wavedil.parameters.names`).
        strict : bool
            True: each of these names must be there with the same shape, and no others, else nothing is changed. False:
            what fits is taken over, and the report tells the rest.
        allow : iterable of str
            Of ``"sample_rate"``, ``"codec"``, ``"dilations"``: what may differ although the shapes do not show it.

        Returns
        -------
        LoadReport
            Names: loaded, missing, unexpected, and those of another shape.

        Raises
        ------
        CheckpointError
            The file is not there, damaged, or holds something else; names do not agree; the other model is for another
            sample rate or codec, or has other dilations in the blocks taken over.
        ShapeError, DTypeError
            An array has another shape, such as a head with other classes, or another dtype.
        ConfigError
            A pattern fits no name.
        """
        where = "WaveNet.load_params"
        unknown = sorted(set(allow) - {"sample_rate", "codec", "dilations"})
        if isinstance(allow, str) or unknown:
            raise ConfigError(f"{where}: allow must be a list of sample_rate, codec, dilations, got {allow!r}")
        if isinstance(source, WaveNet):
            theirs, values, path = source.config, source.params, "the other model"
        else:
            path, (values, about) = source, files.read(source, "model")
            if about.get("class") != type(self).__name__:
                raise CheckpointError(f"{path}: must hold a {type(self).__name__}, got a {about.get('class')}")
            theirs = self.Config.from_dict(about["config"])
            values = {name: value for name, value in values.items() if not name.startswith("buffers/")}
        mine = self.config
        pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in ("sample_rate", "codec")}
        taken = [i for i, _ in enumerate(mine.dilations) if i < len(theirs.dilations) and any(
            naming.matcher(pattern)(f"blocks.{i}.conv.weight") for pattern in naming.listed(only, where))]
        pairs["dilations"] = tuple([config.dilations[i] for i in taken] for config in (mine, theirs))
        for name, (here, there) in pairs.items():
            if here != there and name not in allow:
                raise CheckpointError(
                    f"{path}: {name} must be {here}, as this model's, got {there}; allow=[{name!r}] takes it anyway"
                )
        return self.params.load(values, only=only, strict=strict)

    def with_head(self, *, classes=None, end_channels=None, seed=0):
        """A copy with a new, untrained head, for other codes or of another width.

        Parameters
        ----------
        classes : int, optional
            Other codes: the input embedding, which knows the old ones, is new as well. Default: as before.
        end_channels : int, optional
            Default: as before.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        given = {"classes": classes, "end_channels": end_channels}
        given = {name: value for name, value in given.items() if value is not None}
        new = self._made(dataclasses.replace(self.config, **given), seed)
        kept = [name for name in self.params if not name.startswith("head.")]
        new.params.load(self.params, only=kept, strict=False)
        return new

    def with_blocks(self, dilations, seed=0):
        """A copy with more blocks at the end that does at first exactly what this model does.

        Parameters
        ----------
        dilations : sequence of int
            Of the new blocks.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        old = self.config.dilations
        new = self._made(dataclasses.replace(self.config, dilations=(*old, *dilations)), seed)
        new.params.load(self.params, strict=False)
        for i in range(len(old), len(new.config.dilations)):
            # A new block adds z W + b = 0 to the skip sum. The gradient of W is z^T ds and z is not zero, so W leaves
            # zero with the first step, and from then on a gradient reaches the convolution below it. (The residual of
            # what was the last block had no gradient so far; now it feeds the new ones.)
            new.params[f"blocks.{i}.skip.weight"][...] = 0
            new.params[f"blocks.{i}.skip.bias"][...] = 0
        return new

    def with_speakers(self, speakers, seed=0):
        """A copy for more voices; those that it had sound as they did.

        A new voice starts as the mean of the others. In a model without voices the condition starts as zero, so all
        voices begin as the model's one.

        Parameters
        ----------
        speakers : int
            In all; not fewer than before.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        had = self.config.speakers
        if not had and self.config.condition_channels:
            raise ConfigError("WaveNet.with_speakers: the model must have voices already, or no condition")
        if contract.whole("WaveNet.with_speakers", "speakers", speakers) < had:
            raise ConfigError(f"WaveNet.with_speakers: speakers must be at least {had}, as before, got {speakers}")
        new = self._made(dataclasses.replace(self.config, speakers=int(speakers)), seed)
        new.params.load(self.params, strict=False)
        table = new.params["speaker.embedding"]
        if had:
            voices = host(self.params["speaker.embedding"])
            table[:had] = voices
            table[had:] = voices.mean(axis=0)
        else:  # the embedding's gradient waits for the weights to leave zero; theirs is there at once
            for i in range(len(self.config.dilations)):
                new.params[f"blocks.{i}.condition.weight"][...] = 0
        return new

    def _made(self, config, seed):
        return type(self)(config, seed, self.dtype, self.device, self.recompute, self.threads, self.half_activations)

    @property
    def _half(self):
        return self.half_activations and self.device != "cpu"

    # checks -----------------------------------------------------------------------------------------------------------
    def _needs(self, where, needs):
        """The names of the parameters that are needed, and what the stack must compute for them."""
        names = list(self.params) if needs is None else needs
        if isinstance(names, str) or not isinstance(names, Collection):
            raise ConfigError(f"WaveNet.{where}: needs must be a collection of names, got {needs!r}")
        for name in names:
            if name not in self.params:
                near = difflib.get_close_matches(str(name), self.params, 1, 0)[0]
                raise ConfigError(f"WaveNet.{where}: needs must name parameters, such as {near!r}, got {name!r}")
        # A speaker's embedding is (part of) a condition: its gradient comes from all blocks.
        return names, {"condition" if name == "speaker.embedding" else name for name in names}

    def _trunk_needs(self, where, needs):
        """`_needs` without the head."""
        names, _ = self._needs(where, needs)
        return self._needs(where, [name for name in names if not name.startswith("head.")])

    def _grads(self, where, into, needs):
        """Where gradients go (``into``, or fresh zeros for what is needed), and what the stack must compute for it."""
        names, for_stack = self._needs(where, needs)
        if into is None:
            shapes = {name: shape for name, shape in self.params.shapes.items() if name in names}
            into = Parameters(shapes, self.dtype, self.device) if shapes else {}
        if "speaker.embedding" in names and "speaker.embedding" not in into:
            raise ConfigError(f"WaveNet.{where}: into must have an array for speaker.embedding, got none")
        return into, for_stack

    def _add_speakers(self, grads, speaker, dcondition):
        """The gradient of the speakers' embeddings += that of their condition, if it was needed."""
        if speaker is not None and dcondition is not None:
            into = grads["speaker.embedding"]
            if self.device != "cpu":
                from wavedil.ops.embedding import cuda as embedding

                embedding.add_rows(into, np.asarray(speaker), dcondition, self._workspace)
                return
            dcondition = dcondition if dcondition.ndim == 2 else dcondition.sum(axis=1)
            np.add.at(into, np.asarray(speaker), dcondition)

    def _condition(self, where, codes, condition, speaker, extra=0):
        """The one condition that the stack sees, on its device: the given one, the speakers' embeddings, or a sum."""
        condition = self._checked_condition(where, codes, condition, speaker, extra)
        if condition is None or self.device == "cpu":
            return condition
        return self.params.flat.engine.array(condition)

    def _checked_condition(self, where, codes, condition, speaker, extra):
        c, where = self.config, f"WaveNet.{where}"
        codes = np.asarray(codes)
        if codes.ndim != 2:
            raise ShapeError(f"{where}: codes must be (B, T{' + 1' if extra else ''}), got {codes.shape}")
        if condition is not None:
            if not c.condition_channels:
                raise ConfigError(f"{where}: condition must be None, as condition_channels is 0, got one")
            condition = np.asarray(host(condition), self.dtype)
            shapes = [(len(codes), c.condition_channels), (len(codes), codes.shape[1] - extra, c.condition_channels)]
            if condition.shape not in shapes:
                raise ShapeError(f"{where}: condition must be {shapes[0]} or {shapes[1]}, got {condition.shape}")
        elif c.condition_channels and not c.speakers:
            raise ConfigError(f"{where}: condition must be given, as condition_channels is {c.condition_channels}")
        if not c.speakers:
            if speaker is not None:
                raise ConfigError(f"{where}: speaker must be None, as the model has no speakers, got {speaker!r}")
            return condition
        if speaker is None:
            raise ConfigError(f"{where}: speaker must be given, as the model has {c.speakers}")
        speaker = np.asarray(speaker)
        if speaker.dtype.kind not in "iu" or speaker.shape != (len(codes),):
            raise ShapeError(f"{where}: speaker must be ({len(codes)},) integers, got {speaker.shape} {speaker.dtype}")
        if speaker.min() < 0 or speaker.max() >= c.speakers:
            raise ShapeError(f"{where}: speaker must lie in [0, {c.speakers}), got {speaker.tolist()}")
        voices = host(self.params["speaker.embedding"])[speaker]
        if condition is None:
            return voices
        return condition + (voices if condition.ndim == 2 else voices[:, None])


def _shapes(c):
    shapes = gated_stack.parameter_shapes(
        dilations=c.dilations, kernel_size=c.kernel_size, residual_channels=c.residual_channels,
        dilation_channels=c.dilation_channels, skip_channels=c.skip_channels, end_channels=c.end_channels,
        classes=c.classes, condition_channels=c.condition_channels,
    )  # fmt: skip
    return shapes | ({"speaker.embedding": (c.speakers, c.condition_channels)} if c.speakers else {})


def _initialize(params, config, seed):
    """Draw initial weights: unit variance into every product, and logits so small that the loss is ln(classes)."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise ConfigError(f"WaveNet: seed must be a whole number of at least 0, got {seed!r}")
    rng = np.random.default_rng(int(seed))
    for name, value in params.items():
        if name.endswith("bias"):
            continue
        scale = 1.0 if name.endswith("embedding") else np.prod(value.shape[:-1]) ** -0.5
        if ".skip." in name:
            scale *= len(config.dilations) ** -0.5  # the sum over the blocks has the variance of one
        if name == "head.0.weight":
            scale *= 2**0.5  # half of a ReLU's outputs are zero
        if name == "head.1.weight":
            scale *= 0.1
        value[...] = scale * rng.standard_normal(value.shape)
