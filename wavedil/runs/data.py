"""The clips that settings name: a folder, the bundled speech, or one speaker of it."""

import dataclasses
from pathlib import Path

from wavedil import audio
from wavedil.errors import DataError
from wavedil.runs.settings import BUNDLED, DataSettings


def clips(wanted: DataSettings, speakers=()):
    """Open the clips that the table ``[data]`` names.

    Parameters
    ----------
    wanted : DataSettings
    speakers : sequence of str
        Names of the model's speakers; ``wanted.speaker``, if set, says which of them all clips are of.

    Raises
    ------
    DataError
        The folder does not exist or holds no audio.
    ConfigError
        There is no such bundled speaker, or no such speaker of the model.
    """
    found = _folder(wanted)
    return found.as_speaker(wanted.speaker, speakers) if wanted.speaker else found


def name(folder: str) -> str:
    """What a folder of clips is called: the speaker's name, if it is one speaker's."""
    return Path(folder.removeprefix(f"{BUNDLED}:")).name


def _folder(wanted):
    if wanted.folder.startswith(f"{BUNDLED}:"):
        return audio.bundled_clips(wanted.sample_rate, speaker=name(wanted.folder))
    if wanted.folder:
        return audio.ClipFolder(wanted.folder, wanted.sample_rate, validation=wanted.validation, seed=wanted.seed,
                                speakers="folders" if wanted.speakers else None)  # fmt: skip
    return audio.bundled_clips(sample_rate=wanted.sample_rate, speakers="folders")


def check_rates(audit, resample: bool) -> None:
    """Refuse clips of another sample rate than the model's, unless they may be resampled.

    Raises
    ------
    DataError
        With the rates that were found.
    """
    others = {rate: count for rate, count in audit.rates.items() if rate != audit.sample_rate}
    if others and not resample:
        found = ", ".join(f"{count} clips at {rate:,} Hz" for rate, count in sorted(others.items()))
        raise DataError(f"{audit.path}: must be at the model's {audit.sample_rate:,} Hz, got {found}: --resample "
                        "converts them")  # fmt: skip


def baselines(found) -> dict | None:
    """Bits per sample that simple predictors need for the validation clips; None if no clip was held out."""
    held_out = found.validation_clips()
    return dataclasses.asdict(audio.baselines(found.train_clips(), held_out, found.sample_rate)) if held_out else None
