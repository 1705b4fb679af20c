"""A Hub on this machine, with the part of the Hugging Face Hub's HTTP interface that downloads and commits use.

The Hub itself serves small files and redirects to another origin for large ones (LFS), which refuses a token, as signed
addresses do. Xet is not announced. :meth:`HubServer.fail` makes chosen requests fail. The file is long because it
implements one protocol, whose requests depend on each other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import yaml

READ, WRITE = "hf_read", "hf_write"  # tokens
LFS = (".safetensors",)  # what .gitattributes of a new repository names


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git itself holds of a large file."""
        size = len(self.data)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        held = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], message: str, ref: str = "main") -> str:
        self.messages.append(message)
        listing = "".join(f"{path}:{blob.oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}\n{message}\n{listing}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Fault:
    method: str
    path: str  # end of the path
    times: int
    status: int = 0  # answer with this
    cut: int = -1  # end the connection after so many bytes of the body
    reset: bool = False  # end it with a reset instead
    wrong: bool = False  # change one byte of the body
    delay: float = 0.0  # seconds before the answer
    drip: float = 0.0  # seconds between the bytes of the body


class HubServer:
    """``url`` is the endpoint; ``repositories`` and ``requests`` (method, path) may be read and changed by tests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()  # sent to the Hub
        self.faults: list[Fault] = []
        self.closed = False
        self.home = Path()  # of huggingface_hub's cache and token, where it uses this server
        self.lock = threading.Lock()
        self.hub, self.storage = (self._listen(handler) for handler in (HubHandler, StorageHandler))
        self.url, self.storage_url = (f"http://127.0.0.1:{one.server_port}" for one in (self.hub, self.storage))

    def _listen(self, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.world = self
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def close(self) -> None:
        """Stop listening, and answer nothing more on connections that are open."""
        self.closed = True
        for server in (self.hub, self.storage):
            server.shutdown()
            server.server_close()

    def add(self, name: str, folder: Path, **options: bool) -> str:
        """A repository, or one more commit of it, with the files of ``folder``. Returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**options))
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {p.relative_to(folder).as_posix(): Blob(p.read_bytes(), p.name.endswith(LFS)) for p in paths}
        return repository.commit(files, "Add files")

    def fail(self, method: str, path: str, times: int = 1000, **what: object) -> None:
        self.faults.append(Fault(method, path, times, **what))

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and path.endswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def paths(self, method: str) -> list[str]:
        return [path for one, path in self.requests if one == method]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def in_use(server: HubServer, home: Path) -> Iterator[None]:
    """Within the block huggingface_hub uses this server, and its cache and token lie in ``home``."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session, disable_progress_bars, enable_progress_bars

    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    server.home = home
    close_session()
    disable_progress_bars()
    try:
        # No pause between its attempts.
        with patch.multiple(constants, **settings), patch("huggingface_hub.file_download.time.sleep"):
            yield
    finally:
        enable_progress_bars()
        close_session()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    @property
    def world(self) -> HubServer:
        return self.server.world

    @property
    def path_only(self) -> str:
        return urlsplit(self.path).path

    def dispatch(self) -> None:
        if self.world.closed:
            self.close_connection = True
            return
        with self.world.lock:
            self.world.requests.append((self.command, self.path_only))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.world.fault(self.command, self.path_only)
        if fault is not None and fault.delay:
            threading.Event().wait(fault.delay)
        if fault is not None and fault.status:
            self.answer_error(fault.status, "", "Internal Error - We're working hard to fix this as soon as possible!")
            return
        self.answer(body, fault)

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def answer(self, body: bytes, fault: Fault | None) -> None:
        raise NotImplementedError

    def send(self, status: int, data: bytes = b"", fault: Fault | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault is not None and fault.drip:
            for byte in data:
                if self.world.closed:
                    self.close_connection = True
                    return
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                threading.Event().wait(fault.drip)
            return
        if fault is None or fault.cut < 0:
            self.wfile.write(data)
            return
        self.wfile.write(data[: fault.cut])
        self.wfile.flush()
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def answer_json(self, data: object, status: int = 200) -> None:
        self.send(status, json.dumps(data).encode(), Content_Type="application/json; charset=utf-8")

    def answer_error(self, status: int, code: str, message: str) -> None:
        headers = {"X_Error_Code": code} if code else {}
        data = json.dumps({"error": message}).encode()
        self.send(status, data, Content_Type="application/json", X_Error_Message=message, **headers)

    def send_range(self, data: bytes, fault: Fault | None, **headers: str) -> None:
        """Send everything, or the end that a ``Range: bytes=N-`` requests."""
        wanted = self.headers.get("Range")
        if wanted is None:
            self.send(200, data, fault, Accept_Ranges="bytes", **headers)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        shown = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206, data[start:], fault, Content_Range=shown, **headers)


class StorageHandler(Handler):
    """The storage of large files: /<sha256>/<name>."""

    def answer(self, body: bytes, fault: Fault | None) -> None:
        if "Authorization" in self.headers:
            self.answer_error(400, "", "Only one auth mechanism allowed")
            return
        sha256 = self.path_only.split("/")[1]
        if self.command == "PUT":
            right = hashlib.sha256(body).hexdigest() == sha256
            if right:
                self.world.uploads[sha256] = body
            self.send(200 if right else 400)
            return
        blobs = (b for r in self.world.repositories.values() for files in r.commits.values() for b in files.values())
        data = next(blob.data for blob in blobs if blob.sha256 == sha256)
        self.send_range(data, fault, ETag=f'"{hashlib.md5(data).hexdigest()}"')


class HubHandler(Handler):
    """The Hub itself: /api/... and /<owner>/<name>/resolve/<revision>/<path>."""

    def answer(self, body: bytes, fault: Fault | None) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.world.tokens.add(sent)
        if sent not in (None, READ, WRITE):
            self.answer_error(401, "", "Invalid credentials in Authorization header")
            return
        parts = [unquote(part) for part in self.path_only.strip("/").split("/")]
        if self.command == "POST" and sent != WRITE:
            self.answer_error(403 if sent else 401, "", "You don't have the rights" if sent else "Invalid username")
            return
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.validate(json.loads(body)["content"])
            case ["api", "resolve-cache", "models", owner, name, revision, *path]:
                self.with_repository(f"{owner}/{name}", self.small_file, revision, "/".join(path), fault)
            case ["api", "models", owner, name, *action]:
                self.with_repository(f"{owner}/{name}", self.api, f"{owner}/{name}", action, body)
            case [owner, name, "resolve", revision, *path]:
                self.with_repository(f"{owner}/{name}", self.resolve, f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self.with_repository(f"{owner}/{name.removesuffix('.git')}", self.lfs_batch, json.loads(body))
            case _:
                self.answer_error(404, "", "Sorry, we can't find the page you are looking for.")

    def with_repository(self, name: str, act: object, *arguments: object) -> None:
        repository = self.world.repositories.get(name)
        if repository is None or (repository.private and "Authorization" not in self.headers):
            # Without a token, an absent and a private repository look the same.
            known = "Authorization" in self.headers
            self.answer_error(404 if known else 401, "RepoNotFound", "Repository not found")
            return
        act(repository, *arguments)

    def commit_of(self, repository: Repository, revision: str) -> str | None:
        sha = repository.find(revision)
        if sha is None:
            self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def resolve(self, repository: Repository, name: str, revision: str, path: str) -> None:
        if repository.gated:
            known = "Authorization" in self.headers
            self.answer_error(403 if known else 401, "GatedRepo", f"Access to model {name} is restricted.")
            return
        sha = self.commit_of(repository, revision)
        if sha is None:
            return
        blob = repository.commits[sha].get(path)
        if blob is None:
            self.send(404, b"Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        where = f"{self.world.storage_url}/{blob.sha256}/{path}"
        headers = {"X_Linked_Etag": f'"{blob.etag}"', "X_Linked_Size": str(len(blob.data)), "X_Repo_Commit": sha}
        if not blob.lfs:
            where = f"/api/resolve-cache/models/{name}/{sha}/{path}"
        self.send(302 if blob.lfs else 307, b"Redirecting", Location=where, **headers)

    def small_file(self, repository: Repository, sha: str, path: str, fault: Fault | None) -> None:
        blob = repository.commits[sha][path]
        self.send_range(blob.data, fault, ETag=f'"{blob.etag}"', X_Repo_Commit=sha)

    def api(self, repository: Repository, name: str, action: list[str], body: bytes) -> None:
        match action:
            case [] | ["revision", _]:
                sha = self.commit_of(repository, action[1] if action else "main")
                if sha is not None:
                    siblings = [{"rfilename": path} for path in repository.commits[sha]]
                    facts = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "gated": False}
                    self.answer_json(facts | {"tags": [], "siblings": siblings})
            case ["tree", revision]:
                sha = self.commit_of(repository, revision)
                if sha is not None:
                    self.answer_json([_listed(path, blob) for path, blob in repository.commits[sha].items()])
            case ["branch", branch]:
                if branch in repository.refs:
                    self.answer_error(409, "", f"Reference already exists: {branch}")
                    return
                repository.refs[branch] = repository.refs["main"]
                self.answer_json({})
            case ["preupload", revision]:
                sha = self.commit_of(repository, revision)
                if sha is None:
                    return
                held, answer = repository.commits[sha], []
                for file in json.loads(body)["files"]:
                    path = file["path"]
                    mode = "lfs" if path.endswith(LFS) else "regular"
                    oid = held[path].etag if path in held else None
                    answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
                self.answer_json({"files": answer})
            case ["commit", branch]:
                self.commit(repository, name, branch, [json.loads(line) for line in body.splitlines()])
            case _:
                self.answer_error(404, "", "Not found")

    def commit(self, repository: Repository, name: str, branch: str, lines: list[dict]) -> None:
        """Apply newline-delimited JSON, a header and then additions and deletions, completely or not at all."""
        if branch not in repository.refs:
            self.answer_error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            return
        files, message = dict(repository.commits[repository.refs[branch]]), ""
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]))
                case "lfsFile":
                    data = self.world.uploads.get(value["oid"])
                    if data is None or len(data) != value["size"]:
                        self.answer_error(400, "", f"LFS pointer pointed to a file that does not exist: {value}")
                        return
                    files[value["path"]] = Blob(data, lfs=True)
                case "deletedFile":
                    del files[value["path"]]
        sha = repository.commit(files, message, branch)
        url = f"{self.world.url}/{name}/commit/{sha}"
        self.answer_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def lfs_batch(self, repository: Repository, request: dict) -> None:
        answer = []
        for one in request["objects"]:
            upload = {"href": f"{self.world.storage_url}/{one['oid']}", "header": {}}
            answer.append(one if one["oid"] in self.world.uploads else one | {"actions": {"upload": upload}})
        self.answer_json({"transfer": "basic", "objects": answer})

    def create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.world.url}/{name}"
        if name in self.world.repositories:
            self.answer_json({"error": "You already created this model repo", "url": url}, 409)
            return
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n")}, "initial commit")
        self.world.repositories[name] = repository
        self.answer_json({"url": url, "name": name})

    def validate(self, card: str) -> None:
        try:
            front = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else None
        except yaml.YAMLError as error:
            self.answer_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
        self.answer_json({"errors": [], "warnings": warnings})


def _listed(path: str, blob: Blob) -> dict:
    facts = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    if blob.lfs:
        facts["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return facts
