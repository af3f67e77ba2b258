"""The WaveNet as its users meet it: config, initial weights, loss, field, generation, files, and what it refuses."""

import dataclasses
import errno
import json

import numpy as np
import pytest

import wavedil as wd
from wavedil.errors import CheckpointError, ConfigError, DivergedError, DTypeError, ShapeError
from wavedil.files import write_atomically
from wavedil.kernels.cpu.random import uniform
from wavedil.parameters import files
from wavedil.parameters.store import Parameters

SMALL = dict(
    dilations=[1, 2, 4], kernel_size=2, residual_channels=5, dilation_channels=6, skip_channels=7, end_channels=8,
    classes=30,
)  # fmt: skip


def net(seed=0, dtype="float32", threads=None, recompute=False, **changes):
    config = wd.WaveNetConfig(**SMALL | changes)
    return wd.WaveNet(config, seed=seed, dtype=dtype, threads=threads, recompute=recompute)


def codes_for(model, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.classes, shape)


# ---- config ----------------------------------------------------------------------------------------------------------
def test_defaults_and_plain_types():
    config = wd.WaveNetConfig(dilations=[1, 2, np.int64(4)], classes=np.int32(256))
    assert config == wd.WaveNetConfig(
        dilations=(1, 2, 4), kernel_size=2, residual_channels=32, dilation_channels=32, skip_channels=32,
        end_channels=32, classes=256, sample_rate=8000, codec="mulaw", condition_channels=0, speakers=0,
    )  # fmt: skip
    assert isinstance(config.dilations, tuple) and {type(d) for d in config.dilations} == {int}
    assert type(config.classes) is int and config.receptive_field == 8
    assert hash(config) == hash(wd.WaveNetConfig(dilations=[1, 2, 4]))


def test_the_config_is_frozen():
    config = wd.WaveNetConfig(dilations=[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.classes = 7


def test_round_trip_through_json():
    for config in (wd.WaveNetConfig(dilations=[1, 2]), wd.WaveNetConfig(**SMALL, speakers=3, sample_rate=16000)):
        values = json.loads(json.dumps(config.to_dict()))
        assert wd.WaveNetConfig.from_dict(values) == config
        assert set(values) == {field.name for field in dataclasses.fields(config)}


def test_speakers_bring_a_condition():
    assert wd.WaveNetConfig(**SMALL, speakers=2).condition_channels == 5
    assert wd.WaveNetConfig(**SMALL, speakers=2, condition_channels=9).condition_channels == 9
    assert wd.WaveNetConfig(**SMALL).condition_channels == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0}, "WaveNetConfig: classes must be at least 1, got 0"),
        ({"classes": 2.5}, "WaveNetConfig: classes must be an integer, got 2.5"),
        ({"classes": 256.0}, "WaveNetConfig: classes must be an integer, got 256.0"),
        ({"classes": "256"}, "WaveNetConfig: classes must be an integer, got '256'"),
        ({"classes": True}, "WaveNetConfig: classes must be an integer, got True"),
        ({"classes": None}, "WaveNetConfig: classes must be an integer, got None"),
        ({"classes": 300}, "WaveNetConfig: classes must be at most 256, the codes of 'mulaw', got 300"),
        ({"residual_channels": -1}, "residual_channels must be at least 1, got -1"),
        ({"dilation_channels": 0}, "dilation_channels must be at least 1, got 0"),
        ({"skip_channels": [3]}, r"skip_channels must be an integer, got \[3\]"),
        ({"end_channels": "x"}, "end_channels must be an integer, got 'x'"),
        ({"sample_rate": 0}, "sample_rate must be at least 1, got 0"),
        ({"condition_channels": -1}, "condition_channels must be at least 0, got -1"),
        ({"speakers": -2}, "speakers must be at least 0, got -2"),
        ({"codec": "mp3"}, "codec must be one of 'mulaw', .*'none', got 'mp3'"),
        ({"codec": None}, "codec must be one of 'mulaw', .*'none', got None"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": "2"}, "kernel_size must be an integer, got '2'"),
        ({"dilations": []}, "dilations must name at least one block"),
        ({"dilations": 4}, "dilations must be a list of integers, got 4"),
        ({"dilations": [1, 1.5]}, "each of dilations must be an integer, got 1.5"),
        ({"dilations": "12"}, "each of dilations must be an integer, got '1'"),
    ],
)
def test_wrong_values(change, message):
    with pytest.raises(ConfigError, match=message):
        wd.WaveNetConfig(**{"dilations": [1]} | change)
    with pytest.raises(ConfigError, match=message):
        wd.WaveNetConfig.from_dict({"dilations": [1]} | change)


