"""Show frames in a browser on this machine, and take the masks that a person paints on them.

A small server for one person: on the loopback address only, under a random token, for requests that name it as
their host. No part of a request becomes part of a path: a frame is a number that what is painted on has.
"""

import io
import json
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from stmcli.errors import StmError, UsageError, WriteError
from stmcli.masks import Labels
from stmcli.options import DOUBTFUL
from stmcli.page import ASSETS
from stmcli.render import vivid
from stmcli.video import read_frame
from stmcli.video.frame import RGB

LOOPBACK = "127.0.0.1"
LARGEST = 1920  # px, the longer side of a picture
CACHED = 32  # pictures
FILES = {
    "": ("paint.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "paint.css": ("paint.css", "text/css; charset=utf-8"),
    "paint.js": ("paint.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self' 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Painting(Protocol):
    """Some frames of a clip, all of one size, and the masks that a person paints on them."""

    frames: "Frames"
    width: int
    height: int

    def __contains__(self, number: int) -> bool:
        """Tell whether the frame of this number is one of them."""

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know."""

    def labels(self, number: int) -> Labels:
        """Return the mask of a frame, (H, W), as far as it is painted. Raises StmError."""

    def save(self, number: int, labels: Labels) -> Path:
        """Keep the mask of a frame, (H, W), and return where. Raises WriteError."""

    def forget(self, number: int) -> None:
        """Give up what was saved of a frame. Raises WriteError."""

    def command(self) -> str:
        """Return the command that makes use of what was saved; empty when there is none."""


def facts_of(
    painting: Painting,
    *,
    words: Mapping[str, str],
    name: str,
    objects: Sequence[int],
    frames: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page needs to know: its words, the clip's name, the ids of its objects and what of each frame."""
    return {
        "words": words,
        "name": name,
        "width": painting.width,
        "height": painting.height,
        "doubtful": DOUBTFUL,
        "objects": objects,
        "colours": vivid()[1:].tolist(),  # of the ids from 1, over and over
        "command": painting.command(),
        "frames": frames,
    }


class Frames:
    """The frames of one clip by their numbers, as they are and as pictures, for requests that come in threads."""

    def __init__(self, path: Path, *, first_number: int | None) -> None:
        self._path, self._first = path, first_number
        self._decoding = threading.Lock()
        self.picture = lru_cache(CACHED)(self._picture)
        self._latest = lru_cache(1)(self._decoded)

    def frame(self, number: int) -> RGB:
        """Return a frame, (H, W, 3). Raises VideoError, UsageError."""
        with self._decoding:
            return self._latest(number)

    def _decoded(self, number: int) -> RGB:
        return read_frame(self._path, number, first_number=self._first).rgb

    def _picture(self, number: int) -> bytes:
        """Return a frame as JPEG."""
        image = Image.fromarray(np.ascontiguousarray(self.frame(number)))
        image.thumbnail((LARGEST, LARGEST))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=88)
        return content.getvalue()


def fit_to(rgb: RGB, labels: Labels) -> Labels:
    """Return labels (H, W) whose contours follow the edges of a frame that are near."""
    from stmcli.matting.painted import fit_labels  # takes seconds

    return fit_labels(rgb, labels)


class PaintServer(ThreadingHTTPServer):
    """Serve what is painted on until it is shut down; `url` is its only address."""

    daemon_threads = True

    def __init__(self, painting: Painting, *, port: int = 0) -> None:
        self.painting = painting
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"port {port} cannot be used ({error})", hint="Choose another --port.") from None
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when the browser has gone away; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Return the address to open."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: PaintServer
    server_version, sys_version = "stm", ""
    timeout = 60  # seconds

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:  # the token is in every line
        pass

    def _answer(self) -> None:
        words = self._words()
        if words is None:
            self._send(HTTPStatus.FORBIDDEN, b"forbidden", "text/plain")
            return
        try:
            self._route(words)
        except StmError as error:  # all but what cannot be written is about something that is not there to be read
            failed = isinstance(error, WriteError)
            self._send_json({"error": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR if failed else HTTPStatus.NOT_FOUND)

    def _words(self) -> list[str] | None:
        """Return the path behind the token; None when the request is not from our own page."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.server.hosts:
            return None
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            return None
        token, *rest = self.path.split("?")[0].removeprefix("/").split("/")
        return rest if rest and secrets.compare_digest(token.encode(), self.server.token.encode()) else None

    def _route(self, words: list[str]) -> None:
        painting = self.server.painting
        match self.command, words:
            case "GET", [name] if name in FILES:
                file, kind = FILES[name]
                self._send(HTTPStatus.OK, (ASSETS / file).read_bytes(), kind)
            case "GET", ["clip.json"]:
                self._send_json(painting.facts())
            case "GET", ["picture", text] if (number := self._number(text)) is not None:
                self._send(HTTPStatus.OK, painting.frames.picture(number), "image/jpeg")
            case "GET", ["labels", text] if (number := self._number(text)) is not None:
                self._send_labels(painting.labels(number))
            case "POST", ["labels", text] if (number := self._number(text)) is not None:
                if (labels := self._sent()) is not None:
                    path = painting.save(number, labels)
                    self._send_json({"file": str(path), "command": painting.command()})
            case "POST", ["fitted", text] if (number := self._number(text)) is not None:
                if (labels := self._sent()) is not None:
                    self._send_labels(fit_to(painting.frames.frame(number), labels))
            case "DELETE", ["labels", text] if (number := self._number(text)) is not None:
                painting.forget(number)
                self._send_json({"command": painting.command()})
            case _:
                self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def _number(self, text: str) -> int | None:
        """Return the number of a frame that can be painted on, written as it is."""
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
        return number if number in self.server.painting else None

    def _sent(self) -> Labels | None:
        """Return the mask (H, W) that comes with a request, None when there is none of that size, which is answered."""
        painting = self.server.painting
        shape = painting.height, painting.width
        length = self.headers.get("Content-Length", "")
        if length != str(2 * shape[0] * shape[1]):
            self.close_connection = True
            self._send_json({"error": "a mask of another size"}, HTTPStatus.BAD_REQUEST)
            return None
        content = self.rfile.read(int(length))
        return np.frombuffer(content, "<u2").reshape(shape) if len(content) == int(length) else None

    def _send_labels(self, labels: Labels) -> None:
        self._send(HTTPStatus.OK, labels.astype("<u2").tobytes(), "application/octet-stream")

    def _send_json(self, content: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
