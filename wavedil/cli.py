"""The command line: train, finetune, generate, stream, info, dilations.

Exit codes: 0 done, 1 something was wrong (one line on stderr says what), 2 wrong usage, 130 interrupted (and saved).
What a command needs beyond typer and rich is imported when it runs, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import re
import shlex
import shutil
import sys
import textwrap
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from wavedil import receptive
from wavedil import settings as settings_module
from wavedil.errors import CheckpointError, ConfigError, DataError, WavedilError
from wavedil.kernels import storage

Block = StrEnum("Block", {name: name for name in receptive.BLOCKS})
Storage = StrEnum("Storage", {name: name for name in storage.KINDS})
Preset = StrEnum("Preset", {name: name for name in settings_module.PRESETS})
BUNDLED = "bundled"  # :it, :ru
SAMPLE_SECONDS = 4.0
# Seen after a short training, 24 takes of two seconds: at 0.95 half of them fall silent after some tenths of a second.
SAMPLE_TEMPERATURE = 1.0

_DEVICES = "cpu, cuda, cuda:N for a certain GPU, or auto: a GPU if there is one."

_STORAGE = "Store the model's weights in fewer bytes, rounded: faster if they are large."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Train WaveNets on speech, and hear them, with nothing but NumPy and Numba.")


def main() -> None:
    """The entry point of the `wavedil` script."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"wavedil {importlib.metadata.version('wavedil')}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True,
                                                   help="Show the version and exit.")] = False) -> None:
    pass


