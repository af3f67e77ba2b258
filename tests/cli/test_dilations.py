"""`wavedil dilations`, from the shell's side."""

import re

import pytest
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli, receptive


def dilations(*words):
    return CliRunner().invoke(cli.app, ["dilations", *map(str, words)])


def test_suggestions_for_a_field_in_milliseconds():
    result = dilations("--field", "300ms", "--rate", 8000, "--kernel", 2, "--blocks", 20)
    assert result.exit_code == 0 and result.stderr == ""
    assert "At least 2,400 samples (300.0 ms)" in result.stdout and "warning" not in result.stdout
    rows = re.findall(r"^ +(\d+) +([\d,]+) +([\d,.]+) +([\d,]+) +([\d,]+) +([\d.]+) +(.*?): ([\d ]+)(?:\(x (\d)\))?",
                      result.stdout, re.MULTILINE)
    wanted = receptive.design(2400, 2, 20)
    assert len(rows) == len(wanted)
    for (blocks, field, ms, parameters, adds, _, name, cycle, cycles), s in zip(rows, wanted, strict=True):
        assert (int(blocks), int(field.replace(",", "")), name) == (len(s.dilations), s.receptive_field, s.name)
        assert tuple(map(int, cycle.split())) * int(cycles or 1) == s.dilations
        assert (int(parameters.replace(",", "")), int(adds.replace(",", ""))) == s.cost
        assert float(ms) == pytest.approx(s.receptive_field / 8, abs=0.06)
    # The line to paste is a setting.
    line = re.search(r"^dilations = (\[.*\])", result.stdout, re.MULTILINE)
    assert wd.WaveNetConfig(dilations=eval(line[1])).receptive_field == 2400


def test_suggestions_warn_once_of_each_kind():
    result = dilations("--field", 100, "--clip", 30, "--window", 90)
    assert result.exit_code == 0
    warnings = re.findall("^warning: (.*)$", result.stdout, re.MULTILINE)
    assert len(warnings) == 3 and sum("training window of 90" in text for text in warnings) == 1
    assert " ms " not in result.stdout


def test_suggestions_for_a_tcn():
    result = dilations("--field", 3571, "--kernel", 8, "--blocks", 8, "--block", "tcn", "--channels", 24)
    assert result.exit_code == 0
    assert re.search(r" 8 +3,571 .* powers of 2: 1 2 4 8 16 32 64 128", result.stdout)


def test_a_stack_is_looked_at():
    result = dilations(1, 2, 4, 8, "--kernel", 3, "--rate", 8000)
    assert result.exit_code == 0
    for words in ("31 samples = 3.9 ms at 8,000 Hz", "none: each lag", "81; the most, 5, to lag 10, 12, 18, 20",
                  "▂▂▃▂▅▃▅▂▆▅█▃█▅▆▂▆▅█▃█▅▆▂▅▃▅▂▃▂▂", "gridding: 0.000", "33,280 parameters", "no hole (exact)"):
        assert words in result.stdout, words
    assert "warning" not in result.stdout


def test_holes_are_named():
    result = dilations(2, 4, 8)
    assert result.exit_code == 0
    for words in ("7 lags are never seen: 1, 3, 5, 7, 9, 11, 13\n", "█x█x█x█x█x█x█x█", "gridding: 0.467",
                  "72% never seen (exact); the hybrid rule, a heuristic, fails it",
                  "warning:  all dilations are multiples of 2: the stack sees only every 2nd sample"):
        assert words in result.stdout, words


def test_cycles_and_two_convolutions_a_block():
    result = dilations(1, 2, "--cycles", 3, "--block", "tcn", "--window", "10 samples", "--clip", "1ms", "--rate", 8000)
    assert result.exit_code == 0
    for words in ("6 blocks (tcn), 12 convolutions of kernel 2", "19 samples = 2.4 ms", "training window of 10",
                  "exceeds the clip of 8"):
        assert words in result.stdout, words
    assert "1,201 samples" in dilations(1, "--cycles", 1200).stdout  # counts beyond a float
    assert dilations(3, "--kernel", 1).exit_code == 0


@pytest.mark.parametrize("words", [(2, 4, 8, "--kernel", 3), ("--field", 40)])
@pytest.mark.parametrize(("name", "starts"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_plots(tmp_path, words, name, starts):
    result = dilations(*words, "--plot", tmp_path / name)
    assert result.exit_code == 0 and f"Wrote {tmp_path / name}" in result.stdout
    assert (tmp_path / name).read_bytes().startswith(starts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((1, 0), "analyse: each of dilations must be at least 1, got 0"),
        ((1, -2), "analyse: each of dilations must be at least 1, got -2"),
        ((1, 2, "--kernel", 0), "kernel_size must be at least 1, got 0"),
        ((1, 2, "--channels", 0), "cost: channels must be at least 1, got 0"),
        ((5_000_000,), "at most 4,194,304 samples to be counted lag by lag, got 5,000,001"),
        ((1, 2, "--plot", "a.pdf"), "--plot must end in .png or .svg, got 'a.pdf'"),
        ((1, 2, "--plot", "no/such/folder/a.png"), "No such file or directory"),
        (("--field", "300ms"), "--field: samples: rate must be given for a duration in ms, got '300ms' and no rate"),
        (("--field", "soon"), "--field: samples: duration must be such as"),
        ((1, "--clip", "0s", "--rate", 9), "--clip: samples: duration must be such as"),
        (("--field", 2400, "--blocks", 11), "design: blocks must be at least 12 to see 2,400 samples with kernel 2"),
        (("--field", 2400, "--kernel", 1), "design: kernel_size must be at least 2, got 1"),
    ],
)
def test_errors_are_one_line(words, message):
    result = dilations(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


@pytest.mark.parametrize("words", [(), (1, 2, "--field", 4), ("one",), (1, "--block", "lstm"), (1, "--rate", 0),
                                   ("--field", 9, "--cycles", 2), (1, "--nothing")])
def test_wrong_usage(words):
    assert dilations(*words).exit_code == 2
