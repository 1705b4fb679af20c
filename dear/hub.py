"""Download from and upload to the Hugging Face Hub. Each download and each upload is one commit.

huggingface_hub supplies the address, the cache and the token (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). An error
is one sentence that names the files, the address and a remedy.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from dear.files import write_atomically
from dear.transfer import GivenUpError, Progress, Transfer, progress_bar

REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"  # owner/name
SCHEME = "hf://"  # prefix of owner/name that selects the Hub even if a folder has that name
_reported: ContextVar[Progress | None] = ContextVar("reported", default=None)


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, downloaded, written or published, or whose weights do not fit."""


class UnavailableError(CheckpointError):
    """A download that failed because the network or the Hub is unavailable. A later attempt may succeed."""


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Report downloads within the block to ``progress``. None shows progress bars on stderr."""
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
    local: bool = False,
) -> Path:
    """Download the files of a repository that match ``names``, all from one commit, and return their folder.

    names: patterns; the first is a plain file name that the repository must hold. revision: a branch, tag or commit.
    instead: an alternative for the user, which ends the message of an error. local: use only the cache.
    If the Hub is unavailable, the last complete commit in the cache is used. Every call compares the files with the
    digests that the Hub announced, because huggingface_hub compares only their sizes.
    Raises UnavailableError if the Hub is unavailable and the cache lacks the files, BudgetError (:mod:`dear.budget`),
    and CheckpointError for any other failure, such as a download that is slower than ``SLOWEST`` on average.
    """
    transfer, progress = Transfer(), _reported.get()
    try:
        download = partial(_download, repository, names, revision, token, transfer, progress, local)
        folder, announced = transfer.run(download, progress)
    except Exception as error:  # network, disk and Hub errors share no narrower class
        if transfer.given_up:  # by the caller's own progress or budget
            raise
        kind = UnavailableError if _is_transient(error) else CheckpointError
        raise kind(
            f"could not download {', '.join(names)} from {_address(repository, revision)} {_cause(error)}, or {instead}"
        ) from error
    for path, etag in announced.items():
        found = _digest(path, etag)
        if found is not None and found != etag:
            _remove(path)
            name = "sha256" if len(found) == 64 else "sha1"
            raise CheckpointError(
                f"{path.relative_to(folder).as_posix()} from {_address(repository, revision)} is damaged (its {name} "
                f"is {found[:12]}, announced was {etag[:12]}) and was removed from the cache; download it again, "
                f"or {instead}"
            )
    return folder


def _download(
    repository: str,
    names: Sequence[str],
    revision: str | None,
    token: str | bool | None,
    transfer: Transfer,
    progress: Progress | None,
    local: bool,
) -> tuple[Path, dict[Path, str]]:
    """The folder that :func:`fetch` returns, and the known ETags of its files."""
    from huggingface_hub import HfFileMetadata, constants, get_hf_file_metadata, hf_hub_url, snapshot_download

    def metadata(name: str, revision: str | None) -> HfFileMetadata:
        url = hf_hub_url(repository, name, revision=revision)
        return get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)

    def snapshot(local: bool) -> Path:
        bar = progress_bar(transfer, visible=progress is None)
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                token=token,
                allow_patterns=list(names),
                local_files_only=local,
                tqdm_class=bar,
            )
        )

    unreachable: Exception | None = None
    try:  # with a time limit, which snapshot_download lacks: it never gives up on a silent server
        if local:
            raise ConnectionError("only the cache was to be used")
        metadata(names[0], revision)
    except Exception as error:  # the errors of a network share no narrower class
        if not _is_transient(error):
            raise
        unreachable = error
    if unreachable is None:
        try:
            with kept_reference(repository, revision):
                folder = snapshot(local=False)
        except Exception as error:
            if not _is_transient(error):
                raise
            unreachable = error
    if unreachable is not None:
        try:
            folder = snapshot(local=True)
        except Exception:
            raise unreachable from None
        if any("*" not in name and not name.endswith(".md") and not (folder / name).is_file() for name in names):
            raise unreachable
    announced: dict[Path, str] = {}
    for path in sorted(path for name in names for path in folder.glob(name) if path.is_file()):
        if path.is_symlink():  # to a file that the cache names by its ETag
            announced[path] = Path(os.readlink(path)).name
        elif unreachable is None and path.suffix == ".safetensors":  # a file system without links
            announced[path] = metadata(path.relative_to(folder).as_posix(), folder.name).etag or ""
    return folder, announced


def _is_transient(error: Exception) -> bool:
    """Whether a later attempt may succeed: the network failed, or the Hub failed or refused the request for now."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if isinstance(error, GatedRepoError | GivenUpError):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (403, 408, 429)
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, ConnectionError)