def test_a_misspelt_key_of_the_constructor_is_told_the_near_name():
    with pytest.raises(ConfigError, match="WaveNetConfig: unknown key 'skip_chanels'; did you mean 'skip_channels'"):
        wd.WaveNetConfig(dilations=[1], skip_chanels=3)
    with pytest.raises(ConfigError, match="WaveNetConfig: dilations must be given"):
        wd.WaveNetConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dilations": [1], "skip_chanels": 3}, "unknown key 'skip_chanels'; did you mean 'skip_channels'"),
        ({"dilations": [1], "zzz": 3}, "unknown key 'zzz'; known are dilations, kernel_size"),
        ({"dilations": [1], 7: 3}, "unknown key 7"),
        ({}, "dilations must be given"),
        ({"classes": 7}, "dilations must be given"),
        (None, "a config must be a table of keys, got None"),
        ([1, 2], r"a config must be a table of keys, got \[1, 2\]"),
    ],
)
def test_tables_that_are_no_config(values, message):
    with pytest.raises(ConfigError, match="WaveNetConfig: " + message):
        wd.WaveNetConfig.from_dict(values)


# ---- construction ----------------------------------------------------------------------------------------------------
def test_parameters_have_the_documented_names_and_shapes():
    model = net(speakers=2, condition_channels=4, kernel_size=3)
    want = {"input.embedding": (30, 5)}
    for i in range(3):
        want |= {
            f"blocks.{i}.conv.weight": (3, 5, 12), f"blocks.{i}.conv.bias": (12,),
            f"blocks.{i}.condition.weight": (4, 12), f"blocks.{i}.residual.weight": (6, 5),
            f"blocks.{i}.residual.bias": (5,), f"blocks.{i}.skip.weight": (6, 7), f"blocks.{i}.skip.bias": (7,),
        }  # fmt: skip
    want |= {"head.0.weight": (7, 8), "head.0.bias": (8,), "head.1.weight": (8, 30), "head.1.bias": (30,)}
    want |= {"speaker.embedding": (2, 4)}
    assert {n: p.shape for n, p in model.params.items()} == want
    assert isinstance(model.params, Parameters) and model.buffers == {}
    assert model.dtype == np.float32 and model.device == "cpu" and model.receptive_field == 15
    assert model.params.count == sum(np.prod(shape) for shape in want.values())
    assert f"{model.params.count:,} parameters" in repr(model) and "field 15" in repr(model)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ConfigError, "config must be a WaveNetConfig, got dict", dict(config={"dilations": [1]})),
        (ConfigError, "config must be a WaveNetConfig, got list", dict(config=[1, 2])),
        (ConfigError, "device must be 'cpu'", dict(device="gpu")),
        (ConfigError, "threads must be at least 1, got 0", dict(threads=0)),
        (ConfigError, "threads must be at least 1, got -1", dict(threads=-1)),
        (ConfigError, "threads must be an integer, got True", dict(threads=True)),
        (ConfigError, "seed must be at least 0, got -1", dict(seed=-1)),
        (ConfigError, "seed must be an integer, got 1.5", dict(seed=1.5)),
        (ConfigError, "seed must be an integer, got None", dict(seed=None)),
        (ConfigError, "seed must be an integer, got 'x'", dict(seed="x")),
        (DTypeError, "dtype must be float32 or float64, got float16", dict(dtype="float16")),
        (DTypeError, "dtype must be float32 or float64, got int64", dict(dtype="int64")),
    ],
)
def test_bad_construction(error, message, options):
    with pytest.raises(error, match=message):
        wd.WaveNet(**{"config": wd.WaveNetConfig(**SMALL)} | options)


@pytest.mark.parametrize("channels", [4, 16, 32, 128])
@pytest.mark.parametrize("shape", [([2**i for i in range(10)] * 2, 2), ([1], 1), ([1, 2, 4], 3)], ids=str)
def test_the_initial_loss_is_that_of_not_knowing(shape, channels):
    dilations, kernel_size = shape
    for seed in range(3):
        config = wd.WaveNetConfig(
            dilations=dilations, kernel_size=kernel_size, residual_channels=channels, dilation_channels=channels,
            skip_channels=channels, end_channels=channels,
        )  # fmt: skip
        model = wd.WaveNet(config, seed=seed)
        assert model.loss(codes_for(model, 2, 200, seed=seed)) == pytest.approx(np.log(256), rel=0.02)


