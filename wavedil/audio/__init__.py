"""Audio: mu-law codes, folders of clips, features. soundfile, soxr and librosa are imported when they are used."""

from wavedil.audio import augment, features
from wavedil.audio.clips import Audit, ClipFolder, bundled_clips, bundled_manifest
from wavedil.audio.entropy import Yardsticks, yardsticks
from wavedil.audio.files import AUDIO_EXTENSIONS, read_audio, write_audio
from wavedil.audio.labelled import LabelledClips
from wavedil.audio.mulaw import SILENCE, mulaw_decode, mulaw_encode

__all__ = [
    "AUDIO_EXTENSIONS",
    "SILENCE",
    "Audit",
    "ClipFolder",
    "LabelledClips",
    "Yardsticks",
    "augment",
    "bundled_clips",
    "bundled_manifest",
    "features",
    "mulaw_decode",
    "mulaw_encode",
    "read_audio",
    "write_audio",
    "yardsticks",
]
