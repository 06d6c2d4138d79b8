"""A stand-in for the hub on this machine: repositories that are created, written to and read over HTTP."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_test"
COMMIT = "0" * 40
USER = "anna"


@dataclass
class Hub:
    """What the stand-in holds.

    Attributes:
        repos: files of each repository.
        is_private: by repository, as it was asked for; None where nothing was said.
        objects: content of large files, by their sha256.
        endpoint: its address.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    is_private: dict[str, bool | None] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    endpoint: str = ""


class _Handler(BaseHTTPRequestHandler):
    """The endpoints that huggingface_hub calls to create, write and read; files *.safetensors are large ones."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "invalid token"}, 401)
        elif self.path == "/api/repos/create":
            self.create(json.loads(content))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self.answer({"files": [describe(file["path"]) for file in json.loads(content)["files"]]})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self.answer({"objects": [self.place(one) for one in json.loads(content)["objects"]]})
        else:
            self.commit([json.loads(line) for line in content.splitlines()])

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.rsplit("/", 1)[-1]
        self.hub.objects[self.path.rsplit("/", 1)[-1]] = content
        self.answer({})

    def do_HEAD(self) -> None:
        self.send_file(has_body=False)

    def do_GET(self) -> None:
        self.send_file(has_body=True)

    def create(self, asked: dict[str, Any]) -> None:
        owner = asked["organization"] or USER
        repo_id = f"{owner}/{asked['name']}"
        if owner != USER:
            return self.answer({"error": "no right to create there"}, 403)
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repos:
            return self.answer(url, 409)
        self.hub.repos[repo_id] = {}
        visibility = asked.get("visibility")
        self.hub.is_private[repo_id] = None if visibility is None else visibility == "private"
        self.answer(url)

    def place(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.endpoint}/objects/{asked['oid']}"
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": {"href": href}}}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repos[self.path.removeprefix("/api/models/").split("/commit/")[0]]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        address = f"{self.hub.endpoint}{self.path.removeprefix('/api/models')}".replace("main", COMMIT)
        self.answer({"commitUrl": address, "commitOid": COMMIT})

    def send_file(self, *, has_body: bool) -> None:
        repo_id, _, path = self.path.lstrip("/").partition("/resolve/")
        content = self.hub.repos.get(repo_id, {}).get(path.partition("/")[2])
        if content is None:
            return self.answer({}, 404, {"X-Error-Code": "EntryNotFound"}, has_body=has_body)
        headers = {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": COMMIT}
        self.answer(content, 200, headers, has_body=has_body)

    def answer(
        self, body: Any, status: int = 200, headers: dict[str, str] | None = None, *, has_body: bool = True
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on the loopback address until the block ends."""
    hub = Hub()

    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def describe(path: str) -> dict[str, Any]:
    """How a file is to be uploaded."""
    return {
        "path": path,
        "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
        "shouldIgnore": False,
    }
