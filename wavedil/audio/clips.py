"""Folders of clips: an audit, a split into training and validation, random windows. Codes are uint8, cached."""

import contextlib
import hashlib
import io
import json
import os
from collections import Counter, deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedil.audio.files import AUDIO_EXTENSIONS, blocks, check_rate, rate_and_channels, write_whole
from wavedil.audio.mulaw import SILENCE, mulaw_encode
from wavedil.errors import ConfigError, DataError

BUNDLED = Path(__file__).with_name("bundled")
CACHE_LIMIT = 512 << 20
_CACHE_VERSION = 1  # part of every cache key; raise it when the same file would decode to other codes
_QUIET = 13  # codes this near to 127.5 are below -50 dB of full scale
_FRAME_SECONDS = 0.02


class _Clip(NamedTuple):
    """One usable clip; its codes are either in memory (`codes`) or on disk (`cached`)."""

    name: str  # path below the folder, with forward slashes
    path: Path
    length: int
    speaker: str | int | None
    codes: np.ndarray | None
    cached: Path | None


class _Decoded(NamedTuple):
    """What one file holds."""

    codes: np.ndarray | None
    rate: int  # of the file, Hz
    channels: int
    silent: int  # samples in silent frames
    clipped: int


@dataclass(frozen=True)
class Audit:
    """What a folder of clips holds, found by decoding all of it.

    Attributes
    ----------
    path : str
    sample_rate : int
        Hz, of the codes.
    clips, train_clips, validation_clips : int
        Usable clips, and how they are split.
    seconds, train_seconds, validation_seconds : float
    shortest, longest : float
        Seconds of the shortest and longest clip.
    rates : dict of int to int
        Sample rate of the files in Hz -> number of clips.
    resampled, mixed : int
        Clips that had another rate; clips with several channels, averaged to one.
    silent : float
        Share of the samples in frames of 20 ms whose every sample is below -50 dB of full scale.
    clipped : float
        Share of the samples in the outermost codes, 0 and 255 (0.98 of full scale and beyond).
    skipped : tuple of (str, str)
        Files that could not be used, each with the reason.
    speakers : tuple of str
    memory_bytes, disk_bytes : int
        Where the codes lie.
    notes : tuple of str
        What else a person should know.
    """

    path: str
    sample_rate: int
    clips: int
    train_clips: int
    validation_clips: int
    seconds: float
    train_seconds: float
    validation_seconds: float
    shortest: float
    longest: float
    rates: dict[int, int]
    resampled: int
    mixed: int
    silent: float
    clipped: float
    skipped: tuple[tuple[str, str], ...]
    speakers: tuple[str, ...]
    memory_bytes: int
    disk_bytes: int
    notes: tuple[str, ...]

    def lines(self, most_skipped=5):
        """Return the audit as lines of plain text for a person; at most `most_skipped` skipped files are named."""
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(self.rates.items()))
        spread = f"each {self.shortest:.2f} to {self.longest:.2f} s"
        out = [
            f"{self.clips} clips, {_duration(self.seconds)}, {spread}: {self.path}",
            f"training {self.train_clips} clips, {_duration(self.train_seconds)}; "
            f"validation {self.validation_clips} clips, {_duration(self.validation_seconds)}",
            f"rates found: {rates}; {self.resampled} resampled to {self.sample_rate} Hz, {self.mixed} mixed to mono",
            f"silent {100 * self.silent:.1f}% (20 ms frames below -50 dB), clipped {100 * self.clipped:.2f}%",
        ]
        if self.speakers:
            out.append(f"{len(self.speakers)} speakers: {', '.join(self.speakers)}")
        if self.disk_bytes:
            memory, disk = self.memory_bytes / 2**20, self.disk_bytes / 2**20
            out.append(f"codes: {memory:.1f} MiB in memory, {disk:.1f} MiB on disk")
        if self.skipped:
            out.append(f"skipped {len(self.skipped)} files:")
            out += [f"  {name}: {reason}" for name, reason in self.skipped[:most_skipped]]
            if len(self.skipped) > most_skipped:
                out.append(f"  and {len(self.skipped) - most_skipped} more")
        return out + list(self.notes)


