"""An HTTP/1.1 origin for a folder of HLS, and a live view of it: every piece as an endless sliding-window playlist.

For demos, tests and benchmarks on one machine; for listeners elsewhere use nginx or IIS (deploy/origin).
Start at `Origin`; `live_loop.py` says what a live list holds; `python -m services.origin.server FOLDER` runs it.

Not Starlette, though the dashboard brings it: with 200 listeners, half the requests for a live list and half for a
segment of 98 KB, FileResponse on uvicorn took 1.7 to 1.9 CPU-ms a request and this 0.7 to 0.8, in the same 35 MiB
(x86, 30 November 2026); benchmarks run the origin beside what they measure.
"""

from __future__ import annotations

import mimetypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import click

from services.errors import GenreError, UsageError
from services.origin.byte_range import byte_range
from services.origin.live_loop import Loop, live_playlist, read_loop

TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".m4s": "video/iso.segment",
    ".mp4": "video/mp4",
    ".aac": "audio/aac",
    ".mp3": "audio/mpeg",
    ".vtt": "text/vtt",
}
RADIO = "radio"


class Origin:
    """A folder served on loopback, for as long as it is open.

    Args:
        folder: what `genre package` wrote, or any folder of HLS.
        port: 0 takes a free one.
        host: address to listen on.
        clock: Unix time, in seconds; tests bring their own.

    Paths: /NAME.m3u8 and all files below; /live/NAME.m3u8 the same piece for ever; /live/radio.m3u8 all pieces in turn;
    `?shift=SECONDS` on a live list moves it, so that many listeners hear different places. / lists the playlists.

    Raises:
        UsageError: folder is no folder.
        GenreError: the port is taken.
    """

    def __init__(
        self, folder: Path, port: int = 0, host: str = "127.0.0.1", clock: Callable[[], float] = time.time
    ) -> None:
        if not folder.is_dir():
            raise UsageError(str(folder), "is not a folder", "name a folder that `genre package` wrote")
        self.folder = folder.resolve()
        self.clock = clock
        self._loops: dict[str, tuple[object, Loop]] = {}
        try:
            self._server = _Server((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise GenreError(
                f"{host}:{port}", f"can't listen there ({error})", "choose another --port, or 0 for any"
            ) from error
        self._server.origin = self
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def start(self) -> Origin:
        """Begin to answer, in a thread of its own."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and let go of the port and of every connection."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Origin:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Return the names of the pieces: each NAME.m3u8 in the folder itself."""
        return sorted(path.stem for path in self.folder.glob("*.m3u8") if not path.name.startswith("."))

    def file(self, path: str) -> Path | None:
        """Return the file that a decoded URL path names; None where there is none or it lies outside the folder."""
        if "\0" in path or "\\" in path or any(part.startswith(".") for part in path.split("/")):
            return None
        try:
            found = (self.folder / path.lstrip("/")).resolve()
            return found if found.is_relative_to(self.folder) and found.is_file() else None
        except (OSError, RuntimeError):
            return None

    def live(self, name: str, shift_s: float) -> str | None:
        """Return the live playlist of a piece, or of all in turn ("radio"), now; None where there is none."""
        names = self.names()
        pieces = names if name == RADIO and RADIO not in names else [name] if name in names else []
        files = [file for piece in pieces if (file := self.file(f"{piece}.m3u8"))]
        if not files:
            return None
        version = tuple((file, file.stat().st_mtime_ns) for file in files)
        kept = self._loops.get(name)
        if kept is None or kept[0] != version:
            kept = self._loops[name] = (version, read_loop(self.folder, files))
        return live_playlist(kept[1], self.clock() + shift_s)


class _Server(ThreadingHTTPServer):
    """One thread a connection; connections are remembered so that closing ends them too."""

    daemon_threads = True
    request_queue_size = 128
    origin: Origin

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if isinstance(request, socket.socket):
            with self._lock:
                self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            with self._lock:
                self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a listener that hangs up in the middle is everyday."""

    def hang_up(self) -> None:
        """Shut every connection that is still open."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD, keep-alive, one range a request."""

    protocol_version = "HTTP/1.1"
    server_version = "genre-origin"
    sys_version = ""
    timeout = 75
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body nobody reads must not be taken for the next request
        try:
            url = urlsplit(self.path)
            path = unquote(url.path, errors="strict")
        except ValueError:
            return self._text(HTTPStatus.BAD_REQUEST, "no such URL\n")
        if path == "/":
            names = self.server.origin.names()
            live = [f"/live/{name}.m3u8" for name in ([*names, RADIO] if names and RADIO not in names else names)]
            return self._text(HTTPStatus.OK, "".join(f"{line}\n" for line in [*(f"/{n}.m3u8" for n in names), *live]))
        if path.startswith("/live/") and path.endswith(".m3u8") and "/" not in path[6:]:
            try:
                shift_s = float(parse_qs(url.query).get("shift", ["0"])[0])
                text = self.server.origin.live(path[6:-5], shift_s if abs(shift_s) < 1e9 else 0.0)
            except ValueError as error:
                return self._text(HTTPStatus.BAD_REQUEST, f"{error}\n")
            if text is not None:
                return self._text(HTTPStatus.OK, text, TYPES[".m3u8"])
        file = self.server.origin.file(path)
        if file is None:
            return self._text(HTTPStatus.NOT_FOUND, "not found\n")
        try:
            with file.open("rb") as body:
                self._file(file, body)
        except PermissionError:
            self._text(HTTPStatus.FORBIDDEN, "not readable\n")

    def _text(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, file: Path, body: BinaryIO) -> None:
        status = os.fstat(body.fileno())
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        modified = int(status.st_mtime)
        if self._unchanged(tag, modified):
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        same = self.headers.get("If-Range", tag) == tag
        wanted = byte_range(self.headers.get("Range", ""), status.st_size) if same else None
        partial = wanted is not None
        first, last = wanted or (0, status.st_size - 1)
        if partial and first > last:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{status.st_size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        suffix = file.suffix.lower()
        self.send_header(
            "Content-Type", TYPES.get(suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        )
        self.send_header("Content-Length", str(last - first + 1))
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{status.st_size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(modified, usegmt=True))
        self.send_header("Cache-Control", "no-cache" if suffix == ".m3u8" else "max-age=3600")
        self.end_headers()
        if self.command != "HEAD":
            body.seek(first)
            left = last - first + 1
            while left > 0 and (block := body.read(min(left, 256 * 1024))):
                self.wfile.write(block)
                left -= len(block)
            if left:
                self.close_connection = True  # the file shrank: the promised length can't be kept

    def _unchanged(self, tag: str, modified: int) -> bool:
        if self.headers.get("If-None-Match"):
            return tag in [part.strip() for part in self.headers["If-None-Match"].split(",")]
        try:
            return modified <= parsedate_to_datetime(self.headers["If-Modified-Since"]).timestamp()
        except (TypeError, ValueError):
            return False


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def serve(folder: Path, port: int, host: str) -> None:
    """Serve FOLDER over HTTP until Ctrl-C; prints its URL when ready.

    \b
    Example: python -m services.origin.server hls --port 8080
    """
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.set())
    with Origin(folder, port, host) as origin:
        click.echo(origin.url)
        asked.wait()


if __name__ == "__main__":
    try:
        serve(standalone_mode=False)
    except GenreError as error:
        click.echo(f"origin: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