# ---- train ---------------------------------------------------------------------------------------------------------
@app.command()
def train(
    folder: Annotated[Path | None, typer.Argument(help="Folder with audio (searched through all its subfolders). "
                                                       "Without it: the speech that comes with wavedil; bundled:it "
                                                       "and bundled:ru are one voice of it.",
                                                  show_default=False)] = None,
    preset: Annotated[Preset | None, typer.Option(
        help=f"tiny: seconds; small: minutes; base: hours. \\[default: {settings_module.DEFAULT_PRESET}]",
        show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the tables \\[model], \\[train], \\[data]; "
                                                     "overrides the preset.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option(
        min=0.0, help="Stop after this time at the latest. The run then depends on the machine's speed.",
        show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. \\[default: runs/PRESET-DATE-TIME]",
                                             show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and batches. \\[default: 0]",
                                             show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the result does not depend on it. "
                                                            "\\[default: all cores]", show_default=False)] = None,
    device: Annotated[str, typer.Option(help=_DEVICES)] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a WaveNet on speech; the run folder then holds the model, the curves and a sample to listen to."""
    with _errors():
        options = {"folder": folder, "preset": preset, "config": config, "seed": seed}
        if resume:
            given = [name for name, value in options.items() if value is not None]
            if out is None:
                raise typer.BadParameter("--resume needs the run folder: --out RUN --resume")
            if given:
                raise typer.BadParameter(f"--resume goes on with the run's own settings; leave out: {', '.join(given)}")
            run, wanted = out, None
        else:
            wanted = _settings(**options, steps=steps)
            name = config.stem if config else preset or settings_module.DEFAULT_PRESET
            run = out or Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
            _check_new_run(run)
        _train(Console(), run, wanted, steps, minutes, threads, device)


def _settings(folder=None, preset=None, config=None, seed=None, steps=None):
    layers = [settings_module.preset(preset or settings_module.DEFAULT_PRESET)]
    if config:
        layers.append(settings_module.read_toml(config))
    if folder:
        layers.append(("FOLDER", {"data": {"folder": os.fspath(folder)}}))
    if seed is not None:
        layers.append(("--seed", {"train": {"seed": seed}}))
    if steps is not None:
        layers.append(("--steps", {"train": {"steps": steps}}))
    wanted = settings_module.from_tables(*layers)
    return dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, folder=_whole_path(wanted.data.folder)))


def _whole_path(folder):
    """Whole, because a resume may start in another folder; what is bundled has no path."""
    if folder == BUNDLED:
        return ""
    return os.path.abspath(folder) if folder and not folder.startswith(f"{BUNDLED}:") else folder


def _check_new_run(run):
    """Say no before the long work begins."""
    for part in (run, *run.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"cannot make the run folder {run}: {part} is not a folder")
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is not empty: choose another --out, or go on with it: "
                          f"{_command('train', '--out', run, '--resume')}")


def _train(console, run, wanted, steps, minutes, threads, device="cpu"):
    import wavedil as wd

    device = _device(console, device)
    about = None
    if wanted is None:
        about = _read_run(run)
        wanted = settings_module.from_tables((f"{run / 'config.json'}", about["settings"]))
    _model_config(wd, wanted, 0)  # what is wrong with the settings should show before the data is read
    data = _open_data(wd, wanted.data, about["speakers"] if about else ())
    validation = data.validation_clips()
    yardsticks = _show_data(wd, console, data, validation)

    if about is None:
        trainer = _new_trainer(wd, wanted, data, validation, run, threads, device)
        about = {"settings": wanted.to_dict(), "speakers": list(data.speakers), "reproducible": True,
                 "yardsticks": yardsticks}
        total = wanted.train.steps
    else:
        if list(data.speakers) != about["speakers"]:
            raise DataError(f"{run} was trained with the speakers {about['speakers']}, the data now has "
                            f"{list(data.speakers)}")
        total = steps or wanted.train.steps
        longer = total != wanted.train.steps
        if longer:
            about["settings"]["train"]["steps"] = total
            wanted = settings_module.from_tables(("--steps", about["settings"]))
        trainer = wd.Trainer.resume(run, data, validation=data if validation else None, threads=threads, device=device,
                                    schedule=_schedule(wd, wanted.train) if longer else None)
    if minutes is not None:
        about["reproducible"] = False
    _write_run(run, about)
    _show_model(console, trainer, data)
    if trainer.step < total:
        _fit(console, run, wanted.train, trainer, total, minutes)
    else:
        _say(console, f"All {total} steps were done before; the sample and the pictures are made again.")
    _finish(console, run, about, data, validation, trainer)


def _device(console, name):
    """The device of that name; says so where "auto" means the CPU."""
    from wavedil.ops import devices

    return devices.resolve(name, lambda text: _prose(console, text))


def _show_data(wd, console, data, validation):
    """What is in the data; returns its yardsticks."""
    yardsticks = None
    if validation:
        yardsticks = dataclasses.asdict(wd.audio.yardsticks(data.train_clips(), validation, data.sample_rate))
    _say(console, "Data", style="bold")
    for line in data.audit.lines():
        _say(console, f"  {line}")
    if yardsticks:
        _prose(console, "yardsticks, bits/sample of the validation clips: "
                        + ", ".join(f"{name} {value:.2f}" for name, value in _named(yardsticks).items()))
    return yardsticks


def _show_model(console, trainer, data):
    model = trainer.model
    _say(console, "Model", style="bold")
    _prose(console, f"{model.params.count:,} parameters, {len(model.config.dilations)} blocks; each output sample sees "
                    f"{model.receptive_field:,} input samples ({_ms(model.receptive_field, data.sample_rate)})")
    if trainer.finetune is not None:
        learned = trainer.weights.count
        _prose(console, f"{learned:,} values train ({100 * learned / model.params.count:.1f}% of the parameters); "
                        f"{recipe_text(trainer.finetune.to_dict())}")


def _fit(console, run, t, trainer, total, minutes):
    _say(console, "Training", style="bold")
    span = f"steps {trainer.step + 1} to {total}" if trainer.step else f"{total} steps"
    _prose(console, f"{span} of {t.batch * t.accumulate} x {t.window:,} samples into "
                    f"{run}; Ctrl-C saves and stops. Losses are in bits/sample: less is better.")
    try:
        with _Display(console, total) as display:
            reason = trainer.fit(steps=total - trainer.step, minutes=minutes, on_step=display.update)
    except KeyboardInterrupt:
        _say(console, f"Stopped at step {trainer.step} of {total}; what was finished is saved. To go on:\n  "
                      + _command("train", "--out", run, "--resume"))
        raise typer.Exit(130) from None
    if reason != "steps":
        why = {"minutes": "the time that --minutes gave is over", "patience": "validation no longer improves"}[reason]
        _say(console, f"Stopped at step {trainer.step} of {total}: {why}.")


def _open_data(wd, wanted, voices=()):
    """The clips that settings name; `voices` are the model's, for those settings that say which of them speaks."""
    data = _open_folder(wd, wanted)
    return _OneVoice(data, voices, wanted.voice) if wanted.voice else data


def _open_folder(wd, wanted):
    if wanted.folder.startswith(f"{BUNDLED}:"):
        from wavedil.audio.clips import BUNDLED as place

        voice = wanted.folder.partition(":")[2]
        clips = [clip for clip in wd.audio.bundled_manifest()["clips"] if clip["speaker"] == voice]
        if not clips:
            known = sorted({f"{BUNDLED}:{clip['speaker']}" for clip in wd.audio.bundled_manifest()["clips"]})
            raise DataError(f"{wanted.folder}: the bundled voices are {', '.join(known)}")
        held = [clip["path"].removeprefix(f"{voice}/") for clip in clips if clip["split"] == "validation"]
        return wd.audio.ClipFolder(place / voice, wanted.sample_rate, validation=held)
    if wanted.folder:
        return wd.audio.ClipFolder(wanted.folder, wanted.sample_rate, validation=wanted.validation, seed=wanted.seed,
                                   speakers="folders" if wanted.speakers else None)
    return wd.audio.bundled_clips(sample_rate=wanted.sample_rate, speakers="folders")


class _OneVoice:
    """Clips that are all of one voice of a model."""

    def __init__(self, data, voices, voice):
        self.audit, self.sample_rate, self.speakers = data.audit, data.sample_rate, tuple(voices)
        self._data, self._voice = data, voices.index(voice)

    def batch(self, rng, batch, window):
        import numpy as np

        codes, weights = self._data.batch(rng, batch, window)
        return codes, weights, {"speaker": np.full(len(codes), self._voice)}

    def train_clips(self):
        return self._marked(self._data.train_clips())

    def validation_clips(self):
        return self._marked(self._data.validation_clips())

    def validation_batches(self, batch, window):
        from wavedil.audio.clips import whole_clips

        return whole_clips(self.validation_clips(), batch, window)

    def _marked(self, clips):
        return [(name, codes, self._voice) for name, codes, _ in clips]


def _model_config(wd, wanted, voices):
    try:
        return wd.WaveNetConfig.from_dict({**wanted.model, "sample_rate": wanted.data.sample_rate, "speakers": voices})
    except ConfigError as error:
        raise ConfigError(f"[model] {error}") from error


def _new_trainer(wd, wanted, data, validation, run, threads, device):
    config, t = _model_config(wd, wanted, len(data.speakers)), wanted.train
    model = wd.WaveNet(config, seed=t.seed, recompute=t.recompute, half_activations=t.half_activations,
                       threads=threads, device=device)
    return _trainer_of(wd, t, model, data, validation, run)


def _trainer_of(wd, t, model, data, validation, run, recipe=None):
    if t.optimizer == "sgd":
        optimizer = wd.SGD(t.learning_rate, momentum=t.momentum)
    elif t.optimizer == "adam":
        optimizer = wd.Adam(t.learning_rate)
    else:
        optimizer = wd.AdamW(t.learning_rate, weight_decay=t.weight_decay)
    return wd.Trainer(model, data, optimizer=optimizer, batch=t.batch, window=t.window, seed=t.seed,
                      schedule=_schedule(wd, t), clip=t.clip or None, ema=t.ema or None, accumulate=t.accumulate,
                      validation=data if validation else None, validate_every=t.validate_every,
                      patience=t.patience or None, finetune=recipe, folder=run)


def _schedule(wd, t):
    if t.schedule == "constant":
        return wd.schedules.constant(warmup=t.warmup)
    final = {"final": t.final} if t.final else {}
    return getattr(wd.schedules, t.schedule)(t.steps, warmup=t.warmup, **final)


def _finish(console, run, about, data, validation, trainer):
    """Sample, pictures and the last lines."""
    from wavedil import report
    from wavedil.audio import mulaw_decode
    from wavedil.training import read_metrics

    metrics = read_metrics(run / "metrics.jsonl")
    train = [(row["step"], row["loss"]) for row in metrics]
    held_out = [(row["step"], row["validation"]) for row in metrics if row["validation"] is not None]
    before = about["before"]["new"] if "parent" in about else None
    if before is not None:
        held_out.insert(0, (0, before))
    yardsticks = _named(about["yardsticks"]) if about["yardsticks"] else {}
    report.loss_curve(run / "loss.png", train, held_out, yardsticks, title=f"{run.name}: {trainer.step} steps")

    speaker = _own_voice(about)
    generated = _generate(console, run, SAMPLE_SECONDS, SAMPLE_TEMPERATURE, 0, speaker, run / "sample.wav")
    voice = f", voice {about['speakers'][speaker]}" if speaker is not None else ""
    clips = [clip for clip in validation or data.train_clips() if clip[2] == speaker] or list(data.train_clips())
    wanted_length = SAMPLE_SECONDS * data.sample_rate
    name, codes, _ = min(clips, key=lambda clip: abs(len(clip[1]) - wanted_length))
    report.spectrogram_page(
        run / "spectrogram.png",
        [(f"real: {name}", mulaw_decode(codes)),
         (f"generated: temperature {SAMPLE_TEMPERATURE}, seed 0{voice}", generated)],
        data.sample_rate, title=f"{run.name}: {trainer.step} steps")

    if "parent" in about:
        _compare(console, run, about, held_out, trainer)
    _say(console, "What was learned", style="bold")
    if held_out:
        _prose(console, verdict(held_out[-1][1], about["yardsticks"]))
    else:
        _prose(console, f"{train[-1][1]:.2f} bits for each sample of the training clips; no clip was held out, so it "
                        "is unknown how much of that holds for other speech.")
    _say(console, f"In {run}", style="bold")
    _say(console, "  sample.wav       four seconds that the model made up: listen to it\n"
                  "  spectrogram.png  a real clip above it\n"
                  "  loss.png         the curves; metrics.jsonl has the figures\n"
                  + ("  finetune.png     before and after\n" if "parent" in about and held_out else "") +
                  "  model.safetensors, trainer.safetensors, config.json")
    _say(console, "What to try next", style="bold")
    out = run / "more.wav"
    longer = _command("train", "--out", run, "--resume")
    if trainer.step >= about["settings"]["train"]["steps"]:
        longer += f" --steps {2 * trainer.step}"
    suggestions = [
        ("another sample", _command("generate", run, "--seconds", 4, "--temperature", 1.0, "--seed", 1, "-o", out)),
        ("what the model is made of", _command("info", run)),
        ("train it longer", longer),
    ]
    if "parent" not in about:
        suggestions += [("a larger model (hours)", _command("train", "--preset", "base")),
                        ("your own recordings", _command("train", "FOLDER")),
                        ("adapt it to another voice", _command("finetune", run, "FOLDER"))]
    if len(about["speakers"]) > 1:
        other = next(name for i, name in enumerate(about["speakers"]) if i != speaker)
        suggestions.insert(1, ("the other voice", _command("generate", run, "--speaker", other,
                                                           "-o", out.with_stem("other"))))
    for what, command in suggestions:
        _say(console, f"  {what + ':':27}{command}")


def verdict(bits: float, yardsticks: dict) -> str:
    """What a validation loss means, in a sentence for a newcomer."""
    order0, order1 = yardsticks["order0"], yardsticks["order1"]
    text = f"For each sample of speech that it never heard, the model needs {bits:.2f} bits. "
    if bits >= order0:
        return text + (f"Knowing how often each value occurs, and nothing else, needs {order0:.2f}: it has not learned "
                       "anything about speech yet; train longer.")
    if bits >= order1:
        return text + (f"That is less than {order0:.2f}, for knowing how often each value occurs, but not yet less "
                       f"than {order1:.2f}, for knowing the sample before; train longer.")
    return text + (f"FLAC needs {yardsticks['flac']:.2f}, knowing nothing 8.00, knowing only the sample before "
                   f"(order-1) {order1:.2f}: it predicts speech better than that by {order1 - bits:.2f} bits per "
                   "sample.")


# ---- finetune ------------------------------------------------------------------------------------------------------
@app.command()
def finetune(
    parent: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `wavedil train`: where to start from.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER",
                                          help="Folder with the new audio; or bundled:it, bundled:ru.")],
    freeze: Annotated[list[str] | None, typer.Option(
        help='Parameters that do not train, by name: "blocks.0-9.*". May be given several times. With "input.*" and a '
             "lower part frozen, steps take less time.", show_default=False)] = None,
    lr_scale: Annotated[list[str] | None, typer.Option(
        metavar="PATTERN=FACTOR", help='Factor on the learning rate: "head.*=2". May be given several times.',
        show_default=False)] = None,
    lora: Annotated[int | None, typer.Option(metavar="RANK", min=1, help="Train low-rank adapters and nothing else.",
                                             show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(
        min=0.0, help=f"\\[default: {settings_module.FINETUNE_RATE} of the run's own; with --lora "
                      f"{settings_module.LORA_RATE} of it]", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(
        min=1, help=f"Training steps. \\[default: {settings_module.FINETUNE_STEPS}]", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option(
        min=0.0, help="Stop after this time at the latest. The run then depends on the machine's speed.",
        show_default=False)] = None,
    eval_old: Annotated[str | None, typer.Option(
        metavar="FOLDER", help="Audio of the old voice, or bundled, bundled:it, bundled:ru: see how much of it is "
                               "forgotten. Of the folder that RUN was trained on, the held-out clips count.",
        show_default=False)] = None,
    voice: Annotated[str | None, typer.Option(
        help="Name of the new voice, if RUN has several; a name that RUN knows goes on with that voice. "
             "\\[default: name of the folder]", show_default=False)] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Accept audio of another sample rate than the model's, "
                                                              "and convert it.")] = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with the tables \\[train], \\[data], \\[finetune].",
                                                show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. \\[default: runs/finetune-DATE-TIME]",
                                             show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of batches and new values. \\[default: 0]",
                                             show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the result does not depend on it. "
                                                            "\\[default: all cores]", show_default=False)] = None,
    device: Annotated[str, typer.Option(help=_DEVICES)] = "cpu",
) -> None:
    """Adapt a trained run to a new voice. Go on with it later: wavedil train --resume --out FOLDER."""
    with _errors():
        run = out or Path("runs") / f"finetune-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        old = _read_run(parent)
        model = parent / "model.safetensors"
        if not model.is_file():
            raise CheckpointError(f"{parent} holds no trained model: there is no {model}")
        _check_new_run(run)
        recipe = {"freeze": freeze or [], "lr_scale": [_factor(text) for text in lr_scale or []],
                  "lora": lora and {"rank": lora}}
        options = {"steps": steps, "learning_rate": learning_rate, "seed": seed}
        before = settings_module.from_tables((f"{parent / 'config.json'}", old["settings"]))
        wanted = _finetune_settings(parent, before, folder, config, recipe, options)
        _finetune(Console(), run, parent, old, before, wanted, voice, eval_old, resample, minutes,
                  {"threads": threads, "device": device})