@pytest.mark.parametrize("options", [{}, {"speakers": 2}, {"condition_channels": 80}], ids=str)
def test_the_initial_loss_on_what_sound_is_like(options):
    """Slow sine waves and conditions of any size, and the loss of a model is not far off either."""
    t = np.arange(2000)
    codes = np.stack([wd.audio.mulaw_encode(np.sin(2 * np.pi * t / p).astype("float32")) for p in (20, 301)])
    for seed in range(3):
        model = wd.WaveNet(wd.WaveNetConfig(dilations=[2**i for i in range(8)], **options), seed=seed)
        given = {"speaker": np.array([0, 1])} if model.config.speakers else {}
        if model.config.condition_channels == 80:
            given["condition"] = np.random.default_rng(seed).standard_normal((2, 80)).astype("float32")
        assert model.loss(codes, **given) == pytest.approx(np.log(256), rel=0.02)


def test_seeds():
    a, b, c = net(seed=1), net(seed=1), net(seed=2)
    assert a.params.flat.tobytes() == b.params.flat.tobytes() != c.params.flat.tobytes()
    assert all(not p.any() for n, p in a.params.items() if n.endswith("bias"))
    assert all(p.any() for n, p in a.params.items() if not n.endswith("bias"))


def test_both_dtypes_agree():
    single, double = net(seed=3, dtype="float32"), net(seed=3, dtype="float64")
    for name, value in double.params.items():
        assert value.dtype == np.float64 and np.array_equal(single.params[name], value.astype("float32"))
    codes = codes_for(single, 2, 80)
    assert single.loss(codes) == pytest.approx(double.loss(codes), rel=1e-6)
    (_, g32), (_, g64) = single.loss_and_grads(codes), double.loss_and_grads(codes)
    assert g32.dtype == np.float32 and g64.dtype == np.float64
    for name, gradient in g64.items():
        assert np.abs(g32[name] - gradient).max() <= 2e-5 * max(np.abs(gradient).max(), 1e-3), name
    assert single.logits(codes).dtype == np.float32 and double.logits(codes).dtype == np.float64


# ---- loss and gradients ----------------------------------------------------------------------------------------------
def test_loss_is_the_mean_of_what_the_logits_say():
    model = net(dtype="float64")
    codes = codes_for(model, 3, 41)
    weights = np.random.default_rng(1).uniform(size=(3, 40))
    logits = model.logits(codes[:, :-1])
    assert logits.shape == (3, 40, 30)
    top = np.log(np.exp(logits).sum(axis=2))
    nats = top - np.take_along_axis(logits, codes[:, 1:, None], axis=2)[..., 0]
    assert model.loss(codes) == pytest.approx(nats.mean(), rel=1e-12)
    assert model.loss(codes, weights) == pytest.approx((weights * nats).sum() / weights.sum(), rel=1e-12)
    assert model.loss_and_grads(codes, weights)[0] == model.loss(codes, weights)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_have_the_layout_of_the_parameters(recompute):
    model = net(recompute=recompute)
    codes = codes_for(model, 2, 50)
    loss, grads = model.loss_and_grads(codes)
    assert isinstance(loss, float) and isinstance(grads, Parameters)
    assert grads.shapes == model.params.shapes and grads.offsets == model.params.offsets
    assert not grads.flat[~grads.element_mask()].any()
    into = model.params.like()
    into.flat[into.element_mask()] = 1
    again, same = model.loss_and_grads(codes, into=into)
    assert same is into and again == loss
    assert np.abs(into.flat - into.element_mask() - grads.flat).max() < 1e-6
    assert not into.flat[~into.element_mask()].any()


def test_a_speaker_is_a_condition_and_its_embedding_learns():
    model = net(speakers=3, condition_channels=4, dtype="float64")
    codes, speaker = codes_for(model, 3, 41), np.array([2, 0, 2], np.uint8)
    embedding = model.params["speaker.embedding"]
    for condition in (None, np.random.default_rng(0).standard_normal((3, 4))):
        loss, grads = model.loss_and_grads(codes, speaker=speaker, condition=condition)
        step, direction = 1e-5, np.random.default_rng(1).standard_normal((3, 4))
        embedding += step * direction
        above = model.loss(codes, speaker=speaker, condition=condition)
        embedding -= 2 * step * direction
        below = model.loss(codes, speaker=speaker, condition=condition)
        embedding += step * direction
        slope = (above - below) / (2 * step)
        assert slope == pytest.approx((grads["speaker.embedding"] * direction).sum(), rel=1e-5)
        assert not grads["speaker.embedding"][1].any() and grads["speaker.embedding"][0].any()
        local = None if condition is None else np.repeat(condition[:, None], 40, axis=1)
        if local is not None:
            again, local_grads = model.loss_and_grads(codes, speaker=speaker, condition=local)
            assert again == pytest.approx(loss, rel=1e-12)
            close = np.abs(local_grads["speaker.embedding"] - grads["speaker.embedding"]).max()
            assert close < 1e-12
    into = model.params.like()
    model.loss_and_grads(codes, into=into, speaker=speaker)
    model.loss_and_grads(codes, into=into, speaker=speaker)
    _, once = model.loss_and_grads(codes, speaker=speaker)
    assert np.abs(into["speaker.embedding"] - 2 * once["speaker.embedding"]).max() < 1e-14


