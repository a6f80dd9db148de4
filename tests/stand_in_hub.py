"""A hub of one's own for tests: an HTTP server that speaks as much of the hub's protocol as its real client asks for.

Models live in memory, each a list of commits, with branches and tags that point at them. Every request is noted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]


@dataclass
class Repository:
    """A model: what each commit holds, and what the names of revisions stand for."""

    commits: dict[str, Files] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def commit(self, files: Files, name: str = "main") -> str:
        before = json.dumps(sorted(self.commits)) + "".join(sorted(files))
        sha = hashlib.sha1(before.encode() + b"".join(files[path] for path in sorted(files))).hexdigest()
        self.commits[sha] = files
        self.names[name] = sha
        return sha

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.names.get(revision, revision)]


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    url: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    large: Files = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    headers: list[dict[str, Any]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.agents.add(self.headers.get("User-Agent") or "")
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if parts[0] == "upload":
            self.hub.large[parts[1]] = body
            return self._send(200, {})
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        model = self.hub.models.get(name)
        if model is None or (model.token and self.headers.get("Authorization") != f"Bearer {model.token}"):
            return self._send(401, {"error": "no such model"}, {"X-Error-Code": "RepoNotFound"})
        if model.gated:
            return self._send(403, {"error": "ask first"}, {"X-Error-Code": "GatedRepo"})
        if parts[2] == "info":
            return self._large(json.loads(body))
        if parts[0] != "api":
            return self._file(model, parts[3], "/".join(parts[4:]))
        return self._api(name, model, parts[4:], body)

    def _api(self, name: str, model: Repository, parts: list[str], body: bytes) -> None:
        what, revision = [*parts, "", ""][:2]
        if what == "branch":
            model.names.setdefault(revision, model.names["main"])
            return self._send(200, {})
        sha = model.names.get(revision or "main", revision)
        if sha not in model.commits:
            return self._send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        files = model.commits[sha]
        if what in ("", "revision"):
            return self._send(200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})
        if what == "tree":
            return self._send(200, [_entry(path, content) for path, content in files.items()])
        if what == "preupload":
            paths = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            return self._send(
                200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
            )
        return self._commit(name, model, revision, dict(files), body)

    def _commit(self, name: str, model: Repository, revision: str, files: Files, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.headers.append(value)
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = model.commit(files, revision)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        self.hub.created.append(wanted)
        exists = name in self.hub.models
        if not exists:
            self.hub.models[name] = Repository()
            self.hub.models[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "id": name})

    def _validate(self, wanted: dict[str, Any]) -> None:
        lines = wanted["content"].splitlines()
        held = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)])) if lines[:1] == ["---"] else None
        errors = [] if isinstance(held, dict) else [{"message": "no metadata"}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def _large(self, wanted: dict[str, Any]) -> None:
        actions = {
            entry["oid"]: {"upload": {"href": f"{self.hub.url}/upload/{entry['oid']}", "header": {}}}
            for entry in wanted["objects"]
        }
        objects = [{**entry, "actions": actions[entry["oid"]]} for entry in wanted["objects"]]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _file(self, model: Repository, revision: str, path: str) -> None:
        content = model.files(revision)[path]
        headers = {"ETag": f'"{_entry(path, content)["oid"]}"', "X-Repo-Commit": model.names.get(revision, revision)}
        self._send(200, content, headers)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    sha = hashlib.sha256(content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": sha[:40]}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 100}
    return entry


@contextmanager
def stand_in_hub() -> Iterator[Hub]:
    """A hub without models on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
