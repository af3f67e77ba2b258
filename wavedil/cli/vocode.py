"""wavedil vocode: say again, by a vocoder, what an audio file says or mel frames describe."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given


def vocode(
    run: options.Run,
    source: Annotated[Path, typer.Argument(
        metavar="INPUT", help="Audio file; or .npy with mel frames (F, mels) by the model's own recipe.",
        show_default=False)],
    out: Annotated[Path | None, given("WAV or FLAC file. \\[default: RUN/spoken.wav]", "-o", "--out")] = None,
    temperature: Annotated[float, typer.Option(
        min=0.0, help="1 draws as the model believes; less is calmer, 0 takes the likeliest.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same sound.")] = 0,
    speaker: options.Speaker = None,
    storage: options.Storage = None,
    device: options.Device = "cpu",
) -> None:  # fmt: skip
    """Say again what an audio file says: the mel spectrum of it is all that the model is given."""
    with show.errors():
        from wavedil import audio, runs

        console, found = Console(), runs.Run.open(run)
        out = options.audio_file(out or run / "spoken.wav")
        vocoder = runs.vocode.open_vocoder(found, found.speaker(speaker), show.device(console, device))
        if source.suffix.lower() == ".npy":
            frames = runs.vocode.read_frames(source)
        else:
            frames = vocoder.analyse(show.listen(console, source, vocoder.sample_rate))
        with show.percent(console, "Saying it") as progress:
            sound = vocoder.synthesise(frames, seed=seed, temperature=temperature, progress=progress,
                                       storage=storage and storage.value)  # fmt: skip
        audio.write_audio(out, sound, vocoder.sample_rate)
        show.say(console, f"Wrote {out}: {len(sound) / vocoder.sample_rate:.1f} s")