def _factor(text):
    pattern, equals, number = text.rpartition("=")
    try:
        return [pattern, float(number)]
    except ValueError:
        equals = ""
    if not equals:
        raise ConfigError(f'--lr-scale must be PATTERN=FACTOR, such as "head.*=2", got {text!r}')


def _finetune_settings(parent, before, folder, config, recipe, options):
    """The settings of the run to adapt, with those for fine-tuning over them, then the file, then the options."""
    from wavedil.parameters import files

    name, tables = settings_module.read_toml(config) if config else ("", {})
    made_of = files.read_metadata(parent / "model.safetensors", "model")["config"]
    for table, known in (("model", made_of), ("data", {"sample_rate": made_of["sample_rate"]})):
        for key in tables.get(table, {}).keys() & known.keys():
            value, own = tables[table][key], known[key]
            if value != own:
                raise ConfigError(f"{name}: [{table}] {key} must be {own!r}, as {parent} was trained, got {value!r}; "
                                  "what a model is made of is changed in Python: with_head, with_blocks, with_speakers")
    lora = recipe["lora"] or tables.get("finetune", {}).get("lora")
    steps = options["steps"] or tables.get("train", {}).get("steps", settings_module.FINETUNE_STEPS)
    wanted = settings_module.from_tables(
        settings_module.finetune_tables(before, bool(lora), steps), (name, tables),
        ("FOLDER", {"data": {"folder": _whole_path(folder)}}),
        ("options", {"train": {key: value for key, value in options.items() if value is not None},
                     "finetune": {key: value for key, value in recipe.items() if value}}))
    _recipe(wanted)
    return wanted


