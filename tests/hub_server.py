"""A stand-in for a model hub on a loopback port: the parts of its API that huggingface_hub calls."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

TOKEN = "hf_of_a_test"
COMMIT = "c0ffee" * 6 + "c0de"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)


@dataclass
class Hub:
    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    readable_only: bool = False  # tokens may read and not write
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the base class calls them so

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for method, pattern, answer, writes in _ROUTES:
            found = re.fullmatch(pattern, path)
            if method == self.command and found:
                if not known and "/objects/" not in path:
                    return self._error(401, "Invalid credentials in Authorization header")
                if writes and self.hub.readable_only:
                    return self._error(403, "Forbidden: a read-only token")
                return answer(self, *found.groups())
        return self._error(404, f"no route {self.command} {path}")

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(json.dumps({"error": message}).encode(), headers, status)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _whoami(self) -> None:
        self._json({"type": "user", "name": "someone", "orgs": []})

    def _validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        there = name in self.hub.repositories
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories.setdefault(name, Repository(bool(private)))
        self._json({"url": f"{self.hub.endpoint}/{name}", "name": name}, 409 if there else 200)

    def _preupload(self, name: str) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, name: str) -> None:
        objects = [
            {
                **one,
                "actions": {"upload": {"href": f"{self.hub.endpoint}/objects/{one['oid']}", "header": {}}},
            }
            for one in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._json({})

    def _commit(self, name: str) -> None:
        repository = self.hub.repositories[name]
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs.add(value["path"])
        url = f"{self.hub.endpoint}/{name}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""})

    def _info(self, name: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._error(404, "Repository not found", "RepoNotFound")
        siblings = [{"rfilename": path} for path in repository.files]
        return self._json({"id": name, "sha": COMMIT, "private": repository.private, "siblings": siblings})

    def _tree(self, name: str) -> None:
        repository = self.hub.repositories[name]
        self._json(
            [_entry(path, content, path in repository.lfs) for path, content in repository.files.items()]
        )

    def _resolve(self, name: str, path: str) -> None:
        repository = self.hub.repositories[name]
        if path not in repository.files:
            return self._error(404, "Entry not found", "EntryNotFound")
        content = repository.files[path]
        etag = f'"{_oid(content, path in repository.lfs)}"'
        return self._send(
            content, {"ETag": etag, "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        )


def _oid(content: bytes, lfs: bool) -> str:
    if lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes, lfs: bool) -> dict[str, object]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(content, False)}
    return (
        {**entry, "lfs": {"oid": _oid(content, True), "size": len(content), "pointerSize": 134}}
        if lfs
        else entry
    )


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", _Handler._whoami, False),
    ("POST", "/api/validate-yaml", _Handler._validate, False),
    ("POST", "/api/repos/create", _Handler._create, True),
    ("POST", f"/api/models/{_NAME}/preupload/main", _Handler._preupload, True),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler._batch, True),
    ("PUT", r"/objects/(\w+)", _Handler._store, False),
    ("POST", f"/api/models/{_NAME}/commit/main", _Handler._commit, True),
    ("GET", f"/api/models/{_NAME}", _Handler._info, False),
    ("GET", rf"/api/models/{_NAME}/revision/[\w.-]+", _Handler._info, False),
    ("GET", rf"/api/models/{_NAME}/tree/[\w.-]+", _Handler._tree, False),
    ("HEAD", rf"/{_NAME}/resolve/[\w.-]+/(.+)", _Handler._resolve, False),
    ("GET", rf"/{_NAME}/resolve/[\w.-]+/(.+)", _Handler._resolve, False),
)
