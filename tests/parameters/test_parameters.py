"""Parameters: layout of the flat buffer, views, and strict loading."""

import copy

import numpy as np
import pytest

from wavedil.errors import CheckpointError, ConfigError, DTypeError, ShapeError
from wavedil.parameters.store import Parameters

SHAPES = {"a.weight": (3, 5, 7), "a.bias": (7,), "scale": (), "b.weight": (16, 16)}


def filled(dtype="float32"):
    p = Parameters(SHAPES, dtype)
    rng = np.random.default_rng(0)
    for view in p.values():
        view[...] = rng.normal(size=view.shape) + 10
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_view_starts_on_64_bytes_and_lies_in_flat(dtype):
    p = Parameters(SHAPES, dtype)
    for name, view in p.items():
        assert view.ctypes.data % 64 == 0
        assert view.shape == SHAPES[name] and view.dtype == np.dtype(dtype)
        assert view.flags.c_contiguous and np.shares_memory(view, p.flat)
        assert view.ctypes.data - p.flat.ctypes.data == p.offsets[name] * p.dtype.itemsize
    assert p.count == 105 + 7 + 1 + 256
    assert list(p) == list(SHAPES) and len(p) == 4 and p.shapes == SHAPES


def test_views_are_disjoint_and_padding_stays_zero():
    p = filled()
    mask = p.element_mask()
    assert mask.sum() == p.count and mask.size == p.flat.size
    assert np.all(p.flat[mask] != 0) and np.all(p.flat[~mask] == 0)
    assert not mask.all()
    norm = np.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in p.values()))
    assert np.linalg.norm(p.flat.astype(np.float64)) == pytest.approx(norm, rel=1e-12)


def test_copies_share_nothing():
    p = filled()
    zeros = p.like()
    assert zeros.offsets == p.offsets and zeros.dtype == p.dtype and not zeros.flat.any()
    for other in (p.copy(), copy.copy(p), copy.deepcopy(p)):
        assert np.array_equal(other.flat, p.flat)
        other["scale"][...] = -1
        assert other.flat[other.offsets["scale"]] == -1
        assert p["scale"] != -1


def test_items_cannot_be_replaced():
    p = filled()
    with pytest.raises(TypeError, match=r"p\['scale'\]\[\.\.\.\]"):
        p["scale"] = np.float32(3)
    before = p["a.bias"].copy()
    p["a.bias"] += 1
    assert np.array_equal(p["a.bias"], before + 1) and np.shares_memory(p["a.bias"], p.flat)


def test_load_copies_values():
    source, target = filled(), Parameters(SHAPES)
    target.load({name: np.array(view) for name, view in reversed(list(source.items()))})
    assert np.array_equal(source.flat, target.flat) and not np.shares_memory(source.flat, target.flat)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scale": None}, CheckpointError, "missing: scale"),
        ({"extra": np.zeros(3, np.float32)}, CheckpointError, "unknown: extra"),
        ({"a.bias": np.zeros(8, np.float32)}, ShapeError, r"a\.bias must be \(7,\), got \(8,\)"),
        ({"a.bias": np.zeros(7)}, DTypeError, r"a\.bias must be float32, got float64"),
    ],
)
def test_load_is_strict_and_changes_nothing_on_failure(change, error, words):
    arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()} | change
    arrays = {name: value for name, value in arrays.items() if value is not None}
    p = filled()
    before = p.flat.copy()
    with pytest.raises(error, match=words):
        p.load(arrays)
    assert np.array_equal(p.flat, before)


@pytest.mark.parametrize(
    ("shapes", "dtype", "error"),
    [
        ({}, "float32", ConfigError),
        ({"": (1,)}, "float32", ConfigError),
        ({3: (1,)}, "float32", ConfigError),
        ({"a": (0,)}, "float32", ShapeError),
        ({"a": (2, -1)}, "float32", ShapeError),
        ({"a": (2.5,)}, "float32", ShapeError),
        ({"a": 3}, "float32", ShapeError),
        ({"a": (1,)}, "float16", DTypeError),
        ({"a": (1,)}, "int32", DTypeError),
    ],
)
def test_bad_layouts_are_refused(shapes, dtype, error):
    with pytest.raises(error, match="Parameters"):
        Parameters(shapes, dtype)


def test_what_is_not_strict_copies_what_fits_and_tells_the_rest():
    arrays = {name: np.full(shape, 5, np.float32) for name, shape in SHAPES.items() if name != "scale"}
    arrays |= {"a.bias": np.zeros(8, np.float32), "extra": np.zeros(2)}
    p = filled()
    before = p.copy()
    report = p.load(arrays, strict=False)
    assert report.missing == ("scale",) and report.unexpected == ("extra",)
    assert report.mismatched == (("a.bias", (7,), (8,)),)
    assert set(report.loaded) == set(SHAPES) - {"scale", "a.bias"}
    for name in SHAPES:
        assert np.array_equal(p[name], np.full_like(p[name], 5) if name in report.loaded else before[name])
    p.load({"a.bias": np.zeros(7, np.float32)}, only="a.bias")
    assert not p["a.bias"].any()
