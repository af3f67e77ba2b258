"""`wavedil evaluate`, from the shell's side."""

import json

import pytest
from helpers.shell import assert_one_clear_line, wavedil
from helpers.sounds import tone

from wavedil import audio


@pytest.fixture
def place(tmp_path):
    for folder in ("reference", "output"):
        (tmp_path / folder).mkdir()
        for i in (1, 2):
            audio.write_audio(tmp_path / folder / f"{i}.wav", tone(1.0, hertz=200 * i), 8000)
    return tmp_path


def test_a_table_of_two_folders(place):
    result = wavedil("evaluate", place / "reference", place / "output", "--measures", "mel_lsd,level")
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert "2 clips, 2.0 s at 8,000 Hz" in result.stdout
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.split()}
    assert rows["output"] == rows["original"] == ["0", "-9.03"]


def test_json_has_a_row_for_each_clip_and_the_baselines(place):
    result = wavedil("evaluate", place / "reference", place / "output", "--measures", "mcd", "--baselines", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["clips"] == 2 and {"original", "output", "mu-law", "Griffin-Lim"} <= set(found["tables"])
    assert [row["name"] for row in found["tables"]["mu-law"]["rows"]] == ["1", "2"]
    assert found["tables"]["output"]["means"]["mcd"] == 0 < found["tables"]["mu-law"]["means"]["mcd"]


def test_two_files_and_clear_errors(place):
    one, two = place / "reference" / "1.wav", place / "output" / "2.wav"
    assert wavedil("evaluate", one, two, "--measures", "mcd").exit_code == 0
    assert_one_clear_line(wavedil("evaluate", one, place / "no.wav"), "no such file or folder")
    assert_one_clear_line(wavedil("evaluate", one, two, "--measures", "stoy"), "did you mean 'stoi'?")
    assert_one_clear_line(wavedil("evaluate", one, two, "--measures", "wer"), "wer")
