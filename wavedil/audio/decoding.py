"""Files of clips as codes: decoded, measured, and cached on disk."""

import hashlib
import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedil.audio.files import blocks, rate_and_channels
from wavedil.errors import DataError
from wavedil.files import write_atomically

_CACHE_VERSION = 1  # part of every cache key; raise it when the same file would decode to other codes
_QUIET = 10 ** (-50 / 20)  # of full scale: -50 dB
_FRAME_SECONDS = 0.02


class Decoded(NamedTuple):
    """What one file holds."""

    codes: np.ndarray | None
    rate: int  # of the file, Hz
    channels: int
    silent: int  # samples in silent frames
    clipped: int


def decode(file, sample_rate, codec):
    """Decode one file."""
    info = {}
    parts = [codec.encode(part) for part in blocks(file, sample_rate, info)]
    codes = np.concatenate(parts) if parts else np.zeros(0, codec.dtype)
    if len(codes) == 0:
        raise DataError(f"{file}: no samples")
    return measure(codes, info["rate"], info["channels"], sample_rate, codec)


def measure(codes, rate, channels, sample_rate, codec):
    """Find what the audit tells. It is read off the codes, so that cached clips give the same figures."""
    lowest, below, above, highest = codec.encode([-1.0, -_QUIET, _QUIET, 1.0])
    frame = max(1, round(_FRAME_SECONDS * sample_rate))
    starts = np.arange(0, len(codes), frame)
    # A code that also stands for samples of -50 dB is loud: what is called silent is silent.
    loud = np.logical_or.reduceat((codes <= below) | (codes >= above), starts)
    silent = int(np.minimum(frame, len(codes) - starts)[~loud].sum())
    clipped = int(np.count_nonzero((codes == lowest) | (codes == highest)))
    return Decoded(codes, rate, channels, silent, clipped)


def decode_all(files, sample_rate, cache):
    """Yield of each file, in order, what it holds, from the cache if it is there, or why it cannot be used."""

    def try_decode(file):
        try:
            codes = cache.load(cache.place(file))
            if codes is None:
                return decode(file, sample_rate, cache.codec)
            return measure(codes, *rate_and_channels(file), sample_rate, cache.codec)
        except DataError as error:
            return str(error).removeprefix(f"{file}: ")

    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        yield from _in_order(pool, try_decode, files, 2 * workers)


def _in_order(pool, function, items, ahead):
    """Yield function(item) in order, with at most `ahead` results in the making or waiting."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


class Cache:
    """Decides where codes lie: in memory up to `limit` bytes, then one .npy a clip on disk."""

    def __init__(self, folder, limit, sample_rate, codec):
        if folder is None:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wavedil")
        self._folder, self._limit = Path(folder), limit
        self._sample_rate, self.codec = sample_rate, codec
        self._in_memory = 0
        self._broken = None
        self.notes = []

    def place(self, file):
        """Return where the codes of a file belong. A changed file has another place; so has another rate or codec."""
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be opened ({error.strerror})") from error
        of_file = f"{file.absolute()}\n{stat.st_mtime_ns}\n{stat.st_size}"
        key = f"{_CACHE_VERSION}\n{of_file}\n{self._sample_rate}\n{self.codec.name}"
        return self._folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npy"

    def keep(self, file, codes):
        """Return (codes, None) where they stay in memory, or (None, place) where they lie on disk."""
        if self._in_memory + codes.nbytes > self._limit and self._broken is None:
            try:
                place = self.place(file)
                if not isinstance(codes, np.memmap):
                    self._folder.mkdir(parents=True, exist_ok=True)
                    store(place, codes)
                return None, place
            except OSError as error:
                self._broken = error.strerror or str(error)
                self.notes.append(
                    f"the cache folder {self._folder} cannot be written ({self._broken}): "
                    "codes beyond cache_limit stay in memory"
                )
        self._in_memory += codes.nbytes
        # Without a disk, twice the limit is the most: a program that the system kills says nothing.
        if self._in_memory > 2 * self._limit:
            raise DataError(
                f"the codes need more than cache_limit={self._limit} bytes, and the cache folder {self._folder} cannot "
                f"be written ({self._broken}): free some disk, name another cache_dir or raise cache_limit"
            )
        return np.array(codes), None

    def load(self, place):
        """Map the codes of a cached clip, or return None if they are not there or damaged."""
        try:
            codes = np.load(place, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return codes if codes.dtype == self.codec.dtype and codes.ndim == 1 and len(codes) else None


def store(place, codes):
    """Write codes as .npy: wholly or not at all."""
    whole = io.BytesIO()
    np.save(whole, codes)
    write_atomically(place, whole.getbuffer(), durable=False)