def test_speakers_differ():
    model = louder(net(speakers=2))
    codes = codes_for(model, 1, 30)
    assert model.loss(codes, speaker=np.array([0])) != model.loss(codes, speaker=np.array([1]))
    a, b = (model.generate(40, speaker=s, seed=1, temperature=0.5) for s in (0, 1))
    assert not np.array_equal(a, b)
    both = model.generate(40, batch=2, speaker=np.array([0, 1]), seed=1, temperature=0.5)
    assert np.array_equal(both[:1], a) and not np.array_equal(both[1:], b)  # a stream of another number draws others


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_recomputing_change_no_bit(threads):
    one = net(threads=1, speakers=2)
    codes, speaker = codes_for(one, 5, 301), np.array([0, 1, 1, 0, 1])
    loss, grads = one.loss_and_grads(codes, speaker=speaker)
    for recompute in (False, True):
        other = net(threads=threads, speakers=2, recompute=recompute)
        again, others = other.loss_and_grads(codes, speaker=speaker)
        assert again == loss and others.flat.tobytes() == grads.flat.tobytes()
        assert other.loss(codes, speaker=speaker) == loss


def test_a_model_of_many_shapes_in_turn():
    """Windows come in all sizes; what an earlier one left behind does not show."""
    model = net()
    for shape in ((3, 200), (1, 2), (2, 97), (3, 200), (1, 500), (2, 2), (3, 201)):
        codes = codes_for(model, *shape)
        loss, grads = model.loss_and_grads(codes)
        fresh_loss, fresh = net().loss_and_grads(codes)
        assert loss == fresh_loss and grads.flat.tobytes() == fresh.flat.tobytes()


def test_codes_of_all_kinds():
    model = net()
    codes = codes_for(model, 2, 30)
    wanted = model.loss(codes)
    for kind in (np.uint8, np.int16, np.uint64):
        assert model.loss(codes.astype(kind)) == wanted
        assert model.loss_and_grads(codes.astype(kind))[0] == wanted
    assert np.array_equal(model.logits(codes.astype(np.uint8)), model.logits(codes))


# ---- the receptive field ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dilations", "kernel_size"), [([1, 2, 4], 2), ([1, 3], 3), ([5], 2), ([2, 1], 4), ([1, 2], 1)]
)
def test_the_measured_receptive_field_is_the_computed_one(dilations, kernel_size):
    """The logits that move when one code changes are the next ``receptive_field`` ones, and no others."""
    model = net(dtype="float64", dilations=dilations, kernel_size=kernel_size)
    field = model.receptive_field
    assert field == wd.receptive.receptive_field(dilations, kernel_size)
    codes = codes_for(model, 1, 3 * field + 5)
    before = model.logits(codes)
    at = field + 2
    codes[0, at] = (codes[0, at] + 1) % 30
    moved = np.flatnonzero((model.logits(codes) != before).any(axis=(0, 2)))
    assert moved[0] == at and moved[-1] == at + field - 1


# ---- learning --------------------------------------------------------------------------------------------------------
def test_one_clip_can_be_learnt_by_heart():
    model = net(dilations=[1, 2, 4, 8], residual_channels=16, dilation_channels=16, skip_channels=16, end_channels=16)
    codes = codes_for(model, 1, 121)  # random: there is nothing in it but itself
    optimizer_state = [np.zeros_like(model.params.flat) for _ in range(2)]
    before = model.loss(codes)
    for step in range(1, 301):
        _, grads = model.loss_and_grads(codes)
        adam(model.params.flat, grads.flat, *optimizer_state, step)
    assert before == pytest.approx(np.log(30), rel=0.1) and model.loss(codes) < 0.05
    # Heard from its beginning, the model goes on with the rest of it.
    got = model.generate(90, primer=codes[:, :31], temperature=0)
    assert (got == codes[:, 31:]).mean() > 0.95


def adam(weights, gradient, first, second, step, rate=0.01):
    first += 0.1 * (gradient - first)
    second += 0.01 * (gradient**2 - second)
    weights -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)


