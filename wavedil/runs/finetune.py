"""Adapt a run to another speaker, and tell what that brought, and what it cost the old speaker."""

import dataclasses
import os
from dataclasses import dataclass

from wavedil import audio
from wavedil.errors import CheckpointError, ConfigError
from wavedil.parameters import files
from wavedil.runs import data, settings
from wavedil.runs.run import Run, check_new
from wavedil.runs.train import Training, new_trainer
from wavedil.training import FineTune, checkpoint


@dataclass(frozen=True)
class Comparison:
    """Before and after fine-tuning.

    Attributes
    ----------
    rows : dict
        ``"new speaker"`` and ``"old speaker"``, as far as they were measured: bits per sample (before, after).
    curve : list of (step, bits)
        Validation loss of the new speaker; step 0 is the pretrained model.
    """

    rows: dict
    curve: list


def collect(parent: Run, folder, config=None, *, freeze=(), lr_scale=(), lora=None, **train) -> settings.Settings:
    """The settings to adapt a run with: its own, those for fine-tuning over them, then the file, then the options.

    Parameters
    ----------
    parent : Run
        To start from.
    folder : path-like
        With audio of the new speaker; or ``"bundled:it"``, ``"bundled:ru"``.
    config : path-like, optional
        TOML file with the tables ``[train]``, ``[data]`` and ``[finetune]``.
    freeze : sequence of str
        Patterns of parameters that do not train.
    lr_scale : sequence of (str, float)
        Patterns and factors on the learning rate.
    lora : int, optional
        Rank of adapters, which then train alone.
    train
        Keys of the table ``[train]``, such as ``steps``; None leaves one out.

    Raises
    ------
    ConfigError
        A setting is not right, or would change what the model is made of.
    CheckpointError
        The run holds no trained model.
    """
    model = parent.path / checkpoint.MODEL
    if not model.is_file():
        raise CheckpointError(f"{parent.path} holds no trained model: there is no {model}")
    if parent.kind != "WaveNet":
        raise ConfigError(f"{parent.path}: fine-tuning to a speaker needs a WaveNet, got a {parent.kind}")
    name, tables = settings.read_toml(config) if config else ("", {})
    _check_kept(parent, name, tables)
    recipe = {"freeze": list(freeze), "lr_scale": [list(pair) for pair in lr_scale], "lora": lora and {"rank": lora}}
    train = {key: value for key, value in train.items() if value is not None}
    adapters = lora or tables.get("finetune", {}).get("lora")
    steps = train.get("steps") or tables.get("train", {}).get("steps", settings.FINETUNE_STEPS)
    wanted = settings.from_tables(
        settings.finetune_tables(parent.settings, bool(adapters), steps),
        (name, tables),
        ("folder", {"data": {"folder": settings.whole_path(folder)}}),
        ("options", {"train": train, "finetune": {key: value for key, value in recipe.items() if value}}),
    )
    _recipe(wanted)
    return wanted


def _check_kept(parent, name, tables):
    """Refuse a file that would change what the model is made of."""
    made_of = files.read_metadata(parent.path / checkpoint.MODEL, "model")["config"]
    for table, known in (("model", made_of), ("data", {"sample_rate": made_of["sample_rate"]})):
        for key in tables.get(table, {}).keys() & known.keys():
            value, own = tables[table][key], known[key]
            if value != own:
                raise ConfigError(
                    f"{name}: [{table}] {key} must be {own!r}, as {parent.path} was trained, got {value!r}; what a "
                    "model is made of is changed in Python: with_head, with_blocks, with_speakers"
                )


def _recipe(wanted):
    try:
        return FineTune.from_dict(wanted.finetune)
    except ConfigError as error:
        raise ConfigError(f"[finetune] {error}") from error