def _recipe(wanted):
    from wavedil.training import FineTune

    try:
        return FineTune.from_dict(wanted.finetune)
    except ConfigError as error:
        raise ConfigError(f"[finetune] {error}") from error


def _finetune(console, run, parent, old, before, wanted, voice, eval_old, resample, minutes, options):
    import zlib

    import wavedil as wd
    from wavedil.ops.contract import on_host

    options["device"] = _device(console, options["device"])
    model = wd.load(parent / "model.safetensors", recompute=wanted.train.recompute,
                    half_activations=wanted.train.half_activations, **options)
    if model.config.classes != 256 or model.config.codec != "mulaw":
        raise ConfigError(f"{parent} has {model.config.classes} classes ({model.config.codec}), audio has the 256 of "
                          "mu-law: another head is made in Python, by model.with_head(classes=256)")
    about = {"settings": None, "speakers": list(old["speakers"]), "reproducible": minutes is None, "yardsticks": None,
             "parent": {"run": os.path.abspath(parent), "step": model.about["step"],
                        "weights": zlib.crc32(on_host(model.params.flat)), "settings": old["settings"]},
             "eval_old": None if eval_old is None else _whole_path(eval_old)}
    kept = _old_clips(wd, about["eval_old"], before, old["speakers"], resample)
    if about["speakers"]:
        voice = voice or Path(wanted.data.folder.removeprefix(f"{BUNDLED}:")).name
        if voice not in about["speakers"]:
            about["speakers"].append(voice)
            model = model.with_speakers(len(about["speakers"]), seed=wanted.train.seed)
        wanted = dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, voice=voice))
    elif voice:
        raise ConfigError(f"--voice {voice}: {parent} has only one voice, which is replaced")
    data = _open_data(wd, wanted.data, about["speakers"])
    _check_rates(data.audit, resample)
    validation = data.validation_clips()
    about["settings"], about["yardsticks"] = wanted.to_dict(), _show_data(wd, console, data, validation)
    trainer = _trainer_of(wd, wanted.train, model, data, validation, run, _recipe(wanted))
    _show_model(console, trainer, data)
    about["before"] = {"new": trainer.validate() if validation else None,
                       "old": trainer.validate(_Clips(kept)) if kept else None}
    _write_run(run, about)
    for name, bits in (("new", about["before"]["new"]), ("old", about["before"]["old"])):
        if bits is not None:
            _prose(console, f"before: {bits:.3f} bits/sample of the {name} voice's clips")
    _fit(console, run, wanted.train, trainer, wanted.train.steps, minutes)
    _finish(console, run, about, data, validation, trainer)


class _Clips:
    """Clips to validate with."""

    def __init__(self, clips):
        self._clips = clips

    def validation_batches(self, batch, window):
        from wavedil.audio.clips import whole_clips

        return whole_clips(self._clips, batch, window)


def _old_clips(wd, folder, before, voices, resample):
    """Clips of the old voice: held-out ones where the model was trained on that folder or it is bundled, else all."""
    if folder is None:
        return []
    wanted = before.data
    if folder != wanted.folder:
        held_out = 0.0 if os.path.isabs(folder) else wanted.validation
        wanted = dataclasses.replace(wanted, folder=folder, voice="", validation=held_out, speakers=bool(voices))
    data = _open_data(wd, wanted, voices)
    _check_rates(data.audit, resample)
    names = data.speakers or (Path(folder.removeprefix(f"{BUNDLED}:")).name,)
    unknown = [name for name in names if voices and name not in voices]
    if unknown:
        raise ConfigError(f"--eval-old {folder}: folders must be voices that the model knows ({', '.join(voices)}), "
                          f"got {', '.join(unknown)}")
    return [(name, codes, voices.index(names[speaker or 0]) if voices else None)
            for name, codes, speaker in data.validation_clips() or data.train_clips()]


def _check_rates(audit, resample):
    others = {rate: count for rate, count in audit.rates.items() if rate != audit.sample_rate}
    if others and not resample:
        found = ", ".join(f"{count} clips at {rate:,} Hz" for rate, count in sorted(others.items()))
        raise DataError(f"{audit.path}: must be at the model's {audit.sample_rate:,} Hz, got {found}: --resample "
                        "converts them")


def recipe_text(recipe: dict) -> str:
    """What fine-tuning trains, in a sentence."""
    parts = []
    if recipe.get("lora"):
        parts.append(f"adapters of rank {recipe['lora']['rank']}")
    for key, words in (("train", "only"), ("freeze", "frozen:"), ("lr_scale", "learning rate:"),
                       ("decay_scale", "weight decay:"), ("unfreeze", "from step:")):
        items = recipe.get(key) or ()
        items = items.items() if isinstance(items, dict) else items
        texts = [item if isinstance(item, str) else f"{item[0]} x {item[1]:g}" if key != "unfreeze" else
                 f"{item[0]} {item[1]}" for item in items]
        if texts:
            parts.append(f"{words} {', '.join(texts)}")
    if recipe.get("l2_start"):
        parts.append(f"L2 to the start {recipe['l2_start']:g}")
    return "; ".join(parts) or "all of the model trains"