# ---- streams ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["none", "speaker", "global", "local"])
def test_streaming_in_pieces_equals_logits(kind):
    model = net(
        speakers=2 if kind == "speaker" else 0, condition_channels=0 if kind in ("none", "speaker") else 3
    )  # fmt: skip
    codes, rng = codes_for(model, 2, 300), np.random.default_rng(0)
    given = {
        "none": {}, "speaker": {"speaker": np.array([1, 0])},
        "global": {"condition": rng.standard_normal((2, 3)).astype("float32")},
        "local": {"condition": rng.standard_normal((2, 300, 3)).astype("float32")},
    }[kind]  # fmt: skip
    whole, state, pieces, t = model.logits(codes, **given), model.init_stream(2), [], 0
    for n in (1, 1, 5, 96, 1, 150, 46):
        piece = {"condition": given["condition"][:, t : t + n]} if kind == "local" else given
        pieces.append(model.stream(codes[:, t : t + n], state, **piece))
        t += n
    assert np.concatenate(pieces, axis=1).tobytes() == whole.tobytes()


def test_a_stream_does_not_change_its_speaker_when_training_goes_on():
    model = net(condition_channels=3)
    codes, condition = codes_for(model, 1, 40), np.ones((1, 3), "float32")
    other = -condition
    state = model.init_stream()
    model.stream(codes[:, :20], state, condition=condition)
    expected = state.copy()
    kept = model.params.copy()
    wanted = [model.stream(codes[:, 20:], s, condition=c) for s, c in ((expected, condition), (state.copy(), other))]
    model.params.flat[:] = 0.5
    got = [model.stream(codes[:, 20:], s, condition=c) for s, c in ((state.copy(), condition), (state, other))]
    for a, b in zip(got, wanted, strict=True):
        assert a.tobytes() == b.tobytes()
    model.params.load(kept)


def test_a_state_of_another_model_is_refused():
    model = net()
    for other in (net(residual_channels=6), net(dilations=[1, 2, 8]), net(dtype="float64"), net(speakers=2)):
        with pytest.raises(ConfigError, match="WaveNet.stream: state must come from init_stream of this model"):
            model.stream(codes_for(model, 1, 3), other.init_stream())
    for other in (None, 7, {}):
        with pytest.raises(ConfigError, match="WaveNet.stream: state must come from init_stream of this model"):
            model.stream(codes_for(model, 1, 3), other)


# ---- generation ------------------------------------------------------------------------------------------------------
def naive(model, n, *, batch=1, seed=0, temperature=1.0, primer=None, **given):
    """The whole past again for every sample, and the same uniform draws."""
    codes = np.full((batch, 1), model.config.classes // 2) if primer is None else np.asarray(primer)
    start = codes.shape[1]
    for _ in range(n):
        logits = model.logits(codes, **given)[:, -1].astype("float64")
        drawn = logits.argmax(axis=1)
        if temperature > 0:
            p = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature).cumsum(axis=1)
            draws = [uniform(seed, b, codes.shape[1] - 1) * p[b, -1] for b in range(batch)]
            drawn = np.array([np.searchsorted(row, draw, side="right") for row, draw in zip(p, draws, strict=True)])
        codes = np.concatenate([codes, drawn[:, None]], axis=1)
    return codes[:, start:]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_generation_equals_recomputing_everything(kernel_size, temperature):
    model = louder(net(dtype="float64", kernel_size=kernel_size))
    options = dict(batch=2, seed=3, temperature=temperature)
    got = model.generate(60, **options)
    assert got.shape == (2, 60) and got.dtype == np.uint8
    assert np.array_equal(got, naive(model, 60, **options))


def louder(model):
    """With logits far enough apart that samples are not noise."""
    model.params["head.1.weight"][...] *= 30
    return model


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 100, 97])
def test_primers_shorter_and_longer_than_the_field(length):
    model = louder(net(dtype="float64"))
    assert model.receptive_field == 8
    primer = codes_for(model, 2, length)
    got = model.generate(20, batch=2, seed=1, primer=primer)
    assert np.array_equal(got, naive(model, 20, batch=2, seed=1, primer=primer))
    one = model.generate(20, batch=3, seed=1, primer=primer[0])  # the same primer for all
    assert np.array_equal(one, naive(model, 20, batch=3, seed=1, primer=np.repeat(primer[:1], 3, axis=0)))
    assert np.array_equal(one[:1], got[:1])
    assert np.array_equal(model.generate(20, batch=2, seed=1, primer=primer.tolist()), got)


def test_conditioned_generation():
    rng = np.random.default_rng(0)
    model = louder(net(dtype="float64", speakers=3, condition_channels=4))
    given = dict(speaker=np.array([2, 0]), condition=rng.standard_normal((2, 4)))
    assert np.array_equal(model.generate(30, batch=2, **given), naive(model, 30, batch=2, **given))
    speaker = model.generate(30, batch=2, speaker=1)
    assert np.array_equal(speaker, naive(model, 30, batch=2, speaker=np.array([1, 1])))


def test_without_a_primer_generation_begins_with_silence():
    model = louder(net(classes=256))
    assert np.array_equal(model.generate(9, seed=1), model.generate(9, seed=1, primer=[128]))
    assert not np.array_equal(model.generate(9, seed=1), model.generate(9, seed=1, primer=[0]))