def start(path, parent: Run, wanted: settings.Settings, *, speaker: str | None = None, eval_old=None, resample=False,
          threads: int | None = None, device: str = "cpu", timed: bool = False) -> Training:  # fmt: skip
    """Begin a run from the model of another; `measure_before` comes next, then ``fit``.

    Parameters
    ----------
    path : path-like
        Folder of the new run; it must be empty or not there.
    parent : Run
    wanted : Settings
        From `collect`.
    speaker : str, optional
        Name of the new speaker, if the parent has several; one that it knows goes on. Default: name of the folder.
    eval_old : path-like, optional
        Folder with the old speaker. Of the folder that the parent was trained on, the held-out clips count.
    resample : bool
        Accept audio of another sample rate than the model's.
    threads, device, timed
        As in `wavedil.runs.train.start`.

    Raises
    ------
    ConfigError, DataError, CheckpointError
        Before anything is written.
    """
    check_new(path)
    t = wanted.train
    model = parent.model(device, recompute=t.recompute, half_activations=t.half_activations, threads=threads)
    if model.config.classes != 256 or model.config.codec != "mulaw":
        raise ConfigError(f"{parent.path} has {model.config.classes} classes ({model.config.codec}), audio has the 256 "
                          "of mu-law: another head is made in Python, by model.with_head(classes=256)")  # fmt: skip
    origin = {"run": os.path.abspath(parent.path), "step": model.about["step"],
              "params_checksum": model.params.checksum(), "settings": parent.settings.to_dict()}  # fmt: skip
    eval_old = None if eval_old is None else settings.whole_path(eval_old)
    kept = _old_clips(eval_old, parent.settings, parent.speakers, resample)
    speakers = list(parent.speakers)
    if speakers:
        speaker = speaker or data.name(wanted.data.folder)
        if speaker not in speakers:
            speakers.append(speaker)
            model = model.with_speakers(len(speakers), seed=t.seed)
        wanted = dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, speaker=speaker))
    elif speaker:
        raise ConfigError(f"--speaker {speaker}: {parent.path} has only one speaker, which is replaced")
    clips = data.clips(wanted.data, speakers)
    data.check_rates(clips.audit, resample)
    trainer = new_trainer(path, t, model, clips, _recipe(wanted))
    run = Run.create(path, wanted, speakers, baselines=data.baselines(clips), reproducible=not timed, parent=origin,
                     eval_old=eval_old)  # fmt: skip
    return Training(run, trainer, clips, t.steps, kept)


def measure_before(training: Training) -> dict:
    """Bits per sample of the ``new`` and the ``old`` speaker before anything was learned, which the run remembers."""
    run, trainer = training.run, training.trainer
    run.before = {"new": trainer.validate() if run.baselines else None, "old": _old(training)}
    run.save()
    return run.before


def compare(training: Training) -> Comparison:
    """Measure both speakers after fine-tuning; the run remembers it."""
    run = training.run
    curve = run.losses()[1]
    if training.old_clips is None:  # the run was resumed
        origin = settings.from_tables(("the pretrained run", run.parent["settings"]))
        training.old_clips = _old_clips(run.eval_old, origin, run.speakers, resample=True)
    run.after = {"new": curve[-1][1] if curve else None, "old": _old(training)}
    run.save()
    before = run.before or {"new": None, "old": None}
    rows = {f"{key} speaker": (before[key], run.after[key]) for key in run.after
            if None not in (before[key], run.after[key])}  # fmt: skip
    return Comparison(rows, curve)


def _old(training):
    return training.trainer.validate(training.old_clips) if training.old_clips else None


def _old_clips(folder, parent, speakers, resample):
    """Clips of the old speaker: held-out ones where the model was trained on that folder or it is bundled, else all."""
    if folder is None:
        return None
    wanted = parent.data
    if folder != wanted.folder:
        held_out = 0.0 if os.path.isabs(folder) else wanted.validation
        wanted = dataclasses.replace(wanted, folder=folder, speaker="", validation=held_out, speakers=bool(speakers))
    clips = data.clips(wanted, speakers)
    data.check_rates(clips.audit, resample)
    names = clips.speakers or (data.name(folder),)
    unknown = [name for name in names if speakers and name not in speakers]
    if unknown:
        raise ConfigError(f"--eval-old {folder}: folders must be speakers that the model knows "
                          f"({', '.join(speakers)}), got {', '.join(unknown)}")  # fmt: skip
    kept = [(name, codes, speakers.index(names[speaker or 0]) if speakers else None)
            for name, codes, speaker in clips.validation_clips() or clips.train_clips()]  # fmt: skip
    return audio.Clips((), kept, clips.sample_rate, speakers=speakers)
