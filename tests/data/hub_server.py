"""A small hub on loopback: the endpoints a fetch uses, its storage host, and its bad days.

GET  /api/datasets/{repo}/revision/{revision}?blobs=true     commit, files, LFS sha256
GET  /datasets/{repo}/resolve/{commit}/{name}                302 to the storage host
GET  /storage/{name}          (another port)                 bytes, with ranges
GET  /mirror/{name}                                          the same without any hub
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REPO = "kjj0/fineweb10B-gpt2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Seen:
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer:
    """`files` is what is served; `stated` what the hub says of them, where it differs.

    bad_days   file name -> actions, one a request: "503", "404", "cut:N" (N bytes, then the
               connection ends), "hold:N" (N bytes, then silence until `gate`), "whole" (ignores
               the range), "416"
    """

    files: dict[str, bytes]
    stated: dict[str, bytes] = field(default_factory=dict)
    bad_days: dict[str, list[str]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    seen: list[Seen] = field(default_factory=list)
    extras: dict[str, bytes] = field(default_factory=dict)
    heads: bool = True
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    storage: str = ""

    def asked(self, part: str) -> list[Seen]:
        return [request for request in self.seen if part in request.path]


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            if not hub.heads:
                self._answer(501, b"")
                return
            self._route(body=False)

        def do_GET(self) -> None:
            self._route(body=True)

        def _route(self, body: bool) -> None:
            path = urlsplit(self.path).path
            hub.seen.append(
                Seen(
                    self.command,
                    self.path,
                    self.headers.get("Range"),
                    self.headers.get("Authorization"),
                )
            )
            api = f"/api/datasets/{REPO}/revision/"
            resolve = f"/datasets/{REPO}/resolve/"
            name = path.rsplit("/", 1)[-1]
            if path.startswith(api):
                self._info(path.removeprefix(api))
            elif path.startswith(resolve):
                self._resolve(*path.removeprefix(resolve).split("/", 1))
            elif path.startswith(("/storage/", "/mirror/")) and name in hub.files:
                self._bytes(name, hub.files[name], body)
            elif path.startswith("/mirror/") and name in hub.extras:
                self._answer(200, hub.extras[name])
            else:
                self._answer(404, b"no such thing")

        def _info(self, revision: str) -> None:
            action = hub.bad_days.get("api", [])
            if action:
                self._answer(int(action.pop(0)), b"busy")
            elif revision not in hub.revisions:
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                self._answer(200, json.dumps(self._document(revision)).encode())

        def _document(self, revision: str) -> dict[str, object]:
            siblings: list[dict[str, object]] = [{"rfilename": "README.md", "size": 3}]
            for name, content in sorted((hub.files | hub.stated).items()):
                sha256 = hashlib.sha256(content).hexdigest()
                lfs = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append({"rfilename": name, "size": len(content), "lfs": lfs})
            return {
                "_id": "1",
                "id": REPO,
                "author": "kjj0",
                "sha": hub.revisions[revision],
                "private": False,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": siblings,
            }

        def _resolve(self, commit: str, name: str) -> None:
            if commit not in hub.revisions.values() or name not in hub.files:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = hub.stated.get(name, hub.files[name])
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{hub.storage}/storage/{name}?signature=secret",
            }
            self._answer(302, b"", headers)

        def _bytes(self, name: str, content: bytes, body: bool) -> None:
            actions = hub.bad_days.get(name, [])
            action = actions.pop(0) if actions and body else ""
            if action in ("404", "416", "403", "503"):
                self._answer(int(action), b"", {"Retry-After": "0"} if action == "503" else {})
                return
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start and action != "whole":
                if start >= len(content):
                    self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                    return
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
                content = content[start:]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{name}"')
            self.end_headers()
            if action.startswith("hold:"):
                sent = int(action.removeprefix("hold:"))
                self.wfile.write(content[:sent])
                self.wfile.flush()
                hub.gate.wait(20)
                self.close_connection = True
            elif action.startswith("cut:"):
                self.wfile.write(content[: int(action.removeprefix("cut:"))])
                self.close_connection = True
            elif body:
                self.wfile.write(content)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[HubServer]:
    """A hub and its storage host, on two ports of loopback, for the length of the block."""
    hub = HubServer(dict(files))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
