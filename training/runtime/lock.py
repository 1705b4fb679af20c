"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PATIENCE = 3.0  # seconds: stages that start together look into finished folders at the same time
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a network file system that was mounted without them


class BusyError(ValueError):
    """A folder in which another run is at work."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process that asks out of ``folder``, which is made where it is absent.

    What is locked is its file ``lock``. The kernel lets go of it however a process ends, and NFS tells other machines.
    Where a file system knows no locks, a line on stderr says so and nobody is kept out.
    Raises :class:`BusyError` naming the folder and who holds it, where that one goes on holding it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Open for writing, as NFS asks of an exclusive lock; left behind, as others may have it open.
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            if not _taken(file, time.monotonic() + PATIENCE):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BusyError(
                    f"{folder} is in use by {holder}; wait until that ends, stop it, or choose another folder"
                )
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder} can't be locked ({error.strerror}): start no second run in it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _taken(file: IO[str], deadline: float) -> bool:
    """Whether the lock was had before the ``deadline``."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
