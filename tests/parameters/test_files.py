"""Checkpoint files: round trip, the same bytes each time, atomic replacement, and every kind of bad file."""

import errno
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from wavedil.errors import CheckpointError
from wavedil.parameters import files

RNG = np.random.default_rng(0)
TENSORS = {
    "b.weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "a.bias": RNG.normal(size=(5,)),
    "scalar": np.float32(2.5),
    "steps": np.arange(6, dtype=np.int64).reshape(2, 3).T,
}
METADATA = {"kind": "model", "config": {"name": "µ", "dilations": [1, 2]}, "random": str(2**127 + 1), "best": None}


def full_disk(file, data):
    file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    files.write(path, TENSORS, METADATA)
    tensors, metadata = files.read(path, "model")
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype and tensors[name].shape == np.shape(value)
        assert np.array_equal(tensors[name], value)
        assert tensors[name].flags.writeable
    assert metadata == {**METADATA, "format": 1, "library": files.library_version()}
    assert files.read_metadata(path) == metadata
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_opens_in_plain_safetensors_with_one_key(tmp_path):
    files.write(tmp_path / "x", TENSORS, METADATA)
    assert np.array_equal(safetensors.numpy.load_file(tmp_path / "x")["a.bias"], TENSORS["a.bias"])
    with safetensors.safe_open(tmp_path / "x", "numpy") as file:
        assert list(file.metadata()) == ["wavedil"]
        assert json.loads(file.metadata()["wavedil"])["random"] == METADATA["random"]


def test_the_same_contents_give_the_same_bytes(tmp_path):
    files.write(tmp_path / "a", TENSORS, METADATA)
    files.write(tmp_path / "b", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_metadata_is_read_as_json_sees_it(tmp_path):
    files.write(tmp_path / "x", {}, {"a": {10: (1, 2), 9: 0.1}})
    assert files.read(tmp_path / "x")[1]["a"] == {"10": [1, 2], "9": 0.1}


def test_a_full_disk_leaves_the_previous_file(tmp_path):
    path = tmp_path / "x"
    files.write(path, TENSORS, METADATA)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"x: cannot be written: No space left on device"):
        files.write(path, {"other": np.zeros(99)}, {}, writer=full_disk)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_previous_file_and_sweep_removes_the_rest(tmp_path):
    path = tmp_path / "x"
    files.write(path, TENSORS, METADATA)
    before = path.read_bytes()
    program = (
        "import os, sys, numpy as np\n"
        "from wavedil.parameters import files\n"
        "def half(file, data):\n"
        "    file.write(data[: len(data) // 2]); file.flush(); os._exit(9)\n"
        "files.write(sys.argv[1], {'other': np.zeros(99)}, {}, writer=half)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], env={"PYTHONPATH": ":".join(sys.path)})
    assert killed.returncode == 9
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    files.sweep(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_the_previous_file(tmp_path):
    def interrupted(file, data):
        file.write(data[:5])
        raise KeyboardInterrupt

    path = tmp_path / "x"
    files.write(path, TENSORS, METADATA)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        files.write(path, {}, {}, writer=interrupted)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_below_a_regular_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        files.write(tmp_path / "file" / "below" / "x", TENSORS, METADATA)


def test_metadata_must_be_finite_json(tmp_path):
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(CheckpointError, match="finite JSON"):
            files.write(tmp_path / "x", TENSORS, bad)
    assert not (tmp_path / "x").exists()


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a safetensors file"),
        (header(b'{"__metadata__":{"wavedil":"{"}}'), "metadata is damaged"),
        (header(b'{"__metadata__":{"wavedil":"[]"}}'), "metadata is damaged"),
        (header(b'{"__metadata__":{"wavedil":"{}"}}'), "metadata is damaged"),
        (header(b'{"__metadata__":{"wavedil":"{\\"format\\":2,\\"checksum\\":0}"}}'), "expected format 1, got 2"),
        (header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"), "without its metadata"),
        (header(b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"12"), "without its metadata"),
    ],
)
def test_foreign_files(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        files.read(tmp_path / "x")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        files.read(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is a folder"):
        files.read(tmp_path)


def test_another_kind_of_file(tmp_path):
    files.write(tmp_path / "x", TENSORS, METADATA)
    with pytest.raises(CheckpointError, match="expected a trainer file, got 'model'"):
        files.read(tmp_path / "x", "trainer")


def test_every_truncation_and_flipped_bit_is_seen(tmp_path):
    path = tmp_path / "x"
    files.write(path, {"w": np.arange(4, dtype=np.float32)}, {"kind": "model", "step": 17})
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError):
            files.read(path)
    harmless = 0
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 4]) + good[i + 1 :])
        try:
            tensors, metadata = files.read(path)
        except CheckpointError:
            continue
        harmless += 1  # white space in the header, at most
        assert np.array_equal(tensors["w"], np.arange(4)) and metadata["step"] == 17
    assert harmless < 10