@contextmanager
def kept_reference(repository: str, revision: str | None) -> Iterator[None]:
    """Restore the commit that the cache's branch or tag names if the block fails."""
    from huggingface_hub import constants

    folder = f"models--{repository.replace('/', '--')}"
    references = (Path(constants.HF_HUB_CACHE) / folder / "refs").resolve()
    path = (references / (revision or constants.DEFAULT_REVISION)).resolve()
    before = path.read_bytes() if path.is_relative_to(references) and path.is_file() else None
    whole = False
    try:
        yield
        whole = True
    finally:
        if not whole and before is not None:
            write_atomically(path, lambda file: file.write(before))


def _digest(path: Path, etag: str) -> str | None:
    """The digest of a file in the form of ``etag``, or None if that form is unknown.

    The Hub announces the SHA-256 of a large file and the SHA-1 of the Git blob of a small one.
    """
    with open(path, "rb") as file:
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch(r"[0-9a-f]{40}", etag):
            data = file.read()
            return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return None


def _remove(path: Path) -> None:
    """Delete a file of the cache and everything that it links to."""
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
    """Publish the files of a checkpoint as one commit and return its address.

    files: {name in the repository: local file}. defaults: {name: text} of files to add if neither ``files`` nor the
    repository has them. private: the visibility of the repository, which is created if it is absent; None leaves the
    choice to the Hub. revision: a branch, which is created from the main branch if it is absent.
    The same commit removes codec files that are not in ``files``.
    Raises CheckpointError if the upload fails, or if the repository holds weights that ``files`` lacks.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    if not isinstance(repository, str) or not re.fullmatch(REPOSITORY, repository):
        raise CheckpointError(f"repository must be owner/name on the Hub, got {repository!r}")
    where, api = _address(repository, revision), HfApi(token=token)
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
                f"{where} also holds {', '.join(left_out)}, which this checkpoint lacks; push a checkpoint with all "
                "variants, or push to another repository or revision"
            )
        contents: dict[str, bytes | Path] = {name: text.encode() for name, text in defaults.items() if name not in held}
        contents.update(files)
        add = [CommitOperationAdd(name, content) for name, content in contents.items()]
        remove = [CommitOperationDelete(name) for name in stale if name.startswith("codec/")]
        # Not upload_folder, which may use several commits.
        return api.create_commit(repository, add + remove, commit_message=message, revision=revision).commit_url
    except CheckpointError:
        raise
    except Exception as error:  # network, disk and Hub errors share no narrower class
        raise CheckpointError(f"could not push to {where} {_cause(error)}") from error


def _address(repository: str, revision: str | None) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}" + (f" at {revision}" if revision else "")


def _cause(error: Exception) -> str:
    """The cause in parentheses, and a remedy."""
    from huggingface_hub import constants, errors

    known = (
        (errors.GatedRepoError, "accept its terms on that page, then run `hf auth login` or pass token="),
        (errors.RepositoryNotFoundError, "check the name; for a private one run `hf auth login` or pass token="),
        (errors.RevisionNotFoundError, "name a branch, tag or commit of the repository"),
        (errors.RemoteEntryNotFoundError, "it holds no checkpoint; check the name and the revision"),
        (errors.HFValidationError, "check the name"),
        (errors.OfflineModeIsEnabled, "unset HF_HUB_OFFLINE, which permits only the cache"),
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
            return f"{what}; run `hf auth login` or pass token= with one of the required permission"
        if status == 429 or status >= 500:
            return f"{what}; try again later"
        return f"{what}; check the names"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return f"{what}; check the disk with the cache {constants.HF_HUB_CACHE}"
    return f"{what}; check the network and try again"
