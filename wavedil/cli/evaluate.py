"""wavedil evaluate: how near sounds come to what they should be."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavedil.cli import show
from wavedil.cli.options import given
from wavedil.errors import ConfigError

_NOTES = 5  # shown; all of them are in the JSON


def evaluate(
    reference: Annotated[Path, typer.Argument(help="The original: an audio file, or a folder of them.")],
    output: Annotated[Path, typer.Argument(help="What to measure: a file, or a folder with files of the same names.")],
    measures: Annotated[str | None, given(
        "Which, with commas between: stoi, estoi, pesq, mel_lsd, mcd, f0_error, f0_median, voicing_error, wer, level, "
        "silence_level, silent, voiced, flatness. \\[default: all whose packages are installed]")] = None,
    texts: Annotated[Path | None, given(
        "CSV file (file,text) of what is said, for wer. \\[default: REFERENCE/texts.csv if there is one]")] = None,
    baselines: Annotated[bool, typer.Option(
        help="Also measure codecs and vocoders without a network, made from the reference.")] = False,
    rate: Annotated[int | None, given("Resample all to this rate in Hz. \\[default: the files' own]", min=1000)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with a row for each clip.")] = False,
) -> None:  # fmt: skip
    """Measure how near sounds come to the originals: intelligibility, spectrum, pitch, silence, word errors."""
    with show.errors():
        from wavedil import evaluation

        console = Console()
        rate, pairs, notes = evaluation.read_pairs(reference, output, rate)
        known = _texts(texts, reference, evaluation)
        names = evaluation.available(rate, bool(known)) if measures is None else \
            [name.strip() for name in measures.split(",")]  # fmt: skip
        tables, left_out = _measure(evaluation, pairs, rate, names, known, baselines)
        for table in tables.values():
            notes += [note for note in table.notes if note not in notes]
        notes += left_out
        if as_json:
            found = {name: table.to_dict() for name, table in tables.items()}
            print(json.dumps(dict(rate=rate, clips=len(pairs), notes=notes, tables=found), indent=1))
            return
        _tell(console, evaluation, pairs, rate, names, tables)
        for note in notes[:_NOTES]:
            show.prose(console, f"Note: {note}")
        if len(notes) > _NOTES:
            show.prose(console, f"and {len(notes) - _NOTES} more notes (--json shows all)")
        missing = [name for name in evaluation.MEASURES if name not in evaluation.available(rate, True)]
        if measures is None and missing:
            show.prose(console, f"Left out: {', '.join(missing)} (pip install 'wavedil[evaluate]')")


def _texts(path, reference, evaluation):
    """What is said in the clips, or nothing."""
    if path is None:
        path = (reference if reference.is_dir() else reference.parent) / "texts.csv"
        if not path.is_file():
            return {}
    return evaluation.read_texts(path)


def _measure(evaluation, pairs, rate, names, texts, baselines):
    """The tables by the names of what made the sounds, and notes on what was left out."""
    options = dict(measures=names, texts=texts)
    if "wer" in names and texts:
        options["recogniser"] = evaluation.Recogniser(texts.values())
    tables = {"original": evaluation.evaluate_pairs(((name, x, x) for name, x, _ in pairs), rate, **options),
              "output": evaluation.evaluate_pairs(pairs, rate, **options)}  # fmt: skip
    notes = []
    for title, make in evaluation.BASELINES.items() if baselines else ():
        try:
            made = ((name, x, make(x, rate)) for name, x, _ in pairs)
            tables[title] = evaluation.evaluate_pairs(made, rate, **options)
        except ConfigError as error:
            notes.append(f"{title}: left out, {error}")
    return tables, notes


def _tell(console, evaluation, pairs, rate, names, tables):
    seconds = sum(len(x) for _, x, _ in pairs) / rate
    show.say(console, f"{len(pairs)} clips, {seconds:.1f} s at {rate:,} Hz; means over the clips")
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a file has no edge
    columns = [("", "left")] + [(f"{name}\n{evaluation.MEASURES[name].unit}".strip(), "right") for name in names]
    show.table(console, columns, [
        (title, *(f"{table.means[name]:.3g}" for name in names)) for title, table in tables.items()])  # fmt: skip
