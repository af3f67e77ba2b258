"""ClipFolder: finding, skipping, splitting, windows and the cache."""

import errno
import os

import numpy as np
import pytest
import soundfile
from helpers.sounds import bad_files, tone

from wavedil import audio
from wavedil.audio import decoding
from wavedil.audio.mulaw import SILENCE
from wavedil.errors import ConfigError, DataError


def put(path, samples, rate=8000, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **how)
    return path


def noise(seed, length):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, length)


@pytest.fixture
def folder(tmp_path):
    """Twenty clips of 100 to 2000 samples in two folders; values tell clips apart."""
    root = tmp_path / "clips"
    for i in range(20):
        put(root / ("ann" if i % 2 else "bob") / f"{i:02d}.wav", noise(i, 100 * (i + 1)))
    return root


def as_dict(clips):
    return {name: codes for name, codes, _ in clips}


# ---- finding


def test_codes_are_those_of_the_files(folder):
    data = audio.ClipFolder(folder)
    both = as_dict(data.train_clips()) | as_dict(data.validation_clips())
    assert len(both) == 20
    for name, codes in both.items():
        assert codes.dtype == np.uint8
        np.testing.assert_array_equal(codes, audio.mulaw_encode(audio.read_audio(folder / name, 8000)))


def test_finds_every_format_in_every_depth(tmp_path):
    names = ["a.wav", "b/c.flac", "b/d/e.ogg", "f.MP3", "g.aiff", "h.au", "i.caf", "j.w64", "k.Aif"]
    for name in names:
        format = {"mp3": "MP3", "aif": "AIFF"}.get(name.rsplit(".", 1)[1].lower())
        put(tmp_path / name, tone(), format=format)
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / "raw.raw").write_bytes(b"1234")
    data = audio.ClipFolder(tmp_path)
    assert data.audit.clips == len(names) and data.audit.skipped == ()
    names_found = [name for name, *_ in [*data.train_clips(), *data.validation_clips()]]
    assert sorted(names_found) == sorted(names)


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "elsewhere" / "a.wav", tone())
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert audio.ClipFolder(root).audit.clips == 1


def test_audit(tmp_path):
    put(tmp_path / "a.wav", np.concatenate([np.zeros(8000), tone(1.0, level=1.2)]), subtype="FLOAT")
    put(tmp_path / "b.wav", np.stack([tone(1.0, 192000)] * 2, axis=1), 192000)
    put(tmp_path / "c.flac", tone(0.5))
    put(tmp_path / "d.wav", np.zeros(0))
    audit = audio.ClipFolder(tmp_path, validation=["c.flac"]).audit
    assert (audit.clips, audit.train_clips, audit.validation_clips) == (3, 2, 1)
    assert (audit.seconds, audit.train_seconds, audit.validation_seconds) == (3.5, 3.0, 0.5)
    assert (audit.shortest, audit.longest) == (0.5, 2.0)
    assert audit.rates == {8000: 2, 192000: 1} and (audit.resampled, audit.mixed) == (1, 1)
    assert audit.silent == pytest.approx(1 / 3.5, abs=0.01)
    loud = np.abs(tone(1.0, level=1.2)) >= 0.9785
    assert audit.clipped == pytest.approx(loud.sum() / 28000, abs=0.003)
    assert audit.skipped == (("d.wav", "no samples"),)
    text = "\n".join(audit.lines())
    for part in ("3 clips, 3.5 s", "2 at 8000 Hz, 1 at 192000 Hz", "1 resampled", "28.", "d.wav: no samples"):
        assert part in text


def test_audit_names_few_skipped_files(tmp_path):
    put(tmp_path / "a.wav", tone())
    for i in range(9):
        (tmp_path / f"bad{i}.wav").write_bytes(b"")
    lines = audio.ClipFolder(tmp_path).audit.lines(most_skipped=2)
    assert "skipped 9 files:" in lines and "  and 7 more" in lines
    assert "no clips are held out: there will be no validation figures" in lines


# ---- bad input


def test_bad_clips_among_good_ones_are_counted(tmp_path, folder):
    bad = bad_files(folder)
    (folder / "nothing.wav").symlink_to(folder / "never")
    audit = audio.ClipFolder(folder).audit
    assert audit.clips == 20
    reasons = {folder / name: reason for name, reason in audit.skipped}
    assert set(reasons) == {*bad, folder / "nothing.wav"}
    for path, says in bad.items():
        assert says in reasons[path] and str(path) not in reasons[path]


def test_nothing_but_bad_clips(tmp_path):
    bad_files(tmp_path)
    with pytest.raises(DataError, match=r"none of 6 audio files can be used \(empty.wav: empty file"):
        audio.ClipFolder(tmp_path)


