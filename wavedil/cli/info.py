"""wavedil info: what a model is made of, what it costs, and how fast it is here."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given
from wavedil.runs import settings


def info(
    run: Annotated[Path | None, typer.Argument(help="Run folder of `wavedil train`.", show_default=False)] = None,
    preset: Annotated[options.PresetName | None, given("Show a preset.")] = None,
    config: Annotated[Path | None, given("Show what a TOML file describes.")] = None,
    measure: Annotated[bool, typer.Option(
        help="Take a second or two to measure how fast it will generate and stream.")] = True,
    device: Annotated[str, typer.Option(help=f"Where to measure: {options.DEVICES}")] = "cpu",
) -> None:  # fmt: skip
    """Show a model: parameters, receptive field, layers, arithmetic, memory, and its speed on this machine."""
    with show.errors():
        if (run is None) == (preset is None and config is None):
            raise typer.BadParameter("give either a run folder, or --preset or --config or both")
        from wavedil import runs

        console = Console()
        if run is not None:
            found = runs.Run.open(run)
            if found.parent is not None:
                show.say(console, f"fine-tuned from  {found.parent['run']}, step {found.parent['step']}")
                show.say(console, f"recipe           {runs.summary.recipe_text(found.settings.finetune)}")
            wanted, model = found.settings, runs.summary.model(found, show.device(console, device))
        else:
            wanted = settings.collect(preset, config)
            speakers = 2 if not wanted.data.folder else 0  # the bundled speech has two
            model = runs.summary.untrained(wanted, speakers, show.device(console, device))
        _tell(console, runs.summary.summarise(model, wanted.train), model.config.sample_rate, wanted.train)
        if measure and type(model).__name__ == "WaveNet":
            _tell_speed(console, model)


def _tell(console, found, rate, t):
    columns = [("layer", "left"), ("what", "left"), ("sees samples", "right"), ("ms", "right"), ("parameters", "right")]
    show.table(console, columns, [
        (layer.name, layer.what, f"{layer.field:,}", f"{1000 * layer.field / rate:.1f}" if rate else "-",
         f"{layer.parameters:,}") for layer in found.layers])  # fmt: skip
    field = f" = {show.milliseconds(found.receptive_field, rate)} at {rate} Hz" if rate else ""
    lines = [
        ("parameters", f"{found.parameters:,} ({show.size(found.nbytes)})"),
        ("receptive field", f"{found.receptive_field:,} samples{field}"),
        ("arithmetic", f"{found.flops:,} FLOPs per sample forward, about {3 * found.flops:,} in training"),
    ]
    if found.memory is not None:
        flops = 3e-9 * found.flops * t.batch * t.window
        lines.append(("a training step", f"{t.batch} x {t.window:,} samples, {flops:.1f} GFLOP, about "
                                         f"{show.size(found.memory)} of memory"))  # fmt: skip
    for name, text in lines + [("warning", text) for text in found.cautions]:
        show.say(console, f"{name + ':':17}{text}")


def _tell_speed(console, model):
    from wavedil import streaming

    found = streaming.budget(model)
    show.say(console, f"{'a stream:':17}{show.size(found.state_bytes)} of state")
    where = "this machine" if model.device == "cpu" else model.device
    show.heading(console, f"Speed on {where}, one stream (measured just now)")
    rows = [("generating", found.generation)]
    rows += [(f"streaming, block {block}", speed) for block, speed in found.streaming.items()]
    columns = [("what", "left"), ("samples/s", "right"), ("x real time", "right"), ("", "left")]
    show.table(console, columns, [
        (what, f"{speed:,.0f}", f"{speed / found.rate:.2f}",
         "faster than real time" if speed > found.rate else "too slow for real time") for what, speed in rows
    ])  # fmt: skip
