"""Training data that is no folder of audio: arrays in memory, and generators of batches.

A source has ``batch(rng, batch, window)``, which returns the arguments of ``model.loss_and_grads``: a tuple, with a
dict of keyword arguments at the end, if there are any. What is random in it comes from ``rng``, whose state the trainer
saves, so that a resumed run sees the same batches. One to validate with has ``validation_batches(batch, window)``,
which yields such arguments of ``model.loss``, and how much they count: the loss is the mean over all of them.
"""

import numpy as np

from wavedil.checks import whole
from wavedil.errors import ConfigError, DataError, ShapeError


class Arrays:
    """Items of arrays in memory: drawn at random, and of long ones random windows.

    Parameters
    ----------
    x : (N, T, ...) array
        N items; a single long sequence is an array of one.
    targets : (N, T, ...) or (N, ...) array
        For each row of x, or for each item (``per_item``).
    sample_weight : (N, T) or (N,) array, optional
        How much each target counts.
    per_item : bool
        Whether targets and sample_weight belong to whole items: then nothing is cut, and the trainer's window does not
        count.
    context : int
        Rows before each window that are given too, with weight 0, so that the network starts with a past. Windows at
        the beginning have a shorter one, and count from the first row on.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other.
    """

    def __init__(self, x, targets, sample_weight=None, *, per_item=False, context=0):
        self.x, self.targets = np.asarray(x), np.asarray(targets)
        self.per_item, self.context = bool(per_item), whole("Arrays", "context", context, 0)
        axes = 1 if per_item else 2
        if self.x.ndim < 2 or 0 in self.x.shape:
            raise ShapeError(f"Arrays: x must be (N, T, ...) with at least one row, got {self.x.shape}")
        self.sample_weight = None if sample_weight is None else np.asarray(sample_weight)
        for name, array in (("targets", self.targets), ("sample_weight", self.sample_weight)):
            if array is not None and array.shape[:axes] != self.x.shape[:axes]:
                wanted = f"({', '.join(map(str, self.x.shape[:axes]))}, ...)"
                raise ShapeError(f"Arrays: {name} must be {wanted} as x is, got {array.shape}")
        if per_item and context:
            raise ConfigError(f"Arrays: context must be 0 if targets are per item, got {context}")

    def batch(self, rng, batch, window):
        """Random items with replacement; windows of ``window`` rows (or all there are), anywhere in them."""
        items = rng.integers(len(self.x), size=batch)
        if self.per_item:
            return self._whole(items)
        time = self.x.shape[1]
        size = min(window, time)
        begins = rng.integers(time - size + 1, size=batch)
        # All windows of a batch have the same length: one that begins early has its context behind it, unweighted.
        first = np.maximum(0, begins - self.context)
        length = min(size + self.context, time)
        first = np.minimum(first, time - length)
        rows = first[:, None] + np.arange(length)
        counted = (rows >= begins[:, None]) & (rows < (begins + size)[:, None])
        at = items[:, None], rows
        sample_weight = None
        if self.sample_weight is not None:
            sample_weight = self.sample_weight[at] * counted
        elif not counted.all():
            sample_weight = counted.astype(np.float32)
        arrays = self.x[at], self.targets[at]
        return arrays if sample_weight is None else (*arrays, sample_weight)

    def validation_batches(self, batch, window):
        """All items, whole and each once: the arguments of the model's loss, and how much they count."""
        for begin in range(0, len(self.x), batch):
            items = np.arange(begin, min(begin + batch, len(self.x)))
            arguments = self._whole(items)
            shape = arguments[1].shape[: 1 if self.per_item else 2]
            count = arguments[2].sum() if len(arguments) == 3 else np.prod(shape)
            yield arguments, float(count)

    def _whole(self, items):
        arrays = self.x[items], self.targets[items]
        return arrays if self.sample_weight is None else (*arrays, self.sample_weight[items])


class Batches:
    """Batches that an iterator makes: each is a tuple of arguments of ``model.loss_and_grads``.

    Its position is saved and resumed if the iterator has ``state()``, which returns what JSON can hold, a fresh value
    each time, and ``set_state(state)``. Without them a resumed run goes on with whatever the iterator gives next.

    Parameters
    ----------
    batches : iterator
    """

    def __init__(self, batches):
        if not hasattr(batches, "__next__"):
            raise ConfigError(f"Batches: batches must be an iterator, got {type(batches).__name__}")
        self.batches = batches
        if all(callable(getattr(batches, name, None)) for name in ("state", "set_state")):
            self.state, self.set_state = batches.state, batches.set_state

    def batch(self, rng, batch, window):
        """The next one, whatever its size."""
        try:
            arguments = next(self.batches)
        except StopIteration:
            raise DataError("Batches: the iterator must go on as long as the training does, and it ended") from None
        return arguments if isinstance(arguments, tuple) else tuple(arguments)


def source(data):
    """What a trainer is given, as a source: a tuple of arrays, an iterator of batches, or a source itself (or None)."""
    if isinstance(data, tuple):
        return Arrays(*data)
    return Batches(data) if hasattr(data, "__next__") and not hasattr(data, "batch") else data


def split(arguments):
    """A batch's positional arguments, and the keyword arguments that the dict at its end holds, if there is one."""
    arguments = tuple(arguments)
    return (arguments[:-1], arguments[-1]) if arguments and isinstance(arguments[-1], dict) else (arguments, {})