def _compare(console, run, about, held_out, trainer):
    """Before and after, as a table and a picture."""
    import wavedil as wd
    from wavedil import report

    after = {"new": held_out[-1][1] if held_out else None, "old": None}
    if about["eval_old"] is not None:
        before = settings_module.from_tables(("the pretrained run", about["parent"]["settings"]))
        kept = _old_clips(wd, about["eval_old"], before, about["speakers"], resample=True)
        after["old"] = trainer.validate(_Clips(kept))
    about["after"] = after
    _write_run(run, about)
    rows = {}
    for key in after:
        if after[key] is not None and about["before"][key] is not None:
            rows[f"{key} voice"] = about["before"][key], after[key]
    if not rows:
        return
    _say(console, "Before and after", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("  bits/sample of", "before", "after", "change"):
        table.add_column(title, justify="right" if title[0] != " " else "left")
    for name, (first, last) in rows.items():
        table.add_row(f"  {name}", f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}")
    console.print(table)
    if held_out:
        report.before_after(run / "finetune.png", held_out, rows,
                            title=f"{run.name}: {trainer.step} steps from {Path(about['parent']['run']).name}")


def _own_voice(about):
    """The number of the voice that a run is about: that of fine-tuning, else the first; None if there are none."""
    voice = about["settings"]["data"].get("voice")
    return about["speakers"].index(voice) if voice else 0 if about["speakers"] else None


# ---- generate ------------------------------------------------------------------------------------------------------
@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Run folder of `wavedil train`.")],
    seconds: Annotated[float, typer.Option(min=0.001, help="Length.")] = SAMPLE_SECONDS,
    temperature: Annotated[float, typer.Option(min=0.0, help="1 draws as the model believes; less is calmer, 0 takes "
                                                             "the likeliest.")] = SAMPLE_TEMPERATURE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same sound.")] = 0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw only from so many of the likeliest values.",
                                              show_default=False)] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw only from the likeliest values that together have this "
                                                     "probability, above 0, up to 1.", show_default=False)] = None,
    primer: Annotated[Path | None, typer.Option(help="Audio file to go on from; it is not part of the result.",
                                                show_default=False)] = None,
    speaker: Annotated[str | None, typer.Option(help="Voice, for a model of several.", show_default=False)] = None,
    weights: Annotated[Storage | None, typer.Option(help=_STORAGE, show_default=False)] = None,
    device: Annotated[str, typer.Option(help=_DEVICES)] = "cpu",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="WAV or FLAC file. \\[default: RUN/generated.wav]",
                                             show_default=False)] = None,
) -> None:
    """Let a trained model make sound."""
    with _errors():
        index = _voice(run, speaker)
        console, out = Console(), _audio_file(out or run / "generated.wav")
        _generate(console, run, seconds, temperature, seed, index, out, top_k, top_p, primer, weights, device)
        _say(console, f"Wrote {out}")


def _generate(console, run, seconds, temperature, seed, speaker, out, top_k=None, top_p=None, primer=None,
              weights=None, device="cpu"):
    import wavedil as wd

    model = wd.load(run / "model.safetensors", device=_device(console, device))
    rate = model.config.sample_rate
    n = max(1, round(seconds * rate))
    if primer is not None:
        primer = wd.audio.mulaw_encode(_listen(console, primer, rate))
    with _percent(console, "Generating", n) as progress:
        codes = model.generate(n, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, primer=primer,
                               speaker=speaker, weights=weights and weights.value,
                               progress=lambda done, total: progress(done))
    sound = wd.audio.mulaw_decode(codes[0])
    wd.audio.write_audio(out, sound, rate)
    return sound


# ---- stream --------------------------------------------------------------------------------------------------------
@app.command()
def stream(
    run: Annotated[Path, typer.Argument(help="Run folder of `wavedil train`.")],
    source: Annotated[Path | None, typer.Option("-i", "--in", help="Audio file to listen to.",
                                                show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="WAV or FLAC file for what comes out.",
                                             show_default=False)] = None,
    block: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 64,
    speaker: Annotated[str | None, typer.Option(help="Voice, for a model of several.", show_default=False)] = None,
    bits: Annotated[Path | None, typer.Option(help="CSV file for the bits/sample and the latency of every block.",
                                              show_default=False)] = None,
    live: Annotated[bool, typer.Option("--live", help="Play it (needs sounddevice). Without --in the model "
                                                      "speaks.")] = False,
    device: Annotated[str, typer.Option(help=_DEVICES)] = "cpu",
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Length, without --in. \\[default: until Ctrl-C]",
                                                  show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(
        min=0.0, help=f"As of generate, without --in. \\[default: {SAMPLE_TEMPERATURE}]", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="As of generate, without --in. \\[default: 0]",
                                             show_default=False)] = None,
    weights: Annotated[Storage | None, typer.Option(help=_STORAGE, show_default=False)] = None,
) -> None:
    """Run a trained model online, block by block, and see whether it keeps up with real time.

    It listens to a file: out comes what it expected to hear (the mean of its prediction of each sample), and how many
    bits each block took it by surprise. Without --in it speaks, live. A TCN of audio is an effect: out comes what it
    makes of the file.
    """
    with _errors():
        if source is None and not live:
            raise typer.BadParameter("give a file to listen to, --in FILE, or --live to let the model speak")
        if source is not None and (seconds, temperature, seed) != (None, None, None):
            raise typer.BadParameter("--seconds, --temperature and --seed are for speaking: leave them out with --in")
        if bits is not None and source is None:
            raise typer.BadParameter("--bits are about the file of --in")
        effect = _is_effect(run)
        if effect and (source is None or (speaker, bits, weights) != (None, None, None)):
            raise typer.BadParameter("an effect needs a file, --in FILE, and has no --speaker, --bits or --weights")
        index = None if effect else _voice(run, speaker)
        if out is not None:
            _audio_file(out)
        _stream(Console(), run, source, out, block, index, bits, live, seconds,
                SAMPLE_TEMPERATURE if temperature is None else temperature, seed or 0, weights and weights.value,
                device)


def _is_effect(run):
    from wavedil.parameters import files

    file = run / "model.safetensors"
    return file.is_file() and files.read_metadata(file, "model").get("class") == "TCN"


