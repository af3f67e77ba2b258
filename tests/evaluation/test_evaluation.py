"""Measures of copy synthesis: reference values on synthetic speech, bad input, tables, baselines."""

import numpy as np
import pytest
import soundfile

from wavedil import evaluation as ev
from wavedil.errors import ConfigError, DataError
from wavedil.evaluation.packages import installed

RATE = 8000


def needs(module):
    return pytest.mark.skipif(not installed(module), reason=f"{module} is not installed (wavedil[evaluate])")


@pytest.fixture(scope="module")
def x():
    """Three seconds of syllables: a gliding buzz through moving bands, between pauses."""
    rng, t = np.random.default_rng(0), np.arange(3 * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    y = sum(np.cos(k * phase) * np.exp(-((130 * k - 700 - 500 * np.sin(2 * np.pi * 1.3 * t)) / 600) ** 2)
            for k in range(1, 24))  # fmt: skip
    y = y * (np.sin(2 * np.pi * 2 * t) > -0.5) / np.abs(y).max() * 0.4
    return y + 1e-4 * rng.standard_normal(len(y))


def noisy(x, decibels):
    noise = np.random.default_rng(1).standard_normal(len(x))
    return x + noise * np.sqrt(np.mean(x**2) / 10 ** (decibels / 10))


# What measures say of white noise at 20 and at 10 dB, in loose bounds; on real speech at 8 kHz stoi is .95 and .84.
KNOWN = [
    ("stoi", 1, (0.8, 1), "pystoi"), ("estoi", 1, (0.4, 0.99), "pystoi"), ("pesq", 4.549, (1.2, 3.5), "pesq"),
    ("mel_lsd", 0, (6, 25), None), ("mcd", 0, (3, 12), None), ("f0_error", 0, (0, 150), "pyworld"),
    ("f0_median", 0, (0, 15), "pyworld"), ("voicing_error", 0, (0, 0.2), "pyworld"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "same", "bounds"),
    [pytest.param(*row, marks=needs(module) if module else ()) for *row, module in KNOWN],
)
def test_identical_clips_are_perfect_and_noise_costs_what_is_known(x, name, same, bounds):
    measure = getattr(ev, name)
    assert measure(x, x, RATE) == pytest.approx(same, abs=2e-3)
    found, worse = measure(x, noisy(x, 20), RATE), measure(x, noisy(x, 5), RATE)
    assert bounds[0] <= found <= bounds[1]
    assert abs(worse - same) >= abs(found - same) or name == "f0_error"  # which has outliers


def test_distances_are_their_equations(x):
    # Ten times as loud: 20 dB in every band but those at the floor, and no other cepstrum.
    loud = noisy(x, 20) / 20
    assert ev.mel_lsd(loud, 10 * loud, RATE) == pytest.approx(20, abs=0.01)
    assert ev.mcd(loud, 10 * loud, RATE) == pytest.approx(0, abs=0.01)


@needs("pyworld")
def test_a_tone_higher_by_a_semitone_is_100_cents_off(x):
    def buzz(hertz):
        return sum(np.cos(2 * np.pi * k * hertz * np.arange(8000) / RATE) for k in range(1, 12)) / 24

    low, high = buzz(150), buzz(150 * 2 ** (1 / 12))
    assert ev.f0_error(low, high, RATE) == pytest.approx(100, abs=10)
    assert ev.f0_median(low, high, RATE) == pytest.approx(100, abs=1)
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    assert ev.voiced_share(low, RATE) > 0.9 > 0.3 > ev.voiced_share(noise, RATE)
    assert ev.voicing_error(low, noise, RATE) > 0.6
    assert np.isnan(ev.f0_error(low, 0 * low, RATE))


def test_levels_silence_and_flatness():
    t = np.arange(RATE) / RATE
    tone, rng = 0.5 * np.sin(2 * np.pi * 440 * t), np.random.default_rng(0)
    half = np.where(t < 0.5, tone, 0)
    hiss = half + 0.001 * rng.standard_normal(RATE)
    assert ev.level(tone) == pytest.approx(-9.03, abs=0.01) and ev.level(0 * tone) == pytest.approx(-100)
    assert ev.silent_share(half, RATE) == 0.5 and ev.silent_share(tone, RATE) == 0
    assert ev.silence_level(half, hiss, RATE) == pytest.approx(-60, abs=0.5)
    assert ev.silence_level(half, half, RATE) == pytest.approx(-100) and np.isnan(ev.silence_level(tone, hiss, RATE))
    buzz = half + 0.01 * np.sin(2 * np.pi * 1000 * t)
    hertz, original, output = ev.silence_spectrum(half, buzz, RATE)
    assert hertz[output.argmax()] == 1000 and output.max() == pytest.approx(-40, abs=0.5) and original.max() == -140
    assert ev.flatness(tone, RATE) < 0.01
    assert ev.flatness(rng.standard_normal(RATE), RATE) == pytest.approx(0.56, abs=0.05)
    assert np.isnan(ev.flatness(0 * tone, RATE))


@pytest.mark.parametrize("name", ["mel_lsd", "mcd", "silence_level"])
def test_bad_input_gets_a_clear_word(x, name):
    measure = getattr(ev, name)
    for reference, output, says in [
        (x, x[1:], f"{name}: output must have the 24000 samples of the reference, got 23999"),
        (0 * x, x, f"{name}: reference must hold sound, got silence"),
        (x, x * np.nan, f"{name}: output must be finite"),
        (x, np.zeros((2, 9)), rf"{name}: output must be \(samples,\) with at least one, got \(2, 9\)"),
        (np.zeros(9, int), x, f"{name}: reference must be floating point"),
    ]:
        with pytest.raises(DataError, match=says):
            measure(reference, output, RATE)


def test_other_rates_and_short_clips_are_refused_where_they_cannot_be_measured(x):
    with pytest.raises(ConfigError, match="pesq: the rate must be 8000 or 16000 Hz, got 22050"):
        ev.pesq(x, x, 22050)
    if installed("pystoi"):
        with pytest.raises(DataError, match="stoi: the clip must hold at least 0.4 s of sound, that of 0.12 s"):
            ev.stoi(x[:1000], x[:1000], RATE)


def test_a_missing_package_is_asked_for_in_one_sentence(x, monkeypatch):
    import sys

    for module, measure in (("pystoi", ev.stoi), ("pesq", ev.pesq), ("pyworld", ev.f0_error)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"needs the package py?.*, which is not installed: pip install"):
            measure(x, x, RATE)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match="wer needs the package pocketsphinx"):
        ev.Recogniser(["one"])


