"""Audio files in and out: any format that soundfile reads, as mono at one rate. soundfile and soxr load when used."""

import io
import re
from pathlib import Path

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DataError
from wavedil.files import write_atomically

#: File name extensions that are taken for audio. Headerless (.raw) files are left out: nothing says what is in them.
AUDIO_EXTENSIONS = frozenset(
    ".8svx .aif .aifc .aiff .au .avr .caf .flac .htk .iff .ircam .mp1 .mp2 .mp3 .mpc2k .nist .oga .ogg .opus .paf .pvf"
    " .rf64 .sd2 .sds .sf .snd .sph .svx .voc .w64 .wav .wave .wavex .wve .xi".split()
)
_BLOCK = 1 << 18  # frames decoded at a time: bounds the memory, whatever the length of the file
# libsndfile's log of a file whose audio chunk claims more bytes than the file has.
_CLAIM = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFF0000  # a size from here on is what writers to a pipe put, who cannot go back to fill it in
_SLOWEST, _FASTEST = 1000, 768_000  # Hz; a damaged header can say anything, and resampling would believe it
_MP3_DELAY = 2304  # an MP3 may be shorter than its header says by the coder's delay and padding


def blocks(path, sample_rate, info=None):
    """Yield a file as float32 mono blocks at `sample_rate`; the whole does not depend on the size of the blocks.

    Parameters
    ----------
    path : path of a file
    sample_rate : int, Hz
    info : dict, optional
        Gets "rate" and "channels" of the file before the first block.

    Raises
    ------
    DataError
        If the file is missing, empty, no audio, truncated, or holds NaN or infinite samples.
    """
    import soundfile

    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
    if not path.is_file():
        raise DataError(f"{path}: expected an audio file, got a folder or device")
    if size == 0:
        raise DataError(f"{path}: empty file (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            if info is not None:
                info.update(rate=file.samplerate, channels=file.channels)
            if not _SLOWEST <= file.samplerate <= _FASTEST:
                raise DataError(f"{path}: expected {_SLOWEST} to {_FASTEST} Hz, its header says {file.samplerate} Hz")
            for claimed, present in _CLAIM.findall(file.extra_info):
                if int(present) < int(claimed) < _STREAMED:
                    raise DataError(f"{path}: truncated, its header promises {claimed} bytes of sound, {present} came")
            yield from _resampled(_mono(file, path), file.samplerate, sample_rate)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise DataError(f"{path}: not readable as audio, damaged or mislabelled ({reason})") from error


def rate_and_channels(path):
    """Return the sample rate in Hz and the number of channels that a file's header gives."""
    import soundfile

    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: not readable as audio ({error})") from error
    return info.samplerate, info.channels


def _mono(file, path):
    """Yield blocks of the mean over channels, checked for NaN and for their number."""
    expected, got = file.frames, 0
    while True:
        block = file.read(_BLOCK, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        got += len(block)
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise DataError(f"{path}: holds NaN or infinite samples")
        yield mono
    slack = _MP3_DELAY if file.format == "MP3" or "MPEG" in file.subtype else 0
    if got < expected - slack:
        raise DataError(f"{path}: truncated, its header promises {expected} samples, {got} came")


def _resampled(parts, rate, sample_rate):
    """Yield mono blocks at another rate."""
    if rate == sample_rate:
        yield from parts
        return
    import soxr

    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    for part in parts:
        yield stream.resample_chunk(np.ascontiguousarray(part))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def read_audio(path, sample_rate):
    """Read an audio file as mono at a given rate.

    Channels are averaged; another rate is resampled with soxr (quality HQ). Integer formats are scaled to [-1, 1].

    Parameters
    ----------
    path : str or path
        A file in any format that soundfile (libsndfile) reads.
    sample_rate : int
        Wanted rate in Hz.

    Returns
    -------
    numpy.ndarray of float32, shape (samples,)

    Raises
    ------
    DataError
        If the file is missing, empty, no audio, truncated, or holds NaN or infinite samples.
    ConfigError
        If `sample_rate` is not a positive whole number.
    """
    parts = list(blocks(path, checks.whole("read_audio", "sample_rate", sample_rate)))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def write_audio(path, x, sample_rate):
    """Write samples as a 16-bit WAV or FLAC file, by the extension of its name.

    The file is written beside its place and then renamed: a full disk leaves an older file as it was.

    Parameters
    ----------
    path : str or path
        Ends in ``.wav`` or ``.flac``. The folder must exist.
    x : array_like of float, shape (samples,) or (samples, channels)
        Full scale is [-1, 1]; beyond it samples clip.
    sample_rate : int
        Rate in Hz.

    Raises
    ------
    DataError
        If `x` has another rank or holds NaN, or if the file cannot be written.
    ConfigError
        If the extension or the rate is none of these.
    """
    path = Path(path)
    rate = checks.whole("write_audio", "sample_rate", sample_rate)
    format = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if format is None:
        raise ConfigError(f"write_audio: path must end in .wav or .flac, got {str(path)!r}")
    x = np.asarray(x, dtype=np.float64)
    if x.ndim not in (1, 2):
        raise DataError(f"write_audio: x must be (samples,) or (samples, channels), got {x.shape}")
    if np.isnan(x).any():
        raise DataError(f"write_audio: x must be free of NaN, got {int(np.isnan(x).sum())} NaN")
    # 32768, as soundfile divides by it when reading: what was read is written back unchanged.
    pcm = np.clip(np.rint(x * 32768.0), -32768, 32767).astype(np.int16)
    import soundfile

    # Encoded in memory and written by Python, whose errors name a full disk; libsndfile's do not.
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, rate, format=format, subtype="PCM_16")
    try:
        write_atomically(path, encoded.getbuffer())
    except OSError as error:
        raise DataError(f"write_audio: {path} cannot be written ({error.strerror or error})") from error