def _stream(console, run, source, out, block, speaker, bits, live, seconds, temperature, seed, weights, device):
    import numpy as np

    import wavedil as wd
    from wavedil import streaming

    model = wd.load(run / "model.safetensors", device=_device(console, device))
    rate = model.config.sample_rate
    if source is not None:
        heard = _listen(console, source, rate)
        effect = isinstance(model, wd.TCN)
        stream = streaming.Effect(model) if effect else streaming.Predictor(model, speaker=speaker, weights=weights)
        n = len(heard)
        blocks = stream.blocks(heard, block)
        what = f"listening to {source}: {n:,} samples, {n / rate:.2f} s"
    else:
        stream = streaming.Generator(model, speaker=speaker, seed=seed, temperature=temperature, weights=weights)
        n = None if seconds is None else max(1, round(seconds * rate))
        blocks = stream.blocks(n, block)
        what = "speaking until Ctrl-C" if n is None else f"speaking {n / rate:.2f} s"
    _say(console, "Stream", style="bold")
    _prose(console, f"{what}, in blocks of {block:,} ({_ms(block, rate)} at {rate} Hz); the state of the stream is "
                    f"{_bytes(stream.state.nbytes)}")
    parts, done, stopped = [], 0, False
    buffer = max(2, -(-rate // (100 * block)))  # two blocks, or 10 ms where they are shorter
    with streaming.Loudspeaker(rate) if live else contextlib.nullcontext() as loudspeaker:
        meter = streaming.Meter(rate, consumer=loudspeaker, buffer=buffer, live_input=source is not None)
        try:
            with _percent(console, "Streaming", n) as progress:
                for part in meter.run(blocks):
                    done += len(part.audio)
                    if out is not None:
                        parts.append(part.audio)
                    progress(done)
        except KeyboardInterrupt:
            stopped = True
    report = meter.report()
    if report.blocks:
        player = "the sound device" if live else f"a live player with a buffer of {_ms(buffer * block, rate)}"
        _tell(console, report, player)
        if parts:
            wd.audio.write_audio(out, np.concatenate(parts), rate)
            _say(console, f"Wrote {out}")
        if bits is not None:
            _write_bits(bits, report)
            _say(console, f"Wrote {bits}")
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
        _prose(console, text)
    milliseconds = [f"{name} {1000 * value:.3f} ms" for name, value in
                    (("p50", report.percentile(50)), ("p99", report.percentile(99)), ("max", report.latency.max()))]
    _prose(console, f"latency of a block: {', '.join(milliseconds)}")
    factor = report.real_time_factor
    _prose(console, f"speed: {factor:.2f} x real time" + ("" if factor >= 1 else ", TOO SLOW for a live stream"))
    text = f"underruns: {report.underruns:,} of {report.blocks:,} blocks, for which {player} had to wait"
    if report.overruns:
        text += f"; overruns: {report.overruns:,}, which a live source would have lost"
    _prose(console, text)


def _write_bits(path, report):
    from wavedil.parameters import files

    begins = (report.sizes.cumsum() - report.sizes) / report.rate
    rows = zip(begins, report.sizes, report.bits, 1000 * report.latency, strict=True)
    lines = ["seconds,samples,bits_per_sample,latency_ms"]
    lines += [f"{begin:.6f},{size},{bits:.4f},{latency:.4f}" for begin, size, bits, latency in rows]
    files.replace(path, ("\n".join(lines) + "\n").encode())


# ---- info ----------------------------------------------------------------------------------------------------------
@app.command()
def info(
    run: Annotated[Path | None, typer.Argument(help="Run folder of `wavedil train`.", show_default=False)] = None,
    preset: Annotated[Preset | None, typer.Option(help="Show a preset.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="Show what a TOML file describes.", show_default=False)] = None,
    measure: Annotated[bool, typer.Option(help="Take a second or two to measure how fast it will generate and "
                                               "stream.")] = True,
    device: Annotated[str, typer.Option(help=f"Where to measure: {_DEVICES}")] = "cpu",
) -> None:
    """Show a model: parameters, receptive field, layers, arithmetic, memory, and its speed on this machine."""
    with _errors():
        if (run is None) == (preset is None and config is None):
            raise typer.BadParameter("give either a run folder, or --preset or --config or both")
        if run is not None:
            about = _read_run(run)
            wanted = settings_module.from_tables((f"{run / 'config.json'}", about["settings"]))
            voices = len(about["speakers"])
            if "parent" in about:
                console = Console()
                _say(console, f"fine-tuned from  {about['parent']['run']}, step {about['parent']['step']}")
                _say(console, f"recipe           {recipe_text(wanted.finetune)}")
        else:
            wanted = _settings(preset=preset, config=config)
            voices = 2 if not wanted.data.folder else 0
        _info(Console(), wanted, voices, measure, device)


def _info(console, wanted, voices, measure, device):
    import wavedil as wd

    device = _device(console, device)
    config = _model_config(wd, wanted, voices)
    rate = config.sample_rate
    model = wd.WaveNet(config, recompute=wanted.train.recompute, device=device)
    sizes = {name: int(array.size) for name, array in model.params.items()}
    layers = [("input", "embedding", 1)]
    field = 1
    for i, dilation in enumerate(config.dilations):
        field += (config.kernel_size - 1) * dilation
        layers.append((f"blocks.{i}", f"dilation {dilation}", field))
    layers += [("head.0", "1 x 1", field), ("head.1", "1 x 1", field)]
    if voices:
        layers.insert(0, ("speaker", f"{voices} voices", 1))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("layer", "left"), ("what", "left"), ("sees samples", "right"), ("ms", "right"),
                           ("parameters", "right")):
        table.add_column(title, justify=justify)
    for name, what, seen in layers:
        count = sum(size for key, size in sizes.items() if key.startswith(f"{name}."))
        table.add_row(name, what, f"{seen:,}", f"{1000 * seen / rate:.1f}", f"{count:,}")
    console.print(table)
    flops = forward_flops(model.params.shapes)
    t = wanted.train
    moments = {"adam": 2, "adamw": 2, "sgd": int(t.momentum > 0)}[t.optimizer]
    memory = memory_of_a_step(config, model.params, t.batch, t.window, t.recompute, moments, t.ema > 0)
    for name, text in (
        ("parameters", f"{model.params.count:,} ({_bytes(model.params.count * model.params.flat.itemsize)})"),
        ("receptive field", f"{model.receptive_field:,} samples = {_ms(model.receptive_field, rate)} at {rate} Hz"),
        ("arithmetic", f"{flops:,} FLOPs per sample forward, about {3 * flops:,} in training"),
        ("a training step", f"{t.batch} x {t.window:,} samples, {3e-9 * flops * t.batch * t.window:.1f} GFLOP, "
                            f"about {_bytes(memory)} of memory"),
    ):
        _say(console, f"{name + ':':17}{text}")
    for text in receptive.cautions(config.dilations, config.kernel_size, window=t.window):
        _say(console, f"{'warning:':17}{text}")
    if measure:
        _budget(console, model)


def _budget(console, model):
    """How fast the model will be on this machine."""
    from wavedil import streaming

    found = streaming.budget(model)
    _say(console, f"{'a stream:':17}{_bytes(found.state_bytes)} of state")
    where = "this machine" if model.device == "cpu" else model.device
    _say(console, f"Speed on {where}, one stream (measured just now)", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("what", "left"), ("samples/s", "right"), ("x real time", "right"), ("", "left")):
        table.add_column(title, justify=justify)
    rows = [("generating", found.generation)]
    rows += [(f"streaming, block {block}", speed) for block, speed in found.streaming.items()]
    for what, speed in rows:
        factor = speed / found.rate
        verdict = "faster than real time" if factor > 1 else "too slow for real time"
        table.add_row(what, f"{speed:,.0f}", f"{factor:.2f}", verdict)
    console.print(table)


def forward_flops(shapes: dict) -> int:
    """Floating point operations of one output sample's forward pass; a multiply-add is two.

    Matrix products only: lookups, gates and sums are few beside them, and a voice is projected once a clip.
    """
    return sum(2 * math.prod(shape) for name, shape in shapes.items()
               if name.endswith(".weight") and not name.endswith(".condition.weight"))


def memory_of_a_step(config, params, batch, window, recompute=False, moments=2, ema=False) -> int:
    """Bytes of the arrays that a training step holds: the weights and their likes, and the activations for backward.

    Weights, gradient, moments, average, the weights packed twice, and gradients of each batch item; of each block its
    input and, unless they are computed again, tanh and sigmoid; and one gradient of the residual and skip channels.
    """
    copies = 4 + moments + ema + batch
    per_block = config.residual_channels + (0 if recompute else 2 * config.dilation_channels)
    rows = len(config.dilations) * window + (config.kernel_size - 1) * sum(config.dilations)
    activations = per_block * rows + (config.residual_channels + config.skip_channels) * window
    return params.flat.itemsize * (copies * params.flat.size + batch * activations)


# ---- dilations -----------------------------------------------------------------------------------------------------
@app.command(context_settings={"ignore_unknown_options": True})  # so that -2 is a bad dilation and not an option
def dilations(
    stack: Annotated[list[int] | None, typer.Argument(
        metavar="DILATIONS", help="A stack to look at, such as 1 2 4 8.", show_default=False)] = None,
    field: Annotated[str | None, typer.Option(
        help="Or: the wanted receptive field, such as 300ms, 0.3s or 2400 (samples).", show_default=False)] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Sample rate in Hz.", show_default=False)] = None,
    kernel: Annotated[int, typer.Option(help="Kernel size: the taps of each convolution.")] = 2,
    cycles: Annotated[int, typer.Option(min=1, help="How often the stack is repeated.")] = 1,
    blocks: Annotated[int, typer.Option(help="The most blocks that a suggestion may have.")] = 20,
    block: Annotated[Block, typer.Option(
        help="What a block is: wavenet (a gated convolution, residual and skip), tcn (two convolutions of the same "
             "dilation), conv (one).")] = Block.wavenet,
    channels: Annotated[int, typer.Option(help="Channels of the blocks, for the cost.")] = 32,
    clip: Annotated[str | None, typer.Option(help="How long your clips are: warn of dilations that exceed it.",
                                             show_default=False)] = None,
    window: Annotated[str | None, typer.Option(help="How long the training windows are: warn of a field that exceeds "
                                                    "it.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option(
        help="Draw the taps and the coverage of the stack, or of the first suggestion: FILE.png or FILE.svg.",
        show_default=False)] = None,
) -> None:
    """Choose dilations: what a stack sees and where it is blind, or which stacks see a --field, and what they cost."""
    with _errors():
        if bool(stack) == (field is not None):
            raise typer.BadParameter("give either the dilations of a stack, or the wanted --field")
        if field is not None and cycles != 1:
            raise typer.BadParameter("--cycles repeats a given stack; leave it out with --field")
        lengths = {name: _samples(f"--{name}", text, rate) for name, text in
                   (("field", field), ("clip", clip), ("window", window)) if text is not None}
        if plot is not None and plot.suffix.lower() not in (".png", ".svg"):
            raise ConfigError(f"--plot must end in .png or .svg, got {str(plot)!r}")
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, 160)  # a file has no edge
        if stack:
            _look_at(console, stack * cycles, kernel, rate, block, channels, plot, **lengths)
        else:
            _suggest(console, kernel, rate, blocks, block, channels, plot, **lengths)


def _samples(name, text, rate):
    try:
        return receptive.samples(text, rate)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _look_at(console, stack, kernel, rate, block, channels, plot, clip=None, window=None):
    layers = [d for d in stack for _ in range(receptive.BLOCKS[block].convolutions)]
    found = receptive.analyse(layers, kernel, clip=clip, window=window)
    cost = receptive.cost(len(stack), kernel, channels, block)
    most, n = int(found.multiplicity.max()), len(found.holes)
    at = [int(lag) for lag in (found.multiplicity == most).nonzero()[0]]
    length = f" = {_ms(found.receptive_field, rate)} at {rate:,} Hz" if rate else ""
    lines = [
        ("stack", f"{len(stack):,} blocks ({block}), {len(layers):,} convolutions of kernel {kernel}"),
        ("field", f"{found.receptive_field:,} samples{length}"),
        ("holes", f"{n:,} lags are never seen: {_few(found.holes)}" if n else "none: each lag of the field is seen"),
        ("paths", f"{_big(found.paths)}; the most, {_big(most)}, to lag {_few(at)}"),
        ("coverage", _spark(found.multiplicity, max(20, min(console.width - 12, 100)))),
        ("", "from lag 0 on; higher: more paths" + (", x: never seen" if n else "")),
        ("gridding", f"{found.gridding:.3f} (share of the field that is never seen)"),
        ("evenness", f"{found.evenness:.3f} (1: all lags have equally many paths)"),
        ("cost", f"{cost.parameters:,} parameters and {cost.multiply_adds:,} multiply-adds a sample, at {channels} "
                 "channels, of the blocks"),
    ]
    if len(layers) > 1:
        verdict = "passes" if receptive.hybrid_2d(layers, kernel).passes else "fails"
        seen = f"{1 - (1 - found.gridding) ** 2:.0%} never seen" if n else "no hole"
        lines.append(("in 2D", f"{seen} (exact); the hybrid rule, a heuristic, {verdict} it"))
    for name, text in lines:
        _say(console, f"{name + ':' if name else '':10}{text}")
    for text in found.cautions:
        _say(console, f"warning:  {text}")
    _draw(console, plot, found.dilations, kernel)


def _suggest(console, kernel, rate, blocks, block, channels, plot, field, clip=None, window=None):
    schedules = receptive.design(field, kernel, blocks, channels=channels, block=block, clip=clip, window=window)
    length = f"{field:,} samples" + (f" ({_ms(field, rate)})" if rate else "")
    _say(console, f"At least {length} without a blind spot: kernel {kernel}, up to {blocks} blocks ({block}, "
                  f"{channels} channels)", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("blocks", "field", *(("ms",) if rate else ()), "parameters", "multiply-adds", "evenness")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("dilations", overflow="fold")
    for s in schedules:
        milliseconds = (f"{receptive.milliseconds(s.receptive_field, rate):,.1f}",) if rate else ()
        table.add_row(str(len(s.dilations)), f"{s.receptive_field:,}", *milliseconds, f"{s.cost.parameters:,}",
                      f"{s.cost.multiply_adds:,}", f"{s.evenness:.2f}", f"{s.name}: {_cycles(s)}")
    console.print(table)
    _prose(console, "Cheapest first. Parameters and multiply-adds a sample are those of the blocks; evenness is 1 if "
                    "all lags have equally many paths.")
    alike = {}
    for text in (text for s in schedules for text in s.cautions):
        alike.setdefault(re.sub(r"[\d, ]+", " ", text), []).append(text)
    for texts in alike.values():
        _say(console, f"warning: {texts[0]}" + (f" (the same for {len(texts) - 1} more)" if len(texts) > 1 else ""))
    first = schedules[0]
    _say(console, f"dilations = {list(first.dilations)}  # for [model] in a TOML file")
    _draw(console, plot, first.layers, kernel)


def _cycles(schedule):
    d = schedule.dilations
    n = int(schedule.name.split(" cycles")[0]) if " cycles" in schedule.name else 1
    return " ".join(map(str, d[: len(d) // n])) + (f" (x {n})" if n > 1 else "")


def _draw(console, plot, stack, kernel):
    if plot is not None:
        from wavedil import report

        report.dilations_page(plot, stack, kernel)
        _say(console, f"Wrote {plot}")


def _big(n):
    return f"{n:,}" if n < 10**15 else f"{Decimal(n):.2e}"


def _few(numbers, most=12):
    text = ", ".join(f"{n:,}" for n in numbers[:most])
    return text + (f", ... ({len(numbers):,} in all)" if len(numbers) > most else "")


def _spark(counts, width):
    """Counts as a line of bars, several lags to a bar if they are many: the mean; an x where all of them are 0."""
    size = -(-len(counts) // width)
    groups = [list(map(int, counts[i : i + size])) for i in range(0, len(counts), size)]
    most = int(counts.max())
    return "".join(" ▁▂▃▄▅▆▇█"[max(1, round(8 * sum(group) / (len(group) * most)))] if any(group) else "x"
                   for group in groups)


# ---- what the commands share ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def _errors():
    """Turn errors that a user can act on into one line on stderr and exit code 1."""
    try:
        yield
    except WavedilError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _fail(message, code=1):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)


class _Display:
    """Progress of `fit`: a line at each validation and now and then; on a terminal also a bar with the latest."""

    def __init__(self, console, total):
        self.console, self.total, self.every = console, total, max(1, total // 20)
        self.smooth, self.validation = None, "-"
        self.bar = _Bar(TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=None),
                        TextColumn("{task.fields[left]}"), console=console, transient=True,
                        disable=not console.is_terminal, expand=True)
        self.bar.status = "compiling the kernels (this takes longest on the first run)"
        self.task = self.bar.add_task("", total=total, left="")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def update(self, progress):
        # The first step also compiles the kernels: what is left cannot be told from it.
        left = "-" if self.smooth is None else _clock(progress.seconds_left)
        if self.smooth is None:
            _say(self.console, "   step   training  validation   samples/s  x real time       left")
        self.smooth = progress.loss if self.smooth is None else 0.9 * self.smooth + 0.1 * progress.loss
        measured = progress.validation is not None
        if measured:
            self.validation = f"{progress.validation:.3f}"
        real_time = "-" if progress.x_realtime is None else f"{progress.x_realtime:.1f}"
        self.bar.status = (f"bits/sample: training {self.smooth:.3f}, validation {self.validation}; "
                           f"{progress.samples_per_second:,.0f} samples/s, {real_time} x real time")
        self.bar.update(self.task, completed=progress.step, left=f"{left} left")
        if measured or progress.step in (1, self.total) or progress.step % self.every == 0:
            _say(self.console, f"{progress.step:>7}{self.smooth:>11.3f}{self.validation if measured else '':>12}"
                               f"{progress.samples_per_second:>12,.0f}{real_time:>13}{left:>11}")


class _Bar(Progress):
    """A progress bar with a line of text below."""

    status = ""

    def get_renderables(self):
        yield from super().get_renderables()
        yield Text(self.status, no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def _percent(console, what, total):
    """Yield a function to be told how much is done; a bar on a terminal. total = None: nobody knows how long."""
    columns = TextColumn(what), BarColumn(bar_width=None), TextColumn("{task.percentage:3.0f}%")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, shown = bar.add_task("", total=total), 0

        def progress(done):
            nonlocal shown
            if total is not None and (done - shown) * 200 >= total:  # not for every block: they may be tiny
                shown = done
                bar.update(task, completed=done)

        yield progress


def _listen(console, path, rate):
    """The samples of an audio file at the model's rate, with a note if that is not its own."""
    from wavedil.audio.files import rate_and_channels, read_audio

    x = read_audio(path, rate)
    if not len(x):
        raise DataError(f"{path}: holds no samples")
    own, _ = rate_and_channels(path)
    if own != rate:
        _prose(console, f"{path}: resampled from {own:,} Hz to the model's {rate:,} Hz")
    return x


def _audio_file(path):
    """Say no before the long work begins."""
    if path.suffix.lower() not in (".wav", ".flac"):
        raise ConfigError(f"--out must end in .wav or .flac, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: {path.parent} is not a folder")
    return path


def _voice(run, speaker):
    """The number of a voice of a run by its name; its own if none is named, None if the model has no voices."""
    about = _read_run(run)
    voices = about["speakers"]
    if speaker is not None and speaker not in voices:
        raise ConfigError(f"speaker must be one of {', '.join(voices)}, got {speaker!r}" if voices else
                          f"--speaker {speaker}: this model has only one voice")
    return voices.index(speaker) if speaker else _own_voice(about)


def _write_run(run, about):
    from wavedil.parameters import files

    files.replace(run / "config.json", (json.dumps(about, indent=2) + "\n").encode())


def _read_run(run):
    path = run / "config.json"
    try:
        about = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        alone = run / "model.safetensors"
        hint = f" ({alone} is a model without a run, for wavedil stream and wd.load)" if alone.is_file() else ""
        raise CheckpointError(f"{run} is not a run folder: there is no {path}{hint}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(about, dict) or not {"settings", "speakers", "yardsticks"} <= set(about):
        raise CheckpointError(f"{path} is not from wavedil: settings, speakers and yardsticks expected")
    return about


def _named(yardsticks):
    names = {"uniform": "uniform", "order0": "order-0", "order1": "order-1", "flac": "FLAC"}
    return {names[key]: value for key, value in yardsticks.items()}


def _command(*words):
    """A command line that can be pasted: the program as it was called, and quoted arguments."""
    program = "wavedil"
    called = Path(sys.argv[0])
    if called.name == program and shutil.which(program) is None:
        program = min(os.path.relpath(called), os.path.abspath(called), key=len)
    return " ".join(shlex.quote(str(word)) for word in (program, *words))


def _say(console, text, style=None):
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _prose(console, text):
    """An indented sentence: wrapped at words on a terminal, one line in a file."""
    width = console.width - 1 if console.is_terminal else sys.maxsize
    _say(console, textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def _ms(samples, rate):
    return f"{1000 * samples / rate:,.1f} ms"


def _bytes(n):
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            break
        n, unit = n / 1024, {"bytes": "KiB", "KiB": "MiB", "MiB": "GiB"}[unit]
    return f"{n:,.1f} {unit}"


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


if __name__ == "__main__":
    main()
