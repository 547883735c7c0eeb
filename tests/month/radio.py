"""A scripted radio: live HLS of real segments, with what befalls an encoder and its server in a month.

One HTTP server, several stations. Each plays pieces with titles, talk, and ads (another codec, after a discontinuity),
and leaves out a segment now and then (EXT-X-GAP). Start at `Radio`; `Station` says what can be done to one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SEGMENT_S = 2.0
LISTED = 6
PIECE, TALK, AD = 12, 2, 3
"""Segments of a piece of music, and of the talk and the ads after it."""


ARTIST = "The Band"


@dataclass(frozen=True)
class Item:
    """One segment of the programme."""

    file: Path
    discontinuity: bool = False
    gap: bool = False
    title: str = ""


@dataclass
class Station:
    """One stream. What is done to it holds from the next request on.

    Attributes:
        state: "on", "off" (the connection is closed without an answer), "maintenance" (503).
        token: what every request must carry; the entrance redirects to a URL with the token of today. "": none.
    """

    name: str
    programme: list[Item]
    state: str = "on"
    token: str = ""
    ended: bool = False
    _began: float = field(default_factory=time.monotonic)
    _frozen: int = -1

    def restart_encoder(self) -> None:
        """Begin anew: media sequence 0, the same names, another list."""
        self._began, self.ended, self._frozen = time.monotonic(), False, -1

    def end(self) -> None:
        """Write EXT-X-ENDLIST."""
        self._frozen, self.ended = self._newest(), True

    def playlist(self) -> str:
        """Return the media playlist as of now."""
        newest = self._frozen if self.ended else self._newest()
        first = max(0, newest - LISTED + 1)
        items = [(number, self.programme[number % len(self.programme)]) for number in range(first, newest + 1)]
        gone = sum(self.programme[n % len(self.programme)].discontinuity for n in range(first))
        query = f"?token={self.token}" if self.token else ""
        lines = ["#EXTM3U", "#EXT-X-VERSION:8", f"#EXT-X-TARGETDURATION:{SEGMENT_S:.0f}"]
        lines += [f"#EXT-X-MEDIA-SEQUENCE:{first}", f"#EXT-X-DISCONTINUITY-SEQUENCE:{gone}"]
        for number, item in items:
            lines += ["#EXT-X-DISCONTINUITY"] if item.discontinuity else []
            lines += ["#EXT-X-GAP"] if item.gap else []
            lines += [
                f"#EXTINF:{SEGMENT_S:.3f},{item.title}",
                f"/segment/{self.name}/{number % len(self.programme)}{query}",
            ]
        return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if self.ended else []), ""])

    def _newest(self) -> int:
        """Return the newest whole segment; a list begins with three."""
        return int((time.monotonic() - self._began) / SEGMENT_S) + 2


def programme(music: list[list[Path]], talk: list[Path], ads: list[Path]) -> list[Item]:
    """Put pieces, talk and ads in turn; one segment of each second piece is a gap."""
    found: list[Item] = []
    for number, piece in enumerate(music):
        for index, file in enumerate(piece[:PIECE]):
            title = f"{ARTIST} - {file.parent.parent.name}"
            found.append(Item(file, index == 0, gap=number % 2 == 1 and index == 5, title=title))
        found += [Item(file, index == 0) for index, file in enumerate(talk[:TALK])]
        found += [Item(file, index == 0) for index, file in enumerate(ads[:AD])]
    return found


class Radio:
    """The server of all stations, on loopback."""

    def __init__(self, stations: list[Station]) -> None:
        self.stations = {station.name: station for station in stations}
        self.requests: dict[str, int] = dict.fromkeys(self.stations, 0)
        radio = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                radio._answer(self)

            def log_message(self, *words: Any) -> None:
                """Say nothing of requests."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *where: Any) -> None:
                """Say nothing of listeners that are killed amid an answer."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        """Return what a listener configures."""
        return f"http://127.0.0.1:{self._server.server_port}/live/{name}.m3u8"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        parts = url.path.strip("/").split("/")
        name = parts[1].removesuffix(".m3u8") if len(parts) > 1 else ""
        station = self.stations.get(name)
        if station is None:
            return self._send(request, 404)
        self.requests[name] += 1
        if station.state == "off":
            request.close_connection = True
            return None
        if station.state == "maintenance":
            return self._send(request, 503)
        if parts[0] == "live" and station.token:
            return self._send(request, 302, headers={"Location": f"/play/{name}.m3u8?token={station.token}"})
        if parts[0] != "live" and station.token and parse_qs(url.query).get("token") != [station.token]:
            return self._send(request, 403)
        if parts[0] in ("live", "play"):
            return self._send(request, 200, station.playlist().encode(), {"Content-Type": "application/x-mpegURL"})
        item = station.programme[int(parts[2])]
        return self._send(request, 404) if item.gap else self._send(request, 200, item.file.read_bytes())

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)
