"""Small trainers, and all that decides how one goes on."""

from helpers.tiny_model import Tiny, TinyData
from wavedil.training import AdamW, Trainer


def trainer(folder=None, model=None, data=None, **options):
    options = {"optimizer": AdamW(0.02), "batch": 3, "window": 20, "seed": 5} | options
    return Trainer(model or Tiny(), data or TinyData(), folder=folder, **options)


def state(t):
    """All numbers that decide how training goes on, as bytes (of the padding only that it is zero: it may be -0.0)."""
    sets = [t.model.params, *t.moments.values()] + ([] if t.average is None else [t.average])
    assert not any(p.flat[~p.element_mask()].any() for p in sets)
    arrays = [b"".join(view.tobytes() for view in p.values()) for p in (t.model.buffers, *sets)]
    return arrays, t.step, t.best, t._stale, t._rng.bit_generator.state, t.data.state()
