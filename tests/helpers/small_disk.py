"""A small file system that can be filled, in a mount namespace of this process alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS = 0x00020000
PAGE = 4096


class MountError(Exception):
    """Mounting is not allowed here."""


def own_mounts() -> None:
    """Let what this thread mounts be seen by it, its threads and its processes alone, and end with them.

    Raises MountError where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise MountError(f"this process may not mount a small disk ({os.strerror(ctypes.get_errno())})")
    _run("mount", "--make-rprivate", "/")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """An empty file system of ``size`` bytes at ``folder``. Raises MountError."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def filled(folder: Path, left: int) -> Iterator[None]:
    """A file system that has ``left`` bytes for the time of a block, in whole pages."""
    filler = folder / ".filler"
    with open(filler, "wb") as file:
        status = os.statvfs(folder)
        taken = (status.f_bavail * status.f_frsize - left) // PAGE * PAGE
        if taken > 0:
            os.posix_fallocate(file.fileno(), 0, taken)
    try:
        yield
    finally:
        filler.unlink()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise MountError(f"this process may not mount a small disk ({reason.strip()})") from None