# ---- words -----------------------------------------------------------------------------------------------------------
def test_words_and_their_errors():
    assert ev.words("Press 1, 42 or 305 (beep)\u2026 it\u2019s 'fine'") == (
        "press one forty two or three zero five it's fine".split())
    for heard, errors in (("a b c", 0), ("a x c", 1), ("a c", 1), ("a b b c", 1), ("", 3), ("x y z w", 4)):
        assert ev.word_errors("a b c".split(), heard.split()) == errors


@needs("pocketsphinx")
def test_a_recogniser_hears_nothing_in_silence_and_needs_words():
    recogniser = ev.Recogniser(["Press one.", "Press two now."])
    assert recogniser.hear(np.zeros(RATE), RATE) == []
    with pytest.raises(DataError, match="the texts must hold words"):
        ev.Recogniser(["[beep]"])


# ---- tables ----------------------------------------------------------------------------------------------------------
def test_a_table_has_rows_means_and_notes(x):
    table = ev.evaluate_pairs([("a", x, noisy(x, 20)), ("b", x, x), ("quiet", 0 * x, x)], RATE, ["mel_lsd", "level"])
    a, b, quiet = (row.values["mel_lsd"] for row in table.rows)
    assert a > b == 0 and np.isnan(quiet) and table.means["mel_lsd"] == pytest.approx(a / 2)
    assert table.notes == ("quiet: mel_lsd: reference must hold sound, got silence",)
    assert table.to_dict()["rows"][2] == dict(name="quiet", values=dict(mel_lsd=None, level=ev.level(x)))


@needs("pocketsphinx")
def test_word_errors_of_a_table_are_all_errors_over_all_words(x):
    class Deaf:
        def hear(self, x, rate):
            return ["one"]

    texts = {"a": "One", "b": "one two three"}
    table = ev.evaluate_pairs([(name, x, x) for name in "abc"], RATE, ["wer"], texts, Deaf())
    assert [row.values["wer"] for row in table.rows[:2]] == [0, 2 / 3] and table.means["wer"] == 2 / 4


@pytest.mark.parametrize(
    ("pairs", "options", "error", "says"),
    [
        ([], dict(measures=["mcd"]), DataError, "at least one pair, got none"),
        ([("a", np.ones(9), np.ones(8))], dict(measures=["mcd"]), DataError, "a: output must have the 9 samples"),
        ([], dict(measures=["mdc"]), ConfigError, "got 'mdc'; did you mean 'mcd'?"),
    ],
)  # fmt: skip
def test_tables_refuse(pairs, options, error, says):
    with pytest.raises(error, match=says):
        ev.evaluate_pairs(pairs, RATE, **options)


@pytest.mark.parametrize("name", [name for name in ev.BASELINES])
def test_baselines_keep_length_and_level_or_say_what_they_need(x, name):
    x = x[:9001].astype(np.float32)
    try:
        y = ev.BASELINES[name](x, RATE)
    except ConfigError as error:
        pytest.skip(str(error))
    assert y.shape == x.shape and abs(ev.level(y) - ev.level(x)) < 4


# ---- folders ---------------------------------------------------------------------------------------------------------
def test_folders_are_matched_by_name(tmp_path, x):
    for name, length in (("r/a/1.wav", 8000), ("r/2.wav", 8000), ("o/a/1.flac", 7990), ("o/3.wav", 9)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, x[:length], RATE)
    rate, pairs, notes = ev.read_pairs(tmp_path / "r", tmp_path / "o")
    assert rate == RATE and [name for name, *_ in pairs] == ["a/1"] and len(pairs[0][1]) == len(pairs[0][2]) == 7990
    assert len(notes) == 3 and "1 clips have no partner, such as 2" in notes[0] and "8000 and 7990 samples" in notes[2]
    soundfile.write(tmp_path / "o" / "2.wav", x[:8000], 16000)
    with pytest.raises(DataError, match="all clips must have one rate, got 16000 Hz after 8000 Hz"):
        ev.read_pairs(tmp_path / "r", tmp_path / "o")
    with pytest.raises(DataError, match="about the same length, got 1.00 s and 0.50 s"):
        ev.read_pairs(tmp_path / "r", tmp_path / "o", RATE)
    with pytest.raises(DataError, match="two folders or two files"):
        ev.read_pairs(tmp_path / "r", tmp_path / "r" / "2.wav")
    with pytest.raises(DataError, match="none of which belong together"):
        ev.read_pairs(tmp_path / "r" / "a", tmp_path / "o")


def test_texts_are_read_by_name(tmp_path):
    (tmp_path / "texts.csv").write_text('file,text\na/1.wav,"Hello, you."\n')
    assert ev.read_texts(tmp_path / "texts.csv") == {"a/1": "Hello, you."}
    (tmp_path / "bad.csv").write_text("name;text\n")
    with pytest.raises(DataError, match="expected the columns file and text, got name;text"):
        ev.read_texts(tmp_path / "bad.csv")
