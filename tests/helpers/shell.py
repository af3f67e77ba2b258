"""The command line in this process, in one of its own, and what an error must look like."""

import sys

from typer.testing import CliRunner

from wavedil import cli

RATE = 8000
SETTINGS = """
[model]
dilations = [1, 2, 4]
residual_channels = 8
dilation_channels = 8
skip_channels = 8
end_channels = 8

[train]
steps = 3
batch = 2
window = 256
schedule = "constant"
validate_every = 2
"""


def wavedil(*words):
    """Run a command in this process."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def script(*words):
    """The words that run a command in a process of its own."""
    return [sys.executable, "-P", "-m", "wavedil", *map(str, words)]


def assert_one_clear_line(result, *words):
    """The command failed with one line on stderr that holds all the words, and no traceback."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert str(word) in result.stderr
