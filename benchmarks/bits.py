"""Hashes of what models compute, so that a change of structure can show that it kept every bit.

    python -m benchmarks.bits --write     the table of this tree into results/bits.json, under this kind of machine
    python -m benchmarks.bits             compare this tree with the table; exit code 1 if a hash differs

Bits depend on the instruction set (the order of a sum follows the vector's width) and on the versions of Numba and
NumPy, so a table counts for one kind of machine only, and another kind is told that it has none.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np

import wavedil as wd

TABLE = Path(__file__).with_name("results") / "bits.json"
_TWICE_TEN = [2**i for i in range(10)] * 2


def machine():
    """What the bits depend on, as one key."""
    on = [name for name in ("avx512f", "avx2", "avx", "neon") if llvm.get_host_cpu_features().get(name)]
    return f"{on[0] if on else 'plain'}, numba {numba.__version__}, numpy {np.__version__}"


def digest(*arrays):
    """One hash of arrays, their dtypes and shapes."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def wavenet(dtype):
    """Losses, gradients, logits, streams and codes of WaveNets of several kinds."""
    kinds = {
        "plain": (dict(dilations=_TWICE_TEN), {}, None),
        "kernel 3": (dict(dilations=[1, 3, 9], kernel_size=3, residual_channels=24, skip_channels=40, classes=30), {},
                     None),
        "recompute": (dict(dilations=[1, 2, 4, 8]), dict(recompute=True), None),
        "speakers": (dict(dilations=[1, 2, 4], speakers=3), {}, None),
        "local": (dict(dilations=[1, 2, 4], condition_channels=5), {}, 3),
        "global": (dict(dilations=[1, 2, 4], condition_channels=5), {}, 2),
    }  # fmt: skip
    for name, (sizes, options, condition_rank) in kinds.items():
        rng = np.random.default_rng(1)
        model = wd.WaveNet(wd.WaveNetConfig(**sizes), seed=3, dtype=dtype, **options)
        codes = rng.integers(0, model.config.classes, (3, 301))
        given = {}
        if "speakers" in sizes:
            given["speaker"] = np.array([2, 0, 1])
        if condition_rank:
            shape = (3, 300, 5) if condition_rank == 3 else (3, 5)
            given["condition"] = rng.standard_normal(shape).astype(dtype)
        loss, grads = model.loss_and_grads(codes, **given)
        yield f"{name} loss", digest(np.float64(loss))
        yield f"{name} gradients", digest(*[grads[key] for key in sorted(grads)])
        yield f"{name} loss alone", digest(np.float64(model.loss(codes, **given)))
        state = model.init_stream(3)
        if condition_rank == 3:
            parts = [model.stream(codes[:, a:b], state, condition=given["condition"][:, a:b])
                     for a, b in ((0, 1), (1, 200), (200, 300))]  # fmt: skip
        else:
            parts = [model.stream(codes[:, a:b], state, **given) for a, b in ((0, 1), (1, 200), (200, 300))]
            yield f"{name} codes", digest(model.generate(400, batch=3, seed=5, **given))
            yield f"{name} top codes", digest(
                model.generate(200, batch=3, seed=5, temperature=0.8, top_k=20, top_p=0.9, **given)
            )
        yield f"{name} stream", digest(*parts)
    if dtype == "float32":
        model = wd.WaveNet(wd.WaveNetConfig(dilations=_TWICE_TEN), seed=3)
        for kind in ("float16", "int8"):
            yield f"stored {kind} codes", digest(_stored(model, kind))


def _stored(model, kind):
    try:
        return model.generate(200, seed=5, storage=kind)
    except TypeError:  # the name that trees had before it was told apart from sample weights
        return model.generate(200, seed=5, weights=kind)


def tcn(dtype):
    """The same of TCNs, on numbers and on codes."""
    for name, sizes in {
        "numbers": dict(dilations=[1, 2, 4], channels=10, kernel_size=3, inputs=2),
        "codes": dict(dilations=[1, 2, 4], channels=16, kernel_size=2, classes=20, dropout=0.2),
    }.items():
        rng = np.random.default_rng(1)
        model = wd.TCN(wd.TCNConfig(**sizes), seed=3, dtype=dtype)
        if name == "codes":
            x = rng.integers(0, 20, (3, 100))
        else:
            x = rng.standard_normal((3, 100, 2)).astype(dtype)
        loss, grads = model.loss_and_grads(x, rng.standard_normal((3, 100, 1)).astype(dtype))
        yield f"{name} loss", digest(np.float64(loss))
        yield f"{name} gradients", digest(*[grads[key] for key in sorted(grads)])
        yield f"{name} predictions", digest(model.predict(x))


def classifier(dtype):
    """The same of a clip classifier."""
    for kind in ("average", "statistics", "attentive"):
        rng = np.random.default_rng(1)
        trunk = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4]), seed=3, dtype=dtype)
        model = wd.ClipClassifier(trunk, ["a", "b", "c"], pooling=kind, seed=4)
        codes = rng.integers(0, 256, (4, 250))
        lengths = np.array([250, 100, 1, 249])
        loss, grads = model.loss_and_grads(codes, ["a", "b", "c", "a"], lengths)
        yield f"{kind} loss", digest(np.float64(loss))
        yield f"{kind} gradients", digest(*[grads[key] for key in sorted(grads)])
        yield f"{kind} probabilities", digest(model.predict_proba(codes, lengths))


def training():
    """Weights after 20 steps on the bundled speech, with averaging, by the trainer."""
    clips = wd.audio.bundled_clips(speakers="folders")
    model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4, 8, 16], speakers=len(clips.speakers)), seed=0)
    trainer = wd.Trainer(model, clips, batch=2, window=1000, optimizer=wd.AdamW(3e-3), ema=0.9, seed=0)
    trainer.fit(steps=20)
    yield "weights", digest(model.params.flat)
    yield "averaged weights", digest(trainer.average.flat)


def table():
    """name -> hash"""
    rows = {}
    for family in (wavenet, tcn, classifier):
        for dtype in ("float32", "float64"):
            rows |= {f"{family.__name__} {dtype} {name}": value for name, value in family(dtype)}
    return rows | {f"trainer {name}": value for name, value in training()}


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put this tree's hashes into the table")
    write, key, rows = parser.parse_args().write, machine(), table()
    tables = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if write:
        TABLE.write_text(json.dumps(tables | {key: rows}, indent=1) + "\n")
        print(f"{len(rows)} hashes of {key} written to {TABLE}")
        return 0
    if key not in tables:
        print(f"no table for {key}; there are: {'; '.join(tables) or 'none'}")
        return 2
    differ = [name for name in rows | tables[key] if rows.get(name) != tables[key].get(name)]
    for name in differ:
        print(f"{name}: {tables[key].get(name)} before, {rows.get(name)} now")
    print(f"{len(rows) - len(differ)} of {len(tables[key])} hashes are the same ({key})")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