def test_no_folder_no_audio(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        audio.ClipFolder(tmp_path / "missing")
    with pytest.raises(DataError, match="found nothing"):
        audio.ClipFolder(tmp_path)
    (tmp_path / "a.m4a").write_bytes(b"1")
    with pytest.raises(DataError, match=r"found 1 \.m4a"):
        audio.ClipFolder(tmp_path)
    with pytest.raises(DataError, match="got a file"):
        audio.ClipFolder(tmp_path / "a.m4a")


@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 0},
        {"sample_rate": "8k"},
        {"validation": 1.0},
        {"validation": -0.1},
        {"validation": "some"},
        {"validation": None},
        {"speakers": "names"},
        {"cache_limit": -1},
        {"cache_limit": 1.5},
    ],
)
def test_impossible_settings(folder, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        audio.ClipFolder(folder, **options)


def test_impossible_batches(folder):
    data = audio.ClipFolder(folder)
    for batch, window, says in ((0, 10, "batch must be at least 1, got 0"), (2, 0, "window must be at least 1, got 0")):
        with pytest.raises(ConfigError, match=f"ClipFolder.batch: {says}"):
            data.batch(np.random.default_rng(0), batch, window)


# ---- splitting


def held_out(*args, **options):
    return set(as_dict(audio.ClipFolder(*args, **options).validation_clips()))


def test_split_is_stable(folder):
    first = held_out(folder, validation=0.3)
    assert 1 <= len(first) < 20 and held_out(folder, validation=0.3) == first
    assert held_out(folder, validation=0.3, seed=1) != first
    for i in range(20):
        put(folder / "bob" / f"new{i}.wav", tone())
    later = held_out(folder, validation=0.3)
    assert {name for name in later if "new" not in name} == first and later != first


def test_split_is_complete(folder):
    data = audio.ClipFolder(folder, validation=0.3)
    train, held = set(as_dict(data.train_clips())), set(as_dict(data.validation_clips()))
    assert len(train) + len(held) == 20 and not train & held


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [1e-9, 0.999])
def test_two_clips_give_one_of_each(tmp_path, seed, share):
    put(tmp_path / "a.wav", tone())
    put(tmp_path / "b.wav", tone())
    assert len(held_out(tmp_path, validation=share, seed=seed)) == 1


def test_small_splits(tmp_path):
    put(tmp_path / "a.wav", tone())
    assert held_out(tmp_path) == set()
    put(tmp_path / "b.wav", tone())
    assert held_out(tmp_path, validation=0) == set()


def test_every_speaker_keeps_a_training_clip(tmp_path):
    for speaker in "abcdef":
        put(tmp_path / speaker / "1.wav", tone())
        put(tmp_path / speaker / "2.wav", tone())
    data = audio.ClipFolder(tmp_path, validation=0.95, speakers="folders")
    assert {speaker for *_, speaker in data.train_clips()} == set(range(6))


def test_named_validation_clips(folder):
    assert held_out(folder, validation=["ann/01.wav", "bob/08.wav"]) == {"ann/01.wav", "bob/08.wav"}
    assert held_out(folder, validation=()) == set()
    with pytest.raises(DataError, match="ann/99.wav"):
        audio.ClipFolder(folder, validation=["ann/99.wav"])
    with pytest.raises(DataError, match="nothing is left"):
        audio.ClipFolder(folder, validation=[p.relative_to(folder).as_posix() for p in folder.rglob("*.wav")])


# ---- windows


def test_windows_are_pieces_of_clips(folder):
    data = audio.ClipFolder(folder, speakers="folders")
    known = [(np.concatenate((np.uint8([SILENCE]), codes)), speaker) for _, codes, speaker in data.train_clips()]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        codes, weights, extra = data.batch(rng, 5, 700)
        assert codes.shape == (5, 701) and codes.dtype == np.uint8 and codes.flags.c_contiguous
        assert weights.shape == (5, 700) and weights.dtype == np.float32
        assert extra["speaker"].shape == (5,) and extra["speaker"].dtype == np.int64
        for row, weight, speaker in zip(codes, weights, extra["speaker"], strict=True):
            count = int(weight.sum())
            assert weight.tolist() == [1.0] * count + [0.0] * (700 - count)
            assert (row[count + 1 :] == SILENCE).all()
            piece = row[: count + 1].tobytes()
            owners = [i for i, (clip, whose) in enumerate(known) if piece in clip.tobytes() and whose == speaker]
            assert len(owners) == 1
            assert count == min(700, len(known[owners[0]][0]) - 1)  # short clips whole, long ones a full window
            seen.add(owners[0])
    assert len(seen) == len(known)


