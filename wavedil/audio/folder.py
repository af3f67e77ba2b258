"""Folders of clips: an audit, a split into training and validation, random windows. Codes are cached."""

import contextlib
import json
from collections import Counter
from pathlib import Path

from wavedil import checks
from wavedil.audio import decoding, finding
from wavedil.audio.audit import Audit
from wavedil.audio.clips import Clip, Clips
from wavedil.audio.codecs import audio_codec
from wavedil.errors import ConfigError, DataError

BUNDLED = Path(__file__).with_name("bundled")
CACHE_LIMIT = 512 << 20


class ClipFolder(Clips):
    """All audio below a folder as codes, split into training and validation, served as random windows.

    Every file is decoded once at the start, which gives the `audit`; a file that cannot be used is skipped and counted
    there. Codes are held in memory up to `cache_limit` bytes and on disk beyond, memory-mapped, so a set may be larger
    than the memory.

    Every clip is seen as ``[silence, c[0], ..., c[n-1]]``, 128 in 8-bit mu-law: so its first sample is predicted too.

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
    codec : str or Codec, default "mulaw"
        What samples become; see `wavedil.audio.codec`.
    cache_limit : int, default 512 MiB
        Bytes to hold in memory; a code has one, or two if there are more than 256.
    cache_dir : str or path, optional
        Where codes beyond it go; default ``$XDG_CACHE_HOME/wavedil`` or ``~/.cache/wavedil``. May be deleted any time.

    Attributes
    ----------
    audit : Audit
    sample_rate : int
        Hz.
    speakers : tuple of str
        Names in the order of the ids; empty without ``speakers="folders"``.
    codec : Codec

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
        codec="mulaw",
        cache_limit=CACHE_LIMIT,
        cache_dir=None,
    ):
        where = "ClipFolder"  # `Clips.__init__` checks codes in memory; here they are decoded
        self.path = Path(path)
        self.sample_rate = checks.whole(where, "sample_rate", sample_rate)
        self.codec = audio_codec(codec, where)
        checks.one_of(where, "speakers", speakers, (None, "folders"))
        limit = checks.whole(where, "cache_limit", cache_limit, 0)
        if not finding.is_paths(validation):
            finding.share(where, validation, "or a list of paths below the folder")
        self._cache = decoding.Cache(cache_dir, limit, self.sample_rate, self.codec)
        files, skipped = finding.find(self.path)
        names = [file.relative_to(self.path).as_posix() for file in files]
        of_speaker = finding.speaker_names(names, self.path) if speakers else {}

        clips, facts = [], []
        results = decoding.decode_all(files, self.sample_rate, self._cache)
        for name, file, result in zip(names, files, results, strict=True):
            if isinstance(result, str):
                skipped.append((name, result))
                continue
            codes, cached = self._cache.keep(file, result.codes)
            clips.append(Clip(name, len(result.codes), of_speaker.get(name), codes, file, cached))
            facts.append(result._replace(codes=None))
        if not clips:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise DataError(f"{self.path}: none of {len(files)} audio files can be used ({reasons})")
        # Only speakers with a usable clip count, so the ids have no holes.
        self.speakers = tuple(sorted({clip.speaker for clip in clips})) if speakers else ()
        ids = {name: i for i, name in enumerate(self.speakers)}
        clips = [clip._replace(speaker=ids.get(clip.speaker)) for clip in clips]

        held = finding.split(clips, validation, seed, self.path)
        self._keep([clip for clip in clips if clip.name not in held], [clip for clip in clips if clip.name in held])
        self.audit = self._audit(clips, facts, skipped)

    def _codes(self, clip):
        if clip.codes is not None:
            return clip.codes
        codes = self._cache.load(clip.cached)
        if codes is None:  # somebody deleted the cache while the program runs
            codes = decoding.decode(clip.path, self.sample_rate, self.codec).codes
            with contextlib.suppress(OSError):
                decoding.store(clip.cached, codes)
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
        size = self.codec.dtype.itemsize
        in_memory = size * sum(clip.length for clip in clips if clip.codes is not None)
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
            disk_bytes=size * sum(lengths) - in_memory,
            notes=tuple(notes),
        )


def bundled_clips(sample_rate=8000, *, speaker=None, **options):
    """Open the bundled speech: an Italian and a Russian speaker, 167 clips, 3.5 minutes, CC-BY-3.0.

    Parameters
    ----------
    sample_rate : int, default 8000
        Hz; the clips are recorded at 8000.
    speaker : {None, "it", "ru"}, default None
        One of the two alone; the paths of its clips begin below its folder.
    **options
        As in `ClipFolder`. Unless `validation` is given, the clips held out are those that the bundle's manifest lists.
        ``speakers="folders"`` (without `speaker`) gives the two speakers "it" and "ru".

    Returns
    -------
    ClipFolder

    Raises
    ------
    ConfigError
        If there is no such speaker, or where `ClipFolder` raises it.
    """
    clips = bundled_manifest()["clips"]
    folder, below = BUNDLED, ""
    if speaker is not None:
        checks.one_of("bundled_clips", "speaker", speaker, sorted({clip["speaker"] for clip in clips}))
        if options.get("speakers") is not None:
            raise ConfigError(f"bundled_clips: speakers must be None with one speaker, got {options['speakers']!r}")
        folder, below = BUNDLED / speaker, f"{speaker}/"
    if "validation" not in options:
        held = [clip["path"] for clip in clips if clip["split"] == "validation"]
        options["validation"] = [path.removeprefix(below) for path in held if path.startswith(below)]
    return ClipFolder(folder, sample_rate, **options)


def bundled_manifest():
    """Return the manifest of the bundled clips: path, speaker, kind, seconds, sha256 and split of each."""
    return json.loads((BUNDLED / "manifest.json").read_text("utf-8"))
