"""The clips that settings name: a folder, the bundled speech, or one voice of it."""

import dataclasses
from pathlib import Path

import numpy as np

from wavedil import audio
from wavedil.audio.clips import BUNDLED as BUNDLED_FOLDER
from wavedil.errors import DataError
from wavedil.runs.settings import BUNDLED, DataSettings


def clips(wanted: DataSettings, speakers=()):
    """Open the clips that the table ``[data]`` names.

    Parameters
    ----------
    wanted : DataSettings
    speakers : sequence of str
        Names of the model's voices; ``wanted.voice``, if set, says which of them all clips are of.

    Raises
    ------
    DataError
        The folder does not exist or holds no audio, or there is no such bundled voice.
    """
    found = _folder(wanted)
    return OneVoice(found, speakers, wanted.voice) if wanted.voice else found


def name(folder: str) -> str:
    """What a folder of clips is called: the voice, if a voice has one."""
    return Path(folder.removeprefix(f"{BUNDLED}:")).name


def _folder(wanted):
    if wanted.folder.startswith(f"{BUNDLED}:"):
        return _bundled_voice(wanted.folder, wanted.sample_rate)
    if wanted.folder:
        return audio.ClipFolder(wanted.folder, wanted.sample_rate, validation=wanted.validation, seed=wanted.seed,
                                speakers="folders" if wanted.speakers else None)  # fmt: skip
    return audio.bundled_clips(sample_rate=wanted.sample_rate, speakers="folders")


def _bundled_voice(folder, rate):
    voice, known = name(folder), audio.bundled_manifest()["clips"]
    found = [clip for clip in known if clip["speaker"] == voice]
    if not found:
        voices = sorted({f"{BUNDLED}:{clip['speaker']}" for clip in known})
        raise DataError(f"{folder}: the bundled voices are {', '.join(voices)}")
    held_out = [clip["path"].removeprefix(f"{voice}/") for clip in found if clip["split"] == "validation"]
    return audio.ClipFolder(BUNDLED_FOLDER / voice, rate, validation=held_out)


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


def yardsticks(found) -> dict | None:
    """Bits per sample that simple predictors need for the validation clips; None if no clip was held out."""
    held_out = found.validation_clips()
    return dataclasses.asdict(audio.yardsticks(found.train_clips(), held_out, found.sample_rate)) if held_out else None


class OneVoice:
    """Clips that are all of one voice of a model."""

    def __init__(self, found, speakers, voice):
        self.audit, self.sample_rate, self.speakers = found.audit, found.sample_rate, tuple(speakers)
        self._data, self._voice = found, speakers.index(voice)

    def batch(self, rng, batch, window):
        """As of the clips, with the voice's number for each row."""
        codes, weights = self._data.batch(rng, batch, window)
        return codes, weights, {"speaker": np.full(len(codes), self._voice)}

    def train_clips(self):
        """(name, codes, number of the voice) of each clip to learn from."""
        return self._marked(self._data.train_clips())

    def validation_clips(self):
        """(name, codes, number of the voice) of each clip that is held out."""
        return self._marked(self._data.validation_clips())

    def _marked(self, found):
        return [(name, codes, self._voice) for name, codes, _ in found]


@dataclasses.dataclass
class HeldOut:
    """Clips to validate with."""

    clips: list

    def validation_clips(self):
        """(name, codes, number of the voice or None) of each."""
        return self.clips
