"""The TCN: PyTorch's golden values, training from arrays and generators, streams, files, bad input."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import wavedil as wd
from wavedil import errors
from wavedil.ops import norm
from wavedil.training import Arrays, Batches

with np.load(Path(__file__).parents[1] / "golden" / "tcn.npz", allow_pickle=False) as _file:
    GOLDEN = {key: _file[key] for key in _file.files}
CASES = ("sequence", "last", "codes", "binary")
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
by_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


def group(name):
    return {key.removeprefix(f"{name}/"): value for key, value in GOLDEN.items() if key.startswith(f"{name}/")}


def close(got, expected, tolerance, what):
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape, what
    error, scale = np.abs(got - expected).max(), np.abs(expected).max()
    assert error <= tolerance * scale, f"{what}: relative error {error / scale if scale else np.inf:.1e}"


# ---- golden values ---------------------------------------------------------------------------------------------------
@by_dtype
def test_batch_norm(dtype):
    g, statistics = group("batch_norm"), norm.init_statistics(5)
    arrays = [g[name].astype(dtype) for name in ("scale", "shift")]
    dy = g["dy"].astype(dtype)
    for x in g["x"]:
        y, saved = norm.forward(x.astype(dtype), *arrays, kind="batch", statistics=statistics)
    grads = norm.backward(dy, saved)
    for name, value in {"y": y, "dx": grads.x, "dscale": grads.scale, "dshift": grads.shift}.items():
        close(value, g[name], TOLERANCE[dtype], name)
    close(statistics.mean, g["mean"], TOLERANCE[dtype], "mean")
    close(statistics.var, g["var"], TOLERANCE[dtype], "var")
    y, saved = norm.forward(g["x"][0].astype(dtype), *arrays, kind="batch", statistics=statistics, training=False)
    close(y, g["y_fixed"], TOLERANCE[dtype], "y with running statistics")
    close(norm.backward(dy, saved).x, g["dx_fixed"], TOLERANCE[dtype], "dx with running statistics")


@by_dtype
def test_weight_norm(dtype):
    g = {name: value.astype(dtype) for name, value in group("weight_norm").items()}
    w, saved = norm.forward(g["v"], g["g"], kind="weight")
    grads = norm.backward(g["dw"], saved)
    for name, value in {"w": w, "dv": grads.x, "dg": grads.scale}.items():
        close(value, group("weight_norm")[name], TOLERANCE[dtype], name)


def golden_model(case, dtype, **options):
    model = wd.TCN(wd.TCNConfig.from_dict(json.loads(str(GOLDEN[f"{case}/config"]))), dtype=dtype, **options)
    values = group(f"{case}/params")
    assert set(model.params) == set(values)
    for name, value in values.items():
        model.params[name][...] = value
    return model


def golden_inputs(case, dtype):
    arrays = [GOLDEN[f"{case}/{name}"] for name in ("x", "targets", "weights")]
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


@by_dtype
@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_predictions(case, dtype):
    model = golden_model(case, dtype)
    x, targets, weights = golden_inputs(case, dtype)
    loss, grads = model.loss_and_grads(x, targets, weights)
    close(loss, GOLDEN[f"{case}/loss"], TOLERANCE[dtype], "loss")
    assert model.loss(x, targets, weights) == pytest.approx(loss, rel=1e-6)
    close(model.predict(x), GOLDEN[f"{case}/y"], TOLERANCE[dtype], "y")
    for name, value in group(f"{case}/grads").items():
        assert grads[name].dtype == dtype
        close(grads[name], value, TOLERANCE[dtype], name)


# ---- the model -------------------------------------------------------------------------------------------------------
SMALL = wd.TCNConfig(dilations=[1, 2, 4], channels=6, kernel_size=3, inputs=2, outputs=1, sample_rate=8000)


def data(n=6, time=50, seed=0):
    """The sum of two inputs some rows ago."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, time, 2)).astype(np.float32)
    y = np.zeros((n, time, 1), np.float32)
    y[:, 5:, 0] = x[:, :-5, 0] + x[:, 5:, 1]
    return x, y


def test_the_receptive_field_is_what_is_seen():
    model = wd.TCN(SMALL, dtype="float64", seed=1)
    assert model.receptive_field == 1 + 2 * 2 * 7 == SMALL.receptive_field
    rng, changed = np.random.default_rng(0), set()
    for _ in range(4):  # a ReLU may hide a row from one input
        x = rng.standard_normal((1, 60, 2))
        y = model.predict(x)[0, -1, 0]
        for lag in range(40):
            moved = x.copy()
            moved[0, -1 - lag] += 5
            if model.predict(moved)[0, -1, 0] != y:
                changed.add(lag)
    assert max(changed) == model.receptive_field - 1


def test_needs_and_into():
    model = wd.TCN(SMALL)
    x, y = data()
    _, grads = model.loss_and_grads(x, y)
    names = ["blocks.1.conv.0.weight_g", "head.bias"]
    into = model.params.like()
    into.flat.fill(1)
    _, same = model.loss_and_grads(x, y, into=into, needs=names)
    assert same is into
    for name, value in into.items():
        np.testing.assert_allclose(value, 1 + grads[name] if name in names else 1 + 0 * grads[name], rtol=1e-6)
    with pytest.raises(errors.ConfigError, match="TCN.loss_and_grads: needs must name parameters"):
        model.loss_and_grads(x, y, needs=["blocks.1.conv.0.weight"])


