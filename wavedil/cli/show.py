"""What the commands print, and how: lines, tables, bars, the progress of a training, errors."""

import contextlib
import os
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from wavedil.errors import DataError, WavedilError


@contextlib.contextmanager
def errors():
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


# ---- lines and tables ------------------------------------------------------------------------------------------------
def say(console, text, style=None):
    """Print text as it is."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def heading(console, text):
    """Print the title of a part of the output."""
    say(console, text, style="bold")


def prose(console, text):
    """Print an indented sentence: wrapped at words on a terminal, one line in a file."""
    width = console.width - 1 if console.is_terminal else sys.maxsize
    say(console, textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def table(console, columns, rows):
    """Print a table; ``columns`` are titles with "left" or "right"."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in columns:
        shown.add_column(title, justify=justify)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def milliseconds(samples, rate):
    """A length in samples as milliseconds."""
    return f"{1000 * samples / rate:,.1f} ms"


def size(n):
    """A number of bytes with its unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:,.1f} {unit}"
        n = n / 1024


def command(*words):
    """A command line that can be pasted: the program as it was called, and quoted arguments."""
    program = "wavedil"
    called = Path(sys.argv[0])
    if called.name == program and shutil.which(program) is None:
        program = min(os.path.relpath(called), os.path.abspath(called), key=len)
    return " ".join(shlex.quote(str(word)) for word in (program, *words))


# ---- what commands open ----------------------------------------------------------------------------------------------
def device(console, name):
    """The device of that name; says so where "auto" means the CPU."""
    from wavedil.ops import devices

    return devices.resolve(name, lambda text: prose(console, text))


def listen(console, path, rate):
    """The samples of an audio file at the model's rate, with a note if that is not its own."""
    from wavedil.audio.files import rate_and_channels, read_audio

    x = read_audio(path, rate)
    if not len(x):
        raise DataError(f"{path}: holds no samples")
    own, _ = rate_and_channels(path)
    if own != rate:
        prose(console, f"{path}: resampled from {own:,} Hz to the model's {rate:,} Hz")
    return x


# ---- progress --------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def percent(console, what, total=None):
    """Yield a function ``(done, total=None)`` to be told how much is done; a bar on a terminal."""
    columns = TextColumn(what), BarColumn(bar_width=None), TextColumn("{task.percentage:3.0f}%")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, shown = bar.add_task("", total=total), 0

        def progress(done, total=total):
            nonlocal shown
            if total is not None and (done - shown) * 200 >= total:  # not for every block: they may be tiny
                shown = done
                bar.update(task, completed=done, total=total)

        yield progress


class Display:
    """Progress of `fit`: a line at each validation and now and then; on a terminal also a bar with the latest."""

    def __init__(self, console, total):
        self.console, self.total, self.every = console, total, max(1, total // 20)
        self.smooth, self.validation = None, "-"
        self.bar = _Bar(TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=None),
                        TextColumn("{task.fields[left]}"), console=console, transient=True,
                        disable=not console.is_terminal, expand=True)  # fmt: skip
        self.bar.status = "compiling the kernels (this takes longest on the first run)"
        self.task = self.bar.add_task("", total=total, left="")

    def __enter__(self):
        self.bar.start()
        if not self.console.is_terminal:
            prose(self.console, f"{self.bar.status} ...")
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def update(self, progress):
        """Show what a trainer tells after a step."""
        # The first step also compiles the kernels: what is left cannot be told from it.
        left = "-" if self.smooth is None else _clock(progress.seconds_left)
        if self.smooth is None:
            say(self.console, "   step   training  validation   samples/s  x real time       left")
        self.smooth = progress.loss if self.smooth is None else 0.9 * self.smooth + 0.1 * progress.loss
        measured = progress.validation is not None
        if measured:
            self.validation = f"{progress.validation:.3f}"
        real_time = "-" if progress.x_realtime is None else f"{progress.x_realtime:.1f}"
        self.bar.status = (f"bits/sample: training {self.smooth:.3f}, validation {self.validation}; "
                           f"{progress.samples_per_second:,.0f} samples/s, {real_time} x real time")  # fmt: skip
        self.bar.update(self.task, completed=progress.step, left=f"{left} left")
        if measured or progress.step in (1, self.total) or progress.step % self.every == 0:
            say(self.console, f"{progress.step:>7}{self.smooth:>11.3f}{self.validation if measured else '':>12}"
                              f"{progress.samples_per_second:>12,.0f}{real_time:>13}{left:>11}")  # fmt: skip


class _Bar(Progress):
    """A progress bar with a line of text below."""

    status = ""

    def get_renderables(self):
        yield from super().get_renderables()
        yield Text(self.status, no_wrap=True, overflow="ellipsis")


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
