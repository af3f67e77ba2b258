"""Audio: codecs, clips, features. soundfile, soxr and librosa are imported when they are used."""

from wavedil.audio import augment
from wavedil.audio.audit import Audit
from wavedil.audio.baselines import Baselines, baselines
from wavedil.audio.clips import Clips
from wavedil.audio.codecs import CODECS, Codec, codec
from wavedil.audio.files import AUDIO_EXTENSIONS, read_audio, write_audio
from wavedil.audio.folder import ClipFolder, bundled_clips, bundled_manifest
from wavedil.audio.labelled import LabelledClips
from wavedil.audio.mel import MelConfig, MelStream, log_mel, mfcc
from wavedil.audio.mel_inverse import griffin_lim, lpc_of_mel
from wavedil.audio.mulaw import SILENCE, mulaw_decode, mulaw_encode

__all__ = [
    "AUDIO_EXTENSIONS",
    "CODECS",
    "SILENCE",
    "Audit",
    "Baselines",
    "ClipFolder",
    "Clips",
    "Codec",
    "LabelledClips",
    "MelConfig",
    "MelStream",
    "augment",
    "baselines",
    "bundled_clips",
    "bundled_manifest",
    "codec",
    "griffin_lim",
    "log_mel",
    "lpc_of_mel",
    "mfcc",
    "mulaw_decode",
    "mulaw_encode",
    "read_audio",
    "write_audio",
]