def test_seeds_batches_and_no_samples():
    model = net()
    a = model.generate(50, batch=4, seed=1)
    assert np.array_equal(a, model.generate(50, batch=4, seed=1))
    assert not np.array_equal(a, model.generate(50, batch=4, seed=2))
    for batch in (1, 2, 9):
        assert np.array_equal(model.generate(50, batch=batch, seed=1)[:4], a[:batch])
    assert len(np.unique(a, axis=0)) == 4
    assert np.array_equal(net(threads=1).generate(50, batch=4, seed=1), a)
    assert np.array_equal(model.generate(20, batch=4, seed=1), a[:, :20])
    for batch in (1, 3):
        none = model.generate(0, batch=batch, primer=[1, 2, 3])
        assert none.shape == (batch, 0) and none.dtype == np.uint8
    assert net(classes=300, codec="none").generate(2).dtype == np.int64


def test_progress():
    seen = []
    net().generate(2300, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2300, 2300) and len(seen) > 1 and seen == sorted(seen)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        *((ConfigError, "temperature must be a finite number of at least 0, got", dict(temperature=t))
          for t in (-0.1, np.inf, -np.inf, np.nan, "hot", None)),
        (ConfigError, "n must be at least 0, got -1", dict(n=-1)),
        (ConfigError, "n must be an integer, got 2.5", dict(n=2.5)),
        (ConfigError, "seed must be at least 0, got -1", dict(seed=-1)),
        (ConfigError, "seed must be an integer, got None", dict(seed=None)),
        (ConfigError, "batch must be at least 1, got 0", dict(batch=0)),
        (ConfigError, "batch must be at least 1, got -1", dict(batch=-1)),
        (ConfigError, "batch must be an integer, got 1.5", dict(batch=1.5)),
        (ConfigError, "batch must be an integer, got '2'", dict(batch="2")),
        (ShapeError, r"primer must be \(1, m\) with m of at least 1, got \(2, 3\)", dict(primer=np.ones((2, 3), int))),
        (ShapeError, r"primer must be \(1, m\) with m of at least 1, got \(1, 0\)", dict(primer=np.ones((1, 0), int))),
        (ShapeError, r"primer must be \(1, m\) with m of at least 1, got \(\)", dict(primer=np.array(3))),
        (ShapeError, r"primer must lie in \[0, 30\), got 30", dict(primer=[3, 30])),
        (ShapeError, r"primer must lie in \[0, 30\), got -1", dict(primer=[-1, 3])),
        (ShapeError, r"primer must lie in \[0, 30\), got 255", dict(primer=np.array([255], np.uint8))),
        (DTypeError, "primer must be an array of integers, got float64", dict(primer=[1.0, 2.0])),
        (ConfigError, "speaker must be None, as the model has no speakers, got", dict(speaker=0)),
        (ConfigError, "condition must be None, as condition_channels is 0", dict(condition=np.ones((1, 3)))),
    ],
)  # fmt: skip
def test_bad_generation(error, message, options):
    with pytest.raises(error, match="WaveNet.generate: " + message):
        net().generate(**{"n": 4} | options)


def test_a_model_that_diverged_says_so():
    model = net()
    model.params["head.0.weight"][...] = np.nan
    with pytest.raises(DivergedError, match="logits of stream 0 are not finite at step 2"):
        model.generate(9, primer=[1, 2, 3])
    assert np.isnan(model.loss(codes_for(model, 1, 9)))


# ---- what the doors refuse -------------------------------------------------------------------------------------------
def f32(*shape):
    return np.ones(shape, "float32")


