"""Download files of one commit from the Hugging Face Hub into its cache, and upload files as one commit.

The addresses, the cache and the token are huggingface_hub's own (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).
Errors are one sentence: which files, from where, and what to do.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"  # owner/name
# Called with the bytes of a download that have arrived, and those of all its files known so far. It must not raise.
Progress = Callable[[int, int], object]
_reported: ContextVar[Progress | None] = ContextVar("reported", default=None)


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, downloaded, written or published, or whose weights do not fit."""


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Report downloads within the block to ``progress`` instead of bars on stderr; None: leave the bars."""
    token = _reported.set(progress)
    try:
        yield
    finally:
        _reported.reset(token)


def fetch(
    repository: str,
    names: Sequence[str],
    revision: str | None = None,
    token: str | bool | None = None,
    instead: str = "name a local folder",
) -> Path:
    """The folder of the cache with those files of a repository that match ``names``, all of one commit.

    names: patterns, the first a plain name that the repository must hold. revision: a branch, tag or commit.
    instead: what else a user can do, for the sentence of an error.
    Where the Hub cannot be reached, or fails, the cache alone counts. Weights are compared with the sha256 that the
    Hub announced, each time: huggingface_hub compares their size alone. Raises CheckpointError.
    """
    from huggingface_hub import HfFileMetadata, constants, get_hf_file_metadata, hf_hub_url, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    def metadata(name: str, revision: str | None) -> HfFileMetadata:
        url = hf_hub_url(repository, name, revision=revision)
        return get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)

    unreachable, progress = None, _reported.get()
    try:
        try:  # with a time limit: snapshot_download would wait for a silent server for ever
            metadata(names[0], revision)
        except Exception as error:  # what a network can raise has no narrower class
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            unreachable = error
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                token=token,
                allow_patterns=list(names),
                local_files_only=unreachable is not None,
                tqdm_class=None if progress is None else _bar(progress),
            )
        )
        announced: dict[Path, str] = {}
        for path in sorted(path for name in names for path in folder.glob(name) if path.suffix == ".safetensors"):
            if path.is_symlink():  # to bytes that the cache named by their ETag: the sha256, where a file is large
                announced[path] = Path(os.readlink(path)).name
            elif unreachable is None:  # a file system without links
                announced[path] = metadata(path.relative_to(folder).as_posix(), folder.name).etag or ""
    except Exception as error:  # network, disk and Hub errors share no narrower class
        error = unreachable or error
        raise CheckpointError(
            f"could not download {', '.join(names)} from {_where(repository, revision)} {_why(error)}, or {instead}"
        ) from error
    for path, etag in announced.items():
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch(r"[0-9a-f]{64}", etag) and etag != found:
            _remove(path)
            raise CheckpointError(
                f"{path.relative_to(folder).as_posix()} from {_where(repository, revision)} is damaged (its sha256 is "
                f"{found[:12]}, announced was {etag[:12]}) and was removed from the cache; download it again, "
                f"or {instead}"
            )
    return folder


def _bar(progress: Progress) -> type:
    """A class of silent progress bars that report the bytes of a snapshot's files as they arrive."""
    from tqdm.std import tqdm

    most: float = 0
    one_at_a_time = threading.Lock()  # files arrive in threads of their own

    class Reported(tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal most
            shown = super().update(n)
            # One bar counts files. Of those that count bytes, the one that is ahead is reported.
            with one_at_a_time:
                if self.unit == "B" and self.total and self.n >= most:
                    most = self.n
                    progress(int(self.n), int(self.total))
            return shown

    return Reported


def _remove(path: Path) -> None:
    """Delete a file of the cache with the bytes that it links to, over one more link where repositories share them."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink()


def upload(
    files: Mapping[str, Path],
    repository: str,
    message: str,
    *,
    defaults: Mapping[str, str],
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Publish a checkpoint's ``files`` {name in the repository: local file} as one commit. Returns its address.

    defaults: {name: text} of files to add where neither ``files`` nor the repository has one of that name.
    private: of the repository, which is made where it is absent; None: the Hub's choice. revision: a branch, made from
    the main one where it is absent. Files of a codec that are not among ``files`` are removed in the same commit.
    Raises CheckpointError, also where the commit would leave out weights that the repository holds.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    if not isinstance(repository, str) or not re.fullmatch(REPOSITORY, repository):
        raise CheckpointError(f"repository must be owner/name on the Hub, got {repository!r}")
    where, api = _where(repository, revision), HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private is not None and api.model_info(repository).private != private:
            raise CheckpointError(
                f"private must be {not private} for {where}, which exists, got {private}; change it on its page first"
            )
        try:
            held = api.list_repo_files(repository, revision=revision)
        except RevisionNotFoundError:
            if revision is None:
                raise
            api.create_branch(repository, branch=revision)
            held = api.list_repo_files(repository, revision=revision)
        stale = [name for name in held if name.endswith(".safetensors") and name not in files]
        left_out = [name for name in stale if "/" not in name]
        if left_out:
            raise CheckpointError(
                f"{where} holds {', '.join(left_out)} too, which this push would leave out: push a checkpoint of all "
                "its variants, or to another repository or revision"
            )
        contents: dict[str, bytes | Path] = {name: text.encode() for name, text in defaults.items() if name not in held}
        contents.update(files)
        add = [CommitOperationAdd(name, content) for name, content in contents.items()]
        remove = [CommitOperationDelete(name) for name in stale if name.startswith("codec/")]
        # Not upload_folder, which may spread its files over several commits.
        return api.create_commit(repository, add + remove, commit_message=message, revision=revision).commit_url
    except CheckpointError:
        raise
    except Exception as error:  # network, disk and Hub errors share no narrower class
        raise CheckpointError(f"could not push to {where} {_why(error)}") from error


def _where(repository: str, revision: str | None) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}" + (f" at {revision}" if revision else "")


def _why(error: Exception) -> str:
    """What happened, in parentheses, and what to do."""
    from huggingface_hub import constants, errors

    known = (
        (errors.GatedRepoError, "accept its terms on that page, then run `hf auth login` or pass token="),
        (errors.RepositoryNotFoundError, "check the name; for a private one run `hf auth login` or pass token="),
        (errors.RevisionNotFoundError, "name a branch, tag or commit that it has"),
        (errors.RemoteEntryNotFoundError, "it is no checkpoint: check the name and the revision"),
        (errors.HFValidationError, "check the name"),
        (errors.OfflineModeIsEnabled, "unset HF_HUB_OFFLINE, under which the cache alone counts"),
        (errors.LocalTokenNotFoundError, "run `hf auth login` or pass the token itself"),
    )
    kind = type(error).__name__
    for known_kind, advice in known:
        if isinstance(error, known_kind):
            return f"({kind}); {advice}"
    detail = (getattr(error, "server_message", None) or str(error)).strip().partition("\n")[0][:200]
    what = f"({kind}: {detail})" if detail else f"({kind})"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        what = f"(HTTP {status}: {detail})"
        if status in (401, 403):
            return f"{what}; run `hf auth login` or pass token= with one that has the rights"
        if status == 429 or status >= 500:
            return f"{what}; try again later"
        return f"{what}; check the names"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return f"{what}; check the disk with the cache {constants.HF_HUB_CACHE}"
    return f"{what}; check the network and try again"
