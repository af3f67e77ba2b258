"""wavedil generate: let a trained model make sound."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given
from wavedil.runs import settings


def generate(
    run: options.Run,
    seconds: Annotated[float, typer.Option(min=0.001, help="Length.")] = settings.SAMPLE_SECONDS,
    temperature: Annotated[float, typer.Option(
        min=0.0, help="1 draws as the model believes; less is calmer, 0 takes the likeliest.",
    )] = settings.SAMPLE_TEMPERATURE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same sound.")] = 0,
    top_k: Annotated[int | None, given("Draw only from so many of the likeliest values.", min=1)] = None,
    top_p: Annotated[float | None, given(
        "Draw only from the likeliest values that together have this probability, above 0, up to 1.")] = None,
    primer: Annotated[Path | None, given("Audio file to go on from; it is not part of the result.")] = None,
    speaker: options.Speaker = None,
    storage: options.Storage = None,
    device: options.Device = "cpu",
    out: Annotated[Path | None, given("WAV or FLAC file. \\[default: RUN/generated.wav]", "-o", "--out")] = None,
) -> None:  # fmt: skip
    """Let a trained model make sound."""
    with show.errors():
        from wavedil import audio, runs

        console, found = Console(), runs.Run.open(run)
        index = found.speaker(speaker)
        out = options.audio_file(out or run / "generated.wav")
        model = runs.sample.model(found, show.device(console, device))
        rate = model.config.sample_rate
        heard = None if primer is None else show.listen(console, primer, rate)
        with show.percent(console, "Generating") as progress:
            sound = runs.sample.generate(model, seconds, primer=heard, temperature=temperature, seed=seed, top_k=top_k,
                                         top_p=top_p, speaker=index, storage=storage and storage.value,
                                         progress=progress)  # fmt: skip
        audio.write_audio(out, sound, rate)
        show.say(console, f"Wrote {out}")