PLAIN, SPEAKERS, TEXT = {}, {"speakers": 2}, {"condition_channels": 3}
DOORS = [
    (PLAIN, ShapeError, r"codes must be \(B, T.*\), got \(20,\)", np.zeros(20, int), {}),
    (PLAIN, ShapeError, r"codes must lie in \[0, 30\), got 30", np.full((2, 20), 30), {}),
    (PLAIN, ShapeError, r"codes must lie in \[0, 30\), got -1", np.full((2, 20), -1), {}),
    (PLAIN, DTypeError, "codes must be an array of integers, got float32", f32(2, 20), {}),
    (PLAIN, ConfigError, "speaker must be None, as the model has no speakers, got", None, {"speaker": [0, 1]}),
    (PLAIN, ConfigError, "condition must be None, as condition_channels is 0, got one", None, {"condition": f32(2, 3)}),
    (SPEAKERS, ConfigError, "speaker must be given, as the model has 2", None, {}),
    (SPEAKERS, ConfigError, "speaker must be given, as the model has 2", None, {"condition": f32(2, 5)}),
    (SPEAKERS, ShapeError, r"speaker must be \(2,\) integers, got \(1,\)", None, {"speaker": [0]}),
    (SPEAKERS, ShapeError, r"speaker must be \(2,\) integers, got \(\)", None, {"speaker": 1}),
    (SPEAKERS, ShapeError, r"speaker must be \(2,\) integers, got \(2,\) float64", None, {"speaker": [0.0, 1.0]}),
    (SPEAKERS, ShapeError, r"speaker must be \(2,\) integers, got \(2,\) bool", None, {"speaker": [True, False]}),
    (SPEAKERS, ShapeError, r"speaker must lie in \[0, 2\), got \[0, 2\]", None, {"speaker": [0, 2]}),
    (SPEAKERS, ShapeError, r"speaker must lie in \[0, 2\), got \[-1, 0\]", None, {"speaker": [-1, 0]}),
    (SPEAKERS, ShapeError, r"condition must be \(2, 5\) or \(2, ", None, {"speaker": [0, 1], "condition": f32(2, 6)}),
    (TEXT, ConfigError, "condition must be given, as condition_channels is 3", None, {}),
    (TEXT, ShapeError, r"condition must be \(2, 3\) or \(2, .*, 3\), got \(3, 3\)", None, {"condition": f32(3, 3)}),
    (TEXT, ShapeError, r"condition must be \(2, 3\) or \(2, .*, 3\), got \(2, 9, 3\)", None,
     {"condition": f32(2, 9, 3)}),
    (TEXT, ConfigError, "speaker must be None, as the model has no speakers", None,
     {"condition": f32(2, 3), "speaker": [0, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message", "codes", "given"), DOORS, ids=[d[2] for d in DOORS])
def test_what_the_doors_refuse(changes, error, message, codes, given):
    model = net(**changes)
    codes = np.zeros((2, 20), int) if codes is None else codes
    calls = [model.loss, model.loss_and_grads, model.logits]
    for call in calls:
        with pytest.raises(error, match=rf"WaveNet\.\w+: {message}"):
            call(codes, **given)
    if codes.ndim == 2:
        with pytest.raises(error, match=message):
            model.stream(codes, model.init_stream(len(codes)), **given)


def test_windows_without_anything_to_predict():
    for codes in (np.zeros((2, 1), int), np.zeros((2, 0), int), np.zeros((0, 9), int)):
        for call in (net().loss, net().loss_and_grads):
            with pytest.raises(ShapeError, match=r"WaveNet\.\w+: codes must have at least 1 row and 2 columns, got"):
                call(codes)


def test_weights_that_do_not_fit():
    model = net()
    codes = codes_for(model, 2, 20)
    for weights, message in [
        (f32(2, 20), r"sample_weight must be \(2, 19\), got \(2, 20\)"),
        (f32(19), r"sample_weight must be \(2, 19\), got \(19,\)"),
        (0 * f32(2, 19), "sample_weight must be finite, at least 0 and not all 0"),
    ]:
        for call in (model.loss, model.loss_and_grads):
            with pytest.raises(ShapeError, match=message):
                call(codes, weights)


@pytest.mark.parametrize("hop", [0, 4])
def test_the_gradient_of_a_condition_beside_speakers_leaves_what_is_not_needed_alone(hop):
    model = net(speakers=2, condition_channels=3, condition_hop=hop)
    codes, frames = codes_for(model, 2, 13), model.network.condition.frames(12, 0) if hop else 12
    condition = np.random.default_rng(1).normal(size=(2, frames, 3)).astype(np.float32)
    given = {"condition": condition, "speaker": [0, 1], "condition_gradient": True}
    _, grads, everything = model.loss_and_grads(codes, **given)
    assert np.allclose(grads["speaker.embedding"], everything.sum(axis=1), rtol=1e-5, atol=1e-7)
    into = model.params.like()
    _, _, dcondition = model.loss_and_grads(codes, into=into, needs=["head.1.bias"], **given)
    assert dcondition.tobytes() == everything.tobytes() and dcondition.shape == condition.shape
    assert {name for name, value in into.items() if value.any()} == {"head.1.bias"}


def test_there_is_no_gradient_of_a_condition_that_is_not_given():
    model = net(speakers=2)
    with pytest.raises(ConfigError, match="condition_gradient must be False without a condition"):
        model.loss_and_grads(codes_for(model, 2, 13), speaker=[0, 1], condition_gradient=True)


def test_gradients_of_another_model_are_refused():
    model = net()
    codes = codes_for(model, 2, 20)
    with pytest.raises((ShapeError, ConfigError), match="into"):
        model.loss_and_grads(codes, into=net(end_channels=9).params.like())
    with pytest.raises(DTypeError, match="into"):
        model.loss_and_grads(codes, into=net(dtype="float64").params.like())


# ---- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_is_the_same_to_the_last_bit(dtype, tmp_path):
    model = net(seed=5, dtype=dtype, speakers=2)
    model.save(tmp_path / "m.safetensors", step=17, extra={"note": "x"})
    for load in (wd.WaveNet.load, wd.load):
        other = load(tmp_path / "m.safetensors", threads=1, recompute=True)
        assert type(other) is wd.WaveNet and other.config == model.config and other.dtype == dtype
        assert other.params.flat.tobytes() == model.params.flat.tobytes()
        assert (other.threads, other.recompute) == (1, True)
        assert other.about["step"] == 17 and other.about["note"] == "x"
    again = other.generate(20, speaker=1)
    assert np.array_equal(again, model.generate(20, speaker=1))
    other.save(tmp_path / "n.safetensors", step=17, extra={"note": "x"})
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_other_values_can_be_saved(tmp_path):
    model, average = net(), net(seed=9).params
    model.save(tmp_path / "m.safetensors", params=average)
    assert wd.load(tmp_path / "m.safetensors").params.flat.tobytes() == average.flat.tobytes()


def written(tmp_path, tensors=None, **changes):
    """A model file in which something is not as `save` writes it."""
    model = net()
    about = {
        "kind": "model", "class": "WaveNet", "config": model.config.to_dict(), "dtype": "float32", "step": None,
    }  # fmt: skip
    about |= changes
    files.write(tmp_path / "m.safetensors", dict(model.params) if tensors is None else tensors(model.params), about)
    return tmp_path / "m.safetensors"


def without(params, name):
    return {n: p for n, p in params.items() if n != name}


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("class must be one of .*, got 'Net'|must hold a WaveNet, got a Net", {"class": "Net"}),
        ("class must be one of .*, got None|must hold a WaveNet, got a None", {"class": None}),
        ("expected a model file, got 'trainer'", {"kind": "trainer"}),
        ("missing: head.1.bias", {"tensors": lambda p: without(p, "head.1.bias")}),
        ("unknown: more", {"tensors": lambda p: dict(p) | {"more": f32(3)}}),
        ("head.1.bias must be .30,., got .29,.", {"tensors": lambda p: dict(p) | {"head.1.bias": f32(29)}}),
        ("head.1.bias must be float32, got float64", {"tensors": lambda p: dict(p) | {"head.1.bias": np.ones(30)}}),
        ("unknown key 'colour'", {"config": {"dilations": [1], "colour": "red"}}),
        ("a config must be a table of keys, got None", {"config": None}),
        ("classes must be an integer, got 'many'", {"config": {"dilations": [1], "classes": "many"}}),
        ("dtype", {"dtype": "int8"}),
        ("dtype", {"dtype": "nonsense"}),
        ("dtype", {"dtype": 7}),
    ],
)
def test_files_that_hold_something_else(message, changes, tmp_path):
    path = written(tmp_path, **changes)
    for load in (wd.WaveNet.load, wd.load):
        with pytest.raises(CheckpointError, match=message):
            load(path)


def test_foreign_damaged_and_missing_files(tmp_path):
    import safetensors.numpy

    path = tmp_path / "x.safetensors"
    net().save(tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    safetensors.numpy.save_file(dict(net().params), path)
    foreign = path.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for data in (b"", b"RIFF" + bytes(100), good[:-7], good[:50], good + b"x", bytes(flipped), foreign):
        path.write_bytes(data)
        for load in (wd.WaveNet.load, wd.load):
            with pytest.raises(CheckpointError, match="x.safetensors"):
                load(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            wd.load(missing)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    net(seed=1).save(path)
    before = path.read_bytes()

    def full(file, data):
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", lambda path, data, writer: write_atomically(path, data, writer=full))
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        net(seed=2).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_below_a_regular_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        net().save(tmp_path / "file" / "m.safetensors")


def test_a_model_with_a_full_receptive_field_of_seconds():
    """20 blocks, 2 x 1..512: one more stream, sample by sample and in one piece, past the largest dilation."""
    model = wd.WaveNet(
        wd.WaveNetConfig(dilations=[2**i for i in range(10)] * 2, residual_channels=4, dilation_channels=4,
                         skip_channels=4, end_channels=4), seed=1,
    )  # fmt: skip
    codes = codes_for(model, 1, 2600)
    whole, state = model.logits(codes), model.init_stream()
    pieces = [model.stream(codes[:, t : t + 1], state) for t in range(700)]
    pieces += [model.stream(codes[:, 700:2000], state), model.stream(codes[:, 2000:], state)]
    assert np.concatenate(pieces, axis=1).tobytes() == whole.tobytes()
    assert model.receptive_field == 2047
