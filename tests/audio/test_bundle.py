"""The bundled clips: whole, small, credited, and split as their manifest says."""

import hashlib

import numpy as np
import pytest
import soundfile

from wavedil import audio
from wavedil.audio.folder import BUNDLED


@pytest.fixture(scope="module")
def manifest():
    return audio.bundled_manifest()


@pytest.fixture(scope="module")
def data():
    return audio.bundled_clips(speakers="folders")


def test_files_are_those_of_the_manifest(manifest):
    listed = {clip["path"] for clip in manifest["clips"]}
    assert len(listed) == len(manifest["clips"]) == 167
    assert {path.relative_to(BUNDLED).as_posix() for path in BUNDLED.rglob("*.flac")} == listed
    for clip in manifest["clips"]:
        path = BUNDLED / clip["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == clip["sha256"], clip["path"]
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 8000, 1)
        assert info.frames == clip["samples"] > 0 and clip["seconds"] == round(info.frames / 8000, 4)
        speaker, kind, _ = clip["path"].split("/")
        assert (clip["speaker"], clip["kind"]) == (speaker, kind)
        if kind == "sentences":
            assert 2.0 <= clip["seconds"] <= 6.0


def test_what_the_subset_holds(manifest):
    for speaker in ("it", "ru"):
        kinds = [clip["kind"] for clip in manifest["clips"] if clip["speaker"] == speaker]
        assert (kinds.count("digits"), kinds.count("letters"), kinds.count("sentences")) == (10, 26, 20)
        assert kinds.count("phonetic") in (27, 28)


def test_small_enough_for_the_package():
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) <= 3_000_000


def test_licence_and_credits(manifest):
    credits = (BUNDLED / "CREDITS.txt").read_text("utf-8")
    for part in ("Carlo Flora", "IvrvoiceRU", "Maxim Topal, ivrvoice.ru", "CC-BY-3.0", "subset, re-encoded to FLAC"):
        assert part in credits
    licence = (BUNDLED / "LICENSE-CC-BY-3.0.txt").read_text("utf-8")
    assert "https://creativecommons.org/licenses/by/3.0/legalcode" in licence and "Attribution 3.0" in licence
    assert "TERMINATION" in licence.upper() and len(licence) > 10_000
    assert manifest["licence"] == "CC-BY-3.0" and set(manifest["speakers"]) == {"it", "ru"}


def test_split_of_the_manifest(manifest, data):
    held = {clip["path"]: clip for clip in manifest["clips"] if clip["split"] == "validation"}
    assert {name for name, *_ in data.validation_clips()} == set(held)
    assert {name for name, *_ in data.train_clips()} == {c["path"] for c in manifest["clips"] if c["split"] == "train"}
    share = sum(clip["seconds"] for clip in held.values()) / sum(clip["seconds"] for clip in manifest["clips"])
    assert 0.08 <= share <= 0.12
    for speaker in ("it", "ru"):
        kinds = {clip["kind"] == "sentences" for clip in held.values() if clip["speaker"] == speaker}
        assert kinds == {True, False}


def test_opens_clean(data):
    assert data.speakers == ("it", "ru") and data.sample_rate == 8000
    assert data.audit.clips == 167 and data.audit.skipped == () and data.audit.rates == {8000: 167}
    codes, weights, extra = data.batch(np.random.default_rng(0), 4, 4096)
    assert codes.shape == (4, 4097) and weights.shape == (4, 4096) and extra["speaker"].max() <= 1
    assert audio.bundled_clips(validation=0).audit.validation_clips == 0
    assert len(audio.bundled_clips().batch(np.random.default_rng(0), 1, 10)) == 2


def test_baselines_of_the_bundle(data):
    """The figures that the documentation quotes."""
    found = audio.baselines(data.train_clips(), data.validation_clips(), 8000)
    assert found.uniform == 8.0
    assert found.order0 == pytest.approx(7.718, abs=0.001)
    assert found.order1 == pytest.approx(6.305, abs=0.001)
    assert found.flac == pytest.approx(6.505, abs=0.02)  # another libsndfile may pack a little better or worse
