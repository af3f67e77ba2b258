"""Live playback through the optional package sounddevice."""

from wavedil.errors import WavedilError


class Loudspeaker:
    """The system's default sound output, as a consumer for `Meter`. Use it in a ``with`` statement.

    Parameters
    ----------
    rate : int
        Samples per second.

    Raises
    ------
    WavedilError
        If sounddevice, its library PortAudio or a sound device is not there.
    """

    def __init__(self, rate):
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: the package is there, its library is not
            raise WavedilError(
                "live playback needs the package sounddevice (pip install sounddevice) and the PortAudio library "
                f"(Debian: apt install libportaudio2): {error}"
            ) from error
        self._error = sounddevice.PortAudioError
        try:
            self._stream = sounddevice.OutputStream(samplerate=rate, channels=1, dtype="float32")
            self._stream.start()
        except self._error as error:
            raise WavedilError(f"no sound device can play {rate} Hz: {error}") from error
        self._first = True

    def __call__(self, audio):
        """Play a block, waiting for room. True if the device had run dry before."""
        try:
            dry = self._stream.write(audio[:, None])
        except self._error as error:
            raise WavedilError(f"the sound device failed: {error}") from error
        dry, self._first = dry and not self._first, False  # before the first block there was nothing to play
        return bool(dry)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # Play what is buffered; after an error fall silent at once.
        (self._stream.stop if kind is None else self._stream.abort)()
        self._stream.close()
