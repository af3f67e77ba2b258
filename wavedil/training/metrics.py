"""``metrics.jsonl``: a line of JSON for each step, written as the training goes on, and read back."""

import contextlib
import json
import math
import os
from pathlib import Path

from wavedil.errors import CheckpointError
from wavedil.parameters import files
from wavedil.training.progress import Progress

COLUMNS = ("step", "loss", "validation", "unit", "learning_rate", "gradient_norm", "samples_per_second")


class Metrics:
    """Writes the lines; those beyond the step that is gone on from are dropped first.

    Parameters
    ----------
    path : path-like
    step : int
        Steps that count as done.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike, step: int):
        self._path = Path(path)
        with self._errors():
            text = self._path.read_bytes() if self._path.exists() else b""
            kept = b"".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
            if kept != text:
                files.write_bytes(self._path, kept)
            self._file = open(self._path, "a", encoding="utf-8", buffering=1)

    def add(self, progress: Progress) -> None:
        """Write the line of a step."""
        with self._errors():
            self._file.write(json.dumps({name: getattr(progress, name) for name in COLUMNS}) + "\n")

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._file.close()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Return the rows of a ``metrics.jsonl`` in order of steps.

    The keys of a row are those of `Progress`: ``step``, ``loss``, ``validation`` (None where it was not measured),
    ``unit``, ``learning_rate``, ``gradient_norm`` and ``samples_per_second``. The half line that a kill may leave is
    passed over; of two rows of one step the later one counts.

    Raises
    ------
    CheckpointError
        The file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    rows = {_step_of(line): line for line in lines}
    return [json.loads(rows[step]) for step in sorted(rows) if step < math.inf]


def _step_of(line):
    """Step of a line; infinite for a damaged one (a kill in the middle of it)."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
