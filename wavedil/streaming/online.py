"""A WaveNet online: it listens to audio block by block, or speaks block by block."""

import math
from typing import NamedTuple

import numpy as np

from wavedil.audio.mulaw import mulaw_decode, mulaw_encode
from wavedil.errors import ConfigError, DataError, DivergedError
from wavedil.kernels.cpu import vector
from wavedil.kernels.cpu.jit import jit
from wavedil.ops import gated_stack
from wavedil.ops.contract import on_host


@jit
def expect(logits, codes, decoded, p, mean, nats):
    """mean = sum over q of softmax(logits)[q] decoded[q], nats = -ln softmax(logits)[code], for each row.

    ``p`` is scratch for a number for each class. One call takes less than the first of NumPy's passes would, which
    counts where a block is one sample.
    """
    for t in range(len(codes)):
        top = logits[t, 0]
        for q in range(len(p)):
            top = max(top, logits[t, q])
        for q in range(len(p)):
            p[q] = logits[t, q] - top
        vector.exp(p, p)
        total = weighted = 0.0
        for q in range(len(p)):
            total += p[q]
            weighted += p[q] * decoded[q]
        mean[t] = weighted / total
        nats[t] = np.log(total) + top - logits[t, codes[t]]


class Block(NamedTuple):
    """One block of a stream."""

    audio: np.ndarray  # (n,) float32
    bits: float | None  # bits/sample that the model needed for the input; None if there was none


class Predictor:
    """Listens to one stream of audio and says before each sample what it expects.

    Out comes the mean of the distribution over the next sample, decoded, ``sum over q of p[t, q] decode(q)``, in step
    with the input: sample t of the output knows the input before t, and not t. The bits are ``-log2 p[t, code[t]]``,
    mean over the block: low where the sound is as the model knows it, high at anything strange. Over a whole clip they
    are ``model.loss([silence, *clip]) / ln 2``.

    Parameters
    ----------
    model : WaveNet
        Of mu-law codes. What goes in and comes out is on the host, wherever the model is.
    speaker : int, optional
        Needed if the model has several.
    condition : (Cc,) array, optional
        Global.
    state : optional
        From `model.init_stream`, `model.load_stream` or another predictor, to go on with.
    last : int, optional
        The code that came last before this state; silence by default.
    storage : {None, "float16", "int8"}
        As in `model.init_stream`; not together with a state, which has its own.

    Attributes
    ----------
    state
        As in `model.stream`.
    last : int

    Raises
    ------
    ConfigError
        If the model's codes are not those of audio, or it needs another speaker or condition.
    """

    def __init__(self, model, *, speaker=None, condition=None, state=None, last=None, storage=None):
        if state is not None and storage is not None:
            raise ConfigError(f"Predictor: storage must be None with a state, which has its own, got {storage!r}")
        self.last = _silence(model) if last is None else last
        self.state, self._condition = _begin(model, state, self.last, speaker, condition, storage)
        self._decoded = mulaw_decode(np.arange(256))

    def process(self, x):
        """The next block: any number of samples from 1 up.

        Parameters
        ----------
        x : (n,) array of float
            At the model's sample rate.

        Returns
        -------
        Block

        Raises
        ------
        DataError
            If x is empty, not 1-D or holds a NaN.
        DivergedError
            If the model's output is not finite; the message names the step.
        """
        codes = mulaw_encode(_audio("process", x))
        time = self.state.time
        before = np.empty((1, len(codes)), np.int64)
        before[0, 0], before[0, 1:] = self.last, codes[:-1]
        logits = on_host(gated_stack.step(before, self.state, self._condition))[0]
        mean, nats = np.empty(len(codes), np.float32), np.empty(len(codes))
        expect(logits, codes, self._decoded, np.empty_like(logits[0]), mean, nats)
        finite = np.isfinite(nats)
        if not finite.all():
            raise DivergedError(f"stream: the logits are not finite at step {time + int(finite.argmin())}")
        self.last = int(codes[-1])
        return Block(mean, float(nats.mean()) / math.log(2))

    def blocks(self, x, block):
        """Yield `process` of x in blocks of so many samples; the last one may be shorter."""
        x = _audio("blocks", x)
        for begin in range(0, len(x), block):
            yield self.process(x[begin : begin + block])