class _Clips(Sequence):
    """(name, codes, speaker) of each clip; codes on disk are mapped when asked for, so that any number will do."""

    def __init__(self, folder, clips):
        self._folder, self._clips = folder, clips

    def __len__(self):
        return len(self._clips)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        clip = self._clips[index]
        return clip.name, self._folder._codes(clip), clip.speaker


def whole_clips(clips, batch, window):
    """Yield the arguments of a model's ``loss`` for clips, each one whole and once, and the number of samples in them.

    A clip is scored from silence on, so that each of its samples is predicted, with all of its past. Clips of like
    length come together, padded at the end with weight 0.

    Parameters
    ----------
    clips : iterable of (name, 1-D codes, speaker id or None)
    batch, window : int
        Of the training: at most ``batch`` clips come together, and no more samples than eight batches have, unless a
        single clip is longer.
    """
    clips = [clip for clip in clips if len(clip[1])]
    clips.sort(key=lambda clip: len(clip[1]))
    while clips:
        longest = len(clips[-1][1])
        size = min(len(clips), max(1, 8 * batch * window // longest), batch)
        group = clips[-size:]
        del clips[-size:]
        codes = np.full((size, longest + 1), SILENCE, dtype=group[-1][1].dtype)
        weights = np.zeros((size, longest), dtype=np.float32)
        for row, (_, clip, _) in enumerate(group):
            codes[row, 1 : len(clip) + 1] = clip
            weights[row, : len(clip)] = 1
        arguments = codes, weights
        if group[0][2] is not None:
            arguments += ({"speaker": np.array([speaker for _, _, speaker in group], dtype=np.int64)},)
        yield arguments, np.count_nonzero(weights)


class ClipFolder:
    """All audio below a folder as mu-law codes, split into training and validation, served as random windows.

    Every file is decoded once at the start, which gives the `audit`; a file that cannot be used is skipped and counted
    there. Codes are held in memory up to `cache_limit` bytes and on disk beyond, memory-mapped, so a set may be larger
    than the memory.

    Every clip is seen as ``[128, c[0], ..., c[n-1]]``, 128 being silence: so its first sample is predicted too.

    Parameters
    ----------
    path : str or path
        Searched recursively, links followed, for the extensions that soundfile reads.
    sample_rate : int, default 8000
        Hz; files of another rate are resampled with soxr, several channels averaged.
    validation : float or collection of str, default 0.1
        Chance of a clip to be held out, decided by a hash of `seed` and its path below the folder: adding clips moves
        no other. Of two or more clips at least one is held out and at least one is not. Or the very paths to hold out,
        below the folder and with forward slashes. 0 holds out nothing.
    seed : int, default 0
        Of the split. Windows are drawn with the generator given to `batch`.
    speakers : None or "folders", default None
        "folders": the first folder below `path` names the speaker, and batches carry speaker ids.
    cache_limit : int, default 512 MiB
        Bytes (and samples) to hold in memory.
    cache_dir : str or path, optional
        Where codes beyond it go; default ``$XDG_CACHE_HOME/wavedil`` or ``~/.cache/wavedil``. May be deleted any time.

    Attributes
    ----------
    audit : Audit
    sample_rate : int
        Hz.
    speakers : tuple of str
        Names in the order of the ids; empty without ``speakers="folders"``.

    Raises
    ------
    DataError
        If the path is no folder, holds no audio or no usable clip; if a path in `validation` is not among the clips.
    ConfigError
        If an argument has an impossible value.
    """

    def __init__(
        self,
        path,
        sample_rate=8000,
        *,
        validation=0.1,
        seed=0,
        speakers=None,
        cache_limit=CACHE_LIMIT,
        cache_dir=None,
    ):
        self.path = Path(path)
        self.sample_rate = check_rate(sample_rate, "ClipFolder")
        if speakers not in (None, "folders"):
            raise ConfigError(f'ClipFolder: speakers must be None or "folders", got {speakers!r}')
        if isinstance(cache_limit, bool) or not isinstance(cache_limit, (int, np.integer)) or cache_limit < 0:
            raise ConfigError(f"ClipFolder: cache_limit must be a number of bytes, 0 or more, got {cache_limit!r}")
        _check_validation(validation)
        self._cache = _Cache(cache_dir, int(cache_limit), self.sample_rate)
        files, skipped = _find(self.path)
        names = [file.relative_to(self.path).as_posix() for file in files]
        of_speaker = _speaker_names(names, self.path) if speakers else {}

        clips, facts = [], []
        workers = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            results = _in_order(pool, lambda file: _try_decode(file, self.sample_rate, self._cache), files, 2 * workers)
            for name, file, result in zip(names, files, results, strict=True):
                if isinstance(result, str):
                    skipped.append((name, result))
                    continue
                codes, cached = self._cache.keep(file, result.codes)
                clips.append(_Clip(name, file, len(result.codes), of_speaker.get(name), codes, cached))
                facts.append(result._replace(codes=None))
        if not clips:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise DataError(f"{self.path}: none of {len(files)} audio files can be used ({reasons})")
        # Only speakers with a usable clip count, so the ids have no holes.
        self.speakers = tuple(sorted({clip.speaker for clip in clips})) if speakers else ()
        ids = {name: i for i, name in enumerate(self.speakers)}
        clips = [clip._replace(speaker=ids.get(clip.speaker)) for clip in clips]

        held = _split(clips, validation, seed, self.path)
        self._train = [clip for clip in clips if clip.name not in held]
        self._validation = [clip for clip in clips if clip.name in held]
        self._lengths = np.array([clip.length for clip in self._train], dtype=np.int64)
        self._ends = {}  # window -> running sum of the clips' weights
        self.audit = self._audit(clips, facts, skipped)

    def batch(self, rng, batch, window):
        """Draw random windows of the training clips.

        A clip is drawn with a chance in proportion to max(its samples, window), then a window within it, all positions
        alike: so every sample of the set is about equally often predicted, short clips or long ones. A clip shorter
        than the window comes whole; the rest is padding, with weight 0.

        Parameters
        ----------
        rng : numpy.random.Generator
            The same state gives the same batch.
        batch : int
            Number of windows B.
        window : int
            Predicted samples in each, T.

        Returns
        -------
        codes : numpy.ndarray of uint8, shape (B, T + 1)
            ``codes[:, t]`` is the input and ``codes[:, t + 1]`` the target of sample t.
        weights : numpy.ndarray of float32, shape (B, T)
            1 for a sample of a clip, 0 for padding.
        dict, only with speakers
            ``{"speaker": ids}``, int64 (B,).
        """
        if batch < 1 or window < 1:
            raise ConfigError(f"ClipFolder.batch: batch and window must be 1 or more, got {batch} and {window}")
        if window not in self._ends:
            self._ends[window] = np.cumsum(np.maximum(self._lengths, window))
        ends = self._ends[window]
        chosen = np.searchsorted(ends, rng.integers(ends[-1], size=batch), side="right")
        starts = rng.integers(np.maximum(self._lengths[chosen] - window, 0) + 1)
        codes = np.full((batch, window + 1), SILENCE, dtype=np.uint8)
        weights = np.zeros((batch, window), dtype=np.float32)
        for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            # Sample `start` is the first target; its input is the sample before, or silence before the clip.
            clip = self._codes(self._train[index])
            end = min(start + window, len(clip))
            if start:
                codes[row, 0] = clip[start - 1]
            codes[row, 1 : end - start + 1] = clip[start:end]
            weights[row, : end - start] = 1.0
        if not self.speakers:
            return codes, weights
        ids = np.array([self._train[index].speaker for index in chosen], dtype=np.int64)
        return codes, weights, {"speaker": ids}

    def train_clips(self):
        """Return a sequence of (path below the folder, 1-D uint8 codes, speaker id or None) of the training clips."""
        return _Clips(self, self._train)

    def validation_clips(self):
        """Return a sequence of (path below the folder, 1-D uint8 codes, speaker id or None) of the held-out clips."""
        return _Clips(self, self._validation)

    def validation_batches(self, batch, window):
        """Yield the arguments of a model's ``loss`` and the number of samples that they score: whole held-out clips."""
        return whole_clips(self.validation_clips(), batch, window)

    def _codes(self, clip):
        if clip.codes is not None:
            return clip.codes
        codes = _load(clip.cached)
        if codes is None:  # somebody deleted the cache while the program runs
            codes = _decode(clip.path, self.sample_rate).codes
            with contextlib.suppress(OSError):
                _store(clip.cached, codes)
        if len(codes) != clip.length:
            raise DataError(f"{clip.path}: changed while in use, had {clip.length} samples, now {len(codes)}")
        return codes

    def _audit(self, clips, facts, skipped):
        def seconds(of):
            return sum(clip.length for clip in of) / self.sample_rate

        lengths = [clip.length for clip in clips]
        rates = Counter(fact.rate for fact in facts)
        notes = list(self._cache.notes)
        if not self._validation:
            notes.append("no clips are held out: there will be no validation figures")
        in_memory = sum(clip.length for clip in clips if clip.codes is not None)
        return Audit(
            path=str(self.path),
            sample_rate=self.sample_rate,
            clips=len(clips),
            train_clips=len(self._train),
            validation_clips=len(self._validation),
            seconds=seconds(clips),
            train_seconds=seconds(self._train),
            validation_seconds=seconds(self._validation),
            shortest=min(lengths) / self.sample_rate,
            longest=max(lengths) / self.sample_rate,
            rates=dict(sorted(rates.items())),
            resampled=sum(count for rate, count in rates.items() if rate != self.sample_rate),
            mixed=sum(fact.channels > 1 for fact in facts),
            silent=sum(fact.silent for fact in facts) / sum(lengths),
            clipped=sum(fact.clipped for fact in facts) / sum(lengths),
            skipped=tuple(skipped),
            speakers=self.speakers,
            memory_bytes=in_memory,
            disk_bytes=sum(lengths) - in_memory,
            notes=tuple(notes),
        )


def bundled_clips(sample_rate=8000, **options):
    """Open the bundled speech: an Italian and a Russian voice, 167 clips, 3.5 minutes, CC-BY-3.0.

    Parameters
    ----------
    sample_rate : int, default 8000
        Hz; the clips are recorded at 8000.
    **options
        As in `ClipFolder`. Unless `validation` is given, the clips held out are those that the bundle's manifest lists.
        ``speakers="folders"`` gives the two speakers "it" and "ru".

    Returns
    -------
    ClipFolder
    """
    if "validation" not in options:
        options["validation"] = [clip["path"] for clip in bundled_manifest()["clips"] if clip["split"] == "validation"]
    return ClipFolder(BUNDLED, sample_rate, **options)


def bundled_manifest():
    """Return the manifest of the bundled clips: path, speaker, kind, seconds, sha256 and split of each."""
    return json.loads((BUNDLED / "manifest.json").read_text("utf-8"))


def _duration(seconds):
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


# ---- finding and splitting


def _find(path):
    """Return the audio files below `path`, sorted, and what had to be left out with the reason."""
    if not path.exists():
        raise DataError(f"{path}: expected a folder of audio files, it does not exist")
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder of audio files, got a file")
    files, skipped, others, seen = [], [], Counter(), set()

    def unreadable(error):
        skipped.append((str(error.filename), f"cannot be listed ({error.strerror})"))

    for root, folders, names in os.walk(path, onerror=unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if extension in AUDIO_EXTENSIONS:
                files.append(Path(root, name))
            else:
                others[extension or "no extension"] += 1
    if not files:
        found = ", ".join(f"{count} {extension}" for extension, count in others.most_common(5)) or "nothing"
        raise DataError(f"{path}: expected audio files (.wav, .flac, .ogg, .mp3, ...), found {found}")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix()), skipped


def _speaker_names(names, path):
    """Return name of clip -> first folder of it."""
    for name in names:
        if "/" not in name:
            raise DataError(f'{path}: speakers="folders" expects each clip in a folder of its speaker, got {name}')
    return {name: name.split("/", 1)[0] for name in names}


def _check_validation(validation):
    if isinstance(validation, Collection) and not isinstance(validation, (str, bytes)):
        return
    if isinstance(validation, bool) or not isinstance(validation, (int, float)) or not 0 <= validation < 1:
        raise ConfigError(
            f"ClipFolder: validation must be a share in [0, 1) or a list of paths below the folder, got {validation!r}"
        )


def _split(clips, validation, seed, path):
    """Return the names of the clips to hold out."""
    if isinstance(validation, Collection):
        missing = sorted(set(validation) - {clip.name for clip in clips})
        if missing:
            raise DataError(f"{path}: {len(missing)} clips to hold out are not among its usable clips: {missing[:3]}")
        if len(set(validation)) == len(clips):
            raise DataError(f"{path}: all {len(clips)} clips are to be held out, nothing is left to train on")
        return set(validation)
    if validation == 0 or len(clips) < 2:
        return set()
    draw = {c.name: int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}:{c.name}")).digest()[:8]) / 2**64 for c in clips}
    voices = {}
    for clip in clips:
        voices.setdefault(clip.speaker, []).append(clip.name)
    held = {name for name in draw if draw[name] < validation}
    for names in voices.values():
        if held.issuperset(names):  # nobody learns a voice from held-out clips
            held.discard(max(names, key=draw.get))
    if not held:
        spare = [name for names in voices.values() if len(names) > 1 for name in names]
        held = {min(spare or draw, key=draw.get)}
    return held


# ---- decoding and caching


def _in_order(pool, function, items, ahead):
    """Yield function(item) in order, with at most `ahead` results in the making or waiting."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _decode(file, sample_rate):
    """Decode one file."""
    info = {}
    parts = [mulaw_encode(part) for part in blocks(file, sample_rate, info)]
    codes = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    if len(codes) == 0:
        raise DataError(f"{file}: no samples")
    return _measure(codes, info["rate"], info["channels"], sample_rate)


def _measure(codes, rate, channels, sample_rate):
    """Find what the audit tells. It is read off the codes, so that cached clips give the same figures."""
    frame = max(1, round(_FRAME_SECONDS * sample_rate))
    starts = np.arange(0, len(codes), frame)
    loud = np.logical_or.reduceat((codes < SILENCE - _QUIET) | (codes >= SILENCE + _QUIET), starts)
    silent = int(np.minimum(frame, len(codes) - starts)[~loud].sum())
    clipped = int(np.count_nonzero((codes == 0) | (codes == 255)))
    return _Decoded(codes, rate, channels, silent, clipped)


def _try_decode(file, sample_rate, cache):
    """Return the decoded file, from the cache if it is there, or the reason why it cannot be used."""
    try:
        codes = _load(cache.place(file))
        if codes is None:
            return _decode(file, sample_rate)
        return _measure(codes, *rate_and_channels(file), sample_rate)
    except DataError as error:
        return str(error).removeprefix(f"{file}: ")


class _Cache:
    """Decides where codes lie: in memory up to `limit` bytes, then one .npy a clip on disk."""

    def __init__(self, folder, limit, sample_rate):
        if folder is None:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wavedil")
        self._folder, self._limit, self._sample_rate = Path(folder), limit, sample_rate
        self._in_memory = 0
        self._broken = None
        self.notes = []

    def place(self, file):
        """Return where the codes of a file belong. A changed file has another place; so has another rate."""
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be opened ({error.strerror})") from error
        key = f"{_CACHE_VERSION}\n{file.absolute()}\n{stat.st_mtime_ns}\n{stat.st_size}\n{self._sample_rate}"
        return self._folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npy"

    def keep(self, file, codes):
        """Return (codes, None) where they stay in memory, or (None, place) where they lie on disk."""
        if self._in_memory + len(codes) > self._limit and self._broken is None:
            try:
                place = self.place(file)
                if not isinstance(codes, np.memmap):
                    self._folder.mkdir(parents=True, exist_ok=True)
                    _store(place, codes)
                return None, place
            except OSError as error:
                self._broken = error.strerror or str(error)
                self.notes.append(
                    f"the cache folder {self._folder} cannot be written ({self._broken}): "
                    "codes beyond cache_limit stay in memory"
                )
        self._in_memory += len(codes)
        # Without a disk, twice the limit is the most: a program that the system kills says nothing.
        if self._in_memory > 2 * self._limit:
            raise DataError(
                f"the codes need more than cache_limit={self._limit} bytes, and the cache folder {self._folder} cannot "
                f"be written ({self._broken}): free some disk, name another cache_dir or raise cache_limit"
            )
        return np.array(codes), None


def _load(place):
    """Map the codes of a cached clip, or return None if they are not there or damaged."""
    try:
        codes = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return codes if codes.dtype == np.uint8 and codes.ndim == 1 and len(codes) else None


def _store(place, codes):
    """Write codes as .npy: wholly or not at all."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(codes))
    write_whole(place, header.getvalue(), codes)
