"""Numba: copies of rows; the transposed convolution is a causal one, by the kernels of conv1d.

Row ``q factor + p`` of y is ``sum_j x[q - j] w[j factor + p]``: a causal convolution whose tap ``taps - 1 - j``, column
``(p, n)`` is ``w[j factor + p, :, n]``, and whose rows are those of y, ``factor`` at a time.
"""

from wavedil.kernels import pool
from wavedil.kernels.cpu import layout
from wavedil.kernels.cpu.jit import jit
from wavedil.kernels.cpu.panels import address
from wavedil.kernels.workspace import Workspace
from wavedil.ops import conv1d
from wavedil.ops.conv1d import cpu as convolution

PIECE = 2**14  # elements of a task


def forward(y, x, w, b, factor, *, workspace, threads):
    """y ="""
    if w is None:
        _run(_repeat, y, x, x, factor, threads)
        return
    workspace = workspace or Workspace()
    wide, bias = _wide(workspace, w, factor), None
    if b is not None:
        bias = workspace.array("upsample.bias", (factor, len(b)), x.dtype)
        bias[...] = b
        bias = bias.reshape(-1)
    rows = y.reshape(*x.shape[:2], -1)
    padding = len(wide) - 1, 0
    convolution.forward(rows, x, wide, bias, 1, padding, 1, workspace=workspace, threads=threads)


def backward(grads, dy, saved, *, workspace, threads):
    """grads.x =, grads.w +=, grads.b +="""
    x, w, _, factor, _ = saved
    if w is None:
        if grads.x is not None:
            _run(_fold, grads.x, dy, x, factor, threads)
        return
    workspace = workspace or Workspace()
    wide = _wide(workspace, w, factor)
    dwide = db = None
    if grads.w is not None:
        dwide = workspace.array("upsample.dw", wide.shape, x.dtype)
        dwide[...] = 0
    if grads.b is not None:
        db = workspace.array("upsample.db", (factor, w.shape[2]), x.dtype)
        db[...] = 0
    inner = conv1d.Saved(x, wide, True, 1, (len(wide) - 1, 0), 1)
    targets = conv1d.Grads(grads.x, dwide, None if db is None else db.reshape(-1))
    rows = dy.reshape(*x.shape[:2], -1)
    convolution.backward(targets, rows, inner, workspace=workspace, threads=threads)
    if dwide is not None:
        for k in range(len(w)):
            tap, columns = _place(wide, w, factor, k)
            grads.w[k] += dwide[tap, :, columns]
    if db is not None:
        for part in db:
            grads.b[...] += part


def _place(wide, w, factor, k):
    """Where tap k lies in the weight of the causal convolution."""
    j, p = divmod(k, factor)
    return len(wide) - 1 - j, slice(p * w.shape[2], (p + 1) * w.shape[2])


def _wide(workspace, w, factor):
    kernel, inputs, outputs = w.shape
    wide = workspace.array("upsample.w", (-(-kernel // factor), inputs, factor * outputs), w.dtype)
    wide[...] = 0
    for k in range(kernel):
        tap, columns = _place(wide, w, factor, k)
        wide[tap, :, columns] = w[k]
    return wide


def _run(kernel, target, source, few, factor, threads):
    """A task for each piece of the rows of ``few``, which has ``factor`` times fewer than the other array."""
    channels = few.shape[2]
    rows, piece = few.shape[0] * few.shape[1], -(-PIECE // (factor * channels))
    arrays = target.reshape(-1), layout.flat(source)
    calls = [(kernel, *arrays, t, min(t + piece, rows), factor, channels) for t in range(0, rows, piece)]
    pool.run(calls, pool.check_threads(threads))


@jit
def _repeat(y, x, begin, end, factor, channels):
    """y ="""
    for t in range(begin, end):
        of = address(x, t * channels)
        for p in range(factor):
            to = address(y, (t * factor + p) * channels)
            for c in range(channels):
                to[c] = of[c]


@jit
def _fold(dx, dy, begin, end, factor, channels):
    """dx ="""
    for t in range(begin, end):
        to, of = address(dx, t * channels), address(dy, t * factor * channels)
        for c in range(channels):
            to[c] = of[c]
        for p in range(1, factor):
            of = address(dy, (t * factor + p) * channels)
            for c in range(channels):
                to[c] += of[c]
