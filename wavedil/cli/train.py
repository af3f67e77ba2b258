"""wavedil train: train a WaveNet on speech, or go on with a run."""

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import options, show
from wavedil.cli.options import given
from wavedil.runs import settings


def train(
    folder: Annotated[Path | None, typer.Argument(
        help="Folder with audio (searched through all its subfolders). Without it: the speech that comes with wavedil; "
             "bundled:it and bundled:ru are one speaker of it.", show_default=False)] = None,
    preset: Annotated[options.PresetName | None, given(
        f"tiny: seconds; small: minutes; base: hours. \\[default: {settings.DEFAULT_PRESET}]")] = None,
    config: Annotated[Path | None, given(
        "TOML file with the tables \\[model], \\[train], \\[data]; overrides the preset.")] = None,
    steps: Annotated[int | None, given("Training steps.", min=1)] = None,
    minutes: options.Minutes = None,
    out: Annotated[Path | None, given("Run folder. \\[default: runs/PRESET-DATE-TIME]")] = None,
    seed: Annotated[int | None, given("Seed of weights and batches. \\[default: 0]", min=0)] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:  # fmt: skip
    """Train a WaveNet on speech; the run folder then holds the model, the curves and a sample to listen to."""
    with show.errors():
        own = {"folder": folder, "preset": preset, "config": config, "seed": seed}
        given = [name for name, value in own.items() if value is not None]
        if resume and out is None:
            raise typer.BadParameter("--resume needs the run folder: --out RUN --resume")
        if resume and given:
            raise typer.BadParameter(f"--resume goes on with the run's own settings; leave out: {', '.join(given)}")
        from wavedil import runs

        console = Console()
        more = {"threads": threads, "device": show.device(console, device), "timed": minutes is not None}
        if resume:
            training = runs.train.resume(out, steps, **more)
        else:
            name = config.stem if config else preset or settings.DEFAULT_PRESET
            wanted = settings.collect(preset, config, folder, seed, steps)
            training = runs.train.start(out or new_folder(name), wanted, **more)
        tell_data(console, training)
        tell_model(console, training)
        done = training.trainer.step
        if training.steps_left:
            fit(console, training, minutes)
        elif done > training.total:
            show.say(console, f"The run has {done} steps already, more than the {training.total} of --steps: nothing "
                              "is left to train; the sample and the pictures are made again.")  # fmt: skip
        else:
            show.say(console, f"All {done} steps were done before; the sample and the pictures are made again.")
        finish(console, training)


def new_folder(name):
    """Where a run goes if nobody says where."""
    return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def tell_data(console, training):
    """What is in the data."""
    from wavedil.runs.sample import named

    show.heading(console, "Data")
    for line in training.clips.audit.lines():
        show.say(console, f"  {line}")
    baselines = named(training.run.baselines)
    if baselines:
        show.prose(console, "baselines, bits/sample of the validation clips: "
                            + ", ".join(f"{name} {value:.2f}" for name, value in baselines.items()))  # fmt: skip


def tell_model(console, training):
    """How large the model is, and what of it trains."""
    from wavedil.runs.summary import recipe_text

    trainer, model = training.trainer, training.trainer.model
    show.heading(console, "Model")
    field = show.milliseconds(model.receptive_field, training.clips.sample_rate)
    show.prose(console, f"{model.params.count:,} parameters, {len(model.config.dilations)} blocks; each output sample "
                        f"sees {model.receptive_field:,} input samples ({field})")  # fmt: skip
    if trainer.finetune is not None:
        learned = trainer.weights.count
        share = 100 * learned / model.params.count
        show.prose(console, f"{learned:,} values train ({share:.1f}% of the parameters); "
                            f"{recipe_text(trainer.finetune.to_dict())}")  # fmt: skip


def fit(console, training, minutes):
    """Train, and show how it goes; Ctrl-C ends the command."""
    run, trainer, t, total = training.run, training.trainer, training.run.settings.train, training.total
    show.heading(console, "Training")
    span = f"steps {trainer.step + 1} to {total}" if trainer.step else f"{total} steps"
    show.prose(console, f"{span} of {t.batch * t.accumulate} x {t.window:,} samples into {run.path}; Ctrl-C saves and "
                        "stops. Losses are in bits/sample: less is better.")  # fmt: skip
    try:
        with show.Display(console, total) as display:
            reason = trainer.fit(steps=training.steps_left, minutes=minutes, on_step=display.update)
    except KeyboardInterrupt:
        show.say(console, f"Stopped at step {trainer.step} of {total}; what was finished is saved. To go on:\n  "
                          + show.command("train", "--out", run.path, "--resume"))  # fmt: skip
        raise typer.Exit(130) from None
    if reason != "steps":
        why = {"minutes": "the time that --minutes gave is over", "patience": "validation no longer improves"}[reason]
        show.say(console, f"Stopped at step {trainer.step} of {total}: {why}.")


def finish(console, training):
    """Make the sample and the pictures, and say what was learned."""
    from wavedil import runs

    run, device = training.run, training.trainer.model.device
    if device != "cpu":
        show.prose(console, f"the sample is generated on {device}, as the model was trained")
    with show.percent(console, "Generating") as progress:
        runs.sample.illustrate(training, progress)
    compared = None
    if run.parent is not None:
        compared = runs.finetune.compare(training)
        _tell_comparison(console, training, compared)
    learned, held_out = run.losses()
    show.heading(console, "What was learned")
    if held_out:
        show.prose(console, runs.summary.verdict(held_out[-1][1], run.baselines))
    else:
        show.prose(console, f"{learned[-1][1]:.2f} bits for each sample of the training clips; no clip was held out, "
                            "so it is unknown how much of that holds for other speech.")  # fmt: skip
    show.heading(console, f"In {run.path}")
    show.say(console, "  sample.wav       four seconds that the model made up: listen to it\n"
                      "  spectrogram.png  a real clip above it\n"
                      "  loss.png         the curves; metrics.jsonl has the figures\n"
                      + ("  finetune.png     before and after\n" if compared and compared.curve else "")
                      + "  model.safetensors, trainer.safetensors, config.json")  # fmt: skip
    show.heading(console, "What to try next")
    for what, command in _suggestions(training):
        show.say(console, f"  {what + ':':27}{command}")


def _tell_comparison(console, training, compared):
    from wavedil import report

    run = training.run
    if not compared.rows:
        return
    show.heading(console, "Before and after")
    columns = [("  bits/sample of", "left"), ("before", "right"), ("after", "right"), ("change", "right")]
    show.table(console, columns, [(f"  {name}", f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}")
                                  for name, (first, last) in compared.rows.items()])  # fmt: skip
    if compared.curve:
        title = f"{run.path.name}: {training.trainer.step} steps from {Path(run.parent['run']).name}"
        report.before_after(run.path / "finetune.png", compared.curve, compared.rows, title=title)


def _suggestions(training):
    """(what, command) of what to try next."""
    run, step = training.run, training.trainer.step
    out = run.path / "more.wav"
    longer = show.command("train", "--out", run.path, "--resume")
    if step >= run.settings.train.steps:
        longer += f" --steps {2 * step}"
    sample = ["--seconds", 4, "--temperature", 1.0, "--seed", 1, "-o", out]
    yield "another sample", show.command("generate", run.path, *sample)
    if len(run.speakers) > 1:
        other = next(name for i, name in enumerate(run.speakers) if i != run.speaker())
        yield "the other speaker", show.command("generate", run.path, "--speaker", other, "-o", out.with_stem("other"))
    yield "what the model is made of", show.command("info", run.path)
    yield "train it longer", longer
    if run.parent is None:
        yield "a larger model (hours)", show.command("train", "--preset", "base")
        yield "your own recordings", show.command("train", "FOLDER")
        yield "adapt it to another speaker", show.command("finetune", run.path, "FOLDER")
