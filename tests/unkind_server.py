"""A web server on this machine that does what networks do to downloads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Unkind:
    """What the server has and how it behaves.

    Attributes:
        data: of the one file, at /file and every other path that is not named below.
        etag: of it; empty sends none.
        ranges: whether parts are sent when they are asked for.
        cuts: where the connection is dropped, one request after another: bytes of the body.
        statuses: of the next answers, instead of the file.
        redirect: where /redirect points to.
        stall: seconds before the last byte of the next answer.
        says: length that is told instead of the true one.
        kind: content type.
        packed: content encoding that is told.
        wrong_part: whether a part says that it is another.
        only: the one path that is there; empty for all.
        asked: (path, Range, If-Range) of every request.
    """

    data: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect: str = ""
    stall: float = 0.0
    says: int | None = None
    kind: str = "application/octet-stream"
    packed: str = ""
    wrong_part: bool = False
    only: str = ""
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    address: str = ""

    def url(self, path: str = "file") -> str:
        return f"{self.address}/{path}"


def _handler(server: Unkind) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, known = self.headers["Range"], self.headers["If-Range"]
            server.asked.append((self.path, wanted, known))
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif server.statuses or server.only not in ("", self.path):
                self.send_response(server.statuses.pop(0) if server.statuses else 404)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"sorry")
            else:
                part = wanted and server.ranges and known in (None, server.etag)
                self.send_file(int(wanted[6:].split("-")[0]) if part else None)

        def send_file(self, start: int | None) -> None:
            size = len(server.data)
            if start is not None and start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = server.data[start or 0 :]
            self.send_response(200 if start is None else 206)
            if start is not None:
                shown = 0 if server.wrong_part else start
                self.send_header("Content-Range", f"bytes {shown}-{size - 1}/{size}")
            self.send_header("Content-Length", str(server.says or len(body)))
            self.send_header("Content-Type", server.kind)
            if server.etag:
                self.send_header("ETag", server.etag)
            if server.packed:
                self.send_header("Content-Encoding", server.packed)
            self.end_headers()
            self.send_body(body)

        def send_body(self, body: bytes) -> None:
            if server.cuts:
                body = body[: server.cuts.pop(0)]
                self.close_connection = True
            if server.stall:
                seconds, server.stall = server.stall, 0
                self.wfile.write(body[:-1])
                self.wfile.flush()
                time.sleep(seconds)
                body = body[-1:]
            with contextlib.suppress(OSError):  # the other side has had enough
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(server: Unkind) -> Iterator[Unkind]:
    """Serve on a free port of this machine until the end of the block."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    web.daemon_threads = True
    server.address = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
