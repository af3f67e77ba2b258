"""Plain NumPy: the references of the single ops, one after the other."""

import numpy as np

from wavedil.ops import activation, conv1d, cross_entropy, embedding
from wavedil.ops import dropout as masks
from wavedil.ops import loss as losses


class _Tape:
    """Ops as they are applied; backward goes through them in reverse."""

    def __init__(self, params):
        self.params, self.grads = params, {name: np.zeros_like(value) for name, value in params.items()}

    def conv(self, name, x, dilation=1):
        weight = self.params[f"{name}.weight"]
        weight = weight if weight.ndim == 3 else weight[None]
        y, saved = conv1d.forward(x, weight, self.params[f"{name}.bias"], dilation=dilation, backend="reference")

        def back(dy):
            grads = conv1d.backward(dy, saved, backend="reference")
            self.grads[f"{name}.weight"] += grads.w.reshape(self.params[f"{name}.weight"].shape)
            self.grads[f"{name}.bias"] += grads.b
            return grads.x

        return y, back

    def relu(self, x):
        y, saved = activation.forward(x, kind="relu", backend="reference")
        return y, lambda dy: activation.backward(dy, saved, backend="reference").x

    def drop(self, x, dropout, layer):
        if dropout is None:
            return x, lambda dy: dy
        y, saved = masks.forward(
            x, rate=dropout.rate, seed=dropout.seed, step=dropout.step, layer=layer, channels=dropout.channels,
            backend="reference",
        )  # fmt: skip
        return y, lambda dy: masks.backward(dy, saved, backend="reference").x

    def block(self, i, x, dilation, dropout):
        name, y, backs = f"blocks.{i}", x, []
        for j in range(2):
            for op in (
                lambda y, j=j: self.conv(f"{name}.conv.{j}", y, dilation),
                self.relu,
                lambda y, j=j: self.drop(y, dropout, 2 * i + j),
            ):
                y, back = op(y)
                backs.append(back)
        same = f"{name}.shortcut.weight" not in self.params
        shortcut, shortcut_back = (x, lambda dy: dy) if same else self.conv(f"{name}.shortcut", x)
        y, out_back = self.relu(y + shortcut)

        def back(dy):
            total = branch = out_back(dy)
            for step in reversed(backs):
                branch = step(branch)
            return branch + shortcut_back(total)

        return y, back


def _forward(params, x, dilations, last, dropout):
    """The rows that the head sees, and the way back."""
    tape, backs = _Tape(params), []
    if "input.embedding" in params:
        codes = x
        x, saved = embedding.forward(codes, params["input.embedding"], backend="reference")

        def to_table(dy):
            tape.grads["input.embedding"] += embedding.backward(dy, saved, backend="reference").table

        backs.append(to_table)
    for i, dilation in enumerate(dilations):
        x, back = tape.block(i, x, dilation, dropout)
        backs.append(back)

    def backward(dy):
        if last:
            whole = np.zeros_like(x)
            whole[:, -1:] = dy
            dy = whole
        for back in reversed(backs):
            dy = back(dy)

    return tape, x[:, -1:] if last else x, backward


def loss_and_grads(
    params, x, targets, shares, into, *, dilations, loss, last, delta, dropout, needs, workspace, threads
):
    """The loss; into +=, unless it is None."""
    tape, h, backward = _forward(params, x, dilations, last, dropout)
    w, b = params["head.weight"], params["head.bias"]
    if last:
        targets, shares = targets[:, None], shares[:, None]
    total = shares.sum(dtype=np.float64) * (1 if loss == "cross_entropy" else len(b))
    if loss == "cross_entropy":
        value, saved = cross_entropy.forward(h, w, b, targets, shares, backend="reference")
        grads = cross_entropy.backward(total, saved, backend="reference")
        dh, tape.grads["head.weight"], tape.grads["head.bias"] = grads
    else:
        y, head_back = tape.conv("head", h)
        options = {"delta": delta} if loss == "huber" else {}
        value, saved = losses.forward(y, targets, shares, kind=loss, **options, backend="reference")
        dh = head_back(losses.backward(total, saved, backend="reference").x)
    if into is not None:
        backward(dh)
        for name in needs:
            into[name][...] += tape.grads[name]
    return value * total


def predict(out, params, x, *, dilations, last, workspace, threads):
    """out ="""
    tape, h, _ = _forward(params, x, dilations, last, None)
    out[...] = tape.conv("head", h)[0]


class Stream:
    """Keeps all rows so far, and starts from the first each time."""

    def __init__(self, params, batch, *, dilations):
        self.params, self.batch, self.dilations = {n: v.copy() for n, v in params.items()}, batch, dilations
        self.reset()

    def reset(self):
        self.rows, self.time = None, 0

    def copy(self):
        other = Stream(self.params, self.batch, dilations=self.dilations)
        other.rows, other.time = self.rows, self.time
        return other

    def step(self, x, out):
        self.rows = x.copy() if self.rows is None else np.concatenate([self.rows, x], axis=1)
        whole = np.empty((*self.rows.shape[:2], out.shape[2]), out.dtype)
        predict(whole, self.params, self.rows, dilations=self.dilations, last=False, workspace=None, threads=None)
        out[...] = whole[:, -x.shape[1] :]
        self.time += x.shape[1]


def init_state(params, batch, *, dilations, threads):
    """Backend of the contract."""
    return Stream(params, batch, dilations=dilations)
