"""How near a sound comes to another: measures of copy synthesis, baselines, and tables of them.

Measures of a pair take ``(reference, output, rate)``, two clips of equal length, and return a number. Some need
packages of the extra ``wavedil[evaluate]``; a ConfigError says which.
"""

from wavedil.evaluation.baselines import BASELINES
from wavedil.evaluation.folders import read_pairs, read_texts
from wavedil.evaluation.measures import (
    MEASURES,
    estoi,
    f0_error,
    f0_median,
    flatness,
    level,
    mcd,
    mel_lsd,
    pesq,
    silence_level,
    silence_spectrum,
    silent_share,
    stoi,
    voiced_share,
    voicing_error,
)
from wavedil.evaluation.table import Row, Table, available, evaluate_pairs
from wavedil.evaluation.words import Recogniser, word_errors, words

__all__ = [
    "BASELINES",
    "MEASURES",
    "Recogniser",
    "Row",
    "Table",
    "available",
    "estoi",
    "evaluate_pairs",
    "f0_error",
    "f0_median",
    "flatness",
    "level",
    "mcd",
    "mel_lsd",
    "pesq",
    "read_pairs",
    "read_texts",
    "silence_level",
    "silence_spectrum",
    "silent_share",
    "stoi",
    "voiced_share",
    "voicing_error",
    "word_errors",
    "words",
]
