"""Weights of a stream in fewer bytes: what rounding does to them, and that kernels compute with the rounded ones."""

import numpy as np
import pytest
from helpers import ops as h
from helpers import stacks as s

import wavedil as wd
from wavedil.errors import CheckpointError, ConfigError, DTypeError
from wavedil.kernels import storage
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases

by_kind = pytest.mark.parametrize("kind", storage.KINDS)


def outputs(arguments, settings, sizes=None, **options):
    """What comes out after each row, and the state, fed in pieces of these sizes."""
    inputs = s.fed(arguments)
    state, out = gated_stack.init_state(arguments["params"], len(inputs), **settings, **options), []
    for rows, condition in s.pieces(arguments, settings, sizes or [inputs.shape[1]]):
        out.append(gated_stack.step(rows, state, condition))
    return np.concatenate(out, axis=1), state


# ---- rounding --------------------------------------------------------------------------------------------------------
def test_float16_keeps_eleven_bits():
    w = np.random.default_rng(0).standard_normal((2, 30, 40)).astype(np.float32)
    assert np.abs(storage.rounded(w, "float16") / w - 1).max() <= 2.0**-11


def test_int8_is_off_by_half_a_step_of_its_output_channel():
    w = np.random.default_rng(0).standard_normal((2, 30, 40)).astype(np.float32)
    w[:, :, 3] *= 1000
    w[:, :, 5] = 0
    step = np.abs(w).max(axis=(0, 1)) / 127
    off = np.abs(storage.rounded(w, "int8") - w).max(axis=(0, 1))
    assert (off <= 0.5001 * step).all() and off[3] > 100 * off[4] and off[5] == 0
    assert np.array_equal(storage.rounded(storage.rounded(w, "int8"), "int8"), storage.rounded(w, "int8"))


@by_kind
def test_biases_and_the_embedding_stay_as_they_are(kind):
    params = cases.inputs(s.case_named("wide"), "float32")[0]["params"]
    rounded = storage.rounded_matrices(params, kind)
    for name, value in params.items():
        assert np.array_equal(rounded[name], value) != name.endswith("weight") or not value.any()


# ---- kernels ---------------------------------------------------------------------------------------------------------
@by_kind
@s.named(*map(str, s.CASES), "frames-linear", "kernel-sizes", "gate-as-skip", "three-stacks")
def test_logits_are_those_of_the_rounded_weights(case, kind):
    arguments, settings = cases.inputs(case, "float32")
    got, _ = outputs(arguments, settings, storage=kind)
    wide = s.to_float64(arguments | {"params": storage.rounded_matrices(arguments["params"], kind)})
    wanted, _ = outputs(wide, settings, backend="reference")
    assert h.relative_error(got, wanted) <= 2e-5
    # The kernels see each weight as it was rounded, and not as it was.
    same, _ = outputs(arguments | {"params": storage.rounded_matrices(arguments["params"], kind)}, settings)
    assert h.relative_error(got, same) <= 2e-6
    assert got.tobytes() != outputs(arguments, settings)[0].tobytes()


@by_kind
@pytest.mark.parametrize("name", ["kernel-3", "local", "global", "two-chunks-and-a-row", "twenty-blocks",
                                  "three-stacks", "frames-held"])
