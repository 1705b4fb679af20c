"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a network file system that was mounted without them


class BusyError(ValueError):
    """A folder in which another run is at work."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process that asks out of ``folder``, which is made where it is absent.

    What is locked is its file ``lock``. The kernel lets go of it however a process ends, and NFS tells other machines.
    Where a file system knows no locks, a line on stderr says so and nobody is kept out.
    Raises :class:`BusyError` naming the folder and who holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Open for writing, as NFS asks of an exclusive lock; left behind, as others may have it open.
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(
                f"{folder} is in use by {holder}; wait until that ends, stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder} can't be locked ({error.strerror}): start no second run in it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