@pytest.mark.parametrize("channels", [False, True])
def test_dropout_changes_from_step_to_step_and_is_off_for_predictions(channels):
    config = dataclasses.replace(SMALL, dropout=0.3, dropout_channels=channels)
    x, y = data()
    first, second = wd.TCN(config, seed=3), wd.TCN(config, seed=3)
    losses = [first.loss_and_grads(x, y)[0] for _ in range(3)]
    assert len(set(losses)) == 3
    assert losses == [second.loss_and_grads(x, y)[0] for _ in range(3)]
    assert first.buffers["dropout.counter"].tolist() == [3, 3]
    assert np.array_equal(first.predict(x), wd.TCN(SMALL, seed=3).predict(x))


@pytest.mark.parametrize("case", CASES)
def test_a_stream_equals_predictions_and_goes_on_from_a_file(case, tmp_path):
    model = golden_model(case, "float32")
    x = golden_inputs(case, "float32")[0]
    state, rows = model.init_stream(len(x)), []
    for begin in range(0, x.shape[1], 7):
        rows.append(model.stream(x[:, begin : begin + 7], state))
        if begin == 7:
            model.save_stream(state, tmp_path / "stream.safetensors")
            state = model.load_stream(tmp_path / "stream.safetensors")
    rows = np.concatenate(rows, axis=1)
    whole = model.predict(x)
    assert np.array_equal(rows[:, -1] if model.config.head == "last" else rows, whole)
    with pytest.raises(errors.ConfigError, match="TCN.stream: state must come from init_stream of this model"):
        wd.TCN(SMALL).stream(np.zeros((1, 3, 2), np.float32), state)
    model.params.flat[0] += 1
    with pytest.raises(errors.CheckpointError, match="its params_checksum differs"):
        model.load_stream(tmp_path / "stream.safetensors")


def test_save_and_load(tmp_path):
    model = wd.TCN(dataclasses.replace(SMALL, dropout=0.1), seed=5)
    x, y = data()
    model.loss_and_grads(x, y)
    model.save(tmp_path / "model.safetensors")
    for again in (wd.TCN.load(tmp_path / "model.safetensors"), wd.load(tmp_path / "model.safetensors")):
        assert again.config == model.config
        assert np.array_equal(again.predict(x), model.predict(x))
        assert again.loss_and_grads(x, y)[0] == model.loss_and_grads(x, y)[0]
        model.buffers["dropout.counter"][1] -= 1
    with pytest.raises(errors.CheckpointError, match="must hold a WaveNet, got a TCN"):
        wd.WaveNet.load(tmp_path / "model.safetensors")


def test_the_same_weights_in_both_dtypes():
    a, b = (wd.TCN(SMALL, seed=2, dtype=dtype).params for dtype in ("float32", "float64"))
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=1e-6)


# ---- training --------------------------------------------------------------------------------------------------------
def test_arrays_are_learned():
    trainer = wd.Trainer(wd.TCN(SMALL), data(64), optimizer=wd.Adam(1e-2), batch=16, window=40, validation=None)
    first = []
    trainer.fit(steps=120, on_step=lambda p: first.append(p.loss))
    x, y = data(20, seed=9)
    assert trainer.model.loss(x, y) < 0.1 * (y**2).mean()
    assert first[0] == pytest.approx(wd.TCN(SMALL).loss(*_first_batch()), rel=1e-6)  # a square is no number of bits


def _first_batch():
    return Arrays(*data(64)).batch(np.random.Generator(np.random.PCG64(0)), 16, 40)


class Counter:
    """A generator of batches that knows where it is."""

    def __init__(self):
        self.n = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return data(4, seed=self.n)

    def state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]


@pytest.mark.parametrize("source", ["arrays", "generator"])
def test_a_resume_is_bitwise(source, tmp_path):
    """Dropout and the generator's position go on where they were."""

    def start():
        return data(12) if source == "arrays" else Counter()

    config = dataclasses.replace(SMALL, dropout=0.2)
    whole = wd.Trainer(wd.TCN(config, seed=4), start(), batch=4, window=30, seed=1)
    whole.fit(steps=6)
    part = wd.Trainer(wd.TCN(config, seed=4), start(), batch=4, window=30, seed=1)
    part.fit(steps=3)
    part.save(tmp_path / "run")
    again = wd.Trainer.resume(tmp_path / "run", start())
    again.fit(steps=3)
    assert np.array_equal(again.model.params.flat, whole.model.params.flat)
    assert np.array_equal(again.model.buffers["dropout.counter"], [4, 6])


