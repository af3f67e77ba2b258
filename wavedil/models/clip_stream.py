"""Streams through a clip classifier, and its scores."""

import copy

import numpy as np

from wavedil.kernels.workspace import Workspace
from wavedil.ops import gated_stack, inplace, pooling
from wavedil.ops.contract import on_host, row_weights


class ClipStream:
    """Streams through a classifier, and its parameters as they were when this was made."""

    def __init__(self, model, batch):
        self.made_for, self.batch = (model.config, model.dtype), batch
        self.above = {name: on_host(array).copy() for name, array in model._above().items()}
        self._kind = model.config.pooling
        self._attention = {name: array.copy() for name, array in model._attention_arrays().items()}
        network, like = model.config.trunk.network.without_head(), model.params["input.embedding"]
        self._trunk = gated_stack.init_state(model.params, batch, network=network, threads=model.threads)
        self._workspace = Workspace()
        self._pooled = pooling.init_state(batch, network.feature_channels, like)

    @property
    def time(self):
        """Codes heard so far."""
        return self._trunk.time

    def take_in(self, codes, sample_weight):
        """The pooled trunk of all codes so far; overwritten by the next call."""
        codes = np.asarray(codes)
        if sample_weight is not None:  # before the trunk moves on
            row_weights("ClipClassifier.stream", sample_weight, codes.shape, zero=True)
        x = gated_stack.step_features(codes, self._trunk)
        inplace.relu(x)
        return pooling.step(
            x, self._pooled, **self._attention, kind=self._kind, sample_weight=sample_weight, workspace=self._workspace
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


def scores(pooled, above):
    """What the head says of pooled clips, on the host."""
    normal = (on_host(pooled) - above["pooled.center"]) * above["pooled.scale"]
    return normal @ above["head.weight"] + above["head.bias"]


def softmax(scores):
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
