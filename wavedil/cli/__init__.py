"""The command line: train, finetune, generate, vocode, evaluate, stream, info, dilations.

A file a command, which reads options and prints; what is done is done by `wavedil.runs`, `wavedil.streaming`,
`wavedil.evaluation` and `wavedil.receptive`. `show` is what the commands share for the eye, `options` what they share
to be asked.

Exit codes: 0 done, 1 something was wrong (one line on stderr says what), 2 wrong usage, 130 interrupted (and saved).
What a command needs beyond typer and rich is imported when it runs, so that `--help` answers at once.
"""

import importlib.metadata
from typing import Annotated

import typer

from wavedil.cli import dilations, evaluate, finetune, generate, info, stream, train, vocode

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Train WaveNets on speech, and hear them, with nothing but NumPy and Numba.")  # fmt: skip
for command in (train.train, finetune.finetune, generate.generate, vocode.vocode, stream.stream, evaluate.evaluate,
                info.info):  # fmt: skip
    app.command()(command)
# So that -2 is a bad dilation and not an option.
app.command(context_settings={"ignore_unknown_options": True})(dilations.dilations)


def main() -> None:
    """The entry point of the `wavedil` script."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"wavedil {importlib.metadata.version('wavedil')}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True,
                                                   help="Show the version and exit.")] = False) -> None:  # fmt: skip
    pass
