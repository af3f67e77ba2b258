"""wavedil dilations: choose dilations, and see what a stack of them sees."""

import re
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wavedil import receptive
from wavedil.cli import show
from wavedil.cli.options import given
from wavedil.errors import ConfigError

Block = StrEnum("Block", {name: name for name in receptive.BLOCKS})


def dilations(
    stack: Annotated[list[int] | None, typer.Argument(
        metavar="DILATIONS", help="A stack to look at, such as 1 2 4 8.", show_default=False)] = None,
    field: Annotated[str | None, given(
        "Or: the wanted receptive field, such as 300ms, 0.3s or 2400 (samples).")] = None,
    rate: Annotated[int | None, given("Sample rate in Hz.", min=1)] = None,
    kernel: Annotated[int, typer.Option(help="Kernel size: the taps of each convolution.")] = 2,
    cycles: Annotated[int, typer.Option(min=1, help="How often the stack is repeated.")] = 1,
    blocks: Annotated[int, typer.Option(help="The most blocks that a suggestion may have.")] = 20,
    block: Annotated[Block, typer.Option(
        help="What a block is: wavenet (a gated convolution, residual and skip), tcn (two convolutions of the same "
             "dilation), conv (one).")] = Block.wavenet,
    channels: Annotated[int, typer.Option(help="Channels of the blocks, for the cost.")] = 32,
    clip: Annotated[str | None, given("How long your clips are: warn of dilations that exceed it.")] = None,
    window: Annotated[str | None, given(
        "How long the training windows are: warn of a field that exceeds it.")] = None,
    plot: Annotated[Path | None, given(
        "Draw the taps and the coverage of the stack, or of the first suggestion: FILE.png or FILE.svg.")] = None,
) -> None:  # fmt: skip
    """Choose dilations: what a stack sees and where it is blind, or which stacks see a --field, and what they cost."""
    with show.errors():
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
    length = f" = {show.milliseconds(found.receptive_field, rate)} at {rate:,} Hz" if rate else ""
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
        show.say(console, f"{name + ':' if name else '':10}{text}")
    for text in found.cautions:
        show.say(console, f"warning:  {text}")
    _draw(console, plot, found.dilations, kernel)


def _suggest(console, kernel, rate, blocks, block, channels, plot, field, clip=None, window=None):
    schedules = receptive.design(field, kernel, blocks, channels=channels, block=block, clip=clip, window=window)
    length = f"{field:,} samples" + (f" ({show.milliseconds(field, rate)})" if rate else "")
    show.say(console, f"At least {length} without a blind spot: kernel {kernel}, up to {blocks} blocks ({block}, "
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
    show.prose(console, "Cheapest first. Parameters and multiply-adds a sample are those of the blocks; evenness is 1 "
                        "if all lags have equally many paths.")  # fmt: skip
    alike = {}
    for text in (text for s in schedules for text in s.cautions):
        alike.setdefault(re.sub(r"[\d, ]+", " ", text), []).append(text)
    for texts in alike.values():
        show.say(console, f"warning: {texts[0]}" + (f" (the same for {len(texts) - 1} more)" if len(texts) > 1 else ""))
    first = schedules[0]
    show.say(console, f"dilations = {list(first.dilations)}  # for [model] in a TOML file")
    _draw(console, plot, first.layers, kernel)


def _cycles(schedule):
    d = schedule.dilations
    n = int(schedule.name.split(" cycles")[0]) if " cycles" in schedule.name else 1
    return " ".join(map(str, d[: len(d) // n])) + (f" (x {n})" if n > 1 else "")


def _draw(console, plot, stack, kernel):
    if plot is not None:
        from wavedil import report

        report.dilations_page(plot, stack, kernel)
        show.say(console, f"Wrote {plot}")


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