class Generator:
    """Speaks block by block: the codes of `model.generate`, decoded, without end.

    Parameters
    ----------
    model : WaveNet
        Of mu-law codes.
    speaker, condition
        As in `Predictor`.
    seed, temperature, top_k, top_p, storage
        As in `model.generate`.

    Raises
    ------
    ConfigError
        As in `Predictor`.
    """

    def __init__(self, model, *, speaker=None, condition=None, seed=0, temperature=1.0, top_k=None, top_p=None,
                 storage=None):  # fmt: skip
        self.last = _silence(model)
        self._options = {"seed": seed, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        self.state, self._condition = _begin(model, None, self.last, speaker, condition, storage)
        gated_stack.sample([self.last], 1, self.state, self._condition, **self._options)
        self.state.reset()

    def process(self, n):
        """The next n samples.

        Returns
        -------
        Block

        Raises
        ------
        DivergedError
            If the model's output is not finite; the message names the step.
        """
        codes = gated_stack.sample([self.last], n, self.state, self._condition, **self._options)[0]
        self.last = int(codes[-1])
        return Block(mulaw_decode(codes), None)

    def blocks(self, n, block):
        """Yield n samples in blocks; n = None: without end."""
        done = 0
        while n is None or done < n:
            size = block if n is None else min(block, n - done)
            yield self.process(size)
            done += size


class Effect:
    """Runs audio through a TCN, block by block: sample t of the output knows the input up to t.

    Parameters
    ----------
    model : TCN
        With one input and one output for each sample, and a sample rate.
    state : optional
        From `model.init_stream`, `model.load_stream` or another effect, to go on with.

    Attributes
    ----------
    state
        As in `model.stream`.

    Raises
    ------
    ConfigError
        If the model is not one of audio.
    """

    def __init__(self, model, *, state=None):
        c = model.config
        sizes = [getattr(c, name, None) for name in ("inputs", "outputs", "classes", "sample_rate")]
        if sizes[:3] != [1, 1, 0] or sizes[3] is None or c.loss in ("binary", "cross_entropy"):
            raise ConfigError(
                "streaming: an effect must have 1 input, 1 output, no classes, a sample rate and a loss of numbers, "
                f"got {sizes} and {getattr(c, 'loss', None)!r}"
            )
        self._model, fresh = model, state is None
        self.state = model.init_stream() if fresh else state
        # Compiles and allocates: the first block does not wait for it.
        model.stream(np.zeros((1, 1, 1), model.dtype), self.state if fresh else self.state.copy())
        if fresh:
            self.state.reset()

    def process(self, x):
        """The next block: any number of samples from 1 up.

        Returns
        -------
        Block

        Raises
        ------
        DataError
            If x is empty, not 1-D or holds a NaN.
        DivergedError
            If the model's output is not finite; the message names the step.
        """
        x, time = _audio("process", x).astype(self._model.dtype), self.state.time
        if not np.isfinite(x).all():
            raise DataError(f"Effect.process: x must be finite, got {x[~np.isfinite(x)][0]}")
        y = self._model.stream(x[None, :, None], self.state)[0, :, 0]
        finite = np.isfinite(y)
        if not finite.all():
            raise DivergedError(f"stream: the output is not finite at step {time + int(finite.argmin())}")
        return Block(y.astype(np.float32), None)

    def blocks(self, x, block):
        """Yield `process` of x in blocks of so many samples; the last one may be shorter."""
        x = _audio("blocks", x)
        for begin in range(0, len(x), block):
            yield self.process(x[begin : begin + block])


def _silence(model):
    c = model.config
    if c.codec != "mulaw" or c.classes != 256:
        raise ConfigError(f"streaming: the model must be of 256 mu-law codes, got {c.classes} of codec {c.codec!r}")
    return c.classes // 2


def _begin(model, state, last, speaker, condition, storage):
    """The state and the condition of one stream; the model checks both, once, with a code that is then forgotten.

    That also compiles and allocates: the first block does not wait for it.
    """
    speaker = None if speaker is None else np.array([speaker])
    condition = None if condition is None else np.asarray(condition, model.dtype)[None]
    fresh = state is None
    state = model.init_stream(storage=storage) if fresh else state
    model.stream(np.array([[last]]), state if fresh else state.copy(), speaker=speaker, condition=condition)
    if fresh:
        state.reset()
    if speaker is not None:
        embedded = on_host(model.params["speaker.embedding"])[speaker]
        condition = embedded if condition is None else condition + embedded
    if condition is not None and model.device != "cpu":
        condition = model.params.flat.engine.array(condition)
    return state, condition


def _audio(where, x):
    x = np.asarray(x)
    if x.ndim != 1 or not len(x):
        raise DataError(f"Predictor.{where}: x must hold samples, (n,) with n of at least 1, got {x.shape}")
    return x
