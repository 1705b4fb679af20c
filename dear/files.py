"""Atomic writes, text and JSON files, and digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


class DamagedError(ValueError):
    """A file whose content is not what was written to it."""


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Raise an OSError that names no file, such as that of a write to a full disk, as one that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, make it durable, then move it to ``path``.

    A link stays a link, and an existing file keeps its permissions. The name of the temporary file is fixed, so a file
    that a killed process left is overwritten. Raises OSError, which names ``path``, for example if the disk is full.
    """
    path = resolve_links(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with errors_naming(path):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            replace(temporary, path)
    except RuntimeError as error:  # torch.save reports what a file raises as an error of its own
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def resolve_links(path: Path) -> Path:
    """The file to write where ``path`` is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def replace(temporary: Path, path: Path) -> None:
    """Move ``temporary`` to ``path`` in one step, with the permissions of the file that it replaces."""
    with suppress(FileNotFoundError):
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    os.replace(temporary, path)


def regular_size(path: Path) -> int:
    """Bytes of a regular file. Raises OSError for anything else, such as a pipe or a device, which may never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_size


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a regular file of at most ``most`` bytes.

    Raises OSError as :func:`regular_size` does and if the file cannot be read, and ValueError, which names the file and
    the line, if it is too large or not UTF-8.
    """
    size = regular_size(path)
    if size > most:
        raise ValueError(f"{path} must be at most {most} bytes, got {size}")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "; it begins as UTF-16 does" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(
            f"{path} must be text in UTF-8, got the byte 0x{data[error.start]:02x} in line {line}{hint}"
        ) from None


def write_json(path: Path, data: Any) -> None:
    """Write plain data atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()))


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote. Raises DamagedError naming a file that holds no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({str(error)[:200]}); remove it to make it again") from None


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data with the digest of itself, for :func:`write_json`."""
    return {**data, "sha256": _digest(data)}


def read_sealed(path: Path, *keys: str) -> dict[str, Any]:
    """Read what was written with :func:`sealed`, without the digest; see :func:`unsealed`."""
    return unsealed(read_json(path), path, *keys)


def unsealed(data: Any, name: object, *keys: str) -> dict[str, Any]:
    """The plain data of :func:`sealed` without the digest. Data of earlier versions has no digest and is accepted.

    name: the source of the data, for errors.
    Raises DamagedError for data that does not match its digest or lacks one of ``keys``.
    """
    fault = None
    if not isinstance(data, dict):
        fault = "it must hold an object"
    elif missing := [key for key in keys if key not in data]:
        fault = f"it lacks {missing[0]!r}"
    else:
        data = dict(data)
        digest = data.pop("sha256", None)
        if digest is not None and digest != _digest(data):
            fault = "its digest is not the one that it holds"
    if fault:
        raise DamagedError(f"{name} is damaged ({fault}); remove it to make it again")
    return data


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The digest of a regular file's bytes, in hex. Raises OSError."""
    regular_size(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
