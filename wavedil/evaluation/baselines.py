"""What a vocoder is compared with: codecs and vocoders without a network, each a clip in and a clip out."""

import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from wavedil.audio.codecs import codec
from wavedil.audio.files import read_audio, write_audio
from wavedil.audio.mel import MelConfig, log_mel
from wavedil.audio.mel_inverse import griffin_lim
from wavedil.errors import ConfigError, DataError
from wavedil.evaluation.packages import extra

_CODEC2_DELAY = 160  # samples that its output comes late, found by the best ESTOI


def _mulaw(x, rate):
    mulaw = codec("mulaw")
    return mulaw.decode(mulaw.encode(x))


def _griffin_lim(x, rate):
    config = MelConfig.preset(rate)
    return griffin_lim(log_mel(x, config), config)[: len(x)]


def _world(x, rate):
    """Pitch, spectral envelope and aperiodicity every 5 ms, and the sound made of them, at 16 kHz or more."""
    world = extra("WORLD", "pyworld")
    if rate < 16000:  # its bands of aperiodicity are 3 kHz wide, and it looks for voices up to 7.9 kHz
        import soxr

        wide = _world(soxr.resample(np.asarray(x, np.float64), rate, 16000), 16000)
        return _fit(soxr.resample(wide, 16000, rate), len(x))
    x = np.asarray(x, np.float64)
    coarse, times = world.dio(x, rate)
    pitch = world.stonemask(x, coarse, times, rate)
    envelope, noise = world.cheaptrick(x, pitch, times, rate), world.d4c(x, pitch, times, rate)
    return _fit(world.synthesize(pitch, envelope, noise, rate), len(x))


def _opus(x, rate, kbits):
    """Opus at so many kb/s, by opusenc and opusdec or by ffmpeg, which leave out the coder's delay."""
    if shutil.which("opusenc") and shutil.which("opusdec"):
        steps = [["opusenc", "--quiet", "--bitrate", str(kbits), "in.wav", "coded.opus"],
                 ["opusdec", "--quiet", "--rate", str(rate), "coded.opus", "out.wav"]]  # fmt: skip
    elif shutil.which("ffmpeg"):
        quiet = ["ffmpeg", "-v", "error", "-i"]
        steps = [[*quiet, "in.wav", "-c:a", "libopus", "-b:a", f"{kbits}k", "coded.opus"],
                 [*quiet, "coded.opus", "-ar", str(rate), "out.wav"]]  # fmt: skip
    else:
        raise ConfigError("Opus needs opusenc and opusdec (Debian: opus-tools), or ffmpeg, of which none was found")
    return _fit(_coded(x, rate, steps), len(x))


def _codec2(x, rate, bits):
    """codec2 at so many b/s, 8 kHz only."""
    if not (shutil.which("c2enc") and shutil.which("c2dec")):
        raise ConfigError("codec2 needs c2enc and c2dec (Debian: codec2), which were not found")
    if rate != 8000:
        raise ConfigError(f"codec2: the rate must be 8000 Hz, got {rate}")
    steps = [["c2enc", str(bits), "in.raw", "coded.bit"], ["c2dec", str(bits), "coded.bit", "out.raw"]]
    return _coded(x, rate, steps, raw=True)[_CODEC2_DELAY:][: len(x)]


def _coded(x, rate, steps, raw=False):
    """Run programs that make out.wav of in.wav, or out.raw of in.raw."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if raw:
            pcm = np.clip(np.rint(np.asarray(x) * 32768.0), -32768, 32767).astype("<i2")
            (place / "in.raw").write_bytes(np.pad(pcm, (0, 800)).tobytes())  # whole frames, and what the coder delays
        else:
            write_audio(place / "in.wav", x, rate)
        for step in steps:
            done = subprocess.run(step, cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                raise DataError(f"{step[0]} failed: {done.stderr.strip()}")
        return np.fromfile(place / "out.raw", "<i2") / np.float32(32768) if raw else read_audio(place / "out.wav", rate)


def _fit(y, length):
    """Cut, or append zeros."""
    return np.pad(np.asarray(y, np.float32)[:length], (0, max(0, length - len(y))))


#: Name -> function (x, rate) that returns what comes out, of the same length. One whose package or program is not there
#: raises a ConfigError that says so. Griffin-Lim sees the spectra of ``MelConfig.preset(rate)``.
BASELINES = {
    "mu-law": _mulaw,
    "Griffin-Lim": _griffin_lim,
    "WORLD": _world,
    "Opus 6 kb/s": partial(_opus, kbits=6),
    "Opus 12 kb/s": partial(_opus, kbits=12),
    "codec2 3.2 kb/s": partial(_codec2, bits=3200),
    "codec2 1.3 kb/s": partial(_codec2, bits=1300),
}
