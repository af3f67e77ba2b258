"""wavedil stream: run a trained model online, block by block."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given
from wavedil.runs import settings


def stream(
    run: options.Run,
    source: Annotated[Path | None, given("Audio file to listen to.", "-i", "--in")] = None,
    out: Annotated[Path | None, given("WAV or FLAC file for what comes out.", "-o", "--out")] = None,
    block: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 64,
    speaker: options.Speaker = None,
    bits: Annotated[Path | None, given("CSV file for the bits/sample and the latency of every block.")] = None,
    live: Annotated[bool, typer.Option(
        "--live", help="Play it (needs sounddevice). Without --in the model speaks.")] = False,
    device: options.Device = "cpu",
    seconds: Annotated[float | None, given("Length, without --in. \\[default: until Ctrl-C]", min=0.001)] = None,
    temperature: Annotated[float | None, given(
        f"As of generate, without --in. \\[default: {settings.SAMPLE_TEMPERATURE}]", min=0.0)] = None,
    seed: Annotated[int | None, given("As of generate, without --in. \\[default: 0]", min=0)] = None,
    storage: options.Storage = None,
) -> None:  # fmt: skip
    """Run a trained model online, block by block, and see whether it keeps up with real time.

    It listens to a file: out comes what it expected to hear (the mean of its prediction of each sample), and how many
    bits each block took it by surprise. Without --in it speaks, live. A TCN of audio is an effect: out comes what it
    makes of the file.
    """
    with show.errors():
        if source is None and not live:
            raise typer.BadParameter("give a file to listen to, --in FILE, or --live to let the model speak")
        if source is not None and (seconds, temperature, seed) != (None, None, None):
            raise typer.BadParameter("--seconds, --temperature and --seed are for speaking: leave them out with --in")
        if bits is not None and source is None:
            raise typer.BadParameter("--bits are about the file of --in")
        from wavedil import runs, streaming

        found = runs.Run.open(run)
        effect = found.kind == "TCN"
        if effect and (source is None or (speaker, bits, storage) != (None, None, None)):
            raise typer.BadParameter("an effect needs a file, --in FILE, and has no --speaker, --bits or --storage")
        index = None if effect else found.speaker(speaker)
        if out is not None:
            options.audio_file(out)
        console = Console()
        device = show.device(console, device)
        model = found.model(device) if effect else runs.sample.model(found, device)
        rate, spoken = model.config.sample_rate, {"speaker": index, "storage": storage and storage.value}
        if source is not None:
            heard = show.listen(console, source, rate)
            made = streaming.Effect(model) if effect else streaming.Predictor(model, **spoken)
            n, blocks = len(heard), made.blocks(heard, block)
            what = f"listening to {source}: {n:,} samples, {n / rate:.2f} s"
        else:
            temperature = settings.SAMPLE_TEMPERATURE if temperature is None else temperature
            made = streaming.Generator(model, seed=seed or 0, temperature=temperature, **spoken)
            n = None if seconds is None else max(1, round(seconds * rate))
            blocks = made.blocks(n, block)
            what = "speaking until Ctrl-C" if n is None else f"speaking {n / rate:.2f} s"
        each = f"{block:,} ({show.milliseconds(block, rate)} at {rate} Hz)"
        text = f"{what}, in blocks of {each}; the state of the stream is {show.size(made.state.nbytes)}"
        _play(console, text, blocks, n, rate, block, live, source is not None, out, bits)


def _play(console, text, blocks, n, rate, block, live, live_input, out, bits):
    """Run all blocks, or until Ctrl-C, and tell how it went."""
    from wavedil import streaming

    parts, done, stopped = [], 0, False
    buffer = max(2, -(-rate // (100 * block)))  # two blocks, or 10 ms where they are shorter
    with streaming.Loudspeaker(rate) if live else contextlib.nullcontext() as loudspeaker:
        show.heading(console, "Stream")  # not before there is a device to play it
        show.prose(console, text)
        meter = streaming.Meter(rate, consumer=loudspeaker, buffer=buffer, live_input=live_input)
        try:
            with show.percent(console, "Streaming", n) as progress:
                for part in meter.run(blocks):
                    done += len(part.audio)
                    if out is not None:
                        parts.append(part.audio)
                    progress(done)
        except KeyboardInterrupt:
            stopped = True
    report = meter.report()
    if report.blocks:
        player = f"a live player with a buffer of {show.milliseconds(buffer * block, rate)}"
        _tell(console, report, "the sound device" if live else player)
        _write(console, report, parts, rate, out, bits)
    if stopped and n is not None:
        raise typer.Exit(130)


def _tell(console, report, player):
    """What a stream did, for a person."""
    if report.bits is not None:
        begins = report.sizes.cumsum() - report.sizes
        high, low = int(report.bits.argmax()), int(report.bits.argmin())
        text = f"bits/sample: {report.mean_bits:.3f}"
        if report.blocks > 1:
            text += (f"; block by block from {report.bits[low]:.2f} at {begins[low] / report.rate:.3f} s to "
                     f"{report.bits[high]:.2f} at {begins[high] / report.rate:.3f} s, where it was surprised most")
        show.prose(console, text)
    milliseconds = [f"{name} {1000 * value:.3f} ms" for name, value in
                    (("p50", report.percentile(50)), ("p99", report.percentile(99)), ("max", report.latency.max()))]
    show.prose(console, f"latency of a block: {', '.join(milliseconds)}")
    factor = report.real_time_factor
    show.prose(console, f"speed: {factor:.2f} x real time" + ("" if factor >= 1 else ", TOO SLOW for a live stream"))
    text = f"underruns: {report.underruns:,} of {report.blocks:,} blocks, for which {player} had to wait"
    if report.overruns:
        text += f"; overruns: {report.overruns:,}, which a live source would have lost"
    show.prose(console, text)


def _write(console, report, sound, rate, out, bits):
    """The files that were asked for."""
    import numpy as np

    from wavedil import audio
    from wavedil.parameters import files

    if out is not None:
        audio.write_audio(out, np.concatenate(sound), rate)
        show.say(console, f"Wrote {out}")
    if bits is not None:
        begins = (report.sizes.cumsum() - report.sizes) / report.rate
        rows = zip(begins, report.sizes, report.bits, 1000 * report.latency, strict=True)
        lines = ["seconds,samples,bits_per_sample,latency_ms"]
        lines += [f"{begin:.6f},{size},{found:.4f},{latency:.4f}" for begin, size, found, latency in rows]
        files.write_bytes(bits, ("\n".join(lines) + "\n").encode())
        show.say(console, f"Wrote {bits}")
