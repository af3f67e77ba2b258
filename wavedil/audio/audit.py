"""What a folder of clips holds, for a person."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Audit:
    """What a folder of clips holds, found by decoding all of it.

    Attributes
    ----------
    path : str
    sample_rate : int
        Hz, of the codes.
    clips, train_clips, validation_clips : int
        Usable clips, and how they are split.
    seconds, train_seconds, validation_seconds : float
    shortest, longest : float
        Seconds of the shortest and longest clip.
    rates : dict of int to int
        Sample rate of the files in Hz -> number of clips.
    resampled, mixed : int
        Clips that had another rate; clips with several channels, averaged to one.
    silent : float
        Share of the samples in frames of 20 ms whose every sample is below -50 dB of full scale.
    clipped : float
        Share of the samples in the two outermost codes (in 8-bit mu-law: 0.98 of full scale and beyond).
    skipped : tuple of (str, str)
        Files that could not be used, each with the reason.
    speakers : tuple of str
    memory_bytes, disk_bytes : int
        Where the codes lie.
    notes : tuple of str
        What else a person should know.
    """

    path: str
    sample_rate: int
    clips: int
    train_clips: int
    validation_clips: int
    seconds: float
    train_seconds: float
    validation_seconds: float
    shortest: float
    longest: float
    rates: dict[int, int]
    resampled: int
    mixed: int
    silent: float
    clipped: float
    skipped: tuple[tuple[str, str], ...]
    speakers: tuple[str, ...]
    memory_bytes: int
    disk_bytes: int
    notes: tuple[str, ...]

    def lines(self, most_skipped=5):
        """Return the audit as lines of plain text for a person; at most `most_skipped` skipped files are named."""
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(self.rates.items()))
        spread = f"each {self.shortest:.2f} to {self.longest:.2f} s"
        out = [
            f"{self.clips} clips, {_duration(self.seconds)}, {spread}: {self.path}",
            f"training {self.train_clips} clips, {_duration(self.train_seconds)}; "
            f"validation {self.validation_clips} clips, {_duration(self.validation_seconds)}",
            f"rates found: {rates}; {self.resampled} resampled to {self.sample_rate} Hz, {self.mixed} mixed to mono",
            f"silent {100 * self.silent:.1f}% (20 ms frames below -50 dB), clipped {100 * self.clipped:.2f}%",
        ]
        if self.speakers:
            out.append(f"{len(self.speakers)} speakers: {', '.join(self.speakers)}")
        if self.disk_bytes:
            memory, disk = self.memory_bytes / 2**20, self.disk_bytes / 2**20
            out.append(f"codes: {memory:.1f} MiB in memory, {disk:.1f} MiB on disk")
        if self.skipped:
            out.append(f"skipped {len(self.skipped)} files:")
            out += [f"  {name}: {reason}" for name, reason in self.skipped[:most_skipped]]
            if len(self.skipped) > most_skipped:
                out.append(f"  and {len(self.skipped) - most_skipped} more")
        return out + list(self.notes)


def _duration(seconds):
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
