"""Tables of measures: many pairs, their rows and means."""

from dataclasses import asdict, dataclass

import numpy as np

from wavedil import checks
from wavedil.errors import ConfigError, DataError
from wavedil.evaluation.measures import MEASURES, pair
from wavedil.evaluation.packages import extra, installed
from wavedil.evaluation.words import Recogniser, word_errors, words


@dataclass(frozen=True)
class Row:
    """The measures of one pair.

    Attributes
    ----------
    name : str
    values : dict of str to float
        NaN where a measure does not exist for this pair.
    """

    name: str
    values: dict[str, float]


@dataclass(frozen=True)
class Table:
    """The measures of many pairs.

    Attributes
    ----------
    measures : tuple of str
        The columns.
    rows : tuple of Row
    means : dict of str to float
        Over the rows that have a value (NaN if none has); of "wer" all errors over all words.
    notes : tuple of str
        Why values are missing.
    """

    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    means: dict[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """The table as plain JSON types; NaN is None."""
        plain = lambda values: {name: None if np.isnan(value) else value for name, value in values.items()}  # noqa: E731
        found = asdict(self)
        found["means"] = plain(self.means)
        found["rows"] = [dict(name=row.name, values=plain(row.values)) for row in self.rows]
        return found | dict(measures=list(self.measures), notes=list(self.notes))


def available(rate, texts=False) -> tuple[str, ...]:
    """The measures whose packages are installed, that exist at this rate, and that need no texts if there are none."""
    return tuple(
        name for name, measure in MEASURES.items()
        if (measure.package is None or installed(measure.package))
        and (name != "pesq" or rate in (8000, 16000)) and (name != "wer" or texts)
    )  # fmt: skip


def evaluate_pairs(pairs, rate: int, measures=None, texts=None, recogniser=None) -> Table:
    """Measure pairs of clips.

    Parameters
    ----------
    pairs : iterable of (name, reference, output)
        Clips of equal length and of this rate, full scale [-1, 1].
    rate : int
        Hz.
    measures : iterable of str, optional
        Of `MEASURES`; None: all that are `available`.
    texts : mapping of str to str, optional
        Name -> what is said, for "wer". All of them are what the recogniser expects to hear, also those of other clips.
    recogniser : Recogniser, optional
        One that knows other sentences than these texts, or one to be used again.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        If there are no pairs, or a clip cannot be used at all: not 1-D, NaN, unequal lengths. A clip
        that is silent or too short for one measure gets NaN there, and a note.
    ConfigError
        If a measure is unknown, its package is missing, or "wer" has no texts.
    """
    where, rate = "evaluate_pairs", checks.whole("evaluate_pairs", "rate", rate)
    texts = dict(texts or {})
    names = available(rate, bool(texts)) if measures is None else _known(where, measures)
    if "wer" in names:
        if not texts:
            raise ConfigError(f'{where}: "wer" needs texts, what is said in each clip, got none')
        recogniser = recogniser or Recogniser(texts.values())
    rows, notes, errors, said = [], [], 0, 0
    for name, reference, output in pairs:
        reference, output = pair(name, reference, output)
        values = {}
        for measure in names:
            if measure == "wer":
                wrong, count = _word_errors(recogniser, texts.get(name), output, rate)
                values[measure] = wrong / count if count else float("nan")
                errors, said = errors + wrong, said + count
                continue
            try:
                values[measure] = MEASURES[measure].compute(reference, output, rate)
            except DataError as error:
                values[measure] = float("nan")
                notes.append(f"{name}: {error}")
        rows.append(Row(name, values))
    if not rows:
        raise DataError(f"{where}: pairs must hold at least one pair, got none")
    means = {measure: _mean([row.values[measure] for row in rows]) for measure in names}
    if "wer" in names:
        means["wer"] = errors / said if said else float("nan")
    return Table(tuple(names), tuple(rows), means, tuple(notes))


def _known(where, measures):
    measures = (measures,) if isinstance(measures, str) else tuple(measures)
    for name in measures:
        if name not in MEASURES:
            near = checks.nearest(name, MEASURES)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ConfigError(f"{where}: measures must be of {', '.join(MEASURES)}, got {name!r}{hint}")
        if MEASURES[name].package:
            extra(name, MEASURES[name].package)
    return measures


def _word_errors(recogniser, text, output, rate):
    wanted = words(text or "")
    return (word_errors(wanted, recogniser.hear(output, rate)), len(wanted)) if wanted else (0, 0)


def _mean(values):
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")