def test_any_split_gives_the_same_bits(name, kind):
    arguments, settings = cases.inputs(s.case_named(name), "float32")
    time = s.fed(arguments).shape[1]
    whole, _ = outputs(arguments, settings, storage=kind)
    for sizes in ([1] * min(time, 20) + [time - 20] * (time > 20), [time // 2, time - time // 2]):
        assert outputs(arguments, settings, sizes, storage=kind)[0].tobytes() == whole.tobytes()


@by_kind
@pytest.mark.parametrize("name", ["kernel-4", "above-past", "wide", "gate-as-skip", "kernel-sizes"])
def test_samples_do_not_depend_on_batch_or_threads_and_equal_greedy_logits(name, kind):
    arguments, settings = cases.inputs(s.case_named(name), "float32")

    def sampled(batch, threads=None, **options):
        state = gated_stack.init_state(arguments["params"], batch, **settings, storage=kind, threads=threads)
        return gated_stack.sample(np.zeros(batch, int), 30, state, **options)

    many = sampled(19, seed=3)
    for batch, threads in ((1, 1), (4, 2), (8, 2), (9, 1)):
        assert np.array_equal(sampled(batch, threads, seed=3), many[:batch])
    greedy = sampled(1, temperature=0)
    state = gated_stack.init_state(arguments["params"], 1, **settings, storage=kind)
    codes = np.concatenate([[[0]], greedy[:, :-1]], axis=1)
    assert np.array_equal(gated_stack.step(codes, state).argmax(axis=2), greedy)


@by_kind
def test_the_weights_take_a_half_or_a_quarter(kind):
    arguments, settings = cases.inputs(s.case_named("wide"), "float32")
    sizes = {k: outputs(arguments, settings, storage=k)[1].weight_bytes for k in (None, kind)}
    vectors = 4 * (256 * 64 + 2 * 2 * 64 + 64 + 256 + 64)
    share = (sizes[kind] - vectors) / (sizes[None] - vectors)
    assert share == pytest.approx({"float16": 0.5, "int8": 0.25}[kind], abs=0.03)


# ---- models ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def net():
    config = wd.WaveNetConfig(dilations=[1, 2, 4], residual_channels=16, dilation_channels=16, skip_channels=16,
                              end_channels=16)  # fmt: skip
    return wd.WaveNet(config, seed=1)


@by_kind
def test_a_model_streams_and_generates_with_stored_weights(net, kind, tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (1, 40))
    state = net.init_stream(storage=kind)
    first = net.stream(codes[:, :25], state)
    net.save_stream(state, tmp_path / "stream.safetensors")
    loaded = net.load_stream(tmp_path / "stream.safetensors")
    assert loaded.storage == state.storage == kind and loaded.weight_bytes == state.weight_bytes
    rest = [net.stream(codes[:, 25:], s) for s in (state.copy(), state, loaded)]
    assert rest[0].tobytes() == rest[1].tobytes() == rest[2].tobytes()
    exact = net.logits(codes)
    got = np.concatenate([first, rest[0]], axis=1)
    assert 0 < h.relative_error(got, exact) < {"float16": 2e-3, "int8": 5e-2}[kind]
    assert net.generate(10, storage=kind).shape == (1, 10)
    from wavedil import streaming

    heard = streaming.Predictor(net, storage=kind).process(np.zeros(7, np.float32))
    assert heard.audio.shape == (7,) and streaming.Generator(net, storage=kind).process(5).audio.shape == (5,)
    with pytest.raises(ConfigError, match="storage must be None with a state"):
        streaming.Predictor(net, state=state, storage=kind)


# ---- bad input -------------------------------------------------------------------------------------------------------
def test_what_cannot_be_stored(net, tmp_path):
    with pytest.raises(ConfigError, match="init_state: storage must be None, 'float16' or 'int8', got 'int4'"):
        net.init_stream(storage="int4")
    with pytest.raises(DTypeError, match="params must be float32 for storage='int8', got float64"):
        wd.WaveNet(net.config, dtype="float64").init_stream(storage="int8")
    large = wd.WaveNet(net.config)
    large.params["head.0.weight"][0, 0] = 1e5
    large.init_stream(storage="int8")
    with pytest.raises(ConfigError, match="head.0.weight must be finite for storage='float16', and it reaches 100000"):
        large.init_stream(storage="float16")
    for value in (np.nan, np.inf):
        large.params["head.0.weight"][0, 0] = value
        for kind in storage.KINDS:
            with pytest.raises(ConfigError, match="must be finite"):
                large.generate(1, storage=kind)


def test_a_stream_file_with_options_that_do_not_exist(net, tmp_path):
    from wavedil.parameters import files

    net.save_stream(net.init_stream(storage="int8"), tmp_path / "s.safetensors")
    tensors, about = files.read(tmp_path / "s.safetensors", "stream")
    for options in ({"storage": "int4"}, {"bits": 8}, "int8"):
        files.write(tmp_path / "t.safetensors", tensors, about | {"options": options})
        with pytest.raises(CheckpointError, match="options must be those of init_stream"):
            net.load_stream(tmp_path / "t.safetensors")
