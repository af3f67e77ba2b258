"""Pairs of clips in two folders (or files), and the texts beside them."""

import csv
from pathlib import Path

from wavedil.audio.files import AUDIO_EXTENSIONS, rate_and_channels, read_audio
from wavedil.errors import DataError

_MOST = 0.1  # seconds that an output may be longer or shorter: codecs and vocoders work in whole frames


def read_pairs(reference, output, rate=None):
    """Find what belongs together in two folders, or take two files.

    Clips belong together whose paths inside the folders are the same but for the extension. Lengths may differ by
    0.1 s: both are then cut to the shorter.

    Parameters
    ----------
    reference, output : path
        Both folders, or both audio files.
    rate : int, optional
        Hz to resample all to; None: that of the files, which must be the same in all.

    Returns
    -------
    rate : int
    pairs : list of (name, reference, output)
        Name is the path inside the folder without its extension.
    notes : list of str
        What was left out or cut.

    Raises
    ------
    DataError
        If a path is missing, nothing belongs together, or two clips differ in rate or, by more than 0.1 s, in length.
    """
    reference, output = Path(reference), Path(output)
    for path in (reference, output):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    if reference.is_dir() != output.is_dir():
        raise DataError(f"{reference} and {output} must be two folders or two files, got one of each")
    if not reference.is_dir():
        found, notes = [(reference.stem, reference, output)], []
    else:
        found, notes = _matched(reference, output)
    rate = _one_rate([path for _, *paths in found for path in paths]) if rate is None else rate
    pairs = []
    for name, *paths in found:
        x, y = (read_audio(path, rate) for path in paths)
        if abs(len(x) - len(y)) > _MOST * rate:
            raise DataError(f"{name}: both clips must have about the same length, got {len(x) / rate:.2f} s and "
                            f"{len(y) / rate:.2f} s")
        if len(x) != len(y):
            notes.append(f"{name}: {len(x)} and {len(y)} samples, cut to the shorter")
        length = min(len(x), len(y))
        if length:
            pairs.append((name, x[:length], y[:length]))
        else:
            notes.append(f"{name}: holds no samples")
    return rate, pairs, notes


def _one_rate(paths):
    rates = [rate_and_channels(path)[0] for path in paths]
    for path, rate in zip(paths, rates, strict=True):
        if rate != rates[0]:
            raise DataError(f"{path}: all clips must have one rate, got {rate} Hz after {rates[0]} Hz of {paths[0]}: "
                            "give a rate to resample them to")
    return rates[0]


def _matched(reference, output):
    first, second = (_clips(folder) for folder in (reference, output))
    both = sorted(first.keys() & second.keys())
    if not both:
        raise DataError(f"{reference} and {output} must hold clips of the same names, got {len(first)} and "
                        f"{len(second)} clips, none of which belong together")
    notes = []
    for folder, clips, others in ((reference, first, second), (output, second, first)):
        alone = sorted(clips.keys() - others.keys())
        if alone:
            notes.append(f"{folder}: {len(alone)} clips have no partner, such as {alone[0]}")
    return [(name, first[name], second[name]) for name in both], notes


def _clips(folder):
    """Name -> path of all audio below a folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_EXTENSIONS)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def read_texts(path):
    """Read what is said in clips: a CSV file with the columns file and text. Returns name (no extension) -> text.

    Raises
    ------
    DataError
        If the file is missing, or has other columns.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"file", "text"} <= set(rows.fieldnames or ()):
                raise DataError(f"{path}: expected the columns file and text, got {', '.join(rows.fieldnames or ())}")
            return {Path(row["file"]).with_suffix("").as_posix(): row["text"] for row in rows}
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
