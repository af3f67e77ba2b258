"""Files that are whole at any moment: written beside their name, then renamed over it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: str | os.PathLike,
    data,
    *,
    writer: Callable | None = None,
    durable: bool = True,
) -> None:
    """Put bytes under ``path``: afterwards the file holds all of them, or what it held before.

    They are written to a temporary file in the same folder, flushed to the disk and renamed; the folder is flushed too.

    Parameters
    ----------
    path : path-like
        In a folder that exists.
    data : bytes-like
    writer : callable, optional
        ``writer(file, data)`` puts the bytes into the open file; the default is ``file.write(data)``.
    durable : bool
        Whether to wait for the disk. Without it a power cut may lose the file, or leave an empty one: enough for what
        can be made again.

    Raises
    ------
    OSError
        The operating system refused. What was there before is untouched.
    """
    path = Path(path)
    # Process and thread keep two writers apart; what a kill leaves behind, `sweep` removes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            if writer is None:
                file.write(data)
            else:
                writer(file, data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    if durable and os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep(path: str | os.PathLike) -> None:
    """Remove temporary files that killed writers of ``path`` left behind."""
    path = Path(path)
    if path.parent.is_dir():
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            _remove(left)


def _remove(path):
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:  # where the folder is a file, there is nothing to remove
        pass
