"""A server that takes models as the Hugging Face Hub does, as far as huggingface_hub asks for it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"
FULL = "full"
"""Owner of repositories that the hub cannot take now."""


@dataclass
class Hub:
    """The repositories by name, each with its files and whether it is private."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    is_private: dict[str, bool] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of the answer to a request with the right token."""
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repository, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return 200, {
                "files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in asked]
            }
        if action == "commit":
            self._commit(repository, body)
            return 200, {"commitUrl": f"{self.url}/{repository}/commit/{'0' * 40}", "commitOid": "0" * 40}
        assert (method, action) == ("GET", "tree"), path
        files = self.files[repository]
        return 200, [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["organization"] == FULL:
            return 500, {"error": "no space"}
        repository = f"{asked['organization']}/{asked['name']}"
        self.files.setdefault(repository, {})
        self.is_private.setdefault(repository, asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, {"url": f"{self.url}/{repository}"}

    def _commit(self, repository: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.files[repository][line["value"]["path"]]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run it within the context."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = 401, {"error": "Invalid credentials"}
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, value = hub.answer(self.command, self.path.partition("?")[0], body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _handle

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
