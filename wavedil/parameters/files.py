"""Checkpoint files: safetensors with one JSON metadata key, written so that a kill at any moment loses nothing.

Under its name there is always a whole file, the old one or the new one: see `wavedil.files`. A checksum in the metadata
tells a damaged file from a good one, which the safetensors format by itself does not.
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from wavedil.errors import CheckpointError
from wavedil.files import sweep, write_atomically
from wavedil.ops.contract import on_host

FORMAT = 1
KEY = "wavedil"

__all__ = ["FORMAT", "KEY", "library_version", "read", "read_metadata", "sweep", "write", "write_bytes"]


def write(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping,
    writer: Callable | None = None,
) -> None:
    """Write arrays and metadata to one safetensors file, atomically.

    Parameters
    ----------
    path : path-like
        The file; missing folders above it are made.
    tensors : mapping of str to array
        Those on a device are copied to the host; where they were is not written, so files move freely.
    metadata : mapping
        Anything JSON can hold (finite numbers only). ``format``, ``library`` and ``checksum`` are added. By
        convention ``kind`` says what the file is: ``"model"`` or ``"trainer"``.
    writer : callable, optional
        ``writer(file, data)`` puts the bytes into the open file; the default is ``file.write(data)``.

    Raises
    ------
    CheckpointError
        The file cannot be written (full disk, impossible folder). What was there before is untouched.
    """
    arrays = {name: np.asarray(on_host(value), order="C") for name, value in tensors.items()}
    try:
        # There and back, so that the checksum is taken over what a reader will see (string keys, lists).
        about = json.loads(json.dumps({**metadata, "format": FORMAT, "library": library_version()}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: metadata must be finite JSON values: {error}") from error
    about["checksum"] = _checksum(arrays, about)
    text = json.dumps(about, sort_keys=True)
    write_bytes(path, safetensors.numpy.save(arrays, {KEY: text}), writer)


def read(path: str | os.PathLike, kind: str | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """Read a file that `write` made.

    Parameters
    ----------
    path : path-like
    kind : str, optional
        What the file must be, compared with ``metadata["kind"]``.

    Returns
    -------
    tensors : dict of str to ndarray
        Fresh arrays.
    metadata : dict

    Raises
    ------
    CheckpointError
        No such file; not safetensors; not written by wavedil, or by a newer format; damaged; of another kind.
    """
    return _read(path, kind, with_tensors=True)


def read_metadata(path: str | os.PathLike, kind: str | None = None) -> dict:
    """Read only the metadata (so the checksum over the arrays is not verified); errors as in `read`."""
    return _read(path, kind, with_tensors=False)[1]


def write_bytes(path: str | os.PathLike, data: bytes, writer: Callable | None = None) -> None:
    """Put bytes under a path atomically (`wavedil.files.write_atomically`); missing folders above it are made.

    Raises
    ------
    CheckpointError
        The operating system refused. What was there before is untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, writer=writer)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def library_version() -> str:
    """Return the installed version of wavedil, or "unknown" when it runs uninstalled."""
    try:
        return version("wavedil")
    except PackageNotFoundError:
        return "unknown"


def _read(path, kind, with_tensors: bool) -> tuple[dict[str, np.ndarray], dict]:
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}")
    tensors = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise CheckpointError(
                    f"{path}: expected a file that wavedil wrote, got safetensors without its metadata"
                )
            if with_tensors:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one: {error}") from error
    try:
        about = json.loads(text)
        form = about["format"]
        checksum = about.pop("checksum")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: the wavedil metadata is damaged: {error!r}") from error
    if form != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT}, got {form!r} (wavedil {about.get('library')})")
    if with_tensors and checksum != _checksum(tensors, about):
        raise CheckpointError(f"{path}: damaged: the checksum does not match the contents")
    if kind is not None and about.get("kind") != kind:
        raise CheckpointError(f"{path}: expected a {kind} file, got {about.get('kind')!r}")
    return tensors, about


def _checksum(arrays: Mapping[str, np.ndarray], about: Mapping) -> int:
    """CRC-32 over the metadata and every array with its name, dtype and shape."""
    crc = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data if array.size else b"", crc)
    return crc