def test_window_at_the_start_begins_with_silence(tmp_path):
    put(tmp_path / "a.wav", noise(0, 50))
    data = audio.ClipFolder(tmp_path)
    (_, clip, _), *_ = data.train_clips()
    starts = set()
    rng = np.random.default_rng(0)
    for _ in range(400):
        codes, weights = data.batch(rng, 1, 48)
        start = next(s for s in range(3) if (codes[0, 1:] == clip[s : s + 48]).all())
        assert codes[0, 0] == (clip[start - 1] if start else SILENCE) and weights.all()
        starts.add(start)
    assert starts == {0, 1, 2}


def test_window_of_exactly_the_clip(tmp_path):
    put(tmp_path / "a.wav", noise(0, 64))
    data = audio.ClipFolder(tmp_path)
    (_, clip, _), *_ = data.train_clips()
    codes, weights = data.batch(np.random.default_rng(0), 1, 64)
    assert codes[0].tolist() == [SILENCE, *clip.tolist()] and weights.all()


def test_every_sample_is_about_equally_likely(tmp_path):
    """One long and one short clip: targets of the short one must come up as often as those of the long one."""
    put(tmp_path / "long.wav", np.full(4000, 0.5), subtype="FLOAT")
    put(tmp_path / "short.wav", np.full(50, -0.5), subtype="FLOAT")
    data = audio.ClipFolder(tmp_path, validation=0)
    rng = np.random.default_rng(0)
    codes, weights = data.batch(rng, 20000, 200)
    targets = codes[:, 1:][weights > 0]
    short = np.count_nonzero(targets < 128) / 50
    long = np.count_nonzero(targets > 128) / 4000
    assert short / long == pytest.approx(1.0, abs=0.15)


def test_clips_of_one_sample(tmp_path):
    for name, value in (("a", 0.5), ("b", -0.5)):
        put(tmp_path / f"{name}.wav", [value])
    codes, weights = audio.ClipFolder(tmp_path, validation=0).batch(np.random.default_rng(0), 1000, 1)
    assert weights.all() and (codes[:, 0] == SILENCE).all()
    assert 400 < np.count_nonzero(codes[:, 1] > SILENCE) < 600


def test_same_state_same_batch(folder):
    one, two = audio.ClipFolder(folder), audio.ClipFolder(folder)
    a, b = np.random.default_rng(7), np.random.default_rng(7)
    one.batch(np.random.default_rng(0), 3, 333)  # what was drawn before with another generator does not matter
    for _ in range(5):
        for x, y in zip(one.batch(a, 4, 500), two.batch(b, 4, 500), strict=True):
            np.testing.assert_array_equal(x, y)
    assert a.bit_generator.state == b.bit_generator.state
    assert not np.array_equal(one.batch(a, 4, 500)[0], one.batch(a, 4, 500)[0])


# ---- speakers


def test_speakers_from_folders(folder):
    data = audio.ClipFolder(folder, speakers="folders")
    assert data.speakers == ("ann", "bob")
    for name, _, speaker in [*data.train_clips(), *data.validation_clips()]:
        assert name.startswith(data.speakers[speaker] + "/")
    without = audio.ClipFolder(folder)
    assert without.speakers == () and without.train_clips()[0][2] is None
    assert len(without.batch(np.random.default_rng(0), 2, 10)) == 2


def test_speaker_with_only_bad_clips_gets_no_id(folder):
    (folder / "aaa").mkdir()
    (folder / "aaa" / "x.wav").write_bytes(b"")
    assert audio.ClipFolder(folder, speakers="folders").speakers == ("ann", "bob")


def test_speakers_need_folders(folder):
    put(folder / "stray.wav", tone())
    with pytest.raises(DataError, match=r"stray\.wav"):
        audio.ClipFolder(folder, speakers="folders")


# ---- cache


def batches(data):
    rng = np.random.default_rng(3)
    return [data.batch(rng, 4, 500)[0] for _ in range(5)]


def no_decoding(*_):
    raise AssertionError("decoded again")


