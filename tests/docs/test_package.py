"""The package as installed: what it carries, and that it is the wheel that is tested when a wheel is to be tested."""

import hashlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

import wavedil

HOME = Path(wavedil.__file__).parent


@pytest.mark.skipif("WAVEDIL_TEST_WHEEL" not in os.environ, reason="only `make test` tests a wheel")
def test_the_wheel_is_tested_and_not_the_source_tree():
    assert HOME.is_relative_to(sys.prefix)


def test_bundled_clips_are_whole_and_carry_their_licence():
    bundled = HOME / "audio" / "bundled"
    clips = json.loads((bundled / "manifest.json").read_text("utf-8"))["clips"]
    assert len(clips) > 100
    for clip in clips:
        assert hashlib.sha256((bundled / clip["path"]).read_bytes()).hexdigest() == clip["sha256"], clip["path"]
    assert "Creative Commons" in (bundled / "LICENSE-CC-BY-3.0.txt").read_text("utf-8")
    credits = (bundled / "CREDITS.txt").read_text("utf-8")
    assert "Carlo Flora" in credits and "Maxim Topal" in credits and "re-encoded to FLAC" in credits
    assert sum(path.stat().st_size for path in bundled.rglob("*.flac")) <= 3 * 2**20


def test_metadata_names_version_licence_and_extras():
    about = importlib.metadata.metadata("wavedil")
    assert about["Version"] == wavedil.__version__
    assert about["Requires-Python"] == ">=3.11"
    assert "BSD-3-Clause" in about["License-Expression"]
    assert {"test", "cuda", "bench"} <= set(about.get_all("Provides-Extra"))


def test_licence_texts_are_installed():
    files = [str(file) for file in importlib.metadata.files("wavedil") or []]
    if not any(file.startswith("wavedil/") for file in files):
        pytest.skip("an editable install keeps its files in the source tree")
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert any(file.endswith("LICENSE-CC-BY-3.0.txt") for file in files)