def test_a_step_that_fails_has_drawn_no_mask():
    x, y = data(4)
    bad = iter([(x, y), (x, np.full_like(y, np.nan))])
    trainer = wd.Trainer(wd.TCN(dataclasses.replace(SMALL, dropout=0.2)), bad)
    trainer.fit(steps=1)
    with pytest.raises(errors.DivergedError):
        trainer.fit(steps=1)
    assert trainer.model.buffers["dropout.counter"][1] == 1


def test_windows_of_long_sequences_have_a_context():
    x = np.arange(100.0, dtype=np.float32).reshape(1, 100, 1)
    source, rng = Arrays(x, -x, context=10), np.random.default_rng(0)
    counted = set()
    for _ in range(50):
        windows, targets, weights = source.batch(rng, 4, 20)
        assert windows.shape == (4, 30, 1) and np.array_equal(targets, -windows)
        assert (weights.sum(1) == 20).all()
        assert np.array_equal(np.diff(windows[..., 0]), np.ones((4, 29)))
        for window, weight in zip(windows[..., 0], weights, strict=True):
            first = window[weight > 0][0]
            assert first == window[0] + 10 or window[0] in (0, 70)
            counted |= set(window[weight > 0].astype(int))
    assert counted == set(range(100))
    assert [len(part) for part in Arrays(x, -x).batch(rng, 3, 200)] == [3, 3]  # no longer than there is


def test_validation_of_arrays():
    x, y = data(7)
    model = wd.TCN(SMALL)
    trainer = wd.Trainer(model, (x, y), batch=3, validation=(x, y))
    assert trainer.validate() == pytest.approx(model.loss(x, y), rel=1e-5)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (errors.ShapeError, r"targets must be \(2, 5, ...\) as x is", lambda: Arrays(np.ones((2, 5)), np.ones((2, 4)))),
        (errors.ShapeError, r"x must be \(N, T, ...\)", lambda: Arrays(np.ones(5), np.ones(5))),
        (errors.ConfigError, "context must be at least", lambda: Arrays(np.ones((1, 5)), np.ones((1, 5)), context=-1)),
        (errors.ConfigError, "batches must be an iterator, got list", lambda: Batches([1])),
        (errors.DataError, "the iterator must go on", lambda: Batches(iter([])).batch(None, 1, 1)),
    ],
)
def test_bad_sources(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("each of dilations must be at least 1, got 0", dict(dilations=[1, 0])),
        ("dilations must name at least one block", dict(dilations=[])),
        ("kernel_size must be", dict(kernel_size=0)),
        ("channels must be one number, or one for each of 3 dilations, got 2", dict(channels=[4, 4])),
        ("channels must be at least 1, got 0", dict(channels=[4, 0, 4])),
        ("loss must be one of", dict(loss="hinge")),
        ("head must be one of sequence, last, got 'first'", dict(head="first")),
        (r"dropout must be a number in \[0, 1\), got 1", dict(dropout=1)),
        ("weight_norm must be True or False, got 1", dict(weight_norm=1)),
        ("delta must be a number above 0, got 0", dict(delta=0)),
        ("outputs must be an integer, got 1.5", dict(outputs=1.5)),
    ],
)
def test_bad_configs(message, change):
    with pytest.raises(errors.ConfigError, match=message):
        dataclasses.replace(SMALL, **change)


def test_bad_arguments():
    with pytest.raises(errors.ConfigError, match="did you mean 'dilations'"):
        wd.TCNConfig.from_dict({"dilation": [1]})
    with pytest.raises(errors.ConfigError, match="TCNConfig: unknown key 'chanels'; did you mean 'channels'"):
        wd.TCNConfig([1], chanels=3)
    with pytest.raises(errors.ConfigError, match="TCNConfig: dilations must be given"):
        wd.TCNConfig(channels=3)
    with pytest.raises(errors.ConfigError, match="config must be a TCNConfig, got dict"):
        wd.TCN({})
    with pytest.raises(errors.ConfigError, match="device must be 'cpu'"):
        wd.TCN(SMALL, device="tpu")
    with pytest.raises(errors.ShapeError, match=r"tcn_stack.predict: x must be \(B, T, 2\), got \(3, 4, 1\)"):
        wd.TCN(SMALL).predict(np.zeros((3, 4, 1), np.float32))
    with pytest.raises(errors.DTypeError, match="x must be float32 as head.weight is, got float64"):
        wd.TCN(SMALL).predict(np.zeros((3, 4, 2)))


def test_a_stream_without_a_past_is_saved(tmp_path):
    model = wd.TCN(wd.TCNConfig(dilations=[1, 1], channels=4, kernel_size=1, inputs=2))
    state, x = model.init_stream(3), np.ones((3, 5, 2), np.float32)
    model.stream(x, state)
    model.save_stream(state, tmp_path / "x.st")
    again = model.load_stream(tmp_path / "x.st")
    assert again.time == 5 and np.array_equal(model.stream(x, again), model.stream(x, state))


@pytest.mark.parametrize("config", [wd.TCNConfig, wd.WaveNetConfig])
def test_a_field_beyond_any_memory_is_refused_at_once(config):
    with pytest.raises(errors.ConfigError, match="dilations must reach back over at most 2147483648 rows, got"):
        config(dilations=[2**40, 1])
