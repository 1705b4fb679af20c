"""Locks that admit one run at a time to a folder."""

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

from dear.files import errors_naming

PATIENCE = 3.0  # seconds to wait: stages that start together open finished folders at the same time
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # from a network file system that was mounted without locks


class BusyError(ValueError):
    """A folder that another run has locked."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this process, and create it if it is absent.

    The lock is on its file ``lock``. The kernel releases it however the process ends, and NFS shares it with other
    machines. If a file system does not support locks, a line on stderr says so, and the folder stays unlocked.

    Raises :class:`BusyError`, which names the folder and the holder, if the lock is not released within ``PATIENCE``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # NFS requires a file open for writing. The file is not removed, since other processes may have it open.
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
        with errors_naming(folder / "lock"):  # without a buffer, which would fail again where it is closed
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def _taken(file: IO[str], deadline: float) -> bool:
    """Whether the lock was acquired before the ``deadline``."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
