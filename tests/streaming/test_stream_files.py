"""A stream's state in a file: it goes on where it was, and only through the model it belongs to."""

import numpy as np
import pytest

import wavedil as wd
from wavedil.errors import CheckpointError
from wavedil.parameters import files


def model(dtype="float32", **changes):
    config = {"dilations": [1, 2, 130, 1], "kernel_size": 3, "residual_channels": 20, **changes}
    return wd.WaveNet(wd.WaveNetConfig(**config), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cut", [1, 95, 333, 611])
def test_a_saved_stream_goes_on_bit_for_bit(tmp_path, dtype, cut):
    net = model(dtype)
    codes = np.random.default_rng(0).integers(0, 256, (2, 700))
    whole = net.logits(codes)
    state = net.init_stream(2)
    net.stream(codes[:, :cut], state)
    net.save_stream(state, tmp_path / "s.safetensors")
    loaded = net.load_stream(tmp_path / "s.safetensors")
    assert loaded.time == cut
    np.testing.assert_array_equal(net.stream(codes[:, cut:], loaded), whole[:, cut:])


def test_pointwise_convolutions_have_no_past(tmp_path):
    net = model(dilations=[1, 1], kernel_size=1)
    state = net.init_stream()
    net.stream(np.zeros((1, 5), int), state)
    net.save_stream(state, tmp_path / "s.safetensors")
    assert net.load_stream(tmp_path / "s.safetensors").time == 5


def test_a_stream_keeps_the_parameters_it_was_made_with():
    net = model()
    codes = np.random.default_rng(0).integers(0, 256, (1, 40))
    before = net.logits(codes)
    state = net.init_stream()
    net.params.flat[:] *= 1.5
    np.testing.assert_array_equal(net.stream(codes, state), before)


def test_streams_of_other_models_are_refused(tmp_path):
    net = model()
    net.save_stream(net.init_stream(), tmp_path / "s.safetensors")
    net.params["head.0.bias"][0] += 1
    with pytest.raises(CheckpointError, match="params_checksum differs"):
        net.load_stream(tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="config differs"):
        model(residual_channels=16).load_stream(tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError):
        net.save(tmp_path / "m.safetensors")
        net.load_stream(tmp_path / "m.safetensors")


def test_a_stream_is_saved_with_the_weights_it_ran_through(tmp_path):
    net = model()
    state = net.init_stream()
    net.params.flat[:] *= 1.5
    net.save_stream(state, tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="params_checksum differs"):
        net.load_stream(tmp_path / "s.safetensors")


def test_only_ratios_of_weights_count():
    net = model()
    codes = np.random.default_rng(0).integers(0, 256, (1, 40))
    for weight in (1e-42, 1e38):
        weights = np.full((1, 39), weight, np.float32)
        assert net.loss(codes, weights) == pytest.approx(net.loss(codes), rel=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors, about: tensors.pop("blocks.1.history"), r"blocks.1.history must be \(1, 4, 20\) float32"),
        (lambda tensors, about: tensors.update({"blocks.2.history": np.zeros((1, 1, 20))}), "blocks.2.history must be"),
        (lambda tensors, about: about.pop("batch"), "batch must be an integer from 1 up, got None"),
        (lambda tensors, about: about.update(time=-1), "time must be an integer from 0 up, got -1"),
    ],
)
def test_damaged_streams_are_refused(tmp_path, damage, message):
    net, path = model(), tmp_path / "s.safetensors"
    net.save_stream(net.init_stream(), path)
    tensors, about = files.read(path, "stream")
    damage(tensors, about)
    files.write(path, tensors, about)
    with pytest.raises(CheckpointError, match=message):
        net.load_stream(path)
