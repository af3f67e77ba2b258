"""A model small enough to check by hand, with all that the trainer asks of one; and data to go with it."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from wavedil.parameters import files
from wavedil.parameters.store import Parameters


@dataclass(frozen=True)
class TinyConfig:
    classes: int = 16
    channels: int = 5
    speakers: int = 2
    sample_rate: int = 8000

    def to_dict(self):
        return asdict(self)


class Tiny:
    """Each code is predicted from the one before: softmax((embedding[code] + speaker) @ weight + bias)."""

    def __init__(self, config=None, seed=0, dtype="float32"):
        self.config = config or TinyConfig()
        q, c = self.config.classes, self.config.channels
        self.params = Parameters(
            {"embedding": (q, c), "speaker": (self.config.speakers, c), "head.weight": (c, q), "head.bias": (q,)}, dtype
        )
        self.dtype = self.params.dtype
        rng = np.random.default_rng(seed)
        for view in self.params.values():
            view[...] = 0.3 * rng.normal(size=view.shape)
        self.buffers = {"seen": np.zeros(1, np.int64)}
        self.threads = 1
        self.poison = None  # (call number, parameter name): puts a NaN there
        self.calls = 0

    def loss(self, codes, sample_weight=None, *, speaker=None):
        return self._run(codes, sample_weight, speaker)[0]

    def loss_and_grads(self, codes, sample_weight=None, into=None, *, speaker=None):
        loss, h, dlogits = self._run(codes, sample_weight, speaker)
        grads = self.params.like() if into is None else into
        grads["head.weight"][...] += np.einsum("btc,btq->cq", h, dlogits)
        grads["head.bias"][...] += dlogits.sum((0, 1))
        dh = dlogits @ self.params["head.weight"].T
        np.add.at(grads["embedding"], codes[:, :-1], dh)
        if speaker is not None:
            np.add.at(grads["speaker"], speaker, dh.sum(1))
        self.buffers["seen"] += codes.shape[0]
        self.calls += 1
        if self.poison is not None and self.poison[0] == self.calls:
            grads[self.poison[1]].flat[0] = np.nan
        return loss, grads

    def _run(self, codes, sample_weight, speaker):
        inputs, targets = codes[:, :-1], codes[:, 1:].astype(int)[..., None]
        h = self.params["embedding"][inputs]
        if speaker is not None:
            h = h + self.params["speaker"][speaker][:, None]
        logits = h @ self.params["head.weight"] + self.params["head.bias"]
        logits = logits - logits.max(-1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(-1, keepdims=True)
        w = np.ones(inputs.shape, self.dtype) if sample_weight is None else sample_weight.astype(self.dtype)
        w = w / w.sum()
        loss = float(-(w * np.log(np.take_along_axis(p, targets, -1)[..., 0])).sum())
        np.put_along_axis(p, targets, np.take_along_axis(p, targets, -1) - 1, -1)
        return loss, h, p * w[..., None]

    def save(self, path, *, step=None, params=None):
        about = {"kind": "model", "class": "Tiny", "config": self.config.to_dict(), "step": step}
        files.write(path, self.params if params is None else params, about)


class TinyData:
    """Windows of a noisy walk over the codes; two speakers walk in opposite directions; windows have random lengths."""

    sample_rate = 8000

    def __init__(self, classes=16):
        rng = np.random.default_rng(7)
        self.classes = classes
        self.clips = []
        for i in range(8):
            steps = rng.integers(0, 3, 90 + 10 * i) * (1 if i % 2 else -1)
            self.clips.append((f"clip{i}", (np.cumsum(steps) % classes).astype(np.uint8), i % 2))
        self.drawn = 0

    def batch(self, rng, batch, window):
        self.drawn += batch
        codes = np.zeros((batch, window + 1), np.uint8)
        weights = np.zeros((batch, window), np.float32)
        speakers = np.zeros(batch, np.int64)
        for row in range(batch):
            _, clip, speakers[row] = self.clips[rng.integers(6)]
            length = int(rng.integers(2, window + 1))
            start = int(rng.integers(0, len(clip) - length))
            codes[row, : length + 1] = clip[start : start + length + 1]
            weights[row, :length] = 1
        return codes, weights, {"speaker": speakers}

    def validation_batches(self, batch, window):
        for _, clip, speaker in self.clips[6:]:
            codes = np.r_[self.classes // 2, clip].astype(np.uint8)[None]
            yield (codes, np.ones(codes[:, 1:].shape, np.float32), {"speaker": np.array([speaker])}), len(clip)

    def state(self):
        return {"drawn": self.drawn}

    def set_state(self, state):
        self.drawn = state["drawn"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
