"""Look through a result in a browser on this machine, and paint corrections on its frames.

A small server for one person: on the loopback address only, under a random token, for requests that name it as
their host. No part of a request becomes part of a path: a frame is a number that the report has.
"""

import io
import json
import secrets
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stmcli.errors import StmError, UsageError, WriteError
from stmcli.files import writing
from stmcli.identity import another_clip
from stmcli.masks import MASKS, Labels, read_values, write_labels
from stmcli.options import DOUBTFUL
from stmcli.page import ASSETS, fix_command, moved, open_clip, result_report
from stmcli.render import vivid
from stmcli.report import first_number_of, worst_in
from stmcli.results import CORRECTIONS, REPORT
from stmcli.video import read_frame

LOOPBACK = "127.0.0.1"
ASIDE = ".old"  # behind the name of one that is none any more
LARGEST = 1920  # px, the longer side of a picture
CACHED = 32  # pictures
FILES = {
    "": ("review.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    "review.css": ("review.css", "text/css; charset=utf-8"),
    "review.js": ("review.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self' 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Review:
    """One result: its frames, their pictures and masks, and the corrections that a person paints."""

    def __init__(self, folder: Path, *, video: Path | None = None) -> None:
        """Open the result in `folder`. Raises UsageError, VideoError."""
        self.folder = folder
        self.report = result_report(folder)
        self.corrections = folder / CORRECTIONS
        for inside in (self.corrections, folder / MASKS):
            if inside.resolve().parent != folder.resolve():
                raise UsageError("is a link out of the result", path=inside, hint="Remove the link.")
        with open_clip(self.report, video) as source:
            self.doubts = another_clip(self.report, source.info.path)
            self.report = moved(self.report, source)
            self.name, self.width, self.height = source.info.name, source.info.width, source.info.height
            self._path = source.info.path
            self._stems = {frame["frame"]: source.frame_name(frame["frame"]) for frame in self.report["frames"]}
        self.doubts += self._set_aside()
        self._decoding, self._saving = threading.Lock(), threading.Lock()  # requests come in threads of their own
        self.picture = lru_cache(CACHED)(self._picture)

    def __contains__(self, number: int) -> bool:
        return number in self._stems

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know."""
        ids = {int(number) for frame in self.report["frames"] for number in frame["objects"]}
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "doubtful": DOUBTFUL,
            "objects": sorted(ids),
            "colours": vivid()[1:].tolist(),  # of the ids from 1, over and over
            "command": self.command(),
            "frames": [self._frame_facts(frame) for frame in self.report["frames"]],
        }

    def labels(self, number: int) -> Labels:
        """Return the mask of a frame, (H, W): the corrected one when there is one. Raises MaskError."""
        corrected = self._correction(number)
        path = corrected if corrected.is_file() else self.folder / MASKS / corrected.name
        return read_values(path, size=(self.width, self.height))

    def correct(self, number: int, labels: Labels) -> Path:
        """Save the mask of a frame, (H, W), as a correction, and return its path. Raises WriteError."""
        with self._saving:
            with writing(self.corrections):
                self.corrections.mkdir(exist_ok=True)
            write_labels(self._correction(number), labels)
        return self._correction(number)

    def forget(self, number: int) -> None:
        """Remove the correction of a frame."""
        with self._saving:
            self._correction(number).unlink(missing_ok=True)

    def command(self) -> str:
        """Return the command that makes the result of the corrections there are; empty when it has nothing to do."""
        corrected = [number for number in self._stems if self._correction(number).is_file()]
        used = {mask["frame"] for mask in self.report["masks"] if self._is_own(Path(mask["path"]).parent)}
        removed = not used <= {*corrected}
        words = [word for word in self.report.get("mask_words", []) if not self._is_own(Path(word))]
        if not corrected and not (removed and words):
            return ""
        report = {**self.report, "mask_words": words} if "mask_words" in self.report else self.report
        mask = str(self.corrections.absolute()) if corrected else ""
        return fix_command(report, self.folder, mask, frames=corrected, fewer=removed)

    def _set_aside(self) -> list[str]:
        """Rename corrections in whose place the result has taken another mask since, and say so of each."""
        said = []
        for mask in self.report["masks"]:
            path = self._correction(mask["frame"]) if mask["frame"] in self else None
            if path is None or self._is_own(Path(mask["path"]).parent) or not path.is_file():
                continue
            if path.stat().st_mtime_ns <= (self.folder / REPORT).stat().st_mtime_ns:
                with writing(path):
                    path.rename(path.with_suffix(f".png{ASIDE}"))
                said.append(f"{path} is older than the mask of that frame that was used since: now {path.name}{ASIDE}")
        return said

    def _is_own(self, folder: Path) -> bool:
        return folder.resolve() == self.corrections.resolve()

    def _correction(self, number: int) -> Path:
        return self.corrections / f"{self._stems[number]}.png"

    def _frame_facts(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "frame": frame["frame"],
            "confidence": worst_in(frame),
            "cut": bool(frame.get("cut")),
            "corrected": self._correction(frame["frame"]).is_file(),
        }

    def _picture(self, number: int) -> bytes:
        """Return a frame as JPEG."""
        with self._decoding:
            frame = read_frame(self._path, number, first_number=first_number_of(self.report))
            image = Image.fromarray(np.ascontiguousarray(frame.rgb))
        image.thumbnail((LARGEST, LARGEST))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=88)
        return content.getvalue()


class ReviewServer(ThreadingHTTPServer):
    """Serve one review until it is shut down; `url` is its only address."""

    daemon_threads = True

    def __init__(self, review: Review, *, port: int = 0) -> None:
        self.review = review
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
    server: ReviewServer
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
        review = self.server.review
        match self.command, words:
            case "GET", [name] if name in FILES:
                file, kind = FILES[name]
                self._send(HTTPStatus.OK, (ASSETS / file).read_bytes(), kind)
            case "GET", ["clip.json"]:
                self._send_json(review.facts())
            case "GET", ["picture", text] if (number := self._number(text)) is not None:
                self._send(HTTPStatus.OK, review.picture(number), "image/jpeg")
            case "GET", ["labels", text] if (number := self._number(text)) is not None:
                content = review.labels(number).astype("<u2").tobytes()
                self._send(HTTPStatus.OK, content, "application/octet-stream")
            case "POST", ["labels", text] if (number := self._number(text)) is not None:
                self._save(number)
            case "DELETE", ["labels", text] if (number := self._number(text)) is not None:
                review.forget(number)
                self._send_json({"command": review.command()})
            case _:
                self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def _number(self, text: str) -> int | None:
        """Return a frame number that the report has, written as it is."""
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
        return number if number in self.server.review else None

    def _save(self, number: int) -> None:
        review = self.server.review
        shape = review.height, review.width
        length = self.headers.get("Content-Length", "")
        if length != str(2 * shape[0] * shape[1]):
            self.close_connection = True
            self._send_json({"error": "a mask of another size"}, HTTPStatus.BAD_REQUEST)
            return
        content = self.rfile.read(int(length))
        if len(content) != int(length):
            return
        path = review.correct(number, np.frombuffer(content, "<u2").reshape(shape))
        self._send_json({"file": str(path), "command": review.command()})

    def _send_json(self, content: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
