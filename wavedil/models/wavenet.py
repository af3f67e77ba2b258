"""WaveNet: gated dilated convolutions over mu-law codes, for training, block streaming and generation.

van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499.
"""

from typing import NamedTuple

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.models.base import Model
from wavedil.models.reuse import Reusable
from wavedil.models.stored import StoredStreams
from wavedil.models.wavenet_config import WaveNetConfig
from wavedil.models.wavenet_inputs import Inputs
from wavedil.ops import contract, gated_stack, inplace
from wavedil.ops.contract import on_host
from wavedil.ops.gated_stack.arguments import checked_draw


class SavedFeatures(NamedTuple):
    """What `WaveNet.backward_features` needs from `WaveNet.forward_features`."""

    stack: gated_stack.Saved
    needs: list
    speaker: np.ndarray | None


class WaveNet(Inputs, Reusable, Model, StoredStreams):
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
        self.recompute, self.half_activations = bool(recompute), bool(half_activations)
        self._set_up(config, _shapes(config), dtype, device, threads)
        _initialize(self.params, config, seed)

    def __repr__(self):
        c = self.config
        return f"WaveNet({len(c.dilations)} blocks, {self.params.count:,} parameters, field {self.receptive_field})"

    # training -----------------------------------------------------------------------------------------------------
    def loss(self, codes, sample_weight=None, *, condition=None, speaker=None):
        """Mean nats of each code given those before it; the memory needed does not grow with the length.

        Parameters
        ----------
        codes : (B, T + 1) array of ints in [0, classes)
        sample_weight : (B, T) array, optional
            How much each predicted code counts.

        Returns
        -------
        float
            ``sum(sample_weight * nats) / sum(sample_weight)``

        Raises
        ------
        ShapeError, DTypeError, ConfigError
            If an argument does not fit; the message says what was expected and what came.
        """
        codes = self._codes("loss", codes, extra=1)
        condition = self._conditioning("loss", len(codes), codes.shape[1] - 1, condition, speaker)
        return gated_stack.loss(
            self.params, codes, None, sample_weight, network=self.network, condition=condition, threads=self.threads
        )

    def loss_and_grads(self, codes, sample_weight=None, into=None, *, condition=None, speaker=None, needs=None,
                       fed=None, condition_gradient=False):  # fmt: skip
        """The loss and its gradient with respect to every parameter, or to those that are needed.

        Parameters
        ----------
        codes, sample_weight
            As in `loss`.
        into : Parameters, optional
            Gradients are added to it (``+=``).
        needs : collection of str, optional
            Names of the parameters whose gradients are wanted; None: all. The others are neither computed, where that
            saves time, nor touched in ``into``, which may lack them.
        fed : (B, T) array of ints in [0, classes), optional
            What goes in, instead of ``codes[:, :-1]``: noisy codes, so that the network bears its own when it speaks.
        condition_gradient : bool
            Return the gradient of ``condition`` as well, for a network in front of this one that makes it.

        Returns
        -------
        loss : float
        grads : Parameters
            Names and layout of ``params``, or of what is needed of them: ``into`` if given, else fresh.
        dcondition : array like ``condition``
            Only with ``condition_gradient=True``.
        """
        if condition_gradient and condition is None:
            raise ConfigError("WaveNet.loss_and_grads: condition_gradient must be False without a condition, got True")
        codes = self._codes("loss_and_grads", codes, extra=1)
        condition = self._conditioning("loss_and_grads", len(codes), codes.shape[1] - 1, condition, speaker)
        grads, stack_needs = self._gradients("loss_and_grads", into, needs)
        with_speakers = needs is None or "speaker.embedding" in needs
        inputs, targets = (codes, None) if fed is None else (self._codes("loss_and_grads", fed), codes[:, 1:])
        if condition_gradient:
            stack_needs |= {"condition"}
        result = gated_stack.loss_and_grads(
            self.params, inputs, targets, sample_weight, grads, network=self.network, condition=condition,
            recompute=self.recompute, half_activations=self._half, needs=stack_needs, workspace=self._workspace,
            threads=self.threads,
        )  # fmt: skip
        if with_speakers:
            self._add_speakers(grads, speaker, result.condition)
        return (result.loss, grads, on_host(result.condition)) if condition_gradient else (result.loss, grads)

    # features: the trunk without its head -----------------------------------------------------------------------------
    def features(self, codes, *, condition=None, speaker=None):
        """The sum of all blocks' skip outputs, (B, T, S), before the head's first ReLU: what another head starts from.

        S is ``config.skip_channels``. Nothing is kept for a backward pass.

        Parameters
        ----------
        codes : (B, T) array of ints in [0, classes)
        """
        codes = self._codes("features", codes)
        condition = self._conditioning("features", len(codes), codes.shape[1], condition, speaker)
        skips, _ = gated_stack.forward(
            self.params, codes, network=self.network.without_head(), condition=condition, needs=(),
            threads=self.threads,
        )  # fmt: skip
        return on_host(skips)

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
        codes = self._codes("forward_features", codes)
        condition = self._conditioning("forward_features", len(codes), codes.shape[1], condition, speaker)
        names = self._trunk_needs("forward_features", needs)
        for_stack = {"condition" if name == "speaker.embedding" else name for name in names}
        shape = (*codes.shape, self.config.skip_channels)
        out = contract.empty(None, "skips", shape, self.dtype, self.params["input.embedding"])
        skips, saved = gated_stack.forward(
            self.params, codes, network=self.network.without_head(), condition=condition, recompute=self.recompute,
            half_activations=self._half, needs=for_stack, out=out, workspace=self._workspace, threads=self.threads,
        )  # fmt: skip
        return on_host(skips), SavedFeatures(saved, names, None if speaker is None else np.array(speaker))

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
        names = self._trunk_needs(where, saved.needs if needs is None else needs)
        for name in names:
            if name not in saved.needs:
                raise ConfigError(f"WaveNet.{where}: needs must be some of those of forward_features, got {name!r}")
        grads, for_stack = self._gradients(where, into, names)
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
        codes = self._codes("logits", codes)
        return self.stream(codes, self.init_stream(len(codes)), condition=condition, speaker=speaker)

    # streams --------------------------------------------------------------------------------------------------------
    def init_stream(self, batch=1, storage=None):
        """State of so many streams that begin with silence, for `stream`.

        The state keeps the parameters as they are now: a stream that is under way sounds as it did when
        training goes on. It is the caller's: it can be copied (``copy()``) and reset (``reset()``).

        Parameters
        ----------
        batch : int
        storage : {None, "float16", "int8"}
            Store the convolutions' weights in a half or a quarter of the bytes, rounded (see
            `wavedil.kernels.storage`): faster where the weights do not fit the caches. For float32 on the CPU.
        """
        state = gated_stack.init_state(
            self.params, batch, network=self.network, threads=self.threads, storage=storage
        )
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
        codes = self._codes("stream", codes, batch=state.batch)
        condition = self._conditioning("stream", len(codes), codes.shape[1], condition, speaker, first=state.time)
        return on_host(gated_stack.step(codes, state, condition))

    def stream_features(self, codes, state, *, condition=None, speaker=None):
        """Features (B, n, S) of n more codes, as `features` would give them in one piece; else like `stream`.

        Both may take turns on one state, which counts each code that either of them is given.
        """
        self._check_state("stream_features", state)
        codes = self._codes("stream_features", codes, batch=state.batch)
        rows = codes.shape[1]
        condition = self._conditioning("stream_features", len(codes), rows, condition, speaker, first=state.time)
        return on_host(gated_stack.step_features(codes, state, condition))

    def generate(self, n, batch=1, seed=0, temperature=1.0, primer=None, *, top_k=None, top_p=None, condition=None,
                 speaker=None, storage=None, progress=None):  # fmt: skip
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
        condition : (B, Cc), (B, m - 1 + n, Cc) or (B, F, Cc) array, optional
            Global, or for each code that is fed (those of the primer and all that are drawn but the last), or frames
            for so many.
        speaker : int or (B,) array of ints, optional
        storage : {None, "float16", "int8"}
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
        where = "WaveNet.generate"
        batch, n = checks.whole(where, "batch", batch), checks.whole(where, "n", n, 0)
        checked_draw(where, self.config.classes, seed, temperature, top_k, top_p)
        primer = self._primer(where, primer, batch)
        if speaker is not None and np.ndim(speaker) == 0:
            speaker = np.full(batch, speaker)
        before = primer.shape[1] - 1
        condition = self._conditioning("generate", batch, before + max(n, 1), condition, speaker)
        state = self.init_stream(batch, storage)
        if before:
            local = gated_stack.part_of_condition(condition, self.network, 0, 0, before)
            gated_stack.step(primer[:, :-1], state, local)
        condition = gated_stack.part_of_condition(condition, self.network, 0, before, max(n, 1))
        return gated_stack.sample(
            primer[:, -1], n, state, condition, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
            progress=progress,
        )  # fmt: skip

    def draw(self, first, n, state, *, condition=None, speaker=None, **options):
        """Draw n codes for each of some streams, from where their state is.

        Parameters
        ----------
        first : (B,) array of ints
            The codes to go on from, which the state has not seen yet.
        n : int
        state
            From `init_stream`; changed in place.
        condition : array, optional
            Global, or for each of the n codes that are fed (``first``, and all that are drawn but the last); frames
            from that of row ``state.time`` on.
        speaker : (B,) array of ints, optional
        options
            ``seed, temperature, top_k, top_p, progress`` as in `generate`.

        Returns
        -------
        (B, n) array of uint8, or int64 if there are more than 256 classes
        """
        self._check_state("draw", state)
        n = checks.whole("WaveNet.draw", "n", n, 0)
        condition = self._conditioning("draw", state.batch, max(n, 1), condition, speaker, first=state.time)
        return gated_stack.sample(first, n, state, condition, **options)

    @property
    def network(self):
        """The `gated_stack.Network` that runs."""
        return self.config.network

    @property
    def _half(self):
        return self.half_activations and self.device != "cpu"

    # checks -----------------------------------------------------------------------------------------------------------
    def _trunk_needs(self, where, needs):
        """The names of the trunk's parameters that are needed; names of the head are no mistake."""
        return [name for name in self._needs(where, needs) if not name.startswith("head.")]

    def _gradients(self, where, into, needs):
        """Where gradients go (``into``, or fresh zeros for what is needed), and what the stack must compute for it."""
        names = self._needs(where, needs)
        # A speaker's embedding is (part of) a condition: its gradient comes from all blocks.
        for_stack = {"condition" if name == "speaker.embedding" else name for name in names}
        if into is None:
            return self._grads(where, into, names), for_stack
        if "speaker.embedding" in names and "speaker.embedding" not in into:  # the rest is checked by the stack
            raise ConfigError(f"WaveNet.{where}: into must have an array for speaker.embedding, got none")
        return into, for_stack

    def _add_speakers(self, grads, speaker, dcondition):
        """The gradient of the speakers' embeddings += that of their condition, if it was needed."""
        if speaker is not None and dcondition is not None:
            inplace.add_rows(grads["speaker.embedding"], np.asarray(speaker), dcondition, self._workspace)


def _shapes(c):
    shapes = dict(c.network.parameter_shapes)
    return shapes | ({"speaker.embedding": (c.speakers, c.condition_channels)} if c.speakers else {})


def _initialize(params, config, seed):
    """Draw initial weights: unit variance into every product, and logits so small that the loss is ln(classes)."""
    rng = np.random.default_rng(checks.whole("WaveNet", "seed", seed, 0))
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
