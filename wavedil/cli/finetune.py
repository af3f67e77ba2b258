"""wavedil finetune: adapt a trained run to another speaker."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given
from wavedil.cli.train import finish, fit, new_folder, tell_data, tell_model
from wavedil.errors import ConfigError
from wavedil.runs import settings


def finetune(
    parent: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `wavedil train`: where to start from.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER",
                                          help="Folder with the new audio; or bundled:it, bundled:ru.")],
    freeze: Annotated[list[str] | None, given(
        'Parameters that do not train, by name: "blocks.0-9.*". May be given several times. With "input.*" and a '
        "lower part frozen, steps take less time.")] = None,
    lr_scale: Annotated[list[str] | None, given(
        'Factor on the learning rate: "head.*=2". May be given several times.', metavar="PATTERN=FACTOR")] = None,
    lora: Annotated[int | None, given("Train low-rank adapters and nothing else.", metavar="RANK", min=1)] = None,
    learning_rate: Annotated[float | None, given(
        f"\\[default: {settings.FINETUNE_RATE} of the run's own; with --lora {settings.LORA_RATE} of it]",
        min=0.0)] = None,
    steps: Annotated[int | None, given(f"Training steps. \\[default: {settings.FINETUNE_STEPS}]", min=1)] = None,
    minutes: options.Minutes = None,
    eval_old: Annotated[str | None, given(
        "Audio of the old speaker, or bundled, bundled:it, bundled:ru: see how much of it is forgotten. Of the folder "
        "that RUN was trained on, the held-out clips count.", metavar="FOLDER")] = None,
    speaker: Annotated[str | None, given(
        "Name of the new speaker, if RUN has several; a name that RUN knows goes on with that speaker. "
        "\\[default: name of the folder]")] = None,
    resample: Annotated[bool, typer.Option(
        "--resample", help="Accept audio of another sample rate than the model's, and convert it.")] = False,
    config: Annotated[Path | None, given("TOML file with the tables \\[train], \\[data], \\[finetune].")] = None,
    out: Annotated[Path | None, given("Run folder. \\[default: runs/finetune-DATE-TIME]")] = None,
    seed: Annotated[int | None, given("Seed of batches and new values. \\[default: 0]", min=0)] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:  # fmt: skip
    """Adapt a trained run to a new speaker. Go on with it later: wavedil train --resume --out FOLDER."""
    with show.errors():
        from wavedil import runs

        console, old = Console(), runs.Run.open(parent)
        wanted = runs.finetune.collect(old, folder, config, freeze=freeze or (), lora=lora,
                                       lr_scale=[_factor(text) for text in lr_scale or ()],
                                       steps=steps, learning_rate=learning_rate, seed=seed)  # fmt: skip
        training = runs.finetune.start(out or new_folder("finetune"), old, wanted, speaker=speaker, eval_old=eval_old,
                                       resample=resample, threads=threads, device=show.device(console, device),
                                       timed=minutes is not None)  # fmt: skip
        tell_data(console, training)
        tell_model(console, training)
        for name, bits in runs.finetune.measure_before(training).items():
            if bits is not None:
                show.prose(console, f"before: {bits:.3f} bits/sample of the {name} speaker's clips")
        fit(console, training, minutes)
        finish(console, training)


def _factor(text):
    pattern, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        pattern = ""
    if not pattern:
        raise ConfigError(f'--lr-scale must be PATTERN=FACTOR, such as "head.*=2", got {text!r}')
    return pattern, factor
