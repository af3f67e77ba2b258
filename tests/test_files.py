"""Files written atomically: whole or as they were, whatever happens on the way."""

import errno
import functools
import os
import threading

import pytest

from wavedil import files


def test_the_file_holds_all_bytes_and_nothing_lies_beside_it(tmp_path):
    for data in (b"first", memoryview(b"second"), bytearray(b"")):
        files.write_atomically(tmp_path / "x", data, durable=bool(data))
        assert (tmp_path / "x").read_bytes() == bytes(data)
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, trouble):
    def writer(file, data):
        file.write(data[:2])
        raise trouble

    path = tmp_path / "x"
    files.write_atomically(path, b"old")
    with pytest.raises(type(trouble)):
        files.write_atomically(path, b"new", writer=writer)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, error in ((tmp_path / "no" / "x", FileNotFoundError), (tmp_path / "file" / "x", NotADirectoryError)):
        with pytest.raises(error):
            files.write_atomically(path, b"new")
        files.sweep(path)


def test_a_durable_file_is_flushed_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("flush"), real["fsync"](fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), real["replace"](a, b)))
    files.write_atomically(tmp_path / "x", b"1")
    assert done == ["flush", "rename", "flush"]
    files.write_atomically(tmp_path / "x", b"2", durable=False)
    assert done[3:] == ["rename"]


def test_threads_that_write_the_same_file_do_not_mix(tmp_path):
    path, both = tmp_path / "x", threading.Barrier(2)

    def writer(file, data):
        file.write(data[:1])
        both.wait()
        file.write(data[1:])

    texts = (b"aaaa", b"bbbb")
    write = functools.partial(files.write_atomically, path, writer=writer)
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts and list(tmp_path.iterdir()) == [path]


def test_sweep_removes_what_a_kill_left_of_this_file_alone(tmp_path):
    for name in (".x.1.2.tmp", ".y.1.2.tmp", "x"):
        (tmp_path / name).write_bytes(b"")
    files.sweep(tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".y.1.2.tmp", "x"]