def test_beyond_the_limit_codes_lie_on_disk(tmp_path, folder, monkeypatch):
    cache = tmp_path / "cache"
    inside = audio.ClipFolder(folder)
    assert inside.audit.disk_bytes == 0 and inside.audit.memory_bytes == 21000 and not cache.exists()
    outside = audio.ClipFolder(folder, cache_limit=5000, cache_dir=cache)
    assert 0 < outside.audit.memory_bytes <= 5000
    assert outside.audit.memory_bytes + outside.audit.disk_bytes == 21000
    assert any("on disk" in line for line in outside.audit.lines())
    np.testing.assert_array_equal(batches(outside), batches(inside))
    on_disk = [codes for _, codes, _ in outside.train_clips() if isinstance(codes, np.memmap)]
    assert on_disk and not on_disk[0].flags.writeable

    # A second start decodes nothing that lies on disk, and finds the same.
    everything = audio.ClipFolder(folder, cache_limit=0, cache_dir=cache)
    monkeypatch.setattr(decoding, "decode", no_decoding)
    again = audio.ClipFolder(folder, cache_limit=0, cache_dir=cache)
    np.testing.assert_array_equal(batches(again), batches(inside))
    assert again.audit == everything.audit
    roomy = audio.ClipFolder(folder, cache_dir=cache)
    assert roomy.audit.disk_bytes == 0 and not isinstance(roomy.train_clips()[0][1], np.memmap)


def test_changed_file_or_rate_is_decoded_anew(tmp_path):
    root, cache = tmp_path / "clips", tmp_path / "cache"
    path = put(root / "a.wav", tone(1.0))
    first = audio.ClipFolder(root, cache_limit=0, cache_dir=cache).train_clips()[0][1]
    put(path, tone(1.0, hertz=100))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    second = audio.ClipFolder(root, cache_limit=0, cache_dir=cache).train_clips()[0][1]
    assert len(second) == len(first) and not np.array_equal(first, second)
    third = audio.ClipFolder(root, 16000, cache_limit=0, cache_dir=cache).train_clips()[0][1]
    assert len(third) == 2 * len(first)


@pytest.mark.parametrize("harm", ["delete", "cut", "garble"])
def test_lost_cache_is_made_again(tmp_path, folder, harm):
    cache = tmp_path / "cache"
    data = audio.ClipFolder(folder, cache_limit=0, cache_dir=cache)
    before = batches(data)
    for entry in cache.iterdir():
        if harm == "delete":
            entry.unlink()
        elif harm == "cut":
            entry.write_bytes(entry.read_bytes()[:-10])
        else:
            entry.write_bytes(b"no array")
    np.testing.assert_array_equal(batches(data), before)
    np.testing.assert_array_equal(batches(audio.ClipFolder(folder, cache_limit=0, cache_dir=cache)), before)


def test_file_changed_behind_our_back(tmp_path):
    root, cache = tmp_path / "clips", tmp_path / "cache"
    path = put(root / "a.wav", tone(1.0))
    data = audio.ClipFolder(root, cache_limit=0, cache_dir=cache)
    for entry in cache.iterdir():
        entry.unlink()
    put(path, tone(0.5))
    with pytest.raises(DataError, match="changed while in use, had 8000 samples, now 4000"):
        data.batch(np.random.default_rng(0), 1, 100)


def test_full_disk_falls_back_to_memory(tmp_path, folder, monkeypatch):
    cache = tmp_path / "cache"
    expected = batches(audio.ClipFolder(folder))
    written = []
    real = decoding.write_atomically

    def full(place, *parts, **options):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(place)
        real(place, *parts, **options)

    monkeypatch.setattr(decoding, "write_atomically", full)
    data = audio.ClipFolder(folder, cache_limit=12000, cache_dir=cache)
    np.testing.assert_array_equal(batches(data), expected)
    assert any("No space left on device" in line for line in data.audit.lines())
    assert sorted(cache.iterdir()) == sorted(written)  # two whole entries, no rest of the third
    assert data.audit.disk_bytes > 0 and data.audit.memory_bytes > 12000

    written.clear()
    written.extend([0, 0])
    with pytest.raises(DataError, match=r"cache_limit=9000 .*No space left on device"):
        audio.ClipFolder(folder, cache_limit=9000, cache_dir=tmp_path / "other")


def test_impossible_cache_folder(tmp_path, folder):
    (tmp_path / "file").write_text("no folder")
    data = audio.ClipFolder(folder, cache_limit=20000, cache_dir=tmp_path / "file" / "cache")
    assert data.audit.disk_bytes == 0 and "Not a directory" in data.audit.notes[0]
    with pytest.raises(DataError, match="Not a directory"):
        audio.ClipFolder(folder, cache_limit=0, cache_dir=tmp_path / "file" / "cache")


def test_cache_folder_by_default(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    audio.ClipFolder(folder, cache_limit=0)
    assert len(list((tmp_path / "xdg" / "wavedil").glob("*.npy"))) == 20


def test_sequences_of_clips(folder):
    clips = audio.ClipFolder(folder).train_clips()
    assert len(clips[1:4]) == 3 and clips[-1][0] == clips[len(clips) - 1][0]
    with pytest.raises(IndexError):
        clips[len(clips)]
