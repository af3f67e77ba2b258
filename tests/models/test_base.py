"""What configs and models share, on a small config of its own."""

import dataclasses
import inspect

import numpy as np
import pytest

from wavedil.errors import ConfigError, ShapeError
from wavedil.models.base import Config, Model, checked_dataclass


@checked_dataclass
class Sizes(Config):
    """Sizes of a test."""

    widths: tuple[int, ...]
    channels: int = 4
    classes: int = 0
    sample_rate: int | None = None
    biased: bool = True

    def __post_init__(self):
        self._set("widths", tuple(self.widths))
        self._check_plain_fields(classes=0)


@checked_dataclass
class Outer(Config):
    """A config inside another."""

    inner: Sizes
    count: int = 1


class Net(Model):
    """Two arrays and nothing else."""

    def __init__(self):
        self._set_up(Sizes([1]), {"weight": (2, 3), "bias": (3,)}, "float64", "cpu", 1)


@pytest.mark.parametrize("make", [lambda values: Sizes(**values), Sizes.from_dict])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": [1], "chanels": 3}, "Sizes: unknown key 'chanels'; did you mean 'channels'"),
        ({"widths": [1], "zzz": 3}, "Sizes: unknown key 'zzz'; known are widths, channels, classes"),
        ({"channels": 3}, "Sizes: widths must be given"),
        ({"widths": [1], "channels": 0}, "Sizes: channels must be at least 1, got 0"),
        ({"widths": [1], "classes": -1}, "Sizes: classes must be at least 0, got -1"),
        ({"widths": [1], "sample_rate": 0}, "Sizes: sample_rate must be at least 1, got 0"),
        ({"widths": [1], "channels": True}, "Sizes: channels must be an integer, got True"),
        ({"widths": [1], "biased": 1}, "Sizes: biased must be True or False, got 1"),
    ],
)
def test_a_wrong_key_or_value_is_told_by_the_constructor_and_by_from_dict(make, values, message):
    with pytest.raises(ConfigError, match=message):
        make(values)


def test_what_is_no_table_or_has_a_key_that_is_no_text_is_no_config():
    with pytest.raises(ConfigError, match="Sizes: a config must be a table of keys, got None"):
        Sizes.from_dict(None)
    with pytest.raises(ConfigError, match="Sizes: unknown key 7"):
        Sizes.from_dict({"widths": [1], 7: 3})


def test_integers_of_numpy_become_those_of_python():
    sizes = Sizes([1], channels=np.int64(3), sample_rate=np.int32(8000))
    assert type(sizes.channels) is int and type(sizes.sample_rate) is int


def test_a_config_goes_to_plain_types_and_back_also_inside_another():
    outer = Outer(Sizes((1, 2), sample_rate=8000), 3)
    plain = outer.to_dict()
    assert plain["inner"]["widths"] == [1, 2] and list(plain) == ["inner", "count"]
    assert Outer.from_dict(plain) == outer


def test_a_config_is_a_frozen_dataclass_whose_signature_shows():
    sizes = Sizes([1])
    assert list(inspect.signature(Sizes).parameters) == ["widths", "channels", "classes", "sample_rate", "biased"]
    assert dataclasses.replace(sizes, channels=9).channels == 9 and sizes == Sizes((1,)) and hash(sizes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sizes.channels = 3


def test_fresh_gradients_are_zeros_for_what_is_needed_alone():
    net = Net()
    grads = net._grads("loss_and_grads", None, net._needs("loss_and_grads", ["bias"]))
    assert list(grads) == ["bias"] and grads["bias"].dtype == np.float64 and not grads["bias"].any()
    assert net._needs("loss_and_grads", None) == ["weight", "bias"]
    assert net._grads("loss_and_grads", None, []) == {}


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("bias", "Net.loss_and_grads: needs must be a collection of names, got 'bias'"),
        (["bais"], "Net.loss_and_grads: needs must name parameters, such as 'bias', got 'bais'"),
        (3, "Net.loss_and_grads: needs must be a collection of names, got 3"),
    ],
)
def test_wrong_needs(needs, message):
    with pytest.raises(ConfigError, match=message):
        Net()._needs("loss_and_grads", needs)


def test_gradients_are_added_where_the_shape_fits():
    net = Net()
    into = {"bias": np.zeros(3)}
    assert net._grads("loss_and_grads", into, ["bias"]) is into
    with pytest.raises(ConfigError, match="Net.loss_and_grads: into must have an array for weight, got none"):
        net._grads("loss_and_grads", into, ["weight"])
    with pytest.raises(ShapeError, match=r"into\['bias'\] must be \(3,\), got \(4,\)"):
        net._grads("loss_and_grads", {"bias": np.zeros(4)}, ["bias"])
