"""Audio files below a folder, and which of them to hold out."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from wavedil import checks
from wavedil.audio.files import AUDIO_EXTENSIONS
from wavedil.errors import DataError


def find(path):
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


def speaker_names(names, path):
    """Return name of clip -> first folder of it."""
    for name in names:
        if "/" not in name:
            raise DataError(f'{path}: speakers="folders" expects each clip in a folder of its speaker, got {name}')
    return {name: name.split("/", 1)[0] for name in names}


def share(where, validation, or_else) -> float:
    """The share of clips to hold out, if it is neither paths nor what else may be given."""
    wanted = f"a share in [0, 1), {or_else}"
    return checks.number(where, "validation", validation, wanted, lambda value: 0 <= value < 1)


def is_paths(validation) -> bool:
    """Whether the clips to hold out are named."""
    return isinstance(validation, Collection) and not isinstance(validation, str | bytes)


def named(path, wanted, known) -> set:
    """The clips to hold out by their names, which must be known."""
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise DataError(f"{path}: {len(missing)} clips to hold out are not among its usable clips: {missing[:3]}")
    return set(wanted)


def chance(seed, name) -> float:
    """A number in [0, 1) for a clip: the same whatever other clips there are."""
    return int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}:{name}")).digest()[:8]) / 2**64


def split(clips, validation, seed, path):
    """Return the names of the clips to hold out."""
    if is_paths(validation):
        held = named(path, validation, [clip.name for clip in clips])
        if len(held) == len(clips):
            raise DataError(f"{path}: all {len(clips)} clips are to be held out, nothing is left to train on")
        return held
    if validation == 0 or len(clips) < 2:
        return set()
    draw = {clip.name: chance(seed, clip.name) for clip in clips}
    of_speaker = {}
    for clip in clips:
        of_speaker.setdefault(clip.speaker, []).append(clip.name)
    held = {name for name in draw if draw[name] < validation}
    for names in of_speaker.values():
        if held.issuperset(names):  # no speaker is learned from held-out clips
            held.discard(max(names, key=draw.get))
    if not held:
        spare = [name for names in of_speaker.values() if len(names) > 1 for name in names]
        held = {min(spare or draw, key=draw.get)}
    return held
